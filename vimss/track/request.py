"""What a request to a served model may hold beside arrays: the rate of its sound, and a recording in place of them.

    with refusals():
        rate = rate_of(params, 8000)
        source = recording_of(params)               # bytes, or a Path below VIMSS_SERVED_FOLDER, where one is given
        sound = read_sound(source, rate, channels)  # Float32 "c t"

Anyone who can reach the server can send anything. So a recording is bounded before it is decoded and meanwhile, and a
path is refused unless it leads into the one folder that the server's environment names: no request reads another file.
"""

import base64
import binascii
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from mlflow.exceptions import BAD_REQUEST, MlflowException

from vimss.errors import ConfigError, MediaError, VimssError
from vimss.media import audio_blocks

FOLDER = "VIMSS_SERVED_FOLDER"
"""Variable of the server's environment: the folder of the recordings that requests may name by path."""

MOST_BYTES = 64 * 2**20
"""Largest recording of a request, bytes."""

MOST_SECONDS = 600
"""Longest sound of a recording, seconds."""

EXAMPLE = "example"
"""The array that shows each player alone, which no recording of all of them can: a request has both."""

RATES = (1000, 384_000)
"""Least and greatest rate of a request's sound, Hz: resampling between them multiplies its length by less than 400."""


@contextmanager
def refusals() -> Iterator[None]:
    """Make our errors MLflow's, whose server answers them with the status 400 and the message."""
    try:
        yield
    except VimssError as error:
        raise MlflowException(str(error), error_code=BAD_REQUEST) from error


def rate_of(params: Mapping[str, Any], own: int) -> int:
    """`sample_rate` of a request in Hz, `own` where it is 0; ConfigError where no sound has that rate."""
    rate = int(params.get("sample_rate") or own)
    if not RATES[0] <= rate <= RATES[1]:
        raise ConfigError(
            f"sample_rate must be 0, for the model's, or {RATES[0]} to {RATES[1]} Hz",
            got=str(rate),
            fix="give the rate of the mixture",
        )
    return rate


def recording_of(params: Mapping[str, Any]) -> bytes | Path | None:
    """The recording of a request, where it has one: `media`, base64, or `path`, relative to the server's folder.

    Raises:
        ConfigError: both, a path that leads elsewhere, or a server without a folder.
        MediaError: no base64, or more than MOST_BYTES.

    """
    media, path = str(params.get("media") or ""), str(params.get("path") or "")
    if media and path:
        raise ConfigError("a request has media or a path", got="both", fix="leave one out")
    if media:
        return _decoded(media)
    return _served_path(path) if path else None


def _decoded(media: str) -> bytes:
    if len(media) > MOST_BYTES * 4 // 3 + 4:
        raise _too_large(len(media) * 3 // 4)
    try:
        return base64.b64decode(media, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(
            "media must be the bytes of a file as base64", got=str(error), fix="send base64.b64encode(data).decode()"
        ) from error


def _served_path(name: str) -> Path:
    root = os.environ.get(FOLDER, "")
    if not root:
        raise ConfigError(
            f"a path needs a server with a folder of recordings, in {FOLDER}",
            got="none",
            fix="send the file itself, base64, as media",
        )
    folder = Path(root).resolve()
    try:
        path = (folder / name).resolve()  # where its links lead
        size = path.stat().st_size if path.is_file() else 0
    except (OSError, RuntimeError, ValueError):  # too long a name, links in a circle, a NUL
        path, size = folder, 0
    if path == folder or not path.is_relative_to(folder):
        raise ConfigError(
            "a path must lead to a recording in the server's folder",
            got=repr(name),
            fix="name it as in duets/one.wav",
        )
    if size > MOST_BYTES:
        raise _too_large(size)
    return path


def _too_large(size: int) -> MediaError:
    return MediaError(
        f"a recording must have at most {MOST_BYTES >> 20} MB",
        got=f"{size / 2**20:.0f} MB",
        fix="compress it, for example as FLAC, or cut it into parts",
    )


def read_sound(source: bytes | Path, sample_rate: int, channels: int) -> Float32[np.ndarray, "c t"]:
    """The sound of a recording at a rate; MediaError where it cannot be read or is longer than MOST_SECONDS."""
    blocks: list[Float32[np.ndarray, "c n"]] = []
    samples = 0
    for block in audio_blocks(source, sample_rate, channels):
        samples += block.shape[1]
        # A small file may hold hours of silence.
        if samples > MOST_SECONDS * sample_rate:
            raise MediaError(
                f"a recording must be at most {MOST_SECONDS} s long",
                got="a longer one",
                fix="cut it into parts, or separate it with `vimss separate`",
            )
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def check_arrays(arrays: Mapping[str, np.ndarray], source: bytes | Path | None = None) -> None:
    """ConfigError where arrays are empty, hold a number that is not finite, or stand beside a recording.

    MLflow demands all arrays of a signature, so beside a recording there are blank ones: zeros, of any size.
    """
    for name, array in arrays.items():
        got = ""
        if source is not None:
            got = "other numbers" if array.any() else ""
            rule = f"{name} must be zeros beside media or a path, which it would contradict"
            fix = f"send {name} without a recording, or as zeros"
        elif not array.size:
            rule, got, fix = f"{name} must hold something", f"the shape {array.shape}", "send it, or a recording"
        elif not np.isfinite(array).all():
            rule, got, fix = f"{name} must hold finite numbers", "NaN or infinity", "repair it"
        if got:
            raise ConfigError(rule, got=got, fix=fix)


def check_examples(rows: np.ndarray, labels: Sequence[str]) -> None:
    """ConfigError unless each row of "b p 1 d" names one label and a player sounds in the samples behind."""
    named, sound = rows[..., : len(labels)], rows[..., len(labels) :]
    if not ((np.count_nonzero(named, axis=-1) == 1) & (named.max(-1) == 1) & sound.any(-1)).all():
        raise ConfigError(
            f"each row of {EXAMPLE} must be 1 for one of the labels {', '.join(labels)} and 0 for the others, then the "
            "samples of that player alone",
            got=f"other numbers, in the shape {rows.shape}",
            fix="send a row for each player, as vimss/track/served_model.py says",
        )
