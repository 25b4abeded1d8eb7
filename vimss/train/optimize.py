"""How weights follow their gradients: AdamW, or Muon for the matrices of convolutions and AdamW for the rest.

    optimizers = make_optimizers(separator, TrainingConfig(optimizer="muon"), torch.device("cpu"))
    for optimizer in optimizers:
        optimizer.step()

Muon (Jordan et al. 2024) makes all singular values of a matrix's update equal. With the scale of Liu et al. (2025),
sqrt(max(rows, columns)) / 5, an update is as large as one of AdamW, so one learning rate serves both.
"""

from typing import Any

from torch import device, nn
from torch.optim import AdamW, Muon, Optimizer

from vimss.model.separator import Separator
from vimss.train.config import TrainingConfig


def make_optimizers(separator: Separator, config: TrainingConfig, where: device) -> tuple[Optimizer, ...]:
    """Optimisers that share out all trainable weights of the separator, each to one of them."""
    trainable = [parameter for parameter in separator.parameters() if parameter.requires_grad]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    fused = where.type == "cuda"
    if config.optimizer == "adam":
        return (AdamW(trainable, **shared, fused=fused),)
    matrices = _matrices(separator)
    rest = [parameter for parameter in trainable if not any(parameter is matrix for matrix in matrices)]
    return Muon(matrices, **shared, adjust_lr_fn="match_rms_adamw"), AdamW(rest, **shared, fused=fused)


def _matrices(separator: Separator) -> list[nn.Parameter]:
    """The weights of the convolutions from feature to feature: first and last layer have no spectrum to speak of."""
    unet = separator.unet
    return [layer.weight for layer in (*unet.down[1:], unet.bottleneck, *unet.up)]
