"""NMF that is told the notes, from the shards to the table; the contract is that of all baselines."""

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from vimss import report
from vimss.baselines.nmf import InformedNMF, fit_dictionaries
from vimss.baselines.score_nmf import ScoreInformedNMF
from vimss.errors import DataError
from vimss.evaluate import evaluate, two_source_mixtures, usable_baselines
from vimss.media import INT16_SCALE
from vimss.metrics import si_sdr_improvement, snr
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import cut_piece
from vimss.shards.manifest import Manifest, PieceEntry, Shard
from vimss.shards.recipe import load_recipe
from vimss.shards.task import clip_members
from vimss.storage import sha256
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import baseline_systems

RATE = 8000
ROW = "NMF, all notes"


def melody(*notes: tuple[float, float, float]) -> np.ndarray:
    """Three seconds with these notes (onset, pitch, duration), silent between them, of one timbre."""
    times, sound = np.arange(3 * RATE) / RATE, np.zeros(3 * RATE)
    for onset, pitch, duration in notes:
        during = (times >= onset) & (times < onset + duration)
        sound += during * sum(np.sin(2 * np.pi * k * pitch * times) / k for k in range(1, 8))
    return (0.1 * sound)[None].astype(np.float32)


# The first note of the second one sounds beyond the cut between two clips.
HIGH = [(0.1, 440.0, 0.7), (1.2, 494.0, 0.4), (1.8, 523.0, 1.0)]
LOW = [(0.4, 311.0, 1.4), (2.0, 277.0, 0.6)]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Two clarinets of one timbre."""
    stems = {"cl 1": melody(*HIGH), "cl 2": melody(*LOW)}
    return Scene("p", sum(stems.values()), stems, {}, notes={"cl 1": [np.array(HIGH)], "cl 2": [np.array(LOW)]})


def shards(folder, *annotations) -> Manifest:
    """A test piece of both clarinets, in short clips."""
    recipe = load_recipe("quickstart", ["clip_seconds=1.5", "labels=[cl, vn]"])
    players = tuple(
        Player("cl", str(number), np.round(INT16_SCALE * melody(*notes)).astype(np.int16), annotations=found)
        for number, (notes, found) in enumerate(zip((HIGH, LOW), annotations, strict=True))
    )
    clips = list(cut_piece(Clip("p", 0, 3 * RATE, RATE, players), recipe))
    path = folder / "test-000000.tar"
    with tarfile.open(path, "w") as tar:
        for clip in clips:
            for name, content in clip_members(clip, recipe).items():
                info = tarfile.TarInfo(f"{clip.key}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    size = path.stat().st_size
    shard = Shard(name=path.name, split="test", clips=len(clips), seconds=3, size=size, sha256=sha256(path))
    piece = PieceEntry(name="p", split="test", composition="p", seconds=3, instruments=("cl",))
    return Manifest(folder=folder, name="two", recipe=recipe, signature="s", shards=(shard,), pieces=(piece,))


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    return shards(tmp_path, {"notes": np.array(HIGH)}, {"notes": np.array(LOW)})


def test_two_players_of_one_timbre_are_told_apart_by_their_notes(scene):
    dictionaries = fit_dictionaries([(name, melody(*HIGH, *LOW)) for name in scene.references], RATE)
    for name, by_notes, by_label in zip(
        scene.references,
        ScoreInformedNMF(RATE)(scene, list(scene.references)),
        InformedNMF(dictionaries)(scene, list(scene.references)),
        strict=True,
    ):
        told, blind = (
            si_sdr_improvement(scene.mixture, scene.references[name], each, RATE) for each in (by_notes, by_label)
        )
        assert told > 15 and told > blind + 10


def test_a_pitch_that_two_players_have_in_turn_is_of_the_one_whose_note_sounds():
    notes = {"cl 1": [(0.1, 440.0, 0.7)], "cl 2": [(1.5, 440.0, 0.7)]}
    stems = {name: melody(*own) for name, own in notes.items()}
    told = {name: [np.array(own)] for name, own in notes.items()}
    scene = Scene("p", sum(stems.values()), stems, {}, notes=told)
    for estimate, stem in zip(ScoreInformedNMF(RATE)(scene, list(stems)), stems.values(), strict=True):
        assert snr(stem, estimate).item() > 20


def test_mixtures_have_the_notes_that_sound_in_them_also_from_the_clip_before(manifest):
    (system,) = baseline_systems(manifest, [ROW])
    mixtures = list(two_source_mixtures(system, manifest, "test"))
    assert len({source.clip for mixture in mixtures for source in mixture.sources}) > 1
    for source in (source for mixture in mixtures for source in mixture.sources):
        times = np.arange(source.stem.shape[1]) / RATE
        told = np.zeros(len(times), bool)
        for onset, _, duration in source.notes:
            told |= (times > onset) & (times < onset + duration)
        assert (told == (source.stem[0] != 0)).mean() > 0.99
    assert any((source.notes[:, 0] < 0).any() for mixture in mixtures for source in mixture.sources)


def test_the_table_has_its_row_where_notes_are_and_says_what_it_is_told(manifest, capsys):
    assert ROW in usable_baselines(manifest, "test")[0]
    (system,) = baseline_systems(manifest, [ROW])
    found = evaluate(system, manifest, "test", whole_pieces=False)
    assert found.truth == "notes" and found.two_sources.si_sdr_improvement > 12
    report.print_evaluations("test", [found])
    assert f"told all notes of each player, which no model is: {ROW}" in " ".join(capsys.readouterr().out.split())
    (whole,) = pieces_of(manifest, "test", system.views, by_player=True)
    np.testing.assert_allclose(whole.notes["cl 2"][0], LOW)


def test_the_row_is_left_out_with_the_reason_where_a_player_has_no_notes(tmp_path, scene):
    manifest = shards(tmp_path, {"notes": np.array(HIGH)}, {"onsets": np.array(LOW)})
    names, sentences = usable_baselines(manifest, "test")
    assert ROW not in names and "mixture" in names
    assert f"no row '{ROW}': not all players of the split 'test' of 'two' have notes" in sentences
    with pytest.raises(DataError, match="needs the notes of all that sounds; got none of cl 2 in p.*a recipe with no"):
        ScoreInformedNMF(RATE)(replace(scene, notes={"cl 1": scene.notes["cl 1"]}), ["cl 1"])
