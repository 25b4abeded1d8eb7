import json
import math
import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file

from vimss.errors import ConfigError, DataError, TrainingError
from vimss.train.checkpoint import newest_valid
from vimss.train.config import Settings, TrainingConfig, ValidationConfig
from vimss.train.loop import Training, learning_rate, train
from vimss.train.loss import best_order, make_loss, negative_si_sdr, negative_snr

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


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Losses


def signals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["snr", "l1", "mse", "si_sdr", "l1_stft"])
def test_every_loss_is_a_finite_mean_with_silent_targets_and_estimates(name):
    estimates = signals(2, 3, 1, 2048).requires_grad_()
    targets = signals(2, 3, 1, 2048)
    targets[:, 2] = 0
    present = torch.tensor([[True, True, False]] * 2)
    loss = make_loss(TrainingConfig(loss=name))(estimates, targets, present, targets.sum(1))
    loss.backward()
    assert loss.isfinite() and estimates.grad.isfinite().all() and estimates.grad.any()
    silent = torch.zeros_like(estimates).requires_grad_()
    make_loss(TrainingConfig(loss=name))(silent, targets, present, targets.sum(1)).backward()
    assert silent.grad.isfinite().all()


@pytest.mark.parametrize("name", ["snr", "l1", "mse", "si_sdr"])
def test_a_batch_twice_as_large_has_the_same_loss(name):
    estimates, targets = signals(1, 2, 1, 512), signals(2, 2, 1, 512)[1:]
    present = torch.ones(1, 2, dtype=torch.bool)
    loss = make_loss(TrainingConfig(loss=name))
    once = loss(estimates, targets, present, targets.sum(1))
    twice = loss(*(x.repeat(2, *[1] * (x.ndim - 1)) for x in (estimates, targets, present, targets.sum(1))))
    torch.testing.assert_close(once, twice)


def test_negative_snr_is_that_of_the_definition_and_floored():
    target = signals(1, 1, 1, 4000)
    noise = signals(2, 1, 1, 4000)[1:]
    expected = 10 * torch.log10(noise.square().sum() / target.square().sum() + 1e-3)
    torch.testing.assert_close(negative_snr(target + noise, target)[0, 0], expected)
    torch.testing.assert_close(negative_snr(target, target)[0, 0], torch.tensor(-30.0))


def test_si_sdr_does_not_care_for_the_level():
    target, estimate = signals(2, 1, 1, 4000).split(1)
    estimate = target + 0.3 * estimate
    torch.testing.assert_close(negative_si_sdr(estimate, target), negative_si_sdr(7 * estimate, target))


def test_an_absent_output_costs_by_its_energy_and_weight():
    targets = torch.zeros(1, 1, 1, 100)
    mixture, present = torch.ones(1, 1, 100), torch.zeros(1, 1, dtype=torch.bool)
    loss = make_loss(TrainingConfig(absent_weight=3.0))
    torch.testing.assert_close(loss(torch.full_like(targets, 0.1), targets, present, mixture), torch.tensor(0.03))


def test_slots_are_scored_in_their_best_order():
    targets = signals(2, 3, 1, 100)
    torch.testing.assert_close(best_order(targets[:, [2, 0, 1]], targets), targets)


def test_a_loss_outside_the_list_is_refused():
    with pytest.raises(ValueError, match="'snr', 'l1', 'mse', 'si_sdr' or 'l1_stft'"):
        TrainingConfig(loss="l2")


# Loop


@pytest.fixture(scope="module")
def undisturbed(small_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(small_manifest, folder)


def test_reports_count_audio_seconds_and_loss_falls(small_manifest, tmp_path):
    longer = settings(training={"audio_seconds": 40, "report_seconds": 10, "learning_rate": 3e-3})
    reports = run(small_manifest, tmp_path, longer)
    seconds = [report["audio_seconds"] for report in reports]
    assert seconds == pytest.approx([10, 20, 30, 40], abs=1.01)
    assert reports[-1]["valid_loss"] < reports[0]["valid_loss"]


def test_training_is_repeatable_to_the_bit(small_manifest, undisturbed, tmp_path):
    folder, _ = undisturbed
    run(small_manifest, tmp_path)
    one, other = weights(folder / "1"), weights(tmp_path / "1")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_training_ends_with_the_weights_of_an_undisturbed_one(small_manifest, undisturbed, tmp_path):
    folder, reports = undisturbed
    resumed = run(small_manifest, tmp_path, resume=folder / "0")
    assert resumed[-1]["valid_loss"] == reports[-1]["valid_loss"]
    one, other = weights(folder / "1"), weights(tmp_path / "0")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_of_the_weights_survives_a_resume(small_manifest, tmp_path):
    chosen = settings(training={"ema": 0.9})
    for part in ("whole", "again"):
        (tmp_path / part).mkdir()
    run(small_manifest, tmp_path / "whole", chosen)
    run(small_manifest, tmp_path / "again", chosen, resume=tmp_path / "whole" / "0")
    one, other = weights(tmp_path / "whole" / "1"), weights(tmp_path / "again" / "0")
    averages = [name for name in one if name.startswith("average.module")]
    assert averages and all(torch.equal(one[name], other[name]) for name in averages)


def test_a_checkpoint_of_other_settings_is_refused(small_manifest, undisturbed, tmp_path):
    with pytest.raises(DataError, match="must be of the settings"):
        run(small_manifest, tmp_path, settings(training={"learning_rate": 2e-3}), resume=undisturbed[0] / "0")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(undisturbed, tmp_path):
    import shutil

    for number in ("0", "1"):
        shutil.copytree(undisturbed[0] / number, tmp_path / number)
    with (tmp_path / "1" / "state.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\1\2\3")
    assert newest_valid([tmp_path / "1", tmp_path / "0"]) == tmp_path / "0"


def test_a_loss_that_is_not_finite_stops_with_its_position(small_manifest, tmp_path):
    wild = settings(training={"learning_rate": 1.0, "gradient_clip": 0, "loss": "mse", "audio_seconds": 200})
    with pytest.raises(
        TrainingError, match=r"must be finite; got loss .* at step \d+, \d+ audio seconds, batch \d+ of epoch"
    ):
        run(small_manifest, tmp_path, wild)


def test_a_batch_that_workers_cannot_share_is_refused(small_manifest, tmp_path):
    with pytest.raises(ConfigError, match="multiple of the number of workers; got 4 with 3 workers"):
        run(small_manifest, tmp_path, world_size=3)


def test_bfloat16_is_refused_where_the_device_has_none(small_manifest, tmp_path):
    with pytest.raises(ConfigError, match="bfloat16 needs a device with bfloat16 units; got cpu"):
        run(small_manifest, tmp_path, settings(training={"precision": "bfloat16"}))


def test_a_window_that_the_network_does_not_allow_names_the_nearest(small_manifest, tmp_path):
    with pytest.raises(ConfigError, match="use 1997 or 2005 samples"):
        run(small_manifest, tmp_path, settings(training={"output_samples": 2000}))


def test_the_rate_warms_up_and_decays_in_audio_seconds():
    chosen = settings(training={"warmup_seconds": 2, "learning_rate_decay": 0.25})
    assert learning_rate(1.0, 1.0, chosen) == pytest.approx(0.5 * 0.25 ** (1 / 8))
    assert learning_rate(1.0, 8.0, chosen) == pytest.approx(0.25)


@pytest.mark.parametrize("outputs", ["instruments", "slots"])
def test_every_kind_of_output_trains(small_manifest, tmp_path, outputs):
    chosen = settings(model={"outputs": outputs, "site": "none", "slots": 2})
    assert math.isfinite(run(small_manifest, tmp_path, chosen)[-1]["valid_loss"])


def test_pictures_train(small_manifest, tmp_path):
    chosen = settings(
        model={"context": "frames", "vision": {"network": "resnet18", "weights": "random"}},
        training={"batch_size": 2, "audio_seconds": 1, "report_seconds": 1},
    )
    assert math.isfinite(run(small_manifest, tmp_path, chosen)[-1]["valid_loss"])


def test_report_longer_than_the_budget_is_refused():
    with pytest.raises(ValueError, match="report_seconds .* must not exceed audio_seconds"):
        TrainingConfig(audio_seconds=10, report_seconds=20)


def _rank(rank, port, manifest, folder, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    (folder / f"rank{rank}").mkdir()
    reports = run(manifest, folder / f"rank{rank}", rank=rank, world_size=2)
    results.put((rank, json.dumps(reports[-1])))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_together_and_agree_on_the_validation(small_manifest, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = multiprocessing.get_context("spawn").Queue()
    multiprocessing.spawn(_rank, (port, small_manifest, tmp_path, results), nprocs=2)
    metrics = [json.loads(text) for _, text in (results.get(), results.get())]
    assert metrics[0]["valid_loss"] == metrics[1]["valid_loss"]
    assert np.isfinite(metrics[0]["valid_loss"])
    assert not list((tmp_path / "rank1").iterdir())
