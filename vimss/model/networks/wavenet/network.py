"""The WaveNet: its weights, and its forward pass with a sentence per step.

    network = WaveNetConfig().build(outputs=13, context_size=13, context_scale=1.0)
    network(torch.zeros(1, 1, 9218), None)    # 13 outputs of 8192 samples

From van den Oord et al. (2016) it has its stacks of dilated convolutions with gates, residual and skip connections;
from Rethage et al. (2018), "A Wavenet for Speech Denoising", kernels of three taps that look both ways, the two layers
after the stacks, the whole output window at once, and a context that is added before every gate; from Lluís et al.
(2019), "End-to-end music source separation", one output per source. Their loss is `training.loss: l1`.

It gives samples, as theirs do. With `estimate: mu_law` it gives log-odds of 256 levels for each sample as the first
WaveNet does, which Rethage et al. compare with samples; their mean is the estimate, and `training.loss: cross_entropy`
compares the log-odds themselves with the target's levels. It reads samples in both cases.

Axis letters: b batch, q query, c audio channel, t audio sample of a layer, u of the output, d feature. The batch axis
of a layer is "(b q)" from the first layer that is conditioned on.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from vimss.model.conditioning import Context, make_conditions
from vimss.model.convolution import Convolution
from vimss.model.geometry import Layer
from vimss.model.mu_law import LEVELS, expected
from vimss.model.networks.wavenet.config import WaveNetConfig


class WaveNet(nn.Module):
    """A mixture and a context in, estimates in the middle of the window out."""

    def __init__(self, config: WaveNetConfig, outputs: int, context_size: int, context_scale: float) -> None:
        """`outputs` per query; `context_scale` is the usual length of a context vector."""
        super().__init__()
        self.config = config
        filters, skips, count = config.filters, config.skip_filters, len(config.dilations())
        self.first = Convolution(config.channels, filters, 3)
        self.gates = nn.ModuleList(Convolution(filters, 2 * filters, 3) for _ in range(count))
        # What a layer found goes to the next layer and to the sum; that of the last one to the sum alone.
        self.found = nn.ModuleList(Convolution(filters, filters + skips, 1) for _ in range(count - 1))
        self.found.append(Convolution(filters, skips, 1))
        self.hidden = Convolution(skips, config.hidden_filters, 3)
        self.output = Convolution(config.hidden_filters, config.output_filters, 3)
        # Numbers per output sample.
        self.numbers = LEVELS if config.classifies_samples else 1
        self.head = Convolution(config.output_filters, outputs * config.channels * self.numbers, 1)
        self.conditions = make_conditions(config, context_size, context_scale)

    def matrices(self) -> list[nn.Parameter]:
        """The convolutions from feature to feature: first and last layer have no spectrum to speak of."""
        layers = cast(Iterable[Convolution], (*self.gates, *self.found, self.hidden, self.output))
        return [layer.weight for layer in layers]

    def forward(
        self, mixture: Float[Tensor, "b c t"], context: Context | None, log_odds: bool = False
    ) -> Float[Tensor, "b s c u *k"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window.

        With `log_odds`, those of each sample's levels instead, "b s c u k".
        """
        queries = 1 if context is None else context.values.shape[1]
        # Where all layers are conditioned, queries are more examples from the start.
        x = repeat(mixture, "b c t -> (b q) c t", q=queries if "layer0" in self.conditions else 1)
        # From samples to features.
        x, first = F.conv1d(x * self.config.gain, self.first.kernel, self.first.bias), 1
        # What the head needs, which every layer has in its middle.
        needed = x.shape[-1] - 2 * sum(self.config.dilations())
        total = x.new_zeros(())
        layers = zip(self.gates, self.found, self.config.dilations(), strict=True)
        for number, (gate, found, dilation) in enumerate(cast(Iterable[tuple[Convolution, Convolution, int]], layers)):
            # Convolve samples that are `dilation` apart, and let one half of the channels gate the other.
            z = F.conv1d(x, gate.kernel, gate.bias, dilation=dilation)
            first += dilation
            z = self._condition(z, f"layer{number}", first, context)
            signal, openness = z.chunk(2, dim=1)
            z = F.conv1d(torch.tanh(signal) * torch.sigmoid(openness), found.kernel, found.bias)
            # Add it to what goes on, and to the sum of all layers.
            total = total + _middle(z[:, -self.config.skip_filters :], needed)
            if number < len(self.gates) - 1:
                x = _middle(x, z.shape[-1]) + z[:, : self.config.filters]
        # Two more layers, then a number per output and sample, or one for each of its levels.
        x = F.conv1d(F.relu(total), self.hidden.kernel, self.hidden.bias)
        x = F.relu(self._condition(x, "output", first + 1, context))
        x = F.relu(F.conv1d(x, self.output.kernel, self.output.bias))
        x = F.conv1d(x, self.head.kernel, self.head.bias)
        x = rearrange(x, "(b q) (s c k) u -> b (q s) c u k", b=len(mixture), c=self.config.channels, k=self.numbers)
        if log_odds:
            return x
        return expected(x) if self.config.classifies_samples else x.squeeze(-1) / self.config.gain

    def _condition(
        self, x: Float[Tensor, "_ d t"], name: str, first: int, context: Context | None
    ) -> Float[Tensor, "_ d t"]:
        """The condition of a layer, where its site has it; the layer's first sample lies at `first` of the window."""
        if context is None or name not in self.conditions:
            return x
        rows = rearrange(x, "(b r) d t -> b r t d", b=len(context.values))
        rows = self.conditions[name](rows, context, Layer(first, 1, x.shape[-1]))
        return rearrange(rows, "b q t d -> (b q) d t")


def _middle(signal: Float[Tensor, "n d t"], samples: int) -> Float[Tensor, "n d u"]:
    """The u = `samples` samples in the middle."""
    start = (signal.shape[-1] - samples) // 2
    return signal[..., start : start + samples]
