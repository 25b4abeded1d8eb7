"""What a training asks of its device: tests on a GPU, where there is one, and of the same code on what is always there.

`meta` is a device without memory or arithmetic: what mixes devices fails there as it does on a GPU.
"""

import copy
import gc
import weakref
from itertools import islice
from types import SimpleNamespace
from typing import get_args

import jaxtyping
import numpy as np
import pytest
import torch
from golden import losses as golden
from test_objectives import SLOW, shards_of
from test_objectives import SMALL as OF_OBJECTIVE
from test_objectives import batch_of as batch_of_objective
from test_train import SMALL, one_thread, run, settings, weights  # noqa: F401 - a fixture that all use
from test_trial import job
from torch import nn
from torch.optim import AdamW

from vimss.errors import PlaceError, TrainingError
from vimss.runtime import Place
from vimss.stream.batch import Batch, Examples, Position
from vimss.train.between_reports import LOOK_EVERY
from vimss.train.checkpoint import State, Trained, load_state, save_state
from vimss.train.config import Settings, TrainingConfig
from vimss.train.ddp import distribute
from vimss.train.device import InFlight, compiled, limit_memory, to_device
from vimss.train.distribute import _training, own_device
from vimss.train.gradients import Gradients
from vimss.train.loader import load
from vimss.train.loop import Losses
from vimss.train.objectives import OBJECTIVES, open_objective
from vimss.train.optimize import make_optimizers, orthogonal

CPU, META = torch.device("cpu"), torch.device("meta")

on_each_device = pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
"""Tests of what does not depend on the device."""


def batch_of(value: float = 0.0) -> Batch:
    sound = np.full((2, 1, 8), value, np.float32)
    return Batch(sound, sound[:, None], np.ones((2, 1), bool), None, None, np.zeros(2, bool))


def opened(manifest, chosen, size=4):
    """Objective, its network, and the endless batches."""
    objective = open_objective(chosen, manifest)
    torch.manual_seed(0)
    network = objective.build()
    return objective, network, Examples(manifest, "train", chosen.mixing, objective.window(), objective.interface, 0)


# Steps


@pytest.mark.gpu
@pytest.mark.parametrize("case", golden.CASES)
def test_three_steps_on_a_gpu_have_the_losses_of_the_cpu(gpu, case):
    # Muon works in bfloat16 there.
    tolerance = 2e-2 if case == "labels" else 1e-3
    assert golden.losses(case, gpu, 3) == pytest.approx(golden.losses(case, steps=3), rel=tolerance)


@pytest.mark.parametrize("case", [case for case in golden.CASES if case != "slots"])  # whose order needs the values
def test_a_step_leaves_the_device_nowhere(case):
    for network, loss in islice(golden.trained(case, META), 2):
        assert loss.device == META
        assert all(weight.device == META and weight.grad.device == META for weight in network.parameters())


@on_each_device
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OBJECTIVES]
)
def test_an_objective_has_the_same_loss_on_every_device(request, kind, name):
    chosen = Settings.model_validate({"objective": name, **OF_OBJECTIVE[name]})
    manifest = shards_of(name, request)
    objective, network, examples = opened(manifest, chosen)
    batch, _ = next(examples.batches(2, Position()))
    expected = float(Gradients(copy.deepcopy(network), objective, chosen.training, CPU, 2)(batch))
    where = torch.device(kind)
    loss = Gradients(network.to(where), objective, chosen.training, where, 1)(batch)
    assert loss.device.type == kind and float(loss) == pytest.approx(expected, rel=1e-2)
    judged = batch_of_objective(chosen, objective, manifest, objective.validation_interface)
    with torch.no_grad():
        row = objective.examine(network, judged.part(slice(0, 1)), where)
    assert row.device == CPU and row.isfinite().any() and not row.isinf().any()


@on_each_device
@pytest.mark.parametrize("loss", get_args(TrainingConfig.model_fields["loss"].annotation))
def test_each_loss_is_the_same_on_every_device(small_manifest, kind, loss):
    # That of levels needs a network that gives some.
    model = {"network": "wavenet", "layers": 3, "filters": 4, "estimate": "mu_law"} if loss == "cross_entropy" else {}
    chosen = Settings.model_validate(
        {**SMALL, "model": model or SMALL["model"], "training": {**SMALL["training"], "loss": loss}}
    )
    objective, network, examples = opened(small_manifest, chosen)
    batch, _ = next(examples.batches(2, Position()))
    expected = float(Gradients(copy.deepcopy(network), objective, chosen.training, CPU, 2)(batch))
    where = torch.device(kind)
    found = Gradients(network.to(where), objective, chosen.training, where, 1)(batch)
    assert float(found) == pytest.approx(expected, rel=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["paper", "features"])
def test_bfloat16_on_a_gpu_has_nearly_the_losses_of_float32(gpu, case):
    rough, exact = (golden.losses(case, gpu, 3, precision=precision) for precision in ("bfloat16", "float32"))
    assert rough != exact and rough == pytest.approx(exact, rel=0.05)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("how", ["compile", "cuda_graphs"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_network_on_a_gpu_has_the_losses_of_the_plain_one(gpu, how, precision, monkeypatch):
    # The compiler cannot follow the checks of shapes, which only tests have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    # Three mixtures in parts of two: gradients of parts of unequal length add up, also where graphs replay.
    plain, fast = (golden.losses("features", gpu, 4, compile=each, precision=precision) for each in ("off", how))
    assert fast == pytest.approx(plain, rel=1e-3 if precision == "float32" else 0.05)


def test_the_form_of_convolutions_on_gpus_has_the_losses_of_the_one_on_cpus(monkeypatch):
    own = golden.losses("paper", steps=3)
    # The gradient of our own is for CPUs without autocast; what is computed stays float32.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: True)
    assert golden.losses("paper", steps=3) == pytest.approx(own, rel=1e-5)


@pytest.mark.slow
def test_a_training_forgets_what_earlier_ones_of_its_process_compiled():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    def double(x):
        return 2 * x

    earlier = torch.compile(double, backend=count)
    for _ in range(2):
        earlier(torch.ones(1))
    assert len(graphs) == 1
    compiled(nn.Linear(1, 1), "compile", CPU)
    earlier(torch.ones(1))
    assert len(graphs) == 2


# Optimisers and checkpoints


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimisers_on_a_gpu_are_fused_and_keep_their_state_there(gpu, optimizer):
    config = TrainingConfig(optimizer=optimizer)
    (network, _), *_ = islice(golden.trained("labels", gpu, optimizer=optimizer), 1)
    *muon, adam = make_optimizers(network, config, gpu)
    assert len(muon) == (optimizer == "muon") and adam.defaults["fused"]
    for each in (*muon, adam):
        each.step()
        assert all(tensor.is_cuda for state in each.state.values() for tensor in state.values())


def test_muon_in_bfloat16_as_on_a_gpu_finds_nearly_the_matrices_of_float32():
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 20)
    chosen = {"eps": 1e-7, "ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5}
    rough, exact = orthogonal(matrices.bfloat16(), chosen), orthogonal(matrices, chosen)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("fused", [(True, False), (False, True)])
def test_the_state_of_a_fused_optimiser_goes_on_in_a_plain_one_and_back(tmp_path, fused):
    def step(network, optimizer):
        (3 * network(torch.ones(1, 2))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    networks = [nn.Linear(2, 1) for _ in range(2)]
    optimizers = [AdamW(each.parameters(), fused=how) for each, how in zip(networks, fused, strict=True)]
    both = [Trained(network, None, [optimizer]) for network, optimizer in zip(networks, optimizers, strict=True)]
    step(networks[0], optimizers[0])
    save_state(tmp_path, State("s", "v", 1, Position(), 0.0, 0.0, {}), both[0])
    load_state(tmp_path, "s", both[1])
    for network, optimizer in zip(networks, optimizers, strict=True):
        step(network, optimizer)
    assert optimizers[1].param_groups[0]["fused"] == fused[1]
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("kinds", [("cuda", "cpu"), ("cpu", "cuda")], ids=" to ".join)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_of_one_device_is_resumed_on_another(gpu, small_manifest, tmp_path, kinds, optimizer):
    chosen = settings(training={"optimizer": optimizer, "ema": 0.9})
    for part in ("begun", "resumed"):
        (tmp_path / part).mkdir()
    begun = run(small_manifest, tmp_path / "begun", chosen, device=torch.device(kinds[0]))
    first = tmp_path / "begun" / "0"
    resumed = run(small_manifest, tmp_path / "resumed", chosen, resume=first, device=torch.device(kinds[1]))
    assert resumed[0] == begun[0]
    assert resumed[-1]["valid_loss"] == pytest.approx(begun[-1]["valid_loss"], abs=0.05)
    ends = [weights(tmp_path / part / "1") for part in ("begun", "resumed")]
    assert [name for name in ends[0] if name.endswith(".step")]
    for name in ends[0]:
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=1e-2, atol=1e-2)


# Memory


@pytest.mark.parametrize("array", [np.ones((2, 3), np.float32), np.ones((4, 4), np.float16)[:, ::2], np.ones(2, bool)])
def test_arrays_go_to_the_device(array):
    for where in (CPU, META):
        found = to_device(array, where)
        assert found.device == where and found.shape == array.shape
    assert to_device(array, CPU).numpy().tolist() == array.tolist()


def test_a_batch_is_kept_until_it_and_those_before_it_are_copied():
    flight, copied, batches = InFlight(), [False, True, True], [batch_of() for _ in range(3)]
    kept = [weakref.ref(batch) for batch in batches]
    for number, batch in enumerate(batches[:2]):
        flight.keep(batch, lambda number=number: copied[number])
    last = batches[2]
    del batch, batches
    assert kept[0]() is not None and kept[1]() is not None
    copied[0] = True
    flight.keep(last, lambda: copied[2])
    assert kept[0]() is None and kept[1]() is None


def test_a_cpu_keeps_no_batches(small_manifest):
    chosen = settings()
    objective, network, examples = opened(small_manifest, chosen)
    gradients = Gradients(network, objective, chosen.training, CPU, 2)
    gradients(next(examples.batches(4, Position()))[0])
    assert not gradients.in_flight.kept


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("parts", [1, 4])
def test_pinned_batches_arrive_whole_while_the_gpu_is_behind(gpu, small_manifest, workers, parts):
    chosen = settings()
    objective, network, examples = opened(small_manifest, chosen)
    on_cpu = Gradients(copy.deepcopy(network), objective, chosen.training, CPU, 4)
    expected = [float(on_cpu(batch)) for batch, _ in islice(examples.batches(4, Position()), 8)]
    gradients = Gradients(network.to(gpu), objective, chosen.training, gpu, 4 // parts)
    batches = load(examples, 4, Position(), workers=workers, pinned=True)
    # The copies of all batches begin long after the loop has let go of them.
    torch.cuda._sleep(2**31)
    found = torch.stack([gradients(next(batches).batch) for _ in expected])
    batches.close()
    assert found.tolist() == pytest.approx(expected, rel=1e-3)
    torch.cuda.synchronize()
    gradients.in_flight.keep(batch_of(), lambda: True)
    assert not gradients.in_flight.kept


@pytest.mark.gpu
def test_the_memory_of_a_step_is_that_of_its_largest_part_and_does_not_grow(gpu, small_manifest):
    wide = {"filters": 32, "max_filters": 32}
    chosen = settings(model=wide, training={"output_samples": 12005})
    objective, network, examples = opened(small_manifest, chosen)
    network.to(gpu)
    (optimizer,) = make_optimizers(network, chosen.training, gpu)
    batches = examples.batches(16, Position())
    peaks = {}
    for size in (16, 2):
        gradients = Gradients(network, objective, chosen.training, gpu, size)
        peaks[size] = []
        for _ in range(3):
            torch.cuda.reset_peak_memory_stats()
            gradients(next(batches)[0])
            optimizer.step()
            torch.cuda.synchronize()
            peaks[size].append(torch.cuda.max_memory_allocated())
    assert max(peaks[2]) < max(peaks[16]) / 3
    assert all(each[2] <= 1.05 * each[1] for each in peaks.values())


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_a_gpu_has_the_gradients_of_the_whole_in_parts(gpu, small_manifest, caplog):
    chosen = settings(model={"filters": 32, "max_filters": 32}, training={"output_samples": 12005})
    objective, network, examples = opened(small_manifest, chosen)
    network.to(gpu)
    batch, _ = next(examples.batches(16, Position()))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, results, sizes = torch.cuda.memory_reserved(), [], []
    try:
        for _ in range(2):
            gradients = Gradients(network, objective, chosen.training, gpu, 16)
            loss = gradients(batch)
            results.append([loss, *(weight.grad.clone() for weight in network.parameters())])
            sizes.append(gradients.micro_batch)
            network.zero_grad()
            torch.cuda.empty_cache()
            # Then 0.6 of what the whole batch took.
            most = before + 0.6 * (torch.cuda.max_memory_reserved() - before)
            torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties().total_memory)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert sizes[0] == 16 > sizes[1]
    assert "out of memory with 16 mixtures at once: now 8, with the same batch per step" in caplog.text
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "share", "gigabytes", "expected"),
    [("cuda", 0.5, 80, [39 / 80]), ("cuda", 0.25, 2, [0.125]), ("cuda", 1, 80, []), ("cpu", 0.5, 80, [])],
)
def test_a_trial_with_a_share_of_a_gpu_leaves_the_memory_of_the_others(monkeypatch, kind, share, gigabytes, expected):
    limits = []
    card = SimpleNamespace(total_memory=gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    limit_memory(share, torch.device(kind))
    assert limits == expected


@pytest.mark.gpu
def test_a_share_of_a_gpu_is_a_share_of_its_memory(gpu):
    total = torch.cuda.get_device_properties().total_memory
    try:
        limit_memory(0.25, gpu)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 4, dtype=torch.uint8, device=gpu)
        assert torch.empty(total // 10, dtype=torch.uint8, device=gpu).is_cuda
    finally:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_a_loss_that_is_not_finite_is_found_at_the_next_look(gpu):
    losses = Losses(settings().training, (0, 1), gpu)
    values = [torch.tensor(value, device=gpu) for value in (1.0, float("nan"))]
    for step in range(LOOK_EVERY - 1):
        losses.add(values[step == 3], values[0], f"step {step}")
    with pytest.raises(TrainingError, match="got loss nan and gradient norm 1 at step 3"):
        losses.add(values[0], values[0], "the last")


def test_a_training_has_the_usual_products_whatever_ran_in_its_process(small_manifest, tmp_path, monkeypatch):
    convolutions, matrices = torch.backends.cudnn, torch.backends.cuda.matmul
    monkeypatch.setattr(convolutions, "allow_tf32", False)
    matrices.allow_tf32 = True  # which pytest cannot undo; the training does
    _training(job(small_manifest, tmp_path), 0, 1, CPU)
    assert convolutions.allow_tf32 and not matrices.allow_tf32


def test_a_training_takes_the_smallest_numbers_for_0_where_a_cpu_is_slow_with_them(small_manifest, tmp_path):
    torch.set_flush_denormal(False)
    smallest = torch.full((64,), 1e-40)
    assert smallest.mul(1).any()
    try:
        _training(job(small_manifest, tmp_path), 0, 1, CPU)
        assert not smallest.mul(1).any()
    finally:
        torch.set_flush_denormal(False)


# Several workers


@on_each_device
@pytest.mark.parametrize("compression", ["none", "bfloat16"])
def test_one_rank_has_the_gradients_of_a_training_without_ranks(small_manifest, kind, compression):
    where, chosen = torch.device(kind), settings()
    objective, network, examples = opened(small_manifest, chosen)
    network.to(where)
    batch, _ = next(examples.batches(4, Position()))
    alone = Gradients(network, objective, chosen.training, where, 2)
    loss = alone(batch)
    expected = [weight.grad.clone() for weight in network.parameters()]
    backend = "nccl" if kind == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        ranked = Gradients(distribute(network, where, compression), objective, chosen.training, where, 2)
        assert float(ranked(batch)) == pytest.approx(float(loss), rel=1e-4)
        found = [weight.grad.clone() for weight in network.parameters()]
    finally:
        torch.distributed.destroy_process_group()
    # bfloat16 has 8 significant bits.
    rough = {"rtol": 2**-7, "atol": 1e-3} if compression == "bfloat16" else {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(found, expected, **rough)
    assert (compression == "none") or any((one != other).any() for one, other in zip(found, expected, strict=True))


def test_a_worker_without_gpus_trains_on_the_cpu():
    assert own_device(Place(name="here")) == CPU


def test_gpus_that_pytorch_does_not_find_are_an_error_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = r"'here' must have GPUs that PyTorch finds, for gpus_per_worker: 0\.5; got none, with PyTorch .* driver"
    with pytest.raises(PlaceError, match=told):
        own_device(Place(name="here", gpus_per_worker=0.5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device(Place(name="here", gpus_per_worker=1)) == torch.device("cuda")


@pytest.mark.parametrize(
    ("gpus", "workers", "told"),
    [
        (0.5, 2, "gpus_per_worker must be 0 or 1 where workers_per_trial is more than 1"),
        (2, 1, "a worker trains on one GPU, and others would idle: set gpus_per_worker: 1 and"),
        (1.5, 1, "a worker trains on one GPU"),
    ],
)
def test_gpus_that_cannot_be_shared_out_are_refused(gpus, workers, told):
    with pytest.raises(ValueError, match=told):
        Place(name="here", gpus_per_worker=gpus, workers_per_trial=workers)


def test_gpus_that_can_be_shared_out_are_not():
    for gpus, workers in ((0, 2), (0.25, 1), (1, 4)):
        assert Place(name="here", gpus_per_worker=gpus, workers_per_trial=workers).gpus_per_worker == gpus
