"""Device-dependent parts of a training: precision, compilation, and copying arrays to the device.

multiply_as_usual()
flush_denormals()
limit_memory(0.5, torch.device("cuda"))
with autocast("bfloat16", torch.device("cuda")): ...
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from vimss.errors import ConfigError
from vimss.stream.batch import Batch

log = logging.getLogger(__name__)

UNCOUNTED_BYTES = 2**30
"""Of a GPU, for a process: more than CUDA's context and the kernels of libraries take, which no limit counts."""


def autocast(precision: Literal["float32", "bfloat16"], device: torch.device) -> torch.autocast | nullcontext[None]:
    """The context of a forward pass; ConfigError if the device has no bfloat16 units."""
    check_precision(precision, device)
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def check_precision(precision: Literal["float32", "bfloat16"], device: torch.device) -> None:
    """ConfigError if the device has no units for the precision."""
    if precision == "bfloat16" and not has_bfloat16_units(device):
        raise ConfigError(
            "training.precision: bfloat16 needs a device with bfloat16 units",
            got=f"{device}, which has none",
            fix="set float32: without such units bfloat16 is about 50 times slower",
        )


def multiply_as_usual() -> None:
    """What precision: float32 means on an NVIDIA GPU: TF32 in convolutions, all 24 bits in products of matrices.

    These are PyTorch's defaults, with which demucs, asteroid and open-unmix train too: TF32 rounds the factors of a
    product to 11 bits, and its sum has all. It is set for each training, because networks that separate have all bits
    everywhere (see `vimss.model.device.on_device`), and one may have run in this process before.
    """
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def flush_denormals() -> None:
    """Let this thread, and those that it starts, take numbers below 1.2e-38 for 0 on a CPU, where it can.

    A CPU takes up to 200 times as long to multiply them, and training makes them: the momentum of a weight without a
    gradient shrinks at every step, and so do gradients behind gates that have closed. A step of Looking to Listen took
    2.5 s instead of 0.11 s once half of its training was over.
    """
    torch.set_flush_denormal(True)


def limit_memory(share: float, device: torch.device) -> None:
    """Let this process allocate no more than its share of the memory of its GPU, where it has not the whole one.

    Trials that share a GPU then run out of memory each at its own share, and train in smaller parts (see
    `vimss.train.gradients`). Without a limit the first one would keep what it ever allocated, and leave nothing.
    """
    if device.type != "cuda" or share >= 1:
        return
    total = torch.cuda.get_device_properties().total_memory
    # Of a small GPU half of the share at least, even if that is too much in the end.
    most = max(share * total - UNCOUNTED_BYTES, share * total / 2)
    torch.cuda.set_per_process_memory_fraction(most / total)
    log.info("has %g of a GPU: at most %.1f of its %.1f GiB", share, most / 2**30, total / 2**30)


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers itself; emulation does not count."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and multiplies_bfloat16(torch.cpu.get_capabilities())


def multiplies_bfloat16(capabilities: Mapping[str, object]) -> bool:
    """Whether a CPU has avx512_bf16, amx_bf16 or sve_bf16; oneDNN emulates them on any AVX-512."""
    return any(present is True for unit, present in capabilities.items() if unit.endswith("bf16"))


def compiled(network: nn.Module, how: Literal["off", "compile", "cuda_graphs"], device: torch.device) -> nn.Module:
    """The network through torch.compile, with the same weights; ConfigError for CUDA graphs without CUDA."""
    if how == "off":
        return network
    if how == "cuda_graphs" and device.type != "cuda":
        raise ConfigError(
            "training.compile: cuda_graphs needs a GPU", got=str(device), fix="set training.compile: compile or off"
        )
    # A process trains one network after the other. What an earlier one left behind holds memory, and after eight sizes
    # of network (torch._dynamo.config.recompile_limit) torch.compile would give up and run eagerly.
    torch.compiler.reset()
    mode = "reduce-overhead" if how == "cuda_graphs" else "default"
    return cast(nn.Module, torch.compile(network, dynamic=False, mode=mode))


def context_of(batch: Batch, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Context and players of a batch on the device."""
    context = None if batch.context is None else to_device(batch.context, device)
    return context, None if batch.players is None else to_device(batch.players, device)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor; on a GPU through pinned memory and without waiting."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class InFlight:
    """Keeps batches until the GPU has copied them.

    PyTorch itself keeps pinned memory until it was copied, but it knows a copy by the address of a whole block alone
    (CachingHostAllocator.h): those of all parts of a batch but the first go unnoticed, and the next batch would be
    written over what is not copied yet.
    """

    def __init__(self) -> None:
        self.kept: deque[tuple[Callable[[], bool], Batch]] = deque()

    def keep(self, batch: Batch, is_copied: Callable[[], bool]) -> None:
        """Keep a batch until `is_copied()`, and let go of those before it that are."""
        self.kept.append((is_copied, batch))
        while self.kept and self.kept[0][0]():
            self.kept.popleft()
