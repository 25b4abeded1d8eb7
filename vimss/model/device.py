"""Where a network runs: on the CPU, or on a GPU of NVIDIA, AMD (both "cuda") or Apple ("mps").

separator = on_device(load_separator(folder), find_device("auto"))
"""

import logging
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from vimss.errors import ConfigError
from vimss.runtime import Place, cluster_gpus, in_ray_job

log = logging.getLogger(__name__)

Device = Literal["cpu", "cuda", "mps"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Network = TypeVar("Network", bound=nn.Module)

GPU_SHARE = 0.25
"""Share of a GPU for each Ray task that uses one: several tasks fill it better than one."""


def find_device(name: DeviceName) -> Device:
    """The device of that name; auto: a GPU where there is one. ConfigError where it is not there."""
    there = available_devices()
    if name == "auto":
        return there[-1]
    if name not in there:
        raise missing_device(name, f"only {' and '.join(there)}, with PyTorch {torch.__version__}")
    return name


def available_devices() -> list[Device]:
    """The kinds of devices that PyTorch finds on this machine, the fastest last."""
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


def device_of_tasks(place: Place, name: DeviceName) -> str:
    """The device of the networks in Ray's tasks; ConfigError where there is no such device.

    A warning says where auto falls back to the CPU at a place that has GPUs.
    """
    device = _device_there(place, name)
    if name == "auto" and device == "cpu" and place.gpus_per_worker:
        log.warning(
            "networks run on the CPU: no GPU was found, though '%s' has gpus_per_worker: %g",
            place.name,
            place.gpus_per_worker,
        )
    return device


def _device_there(place: Place, name: DeviceName) -> str:
    if not place.ray_address and not in_ray_job():
        return find_device(name)
    # On a cluster, count Ray's GPUs: the driver's machine may have none.
    gpus = 0.0 if name == "cpu" else cluster_gpus()
    if name in {"cpu", "auto"} or (name == "cuda" and gpus):
        return "cuda" if gpus else "cpu"
    raise missing_device(name, f"a cluster of {gpus:g} GPUs")


def gpu_share(device: str) -> float:
    """Share of a GPU that a Ray task on this device needs."""
    return GPU_SHARE if device == "cuda" else 0.0
