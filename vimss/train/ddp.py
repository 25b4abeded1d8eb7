"""DistributedDataParallel: one network on several workers, whose gradients are averaged.

parallel = distribute(network, torch.device("cuda"), compression="bfloat16")
"""

from typing import Literal

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel


def distribute(
    network: nn.Module, device: torch.device, compression: Literal["none", "bfloat16"]
) -> DistributedDataParallel:
    """The network with gradients averaged over all workers, exchanged with this `compression`."""
    parallel = DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )
    if compression == "bfloat16":
        parallel.register_comm_hook(None, bf16_compress_hook)
    return parallel
