"""Signatures of all that ships and the defaults behind them, and the command that writes them anew, with a reason:

    platform/local/run python tests/golden/signatures.py

A signature names what was written and trained: where it changes, that is not found any more. It does not hold the
defaults, so where one of those changes, what was made with the old one is taken for the new one.
"""

import json
from pathlib import Path
from typing import Any

from vimss.config import signature
from vimss.model.networks import BY_NETWORK, NETWORKS
from vimss.search.consistency import load_experiment
from vimss.search.study import cell_folder, study_folder
from vimss.shards.corpora import CORPORA, reader_of
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe, load_recipe, recipe_name
from vimss.shards.write import shards_signature
from vimss.storage import Store
from vimss.train.config import Settings, ValidationConfig

FILE = Path(__file__).with_suffix(".json")


def signatures() -> dict[str, str]:
    """By the file and, of an experiment, the cell that each is of."""
    found = {"Settings()": signature(Settings())}
    for path in sorted(Path("shards").glob("*.yaml")):
        found[str(path)] = shards_signature(load_recipe(path))
    for path in sorted(Path("experiments").rglob("*.yaml")):
        experiment = load_experiment(path)
        changes = [f"{key}={json.dumps(value)}" for key, value in _flat(experiment.recipe).items()]
        recipe = load_recipe(experiment.shards, changes)
        name, of_data = recipe_name(experiment.shards), shards_signature(recipe)
        manifest = Manifest(name=name, recipe=recipe, signature=of_data, shards=(), pieces=())
        found[str(path)] = study_folder(experiment, manifest, Store(Path())).name
        found |= {f"{path}: {cell.name}": cell_folder(experiment, cell) for cell in experiment.cells()}
    return found


def defaults() -> dict[str, Any]:
    """By key path, of all settings that signatures are made of."""
    fields = {name: field for name, field in Recipe.model_fields.items() if not field.is_required()}
    groups: dict[str, Any] = {
        "settings": Settings().model_dump(mode="json"),
        "validation": ValidationConfig().model_dump(mode="json", exclude={"mixtures"}),
        "recipe": {name: field.get_default(call_default_factory=True) for name, field in fields.items()},
    }
    for name, kind in NETWORKS.items():
        if name != BY_NETWORK.default:
            groups[f"model of {name}"] = kind().model_dump(mode="json")
    for corpus in CORPORA:
        groups[f"options of {corpus}"] = reader_of(corpus).Options().model_dump(mode="json")
    groups["recipe"]["picture"] = groups["recipe"]["picture"].model_dump(mode="json")
    return json.loads(json.dumps(_flat(groups)))


def _flat(content: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}": value}
    return flat


def main() -> None:
    """Write the file."""
    content = {"signatures": signatures(), "defaults": defaults()}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
