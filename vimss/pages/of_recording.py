"""The page of a separated recording: the recording, the stems, their scores, and the limits of the model."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vimss.errors import MediaError
from vimss.media import SoundReport, encode_video, probe, read_video
from vimss.media.disk import DiskAudio
from vimss.model.separator import Separator
from vimss.pages.listening import PAGE_SECONDS, Page, Table, Track, listening_page
from vimss.shards.instruments import INSTRUMENTS

PLACE = re.compile("left|middle|right|[0-9]+(st|nd|rd|th)-from-the-left")
"""Of a player in the picture, at the end of a stem's name."""

VIDEO_HEIGHT = 240
VIDEO_WIDTH = 1280
VIDEO_FRAME_RATE = 12.5
"""Size of the video on the page, which shows who plays and need not be large."""


@dataclass(frozen=True, eq=False)
class RecordingSound:
    """A recording and the report on its sound."""

    file: Path
    report: SoundReport
    notes: tuple[str, ...]
    """What is missing from the file, and warnings about its sound."""


@dataclass(frozen=True, eq=False)
class Signals:
    """The signals that the tracks of a page play, on disk."""

    mixture: DiskAudio
    stems: Mapping[str, DiskAudio]
    true: Mapping[str, DiskAudio]
    gain: float
    """The gain with which the WAVs of the stems were written."""


@dataclass(frozen=True)
class Scores:
    """Scores of the stems that have references."""

    improvements: dict[str, float] = field(default_factory=dict)
    """SI-SDR improvement in dB, of the stems for which it is defined."""
    tables: tuple[Table, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    """Stem to the line under its name."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A separator, its card and its name."""

    separator: Separator
    card: Mapping[str, Any]
    name: str


def separation_page(
    sound: RecordingSound,
    model: LoadedModel,
    players: Sequence[str],
    signals: Signals,
    scores: Scores,
    examples: Sequence[tuple[str, Path]] = (),
) -> str:
    """The page as HTML, of the first PAGE_SECONDS of the signals; `examples` are the recordings of players alone."""
    video, about_video = _page_video(sound.file)
    rate = model.separator.sample_rate
    page = Page(
        title=sound.file.stem,
        lead=_lead(tuple(signals.stems), model.separator),
        tracks=_tracks(sound.file, signals, scores, round(PAGE_SECONDS * rate)),
        sample_rate=rate,
        facts=_facts(sound, model, players, signals) | _about_examples(examples) | about_video,
        limits=_limits(model.separator, model.card, len(signals.stems)),
        tables=scores.tables,
        video=video,
        whole_seconds=signals.mixture.samples / rate,
    )
    return listening_page(page)


def _tracks(file: Path, signals: Signals, scores: Scores, samples: int) -> list[Track]:
    tracks = [Track(file.name, signals.mixture.read(0, samples), "mix", "the recording at the model's sample rate")]
    for name, stem in signals.stems.items():
        tracks.append(Track(title_of(name), stem.read(0, samples), "estimate", scores.notes.get(name, "")))
        if name in signals.true:
            true = signals.true[name].read(0, samples)
            tracks.append(Track(title_of(name), true, "reference", "the true stem, for comparison"))
    return tracks


def _lead(names: Sequence[str], separator: Separator) -> str:
    interface, network = separator.interface, "an unconditioned network"
    if interface.is_conditioned:
        shown = "pictures of the players" if interface.uses_players else "the labels of the instruments"
        if interface.example_seconds:
            shown = "the labels of the instruments and a recording of each player alone"
        network = f"a network conditioned on {shown}"
    if any(PLACE.fullmatch(name.partition("-")[2]) for name in names):
        network += ", given to the players by their motion"
    count = f"{len(names)} stems" if len(names) > 1 else "One stem"
    return f"{count} from one recording, by {network}."


def _facts(sound: RecordingSound, model: LoadedModel, players: Sequence[str], signals: Signals) -> dict[str, str]:
    seconds = signals.mixture.samples / model.separator.sample_rate
    facts = {
        "Recording": f"{sound.file.name}, {seconds:.1f} s",
        "Sound": sound.report.sentence.removeprefix("read "),
    }
    if sound.notes:
        facts["Note"] = ". ".join(sound.notes)
    if players:
        facts["Players"] = ", ".join(title_of(label) for label in players)
    facts["Model"] = model.name
    if "licence" in model.card:
        facts["Licence"] = str(model.card["licence"])
    if signals.gain < 1:
        facts["Level"] = peak_limited(signals.gain)
    return facts


def _about_examples(examples: Sequence[tuple[str, Path]]) -> dict[str, str]:
    given = [f"{title_of(label)}: {file.name}" for label, file in examples]
    return {"Examples": ", ".join(given)} if given else {}


def peak_limited(gain: float) -> str:
    """A sentence about the gain of the stems."""
    return f"the gain of all stems is reduced by {-20 * math.log10(gain):.1f} dB, so that none clips"


def _limits(separator: Separator, card: Mapping[str, Any], num_stems: int) -> list[str]:
    rate, channels = separator.sample_rate, "in stereo" if separator.config.channels == 2 else "in mono"
    known = ", ".join(title_of(label) for label in separator.labels)
    trained = f"on {card['data']}" if "data" in card else "on recordings that its card does not name"
    limits = [
        f"It works at {rate / 1000:g} kHz {channels}: the stems hold nothing above {rate / 2000:g} kHz.",
        f"It was trained {trained.rstrip('.')}.",
        "It has learned the timbres of its training data: the same instrument with another player, room or "
        "microphone is separated less well, sometimes not at all.",
        f"Its labels are {known}. Other sounds are distributed among the stems.",
    ]
    if num_stems > 1 and separator.config.share_mixture and separator.config.outputs == "queries":
        limits.append(
            "Its stems sum to the recording: the sound of a player who is not named is in those of the others."
        )
    if card.get("any_level"):
        limits.append(
            "It does not say how loud its stems are: each is scaled to lie as near to the recording as it can."
        )
    if separator.interface.has_labelled_outputs:
        limits.append("Two players of one instrument stay together in one stem.")
    return limits


def title_of(name: str) -> str:
    """The name of a stem on the page: of a player's, "vn-left", the instrument and the place, "violin, left"."""
    label, _, place = name.partition("-")
    if label in INSTRUMENTS and PLACE.fullmatch(place):
        return f"{INSTRUMENTS[label]}, {place.replace('-', ' ')}"
    return INSTRUMENTS.get(name, name.replace("_", " "))


def _page_video(file: Path) -> tuple[bytes | None, dict[str, str]]:
    """A small copy of the video for the page, or the reason why there is none."""
    size = probe(file).size
    if size is None:
        return None, {}
    height = min(VIDEO_HEIGHT, size[0])
    width = min(VIDEO_WIDTH, max(1, round(height * size[1] / size[0])))
    try:
        # Reading the sound has already checked whether the file is truncated.
        frames = read_video(file, (height, width), VIDEO_FRAME_RATE, PAGE_SECONDS, allow_truncated=True)
    except MediaError as error:
        # The stems do not depend on it.
        return None, {"Video": f"cannot be shown: {error.got}"}
    return encode_video(frames, VIDEO_FRAME_RATE), {}
