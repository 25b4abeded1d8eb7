"""Vision features, computed once: written whole, resumed, and as good as the pictures."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from untrained_models import VISION

from vimss.errors import ConfigError, DataError
from vimss.features import compute_features, write_features
from vimss.media import write_video, write_wav
from vimss.model import VisionConfig
from vimss.model.contexts import CONTEXTS
from vimss.model.contexts.features import read_features
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator
from vimss.model.vision import Vision
from vimss.shards.cache import ENTRY, FEATURES
from vimss.shards.computed import ROWS, available_features, file_of, middle_pictures, rows_of_pictures
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.stream.compute import warn_of_missing
from vimss.stream.read import read_clips
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loop import Training, train


@pytest.fixture(scope="module")
def computed(small_features):
    return small_features


def test_every_picture_has_a_row_of_features(small_manifest, computed):
    clip = next(read_clips(small_manifest, "train", parts=("picture", "features"), features=computed))
    assert [player.features.shape for player in clip.players] == [
        (len(p.picture), VISION.feature_size) for p in clip.players
    ]


def test_entry_names_network_weights_and_rate(small_manifest, computed):
    entry = read_features(small_manifest, computed)
    assert (entry.network, entry.frame_rate) == ("compact", small_manifest.recipe.picture.frame_rate)
    assert computed == f"compact-{entry.weights_sha256[:10]}"
    assert available_features(small_manifest) == (computed,)


def test_what_exists_is_not_computed_again(small_manifest, computed):
    folder = small_manifest.folder / FEATURES / computed
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    stamp = first.stat().st_mtime_ns
    second.unlink()
    (folder / ENTRY).unlink()
    seconds: list[float] = []
    compute_features(small_manifest, VISION, progress=seconds.append)
    assert first.stat().st_mtime_ns == stamp
    assert second.exists()
    assert seconds[-1] == pytest.approx(sum(shard.seconds for shard in small_manifest.shards))


def test_a_share_of_the_shards_writes_no_entry(small_manifest, computed):
    folder = small_manifest.folder / FEATURES / computed
    (folder / ENTRY).unlink()
    last = next(path for path in folder.glob("*.safetensors"))
    last.unlink()
    others = [shard for shard in small_manifest.shards if not last.name.startswith(shard.name.removesuffix(".tar"))]
    compute_features(small_manifest, VISION, shards=others)
    with pytest.raises(DataError, match=r"must be complete; got complete are: none.*vimss features"):
        read_features(small_manifest, computed)
    compute_features(small_manifest, VISION)


def test_features_of_other_shards_are_refused(small_manifest, computed):
    _with_entry(small_manifest, computed, "shards_digest", "0" * 10, "must hold features of the shards beside it")


def test_damaged_features_are_refused(small_manifest, computed):
    _with_entry(small_manifest, computed, "files", {"train-0000.safetensors": "0"}, "must have the SHA-256 in its")


def _with_entry(manifest, name, key, value, message):
    with _changed(manifest, name, key, value), pytest.raises(DataError, match=message):
        read_features(manifest, name)


@contextmanager
def _changed(manifest, name, key, value):
    """The entry with another value under `key`, for a while."""
    path = manifest.folder / FEATURES / name / ENTRY
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), key: value}))
    yield
    path.write_text(whole)


def prepare(manifest, **settings) -> str:
    """The folder that a training of features reads."""
    return CONTEXTS["features"](WaveUNetConfig(vision=VISION, **settings), ()).prepare(manifest)


def test_features_that_a_training_reads_are_checked(small_manifest, computed):
    assert prepare(small_manifest) == computed
    with (
        _changed(small_manifest, computed, "files", {"train-0000.safetensors": "0"}),
        pytest.raises(DataError, match="must have the SHA-256"),
    ):
        prepare(small_manifest)


def test_features_of_another_network_than_their_name_says_are_refused(small_manifest, computed):
    with (
        _changed(small_manifest, computed, "network", "resnet50"),
        pytest.raises(DataError, match="must be of compact, as in their name; got resnet50"),
    ):
        prepare(small_manifest)


def test_features_of_another_size_are_refused(small_manifest, computed):
    with pytest.raises(ConfigError, match="feature_size must be that of the features .* got 2048 instead of 192"):
        prepare(small_manifest, feature_size=2048)


def test_features_of_other_weights_than_those_of_the_settings_are_refused(small_manifest, computed, tmp_path):
    weights = {name: weight + 1 for name, weight in Vision(VISION).network.state_dict().items()}
    save_file(weights, tmp_path / "mine.safetensors")
    mine = VisionConfig(network="compact", weights=str(tmp_path / "mine.safetensors"))
    context = CONTEXTS["features"](WaveUNetConfig(vision=mine), ())
    with pytest.raises(
        DataError, match=f"needs one complete folder of compact-.*; got .*{computed}.*--weights {tmp_path}/mine"
    ):
        context.prepare(small_manifest)


def test_feature_size_follows_the_vision_network():
    config = WaveUNetConfig(context="features", vision=VisionConfig(network="resnet50"))
    assert config.feature_size == 2048


@pytest.mark.slow
def test_training_from_features_equals_training_from_frames(small_manifest, computed, tmp_path):
    trained = {}
    for context in ("frames", "features"):
        training = Training(_settings(context), small_manifest, ValidationConfig(mixtures=6, seconds=0.25))
        reports = []
        trained[context] = train(training, lambda metrics, _: reports.append(metrics)).unet.state_dict()  # noqa: B023
        trained[context]["valid_loss"] = torch.tensor([report["valid_loss"] for report in reports])
    torch.manual_seed(0)
    start = Separator(_settings("features").model, small_manifest.recipe.labels, 8000).unet.state_dict()
    assert len(trained["frames"]["valid_loss"]) == 2
    for name, value in trained["frames"].items():
        torch.testing.assert_close(trained["features"][name], value, rtol=1e-3, atol=1e-5)
        assert name == "valid_loss" or not torch.equal(value, start[name])


def _settings(context):
    model = {
        "levels": 3, "filters": 4, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder",
        "context": context, "vision": VISION,
    }  # fmt: skip
    training = {"batch_size": 2, "output_samples": 2005, "audio_seconds": 4, "report_seconds": 2, "learning_rate": 1e-3}
    return Settings.model_validate({"model": model, "training": training, "mixing": {"windows_per_clip": 2}})


# A rate of their own


@pytest.fixture(scope="module")
def slow(small_manifest):
    """Features with a row for every 0.6 s: two or three of the four pictures a second have the same."""
    return compute_features(small_manifest, VISION, every=0.6)


def test_the_features_of_a_picture_are_those_of_the_middle_picture_of_its_row(small_manifest, computed, slow):
    parts = {name: _features(small_manifest, name) for name in (computed, slow)}
    for own, every in zip(parts[computed], parts[slow], strict=True):
        middle = {0: 1, 1: 4, 2: 6, 3: 9, 4: 11}
        times = [int(picture / 4 / 0.6 + 1e-6) for picture in range(len(own))]
        wanted = own[[min(middle[time], len(own) - 1) for time in times]]
        np.testing.assert_allclose(every, wanted, rtol=0.02, atol=0.01)


def _features(manifest, name):
    clip = next(read_clips(manifest, "train", parts=("features",), features=name))
    return [player.features for player in clip.players]


def test_one_row_is_kept_for_many_pictures(small_manifest, slow):
    path = next((small_manifest.folder / FEATURES / slow).glob("*.safetensors"))
    with safe_open(path, framework="np") as file:
        name = next(key for key in file.keys() if key.endswith(ROWS))  # noqa: SIM118 - no dict
        rows, kept = file.get_tensor(name), file.get_tensor(name.removesuffix(ROWS))
    assert len(kept) == rows[-1] + 1 == 5 and len(rows) == 12


def test_a_context_reads_the_rate_that_its_settings_say(small_manifest, computed, slow):
    assert slow.startswith("compact-0.6s-") and read_features(small_manifest, slow).every == 0.6
    assert prepare(small_manifest, features_every=0.6) == slow
    assert prepare(small_manifest) == computed
    message = (
        r"complete folder of compact-0.5s features .*; got .*compact-0.6s-.*--network compact --weights random "
        r"--every 0.5`, with the --set that its shards were written with, if any, or set"
    )
    with pytest.raises(DataError, match=message):
        prepare(small_manifest, features_every=0.5)


def test_features_from_before_there_was_a_rate_have_a_row_for_every_picture(small_manifest, computed):
    path = small_manifest.folder / FEATURES / computed / ENTRY
    whole = path.read_text()
    path.write_text(json.dumps({key: value for key, value in json.loads(whole).items() if key != "every"}))
    assert prepare(small_manifest) == computed and read_features(small_manifest, computed).every == 0
    path.write_text(whole)


def test_more_rows_than_pictures_are_refused(small_manifest):
    with pytest.raises(ConfigError, match="--every must be at least the time between two pictures of 'small', 0.25 s"):
        compute_features(small_manifest, VISION, every=0.2)


@pytest.mark.parametrize(("rate", "every", "rows"), [(25.0, 0.5, 2), (12.5, 0.1, 9), (10.0, 0.3, 4), (4.0, 100.0, 1)])
def test_rows_follow_each_other_whatever_the_rates(rate, every, rows):
    found = rows_of_pictures(int(rate), rate, every)
    assert found.tolist() == sorted(found) and set(found) == set(range(rows))
    middles = middle_pictures(found)
    assert found[middles].tolist() == list(range(rows))


def test_clips_without_pictures_are_named_and_the_others_get_their_features(tmp_path, small_store, caplog):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 1, 8000)).astype(np.float32)
    for name, sound in zip(("heard", "seen"), noise, strict=True):
        (tmp_path / "train" / name).mkdir(parents=True)
        write_wav(tmp_path / "train" / name / "vn.wav", sound, 8000)
    write_video(tmp_path / "train" / "seen" / "video.mp4", np.zeros((5, 16, 16, 3), np.uint8), 5.0, noise[1], 8000)
    changes = ["sample_rate=8000", "clips_per_shard=1", "picture.size=16", "picture.frame_rate=5"]
    manifest = write_shards(load_recipe("folder", changes), "half", small_store, source=tmp_path)
    assert len(manifest.shards) == 2
    name = compute_features(manifest, VISION)
    clips = {clip.piece: clip for clip in read_clips(manifest, "train", parts=("features",), features=name)}
    assert clips["seen"].players[0].features.shape == (5, VISION.feature_size)
    assert clips["heard"].players[0].features is None
    warn_of_missing(manifest)
    assert "nothing is computed for clips without pictures: heard_000000000" in caplog.text
    assert "seen" not in caplog.text


def test_features_that_are_written_in_parallel_are_the_same(small_manifest, computed):
    folder = small_manifest.folder / FEATURES / computed
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    one = small_manifest.shards[0]
    (folder / file_of(one)).unlink()
    (folder / ENTRY).unlink()
    written = write_features(small_manifest.model_copy(update={"shards": (one,)}), VISION)
    assert written == small_manifest.home / FEATURES / computed
    assert (folder / file_of(one)).read_bytes() == content[file_of(one)]
    compute_features(small_manifest, VISION)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
