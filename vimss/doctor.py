"""Checks of this machine, and of a place: its nodes, store and servers; with a fix for each problem."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from vimss.errors import StorageError, VimssError
from vimss.experiment import EXPERIMENTS
from vimss.runtime import (
    PLACES,
    Node,
    Place,
    check_secrets,
    in_ray_job,
    load_place,
    look_at_nodes,
    open_store,
    ray_running,
    temporary_folder,
    unfit,
    versions_here,
)
from vimss.search.room import concurrent_trials
from vimss.shards.manifest import MANIFEST
from vimss.shards.recipe import RECIPES
from vimss.storage import RemoteFolder, Store, explain_os_errors
from vimss.yaml_files import known_names

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

VECTOR_UNITS = {
    "avx10_2": "AVX10.2",
    "avx512_f": "AVX-512",
    "avx2": "AVX2",
    "sve2": "SVE2",
    "sve": "SVE",
    "neon": "NEON",
}
"""Keys of torch.cpu.get_capabilities to their usual names, the widest first."""

BFLOAT16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16", "sve_bf16": "SVE bf16", "bf16": "NEON bf16"}

TRACKING_SECONDS = 10.0
"""How long the tracking server may take to answer."""

STORE_GIGABYTES = 2
"""Upper bound for the files of a quickstart."""


@dataclass(frozen=True)
class Finding:
    """One fact about the machine or the place."""

    what: str
    found: str
    ok: bool = True
    fix: str = ""


def examine(place_name: str) -> list[Finding]:
    """Python, cores, memory, GPUs, libraries, codecs and files here; Ray's nodes, store and tracking of a place."""
    place = load_place(place_name)
    return [
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_library(name) for name in LIBRARIES),
        *_machine(),
        _codecs(),
        *_ray(place),
        _names(),
        _temporary_files(),
        *_store(place),
    ]


def _machine() -> Iterator[Finding]:
    if not _is_installed("psutil") or not _is_installed("torch"):
        return
    import psutil
    import torch

    from vimss.train.device import has_bfloat16_units

    memory = psutil.virtual_memory().available / 2**30
    yield Finding("cores", f"{os.cpu_count()}")
    yield Finding(
        "free memory",
        f"{memory:.1f} GB",
        memory > 4,
        "" if memory > 4 else "a quickstart needs 4 GB: close other programs",
    )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("GPUs", ", ".join(names) if names else "none: training runs on the cores")
    # Unlike /proc/cpuinfo, this works on ARM, macOS and Windows too.
    capabilities = torch.cpu.get_capabilities()
    yield vector_units(capabilities, torch.backends.cpu.get_cpu_capability())
    on_gpu = bool(names) and has_bfloat16_units(torch.device("cuda"))
    yield bfloat16_units(capabilities, on_gpu)


def vector_units(capabilities: Mapping[str, object], used: str) -> Finding:
    """The vector units of the CPU, and those that torch uses: AVX512, AVX2, DEFAULT and others."""
    units = [name for unit, name in VECTOR_UNITS.items() if capabilities.get(unit) is True]
    found = ", ".join(units) or "none known"
    limited = os.environ.get("ATEN_CPU_CAPABILITY")
    if limited is not None:
        fix = "unset ATEN_CPU_CAPABILITY, unless results must equal those of another machine"
        return Finding(
            "vector units", f"{found}; torch is limited to {used} by ATEN_CPU_CAPABILITY={limited}", ok=False, fix=fix
        )
    if used == "DEFAULT" and capabilities.get("neon") is not True:
        return Finding("vector units", f"{found}; torch computes without AVX2: training and separation are slow here")
    return Finding("vector units", f"{found}; torch computes with {'NEON' if used == 'DEFAULT' else used}")


def bfloat16_units(capabilities: Mapping[str, object], on_gpu: bool) -> Finding:
    """The hardware that multiplies bfloat16 numbers, and its consequences for training."""
    from vimss.train.device import multiplies_bfloat16

    present = [unit for unit in capabilities if multiplies_bfloat16({unit: capabilities[unit]})]
    units = [BFLOAT16_UNITS.get(unit, unit) for unit in sorted(present)]
    if not units and not on_gpu:
        return Finding(
            "bfloat16",
            "no units for it: training.precision must be float32, and optimizer: muon, which multiplies in bfloat16, "
            "takes longer per step",
        )
    able = "training.precision: bfloat16 and optimizer: muon have units"
    if not units:
        return Finding("bfloat16", f"GPU: {able} there, not on the cores")
    where = ", ".join([*units, *(["GPU"] if on_gpu else [])])
    return Finding("bfloat16", f"{where}: {able}")


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


def _ray(place: Place) -> Iterator[Finding]:
    """The cluster of a place, and its nodes."""
    if place.secrets:
        try:
            check_secrets(place)
        except VimssError as error:
            yield Finding("secrets", error.got, ok=False, fix=error.fix)
            yield Finding("Ray", "not asked without the secrets", ok=False, fix="set them first")
            return
        yield Finding("secrets", f"{', '.join(place.secrets)}: set")
    if not (place.ray_address or in_ray_job()):
        yield Finding("Ray", "starts with each command")
        return
    try:
        with ray_running(place):
            import ray

            resources = ray.cluster_resources()
            cores, gpus = (resources.get(kind, 0) for kind in ("CPU", "GPU"))
            yield Finding("Ray", f"a cluster at {place.ray_address or 'auto'} with {cores:g} cores and {gpus:g} GPUs")
            # Without a store there is nothing that they could share; its own line says why.
            with suppress(VimssError):
                store = open_store(place).make()
                is_shared = store.shards_at is None or store.studies_at is None
                yield from _nodes(place, look_at_nodes(store.root), versions_here(), is_shared)
    except VimssError as error:
        yield Finding("Ray", error.got, ok=False, fix=error.fix)


def _nodes(place: Place, nodes: Sequence[Node], here: Mapping[str, str], is_shared: bool = True) -> Iterator[Finding]:
    """What the nodes of a cluster have and lack; `here` are the versions of this process.

    `is_shared` says whether they need one store: not where shards and studies lie behind URLs.
    """
    sizes = Counter(_size(node) for node in nodes)
    found = "; ".join(f"{count} x {size}" if count > 1 else size for size, count in sizes.items())
    yield _of_nodes(
        "nodes", [(node.address, node.error) for node in nodes], found, "look at its logs, or start it again"
    )
    yield _room(place, nodes)
    there = [node for node in nodes if not node.error]
    other = [(node.address, _differing(node.versions, here)) for node in there]
    found = ", ".join(f"{name} {version}" for name, version in here.items())
    fix = f"have {found} on every node, such as by one image; `ray job submit --working-dir .` sends VIMSS itself"
    yield _of_nodes("versions on nodes", other, f"{found}, as here", fix)
    if is_shared:
        fix = "mount the same folder on every node, and name it in VIMSS_STORE or `store:` of the place"
        wrong = [(node.address, node.store) for node in there]
        yield _of_nodes("store on nodes", wrong, "every node reads what is written here, and can write", fix)


def _of_nodes(what: str, nodes: Sequence[tuple[str, str]], found: str, fix: str) -> Finding:
    """One line about all nodes, each with its address and what is wrong there; empty where nothing is."""
    errors = [f"{address}: {error}" for address, error in nodes if error]
    return Finding(what, "; ".join(errors), ok=False, fix=fix) if errors else Finding(what, found)


def _size(node: Node) -> str:
    gpus = f", {node.resources['GPU']:g} GPU ({node.gpus or 'of unknown kind'})" if node.resources.get("GPU") else ""
    return f"{node.resources.get('CPU', 0):g} CPU{gpus}"


def _differing(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {there[name]}" for name in here if there[name] != here[name])


def _room(place: Place, nodes: Sequence[Node]) -> Finding:
    try:
        trials = concurrent_trials(place, [node.resources for node in nodes])
    except VimssError as error:
        return Finding("trials", error.got, ok=False, fix=error.fix)
    grows = ", with those that its autoscaler adds" if place.autoscaled_nodes else ""
    return Finding("trials", f"room for {trials} at once{grows}")


_NAMED = {"recipes": RECIPES, "experiments": EXPERIMENTS, "places": PLACES}


def _names() -> Finding:
    found = {what: len(known_names(where)) for what, where in _NAMED.items()}
    if not any(found.values()):
        return Finding("names", "none: outside a repository, give the paths of YAML files")
    return Finding("names", ", ".join(f"{count} {what}" for what, count in found.items()))


def _temporary_files() -> Finding:
    _, folder = temporary_folder()
    wrong = unfit(folder)
    if wrong:
        return Finding("temporary files", wrong, ok=False, fix="set TMPDIR to a writable folder with free space")
    return Finding("temporary files", f"{folder}, {shutil.disk_usage(folder).free / 2**30:.0f} GB free")


def _store(place: Place) -> Iterator[Finding]:
    try:
        store = open_store(place)
        # One that is not there yet is made by the first command that writes into it.
        there = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
        with explain_os_errors(there), tempfile.TemporaryFile(dir=there):
            pass
    except VimssError as error:
        yield Finding("store", f"{error.got}: {error.rule}", ok=False, fix=error.fix)
        return
    free = shutil.disk_usage(there).free / 2**30
    made = "" if there == store.root else ", not made yet"
    enough = free > STORE_GIGABYTES
    yield Finding(
        "store", f"{store.root}{made}, {free:.0f} GB free", enough, "" if enough else "set VIMSS_STORE to a larger disk"
    )
    yield _shards(store)
    if store.studies_at is not None:
        yield _studies(store.studies_at)
    yield _tracking(place, store)


def _shards(store: Store) -> Finding:
    """The folders of shards of the store, by one listing."""
    try:
        names = sorted(path.rpartition("/")[0] for path in store.shards.sizes() if path.endswith(f"/{MANIFEST}"))
    except VimssError as error:
        return Finding("shards", f"{error.got}: {error.rule}", ok=False, fix=error.fix)
    return Finding("shards", f"{', '.join(names) or 'none yet'}, at {store.shards}")


def _studies(home: RemoteFolder) -> Finding:
    """Whether studies can be kept behind a URL, where the lock of a study is an object that is written once."""
    name = f"doctor-{uuid.uuid4().hex}.txt"
    try:
        home.write_if(name, b"", "")
        has_conditions = not (home.write_if(name, b"", "") or home.write_if(name, b"", '"of another content"'))
        home.delete(name)
    except StorageError as error:
        return Finding("studies", f"{error.got}: {error.rule}", ok=False, fix=error.fix)
    if not has_conditions:
        fix = "keep studies on a server with conditional writes (If-Match, If-None-Match), or in a store that all share"
        return Finding("studies", f"{home} has no conditional writes", ok=False, fix=fix)
    return Finding("studies", f"at {home}")


def _tracking(place: Place, store: Store) -> Finding:
    if not place.tracking_uri:
        return Finding("tracking", f"SQLite in {store.tracking}")
    try:
        answer = _health(place.tracking_uri)
    except (OSError, ValueError) as error:
        fix = "start the tracking server, or correct tracking_uri: until then, its data is kept in the store"
        return Finding("tracking", f"{place.tracking_uri}: {error}", ok=False, fix=fix)
    return Finding("tracking", f"{place.tracking_uri}, which answers {answer} at /health")


def _health(uri: str) -> str:
    """What an MLflow server answers at /health, which needs no password; OSError or ValueError where none does."""
    address = f"{uri.rstrip('/')}/health"
    if urlsplit(uri).scheme not in {"http", "https"}:
        raise ValueError("no address that begins with http:// or https://")
    try:
        with urlopen(address, timeout=TRACKING_SECONDS) as response:  # noqa: S310 - an http address
            answer: bytes = response.read(100)
    except HTTPError as error:
        raise OSError(f"HTTP {error.code} at /health: another web server?") from error
    except TimeoutError as error:
        raise OSError(f"a connection, and no answer in {TRACKING_SECONDS:.0f} s") from error
    except URLError as error:
        raise OSError(str(error.reason)) from error
    except HTTPException as error:
        raise OSError(f"no answer in HTTP, {' '.join(str(error).split())}") from error
    if answer.strip() != b"OK":
        raise OSError(f"{answer!r} instead of OK at /health: another web server?")
    return "OK"
