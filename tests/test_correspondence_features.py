"""Which picture belongs to which sound, by the features that a corpus has in place of both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_train import one_thread  # noqa: F401 - a fixture that all use
from test_youtube8m import example, write

from vimss.errors import ConfigError, DataError, ModelError
from vimss.runtime import Place
from vimss.search.checks import check_settings
from vimss.search.consistency import load_experiment
from vimss.search.run import search
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.batch import Examples, Position
from vimss.stream.mix import Source, mix
from vimss.stream.read import read_clips
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loop import Training, train
from vimss.train.objectives import OBJECTIVES, open_objective
from vimss.train.objectives.correspondence import Correspondence, FeaturesInterface
from vimss.train.objectives.saved import load_network

RATE = 8000
LABELS = ("vn", "va", "vc", "fl", "cl", "ob")
CLASSES = ", ".join(f"'{number}': {label}" for number, label in enumerate(LABELS, start=1))
HERE = Place.model_construct(name="here", workers_per_trial=1, gpus_per_worker=0.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Shards of videos of 2 s: four numbers of each second, which the label has no part in, are seen and heard."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    seen, heard = rng.standard_normal((4, 1024)), rng.standard_normal((4, 128))

    def frames(causes, mixing):
        found = 128 + 20 * (causes @ mixing + rng.standard_normal((len(causes), mixing.shape[1])))
        return [row.tobytes() for row in found.clip(0, 255).astype(np.uint8)]

    records = []
    for number in range(72):
        # Every eighth video is of two classes.
        classes = tuple(sorted((number + other) % len(LABELS) + 1 for other in range(1 + (number % 8 == 0))))
        causes = rng.standard_normal((2, 4))
        records.append(example(f"v{number}".encode(), classes, frames(causes, seen), frames(causes, heard)))
    write(folder / "source", "train", *records[:36])
    write(folder / "source", "validate", *records[36:])
    changes = f"labels=[{', '.join(LABELS)}]", f"options.classes={{{CLASSES}}}", "clips_per_shard=6"
    recipe = load_recipe("youtube8m", changes)
    return write_shards(recipe, "youtube8m", Store(folder / "store"), folder / "source")


def settings(**changed) -> Settings:
    given = {"inputs": "features", "loss": "info_nce"} | changed.pop("correspondence", {})
    mixing = {"min_sources": 3, "max_sources": 3, "aligned_probability": 0} | changed.pop("mixing", {})
    training = {"output_samples": RATE, "batch_size": 8, "audio_seconds": 1600, "report_seconds": 800}
    content = {"objective": "correspondence", "correspondence": given, "mixing": mixing}
    return Settings.model_validate(content | {"training": training | {"learning_rate": 1e-3}} | changed)


def batch_of(objective, manifest, count=16):
    examples = Examples(manifest, "train", objective.settings.mixing, objective.window(), objective.interface, 0)
    return next(examples.batches(count, Position()))[0]


@pytest.mark.slow
def test_what_videos_look_and_sound_like_is_learned_from_features(videos, tmp_path):
    reports, validation = [], ValidationConfig(mixtures=24, seconds=1)
    network = train(Training(settings(), videos, validation), lambda metrics, _: reports.append(metrics))
    # Chance is one in six, of videos that were not trained on.
    assert reports[-1]["valid_recall"] > 0.5
    open_objective(settings(), videos).save(tmp_path / "model", network, {})
    loaded = load_network(tmp_path / "model")
    seen, heard = np.zeros((2, 4, 1, 1024), np.float32), np.zeros((2, 1, 128), np.float32)
    players = [clip.players[0] for clip in read_clips(videos, "train", parts=("features", "sound_features"))][:4]
    seen[:, :, 0] = [player.features[1] for player in players]
    heard[:, 0] = [player.sound_features[1] for player in players[:2]]
    found = loaded.predict({"sound_features": heard, "features": seen})["correspondence"]
    assert found.shape == (2, 4) and found.argmax(1).tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.rare
def test_the_question_of_youtube8m_is_searched_on_records_of_its_layout(videos, shared_ray, tmp_path):
    short = ("training.audio_seconds=128", "training.report_seconds=128", "validation.mixtures=6")
    experiment = load_experiment("experiments/full/youtube8m.yaml", short)
    place = Place(name="test", max_concurrent_trials=1)
    records = search(experiment, videos, place, Store(tmp_path)).records
    assert [(record.cell, record.state) for record in records] == [
        ("loss=info_nce", "finished"), ("loss=pairs", "finished"),
    ], [record.message for record in records]  # fmt: skip
    assert all(1 / 6 <= record.value <= 1 for record in records)


@pytest.mark.slow
def test_a_picture_and_its_sound_are_of_the_same_second(videos):
    objective = open_objective(settings(), videos)
    sound, pictures = objective._compared(batch_of(objective, videos), torch.device("cpu"))
    assert sound.shape[2] == 128 and pictures.shape[2] == 1024
    clips = read_clips(videos, "train", parts=("features", "sound_features"))
    seconds = {
        tuple(seen[:8].tolist()): heard.astype(np.float32)
        for clip in clips
        for seen, heard in zip(clip.players[0].features, clip.players[0].sound_features, strict=True)
    }
    for picture, heard in zip(pictures[:, 0], sound[:, 0], strict=True):
        np.testing.assert_array_equal(heard, seconds[tuple(picture[:8].tolist())])


def source(label, piece):
    return Source(label, np.full((1, 1152), ord(label[0]), np.float32), piece, piece, label, np.zeros((1, 8), "f4"))


def test_players_of_one_video_are_one(small_recipe):
    shown = FeaturesInterface(settings(), small_recipe)
    mixture = mix([source("vn", "one"), source("fl", "one"), source("cl", "other")], (), aligned=False)
    targets, rows = shown.query(mixture, settings().mixing, np.random.default_rng(0))
    assert [chr(int(row[0])) for row in rows] == ["v", "c"]
    assert [[one.label for one in target] for target in targets] == [["vn"], ["cl"], []]


@pytest.mark.slow
def test_every_weight_learns_and_is_saved(videos, tmp_path):
    objective = open_objective(settings(), videos)
    network, batch = objective.build(), batch_of(objective, videos)
    totals = objective.totals(batch)
    assert totals == batch.players.sum() and not batch.targets.any()
    loss = objective.loss(network, batch, torch.from_numpy(totals).float())
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    objective.save(tmp_path / "model", network, {})
    compared = objective._compared(batch, torch.device("cpu"))
    assert torch.equal(objective.load(tmp_path / "model")(*compared), network(*compared))


@pytest.mark.slow
def test_places_that_are_filled_up_are_no_candidates(videos):
    objective = open_objective(settings(), videos)
    network, batch = objective.build(), batch_of(objective, videos)
    row = int(batch.players.sum(1).argmax())
    one = batch.part(slice(row, row + 1))
    context, players = (np.pad(one.context, ((0, 0), (0, 1), (0, 0))), np.pad(one.players, ((0, 0), (0, 1))))
    wider = replace(one, context=context, players=players)
    totals = torch.from_numpy(objective.totals(one)).float()
    torch.testing.assert_close(objective.loss(network, wider, totals), objective.loss(network, one, totals))
    device = torch.device("cpu")
    assert torch.equal(objective.examine(network, wider, device), objective.examine(network, one, device))


# What is refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"correspondence": {"network": "avol_net"}}, "needs correspondence.inputs: media where .* is avol_net"),
        ({"correspondence": {"augment": True}}, "correspondence.augment needs correspondence.inputs: media; got"),
        ({"correspondence": {"streams": "published"}}, "correspondence.streams needs correspondence.inputs: media"),
        ({"model": {"vision": {"frozen": False}}}, "model.vision.frozen needs correspondence.inputs: media and"),
        ({"mixing": {"shuffle_pictures": True}}, "mixing.shuffle_pictures needs correspondence.inputs: media; got"),
        ({"mixing": {"gain_db": 0}}, "mixing.gain_db needs correspondence.inputs: media; got mixing.gain_db: 0.0 with"),
    ],
)
def test_what_features_have_no_use_for_is_refused(changed, message):
    with pytest.raises(ValidationError, match=message):
        settings(**changed)


def test_players_of_one_video_at_one_time_are_refused(small_recipe):
    objective = Correspondence(settings(mixing={"aligned_probability": 0.5}), small_recipe)
    with pytest.raises(ConfigError, match="needs players of different videos.*; got mixing.aligned_probability: 0.5"):
        objective.window()


def test_pictures_have_a_use_for_it():
    given = {"correspondence": {"inputs": "media", "augment": True}, "mixing": {"gain_db": 0, "shuffle_pictures": True}}
    assert settings(**given).mixing.aligned_probability == 0


def test_the_setting_is_not_of_localisation(tmp_path):
    path = tmp_path / "mine.yaml"
    head = "question: q\nexpected: e\nshards: quickstart\nobjective: localisation\n"
    path.write_text(f"{head}correspondence: {{inputs: features}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="correspondence.inputs needs objective: correspondence; got"):
        load_experiment(path)


@pytest.mark.slow
def test_shards_of_the_other_kind_are_refused_before_a_search(videos, small_manifest):
    with pytest.raises(
        DataError, match="needs shards with sound features of players; got none .* or change correspondence.inputs"
    ):
        check_settings(settings(), small_manifest, HERE)
    with pytest.raises(
        DataError, match="needs shards with pictures of players; got none .* or change correspondence.inputs"
    ):
        check_settings(settings(correspondence={"inputs": "media"}), videos, HERE)
    check_settings(settings(), videos, HERE)


@pytest.mark.slow
def test_media_are_refused_by_what_reads_features_and_features_by_what_reads_media(videos, small_recipe):
    player = Player("vn", "1-vn", np.zeros((1, 8), np.int16), picture=np.zeros((1, 4, 4, 3), np.uint8))
    shown = Correspondence(settings(), small_recipe).interface
    with pytest.raises(DataError, match="needs 1024 numbers of each picture and 128 of .*; got 0 and 0 of '1-vn' in p"):
        shown.of_player(Clip("p", 0, 8, 8, (player,)), player)
    objective = open_objective(settings(correspondence={"inputs": "media"}), videos)
    with pytest.raises(
        DataError, match="must have a stem; .*objective: correspondence with correspondence.inputs: fea"
    ):
        batch_of(objective, videos, 2)


@pytest.mark.slow
def test_a_network_on_features_does_not_start_from_one_on_media(videos, tmp_path):
    media = settings(correspondence={"inputs": "media"}, model={"vision": {"network": "compact", "weights": "random"}})
    objective = OBJECTIVES["correspondence"].make(media, videos.recipe)
    objective.save(tmp_path / "model", objective.build(), {})
    started = settings().model_dump(mode="json")
    started["training"]["start_from"] = str(tmp_path / "model")
    with pytest.raises(ModelError, match="must have the names and shapes of this training's; got .*bias: .* for .1024"):
        check_settings(Settings.model_validate(started), videos, HERE)
