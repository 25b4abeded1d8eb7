"""From scores to stems in three minutes: the ordinary verbs in their order, with small settings.

    vimss quickstart    # shards/quickstart.yaml, experiments/quickstart.yaml, then a test piece as stems and a page

Everything is kept by signature: a second run finds what the first one made. `quickstart.json` in the store holds
the figures of the last run, and `quickstart-seed1.json` those of the last one with that seed.
"""

import json
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vimss import verbs
from vimss.baselines import BASELINES
from vimss.config import to_json
from vimss.console import Say, SearchLines, decibel, duration, err, out, print_table, stage
from vimss.errors import ConfigError, DataError, PlaceError
from vimss.evaluate import PIECE_FIGURES, Evaluation, Values
from vimss.experiment import Experiment
from vimss.intervals import Interval
from vimss.media import write_video, write_wav
from vimss.model.separator import load_separator
from vimss.report import COMPARISON_COLUMNS, comparison_rows, log_pictures, print_evaluations
from vimss.runtime import start_ray
from vimss.search.remaining import Progress, audio_left, longest
from vimss.search.run import concurrent_trials
from vimss.search.study import Study, TrialRecord, read_study, study_folder
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe
from vimss.storage import atomic_write
from vimss.stream.read import read_pieces
from vimss.stream.scene import mixture_of, references_of
from vimss.systems import equally_informed
from vimss.train.measure import step_seconds

EXPERIMENT = "quickstart"

BEST = "best trial"
"""Row of the searched model in the tables."""

REACHED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("whole run, s", ("seconds",), "at most 210"),
    ("SI-SDR improvement on two-source mixtures, dB", ("best", "metrics", "si_sdr_improvement"), "at least +3.0"),
    ("  above the Wiener filter told as much, dB", ("best", "above_wiener"), "at least +0.5"),
    ("  the same of whole pieces, dB", ("best", "pieces_above_wiener"), "at least +0.5"),
    ("  on timbres that training never saw, dB", ("best", "unheard_timbres", "si_sdr_improvement"), "-"),
    ("label contrast: right label minus an absent one, dB", ("best", "metrics", "label_contrast"), "at least +2.0"),
    ("absent label's output against the mixture, dB", ("best", "metrics", "absent_level"), "at most -15.0"),
    ("gain from labels: best trial minus the baseline without, mean, dB", ("labels_gain",), "at least +0.2"),
)
"""What the quickstart is judged by: a name, where it stands in quickstart.json, and the aim."""

HEAD_ADDRESS = "http://127.0.0.1:8265"
"""Where the head of platform/cluster takes jobs."""


REFERENCE_STEP_SECONDS = 0.05
"""What `step_seconds` gives for the quickstart's first trial on the machine of the constants below, idle."""

STAGE_SECONDS = {"start": 10.0, "corpus": 29.0, "evaluate": 30.0, "promote": 11.0, "separate": 5.0}
"""Of a first run there."""

TRAINING_OVERHEAD = 1.3
"""Seconds of a search per second of its steps: batches, validation, and two trials at once under Ray."""


@dataclass(frozen=True)
class Result:
    """What a run found."""

    experiment: Experiment
    study: Study
    test: list[Evaluation]
    """The best trial first."""
    unheard: Evaluation
    promotion: verbs.Promotion
    page: Path
    stages: dict[str, float]
    """Seconds of each."""
    seconds: float
    next_steps: dict[str, str]
    """What for, and a path or a line for the shell."""

    @property
    def equally_informed(self) -> str:
        """The row that is told as much as the best trial is."""
        return equally_informed(load_separator(self.best.folder / "model").config)

    @property
    def best(self) -> TrialRecord:
        """The best searched trial."""
        return verbs.best_trial(self.experiment, self.study)

    def _pieces_gain(self) -> float:
        """Median SI-SDR improvement of whole pieces, above that of the row that is told as much."""
        found = self._piece_values
        return found[BEST].median - found[self.equally_informed].median

    @property
    def _piece_values(self) -> dict[str, Values]:
        return {found.system: found.values("si_sdr_improvement") for found in self.test}

    @property
    def _mixture_values(self) -> dict[str, Values]:
        return {found.system: found.two_sources.values("si_sdr_improvement") for found in self.test}

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """Over pieces, of the differences in the summary."""
        told, pieces, mixtures = self.equally_informed, self._piece_values, self._mixture_values
        blind = mixtures.get(without_labels(self.experiment))
        return {
            "above_wiener": mixtures[BEST].interval_above(mixtures[told]),
            "pieces_above_wiener": pieces[BEST].interval_above(pieces[told]),
            "labels_gain": mixtures[BEST].interval_above(blind, mean=True) if blind else None,
        }

    @property
    def summary(self) -> dict[str, Any]:
        """The content of quickstart.json."""
        cells = self.experiment.cells()
        best = self.best
        figures = {found.system: _figures(found) for found in self.test}
        gains = {found.system: found.two_sources.si_sdr_improvement for found in self.test}
        means = {found.system: found.two_sources.si_sdr_improvement_mean for found in self.test}
        return {
            "seconds": self.seconds,
            "stages": self.stages,
            "seed": self.experiment.seed,
            "trials": sum(len(self.study.of_cell(cell.name)) for cell in cells if not cell.is_control),
            "baseline": {cell.name: figures[cell.name] for cell in cells if cell.is_control and cell.name in figures},
            "labels_gain": labels_gain(self.experiment, means),
            "references": {name: figures[name] for name in BASELINES},
            "best": {
                "cell": best.cell,
                "trial": best.trial,
                "config": best.settings.model_dump(mode="json") if best.settings else {},
                "metrics": {**best.best_report, **figures[BEST]},
                "above_wiener": gains[BEST] - gains[self.equally_informed],
                "pieces_above_wiener": self._pieces_gain(),
                "unheard_timbres": self.unheard.two_sources.model_dump(exclude={"scores"}),
            },
            "intervals": self.intervals,
            "champion": {
                "name": self.promotion.name,
                "version": self.promotion.version,
                "promoted": self.promotion.is_champion,
                "sentence": self.promotion.decision.sentence,
            },
            "page": str(self.page),
        }


class Stages:
    """The seconds of each stage, as they pass; the first are those of the imports since `began`."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.seconds = {"imports": self.total}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Say]:
        """A stage line, and its seconds."""
        begin = time.monotonic()
        with stage(name) as say:
            yield say
        self.seconds[name] = round(time.monotonic() - begin, 1)

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return round(time.time() - self.began, 1)


def run(
    seed: int | None = None,
    place: str = "local",
    experiment_name: str = EXPERIMENT,
    began: float | None = None,
    wait: bool = False,
) -> Result:
    """The whole flow; writes quickstart.json into the store. Without a seed, the experiment's and the recipe's own.

    `began`, in seconds since 1970, is when the clock started: imports take seconds too.
    """
    stages = Stages(time.time() if began is None else began)
    experiment = verbs.experiment_of(experiment_name, seed)
    recipe = verbs.recipe_for(experiment)
    with ExitStack() as stack:
        work = stack.enter_context(verbs.at_place(place))
        expected = expected_time(work, experiment, recipe)
        if expected:
            err.print(expected)
        with stages("start Ray"):
            start_ray()
        with stages("corpus and shards") as say:
            manifest = verbs.write(work, experiment.shards, recipe, on_progress=verbs.shard_news(say))
        with stages("search") as say:
            lines = SearchLines(say, experiment)
            study, tracker = verbs.run_search(work, experiment, manifest, [lines], wait=wait)
        with verbs.delivered(tracker, err.print):
            with stages("evaluate") as say:
                test, unheard = _evaluate(experiment, manifest, study, say)
            with stages("track and promote"):
                log_pictures(experiment, manifest, study, tracker)
                promotion = verbs.promote_best(work, experiment, manifest, tracker, study)
        with stages("separate") as say:
            model = f"models:/{experiment.name}/{promotion.version}"
            recording, references = write_recording(manifest, work.store.root / "quickstart")
            separated = verbs.separate_file(work, recording, model, "", None, references, say)
    root = work.store.root
    elsewhere = [] if place == "local" else ["--on", place]
    next_steps = {
        "stems and page": str(separated.page),
        "figures": str(root / "quickstart.json"),
        "runs and models": shlex.join(["platform/local/run", "vimss", "ui", *elsewhere]),
        "a cluster on this machine": "platform/local/run platform/cluster/head",
        "the same search as a job there": job_command(experiment_name, seed, root),
    }
    seconds = stages.total
    result = Result(experiment, study, test, unheard, promotion, separated.page, stages.seconds, seconds, next_steps)
    for name in ("quickstart", f"quickstart-seed{experiment.seed}"):
        with atomic_write(root / f"{name}.json") as temporary:
            temporary.write_text(to_json(result.summary), encoding="utf-8")
    return result


def expected_time(work: verbs.Work, experiment: Experiment, recipe: Recipe) -> str:
    """How long a run takes here, in a sentence; empty where it runs on a cluster, which is not measured.

    What an earlier run left is not counted.
    """
    cell = experiment.cells()[0]
    try:
        at_once = concurrent_trials(work.place, [{"CPU": float(len(os.sched_getaffinity(0)))}])
        settings = experiment.settings({**cell.overrides, **dict(*experiment.search.first_trials[:1])})
    except (ConfigError, PlaceError):
        return ""  # of GPUs or a cluster; or what is tuned is needed too
    if work.place.ray_address:
        return ""
    try:
        manifest = verbs.shards_of(work, experiment)
    except DataError:  # not written yet
        has_shards, records = False, tuple[TrialRecord, ...]()
    else:
        has_shards, records = True, read_study(study_folder(experiment, manifest, work.store)).records
    step = step_seconds(settings, recipe, threads=max(1, int(work.place.cpus_per_worker) - work.place.loader_workers))
    per_audio_second = step * recipe.sample_rate / (settings.training.batch_size * settings.training.output_samples)
    left = longest(audio_left(experiment, progress_of(records)), at_once) * per_audio_second
    what = "what is left takes" if records else "this takes"
    return (
        f"{what} about {duration(expected_seconds(step, left, has_shards))} on this machine "
        f"(a training step takes {step:.2g} s)"
    )


def expected_seconds(step: float, training: float, has_shards: bool) -> float:
    """Of a run, where a training step takes `step` seconds and those that are left take `training` seconds."""
    stages = sum(seconds for name, seconds in STAGE_SECONDS.items() if not (has_shards and name == "corpus"))
    return TRAINING_OVERHEAD * training + stages * step / REFERENCE_STEP_SECONDS


def progress_of(records: Iterable[TrialRecord]) -> dict[str, list[Progress]]:
    """How far the trials of an earlier run are, by cell. Failed ones are left out: others are drawn in their place."""
    found: dict[str, list[Progress]] = {}
    for record in records:
        seen = max((report["audio_seconds"] for report in record.reports), default=0.0)
        if record.state in {"running", "interrupted"}:
            found.setdefault(record.cell, []).append(Progress(seen, "running"))
        elif record.state in {"waiting", "finished"}:
            found.setdefault(record.cell, []).append(Progress(seen, record.state))
        elif record.state == "pruned":
            found.setdefault(record.cell, []).append(Progress(seen, "over"))
    return found


def job_command(experiment_name: str, seed: int | None, store: Path) -> str:
    """A line for the shell that sends the search to the head of platform/cluster, from the root of the repository."""
    environment = json.dumps({"env_vars": {"VIMSS_STORE": str(store)}})
    submit = ["platform/local/run", "ray", "job", "submit", "--working-dir", ".", "--runtime-env-json", environment]
    search = ["python", "-m", "vimss", "search", experiment_name, "--on", "cluster"]
    search += [] if seed is None else ["--seed", str(seed)]
    return f"RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS={HEAD_ADDRESS} {shlex.join([*submit, '--', *search])}"


def labels_gain(experiment: Experiment, two_sources: Mapping[str, float]) -> float:
    """What labels add to one output per label: the best trial minus the baseline that trains as it does, but is not
    told what plays, in dB.

    `two_sources` holds mean SI-SDR improvements, so the difference is the mean paired one, which varies less than a
    difference of medians. NaN where the experiment has no such baseline, or one of them no figure.
    """
    return two_sources.get(BEST, float("nan")) - two_sources.get(without_labels(experiment), float("nan"))


def without_labels(experiment: Experiment) -> str:
    """The baseline with one output per label that is not told what plays; empty where there is none."""
    for cell in experiment.cells():
        model = experiment.settings(cell.overrides).model
        if cell.is_control and model.outputs == "instruments" and model.site == "none":
            return cell.name
    return ""


def write_recording(manifest: Manifest, folder: Path) -> tuple[Path, Path]:
    """A test piece as somebody would have filmed it: an mp4 with the players side by side, named in its metadata.

    Returns the mp4 and the folder of its true stems, which only the scores on the page hear.
    """
    pieces = read_pieces(manifest, "test", parts=("audio", "picture"))
    several = [clip for clip in pieces if len(references_of(clip)) > 1]
    # The first in which everybody plays: a stem of someone who rests is a poor first impression.
    clip = min(several, key=lambda clip: any(player.silent for player in clip.players))
    # Another recipe has other music under the same name.
    recording = folder / manifest.signature / f"{clip.piece}.mp4"
    stems = recording.with_suffix("")
    rate = manifest.recipe.sample_rate
    if not recording.exists():
        for label, stem in references_of(clip).items():
            write_wav(stems / f"{label}.wav", stem, rate)
        players = [player for player in clip.players if player.picture is not None]
        # A label per column from left to right, also of those who rest.
        metadata = {"title": clip.piece, "instruments": ",".join(player.instrument for player in players)}
        pictures = np.concatenate([player.picture for player in players], axis=2)
        write_video(recording, pictures, clip.frame_rate, mixture_of(clip), rate, metadata)
    return recording, stems


def tell(result: Result) -> None:
    """The tables, what was reached beside what was aimed at, and what to do next."""
    summary = result.summary
    print_table("Trials", COMPARISON_COLUMNS, comparison_rows(result.experiment, result.study))
    print_evaluations("test", result.test, verbs.best_trial(result.experiment, result.study))
    print_table(
        "What the best trial reached",
        ("", "reached", "aim"),
        reached(summary),
        "Aims are for medians of three seeds of the quickstart on two idle cores. Intervals: over pieces of this seed.",
    )
    seconds = ", ".join(f"{name} {passed:.0f}" for name, passed in summary["stages"].items())
    out.print(f"Seconds: {seconds}.")
    out.print(summary["champion"]["sentence"])
    for name, line in result.next_steps.items():
        out.print(f"{name}:")
        out.print(f"  {line}")


def reached(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the best trial reached, beside what was aimed at, as text; `summary` is the content of quickstart.json."""
    rows = []
    for name, path, aim in REACHED:
        holder: Any = summary
        for key in path[:-1]:
            holder = holder[key]
        value, last = holder[path[-1]], path[-1]
        defined = float("nan") if value is None else float(value)
        interval = {**summary.get("intervals", {}), **holder.get("intervals", {})}.get(last)
        rows.append((name, f"{defined:.0f}" if last == "seconds" else decibel(defined, interval), aim))
    return rows


def _evaluate(
    experiment: Experiment, manifest: Manifest, study: Study, say: Say
) -> tuple[list[Evaluation], Evaluation]:
    best = verbs.best_trials(experiment, study)
    models = {BEST: verbs.best_trial(experiment, study).folder / "model"}
    models |= {
        cell.name: best[cell.name].folder / "model"
        for cell in experiment.cells()
        if cell.name in best and cell.is_control
    }
    only_best = {BEST: models[BEST]}
    # At one time: while the Wiener filters are fitted here, the cores of Ray would rest.
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(
            verbs.evaluate_systems, manifest, only_best, "test_unheard", references=(), whole_pieces=False
        )
        test = verbs.evaluate_systems(manifest, models, "test", on_progress=verbs.evaluation_news(say))
    (unheard,) = other.result()
    verbs.save_evaluations(study, "test", test)
    verbs.save_evaluations(study, "test_unheard", [unheard])
    return test, unheard


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    pieces = {f"pieces_{name}": evaluation.median(name) for name in PIECE_FIGURES}
    two_sources = evaluation.two_sources.model_dump(exclude={"scores", "pieces"})
    intervals = {f"pieces_{name}": interval for name, interval in evaluation.intervals.items()}
    return {**two_sources, **pieces, "intervals": {**two_sources["intervals"], **intervals}}
