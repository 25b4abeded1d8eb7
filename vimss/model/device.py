"""Where a network runs: on the CPU, or on a GPU of NVIDIA, AMD (both "cuda") or Apple ("mps").

separator = on_device(load_separator(folder), find_device("auto"))
"""

from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from vimss.errors import ConfigError

Device = Literal["cpu", "cuda", "mps"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Network = TypeVar("Network", bound=nn.Module)


def find_device(name: DeviceName) -> Device:
    """The device of that name; auto: a GPU where there is one. ConfigError where it is not there."""
    there = available_devices()
    if name == "auto":
        return there[-1]
    if name not in there:
        raise missing_device(name, f"only {' and '.join(there)}, with PyTorch {torch.__version__}")
    return name


def available_devices() -> list[Device]:
    """What PyTorch finds on this machine, the fastest last."""
    found = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return [device for device in sorted(get_args(Device), key=list(found).index) if found[device]]


def missing_device(name: str, got: str) -> ConfigError:
    """The error of a device that is not there."""
    needed = {"cuda": "an NVIDIA or AMD GPU that PyTorch finds", "mps": "a Mac with an Apple GPU"}[name]
    return ConfigError(f"--device {name} needs {needed}", got=got, fix="choose --device cpu, or auto")


def on_device(network: Network, device: str) -> Network:
    """The network on a device. A GPU multiplies with all 24 bits there, so that stems are those of the CPU."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return network.to(device)
