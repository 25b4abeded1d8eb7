"""Studies that lie at s3://, for clusters that share no file system and come and go.

    pull(folder)                             # before a study is read: what is new at the URL
    with mirrored(folder):                   # in the driver while it searches
        search(...)
    push(folder)                             # pictures and tables that were made of a study

The driver works on a copy in its store (`folder` here; nothing happens where a study lies in the store itself), which
a thread mirrors to the URL: records, models, pictures. The processes of a trial, on any nodes, work in copies of their
own (`vimss.train.own_copy`), resume from the checkpoints at the URL and upload each new one before it is reported, so
that driver and trials meet at the URL alone. So what lies there is at any time a study that another cluster can go on
with, which the driver's lease (`vimss.search.lease`) leaves to one driver at a time.
"""

import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vimss.experiment import TUNE_FOLDER
from vimss.progress import FileProgress
from vimss.search.lease import LEASE, check_renewed
from vimss.search.lock import LOCK, is_locked
from vimss.search.study import RECORD, read_record
from vimss.storage import Mirror, explain_os_errors, followed_by, origin_of, private_folder, remove_whole, repeated
from vimss.train.own_copy import PROGRESS, STOP, is_checkpoint

COPY_LOCK = "lock-copy"
"""File of a copy that the process which brings it up to date holds."""

_SIGNS = re.compile(rf"(.*/)?({PROGRESS}|log\w*\.txt)")
_WEIGHTS = re.compile(rf"[^/]+/[^/]+/({RECORD}|model/.*)")
_OF_THE_COPY = re.compile(rf"{TUNE_FOLDER}/.*|{LEASE}|{LOCK}|lock-.*")


OnProgress = Callable[[FileProgress], None]


def pull(folder: Path, on_progress: OnProgress = lambda _: None) -> None:
    """Bring the copy of a study up to date. While a process here searches it, it is newer than the URL, and stays."""
    _pull(folder, _is_kept, on_progress)


def pull_records(folder: Path) -> None:
    """The same for the records of its trials alone, without their models."""
    _pull(folder, lambda name: name.endswith(f"/{RECORD}"))


def push(folder: Path) -> None:
    """Upload what was made of a study: all but records and models, which only a search writes."""
    home = origin_of(folder)
    if home is None:
        return
    with _alone(folder):
        Mirror(folder, home, RECORD).push(lambda name: _is_kept(name) and not _WEIGHTS.fullmatch(name))


def make_folders(studies: Path) -> None:
    """Make the folder of each study that lies behind the URL, so that it is found; nothing of it is fetched."""
    home = origin_of(studies)
    for name in home.folder_names() if home is not None else ():
        (studies / name).mkdir(parents=True, exist_ok=True)


@contextmanager
def mirrored(folder: Path, on_progress: OnProgress = lambda _: None) -> Iterator[None]:
    """Keep copy and URL alike while a study is searched; at the end, all of it is at the URL, or StorageError.

    The process must hold the study's lock. An outage meanwhile is logged, and what it missed follows. Where the search
    ends with an error, that one is raised and not the outage's. `on_progress` is for what is fetched before the block.
    """
    home = origin_of(folder)
    if home is None:
        yield
        return
    mirror = Mirror(folder, home, RECORD)
    with _alone(folder):
        mirror.pull(_is_kept, on_progress)

    def upload() -> None:
        check_renewed(home)
        mirror.push(lambda name: _is_kept(name) and not _is_stop(name))

    # Apart from that, since a model may take minutes to upload.
    def watch_trials() -> None:
        mirror.push(_is_stop)
        mirror.pull(_is_sign)

    with followed_by(watch_trials), followed_by(upload), repeated(upload), repeated(watch_trials):
        yield


def recorded_reports(folder: Path) -> tuple[dict[str, float], ...]:
    """The reports in the record of a trial, if any, for its own process, which may be on another node than the driver.

    Of a study behind a URL they may be some seconds old.
    """
    home = origin_of(folder)
    if home is None:
        return read_record(folder / RECORD).reports if (folder / RECORD).exists() else ()
    with private_folder("vimss-record") as own, suppress(FileNotFoundError):
        home.download(RECORD, own / RECORD)
        return read_record(own / RECORD).reports
    return ()


@contextmanager
def checkpoint_at_hand(folder: Path) -> Iterator[None]:
    """A checkpoint of a trial for the block; that of a study behind a URL is fetched, where there is one."""
    home = origin_of(folder)
    if home is None:
        yield
        return
    try:
        with suppress(FileNotFoundError):  # superseded meanwhile
            home.download_all(folder)
        yield
    finally:
        remove_whole(folder)


def _pull(folder: Path, names: Callable[[str], bool], on_progress: OnProgress = lambda _: None) -> None:
    home = origin_of(folder)
    if home is None:
        return
    with _alone(folder):
        if not is_locked(folder):
            Mirror(folder, home, RECORD).pull(names, on_progress)


def _is_sign(name: str) -> bool:
    """Whether a file is one that a trial writes between two reports: signs of life, and its log."""
    return bool(_SIGNS.fullmatch(name))


def _is_stop(name: str) -> bool:
    return name.rpartition("/")[2] == STOP


def _is_kept(name: str) -> bool:
    """Whether a file of a study is written by its driver, for all who read it."""
    return not (_is_sign(name) or is_checkpoint(name) or _OF_THE_COPY.fullmatch(name))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of the processes of this machine, one at a time brings a copy up to date."""
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / COPY_LOCK).open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
