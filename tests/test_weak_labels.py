"""Which part of a mixture is of which label; what every objective must do is in test_objectives.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import one_thread  # noqa: F401 - a fixture that all use
from test_youtube8m import example, write
from torch import nn

from vimss.baselines.nmf import InformedNMF, learn_spectra, magnitudes
from vimss.errors import ConfigError, DataError
from vimss.metrics import si_sdr_improvement
from vimss.model.pretrained import pretrained_folder
from vimss.search.consistency import load_experiment
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.batch import Batch, Examples, Position
from vimss.stream.config import MixingConfig
from vimss.stream.mix import PlayerView, Source, Window, mix
from vimss.stream.read import read_clips
from vimss.stream.scene import Scene
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loop import Training, train
from vimss.train.objectives import open_objective
from vimss.train.objectives.weak_labels import BESIDE, SoundingPlayers, WeakLabels
from vimss.train.objectives.weak_labels_network import bases_of

RATE = 8000
LABELS = ("vn", "vc", "fl")
PITCHES = {"vn": 300.0, "vc": 900.0, "fl": 2000.0}


def settings(labels: str = "corpus", bases: int = 3) -> Settings:
    given = {"labels": labels, "bases": bases}
    return Settings.model_validate({"objective": "weak_labels", "weak_labels": given})


@pytest.fixture
def recipe(small_recipe):
    return small_recipe.model_copy(update={"labels": LABELS})


@pytest.fixture
def objective(recipe):
    """With the labels of the corpus, on no shards in particular."""
    return WeakLabels(settings(), recipe)


def tone(label: str, seed: int) -> np.ndarray:
    """A second of notes of a label's pitch, with a partial and a little noise."""
    rng, times = np.random.default_rng(seed), np.arange(RATE) / RATE
    level = 0.3 * np.maximum(0, np.sin(2 * np.pi * (rng.uniform(2, 5) * times + rng.random())))
    sound = sum(np.sin(2 * np.pi * PITCHES[label] * k * times) / k for k in (1, 1.5))
    return (level * sound + 1e-4 * rng.standard_normal(RATE))[None].astype(np.float32)


def of_labels(*playing: tuple[str, ...]) -> Batch:
    """Mixtures in which these labels play."""
    present = np.array([[label in labels for label in LABELS] for labels in playing])
    targets = np.zeros((len(playing), len(LABELS), 1, RATE), np.float32)
    for row, place in np.argwhere(present):
        targets[row, place] = tone(LABELS[place], seed=10 * row + place)
    return Batch(targets.sum(1), targets, present, None, None, np.zeros(len(playing), bool))


class Answers(nn.Module):
    """A network that gives these scores of the bases of one mixture, whatever it gets."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores, dtype=torch.float32)[None]

    def forward(self, bases):
        return self.scores


def loss_of(objective, batch, scores) -> float:
    return float(objective.loss(Answers(scores), batch, torch.from_numpy(objective.totals(batch)).float()))


def test_the_labels_of_a_mixture_must_be_higher_by_one_than_all_others(objective):
    batch = of_labels(("vn", "vc"))
    # The highest of all bases counts: the second one has the violin.
    assert loss_of(objective, batch, [[-9, 2, 1], [2, -9, 1], [0, 0, 0]]) == 0
    assert loss_of(objective, batch, [[0, 0, 0]] * 3) == pytest.approx(2 / 3)
    assert loss_of(objective, batch, [[2, 0, 1.5]] * 3) == pytest.approx((0.5 + 2.5) / 3)


class Names(nn.Module):
    """A network that gives these logits of labels to the players in their order."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float32)

    def forward(self, mixture, pictures, players, each):
        assert mixture is None and each and players.sum() == len(self.logits)
        return self.logits


def test_pictures_give_likely_labels_and_always_the_likeliest(recipe):
    objective = WeakLabels(settings("pictures"), recipe)
    logits = np.zeros((3, 13))
    # Of 13 outputs three are of these shards; whatever the others are, they do not count.
    vn, vc, fl = (objective.known[place] for place in range(3))
    logits[:, [place for place in range(13) if place not in (vn, vc, fl)]] = 50
    logits[0, vn] = 9  # sure
    logits[1, [vc, fl]] = 3  # both likely
    logits[2] += 0.001 * np.arange(13)  # all of them a third, which is above 0.3
    objective.namer = Names(logits)
    batch = of_labels(("vn",), ("vc", "fl"), ("vn",))
    pictures = np.zeros((3, 2, 1, 8, 8, 3), np.uint8)
    batch = Batch(
        batch.mixture, batch.targets, batch.present, pictures, np.array([[1, 0], [1, 0], [1, 0]], bool),
        batch.peak_limited,
    )  # fmt: skip
    given = objective.labels_given(batch, torch.device("cpu")).tolist()
    assert given == [[True, False, False], [False, True, True], [True, True, True]]


def test_the_namer_is_the_network_that_comes_with_vimss(recipe):
    objective = WeakLabels(settings("pictures"), recipe)
    assert pretrained_folder("chamber") and not any(weight.requires_grad for weight in objective.namer.parameters())
    assert [objective.namer.labels[place] for place in objective.known.values()] == list(LABELS)


def test_who_rests_is_not_shown(recipe):
    views = [np.full((5, 4, 4, 3), number, np.uint8) for number in range(3)]
    stem = np.full((1, 8), 0.1, np.float32)
    sources = [Source(label, view, label, "p", "", stem) for label, view in zip(("vn", "vc"), views, strict=False)]
    mixture = mix(sources, [PlayerView("fl", views[2], "fl", "p", "")], aligned=False)
    shown = SoundingPlayers(settings("pictures"), recipe)
    targets, rows = shown.query(mixture, settings().mixing, np.random.default_rng(0))
    assert [len(each) for each in targets] == [1, 1, 0] and [row.max() for row in rows] == [0, 1]
    assert shown.labels_shown(mixture) == [0, 1] and len(rows[0]) == 2
    blind = SoundingPlayers(settings("corpus"), recipe)
    assert blind.query(mixture, settings().mixing, np.random.default_rng(0))[1] == []


def scores_of(batch: Batch, bases: int, right: bool = True) -> list[list[float]]:
    """Of the bases that NMF finds, each by the pitch that is nearest to its highest bin."""
    highest = learn_spectra(magnitudes(batch.mixture[0], RATE), bases).argmax(1) * RATE / 512
    nearest = np.abs(highest[:, None] - np.array(list(PITCHES.values()))) / list(PITCHES.values())
    return (-nearest if right else nearest).tolist()


@pytest.mark.parametrize("right", [True, False])
def test_beside_the_figure_is_the_energy_of_bases_that_is_of_their_label(recipe, right):
    objective, batch = WeakLabels(settings(bases=2), recipe), of_labels(("vn", "fl"))
    row = objective.examine(Answers(scores_of(batch, 2, right)), batch, torch.device("cpu"))
    own, chance, best, true = objective.beside(row[None]).values()
    assert best > 0.9 and own == pytest.approx(best if right else 1 - best, abs=1e-5) and (chance, true) == (0.5, 1)
    alone = objective.examine(Answers([[0.0] * 3] * 2), of_labels(("vn",)), torch.device("cpu"))
    assert np.isnan(objective.beside(alone[None])[BESIDE[0]])


def test_the_figure_orders_mixtures_by_what_is_higher_in_them_than_other_labels(objective):
    playing = (("vn", "vc"), ("vc", "fl"), ("vn", "fl"))
    rows = []
    for number, labels in enumerate(playing):
        # What all scores of a mixture have in common says nothing.
        scores = [[10.0 * number + (label in labels) for label in LABELS]] * 3
        rows.append(objective.examine(Answers(scores), of_labels(labels), torch.device("cpu")))
    kept = torch.stack(rows)
    assert objective.value(kept) == 1 and objective.by_label(kept) == dict.fromkeys(LABELS, 1.0)
    assert objective.value(objective.guess(kept)) == pytest.approx(2 / 3)


def test_labels_of_mixtures_give_dictionaries_that_separate_others(objective):
    torch.manual_seed(0)
    network, pairs = objective.build(), [("vn", "vc"), ("vc", "fl"), ("vn", "fl")]
    batch = of_labels(*pairs)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        objective.loss(network, batch, torch.from_numpy(objective.totals(batch)).float()).backward()
        optimizer.step()
    dictionaries = objective.dictionaries(network, [batch])
    vn, fl = tone("vn", 77), tone("fl", 78)
    estimates = InformedNMF(dictionaries)(Scene("p", vn + fl, {"vn": vn, "fl": fl}, {}), ["vn", "fl"])
    gains = [si_sdr_improvement(vn + fl, stem, one, RATE) for stem, one in zip((vn, fl), estimates, strict=True)]
    assert min(gains) > 10


def test_mixtures_without_labels_have_no_dictionaries(objective):
    with pytest.raises(DataError, match="dictionaries need mixtures to which some label is given; got none"):
        objective.dictionaries(objective.build(), [of_labels(())])


def test_one_label_owns_all_bases(small_recipe):
    objective = WeakLabels(settings(), small_recipe.model_copy(update={"labels": ("vn",)}))
    batch = Batch(tone("vn", 0)[None], tone("vn", 0)[None, None], np.ones((1, 1), bool), None, None, np.zeros(1, bool))
    dictionaries = objective.dictionaries(objective.build(), [batch])
    assert list(dictionaries.spectra) == ["vn"] and len(dictionaries.spectra["vn"]) == settings().weak_labels.bases


# Two streams


def two_stream(**changed) -> Settings:
    vision = {"network": "compact", "weights": "random"}
    given = {"labels": "corpus", "network": "two_stream", "bases": 4} | changed
    return Settings.model_validate({"objective": "weak_labels", "weak_labels": given, "model": {"vision": vision}})


def with_pictures(batch: Batch, colours: dict[str, tuple[int, int, int]]) -> Batch:
    """Each player who sounds beside a place that is filled up, in the colour of the label."""
    pictures = np.zeros((len(batch.mixture), len(LABELS), 1, 16, 16, 3), np.uint8)
    players = np.sort(batch.present, axis=1)[:, ::-1].copy()
    for row, present in enumerate(batch.present):
        for player, label in enumerate(np.flatnonzero(present)):
            pictures[row, player] = colours[LABELS[label]]
    return replace(batch, context=pictures, players=players)


@torch.no_grad()
def of_streams(network, batch: Batch) -> torch.Tensor:
    """The scores of 4 components and then of the players."""
    return network(bases_of(batch.mixture, 4, RATE), torch.from_numpy(batch.context), torch.from_numpy(batch.players))


COLOURS = {"vn": (250, 20, 20), "vc": (20, 250, 20), "fl": (20, 20, 250)}


def test_scores_of_two_streams_are_shares_of_real_instances(recipe):
    torch.manual_seed(0)
    network = WeakLabels(two_stream(), recipe).build()
    scores = of_streams(network, with_pictures(of_labels(("vn",), ("vn", "fl")), COLOURS))
    assert scores.shape == (2, 4 + 3, 3) and scores.min() >= 0
    assert scores[0, 5:].abs().max() == 0 and scores[1, 6:].abs().max() == 0 and scores[1, 5].min() > 0
    # A softmax over labels times one over instances: of one region alone the first is left.
    assert float(scores[0, 4].sum()) == pytest.approx(1)
    assert ((scores[:, :4].sum(1) > 0) & (scores[:, :4].sum(1) < 1)).all()


def test_masks_of_components_sum_to_one(recipe):
    torch.manual_seed(0)
    network = WeakLabels(two_stream(), recipe).build()
    mixture = tone("vn", 1) + tone("fl", 2)
    estimates = network.separate(mixture, ["fl", "vn"], bases=4)
    np.testing.assert_allclose(estimates.sum(0), mixture, atol=1e-5)
    assert np.abs(estimates).max(axis=(1, 2)).min() > 0
    np.testing.assert_allclose(network.separate(mixture, ["vn", "fl"], bases=4), estimates[::-1], atol=1e-6)


def test_labels_of_recordings_teach_two_streams_which_component_and_which_region_is_whose(recipe):
    torch.manual_seed(0)
    objective = WeakLabels(two_stream(), recipe)
    network = objective.build()
    batch = with_pictures(of_labels(("vn", "vc"), ("vc", "fl"), ("vn", "fl")), COLOURS)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(15):
        optimizer.zero_grad()
        objective.loss(network, batch, torch.from_numpy(objective.totals(batch)).float()).backward()
        optimizer.step()
    scores = of_streams(network.eval(), batch)
    # No label says which of the two pictures is the violin.
    assert [int(row.argmax()) for row in scores[0, 4:6]] == [0, 1]
    vn, fl = tone("vn", 77), tone("fl", 78)
    estimates = network.separate(vn + fl, ["vn", "fl"], bases=4)
    gains = [si_sdr_improvement(vn + fl, stem, one, RATE) for stem, one in zip((vn, fl), estimates, strict=True)]
    assert min(gains) > 10
    found = network.predict({"mixture": batch.mixture, "frames": batch.context[:, :2]})
    assert min(found["vn"][0], found["vc"][0]) > 0.9 and found["fl"][0] < 0.1


def test_shards_whose_instruments_are_not_known_need_labels_of_their_own(small_recipe):
    drums = small_recipe.model_copy(update={"labels": ("drums", "bass")})
    with pytest.raises(ConfigError, match=r"needs shards with an instrument .* named; got the labels drums, bass"):
        WeakLabels(settings("pictures"), drums).window()
    assert WeakLabels(settings("corpus"), drums).window().output_samples == settings().training.output_samples


def test_its_settings_belong_to_it(tmp_path):
    path = tmp_path / "mine.yaml"
    head = "question: q\nexpected: e\nshards: quickstart\n"
    path.write_text(f"{head}weak_labels: {{bases: 9}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="weak_labels.bases needs objective: weak_labels; got"):
        load_experiment(path)
    path.write_text(
        f"{head}objective: weak_labels\nweak_labels: {{labels: corpus}}\nmixing: {{shuffle_pictures: true}}\n",
        encoding="utf-8",
    )
    with pytest.raises(
        ConfigError, match="mixing.shuffle_pictures needs weak_labels.labels: pictures or weak_labels.network: two_str"
    ):
        load_experiment(path)


# Features in place of the sound


@pytest.fixture
def videos(tmp_path):
    """Shards of 24 videos of 4 s: the labels decide the features of one of their seconds."""
    rng, records = np.random.default_rng(0), []
    labels = {1: 60, 2: 120, 3: 200}
    for number in range(24):
        playing = tuple(sorted(rng.choice(list(labels), 1 + number % 2, replace=False).tolist()))
        seconds = [bytes([10] * 128) for _ in range(4 - len(playing))]
        seconds += [bytes([labels[one]] * 64 + [10] * 64) for one in playing]
        records.append(example(f"video{number}".encode(), playing, [bytes(1024)] * 4, seconds))
    write(tmp_path / "source", "train", *records[:16])
    write(tmp_path / "source", "validate", *records[16:])
    classes = "options.classes={'1': vn, '2': vc, '3': fl}"
    recipe = load_recipe("youtube8m", ["labels=[vn, vc, fl]", classes, "clips_per_shard=4"])
    return write_shards(recipe, "youtube8m", Store(tmp_path / "store"), tmp_path / "source")


def of_features(**changed) -> Settings:
    given = {"labels": "corpus", "inputs": "sound_features"}
    training = {"output_samples": 32_000, "batch_size": 8, "audio_seconds": 1280, "report_seconds": 1280}
    content = {"objective": "weak_labels", "weak_labels": given, "training": training | {"learning_rate": 1e-3}}
    return Settings.model_validate(content | {"mixing": {"min_sources": 1, "max_sources": 2}} | changed)


@pytest.mark.slow
def test_labels_of_videos_are_learned_from_features_of_their_seconds(videos):
    reports = []
    training = Training(of_features(), videos, ValidationConfig(mixtures=6, seconds=4))
    network = train(training, lambda metrics, _: reports.append(metrics)).eval()
    assert reports[-1]["valid_label_map"] > 0.9
    (clip, *_) = read_clips(videos, "train", parts=("sound_features",))
    found = network.predict({"sound_features": clip.players[0].sound_features[None].astype(np.float32)})
    playing = {player.instrument for player in clip.players}
    assert min(found[label][0] for label in playing) > max(found[label][0] for label in set(LABELS) - playing)


def test_all_labels_of_a_video_are_given_whichever_player_is_drawn(videos):
    objective = open_objective(of_features(), videos)
    examples = Examples(videos, "train", MixingConfig(min_sources=1, max_sources=1), objective.window(),
                        objective.interface, 0)  # fmt: skip
    batch = next(examples.batches(16, Position()))[0]
    assert {int(row.sum()) for row in objective.labels_given(batch, torch.device("cpu"))} == {1, 2}
    assert not batch.mixture.any() and objective._bases(batch).shape == (16, 4, 128)


def test_features_are_no_stems(videos):
    separation = Settings.model_validate({"training": {"output_samples": 16_389}})
    objective, window = open_objective(separation, videos), Window(16_000, 16_000, RATE)
    examples = Examples(videos, "train", separation.mixing, window, objective.interface, 0)
    with pytest.raises(
        DataError, match="must have a stem; got features of the sound alone. To fix: choose a corpus wi"
    ):
        next(examples.batches(2, Position()))


@pytest.mark.parametrize(
    ("features", "got"), [(None, "none of '1-vn'"), (np.zeros((4, 64), np.float16), "64 of '1-vn'")]
)
def test_features_of_another_size_are_refused(recipe, features, got):
    player = Player("vn", "1-vn", sound_features=features)
    with pytest.raises(DataError, match=f"needs 128 numbers of each second of sound; got {got} in p_000000000"):
        WeakLabels(of_features(), recipe).interface.of_player(Clip("p", 0, 4, 1, (player,)), player)


def test_two_streams_need_sound_and_a_vision_network_needs_two_streams():
    with pytest.raises(ValueError, match="needs weak_labels.inputs: bases where weak_labels.network is two_stream"):
        two_stream(inputs="sound_features")
    with pytest.raises(ValueError, match="should be 'miml' or 'two_stream'"):
        two_stream(network="gao")


def test_features_have_no_pictures_to_name():
    with pytest.raises(
        ValueError, match="weak_labels needs weak_labels.labels: corpus where weak_labels.inputs are sound"
    ):
        of_features(weak_labels={"inputs": "sound_features"})
