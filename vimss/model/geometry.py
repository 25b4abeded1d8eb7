"""Which windows a network allows, how far it looks, and where the samples of a layer lie in time.

    shape = WaveUNetConfig().geometry
    shape.input_samples(16389)     # 147443
    shape.nearest_windows(16839)   # (16389, 20485)

For a window of t audio samples, a network gives the u audio samples in its middle. Allowed windows are a multiple of
its stride and a few samples more: a Wave-U-Net moves its output along with its input only in steps of 2^L samples, a
network on spectrograms in steps of its hop.
"""

from dataclasses import dataclass

from vimss.errors import ConfigError


@dataclass(frozen=True)
class Layer:
    """The grid of one layer: sample (or frame) j lies at input sample `first + j * stride`."""

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
    """The windows of a network, in audio samples."""

    stride: int
    """Output windows grow in steps of it; moving the input by it moves the output alike."""
    context: int
    """Input samples needed beyond the output, half of them on either side; 0 where a network pads its own borders."""
    reach: int
    """How far an output sample looks to either side, at most."""
    rest: int = 0
    """An output window is a multiple of the stride and so many samples more."""
    border: int = 0
    """For a network that pads its own borders, the samples at either end of a window that the padding may have changed,
    a multiple of the stride. 0 where it looks at nothing but the window: then its context is what it needs."""
    size: str = "this network"
    """The setting that determines the windows, for errors: "12 levels"."""
    smaller: str = "a smaller network"
    """The change that allows shorter windows, for errors: "fewer levels"."""

    @property
    def smallest_window(self) -> int:
        """The shortest output window, in samples."""
        return self.window_at_least(1)

    def window_at_least(self, samples: int) -> int:
        """The shortest possible output window of at least `samples` samples."""
        least = max(samples, 1)
        return -(-(least - self.rest) // self.stride) * self.stride + self.rest

    def window_at_most(self, samples: int) -> int:
        """The longest possible output window of at most `samples` samples; ConfigError where there is none."""
        longest = (samples - self.rest) // self.stride * self.stride + self.rest
        if longest < self.smallest_window:
            raise ConfigError(
                f"the output window must have at least {self.smallest_window} samples with {self.size}",
                got=f"room for {samples}",
                fix=f"use longer clips or {self.smaller}",
            )
        return longest

    def nearest_windows(self, samples: int) -> tuple[int, ...]:
        """The longest possible output window below `samples` and the shortest above, where they exist."""
        above = self.window_at_least(samples + 1)
        below = (samples - 1 - self.rest) // self.stride * self.stride + self.rest
        return (below, above) if below >= self.smallest_window else (above,)

    def input_samples(self, output_samples: int) -> int:
        """Samples of the input window for an output window; ConfigError names the nearest possible windows."""
        if output_samples < 1 or self.window_at_least(output_samples) != output_samples:
            near = " or ".join(str(window) for window in self.nearest_windows(output_samples))
            raise ConfigError(
                f"an output window must be {self.stride} n + {self.rest} samples long with {self.size}",
                got=f"{output_samples} samples",
                fix=f"use {near} samples",
            )
        return output_samples + self.context
