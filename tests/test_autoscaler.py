"""A cluster whose head has no cores, and whose autoscaler starts nodes when trials wait for them."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from free_ports import free_ports

from vimss.search.study import read_study
from vimss.storage import Store

NODES = [{"cpus": 1, "most": 2}]
"""What the autoscaler of the cluster can add."""

GROWS = {
    "cluster_name": "grows",
    "max_workers": 2,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 5,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cores": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "auth": {},
    "file_mounts": {},
    **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
    **{key: [] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
    "file_mounts_sync_continuously": False,
}
"""Ray's configuration of the cluster, without its provider: processes of this machine stand for nodes."""


@pytest.fixture
def at_zero(tmp_path) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a head without cores that grows, and the environment of those who have its token."""
    ports = free_ports(3)
    address = f"127.0.0.1:{ports[0]}"
    provider = {"type": "fake_multinode", "gcs_address": address, "launch_multiple": True}
    (tmp_path / "grows.json").write_text(json.dumps({**GROWS, "provider": provider}), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "PYTHONPATH": str(Path.cwd())}
    environment = {**kept, **token}
    options = ["--port", ports[0], "--ray-client-server-port", ports[1], "--dashboard-port", ports[2]]
    options += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--num-cpus", "0", "--block"]
    options += ["--resources", '{"trial_slot": 1000}', "--autoscaling-config", str(tmp_path / "grows.json")]
    # Ray's sockets need a short path; its processes still write logs while they end.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", "--head", *options, "--temp-dir", folder],
            env={**environment, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert any("Ray runtime started" in line for line in process.stdout)
            yield address, environment
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


SMALL = {
    "question": "Does it grow?",
    "expected": "yes",
    "model": {"levels": 2, "filters": 2, "down_kernel": 5, "outputs": "queries", "site": "decoder"},
    "training": {"output_samples": 2001, "batch_size": 2, "audio_seconds": 2, "report_seconds": 2},
    "validation": {"mixtures": 6, "seconds": 0.25},
    "compare": {"seed": [0, 1]},
}

SEARCH = """
from vimss.cli import main
import vimss.search.observer
vimss.search.observer.QUEUE_SECONDS = 0.5
main({words!r})
"""


@pytest.mark.slow
def test_a_search_on_a_cluster_of_no_nodes_waits_for_the_autoscaler_and_what_it_never_adds_is_refused(
    at_zero, small_recipe, small_manifest, tmp_path
):
    address, environment = at_zero
    store = Store(tmp_path / "store")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe.model_dump(mode="json")))
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({**SMALL, "shards": str(tmp_path / "small.yaml")}))
    (store.root / "shards").mkdir(parents=True)
    (store.root / "shards" / small_manifest.folder.name).symlink_to(small_manifest.folder)
    environment |= {"VIMSS_STORE": str(store.root)}

    def search(**more: object) -> subprocess.CompletedProcess[str]:
        place = {"ray_address": address, "autoscaled_nodes": NODES, **more}
        (tmp_path / "runtime.yaml").write_text(yaml.safe_dump(place), encoding="utf-8")
        words = ["search", str(tmp_path / "asked.yaml"), "--on", str(tmp_path)]
        command = ["-m", "vimss", *words] if more else ["-c", SEARCH.format(words=words)]
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    refused = search(cpus_per_worker=2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "each with 2 CPU; got room for 0 workers: 0 CPU; 2 x 1 CPU. To fix: lower cpus_per_worker to 1" in " ".join(
        refused.stderr.split()
    )
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5.0
    done = search()
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = store.studies.iterdir()
    assert [record.state for record in read_study(folder).records] == ["finished"] * 2
    said = " ".join(done.stderr.split())
    assert "2 trials wait in Ray's queue for 1 worker, each with 1 CPU on one node; free: 0 CPU of 1 node with" in said
    assert "; the autoscaler can add 2 x 1 CPU" in said
