"""The Wave-U-Net as the paper describes it: its weights, and its forward pass with a sentence per step.

    network = WaveUNetConfig(form="plain").build(outputs=13, context_size=13, context_scale=1.0)
    network(torch.zeros(1, 1, 147443), None)    # 13 outputs of 16389 samples

To change the network, change it here and train it with `model.form: plain`; `fast.py` follows once the change has
proved its worth. Tests hold both to the same outputs and gradients.

Axis letters: b batch, q query, c audio channel, t audio sample of the window, u of the output, d feature, k tap.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from vimss.model.conditioning import Context, make_conditions
from vimss.model.convolution import LEAK, Convolution
from vimss.model.geometry import Layer
from vimss.model.networks.wave_u_net.config import WaveUNetConfig

Signal = tuple[Float[Tensor, "n _ _"], Layer]
"""A layer "n d t", n = batch times queries, and where its samples lie in the input window."""


class WaveUNet(nn.Module):
    """A mixture and a context in, estimates in the middle of the window out."""

    def __init__(self, config: WaveUNetConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__()
        self.config = config
        self.outputs = outputs
        widths = config.widths()
        before = (config.channels, *widths)
        self.down = nn.ModuleList(
            Convolution(before[level], widths[level], config.down_kernel) for level in range(config.levels)
        )
        self.bottleneck = Convolution(widths[-2], widths[-1], config.down_kernel)
        # A layer of the decoder takes the one below it and the encoder's of its level.
        self.up = nn.ModuleList(
            Convolution(widths[level + 1] + widths[level], widths[level], config.up_kernel)
            for level in reversed(range(config.levels))
        )
        if config.upsampling == "learned":
            self.blend = nn.ParameterList(torch.zeros(width) for width in reversed(widths[1:]))
        self.conditions = make_conditions(config, context_size, context_scale)
        last = widths[0] + config.channels
        if config.site == "output":
            # A condition right before the output would be a constant that is added to it.
            self.hidden = Convolution(last, widths[0], 1)
        estimated = outputs - 1 if config.output_type == "difference" else outputs
        self.head = Convolution(last, estimated * config.channels, 1)
        self._initialise_head(estimated)

    def _initialise_head(self, estimated: int) -> None:
        """Start from tanh's and the linear output's variance, or from a share of the mixture."""
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")
        if self.config.initial_output == "mixture":
            share = 1 / self.outputs if self.config.outputs == "slots" else 0.5
            channels = self.config.channels
            with torch.no_grad():
                # Small, not zero: at zero no gradient would pass to the layers below.
                self.head.weight.mul_(0.1)
                self.head.weight[:, -channels:] = share * torch.eye(channels).repeat(estimated, 1)

    def matrices(self) -> list[nn.Parameter]:
        """The convolutions from feature to feature: first and last layer have no spectrum to speak of."""
        return [layer.weight for layer in (*self.down[1:], self.bottleneck, *self.up)]

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        if self.config.form == "plain":
            return self.plain(mixture, context)
        from vimss.model.networks.wave_u_net import fast  # not above: it is made of this class

        return fast.forward(self, mixture, context)

    def plain(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """The network of the paper, step by step."""
        queries = 1 if context is None else context.values.shape[1]
        # Every query has the same mixture: queries are more examples, until each has its own outputs.
        scaled = repeat(mixture * self.config.gain, "b c t -> (b q) c t", q=queries)
        x: Signal = scaled, Layer(0, 1, mixture.shape[-1])
        skips = []
        for level, convolution in enumerate(cast(Iterable[Convolution], self.down)):
            # Down: convolve, keep the result for the decoder, and pass on every second sample of it.
            x = self._activate(self._convolve(x, convolution), f"down{level}", context)
            skips.append(x[0])
            x = x[0][..., ::2], x[1].every_second(0)
        # At the bottom one more convolution, where a sample stands for the most time.
        x = self._activate(self._convolve(x, self.bottleneck), "bottleneck", context)
        for level, convolution in enumerate(cast(Iterable[Convolution], self.up)):
            # Up: put a sample between every two, lay the encoder's middle of the same rate beside, and convolve.
            features, grid = self._double(x, level)
            x = torch.cat([features, _middle(skips.pop(), features.shape[-1])], dim=1), grid
            x = self._activate(self._convolve(x, convolution), f"up{level}", context)
        # The last layer takes the mixture once more, and gives a number per output and sample.
        features, grid = x
        middle = _middle(scaled, features.shape[-1])
        if self.config.site == "output":
            hidden = F.conv1d(torch.cat([features, middle], dim=1), self.hidden.kernel, self.hidden.bias)
            features, _ = self._activate((hidden, grid), "output", context)
        out = F.conv1d(torch.cat([features, middle], dim=1), self.head.kernel, self.head.bias)
        if self.config.output_activation == "tanh":
            # The bound is full scale before and after the gain.
            out = self.config.gain * torch.tanh(out / self.config.gain)
        out = rearrange(out, "n (s c) u -> n s c u", c=self.config.channels)
        if self.config.output_type == "difference":
            # The last output is what the others leave of the mixture.
            out = torch.cat([out, middle.unsqueeze(1) - out.sum(1, keepdim=True)], dim=1)
        return rearrange(out, "(b q) s c u -> b (q s) c u", q=queries) / self.config.gain

    def _convolve(self, x: Signal, convolution: Convolution) -> Signal:
        """Convolution: of `valid` padding shorter by half a kernel at either end, of `same` with zeros beyond."""
        (features, grid), half = x, convolution.taps[0] // 2
        if self.config.padding == "same":
            return F.conv1d(features, convolution.kernel, convolution.bias, padding=half), grid
        shorter = Layer(grid.first + half * grid.stride, grid.stride, grid.samples - 2 * half)
        return F.conv1d(features, convolution.kernel, convolution.bias), shorter

    def _double(self, x: Signal, level: int) -> Signal:
        """Interpolation: between two samples their mean, or what the channel's learned weight makes of them."""
        features, grid = x
        weight = torch.sigmoid(self.blend[level])[:, None] if self.config.upsampling == "learned" else 0.5
        # With zeros at the borders there is a sample after the last one too: it repeats it.
        following = torch.cat([features[..., 1:], features[..., -1:]], dim=-1)
        out = torch.stack([features, weight * features + (1 - weight) * following], dim=-1).flatten(-2)
        out = out[..., :-1] if self.config.padding == "valid" else out
        return out, Layer(grid.first, grid.stride // 2, out.shape[-1])

    def _activate(self, x: Signal, name: str, context: Context | None) -> Signal:
        """The condition of a layer, where its site has it, and the non-linearity."""
        features, grid = x
        if context is not None and name in self.conditions:
            queries = context.values.shape[1]
            rows = rearrange(features, "(b q) d t -> b q t d", q=queries)
            features = rearrange(self.conditions[name](rows, context, grid), "b q t d -> (b q) d t")
        return F.leaky_relu(features, LEAK), grid


def _middle(signal: Float[Tensor, "n d t"], samples: int) -> Float[Tensor, "n d u"]:
    """The u = `samples` samples in the middle."""
    start = (signal.shape[-1] - samples) // 2
    return signal[..., start : start + samples]
