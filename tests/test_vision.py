import subprocess

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small_separator import LABELS, mixture_for, small

from vimss.errors import ModelError
from vimss.model import VisionConfig
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.model.vision import DEVIATION, MEAN, Vision
from vimss.train.config import TrainingConfig
from vimss.train.optimize import make_optimizers


def test_fine_tuned_vision_is_in_the_optimizer():
    separator = _watching(frozen=False)
    (optimizer,) = make_optimizers(separator, TrainingConfig(), torch.device("cpu"))
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert all(id(weight) in held for weight in separator.vision.network.parameters())


def test_pictures_are_normalised_like_imagenet():
    # The original's features were computed without.
    vision = Vision(VisionConfig(network="resnet18", weights="random", frozen=False)).eval()
    pictures = torch.randint(0, 256, (1, 2, 1, 32, 32, 3), dtype=torch.uint8)
    plain = (pictures[0, :, 0].float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    torch.testing.assert_close(vision(pictures)[0, :, 0], vision.network(plain.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "mobilenet_v2"])
def test_vision_gives_a_vector_per_player_and_frame(network, tmp_path):
    torch.save(getattr(torchvision.models, network)(weights=None).state_dict(), tmp_path / "weights.pth")
    config = VisionConfig(network=network, weights=str(tmp_path / "weights.pth"), frozen=False)
    out = Vision(config)(torch.zeros(1, 2, 3, 32, 32, 3, dtype=torch.uint8))
    assert out.shape == (1, 2, 3, config.feature_size)


def test_frozen_vision_never_changes():
    separator = _watching(frozen=True).train()
    before = {name: value.clone() for name, value in separator.vision.state_dict().items()}
    _look(separator).square().mean().backward()
    assert not any(parameter.requires_grad for parameter in separator.vision.parameters())
    assert all(torch.equal(value, before[name]) for name, value in separator.vision.state_dict().items())


def test_fine_tuned_vision_gets_gradients():
    separator = _watching(frozen=False).train()
    _look(separator).square().mean().backward()
    assert all(weight.grad.any() for weight in separator.vision.network.parameters())


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("outputs", ["instruments", "queries"])
def test_a_padded_picture_changes_nothing_while_training(outputs, frozen):
    separator = _watching(frozen, outputs).train()
    players = torch.tensor([[True, True], [True, False]])
    black, white = _pictures(), _pictures()
    black[1, 1], white[1, 1] = 0, 255
    mixture = mixture_for(separator)
    assert torch.equal(separator(mixture, white, players), separator(mixture, black, players))


def test_fine_tuned_pictures_of_an_example_change_that_example_alone_while_training():
    # Batch norm in training mode would let every picture of the batch change every other's features.
    separator = _watching(frozen=False, outputs="queries").train()
    mixture, before, after = mixture_for(separator), _pictures(), _pictures()
    after[1, 0] = 255 - after[1, 0]
    moved = (separator(mixture, after) - separator(mixture, before)).abs().amax((2, 3)) > 0
    assert moved.nonzero().tolist() == [[1, 0]]


def test_fine_tuning_keeps_the_statistics_of_batch_norm():
    separator = _watching(frozen=False).train()
    before = {name: value.clone() for name, value in separator.vision.named_buffers()}
    _look(separator)
    assert all(torch.equal(value, before[name]) for name, value in separator.vision.named_buffers())


def test_vision_of_nobody_is_no_context():
    separator = _watching(frozen=False)
    mixture, nobody = mixture_for(separator), torch.zeros(2, 2, dtype=torch.bool)
    players = torch.tensor([[True, True], [False, False]])
    torch.testing.assert_close(
        separator(mixture, _pictures(), players)[1], separator(mixture, 255 - _pictures(), players)[1]
    )
    assert separator(mixture, _pictures(), nobody).isfinite().all()


def test_pictures_change_the_output():
    separator = _watching(frozen=True)
    assert not torch.equal(_look(separator, seed=0), _look(separator, seed=1))


def _watching(frozen, outputs="instruments"):
    vision = VisionConfig(network="resnet18", weights="random", frozen=frozen)
    return Separator(small(context="frames", site="decoder", vision=vision, outputs=outputs), LABELS, 8000)


def _pictures(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 2, 2, 32, 32, 3), dtype=torch.uint8, generator=generator)


def _look(separator, seed=0):
    return separator(mixture_for(separator), _pictures(seed))


def test_vision_weights_come_from_a_path(tmp_path):
    weights = Vision(VisionConfig(network="resnet18", weights="random")).network.state_dict()
    weights |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    weights["conv1.weight"] = torch.full_like(weights["conv1.weight"], 0.5)
    torch.save(weights, tmp_path / "weights.pth")
    save_file(weights, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        vision = Vision(VisionConfig(weights=str(tmp_path / name)))
        assert torch.equal(vision.network.conv1.weight, weights["conv1.weight"])


def test_vision_weights_of_another_network_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"must hold the weights of resnet18 .* conv1.weight of shape \[3\]"):
        Vision(VisionConfig(weights=str(tmp_path / "weights.safetensors")))


def test_vision_weights_that_run_code_are_refused(tmp_path):
    torch.save({"conv1.weight": subprocess.Popen}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"must be a .safetensors file or a .pth file of tensors"):
        Vision(VisionConfig(weights=str(tmp_path / "weights.pth")))


def test_missing_vision_weights_are_named():
    with pytest.raises(
        ModelError, match=r"must be torchvision, chamber, random or the path of a file; got nowhere.pth"
    ):
        Vision(VisionConfig(weights="nowhere.pth"))


def test_without_a_network_the_path_option_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"set vision.weights to the path of a"):
        Vision(VisionConfig())


def test_a_model_with_downloaded_vision_loads_without_a_network(tmp_path):
    separator = _watching(frozen=True)
    downloaded = separator.config.vision.model_copy(update={"weights": "/a/path/that/is/gone.pth"})
    separator.config = separator.config.model_copy(update={"vision": downloaded})
    save_separator(tmp_path / "model", separator, {})
    assert load_separator(tmp_path / "model").config.vision.weights == "/a/path/that/is/gone.pth"
