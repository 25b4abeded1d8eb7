"""JSON schemas of the YAML files, with which an editor completes keys, explains them and marks mistakes.

json_schema("experiment")  # of the files in experiments/
json_schema("recipe")      # of the files in shards/

A schema holds each key, its type and its limits. Rules between keys are checked by `load_experiment` and `load_recipe`,
for example that a setting of `model` belongs to a network that the experiment trains, since a file may compare several.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from vimss.experiment import GROUPS, OBJECTIVE, SEED, Experiment
from vimss.shards.corpora import CORPORA, reader_of
from vimss.shards.recipe import Recipe
from vimss.train.config import Settings
from vimss.train.objectives import OBJECTIVES

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: Literal["experiment", "recipe"]) -> Schema:
    """The JSON schema of an experiment's or a recipe's YAML file."""
    return _experiment() if kind == "experiment" else _recipe()


def _experiment() -> Schema:
    """An experiment with the settings of its groups, which its class checks later, cell by cell."""
    schemas, definitions = _schemas({"experiment": Experiment, "settings": Settings})
    root, settings = (definitions[schemas[name]["$ref"].rpartition("/")[2]] for name in ("experiment", "settings"))
    # The file's name is the experiment's.
    del root["properties"]["name"]
    root["required"].remove("name")
    root["properties"][OBJECTIVE] |= {"enum": list(OBJECTIVES)}
    keys = [SEED, OBJECTIVE]
    for group in GROUPS:
        description = root["properties"][group]["description"]
        properties = _properties(settings["properties"][group], definitions)
        root["properties"][group] = {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            "description": description,
        }
        keys += list(_varied_keys(group, properties, definitions))
    root["properties"]["recipe"] |= {"propertyNames": {"enum": sorted(Recipe.model_fields)}}
    for varied in ("compare", "tune"):
        root["properties"][varied] |= {"propertyNames": {"enum": sorted(set(keys))}}
    for named in ("variants", "controls"):
        root["properties"][named]["additionalProperties"] |= {"propertyNames": {"enum": sorted(set(keys))}}
    return {"$schema": DIALECT, **root, "$defs": definitions}


def _recipe() -> Schema:
    """A recipe, whose `options` are those of its corpus's reader."""
    options = {corpus: reader_of(corpus).Options for corpus in CORPORA}
    schemas, definitions = _schemas({"recipe": Recipe, **options})
    root = definitions[schemas["recipe"].pop("$ref").rpartition("/")[2]]
    root["properties"]["corpus"] |= {"enum": list(CORPORA)}
    root["allOf"] = [
        {
            "if": {"properties": {"corpus": {"const": corpus}}, "required": ["corpus"]},
            "then": {"properties": {"options": schemas[corpus]}},
        }
        for corpus in CORPORA
    ]
    return {"$schema": DIALECT, **root, "$defs": definitions}


def _schemas(kinds: Mapping[str, Any]) -> tuple[dict[str, Schema], Schema]:
    """The schema of each type by name, and the definitions that they refer to."""
    adapters = [(name, "validation", TypeAdapter(kind)) for name, kind in kinds.items()]
    # Pydantic's types want the mode as a Literal, which the list has lost.
    found, definitions = TypeAdapter.json_schemas(adapters)  # type: ignore[arg-type]
    return {name: schema for (name, _), schema in found.items()}, definitions["$defs"]


def _properties(schema: Schema, definitions: Schema) -> Schema:
    """The keys of a group, none of them required: the file states differences, and cells may add the others.

    A key that several classes of a union have may be what any of them allows.
    """
    found: dict[str, list[Schema]] = {}
    for member in _members(schema, definitions):
        for name, key in member["properties"].items():
            known = found.setdefault(name, [])
            known += [key] if key not in known else []
    return {name: kinds[0] if len(kinds) == 1 else {"anyOf": kinds} for name, kinds in found.items()}


def _varied_keys(group: str, properties: Schema, definitions: Schema) -> Iterator[str]:
    """The keys of a group that cells may set, with those of the groups in it, such as model.vision.weights."""
    for name, key in properties.items():
        yield f"{group}.{name}"
        for member in _members(key, definitions):
            yield from _varied_keys(f"{group}.{name}", member["properties"], definitions)


def _members(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The classes of a type, which may be a union of several."""
    if "$ref" in schema:
        yield from _members(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif "properties" in schema:
        yield schema
    for union in ("oneOf", "anyOf"):
        for member in schema.get(union, ()):
            yield from _members(member, definitions)
