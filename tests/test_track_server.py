"""Tracking servers that cannot be used are refused with the reason, before anything is written."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from test_track import bring, three
from werkzeug.serving import WSGIRequestHandler, make_server

from vimss.errors import PlaceError
from vimss.storage import Store
from vimss.track import Tracking, find_alias

pytestmark = pytest.mark.slow


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


@contextmanager
def answering(status: str, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A web server that gives this answer to everything; its address, and the requests so far."""
    requests: list[str] = []

    def answer(environ: dict[str, Any], start: Callable[..., object]) -> list[bytes]:
        requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        start(status, [("Content-Type", "text/plain")])
        return [body]

    server = make_server("127.0.0.1", 0, answer, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}", requests
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            "200 OK",
            b"2.22.0",
            "must be of version 3, as the installed 3.*; got version 2.22.0. To fix: start a server of",
        ),
        (
            "200 OK",
            b"<html>a page</html>",
            "MLflow must answer at http.*; got '<html>a page</html>', HTTP 200, for http",
        ),
        ("404 Not Found", b"", "MLflow must answer at http.*; got '', HTTP 404, for .*/version. To fix: correct"),
        (
            "401 Unauthorized",
            b"who",
            "got 'who', HTTP 401, .* set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSW",
        ),
    ],
)
def test_a_server_that_is_no_mlflow_or_of_another_version_is_refused_before_its_use(
    tmp_path, small_manifest, status, body, message
):
    with answering(status, body) as (address, requests):
        tracking = Tracking(Store(tmp_path), address)
        with pytest.raises(PlaceError, match=message):
            bring(tracking, three(tmp_path / "quickstart-3f9c2a1b07"), small_manifest)
        with pytest.raises(PlaceError, match=message):
            find_alias(tracking, "quickstart", "champion")
        assert requests == ["GET /version"] * 2
