"""The layout of the store: where VIMSS keeps what it writes.

store = Store(Path("store")).make()
store.studies / "quickstart-0123456789"
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from vimss.config import SIGNATURE_LENGTH
from vimss.errors import ConfigError, StorageError
from vimss.storage.files import explain_os_errors
from vimss.storage.folders import Folder, LocalFolder, RemoteFolder

COPIES = "studies-at"
"""Folder of the store for copies of studies that lie behind a URL; the folder of a copy is named by the URL."""


@dataclass(frozen=True)
class Store:
    """The folder that holds everything VIMSS writes, and where shards lie if not there."""

    root: Path
    shards_at: Folder | None = None
    """Where the place, the environment or the command line wants the shards; None: in the store."""
    cache_gigabytes: float = 50.0
    """How much of shards that lie elsewhere is kept here."""
    studies_at: RemoteFolder | None = None
    """The URL at which studies lie; None: in the store."""

    @property
    def shards(self) -> Folder:
        """One folder per corpus and recipe signature."""
        return LocalFolder(self.root / "shards") if self.shards_at is None else self.shards_at

    @property
    def cache(self) -> Path:
        """Copies of shards that lie elsewhere; may be deleted while nothing runs."""
        return self.root / "cache"

    @property
    def studies(self) -> Path:
        """One folder per experiment and signature of its data; below it one per cell and trial.

        Where studies lie behind a URL, this is their copy: see `vimss.search.remote`.
        """
        if self.studies_at is None:
            return self.root / "studies"
        return self.root / COPIES / quote(self.studies_at.url, safe="")

    @property
    def shows(self) -> Path:
        """Pages of what shards hold, one folder per corpus and recipe signature."""
        return self.root / "shows"

    @property
    def stems(self) -> Path:
        """The output of `vimss separate`, one folder per recording."""
        return self.root / "stems"

    @property
    def tracking(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlflow"

    def make(self) -> "Store":
        """Create the folder, readable by its owner alone: Ray keeps pickled files in it."""
        with explain_os_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            except FileNotFoundError as error:  # as in /proc, or below a mount that is gone
                raise StorageError(
                    f"the store {self.root} must be where folders can be made",
                    got=str(error.strerror),
                    fix="set VIMSS_STORE, or `store` of the place, to another folder",
                ) from error
        return self

    def check_exists(self) -> None:
        """ConfigError where there is no store: for what only reads, which must not make one at a misspelt path."""
        if not self.root.is_dir():
            raise ConfigError(
                "there must be a store, the folder of all that VIMSS writes, where VIMSS_STORE or the place says",
                got=f"{'a file' if self.root.exists() else 'no folder'} {self.root}",
                fix="set VIMSS_STORE to your store; `vimss quickstart` and `vimss shard RECIPE` make a new one",
            )


def origin_of(path: Path) -> RemoteFolder | None:
    """Where the original of a folder in a copy lies, which the path alone says; None of a path in no copy."""
    for parent in (path, *path.parents):
        # Others may call a folder of theirs so.
        if parent.parent.name == COPIES and "://" in unquote(parent.name):
            return RemoteFolder("/".join([unquote(parent.name), *path.relative_to(parent).parts]))
    return None


def kept_beside(folder: Path) -> list[Path]:
    """Folders of the same name with another signature: studies or shards of other settings, or an earlier version."""
    name = re.escape(folder.name[: -SIGNATURE_LENGTH - 1])
    pattern = re.compile(rf"{name}-[0-9a-f]{{{SIGNATURE_LENGTH}}}")
    found = sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    return [path for path in found if pattern.fullmatch(path.name) and path != folder and path.is_dir()]
