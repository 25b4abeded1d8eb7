"""The report of a promotion: all scores, the decision, and a page that shows them, kept with both versions.

    files = report_files(compared, manifest, about, on_progress)
    keep_report(tracking, about, files)                                     # of page.html

The files lie in a folder of their own in the runs of both versions; tags of the versions lead there.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from vimss.evaluate import Evaluation, Row, Table
from vimss.evaluate.figures import FigureEvaluation, by_piece
from vimss.evaluations import separate_excerpts
from vimss.intervals import Source, paired_gain
from vimss.metrics import CONVENTIONS
from vimss.pages.of_promotion import Pair, PromotionPage, Worst, promotion_page
from vimss.progress import SoundProgress
from vimss.promote.decision import ANY_GAIN, Bar, Decision
from vimss.runtime import git_commit
from vimss.search.study import TrialRecord
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import Manifest
from vimss.track import Tracking, attach, find_version, tag_version

NUM_WORST = 5
"""Sources to listen to."""

EXCERPT_SECONDS = 8.0

PAGE = "page.html"


@dataclass(frozen=True)
class Compared:
    """A decision with what it was made from; without scores where the two cannot be compared."""

    decision: Decision
    bar: Bar = ANY_GAIN
    scored: tuple[Evaluation | FigureEvaluation, ...] = ()
    """Of the challenger and of the incumbent."""
    rows: tuple[Row, ...] = ()
    """The same two as systems that separate; empty where they do not."""


@dataclass(frozen=True)
class About:
    """The two versions, the trial that challenged, and whether it became the champion."""

    name: str
    version: int
    incumbent: int | None
    experiment: str
    trial: TrialRecord
    is_champion: bool
    forced: str

    @property
    def folder(self) -> str:
        """Of the report, in a run."""
        return f"promotions/{self.name}-{self.version}" + (f"-against-{self.incumbent}" if self.incumbent else "")


def keep_report(tracking: Tracking, about: About, files: Mapping[str, bytes]) -> str:
    """Put a report into the runs of both versions, and tags that lead to it on them; where its page is.

    Raises:
        PlaceError: MLflow does not answer.

    """
    sentence = json.loads(files["decision.json"])["sentence"]
    tags = {about.version: ("promotion", sentence)}
    if about.incumbent is not None:
        tags[about.incumbent] = (f"challenge_{about.version}", sentence)
    for version, (tag, text) in tags.items():
        run_id = find_version(tracking, about.name, str(version)).run_id
        attach(tracking, run_id, {f"{about.folder}/{path}": content for path, content in files.items()})
        page = f"runs:/{run_id}/{about.folder}/{PAGE}"
        tag_version(tracking, about.name, version, {tag: text, f"{tag}_report": page})
    run_id = find_version(tracking, about.name, str(about.version)).run_id
    here = tracking.here(tracking.client().get_run(run_id).info.artifact_uri)
    return f"runs:/{run_id}/{about.folder}/{PAGE}" if here is None else str(here / about.folder / PAGE)


def report_files(
    compared: Compared, manifest: Manifest, about: About, on_progress: Callable[[SoundProgress], None]
) -> dict[str, bytes]:
    """page.html, decision.json, scores.json with the whole evaluations, and scores.csv with what the page shows."""
    decision, bar = compared.decision, compared.bar
    pieces, labels, worst = (
        _pairs_of_sources(compared, manifest, on_progress) if compared.rows else _pairs_of_figures(compared, manifest)
    )
    against = "no champion" if about.incumbent is None else f"version {about.incumbent}"
    facts = {
        "experiment": about.experiment,
        "trial": f"{about.trial.trial} of {about.trial.cell}",
        "compared with": decision.against,
        "split": f"promote of {manifest.name}, {decision.num_pieces} pieces",
        "must lie above": f"{bar.margin:g} {decision.unit}, with the whole {100 * bar.level:.6g} % interval".strip(),
    }
    if bar.number is not None:
        facts["challenger"] = f"number {bar.number} of this champion on this split"
    if about.forced:
        facts["promoted by force"] = about.forced
    page = PromotionPage(
        title=f"{about.name}: version {about.version} against {against}",
        sentence=decision.sentence,
        is_champion=about.is_champion,
        facts=facts,
        names=("champion" if about.incumbent is not None else compared.scored[1].system, "challenger"),
        heading=_heading(compared),
        total=Pair("mean over pieces", math.nan, math.nan, decision.gain, (decision.low, decision.high)),
        pieces=pieces,
        labels=labels,
        worst=worst,
        conventions=_conventions(compared),
    )
    about_decision = {
        "name": about.name,
        "version": about.version,
        "incumbent": about.incumbent,
        "is_champion": about.is_champion,
        "forced": about.forced,
        "challenger_number": bar.number,
        "level": bar.level,
        "margin": bar.margin,
        "shards": manifest.digest,
        "commit": git_commit(),
        **asdict(decision),
    }
    scores = [one.model_dump(mode="json") for one in compared.scored]
    return {
        PAGE: promotion_page(page).encode(),
        "decision.json": json.dumps(about_decision, indent=1).encode(),
        "scores.json": json.dumps(scores, indent=1).encode(),
        "scores.csv": _csv(compared, manifest).encode(),
    }


def piece_scores(evaluation: Evaluation) -> dict[Source, float]:
    """The scores that decide: (piece, label) to SI-SDR improvement."""
    return {(score.piece, score.label): score.si_sdr_improvement for score in evaluation.scores}


def without_example(evaluation: Evaluation) -> set[Source]:
    """The sources of which the system would need an example that the shards do not hold."""
    return {(score.piece, score.label) for score in evaluation.scores if not score.has_example}


def _both_scores(compared: Compared) -> tuple[dict[Source, float], dict[Source, float]]:
    """Those of challenger and incumbent that both have."""
    ours, theirs = (piece_scores(one) for one in compared.scored if isinstance(one, Evaluation))
    common = [each for each in ours if math.isfinite(ours[each]) and math.isfinite(theirs[each])]
    return {each: ours[each] for each in common}, {each: theirs[each] for each in common}


def _pairs_of_sources(
    compared: Compared, manifest: Manifest, on_progress: Callable[[SoundProgress], None]
) -> tuple[list[Pair], list[Pair], list[Worst]]:
    """Two separators by piece, by label, and where the challenger does worst."""
    ours, theirs = _both_scores(compared)
    pieces, labels = (dict.fromkeys(sorted({source[place] for source in ours})) for place in (0, 1))
    by_piece_name = [_pair(name, [each for each in ours if each[0] == name], ours, theirs) for name in pieces]
    by_label = []
    for label in labels:
        of_label = [each for each in ours if each[1] == label]
        gain = paired_gain({each: ours[each] for each in of_label}, theirs)
        interval = (gain.low, gain.high) if gain.pieces > 1 else None
        by_label.append(_pair(INSTRUMENTS.get(label, label), of_label, ours, theirs, interval))
    lowest = sorted(ours, key=lambda each: ours[each] - theirs[each])[:NUM_WORST]
    table = Table(manifest.folder, "promote")
    heard = separate_excerpts(compared.rows, table, lowest, EXCERPT_SECONDS, on_progress) if lowest else ([], [])
    worst = [
        Worst(f"{INSTRUMENTS.get(source[1], source[1])} in {source[0]}", theirs[source], ours[source], mine, other)
        for source, mine, other in zip(lowest, *heard, strict=True)
    ]
    return by_piece_name, by_label, worst


def _pair(
    name: str,
    sources: list[Source],
    ours: Mapping[Source, float],
    theirs: Mapping[Source, float],
    interval: tuple[float, float] | None = None,
) -> Pair:
    """The mean over some sources."""
    mine, other = (sum(scores[each] for each in sources) / len(sources) for scores in (ours, theirs))
    return Pair(name, other, mine, mine - other, interval)


def _pairs_of_figures(compared: Compared, manifest: Manifest) -> tuple[list[Pair], list[Pair], list[Worst]]:
    """Two networks that do not separate by piece and by label: nothing of theirs can be heard."""
    ours, theirs = (one for one in compared.scored if isinstance(one, FigureEvaluation))
    rank = ours.figure.rank

    def pairs(mine: Mapping[str, float], other: Mapping[str, float]) -> list[Pair]:
        found = {name: (other[name], mine[name]) for name in mine if name in other}
        known = {name: both for name, both in found.items() if all(map(math.isfinite, both))}
        return [Pair(INSTRUMENTS.get(name, name), *both, rank(both[0]) - rank(both[1])) for name, both in known.items()]

    return pairs(by_piece(ours, manifest), by_piece(theirs, manifest)), pairs(ours.labels, theirs.labels), []


def _heading(compared: Compared) -> str:
    first = compared.scored[0]
    return "SI-SDRi, dB" if isinstance(first, Evaluation) else first.figure.heading


def _conventions(compared: Compared) -> tuple[str, ...]:
    if not compared.rows:
        return ("Differences are positive where the challenger is better. A mixture of two pieces counts for both.",)
    return (
        f"SI-SDRi: {CONVENTIONS['SI-SDRi']}.",
        "A piece and an instrument have the mean of their sources; bars of instruments are 95 % intervals over pieces.",
        f"Excerpts are the loudest {EXCERPT_SECONDS:.0f} s of the source; all sounds of a source share one gain.",
    )


def _csv(compared: Compared, manifest: Manifest) -> str:
    """A line per source, or per piece of networks that do not separate."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    if compared.rows:
        both = [one for one in compared.scored if isinstance(one, Evaluation)]
        challenger, incumbent = (piece_scores(one) for one in both)
        table.writerow(("piece", "label", "challenger_si_sdr_improvement", "incumbent_si_sdr_improvement"))
        table.writerows((*source, challenger[source], incumbent[source]) for source in sorted(challenger))
    else:
        ours, theirs = (by_piece(one, manifest) for one in compared.scored if isinstance(one, FigureEvaluation))
        name = compared.scored[0].figure.name if isinstance(compared.scored[0], FigureEvaluation) else ""
        table.writerow(("piece", f"challenger_{name}", f"incumbent_{name}"))
        table.writerows((piece, ours[piece], theirs[piece]) for piece in ours)
    return text.getvalue()
