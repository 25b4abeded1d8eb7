"""Ctrl-C during a search, and SIGTERM from Slurm, Kubernetes or `ray job stop`.

    with on_first_signal(observer.end):
        tuner.fit()

The first signal calls a function, so that the trainings get to write a checkpoint; the next one ends the block at once.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_first_signal(call: Callable[[], None]) -> Iterator[None]:
    """Call the function at the first signal in the block, and raise KeyboardInterrupt at the next.

    Outside the main thread signals cannot be handled; one that is ignored, as in the background of a shell, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}

    def handle(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.default_int_handler)
        call()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
