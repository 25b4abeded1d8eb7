"""A process that is told to end by SIGTERM gets to know it, and has some seconds to close its work.

    with termination_requested(grace_seconds=30) as should_stop:
        while not should_stop():
            ...

SIGTERM comes before a preemption, from Kubernetes, Slurm and `ray stop`, and Ray's own handler would end the process at
once. A process that was told stays told, in later blocks too; after the grace period it ends with code 1.
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

_told = threading.Event()
"""Whether this process was told to end."""

_for_main_thread: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()


@contextmanager
def termination_requested(grace_seconds: float) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the process was told to end. SIGTERM is handled so during the block."""
    before: list[Any] = []

    def install() -> None:
        before.append(signal.signal(signal.SIGTERM, lambda number, frame: _told.set()))

    def restore() -> None:
        signal.signal(signal.SIGTERM, before[0])

    if not _in_main_thread(install):
        log.warning("SIGTERM will end this training without a checkpoint: its process cannot handle the signal")
    ended = threading.Event()
    # Made here, since a handler may interrupt the main thread while it holds the locks of the module threading.
    threading.Thread(target=_end_after, args=(grace_seconds, ended), name="SIGTERM", daemon=True).start()
    try:
        yield _told.is_set
    finally:
        ended.set()
        if before:
            _in_main_thread(restore)


def _end_after(grace_seconds: float, ended: threading.Event) -> None:
    """End the process where it was told to end, has had its time and is still in the block."""
    while not _told.wait(1.0):
        if ended.is_set():
            return
    if not ended.wait(grace_seconds):
        log.error("ends %.0f s after SIGTERM, in the middle of its work", grace_seconds)
        os._exit(1)


def _in_main_thread(function: Callable[[], None]) -> bool:
    """Call a function in the main thread, which alone may install handlers; False where it does not come to that.

    Ray runs the functions of Tune and Train in other threads; its main thread polls them, in Python, and so meets what
    is pending for it.
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
"""Kept for good: the interpreter calls it by its address."""
