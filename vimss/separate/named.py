"""Players of a recording whose instruments are named from its pictures, instead of by a person.

    given = InstrumentsFrom("models:/instruments", folder, players=3)
    players, notes = named_players(Path("trio.mp4"), given, model)         # ("vn", "vc", "fl"), and how sure it is

The players are in equal columns of the picture, as for models that look at players. How many there are must be said:
by `players`, or by the number of instruments in the file's metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vimss.errors import ConfigError
from vimss.media import probe
from vimss.model.contexts import Recording
from vimss.model.contexts.recording import check_columns, picture_of, player_pictures
from vimss.namer import Named, load_namer
from vimss.pages.of_recording import LoadedModel
from vimss.shards.instruments import INSTRUMENTS
from vimss.systems import check_takes_labels

RATE = 1.0
"""Pictures per second that are decoded: the namer looks at few, from the whole recording."""


@dataclass(frozen=True)
class InstrumentsFrom:
    """A model that names the players, and their number."""

    name: str
    """As given, such as models:/instruments."""
    folder: Path
    """Of the model."""
    players: int | None = None
    """Columns of the picture; as many as the metadata has instruments where not given."""


def named_players(
    file: Path, given: InstrumentsFrom, model: LoadedModel, allow_truncated: bool = False, *, assigned: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels of the players, left to right, and sentences about them.

    The model must be conditioned on labels, or on what it sees of players. Then, and where its outputs are `assigned`
    to players, the labels are names of stems alone.

    Raises:
        ConfigError: the number of players is not known.
        MediaError: the recording has no picture, or one that is too narrow for the players.
        ModelError: a model of another kind.

    """
    if not assigned and not model.separator.interface.uses_players:
        check_takes_labels(model.separator, model.name)
    namer = load_namer(given.folder, given.name)
    choices = namer.choices(model.separator.labels)
    count = len(probe(file).instruments) if given.players is None else given.players
    if count < 1:
        raise ConfigError(
            f"{file} must say how many players its picture shows: in its metadata, or by --players",
            got="neither",
            fix="add --players with the number of equal columns that the players are in",
        )
    fix = "count the players that are in the picture, or name them with --instruments"
    check_columns(file, count, fix)
    picture = picture_of(namer.card).model_copy(update={"frame_rate": RATE})
    card = {"picture": picture.model_dump()}
    views = player_pictures(Recording(file, ("",) * count, card, allow_truncated))
    named = [namer.name_player(view, choices) for view in views]
    return tuple(one.label for one in named), _sentences(given.name, named)


def _sentences(namer: str, named: Sequence[Named]) -> tuple[str, ...]:
    listed = ", ".join(f"{INSTRUMENTS.get(one.label, one.label)} ({one.probability:.2f})" for one in named)
    unsure = [str(number) for number, one in enumerate(named, start=1) if not one.is_sure]
    players = f"player {unsure[0]}" if len(unsure) == 1 else f"players {', '.join(unsure)}"
    doubt = f"unsure of {players}, counted from the left: name them with --instruments where they are wrong"
    return (f"named from the pictures by {namer}, with probabilities: {listed}", *([doubt] if unsure else []))
