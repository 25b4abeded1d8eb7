"""What ran: the commit and its changes, the versions, the machine.

provenance()["commit"]  # "3fe1a5f0c2d4+"
"""

import platform
import shutil
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("vimss", "torch", "ray", "optuna", "mlflow", "numpy")
"""Whose versions a run records."""


def git_commit() -> str:
    """The commit of the checkout that runs, with + where files differ from it; "unknown" outside a checkout."""
    return _git("describe", "--always", "--dirty=+", "--abbrev=12").strip() or "unknown"


def uncommitted_changes() -> str:
    """The difference of the running code from its commit, new files aside; empty outside a checkout."""
    return _git("diff", "HEAD", "--", ".")


def provenance() -> dict[str, str]:
    """What a run records of the code and the machine, by tag."""
    found = {"commit": git_commit(), "version.python": platform.python_version()}
    found |= {f"version.{name}": metadata.version(name) for name in PACKAGES if _is_installed(name)}
    whole = _git("rev-parse", "HEAD").strip()
    if whole:
        found["mlflow.source.git.commit"] = whole
    memory = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count() or 0
    return {**found, "machine": f"{platform.machine()} {sys.platform}, {cores} cores, {memory:.0f} GiB{_gpus()}"}


def _gpus() -> str:
    """The GPUs by NVIDIA's own tool: PyTorch would take memory of them to know their names."""
    names = Counter(_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines())
    return "".join(f", {count} x {name}" for name, count in names.items())


def _git(*arguments: str) -> str:
    return _output("git", "-C", str(Path(__file__).parents[1]), *arguments)


def _output(program: str, *arguments: str) -> str:
    """What a program prints; empty where it is not installed or fails, as git does outside a checkout."""
    found = shutil.which(program)
    if found is None:
        return ""
    answer = subprocess.run(  # noqa: S603
        [found, *arguments], capture_output=True, text=True, errors="replace", check=False
    )
    return answer.stdout if answer.returncode == 0 else ""


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
