"""Which windows a Wave-U-Net allows, and where the samples of each layer lie in time.

    shape = geometry(ModelConfig())
    shape.input_samples(16389)     # 147443
    shape.nearest_windows(16839)   # (16389, 20485)
    shape.layers(16389)["up0"]     # Layer(first=61433, stride=2048, samples=13)

The rule behind all of it: decimation keeps the even samples, interpolation puts one sample between two neighbours,
so the samples of a layer lie on a regular grid of input samples. With valid convolutions a window of n samples at the
bottleneck gives (n - k) 2^L + k output samples, k the decoder's kernel: few windows are possible.
"""

from dataclasses import dataclass
from typing import Literal

from vimss.errors import ConfigError
from vimss.model.config import ModelConfig


@dataclass(frozen=True)
class Layer:
    """The grid of one layer: sample j lies at input sample `first + j * stride`."""

    first: int
    """Position of the first sample, in samples of the input window."""
    stride: int
    """Distance of two samples, in input samples."""
    samples: int
    """Number of samples."""

    def every_second(self, start: int) -> "Layer":
        """The samples start, start + 2, ..."""
        return Layer(self.first + start * self.stride, 2 * self.stride, (self.samples - start + 1) // 2)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a network, whatever its channels."""

    levels: int
    down_kernel: int
    up_kernel: int
    padding: Literal["valid", "same"]

    @property
    def stride(self) -> int:
        """Input samples between two samples of the bottleneck; moving the input by it moves the output alike."""
        return 2**self.levels

    @property
    def context(self) -> int:
        """Input samples needed beyond the output, both sides together; 0 where zeros take their place (`same`)."""
        if self.padding == "same":
            return 0
        return self._reach - self.down_kernel - self.up_kernel + 2

    @property
    def reach(self) -> int:
        """How far an output sample looks to either side, in input samples, at most."""
        return self._reach // 2

    @property
    def _reach(self) -> int:
        return (2 * self.down_kernel + self.up_kernel - 3) * self.stride

    @property
    def _end(self) -> int:
        # A valid window is a multiple of the stride and these few samples more.
        return self.up_kernel if self.padding == "valid" else 0

    @property
    def smallest_window(self) -> int:
        """The shortest output window, in samples."""
        return self.window_at_least(1)

    def window_at_least(self, samples: int) -> int:
        """The shortest possible output window of at least `samples` samples."""
        least = max(samples, 1)
        return -(-(least - self._end) // self.stride) * self.stride + self._end

    def window_at_most(self, samples: int) -> int:
        """The longest possible output window of at most `samples` samples; ConfigError where there is none."""
        longest = (samples - self._end) // self.stride * self.stride + self._end
        if longest < self.smallest_window:
            raise ConfigError(
                f"the output window must have at least {self.smallest_window} samples with {self.levels} levels",
                got=f"room for {samples}",
                fix="use longer clips or fewer levels",
            )
        return longest

    def nearest_windows(self, samples: int) -> tuple[int, ...]:
        """The longest possible output window below `samples` and the shortest above, as far as they exist."""
        above = self.window_at_least(samples + 1)
        below = (samples - 1 - self._end) // self.stride * self.stride + self._end
        return (below, above) if below >= self.smallest_window else (above,)

    def input_samples(self, output_samples: int) -> int:
        """Samples of the input window for an output window; ConfigError names the nearest possible windows."""
        if output_samples < 1 or self.window_at_least(output_samples) != output_samples:
            near = " or ".join(str(window) for window in self.nearest_windows(output_samples))
            raise ConfigError(
                f"an output window must be {self.stride} n + {self._end} samples long with {self.levels} levels",
                got=f"{output_samples} samples",
                fix=f"use {near} samples",
            )
        return output_samples + self.context

    def layers(self, output_samples: int) -> dict[str, Layer]:
        """Each layer's grid: `down0` (before decimation) and deeper, `bottleneck`, `up0` (deepest) and higher."""
        samples, first, stride = self.input_samples(output_samples), 0, 1
        shrink_down = self.down_kernel - 1 if self.padding == "valid" else 0
        shrink_up = self.up_kernel - 1 if self.padding == "valid" else 0
        layers = {}
        for level in range(self.levels):
            first, samples = first + stride * (shrink_down // 2), samples - shrink_down
            layers[f"down{level}"] = Layer(first, stride, samples)
            stride, samples = 2 * stride, (samples + 1) // 2
        first, samples = first + stride * (shrink_down // 2), samples - shrink_down
        layers["bottleneck"] = Layer(first, stride, samples)
        for level in range(self.levels):
            samples = 2 * samples - 1 if self.padding == "valid" else 2 * samples
            stride //= 2
            first, samples = first + stride * (shrink_up // 2), samples - shrink_up
            layers[f"up{level}"] = Layer(first, stride, samples)
        return layers


def geometry(config: ModelConfig) -> Geometry:
    """The sizes of the network that `config` describes."""
    return Geometry(config.levels, config.down_kernel, config.up_kernel, config.padding)
