"""The objective `instruments` with the label of each player: its loss, its figure beside the mAP, and its pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import one_thread, run  # noqa: F401 - a fixture that all use

from vimss.errors import ConfigError, DataError
from vimss.features import load_vision
from vimss.model.compact_vision import CompactNetwork
from vimss.model.vision import Vision
from vimss.model.vision_config import VisionConfig
from vimss.search.consistency import load_experiment
from vimss.shards.clip import Clip, Player
from vimss.stream.batch import Batch, Examples, Position
from vimss.train.config import Settings
from vimss.train.objectives import open_objective
from vimss.train.objectives.instruments import ACCURACY, Instruments
from vimss.train.objectives.instruments_augment import augment, with_things
from vimss.train.objectives.instruments_network import InstrumentsNetwork

COMPACT = {"network": "compact", "weights": "random", "frozen": False}


TRAINING = {"batch_size": 2, "output_samples": 4000, "audio_seconds": 2, "report_seconds": 1}


def settings(**instruments) -> Settings:
    return Settings.model_validate(
        {
            "objective": "instruments",
            "model": {"vision": COMPACT},
            "training": TRAINING,
            "instruments": {"labels": "players", "every": 0.5, **instruments},
        }
    )


@pytest.fixture(scope="module")
def opened(small_manifest):
    """The objective, and a batch of three mixtures."""
    chosen = settings()
    objective = open_objective(chosen, small_manifest)
    examples = Examples(small_manifest, "train", chosen.mixing, objective.window(), objective.interface, 0)
    return objective, next(examples.batches(3, Position()))[0]


class Knows(InstrumentsNetwork):
    """Gives each player the label that it was told, whatever the pictures show."""

    def tell(self, labels: np.ndarray) -> "Knows":
        self.told = torch.from_numpy(labels)
        return self

    def forward(self, mixture, pictures, players, each=False):
        numbers = 9.0 * torch.nn.functional.one_hot(self.told, len(self.labels)).float()
        return numbers if each else numbers.amax(0, keepdim=True)


def accuracy(objective: Instruments, batch: Batch, wrong: int) -> float:
    """Beside the mAP, where so many players of the first mixture are given another label."""
    labels = batch.shown[0][batch.players[0]].copy()
    labels[:wrong] = (labels[:wrong] + 1) % len(objective.recipe.labels)
    network = Knows(objective.settings, objective.recipe.labels, 8000).tell(labels)
    row = objective.examine(network, batch.part(slice(0, 1)), torch.device("cpu"))
    return objective.beside(row[None])[ACCURACY]


def test_the_players_who_are_named_rightly_are_counted(opened):
    objective, batch = opened
    count = int(batch.players[0].sum())
    assert count == 3  # two who play, and one who rests
    assert [accuracy(objective, batch, wrong) for wrong in range(3)] == pytest.approx([1, 2 / 3, 1 / 3])


def test_the_labels_of_players_are_those_of_the_mixture(opened):
    _, batch = opened
    for shown, players, present in zip(batch.shown, batch.players, batch.present, strict=True):
        sounding = set(np.flatnonzero(present))
        assert sounding <= set(shown[players].tolist())
        assert shown[players][-1] not in sounding  # the one who rests is last


def test_a_constant_guess_names_one_player_in_as_many_as_there_are_labels(opened):
    objective, batch = opened
    network = objective.build().eval()
    with torch.no_grad():
        row = objective.examine(network, batch.part(slice(0, 1)), torch.device("cpu"))
    guess = objective.guess(row[None])
    assert objective.beside(guess)[ACCURACY] == pytest.approx(1 / len(objective.recipe.labels))


def test_players_are_not_named_where_the_sound_is_an_input(small_manifest):
    chosen = settings(labels="mixture", inputs="both")
    objective = open_objective(chosen, small_manifest)
    examples = Examples(small_manifest, "train", chosen.mixing, objective.window(), objective.interface, 0)
    batch = next(examples.batches(1, Position()))[0]
    with torch.no_grad():
        row = objective.examine(objective.build().eval(), batch, torch.device("cpu"))
    assert objective.beside(row[None]) == {}


def test_the_loss_is_the_cross_entropy_of_the_players_labels(opened):
    objective, batch = opened
    torch.manual_seed(0)
    network = objective.build().eval()
    pictures, players = torch.from_numpy(batch.context), torch.from_numpy(batch.players)
    with torch.no_grad():
        totals = torch.from_numpy(objective.totals(batch)).float()
        loss = objective.loss(network, batch, totals)
        chances = network(None, pictures, players, each=True).softmax(1)
    labels = torch.from_numpy(batch.shown)[players]
    assert loss == pytest.approx(-chances[range(len(labels)), labels].log().mean().item(), rel=1e-4)


def test_a_player_alone_gets_probabilities_that_add_up_to_one(opened):
    objective, _ = opened
    pictures = np.random.default_rng(0).integers(0, 255, (2, 1, 3, 32, 32, 3), np.uint8)
    found = objective.build().eval().predict({"frames": pictures})
    assert sum(found.values()) == pytest.approx([1, 1], abs=1e-3)


def test_changed_pictures_depend_on_the_seed_and_the_example_alone(opened, small_manifest):
    _, batch = opened
    objective = open_objective(settings(augment=True), small_manifest)
    torch.manual_seed(0)
    network = objective.build()
    totals = torch.ones(1)
    whole, again = (objective.loss(network, batch, totals) for _ in range(2))
    parts = [objective.loss(network, batch.part(part), totals) for part in (slice(0, 1), slice(1, 3))]
    assert torch.equal(whole, again)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-5)
    plain = open_objective(settings(), small_manifest)
    assert abs(plain.loss(network, batch, totals) - whole) > 1e-3


def test_changed_pictures_are_pictures_of_the_same_thing():
    rng = np.random.default_rng(0)
    pictures = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
    pictures[:, 10:22, 10:22] = torch.tensor([250, 120, 10], dtype=torch.uint8)
    changed = augment(pictures, rng)
    assert changed.shape == pictures.shape and changed.dtype == torch.uint8
    assert not torch.equal(changed[0], changed[1])
    spread = changed.float().std((1, 2)).amax(1)
    assert (spread > 8).float().mean() > 0.9  # the square is still seen against what surrounds it
    assert torch.equal(augment(pictures, np.random.default_rng(0)), changed)


def test_the_compact_network_is_blind_to_brightness_and_contrast():
    torch.manual_seed(0)
    network, pictures = CompactNetwork().eval(), torch.rand(2, 3, 80, 80)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures), network(3 * pictures + 1), rtol=0.1, atol=0.02)
        assert network(pictures).shape == (2, 192)


def test_the_compact_network_is_a_vision_network_like_others():
    vision = Vision(VisionConfig(network="compact", weights="random", frozen=False))
    out = vision(torch.randint(0, 255, (1, 2, 3, 40, 40, 3), dtype=torch.uint8))
    assert out.shape == (1, 2, 3, vision.config.feature_size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "instruments: {inputs: both, labels: players}\nmodel: {vision: {weights: random}}",
            "instruments.labels needs instruments.inputs: pictures; got instruments.labels: players with "
            "instruments.inputs: both. To fix: remove instruments.labels, or change instruments.inputs",
        ),
        (
            "instruments: {labels: players, masks: true}\nmodel: {vision: {weights: random}}",
            "instruments.masks needs instruments.labels: players and model.vision.network: compact; got",
        ),
        (
            "instruments: {inputs: sound, augment: true}",
            "instruments.augment needs instruments.inputs: pictures or both; got instruments.augment: True",
        ),
        (
            "model: {vision: {network: compact}}",
            "torchvision has no weights of compact: set weights to chamber, random or the path of a file",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"question: q\nexpected: e\nshards: quickstart\nobjective: instruments\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


@pytest.fixture(scope="module")
def masked(small_manifest):
    """The objective that also learns from masks, and a batch of three mixtures."""
    chosen = settings(masks=True)
    objective = open_objective(chosen, small_manifest)
    examples = Examples(small_manifest, "train", chosen.mixing, objective.window(), objective.interface, 0)
    return objective, next(examples.batches(3, Position()))[0]


def test_masks_are_shown_beside_the_pictures_and_lie_on_the_instrument(masked, opened):
    _, batch = masked
    np.testing.assert_array_equal(batch.context[..., :3], opened[1].context)
    mask = batch.context[..., 3][batch.players]
    assert set(np.unique(mask)) == {0, 1} and 0.005 < mask.mean() < 0.2


def test_a_network_that_looks_at_the_instrument_has_a_lower_loss(masked):
    objective, batch = masked
    torch.manual_seed(0)
    network, totals = objective.build(), torch.from_numpy(objective.totals(batch)).float()
    elsewhere = replace(batch, context=batch.context.copy())
    elsewhere.context[..., 3] = 1
    assert objective.loss(network, elsewhere, totals) < objective.loss(network, batch, totals)
    network.vision.network.where.weight.data.zero_()
    even = objective.loss(network, batch, totals)
    for _ in range(20):
        network.zero_grad()
        objective.loss(network, batch, totals).backward()
        for weight in network.vision.network.where.parameters():
            weight.data -= 0.1 * weight.grad
    assert objective.loss(network, batch, totals) < even


@pytest.mark.slow
def test_the_loop_trains_on_changed_pictures_and_masks_and_keeps_the_network(small_manifest, tmp_path):
    reports = run(small_manifest, tmp_path, settings(masks=True, augment=True))
    assert [0 < report["valid_map"] <= 1 and report["train_loss"] > 0 for report in reports] == [True, True]
    taken = Vision(load_vision("compact", tmp_path / "1" / "model" / "weights.safetensors"))
    assert taken(torch.zeros(1, 1, 1, 32, 32, 3, dtype=torch.uint8)).shape == (1, 1, 1, 192)


def test_masks_go_with_the_pictures_that_are_changed():
    pictures = torch.zeros(32, 40, 40, 4, dtype=torch.uint8)
    pictures[:, 12:28, 12:28, :3] = torch.tensor([250, 120, 10], dtype=torch.uint8)
    pictures[:, 12:28, 12:28, 3] = 1
    changed = augment(pictures, np.random.default_rng(0))
    assert set(changed[..., 3].unique().tolist()) == {0, 1}
    for picture in changed.float():
        inside, outside = picture[..., :3][picture[..., 3] > 0], picture[..., :3][picture[..., 3] == 0]
        assert inside.std(0).mean() < (outside.mean(0) - inside.mean(0)).abs().max() + 12


def test_things_are_drawn_around_the_instrument_and_never_over_it():
    pictures = torch.zeros(64, 20, 20, 4, dtype=torch.uint8)
    pictures[:, 5:15, 8:12, 3] = 1
    changed = with_things(pictures, np.random.default_rng(0))
    covered = (changed[..., :3] > 0).any(3)
    there = pictures[..., 3] > 0
    assert not covered[there].any() and torch.equal(changed[..., 3], pictures[..., 3])
    assert 0.4 < covered.any(2).any(1).float().mean() < 0.95 and 0.005 < covered[~there].float().mean() < 0.2
    assert (with_things(pictures[..., :3], np.random.default_rng(0)) > 0).any(3)[there].any()


def test_pictures_without_masks_are_refused_where_those_teach(small_manifest):
    objective = open_objective(settings(masks=True), small_manifest)
    player = Player(instrument="vn", part="1-vn", picture=np.zeros((2, 8, 8, 3), np.uint8))
    clip = Clip("piece", 0, 8000, 8000, (player,), 12.5)
    with pytest.raises(DataError, match=r"masks: true needs shards with the masks of instruments; got none of '1-vn'"):
        objective.interface.of_player(clip, player)
