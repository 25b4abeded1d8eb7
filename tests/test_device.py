"""Networks on a device: on a GPU where there is one, and on a pretended one, where what mixes devices fails too."""

import math

import numpy as np
import pytest
import torch
from test_networks import LABELS, RATE, config_of
from torch._subclasses.fake_tensor import FakeTensorMode
from untrained_models import VISION

from vimss.evaluations import evaluate_systems
from vimss.features import compute_features
from vimss.model import NETWORKS
from vimss.model.apply import separate_all
from vimss.model.conditioning import FrameGrid, between
from vimss.model.contexts import CONTEXTS
from vimss.model.device import on_device
from vimss.model.geometry import Layer
from vimss.model.separator import Separator, save_separator
from vimss.shards.cache import FEATURES
from vimss.stream.read import read_clips

FORMS = [("wave_u_net", {"form": "plain"}), *((name, {}) for name in NETWORKS)]
each_network = pytest.mark.parametrize(("network", "form"), FORMS, ids=["plain", *NETWORKS])
each_context = pytest.mark.parametrize("context", CONTEXTS)

# A network gets vectors, whatever the context made them of.
PRETENDED = [(*FORMS[0], context) for context in CONTEXTS] + [(*form, "features") for form in FORMS[1:]]


def separator_of(network, **chosen) -> Separator:
    """Conditioned in its decoder, or everywhere where it has none."""
    site = "decoder" if "decoder" in NETWORKS[network]().sites() else "every_layer"
    sizes = {"feature_size": 5, "skeleton_size": 6, "vision": VISION}
    torch.manual_seed(0)
    return Separator(config_of(network, site=site, **sizes, **chosen), LABELS, RATE).eval()


def mixture_for(separator) -> torch.Tensor:
    window = separator.input_samples(separator.geometry.window_at_least(64))
    return 0.3 * torch.randn(2, 1, window, generator=torch.Generator().manual_seed(1))


def views_for(separator) -> torch.Tensor:
    """Of two players, in each of two mixtures, or of two labels."""
    context = separator.interface.context
    if not context.uses_players:
        return torch.eye(3)[None, :2].repeat(2, 1, 1)
    # Four pictures of 32 pixels, or a row with a quarter of a second.
    rows, size_of = (1, RATE // 4) if context.example_seconds else (4, 32)
    shape = (rows, *(size_of if size == -1 else size for size in context.view_shape[1:]))
    values = torch.linspace(0, 1 if context.dtype == np.float32 else 255, 4 * math.prod(shape))
    return values.reshape(2, 2, *shape).to(torch.uint8 if context.dtype == np.uint8 else torch.float32)


# Forward


# The inverse STFT of PyTorch looks at the values of its window, and an LSTM asks cuDNN: a pretended tensor has none.
@pytest.mark.parametrize(
    ("network", "form", "context"),
    [one for one in PRETENDED if one[0] not in ("hdemucs", "open_unmix", "scnet", "moises_light")],
)
def test_a_pass_makes_no_tensor_on_another_device(network, form, context):
    separator = separator_of(network, **form, context=context, outputs="queries", op="attention")
    views, mixture = views_for(separator), mixture_for(separator)
    # Recurrent layers of cuDNN look for a driver.
    with FakeTensorMode() as mode, torch.backends.cudnn.flags(enabled=False):

        def pretended(tensor):
            return torch.empty_like(mode.from_tensor(tensor), device="cuda")

        state = {
            name: pretended(tensor) for name, tensor in [*separator.named_parameters(), *separator.named_buffers()]
        }
        with torch.no_grad():
            stems = torch.func.functional_call(separator, state, (pretended(mixture), pretended(views)))
    assert stems.device.type == "cuda"


@pytest.mark.gpu
@each_network
@each_context
@pytest.mark.parametrize("op", ["film", "concat", "attention"])
def test_a_network_on_a_gpu_gives_the_stems_of_the_cpu(gpu, network, form, context, op):
    separator = separator_of(network, **form, context=context, outputs="queries", op=op)
    mixture, views = mixture_for(separator), views_for(separator)
    players = torch.tensor([[True, True], [True, False]]) if separator.interface.uses_players else None
    with torch.no_grad():
        expected = separator(mixture, views, players)
        there = (None if each is None else each.to(gpu) for each in (mixture, views, players))
        found = on_device(separator, "cuda")(*there)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


def _on(device, network, form, context):
    separator = separator_of(network, **form, context=context, outputs="queries")
    sound = 0.3 * torch.randn(1, 3 * RATE, generator=torch.Generator().manual_seed(3))
    on_device(separator, device)
    stems = separate_all(separator, sound, views_for(separator)[0], block_samples=8000)
    assert stems.device == sound.device
    return stems


@pytest.mark.gpu
@each_network
@each_context
def test_a_recording_is_separated_on_a_gpu_as_on_the_cpu(gpu, network, form, context):
    found, expected = (_on(device, network, form, context) for device in ("cuda", "cpu"))
    # Ratio masks divide by what is nearly silent, so that single samples are further apart than the rest.
    assert (found - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.gpu("mps")
@each_network
@each_context
def test_a_recording_is_separated_on_a_gpu_of_apple_as_on_the_cpu(network, form, context):
    stems = [_on(device, network, form, context) for device in ("mps", "cpu")]
    torch.testing.assert_close(*stems, rtol=1e-2, atol=1e-3)


def test_samples_lie_between_frames_alike_for_every_device():
    layer, grid = Layer(3, 2, 40), FrameGrid.spread(5, 80)
    expected = between(grid, 5, layer, 40, torch.zeros(1))
    found = between(grid, 5, layer, 40, torch.zeros(1, device="meta"))
    for one, other in zip(expected, found, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape) and other.device.type == "meta"


# What runs on a GPU elsewhere: features, evaluation


@pytest.mark.gpu
def test_features_computed_on_a_gpu_are_those_of_the_cpu(gpu, small_manifest):
    shards = small_manifest.shards[:1]
    arrays = []
    for device in ("cuda", "cpu"):
        name = compute_features(small_manifest, VISION, device=device)
        clips = list(read_clips(small_manifest, shards[0].split, shards, parts=("features",), features=name))
        arrays.append([player.features.astype(np.float32) for clip in clips for player in clip.players])
        for path in (small_manifest.folder / FEATURES / name).iterdir():
            path.unlink()
    for one, other in zip(*arrays, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.slow
def test_an_evaluation_on_a_gpu_has_the_scores_of_the_cpu(gpu, shared_ray, small_manifest, tmp_path):
    config = config_of("wave_u_net", outputs="queries", site="decoder", initial_output="mixture")
    recipe = small_manifest.recipe
    torch.manual_seed(0)
    save_separator(tmp_path / "model", Separator(config, recipe.labels, recipe.sample_rate), {})
    found = []
    for device in ("cuda", "cpu"):
        (evaluation,) = evaluate_systems(
            small_manifest, {"model": tmp_path / "model"}, "test", baselines=(), device=device
        )
        found.append(evaluation.two_sources.si_sdr_improvement)
    assert found[0] == pytest.approx(found[1], abs=0.01)
