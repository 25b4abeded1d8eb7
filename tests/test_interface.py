"""What goes into a network and comes out: outputs x context, in one place."""

from pathlib import Path

import numpy as np
import pytest
from interfaces import LABELS, interface

from vimss.errors import ModelError
from vimss.model.contexts import Recording
from vimss.model.interface import Interface, draw_queries
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.stream.config import MixingConfig
from vimss.stream.mix import PlayerView, Source, mix

ALWAYS = MixingConfig(queries=3, absent_probability=1.0)
NEVER = MixingConfig(queries=3, absent_probability=0.0)
SHOWN = ["frames", "features"]


def source(label, number) -> Source:
    return Source(label, np.full((2, 4), number), label, label, "", np.full((1, 8), 0.01 * number, np.float32))


def trio():
    """Two flutes and a violin, and a cello who rests."""
    sources = [source("fl", 1), source("fl", 2), source("vn", 3)]
    return mix(sources, [PlayerView("vc", np.full((2, 4), 4), "vc", "vc", "")], aligned=True)


def numbers(sources) -> list[int]:
    return sorted(int(one.view[0, 0]) for one in sources)


def query(asked, mixing=NEVER, seed=0):
    return asked.query(trio(), mixing, np.random.default_rng(seed))


def test_without_a_site_there_is_no_context():
    plain = Interface(WaveUNetConfig(context="frames"), LABELS)
    assert plain.members == ("audio",) and not plain.uses_players and not plain.is_conditioned
    assert plain.context_of(LABELS) is None and plain.of_recording(Recording(Path("none.mp4"), LABELS)) is None
    assert plain.join([[], []]) == (None, None)
    assert [numbers(sources) for sources in query(plain)[0]] == [[1, 2], [], [3]]


def test_members_are_those_of_the_context():
    assert interface(context="labels").members == ("audio",)
    assert interface(context="frames").members == ("audio", "picture")
    assert interface(context="features").members == ("audio", "features")


@pytest.mark.parametrize("seed", range(5))
def test_a_label_asks_for_the_sum_of_its_players(seed):
    targets, rows = query(interface(), MixingConfig(queries=2, absent_probability=0.0), seed)
    stems = {"fl": [1, 2], "vn": [3]}
    names = [LABELS[row.argmax()] for row in rows]
    assert sorted(names) == ["fl", "vn"]
    assert [numbers(sources) for sources in targets] == [stems[name] for name in names]


@pytest.mark.parametrize("context", SHOWN)
def test_a_view_asks_for_the_stem_of_its_own_player(context):
    targets, rows = query(interface(context=context))
    assert [numbers(sources) for sources in targets] == [[int(row[0, 0])] for row in rows]
    assert sorted(int(row[0, 0]) for row in rows) == [1, 2, 3]


@pytest.mark.parametrize(("context", "row"), [("labels", [0, 1, 0]), ("frames", 4)])
def test_who_is_absent_is_asked_for_and_has_no_stem(context, row):
    targets, rows = query(interface(context=context), ALWAYS)
    assert targets == [(), (), ()] or targets == [[], [], []]
    assert all((np.asarray(found).ravel()[: np.size(row)] == row).all() for found in rows)


def test_outputs_per_label_are_told_all_that_sounds_in_one_row_or_by_all_views():
    targets, rows = query(interface("instruments"))
    assert [numbers(sources) for sources in targets] == [[1, 2], [], [3]]
    assert np.array_equal(rows, [[1, 0, 1]])
    assert [row[0, 0] for row in query(interface("instruments", "frames"))[1]] == [1, 2, 3]


def test_the_same_queries_are_drawn_from_the_same_generator():
    drawn = [draw_queries("abc", "xyz", MixingConfig(queries=7), np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_examples_with_fewer_players_are_padded_and_labels_have_none():
    one, two = np.ones((2, 4), np.float16), np.full((2, 4), 2, np.float16)
    joined, players = interface(context="features").join([[one], [one, two]])
    assert joined.dtype == np.float16 and players.tolist() == [[True, False], [True, True]]
    assert joined[:, :, 0, 0].tolist() == [[1, 0], [1, 2]]
    joined, players = interface().join([list(np.eye(3, dtype=np.float32)[:2])])
    assert joined.shape == (1, 2, 3) and players is None


def test_a_recording_is_asked_for_by_each_label_once_or_by_all_in_one_row():
    recording = Recording(Path("quartet.wav"), ("vn", "vn", "fl"))
    assert interface().of_recording(recording).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert interface("instruments").of_recording(recording).tolist() == [[1, 0, 1]]


def test_views_are_the_context_of_players_whatever_their_labels():
    views = [np.zeros((2, 4)), np.ones((2, 4))]
    np.testing.assert_array_equal(interface(context="features").context_of(["gong"], views), views)


def test_a_label_that_the_model_does_not_know_is_refused():
    with pytest.raises(ModelError, match=r"got 'gong'\. To fix: choose from fl, vc, vn"):
        interface("instruments").context_of(["fl", "gong"])


@pytest.mark.parametrize(
    ("asked", "known", "names", "stems"),
    [
        (interface(), LABELS, ("vn", "fl"), ((0, "vn"), (1, "fl"))),
        (interface(context="frames"), (), ("player_1", "player_2"), ((0, "vn-left"), (1, "vn-middle"), (2, "fl"))),
        (interface("instruments"), LABELS, LABELS, ((2, "vn"), (0, "fl"))),
        (interface("instruments", "frames"), LABELS, LABELS, ((2, "vn"), (0, "fl"))),
        (interface("slots"), ("slot_1", "slot_2"), ("slot_1", "slot_2"), ((0, "slot_1"), (1, "slot_2"))),
    ],
)
def test_outputs_have_names(asked, known, names, stems):
    assert asked.known_outputs == known
    assert asked.output_names(["vn", "fl"], 2) == names
    assert asked.stems_of(["vn", "vn", "fl"]) == stems


@pytest.mark.parametrize(("outputs", "count"), [("queries", 5), ("instruments", 3), ("slots", 2)])
def test_outputs_are_counted(outputs, count):
    assert interface(outputs).num_outputs(queries=5) == count


def test_a_served_model_takes_the_mixture_and_what_is_shown_of_players():
    mixture = ("mixture", np.float32, (-1, 1, -1))
    features = Interface(WaveUNetConfig(context="features", feature_size=5, site="output"), LABELS)
    assert interface().inputs() == (mixture,)
    assert features.inputs() == (mixture, ("features", np.float32, (-1, -1, -1, 5)))
    assert interface(context="frames").inputs() == (mixture, ("frames", np.uint8, (-1, -1, -1, -1, -1, 3)))
