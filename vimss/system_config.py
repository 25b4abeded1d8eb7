"""Rows of an experiment's evaluation that need no training of their own: `systems:` in experiments/*.yaml.

    systems:
      labels named by pictures: {instruments_from: chamber}

A trained separator is used in another way than it was trained in: here one that is conditioned on labels is conditioned
on the instruments that another model names from the pictures of the players.
"""

from pydantic import Field

from vimss.config import Config


class SystemConfig(Config):
    """One row."""

    instruments_from: str = Field(
        description="model of the objective `instruments` that names each player's instrument from pictures: a folder, "
        "models:/NAME with or without alias or version, or chamber, which comes with VIMSS"
    )
    cell: str = Field(
        "",
        description="the cell whose best trial is conditioned on these names; where empty, that of the best of all "
        "searched cells that are conditioned on labels",
    )
