"""What a media file says of itself: its length, streams and metadata.

probe(Path("quartet.mp4")).size   # (height, width) as a viewer sees it
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av

from vimss.media.container import opened, picture_stream, sound_streams
from vimss.media.picture import shown_size


@dataclass(frozen=True)
class Probe:
    """What a media file says of itself."""

    seconds: float
    sample_rate: int | None
    """Audio samples per second; None where the file has no sound."""
    channels: int
    size: tuple[int, int] | None
    """Height and width in pixels as a viewer sees them, turned upright; None where the file has no picture."""
    frame_rate: float
    """Pictures per second; 0 where the file has no picture."""
    sound_seconds: tuple[float, ...]
    """Length of each sound stream that can be decoded, in their order; that of the file where it tells none of them."""
    metadata: Mapping[str, str]
    """The `key=value` words of the file's comment, such as `instruments=vn,cl`."""

    @property
    def instruments(self) -> tuple[str, ...]:
        """Labels of the players from left to right, as the metadata names them; empty where it does not."""
        return tuple(label for label in self.metadata.get("instruments", "").split(",") if label)


def probe(path: Path) -> Probe:
    """Length, streams and metadata of a media file; MediaError where it is none. One picture is decoded."""
    with opened(path) as container:
        sounds = sound_streams(container)
        picture = picture_stream(container)
        comment = container.metadata.get("comment", "")
        seconds = (container.duration or 0) / av.time_base
        return Probe(
            seconds=seconds,
            sample_rate=sounds[0].rate if sounds else None,
            channels=sounds[0].channels if sounds else 0,
            size=shown_size(container, path),
            frame_rate=float(picture.average_rate or 0) if picture else 0.0,
            sound_seconds=tuple(
                float(sound.duration * sound.time_base) if sound.duration else seconds for sound in sounds
            ),
            metadata=dict(re.findall(r"(\w+)=([\w.,+-]+)", comment)),
        )
