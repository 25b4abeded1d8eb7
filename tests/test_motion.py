"""Motion of the players: where and when they move; what every context must do is in test_contexts.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_players import PIECES, moving_shards
from typer.testing import CliRunner

from vimss.cli import app
from vimss.errors import ConfigError, DataError, MediaError, ModelError
from vimss.evaluate import Row, Table, evaluation_tasks, joined, run_evaluation
from vimss.evaluations import claims_of_models
from vimss.media import write_video, write_wav
from vimss.model.contexts import CONTEXTS, Recording, motion
from vimss.model.contexts.motion import FOLDER, GRID, compute_motion, motion_of, write_motion
from vimss.model.contexts.recording import pictures_during_sound
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.shards.cache import ENTRY, FEATURES
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_clips

CONTEXT = CONTEXTS["motion"](WaveUNetConfig(context="motion"), ("vn",))


@pytest.fixture(scope="module")
def brief(tmp_path_factory) -> Manifest:
    """Shards of moving players, a piece of two seconds in each split."""
    folder = tmp_path_factory.mktemp("brief")
    return moving_shards(folder / "source", Store(folder).make(), 2.0, dict.fromkeys(PIECES, 1))


@pytest.fixture(scope="module")
def computed(brief) -> Path:
    """The folder of their motion."""
    return brief.folder / FEATURES / compute_motion(brief)


def dots(*places, side=80) -> np.ndarray:
    """Pictures of a white dot at these places (down, across) on black."""
    pictures = np.zeros((len(places), side, side, 3), np.uint8)
    for picture, (down, across) in zip(pictures, places, strict=True):
        picture[down : down + 4, across : across + 4] = 255
    return pictures


def cells(row) -> np.ndarray:
    """The cells in which something moves, as (down, across)."""
    return np.argwhere(row.reshape(GRID, GRID) > 0).tolist()


def test_motion_is_in_the_cells_where_something_moves_at_the_picture_after_which_it_has_moved():
    rows = motion_of(dots((3, 3), (3, 3), (3, 63), (3, 63)))
    assert rows.dtype == np.float16 and rows.shape == (4, 64)
    assert [cells(row) for row in rows] == [[], [], [[0, 0], [0, 6]], []]


def test_a_large_motion_is_a_larger_number_and_about_one():
    small, large = (motion_of(np.stack([np.zeros((80, 80, 3), np.uint8)] * 2 + [grey]))[2] for grey in _greys(8, 20))
    assert (small > 0).all() and (small < large).all() and 0.5 < large.mean() < 2


def _greys(*levels):
    return (np.full((80, 80, 3), level, np.uint8) for level in levels)


@pytest.mark.parametrize("side", [16, 40, 50, 96, 160])
def test_pictures_of_any_size_have_the_same_grid(side):
    where = [(side // 2, side // 4)] * 2 + [(side // 2, side // 2)]
    rows = motion_of(dots(*where, side=side))
    assert [4, 2] in cells(rows[2])


def test_the_first_picture_has_the_motion_of_the_second_and_a_single_one_has_none():
    rows = motion_of(dots((3, 3), (3, 63)))
    np.testing.assert_array_equal(rows[0], rows[1])
    assert rows[1].any() and not motion_of(dots((3, 3))).any()


def test_every_player_has_a_row_of_motion_per_picture(brief, computed):
    clip = next(read_clips(brief, "train", parts=("picture", "features"), features=computed.name))
    for player in clip.players:
        np.testing.assert_array_equal(CONTEXT.of_player(clip, player), motion_of(player.picture))
    assert CONTEXT.prepare(brief) == computed.name == FOLDER


def test_what_is_missing_is_computed_and_the_rest_is_kept(brief, computed):
    first, second, *_ = sorted(computed.glob("*.safetensors"))
    stamp = first.stat().st_mtime_ns
    second.unlink()
    compute_motion(brief)
    assert second.exists() and first.stat().st_mtime_ns == stamp


def test_what_is_written_in_parallel_is_the_same_and_is_counted(brief, computed):
    content = {path.name: path.read_bytes() for path in computed.iterdir()}
    next(computed.glob("*.safetensors")).unlink()
    (computed / ENTRY).unlink()
    done: list[int] = []
    assert write_motion(brief, done.append) == brief.home / FEATURES / FOLDER
    assert {path.name: path.read_bytes() for path in computed.iterdir()} == content
    assert done == list(range(1, len(brief.shards) + 1))


def test_motion_in_a_recording_is_that_of_its_players_columns(tmp_path):
    left, right = dots((3, 3), (3, 63), (3, 3)), dots((43, 43), (43, 43), (43, 3))
    write_video(tmp_path / "duo.mp4", np.concatenate([left, right], axis=2), 12.5)
    card = {"picture": {"size": 80, "frame_rate": 12.5}}
    rows = CONTEXT.of_recording(Recording(tmp_path / "duo.mp4", ("vn", "vc"), card))
    assert rows.shape == (2, 3, 64)
    found = [
        [cell for cell in ((0, 0), (0, 6), (4, 0), (4, 4)) if rows[p, 2, 8 * cell[0] + cell[1]] > 1] for p in (0, 1)
    ]
    assert found == [[(0, 0), (0, 6)], [(4, 0), (4, 4)]]


@pytest.mark.parametrize(
    ("count", "rate", "width", "message"),
    [
        (
            25,
            12.5,
            16,
            "must last as long as its sound, for a model that is conditioned on motion; got 2.0 s of picture",
        ),
        (
            24,
            6.0,
            16,
            "must have at least 10 pictures a second, .*; got 6. To fix: use a video with more, or use a model",
        ),
        (50, 12.5, 14, "must have a column of 8 or more pixels for each of 2 players; got 14 pixels"),
    ],
)
def test_a_recording_whose_motion_cannot_be_seen_is_refused(count, rate, width, message, tmp_path):
    film, sound = np.zeros((count, 16, width, 3), np.uint8), np.zeros((1, 4 * 8000), np.float32)
    write_video(tmp_path / "duo.mp4", film, rate, sound, 8000)
    card = {"picture": {"size": 40, "frame_rate": 12.5}}
    with pytest.raises(MediaError, match=message):
        CONTEXT.of_recording(Recording(tmp_path / "duo.mp4", ("vn", "vc"), card))


@pytest.mark.parametrize("count", [5, 20])
def test_pictures_keep_their_time_where_picture_and_sound_end_at_different_times(count, tmp_path):
    film = np.empty((count, 16, 16, 3), np.uint8)
    film[:] = 12 * np.arange(count)[:, None, None, None]
    write_video(tmp_path / "solo.mp4", film, 5.0, np.zeros((1, round(2.4 * 8000)), np.float32), 8000)
    card = {"picture": {"size": 16, "frame_rate": 5.0}}
    found = pictures_during_sound(Recording(tmp_path / "solo.mp4", ("vn",), card))[0].mean((1, 2, 3))
    assert found == pytest.approx(12 * np.minimum(np.arange(12), count - 1), abs=5)


def test_a_card_that_does_not_say_what_the_model_looked_at_is_refused():
    for card, got in (({}, "got none. To fix: train it again"), ({"picture": {"size": 1}}, "picture in the card in")):
        with pytest.raises((ModelError, ConfigError), match=got):
            pictures_during_sound(Recording(Path("solo.mp4"), ("vn",), card))


def test_shards_without_motion_name_the_command(brief):
    bare = brief.model_copy(update={"folder": brief.folder / "elsewhere"})
    rule = "a `motion` context needs the motion of the players .*; got none.* `vimss features moving --network motion`"
    with pytest.raises(DataError, match=rule):
        CONTEXT.prepare(bare)


def test_pictures_that_follow_each_other_too_slowly_are_refused(small_manifest):
    rule = (
        "motion needs at least 10 pictures a second, .*; got picture.frame_rate: 4 in 'small'.*: run `vimss shard small"
    )
    for refused in (CONTEXT.prepare, compute_motion):
        with pytest.raises(DataError, match=rule):
            refused(small_manifest)


def test_motion_of_another_version_is_refused(brief, computed, monkeypatch):
    monkeypatch.setattr(motion, "FOLDER", "motion-2")
    rule = "motion must be of this version of VIMSS, motion-2, .*; got motion-1.*: run `vimss features moving --network"
    with pytest.raises(DataError, match=rule):
        CONTEXT.prepare(brief)
    monkeypatch.undo()
    with pytest.raises(
        DataError, match="must be of this version of VIMSS, motion-1, .*; got motion-0.*train the model"
    ):
        CONTEXT.prepare(brief, "motion-0")
    assert CONTEXT.prepare(brief, FOLDER) == FOLDER


def test_damaged_motion_is_refused(brief, computed):
    whole = (computed / ENTRY).read_text()
    (computed / ENTRY).write_text(json.dumps({**json.loads(whole), "files": {"train-0000.safetensors": "0"}}))
    with pytest.raises(DataError, match="must have the SHA-256 in its .*vimss features moving --network motion"):
        CONTEXT.prepare(brief)
    (computed / ENTRY).write_text(whole)


def test_a_corpus_without_pictures_is_refused(tmp_path, small_store):
    for name in "abcd":
        (tmp_path / name).mkdir()
        write_wav(
            tmp_path / name / "vn.wav",
            np.random.default_rng(ord(name)).uniform(-0.1, 0.1, (1, 16000)).astype(np.float32),
            8000,
        )
    recipe = load_recipe("folder", ["sample_rate=8000", "clip_seconds=2"])
    manifest = write_shards(recipe, "sounds", small_store, source=tmp_path)
    for compute in (compute_motion, write_motion):
        with pytest.raises(DataError, match=f"{manifest.home} must hold players with pictures; got none"):
            compute(manifest)


def test_a_player_without_motion_is_told_the_command(brief):
    clip = next(read_clips(brief, "train"))
    with pytest.raises(DataError, match=r"context: motion needs the motion of every player; .*RECIPE --network motion"):
        CONTEXT.of_player(clip, clip.players[0])


@pytest.mark.parametrize(("option", "value"), [("--weights", "random"), ("--every", "0.5"), ("--device", "cpu")])
def test_an_option_of_networks_is_refused_where_none_is_used(option, value):
    result = CliRunner().invoke(app, ["features", "quickstart", "--network", "motion", option, value])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(f"{option} must be left out with --network motion")


# The convolutions over it


def encoded(rows) -> torch.Tensor:
    torch.manual_seed(0)
    config = WaveUNetConfig(context="motion", motion_encoder="convolutions")
    context = CONTEXTS["motion"](config, ("vn",))
    with torch.no_grad():
        return context.encode(torch.as_tensor(rows), None, context.modules(8000), torch.float32)


def test_convolutions_give_a_vector_per_picture_and_depend_on_its_neighbours():
    rows = torch.rand(1, 2, 60, 64)
    found = encoded(rows)
    assert found.shape == (1, 2, 60, 32) and float(found.std()) == pytest.approx(1, abs=0.1)
    # One cell of one picture: the means and deviations of all hardly change, the vectors around it do.
    changed = rows.clone()
    changed[0, 0, 30, 5] += 1
    moved = (encoded(changed) - found).abs().amax(-1)[0]
    assert float(moved[1].max()) == 0 and float(moved[0, 24:37].max()) > 10 * float(moved[0, 40:].max())


def test_a_player_who_does_not_move_is_a_zero_context():
    assert float(encoded(torch.full((1, 1, 20, 64), 0.3)).abs().max()) < 1e-4
    assert float(encoded(torch.zeros(1, 1, 1, 64)).abs().max()) < 1e-4


def test_motion_as_a_context_is_as_before_where_no_encoder_is_set():
    rows = torch.rand(2, 3, 5, 64).half()
    assert CONTEXT.modules(8000) == {} and CONTEXT.width == 64
    assert torch.equal(CONTEXT.encode(rows, None, {}, torch.float32), rows.float())
    with pytest.raises(ModelError, match=r"takes motion as batch x players x frames x 64; got 2x3x5x32"):
        CONTEXT.encode(torch.rand(2, 3, 5, 32), None, {}, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["none", "convolutions"])
def test_a_network_that_is_queried_by_motion_has_the_figures_of_a_claim(moving_manifest, tmp_path, encoder):
    folder = compute_motion(moving_manifest)
    torch.manual_seed(0)
    config = WaveUNetConfig(
        levels=2, filters=2, down_kernel=5, padding="same", outputs="queries", site="decoder", context="motion",
        motion_encoder=encoder,
    )  # fmt: skip
    separator = Separator(config, moving_manifest.recipe.labels, 8000)
    for name, card in (("right", {}), ("control", {"shuffle_pictures": True})):
        save_separator(tmp_path / name, separator, {"features": folder, **card})
    table, found = Table(moving_manifest.folder, "test"), []
    for name in ("right", "control"):
        tasks = evaluation_tasks(table, Row(name, tmp_path / name), moving_manifest, whole_pieces=False)
        found.append(joined([run_evaluation(task) for task in tasks[:1]], table))
    right, control = claims_of_models(found, {one.system: tmp_path / one.system for one in found})
    assert control.pictures is None and right.pictures.gain == 0 and not right.pictures.is_gain
    assert np.isfinite([right.pictures.right, right.pictures.other]).all()
