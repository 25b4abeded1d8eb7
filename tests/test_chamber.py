import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vimss.config import parse_config
from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip
from vimss.shards.corpora import Piece
from vimss.shards.corpora.chamber import Options, pieces, read
from vimss.shards.corpora.chamber.arrange import Tone
from vimss.shards.corpora.chamber.casting import RANGES, SHARES, make_plan
from vimss.shards.corpora.chamber.catalogue import quartets
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
def quartet() -> list[Clip]:
    recipe = make_recipe(picture={"size": 64, "frame_rate": 12.5})
    options = SMALL.model_copy(update={"notes": True})
    return list(read(piece_where(recipe, options, "valid", 4), recipe, options, None))


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
