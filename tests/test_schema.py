"""JSON schemas: editors accept the shipped YAML files, and mark what VIMSS would refuse."""

import json
from pathlib import Path

import jsonschema
import pytest
from smallest_network import BlocksConfig

from vimss.cli import main
from vimss.config import read_yaml
from vimss.model import NETWORKS
from vimss.schema import json_schema

FILES = [("experiment", path) for path in sorted(Path("experiments").rglob("*.yaml"))]
FILES += [("recipe", path) for path in sorted(Path("shards").glob("*.yaml"))]
SCHEMAS = {kind: json_schema(kind) for kind in ("experiment", "recipe")}
EXPERIMENT = {"question": "q", "expected": "e", "shards": "quickstart"}
RECIPE = {"corpus": "chamber", "description": "d", "licence": "l", "obtain": "o"}


def errors(kind: str, content: object) -> list[str]:
    """What an editor would mark."""
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMAS[kind]).iter_errors(content)]


@pytest.mark.parametrize(("kind", "path"), FILES, ids=lambda value: str(value))
def test_every_shipped_file_is_valid(kind, path):
    assert errors(kind, json.loads(json.dumps(read_yaml(path)))) == []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_one_and_every_key_in_it_is_explained(kind):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[kind])
    assert [name for name, key in SCHEMAS[kind]["properties"].items() if not described(key)] == []


def described(key: dict[str, object]) -> bool:
    """Whether an editor shows a description of a key, its own or that of its group."""
    return "description" in key or "$ref" in key


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("experiment", {"qestion": "q"}, "'qestion' was unexpected"),
        ("experiment", {"name": "film"}, "'name' was unexpected"),
        ("experiment", {"model": {"levels": "seven"}}, "'seven' is not of type 'integer'"),
        ("experiment", {"training": {"batch_sise": 4}}, "'batch_sise' was unexpected"),
        ("experiment", {"tune": {"training.batch_sise": {"choices": [1]}}}, "'training.batch_sise' is not one of"),
        ("experiment", {"compare": {"model.opp": ["film"]}}, "'model.opp' is not one of"),
        ("experiment", {"recipe": {"sample_rat": 8000}}, "'sample_rat' is not one of"),
        ("recipe", {"corpus": "chambre"}, "'chambre' is not one of"),
        ("recipe", {"options": {"minute": 3}}, "'minute' was unexpected"),
        ("recipe", {"sample_rate": 100}, "100 is less than the minimum of 4000"),
    ],
)
def test_a_mistake_is_marked(kind, change, message):
    valid = EXPERIMENT if kind == "experiment" else RECIPE
    assert errors(kind, valid) == []
    (error,) = errors(kind, {**valid, **change})
    assert message in error


def test_a_file_may_hold_the_settings_of_the_networks_that_it_compares(monkeypatch):
    monkeypatch.setitem(NETWORKS, "blocks", BlocksConfig)
    check = jsonschema.Draft202012Validator(json_schema("experiment")).iter_errors
    compared = {**EXPERIMENT, "compare": {"model.network": ["wave_u_net", "blocks"]}}
    assert list(check({**compared, "model": {"levels": 3, "hop": 8}})) == []
    assert list(check({**EXPERIMENT, "model": {"network": "blocks"}})) == []
    (error,) = check({**compared, "model": {"levels": 3, "hop": "eight"}})
    assert error.message == "'eight' is not of type 'integer'"


def test_a_seed_may_be_compared():
    assert errors("experiment", {**EXPERIMENT, "compare": {"seed": [0, 1]}}) == []


def test_options_of_another_corpus_are_marked():
    assert errors("recipe", {**RECIPE, "options": {"minutes": 3}}) == []
    assert errors("recipe", {**RECIPE, "corpus": "urmp", "options": {"minutes": 3}}) != []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_verb_prints_the_schema(kind, capsys):
    with pytest.raises(SystemExit):
        main(["schema", kind])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMAS[kind]))
