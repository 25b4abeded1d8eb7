"""True stems beside the estimated ones: found, read, scored, in memory that does not grow with the recording.

files = find_references(Path("true"), ("vn", "vc"), separator.labels)      # "Violin 1.flac" is a vn
true = {name: read_reference(paths, spool, rate, samples) for name, paths in files.items()}
scores = score(mixture, stems, true, rate)
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from vimss.errors import ConfigError
from vimss.media import audio_blocks
from vimss.media.disk import DiskAudio
from vimss.metrics import (
    CONVENTIONS,
    active_length,
    active_segments,
    bss_eval_v4,
    frame_energy,
    si_sdr_of_sums,
)
from vimss.pages.listening import PAGE_SECONDS, Table
from vimss.pages.of_recording import Scores, title_of
from vimss.shards.corpora.folder import MIXTURE, SOUNDS
from vimss.shards.instruments import label_of
from vimss.shards.source import folded, is_junk
from vimss.storage import explain_os_errors

TOLERANCE_SECONDS = 0.05
"""Codecs round the length of a file up to their frames."""
SEGMENTS_AT_ONCE = 8


def find_references(
    folder: Path, names: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """The files of each stem that has any, and sentences about files that are added and files that are not used.

    A file belongs to the label that its name starts with, as the folder reader of `vimss shard` has it; several of one
    label are added, as their stems are. ConfigError where there are none, or one stem in two formats.
    """
    with explain_os_errors(folder, "--references"):
        if not folder.is_dir():
            raise ConfigError(
                "--references must be a folder of true stems",
                got=f"{folder}, {'a file' if folder.exists() else 'which does not exist'}",
                fix="give the folder that they lie in, or leave --references out",
            )
        paths = sorted(path for path in folder.iterdir() if not is_junk(path.name))
        files = [path for path in paths if path.suffix.lower() in SOUNDS and path.is_file()]
    found: dict[str, list[Path]] = {}
    unused = []
    for path in files:
        if path.stem.lower() == MIXTURE:
            continue
        name = path.stem if path.stem in names else label_of(path.stem, [*labels, *set(names) - set(labels)])
        if name in names:
            found.setdefault(str(name), []).append(path)
        else:
            unused.append(path.name)
    if not found:
        wanted = ", ".join(f"{name}.wav" for name in names)
        held = f", but {', '.join(unused[:5])}" if unused else ""
        raise ConfigError(
            f"{folder} must hold true stems named by label",
            got=f"none of {wanted}{held}",
            fix="rename them, or leave --references out",
        )
    for paths in found.values():
        _check_each_once(paths)
    found = {name: found[name] for name in names if name in found}
    notes = [
        f"the reference of {name} is the sum of {', '.join(path.name for path in paths)}"
        for name, paths in found.items()
        if len(paths) > 1
    ]
    if unused:
        notes.append(f"references that are no stem of this separation: {', '.join(unused)}")
    return found, tuple(notes)


def _check_each_once(paths: Sequence[Path]) -> None:
    """ConfigError where two files have one name: they are one stem in two formats, not two players."""
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(folded(path.stem), []).append(path.name)
    for same in by_name.values():
        if len(same) > 1:
            raise ConfigError(
                "references of one label are added, so their names must differ in more than the ending",
                got=", ".join(same),
                fix="keep one of them if they are the same stem, or number them if they are two players",
            )


def read_reference(files: Sequence[Path], spool: DiskAudio, sample_rate: int, samples: int) -> DiskAudio:
    """The sum of the files, as long as the recording; ConfigError where one is longer or shorter than that."""
    for file in files:
        place = 0
        for block in audio_blocks(file, sample_rate, spool.channels):
            spool.add(place, block)
            place += block.shape[1]
        if abs(place - samples) > TOLERANCE_SECONDS * sample_rate:
            raise ConfigError(
                f"{file} must be as long as the recording, {samples / sample_rate:.2f} s, to be its true stem",
                got=f"{place / sample_rate:.2f} s",
                fix="export it from the beginning to the end of the recording, or leave --references out",
            )
    spool.cut(samples)
    return spool


def score(
    mixture: DiskAudio, stems: Mapping[str, DiskAudio], true: Mapping[str, DiskAudio], sample_rate: int
) -> Scores:
    """A table, a line per stem, and the improvements; museval only where every stem has its reference."""
    if not true:
        return Scores()
    gains = {name: improvement(mixture, true[name], stems[name], sample_rate) for name in true}
    columns: dict[str, list[float]] = {"SI-SDRi, dB": [gains.get(name, float("nan")) for name in stems]}
    conventions = [f"SI-SDRi: {CONVENTIONS['SI-SDRi']}."]
    if len(true) == len(stems):
        samples = round(PAGE_SECONDS * sample_rate)
        bss = bss_eval_v4(
            _beginnings([true[name] for name in stems], samples),
            _beginnings(list(stems.values()), samples),
            sample_rate,
        )
        columns |= {"SDR, dB": list(bss.sdr), "SIR, dB": list(bss.sir), "SAR, dB": list(bss.sar)}
        part = f"; of the first {PAGE_SECONDS:.0f} s, for it needs memory" if mixture.samples > samples else ""
        conventions.append(f"SDR, SIR, SAR: {CONVENTIONS['SDR, SIR, SAR']}{part}.")
    rows: list[tuple[str | float, ...]] = [
        (title_of(name), *(float(column[row]) for column in columns.values())) for row, name in enumerate(stems)
    ]
    defined = {name: gain for name, gain in gains.items() if np.isfinite(gain)}
    notes = {name: "SI-SDRi " + f"{gain:+.1f} dB".replace("-", "−") for name, gain in defined.items()}
    return Scores(defined, (Table("Scores", ("stem", *columns), tuple(rows), tuple(conventions)),), notes)


def improvement(mixture: DiskAudio, reference: DiskAudio, estimate: DiskAudio, sample_rate: int) -> float:
    """`metrics.si_sdr_improvement` of signals on disk."""
    length = active_length(sample_rate)
    step = SEGMENTS_AT_ONCE * length
    energies = [frame_energy(block, length) for block in reference.blocks(step)]
    active = active_segments(np.concatenate(energies)) if energies else np.zeros(0, bool)
    wanted, of_estimate, of_mixture = 0.0, np.zeros(2), np.zeros(2)
    for begin, kept in _stretches(active, reference.samples, length, step):
        true, given, mixed = (
            signal.read(begin, begin + len(kept))[:, kept].astype(np.float64)
            for signal in (reference, estimate, mixture)
        )
        wanted += float(np.sum(true**2))
        of_estimate += (np.sum(true * given), np.sum(given**2))
        of_mixture += (np.sum(true * mixed), np.sum(mixed**2))
    return si_sdr_of_sums(wanted, *of_estimate) - si_sdr_of_sums(wanted, *of_mixture)


def _stretches(
    active: Bool[np.ndarray, " n"], samples: int, length: int, step: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The start of each stretch, and which of its samples are active; stretches without any are left out."""
    for begin in range(0, samples, step):
        segments = active[begin // length : (begin + step) // length]
        if segments.any():
            yield begin, np.repeat(segments, length)[: samples - begin]


def _beginnings(signals: Sequence[DiskAudio], samples: int) -> Float[np.ndarray, "s c t"]:
    return np.stack([signal.read(0, samples) for signal in signals])
