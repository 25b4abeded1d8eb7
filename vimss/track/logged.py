"""Models of runs: a pyfunc in MLflow for the weights of a trial.

    model_id = log_model(tracking, "quickstart", folder, run_id)       # of models:/model_id

It is made from code (served_model, or served_predictor where the network does not separate) with the model's folder as
its one artifact. The same weights of a run are logged once.
"""

import hashlib
import logging
import shutil
import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import vimss
from vimss.model.card import CARD, WEIGHTS, check_model_folder
from vimss.model.interface import Interface
from vimss.model.networks import parse_model
from vimss.storage import copy_folder, explain_os_errors, sha256
from vimss.track.runs import explain_artifact_errors
from vimss.track.store import Tracking
from vimss.train.objectives import OBJECTIVES

MODEL_FILES = (CARD, WEIGHTS)

ARTIFACT = "model"
"""Name of the folder inside the logged pyfunc."""

DIGEST_TAG = "weights_sha256"

SERVED = {True: "served_model.py", False: "served_predictor.py"}
"""The code of a model, by whether its network separates."""

# It says that it validates the input example.
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)


def log_model(tracking: Tracking, name: str, folder: Path, run_id: str) -> str:
    """MLflow's id of the model of a run that has the weights of a folder; it is logged where there is none.

    As MLflow's own log_model, but beside the run: that one would end and restart the run.
    """
    client = tracking.client()
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    digest, facts = weights_digest(folder), read_model(folder)
    same = f"source_run_id = '{run_id}' AND tags.{DIGEST_TAG} = '{digest}'"
    for found in client.search_logged_models([experiment], same):
        if found.status == LoggedModelStatus.READY:
            outputs = run.outputs.model_outputs if run.outputs else []
            if all(output.model_id != found.model_id for output in outputs):
                client.log_outputs(run_id, [LoggedModelOutput(found.model_id, 0)])
            return found.model_id
        client.delete_logged_model(found.model_id)  # its process was killed
    kind = "separator" if separates(facts) else facts["objective"]
    logged = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags={DIGEST_TAG: digest}, model_type=kind
    )
    try:
        with tempfile.TemporaryDirectory() as staging:
            artifact = Path(staging) / ARTIFACT
            artifact.mkdir()
            for file in MODEL_FILES:
                shutil.copyfile(folder / file, artifact / file)
            signature = _signature(facts) if separates(facts) else _signature_of_predictor(folder)
            identity = {"run_id": run_id, "model_id": logged.model_id, "model_uuid": logged.model_id}
            mlflow.pyfunc.save_model(
                str(Path(staging) / "pyfunc"),
                python_model=str(Path(__file__).with_name(SERVED[separates(facts)])),
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


def signature_of(folder: Path) -> str:
    """The inputs of a version made of a model's folder, with types and shapes, and its outputs by name."""
    facts = read_model(folder)
    signature = _signature(facts) if separates(facts) else _signature_of_predictor(folder)
    taken = " and ".join(f"{each.type} {each.name} {each.shape}" for each in signature.inputs.inputs)
    given = [] if signature.outputs is None else [each.name for each in signature.outputs.inputs]
    return f"{taken} to {', '.join(given) or 'as many stems as are asked for'}"


def weights_digest(folder: Path) -> str:
    """Changes with the weights of a model's folder."""
    return hashlib.sha256("".join(sha256(folder / file) for file in MODEL_FILES).encode()).hexdigest()


def read_model(folder: Path) -> dict[str, Any]:
    """The content of model.json."""
    from vimss.model.separator import read_card  # loads torch, which those who only look at runs can do without

    check_model_folder(folder)
    return read_card(folder)


def separates(facts: dict[str, Any]) -> bool:
    """Whether the network of a model.json separates."""
    return OBJECTIVES[facts.get("objective", "separation")].separates


def _requirements(facts: dict[str, Any]) -> list[str]:
    """VIMSS, and the packages that the network needs beside it, in the versions that are installed."""
    packages = parse_model(facts["config"], CARD).packages if separates(facts) else ()
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
    """An example request: a quarter of a second of noise, a dark picture, one label and, as its player, noise."""
    from vimss.track.request import EXAMPLE  # loads av, which those who only look at runs can do without

    arrays: dict[str, np.ndarray] = {}
    for given in signature.inputs.inputs:
        shape = [1 if size == -1 else size for size in given.shape]
        if given.name in ("mixture", EXAMPLE):
            shape[-1] = facts["sample_rate"] // 4
            noise = np.random.default_rng(0).normal(0, 0.1, shape)
            arrays[given.name] = noise.round(3).astype(np.float32)  # JSON holds it, digit by digit
        if given.name == EXAMPLE:
            label = np.zeros((1, 1, 1, len(facts["labels"])), np.float32)
            label[..., 0] = 1
            arrays[given.name] = np.concatenate([label, arrays[given.name]], axis=-1)
        elif given.name != "mixture":
            arrays[given.name] = np.zeros(shape, given.type)
    return (arrays, {"instruments": facts["labels"][:1]}) if separates(facts) else arrays
