"""Sessions: a place with its store, and inside a `with` block its Ray."""

import pytest
import ray

from vimss.errors import ConfigError, PlaceError
from vimss.runtime import start_ray
from vimss.session import open_session


@pytest.fixture
def session(monkeypatch, tmp_path):
    def start(**_: object) -> None:
        raise RuntimeError("Ray was started")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    return open_session("local")


def test_a_session_has_the_place_and_its_store(session, tmp_path):
    assert (session.place.name, session.store.root) == ("local", tmp_path / "store")
    assert session.tracking.folder == session.store.tracking


def test_opening_and_entering_a_session_starts_no_ray(session):
    with session as entered:
        assert entered is session


def test_inside_a_with_block_ray_starts_when_it_is_needed(session):
    with session, pytest.raises(PlaceError, match="Ray was started"):
        start_ray()


def test_outside_a_with_block_there_is_no_ray_to_start(session):
    start_ray()
    with session:
        pass
    start_ray()


def test_a_session_may_be_entered_again_and_inside_itself(session):
    with session:
        with session:
            pass
        with pytest.raises(PlaceError, match="Ray was started"):
            start_ray()
    start_ray()


def test_a_place_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="--on must name a folder of platform/; got 'moon'"):
        open_session("moon")
