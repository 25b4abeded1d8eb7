"""Recipes: one YAML file per corpus in shards/, as checked settings.

recipe = load_recipe("quickstart")      # shards/quickstart.yaml
recipe = load_recipe("my/recipe.yaml")  # or any path
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vimss.config import Config, load_yaml
from vimss.shards.instruments import INSTRUMENTS
from vimss.yaml_files import check_file_name, find_yaml

SPLITS = ("train", "valid", "promote", "test", "test_unseen_timbres", "test_unseen_style")
"""`valid` steers a search, `promote` decides on champions, `test` makes tables only;
`test_unseen_timbres` has timbres that training never saw, `test_unseen_style` players drawn as training never saw them.
A corpus may lack the last two."""


RECIPES = "shards/*.yaml"
"""Where the recipes lie in a repository."""

_NAME = re.compile(r"(?![.\s])[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+(?<!\s)")
"""The name of a recipe's file: characters that a terminal prints as they are."""

NOT_IN_METRICS = re.compile(r"[^\w\-./: ]")
"""Signs that the name of a metric in MLflow cannot have; `_` stands there for each of them."""


class Picture(Config):
    """How each player's picture is stored."""

    size: int = Field(96, ge=16, le=512, description="side of the square picture of one player, pixels")
    frame_rate: float = Field(12.5, gt=0, le=60, description="pictures per second")


class Expectation(Config):
    """How much a corpus holds when it is whole, so that a download that broke off is noticed before it is used."""

    pieces: int = Field(ge=1, description="number of pieces")
    seconds: float = Field(0.0, ge=0, description="length of all pieces together, seconds; 0 where it is unknown")
    most_missing: float = Field(0.0, ge=0, le=1, description="share that may be missing")


class Recipe(Config):
    """One corpus: where it comes from and how its clips are written."""

    corpus: str = Field(description="reader, a name in vimss.shards.corpora.CORPORA")
    description: str = Field(description="one sentence for people")
    licence: str = Field(description="licence of the data, and its conditions")
    obtain: str = Field(description="how to obtain the data")
    expect: Expectation | None = Field(None, description="what the source holds when it is whole, where that is known")
    most_silent: float = Field(
        0.5, ge=0, le=1, description="share of a piece's players that may play nothing from its beginning to its end"
    )
    odd_mixtures: Literal["list", "refuse"] = Field(
        "list", description="what becomes of pieces whose recorded mix is not nearly the sum of their stems"
    )
    allow_truncated: bool = Field(
        False, description="read truncated files up to where they end, and list them as odd in the manifest"
    )
    labels: tuple[str, ...] = Field(
        tuple(INSTRUMENTS), min_length=1, description="instrument labels, in the order of the outputs"
    )
    sample_rate: int = Field(22050, ge=4000, le=192000, description="audio samples per second")
    channels: Literal[1, 2] = Field(1, description="1 mono, 2 stereo")
    audio_format: Literal["wav", "flac"] = Field(
        "wav", description="WAV reads 3 times faster, FLAC takes half the space"
    )
    clip_seconds: float = Field(30.0, gt=0, le=600, description="longest clip, seconds")
    clips_per_shard: int = Field(8, ge=1, description="clips in one tar file")
    picture: Picture = Picture()
    seed: int = Field(0, ge=0, description="seed of everything that is drawn at random while the corpus is made")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of the reader, checked by it")

    @field_validator("corpus")
    @classmethod
    def _has_a_reader(cls, corpus: str) -> str:
        from vimss.shards.corpora import CORPORA  # readers import recipes

        if corpus not in CORPORA:
            raise ValueError(f"must be one of {', '.join(CORPORA)}")
        return corpus

    @model_validator(mode="after")
    def _labels_are_unique(self) -> "Recipe":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must not repeat")
        metrics: dict[str, str] = {}
        for label in self.labels:
            other = metrics.setdefault(NOT_IN_METRICS.sub("_", label), label)
            if other != label:
                raise ValueError(
                    f"the labels '{other}' and '{label}' must differ in letters, digits or one of '_-./:', since the "
                    "names of their figures in MLflow have _ for all other signs: rename one"
                )
        return self

    @property
    def may_lack_pieces(self) -> bool:
        """Whether the corpus is of use without some of its pieces, such as videos that are gone."""
        return self.expect is not None and self.expect.most_missing > 0

    @property
    def clip_samples(self) -> int:
        """Longest clip in audio samples."""
        return round(self.clip_seconds * self.sample_rate)


def load_recipe(
    name: str | Path, overrides: Sequence[str] = (), seed: int | None = None, minutes: float | None = None
) -> Recipe:
    """The recipe called `name` in shards/, or at that path where it has / or ends in .yaml.

    `overrides` are strings key=value; `seed` and `minutes`, the length of a generated corpus, are shorter forms of two.
    """
    extra = [] if seed is None else [f"seed={seed}"]
    extra += [] if minutes is None else [f"options.minutes={minutes:g}"]
    return load_yaml(recipe_path(name), Recipe, [*extra, *overrides])


def recipe_path(name: str | Path) -> Path:
    """Where the recipe's YAML file lies."""
    return find_yaml(name, RECIPES)


def recipe_name(name: str | Path) -> str:
    """The name of a recipe: its file's name, which becomes part of the name of the folder of its shards."""
    rule = "the name of a recipe's file must consist of letters and signs that are printed, the first of them no dot"
    return check_file_name(recipe_path(name), "recipe", _NAME, rule)
