"""Models in MLflow's registry: a version per kept model, an alias for the one in use.

    version = register(tracking, "quickstart", folder, run_id, {"si_sdr_improvement": 3.1}, card)
    model_folder("models:/quickstart@champion", tracking)   # -> folder with model.json and weights.safetensors

The registered model is named after the experiment. A version is the model of a run, see vimss.track.logged. Registering
the same weights again gives the version that exists.
"""

import json
import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion as RegistryVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from vimss.model.pretrained import pretrained_folder
from vimss.storage import atomic_write
from vimss.track.logged import ARTIFACT, DIGEST_TAG, MODEL_FILES, log_model, read_model, separates, weights_digest
from vimss.track.names import URI, no_such_model, not_a_model
from vimss.track.runs import explain_artifact_errors
from vimss.track.store import Tracking, explain_mlflow_errors

MAX_TAG = 5000
"""Characters; MLflow's limit is 100000 for a description and 5000 for a version's tag."""

_NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""MLflow's codes for names, versions and aliases that do not exist."""

_default_address = threading.Lock()


@dataclass(frozen=True)
class ModelVersion:
    """A version in the registry."""

    name: str
    version: int
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)


def register(
    tracking: Tracking, name: str, folder: Path, run_id: str, metrics: Mapping[str, float], card: Mapping[str, Any]
) -> int:
    """Keep a model's folder as the next version of `name`; the version that has these weights, where there is one.

    Args:
        tracking: Where.
        name: Of the registered model: the experiment's.
        folder: With model.json and weights.safetensors, from save_separator.
        run_id: MLflow's id of the trial's run.
        metrics: Scores, by name, NaN where one is not defined; they become tags and stand in the description.
        card: What a user must know: data, rate, labels, convention of the scores, licence, commit.

    Raises:
        ModelError: The folder holds no model.
        PlaceError: MLflow does not answer.

    """
    facts = read_model(folder)
    digest = weights_digest(folder)
    with explain_mlflow_errors(tracking), _as_default(tracking):
        client = tracking.client()
        same = [version for version in _versions(client, name) if version.tags.get(DIGEST_TAG) == digest]
        if same:
            first = min(same, key=lambda version: int(version.version))
            _link(client, first)
            return int(first.version)
        _make_registered_model(client, name, separates(facts))
        model_id = log_model(tracking, name, folder, run_id)
        scores = {f"metric.{key}": f"{value:.6g}" for key, value in metrics.items()}
        version = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags={DIGEST_TAG: digest, **scores, **{key: _text(value)[:MAX_TAG] for key, value in card.items()}},
            description=_describe(metrics, card),
            model_id=model_id,
        )
        _link(client, version)
    return int(version.version)


def find_version(tracking: Tracking, name: str, which: str) -> ModelVersion:
    """The version of `name` that has the alias or the number `which`; ModelError that lists what there is."""
    if tracking.is_local:
        tracking.store.check_exists()
    with explain_mlflow_errors(tracking):
        client = tracking.client()
        found = _get_version(client, name, which)
        if found is None:
            raise no_such_model(name, which, _what_there_is(client, name))
    return found


def find_alias(tracking: Tracking, name: str, alias: str) -> ModelVersion | None:
    """The version of `name` with that alias, where there is one."""
    with explain_mlflow_errors(tracking):
        return _get_version(tracking.client(), name, alias)


def newest_version(tracking: Tracking, name: str) -> int | None:
    """The highest version of `name`, where there is one."""
    with explain_mlflow_errors(tracking):
        return max((int(version.version) for version in _versions(tracking.client(), name)), default=None)


def set_alias(tracking: Tracking, name: str, alias: str, version: int) -> None:
    """Give a version an alias, which leaves the version that had it."""
    with explain_mlflow_errors(tracking):
        tracking.client().set_registered_model_alias(name, alias, str(version))


def tag_version(tracking: Tracking, name: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags on a version."""
    with explain_mlflow_errors(tracking):
        client = tracking.client()
        for key, value in tags.items():
            client.set_model_version_tag(name, str(version), key, value)


def model_folder(uri: str | Path, tracking: Tracking) -> Path:
    """The folder with model.json that `uri` means: models:/name@alias, models:/name/3, the name of one that comes with
    VIMSS, or a folder.

    A model on a server is downloaded into the store once.

    Raises:
        ModelError: No such folder, name, version or alias; the message lists what there is.
        PlaceError: MLflow does not answer.

    """
    if isinstance(uri, Path) or not uri.startswith("models:"):
        own = None if isinstance(uri, Path) else pretrained_folder(uri)
        folder = own or Path(uri)
        read_model(folder)
        return folder
    match = URI.match(uri)
    if match is None:
        raise not_a_model(uri)
    version = find_version(tracking, match["name"], match["alias"] or match["version"])
    with explain_mlflow_errors(tracking):
        address = tracking.client().get_model_version_download_uri(version.name, str(version.version))
        folder = _fetch(tracking, version, f"{address.rstrip('/')}/artifacts/{ARTIFACT}")
    read_model(folder)
    return folder


def _fetch(tracking: Tracking, version: ModelVersion, address: str) -> Path:
    here = tracking.here(address)
    if here is not None:
        return here
    if tracking.is_local:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, tracking_uri=tracking.address))
    kept = tracking.folder / "models" / f"{version.name}-{version.version}-{version.tags.get(DIGEST_TAG, '')[:12]}"
    if not kept.is_dir():
        with atomic_write(kept) as temporary, tempfile.TemporaryDirectory() as folder:
            with explain_artifact_errors(address):
                got = mlflow.artifacts.download_artifacts(
                    artifact_uri=address, dst_path=folder, tracking_uri=tracking.address, registry_uri=tracking.address
                )
            temporary.mkdir(mode=0o700)
            for file in MODEL_FILES:
                shutil.copyfile(Path(got) / file, temporary / file)
    return kept


def _make_registered_model(client: MlflowClient, name: str, separates: bool) -> None:
    purpose = "Separates a recording into instruments." if separates else "Separates nothing: others start from it."
    try:
        client.create_registered_model(
            name,
            tags={"project": "vimss"},
            description=f"{purpose} The version in use has the alias `champion`, "
            "the one before it `previous`; each version records its training data and its scores.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _link(client: MlflowClient, version: RegistryVersion) -> None:
    """Let the table of models name a version; a server of MLflow does it by itself, a client of a database does not."""
    model_id, link = version.source.removeprefix("models:/"), {"name": version.name, "version": str(version.version)}
    try:
        links = json.loads(client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    except MlflowException as error:
        if error.error_code in _NOT_THERE:  # deleted from the table
            return
        raise
    if link not in links:
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*links, link])})


def _versions(client: MlflowClient, name: str) -> list[RegistryVersion]:
    found: list[RegistryVersion] = []
    token = None
    while token != "":
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token or ""
    return found


def _get_version(client: MlflowClient, name: str, which: str) -> ModelVersion | None:
    try:
        found = (
            client.get_model_version(name, which) if which.isdigit() else client.get_model_version_by_alias(name, which)
        )
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise
    return ModelVersion(name, int(found.version), found.run_id, tuple(found.aliases), dict(found.tags))


def _what_there_is(client: MlflowClient, name: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """All registered models, that of this name with its versions and aliases."""
    models: dict[str, tuple[list[str], dict[str, str]]] = {}
    for model in client.search_registered_models():
        versions = sorted(int(version.version) for version in _versions(client, name)) if model.name == name else []
        aliases = {alias: str(version) for alias, version in dict(model.aliases).items()}
        models[model.name] = ([str(version) for version in versions], aliases)
    return models


def _describe(metrics: Mapping[str, float], card: Mapping[str, Any]) -> str:
    scores = [f"| {name} | {_figure(value)} |" for name, value in metrics.items()]
    facts = [f"- **{name}**: {_text(value)}" for name, value in card.items()]
    return "\n".join(["| score | value |", "|---|---:|", *scores, "", *facts])


def _figure(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.2f}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


@contextmanager
def _as_default(tracking: Tracking) -> Iterator[None]:
    """Make the address MLflow's default meanwhile: its SQL registry looks models up there, whatever its own address."""
    with _default_address:
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(tracking.address)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)


def registered_as(tracking: Tracking, name: str, folder: Path) -> int | None:
    """The version of `name` that `register` would return for a folder, where it would make none."""
    digest = weights_digest(folder)
    with explain_mlflow_errors(tracking):
        versions = _versions(tracking.client(), name)
    return min((int(each.version) for each in versions if each.tags.get(DIGEST_TAG) == digest), default=None)
