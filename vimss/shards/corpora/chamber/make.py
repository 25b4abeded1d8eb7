"""One piece from its casting: arranged, performed, drawn, and cut into clips.

seats = make(casting, recipe, banks=(default_bank(),))
clips = list(cut(casting, seats, recipe))
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int16

from vimss.shards.clip import NOTES, Clip, Player
from vimss.shards.corpora import cut_piece
from vimss.shards.corpora.chamber.arrange import Style, Tone, arrange
from vimss.shards.corpora.chamber.casting import UNSEEN_STYLE, Casting, generator
from vimss.shards.corpora.chamber.drawing import Film, draw
from vimss.shards.corpora.chamber.motion import move
from vimss.shards.corpora.chamber.sound import choose_timbre, perform
from vimss.shards.corpora.chamber.styles import style_of
from vimss.shards.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Seat:
    """One player of a piece, from its beginning to its end."""

    instrument: str
    film: Film
    stem: Int16[np.ndarray, "c t"] | None
    timbre: str
    tones: tuple[Tone, ...]


def make(casting: Casting, recipe: Recipe, banks: tuple[Path, ...], style: Style, styles: int = 1) -> list[Seat]:
    """Sound and picture of a whole piece; sounds are drawn from `banks`, and players in one of so many styles."""

    def film(number: int, instrument: str, tones: tuple[Tone, ...]) -> Film:
        rng = generator(recipe.seed, "picture", casting.name, number)
        frames = max(1, round(casting.seconds * recipe.picture.frame_rate))
        drawn = style_of(recipe.seed, casting.name, number, styles, casting.split == UNSEEN_STYLE)
        return draw(instrument, move(tones, frames, recipe.picture.frame_rate, rng), recipe.picture.size, rng, drawn)

    parts = arrange(casting, recipe.seed, style)
    rng = generator(recipe.seed, "sound", casting.name)
    unseen = casting.split == "test_unseen_timbres"
    # Unseen timbres differ from training as much in an easy corpus as in a hard one.
    variety = 1.0 if unseen else style.variety
    timbres = [choose_timbre(rng, instrument, banks, unseen, variety) for instrument in casting.instruments]
    samples = round(casting.seconds * recipe.sample_rate)
    stems = perform(timbres, parts, samples, recipe.sample_rate, recipe.channels, rng, variety)
    seats = [
        Seat(instrument, film(number, instrument, tones), stem, str(timbre), tones)
        for number, (instrument, tones, stem, timbre) in enumerate(
            zip(casting.instruments, parts, stems, timbres, strict=True)
        )
    ]
    if casting.resting is not None:
        seats.append(Seat(casting.resting, film(len(seats), casting.resting, ()), None, "", ()))
    return seats


def cut(casting: Casting, seats: list[Seat], recipe: Recipe, *, notes: bool = False) -> Iterator[Clip]:
    """The piece as clips, with the notes of the players if wanted."""
    players = tuple(
        Player(
            instrument=seat.instrument,
            part=f"{place + 1}-{seat.instrument}",
            audio=seat.stem,
            silent=seat.stem is None,
            picture=seat.film.picture,
            masks=seat.film.masks,
            boxes=seat.film.boxes,
            skeleton=seat.film.skeleton,
            timbre=seat.timbre,
            annotations={NOTES: _notes(seat.tones)} if notes else {},
        )
        for place, seat in enumerate(seats)
    )
    samples = round(casting.seconds * recipe.sample_rate)
    yield from cut_piece(Clip(casting.name, 0, samples, recipe.sample_rate, players, recipe.picture.frame_rate), recipe)


def _notes(tones: tuple[Tone, ...]) -> Float64[np.ndarray, "k 3"]:
    rows = [(tone.start, 440 * 2 ** ((tone.pitch - 69) / 12), tone.end - tone.start) for tone in tones]
    return np.array(rows, np.float64).reshape(-1, 3)
