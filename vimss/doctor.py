"""What this machine has, what is missing, and how to get it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from vimss.errors import VimssError
from vimss.runtime import Place, load_place, open_store, ray_running

LIBRARIES = (
    "torch",
    "torchvision",
    "torchaudio",
    "ray",
    "mlflow",
    "optuna",
    "webdataset",
    "museval",
    "av",
    "soundfile",
)

STORE_GIGABYTES = 2
"""What a quickstart leaves, generously."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    ok: bool = True
    fix: str = ""


def examine(place_name: str) -> list[Finding]:
    """Python, cores, memory, GPUs, libraries, codecs, Ray, store and tracking of a place."""
    place = load_place(place_name)
    return [
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_library(name) for name in LIBRARIES),
        *_machine(),
        _codecs(),
        _ray(place),
        *_store(place),
    ]


def _machine() -> Iterator[Finding]:
    if not _is_installed("psutil") or not _is_installed("torch"):
        return
    import psutil
    import torch

    memory = psutil.virtual_memory().available / 2**30
    yield Finding("cores", f"{os.cpu_count()}")
    yield Finding(
        "free memory", f"{memory:.1f} GB", memory > 4, "" if memory > 4 else "a quickstart needs 4 GB: close something"
    )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    bf16 = " with bfloat16" if names and torch.cuda.is_bf16_supported() else ""
    yield Finding("GPUs", f"{', '.join(names)}{bf16}" if names else "none: training runs on the cores")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _library(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", ok=False, fix=f"pip install {name}")


def _codecs() -> Finding:
    if not _is_installed("av"):
        return Finding("codecs", "unknown without av", ok=False, fix="pip install av")
    import av

    wanted = {"h264": "libx264", "aac": "aac", "flac": "flac"}
    missing = [name for name, encoder in wanted.items() if encoder not in av.codecs_available]
    found = f"FFmpeg {av.ffmpeg_version_info}: " + ", ".join(name for name in wanted if name not in missing)
    return Finding("codecs", found, not missing, f"pip install av, for {', '.join(missing)}" if missing else "")


def _ray(place: Place) -> Finding:
    if not place.ray_address:
        return Finding("Ray", "starts with each command")
    try:
        with ray_running(place):
            import ray

            resources = ray.cluster_resources()
    except VimssError as error:
        return Finding("Ray", error.got, ok=False, fix=error.fix)
    cores, gpus = (resources.get(kind, 0) for kind in ("CPU", "GPU"))
    return Finding("Ray", f"a cluster at {place.ray_address} with {cores:g} cores and {gpus:g} GPUs")


def _store(place: Place) -> Iterator[Finding]:
    try:
        store = open_store(place)
    except VimssError as error:
        yield Finding("store", error.got, ok=False, fix=error.fix)
        return
    free = shutil.disk_usage(store.root).free / 2**30
    enough = free > STORE_GIGABYTES
    yield Finding(
        "store", f"{store.root}, {free:.0f} GB free", enough, "" if enough else "set VIMSS_STORE to a larger disk"
    )
    yield Finding("tracking", place.tracking_uri or f"SQLite in {store.tracking}")
