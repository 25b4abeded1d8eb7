"""JSON schemas of the YAML files, with which an editor completes keys, explains them and marks mistakes.

json_schema("experiment")  # of the files in experiments/
json_schema("recipe")      # of the files in shards/

A schema holds each key, its type and its limits. Rules between keys are checked by `load_experiment` and `load_recipe`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from vimss.experiment import GROUPS, SEED, Experiment
from vimss.shards.corpora import reader_of
from vimss.shards.recipe import Recipe
from vimss.train.config import Settings

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: Literal["experiment", "recipe"]) -> Schema:
    """The JSON schema of an experiment's or a recipe's YAML file."""
    return _experiment() if kind == "experiment" else _recipe()


def _experiment() -> Schema:
    """An experiment with the settings of its groups, which its class checks later, cell by cell."""
    groups = {group: Settings.model_fields[group].annotation for group in GROUPS}
    schemas, definitions = _schemas({"experiment": Experiment, **groups})
    root = definitions[schemas["experiment"].pop("$ref").rpartition("/")[2]]
    # The file's name is the experiment's.
    del root["properties"]["name"]
    root["required"].remove("name")
    keys = [SEED]
    for group in GROUPS:
        description = root["properties"][group]["description"]
        root["properties"][group] = {**_optional(schemas[group], definitions), "description": description}
        keys += [f"{group}.{name}" for name in _property_names(schemas[group], definitions)]
    root["properties"]["recipe"] |= {"propertyNames": {"enum": sorted(Recipe.model_fields)}}
    for varied in ("compare", "tune"):
        root["properties"][varied] |= {"propertyNames": {"enum": sorted(set(keys))}}
    return {"$schema": DIALECT, **root, "$defs": definitions}


def _recipe() -> Schema:
    """A recipe, whose `options` are those of its corpus's reader."""
    corpora = get_args(Recipe.model_fields["corpus"].annotation)
    schemas, definitions = _schemas({"recipe": Recipe, **{corpus: reader_of(corpus).Options for corpus in corpora}})
    root = definitions[schemas["recipe"].pop("$ref").rpartition("/")[2]]
    root["allOf"] = [
        {
            "if": {"properties": {"corpus": {"const": corpus}}, "required": ["corpus"]},
            "then": {"properties": {"options": schemas[corpus]}},
        }
        for corpus in corpora
    ]
    return {"$schema": DIALECT, **root, "$defs": definitions}


def _schemas(kinds: Mapping[str, Any]) -> tuple[dict[str, Schema], Schema]:
    """The schema of each type by name, and the definitions that they refer to."""
    adapters = [(name, "validation", TypeAdapter(kind)) for name, kind in kinds.items()]
    found, definitions = TypeAdapter.json_schemas(adapters)  # type: ignore[arg-type]
    return {name: schema for (name, _), schema in found.items()}, definitions["$defs"]


def _optional(schema: Schema, definitions: Schema) -> Schema:
    """A group of settings without required keys: the file states differences, and cells may add the others."""
    for member in _members(schema, definitions):
        member.pop("required", None)
    return schema


def _property_names(schema: Schema, definitions: Schema) -> list[str]:
    return [name for member in _members(schema, definitions) for name in member.get("properties", {})]


def _members(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The classes of a type, which may be a union of several."""
    if "$ref" in schema:
        yield from _members(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif "properties" in schema:
        yield schema
    for union in ("oneOf", "anyOf"):
        for member in schema.get(union, ()):
            yield from _members(member, definitions)
