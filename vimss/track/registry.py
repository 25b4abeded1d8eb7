"""Models in MLflow's registry: a version per kept model, an alias for the one in use.

    version = register(tracking, "quickstart", folder, run_id, {"si_sdr_improvement": 3.1}, card)
    model_folder("models:/quickstart@champion", tracking)   # -> folder with model.json and weights.safetensors

The registered model is named after the experiment. A version is a pyfunc made from code (served_model, or
served_predictor where the network does not separate) with the model's folder as its one artifact. Registering the same
weights again gives the version that exists.
"""

import hashlib
import json
import logging
import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion as RegistryVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import vimss
from vimss.model.card import CARD, WEIGHTS, check_model_folder
from vimss.model.interface import Interface
from vimss.model.networks import parse_model
from vimss.model.pretrained import pretrained_folder
from vimss.storage import atomic_write, copy_folder, explain_os_errors, sha256
from vimss.track.names import URI, no_such_model, not_a_model
from vimss.track.runs import explain_artifact_errors
from vimss.track.store import Tracking, explain_mlflow_errors
from vimss.train.objectives import OBJECTIVES

MODEL_FILES = (CARD, WEIGHTS)

ARTIFACT = "model"
"""Name of the folder inside the logged pyfunc."""

DIGEST_TAG = "weights_sha256"

SERVED = {True: "served_model.py", False: "served_predictor.py"}
"""The code of a version, by whether its network separates."""

MAX_TAG = 5000
"""Characters; MLflow's limit is 100000 for a description and 5000 for a version's tag."""

_NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""MLflow's codes for names, versions and aliases that do not exist."""

_default_address = threading.Lock()

# It says that it validates the input example.
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)


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
    facts = _read_model(folder)
    digest = weights_digest(folder)
    with explain_mlflow_errors(tracking), _as_default(tracking):
        client = tracking.client()
        same = [version for version in _versions(client, name) if version.tags.get(DIGEST_TAG) == digest]
        if same:
            return min(int(version.version) for version in same)
        _make_registered_model(client, name, _separates(facts))
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
    return int(version.version)


def find_version(tracking: Tracking, name: str, which: str) -> ModelVersion:
    """The version of `name` that has the alias or the number `which`; ModelError that lists what there is."""
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
        _read_model(folder)
        return folder
    match = URI.match(uri)
    if match is None:
        raise not_a_model(uri)
    version = find_version(tracking, match["name"], match["alias"] or match["version"])
    with explain_mlflow_errors(tracking):
        address = tracking.client().get_model_version_download_uri(version.name, str(version.version))
        folder = _fetch(tracking, version, f"{address.rstrip('/')}/artifacts/{ARTIFACT}")
    _read_model(folder)
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


def _read_model(folder: Path) -> dict[str, Any]:
    """The content of model.json."""
    from vimss.model.separator import read_card  # loads torch, which those who only look at runs can do without

    check_model_folder(folder)
    return read_card(folder)


def weights_digest(folder: Path) -> str:
    """Changes with the weights of a model's folder."""
    return hashlib.sha256("".join(sha256(folder / file) for file in MODEL_FILES).encode()).hexdigest()


def log_model(tracking: Tracking, name: str, folder: Path, run_id: str) -> str:
    """MLflow's id of the model of a run that has the weights of a folder; it is logged where there is none.

    As MLflow's own log_model, but beside the run: that one would end and restart the run.
    """
    client = tracking.client()
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    digest, facts = weights_digest(folder), _read_model(folder)
    same = f"source_run_id = '{run_id}' AND tags.{DIGEST_TAG} = '{digest}'"
    for found in client.search_logged_models([experiment], same):
        if found.status == LoggedModelStatus.READY:
            outputs = run.outputs.model_outputs if run.outputs else []
            if all(output.model_id != found.model_id for output in outputs):
                client.log_outputs(run_id, [LoggedModelOutput(found.model_id, 0)])
            return found.model_id
        client.delete_logged_model(found.model_id)  # its process was killed
    kind = "separator" if _separates(facts) else facts["objective"]
    logged = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags={DIGEST_TAG: digest}, model_type=kind
    )
    try:
        with tempfile.TemporaryDirectory() as staging:
            artifact = Path(staging) / ARTIFACT
            artifact.mkdir()
            for file in MODEL_FILES:
                shutil.copyfile(folder / file, artifact / file)
            signature = _signature(facts) if _separates(facts) else _signature_of_predictor(folder)
            identity = {"run_id": run_id, "model_id": logged.model_id, "model_uuid": logged.model_id}
            mlflow.pyfunc.save_model(
                str(Path(staging) / "pyfunc"),
                python_model=str(Path(__file__).with_name(SERVED[_separates(facts)])),
                artifacts={ARTIFACT: str(artifact)},
                signature=signature,
                input_example=_example(facts, signature),
                pip_requirements=_requirements(facts),
                mlflow_model=Model(artifact_path=logged.artifact_location, **identity),
            )
            here = tracking.here(logged.artifact_location)
            if here is None:
                with explain_artifact_errors(logged.artifact_location):
                    client.log_model_artifacts(logged.model_id, str(Path(staging) / "pyfunc"))
            else:
                with explain_os_errors(here):
                    here.parent.mkdir(parents=True, exist_ok=True)
                    copy_folder(Path(staging) / "pyfunc", here)
        client.finalize_logged_model(logged.model_id, "READY")
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    return logged.model_id


def _separates(facts: dict[str, Any]) -> bool:
    """Whether the network of a model.json separates."""
    return OBJECTIVES[facts.get("objective", "separation")].separates


def _requirements(facts: dict[str, Any]) -> list[str]:
    """VIMSS, and the packages that the network needs beside it, in the versions that are installed."""
    packages = parse_model(facts["config"], CARD).packages if _separates(facts) else ()
    return [f"vimss=={vimss.__version__}", *(f"{package}=={installed_version(package)}" for package in packages)]


def _signature_of_predictor(folder: Path) -> ModelSignature:
    """Input and output of a network that does not separate; see served_predictor."""
    from vimss.train.objectives.saved import load_network  # loads torch

    network = load_network(folder)
    inputs, outputs = (
        Schema([TensorSpec(np.dtype(each.dtype), each.shape, each.name) for each in arrays])
        for arrays in (network.inputs(), network.outputs())
    )
    rate = ParamSpec("sample_rate", DataType.long, network.sample_rate)
    hears = any(given.name == "mixture" for given in network.inputs())
    return ModelSignature(inputs=inputs, outputs=outputs, params=ParamSchema([rate]) if hears else None)


def _signature(facts: dict[str, Any]) -> ModelSignature:
    """Input and output of the served model; see served_model."""
    interface = Interface(parse_model(facts["config"], CARD), tuple(facts["labels"]))
    mixture, *_ = inputs = interface.inputs()
    names = interface.known_outputs
    outputs = Schema([TensorSpec(np.dtype(np.float32), mixture.shape, name) for name in names]) if names else None
    params = [
        ParamSpec("instruments", DataType.string, [], (-1,)),
        ParamSpec("sample_rate", DataType.long, facts["sample_rate"]),
        ParamSpec("media", DataType.string, ""),
        ParamSpec("path", DataType.string, ""),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(given.dtype), given.shape, given.name) for given in inputs]),
        outputs=outputs,
        params=ParamSchema(params),
    )


def _example(facts: dict[str, Any], signature: ModelSignature) -> Any:
    """What a served model may be asked: a quarter of a second of noise, a dark picture, one label."""
    arrays: dict[str, np.ndarray] = {}
    for given in signature.inputs.inputs:
        shape = [1 if size == -1 else size for size in given.shape]
        if given.name == "mixture":
            shape[-1] = facts["sample_rate"] // 4
            noise = np.random.default_rng(0).normal(0, 0.1, shape)
            arrays[given.name] = noise.round(3).astype(np.float32)  # JSON holds it, digit by digit
        else:
            arrays[given.name] = np.zeros(shape, given.type)
    return (arrays, {"instruments": facts["labels"][:1]}) if _separates(facts) else arrays


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


def signature_of(folder: Path) -> str:
    """What a version made of a model's folder takes and gives: inputs with types and shapes, and outputs by name."""
    facts = _read_model(folder)
    signature = _signature(facts) if _separates(facts) else _signature_of_predictor(folder)
    taken = " and ".join(f"{each.type} {each.name} {each.shape}" for each in signature.inputs.inputs)
    given = [] if signature.outputs is None else [each.name for each in signature.outputs.inputs]
    return f"{taken} to {', '.join(given) or 'as many stems as are asked for'}"
