"""YAML files to frozen, checked settings and back, and the signature that names them.

    recipe = load_yaml(Path("shards/quickstart.yaml"), Recipe)
    signature(recipe)  # '3f9c2a1b07'

An unknown key is an error that names the nearest legal one. How YAML is read: `vimss.yaml_files`.
"""

import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vimss.choice import choice_of, models_in, models_of
from vimss.errors import ConfigError
from vimss.renamed import Moved, first_name, moved_of, names_of
from vimss.yaml_files import parse_yaml, read_yaml

SIGNATURE_LENGTH = 10


class Config(BaseModel):
    """Base of all settings: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Earlier names of keys to current ones. Files must use the current names; signatures hold the first ones."""
    moved: ClassVar[Mapping[str, Moved]] = {}
    """Former keys to the settings, elsewhere, that have taken their place."""


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Rule:
    """When a setting changes something; the ones that have no rule always do."""

    needs: str
    """In words, after "needs"."""
    depends_on: tuple[str, ...]
    """The settings that decide it: key paths relative to the rule's settings."""
    works: Callable[[Any], bool]
    """Whether it changes something under these settings."""


def load_yaml(path: Path, kind: type[C], overrides: Sequence[str] = (), known: Mapping[str, Any] | None = None) -> C:
    """A YAML file as checked settings; `overrides` are `key.path=value` strings from --set.

    `known` are fields that no file sets, such as its own name.
    """
    content = read_yaml(path)
    for override in overrides:
        _apply_override(content, override)
    taken = sorted(set(known or {}) & set(content))
    if taken:
        raise ConfigError(
            f"{path}: every key must be known",
            got=f"the unknown key '{taken[0]}'",
            fix="remove it: it is not a setting",
        )
    return parse_config({**content, **(known or {})}, kind, str(path))


def parse_config(content: Any, kind: type[C], where: str) -> C:
    """`content` as checked settings of `kind`; ConfigError names file, key path and nearest legal key."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _explain(error, kind, where, content) from error


def signature(*parts: Any) -> str:
    """The first ten hex digits of SHA-256 over the parts as canonical JSON; it names folders and studies.

    Settings count by what differs from their defaults: a default that is spelled out changes nothing, and neither does
    a new setting whose default means "as before". A renamed setting is signed under its first name. Equal values are
    equal however they are written: keys in another order, 30 and 30.0. True is not 1.
    """
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()[:SIGNATURE_LENGTH]


def differences(config: BaseModel) -> dict[str, Any]:
    """The settings that are not the defaults, as plain values by their first names; those without a default always.

    pydantic's own `exclude_defaults` keeps a default that a factory makes, such as an empty dict.
    """
    found: dict[str, Any] = {}
    for key, field in type(config).model_fields.items():
        value, name = getattr(config, key), first_name(type(config), key)
        if field.exclude:
            continue
        if field.is_required():
            found[name] = _plain(value)
            continue
        if field.default is value:
            continue
        # A factory may look at the fields before its own.
        default = field.get_default(call_default_factory=True, validated_data=config.__dict__)
        other_kind = isinstance(value, BaseModel) and type(value) is not type(default)
        if other_kind or _canonical(value) != _canonical(default):
            found[name] = {**_kind(field, value), **_plain(value)} if other_kind else _plain(value)
    return found


def key_paths(kind: type[BaseModel]) -> list[str]:
    """The keys of a class of settings; those of a group, as in `vision.network`, in place of the group."""
    found: list[str] = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            found += [f"{name}.{key}" for key in key_paths(inner)]
        else:
            found.append(name)
    return found


def _kind(field: FieldInfo, value: BaseModel) -> dict[str, Any]:
    """What distinguishes settings of one class from those of another: their own key, or else the name of the class."""
    choice = choice_of(field)
    return {choice.key: getattr(value, choice.key)} if choice else {"class": type(value).__name__}


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=str)


def _plain(value: Any) -> Any:
    """A value as plain JSON; equal values give equal JSON."""
    match value:
        case BaseModel():
            return differences(value)
        case dict():
            return {key: _plain(content) for key, content in value.items()}
        case list() | tuple():
            return [_plain(content) for content in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def parse_loosely(content: Mapping[str, Any], kind: type[C]) -> C:
    """Plain settings of `kind` with each value checked by itself, not against the others; unknown keys are left out.

    For a part of settings that may be complete only with another part. pydantic's ValidationError where a value is
    wrong.
    """
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        choice, inner = choice_of(field), field.annotation
        if name not in content:
            values[name] = field.get_default(call_default_factory=True, validated_data=values)
        elif choice is not None and isinstance(content[name], Mapping):
            values[name] = parse_loosely(content[name], choice.kind_of(content[name]))
        elif isinstance(inner, type) and issubclass(inner, Config) and isinstance(content[name], Mapping):
            values[name] = parse_loosely(content[name], inner)
        else:
            values[name] = _adapter(kind, name).validate_python(content[name])
    made: Any = kind.model_construct(**values)
    return made


@functools.cache
def _adapter(kind: type[Config], name: str) -> Any:
    field = kind.model_fields[name]
    # Its type and limits without its default, which a type of its own cannot have.
    limited: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return TypeAdapter(limited)


def to_json(content: Any) -> str:
    """JSON text for people and scripts; a figure that is not defined is null, since JSON has no NaN."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False, default=str)


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError("--set takes key=value", got=repr(override), fix="write for example --set seed=1")
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(
                f"--set {key}: '{parent}' must be a group of settings", got=repr(content), fix="shorten the key"
            )
    content[last] = parse_yaml(f"value: {value}", f"--set {key}")["value"]


_KINDS_OF_VALUES = {
    "tuple_type": "must be a list, such as [1, 2]",
    **dict.fromkeys(("dict_type", "model_type"), "must be a group of settings, such as {key: value}"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
}
"""In place of pydantic's words, which are Python's: the types of its errors."""


def _explain(error: ValidationError, kind: type[BaseModel], where: str, content: Any) -> ConfigError:
    first = error.errors()[0]
    # pydantic puts the names of union members between the keys; only what stands in the file is of use.
    path = [str(part) for part in first["loc"] if not str(part).endswith(")") and "[" not in str(part)]
    key = ".".join(path)
    more = f" ({error.error_count() - 1} more after it)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        kinds = _kinds_at(kind, path[:-1], content)
        legal = sorted(_legal_keys(kinds))
        renamed = [names_of(kind)[path[-1]] for kind in kinds if path[-1] in names_of(kind)]
        renamed += [moved_of(kind)[path[-1]].to for kind in kinds if path[-1] in moved_of(kind)]
        near = renamed or difflib.get_close_matches(path[-1], legal, n=1)
        fix = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(legal)}"
        elsewhere = _other_home(kind, path, content)
        if elsewhere:
            fix = f"remove it, or choose from {', '.join(legal)}"
        got = f"the unknown key '{key}'{more}{elsewhere}"
        return ConfigError(f"{where}: every key must be known", got=got, fix=fix)
    if first["type"] == "missing":
        return ConfigError(f"{where}: '{key}' must be set", got=f"no such key{more}", fix=f"add '{path[-1]}:'")
    got = repr(first["input"])
    got = got if len(got) <= 80 else got[:77] + "..."
    rule = _KINDS_OF_VALUES.get(first["type"]) or _in_our_words(first["msg"])
    if not key:  # a rule about several settings at the top
        return ConfigError(f"{where}: {rule}", got=f"{got}{more}", fix="correct one of the settings that are named")
    return ConfigError(f"{where}: {key}: {rule}", got=f"{got}{more}", fix=f"correct '{key}'")


def _in_our_words(message: str) -> str:
    """A rule of pydantic as ours are: "must have at least 1 item", without what was found, which follows it.

    >>> _in_our_words("Tuple should have at least 1 item after validation, not 0")
    'must have at least 1 item'
    """
    message = message.removeprefix("Value error, ").partition(" after validation, not ")[0]
    return re.sub(r"^(Input|Tuple|List|Dictionary|String|Value) should ", "must ", message)


def _other_home(kind: type[BaseModel], path: list[str], content: Any) -> str:
    """The other choices that have an unknown key, such as another network of `model`; empty where none has."""
    if len(path) != 2 or path[0] not in kind.model_fields:
        return ""
    choice = choice_of(kind.model_fields[path[0]])
    names = choice.having(path[1]) if choice else []
    if choice is None or not names:
        return ""
    here = getattr(choice.kind_of(content.get(path[0], {})).model_fields[choice.key], "default", choice.default)
    return f", which {choice.key}: {' or '.join(names)} has, and {choice.key}: {here} has not"


def _kinds_at(kind: Any, path: list[str], content: Any) -> list[type[BaseModel]]:
    """The settings classes at `path` below the class `kind`, looking through unions and containers."""
    kinds = list(models_in(kind))
    for part in path:
        content = content.get(part, {}) if isinstance(content, Mapping) else {}
        kinds = [
            model
            for outer in kinds
            if part in outer.model_fields
            for model in models_of(outer.model_fields[part], content)
        ] or kinds
    return kinds


def _legal_keys(kinds: Iterable[type[BaseModel]]) -> set[str]:
    # A field that is not written to the file, such as its own name, is no key of it either.
    return {name for model in kinds for name, field in model.model_fields.items() if not field.exclude}
