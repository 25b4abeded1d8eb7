"""The files that describe places: their content, and what every one of them must hold."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

import vimss

PLATFORM = Path("platform")

Content = Any
"""A YAML file, parsed: a mapping, or a list of them where it holds several documents."""


def read_manifest(path: Path) -> Content:
    """Its content, in which no part is shared, as YAML's aliases would have it."""
    return json.loads(_json(path))


@cache
def _json(path: Path) -> str:
    documents = list(yaml.load_all(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return json.dumps(documents if len(documents) > 1 else documents[0])


def pinned(package: str) -> str:
    """The tested version of a package, which the image installs."""
    (line,) = re.findall(rf"^{package}==(.*)$", Path("platform/local/constraints.txt").read_text("utf-8"), re.MULTILINE)
    return str(line)


def our_tag() -> str:
    return f"{vimss.__version__}-ray{pinned('ray')}"


def walk(content: Content, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every key below: where its mapping is, the key, its value."""
    if isinstance(content, list):
        for index, item in enumerate(content):
            yield from walk(item, f"{where}[{index}]")
    elif isinstance(content, dict):
        for key, value in content.items():
            yield where, str(key), value
            yield from walk(value, f"{where}.{key}" if where else str(key))


def image_errors(content: Content) -> Iterator[str]:
    """Images without a version, or with others than the tested ones."""
    for where, key, value in walk(content):
        if key == "image" and isinstance(value, str):
            name, _, tag = value.rpartition("/")[2].partition(":")
            if tag in {"", "latest"}:
                yield f"{where}: the image {value} must have a tag that does not move"
            elif name == "vimss" and tag != our_tag():
                yield f"{where}: the image {value} must have the tag {our_tag()}, that of the tested versions"


NAMES_OF_SECRETS = r"(?i)(?:password|passphrase|secret|token|access_?key(?:_id)?|credentials)$"
VARIABLES = {"environment", "env", "data", "stringData"}
"""Keys of mappings from the names of variables to their values."""


def secret_errors(content: Content) -> Iterator[str]:
    """Values that look like secrets: they belong in files and Secrets, which manifests name."""
    for where, key, value in walk(content):
        if isinstance(value, str):
            if where.rpartition(".")[2] in VARIABLES and re.search(NAMES_OF_SECRETS, key):
                yield f"{where}.{key}: a secret must not stand in a file"
            # The shell of a container reads its own, by $.
            if re.search(r"://[^/@\s$]*:[^/@\s$]+@", value):
                yield f"{where}.{key}: a password must not stand in an address"
        # Containers of Kubernetes have a list of names with values.
        if key == "env" and isinstance(value, list):
            named = [
                entry["name"] for entry in value if "value" in entry and re.search(NAMES_OF_SECRETS, entry["name"])
            ]
            yield from (f"{where}.env: the secret {name} must not stand in a file" for name in named)


def schema_errors(schema: Mapping[str, Any], content: Content) -> Iterator[str]:
    """Where the content does not follow a JSON schema."""
    validator = jsonschema.validators.validator_for(schema)(schema)
    for error in validator.iter_errors(content):
        best = jsonschema.exceptions.best_match([error])
        yield f"{best.json_path.removeprefix('$.')}: {best.message}"
