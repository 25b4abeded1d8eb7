"""Writers whose Nth file operation fails, or which are killed there, for all N: the old or the new whole thing is left.

    problems("file", folder)     # starts a process of its own, which loads failing_files.c before the C library

In that process each attempt is a forked child that writes the second version over the first. After it, what is read is
one of the two and whole, an error names the file and the remedy, the next attempt succeeds, and no temporary file is
left then.
"""

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
KILLED = 99
ERRORS = {"full disk": errno.ENOSPC, "failing disk": errno.EIO, "kill": 0}
REMEDIES = {
    "full disk": ("must fit on the disk", "free some space"),
    "failing disk": ("must be readable and writable", "check the disk"),
}


def compiler() -> str | None:
    """A C compiler, on Linux."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None) if sys.platform == "linux" else None


def problems(case: str, folder: Path) -> dict:
    """What was found wrong with one of the CASES, and how many operations failed in turn."""
    library = folder / "failing_files.so"
    found = compiler()
    assert found is not None
    subprocess.run([found, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, case, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Case:
    """Something that is written, in version 1 and then in version 2."""

    write: Callable[[Path, int], None]
    read: Callable[[Path], int]
    """Which version is there; 0 where there is none, an error where it is not whole."""
    first: int = 1
    """The version that is there before: 0 for what is never written over."""
    exchange: bool = True
    """Whether the file system can let two folders change places."""
    goes_on: bool = False
    """Whether the writer may go on without what could not be written."""


def _file() -> Case:
    from vimss.storage import atomic_write

    def write(folder: Path, version: int) -> None:
        with atomic_write(folder / "below" / "a") as temporary:
            temporary.write_text(str(version) * 1000, encoding="utf-8")

    def read(folder: Path) -> int:
        text = (folder / "below" / "a").read_text(encoding="utf-8")
        assert len(text) == 1000
        return int(text[0])

    return Case(write, read)


def _folder(exchange: bool) -> Case:
    from vimss.storage import atomic_write, finish_replacement

    def write(folder: Path, version: int) -> None:
        with atomic_write(folder / "a") as temporary:
            (temporary / "deep").mkdir(parents=True)
            for name in ("x", "deep/y"):
                (temporary / name).write_text(str(version), encoding="utf-8")

    def read(folder: Path) -> int:
        if not exchange:
            finish_replacement(folder / "a")
        x, y = (int((folder / "a" / name).read_text(encoding="utf-8")) for name in ("x", "deep/y"))
        assert x == y
        return x

    return Case(write, read, exchange=exchange)


def _record() -> Case:
    from vimss.search.study import RECORD, TrialRecord, read_study, write_record

    def write(folder: Path, version: int) -> None:
        trial = folder / "cell" / "trial"
        write_record(
            TrialRecord(
                cell="c", trial="t", state="finished", chosen={}, settings=None, begun=0, folder=trial,
                reports=({"steps": float(version)},),
            )
        )  # fmt: skip

    def read(folder: Path) -> int:
        assert (folder / "cell" / "trial" / RECORD).exists()
        (record,) = read_study(folder).records
        return int(record.reports[0]["steps"])

    return Case(write, read)


CASES: dict[str, Callable[[], Case]] = {
    "file": _file,
    "folder": lambda: _folder(exchange=True),
    "folder in two steps": lambda: _folder(exchange=False),
    "record": _record,
}


class _Harness:
    def __init__(self, case: Case, home: Path) -> None:
        self.case = case
        self.home = home
        self.library = ctypes.CDLL(None)
        self.library.failing_files_kind.restype = ctypes.c_char_p
        self.library.failing_files_exchange(int(case.exchange))
        self.wrong: list[str] = []

    def run(self) -> dict:
        prepared = self.home / "prepared"
        prepared.mkdir()
        if self.case.first:
            self.case.write(prepared, self.case.first)
        count = self._count(prepared)
        for fault, code in ERRORS.items():
            for number in range(1, count + 1):
                self._once(prepared, number, fault, code)
        return {"count": count, "wrong": self.wrong}

    def _count(self, prepared: Path) -> int:
        folder = self.home / "counted"
        shutil.copytree(prepared, folder)
        told = self.home / "count"
        if os.fork() == 0:
            self.library.failing_files_watch(os.fsencode(folder), 0, 0)
            self.case.write(folder, 2)
            number = self.library.failing_files_count()
            self.library.failing_files_watch(b"", 0, 0)
            told.write_text(str(number))
            os._exit(0)
        os.wait()
        assert self.case.read(folder) == 2
        return int(told.read_text())

    def _once(self, prepared: Path, number: int, fault: str, code: int) -> None:
        # A folder of its own for each: a process looks once in a folder for what dead ones have left.
        folder, told = self.home / f"{number} {fault}", self.home / "told"
        told.unlink(missing_ok=True)
        shutil.copytree(prepared, folder)
        if os.fork() == 0:
            self._attempt(folder, told, number, code)
        status = os.waitstatus_to_exitcode(os.wait()[1])
        kind, message = told.read_text().split("\n", 1) if told.exists() else ("?", "")
        where = f"operation {number} ({kind}), {fault}: "
        if status != (0 if code else KILLED):
            self.wrong.append(f"{where}exit code {status}")
        if message and not all(part in message for part in (str(folder), *REMEDIES[fault])):
            self.wrong.append(f"{where}unclear error: {message}")
        try:
            version = self.case.read(folder)
        except Exception as error:
            version = 0
            if self.case.first or not isinstance(error, FileNotFoundError):
                self.wrong.append(f"{where}not whole: {type(error).__name__} {error}")
        if code and not message and version != 2 and not self.case.goes_on:
            self.wrong.append(f"{where}no error, but version {version}")
        try:
            self.case.write(folder, 2)
            again = self.case.read(folder)
        except Exception as error:
            self.wrong.append(f"{where}the next attempt fails: {type(error).__name__} {error}")
        else:
            left = [str(path) for path in folder.rglob(".tmp-*")]
            if again != 2 or left:
                self.wrong.append(f"{where}then version {again}, and left {left}")
        shutil.rmtree(folder)

    def _attempt(self, folder: Path, told: Path, number: int, code: int) -> None:
        from vimss.errors import StorageError

        message, status = "", 0
        self.library.failing_files_watch(os.fsencode(folder), number, code)
        try:
            self.case.write(folder, 2)
        except StorageError as error:
            message = str(error)
        except BaseException as error:
            message = f"{type(error).__name__} {error}"
        self.library.failing_files_watch(b"", 0, 0)
        told.write_text(f"{self.library.failing_files_kind().decode()}\n{message}")
        os._exit(status)


if __name__ == "__main__":
    os.umask(0o022)
    print(json.dumps(_Harness(CASES[sys.argv[1]](), Path(sys.argv[2]).resolve()).run()))
