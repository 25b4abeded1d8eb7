"""The length, streams and metadata of a media file.

probe(Path("quartet.mp4")).size   # (height, width) as a viewer sees it
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from vimss.media.container import opened, picture_stream, sound_streams
from vimss.media.picture import shown_size


@dataclass(frozen=True)
class Probe:
    """The metadata of a media file."""

    seconds: float
    sample_rate: int | None
    """Audio samples per second; None where the file has no sound."""
    channels: int
    size: tuple[int, int] | None
    """Height and width in pixels as a viewer sees them, turned upright; None where the file has no picture."""
    frame_rate: float
    """Pictures per second; 0 where the file has no picture."""
    picture_seconds: float
    """Length of the video stream, or of the file if the stream states none; 0 if there is no picture."""
    sound_seconds: tuple[float, ...]
    """Length of each sound stream that can be decoded, in order, or of the file if the stream states none."""
    metadata: Mapping[str, str]
    """The `key=value` entries in the file's comment, such as `instruments=vn, cl`; a value ends before the next key
    or with its line."""

    @property
    def instruments(self) -> tuple[str, ...]:
        """Labels of the players from left to right in the metadata; empty if it has none."""
        parts = re.split("[,;]", self.metadata.get("instruments", ""))
        return tuple(part.strip() for part in parts if part.strip())


def probe(path: Path) -> Probe:
    """Length, streams and metadata of a media file; MediaError if it is no media. Decodes one picture."""
    with opened(path) as container:
        sounds = sound_streams(container)
        picture = picture_stream(container)
        # Matroska writes metadata keys in capitals.
        comment = next((text for key, text in container.metadata.items() if key.lower() == "comment"), "")
        seconds = (container.duration or 0) / av.time_base
        return Probe(
            seconds=seconds,
            sample_rate=sounds[0].rate if sounds else None,
            channels=sounds[0].channels if sounds else 0,
            size=shown_size(container, path),
            frame_rate=float(picture.average_rate or 0) if picture else 0.0,
            picture_seconds=_seconds(picture, seconds) if picture else 0.0,
            sound_seconds=tuple(_seconds(sound, seconds) for sound in sounds),
            metadata=_values(comment),
        )


def _seconds(stream: Any, otherwise: float) -> float:
    """The length of a stream, if its header has it."""
    return float(stream.duration * stream.time_base) if stream.duration else otherwise


def _values(comment: str) -> dict[str, str]:
    """Key to value, for the `key=value` entries of a comment."""
    found: dict[str, str] = {}
    for line in comment.splitlines():
        _, *parts = re.split(r"(\w+)\s*=", line)
        found |= {key: value.strip() for key, value in zip(parts[::2], parts[1::2], strict=True)}
    return found
