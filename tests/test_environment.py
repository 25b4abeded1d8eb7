"""Environment variables of a place, in this process and in the workers of a cluster."""

import json
import os
from pathlib import Path

import pytest

from vimss.errors import ConfigError, PlaceError
from vimss.runtime import JOB_VARIABLE, Place, ray_running, set_variables
from vimss.runtime.environment import NODE_VARIABLES, RAY_VARIABLES, runtime_env

HIDDEN = "never-shown-5f2c"


@pytest.fixture(autouse=True)
def variables(monkeypatch) -> None:
    """What a test sets in the environment of this process ends with it."""
    for name in (*RAY_VARIABLES, "NCCL_DEBUG", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_place_sets_variables_that_are_not_set_yet(monkeypatch):
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")
    set_variables(Place(name="here", environment={"NCCL_DEBUG": "WARN", "TUNE_FORCE_TRIAL_CLEANUP_S": "9"}))
    assert [os.environ[name] for name in ("NCCL_DEBUG", "RAY_AIR_NEW_OUTPUT", "TUNE_FORCE_TRIAL_CLEANUP_S")] == [
        "WARN",
        "1",
        "9",
    ]
    set_variables(Place(name="there", environment={"NCCL_DEBUG": "INFO"}))
    assert os.environ["NCCL_DEBUG"] == "WARN"


def test_a_session_has_the_variables_before_ray_starts(monkeypatch, tmp_path):
    from vimss.session import open_session

    (tmp_path / "runtime.yaml").write_text('environment: {NCCL_DEBUG: "WARN"}', encoding="utf-8")
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    open_session(tmp_path)
    assert os.environ["NCCL_DEBUG"] == "WARN"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": HIDDEN}},
            r"x: a secret must be in no file; `secrets` takes its value from the environment; got a value of "
            r"AWS_SECRET_ACCESS_KEY in `environment`. To fix: write `secrets: \[AWS_SECRET_ACCESS_KEY\]`",
        ),
        (
            {"environment": {"TRACKER": f"http://me:{HIDDEN}@host"}},
            "a secret must be in no file.*got a value of TRACKER",
        ),
        ({"environment": {"A": "1"}, "secrets": ("A",)}, "a secret must be in no file.*got a value of A"),
        ({"environment": {"NCCL DEBUG": "1"}}, "must name variables, such as NCCL_DEBUG; got 'NCCL DEBUG'"),
        ({"secrets": ("A=1",)}, "x: environment and secrets must name variables.*got 'A=1'. To fix: correct"),
        ({"environment": {"VIMSS_STORE": "/a"}}, "x: a place sets its store by `store:`; got VIMSS_STORE"),
    ],
)
def test_a_variable_of_a_place_has_one_home_and_a_secret_none_in_a_file(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        Place(name="x", **settings)
    assert HIDDEN not in str(error.value)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_variable_that_only_sounds_like_a_secret_is_taken(name):
    assert Place(name="x", environment={name: "/run/secrets/a"}).environment[name]


def test_a_secret_that_this_process_lacks_is_named_before_ray_starts():
    place = Place(name="far", ray_address="auto", secrets=("MLFLOW_TRACKING_PASSWORD",))
    with pytest.raises(PlaceError, match="secrets that 'far' names; got no MLFLOW_TRACKING_PASSWORD. To fix: set them"):
        ray_running(place).__enter__()


def test_a_variable_of_a_job_is_not_given_twice(monkeypatch):
    given = {"runtime_env": {"env_vars": {"RAY_AIR_NEW_OUTPUT": "1", "MLFLOW_TRACKING_PASSWORD": HIDDEN}}}
    place = Place(name="far", environment={"NCCL_DEBUG": "WARN"}, secrets=("MLFLOW_TRACKING_PASSWORD",))
    set_variables(place)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", HIDDEN)
    assert set(runtime_env(place)) == {"env_vars", "worker_process_setup_hook"}
    monkeypatch.setenv(JOB_VARIABLE, json.dumps(given))
    wanted = runtime_env(place)
    assert set(wanted) == {"env_vars"}
    assert set(wanted["env_vars"]) == {*RAY_VARIABLES, "NCCL_DEBUG"} - {"RAY_AIR_NEW_OUTPUT"}


def test_what_starts_nodes_sets_what_nodes_read():
    for path in (Path("platform/cluster/head"), Path("platform/Dockerfile")):
        text = path.read_text(encoding="utf-8")
        assert all(f"{name}={RAY_VARIABLES[name]}" in text for name in NODE_VARIABLES), path
