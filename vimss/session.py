"""A session: a place with its store and its tracking, which every function of `vimss.api` needs.

session = open_session("local")            # reading the store, separating: no Ray
with open_session("cluster") as session:   # computing: Ray starts when it is first needed, and stops at the end
    ...
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from vimss.runtime import Place, load_place, open_store, ray_at_hand, set_variables
from vimss.storage import Store
from vimss.track import Tracking


@dataclass(frozen=True)
class Session:
    """A place, its store and its tracking; inside a `with` block also its Ray."""

    place: Place
    store: Store
    tracking: Tracking
    _ray: list[AbstractContextManager[None]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The running Ray of each `with` block that the session is in."""

    def __enter__(self) -> "Session":
        """Make Ray available: started, or connected to, when a function first needs it."""
        ray = ray_at_hand(self.place)
        ray.__enter__()
        self._ray.append(ray)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the Ray that was started here."""
        self._ray.pop().__exit__(kind, error, trace)


def open_session(place: str | Path = "local", shards: str | Path | None = None) -> Session:
    """A session at a place: the name of a folder of platform/, or its path.

    `shards` is the folder or URL of the shards, where it is not the place's or the store's.
    """
    loaded = load_place(place)
    set_variables(loaded)  # shards behind a URL are read before Ray starts
    store = open_store(loaded, shards)
    return Session(loaded, store, Tracking(store, loaded.tracking_uri))
