"""Every error that VIMSS raises on purpose.

    VimssError
    ├── ConfigError      a YAML file, a setting or a command line argument is wrong
    ├── DataError        a corpus, a shard or a manifest is missing, broken or contradictory
    ├── MediaError       a sound or video file cannot be read or written
    ├── ModelError       weights, model names or aliases that do not fit
    ├── TrainingError    training cannot continue (a loss that is not finite)
    ├── InterruptionError  training was told to end, and a checkpoint keeps it; not a failure
    ├── StorageError     the disk is full or a path cannot be written
    │   └── OutageError  the server of a URL does not answer, and may answer later
    └── PlaceError       the place where work should run does not exist or does not answer

A message has three parts: what must hold, what was found, what to do about it.

    >>> str(ConfigError("batch_size must be at least 1", got="0", fix="set batch_size: 4"))
    'batch_size must be at least 1; got 0. To fix: set batch_size: 4'
"""


class VimssError(Exception):
    """Base of all errors a user can meet; `rule`, `got` and `fix` are its three parts."""

    def __init__(self, rule: str, *, got: str, fix: str) -> None:
        super().__init__(rule, got, fix)
        self.rule = rule
        self.got = got
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.rule}; got {self.got}. To fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Ray carries exceptions between processes; keyword arguments need help to survive pickling.
        return _rebuild, (type(self), self.rule, self.got, self.fix)


def _rebuild(kind: type[VimssError], rule: str, got: str, fix: str) -> VimssError:
    return kind(rule, got=got, fix=fix)


class ConfigError(VimssError):
    """A YAML file, a setting or a command line argument is wrong."""


class DataError(VimssError):
    """A corpus, a shard or a manifest is missing, broken or contradictory."""


class MediaError(VimssError):
    """A sound or video file cannot be read or written."""


class ModelError(VimssError):
    """Weights, model names or aliases that do not fit."""


class TrainingError(VimssError):
    """Training cannot continue."""


class InterruptionError(VimssError):
    """Training was told to end (SIGTERM, a preemption) and has written a checkpoint: the same command resumes it."""


class StorageError(VimssError):
    """The disk is full or a path cannot be written."""


class OutageError(StorageError):
    """The server of a URL does not answer; it may answer later."""


class PlaceError(VimssError):
    """The place where work should run does not exist or does not answer."""
