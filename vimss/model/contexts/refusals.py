"""Errors about contexts: an array that a model cannot take, and a clip that does not hold what a context needs.

raise misfit("labels as batch x queries x 13", "2x1x4")
"""

from vimss.errors import DataError, ModelError
from vimss.shards.clip import Clip, Player


def misfit(rule: str, got: str) -> ModelError:
    """An array, or nothing, in place of the context that the model takes."""
    return ModelError(f"the model takes {rule}", got=got, fix="see `context` in the model's settings")


def no_view(context: str, needed: str, clip: Clip, player: Player, fix: str) -> DataError:
    """A player of whom a clip does not hold what a context needs."""
    return DataError(
        f"model.context: {context} needs {needed} of every player", got=f"none for {player.part} in {clip.key}", fix=fix
    )


def shape_of(shape: tuple[int, ...]) -> str:
    """As in "2x1x4"."""
    return "x".join(map(str, shape))
