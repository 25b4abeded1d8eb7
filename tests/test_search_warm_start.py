"""Trials of other studies that the sampler knows from the start, and what is refused."""

from pathlib import Path

import pytest
from test_search import experiment
from test_search_resume import MANIFEST

from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.search.sampler import Space, draws, free_number, optuna_study
from vimss.search.study import TrialRecord, study_folder, write_record
from vimss.search.warm_start import earlier_trials
from vimss.storage import Store
from vimss.train.figure import Figure
from vimss.train.objectives import figure_of

LOSS = figure_of()
AXES = {
    "model.site": {"choices": ["decoder", "bottleneck"]},
    "model.op": {"choices": ["film", "add"], "when": {"model.site": ["decoder"]}},
}


def warm(*names: str, **changes) -> Experiment:
    return experiment(
        tune=AXES, controls={}, search={"trials": 2, "scheduler": "asha", "warm_start": list(names)}, **changes
    )


def earlier(store: Store, chosen: dict, value: float = -1.0, state: str = "finished", figure: Figure = LOSS):
    """A trial of the study "old-0123456789"."""
    folder = store.studies / "old-0123456789" / "search" / f"{len(list(store.studies.glob('*/*/*')))}"
    report = {"audio_seconds": 4.0, "steps": 1.0, figure.name: value}
    record = TrialRecord(
        cell="search", trial=folder.name, state=state, chosen=chosen, figure=figure, settings=None, reports=[report],
        begun=0.0, folder=folder,
    )  # fmt: skip
    write_record(record)
    return record


def test_finished_trials_of_another_study_go_to_the_sampler_and_count_as_no_trials(tmp_path):
    store = Store(tmp_path)
    earlier(store, {"model.site": "bottleneck"}, -2.0)
    earlier(store, {"model.site": "decoder", "model.op": "add"}, state="pruned")
    by = warm("old-0123456789")
    known = earlier_trials(by, MANIFEST, store)
    space = Space(by.tune, by.figure, by.search, 0, known)
    assert [(trial.params, trial.value) for trial in optuna_study(space, []).trials] == [
        ({"model.site": "bottleneck"}, -2.0)
    ]
    assert free_number([]) == 0 and next(draws(space, 0, [])).number == 0


def test_without_warm_start_nothing_is_read(tmp_path):
    assert earlier_trials(warm(), MANIFEST, Store(tmp_path)) == ()


def refused(by: Experiment, store: Store, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        earlier_trials(by, MANIFEST, store)


def test_a_study_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    store = Store(tmp_path)
    earlier(store, {"model.site": "bottleneck"})
    for name in ("new-0123456789", "../studies/old-0123456789"):
        refused(warm(name), store, r"warm_start must name studies with trials, .*fix: choose from old-0123456789")


def test_the_own_study_is_refused(tmp_path):
    store = Store(tmp_path)
    own = study_folder(warm(), MANIFEST, store).name
    refused(warm(own), store, rf"must name other studies; got '{own}', its own\. .*its trials are known")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"model.site": "output"}, r"tune\.model\.site is one of decoder, bottleneck; got output in a trial of 'old-0"),
        ({"model.site": "decoder"}, r"tune\.model\.op is one of film, add; got no such axis in a trial of 'old-0"),
        ({"model.site": "bottleneck", "training.ema": 0.9}, r"model\.site, model\.op; got training\.ema in a trial"),
    ],
)
def test_a_study_with_other_axes_is_refused(tmp_path: Path, chosen, message):
    store = Store(tmp_path)
    earlier(store, chosen)
    refused(warm("old-0123456789"), store, f"must name studies with the axes of this one, .*{message}")


def test_a_study_with_another_figure_is_refused(tmp_path):
    store = Store(tmp_path)
    earlier(store, {"model.site": "bottleneck"}, figure=Figure(name="accuracy", direction="max", title="accuracy"))
    refused(warm("old-0123456789"), store, r"the figure of this one, valid_loss; got accuracy in 'old-0123456789'")
