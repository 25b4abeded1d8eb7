"""What ran: the commit and its changes, the versions, the machine.

provenance()["commit"]  # "3fe1a5f0c2d4+"
"""

import platform
import shutil
import subprocess
import sys
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
    """The GPUs, from PyTorch; only where it is loaded, since its import takes seconds."""
    torch = sys.modules.get("torch")
    count = torch.cuda.device_count() if torch is not None else 0
    return f", {count} x {torch.cuda.get_device_name(0)}" if torch is not None and count else ""


def _git(*arguments: str) -> str:
    """What git says of the folder of the package; empty where it is in no checkout, or where there is no git."""
    git = shutil.which("git")
    if git is None:
        return ""
    answer = subprocess.run(  # noqa: S603
        [git, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return answer.stdout if answer.returncode == 0 else ""


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
