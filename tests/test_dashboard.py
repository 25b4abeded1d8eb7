"""Optuna's pages show the trials of the records; no page shows what is not there."""

import json
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from free_ports import free_ports
from test_search_sampler import AXES, KNOWN
from test_trial import experiment

from vimss.errors import ConfigError, PlaceError
from vimss.search.dashboard import optuna_storage, serve_dashboard
from vimss.search.study import Study

SEARCHED = experiment(tune=AXES, search={"trials": 4, "scheduler": "asha", "grace_seconds": 4.0}, controls={})


@pytest.fixture
def free_port() -> int:
    return int(free_ports(1)[0])


def answer(address: str) -> dict:
    with urllib.request.urlopen(address, timeout=10) as found:  # noqa: S310 - our own server
        return json.load(found)


def test_the_dashboard_has_the_trials_of_the_records(free_port):
    with serve_dashboard(optuna_storage(SEARCHED, Study(Path("x"), tuple(KNOWN))), free_port) as address:
        api = address.replace("/dashboard/", "/api/studies")
        (study,) = answer(api)["study_summaries"]
        found = answer(f"{api}/{study['study_id']}")
    assert (study["study_name"], study["directions"]) == ("search", ["minimize"])
    trials = found["trials"]
    assert [trial["state"].lower() for trial in trials] == ["complete", "pruned", "fail", "running"]
    assert trials[0]["values"] == [-3.0] and {each["name"] for each in trials[0]["params"]} == set(AXES)


def test_trials_have_the_times_of_their_records():
    known = [record.model_copy(update={"begun": 100.0, "times": {1: 200.0}}) for record in KNOWN]
    known[0] = known[0].model_copy(update={"ended": 300.0})
    storage = optuna_storage(SEARCHED, Study(Path("x"), tuple(known)))
    trials = storage.get_all_trials(storage.get_study_id_from_name("search"))
    assert {trial.datetime_start.timestamp() for trial in trials} == {100.0}
    *ended, running = [trial.datetime_complete for trial in trials]
    assert [time.timestamp() for time in ended] == [300.0, 200.0, 200.0] and running is None


def test_trials_stand_in_the_order_of_their_draws_whatever_their_folders_are_called():
    storage = optuna_storage(SEARCHED, Study(Path("x"), tuple(reversed(KNOWN))))
    trials = storage.get_all_trials(storage.get_study_id_from_name("search"))
    assert [trial.params["model.site"] for trial in trials] == [record.chosen["model.site"] for record in KNOWN]


def test_a_dashboard_that_is_not_installed_is_asked_for(free_port, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with (
        pytest.raises(
            ConfigError, match=r"--optuna needs Optuna's dashboard; .*run `pip install 'vimss\[dashboard\]'`"
        ),
        serve_dashboard(optuna_storage(SEARCHED, Study(Path("x"), ())), free_port),
    ):
        pass


def test_a_port_in_use_and_an_experiment_without_a_search_are_said(free_port):
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(PlaceError, match=f"port {free_port} must be free"),
        serve_dashboard(optuna_storage(SEARCHED, Study(Path("x"), ())), free_port),
    ):
        pass
    with pytest.raises(ConfigError, match="got no axis to search. To fix: run `vimss compare"):
        optuna_storage(experiment(tune={}, controls={}), Study(Path("x"), ()))
