"""Batches that do not fit into memory, in parts."""

import json
import os

import pytest
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from test_train import _free_port, one_thread, settings  # noqa: F401 - a fixture that all use

from vimss.errors import TrainingError
from vimss.model.separator import Separator
from vimss.stream.batch import Examples, Position
from vimss.train.ddp import distribute
from vimss.train.gradients import Gradients
from vimss.train.objectives import open_objective


class Cramped(Separator):
    """A network on a device with memory for `room` mixtures, and for none in the pass number `short_at`."""

    room, short_at, passes = 8, 0, 0

    def forward(self, mixture, context=None, players=None, frames_at=None):
        self.passes += 1
        if len(mixture) > self.room or self.passes == self.short_at:
            raise torch.OutOfMemoryError
        return super().forward(mixture, context, players, frames_at)


def gradients_of(manifest, micro_batch, batch_size=8, compile="off", model=(), **memory):  # noqa: A002
    """The micro-batch, the loss and all gradients of one batch."""
    chosen = settings(model=dict(model), training={"compile": compile})
    torch.manual_seed(0)
    network = Cramped(chosen.model, manifest.recipe.labels, manifest.recipe.sample_rate)
    vars(network).update(memory)
    objective = open_objective(chosen, manifest)
    window, interface = objective.window(), objective.interface
    batch, _ = next(Examples(manifest, "train", chosen.mixing, window, interface, 0).batches(batch_size, Position()))
    gradients = Gradients(network, objective, chosen.training, torch.device("cpu"), micro_batch)
    loss = gradients(batch)
    return gradients.micro_batch, [loss, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("model", [{}, {"outputs": "slots", "site": "none"}], ids=["queries", "slots"])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(small_manifest, micro_batch, model):
    (_, whole), (_, parts) = (gradients_of(small_manifest, size, model=model) for size in (8, micro_batch))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_out_of_memory_halves_the_parts_and_keeps_the_batch(small_manifest, caplog):
    (size, halved), (_, whole) = gradients_of(small_manifest, 8, room=3), gradients_of(small_manifest, 8)
    assert size == 2
    torch.testing.assert_close(halved, whole, rtol=1e-4, atol=1e-6)
    assert "out of memory with 8 mixtures at once: now 4, with the same batch per step" in caplog.text


def test_out_of_memory_in_a_later_part_begins_the_batch_again(small_manifest):
    (size, again), (_, whole) = gradients_of(small_manifest, 4, short_at=2), gradients_of(small_manifest, 8)
    assert size == 2
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-6)


def test_a_mixture_that_does_not_fit_alone_is_an_error(small_manifest):
    with pytest.raises(TrainingError, match="one mixture must fit into memory; got out of memory with a single one"):
        gradients_of(small_manifest, 8, room=0)


@pytest.mark.rare
def test_a_compiled_network_has_the_same_gradients(small_manifest):
    tiny = {"levels": 1, "filters": 2, "max_filters": 1024, "outputs": "instruments", "site": "none"}
    results = [gradients_of(small_manifest, 2, 2, compile=how, model=tiny) for how in ("off", "compile")]
    (_, eager), (_, fused) = results
    torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-6)


def _cramped_rank(rank, port, manifest, folder):
    """Gradients of two batches on a worker; the second worker has memory for one mixture once it has made a step."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    chosen, where = settings(), torch.device("cpu")
    torch.manual_seed(0)
    network = Cramped(chosen.model, manifest.recipe.labels, manifest.recipe.sample_rate)
    network.room = 8 - 6 * rank
    objective = open_objective(chosen, manifest)
    window, interface = objective.window(), objective.interface
    batches = Examples(manifest, "train", chosen.mixing, window, interface, 0).batches(4, Position())
    gradients = Gradients(distribute(network, where, "none"), objective, chosen.training, where, micro_batch=4)
    gradients(next(batches)[0])
    network.room -= rank
    gradients(next(batches)[0])
    save_file({name: weight.grad for name, weight in network.named_parameters()}, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(gradients.micro_batch))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_workers_agree_on_parts_that_fit_all_of_them(small_manifest, tmp_path):
    # A worker that began its batch again alone would leave the other waiting for its gradients.
    multiprocessing.spawn(_cramped_rank, (_free_port(), small_manifest, tmp_path), nprocs=2)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [1, 1]
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) and one[name].any() for name in one)
