"""Where stems go: what is refused before any work, and what is never lost."""

import json
import os
import shutil
from pathlib import Path

import pytest

from vimss.errors import ConfigError, MediaError, StorageError
from vimss.separate import folder as folders
from vimss.separate.folder import PAGE, RECORD, check_inputs_stay, folder_name, free_folder, put_folder, recording_of
from vimss.storage import atomic_write


def recording(path: Path, content: bytes = b"a take") -> folders.Recording:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return recording_of(path)


def stems_of(out: Path, of: folders.Recording) -> Path:
    """A folder as a separation writes it."""
    with atomic_write(out) as temporary:
        temporary.mkdir()
        for name in ("vn.wav", PAGE):
            (temporary / name).write_text("sound", encoding="utf-8")
        folders.write_record(temporary, of, {"stems": ["vn"]})
    return out


def test_the_same_recording_may_replace_its_stems_wherever_it_lies(tmp_path):
    out = stems_of(tmp_path / "take", recording(tmp_path / "a" / "take.wav"))
    assert free_folder(out, recording(tmp_path / "b" / "take.flac")) == out


@pytest.mark.parametrize("place", ["b/take.flac", "a/take.wav"])
def test_stems_of_another_recording_are_replaced_only_when_that_is_asked_for(tmp_path, place):
    out = stems_of(tmp_path / "take", recording(tmp_path / "a" / "take.wav"))
    other = recording(tmp_path / place, b"another take")
    with pytest.raises(
        ConfigError, match=r"hold stems of this very recording; got those of .*/a/take\.wav.*--overwrite"
    ):
        free_folder(out, other)
    assert free_folder(out, other, overwrite=True) == out
    assert free_folder(out, other, numbered=True) == tmp_path / "take-2"


def test_each_recording_of_a_name_keeps_its_own_number(tmp_path):
    takes = [recording(tmp_path / str(number) / "take.wav", bytes([number])) for number in range(3)]
    for take in takes:
        stems_of(free_folder(tmp_path / "take", take, numbered=True), take)
    found = [free_folder(tmp_path / "take", take, numbered=True).name for take in takes]
    assert found == ["take", "take-2", "take-3"]


def test_a_folder_that_another_process_took_meanwhile_is_left_to_it(tmp_path):
    mine, other = recording(tmp_path / "1" / "take.wav"), recording(tmp_path / "2" / "take.wav", b"other")
    (tmp_path / "work").mkdir()
    folders.write_record(tmp_path / "work", mine, {"stems": []})
    stems_of(tmp_path / "take", other)
    assert put_folder(tmp_path / "work", tmp_path / "take", mine, numbered=True) == tmp_path / "take-2"
    assert json.loads((tmp_path / "take" / RECORD).read_text())["sha256"] == other.sha256
    with pytest.raises(ConfigError, match="hold stems of this very recording"):
        put_folder(tmp_path / "take-2", tmp_path / "take", mine)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_somebody_put_beside_the_stems_is_not_lost(tmp_path, overwrite):
    take = recording(tmp_path / "take.wav")
    out = stems_of(tmp_path / "out", take)
    (out / ".DS_Store").touch()
    assert free_folder(out, take) == out
    (out / "vn edited.wav").touch()
    with pytest.raises(
        ConfigError, match=r"nothing but what `vimss separate` wrote; got vn edited\.wav too, which would"
    ):
        free_folder(out, take, overwrite=overwrite)
    assert free_folder(out, take, numbered=True) == tmp_path / "out-2"


SYSTEMS = [".DS_Store", "Thumbs.db", "Desktop.ini", "@eaDir/vn.wav@SynoEAStream", "._vn.wav", "Icon\r", ".directory"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_file_managers_leave_beside_the_stems_is_in_nobodys_way(tmp_path, name):
    take = recording(tmp_path / "take.wav")
    out = stems_of(tmp_path / "out", take)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).touch()
    assert stems_of(free_folder(out, take), take) == out
    assert sorted(path.name for path in out.iterdir()) == [PAGE, RECORD, "vn.wav"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_folder_with_nothing_but_what_file_managers_leave_is_empty(tmp_path, name):
    take = recording(tmp_path / "take.wav")
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).touch()
    assert free_folder(tmp_path / "out", take) == tmp_path / "out"
    work = stems_of(tmp_path / "work", take)
    assert put_folder(work, tmp_path / "out", take) == tmp_path / "out"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [PAGE, RECORD, "vn.wav"]


@pytest.mark.parametrize("name", [".git/HEAD", ".notes", "#recycle/old.wav", "vn.wav~", "vn.mp3.part"])
def test_hidden_files_and_bins_beside_the_stems_are_not_lost(tmp_path, name):
    take = recording(tmp_path / "take.wav")
    out = stems_of(tmp_path / "out", take)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).touch()
    with pytest.raises(ConfigError, match=f"got {name.split('/')[0]} too, which would be lost"):
        free_folder(out, take, overwrite=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"file": 1, "stems": []}', "\x00"])
def test_a_file_that_is_called_like_a_record_is_none(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(
        ConfigError, match="must be a new folder, or one that `vimss separate` wrote; got something else"
    ):
        free_folder(tmp_path / "out", recording(tmp_path / "take.wav"), overwrite=True)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    assert free_folder(tmp_path / "out", recording(tmp_path / "take.wav")) == tmp_path / "out"


@pytest.mark.parametrize(("out", "got"), [(".", "the one you are in"), ("..", "the one you are in"), ("/", "the one")])
def test_the_folder_one_is_in_is_not_replaced(tmp_path, monkeypatch, out, got):
    take = recording(tmp_path / "take.wav")
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    with pytest.raises(ConfigError, match=rf"must be a folder that can be replaced as a whole; got {got}.*stems"):
        free_folder(Path(out), take)


def test_a_disk_of_its_own_is_not_replaced(tmp_path):
    with pytest.raises(ConfigError, match=r"can be replaced as a whole; got a disk of its own.*--out /proc/stems"):
        free_folder(Path("/proc"), recording(tmp_path / "take.wav"))


def test_a_link_to_a_folder_leads_to_it(tmp_path):
    take = recording(tmp_path / "take.wav")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "nothing").symlink_to("missing/deep")
    for name in ("link", "nothing"):
        stems_of(free_folder(tmp_path / name, take), take)
        assert (tmp_path / name).is_symlink() and (tmp_path / name / "vn.wav").is_file()
    assert (tmp_path / "real" / "vn.wav").is_file() and (tmp_path / "missing" / "deep" / "vn.wav").is_file()


def test_a_link_to_a_full_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="got something else, which would be lost"):
        free_folder(tmp_path / "link", recording(tmp_path / "take.wav"))


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StorageError, match="a.* must be readable and writable; got Too many levels of symbolic links"):
        free_folder(tmp_path / "a", recording(tmp_path / "take.wav"))


def test_a_folder_that_holds_what_is_read_is_refused(tmp_path):
    recording(tmp_path / "out" / "deep" / "vn.wav")
    with pytest.raises(
        ConfigError,
        match=r"out must not hold the recording, the model or the references; got .*deep/vn\.wav\. To fix: choose",
    ):
        check_inputs_stay(tmp_path / "out", (None, tmp_path / "out" / "deep" / "vn.wav"))
    check_inputs_stay(tmp_path / "out", (tmp_path / "out2" / "vn.wav",))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/take.wav", "take"),
        ("take..wav", "take."),
        (".wav", "wav"),
        ("..wav", "recording"),
        ("...wav", "recording"),
        (".tmp-take.wav", "tmp-take"),
        ("-take.wav", "-take"),
        ("é\n.wav", "é\n"),
    ],
)
def test_a_folder_is_called_like_its_recording(file, name):
    assert folder_name(Path(file)) == name


@pytest.mark.parametrize("name", ["a" * 255, "弦" * 85, "a" * 251, os.fsdecode(b"\xff" * 250)])
def test_a_numbered_name_fits_the_file_system(tmp_path, name):
    takes = [recording(tmp_path / str(number), bytes([number])) for number in range(2)]
    stems_of(tmp_path / name, takes[0])
    second = stems_of(free_folder(tmp_path / name, takes[1], numbered=True), takes[1])
    assert second.name.endswith("-2") and (second / RECORD).is_file()


@pytest.mark.parametrize(
    ("make", "got"),
    [(os.mkdir, "a folder"), (os.mkfifo, "a pipe or a device"), (lambda path: None, "no such file")],
)
def test_what_is_no_file_is_no_recording(tmp_path, make, got):
    make(tmp_path / "x.wav")
    with pytest.raises(MediaError, match=rf"x\.wav must be a media file; got {got}\. To fix: check the path"):
        recording_of(tmp_path / "x.wav")


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path):
    with pytest.raises(StorageError, match="/proc/x must be where folders can be made; got No such file.*with --out"):
        folders.make_folder(Path("/proc/.tmp-x"), Path("/proc/x"))


@pytest.fixture
def free_disk(monkeypatch):
    """Sets how many bytes the operating system says are free, one answer after another."""

    def answer(*free):
        answers = iter(free)
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(answers)))

    return answer


@pytest.mark.parametrize("signals", [1, 4])
def test_a_disk_with_just_enough_room_is_taken_and_one_byte_less_is_refused(tmp_path, free_disk, signals):
    needed = 1000 * 2 * (4 * signals + 2) + folders.SPARE_BYTES
    free_disk(needed, needed - 1)
    folders.check_space(tmp_path, 1000, 2, signals)
    with pytest.raises(StorageError, match=r"must have 128 MB free for this separation; got 128 MB\. To fix: free"):
        folders.check_space(tmp_path, 1000, 2, signals)
