"""Whether shards are what their manifest says, to the last member.

for found in check_shards(store.shards / "quickstart-3f9c2a1b07"):
    print(found.shard, found.wrong)
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.runtime import parallel_map
from vimss.shards.manifest import Shard, read_manifest
from vimss.storage import Folder, sha256


@dataclass(frozen=True)
class Found:
    """What is in one shard."""

    shard: str
    size: int
    clips: int
    wrong: tuple[str, ...]
    """Sentences about what is not as it should be."""


@dataclass(frozen=True)
class _Task:
    folder: Folder
    shard: Shard


def check_shards(folder: Folder, on_done: Callable[[Found], None] | None = None) -> list[Found]:
    """Read every shard of a folder, wherever it is; DataError where there is no manifest."""
    return parallel_map(_check_shard, [_Task(folder, shard) for shard in read_manifest(folder).shards], on_done)


def _check_shard(task: _Task) -> Found:
    shard = task.shard
    try:
        with task.folder.copied(shard.name) as path:
            return _check_file(path, shard)
    except FileNotFoundError:
        return Found(shard.name, 0, 0, (f"{shard.name} is missing",))


def _check_file(path: Path, shard: Shard) -> Found:
    size, digest = path.stat().st_size, sha256(path)
    wrong = []
    if size != shard.size:
        wrong.append(f"{shard.name} has {size} bytes instead of {shard.size}")
    if digest != shard.sha256:
        wrong.append(f"{shard.name} has the SHA-256 {digest[:12]}... instead of {shard.sha256[:12]}...")
    try:
        clips = _clips(path)
    except (tarfile.TarError, EOFError) as error:
        return Found(shard.name, size, 0, (*wrong, f"{shard.name} is no whole tar file: {error}"))
    if len(clips) != shard.clips:
        wrong.append(f"{shard.name} holds {len(clips)} clips instead of {shard.clips}")
    for key, members in clips.items():
        wrong += [f"{shard.name}: the clip {key} {what}" for what in _wrong_members(members)]
    return Found(shard.name, size, len(clips), tuple(wrong))


def _clips(path: Path) -> dict[str, dict[str, bytes]]:
    """Key of each clip to its members: the content of JSON, the SHA-256 of all others."""
    clips: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            file = tar.extractfile(member)
            content = file.read() if file else b""
            clips.setdefault(key, {})[name] = content if name == "json" else hashlib.sha256(content).digest()
    return clips


def _wrong_members(members: dict[str, bytes]) -> Iterator[str]:
    there = members.keys() - {"json"}
    try:
        about = json.loads(members["json"])
        digests: dict[str, str] = about["sha256"]
        listed = {*digests, *_listed(about)}
        damaged = [name for name in there & digests.keys() if members[name].hex() != digests[name]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"has no JSON that can be read: {type(error).__name__}: {error}"
        return
    for names, what in ((listed - there, "lacks"), (there - listed, "does not list"), (damaged, "has damaged")):
        if names:
            yield f"{what} {', '.join(sorted(names))}"


def _listed(about: dict[str, Any]) -> Iterator[str]:
    """The members that the players of a clip refer to."""
    for player in about["players"]:
        yield from (player[part] for part in ("audio", "picture", "masks", "boxes", "features") if part in player)
        yield from player.get("annotations", {}).values()
    if "mixture" in about:
        yield about["mixture"]
