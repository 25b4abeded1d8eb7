import json
import math
import os
import socket
import time
from typing import get_args

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from golden import losses as golden
from safetensors.torch import load_file, save_file

from vimss.errors import ConfigError, DataError, TrainingError
from vimss.model.config import Op
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator
from vimss.shards.clip import Clip, Player
from vimss.stream.batch import Batch, Examples, Position, whole_batch
from vimss.stream.config import MixingConfig
from vimss.stream.lazy import LazyClip
from vimss.stream.mix import Pool, Window
from vimss.train.between_reports import LOOK_EVERY, Losses
from vimss.train.checkpoint import newest_valid
from vimss.train.config import Settings, TrainingConfig, ValidationConfig
from vimss.train.device import autocast, context_of, has_bfloat16_units, multiplies_bfloat16
from vimss.train.gradients import Gradients
from vimss.train.loop import Training, learning_rate, train
from vimss.train.measure import measure_step
from vimss.train.objectives import open_objective
from vimss.train.optimize import make_optimizers

SMALL = {
    "model": {
        "levels": 3, "filters": 4, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder",
        "output_activation": "linear", "initial_output": "mixture",
    },
    "mixing": {"windows_per_clip": 2},
    "training": {
        "batch_size": 4, "output_samples": 2005, "audio_seconds": 8, "report_seconds": 4, "learning_rate": 1e-3
    },
}  # fmt: skip


def settings(**groups) -> Settings:
    content = {key: {**SMALL.get(key, {}), **groups.get(key, {})} for key in ("model", "mixing", "training")}
    return Settings.model_validate(content)


def run(manifest, folder, chosen=None, resume=None, **where):
    """Train, copy every checkpoint to `folder`/0, 1 ..., and return the metrics of the reports."""
    reports = []

    def report(metrics, checkpoint):
        if checkpoint is not None:
            checkpoint.rename(folder / str(len(reports)))
            checkpoint.mkdir()
        reports.append(metrics)

    training = Training(chosen or settings(), manifest, ValidationConfig(mixtures=6, seconds=0.25), **where)
    train(training, report, resume)
    return reports


def weights(folder):
    return load_file(folder / "state.safetensors")


def state(folder):
    """All that a checkpoint holds but reports, in which are times."""
    about = json.loads((folder / "state.json").read_text())
    return {name: value for name, value in about.items() if name not in ("metrics", "reports")}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Golden losses


@pytest.mark.parametrize("steps", [5, pytest.param(golden.STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", golden.CASES)
def test_steps_have_the_losses_they_always_had(case, steps):
    known = json.loads(golden.LOSSES.read_text())
    losses, expected = golden.losses(case, steps=steps), known["losses"][case][:steps]
    if known["machine"] == golden.machine():
        assert losses == expected
    else:
        assert losses == pytest.approx(expected, rel=golden.TOLERANCE[case])


# Loop


@pytest.fixture(scope="module")
def undisturbed(small_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(small_manifest, folder)


@pytest.fixture(scope="module")
def resumed(small_manifest, undisturbed, tmp_path_factory):
    """The same from its first checkpoint on."""
    folder = tmp_path_factory.mktemp("resumed")
    return folder, run(small_manifest, folder, resume=undisturbed[0] / "0")


def test_no_report_comes_before_its_share_of_the_budget(small_manifest, tmp_path):
    # ASHA asks a trial at its first report at or after a rung.
    chosen = settings(training={"audio_seconds": 9.9, "report_seconds": 2.475})
    seconds = [report["audio_seconds"] for report in run(small_manifest, tmp_path, chosen)]
    assert len(seconds) == 4 and all(passed >= 2.475 * number for number, passed in enumerate(seconds, start=1))


def test_reports_count_audio_seconds_and_loss_falls(small_manifest, tmp_path):
    longer = settings(training={"audio_seconds": 24, "report_seconds": 6, "learning_rate": 3e-3})
    reports = run(small_manifest, tmp_path, longer)
    seconds = [report["audio_seconds"] for report in reports]
    assert seconds == pytest.approx([6, 12, 18, 24], abs=1.01)
    assert reports[-1]["valid_loss"] < reports[0]["valid_loss"]


def test_reports_say_how_loud_the_mixtures_are(undisturbed):
    _, reports = undisturbed
    assert all(-60 < report["mixture_level_db"] < 0 and 0 <= report["peak_limited"] <= 1 for report in reports)
    assert len({report["mixture_level_db"] for report in reports}) == len(reports) == 2


def test_training_is_repeatable_to_the_bit(small_manifest, undisturbed, tmp_path):
    folder, _ = undisturbed
    run(small_manifest, tmp_path)
    one, other = weights(folder / "1"), weights(tmp_path / "1")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_training_ends_with_the_weights_of_an_undisturbed_one(undisturbed, resumed):
    (folder, reports), (later, resumed_reports) = undisturbed, resumed
    assert resumed_reports[-1]["valid_loss"] == reports[-1]["valid_loss"]
    one, other = weights(folder / "1"), weights(later / "1")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("pause_seconds", [1.0, 4.0, 4.01])
def test_a_training_pauses_at_the_first_report_there_with_the_checkpoint_of_one_that_never_does(
    small_manifest, undisturbed, tmp_path, pause_seconds
):
    folder, reports = undisturbed
    for part in ("paused", "still"):
        (tmp_path / part).mkdir()
    paused = run(small_manifest, tmp_path / "paused", pause_seconds=pause_seconds)
    assert [report["audio_seconds"] for report in paused] == [reports[0]["audio_seconds"]]
    # A driver that died before it wrote that down asks again.
    again = run(small_manifest, tmp_path / "still", resume=tmp_path / "paused" / "0", pause_seconds=pause_seconds)
    assert again == paused and not list((tmp_path / "still").iterdir())
    # Position, and the SHA-256 of weights and optimizer: so it goes on as a training that was not paused.
    assert state(tmp_path / "paused" / "0") == state(folder / "0")


def test_what_a_checkpoint_was_reported_with_is_reported_again(small_manifest, undisturbed, resumed, tmp_path):
    """Also where nothing is left to train: a search that died before its record would see no report otherwise."""
    folder, reports = undisturbed
    assert resumed[1][0] == reports[0] and len(resumed[1]) == len(reports) == 2
    assert run(small_manifest, tmp_path, resume=folder / "1") == reports[1:]


def test_the_average_of_the_weights_survives_a_resume(small_manifest, tmp_path):
    chosen = settings(training={"ema": 0.9, "audio_seconds": 4, "report_seconds": 2})
    for part in ("whole", "again"):
        (tmp_path / part).mkdir()
    run(small_manifest, tmp_path / "whole", chosen)
    run(small_manifest, tmp_path / "again", chosen, resume=tmp_path / "whole" / "0")
    one, other = weights(tmp_path / "whole" / "1"), weights(tmp_path / "again" / "1")
    averages = [name for name in one if name.startswith("average.")]
    assert averages and all(torch.equal(one[name], other[name]) for name in averages)


def test_a_checkpoint_of_other_settings_is_refused(small_manifest, undisturbed, tmp_path):
    rule = (
        "must be of the same settings, shards and number of workers, .*; got .*To fix: use those that it was trained "
    )
    with pytest.raises(DataError, match=rule + r"with \(workers_per_trial of the place may have changed\), or delete "):
        run(small_manifest, tmp_path, settings(training={"learning_rate": 2e-3}), resume=undisturbed[0] / "0")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(undisturbed, tmp_path):
    import shutil

    for number in ("0", "1"):
        shutil.copytree(undisturbed[0] / number, tmp_path / number)
    with (tmp_path / "1" / "state.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\1\2\3")
    assert newest_valid([tmp_path / "1", tmp_path / "0"]) == tmp_path / "0"


@pytest.mark.parametrize("outputs", ["instruments", "queries", "slots"])
def test_a_loss_that_is_not_finite_stops_with_its_position(small_manifest, tmp_path, outputs):
    wild = settings(
        model={"outputs": outputs, "site": "decoder" if outputs == "queries" else "none"},
        training={"learning_rate": 1.0, "gradient_clip": 0, "loss": "mse", "audio_seconds": 200, "weight_decay": 9e9},
    )
    with pytest.raises(
        TrainingError, match=r"must be finite; got loss .* at step \d+, \d+ audio seconds, batch \d+ of epoch"
    ):
        run(small_manifest, tmp_path, wild)


@pytest.mark.parametrize("outputs", ["instruments", "queries", "slots"])
def test_a_validation_that_is_not_finite_stops_before_a_checkpoint(small_manifest, tmp_path, outputs):
    # One step, finite, to weights that are not.
    wild = settings(
        model={"outputs": outputs, "site": "decoder" if outputs == "queries" else "none"},
        training={"learning_rate": 1.0, "weight_decay": 1e38, "audio_seconds": 1, "report_seconds": 1},
    )
    with pytest.raises(TrainingError, match=r"validation loss must be finite; got .*nan.* after 1 steps"):
        run(small_manifest, tmp_path, wild)
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_losses_are_looked_at_before_they_are_reported(small_manifest):
    losses = Losses(settings().training, (0, 1), torch.device("cpu"))
    losses.look_every = LOOK_EVERY
    for step, loss in enumerate([1.0, math.nan, 2.0]):
        losses.add(torch.tensor(loss), torch.tensor(1.0), f"step {step}")
    with pytest.raises(TrainingError, match="got loss nan and gradient norm 1 at step 1"):
        losses.mean()


def test_the_mean_norm_of_the_gradient_survives_an_interruption():
    losses, resumed = (Losses(settings().training, (0, 1), torch.device("cpu")) for _ in range(2))
    for norm in (1.0, 4.0, 4.0):
        losses.add(torch.tensor(0.5), torch.tensor(norm), "step")
    resumed.restore(losses.sums())
    resumed.add(torch.tensor(0.5), torch.tensor(7.0), "step")
    assert (resumed.mean(), resumed.mean_norm()) == (0.5, 4.0)


def test_the_losses_of_all_workers_are_summed_once_however_often_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda total: total.mul_(2)
    )  # another worker has the same losses
    losses = Losses(settings().training, (0, 2), torch.device("cpu"))
    losses.add(torch.tensor(0.5), torch.tensor(1.0), "step")
    assert (losses.mean(), losses.mean()) == (1.0, 1.0)


def test_a_report_says_how_much_memory_was_held(small_manifest, tmp_path):
    (report,) = run(small_manifest, tmp_path, settings(training={"audio_seconds": 4}))
    assert 0.1 < report["peak_memory_gib"] < 64 and report["gradient_norm"] > 0


def test_a_training_that_stands_still_is_told(small_manifest, tmp_path, caplog):
    run(small_manifest, tmp_path)
    assert "hardly anything is learned" not in caplog.text
    (tmp_path / "stands").mkdir()
    # Steps of this size leave the outputs at the ends of tanh, where it is flat.
    chosen = settings(
        model={"output_activation": "tanh"}, training={"learning_rate": 1.0, "audio_seconds": 16, "report_seconds": 8}
    )
    run(small_manifest, tmp_path / "stands", chosen)
    assert "hardly anything is learned any more: the gradient norm is" in caplog.text


def test_looks_at_losses_come_at_intervals(small_manifest):
    losses = Losses(settings().training, (0, 1), torch.device("cpu"))
    losses.look_every = 3
    for step in range(2):
        losses.add(torch.tensor(math.inf), torch.tensor(1.0), f"step {step}")
    with pytest.raises(TrainingError, match="got loss inf .* at step 0"):
        losses.add(torch.tensor(1.0), torch.tensor(1.0), "step 2")


def test_a_batch_that_workers_cannot_share_is_refused(small_manifest, tmp_path):
    with pytest.raises(ConfigError, match="multiple of the number of workers; got 4 with 3 workers"):
        run(small_manifest, tmp_path, world_size=3)


def test_bfloat16_is_refused_where_the_device_has_none():
    with pytest.raises(ConfigError, match="bfloat16 needs a device with bfloat16 units; got meta, which has none"):
        autocast("bfloat16", torch.device("meta"))


@pytest.mark.parametrize(("unit", "able"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_bw", False)])
def test_only_units_for_bfloat16_count(unit, able):
    # torch.ops.mkldnn._is_mkldnn_bf16_supported says yes for any AVX-512.
    capabilities = {"cpu_name": "bf16", "avx512_bf16": False, "amx_bf16": False, unit: True}
    assert multiplies_bfloat16(capabilities) == able


def test_bfloat16_trains_where_the_device_has_units(small_manifest, undisturbed, tmp_path):
    if not has_bfloat16_units(torch.device("cpu")):
        pytest.skip("a CPU without bfloat16 units")
    exact = undisturbed[1][-1]["valid_loss"]
    rough = run(small_manifest, tmp_path, settings(training={"precision": "bfloat16"}))[-1]["valid_loss"]
    assert rough != exact and rough == pytest.approx(exact, abs=0.2)


def test_cuda_graphs_are_refused_on_a_cpu(small_manifest, tmp_path):
    with pytest.raises(ConfigError, match="cuda_graphs needs a GPU; got cpu"):
        run(small_manifest, tmp_path, settings(training={"compile": "cuda_graphs"}))


def test_a_window_that_the_network_does_not_allow_names_the_nearest(small_manifest, tmp_path):
    with pytest.raises(ConfigError, match="use 1997 or 2005 samples"):
        run(small_manifest, tmp_path, settings(training={"output_samples": 2000}))


def test_the_rate_warms_up_and_decays_in_audio_seconds():
    chosen = settings(training={"warmup_seconds": 2, "learning_rate_decay": 0.25, "learning_rate": 1.0}).training
    assert learning_rate(chosen, 1.0) == pytest.approx(0.5 * 0.25 ** (1 / 8))
    assert learning_rate(chosen, 2.0) == pytest.approx(0.25 ** (2 / 8))
    assert learning_rate(chosen, 8.0) == pytest.approx(0.25)


def test_the_decay_can_be_left_to_the_end_of_the_budget():
    chosen = settings(training={"constant_seconds": 6, "learning_rate_decay": 0.25, "learning_rate": 1.0}).training
    rates = [learning_rate(chosen, seconds) for seconds in (0.1, 6.0, 7.0, 8.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.25])


def test_without_warm_up_and_decay_the_rate_stays():
    chosen = settings(training={"warmup_seconds": 0, "learning_rate_decay": 1}).training
    assert [learning_rate(chosen, seconds) for seconds in (0.1, 4.0, 8.0)] == [chosen.learning_rate] * 3


def test_the_first_step_of_a_warm_up_changes_the_weights(small_manifest, tmp_path):
    chosen = settings(training={"warmup_seconds": 2, "audio_seconds": 2, "report_seconds": 2})
    first = chosen.training.batch_size * chosen.training.output_samples / small_manifest.recipe.sample_rate
    assert learning_rate(chosen.training, first) > 0
    assert run(small_manifest, tmp_path, chosen)[-1]["learning_rate"] == pytest.approx(1e-3)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_a_gradient_is_clipped_where_asked(small_manifest, tmp_path, clip):
    # The first step of Adam is the rate for every weight, whatever its gradient; but for epsilon, 1e-8.
    one_step = {"audio_seconds": 1, "report_seconds": 1, "gradient_clip": clip}
    run(small_manifest, tmp_path, settings(training=one_step))
    squares = [value.sum() for name, value in weights(tmp_path / "0").items() if name.endswith("exp_avg_sq")]
    norm = math.sqrt(sum(squares) / (1 - 0.999))
    assert norm == pytest.approx(1e-3, rel=1e-3) if clip else norm > 0.1


def test_weight_decay_takes_a_share_of_the_weights_and_zero_takes_none(small_manifest, tmp_path):
    chosen = [settings(training={"weight_decay": decay, "audio_seconds": 1, "report_seconds": 1}) for decay in (0, 0.5)]
    torch.manual_seed(chosen[0].seed)
    start = Separator(chosen[0].model, small_manifest.recipe.labels, small_manifest.recipe.sample_rate).state_dict()
    for number, one in enumerate(chosen):
        (tmp_path / str(number)).mkdir()
        run(small_manifest, tmp_path / str(number), one)
    plain, shrunk = (weights(tmp_path / str(number) / "0") for number in (0, 1))
    for name, weight in start.items():
        lost = plain[f"model.{name}"] - shrunk[f"model.{name}"]
        torch.testing.assert_close(lost, 1e-3 * 0.5 * weight, rtol=1e-3, atol=1e-7)


def test_the_average_of_the_weights_is_that_of_its_recursion(small_manifest, tmp_path):
    chosen = settings(training={"ema": 0.7, "report_seconds": 1.0, "audio_seconds": 4})
    reports = run(small_manifest, tmp_path, chosen)
    torch.manual_seed(chosen.seed)
    recipe = small_manifest.recipe
    expected = Separator(chosen.model, recipe.labels, recipe.sample_rate).state_dict()
    for number in range(len(reports)):
        found = weights(tmp_path / str(number))
        for name in expected:
            expected[name] = 0.7 * expected[name] + 0.3 * found[f"model.{name}"]
            torch.testing.assert_close(found[f"average.{name}"], expected[name])
    assert [report["steps"] for report in reports] == [1, 2, 3, 4]


def test_the_average_is_judged_beside_the_raw_weights(small_manifest, undisturbed, tmp_path):
    # The raw weights are those of a training without an average; the average moves too slowly to be as good.
    averaged, plain = run(small_manifest, tmp_path, settings(training={"ema": 0.99})), undisturbed[1]
    assert [report["valid_loss_raw"] for report in averaged] == [report["valid_loss"] for report in plain]
    assert averaged[-1]["valid_loss"] > averaged[-1]["valid_loss_raw"]
    assert "valid_loss_raw" not in plain[-1]


# How long a step takes


@pytest.mark.parametrize(
    "model",
    [
        {"outputs": "instruments", "site": "none"},
        {"outputs": "instruments", "site": "every_layer", "op": "multiply"},
        {"outputs": "queries", "site": "decoder"},
        {"outputs": "slots", "site": "none"},
        {"outputs": "queries", "site": "decoder", "context": "frames"},
    ],
)
def test_a_step_of_any_network_is_measured_in_its_time_and_leaves_no_trace(small_recipe, model):
    chosen = settings(model=model, training={"ema": 0.9, "compile": "compile"})
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    begin = time.monotonic()
    step = measure_step(chosen, small_recipe, threads=2, at_most=0.1).seconds
    assert 0 < step < time.monotonic() - begin
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_a_slow_machine_measures_one_step(small_recipe):
    assert measure_step(settings(), small_recipe, at_most=0.0).seconds > 0


def test_a_batch_too_large_for_memory_is_measured_by_one_of_its_mixtures(small_recipe):
    huge = measure_step(settings(training={"batch_size": 10**9}), small_recipe)
    assert huge.seconds > 10**9 * 1e-5


# Early stopping


IMPATIENT = {"learning_rate": 1e-12, "weight_decay": 0, "audio_seconds": 6, "report_seconds": 1, "patience_seconds": 3}


@pytest.fixture(scope="module")
def impatient(small_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("impatient")
    return folder, run(small_manifest, folder, settings(training=IMPATIENT))


def test_training_stops_early_after_its_patience(impatient):
    # Weights that stay do not improve on the first report, at 1 s.
    _, reports = impatient
    assert reports[-1]["audio_seconds"] == pytest.approx(4, abs=0.1)
    assert [report["stopped_early"] for report in reports] == [0, 0, 0, 1]


def test_without_patience_training_never_stops_early(small_manifest, tmp_path):
    reports = run(small_manifest, tmp_path, settings(training={**IMPATIENT, "patience_seconds": 0}))
    assert len(reports) == 6 and reports[-1]["stopped_early"] == 0


@pytest.mark.parametrize(("number", "left"), [(1, 3), (3, 1)])
def test_patience_survives_a_resume(small_manifest, impatient, tmp_path, number, left):
    resume = impatient[0] / str(number)
    assert len(run(small_manifest, tmp_path, settings(training=IMPATIENT), resume=resume)) == left


# Kinds of networks


@pytest.mark.parametrize("outputs", ["instruments", "slots"])
def test_every_kind_of_output_trains(small_manifest, tmp_path, outputs):
    chosen = settings(
        model={"outputs": outputs, "site": "none", "slots": 2}, training={"audio_seconds": 2, "report_seconds": 2}
    )
    assert math.isfinite(run(small_manifest, tmp_path, chosen)[-1]["valid_loss"])


@pytest.mark.slow
def test_pictures_train(small_manifest, tmp_path):
    chosen = settings(
        model={"context": "frames", "vision": {"network": "compact", "weights": "random"}},
        training={"batch_size": 2, "audio_seconds": 1, "report_seconds": 1},
    )
    assert math.isfinite(run(small_manifest, tmp_path, chosen)[-1]["valid_loss"])


def test_report_longer_than_the_budget_is_refused():
    with pytest.raises(ValueError, match="report_seconds .* must not exceed audio_seconds"):
        TrainingConfig(audio_seconds=10, report_seconds=20)


def _rank(rank, port, manifest, folder, chosen, kind):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.cuda.set_device(device)  # as Ray Train does
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", rank=rank, world_size=2)
    reports = []
    few = ValidationConfig(mixtures=6, seconds=0.25)
    training = Training(chosen, manifest, few, rank=rank, world_size=2, device=device)
    separator = train(training, lambda metrics, checkpoint: reports.append({**metrics, "kept": checkpoint is not None}))
    state = {name: tensor.cpu() for name, tensor in separator.state_dict().items()}
    save_file(state, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(reports[-1]))
    torch.distributed.destroy_process_group()


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _two_ranks(manifest, folder, chosen, kind="cpu"):
    """Metrics and weights of both."""
    multiprocessing.spawn(_rank, (_free_port(), manifest, folder, chosen, kind), nprocs=2)
    metrics = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return metrics, [load_file(folder / f"{rank}.safetensors") for rank in (0, 1)]


def _one_process(manifest, chosen):
    """Weights and mean loss after the same steps, with the batches of both ranks in one."""
    config, objective = chosen.training, open_objective(chosen, manifest)
    torch.manual_seed(chosen.seed)
    separator = Separator(chosen.model, manifest.recipe.labels, manifest.recipe.sample_rate)
    (optimizer,) = make_optimizers(separator, config, torch.device("cpu"))
    gradients = Gradients(separator, objective, config, torch.device("cpu"), config.batch_size)
    examples = Examples(manifest, "train", chosen.mixing, objective.window(), objective.interface, chosen.seed)
    ranks = [examples.batches(config.batch_size // 2, Position(), rank, 2) for rank in (0, 1)]
    losses = []
    for _ in range(8):
        shares = [next(batches)[0] for batches in ranks]
        arrays = [
            np.concatenate([getattr(share, name) for share in shares])
            for name in ("mixture", "targets", "present", "context")
        ]
        losses.append(gradients(Batch(*arrays, None, np.zeros(len(arrays[0]), bool))))
        torch.nn.utils.clip_grad_norm_(separator.parameters(), config.gradient_clip)
        optimizer.step()
    return separator.state_dict(), float(torch.stack(losses).mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu(2))])
def test_two_ranks_do_what_one_process_does_with_the_batches_of_both(small_manifest, tmp_path, kind):
    # 8 steps; shares of absent outputs differ between the ranks, so means of means would differ.
    seconds = 8 * 4 * 2005 / small_manifest.recipe.sample_rate
    chosen = settings(training={"audio_seconds": seconds, "report_seconds": seconds})
    metrics, (one, other) = _two_ranks(small_manifest, tmp_path, chosen, kind)
    expected, loss = _one_process(small_manifest, chosen)
    assert metrics[0].pop("kept") and not metrics[1].pop("kept")
    assert metrics[0]["steps"] == 8
    assert [metrics[0][key] for key in ("valid_loss", "train_loss")] == [
        metrics[1][key] for key in ("valid_loss", "train_loss")
    ]
    assert metrics[0]["train_loss"] == pytest.approx(loss, rel=1e-4)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in expected:
        torch.testing.assert_close(one[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.rare
def test_compressed_gradients_train_nearly_the_same(small_manifest, tmp_path):
    chosen = settings(training={"audio_seconds": 2, "report_seconds": 2})
    results = []
    for compression in ("none", "bfloat16"):
        (tmp_path / compression).mkdir()
        training = chosen.training.model_copy(update={"gradient_compression": compression})
        metrics, _ = _two_ranks(
            small_manifest, tmp_path / compression, chosen.model_copy(update={"training": training})
        )
        results.append(metrics[0]["valid_loss"])
    assert results[0] != results[1] and results[0] == pytest.approx(results[1], abs=0.1)


# From a clip to the network


RATE, FRAME_RATE, CLIP_SECONDS = 8000, 25, 3


def _clip(click=0.0, flash=0.0):
    """A player who hums in the dark; a click and a flash at 1.5 s if they are wanted."""
    samples, frames = CLIP_SECONDS * RATE, CLIP_SECONDS * FRAME_RATE
    audio = (1000 * np.sin(np.arange(samples))).astype(np.int16)[None]
    audio[0, round(1.5 * RATE)] += round(20000 * click)
    features = np.zeros((frames, 5), np.float16)
    features[int(1.5 * FRAME_RATE)] = 3 * flash
    player = Player("fl", "flute", audio=audio, features=features)
    return Clip("piece", 0, samples, RATE, (player,), float(FRAME_RATE))


def _heard(separator, window, clip, seed):
    """The output for a window of the clip, by the way of a validation mixture."""
    pool = Pool([LazyClip.of(clip)], MixingConfig(min_sources=1, max_sources=1), window, separator.interface)
    mixture = pool.draw(np.random.default_rng(seed), pool.clips[0], 1, aligned=True)
    batch = whole_batch(mixture, window, separator.interface)
    with torch.no_grad():
        return separator(torch.from_numpy(batch.mixture), *context_of(batch, torch.device("cpu")))[0, 0, 0]


@pytest.mark.parametrize(("op", "seed"), [*((op, 0) for op in get_args(Op)), ("film", 1), ("film", 2)])
def test_a_click_and_a_flash_of_one_instant_meet_in_the_network(op, seed):
    torch.manual_seed(0)
    config = WaveUNetConfig(
        levels=5, filters=8, down_kernel=5, outputs="queries", site="decoder", op=op, context="features",
        feature_size=5, output_activation="linear",
    )  # fmt: skip
    separator = Separator(config, ("fl",), RATE).eval()
    output = separator.geometry.window_at_least(2 * RATE)
    window = Window(separator.input_samples(output), output, RATE)
    plain, click, flash = (_heard(separator, window, clip, seed) for clip in (_clip(), _clip(click=1), _clip(flash=1)))
    heard, seen = _centre(click - plain), _centre(flash - plain)
    assert abs(heard - seen) < max(separator.geometry.stride, RATE / FRAME_RATE)
    assert output / 8 < heard < 7 * output / 8


def _centre(change):
    energy = change.double().square()
    return float((energy * torch.arange(len(energy))).sum() / energy.sum())
