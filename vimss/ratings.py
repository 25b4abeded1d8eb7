"""Ratings of a listening test: what a page sends, the file that keeps it, and the server that takes it.

    with serve_page(page, lambda ratings: save_ratings(folder, ratings), port=5001) as address:
        print(address)      # http://127.0.0.1:5001/TOKEN/

A page cannot write beside a study by itself, so a server on loopback gives it out and takes its ratings. Whoever has
the address, with its token, may rate; nothing else is served. Opened as a file, a page offers its ratings for download.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from pydantic import Field

from vimss.config import Config, parse_config
from vimss.errors import ConfigError
from vimss.loopback import LOOPBACK, served
from vimss.storage import atomic_write

MOST_BYTES = 1_000_000
"""Of the ratings of one page."""

READ_SECONDS = 30.0
"""A client that sends nothing for so long is left."""


class Rating(Config):
    """How good one system sounds for one source."""

    label: str = Field(max_length=200)
    system: str = Field(max_length=500)
    kind: Literal["cell", "reference", "mixture"] = Field(
        description="reference: the true stem, hidden among the others; mixture: nothing was separated"
    )
    letter: str = Field(max_length=3, description="under which it was rated")
    value: float = Field(ge=0, le=100)


class Ratings(Config):
    """The ratings of one listener for one excerpt, with names hidden and the order shuffled."""

    study: str = Field(max_length=500)
    split: str = Field(max_length=100)
    piece: str = Field(max_length=500)
    seconds: float = Field(gt=0)
    listener: str = Field("", max_length=200)
    ratings: tuple[Rating, ...] = Field(min_length=1, max_length=5000)


def save_ratings(folder: Path, ratings: Ratings) -> Path:
    """Keep them in a file of their own; its name is the time, and a random part for listeners at the same time."""
    now = time.gmtime()
    path = folder / f"ratings-{time.strftime('%Y%m%d-%H%M%S', now)}-{secrets.token_hex(3)}.json"
    content = {"saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), **ratings.model_dump(mode="json")}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


@contextmanager
def serve_page(page: bytes, save: Callable[[Ratings], Path], port: int) -> Iterator[str]:
    """Serve a page on loopback while the block runs, and save what it sends; yields its address.

    PlaceError where the port is taken.
    """
    token = secrets.token_urlsafe(16)
    handler = _handler(page, save, token)
    with served(lambda: ThreadingHTTPServer((LOOPBACK, port), handler), port) as address:
        yield f"{address}/{token}/"


def _handler(page: bytes, save: Callable[[Ratings], Path], token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = READ_SECONDS

        def do_GET(self) -> None:
            if self._is_for("/"):
                self._answer(200, page, "text/html; charset=utf-8")
            else:
                self._answer(404, b"no such page", "text/plain")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not self._is_for("/ratings"):
                self._answer(404, b"no such page", "text/plain")
            elif not length.isdecimal() or int(length) > MOST_BYTES:
                self._answer(413, f"at most {MOST_BYTES} bytes".encode(), "text/plain")
            else:
                self._save(self.rfile.read(int(length)))

        def _save(self, body: bytes) -> None:
            try:
                path = save(parse_config(json.loads(body), Ratings, "ratings"))
            except (ConfigError, ValueError) as error:
                self._answer(400, str(error).encode(), "text/plain; charset=utf-8")
            else:
                self._answer(201, path.name.encode(), "text/plain; charset=utf-8")

        def _is_for(self, path: str) -> bool:
            """Whether the request has the token, and this server's name: a page of another site has neither."""
            host = f"{LOOPBACK}:{self.server.server_port}"  # type: ignore[attr-defined]
            expected = f"/{token}{path}".encode()
            return self.headers.get("Host") == host and secrets.compare_digest(self.path.encode(), expected)

        def _answer(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """No log: it would hold the token."""

    return Handler
