import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vimss.errors import StorageError
from vimss.storage import LocalFolder, Store, explain_os_errors, folder_at, publish, sha256


def test_a_file_appears_only_when_its_block_succeeds(tmp_path):
    with publish(tmp_path / "a") as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text(encoding="utf-8") == "whole"


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), publish(tmp_path / "a") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"


def test_a_folder_replaces_a_folder(tmp_path):
    for content in ("old", "new"):
        with publish(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]


def test_a_full_disk_names_path_space_and_remedy(tmp_path):
    script = f"""
from pathlib import Path
from vimss.storage import publish
with publish(Path({str(tmp_path)!r}) / "big") as temporary:
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


def test_the_store_is_readable_by_its_owner_alone(tmp_path):
    store = Store(tmp_path / "store").make()
    assert store.root.stat().st_mode & 0o077 == 0


def test_a_path_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="must be a folder"):
        Store(tmp_path / "file").make()


@pytest.mark.parametrize(("met", "message"), [("x/y", "x/y must be writable"), ("../a.wav", r"a.wav must be readable")])
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
