"""Whether shards match their manifest, to the last member.

for found in check_shards(store.shards / "quickstart-3f9c2a1b07"):
    print(found.shard, found.wrong, found.odd)
"""

import hashlib
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.errors import DataError
from vimss.media import decode_audio
from vimss.runtime import parallel_map
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Shard, read_manifest
from vimss.shards.recipe import Recipe
from vimss.shards.validate import MixAndSum, SilenceCheck
from vimss.storage import Folder, folder_at, sha256


@dataclass(frozen=True)
class ShardReport:
    """The content of one shard."""

    shard: str
    size: int
    clips: int
    wrong: tuple[str, ...]
    """Sentences about what is not as it should be."""
    odd: tuple[str, ...] = ()
    """Sentences about what is whole and should be looked at: mixes that are not the sum of their stems."""


@dataclass(frozen=True)
class _Task:
    folder: Folder
    shard: Shard
    recipe: Recipe


def check_shards(
    folder: Folder | str | Path, on_done: Callable[[ShardReport], None] | None = None
) -> list[ShardReport]:
    """Read every shard of a folder, wherever it is; DataError where there is no manifest."""
    folder = folder_at(str(folder)) if isinstance(folder, str | Path) else folder
    manifest = read_manifest(folder)
    return parallel_map(_check_shard, [_Task(folder, shard, manifest.recipe) for shard in manifest.shards], on_done)


def _check_shard(task: _Task) -> ShardReport:
    shard = task.shard
    try:
        with task.folder.copied(shard.name) as path:
            return _check_file(path, shard, task.recipe)
    except FileNotFoundError:
        return ShardReport(shard.name, 0, 0, (f"{shard.name} is missing",))


def _check_file(path: Path, shard: Shard, recipe: Recipe) -> ShardReport:
    size, digest = path.stat().st_size, sha256(path)
    wrong = []
    if size != shard.size:
        wrong.append(f"{shard.name} has {size} bytes instead of {shard.size}")
    if digest != shard.sha256:
        wrong.append(f"{shard.name} has the SHA-256 {digest[:12]}... instead of {shard.sha256[:12]}...")
    try:
        clips = _clips(path)
    except (tarfile.TarError, EOFError) as error:
        return ShardReport(shard.name, size, 0, (*wrong, f"{shard.name} is no whole tar file: {error}"))
    if len(clips) != shard.clips:
        wrong.append(f"{shard.name} holds {len(clips)} clips instead of {shard.clips}")
    for key, members in clips.items():
        wrong += [f"{shard.name}: the clip {key} {what}" for what in _wrong_members(members)]
    if wrong:
        return ShardReport(shard.name, size, len(clips), tuple(wrong))
    # Only what is whole can be listened to.
    content = _Members()
    for members in _whole_clips(path):
        content.add(members)
    wrong = [f"{shard.name}: {what}" for what in content.wrong(recipe)]
    return ShardReport(shard.name, size, len(clips), tuple(wrong), tuple(content.odd()))


def _clips(path: Path) -> dict[str, dict[str, bytes]]:
    """Key of each clip to its members: the content of JSON, the SHA-256 of all others."""
    clips: dict[str, dict[str, bytes]] = {}
    for key, name, content in _members(path):
        clips.setdefault(key, {})[name] = content if name == "json" else hashlib.sha256(content).digest()
    return clips


def _whole_clips(path: Path) -> Iterator[dict[str, bytes]]:
    """The members of one clip after the other; they follow each other."""
    for _, members in itertools.groupby(_members(path), key=lambda member: member[0]):
        yield {name: content for _, name, content in members}


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key of the clip, name and content of each member."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            file = tar.extractfile(member)
            yield key, name, file.read() if file else b""


class _Members:
    """The same as what was checked when the pieces were written."""

    def __init__(self) -> None:
        self._pieces: dict[str, tuple[SilenceCheck, MixAndSum]] = {}

    def add(self, members: dict[str, bytes]) -> None:
        """The next whole clip."""
        clip = _clip(members)
        for measure in self._pieces.setdefault(clip.piece, (SilenceCheck(), MixAndSum())):
            measure.add(clip)

    def wrong(self, recipe: Recipe) -> Iterator[str]:
        """Sentences about pieces that writing would refuse."""
        for piece, (loudness, _) in self._pieces.items():
            try:
                loudness.check(piece, recipe)
            except DataError as error:
                yield str(error)

    def odd(self) -> Iterator[str]:
        """Sentences about mixes that are not the sum of their stems."""
        for piece, (_, mix) in self._pieces.items():
            yield from mix.oddities(piece)


def _clip(members: dict[str, bytes]) -> Clip:
    """The sound of a clip."""
    about = json.loads(members["json"])
    players = tuple(
        Player(
            player["instrument"],
            player["part"],
            decode_audio(members[player["audio"]])[0] if "audio" in player else None,
            silent=player["silent"],
        )
        for player in about["players"]
    )
    mixture = decode_audio(members[about["mixture"]])[0] if "mixture" in about else None
    return Clip(about["piece"], about["offset"], about["samples"], about["sample_rate"], players, mixture=mixture)


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
        members = ("audio", "picture", "masks", "boxes", "features", "sound_features", "skeleton")
        yield from (player[member] for member in members if member in player)
        yield from player.get("annotations", {}).values()
    if "mixture" in about:
        yield about["mixture"]
