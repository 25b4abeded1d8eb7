"""Settings that were renamed: files use the current name, signatures the first one, and records on disk may use any.

    class MixingConfig(Config):
        renamed: ClassVar = {"remix_share": "remix_probability"}
        remix_probability: float = 0.0

    first_key(Settings, "mixing.remix_probability")   # "mixing.remix_share"
    current_key(Settings, "mixing.remix_share")       # "mixing.remix_probability"
    with_current_names({"mixing": {"remix_share": 0.5}}, Settings)

So a renamed setting keeps every signature, and what was trained before is found.

    class AlignmentConfig(Config):
        moved: ClassVar = {"pictures": Moved("mixing.shuffle_pictures", "own")}

A setting that another one has taken the place of is left out of records where it has the value that means nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from vimss.choice import all_models_of, models_of


def names_of(kind: type[BaseModel]) -> Mapping[str, str]:
    """Earlier names of the keys of a class of settings, to the current ones."""
    renamed: Mapping[str, str] = getattr(kind, "renamed", {})
    return renamed


class Moved(NamedTuple):
    """A former key, and the setting that has taken its place."""

    to: str
    """Key path of the other setting."""
    default: Any
    """The former default."""


def moved_of(kind: type[BaseModel]) -> Mapping[str, Moved]:
    """Former keys of a class of settings that another setting has taken the place of."""
    moved: Mapping[str, Moved] = getattr(kind, "moved", {})
    return moved


def first_name(kind: type[BaseModel], name: str) -> str:
    """The first name of a key of this class."""
    return next((earlier for earlier, current in names_of(kind).items() if current == name), name)


def first_key(kind: type[BaseModel], key: str) -> str:
    """A key path of settings of `kind`, in first names."""
    return _renamed(kind, key, first_name)


def current_key(kind: type[BaseModel], key: str) -> str:
    """A key path of settings of `kind` that an earlier version wrote, in current names."""
    return _renamed(kind, key, lambda one, name: names_of(one).get(name, name))


def _renamed(kind: type[BaseModel], key: str, rename: Callable[[type[BaseModel], str], str]) -> str:
    kinds, names = [kind], []
    for part in key.split("."):
        names.append(next((new for one in kinds if (new := rename(one, part)) != part), part))
        # A path is given in earlier names or in current ones; fields have the current ones.
        current = {part, *(names_of(one).get(part, part) for one in kinds)}
        fields = [one.model_fields[name] for one in kinds for name in current if name in one.model_fields]
        kinds = [inner for field in fields for inner in all_models_of(field)]
    return ".".join(names)


def with_current_names(content: Mapping[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """Plain settings of `kind` that an earlier version wrote, in current names."""
    moved = moved_of(kind)
    named = {
        names_of(kind).get(name, name): value
        for name, value in content.items()
        if name not in moved or value != moved[name].default
    }
    for name, field in kind.model_fields.items():
        if isinstance(named.get(name), Mapping):
            for inner in models_of(field, named[name]):
                named[name] = with_current_names(named[name], inner)
    return named
