"""Why a trial ended with an error: lost with its process or node, or failed by itself, and in which words.

error = pickled_error(trial)
was_lost(error), error_message(error, trial)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from vimss.errors import InterruptionError, OutageError, VimssError

LOST = "its process died (killed, or out of memory) or its node is gone"
"""Why a trial was lost, where nothing else is known."""

_LOSSES = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
)
"""Ray's errors for the loss of a process or node."""


def pickled_error(trial: Any) -> BaseException | None:
    """The exception that ended a trial, as Tune keeps it; None where it cannot be pickled or loaded."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes()) if trial.pickled_error_file else None
    except Exception:  # what another process pickled may fail to load in any way; its text is read instead
        return None


def was_lost(error: BaseException | None) -> bool:
    """Whether a process or node was lost, and no error of our own explains it."""
    causes = list(_causes(error))
    ours = any(isinstance(cause, VimssError) for cause in causes)
    return not ours and any(isinstance(cause, _LOSSES) for cause in causes)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether a training stopped on request, after a checkpoint, or because a server did not answer."""
    return any(isinstance(cause, InterruptionError | OutageError) for cause in _causes(error))


def lost_message(reason: str, retries: int, max_retries: int) -> str:
    """The message of a trial that was lost, with what happens next: `retries` times it was started again before."""
    if retries < max_retries:
        return f"{reason}; this search resumes it, retry {retries + 1} of {max_retries}"
    if max_retries:
        again = f"started again {max_retries} time{'s' * (max_retries > 1)} already, max_retries of the place"
        return f"{reason}; {again}: see what ends it in the logs in its folder, then the same command resumes it"
    return f"{reason}; the same command resumes it"


def our_error(error: BaseException) -> VimssError | None:
    """The exception of our own among those that an exception came from: Tune wraps those of its searcher too."""
    return next((cause for cause in _causes(error) if isinstance(cause, VimssError)), None)


def error_message(error: BaseException | None, trial: Any) -> str:
    """The message of the exception that ended a trial, without the tracebacks of the processes it came through."""
    for cause in _causes(error):
        if isinstance(cause, VimssError):
            return str(cause)
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line.partition(": ")[2] for line in lines if line.startswith("vimss.errors.")]
    return (ours or lines or ["unknown"])[-1]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that it came from, through Ray's tasks, Ray Train's workers and their health checks."""
    if error is None:
        return
    # Ray's own wrapper is an instance of what it wraps too, but with a traceback for a message.
    if not isinstance(error, ray.exceptions.RayTaskError):
        yield error
    below = [getattr(error, "cause", None), error.__cause__, getattr(error, "health_check_failure", None)]
    below += list(getattr(error, "worker_failures", {}).values())
    for cause in below:
        if isinstance(cause, BaseException):
            yield from _causes(cause)
