"""What every objective keeps and the rest of vimss relies on; a further one is held to it by its entry."""

import copy

import numpy as np
import pytest
import torch
from test_train import one_thread  # noqa: F401 - a fixture that all use

from vimss.errors import ConfigError, ModelError
from vimss.experiment import Experiment
from vimss.model.contexts.motion import compute_motion
from vimss.model.separator import read_card
from vimss.search.consistency import load_experiment
from vimss.stream.batch import Examples, Position
from vimss.train.config import Settings, ValidationConfig
from vimss.train.figure import Figure
from vimss.train.objectives import OBJECTIVES, Entry, open_objective
from vimss.train.objectives.protocol import FigureObjective, Objective, Predictor
from vimss.train.objectives.saved import load_network, settings_of
from vimss.train.validation import Validation

PICTURES = {"vision": {"network": "compact", "weights": "random", "frozen": False}}

SMALL = {
    "separation": {
        "model": {
            "levels": 2, "filters": 8, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder",
            "output_activation": "linear", "padding": "same",
        },
        "training": {"output_samples": 2000},
    },
    "separation by levels": {
        "model": {
            "network": "wavenet", "layers": 4, "stacks": 1, "filters": 12, "skip_filters": 12, "hidden_filters": 16,
            "output_filters": 16, "estimate": "mu_law", "outputs": "slots",
        },
        "training": {"output_samples": 500, "loss": "cross_entropy"},
    },
    "co_separation": {
        "model": {
            "network": "spectrogram_u_net", "n_fft": 64, "hop_length": 16, "depth": 2, "filters": 8, "kernel_size": 3,
            "outputs": "queries", "context": "skeleton", "site": "bottleneck", "op": "concat",
        },
        "mixing": {"min_sources": 2, "max_sources": 2},
        "training": {"output_samples": 1984},
    },
    "instruments": {"model": PICTURES, "training": {"output_samples": 4000}},
    "instruments by sound": {"training": {"output_samples": 4000}, "instruments": {"inputs": "sound"}},
    "instruments by both": {
        "model": PICTURES, "training": {"output_samples": 4000}, "instruments": {"inputs": "both"},
    },
    "alignment": {"training": {"output_samples": 72000}, "alignment": {"seconds": 2.0}},
    "correspondence": {
        "model": PICTURES, "mixing": {"min_sources": 4, "max_sources": 4}, "training": {"output_samples": 8000},
        "correspondence": {"loss": "info_nce"},
    },
    "segmentation": {
        "model": PICTURES, "training": {"output_samples": 4000}, "instruments": {"every": 0.5, "augment": True},
    },
    "localisation": {
        "model": PICTURES, "mixing": {"max_sources": 3}, "training": {"output_samples": 8000},
        "correspondence": {"loss": "info_nce"},
    },
    "weak_labels": {"training": {"output_samples": 8000}, "weak_labels": {"bases": 4}},
    "weak_labels by two streams": {
        "model": PICTURES, "training": {"output_samples": 8000},
        "weak_labels": {"bases": 4, "network": "two_stream", "labels": "corpus"},
    },
}  # fmt: skip
"""Settings under which an objective trains something small; their names begin with the objective's."""

RATE = {
    "separation": 1e-2,
    "separation by levels": 1e-2,
    "co_separation": 1e-2,
    "instruments": 3e-4,
    "instruments by sound": 1e-3,
    "instruments by both": 3e-4,
    "alignment": 1e-3,
    "correspondence": 2e-4,
    "localisation": 2e-4,
    "segmentation": 3e-3,
    "weak_labels": 1e-3,
    "weak_labels by two streams": 1e-3,
}
"""At which a batch is learned in a few steps."""


SLOW = {"alignment", "correspondence", "localisation"}
"""Cases whose batches take seconds to make; their own files hold what is fast."""


def test_every_objective_is_held_to_this():
    assert {name.partition(" ")[0] for name in SMALL} == set(OBJECTIVES)


def cases(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]


@pytest.fixture(params=cases(SMALL))
def case(request):
    """The name of some settings."""
    return request.param


@pytest.fixture
def manifest(case, request):
    """The shards of a case."""
    return shards_of(case, request)


def shards_of(case, request):
    if case != "alignment":
        return request.getfixturevalue("small_manifest")
    manifest = request.getfixturevalue("moving_manifest")
    compute_motion(manifest)
    return manifest


@pytest.fixture(scope="module")
def open_once(request):
    """Opens each case once; every test gets a network of its own."""
    made = {}

    def open_again(case):
        if case not in made:
            made[case] = open_case(case, shards_of(case, request))
        chosen, objective, network, batch = made[case]
        return chosen, objective, copy.deepcopy(network), batch

    return open_again


@pytest.fixture
def opened(case, open_once):
    """Settings, objective, a new network and a batch of three mixtures."""
    return open_once(case)


def open_case(case, manifest):
    chosen = Settings.model_validate({"objective": case.partition(" ")[0], **SMALL[case]})
    objective = open_objective(chosen, manifest)
    torch.manual_seed(0)
    network = objective.build()
    return chosen, objective, network, batch_of(chosen, objective, manifest, objective.interface)


def batch_of(chosen, objective, manifest, interface):
    examples = Examples(manifest, "train", chosen.mixing, objective.window(), interface, 0)
    return next(examples.batches(3, Position()))[0]


@pytest.fixture
def judged(opened, manifest):
    """The same mixtures as `examine` gets them."""
    chosen, objective, _, _ = opened
    return batch_of(chosen, objective, manifest, objective.validation_interface)


def share(objective, network, batch, of):
    """The share of a batch in the loss of the batch `of`."""
    return objective.loss(network, batch, torch.from_numpy(objective.totals(of)).float())


def kept(objective, network, batch):
    with torch.no_grad():
        rows = [objective.examine(network, batch.part(slice(k, k + 1)), torch.device("cpu")) for k in range(3)]
    return torch.stack(rows)


def test_it_has_the_members(opened):
    chosen, objective, network, _ = opened
    assert isinstance(objective, Objective)
    others = not OBJECTIVES[chosen.objective].separates
    assert (isinstance(objective, FigureObjective), isinstance(network, Predictor)) == (others, others)


def test_the_losses_of_parts_add_up_to_that_of_the_batch(opened):
    _, objective, network, batch = opened
    whole = share(objective, network, batch, batch)
    parts = [share(objective, network, batch.part(part), batch) for part in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-6)
    totals = [objective.totals(batch.part(part)) for part in (slice(0, 1), slice(1, 3))]
    assert sum(totals) == pytest.approx(objective.totals(batch))


def test_the_loss_of_an_example_depends_on_no_other(opened):
    _, objective, network, batch = opened
    changed = copy.deepcopy(batch)
    changed.mixture[1:] *= 0.5
    if changed.context is not None:
        changed.context[1:] = 0
    alone = share(objective, network, batch.part(slice(0, 1)), batch)
    others = share(objective, network, changed.part(slice(1, 3)), batch)
    assert not torch.equal(others, share(objective, network, batch.part(slice(1, 3)), batch))
    torch.testing.assert_close(share(objective, network, changed, batch) - others, alone, rtol=1e-3, atol=1e-5)


def test_every_weight_that_it_trains_has_a_gradient(opened):
    _, objective, network, batch = opened
    share(objective, network, batch, batch).backward()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    assert weights and all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)
    assert all(any(matrix is weight for weight in weights) and matrix.ndim == 2 for matrix in network.matrices())


@pytest.mark.slow
def test_one_batch_can_be_overfitted_and_the_figure_improves(opened, judged, case):
    chosen, objective, network, batch = opened
    optimizer = torch.optim.AdamW(network.parameters(), RATE[case])
    before, losses = objective.value(kept(objective, network, judged)), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = share(objective, network, batch, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.2 * abs(losses[0])
    assert OBJECTIVES[chosen.objective].figure.better(objective.value(kept(objective, network, judged)), before)


def test_a_saved_network_gives_the_same_when_it_is_loaded(opened, judged, tmp_path):
    _, objective, network, _ = opened
    objective.save(tmp_path / "model", network, {"note": "kept"})
    network.eval()
    found = kept(objective, objective.load(tmp_path / "model"), judged)
    assert torch.allclose(found, kept(objective, network, judged), rtol=0, atol=0, equal_nan=True)


def test_the_figure_is_the_same_for_any_share_of_the_ranks(opened, manifest):
    chosen, objective, network, _ = opened
    seconds = max(0.25, OBJECTIVES[chosen.objective].least_seconds)
    config = ValidationConfig(mixtures=6, seconds=seconds)
    whole = Validation(objective, chosen, manifest, config)
    value = whole(network)
    with torch.no_grad():
        table = torch.zeros(whole.count, len(objective.examine(network, whole.batches[0], whole.device))).double()
        for rank in range(4):
            part = Validation(objective, chosen, manifest, config, (rank, 4))
            for number, batch in enumerate(part.batches):
                table[rank + 4 * number] = objective.examine(network.eval(), batch, part.device)
    assert objective.value(table) == value


# Objectives that do not separate


@pytest.fixture(params=cases(name for name in SMALL if not OBJECTIVES[name.partition(" ")[0]].separates))
def predictor_objective(request, open_once):
    """The same of objectives that do not separate; the batch is one for `examine`."""
    chosen, objective, network, _ = open_once(request.param)
    manifest = shards_of(request.param, request)
    return chosen, objective, network, batch_of(chosen, objective, manifest, objective.validation_interface)


def test_the_guess_depends_on_the_mixtures_alone(predictor_objective):
    _, objective, network, batch = predictor_objective
    guess = objective.guess(kept(objective, network, batch))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1)
    again = objective.guess(kept(objective, network, batch))
    assert torch.allclose(guess, again, rtol=0, atol=0, equal_nan=True)
    assert np.isfinite(objective.value(guess))


def test_the_figure_of_a_label_is_part_of_the_figure(predictor_objective):
    _, objective, network, batch = predictor_objective
    rows = kept(objective, network, batch)
    found = objective.by_label(rows)
    assert set(found) <= set(objective.recipe.labels)
    assert not found or objective.value(rows) == pytest.approx(sum(found.values()) / len(found))


def test_a_saved_network_is_loaded_without_shards_and_predicts(predictor_objective, tmp_path):
    chosen, objective, network, batch = predictor_objective
    objective.save(tmp_path / "model", network, {})
    loaded = load_network(tmp_path / "model")
    assert (loaded.labels, loaded.sample_rate) == (network.labels, network.sample_rate)
    assert settings_of(read_card(tmp_path / "model")).objective == chosen.objective
    arrays = {"mixture": batch.mixture, "frames": batch.context, "motion": batch.context}
    if batch.context is not None and batch.context.ndim >= 5:
        # One picture of each player, or several; without what is taught beside it.
        arrays["frames"] = batch.context[:, :, None, ..., :3] if batch.context.ndim == 5 else batch.context[..., :3]
    found = loaded.predict({given.name: arrays[given.name] for given in loaded.inputs()})
    assert list(found) == [given.name for given in loaded.outputs()]
    assert all(found[given.name].dtype == given.dtype and len(found[given.name]) == 3 for given in loaded.outputs())
    expected = network.eval().predict({given.name: arrays[given.name] for given in network.inputs()})
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_model_of_another_objective_or_of_shards_of_another_rate_is_refused(predictor_objective, tmp_path):
    chosen, objective, network, _ = predictor_objective
    objective.save(tmp_path / "model", network, {})
    shards = objective.recipe.model_copy(update={"sample_rate": 11_025, "labels": ("tpt",)})
    with pytest.raises(ModelError, match="the model in .* must have (sample_rate: 11025|labels: .'tpt',.); got"):
        OBJECTIVES[chosen.objective].make(chosen, shards).load(tmp_path / "model")
    other = "alignment" if chosen.objective == "segmentation" else "segmentation"
    given = Settings.model_validate({"objective": other, "model": PICTURES if other == "segmentation" else {}})
    with pytest.raises(ModelError, match=f"must have objective: {other}; got objective: {chosen.objective}"):
        OBJECTIVES[other].make(given, objective.recipe).load(tmp_path / "model")


# Settings


@pytest.fixture
def _another(monkeypatch):
    """An objective that depends on no setting of the model, as if it had its entry."""
    figure = Figure(name="valid_guess", direction="max", title="guesses")
    monkeypatch.setitem(OBJECTIVES, "guessing", Entry("", figure, settings=(), separates=False, kind="seed"))


def written(folder, text):
    path = folder / "mine.yaml"
    path.write_text(f"question: q\nexpected: e\nshards: quickstart\n{text}", encoding="utf-8")
    return path


@pytest.mark.usefixtures("_another")
@pytest.mark.parametrize("setting", ["training: {loss: l1}", "model: {levels: 7}", "training: {absent_weight: 2}"])
def test_a_setting_of_other_objectives_is_refused(tmp_path, setting):
    group, name, _ = setting.replace(":", "").replace("{", "").split(maxsplit=2)
    with pytest.raises(ConfigError) as caught:
        load_experiment(written(tmp_path, f"objective: guessing\n{setting}\n"))
    assert caught.value.rule == f"experiment mine: {group}.{name} needs objective: separation or co_separation"
    assert caught.value.got.endswith("with objective: guessing")


def test_an_objective_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match="objective: must be one of separation.*; got 'denoising'"):
        load_experiment(written(tmp_path, "objective: denoising\n"))


@pytest.mark.usefixtures("_another")
@pytest.mark.parametrize(
    "where", ["compare: {objective: [separation, guessing]}", "controls: {o: {objective: guessing}}"]
)
def test_objectives_of_other_figures_are_not_compared(tmp_path, where):
    with pytest.raises(ConfigError, match="with the figure of 'separation', valid_loss, or .*; got 'guessing', whose"):
        load_experiment(written(tmp_path, f"{where}\n"))


def test_the_objective_is_not_tuned(tmp_path):
    with pytest.raises(ConfigError, match=r"tune\.objective must stand in `compare`, and only where the figures"):
        load_experiment(written(tmp_path, "tune: {objective: {choices: [separation]}}\n"))


@pytest.mark.usefixtures("_another")
def test_the_figure_of_an_experiment_is_that_of_its_objective():
    experiment = Experiment(name="mine", question="q", expected="e", shards="quickstart", objective="guessing")
    assert experiment.figure.name == "valid_guess"
