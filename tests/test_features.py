"""Vision features, computed once: written whole, resumed, and as good as the pictures."""

import json

import numpy as np
import pytest
import torch

from vimss.errors import DataError
from vimss.features import ENTRY, available_features, compute_features, read_features
from vimss.model import ModelConfig, VisionConfig
from vimss.model.separator import Separator
from vimss.stream.read import FEATURES, read_clips

VISION = VisionConfig(network="resnet18", weights="random")


@pytest.fixture(scope="module")
def computed(small_manifest):
    return compute_features(small_manifest, VISION)


def test_every_picture_has_a_row_of_features(small_manifest, computed):
    clip = next(read_clips(small_manifest, "train", parts=("picture", "features"), features=computed))
    assert [player.features.shape for player in clip.players] == [(len(p.picture), 512) for p in clip.players]


def test_entry_names_network_weights_and_rate(small_manifest, computed):
    entry = read_features(small_manifest, computed)
    assert (entry.network, entry.frame_rate) == ("resnet18", small_manifest.recipe.picture.frame_rate)
    assert computed == f"resnet18-{entry.weights_sha256[:10]}"
    assert available_features(small_manifest) == (computed,)


def test_what_exists_is_not_computed_again(small_manifest, computed):
    folder = small_manifest.folder / FEATURES / computed
    first, second, *_ = sorted(folder.glob("*.npz"))
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
    last = next(path for path in folder.glob("*.npz"))
    last.unlink()
    others = [shard for shard in small_manifest.shards if not last.name.startswith(shard.name.removesuffix(".tar"))]
    compute_features(small_manifest, VISION, shards=others)
    with pytest.raises(DataError, match=r"must be complete; got complete are: none.*vimss features"):
        read_features(small_manifest, computed)
    compute_features(small_manifest, VISION)


def test_features_of_other_shards_are_refused(small_manifest, computed):
    _with_entry(small_manifest, computed, "shards_digest", "0" * 10, "must hold features of the shards beside it")


def test_damaged_features_are_refused(small_manifest, computed):
    _with_entry(small_manifest, computed, "files", {"train-0000.npz": "0"}, "must have the SHA-256 that its")


def _with_entry(manifest, name, key, value, message):
    path = manifest.folder / FEATURES / name / ENTRY
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), key: value}))
    with pytest.raises(DataError, match=message):
        read_features(manifest, name)
    path.write_text(whole)


def test_training_from_features_equals_training_from_frames(small_manifest, computed):
    clips = list(read_clips(small_manifest, "valid", parts=("picture", "features"), features=computed))
    player = clips[0].players[0]
    pictures, features = (torch.from_numpy(np.stack([array])[None]) for array in (player.picture, player.features))
    losses = [_train("frames", pictures), _train("features", features)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] != pytest.approx(losses[0][0], rel=1e-2)


def _train(context, values):
    torch.manual_seed(0)
    config = ModelConfig(
        levels=3, filters=4, down_kernel=5, site="decoder", context=context, outputs="queries", vision=VISION,
        feature_size=VISION.feature_size,
    )  # fmt: skip
    separator = Separator(config, ("vn", "vc"), 8000)
    mixture = torch.randn(1, 1, separator.input_samples(101), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam([p for p in separator.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(10):
        loss = (separator(mixture, values) - 0.1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
