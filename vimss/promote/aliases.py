"""Which version is the champion: the aliases in the registry, moved by one process at a time.

settle(tracking, "quickstart", 3, champion_to_beat(tracking, "quickstart", 3), decision)
rollback(tracking, "quickstart")
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vimss.errors import ModelError
from vimss.promote.decision import Decision
from vimss.storage import explain_os_errors
from vimss.track import Tracking, find_alias, find_version, newest_version, set_alias, tag_version

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases of the version in use and of the one that it replaced."""

FORCED_TAG = "promotion_forced"
"""Tag of a version that became the champion whatever the decision was: why."""


def champion_to_beat(tracking: Tracking, name: str, version: int | None) -> int | None:
    """The champion's version; for the champion itself the one that it replaced, so that a second
    call gives the same result. `version` is the challenger's, where it is registered.
    """
    for alias in (CHAMPION, PREVIOUS):
        holder = find_alias(tracking, name, alias)
        if holder is not None and holder.version != version:
            return holder.version
    return None


def count_challenger(tracking: Tracking, name: str, champion: int, shards: str, challenger: str) -> int:
    """Which challenger of a champion on the split `promote` of some shards this one is, from 1; the same when asked
    again.

    Each has a tag on the champion's version. `shards` and `challenger` are digests.
    """
    prefix = f"challenger_{shards[:12]}_"
    own = f"{prefix}{challenger[:12]}"
    with _one_at_a_time(tracking):
        tags = find_version(tracking, name, str(champion)).tags
        counted = {key: value for key, value in tags.items() if key.startswith(prefix)}
        if own in counted:
            return int(counted[own])
        number = len(counted) + 1
        tag_version(tracking, name, champion, {own: str(number)})
    return number


def settle(
    tracking: Tracking, name: str, version: int, incumbent: int | None, decision: Decision, forced: str = ""
) -> bool:
    """Carry out a decision against `incumbent` if that is still what `champion_to_beat` gives; see `promote`.

    Of two promotions at once on one store, the first wins. Stores that share a tracking server share no lock: there
    both may pass, if they end within the same fraction of a second.

    Raises:
        ModelError: Another version became the champion meanwhile.

    """
    with _one_at_a_time(tracking):
        now = champion_to_beat(tracking, name, version)
        if now != incumbent:
            before = "no champion" if incumbent is None else f"version {incumbent}"
            raise ModelError(
                f"version {version} of '{name}' was compared with {before}, which must not change meanwhile",
                got="no champion" if now is None else f"version {now} as the champion",
                fix="run the same command again: it compares with what there is now",
            )
        return promote(tracking, name, version, decision, forced)


def promote(tracking: Tracking, name: str, version: int, decision: Decision, forced: str = "") -> bool:
    """Carry out a decision; the same call again changes nothing.

    A promoted version gets the alias `champion` and the one before it `previous`; a refused one keeps the reason as a
    tag. With `forced`, a reason that becomes a tag, the version is promoted whatever the decision is. True where the
    version is the champion now.

    Raises:
        ModelError: There is no such version.
        PlaceError: MLflow does not answer.

    """
    challenger = find_version(tracking, name, str(version))
    tags = {"promotion": decision.sentence}
    if decision.promoted:
        suffix = f"_{decision.unit.lower()}" if decision.unit else ""
        tags |= {
            f"promoted_gain{suffix}": f"{decision.gain:.3f}",
            f"promoted_interval{suffix}": f"{decision.low:.3f} to {decision.high:.3f}",
            "promoted_against": decision.against,
        }
    if forced:
        tags[FORCED_TAG] = forced
    tag_version(tracking, name, version, tags)
    champion = find_alias(tracking, name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return True
    if not decision.promoted and not forced:
        return False
    # The old champion gets its new alias first: killed in between, the same call finishes the work.
    if champion is not None:
        set_alias(tracking, name, PREVIOUS, champion.version)
    set_alias(tracking, name, CHAMPION, version)
    return True


def rollback(tracking: Tracking, name: str) -> tuple[int, int]:
    """Make the version with the alias `previous` the champion again, and the champion the previous one.

    Returns the versions of the new and of the old champion. Killed between the two, the champion is the right one.

    Raises:
        ModelError: There is no champion, or none before it.
        PlaceError: MLflow does not answer.

    """
    with _one_at_a_time(tracking):
        old = find_version(tracking, name, CHAMPION).version
        new = find_alias(tracking, name, PREVIOUS)
        if new is None or new.version == old:
            raise ModelError(
                f"a rollback of '{name}' needs the champion before this one, with the alias '{PREVIOUS}'",
                got=f"version {old} as the champion, and none before it",
                fix=f"keep it, or promote another version: vimss promote {name} --force --why TEXT",
            )
        set_alias(tracking, name, CHAMPION, new.version)
        set_alias(tracking, name, PREVIOUS, old)
        reason = f"on {time.strftime('%Y-%m-%d %H:%M:%S')}: version {new.version} is the champion again"
        tag_version(tracking, name, old, {"rolled_back": reason})
    return new.version, old


@contextmanager
def _one_at_a_time(tracking: Tracking) -> Iterator[None]:
    """Let one process of this store at a time move aliases."""
    tracking.make()
    with explain_os_errors(tracking.folder):
        file = (tracking.folder / "promotion.lock").open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def resolve_model(tracking: Tracking, model: str, note: Callable[[str], None] = lambda sentence: None) -> str:
    """`models:/NAME` with the alias of its champion, or else with its newest version, which `note` reports.

    A folder, or a name with an alias or a version, stays as it is.
    """
    name = model.removeprefix("models:/")
    if name == model or set(name) & set("@/"):
        return model
    newest = newest_version(tracking, name)
    if newest is None or find_alias(tracking, name, CHAMPION) is not None:
        return f"{model}@{CHAMPION}"
    note(f"no version of '{name}' is the champion: its newest is used, version {newest}")
    return f"{model}/{newest}"
