"""A model that looks at stretches of fixed length, such as one of a library, as a network with contexts.

    model = torchaudio.models.ConvTasNet(num_sources=3)      # "z 1 t" -> "z 3 t"
    SegmentNetwork(config, model, context_size=13, context_scale=1.0, ends=("encoder", "decoder"), mono=True)

Forward hooks put the conditions behind the modules that the site names, or before them where a module is a
non-linearity, so that a context always acts before one. Nothing of the model is changed but for its convolutions'
weights, which are kept as matrices, as Muon trains them, and for its constants, which are no weights.

Axis letters: z batch of the model, of b batch, q query, k segment, m audio channel where the model takes one at a time
(else of length 1); c audio channel, t audio sample of the window, u of the output, n frame of a layer, d feature.
"""

from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vimss.model.conditioning import Context, make_conditions
from vimss.model.networks.segments.config import SegmentConfig

NON_LINEAR = (nn.PReLU, nn.ReLU, nn.GELU, nn.GLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class _Pass(NamedTuple):
    """What the hooks know of the pass that they are in."""

    context: Context
    sizes: dict[str, int]
    """Of the axes b, q, k and m, which are one axis of the model's layers."""


# Not an attribute: a served model answers several requests at a time, each in a thread.
_PASS: ContextVar[_Pass | None] = ContextVar("_PASS", default=None)


class _Kernel(nn.Module):
    """A matrix [e d*k] as the kernel of a convolution [e d *k]."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        return kernel.flatten(1)


class SegmentNetwork(nn.Module):
    """A mixture and a context in, estimates in the middle of the window out."""

    def __init__(
        self,
        config: SegmentConfig,
        model: nn.Module,
        context_size: int,
        context_scale: float,
        ends: Collection[str],
        mono: bool = False,
    ) -> None:
        """`ends` begin the names of modules that take or give sound; a `mono` model takes each channel by itself."""
        super().__init__()
        self.config = config
        self.model = model
        self.mono = mono
        self.conditions = make_conditions(config, context_size, context_scale)
        for name in self.conditions:
            module = model.get_submodule(name.replace("/", "."))
            if isinstance(module, NON_LINEAR):
                module.register_forward_pre_hook(partial(self._before, name))
            else:
                module.register_forward_hook(partial(self._after, name))
        self._inner = []
        for name, module in list(model.named_modules()):
            _keep_constants(module)
            if name.startswith(tuple(ends)):
                continue
            if isinstance(module, CONVOLUTIONS) and module.groups == 1:
                parametrize.register_parametrization(module, "weight", _Kernel(module.weight.shape))
                self._inner.append(f"{name}.parametrizations.weight.original")
            if isinstance(module, (nn.Linear, nn.LSTM)):
                self._inner += [f"{name}.{key}" for key, weight in module.named_parameters() if weight.ndim == 2]

    def matrices(self) -> list[nn.Parameter]:
        """The weights from feature to feature: all but those of the ends and of convolutions within a channel."""
        return [self.model.get_parameter(name) for name in self._inner]

    def forward(self, mixture: Float[Tensor, "b c t"], context: Context | None) -> Float[Tensor, "b s c u"]:
        """Estimate the outputs in the middle of the window; t must be a possible input window."""
        config, (batch, channels, _) = self.config, mixture.shape
        # Cut the window into segments that overlap by their margins; every query sees all of them.
        segments = mixture.unfold(-1, config.seen_samples, config.segment_samples)
        queries = 1 if context is None else context.values.shape[1]
        together = 1 if self.mono else channels
        x = repeat(segments, "b (m c) k t -> (b q k m) c t", q=queries, c=together)
        sizes = {"b": batch, "q": queries, "k": segments.shape[2], "m": channels // together}
        token = _PASS.set(None if context is None else _Pass(context, sizes))
        try:
            x = self.model(x)
        finally:
            _PASS.reset(token)
        # Drop the margins, and put the segments one after the other.
        x = x[..., config.margin_samples : config.margin_samples + config.segment_samples]
        x = x.reshape(*sizes.values(), -1, together, config.segment_samples)
        return rearrange(x, "b q k m s c u -> b (q s) (m c) (k u)")

    def _before(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._condition(name, inputs[0]), *inputs[1:]

    def _after(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._condition(name, output)

    def _condition(self, name: str, x: Float[Tensor, "*zdn"]) -> Float[Tensor, "*zdn"]:
        """A layer with the context of its own times."""
        running = _PASS.get()
        if running is None:
            return x
        axes = self.config.axes(name)
        # Segment by segment, each "b q n m ... d": time-major, as conditions take it.
        segments = rearrange(x, f"{axes} -> k b q n m ... d", **running.sizes)
        layer = self.config.layer(name, segments.shape[3])
        changed = [
            self.conditions[name](
                segment, running.context, replace(layer, first=layer.first + number * self.config.segment_samples)
            )
            for number, segment in enumerate(segments)
        ]
        return rearrange(torch.stack(changed), f"k b q n m ... d -> {axes}")


def _keep_constants(module: nn.Module) -> None:
    """Make buffers of the parameters that a library does not train: what it computes anew needs no place in files."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        if not parameter.requires_grad:
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
