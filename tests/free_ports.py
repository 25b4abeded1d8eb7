"""Ports for the processes of a Ray beside all others of the machine."""

import contextlib
import socket


def free_ports(count: int) -> list[str]:
    """As many ports, on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(server.getsockname()[1]) for server in sockets]
