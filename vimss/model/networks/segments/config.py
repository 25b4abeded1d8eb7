"""Settings of networks that look at stretches of fixed length, and their windows; without torch.

    config.geometry.input_samples(2 * config.segment_samples)     # two segments, and the margins beyond

Networks from libraries normalise over all of their input, or have recurrent layers that run over it: what they give for
a sample depends on where the input begins and ends. So that a window in training, a block of a recording and a whole
recording give the same samples, the input is always a segment with a margin on either side, and the model's output for
the margins is dropped. Windows are whole numbers of segments.
"""

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field, model_validator

from vimss.model.config import ModelConfig
from vimss.model.geometry import Geometry, Layer


class SegmentConfig(ModelConfig):
    """What such networks have in common; `sites()` names modules of the model, with `/` for the dots of their paths."""

    segment_samples: int = Field(
        8192, ge=16, le=2**24, description="audio samples that the network separates at a time: windows are multiples"
    )
    margin_samples: int = Field(
        1024, ge=0, le=2**22, description="audio samples on either side of a segment that the network sees too"
    )

    window_keys: ClassVar[tuple[str, ...]] = ("segment_samples", "margin_samples")

    @property
    @abstractmethod
    def step_samples(self) -> int:
        """Audio samples per frame of the network's slowest layer."""

    def axes(self, module: str) -> str:
        """The axes of a module's output, as einops names them: of the batch b q k m, frame n, feature d; ... others."""
        return "(b q k m) d ... n"

    def layer(self, module: str, frames: int) -> Layer:
        """When these frames of a module's output are, in samples: evenly spread, but where a model pads its input."""
        stride = max(round(self.seen_samples / frames), 1)
        return Layer((self.seen_samples - 1 - (frames - 1) * stride) // 2, stride, frames)

    @model_validator(mode="after")
    def _segments_are_whole_frames(self) -> "SegmentConfig":
        step = self.step_samples
        for name in ("segment_samples", "margin_samples"):
            if getattr(self, name) % step:
                near = nearest_multiples(getattr(self, name), step, least=0 if name == "margin_samples" else 1)
                raise ValueError(
                    f"{name} must be a multiple of {step}, the samples per frame of the network's slowest layer: {near}"
                )
        return self

    @property
    def seen_samples(self) -> int:
        """Audio samples that the network sees at a time."""
        return self.segment_samples + 2 * self.margin_samples

    @property
    def geometry(self) -> Geometry:
        """Steps of a segment; both margins."""
        return Geometry(
            stride=self.segment_samples,
            context=2 * self.margin_samples,
            reach=self.segment_samples + self.margin_samples,
            size=f"segment_samples {self.segment_samples}",
            smaller="a smaller segment_samples",
        )


def nearest_multiples(value: int, unit: int, least: int = 1) -> str:
    """The multiples of `unit` around a value that is none, for errors: "62 or 64"."""
    below = value // unit * unit
    return " or ".join(str(near) for near in (below, below + unit) if near >= least)
