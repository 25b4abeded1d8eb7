"""The registered models in the store's own database; read in milliseconds, without MLflow.

    check_registered(store.tracking / DATABASE, "models:/quickstart@champion")

MLflow itself takes seconds to import, too long to report that a name is misspelt. What it would find wrong beyond that,
it still finds when the model is fetched.
"""

import math
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vimss.errors import ModelError

DATABASE = "mlflow.db"
"""The SQLite file in the store's folder for tracking, used without a server."""

URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


def check_registered(database: Path, model: str) -> None:
    """ModelError where `model` is not models:/NAME, models:/NAME@ALIAS or models:/NAME/VERSION, or there is none."""
    match = URI.match(model) or re.fullmatch(r"models:/(?P<name>[^/@]+)", model)
    if match is None:
        raise not_a_model(model)
    wanted = {"alias": "", "version": ""} | {key: value for key, value in match.groupdict().items() if value}
    try:
        models = _read(database)
    except sqlite3.Error:  # a database of another time, or in use: MLflow handles it
        return
    name = wanted["name"]
    versions, aliases = models.get(name, ([], {}))
    which = wanted["alias"] or wanted["version"]
    if name in models and (not which or which in aliases or which in versions):
        return
    raise no_such_model(name, which or "champion", models)


def has_run(database: Path, given: str) -> bool:
    """Whether a run has this id or name, or is that of this trial."""
    if not database.is_file():
        return False
    asked = (
        "SELECT 1 FROM runs WHERE run_uuid = :given OR name = :given "
        "UNION SELECT 1 FROM tags WHERE key = 'trial' AND value = :given"
    )
    try:
        with closing(_opened(database)) as connection:
            return connection.execute(asked, {"given": given}).fetchone() is not None
    except sqlite3.Error:  # as above
        return True


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created: float
    """Seconds since 1970."""
    scores: Mapping[str, float]
    """By name, without those that are not defined."""
    location: str
    """Where its files are: a path or a URL."""


def registered_versions(database: Path) -> list[RegisteredVersion]:
    """All versions in the store's own database, by model and version; none where there is no database."""
    if not database.is_file():
        return []
    with closing(_opened(database)) as connection:
        aliases: dict[tuple[str, int], list[str]] = {}
        for name, alias, version in connection.execute("SELECT name, alias, version FROM registered_model_aliases"):
            aliases.setdefault((name, int(version)), []).append(alias)
        scores: dict[tuple[str, int], dict[str, float]] = {}
        tags = "SELECT name, version, key, value FROM model_version_tags WHERE key LIKE 'metric.%'"
        for name, version, key, value in connection.execute(tags):
            if math.isfinite(float(value)):
                scores.setdefault((name, int(version)), {})[key.removeprefix("metric.")] = float(value)
        versions = (
            "SELECT name, version, creation_time, storage_location FROM model_versions "
            "WHERE current_stage != 'Deleted_Internal' ORDER BY name, version"
        )
        return [
            RegisteredVersion(
                name=name,
                version=int(version),
                aliases=tuple(sorted(aliases.get((name, int(version)), ()))),
                created=created / 1000,
                scores=scores.get((name, int(version)), {}),
                location=location or "",
            )
            for name, version, created, location in connection.execute(versions)
        ]


def no_such_model(name: str, which: str, models: dict[str, tuple[list[str], dict[str, str]]]) -> ModelError:
    """The error of a name, version or alias that does not exist; `models` are those that do, with both."""
    rule = f"models:/{name} must have a version or alias '{which}'"
    if name not in models:
        none = "run `vimss promote EXPERIMENT` after its search, or `vimss quickstart`: no model is registered"
        fix = f"choose from {', '.join(models)}" if models else none
        return ModelError(rule, got=f"no model '{name}'", fix=fix)
    versions, aliases = models[name]
    given = ", ".join(f"{alias} (version {version})" for alias, version in aliases.items()) or "none"
    return ModelError(
        rule,
        got=f"versions {', '.join(versions) or 'none'}; aliases {given}",
        fix="choose one of these, or promote a version",
    )


def not_a_model(model: str) -> ModelError:
    """The error of what is no name of a registered model."""
    return ModelError(
        "a model is models:/name@alias, models:/name/3 or a folder",
        got=model,
        fix="write for example models:/quickstart@champion",
    )


def _read(database: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name of each registered model to its versions, and to its aliases with their versions."""
    if not database.is_file():
        return {}
    with closing(_opened(database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM registered_models ORDER BY name")]
        found: dict[str, tuple[list[str], dict[str, str]]] = {name: ([], {}) for name in names}
        # A deleted version keeps its row.
        kept = "SELECT name, version FROM model_versions WHERE current_stage != 'Deleted_Internal' ORDER BY version"
        for name, version in connection.execute(kept):
            found[name][0].append(str(version))
        for name, alias, version in connection.execute("SELECT name, alias, version FROM registered_model_aliases"):
            found[name][1][alias] = str(version)
    return found


def _opened(database: Path) -> sqlite3.Connection:
    """To be read alone."""
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
