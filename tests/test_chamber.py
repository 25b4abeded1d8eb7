import hashlib
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vimss.config import parse_config
from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip
from vimss.shards.corpora import Piece
from vimss.shards.corpora.chamber import Options, pieces, read
from vimss.shards.corpora.chamber.arrange import Style, Tone, arrange
from vimss.shards.corpora.chamber.casting import RANGES, SHARES, Casting, make_plan
from vimss.shards.corpora.chamber.catalogue import chorales, quartets
from vimss.shards.corpora.chamber.drawing import Film, boxes_of, draw
from vimss.shards.corpora.chamber.motion import move
from vimss.shards.corpora.chamber.score import Note, corpus_folder, read_score
from vimss.shards.corpora.chamber.skeleton import JOINTS, UNSEEN, skeleton_rows
from vimss.shards.corpora.chamber.sound import (
    PATCHES,
    SHIFTS,
    UNSEEN_PATCHES,
    UNSEEN_SHIFTS,
    Timbre,
    choose_timbre,
    default_bank,
    perform,
)
from vimss.shards.corpora.chamber.styles import PLAIN
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import SPLITS, Recipe
from vimss.stream.pitch import height

RATE = 8000


def make_recipe(**changes: object) -> Recipe:
    settings = {"corpus": "chamber", "description": "d", "licence": "l", "obtain": "o", "sample_rate": RATE}
    return Recipe.model_validate({**settings, "picture": {"size": 32, "frame_rate": 12.5}, **changes})


SMALL = Options(minutes=2)


def digest(clips: list[Clip]) -> str:
    players = [player for clip in clips for player in clip.players]
    return digest_of([array for p in players for array in (p.audio, p.picture, p.masks, p.boxes, p.skeleton)])


def digest_of(arrays: list[np.ndarray | None]) -> str:
    return hashlib.sha256(b"".join(b"" if array is None else array.tobytes() for array in arrays)).hexdigest()


def piece_where(recipe: Recipe, options: Options, split: str, players: int) -> Piece:
    plan = make_plan(recipe.seed, options.minutes, options.piece_seconds)
    listed = {piece.name: piece for piece in pieces(recipe, options, None).pieces}
    return next(listed[c.name] for c in plan.values() if c.split == split and len(c.instruments) == players)


@pytest.fixture(scope="module")
def arranged() -> list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]:
    return [(casting, arrange(casting, 0, Style())) for casting in make_plan(0, 7.0, 30.0).values()]


@pytest.fixture(scope="module")
def quartet() -> list[Clip]:
    recipe = make_recipe(picture={"size": 64, "frame_rate": 12.5})
    options = SMALL.model_copy(update={"notes": True})
    return list(read(piece_where(recipe, options, "valid", 4), recipe, options, None))


# --- scores -----------------------------------------------------------------------------------------------------


def test_a_chorale_is_read_note_by_note() -> None:
    soprano = read_score("bach/bwv66.6.mxl").parts[0]
    assert soprano[:4] == (Note(0.0, 0.5, 73), Note(0.5, 0.5, 71), Note(1.0, 1.0, 69), Note(2.0, 1.0, 71))


def test_every_score_of_the_catalogue_exists() -> None:
    folder = corpus_folder()
    missing = [
        score
        for split in SPLITS
        for work in (*quartets(split), *chorales(split))
        for score in work.scores
        if not (folder / score).exists()
    ]
    assert missing == []


def test_a_score_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"bwv0\.mxl must be a compressed MusicXML score; got FileNotFoundError"):
        read_score("bach/bwv0.mxl")


def test_a_file_that_is_no_archive_is_named() -> None:
    with pytest.raises(DataError, match=r"license\.txt must be a compressed MusicXML score; got BadZipFile"):
        read_score("license.txt")


@pytest.mark.slow
def test_no_tune_crosses_from_one_split_to_another() -> None:
    runs = {
        (split, score): _interval_runs(read_score(score).parts[0])
        for split in SPLITS
        for work in chorales(split)
        for score in work.scores
    }
    crossing = [
        (one, other)
        for one in runs
        for other in runs
        if one[0] < other[0] and len(runs[one] & runs[other]) >= 0.15 * min(len(runs[one]), len(runs[other]))
    ]
    assert len(runs) > 300
    assert crossing == []


def _interval_runs(part: tuple[Note, ...], length: int = 10) -> set[tuple[int, ...]]:
    pitches = [note.pitch for index, note in enumerate(part) if index == 0 or part[index - 1].pitch != note.pitch]
    intervals = np.diff(pitches).tolist()
    return {tuple(intervals[start : start + length]) for start in range(len(intervals) - length + 1)}


# --- casting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [1.0, 10.0, 120.0])
def test_no_composition_and_no_score_stands_in_two_splits(minutes: float) -> None:
    splits: dict[str, set[str]] = {}
    for casting in make_plan(0, minutes, 30.0, unseen_style_minutes=minutes).values():
        splits.setdefault(casting.composition, set()).add(casting.split)
        splits.setdefault(casting.score, set()).add(casting.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("minutes", [1.0, 10.0, 14.0, 60.0])
def test_every_split_has_four_pieces_and_all_instruments(minutes: float) -> None:
    plan = make_plan(3, minutes, 30.0, unseen_style_minutes=minutes / 10)
    for split in SPLITS:
        cast = [casting.instruments for casting in plan.values() if casting.split == split]
        assert len(cast) >= 4
        assert {code for instruments in cast for code in instruments} == set(INSTRUMENTS)


def test_pieces_are_duets_to_quartets_and_fill_the_minutes() -> None:
    plan = make_plan(0, 14.0, 30.0).values()
    assert {len(casting.instruments) for casting in plan} == {2, 3, 4}
    for split, share in SHARES.items():
        assert sum(c.seconds for c in plan if c.split == split) == pytest.approx(14 * 60 * share)
    assert max(casting.seconds for casting in plan) <= 30


def test_some_pieces_of_a_large_corpus_have_two_players_of_one_instrument() -> None:
    def doubles(minutes: float) -> float:
        plans = [make_plan(seed, minutes, 30.0) for seed in range(4)]
        return float(np.mean([len(set(c.instruments)) < len(c.instruments) for plan in plans for c in plan.values()]))

    assert doubles(14.0) == 0
    assert 0.05 < doubles(120.0) < 0.15


def test_a_share_of_the_pieces_are_duets_of_each_instrument_in_turn() -> None:
    plan = [casting for casting in make_plan(0, 120.0, 30.0, doubles=0.5).values() if casting.split == "train"]
    pairs = [c.instruments[0] for c in plan if len(c.instruments) == 2 == len(set(c.instruments)) + 1]
    assert len(pairs) == len(plan) // 2
    counts = [pairs.count(code) for code in INSTRUMENTS]
    assert max(counts) - min(counts) <= 1


def test_listing_pieces_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vimss.shards.corpora.chamber import *; from vimss.shards.recipe import Recipe;"
        "recipe = Recipe(corpus='chamber', description='d', licence='l', obtain='o');"
        "found = pieces(recipe, Options(), None).pieces;"
        "print(len(found), {'cv2', 'music21', 'midirenderer', 'soxr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["125", "set()"]


# --- arrangement ------------------------------------------------------------------------------------------------


def test_every_tone_lies_in_its_instruments_range(arranged: list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]) -> None:
    for casting, parts in arranged:
        for instrument, tones in zip(casting.instruments, parts, strict=True):
            low, high = RANGES[instrument]
            assert all(low <= tone.pitch <= high for tone in tones)


def test_registers_of_the_instruments_overlap(arranged: list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]) -> None:
    pitches: dict[str, list[int]] = {code: [] for code in INSTRUMENTS}
    for casting, parts in arranged:
        for instrument, tones in zip(casting.instruments, parts, strict=True):
            pitches[instrument] += [tone.pitch for tone in tones]
    compass = {code: (np.percentile(found, 5), np.percentile(found, 95)) for code, found in pitches.items()}
    for one, (low, high) in compass.items():
        assert high - low >= 12, f"{one} plays in one register only"
        assert sum(low < other_high and other_low < high for other_low, other_high in compass.values()) - 1 >= 5, one


def test_tones_follow_each_other_within_the_piece(arranged: list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]) -> None:
    for casting, parts in arranged:
        for tones in parts:
            assert tones[0].start >= 0
            assert tones[-1].end < casting.seconds
            assert all(before.start < after.start for before, after in pairwise(tones))
            assert all(tone.end > tone.start and 0 < tone.loud <= 1 for tone in tones)


def test_players_rest_at_times(arranged: list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]) -> None:
    longest = [
        max(after.start - before.end for before, after in pairwise(tones)) for _, parts in arranged for tones in parts
    ]
    assert np.mean(np.array(longest) > 1.5) > 0.4


def test_some_pieces_are_slow_and_some_lively(arranged: list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]) -> None:
    rates = [len(tones) / casting.seconds for casting, parts in arranged for tones in parts]
    assert np.percentile(rates, 10) < Style().notes_per_second[0]
    assert np.percentile(rates, 90) > 2.0


# --- sound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-5, 0, 5])
def test_shifted_samples_keep_pitch_and_time(shift: int) -> None:
    timbre = Timbre(default_bank(), 71, shift, unseen=False)
    (stem,) = perform([timbre], [[Tone(1.0, 1.8, 69, 0.8)]], 2 * RATE, RATE, 1, np.random.default_rng(0))
    sound = stem[0].astype(float)
    spectrum = np.abs(np.fft.rfft(sound[int(1.2 * RATE) : int(1.7 * RATE)] * np.hanning(RATE // 2), 8 * RATE))
    assert np.abs(sound[: int(0.98 * RATE)]).max() < 0.01 * np.abs(sound).max()
    assert np.abs(sound[int(1.0 * RATE) : int(1.2 * RATE)]).max() > 0.3 * np.abs(sound).max()
    peak = 1200 * np.log2((np.argmax(spectrum[3000:4000]) + 3000) / 8 / 440)
    assert abs(peak) < 50


def test_the_mix_is_the_sum_of_the_stems_and_does_not_clip(quartet: list[Clip]) -> None:
    stems = [player.audio for player in quartet[0].players]
    mix = np.sum([stem.astype(np.int64) for stem in stems if stem is not None], axis=0)
    assert quartet[0].mixture is None
    assert 0.4 * 32767 < np.abs(mix).max() < 0.7 * 32767
    assert all(stem.dtype == np.int16 and np.abs(stem).max() < 0.7 * 32767 for stem in stems if stem is not None)


def test_stems_sound_while_their_notes_do(quartet: list[Clip]) -> None:
    for player in quartet[0].players:
        assert player.audio is not None
        seconds, during = np.arange(player.audio.shape[1]) / RATE, np.zeros(player.audio.shape[1], bool)
        for onset, _, duration in player.annotations["notes"]:
            during |= (seconds >= onset) & (seconds < onset + duration)
        power = np.square(player.audio[0].astype(np.float64))
        assert power[during].mean() > 10 * power[~during].mean()
        onset, pitch, duration = max(player.annotations["notes"], key=lambda note: note[2])
        note = player.audio[:, round(onset * RATE) : round((onset + duration) * RATE)]
        assert abs(height(note / np.float32(32768), RATE) - (69 + 12 * np.log2(pitch / 440))) < 0.5


def test_stems_are_level_within_ten_decibels() -> None:
    tones = [Tone(0.1 + 0.5 * step, 0.55 + 0.5 * step, 60 + step, 0.8) for step in range(5)]
    for seed in range(4):
        timbres = [Timbre(default_bank(), program, 0, unseen=False) for program in (40, 58, 73)]
        stems = perform(timbres, [tones] * 3, 3 * RATE, RATE, 1, np.random.default_rng(seed))
        levels = [10 * np.log10(np.mean(stem[:, 800:20000].astype(float) ** 2)) for stem in stems]
        assert max(levels) - min(levels) < 11


def test_a_rest_is_silent() -> None:
    tones = [Tone(0.0, 0.5, 60, 0.8), Tone(2.5, 2.9, 62, 0.8)]
    (stem,) = perform(
        [Timbre(default_bank(), 57, 0, unseen=True)], [tones], 3 * RATE, RATE, 1, np.random.default_rng(0)
    )
    assert not stem[:, int(1.5 * RATE) : int(2.4 * RATE)].any()


def test_timbres_of_the_unseen_split_are_in_no_other() -> None:
    rng = np.random.default_rng(0)
    for code in INSTRUMENTS:
        seen = {choose_timbre(rng, code, (default_bank(),), unseen=False) for _ in range(60)}
        unseen = {choose_timbre(rng, code, (default_bank(),), unseen=True) for _ in range(60)}
        assert {(t.program, t.shift) for t in seen}.isdisjoint({(t.program, t.shift) for t in unseen})
        assert {str(t) for t in seen}.isdisjoint({str(t) for t in unseen})
    assert set(SHIFTS).isdisjoint(UNSEEN_SHIFTS)
    others = [code for code in INSTRUMENTS if set(PATCHES[code]) & set(UNSEEN_PATCHES[code])]
    assert others == ["bn", "cl", "db", "tba", "tbn"]  # as the corpus' description says


def test_every_patch_speaks_over_the_whole_range() -> None:
    rng = np.random.default_rng(0)
    for code, (low, high) in RANGES.items():
        for programs, shift in ((PATCHES, 2), (UNSEEN_PATCHES, 5)):
            for program in programs[code]:
                for way in (-shift, shift):
                    tones = [
                        Tone(0.2, 0.5, low, 0.2),
                        Tone(0.7, 1.0, (low + high) // 2, 0.2),
                        Tone(1.2, 1.5, high, 0.2),
                    ]
                    timbre = Timbre(default_bank(), program, way, unseen=True)
                    (stem,) = perform([timbre], [tones], 2 * RATE, RATE, 1, rng)
                    peaks = [np.abs(stem[0, int(t.start * RATE) : int(t.end * RATE)]).max() for t in tones]
                    assert min(peaks) > 0.03 * max(peaks), (code, program, way)


def test_another_bank_is_used_where_it_is_named(tmp_path: Path) -> None:
    bank = tmp_path / "other.sf2"
    bank.write_bytes(default_bank().read_bytes())
    recipe, options = make_recipe(), Options(minutes=2, unseen_bank=bank)
    (clip,) = read(piece_where(recipe, options, "test_unseen_timbres", 2), recipe, options, None)
    assert {player.timbre.split(":")[0] for player in clip.players if player.audio is not None} == {"other"}


# --- picture ----------------------------------------------------------------------------------------------------


def film_of(instrument: str, tones: list[Tone], seconds: float, seed: int = 0) -> Film:
    rng = np.random.default_rng(seed)
    return draw(instrument, move(tones, round(seconds * 12.5), 12.5, rng), 64, rng, PLAIN)


@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_players_move_with_their_notes_and_are_nearly_still_in_rests(instrument: str) -> None:
    tones = [Tone(0.3 * step, 0.3 * step + 0.26, 55 + step * 7 % 12, 0.9) for step in range(8)]
    picture = film_of(instrument, tones, seconds=6.0).picture.astype(np.int16)
    difference = np.abs(np.diff(picture, axis=0))
    moving = np.where(difference > 16, difference, 0).mean(axis=(1, 2, 3))
    # Playing until 2.4 s; from 4 s on the instrument is down.
    assert moving[:28].mean() > 4 * moving[52:].mean()


def test_louder_strokes_are_longer() -> None:
    rng = np.random.default_rng(0)
    soft, strong = (
        np.ptp([m.bow for m in move([Tone(0.5 * k, 0.5 * k + 0.45, 60, loud) for k in range(6)], 38, 12.5, rng)])
        for loud in (0.3, 0.9)
    )
    assert strong > 2 * soft


@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_masks_lie_in_their_boxes_and_touch_all_sides(instrument: str) -> None:
    film = film_of(instrument, [Tone(0.5, 1.0, 60, 0.8)], seconds=1.2)
    assert not (film.masks[0] & film.masks[1]).any()
    for mask, boxes in zip(film.masks, film.boxes, strict=True):
        for pixels, (left, top, right, bottom) in zip(mask, boxes, strict=True):
            inside = pixels[top:bottom, left:right]
            assert pixels.sum() == inside.sum() > 0
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def joint(film: Film, name: str) -> np.ndarray:
    """x, y and confidence of a joint in each picture."""
    return film.skeleton.astype(float)[:, JOINTS.index(name) :: len(JOINTS)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("instrument", list(INSTRUMENTS))
def test_head_hands_and_fingers_of_a_skeleton_lie_on_the_drawn_player(instrument: str, seed: int) -> None:
    # One of the two seeds mirrors the player of an instrument, or both or none; all have to fit the picture.
    film = film_of(instrument, [Tone(0.3, 0.7, 60, 0.8), Tone(0.7, 1.0, 67, 0.8)], seconds=1.2, seed=seed)
    assert film.skeleton.shape == (15, 3 * len(JOINTS)) and film.skeleton.dtype == np.float16
    drawn = film.masks.any(axis=0)
    for name in ("head", "right hand", "left hand", "left finger 0", "right finger 2", "right elbow"):
        for pixels, (x, y, confidence) in zip(drawn, joint(film, name), strict=True):
            row, column = min(63, int(y * 64)), min(63, int(x * 64))
            assert confidence == 0 or pixels[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any(), name
    assert joint(film, "head")[:, 2].all() and joint(film, "left hand")[:, 2].all()


def test_the_bow_of_a_skeleton_goes_with_the_music() -> None:
    film = film_of("vn", [Tone(0.5 * k, 0.5 * k + 0.45, 60, 0.9) for k in range(6)], seconds=6.0)
    frog = joint(film, "bow frog")[:, :2]
    moving = np.abs(np.diff(frog, axis=0)).sum(axis=1)
    # Playing until 2.95 s; from 4 s on the instrument is down.
    assert joint(film, "bow frog")[:, 2].all() and moving[:35].mean() > 4 * moving[52:].mean()
    flute = film_of("fl", [Tone(0.0, 1.0, 60, 0.9)], seconds=1.2)
    assert not joint(flute, "bow frog").any() and not joint(flute, "bow tip").any()


def test_left_and_right_change_in_a_mirrored_picture() -> None:
    places = [0.2 + 0.25j if name == "right hand" else UNSEEN for name in JOINTS]
    plain, mirrored = (skeleton_rows([places], mirrored)[0].astype(float) for mirrored in (False, True))
    right, left = JOINTS.index("right hand"), JOINTS.index("left hand")
    np.testing.assert_allclose(plain[right :: len(JOINTS)], [0.2, 0.25, 1], atol=1e-3)
    np.testing.assert_allclose(mirrored[left :: len(JOINTS)], [0.8, 0.25, 1], atol=1e-3)
    assert np.count_nonzero(plain) == np.count_nonzero(mirrored) == 3


@pytest.mark.parametrize("place", [-0.1 + 0.5j, 0.5 + 1.1j, UNSEEN], ids=str)
def test_a_joint_that_is_not_in_the_picture_has_no_confidence(place: complex) -> None:
    assert not skeleton_rows([[place] * len(JOINTS)], mirrored=False).any()


def test_an_empty_mask_has_an_empty_box() -> None:
    masks = np.zeros((2, 1, 8, 8), bool)
    masks[0, 0, 2:4, 5:8] = True
    assert boxes_of(masks).tolist() == [[[5, 2, 8, 4]], [[0, 0, 0, 0]]]


@pytest.mark.parametrize("seed", range(4))
def test_only_masked_pixels_change_when_the_instrument_is_lowered(seed: int) -> None:
    # Seeds 0 to 3 have mirrored and plain players; a trombone reaches far to one side.
    film = film_of("tbn", [Tone(0.0, 0.5, 60, 0.8)], seconds=3.0, seed=seed)
    playing, lowered = 3, -1
    changed = np.abs(film.picture[playing].astype(float) - film.picture[lowered]).mean(axis=-1)
    masked = film.masks[:, playing].any(axis=0) | film.masks[:, lowered].any(axis=0)
    assert changed[~masked].mean() < 0.2 * changed[masked].mean()


def test_players_and_scenes_differ_in_colour() -> None:
    films = [film_of("vn", [Tone(0.5, 1.0, 60, 0.8)], seconds=0.4, seed=seed) for seed in range(6)]
    people = np.array([film.picture[0][film.masks[0, 0]].mean(axis=0) for film in films])
    scenes = np.array([film.picture[0][~film.masks[:, 0].any(axis=0)].mean(axis=0) for film in films])
    for colours in (people, scenes):
        hues = colours - colours.mean(axis=1, keepdims=True)  # without the brightness, which the light changes too
        assert hues.std(axis=0).min() > 10


# --- clips ------------------------------------------------------------------------------------------------------


def test_a_clip_has_what_the_recipe_asks_for(quartet: list[Clip]) -> None:
    (clip,) = quartet
    assert clip.samples == round(make_plan(0, 2.0, 30.0)[clip.piece].seconds * RATE)
    assert len({player.part for player in clip.players}) == len(clip.players) == 4
    for player in clip.players:
        assert player.audio is not None
        assert player.picture is not None
        assert player.audio.shape == (1, clip.samples)
        assert player.picture.shape == (round(clip.samples / RATE * 12.5), 64, 64, 3)


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_order() -> None:
    recipe = make_recipe(picture={"size": 16, "frame_rate": 5})
    chosen = [piece for piece in pieces(recipe, SMALL, None).pieces if piece.split == "promote"][:2]
    here = [digest(list(read(piece, recipe, SMALL, None))) for piece in chosen]
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); from test_chamber import *;"
        f"recipe = make_recipe(picture={{'size': 16, 'frame_rate': 5}}); names = {[p.name for p in chosen]!r};"
        "found = {p.name: p for p in pieces(recipe, SMALL, None).pieces};"
        "print(json.dumps([digest(list(read(found[name], recipe, SMALL, None))) for name in reversed(names)]))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout)[::-1] == here


def test_another_seed_gives_another_corpus() -> None:
    one, other = (make_recipe(seed=seed) for seed in (0, 1))
    assert [p.name for p in pieces(one, SMALL, None).pieces] != [p.name for p in pieces(other, SMALL, None).pieces]


def test_long_pieces_are_cut_where_frames_begin() -> None:
    whole, cut = make_recipe(), make_recipe(clip_seconds=0.8)
    piece = piece_where(whole, SMALL, "test", 2)
    (one,), parts = list(read(piece, whole, SMALL, None)), list(read(piece, cut, SMALL, None))
    boxes = [part.players[0].boxes for part in parts]
    assert [None if found is None else found.shape[1] for found in boxes] == [9] * 5  # of 45 frames, 10 at most
    assert [part.offset for part in parts] == [index * 9 * RATE / 12.5 for index in range(5)]
    assert max(part.samples for part in parts) <= cut.clip_samples
    assert sum(part.samples for part in parts) == one.samples
    pictures = [part.players[0].picture for part in (one, *parts)]
    stems = [part.players[0].audio for part in (one, *parts)]
    assert digest_of(pictures[:1]) == digest_of(pictures[1:])
    assert digest_of(stems[:1]) == digest_of(stems[1:])


def test_a_player_who_rests_all_the_time_is_seen_and_not_heard() -> None:
    recipe = make_recipe(picture={"size": 16, "frame_rate": 5})
    plan = make_plan(0, 2.0, 30.0)
    name = next(casting.name for casting in plan.values() if casting.resting and casting.split != "train")
    piece = next(piece for piece in pieces(recipe, SMALL, None).pieces if piece.name == name)
    (clip,) = read(piece, recipe, SMALL, None)
    resting = clip.players[-1]
    assert resting.silent and resting.audio is None
    assert resting.picture is not None and resting.picture.any()
    assert not any(player.silent for player in clip.players[:-1])


def test_a_stereo_recipe_places_the_players() -> None:
    recipe = make_recipe(channels=2, picture={"size": 16, "frame_rate": 5})
    (clip,) = read(piece_where(recipe, SMALL, "test", 2), recipe, SMALL, None)
    assert all(player.audio is not None and player.audio.shape == (2, clip.samples) for player in clip.players[:2])
    balance = [
        np.abs(p.audio[0].astype(float)).sum() / np.abs(p.audio[1].astype(float)).sum()
        for p in clip.players[:2]
        if p.audio is not None
    ]
    assert balance[0] != pytest.approx(balance[1], rel=0.05)


# --- bad settings -----------------------------------------------------------------------------------------------


def test_the_bank_of_unseen_timbres_is_refused_by_its_earlier_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'unheard_bank'. To fix: did you mean 'unseen_bank'\?"):
        parse_config({"unheard_bank": "a.sf2"}, Options, "shards/x.yaml: options")


def test_an_unseen_bank_must_not_stand_in_banks() -> None:
    with pytest.raises(ConfigError, match="unseen_bank must not stand in banks"):
        parse_config({"banks": ["a.sf2"], "unseen_bank": "a.sf2"}, Options, "shards/x.yaml: options")


def test_an_unknown_option_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'minute'.* did you mean 'minutes'"):
        parse_config({"minute": 5}, Options, "shards/x.yaml: options")


def test_too_short_a_corpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"minutes: must be greater than or equal to 1; got 0.5"):
        parse_config({"minutes": 0.5}, Options, "shards/x.yaml: options")


def test_a_missing_bank_is_named() -> None:
    recipe, options = make_recipe(), Options(minutes=2, unseen_bank=Path("no/bank.sf2"))
    with pytest.raises(DataError, match=r"no/bank\.sf2 must be a sound bank; got .*No such file"):
        list(read(piece_where(recipe, options, "test_unseen_timbres", 2), recipe, options, None))


def test_a_bank_of_another_format_is_named(tmp_path: Path) -> None:
    bank = tmp_path / "bank.sf2"
    bank.write_bytes(b"RIFF0000WAVE")
    recipe, options = make_recipe(), Options(minutes=2, unseen_bank=bank)
    with pytest.raises(DataError, match="must be a SoundFont 2 bank"):
        list(read(piece_where(recipe, options, "test_unseen_timbres", 2), recipe, options, None))


def test_a_damaged_bank_is_named(tmp_path: Path) -> None:
    bank = tmp_path / "bank.sf2"
    bank.write_bytes(default_bank().read_bytes()[:20000])
    recipe, options = make_recipe(), Options(minutes=2, unseen_bank=bank)
    with pytest.raises(DataError, match=r"bank\.sf2 must be a sound bank that renders"):
        list(read(piece_where(recipe, options, "test_unseen_timbres", 2), recipe, options, None))


@pytest.mark.parametrize("labels", [["vn", "vc", "fl"], ["vn", "vc", "fl", "xyl"]])
def test_labels_must_be_four_instruments_at_least(labels: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"needs at least 4 of bn, cl, .*; got {', '.join(labels)}\. To fix: choose"):
        pieces(make_recipe(labels=labels), SMALL, None)


def test_the_labels_of_the_recipe_play_equally_often() -> None:
    six = ("vn", "va", "vc", "fl", "cl", "bn")
    plan = make_plan(0, 25.0, 30.0, True, six)
    for split in SHARES:
        hands = [casting.instruments for casting in plan.values() if casting.split == split]
        assert all(len(set(hand)) == len(hand) for hand in hands)
        often = Counter(label for hand in hands for label in hand)
        assert set(often) == set(six) and max(often.values()) - min(often.values()) <= 4


def test_a_small_corpus_has_many_pieces_where_models_are_judged() -> None:
    for minutes, expected in ((14.0, 9), (25.0, 16), (300.0, 66)):
        plan = make_plan(0, minutes, 30.0)
        promote = [casting for casting in plan.values() if casting.split == "promote"]
        assert len(promote) == expected and all(casting.seconds >= 10 for casting in promote)


def test_a_source_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the chamber corpus is generated; got the source folder"):
        pieces(make_recipe(), SMALL, tmp_path)


def test_a_piece_of_another_corpus_is_refused() -> None:
    stranger = Piece("train-000-other", "train", "other", 10.0)
    with pytest.raises(DataError, match=r"one of those that `pieces` lists .* got 'train-000-other'"):
        list(read(stranger, make_recipe(), SMALL, None))


def test_quartets_are_split_by_opus() -> None:
    opuses = [work.composition for split in SPLITS for work in quartets(split)]
    assert len(opuses) == len(set(opuses)) == 16
