"""One page with the same excerpt of every cell of an experiment, switched without a gap, and rated blind.

    page = cells_page(excerpt_of_cells(experiment, manifest, study, "test"))
    (folder / "page.html").write_text(page)

All sounds start at one time of one clock and play on; only what is heard changes. In blind mode names are hidden, the
order is shuffled, and the true stem and the mixture are among the systems, as hidden reference and anchor, after MUSHRA
(ITU-R BS.1534). Every row of `vimss compare` is heard by its first seed, whose best trial separates here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Literal

import numpy as np
from jaxtyping import Float

from vimss.comparison import gathered
from vimss.console import decibel
from vimss.errors import ConfigError, DataError
from vimss.experiment import SEED, Experiment
from vimss.media import encode_audio, fitting_gain, quantise
from vimss.metrics import CONVENTIONS, si_sdr_improvement
from vimss.pages.listening import data_url, html_text, page_policy, page_template
from vimss.pages.of_trial import EXCERPT_SECONDS
from vimss.search.study import Study, TrialRecord, best_of_cell
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.manifest import Manifest
from vimss.stream.mix import PlayerViews
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import System, model_system
from vimss.train.objectives import OBJECTIVES

LISTEN_FOLDER = "listen"
"""In the folder of a study: the page, and the ratings that it sent."""


@dataclass(frozen=True, eq=False)
class Heard:
    """One system's sound for one source."""

    system: str
    kind: Literal["cell", "reference", "mixture"]
    audio: Float[np.ndarray, "c t"]
    note: str = ""
    """Shown where names are."""


@dataclass(frozen=True, eq=False)
class CellsExcerpt:
    """The content of the page; all sounds share one rate, one beginning and one length."""

    experiment: str
    question: str
    study: str
    split: str
    piece: str
    sample_rate: int
    heard: Mapping[str, Sequence[Heard]]
    """By label, each with the same systems."""
    facts: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """Length of the excerpt."""
        return next(iter(self.heard.values()))[0].audio.shape[1] / self.sample_rate


def excerpt_of_cells(
    experiment: Experiment,
    manifest: Manifest,
    study: Study,
    split: str,
    piece: str = "",
    on_progress: Callable[[str], None] = lambda text: None,
) -> CellsExcerpt:
    """Separate the beginning of a piece by the best trial of each row; the first piece of the split where not named.

    Raises:
        ConfigError: The networks do not separate, or the split has no piece of that name with two sources.
        DataError: No cell has weights, or no source sounds in the excerpt.

    """
    if not OBJECTIVES[experiment.objective].separates:
        raise ConfigError(
            "vimss listen needs networks that separate",
            got=f"an experiment of the objective '{experiment.objective}'",
            fix="compare it with `vimss compare`",
        )
    rows = _trials(experiment, study)
    if not rows:
        raise DataError(
            f"{study.folder} must hold weights to listen to", got="no trial that has some", fix="search again"
        )
    rate = manifest.recipe.sample_rate
    systems = {row: model_system(trial.folder / "model", manifest, row) for row, (trial, _) in rows.items()}
    views = {_shown_by(system): system.views for system in systems.values()}
    whole = _piece(manifest, split, piece, list(views.values()))
    scenes = {shown: scene.beginning(round(EXCERPT_SECONDS * rate)) for shown, scene in zip(views, whole, strict=True)}
    separated: dict[str, dict[str, np.ndarray]] = {}
    facts = {"split": split}
    for row, system in systems.items():
        on_progress(row)
        scene = scenes[_shown_by(system)]
        labels = sorted(scene.references)
        separated[row] = dict(zip(labels, system(scene, labels), strict=True))
        if not system.ordered:
            facts["slots"] = CONVENTIONS["slots"]
    name = whole[0].name
    facts |= {"piece": name, "seeds": "; ".join(dict.fromkeys(note for _, note in rows.values() if note))}
    heard = _heard(list(scenes.values()), separated, rate)
    if not heard:
        raise DataError(
            f"the first {EXCERPT_SECONDS:.0f} s of a piece must have a source that sounds",
            got=f"silence in {name}",
            fix="choose another --piece",
        )
    shown_facts = {fact: value for fact, value in facts.items() if value}
    return CellsExcerpt(experiment.name, experiment.question, study.folder.name, split, name, rate, heard, shown_facts)


def _heard(
    scenes: Sequence[Scene], separated: Mapping[str, Mapping[str, np.ndarray]], rate: int
) -> dict[str, list[Heard]]:
    """The sounds of each label; `scenes` are the same excerpt with other views, `separated` by row its estimates."""
    # Where pictures are shown, an excerpt ends between two of them.
    length = min(scene.mixture.shape[1] for scene in scenes)
    first, heard = scenes[0], dict[str, list[Heard]]()
    for label in sorted(first.references):
        if any(label not in scene.references for scene in scenes):
            continue
        mixture, reference = first.mixture[:, :length], first.references[label][:, :length]
        heard[label] = [Heard("true stem", "reference", reference), Heard("mixture", "mixture", mixture)]
        for row, estimates in separated.items():
            estimate = estimates[label][:, :length]
            gain = si_sdr_improvement(mixture, reference, estimate, rate)
            heard[label].append(Heard(row, "cell", estimate, f"{decibel(gain)} dB SI-SDRi"))
    return heard


def _trials(experiment: Experiment, study: Study) -> dict[str, tuple[TrialRecord, str]]:
    """The trial of each row that is heard, and which of several seeds that is."""
    found = {}
    for group in gathered(experiment):
        for cell in group.cells:
            trial = best_of_cell(study, cell.name)
            if trial is not None:
                seed = cell.overrides.get(SEED, experiment.seed)
                note = f"seed {seed}, one of {len(group.cells)}" if len(group.cells) > 1 else ""
                found[group.name] = trial, note
                break
    return found


def _shown_by(system: System) -> tuple[tuple[str, ...], str, float]:
    """The views that a system needs, as a key: systems with the same one separate the same scene."""
    return system.views.members, system.views.features, system.views.example_seconds


def _piece(manifest: Manifest, split: str, name: str, views: Sequence[PlayerViews]) -> tuple[Scene, ...]:
    """A piece with each of these views: the one named, or the first with a source that all systems can be asked for."""
    names = []
    for scenes in zip(*(pieces_of(manifest, split, each) for each in views), strict=True):
        if set.intersection(*(set(scene.references) for scene in scenes)):
            if name in ("", scenes[0].name):
                return scenes
            names.append(scenes[0].name)
    raise ConfigError(
        f"--piece must name a piece of {split} with two sources that sound, and an example where a network needs one",
        got=repr(name) if name else "a split without one",
        fix=f"choose from {', '.join(names)}" if names else "choose another --split",
    )


def cells_page(excerpt: CellsExcerpt) -> str:
    """The page as one HTML file, with one gain for all sounds so that none of them clips."""
    text = page_template("cells.html")
    gain = fitting_gain(*(one.audio for of in excerpt.heard.values() for one in of))
    content = {
        "study": excerpt.study,
        "split": excerpt.split,
        "piece": excerpt.piece,
        "seconds": excerpt.seconds,
        "sources": [
            {
                "label": label,
                "name": INSTRUMENTS.get(label, label),
                "systems": [
                    {
                        "system": one.system,
                        "kind": one.kind,
                        "note": one.note,
                        "sound": data_url(encode_audio(quantise(one.audio * gain), excerpt.sample_rate), "audio/wav"),
                    }
                    for one in of
                ],
            }
            for label, of in excerpt.heard.items()
        ],
    }
    facts = "".join(f"<dt>{html_text(name)}</dt><dd>{html_text(value)}</dd>" for name, value in excerpt.facts.items())
    return Template(text).substitute(
        # Served on loopback, the page sends its ratings to where it is from.
        policy=page_policy(text, "; connect-src 'self'"),
        title=html_text(f"{excerpt.experiment}: every cell"),
        question=html_text(excerpt.question),
        facts=facts,
        convention=html_text(f"SI-SDRi: {CONVENTIONS['SI-SDRi']}. Levels are the systems' own, under one common gain."),
        seconds=f"{excerpt.seconds:.3f}",
        # Data, not markup: no name can end the element.
        content=json.dumps(content).replace("<", "\\u003c"),
    )
