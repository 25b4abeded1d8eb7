"""Fixed mixtures are a function of the shards alone, drawn once, and kept whole beside them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from interfaces import LABELS, interface
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_stream import rewrite

from vimss.errors import DataError
from vimss.shards.manifest import open_manifest
from vimss.storage import atomic_write, sha256
from vimss.stream import fixed as fixed_module
from vimss.stream.fixed import FOLDER, FixedSpec, draw, fixed_path, fixed_set, mixtures_of
from vimss.stream.lazy import ClipEntry, PlayerEntry
from vimss.stream.mapped import map_arrays
from vimss.stream.mix import SOUND_ALONE, Window
from vimss.stream.read import list_clips, read_clips

KINDS = ((2, False), (3, True), (4, False))
SPEC = FixedSpec("valid", 2000, KINDS, margin=500)
RATE = 8000


@pytest.fixture
def manifest(small_manifest, tmp_path):
    """The small corpus, with nothing beside its shards."""
    folder = shutil.copytree(small_manifest.folder, tmp_path / "shards", ignore=shutil.ignore_patterns(FOLDER))
    return open_manifest(folder)


def mixtures(manifest, spec=SPEC, input_samples=3000, context="none"):
    window = Window(input_samples, spec.samples, RATE)
    return list(
        mixtures_of(
            fixed_set(manifest, spec),
            manifest,
            window,
            SOUND_ALONE if context == "none" else interface(context=context),
        )
    )


def excerpt(mixture, samples=2000):
    """The stems of a mixture in the middle of its window."""
    first = (mixture.sound.shape[1] - samples) // 2
    return np.stack([source.stem[:, first : first + samples] for source in mixture.sources])


def entry(key, *labels, samples=3000):
    return ClipEntry("s", key, key, samples, tuple(PlayerEntry(label, "", True) for label in labels))


def drawn_from(entries, *kinds):
    spec = FixedSpec("valid", 2000, kinds)
    return draw(entries, spec, lambda clip, _: np.full((1, clip.samples), 3000, np.int16))[0]


# What is drawn


@pytest.mark.parametrize("window", [2000, 2001, 2600, 3000, 9000])
def test_the_excerpts_are_the_same_whatever_a_network_reads_around_them(manifest, window):
    expected = [excerpt(mixture) for mixture in mixtures(manifest)]
    found = [excerpt(mixture) for mixture in mixtures(manifest, input_samples=window)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("context", ["frames", "none"])
def test_the_excerpts_are_the_same_whatever_a_network_is_shown(manifest, context):
    for one, other in zip(mixtures(manifest, context=context), mixtures(manifest), strict=True):
        np.testing.assert_array_equal(one.sound, other.sound)
        assert all((source.view is None) == (context == "none") for source in one.sources)


def test_a_mixture_is_the_sum_of_stems_as_they_are_in_the_shards(manifest):
    clips = {clip.key: clip for clip in read_clips(manifest, "valid")}
    kept = fixed_set(manifest, SPEC)
    for drawn, mixture in zip(kept.drawn, mixtures(manifest), strict=True):
        np.testing.assert_allclose(mixture.sound, sum(source.stem for source in mixture.sources), atol=1e-7)
        for place, source in zip(drawn.sources, mixture.sources, strict=True):
            stem = clips[place.clip].players[place.player].audio[:, place.start : place.start + 2000]
            scale = np.float32(place.gain) / np.float32(32768)
            if not mixture.peak_limited:
                np.testing.assert_array_equal(source.stem[:, 500:2500], stem * scale)


def test_what_surrounds_an_excerpt_is_its_clip_and_beyond_the_margin_silence(manifest):
    clips = {clip.key: clip for clip in read_clips(manifest, "valid")}
    kept = fixed_set(manifest, SPEC)
    wide = mixtures(manifest, input_samples=2000 + 2 * 800)
    for drawn, mixture in zip(kept.drawn, wide, strict=True):
        place, source = drawn.sources[0], mixture.sources[0]
        assert not source.stem[:, :300].any() and not source.stem[:, -300:].any()
        audio = np.pad(clips[place.clip].players[place.player].audio, ((0, 0), (500, 500)))
        around = audio[:, place.start : place.start + 3000]
        level = np.float32(place.gain) / 32768
        if not mixture.peak_limited:
            np.testing.assert_allclose(source.stem[:, 300:-300], around * level, rtol=1e-6)


def test_the_margin_does_not_decide_which_excerpts_are_drawn(manifest):
    none, wide = (fixed_set(manifest, replace(SPEC, margin=margin)).drawn for margin in (0, 4000))
    assert none == wide


def test_more_mixtures_begin_with_those_of_fewer(manifest):
    fewer, more = (fixed_set(manifest, replace(SPEC, kinds=KINDS * times)) for times in (1, 3))
    assert more.drawn[: len(KINDS)] == fewer.drawn
    for one, other in zip(fewer.stems, more.stems[: len(KINDS)], strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_draws_other_excerpts(manifest):
    assert fixed_set(manifest, replace(SPEC, seed=1)).drawn != fixed_set(manifest, SPEC).drawn


def test_a_split_of_solos_gives_mixtures_of_other_kinds():
    solos = [entry(f"p{number}", label) for number, label in enumerate(LABELS)]
    drawn = drawn_from(solos, (2, True), (3, False), (4, False), (3, True))
    assert [(len(mixture.sources), mixture.aligned) for mixture in drawn] == [(3, False)] * 4
    with pytest.raises(DataError, match=r"'valid' must have 2 instruments, .* got 1 instruments, and 1 players"):
        drawn_from(solos[:1], (2, True), (3, False))


def test_a_trio_that_is_too_short_makes_no_mixtures():
    entries = [entry("p", "vn", "fl"), entry("q", *LABELS, samples=1999)]
    assert [len(mixture.sources) for mixture in drawn_from(entries, (3, True), (2, True))] == [2, 2]
    with pytest.raises(DataError, match=r"in clips of 2000 samples or more; got 0 instruments.*with longer clips"):
        drawn_from(entries[1:], (3, True), (2, True))


def test_players_who_rest_are_not_drawn():
    resting = ClipEntry("s", "r", "r", 3000, (PlayerEntry("cl", "", False), *entry("r", *LABELS).players))
    labels = {source.label for mixture in drawn_from([resting], *[(3, True)] * 20) for source in mixture.sources}
    assert labels == set(LABELS)


def test_a_distractor_is_named_where_it_is_wanted_and_is_never_heard(manifest):
    wanted = fixed_set(manifest, replace(SPEC, distractors=True)).drawn
    for mixture, plain in zip(wanted, fixed_set(manifest, SPEC).drawn, strict=True):
        (distractor,) = mixture.distractors
        assert distractor.label not in {source.label for source in mixture.sources}
        assert mixture.sources == plain.sources and plain.distractors == ()


def test_pictures_are_those_of_the_window(manifest):
    clips = {clip.key: clip for clip in read_clips(manifest, "valid", parts=("picture",))}
    kept = fixed_set(manifest, SPEC)
    for drawn, mixture in zip(kept.drawn, mixtures(manifest, input_samples=4000, context="frames"), strict=True):
        for place, source in zip(drawn.sources, mixture.sources, strict=True):
            assert len(source.view) == 2  # half a second at 4 pictures a second
            picture = clips[place.clip].players[place.player].picture
            frame = int((place.start - 1000 + 1000) / RATE * 4)  # the middle of the first quarter of a second
            np.testing.assert_array_equal(source.view[0], picture[min(max(frame, 0), len(picture) - 1)])


def test_the_list_of_clips_is_what_reading_them_finds(manifest):
    clips, listed = list(read_clips(manifest, "valid")), list(list_clips(manifest, "valid"))
    assert [entry.key for entry in listed] == [clip.key for clip in clips]
    for found, clip in zip(listed, clips, strict=True):
        assert (found.piece, found.samples) == (clip.piece, clip.samples)
        assert [(p.instrument, p.timbre, p.sounds) for p in found.players] == [
            (player.instrument, player.timbre, player.audio is not None) for player in clip.players
        ]


# How it is kept


def count_decodings(monkeypatch):
    calls = []

    def counted(manifest, split, *rest, **more):
        calls.append(split)
        return read_clips(manifest, split, *rest, **more)

    monkeypatch.setattr(fixed_module, "read_clips", counted)
    return calls


@pytest.mark.slow
def test_what_one_process_drew_another_one_reads(manifest):
    code = (
        "from vimss.shards.manifest import open_manifest; from vimss.stream.fixed import FixedSpec, fixed_set\n"
        f"fixed_set(open_manifest({str(manifest.folder)!r}), FixedSpec('valid', 2000, {KINDS!r}, margin=500))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    path = fixed_path(manifest, SPEC)
    before = path.stat()
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = count_decodings(monkeypatch)
        found = mixtures(manifest)
    assert calls == [] and (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.unlink()
    for one, other in zip(found, mixtures(manifest), strict=True):
        np.testing.assert_array_equal(one.sound, other.sound)


@pytest.mark.slow
def test_two_processes_that_draw_at_once_leave_one_whole_file(manifest):
    code = (
        "from vimss.shards.manifest import open_manifest; from vimss.stream.fixed import FixedSpec, fixed_set\n"
        f"manifest = open_manifest({str(manifest.folder)!r}); input()\n"
        f"fixed_set(manifest, FixedSpec('valid', 2000, {KINDS!r}, margin=500))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.communicate(b"\n")
    assert [process.returncode for process in both] == [0, 0]
    assert list((manifest.folder / FOLDER).iterdir()) == [fixed_path(manifest, SPEC)]
    assert len(fixed_set(manifest, SPEC).drawn) == len(KINDS)


def tampered(path, change):
    """The same arrays with other words beside them."""
    arrays = load_file(path)
    with safe_open(path, framework="np") as file:
        about = file.metadata()["about"]
    save_file(arrays, path, {"about": change(about)})


def flip(path):
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\x55\xaa")


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: os.truncate(path, 1000),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"not at all"),
        lambda path: save_file({"0": np.zeros(3, np.int16)}, path),
        lambda path: tampered(path, lambda about: about.replace('"start": ', '"start": 1')),
        lambda path: tampered(path, lambda about: "0" * 64 + about[64:]),
    ],
    ids=["a byte", "cut short", "empty", "other bytes", "other arrays", "other mixtures", "other digest"],
)
def test_a_damaged_file_is_named_and_made_again(manifest, caplog, damage):
    expected = [mixture.sound for mixture in mixtures(manifest)]
    path = fixed_path(manifest, SPEC)
    whole = path.read_bytes()
    damage(path)
    found = [mixture.sound for mixture in mixtures(manifest)]
    assert f"{path} was damaged and is made again: " in caplog.text
    np.testing.assert_array_equal(np.concatenate(found, axis=1), np.concatenate(expected, axis=1))
    assert path.read_bytes() == whole


def test_a_file_under_the_name_of_another_is_not_taken_for_it(manifest, caplog):
    other = replace(SPEC, seed=1)
    fixed_set(manifest, other)
    expected = fixed_set(manifest, SPEC).drawn
    shutil.copy(fixed_path(manifest, other), fixed_path(manifest, SPEC))
    assert fixed_set(manifest, SPEC).drawn == expected
    assert "it holds other mixtures than those of its name" in caplog.text


def test_shards_that_were_written_anew_have_mixtures_of_their_own(manifest):
    shards = tuple(shard.model_copy(update={"sha256": "0" * 64}) for shard in manifest.shards)
    assert fixed_path(manifest.model_copy(update={"shards": shards}), SPEC) != fixed_path(manifest, SPEC)


def test_where_nothing_can_be_kept_each_process_draws_the_same(manifest, caplog):
    expected = [mixture.sound for mixture in mixtures(manifest)]
    shutil.rmtree(manifest.folder / FOLDER)
    (manifest.folder / FOLDER).write_text("a file in the way of the folder")
    found = [mixture.sound for mixture in mixtures(manifest)]
    np.testing.assert_array_equal(np.concatenate(found, axis=1), np.concatenate(expected, axis=1))
    assert "every process draws the mixtures of 'valid' itself, because they cannot be kept: " in caplog.text


def test_a_damaged_shard_is_an_error(manifest):
    with (manifest.folder / manifest.of_split("valid")[0].name).open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(DataError, match=r"must have the SHA-256 .*delete .* and run `vimss shard small`"):
        fixed_set(manifest, SPEC)


@pytest.mark.parametrize(
    ("about", "got"),
    [(b"{}", "KeyError: 'players'"), (b'{"players": 3}', "TypeError"), (b"no JSON", "JSONDecodeError")],
)
def test_a_clip_whose_json_is_malformed_is_named(manifest, about, got):
    def change(name, content):
        return about if name.endswith("json") else content

    changed = rewrite(manifest.folder, "valid-000000.tar", change)
    rule = "must hold the members that its JSON lists, and no more in them"
    with pytest.raises(DataError, match=rf"the clip valid-.*json in .*valid-000000.tar {rule}; got {got}"):
        list(list_clips(changed, "valid"))


def test_a_shard_that_is_no_tar_file_is_named(manifest):
    (manifest.folder / "valid-000000.tar").write_bytes(b"no tar file" * 100)
    content = json.loads((manifest.folder / "manifest.json").read_text(encoding="utf-8"))
    for shard in content["shards"]:
        if shard["name"] == "valid-000000.tar":
            shard["size"], shard["sha256"] = 1100, sha256(manifest.folder / "valid-000000.tar")
    (manifest.folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"valid-000000.tar must be a tar file; got "):
        fixed_set(open_manifest(manifest.folder), SPEC)


def mapped_files() -> str:
    """The files that this process has mapped into its memory."""
    return Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_stems_are_pages_of_the_file_and_no_copy_of_it(manifest):
    for _ in ("drawn", "read"):
        kept = fixed_set(manifest, SPEC)
        assert str(fixed_path(manifest, SPEC)) in mapped_files()
        assert not any(stems.flags.writeable or stems.flags.owndata for stems in kept.stems)
        del kept
        assert str(fixed_path(manifest, SPEC)) not in mapped_files()


def test_stems_stay_when_their_file_is_replaced_or_deleted(manifest):
    kept = fixed_set(manifest, SPEC)
    expected = [stems.copy() for stems in kept.stems]
    with atomic_write(fixed_path(manifest, SPEC)) as temporary:
        temporary.write_bytes(b"another")
    fixed_path(manifest, SPEC).unlink()
    assert all(np.array_equal(*pair) for pair in zip(kept.stems, expected, strict=True))


def test_mapped_arrays_are_those_that_safetensors_reads(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"0": (2, 1, 700), "1": (3, 1, 7), "empty": (0, 1, 5)}
    arrays = {name: rng.integers(-9, 9, shape).astype(np.int16) for name, shape in shapes.items()}
    save_file(arrays, tmp_path / "a.safetensors", {"about": "é" * 3})
    found = map_arrays(tmp_path / "a.safetensors")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_an_array_beyond_the_end_of_the_file_is_refused(tmp_path):
    save_file({"0": np.zeros((1, 1, 700), np.int16)}, tmp_path / "a.safetensors")
    os.truncate(tmp_path / "a.safetensors", 500)
    with pytest.raises(ValueError, match="the array 0 does not lie in the file"):
        map_arrays(tmp_path / "a.safetensors")
