import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vimss.errors import ConfigError, StorageError
from vimss.storage import (
    LocalFolder,
    Store,
    atomic_write,
    explain_os_errors,
    files,
    finish_replacements,
    folder_at,
    put,
    sha256,
)


def test_a_file_appears_only_when_its_block_succeeds(tmp_path):
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text(encoding="utf-8") == "whole"


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"


def test_a_folder_replaces_a_folder(tmp_path):
    for content in ("old", "new"):
        with atomic_write(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]


def test_a_full_disk_names_path_space_and_remedy(tmp_path):
    script = f"""
from pathlib import Path
from vimss.storage import atomic_write
with atomic_write(Path({str(tmp_path)!r}) / "big") as temporary:
    temporary.write_bytes(bytes(100_000))
"""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    ran = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=small_files, capture_output=True, text=True, check=False
    )
    assert "big must fit on the disk; got" in ran.stderr
    assert "MB free. To fix: free some space or set VIMSS_STORE" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_explained():
    with (
        pytest.raises(StorageError, match="/proc/x must be where folders can be made; got No such"),
        atomic_write(Path("/proc/x/a")),
    ):
        pass


def test_a_store_that_is_not_there_is_refused_and_not_made_by_what_reads_it(tmp_path):
    with pytest.raises(
        ConfigError, match=r"there must be a store, the folder of all .*; got no folder .*/typo\. To fix: set V"
    ):
        Store(tmp_path / "typo").check_exists()
    assert not (tmp_path / "typo").exists()


def test_the_store_is_readable_by_its_owner_alone(tmp_path):
    store = Store(tmp_path / "store").make()
    assert store.root.stat().st_mode & 0o077 == 0


def test_a_path_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="must be a folder"):
        Store(tmp_path / "file").make()
    with pytest.raises(
        StorageError, match="store /proc/x must be where folders can be made; got No such file.*VIMSS_S"
    ):
        Store(Path("/proc/x")).make()


@pytest.mark.parametrize(
    ("met", "message"),
    [("x/y", "x/y must be writable"), ("x/.tmp-y.1.a", "x must be writable"), ("../a.wav", r"a.wav must be readable")],
)
def test_a_file_that_may_not_be_opened_is_named(tmp_path, met, message):
    with pytest.raises(StorageError, match=message), explain_os_errors(tmp_path / "x" / "target"):
        raise PermissionError(errno.EACCES, "Permission denied", os.path.normpath(tmp_path / met))


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("file:///data/my%20shards%231", "/data/my shards#1"),
        ("file://localhost/data/a", "/data/a"),
        ("/data/my%20shards#1?", "/data/my%20shards#1?"),
        ("/data/[x]{a}:b", "/data/[x]{a}:b"),
    ],
)
def test_a_local_folder_may_have_any_path(location, path):
    assert folder_at(location) == LocalFolder(Path(path))


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("name", ["a" * 255, "弦" * 85, os.fsdecode(b"\xff" * 255), "a\nb", "-a", "a."])
def test_every_name_that_the_file_system_holds_can_be_published(tmp_path, name):
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == b"whole"


@pytest.mark.parametrize("place", ["{}", "{}/a"])
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, place):
    with (
        pytest.raises(StorageError, match=r"must have names that the file system can hold; got one of 256 bytes"),
        atomic_write(tmp_path / place.format("é" * 128)),
    ):
        pytest.fail("work that would be lost")
    assert list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "a.wav").touch()
    with (
        pytest.raises(StorageError, match="must be a folder or free to become one"),
        atomic_write(tmp_path / "a.wav" / "x"),
    ):
        pytest.fail("work that would be lost")


@pytest.mark.parametrize("folder", [True, False])
def test_what_a_link_leads_to_is_written(tmp_path, folder):
    (tmp_path / "link").symlink_to("there/real")
    for content in ("old", "new"):
        with atomic_write(tmp_path / "link") as temporary:
            if folder:
                temporary.mkdir()
            ((temporary / "x") if folder else temporary).write_text(content, encoding="utf-8")
    real = tmp_path / "there" / "real"
    assert (tmp_path / "link").is_symlink()
    assert ((real / "x") if folder else real).read_text(encoding="utf-8") == "new"
    assert list((tmp_path / "there").iterdir()) == [real]


def test_a_loop_of_links_is_refused_before_the_work(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(StorageError, match=r"loop must be .*; got Too many levels of symbolic links. To fix: check the"),
        atomic_write(tmp_path / "loop"),
    ):
        pytest.fail("work that would be lost")


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    with (
        pytest.raises(StorageError, match="must be a file or free to become one; got a folder in its way"),
        atomic_write(tmp_path / "a") as temporary,
    ):
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a" / "b").exists()


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "x" / "y" / "z"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def library_without_exchange(*_, **__):
    """Of a system where two folders cannot change places."""
    raise OSError


def test_the_old_folder_is_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "new").mkdir()
    rename = Path.rename

    def fails(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    monkeypatch.setattr("ctypes.CDLL", library_without_exchange)
    with pytest.raises(OSError, match="Input/output error"):
        put(tmp_path / "new", tmp_path / "a")
    assert (tmp_path / "a" / "old").exists()


def test_a_disk_that_fails_is_explained(tmp_path):
    rule = r"a must be readable and writable; got Input/output error. To fix: check the disk or the link, or set --out"
    with pytest.raises(StorageError, match=rule), explain_os_errors(tmp_path / "a", "--out"):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_there_is_replaced_only_where_that_is_meant(tmp_path, folder):
    (tmp_path / "a").mkdir()
    (tmp_path / "new").mkdir()
    put(tmp_path / "new", tmp_path / "a", replace=False)  # an empty folder is nothing
    (tmp_path / "new").mkdir() if folder else (tmp_path / "new").touch()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(FileExistsError):
        put(tmp_path / "new", tmp_path / "a", replace=False)
    assert (tmp_path / "a" / "old").exists() and (tmp_path / "new").exists()


def test_a_folder_that_a_killed_process_put_aside_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", library_without_exchange)
    (tmp_path / "a").mkdir()
    (tmp_path / ".tmp-old-b").mkdir()
    (tmp_path / ".tmp-old-a").mkdir()  # of a replacement that came to its end
    finish_replacements(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-old-a", "a", "b"]
    with atomic_write(tmp_path / "a") as temporary:
        temporary.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with atomic_write(tmp_path / "a") as temporary:
        own = temporary.name
        temporary.touch()
    others = [own.replace(str(os.getpid()), str(os.getppid())), f".tmp-a.{dead.pid}.0123456789ab", ".tmp-a"]
    folder = tmp_path / "below"
    folder.mkdir()
    for name in (own, own.replace(str(os.getpid()), str(dead.pid)), *others):
        (folder / name).touch()
    with atomic_write(folder / "a") as temporary:
        temporary.touch()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*others, "a"])


def test_two_writers_in_one_process_leave_each_other_alone(tmp_path):
    with atomic_write(tmp_path / "a") as one:
        one.touch()
        files._without_leftovers.clear()  # as where it could not remove one
        with atomic_write(tmp_path / "b") as other:
            other.touch()
        assert one.exists()
