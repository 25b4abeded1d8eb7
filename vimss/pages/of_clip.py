"""The page of a clip: its players' pictures, its mix and its stems.

pages = write_clip_pages(manifest, Path("store/shows/quickstart"))  # one clip of each split
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vimss.media import INT16_SCALE, encode_video
from vimss.metrics import level_db
from vimss.pages.listening import Page, Track, listening_page
from vimss.shards.clip import Clip, Player
from vimss.shards.manifest import Manifest
from vimss.storage import atomic_write
from vimss.stream.read import read_clips
from vimss.stream.scene import mixture_of


def write_clip_pages(manifest: Manifest, folder: str | Path) -> list[Path]:
    """Write a listening page for the first clip of each split that is not silent; return their paths.

    Raises:
        DataError: damaged shards.

    """
    pages = []
    for split in manifest.splits:
        clips = read_clips(manifest, split, parts=("audio", "picture"))
        clip = next((clip for clip in clips if clip.mixture is not None or any(_sounds(p) for p in clip.players)), None)
        if clip is not None:
            path = Path(folder) / f"{split}.html"
            with atomic_write(path) as temporary:
                temporary.write_text(listening_page(clip_page(clip, split, manifest)), encoding="utf-8")
            pages.append(path)
    return pages


def clip_page(clip: Clip, split: str, manifest: Manifest) -> Page:
    """The page of a clip of a split."""
    mix = mixture_of(clip)
    pieces = sum(piece.split == split for piece in manifest.pieces)
    seconds = sum(shard.seconds for shard in manifest.of_split(split))
    return Page(
        title=f"{manifest.name}: {split}",
        lead=f"One of {manifest.clips(split)} clips: {clip.piece}, from {clip.offset / clip.sample_rate:.1f} s on.",
        tracks=[
            Track("mix", mix, "mix", "as recorded" if clip.mixture is not None else "the sum of the stems"),
            *(_track(player, mix) for player in clip.players if _sounds(player)),
        ],
        sample_rate=clip.sample_rate,
        facts={
            "Players": ", ".join(_name(player) for player in clip.players),
            "Clip": f"{clip.samples / clip.sample_rate:.1f} s at {clip.sample_rate} Hz",
            "Split": f"{pieces} pieces, {seconds / 60:.1f} minutes",
            "Data": manifest.recipe.description,
            "Licence": manifest.recipe.licence,
        },
        video=_video(clip, mix),
    )


def _sounds(player: Player) -> bool:
    return player.audio is not None


def _name(player: Player) -> str:
    return f"{player.part} (rests)" if player.silent else player.part


def _track(player: Player, mix: np.ndarray) -> Track:
    stem = np.asarray(player.audio, np.float32) / np.float32(INT16_SCALE)
    note = f"{level_db(stem, mix):+.1f} dB against the mix"
    return Track(player.part, stem, "reference", f"{note}, {player.timbre}" if player.timbre else note)


def _video(clip: Clip, mix: np.ndarray) -> bytes | None:
    """The players side by side, with the mix; None for a clip without pictures."""
    pictures: list[UInt8[np.ndarray, "v h w 3"]] = []
    for player in clip.players:
        # Players of a video without separate crops share one picture.
        if player.picture is not None and not any(np.array_equal(player.picture, other) for other in pictures):
            pictures.append(player.picture)
    return encode_video(np.concatenate(pictures, axis=2), clip.frame_rate, mix, clip.sample_rate) if pictures else None
