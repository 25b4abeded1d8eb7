"""Motion and sound in step or shifted; what every objective must do is in test_objectives.py."""

import json

import numpy as np
import pytest
import torch
from test_train import one_thread  # noqa: F401 - a fixture that all use

from vimss import report
from vimss.errors import ConfigError, DataError, ModelError
from vimss.evaluate import Row, Table, figures
from vimss.evaluate.figures import FigureTask, constant_guess, evaluation_by_figure, examine_mixtures, figure_spec
from vimss.model.contexts.motion import GRID, compute_motion
from vimss.runtime import Place
from vimss.search.checks import check_settings
from vimss.search.consistency import load_experiment
from vimss.stream.batch import Batch
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loop import Training, train
from vimss.train.objectives import open_objective
from vimss.train.objectives.alignment import Alignment
from vimss.train.objectives.alignment_network import AlignmentNetwork, lost_pictures
from vimss.train.start import check_start
from vimss.train.validation import validation_spec

pytestmark = pytest.mark.slow  # players who move at 12.5 pictures a second take seconds to make

RATE, PICTURES = 8000, 12.5
TRAINING = {"batch_size": 2, "output_samples": 72000, "audio_seconds": 36, "report_seconds": 18}
PLACE = Place.model_construct(name="here", workers_per_trial=1, gpus_per_worker=0.0)


def settings(training=None, **alignment) -> Settings:
    given = {"training": {**TRAINING, **(training or {})}, "alignment": {"seconds": 2.0, **alignment}}
    return Settings.model_validate({"objective": "alignment", **given})


@pytest.fixture(scope="module")
def shards(moving_manifest):
    """With the motion beside them."""
    compute_motion(moving_manifest)
    return moving_manifest


class Onsets(AlignmentNetwork):
    """A network that needs no training: level of the sound against level of the motion, 32 times."""

    def vectors(self, sound, motion):
        edge = lost_pictures(sound.shape[-1], motion.shape[1], self.sample_rate)
        level = sound.mean(1).unflatten(1, (motion.shape[1], -1)).square().mean(2)
        both = torch.stack([level, motion.float().mean(2)])[:, :, edge:-edge]
        heard, seen = both[:, :, None].expand(-1, -1, 32, -1)
        return heard, seen


def clapping(seconds=14.0, seed=0, silent_from=10_000, **changes) -> Batch:
    """A player who moves whenever there is a sound, in a mixture with a louder one; one picture is 640 samples."""
    rng = np.random.default_rng(seed)
    claps, others = rng.random((2, round(seconds * PICTURES))) < 0.3
    claps[silent_from:] = False
    stem, other = (0.1 * np.repeat(one, 640).astype(np.float32)[None, None] for one in (claps, others))
    motion = np.repeat(claps.astype(np.float16)[None, None, :, None], GRID * GRID, axis=3)
    arrays = {"mixture": stem + 3 * other, "targets": stem[None], "context": motion, "present": np.ones((1, 1), bool)}
    arrays |= {"players": np.ones((1, 1), bool), "peak_limited": np.zeros(1, bool), **changes}
    return Batch(**arrays)


@pytest.fixture
def objective(small_recipe):
    """On no shards in particular."""
    return Alignment(settings(), small_recipe)


def kept(objective, batch, network=None):
    return objective.examine(network or Onsets(objective.settings, ("vn",), RATE), batch, torch.device("cpu"))[None]


# The figure


def test_a_network_that_compares_onsets_finds_the_right_window_and_less_often_in_the_mixture(objective):
    rows = kept(objective, clapping())
    assert objective.value(rows) == 1 and rows[0, 1::2].tolist() == [1] * 5
    beside = objective.beside(rows)
    assert list(beside) == ["2 s", "10 s", "5 s, all players sound", "5 s, motion backwards"]
    assert beside["5 s, all players sound"] < 1 and beside["2 s"] == beside["10 s"] == 1


def test_motion_of_another_time_or_backwards_is_no_better_than_chance(objective):
    rows = torch.cat([kept(objective, clapping(seed=n, context=clapping(seed=n + 99).context)) for n in range(12)])
    assert objective.value(rows) == pytest.approx(0.5, abs=0.15)
    backwards = objective.beside(torch.cat([kept(objective, clapping(seed=n)) for n in range(12)]))
    assert backwards["5 s, motion backwards"] == pytest.approx(0.5, abs=0.15)


def test_the_guess_is_chance_for_every_length(objective):
    guess = objective.guess(kept(objective, clapping()))
    assert objective.value(guess) == 0.5 and set(objective.beside(guess).values()) == {0.5}


def test_windows_that_do_not_fit_into_the_mixture_have_no_figure(objective):
    rows = kept(objective, clapping(seconds=9.0))
    assert objective.value(rows) == 1 and np.isnan(objective.beside(rows)["10 s"])


def test_windows_in_which_the_player_rests_do_not_count(objective):
    # After 2 s of 14 there is silence, so windows of 5 s from 4.5 s on have less than a fifth of sound.
    resting = kept(objective, clapping(silent_from=0))
    assert resting.tolist() == [[0.0] * 10] and np.isnan(objective.value(resting))
    assert kept(objective, clapping(silent_from=60))[0, 1] == 1


def test_scores_that_are_not_finite_have_no_figure(objective):
    network = Onsets(objective.settings, ("vn",), RATE)
    with torch.no_grad():
        network.scale.fill_(torch.nan)
    assert np.isnan(objective.value(kept(objective, clapping(), network)))


# Training


def loss_of(objective, batch, network=None) -> float:
    network = network or Onsets(objective.settings, ("vn",), RATE)
    with torch.no_grad():
        return float(objective.loss(network, batch, torch.from_numpy(objective.totals(batch)).float()))


def test_the_loss_is_small_where_the_right_window_has_the_highest_score(small_recipe):
    objective = Alignment(settings(crosstalk_probability=0), small_recipe)
    network = Onsets(objective.settings, ("vn",), RATE)
    with torch.no_grad():
        network.scale.fill_(100.0)
    assert loss_of(objective, clapping(), network) < 0.1
    assert loss_of(objective, clapping(context=clapping(seed=1).context), network) > 2


def test_windows_within_half_a_second_are_not_wrong_ones(small_recipe):
    # The motion of the next picture: the right window has a low score, and the one beside it a very high one.
    objective = Alignment(settings(crosstalk_probability=0), small_recipe)
    scores = torch.zeros(1, 7, 40)
    for number in range(7):
        near = [6 * number - 5, 6 * number + 1, 6 * number + 5]  # within round(0.5 * 12.5) = 6 pictures
        scores[0, number, [place for place in near if 0 <= place < 40]] = 50.0
    assert loss_of(objective, clapping(seconds=6.56), lambda *_: scores) == pytest.approx(np.log(31), abs=0.05)


def test_other_players_are_mixed_in_with_the_share_and_the_probability_of_the_settings(small_recipe):
    shares = []
    for seed in range(40):
        batch = clapping(seed=seed)
        sound = Alignment(settings(), small_recipe)._with_crosstalk(batch)
        rest = batch.mixture - batch.targets[:, 0]
        shares.append(float(np.vdot(sound[:, 0] - batch.targets[:, 0], rest) / np.vdot(rest, rest)))
    added = [share for share in shares if share > 0]
    assert 10 < len(added) < 30 and 0.4 < max(added) < 0.6 + 1e-6 and min(added) < 0.2
    alone = Alignment(settings(crosstalk_probability=0), small_recipe)._with_crosstalk(batch)
    np.testing.assert_array_equal(alone, batch.targets)


def test_pictures_that_were_shuffled_are_a_setting_of_mixing(tmp_path):
    path = tmp_path / "mine.yaml"
    head = "question: q\nexpected: e\nshards: quickstart\nobjective: alignment\n"
    path.write_text(f"{head}controls: {{others: {{alignment.pictures: others}}}}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"unknown key 'alignment.pictures'. To fix: did you mean 'mixing.shuffle_pictures'\?"
    ):
        load_experiment(path)
    path.write_text(f"{head}controls: {{others: {{mixing.shuffle_pictures: true}}}}\n", encoding="utf-8")
    assert load_experiment(path).settings({"mixing.shuffle_pictures": True}).mixing.shuffle_pictures


def test_a_model_that_was_saved_when_pictures_were_a_setting_of_alignment_is_read(objective, tmp_path):
    objective.save(tmp_path / "model", objective.build(), {})
    card = tmp_path / "model" / "model.json"
    about = json.loads(card.read_text(encoding="utf-8"))
    about["config"]["alignment"]["pictures"] = "own"
    card.write_text(json.dumps(about), encoding="utf-8")
    assert objective.load(tmp_path / "model").settings.alignment == objective.settings.alignment
    about["config"]["alignment"]["pictures"] = "others"
    card.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown key 'alignment.pictures'"):
        objective.load(tmp_path / "model")


def test_the_edges_of_an_excerpt_do_not_give_the_right_window_away():
    torch.manual_seed(0)
    network = AlignmentNetwork(settings(), ("vn",), RATE).eval()
    sound, motion = torch.rand(1, 1, 72000), torch.rand(1, 112, 64)
    with torch.no_grad():
        heard, seen = network.vectors(sound.expand(2, -1, -1), torch.cat([motion, motion]))
        assert heard.shape == seen.shape == (2, 32, 112 - 2 * lost_pictures(72000, 112, RATE))
        # Still pictures and a steady tone look alike everywhere: no picture is special.
        steady = torch.sin(2 * torch.pi * 500 * torch.arange(72000) / RATE)[None, None]
        heard, seen = network.vectors(steady, torch.ones(1, 112, 64))
    assert float((seen - seen[..., :1]).abs().max()) < 1e-5 and float(heard.std(-1).max()) < 0.05


def test_a_louder_window_has_no_higher_scores():
    torch.manual_seed(0)
    network = AlignmentNetwork(settings(), ("vn",), RATE)
    heard, seen = torch.rand(2, 1, 32, 60)
    louder = torch.cat([heard[..., :30], heard[..., 30:] + 5], dim=2)
    with torch.no_grad():
        before, after = (network.scores(vectors, seen, 20, 5) for vectors in (heard, louder))
    torch.testing.assert_close(after[..., 30:], before[..., 30:], rtol=1e-3, atol=1e-3)


def test_the_loop_reports_its_figure_and_its_model_is_judged_by_it(shards, tmp_path, capsys):
    reports = []

    def note(metrics, checkpoint):
        checkpoint.rename(tmp_path / str(len(reports)))
        checkpoint.mkdir()
        reports.append(metrics)

    train(Training(settings(), shards, ValidationConfig(mixtures=6, seconds=9)), note, None)
    assert all(0 <= one["valid_alignment"] <= 1 and one["train_loss"] > 0 for one in reports)
    task = FigureTask(Table(shards.folder, "test"), Row("mine", tmp_path / "1" / "model"), range(4))
    found = evaluation_by_figure([examine_mixtures(task)], "alignment", shards, "test")
    assert 0 <= found.value <= 1 and len(found.beside) == 4 and not found.labels
    guess = constant_guess(found, shards)
    assert guess.value == 0.5
    report.print_figures("test", [found, guess])
    printed = capsys.readouterr().out
    assert "5 s, all players sound" in printed and "two-alternative accuracy" in printed.lower()


# What is refused


def test_an_excerpt_without_room_for_wrong_windows_is_refused_before_a_search(moving_manifest):
    chosen = settings(training={"output_samples": 24000})
    rule = r"output_samples must have room for alignment.seconds, 2 s, and for windows 0.5 s earlier and later; got 240"
    with pytest.raises(ConfigError, match=rule) as caught:
        check_settings(chosen, moving_manifest, PLACE)
    least = int(caught.value.fix.split()[2])
    check_settings(settings(training={"output_samples": least}), moving_manifest, PLACE)


def test_an_excerpt_that_is_longer_than_a_clip_is_refused(moving_manifest):
    with pytest.raises(
        ConfigError,
        match=r"must not exceed the clips of 'moving', the longest of which has 128000 samples; got 130000",
    ):
        check_settings(settings(training={"output_samples": 130000}), moving_manifest, PLACE)


def test_mixtures_that_are_too_short_for_the_figure_are_refused(moving_manifest, small_manifest):
    with pytest.raises(
        ConfigError, match=r"validation.seconds must be at least 9 with objective: alignment.*got 2, and"
    ):
        validation_spec(moving_manifest, ValidationConfig(), "alignment")
    with pytest.raises(ConfigError, match="and clips as long; got 14, and clips of 3 s in 'small'"):
        validation_spec(small_manifest, ValidationConfig(seconds=14), "alignment")
    assert figure_spec(moving_manifest, "test", "alignment").samples == 14 * RATE


def test_mixtures_are_as_short_as_the_clips_of_half_of_the_pieces(moving_manifest):
    lengths = iter([10.55, 40.0] * len(moving_manifest.pieces))
    pieces = tuple(piece.model_copy(update={"seconds": next(lengths)}) for piece in moving_manifest.pieces)
    found = figure_spec(moving_manifest.model_copy(update={"pieces": pieces}), "valid", "alignment")
    assert found.samples == 14 * RATE  # the median of 10.55 and 20 s, in clips of 30 s at most
    pieces = tuple(piece.model_copy(update={"seconds": 10.55}) for piece in pieces)
    found = figure_spec(moving_manifest.model_copy(update={"pieces": pieces}), "valid", "alignment")
    assert found.samples == 10.5 * RATE


def test_shards_without_motion_are_refused(moving_manifest):
    bare = moving_manifest.model_copy(update={"folder": moving_manifest.folder / "elsewhere"})
    with pytest.raises(DataError, match="needs the motion of the players"):
        open_objective(settings(), bare)


def test_a_model_of_another_rate_is_refused(objective, shards, tmp_path):
    objective.save(tmp_path / "model", AlignmentNetwork(settings(), ("vn",), 16000), {})
    with pytest.raises(ModelError, match="must have sample_rate: 8000; got sample_rate: 16000"):
        figures.check_model(tmp_path / "model", "mine", "alignment", shards)


def test_a_training_goes_on_from_a_model_of_the_same_objective(objective, small_recipe, tmp_path):
    objective.save(tmp_path / "model", objective.build(), {})
    check_start(settings(training={"start_from": str(tmp_path / "model")}), small_recipe)


def test_its_settings_belong_to_it_alone(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("question: q\nexpected: e\nshards: quickstart\nalignment: {seconds: 3}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"alignment.seconds needs objective: alignment; got .* objective: separation"
    ):
        load_experiment(path)


def test_an_excerpt_that_is_too_short_for_a_vector_is_refused():
    network = AlignmentNetwork(settings(), ("vn", "vc"), RATE)
    arrays = {"mixture": np.zeros((1, 1, 4000), np.float32), "motion": np.zeros((1, 2, 12, 64), np.float16)}
    with pytest.raises(ModelError, match=r"an excerpt must have more than \d+ pictures; got 12 in 0\.5 s"):
        network.predict(arrays)
