"""Where work runs: the place (platform/<name>/runtime.yaml) and its store.

    place = load_place("local")        # platform/local/runtime.yaml, or the same values built in
    store = open_store(place)

A place gives addresses and resources; no code branches on its name.
"""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from vimss.config import Config, load_yaml
from vimss.errors import ConfigError
from vimss.storage import LocalFolder, RemoteFolder, Store, folder_at
from vimss.yaml_files import find_named, is_path, known_names

PLACES = "platform/*/runtime.yaml"
"""Where the places lie in a repository."""


JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""


class AutoscaledNodes(Config):
    """Nodes of one size that the autoscaler of a cluster can add."""

    cpus: float = Field(gt=0, description="cores of one node, as Ray counts them")
    gpus: float = Field(0.0, ge=0, description="GPUs of one node")
    most: int = Field(ge=1, description="how many there can be at once")

    @property
    def resources(self) -> dict[str, float]:
        """Those of one node, in Ray's words."""
        return {"CPU": self.cpus, "GPU": self.gpus}


class Place(Config):
    """The addresses and resources of one place: runtime.yaml in its folder under platform/."""

    name: str = Field(exclude=True)
    ray_address: str = Field(
        "", description="of a running cluster; empty starts Ray on this machine for the one command"
    )
    store: str = Field(
        "",
        description="folder or mount that all nodes share, unless shards and studies lie behind URLs; VIMSS_STORE goes "
        "before it; empty: ./store",
    )
    shards: str = Field(
        "", description="folder or URL such as s3://bucket/prefix; VIMSS_SHARDS goes before it; empty: in the store"
    )
    studies: str = Field(
        "",
        description="URL such as s3://bucket/prefix, for nodes that share no folder; VIMSS_STUDIES goes before it; "
        "empty: in the store",
    )
    cache_gigabytes: float = Field(
        50.0, gt=0, description="how much of shards behind a URL is kept in the store; least recently used go first"
    )
    tracking_uri: str = Field("", description="of an MLflow server; empty: SQLite in the store")
    environment: dict[str, str] = Field(
        {}, description="variables of this process and of all workers; those that are set already win; no secrets"
    )
    secrets: tuple[str, ...] = Field(
        (), description="names of variables that workers get from this process, such as AWS_SECRET_ACCESS_KEY"
    )
    autoscaled_nodes: tuple[AutoscaledNodes, ...] = Field(
        (),
        description="what the cluster's autoscaler can add, one {cpus: 8, gpus: 1, most: 4} for each kind of node: "
        "trials that fit there wait for it; empty: the cluster is as large as it is",
    )
    workers_per_trial: int = Field(1, ge=1, description="processes that train one trial together")
    cpus_per_worker: float = Field(1.0, gt=0, description="cores of one worker, with those of its loader")
    loader_workers: int = Field(
        0, ge=0, description="threads of one worker that make batches ahead, a core each; with a GPU 1 to 4"
    )
    gpus_per_worker: float = Field(
        0.0,
        ge=0,
        le=1,
        description="1: a GPU for each worker, so that a trial on several GPUs has as many workers_per_trial; below 1, "
        "with one worker per trial: that share of a GPU and of its memory, so that two trials train on one with 0.5; "
        "0: workers train on cores",
    )
    silent_seconds: float = Field(
        600.0,
        gt=0,
        description="a trial that shows no progress for longer, and for longer than ten times its longest interval "
        "between reports so far, is ended and left to be resumed",
    )
    grace_seconds: float = Field(
        30.0,
        gt=0,
        description="how long a training that is told to end by SIGTERM may take to finish its step and write a "
        "checkpoint; less than what sends SIGKILL then, such as terminationGracePeriodSeconds of Kubernetes",
    )
    max_retries: int = Field(
        3,
        ge=0,
        description="how often one call of search starts a trial again that was lost with its process or node, ended "
        "by SIGTERM, silent or cut off from a URL, each time from its newest valid checkpoint; the same command again "
        "counts from 0; errors of the training are not retried",
    )
    max_concurrent_trials: int = Field(
        0, ge=0, description="trials that run at once; 0: as many as the nodes' cores and GPUs allow, now or autoscaled"
    )

    @field_validator("gpus_per_worker", mode="before")
    @classmethod
    def _a_worker_has_one_gpu(cls, gpus: Any) -> Any:
        if isinstance(gpus, int | float) and gpus > 1:
            raise ValueError(
                "a worker trains on one GPU, and others would idle: set gpus_per_worker: 1 and, for a trial on several "
                "GPUs, workers_per_trial to their number"
            )
        return gpus

    @model_validator(mode="after")
    def _gpus_can_be_shared_out(self) -> "Place":
        if self.gpus_per_worker % 1 and self.workers_per_trial > 1:
            # NCCL refuses two workers on one GPU.
            raise ValueError("gpus_per_worker must be 0 or 1 where workers_per_trial is more than 1")
        return self

    @model_validator(mode="after")
    def _an_autoscaler_has_a_cluster(self) -> "Place":
        if self.autoscaled_nodes and not self.ray_address:
            raise ValueError("autoscaled_nodes must be left out where ray_address is empty: this machine does not grow")
        return self

    @model_validator(mode="after")
    def _variables_have_one_home(self) -> "Place":
        # Not as ValueError, since what pydantic makes of one shows the values.
        for name in (*self.environment, *self.secrets):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                rule = "environment and secrets must name variables, such as NCCL_DEBUG"
                raise ConfigError(f"{self.name}: {rule}", got=repr(name), fix="correct the name")
            if name in {"VIMSS_STORE", "VIMSS_SHARDS", "VIMSS_STUDIES"}:
                key = name.removeprefix("VIMSS_").lower()
                raise ConfigError(f"{self.name}: a place sets its {key} by `{key}:`", got=name, fix=f"set `{key}:`")
        if _has_password(self.tracking_uri):
            raise ConfigError(
                f"{self.name}: a secret must be in no file; MLflow reads its own from the environment",
                got="a password in tracking_uri",
                fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and leave it out",
            )
        for name, value in self.environment.items():
            if name in self.secrets or _is_secret(name, value):
                raise ConfigError(
                    f"{self.name}: a secret must be in no file; `secrets` takes its value from the environment",
                    got=f"a value of {name} in `environment`",
                    fix=f"write `secrets: [{name}]`, without a value, or `secrets: []` where the nodes have their own",
                )
        return self

    @property
    def worker_resources(self) -> dict[str, float]:
        """What one worker takes of its node, in Ray's words."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like one whose value must not be written down, by its name or as a URL's password."""
    last = name.upper().rpartition("_")[2]
    return last in {"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSPHRASE"} or _has_password(value)


def _has_password(address: str) -> bool:
    return bool(re.search(r"://[^/@\s]*:[^/@\s]*@", address))


def load_place(name: str | Path = "local") -> Place:
    """The place called `name` in platform/, or the folder or runtime.yaml at that path, which has / or ends in .yaml.

    Without a repository, `local` has built-in values.
    """
    if isinstance(name, Path) or is_path(name):
        path = Path(name) / "runtime.yaml" if Path(name).is_dir() else Path(name)
        if Path(name).is_dir() and not path.exists():
            raise _without_settings(str(name))
    else:
        found = find_named(name, PLACES)
        if found is None and name == "local":
            return Place(name="local")
        folder = find_named(name, "platform/*")
        if found is None and folder is not None and folder.is_dir():
            raise _without_settings(f"platform/{name}")
        if found is None:
            here = f"; for the folder here write ./{name}" if name and Path(name).is_dir() else ""
            known = ", ".join(known_names(PLACES)) or "local"
            raise ConfigError("--on must name a folder of platform/", got=repr(name), fix=f"choose from {known}{here}")
        path = found
    return load_yaml(path, Place, known={"name": path.absolute().parent.name})


def _without_settings(folder: str) -> ConfigError:
    return ConfigError(
        f"{folder} must hold a runtime.yaml",
        got="a folder without one",
        fix="write its settings there: an empty mapping, {}, is enough for those of platform/local",
    )


def in_ray_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a cluster."""
    return JOB_VARIABLE in os.environ


def open_store(place: Place, shards: str | Path | None = None) -> Store:
    """$VIMSS_STORE, else the place's, else ./store; what writes into it makes it, where it does not exist.

    Its shards are at `shards`, else at $VIMSS_SHARDS, else at the place's, else in it; its studies likewise.
    """
    store = find_store(place, shards)
    # Studies behind a URL are copied into it by all that read them.
    return store if store.studies_at is None else store.make()


def find_store(place: Place, shards: str | Path | None = None) -> Store:
    """The store that `open_store` opens, which is not made; ConfigError where it cannot be used."""
    named = os.environ.get("VIMSS_STORE") or place.store
    if in_ray_job() and not Path(named).is_absolute():
        raise ConfigError(
            "a Ray job must have an absolute store, since its working directory is a copy that is thrown away",
            got=repr(named) if named else "no VIMSS_STORE",
            fix='submit with --runtime-env-json \'{"env_vars": {"VIMSS_STORE": "/absolute/path"}}\'',
        )
    if "://" in named:
        raise ConfigError(
            "the store must be a folder: only shards and studies may lie behind URLs",
            got=repr(named),
            fix="set VIMSS_STORE to a folder or a mount, and VIMSS_SHARDS and VIMSS_STUDIES to the URLs",
        )
    if shards == "":
        raise ConfigError("--out must name a folder or a URL", got="''", fix="leave it out, or write where shards lie")
    where = str(shards) if shards else os.environ.get("VIMSS_SHARDS") or place.shards
    if in_ray_job() and where and "://" not in where and not Path(where).is_absolute():
        raise ConfigError(
            "a Ray job must have its shards at a URL or an absolute path", got=repr(where), fix="write the whole path"
        )
    root = Path(named or "store").absolute()
    for path, variable in ((str(root), "VIMSS_STORE"), (where, "--out or VIMSS_SHARDS")):
        _check_path(path, variable)
    shards_at = folder_at(where) if where else None
    if isinstance(shards_at, LocalFolder):
        _check_folder(shards_at.path)
    return Store(root, shards_at, place.cache_gigabytes, _studies_at(place))


def _studies_at(place: Place) -> RemoteFolder | None:
    """Where $VIMSS_STUDIES, else the place, wants studies; None: in the store."""
    where = os.environ.get("VIMSS_STUDIES") or place.studies
    if not where:
        return None
    _check_path(where, "VIMSS_STUDIES")
    if not re.fullmatch(r"s3://[^/]+(/[^/]+)*/?", where):
        raise ConfigError(
            "studies must lie at s3://BUCKET or s3://BUCKET/PREFIX, or in the store",
            got=repr(where),
            fix="correct VIMSS_STUDIES or `studies` of the place; for a folder, set VIMSS_STORE",
        )
    return RemoteFolder(where.rstrip("/"))


def _check_folder(path: Path) -> None:
    """ConfigError where a file is in the way of a folder for shards."""
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise ConfigError(
            f"{path} must be a folder for shards, or free to become one",
            got=f"{there}, which is none",
            fix="correct --out or VIMSS_SHARDS",
        )


def _check_path(path: str, variable: str) -> None:
    """ConfigError where MLflow, Ray or a manifest could not write the path down."""
    odd = [letter for letter in path if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}]
    if odd:
        raise ConfigError(
            f"{variable} must be a path of UTF-8 without control characters, such as line breaks",
            got=repr(path),
            fix="rename the folder, or choose another",
        )


def sqlite_url(path: Path) -> str:
    """The URL by which SQLAlchemy, and so MLflow and Optuna, open a SQLite file; any path will do.

    >>> sqlite_url(Path("/100 %/a.db"))
    'sqlite+pysqlite:////100 %25/a.db'
    """
    plain = str(path.absolute())
    # SQLAlchemy 2.1 decodes %20, all versions end the path at ?, and Optuna fills in what stands in braces. Nothing
    # else is quoted, and the driver is named then, since MLflow makes the folder of what follows sqlite:/// as it is.
    if not set(plain) & set("%?{}"):
        return f"sqlite:///{plain}"
    return "sqlite+pysqlite:///" + "".join(f"%{ord(sign):02X}" if sign in "%?{}" else sign for sign in plain)
