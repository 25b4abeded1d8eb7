"""The head of Ray is asked again and again whether it lives: without it, this process would wait and then end silently.

    with head_watched("10.0.0.1:6379"):
        check_head()                     # PlaceError once it has not answered for HEAD_SECONDS

Ray 2.60 ends a process that cannot reach the head for a minute, with exit code 1 and no word of what to do.
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

_errors: list[PlaceError] = []
"""Of each head that is lost, while its block lasts."""


def check_head() -> None:
    """PlaceError where the head of Ray has been lost."""
    if _errors:
        raise _errors[0]


@contextmanager
def head_watched(address: str) -> Iterator[None]:
    """Ask, for the block, whether the head at host:port lives; where it is lost, `check_head` raises.

    A process that does not get to raise it prints the error and ends.
    """
    ended = threading.Event()
    threading.Thread(target=_watch, args=(address, ended), name="head", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _errors.clear()


def _watch(address: str, ended: threading.Event) -> None:
    host, _, port = address.rpartition(":")
    silent = 0.0
    while silent < HEAD_SECONDS:
        if ended.wait(LOOK_SECONDS):
            return
        begin = time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_SECONDS).close()
            silent = 0.0
        except OSError:
            # Not by the clock: this process may have stood still itself.
            silent += LOOK_SECONDS + time.monotonic() - begin
    error = PlaceError(
        f"the head of Ray must answer at {address}",
        got=f"no answer for {silent:.0f} s",
        fix="start it again, unless it is this command's own, and run the same command again, which resumes",
    )
    _errors.append(error)
    if not ended.wait(RAISE_SECONDS):
        log.error("%s", error)
        os._exit(1)
