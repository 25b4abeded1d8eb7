"""Files of a corpus that change, are missing, or cannot be read."""

import dataclasses

import pytest
from test_shards import file_pieces, own_corpus, read_file

from vimss.errors import ConfigError, DataError, MediaError
from vimss.shards import corpora
from vimss.shards.corpora import Listing, Piece
from vimss.shards.recipe import Recipe
from vimss.shards.unchanged import check_stamp, stamp
from vimss.shards.write import write_shards
from vimss.storage import Store


def test_all_pieces_that_cannot_be_read_are_named_and_mended_ones_go_on(monkeypatch, small_recipe, tmp_path, files):
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    (files / "a.txt").write_text("x")
    (files / "c.txt").write_text("yy")
    with pytest.raises(
        DataError, match=r"2 errors: \(1\) a.txt must be a number; got x. \(2\) c.txt .* got yy. To fix"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    tars = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    assert list(tars) == ["valid-000000.tar"] and not list(tmp_path.rglob("manifest.json"))
    (files / "a.txt").write_text("4000")
    (files / ".DS_Store").write_text("x")
    with pytest.raises(MediaError, match=r"^c.txt must be a number; got yy. To fix: write one$"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    (files / "c.txt").write_text("40000")
    (files / "c.txt").write_text("6000")
    manifest = write_shards(small_recipe, "mine", Store(tmp_path), files)
    assert [piece.name for piece in manifest.pieces] == ["c", "a", "b"]
    assert (manifest.folder / "valid-000000.tar").stat().st_mtime_ns == tars["valid-000000.tar"]
    assert write_shards(small_recipe, "mine", Store(tmp_path), str(files)) == manifest
    (files / "c.txt").write_text("60000")
    (files / "a.txt").unlink()
    (files / "d.txt").write_text("1")
    with pytest.raises(
        DataError,
        match=r"must hold the files that .* begun from; got other names or sizes than in source.tsv: a.txt is gone, "
        r"c.txt has 5 bytes instead of 4, d.txt is new. To fix: copy the recipe",
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), files)


def test_files_of_pieces_that_were_written_may_not_be_mended(monkeypatch, small_recipe, tmp_path, files):
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    (files / "c.txt").write_text("x")
    with pytest.raises(MediaError, match="c.txt must be a number"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    (files / "b.txt").write_text("70000")
    with pytest.raises(DataError, match=r"source.tsv: b.txt has 5 bytes instead of 3\. To fix"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)


@pytest.mark.parametrize(("change", "got"), [("write_text", "has changed"), ("unlink", "is gone")])
def test_files_that_change_while_they_are_read_are_named(monkeypatch, small_recipe, tmp_path, files, change, got):
    read = read_file(files)

    def read_and_change(piece, *given):
        if piece.name == "b":
            (files / "b.txt").write_text("501") if change == "write_text" else None
        yield from read(piece, *given)
        if piece.name == "b" and change == "unlink":
            (files / "b.txt").unlink()

    own_corpus(monkeypatch, file_pieces(files), read_and_change)
    with pytest.raises(
        DataError, match=rf"the files of b must stay as they are .*; got .*b.txt {got}. To fix: wait until"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    assert not list(tmp_path.rglob("valid-*.tar"))


def test_a_file_that_is_gone_when_it_is_read_is_named(monkeypatch, small_recipe, tmp_path, files):
    pieces = file_pieces(files)
    own_corpus(monkeypatch, pieces, read_file(files))
    (files / "b.txt").unlink()
    with pytest.raises(
        DataError, match=r"b.txt must be there and readable; got No such file or directory. To fix: put it"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), files)


def test_a_source_of_linked_folders_is_known_again_and_its_changes_are_named(
    monkeypatch, small_recipe, tmp_path, files
):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "piece").symlink_to(files, target_is_directory=True)
    (files / "round").symlink_to(linked, target_is_directory=True)
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    manifest = write_shards(small_recipe, "mine", Store(tmp_path), linked)
    assert write_shards(small_recipe, "mine", Store(tmp_path), linked) == manifest
    (files / "b.txt").write_text("70000")
    with pytest.raises(DataError, match=r"source.tsv: piece/b.txt has 5 bytes instead of 3\. To fix"):
        write_shards(small_recipe, "mine", Store(tmp_path), linked)


def test_files_in_linked_folders_of_a_piece_have_stamps(tmp_path, files):
    (tmp_path / "piece").mkdir()
    (tmp_path / "piece" / "frames").symlink_to(files, target_is_directory=True)
    before = stamp([tmp_path / "piece"])
    assert len(before) == 3
    (files / "b.txt").write_text("70000")
    with pytest.raises(DataError, match=r"the files of p must stay as they are .*frames/b.txt has changed"):
        check_stamp("p", [tmp_path / "piece"], before)


def test_shards_without_a_note_of_their_source_are_not_gone_on_with(monkeypatch, small_recipe, tmp_path, files):
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    manifest = write_shards(small_recipe, "mine", Store(tmp_path), files)
    (manifest.folder / "source.tsv").unlink()
    with pytest.raises(DataError, match="a source is for shards that were begun from one; .* fix: leave it out"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)


def test_a_source_that_is_no_folder_is_refused_even_where_shards_exist(monkeypatch, small_recipe, tmp_path, files):
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    write_shards(small_recipe, "mine", Store(tmp_path), files)
    with pytest.raises(
        ConfigError, match=r"needs the folder that it lies in; got the file .*a.txt. To fix: give it: --s"
    ):
        write_shards(small_recipe, "mine", Store(tmp_path), files / "a.txt")


def test_a_piece_is_stamped_when_it_is_listed(monkeypatch, small_recipe, tmp_path, files):
    def pieces(*_):
        found = file_pieces(files)
        (files / "a.txt").write_text("4000")  # while others are listed
        return Listing(tuple(found))

    own_corpus(monkeypatch, (), read_file(files))
    monkeypatch.setattr(corpora.reader_of("chamber"), "pieces", pieces)
    with pytest.raises(DataError, match=r"the files of a must stay as they are .*a.txt has changed. To fix: wait"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)


def test_a_shard_whose_pieces_are_others_now_is_written_anew(monkeypatch, small_recipe, tmp_path, files):
    # A piece that was repaired lasts longer, so that fewer fit into its shard.
    read = read_file(files)
    pieces = [Piece(name, "train", name, 1.0, (files / f"{name}.txt",)) for name in "ab"]
    pieces.append(Piece("c", "valid", "c", 1.0, (files / "c.txt",)))
    (files / "c.txt").write_text("x")
    own_corpus(monkeypatch, pieces, read)
    with pytest.raises(MediaError, match="c.txt must be a number"):
        write_shards(small_recipe, "mine", Store(tmp_path), files)
    (files / "c.txt").write_text("7")
    (files / "c.txt").write_text("700")
    own_corpus(monkeypatch, [dataclasses.replace(pieces[0], seconds=1e6), *pieces[1:]], read)
    manifest = write_shards(small_recipe, "mine", Store(tmp_path), files)
    assert [(shard.name, shard.clips) for shard in manifest.shards] == [
        ("train-000000.tar", 1), ("train-000001.tar", 1), ("valid-000000.tar", 1),
    ]  # fmt: skip


def test_a_corpus_of_which_nothing_can_be_read_is_none(monkeypatch, small_recipe, tmp_path, files):
    own_corpus(monkeypatch, file_pieces(files), read_file(files))
    for path in files.iterdir():
        path.write_text("x")
    recipe = Recipe.model_validate({**small_recipe.model_dump(), "expect": {"pieces": 3, "most_missing": 1}})
    with pytest.raises(
        DataError, match="must hold at least one piece; got none under .*; missing: c: c.txt must be a number"
    ):
        write_shards(recipe, "mine", Store(tmp_path), files)
    assert not list(tmp_path.rglob("manifest.json"))
