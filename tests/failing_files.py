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
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
KILLED = 99
ERRORS = {"full disk": errno.ENOSPC, "failing disk": errno.EIO, "read-only": errno.EROFS, "kill": 0}
REMEDIES = {
    "full disk": ("must fit on the disk", "free some space"),
    "failing disk": ("must be readable and writable", "check the disk"),
    "read-only": ("must be writable", "choose another folder or correct its permissions"),
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
    prepare: Callable[[Path], None] = lambda folder: None
    """Writes what must be there before the first version."""
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


def _network(version: int, kind: str = "wave_u_net"):
    """A small separator, whose first weights are its version."""
    import torch

    from vimss.model.networks import NETWORKS
    from vimss.model.separator import Separator

    small = {
        "wave_u_net": {"levels": 2, "filters": 2, "down_kernel": 5},
        "spectrogram_u_net": {"n_fft": 64, "hop_length": 16, "depth": 2, "filters": 2, "kernel_size": 3},
    }[kind]
    separator = Separator(NETWORKS[kind](**small, site="none"), ("vn", "vc"), 8000)
    with torch.no_grad():
        next(separator.parameters()).fill_(version)
    return separator


def _model(kind: str) -> Case:
    from vimss.model.separator import load_separator, save_separator

    return Case(
        lambda folder, version: save_separator(folder / "model", _network(version, kind), {}),
        lambda folder: int(next(load_separator(folder / "model").parameters()).flatten()[0]),
    )


def _checkpoint() -> Case:
    import torch

    from vimss.model.separator import save_separator
    from vimss.stream.batch import Position
    from vimss.train.checkpoint import State, Trained, folder_for_checkpoint, newest_valid, save_state
    from vimss.train.distribute import keep_checkpoint
    from vimss.train.objectives import figure_of

    figure = figure_of()

    def write(folder: Path, version: int) -> None:
        network = _network(version)
        optimizer = torch.optim.AdamW(network.parameters())
        state = State("s", "v", version, Position(), 0.0, 0.0, {figure.name: float(version)})
        tempfile.tempdir = str(folder / "TMPDIR")
        (folder / "TMPDIR").mkdir(exist_ok=True)
        with folder_for_checkpoint() as made:
            save_separator(made / "model", network, {})
            save_state(made, state, Trained(network, None, [optimizer]))
            keep_checkpoint(made, folder / "train" / f"step_{version}", figure)

    def read(folder: Path) -> int:
        newest = newest_valid(sorted((folder / "train").glob("step_*"), reverse=True))
        assert newest is not None
        return int(newest.name[-1])

    return Case(write, read)


def _evaluation() -> Case:
    from vimss.evaluate.records import Evaluation, Part
    from vimss.evaluations import load_evaluations, save_evaluations
    from vimss.search.study import Study

    def write(folder: Path, version: int) -> None:
        rows = [Evaluation.of(Part(f"{version}", "", (), ()), "test") for _ in range(2)]
        save_evaluations(Study(folder, ()), "test", rows)

    def read(folder: Path) -> int:
        one, other = load_evaluations(Study(folder, ()), "test")
        assert one.system == other.system
        return int(one.system)

    return Case(write, read)


def _duets(home: Path):
    """Four duets of tones, and their recipe."""
    import numpy as np

    from vimss.media import write_wav
    from vimss.shards.recipe import load_recipe

    source = home / "source"
    for number in range(4 if not source.exists() else 0):
        for name, pitch in (("vn", 400 + 20 * number), ("vc", 100 + 20 * number)):
            sound = 0.2 * np.sin(2 * np.pi * pitch * np.arange(8000) / 4000)
            write_wav(source / f"no{number}" / f"{name}.wav", sound.astype(np.float32)[None], 4000)
    return source, load_recipe("folder", ["sample_rate=4000", "clip_seconds=1"])


def _shards(home: Path) -> Case:
    from vimss.shards.manifest import MANIFEST, open_manifest
    from vimss.shards.write import shards_folder, write_shards
    from vimss.storage import Store, sha256

    source, recipe = _duets(home)

    def read(folder: Path) -> int:
        shards = shards_folder(recipe, "duets", Store(folder)).path
        (shards / MANIFEST).stat()
        manifest = open_manifest(shards)
        assert len(manifest.shards) == 4
        assert all(sha256(shards / shard.name) == shard.sha256 for shard in manifest.shards)
        return 2

    return Case(lambda folder, _: void(write_shards(recipe, "duets", Store(folder), source)), read, first=0)


def _validation_set(home: Path) -> Case:
    from vimss.shards.manifest import open_manifest
    from vimss.shards.write import shards_folder, write_shards
    from vimss.storage import Store
    from vimss.stream.fixed import _read, fixed_path, fixed_set
    from vimss.train.config import ValidationConfig
    from vimss.train.validation import validation_spec

    source, recipe = _duets(home)

    def where(folder: Path):
        manifest = open_manifest(shards_folder(recipe, "duets", Store(folder)).path)
        return manifest, validation_spec(manifest, ValidationConfig(mixtures=6, seconds=0.25))

    def read(folder: Path) -> int:
        manifest, spec = where(folder)
        assert len(_read(fixed_path(manifest, spec), manifest, spec).drawn) == 6
        return 2

    return Case(
        lambda folder, _: void(fixed_set(*where(folder))),
        read,
        first=0,
        prepare=lambda folder: void(write_shards(recipe, "duets", Store(folder), source)),
        goes_on=True,  # each process draws it then
    )


def void(_: object) -> None:
    """Nothing, of a call that returns something."""


CASES: dict[str, Callable[[Path], Case]] = {
    "file": lambda home: _file(),
    "folder": lambda home: _folder(exchange=True),
    "folder in two steps": lambda home: _folder(exchange=False),
    "record": lambda home: _record(),
    "model wave_u_net": lambda home: _model("wave_u_net"),
    "model spectrogram_u_net": lambda home: _model("spectrogram_u_net"),
    "checkpoint": lambda home: _checkpoint(),
    "evaluation": lambda home: _evaluation(),
    "validation set": _validation_set,
    "shards": _shards,
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
        self.case.prepare(prepared)
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
        except Exception as error:  # of any kind: a file that is not whole may break its reader anywhere
            version = 0
            if self.case.first or not isinstance(error, FileNotFoundError):
                self.wrong.append(f"{where}not whole: {type(error).__name__} {error}")
        if code and not message and version != 2 and not self.case.goes_on:
            self.wrong.append(f"{where}no error, but version {version}")
        try:
            self.case.write(folder, 2)
            again = self.case.read(folder)
        except Exception as error:  # of any kind: each is a finding
            self.wrong.append(f"{where}the next attempt fails: {type(error).__name__} {error}")
        else:
            # What is left in the system's own folder for temporary files is for the system to remove.
            left = [str(path) for path in folder.rglob(".tmp-*") if "TMPDIR" not in path.parts]
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
    home = Path(sys.argv[2]).resolve()
    print(json.dumps(_Harness(CASES[sys.argv[1]](home), home).run()))
