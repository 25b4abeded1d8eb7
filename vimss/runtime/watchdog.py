"""Ray's processes on this machine end with the process that started them, even where that one is killed by SIGKILL.

    ray.init(address="local")
    with watched():
        ...

Most end by themselves then. Two agents, which Ray's raylet starts, try to reach the cluster that has ended, without end
(Ray 2.60; delete this file once they do not). So a small process of its own, this file as a script, waits until its
standard input closes, which the end of this process brings about whatever the reason, and kills what is left.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LEAVE_SECONDS = 5.0
"""How long processes have to end by themselves."""

LOOK_SECONDS = 0.1


@contextmanager
def watched() -> Iterator[None]:
    """Kill what is left of this process's children, and of theirs, some seconds after its end or that of the block."""
    import psutil  # the one that Ray brings, which must have been imported before

    children = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            children.append([child.pid, child.create_time()])
    watchdog = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-I", __file__, str(Path(psutil.__file__).parents[1]), json.dumps(children)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # Ctrl-C and the end of the terminal are not for it
    )
    try:
        yield
    finally:
        assert watchdog.stdin is not None  # noqa: S101 - a pipe
        watchdog.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            watchdog.wait(2 * LEAVE_SECONDS)


def _main() -> None:
    sys.path.append(sys.argv[1])
    import psutil

    processes = []
    for number, created in json.loads(sys.argv[2]):
        with suppress(psutil.Error):
            process = psutil.Process(number)
            if process.create_time() == created:  # else another one has the number now
                processes.append(process)
    sys.stdin.read()
    end = time.monotonic() + LEAVE_SECONDS
    while time.monotonic() < end and any(map(_lives, processes)):
        time.sleep(LOOK_SECONDS)
    for process in filter(_lives, processes):
        with suppress(psutil.Error):
            process.kill()  # looks again whether it is the same


def _lives(process: Any) -> bool:
    """Whether it has not ended; in a container nobody may ask for the end of one, which then stays as a zombie."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


if __name__ == "__main__":
    _main()
