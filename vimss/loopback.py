"""Servers on this machine alone, each for as long as a block runs.

with served(lambda: ThreadingHTTPServer((LOOPBACK, port), Handler), port) as address:
    print(address)      # http://127.0.0.1:5001
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer

from vimss.errors import PlaceError

LOOPBACK = "127.0.0.1"


@contextmanager
def explain_taken_port(port: int) -> Iterator[None]:
    """PlaceError in place of an OSError of the block, which listens: another program does, or only root may."""
    try:
        yield
    except OSError as error:
        raise PlaceError(
            f"port {port} must be free", got=str(error), fix="choose another --port, or end the program that uses it"
        ) from error


def check_port(port: int) -> None:
    """PlaceError where the port is taken: before work that ends in a server there."""
    with explain_taken_port(port):
        socket.create_server((LOOPBACK, port)).close()


@contextmanager
def served(make: Callable[[], HTTPServer], port: int) -> Iterator[str]:
    """Let the server that `make` gives answer in a thread while the block runs; yields its address.

    PlaceError where the port is taken.
    """
    with explain_taken_port(port):
        server = make()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
