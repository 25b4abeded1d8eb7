"""A model that looks at stretches of fixed length, such as one of a library, as a network with contexts.

    model = torchaudio.models.ConvTasNet(num_sources=3)      # "n 1 t" -> "n 3 t"
    SegmentNetwork(config, model, context_size=13, context_scale=1.0, ends=("encoder", "decoder"), mono=True)

Forward hooks put the conditions behind the modules that the site names, or before them where a module is a
non-linearity, so that a context always acts before one. Nothing of the model is changed but for its convolutions'
weights: they are kept as matrices, which Muon trains.

Axis letters: b batch, q query, k segment, m audio channel where the model takes one at a time (else of length 1),
c audio channel, t audio sample of the window, u of the output, n frame of a layer, d feature.
"""

from collections.abc import Collection, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vimss.model.conditioning import Context, make_conditions
from vimss.model.geometry import Layer
from vimss.model.networks.segments.config import SegmentConfig

NON_LINEAR = (nn.PReLU, nn.ReLU, nn.GELU, nn.GLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class _Pass(NamedTuple):
    """What the hooks know of the pass that they are in."""

    context: Context
    sizes: tuple[int, int, int, int]
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
        """`ends` are the modules that take or give sound; a `mono` model separates each audio channel by itself."""
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
            if isinstance(module, CONVOLUTIONS) and module.groups == 1 and name not in ends:
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
        sizes = (batch, queries, segments.shape[2], channels // together)
        token = _PASS.set(None if context is None else _Pass(context, sizes))
        try:
            x = self.model(x)
        finally:
            _PASS.reset(token)
        # Drop the margins, and put the segments one after the other.
        x = x[..., config.margin_samples : config.margin_samples + config.segment_samples]
        x = x.reshape(*sizes, -1, together, config.segment_samples)
        return rearrange(x, "b q k m s c u -> b (q s) (m c) (k u)")

    def _before(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._condition(name, inputs[0]), *inputs[1:]

    def _after(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._condition(name, output)

    def _condition(self, name: str, x: Float[Tensor, "_ d *f n"]) -> Float[Tensor, "_ d *f n"]:
        """A layer with the context of its own times: its frames are spread evenly over the segment."""
        running = _PASS.get()
        if running is None:
            return x
        seen, frames = self.config.seen_samples, x.shape[-1]
        stride = max(round(seen / frames), 1)
        first = (seen - 1 - (frames - 1) * stride) // 2
        # "b q k m d *f n" to "b q k n m *f d", time-major as conditions take it.
        rows = x.unflatten(0, running.sizes).movedim(-1, 3).movedim(5, -1)
        changed = [
            self.conditions[name](
                segment, running.context, Layer(first + number * self.config.segment_samples, stride, frames)
            )
            for number, segment in enumerate(cast(Iterable[Tensor], rows.unbind(2)))
        ]
        return torch.stack(changed, 2).movedim(-1, 5).movedim(3, -1).flatten(0, 3)
