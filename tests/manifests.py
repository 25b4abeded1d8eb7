"""Checks of what describes places: compose, `ray up`, KubeRay. Each gives messages; nothing is sent anywhere.

    manifest_errors(Path("platform/compose/compose.yaml"), content)

They mirror what the programs that read these files refuse, of which none runs here, and what VIMSS wants of them.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes_rules import kubernetes_errors, queue_errors, rayjob_errors, values_errors
from manifest_files import PLATFORM, Content, image_errors, schema_errors, secret_errors, walk
from ray.autoscaler._private.util import prepare_config, validate_config

from vimss.runtime import TRIAL_SLOT, load_place


def manifest_errors(path: Path, content: Content) -> list[str]:
    """Everything that is wrong with the content of one file of platform/."""
    checks: dict[str, Callable[[Content], Iterator[str]]] = {
        "compose/compose.yaml": _compose_errors,
        "cluster/aws.yaml": _ray_up_errors,
        "cluster/hosts.yaml": _ray_up_errors,
        "kubernetes/search.yaml": rayjob_errors,
        "kubernetes/mlflow.yaml": values_errors,
        "kubernetes/queue.yaml": queue_errors,
    }
    special = checks.get(str(path.relative_to(PLATFORM)), kubernetes_errors)
    return [*special(content), *image_errors(content), *secret_errors(content)]


# Compose


@cache
def _compose_schema() -> Any:
    path = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    return json.loads(path.read_text("utf-8"))


def _compose_errors(content: Content) -> Iterator[str]:
    yield from schema_errors(_compose_schema(), content)
    services = content["services"]
    grace = load_place(str(PLATFORM / "compose")).grace_seconds
    for name, service in services.items():
        for kind in ("secrets", "volumes"):
            used = [_source(entry) for entry in service.get(kind, [])]
            for one in used:
                if one and not one.startswith((".", "/")) and one not in content.get(kind, {}):
                    yield f"{name}: '{one}' must be one of the {kind} that the file declares"
        for other, wanted in service.get("depends_on", {}).items():
            if other not in services:
                yield f"{name}: depends on '{other}', which is no service"
            elif wanted["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                yield f"{name}: waits until '{other}' is healthy, which has no healthcheck"
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: the port {port} must be open to this machine alone (127.0.0.1:)"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name}: must have security_opt no-new-privileges:true"
        command = service.get("command", [])
        if command[:2] == ["ray", "start"]:
            if service["environment"].get("RAY_AUTH_TOKEN_PATH") != "/run/secrets/ray_token":
                yield f"{name}: Ray must have its token, by RAY_AUTH_TOKEN_PATH"
            if float(service.get("stop_grace_period", "10s").removesuffix("s")) < 2 * grace:
                yield f"{name}: stop_grace_period must be at least twice grace_seconds: {grace:g} of the place"
        closed = service.get("read_only") and service.get("cap_drop") == ["ALL"]
        if service["image"].startswith("vimss:") and not closed:
            yield f"{name}: must be read_only and drop all capabilities"
    yield from _unused_secrets(content)


def _unused_secrets(content: Content) -> Iterator[str]:
    used = {_source(entry) for service in content["services"].values() for entry in service.get("secrets", [])}
    for name in content["secrets"]:
        if name not in used:
            yield f"secrets.{name}: no service uses it"


def _source(entry: Any) -> str:
    """What a service mounts; nothing for a volume without a name."""
    return entry.get("source", "") if isinstance(entry, dict) else entry.partition(":")[0]


# `ray up`


def _ray_up_errors(content: Content) -> Iterator[str]:
    try:
        prepared = prepare_config(json.loads(json.dumps(content)))
        validate_config(prepared)
    except jsonschema.ValidationError as error:
        yield f"{error.json_path.removeprefix('$.')}: {error.message}"
        return
    except Exception as error:  # Ray has no class of its own for these
        yield str(error)
        return
    start = " ".join(content["head_start_ray_commands"])
    if f'"{TRIAL_SLOT}": 1000' not in start:
        yield f"head_start_ray_commands: must count trials by --resources='{{\"{TRIAL_SLOT}\": 1000}}'"
    if "--dashboard-host=127.0.0.1" not in start:
        yield "head_start_ray_commands: the dashboard must listen on loopback (--dashboard-host=127.0.0.1)"
    if content.get("file_mounts", {}).get("/home/vimss/.ray/auth_token") != "~/.ray/auth_token":
        yield "file_mounts: nodes must have the token of this machine (/home/vimss/.ray/auth_token: ~/.ray/auth_token)"
    if not any(":/store" in option for option in content["docker"].get("run_options", [])):
        yield "docker.run_options: the store must be mounted at /store"
    if content["provider"]["type"] == "aws":
        yield from _bucket_errors(content)
    for name, kind in content.get("available_node_types", {}).items():
        if kind.get("min_workers", 0) > kind.get("max_workers", content["max_workers"]):
            yield f"available_node_types.{name}: min_workers must not be more than max_workers"
        market = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        if (market == "spot") == (name == content["head_node_type"]):
            yield f"available_node_types.{name}: workers must be spot instances, and the head none"


def _bucket_errors(content: Content) -> Iterator[str]:
    """Instances share no folder: all containers must know the bucket, and all instances have the right to use it."""
    options = content["docker"].get("run_options", [])
    for variable in ("VIMSS_SHARDS", "VIMSS_STUDIES"):
        if not any(option.startswith(f"--env {variable}=s3://") for option in options):
            yield f"docker.run_options: must have --env {variable}=s3://..., since nodes share no folder"
    for name, kind in content["available_node_types"].items():
        if "IamInstanceProfile" not in kind["node_config"]:
            yield f"available_node_types.{name}: must have an IamInstanceProfile, to use the bucket"


# Commands


def commands(content: Content, program: str) -> Iterator[list[str]]:
    """The words after each call of a program, such as `ray start`, in a manifest."""
    called = program.split()
    for _, key, value in walk(content):
        if key not in {"command", "head_start_ray_commands", "worker_start_ray_commands"}:
            continue
        text = shlex.join(value) if value[0] == called[0] else "\n".join(value).replace("\\\n", " ")
        for part in re.split(r"\n|;|&&", text):
            words = shlex.split(part.strip().removeprefix("exec "))
            if words[: len(called)] == called:
                yield words[len(called) :]
