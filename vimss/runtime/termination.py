"""SIGTERM as a flag that a training polls: the process has some seconds to write a checkpoint.

    with termination_requested(grace_seconds=30) as should_stop:
        while not should_stop():
            ...

Kubernetes, Slurm and `ray stop` send SIGTERM before a preemption; Ray's own handler would end the process at once. The
flag stays set in later blocks too. A process that is still in the block after the grace period ends with code 1.
"""

import ctypes
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

MAIN_THREAD_SECONDS = 5.0
"""How long the main thread may take to install a handler. Those of Ray's actors took 0.05 s."""

_requested = threading.Event()
"""Set by SIGTERM."""

_for_main_thread: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()


@contextmanager
def termination_requested(grace_seconds: float) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM has come, which it handles during the block."""
    before: list[Any] = []

    def install() -> None:
        before.append(signal.signal(signal.SIGTERM, lambda number, frame: _requested.set()))

    def restore() -> None:
        signal.signal(signal.SIGTERM, before[0])

    if not _in_main_thread(install):
        log.warning("SIGTERM will end this training without a checkpoint: its process cannot handle the signal")
    ended = threading.Event()
    # Started here, because a handler may interrupt the main thread while it holds the locks of the module threading.
    threading.Thread(target=_end_after, args=(grace_seconds, ended), name="SIGTERM", daemon=True).start()
    try:
        yield _requested.is_set
    finally:
        ended.set()
        if before:
            _in_main_thread(restore)


def _end_after(grace_seconds: float, ended: threading.Event) -> None:
    """End the process if it is still in the block when the grace period is over."""
    while not _requested.wait(1.0):
        if ended.is_set():
            return
    if not ended.wait(grace_seconds):
        log.error("ends %.0f s after SIGTERM, in the middle of its work", grace_seconds)
        os._exit(1)


def _in_main_thread(function: Callable[[], None]) -> bool:
    """Call a function in the main thread, which alone may install handlers; False if it is not run in time.

    Ray runs the functions of Tune and Train in other threads, and polls them from its main thread, in Python, where
    pending calls are run.
    """
    if threading.current_thread() is threading.main_thread():
        function()
        return True
    done = threading.Event()

    def call() -> None:
        function()
        done.set()

    _for_main_thread.put(call)
    ctypes.pythonapi.Py_AddPendingCall(_PENDING, None)
    return done.wait(MAIN_THREAD_SECONDS)


def _call_pending(_: int | None) -> int:
    try:
        _for_main_thread.get_nowait()()
    except Exception as error:  # it would be raised wherever the main thread is
        log.warning("SIGTERM cannot be handled: %s", error)
    return 0


_PENDING = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_call_pending)
"""Never freed: the interpreter calls it by its address."""
