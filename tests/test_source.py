"""Folders and tables as people have them: the system's own files, names in any script, what spreadsheets save."""

import os
import unicodedata

import pytest

from vimss.errors import ConfigError, DataError, MediaError
from vimss.shards.recipe import load_recipe
from vimss.shards.source import (
    Problems,
    did_you_mean,
    file_called,
    find_file,
    first_of,
    is_junk,
    plain_name,
    source_folder,
    together,
    visible,
)
from vimss.shards.table import header_of, number, read_records, read_table

RECIPE = load_recipe("folder")


def test_names_that_were_plain_or_latin_are_as_before():
    for name, plain in (
        ("No. 1", "No-1"), ("A & B - One", "A-B---One"), ("vn-2_x", "vn-2_x"), ("-", "-"),
        ("videos/p0 0", "videos-p0-0"),
    ):  # fmt: skip
        assert plain_name(name) == plain


def test_names_of_any_script_are_plain_and_stay_apart():
    names = [
        "月光",
        "日本",
        "Плач",
        "Пляс",
        "Für Elise",
        "Fur Elise",
        "F?r Elise",
        "★",
        "☆",
        "???",
        "!",
        "Ωδή 1",
        "Ωδή 2",
    ]
    plain = [plain_name(name) for name in names]
    assert len(set(plain)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") for name in plain)
    assert plain_name("Für Elise") == "F-r-Elise-5ef0dad4"


def test_both_ways_to_write_an_accent_are_one_name():
    assert plain_name(unicodedata.normalize("NFD", "Café")) == plain_name(unicodedata.normalize("NFC", "Café"))


def test_a_name_that_is_no_unicode_has_a_plain_one():
    assert plain_name(os.fsdecode(b"caf\xe9")) != plain_name(os.fsdecode(b"caf\xe8"))


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store", "._vn.wav", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", ".sync", "vn.wav.part",
        "a.crdownload", "ID.mp4.ytdl", "Icon\r", "~$instruments.csv", "instruments.csv~", "vn.wav.download",
        "$RECYCLE.BIN",
    ],
)  # fmt: skip
def test_what_systems_and_downloads_leave_is_no_part_of_a_corpus(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "vn.wav").write_bytes(b"")
    assert is_junk(name) and visible(tmp_path) == [tmp_path / "vn.wav"]


def test_a_folder_that_is_not_there_has_nothing_visible(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert visible(tmp_path / "nothing") == visible(tmp_path / "file") == []


def test_files_are_found_whatever_wrote_their_names(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "Prélude")).mkdir()
    path = tmp_path / unicodedata.normalize("NFD", "Prélude") / "Take 1.WAV"
    path.write_bytes(b"")
    for text in ("Prélude/take 1.wav", "prélude\\Take 1.WAV", "./Prélude/Take 1.wav"):
        assert find_file(tmp_path, text) == path
    for text in ("Prélude", "Prélude/take 2.wav", "../x", "/etc/hostname", "Prélude/../Prélude/Take 1.WAV", ""):
        assert find_file(tmp_path, text) is None
    assert file_called(path.parent, "Take 1", [".flac", ".wav"]) == path
    assert file_called(path.parent, "Take 1", [".flac"]) is None


def test_a_source_that_is_no_folder_is_told_apart(tmp_path):
    (tmp_path / "corpus.zip").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for source, got in (
        (None, "no --source"),
        (tmp_path / "x", "no folder .*x"),
        (tmp_path / "corpus.zip", "the file .*corpus.zip"),
        (str(tmp_path / "link"), "a link to nothing, .*link"),
        (tmp_path / "round", "a link to nothing, .*round"),
    ):
        with pytest.raises(
            ConfigError, match=f"'folder' needs the folder that it lies in; got {got}. To fix: give it: "
        ):
            source_folder(source, RECIPE)
    assert source_folder(str(tmp_path), RECIPE) == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    folder, user = tmp_path / "closed", os.geteuid()
    folder.mkdir(mode=0o000)
    try:
        if user == 0:
            os.seteuid(65534)  # the superuser may read everything
        for look in (lambda: source_folder(folder, RECIPE), lambda: visible(folder)):
            with pytest.raises(
                DataError, match=r".* must be there and readable; got Permission denied. To fix: correct its"
            ):
                look()
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_the_right_folder_near_a_wrong_one_is_named(tmp_path):
    (tmp_path / "a" / "corpus" / "corpus" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "corpus" / "corpus" / "list.csv").write_bytes(b"")
    right = tmp_path / "a" / "corpus" / "corpus"
    for wrong in (tmp_path, tmp_path / "a", tmp_path / "a" / "corpus", right / "inner", right / "inner" / "more"):
        assert did_you_mean(wrong, lambda near: (near / "list.csv").is_file()) == f"; did you mean --source {right}?"
    assert did_you_mean(tmp_path, lambda near: (near / "no.csv").is_file()) == ""
    assert did_you_mean(right / "inner", lambda near: (near / "list.csv").is_file(), levels_above=0) == ""


def note_errors(*errors):
    problems = Problems()
    for place, error in enumerate(errors):
        with problems.of(f"piece {place}"):
            raise error
    return problems


def bad(number):
    return MediaError(f"{number}.wav must be sound", got="HTML", fix="export it again")


def test_one_error_stays_as_it_is_and_several_are_named_together():
    note_errors().refuse()
    with pytest.raises(MediaError, match=r"^0.wav must be sound; got HTML. To fix: export it again$"):
        note_errors(bad(0)).refuse()
    with pytest.raises(
        DataError, match=r"got 2 errors: \(1\) 0.wav must be sound; got HTML. \(2\) 1.wav .*To fix: export"
    ):
        note_errors(bad(0), bad(1)).refuse()
    inner = together([bad(0), bad(1)])
    with pytest.raises(DataError, match=r"got 3 errors: \(1\) 0.wav .*\(3\) 2.wav"):
        note_errors(inner, bad(2)).refuse()
    with pytest.raises(DataError, match=r"got 12 errors: .*\(10\) 9.wav must be sound; got HTML and 2 more. To fix"):
        note_errors(*map(bad, range(12))).refuse()


def test_pieces_that_a_recipe_may_lack_are_missing_with_the_reason():
    lenient = load_recipe("folder", ["expect={pieces: 3, most_missing: 0.7}"])
    assert note_errors(bad(0)).missing(lenient, 2) == (
        "piece 0: 0.wav must be sound; got HTML. To fix: export it again",
    )
    with pytest.raises(
        DataError, match=r"export it again; or leave .*: --set 'expect=\{pieces: 5, most_missing: 0.4\}'"
    ):
        note_errors(bad(0), bad(1)).missing(RECIPE, 3)


def test_the_way_out_that_an_error_names_is_a_setting():
    with pytest.raises(DataError) as error:
        note_errors(bad(0), bad(1)).missing(RECIPE, 3)
    setting = error.value.fix.partition("--set '")[2].rstrip("'")
    assert load_recipe("folder", [setting]).may_lack_pieces


def test_errors_of_the_system_name_the_file():
    problems = note_errors(FileNotFoundError(2, "No such file or directory", "/music/vn.wav"))
    with pytest.raises(DataError, match=r"/music/vn.wav must be there and readable; got No such file .*: put it back"):
        problems.refuse()


def test_first_of_says_how_many_more():
    assert first_of(["a", "b", "c"], 2) == "a, b and 1 more" and first_of(["a", "b"], between="; ") == "a; b"


ROWS = [["file", "instrument"], ["Träck, 1.wav", "Flöte"], ["2.wav", "vc"]]


def saved(separator: str, ends: str = "\n", tail: str = "") -> str:
    quoted = [[f'"{word}"' if separator in word else word for word in row] for row in ROWS]
    return "".join(separator.join(row) + tail + ends for row in quoted)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_table_is_read_however_it_was_saved(tmp_path, encoding, separator, ends):
    (tmp_path / "table.csv").write_bytes(saved(separator, ends).encode(encoding))
    assert [row.words for row in read_table(tmp_path / "table.csv")] == ROWS


def test_empty_rows_and_columns_and_spaces_are_left_out(tmp_path):
    text = "sep=;\n\n" + saved(";", tail=" ; ;").replace("2.wav", '  "2.wav"  ') + ";;;\n \n"
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    rows = read_table(tmp_path / "table.csv")
    assert [row.words for row in rows] == ROWS and [row.line for row in rows] == [3, 4, 5]


def test_accents_of_a_mac_are_composed(tmp_path):
    (tmp_path / "table.csv").write_text(unicodedata.normalize("NFD", "Träck.wav,vn\n"), encoding="utf-8")
    assert read_table(tmp_path / "table.csv")[0].words == ["Träck.wav", "vn"]


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"PK\x03\x04\x14\0\0\0\x08")
    with pytest.raises(DataError, match=r"table.csv must be a table as text; got binary data. To fix: save it as CSV"):
        read_table(tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text(f'a,"{"b" * 200_000}"\n')
    with pytest.raises(DataError, match=r"table.csv must be a table of words; got field larger than"):
        read_table(tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"no.csv must be there and readable; got No such file"):
        read_table(tmp_path / "no.csv")


def test_a_header_is_known_by_its_words(tmp_path):
    (tmp_path / "table.csv").write_text("Video;Player\na.mp4\nb.mp4;p;more\n", encoding="utf-8")
    rows = read_table(tmp_path / "table.csv")
    assert header_of(rows, {"video"}, {"player", "who"}) == ["video", "player"] and header_of(rows, {"piece"}) is None
    assert read_records(tmp_path / "table.csv") == (
        ["video", "player"],
        [(2, {"video": "a.mp4", "player": ""}), (3, {"video": "b.mp4", "player": "p"})],
    )
    (tmp_path / "table.csv").write_text("")
    assert read_records(tmp_path / "table.csv") == ([], []) and header_of([], {"piece"}) is None


def test_numbers_may_have_a_decimal_comma():
    assert (number("0,25"), number("0.25")) == (0.25, 0.25)
    with pytest.raises(ValueError, match="onset"):
        number("onset")
