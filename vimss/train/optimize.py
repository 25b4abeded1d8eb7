"""From gradients to weights: AdamW, or Muon for the matrices of convolutions and AdamW for the rest.

    optimizers = make_optimizers(separator, TrainingConfig(optimizer="muon"), torch.device("cpu"))
    for optimizer in optimizers:
        optimizer.step()

Muon (Jordan et al. 2024) makes all singular values of a matrix's update equal. With the scale of Liu et al. (2025),
sqrt(max(rows, columns)) / 5, an update is as large as one of AdamW, so one learning rate serves both.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, device, nn
from torch.optim import AdamW, Optimizer

from vimss.train.config import TrainingConfig


@runtime_checkable
class Trainable(Protocol):
    """The members of a network that optimisers need."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights, as of any nn.Module."""

    def matrices(self) -> list[nn.Parameter]:
        """The weights between features, each a matrix: Muon trains these."""


class Muon(torch.optim.Muon):
    """PyTorch's Muon with the same settings and state, but batched over matrices of one shape, and in float32 on CPUs.

    PyTorch iterates in bfloat16, one matrix at a time, on any device. On a CPU without bfloat16 units, that takes
    as long as the gradients of a small network.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[(*matrix.shape,)].append(matrix)
            for shape, matrices in by_shape.items():
                updates = orthogonal(torch.stack(self._momenta(matrices, group)), group)
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate)
        return loss

    def _momenta(self, matrices: Iterable[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """The momentum of each matrix, updated with its gradient; Nesterov's if the settings enable it."""
        given = []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            gradient = cast(Tensor, matrix.grad)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            given.append(gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum)
        return given


def orthogonal(matrices: Float[Tensor, "n r c"], settings: dict[str, Any]) -> Float[Tensor, "n r c"]:
    """The nearest matrices with singular values of about 1, by Newton and Schulz's iteration (Jordan et al. 2024)."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    # Scale all singular values to at most 1.
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=settings["eps"])
    a, b, c = settings["ns_coefficients"]
    for _ in range(settings["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def make_optimizers(network: Trainable, config: TrainingConfig, where: device) -> tuple[Optimizer, ...]:
    """Optimisers that together cover all trainable weights, each weight in exactly one."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    fused = where.type == "cuda"
    if config.optimizer == "adamw":
        return (AdamW(trainable, **shared, fused=fused),)
    matrices = network.matrices()
    rest = [parameter for parameter in trainable if not any(parameter is matrix for matrix in matrices)]
    return Muon(matrices, **shared, adjust_lr_fn="match_rms_adamw"), AdamW(rest, **shared, fused=fused)
