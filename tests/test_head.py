"""The loss of Ray's head becomes an error that says what to do, even where this process waits for Ray."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from vimss.errors import PlaceError
from vimss.runtime import check_head, head

MESSAGE = (
    r"the head of Ray must answer at 127\.0\.0\.1:\d+; got no answer for \d+ s\. To fix: start it again, unless it is "
    "this command's own, and run the same command again, which resumes"
)


@pytest.fixture
def quick(monkeypatch):
    """Looks every hundredth of a second, and a tenth of a second is too long."""
    monkeypatch.setattr(head, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(head, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(head, "HEAD_SECONDS", 0.1)


@contextmanager
def answering(port: int = 0, answer: bytes = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) -> Iterator[int]:
    """A port that answers as gRPC does, with empty settings, for as long as the block."""
    with socket.create_server(("127.0.0.1", port)) as server, ExitStack() as connections:

        def serve() -> None:
            with suppress(OSError):  # of the closed server
                while True:
                    connection, _ = server.accept()
                    connections.enter_context(connection).sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def wait_for_the_error() -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        check_head()
        time.sleep(0.01)


def test_a_head_that_is_lost_is_an_error_and_one_that_answers_is_none(quick):
    with answering() as port, head.head_watched(f"127.0.0.1:{port}"):
        time.sleep(0.5)
        check_head()
    with head.head_watched(f"127.0.0.1:{port}"), pytest.raises(PlaceError, match=MESSAGE):
        wait_for_the_error()
    check_head()  # that head is no longer of interest


def test_a_head_that_hangs_with_an_open_port_is_lost(quick):
    with (
        answering(answer=b"") as port,
        head.head_watched(f"127.0.0.1:{port}"),
        pytest.raises(PlaceError, match=MESSAGE),
    ):
        wait_for_the_error()


def test_a_head_that_answers_again_in_time_is_not_lost(quick, monkeypatch):
    monkeypatch.setattr(head, "HEAD_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with head.head_watched(f"127.0.0.1:{port}"):
        time.sleep(0.2)
        with answering(port):
            time.sleep(0.7)
            check_head()


def test_a_process_that_waits_for_ray_without_end_says_that_the_head_is_lost_and_ends():
    script = """
import time
from vimss.console import print_warnings
from vimss.runtime import head
print_warnings()
head.LOOK_SECONDS, head.HEAD_SECONDS, head.RAISE_SECONDS = 0.01, 0.1, 0.1
with head.head_watched("127.0.0.1:1"):
    time.sleep(60)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 1
    assert re.fullmatch(rf"error: {MESSAGE}\n", ran.stderr)
