"""A recording in; one WAV per label and a page to look at and listen to out.

    separated = separate(Path("quartet.mp4"), model_folder, Path("stems/quartet"), instruments="vn,vn,va,vc")
    separated.stems["vn"]  # both violins; a model that hears labels cannot tell them apart
    separated.page

Labels come from `instruments`, else from the file's metadata (`comment`: `instruments=vn,va,vc`). A model that looks at
players takes the picture as equal columns, one per player, left to right in that order. Stems of players with the same
label are added. The folder is complete or absent, and memory does not grow with the number of stems.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from vimss.errors import ConfigError, MediaError, ModelError
from vimss.media import encode_video, fitting_gain, probe, read_audio, read_video, write_wav
from vimss.metrics import CONVENTIONS, bss_eval_v4, si_sdr_improvement
from vimss.model import apply
from vimss.model.separator import Separator, load_separator, read_card
from vimss.page import PAGE_SECONDS, Page, Table, Track, listening_page
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import Picture
from vimss.storage import publish

PAGE = "page.html"
RECORD = "separated.json"
"""Says what was separated by which model; a folder that has it may be replaced by a later run."""
VIDEO_HEIGHT = 240
VIDEO_WIDTH = 1280
VIDEO_FRAME_RATE = 12.5
"""Of the video on the page, which shows who plays and need not be large."""


@dataclass(frozen=True)
class Separated:
    """Files that were written, and scores where there were references."""

    stems: dict[str, Path]
    """Label to WAV; slot_1, slot_2 ... where the model's outputs have no labels."""
    page: Path
    scores: dict[str, float]
    """Label to SI-SDR improvement in dB, for the labels that have a reference."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Which outputs a model gives for a recording, and what they are called."""

    names: tuple[str, ...]
    """Of the stems, each once, in the order asked for."""
    rows: tuple[tuple[int, str], ...]
    """Output number and the stem that it is added to."""
    context: torch.Tensor | None


def separate(
    file: Path,
    model: Path,
    out: Path,
    instruments: str = "",
    references: Path | None = None,
    say: Callable[[str], None] = lambda news: None,
    *,
    model_name: str = "",
) -> Separated:
    """Separate `file` with the model in the folder `model` into the folder `out`.

    Args:
        file: anything with sound that `vimss.media` reads; with picture, where the model looks at players.
        model: folder with model.json and weights.safetensors.
        out: a new folder, or one that an earlier separation wrote, which is replaced when this one is complete.
        instruments: labels of the players from left to right, as in "vn,va,vc"; the file's metadata where empty.
        references: folder with true stems LABEL.wav, which give scores and can be listened to; no model hears them.
        say: called with news, such as how many seconds of the recording are done.
        model_name: what the page calls the model, as in models:/quickstart/1; the path of its folder where empty.

    Raises:
        ConfigError: no labels, unknown ones, or a folder `out` that holds something else.
        MediaError: a recording or reference that cannot be read.
        ModelError: no model there, or one that does not fit the recording.

    """
    _check_folder(out)
    separator, card = load_separator(model), read_card(model)["card"]
    model_name = model_name or str(model)
    players = _players(instruments, file, separator)
    mixture = read_audio(file, separator.sample_rate, separator.config.channels)
    parts = _parts(separator, players, file, card)
    true = _read_references(references, parts.names, separator, mixture.shape[1]) if references else {}
    with publish(out) as folder:
        folder.mkdir(mode=0o755)
        stems = _separate_into(folder / "stems.tmp", separator, mixture, parts, say)
        gain = fitting_gain(*stems)
        for name, stem in zip(parts.names, stems, strict=True):
            write_wav(folder / f"{name}.wav", stem * np.float32(gain), separator.sample_rate)
        say("scores and page")
        named = dict(zip(parts.names, stems, strict=True))
        tables, notes, scores = _score(mixture, named, true, separator.sample_rate)
        video, seen = _page_video(file)
        page = Page(
            title=file.stem,
            lead=_lead(parts.names, separator),
            tracks=_tracks(file, mixture, named, true, notes),
            sample_rate=separator.sample_rate,
            facts=_facts(file, model_name, card, players, mixture.shape[1] / separator.sample_rate, gain) | seen,
            limits=_limits(separator, card),
            tables=tables,
            video=video,
        )
        (folder / PAGE).write_text(listening_page(page), encoding="utf-8")
        record = {"file": str(file), "model": model_name, "stems": list(parts.names), "gain": gain, "scores": scores}
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        del stems, named
        (folder / "stems.tmp").unlink()
    return Separated({name: out / f"{name}.wav" for name in parts.names}, out / PAGE, scores)


def _check_folder(out: Path) -> None:
    """A folder that someone else filled must not be replaced."""
    if out.exists() and not (out.is_dir() and ((out / RECORD).exists() or not any(out.iterdir()))):
        raise ConfigError(
            f"{out} must be a new folder, or one that `vimss separate` wrote",
            got="something else, which would be lost",
            fix="choose another folder with --out",
        )


def _players(instruments: str, file: Path, separator: Separator) -> tuple[str, ...]:
    """Labels of the players, checked; empty where the model's outputs have no labels."""
    given = tuple(label.strip() for label in instruments.split(",") if label.strip())
    known = ", ".join(separator.labels)
    if separator.config.outputs == "slots":
        if given:
            raise ConfigError(
                "the outputs of this model have no labels",
                got=f"--instruments {instruments}",
                fix="leave --instruments out",
            )
        return ()
    players = given or probe(file).instruments
    if not players:
        raise ConfigError(
            f"{file} must say who plays: in its metadata, or by --instruments",
            got="neither",
            fix=f"add --instruments with some of {known}, separated by commas, left to right as in the picture",
        )
    for label in players:
        if label not in separator.labels:
            near = difflib.get_close_matches(label, separator.labels, n=1)
            by_name = [code for code, name in INSTRUMENTS.items() if name == label.lower() and code in separator.labels]
            hint = f"did you mean '{(by_name or near)[0]}'? " if by_name or near else ""
            raise ConfigError(
                "every instrument must be a label that the model knows",
                got=repr(label),
                fix=f"{hint}choose from {known}",
            )
    return players


def _parts(separator: Separator, players: tuple[str, ...], file: Path, card: Mapping[str, Any]) -> Parts:
    names = tuple(dict.fromkeys(players))
    if not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise ModelError(
            "labels must be words, for they become names of files",
            got=", ".join(names),
            fix="rename the labels of the model",
        )
    config = separator.config
    if config.outputs == "slots":
        names = tuple(f"slot_{number}" for number in range(1, config.slots + 1))
        return Parts(names, tuple(enumerate(names)), None)
    looks = separator.listens and config.context != "labels"
    context = None
    if looks:
        context = _look(separator, len(players), file, card)
    elif separator.listens:
        context = separator.label_context(names)[0]
    if config.outputs == "instruments":
        return Parts(names, tuple((separator.labels.index(name), name) for name in names), context)
    return Parts(names, tuple(enumerate(players if looks else names)), context)


def _look(separator: Separator, players: int, file: Path, card: Mapping[str, Any]) -> torch.Tensor:
    """Pictures "p v h w 3" of the players in equal columns, or their features "p v d"."""
    picture = Picture.model_validate(card.get("picture", {}))
    row = read_video(file, (picture.size, picture.size * players), picture.frame_rate)
    pictures = torch.from_numpy(np.stack(np.split(row, players, axis=2)))
    if separator.config.context == "frames":
        return pictures
    return _features(separator, pictures, card)


def _features(separator: Separator, pictures: torch.Tensor, card: Mapping[str, Any]) -> torch.Tensor:
    """Features "p v d" by the network whose features the model was trained on, as far as its card tells."""
    # Only models that look pay for importing torchvision.
    from vimss.features import weights_digest
    from vimss.model.vision import Vision

    config = separator.config
    if config.vision.feature_size != config.feature_size:
        raise ModelError(
            f"this model needs features of {config.feature_size} numbers per picture",
            got=f"{config.vision.network}, which gives {config.vision.feature_size}",
            fix="train with vision.network set to the network of the features",
        )
    vision = Vision(config.vision).eval()
    name = f"{config.vision.network}-{weights_digest(vision)[:10]}"
    if card.get("features", name) != name or config.vision.weights == "random":
        wanted = f", {card['features']}" if "features" in card else ""
        raise ModelError(
            f"this model needs the vision network of its features{wanted}",
            got=f"{name}, with vision.weights: {config.vision.weights}",
            fix="train with vision.weights set to the file of the network that made the features",
        )
    with torch.inference_mode():
        return vision(pictures[None])[0]


def _separate_into(
    path: Path, separator: Separator, mixture: Float32[np.ndarray, "c t"], parts: Parts, say: Callable[[str], None]
) -> Float32[np.ndarray, "s c t"]:
    """The stems, on disk: of a long recording with many labels they would not fit in memory."""
    shape = (len(parts.names), *mixture.shape)
    stems = np.memmap(path, np.float32, "w+", shape=shape)
    seconds, begin = mixture.shape[1] / separator.sample_rate, 0

    def tell(done: float) -> None:
        say(f"{done:.0f} of {seconds:.0f} s")

    for block in apply.separate(separator, torch.from_numpy(mixture), parts.context, progress=tell):
        end = begin + block.shape[-1]
        if not block.isfinite().all():
            got = f"NaN or infinite values after {begin / separator.sample_rate:.0f} s"
            raise ModelError("a model must give finite samples", got=got, fix="use another version of the model")
        for output, name in parts.rows:
            stems[parts.names.index(name), :, begin:end] += block[output].numpy()
        begin = end
    return stems


def _read_references(
    folder: Path, names: Sequence[str], separator: Separator, samples: int
) -> dict[str, Float32[np.ndarray, "c t"]]:
    """The true stems that there are, cut or padded to the recording."""
    found = {}
    for name in names:
        if (folder / f"{name}.wav").is_file():
            stem = read_audio(folder / f"{name}.wav", separator.sample_rate, separator.config.channels)[:, :samples]
            found[name] = np.pad(stem, ((0, 0), (0, samples - stem.shape[1])))
    if not found:
        wanted = ", ".join(f"{name}.wav" for name in names)
        raise ConfigError(
            f"{folder} must hold true stems named by label", got=f"none of {wanted}", fix="leave --references out"
        )
    return found


def _score(
    mixture: Float32[np.ndarray, "c t"],
    stems: Mapping[str, Float32[np.ndarray, "c t"]],
    true: Mapping[str, Float32[np.ndarray, "c t"]],
    sample_rate: int,
) -> tuple[tuple[Table, ...], dict[str, str], dict[str, float]]:
    """A table, a line per stem, and the improvements; museval only where every stem has its reference."""
    if not true:
        return (), {}, {}
    gains = {name: si_sdr_improvement(mixture, true[name], stems[name], sample_rate) for name in true}
    columns: dict[str, list[float]] = {"SI-SDRi, dB": [gains.get(name, float("nan")) for name in stems]}
    if len(true) == len(stems):
        bss = bss_eval_v4(np.stack([true[name] for name in stems]), np.stack(list(stems.values())), sample_rate)
        columns |= {"SDR, dB": list(bss.sdr), "SIR, dB": list(bss.sir), "SAR, dB": list(bss.sar)}
    rows: list[tuple[str | float, ...]] = [
        (_title(name), *(float(column[row]) for column in columns.values())) for row, name in enumerate(stems)
    ]
    conventions = [f"SI-SDRi: {CONVENTIONS['SI-SDRi']}."]
    if len(columns) > 1:
        conventions.append(f"SDR, SIR, SAR: {CONVENTIONS['SDR, SIR, SAR']}.")
    notes = {
        name: "SI-SDRi " + f"{gain:+.1f} dB".replace("-", "−") for name, gain in gains.items() if np.isfinite(gain)
    }
    scores = {name: gain for name, gain in gains.items() if np.isfinite(gain)}
    return (Table("Scores", ("stem", *columns), tuple(rows), tuple(conventions)),), notes, scores


def _tracks(
    file: Path,
    mixture: Float32[np.ndarray, "c t"],
    stems: Mapping[str, Float32[np.ndarray, "c t"]],
    true: Mapping[str, Float32[np.ndarray, "c t"]],
    notes: Mapping[str, str],
) -> list[Track]:
    tracks = [Track(file.name, mixture, "mix", "the recording as the model hears it")]
    for name, stem in stems.items():
        tracks.append(Track(_title(name), stem, "estimate", notes.get(name, "")))
        if name in true:
            tracks.append(Track(_title(name), true[name], "reference", "the true stem, which no model heard"))
    return tracks


def _title(name: str) -> str:
    return INSTRUMENTS.get(name, name.replace("_", " "))


def _lead(names: Sequence[str], separator: Separator) -> str:
    how = {
        "labels": "was told which instruments play",
        "frames": "looked at the players",
        "features": "looked at the players",
    }
    told = how[separator.config.context] if separator.listens else "was told nothing but the sound"
    count = f"{len(names)} stems" if len(names) > 1 else "One stem"
    return f"{count} from one recording, by a network that {told}."


def _facts(
    file: Path, model_name: str, card: Mapping[str, Any], players: Sequence[str], seconds: float, gain: float
) -> dict[str, str]:
    facts = {"Recording": f"{file.name}, {seconds:.1f} s"}
    if players:
        facts["Players"] = ", ".join(_title(label) for label in players)
    facts["Model"] = model_name
    if "licence" in card:
        facts["Licence"] = str(card["licence"])
    if gain < 1:
        facts["Level"] = f"all stems are turned down by {-20 * np.log10(gain):.1f} dB, so that none clips"
    return facts


def _limits(separator: Separator, card: Mapping[str, Any]) -> list[str]:
    rate, channels = separator.sample_rate, "in stereo" if separator.config.channels == 2 else "in mono"
    known = ", ".join(_title(label) for label in separator.labels)
    trained = f"on {card['data']}" if "data" in card else "on recordings that its card does not name"
    limits = [
        f"It works at {rate / 1000:g} kHz {channels}: the stems hold nothing above {rate / 2000:g} kHz.",
        f"It was trained {trained.rstrip('.')}.",
        "It knows instruments by the timbres it was trained on: the same instrument with another player, room or "
        "microphone is separated worse, sometimes not at all.",
        f"It knows {known}. Whatever else sounds is shared among the stems.",
    ]
    if separator.config.outputs != "slots" and not (separator.listens and separator.config.context != "labels"):
        limits.append("Two players of one instrument stay together in one stem.")
    return limits


def _page_video(file: Path) -> tuple[bytes | None, dict[str, str]]:
    """A small copy of the picture for the page, or the reason why there is none."""
    size = probe(file).size
    if size is None:
        return None, {}
    height = min(VIDEO_HEIGHT, size[0])
    width = min(VIDEO_WIDTH, max(1, round(height * size[1] / size[0])))
    try:
        frames = read_video(file, (height, width), VIDEO_FRAME_RATE, PAGE_SECONDS)
    except MediaError as error:
        # The stems are whole without it.
        return None, {"Video": f"cannot be shown: {error.got}"}
    return encode_video(frames, VIDEO_FRAME_RATE), {}
