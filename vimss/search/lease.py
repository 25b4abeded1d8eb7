"""The lock of a study at s3:// as a lease: an object that its holder renews, and that others take when it does not.

    with leased(home, "process 12 on ida"):
        search(...)
        check_lease(home)      # StorageError where it was lost

S3 has no locks that end with their process, but it writes an object on the condition that there is none, or that it is
still the one that was read: of two that try at once, one succeeds. Clocks of two machines are not compared for that:
who wants the study waits to see whether the lease is renewed. `is_leased`, which only says what pages show, does
compare them.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vimss.errors import OutageError, StorageError
from vimss.storage import RemoteFolder

log = logging.getLogger(__name__)

LEASE = "lease.txt"
"""Object in the folder of a study: who searches it, a token of its own, and how often it was renewed.

It is empty where nobody does: S3 writes objects on a condition, but not every server removes them on one.
"""

RENEW_SECONDS = 10.0
LEASE_SECONDS = 45.0
"""A lease that is not renewed for so long is taken: its holder has died, perhaps with its machine."""

LOOK_SECONDS = 1.0

_held: dict[RemoteFolder, "_Lease"] = {}
"""The leases of this process."""


@contextmanager
def leased(home: RemoteFolder, owner: str, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the study at `home` for the block.

    Where another process holds it: StorageError that names that process; with `on_wait`, which is called with its name,
    wait until it has ended instead. One that has died is waited for LEASE_SECONDS. StorageError too where the bucket
    does not exist or cannot be written to.
    """
    lease = _Lease(home, owner)
    lease.take(on_wait)
    thread = threading.Thread(target=lease.renew, name="lease", daemon=True)
    thread.start()
    _held[home] = lease
    try:
        yield
    finally:
        del _held[home]
        lease.ended.set()
        thread.join()
        lease.release()


def check_lease(home: RemoteFolder) -> None:
    """StorageError where this process had the lease of a study and another one has taken it."""
    if home in _held and _held[home].taken_by:
        raise StorageError(
            f"this process must hold the study {home.name} while it searches it",
            got=f"{_held[home].taken_by} took it, as it had not been renewed for {LEASE_SECONDS:.0f} s",
            fix="wait until that one has ended; the same command then resumes from there",
        )


def check_renewed(home: RemoteFolder) -> None:
    """OutageError where another process may have taken the lease of this one: before anything is written there.

    Unlike after `check_lease` a search may go on, since the lease may be renewed yet.
    """
    check_lease(home)
    if home in _held and time.time() - _held[home].renewed > LEASE_SECONDS:
        raise OutageError(
            f"the lease of {home.name} must be renewed before its study is written",
            got=f"no renewal for {time.time() - _held[home].renewed:.0f} s",
            fix="check the network; the same command uploads what is here, unless another process has searched on",
        )


def is_leased(home: RemoteFolder) -> bool:
    """Whether the lease of a study was renewed recently, so that a process is probably searching it.

    That is the bucket's time: a clock here that is LEASE_SECONDS wrong makes the answer wrong.
    """
    found = home.version(LEASE)
    return found is not None and time.time() - found[1] < LEASE_SECONDS and bool(_lines(home))


def _lines(home: RemoteFolder) -> list[str]:
    """The lines of a lease; none where there is no lease, or where it was given back."""
    try:
        return home.read_bytes(LEASE).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


class _Lease:
    def __init__(self, home: RemoteFolder, owner: str) -> None:
        self.home = home
        self.owner = owner
        self.token = uuid.uuid4().hex
        self.tag = ""
        """The ETag of the object as it was last written here."""
        self.renewals = 0
        self.renewed = 0.0
        """When it was written last, in seconds since 1970: a clock that goes on while the machine sleeps."""
        self.taken_by = ""
        """Another process that has taken the lease meanwhile."""
        self.ended = threading.Event()

    def take(self, on_wait: Callable[[str], None] | None) -> None:
        """Take the lease, or raise as `leased` says."""
        has_waited = False
        while True:
            tag = self._tag()
            is_held = bool(_lines(self.home))
            if is_held and not has_waited:
                log.warning(
                    "%s has %s: waiting up to %.0f s to see whether it lives", self._holder(), self.home, LEASE_SECONDS
                )
            if is_held and self._is_renewed(tag):
                holder = self._holder()
                if on_wait is None:
                    raise StorageError(
                        f"one process at a time may search the study {self.home.name}",
                        got=f"{holder}, which searches it now",
                        fix="wait until it has ended, or give --wait; the same command then resumes from there",
                    )
                if not has_waited:
                    on_wait(holder)
                    has_waited = True
            elif self._write(tag):
                return

    def renew(self) -> None:
        """Renew the lease until the end; what fails is tried again, and who took it meanwhile is noted."""
        while not self.ended.wait(RENEW_SECONDS) and not self.taken_by:
            try:
                # Where the answer to the last renewal was lost, the lease is ours with another tag.
                if not self._write(self.tag):
                    tag = self._own_tag()
                    if not tag or not self._write(tag):
                        self.taken_by = self._holder()
            except StorageError as error:
                log.warning("the lease could not be renewed, which is tried again: %s", error)

    def release(self) -> None:
        """Empty the lease where it is still ours; one that stays is taken after LEASE_SECONDS."""
        try:
            if not self.taken_by and not self.home.write_if(LEASE, b"", self.tag):
                tag = self._own_tag()
                if tag:
                    self.home.write_if(LEASE, b"", tag)
        except StorageError as error:
            log.warning("the lease could not be given back, and ends after %.0f s: %s", LEASE_SECONDS, error)

    def _is_renewed(self, tag: str) -> bool:
        """Whether a lease changes while we wait, because its holder lives."""
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            if self._tag() != tag:
                return bool(_lines(self.home))
        return False

    def _write(self, tag: str) -> bool:
        """Write the lease where it still has that tag, or where there is none if the tag is empty."""
        self.renewals += 1
        now = time.time()
        written = self.home.write_if(LEASE, f"{self.owner}\n{self.token}\n{self.renewals}\n".encode(), tag)
        if written:
            self.tag, self.renewed = written, now
        return bool(written)

    def _tag(self) -> str:
        """The ETag of the lease that there is; empty without one."""
        found = self.home.version(LEASE)
        return "" if found is None else found[0]

    def _own_tag(self) -> str:
        """The ETag of the lease where it is ours; empty where it is not.

        It is read before the content: where another process takes the lease in between, it is no longer that tag's.
        """
        tag = self._tag()
        return tag if self.token in _lines(self.home) else ""

    def _holder(self) -> str:
        return next(iter(_lines(self.home)), "another process")
