"""A recording in; one WAV per label and a page to look at and listen to out.

    separated = separate_recording(Path("quartet.mp4"), model_folder, Path("stems/quartet"), instruments="vn,vn,va,vc")
    separated.stems["vn"]  # both violins; a model conditioned on labels cannot tell them apart
    separated.page

Labels come from `instruments`, else from the file's metadata (`comment`: `instruments=vn,va,vc`). A model that looks at
players takes the picture as equal columns, one per player, left to right in that order. Where it is asked by what it
sees of each, two players of one instrument have stems of their own, named by their places: "vn-left" and "vn-right". Of
any other model, their stems are added. With an alignment model, slots become stems of players: see
`vimss.separate.assigned`. The folder is complete or does not exist.

Sound is read, separated, scored and written block by block, and kept on disk in between, so that an hour takes no more
memory than a few minutes. Pictures of players are kept in memory: if they would exceed
`media.container.MAX_PICTURE_BYTES`, the recording is refused before they are decoded.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int16

from vimss.errors import ConfigError, ModelError
from vimss.media import Channel, SoundReport, audio_blocks, fitting_gain, probe, quantise
from vimss.media.disk import DiskAudio, check_wav_size, write_wav_blocks
from vimss.model import apply
from vimss.model.contexts import Recording
from vimss.model.device import DeviceName, find_device, on_device
from vimss.model.separator import Separator, load_separator, read_card
from vimss.pages.of_recording import LoadedModel, RecordingSound, Signals, peak_limited, separation_page
from vimss.separate.assigned import Assigned, Assigner, open_assigner
from vimss.separate.examples import read_examples
from vimss.separate.folder import (
    PAGE,
    check_inputs_stay,
    check_space,
    free_folder,
    make_folder,
    put_folder,
    recording_of,
    write_record,
)
from vimss.separate.levels import fit_levels
from vimss.separate.named import InstrumentsFrom, named_players
from vimss.separate.pixels import PIXELS, write_pixels
from vimss.separate.players import Parts, about_picture, parts_of, players_of, stem_names
from vimss.separate.scores import find_references, read_reference, score
from vimss.storage import explain_os_errors, temporary_beside

Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """The part of the sound to separate, what may be replaced, and the name of the model on the page."""

    stream: int = 0
    """Number of the sound stream, from 0."""
    channel: Channel = "all"
    """Part of a stereo sound; all: as many channels as the model has."""
    allow_truncated: bool = False
    """Whether a truncated file is separated up to where it ends."""
    overwrite: bool = False
    """Whether stems of another recording may be replaced."""
    numbered: bool = False
    """Whether the folder gets a number after its name if another one has that name."""
    device: DeviceName = "cpu"
    """The device that the network runs on."""
    model_name: str = ""
    """As in models:/quickstart/1; the path of the model's folder where empty."""
    alignment: Path | None = None
    """Folder of the alignment model that assigns the outputs of a slots model to players; None: they keep numbers."""
    alignment_name: str = ""
    """As `model_name`."""
    examples: tuple[tuple[str, Path], ...] = ()
    """For a model whose context is example: the label of a player, and a file of that player alone."""

    def __post_init__(self) -> None:
        """ConfigError for a negative stream."""
        if self.stream < 0:
            raise ConfigError("stream must be at least 0", got=str(self.stream), fix="count from 0")


DEFAULTS = Options()


@dataclass(frozen=True)
class Reports:
    """Functions that get sentences while a recording is separated."""

    progress: Report = lambda sentence: None
    """Gets the current step, such as how many seconds of the recording are finished."""
    note: Report = lambda sentence: None
    """Gets, before the separation, a summary of the recording and what is missing from it."""


SILENT = Reports()


@dataclass(frozen=True)
class Separated:
    """The files written, a report on the recording, and scores if there were references."""

    stems: dict[str, Path]
    """Label to WAV; slot_1, slot_2 ... where the model's outputs have no labels."""
    page: Path
    scores: dict[str, float]
    """Label to SI-SDR improvement in dB, for the labels that have a reference."""
    gain: float
    """Gain of all stems: below 1 where it was reduced so that none clips."""
    sound: SoundReport
    notes: tuple[str, ...]
    """Missing parts of the recording, and warnings about its sound."""
    assigned: Assigned | None = None
    """How the outputs were assigned to players, if they were."""
    pixels: Path | None = None
    """The picture of the sound of every pixel, by a model that has one."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The gain, if it was reduced, the confidence of an assignment, and the scores."""
        level = (peak_limited(self.gain),) if self.gain < 1 else ()
        certain = (self.assigned.sentence,) if self.assigned else ()
        shown = (f"the sound of every pixel: {self.pixels}",) if self.pixels else ()
        return (
            *level,
            *certain,
            *shown,
            *(f"{name}: SI-SDR improvement {gain:+.1f} dB" for name, gain in self.scores.items()),
        )

    @property
    def summary(self) -> dict[str, Any]:
        """All of it for a script."""
        sound = {
            name: getattr(self.sound, name)
            for name in ("stream", "streams", "channel", "channels", "sample_rate", "seconds", "level_db")
        }
        return {
            "page": str(self.page),
            "stems": {name: str(path) for name, path in self.stems.items()},
            "gain_db": 20 * math.log10(self.gain),
            "scores": self.scores,
            "heard": sound,
            "notes": list(self.notes),
            **({"assignment": self.assigned.summary} if self.assigned else {}),
            **({"pixels": str(self.pixels)} if self.pixels else {}),
        }


def separate_recording(
    file: Path,
    model: Path,
    out: Path,
    instruments: str | InstrumentsFrom = "",
    references: Path | None = None,
    *,
    options: Options = DEFAULTS,
    reports: Reports = SILENT,
) -> Separated:
    """Separate `file` with the model in the folder `model` into the folder `out`.

    Args:
        file: anything with sound that `vimss.media` reads; with picture, where the model looks at players.
        model: folder with model.json and weights.safetensors.
        out: a new folder, or one that holds stems of this very recording, which are replaced by complete ones.
        instruments: labels of the players from left to right, as in "vn,va,vc"; the file's metadata where empty; or a
            model that names them from the pictures.
        references: folder with true stems named by label, for scores and for the page; the model does not get
            them.
        options: the part of the sound, what may be replaced, and the name of the model on the page.
        reports: called with progress and notes.

    Raises:
        ConfigError: no labels, unknown ones, references of another length, a folder `out` that holds something else, or
            a device that is not there.
        MediaError: a recording or reference that cannot be read, or is too long for a WAV file.
        ModelError: no model there, or one that does not fit the recording.
        StorageError: `out` cannot be written, or the disk is too small.

    """
    device = find_device(options.device)
    recording = recording_of(file)
    target = free_folder(out, recording, numbered=options.numbered, overwrite=options.overwrite)
    check_inputs_stay(target, (file, model, references, *(path for _, path in options.examples)))
    separator = on_device(load_separator(model), device)
    known = LoadedModel(separator, read_card(model)["card"], options.model_name or str(model))
    named_by: tuple[str, ...] = ()
    assigned = options.alignment is not None
    if isinstance(instruments, InstrumentsFrom):
        players, named_by = named_players(file, instruments, known, options.allow_truncated, assigned=assigned)
    else:
        players = players_of(instruments, file, known.separator, assigned=assigned)
    examples = read_examples(options.examples, known.separator, players)
    about = Recording(file, players, known.card, options.allow_truncated, options.stream, examples)
    assigner = None
    if options.alignment is not None:
        name = options.alignment_name or str(options.alignment)
        assigner = open_assigner(options.alignment, name, known.separator, about)
    names = assigner.names if assigner else stem_names(known.separator, players)
    true, notes = find_references(references, names, known.separator.labels) if references else ({}, ())
    notes = (*named_by, *notes, *about_picture(known.separator, about))
    task = Task(file, known, players, parts_of(known.separator, about), true, notes, options, assigner)
    with explain_os_errors(target, "--out"), temporary_beside(target) as folder:
        make_folder(folder, target)
        result = _separate_in(folder, task, reports)
        write_record(folder, recording, {"model": known.name} | result.record)
        target = put_folder(folder, out, recording, numbered=options.numbered, overwrite=options.overwrite)
    paths = {name: target / f"{name}.wav" for name in result.stems}
    sound, pixels = result.sound, target / PIXELS if result.has_pixels else None
    return Separated(
        paths, target / PAGE, result.scores, result.gain, sound.report, sound.notes, result.assigned, pixels
    )


@dataclass(frozen=True, eq=False)
class Task:
    """A separation whose inputs have been checked."""

    file: Path
    model: LoadedModel
    players: tuple[str, ...]
    parts: Parts
    true: Mapping[str, Sequence[Path]]
    """The files of the references of each stem that has any."""
    notes: tuple[str, ...]
    options: Options
    assigner: Assigner | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """Results beside the files."""

    sound: RecordingSound
    scores: dict[str, float]
    gain: float
    stems: tuple[str, ...]
    assigned: Assigned | None = None
    has_pixels: bool = False
    examples: tuple[tuple[str, Path], ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The content of the record."""
        about: dict[str, Any] = {"heard": self.sound.report.sentence, "notes": list(self.sound.notes)}
        if self.assigned:
            about["assignment"] = self.assigned.summary
        if self.examples:
            about["examples"] = [{"label": label, "file": file.name} for label, file in self.examples]
        return {"stems": list(self.stems), "gain": self.gain, "scores": self.scores} | about


def _separate_in(folder: Path, task: Task, reports: Reports) -> Done:
    """Write stems and page into the folder."""
    rate, channels = task.model.separator.sample_rate, task.model.separator.config.channels
    signals = 1 + len(task.parts.names) + len(task.true)
    with ExitStack() as spools:

        def spool() -> DiskAudio:
            return spools.enter_context(DiskAudio(folder, channels))

        check_space(folder, round(probe(task.file).seconds * rate), channels, signals)
        mixture = spool()
        reports.progress("reading")
        sound = _read_mixture(task, mixture, rate)
        for sentence in (sound.report.sentence, *sound.notes):
            reports.note(sentence)
        check_wav_size(mixture.samples, channels, rate)
        check_space(folder, mixture.samples, channels, signals - 1)  # the mixture is on the disk already
        true = {name: read_reference(files, spool(), rate, mixture.samples) for name, files in task.true.items()}
        stems = {name: spool() for name in task.parts.names}
        peak = _separate_into(stems, task.model.separator, mixture, task.parts, reports.progress)
        if task.model.card.get("any_level"):
            peak = fit_levels(mixture, stems)
        gain = fitting_gain(np.array([peak]))
        assigned = None
        if task.assigner is not None:
            reports.progress("who plays what")
            stems, assigned = task.assigner.rename(stems, rate)
            sound, true = _after_assignment(sound, true, assigned)
        reports.progress("scores and page")
        scores = score(mixture, stems, true, rate)
        heard = Signals(mixture, stems, true, gain)
        page = separation_page(sound, task.model, task.players, heard, scores, task.options.examples)
        (folder / PAGE).write_text(page, encoding="utf-8")
        has_pixels = write_pixels(folder, task.model.separator, mixture, task.parts.context, task.players)
        for name, stem in stems.items():
            reports.progress(f"writing {name}.wav")
            write_wav_blocks(folder / f"{name}.wav", _to_write(stem, gain), stem.samples, channels, rate)
            stem.close()
    return Done(sound, scores.improvements, gain, tuple(stems), assigned, has_pixels, task.options.examples)


def _after_assignment(
    sound: RecordingSound, true: dict[str, DiskAudio], assigned: Assigned
) -> tuple[RecordingSound, dict[str, DiskAudio]]:
    """The recording with a note on its assignment, and the references that still have a stem."""
    notes = [assigned.sentence]
    if true and not assigned.assignment.is_certain:
        notes.append("no scores: references are of players")
        true = {}
    return replace(sound, notes=(*sound.notes, *notes)), true


def _read_mixture(task: Task, mixture: DiskAudio, sample_rate: int) -> RecordingSound:
    """Read the recording onto the disk."""
    report, options = SoundReport(), task.options
    for block in audio_blocks(
        task.file,
        sample_rate,
        mixture.channels,
        options.stream,
        channel=options.channel,
        allow_truncated=options.allow_truncated,
        report=report,
    ):
        mixture.append(block)
    return RecordingSound(task.file, report, (*report.notes, *report.warnings, *task.notes))


def _separate_into(
    stems: Mapping[str, DiskAudio], separator: Separator, mixture: DiskAudio, parts: Parts, progress: Report
) -> float:
    """Write the stems onto the disk; returns their peak."""
    seconds, peak = mixture.samples / separator.sample_rate, 0.0

    def read(first: int, last: int) -> torch.Tensor:
        return torch.from_numpy(mixture.read(first, last))

    def report(done: float) -> None:
        progress(f"{done:.0f} of {seconds:.0f} s")

    for block in apply.separate_stream(separator, read, mixture.samples, parts.context, progress=report):
        outputs = block.float().numpy()
        if not np.isfinite(outputs).all():
            begin = next(iter(stems.values())).samples
            got = f"NaN or infinite values after {begin / separator.sample_rate:.0f} s"
            raise ModelError("a model must give finite samples", got=got, fix="use another version of the model")
        for name, stem in stems.items():
            total = sum(outputs[output] for output, of in parts.rows if of == name)
            peak = max(peak, float(np.abs(total).max(initial=0.0)))
            stem.append(np.asarray(total))
    return peak


def _to_write(stem: DiskAudio, gain: float) -> Iterator[Int16[np.ndarray, "c n"]]:
    return (quantise(block * np.float32(gain)) for block in stem.blocks())
