import errno
import subprocess
import sys
import threading
import time

import pytest

from vimss.errors import StorageError
from vimss.study import LOCK, locked


def test_a_study_that_is_searched_is_refused_with_the_name_of_the_process(tmp_path):
    code = (
        "from pathlib import Path; from vimss.study import locked\n"
        f"with locked(Path({str(tmp_path / 'study')!r})): print('held', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        rule = rf"one process at a time may search the study study; got process {other.pid} on \S+ since .*--wait"
        with pytest.raises(StorageError, match=rule), locked(tmp_path / "study"):
            pass
        # A process that was killed lets go.
        other.kill()
    with locked(tmp_path / "study"):
        assert str(other.pid) not in (tmp_path / "study" / LOCK).read_text()


def test_a_second_search_that_waits_begins_when_the_first_has_ended(tmp_path):
    order, owners = [], []

    def second() -> None:
        with locked(tmp_path, owners.append):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        while not owners:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and owners[0].startswith("process ")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    rule = r"must be on a file system with file locks; got No locks available"
    with pytest.raises(StorageError, match=rule), locked(tmp_path):
        pass
