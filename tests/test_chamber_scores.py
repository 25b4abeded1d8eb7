import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from vimss.errors import DataError
from vimss.shards.corpora.chamber.arrange import Style, Tone, arrange
from vimss.shards.corpora.chamber.casting import RANGES, SHARES, Casting, make_plan
from vimss.shards.corpora.chamber.catalogue import chorales, quartets
from vimss.shards.corpora.chamber.score import Note, corpus_folder, read_score
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import SPLITS


@pytest.fixture(scope="module")
def arranged() -> list[tuple[Casting, tuple[tuple[Tone, ...], ...]]]:
    return [(casting, arrange(casting, 0, Style())) for casting in make_plan(0, 7.0, 30.0).values()]


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
