"""Searches as jobs of a real head: what is sent, what comes out, and what no file may hold."""

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from free_ports import free_ports

from vimss.media import write_wav
from vimss.quickstart.run import HEAD_ADDRESS, job_command
from vimss.search.study import Study, read_study
from vimss.separate import separate_recording
from vimss.storage import Store
from vimss.track import Tracking

pytestmark = pytest.mark.slow

TINY = {
    "question": "Does it run?",
    "expected": "yes",
    "shards": "small",
    "model": {"levels": 2, "filters": 2, "down_kernel": 5, "outputs": "queries", "site": "decoder"},
    "training": {"output_samples": 2001, "batch_size": 2, "audio_seconds": 2, "report_seconds": 1},
    "validation": {"mixtures": 6, "seconds": 0.25},
    "tune": {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "search": {"trials": 2, "scheduler": "none"},
}

SECRETS = {name: secrets.token_hex(16) for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")}
"""In the environment of the head's processes, and named in `secrets` of the place; in no file, such as this one."""


@dataclass(frozen=True)
class Jobs:
    """A real head beside all others of the machine, and a clone of which jobs are sent to it."""

    address: str
    environment: dict[str, str]
    """Of those who have its token."""
    clone: Path
    store: Store
    ray: Path
    """Folder of the head's files."""

    @property
    def search(self) -> str:
        """The line for the shell that the quickstart prints, with what it would take from platform/local/run."""
        line = job_command("experiments/tiny.yaml", None, self.store.root).replace("platform/local/run ", "")
        return line.replace(HEAD_ADDRESS, self.address)

    def run(self, command: str) -> str:
        """What a command prints that is run in the clone."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.clone, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def clone_to(folder: Path) -> None:
    """What a clone of this repository would hold, and what work in it leaves there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(lambda name: name and Path(name).exists(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, folder / name)
    for left in (".git/objects/pack", ".venv/lib", "store/shards", "vimss/__pycache__", ".mypy_cache"):
        (folder / left).mkdir(parents=True)
        (folder / left / "large").write_bytes(bytes(3_000_000))


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, small_recipe, small_manifest) -> Iterator[Jobs]:
    home = tmp_path_factory.mktemp("home")
    clone, store = home / "clone", Store(home / "my store")
    clone_to(clone)
    for path, content in (("shards/small", small_recipe.model_dump(mode="json")), ("experiments/tiny", TINY)):
        (clone / f"{path}.yaml").write_text(json.dumps(content), encoding="utf-8")
    place = clone / "platform/cluster/runtime.yaml"
    place.write_text(yaml.safe_dump({**yaml.safe_load(place.read_text(encoding="utf-8")), "secrets": [*SECRETS]}))
    shutil.copytree(small_manifest.folder, store.root / "shards" / small_manifest.folder.name)
    # A socket's path has 107 characters; Ray's processes still write logs while they end.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(home), "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        environment |= {"RAY_PACKAGE_SIZE_WARNING_MIB": "1"}
        names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        options = [word for name, port in ports.items() for word in (f"--{name}", port)]
        command = ["bash", "platform/cluster/head", *options, "--num-cpus", "2", "--block"]
        process = subprocess.Popen(command, env={**environment, **SECRETS}, stdout=subprocess.PIPE, text=True)
        try:
            assert any("Ray runtime started" in line for line in process.stdout)
            yield Jobs(f"http://127.0.0.1:{ports['dashboard-port']}", environment, clone, store, Path(folder))
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture(scope="module")
def printed(jobs) -> str:
    """What the job of the search prints, with what is said while it is sent."""
    return jobs.run(jobs.search)


def study_of(store: Store) -> Study:
    (folder,) = store.studies.iterdir()
    return read_study(folder)


def test_a_job_without_the_token_is_refused(jobs):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{jobs.address}/api/jobs/")  # noqa: S310 - our own address


def test_a_job_and_the_same_command_here_give_the_same_study(jobs, printed, tmp_path):
    assert "Does it run?" in printed
    here = Store(tmp_path / "here")
    shutil.copytree(jobs.store.shards.path, here.shards.path)
    jobs.run(f"VIMSS_STORE={shlex.quote(str(here.root))} python -m vimss search experiments/tiny.yaml")
    studies = [study_of(store) for store in (jobs.store, here)]
    assert studies[0].folder.name == studies[1].folder.name
    found = [{record.trial: record for record in study.records} for study in studies]
    assert len(found[0]) == 2 and found[0].keys() == found[1].keys()
    for name, record in found[0].items():
        other = found[1][name]
        assert (record.state, record.settings) == ("finished", other.settings)
        curves = [[(report["steps"], report["valid_loss"]) for report in each.reports] for each in (record, other)]
        assert len(curves[0]) == 2 and curves[0] == curves[1]


def test_little_is_sent_with_a_job_and_how_much_is_said(jobs, printed):
    (size,) = re.findall(r"package for '\.' at \S+ is ([\d.]+)MiB", printed)
    assert float(size) < 10
    # The newest session has a link, too.
    copies = jobs.ray.glob("ray/session_*/runtime_resources/working_dir_files/_ray_pkg_*")
    (copy,) = {path.resolve() for path in copies if path.is_dir()}
    sent = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert {"experiments/tiny.yaml", "vimss/__main__.py", "platform/cluster/runtime.yaml"} <= sent
    assert [name for name in sent if name.endswith("large")] == []


def test_no_secret_of_a_job_is_in_a_file_or_on_the_terminal(jobs, printed):
    token = (Path(jobs.environment["HOME"]) / ".ray/auth_token").read_text(encoding="utf-8").strip()
    contents = {}
    for path in (path for folder in (jobs.store.root, jobs.ray) for path in folder.rglob("*") if path.is_file()):
        with suppress(FileNotFoundError):  # Ray removes some
            contents[path] = path.read_bytes()
    names = {path.name for path in contents}
    assert {"trial.json", "runtime_env_agent.log"} <= names and any(name.startswith("job-driver") for name in names)
    for secret in (token, *SECRETS.values()):
        assert secret not in printed
        assert [str(path) for path, content in contents.items() if secret.encode() in content] == []


def test_doctor_says_what_the_place_of_a_job_has(jobs, printed):
    given = " ".join(f"{name}={value}" for name, value in SECRETS.items())
    store = shlex.quote(str(jobs.store.root))
    told = jobs.run(f"{given} VIMSS_STORE={store} python -m vimss doctor --on cluster --json 2>/dev/null")
    found = {finding["what"]: finding["found"] for finding in json.loads(told)}
    assert found["secrets"] == f"{', '.join(SECRETS)}: set"
    assert (found["nodes"], found["trials"]) == ("2 CPU", "room for 2 at once")
    assert found["versions on nodes"].endswith(", as here")
    assert found["store on nodes"] == "every node reads what is written here, and can write"
    (shards,) = jobs.store.shards.path.iterdir()
    assert found["shards"] == f"{shards.name}, at {jobs.store.shards}"
    assert not any(secret in told for secret in SECRETS.values())


def test_a_job_promotes_what_a_job_has_trained_and_the_champion_separates(jobs, printed, tmp_path):
    records = study_of(jobs.store).records
    client = Tracking(jobs.store).client()
    experiment = client.get_experiment_by_name("tiny")
    for record in records:
        (trial,) = client.search_runs([experiment.experiment_id], f"tags.trial = '{record.trial}'")
        assert trial.info.status == "FINISHED"
        assert trial.data.metrics["valid_loss"] == pytest.approx(record.value)

    # After seconds of training it is worse than any baseline.
    promotion = jobs.run(jobs.search.replace("vimss search", "vimss promote") + " --force --why 'of the test'")
    best = min(records, key=lambda record: record.value)
    champion = client.get_run(client.get_model_version_by_alias("tiny", "champion").run_id)
    assert champion.data.tags["trial"] == best.trial, promotion

    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 8000)).astype(np.float32)
    write_wav(tmp_path / "duet.wav", sound, 8000)
    separate = f"python -m vimss separate {tmp_path}/duet.wav --instruments vn,vc --model models:/tiny@champion"
    jobs.run(f"VIMSS_STORE={shlex.quote(str(jobs.store.root))} {separate} --out {tmp_path}/stems")
    expected = separate_recording(tmp_path / "duet.wav", best.folder / "model", tmp_path / "same", "vn,vc")
    assert list(expected.stems) == ["vn", "vc"]
    for name, stem in expected.stems.items():
        assert (tmp_path / "stems" / f"{name}.wav").read_bytes() == stem.read_bytes()
