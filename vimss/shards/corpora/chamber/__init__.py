"""The embedded corpus: chamber music from public-domain scores, recorded instrument samples, drawn performers.

    options = Options(minutes=14)
    for piece in pieces(recipe, options, None).pieces:
        for clip in read(piece, recipe, options, None): ...

It is generated on first use and is not a recording of people. A piece is made in these steps, one module each:

    catalogue   which works belong to which split: by opus, and by tune among Bach's chorales
    casting     pieces, splits, instruments: a deck of 13 instruments dealt without replacement
    score       a stretch of a score (music21's files, read without importing music21)
    arrange     any part for any instrument, moved by octaves into its range; tempo; silent passages
    sound       one stem per player from a sound bank: patch, shifted samples, equaliser, room, level
    motion      the same tones as movements: bow, fingers, slide, breath, sway
    styles      in which proportions, palettes, postures, props and camera a player is drawn
    drawing     figure and postures of the 13 instruments, light, camera; with masks, boxes and skeletons
    skeleton    the joints of a drawn player, and their order
    make        all of these for one piece, cut into clips

The split test_unseen_timbres has sounds that are not in training: other patches if the bank has them, samples shifted
by 4 or 5 semitones, another tilt of the equaliser, a larger room; or, with `unseen_bank`, another bank altogether.
Without it the bank is the same, and five instruments (bn, cl, db, tba, tbn) have no second patch: the split then tests
a change of timbre within one bank only.

The split test_unseen_style, of `unseen_style_minutes`, is of works that no other split has. Its players have
proportions, palettes, postures, props and cameras that no other split has (see `styles`); they sound as in test.

All random numbers of a piece depend only on the recipe's seed and the piece's name, so its bytes do not depend on the
number of processes or the order of reading.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vimss.config import Config
from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip
from vimss.shards.corpora import Listing, Piece
from vimss.shards.corpora.chamber.casting import MOST_PLAYERS, Casting, make_plan
from vimss.shards.instruments import INSTRUMENTS
from vimss.shards.recipe import Recipe

VERSION = 2
"""Increased when the output for the same settings changes, so that shards are written anew."""


class Options(Config):
    """Settings of the chamber corpus."""

    renamed: ClassVar = {"unheard_bank": "unseen_bank"}

    minutes: float = Field(60.0, ge=1, le=3000, description="music in all splits together, minutes")
    piece_seconds: float = Field(30.0, ge=3, le=300, description="longest piece, one stretch of a score, seconds")
    scores: Literal["all", "chorales"] = Field(
        "all",
        description="chorales: Bach's alone, whose voices move together and rarely leave their register; but for "
        "test_unseen_style, which has quartets, since other splits have all the chorales",
    )
    doubles: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the pieces that are duets of two equal instruments, whose players only a picture tells "
        "apart. Besides, in corpora of 30 minutes and more one of five duets and trios gets a second player of one "
        "instrument",
    )
    notes_per_second: tuple[float, float] = Field(
        (1.2, 3.0), description="range of the note rate of one part; the tempo of each piece is chosen for a rate in it"
    )
    register_semitones: float = Field(
        12.0,
        gt=0,
        description="standard deviation of a melody's distance from the middle of its instrument's range; a small one "
        "keeps players apart, a large one spreads them over their whole ranges",
    )
    variety: float = Field(
        1.0,
        ge=0,
        le=1,
        description="of the sounds in all splits but test_unseen_timbres: probability of another patch than an "
        "instrument's plain one, and strength of the equalisers",
    )
    banks: tuple[Path, ...] = Field(
        (),
        description="more General MIDI sound banks (.sf2), used as often as TimGM6mb in all splits but "
        "test_unseen_timbres",
    )
    styles: int = Field(
        1,
        ge=1,
        le=100_000,
        description="drawing styles of all splits but test_unseen_style; each player has one of them at random",
    )
    unseen_style_minutes: float = Field(
        0.0,
        ge=0,
        le=3000,
        description="music in the split test_unseen_style, minutes, beside those of `minutes`; 0: there is no such "
        "split",
    )
    notes: bool = Field(False, description="store the notes of each player too, for the baseline that is told them")
    unseen_bank: Path | None = Field(
        None,
        description="a General MIDI sound bank (.sf2) for test_unseen_timbres; none: patches of TimGM6mb that no other "
        "split uses",
    )

    @model_validator(mode="after")
    def _unseen_bank_is_not_in_training(self) -> "Options":
        if self.unseen_bank in self.banks:
            raise ValueError("unseen_bank must not stand in banks, or training would have its sounds")
        return self


def pieces(recipe: Recipe, options: Options, source: Path | None) -> Listing:
    """All pieces of the corpus, split by split; ConfigError if the recipe lacks labels or there is a source."""
    _check(recipe, source)
    return Listing(
        tuple(
            Piece(casting.name, casting.split, casting.composition, casting.seconds)
            for casting in _plan(recipe, options).values()
        )
    )


def read(piece: Piece, recipe: Recipe, options: Options, source: Path | None) -> Iterator[Clip]:
    """Make one piece and yield its clips, each at most `recipe.clip_seconds` long; DataError for an unknown piece."""
    _check(recipe, source)
    casting = _plan(recipe, options).get(piece.name)
    if casting is None:
        raise DataError(
            "a piece must be one of those that `pieces` lists for the same recipe",
            got=repr(piece.name),
            fix="use the same seed, minutes and piece_seconds",
        )
    # Imported here, so that `pieces` takes milliseconds: listing a corpus needs neither synthesiser nor drawing.
    from vimss.shards.corpora.chamber.arrange import Style
    from vimss.shards.corpora.chamber.make import cut, make
    from vimss.shards.corpora.chamber.sound import default_bank

    banks = (default_bank(), *options.banks)
    if casting.split == "test_unseen_timbres":
        banks = (options.unseen_bank or default_bank(),)
    style = Style(options.notes_per_second, options.register_semitones, options.variety)
    yield from cut(casting, make(casting, recipe, banks, style, options.styles), recipe, notes=options.notes)


def _plan(recipe: Recipe, options: Options) -> dict[str, Casting]:
    return make_plan(
        recipe.seed,
        options.minutes,
        options.piece_seconds,
        options.scores == "chorales",
        recipe.labels,
        options.doubles,
        options.unseen_style_minutes,
    )


def _check(recipe: Recipe, source: Path | None) -> None:
    unknown = [label for label in recipe.labels if label not in INSTRUMENTS]
    if unknown or len(recipe.labels) < MOST_PLAYERS:
        raise ConfigError(
            f"labels: the chamber corpus needs at least {MOST_PLAYERS} of {', '.join(INSTRUMENTS)}",
            got=", ".join(recipe.labels),
            fix="choose among them, or remove `labels` to use all",
        )
    if source is not None:
        raise ConfigError("the chamber corpus is generated", got=f"the source folder {source}", fix="remove the source")
