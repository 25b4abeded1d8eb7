"""Watch whether Ray's head answers: one that is gone, or hangs with an open port, is lost.

    with head_watched("10.0.0.1:6379"):
        check_head()                     # PlaceError once it has not answered for HEAD_SECONDS

Ray 2.60 would wait for a lost head for a minute, and then exit with code 1 and no explanation.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vimss.errors import PlaceError

log = logging.getLogger(__name__)

HEAD_SECONDS = 40.0
"""How long the head may not answer: longer than it takes to start again, shorter than Ray itself waits."""

RAISE_SECONDS = 10.0
"""How long this process then has to raise the error: it may be in a call of Ray that waits for the head."""

LOOK_SECONDS = 2.0

ANSWER_SECONDS = 5.0
"""How long one answer may take: on busy cores the head is late, and need not be lost."""

_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The start of a gRPC connection: the preface of HTTP/2 and empty settings (RFC 9113, 3.4), which a server answers."""

_errors: list[PlaceError] = []
"""Errors of lost heads; empty unless one is lost."""


def check_head() -> None:
    """PlaceError where the head of Ray has been lost."""
    if _errors:
        raise _errors[0]


def head_answers() -> bool:
    """Whether the head answers now: a call of Ray would wait for one that does not."""
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        check_answers(host.strip("[]"), int(port), ANSWER_SECONDS)
    except OSError:
        return False
    return True


@contextmanager
def head_watched(address: str) -> Iterator[None]:
    """Ask, for the block, whether the head at host:port answers; once it does not, `check_head` raises.

    If `check_head` does not raise within RAISE_SECONDS, the process logs the error and exits with 1.
    """
    ended, errors = threading.Event(), list[PlaceError]()
    watch = threading.Thread(target=_watch, args=(address, ended, errors), name="head", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join(ANSWER_SECONDS)  # it may be waiting for an answer
        for error in errors:
            _errors.remove(error)


def check_answers(host: str, port: int, seconds: float) -> None:
    """OSError where nothing listens at host:port, nothing answers in so many seconds, or a web server does.

    A process that is stopped, or whose machine stands still, does not answer, though its port is open: the kernel
    connects. The threads of gRPC answer, whatever else the head is busy with.
    """
    with socket.create_connection((host, port), seconds) as connection:
        connection.sendall(_HTTP2_GREETING)
        try:
            answer = connection.recv(5)
        except TimeoutError:
            raise OSError(f"a connection, and no answer in {seconds:.0f} s") from None
    if answer.startswith(b"HTTP/"):
        raise OSError("a web server, such as the dashboard of Ray, whose own port is another: 6379 by default")


def _watch(address: str, ended: threading.Event, errors: list[PlaceError]) -> None:
    host, _, port = address.rpartition(":")
    silent = 0.0
    while silent < HEAD_SECONDS:
        if ended.wait(LOOK_SECONDS):
            return
        begin = time.monotonic()
        try:
            check_answers(host.strip("[]"), int(port), ANSWER_SECONDS)
            silent = 0.0
        except OSError:
            # Not by the clock: this process may have stood still itself.
            silent += LOOK_SECONDS + time.monotonic() - begin
    if ended.is_set():
        return
    error = PlaceError(
        f"the head of Ray must answer at {address}",
        got=f"no answer for {silent:.0f} s",
        fix="start it again, unless it is this command's own, and run the same command again, which resumes",
    )
    errors.append(error)
    _errors.append(error)
    if not ended.wait(RAISE_SECONDS):
        log.error("%s", error)
        os._exit(1)
