"""moto's server for s3://, as a thread of the tests, for them and for the processes that they start."""

import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "music"

CONDITIONS = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"}
"""Names of the headers by which a request says when an object may be written."""


class Server:
    """moto behind a door that counts requests and can break off answers."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[str, str]] = []
        self.broken: dict[str, int] = {}
        """Path to the number of answers that are yet to break off."""
        self.refused: set[str] = set()
        """Methods that are not allowed."""
        self.before: dict[tuple[str, str], Callable[[], object]] = {}
        """Method and path of a request to what happens just before it."""
        self.is_away = False
        """Whether it answers that it is not available."""
        self.conditions = CONDITIONS
        """Those that it follows; it does not look at others."""

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        self.before.pop((method, path), lambda: None)()
        if self.is_away:
            start_response("503 Service Unavailable", [])
            return [b""]
        if method in self.refused:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        for condition in CONDITIONS - self.conditions:
            environ.pop(condition, None)
        body = self.moto(environ, start_response)
        if method == "GET" and self.broken.get(path, 0) > 0:
            self.broken[path] -= 1
            return [b"".join(body)[:100]]
        return body

    def fetched(self, path: str) -> int:
        """How often something was downloaded."""
        return self.requests.count(("GET", path))


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port, for the block."""
    server = Server()
    listening = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Quiet)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{listening.server_port}"
    yield server
    listening.shutdown()


def reset(server: Server, path: str = "reset", content: bytes = b"") -> None:
    """Empty the server, or let it check credentials from now on, as moto's own address for it says."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{server.address}/moto-api/{path}", content, headers, method="POST")  # noqa: S310
    urllib.request.urlopen(request).read()  # noqa: S310 - our own address
