"""A Ray of several nodes on this machine, each a raylet of its own with its own workers.

with small_cluster(nodes=2) as cluster:
    cluster.address
    cluster.processes("RayTrainWorker")
"""

import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from vimss.runtime import TRIAL_SLOT
from vimss.runtime.environment import RAY_VARIABLES

CPUS = 2
"""Of each node that trains: the other one can take over."""

WORK = ("ImplicitFunc", "RayTrainWorker", "TrainController", "QueueActor")
"""Names of the processes that a search starts."""

# Ray reads its mode when it is imported, so that the token of a test's own cannot be given to this process later.
ENVIRONMENT = {**RAY_VARIABLES, "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_METRICS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


KEPT = re.compile(r"ray|pymp-.*|torchinductor_.*")
"""Names in the folder for temporary files: of Ray, of its dashboard and of PyTorch, which keep one each."""


def temporary_files(folder: Path) -> list[str]:
    """What lies in a folder for temporary files, beside what Ray and PyTorch keep there."""
    return sorted(path.name for path in folder.iterdir() if not KEPT.fullmatch(path.name))


class SmallCluster:
    """A head, which trains nothing, and some nodes that do."""

    def __init__(self, nodes: int, port: int, temporary: Path) -> None:
        self.temporary = temporary
        """The folder for temporary files of all its processes, and of the searches on it."""
        head = {"num_cpus": 0, "resources": {TRIAL_SLOT: 1000}, "include_dashboard": True, "dashboard_port": port}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self.cluster.address
        self.nodes: list[Any] = []
        for _ in range(nodes):
            self.add_node()

    def add_node(self) -> None:
        """A node that trains."""
        self.nodes.append(self.cluster.add_node(num_cpus=CPUS))

    def processes(self, *names: str) -> list[psutil.Process]:
        """The processes of Ray's actors of these names, oldest first."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if process.status() != psutil.STATUS_ZOMBIE and any(f"ray::{name}" in title for name in names):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def work(self, seconds: float = 20.0) -> list[str]:
        """The processes of a search that are left after some seconds."""
        end = time.monotonic() + seconds
        while (left := self.processes(*WORK)) and time.monotonic() < end:
            time.sleep(0.2)
        return [" ".join(process.cmdline()) for process in left]

    def temporary_files(self) -> list[str]:
        """What lies in the folder for temporary files, beside what stays as long as Ray does."""
        return temporary_files(self.temporary)

    def lose_node(self, process: psutil.Process) -> None:
        """Kill the raylet that started the process, and all below it."""
        raylet = process.parent()
        assert raylet is not None and "raylet" in raylet.name()
        (node,) = [node for node in self.nodes if self.raylet(node).pid == raylet.pid]
        below = raylet.children(recursive=True)
        self.nodes.remove(node)
        raylet.kill()
        for one in below:
            with suppress(psutil.Error):
                one.kill()
        self.cluster.remove_node(node, allow_graceful=False)

    def lose_head(self) -> None:
        """Kill the process of the head that knows all nodes, actors and placement groups."""
        (info,) = self.cluster.head_node.all_processes["gcs_server"]
        psutil.Process(info.process.pid).kill()

    @staticmethod
    def raylet(node) -> psutil.Process:
        """The raylet of a node."""
        (info,) = node.all_processes["raylet"]
        return psutil.Process(info.process.pid)


@contextmanager
def small_cluster(nodes: int = 2) -> Iterator[SmallCluster]:
    """The cluster, for as long as the block."""
    with (
        pytest.MonkeyPatch.context() as patch,
        # A short path, for Ray's sockets.
        tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp", ignore_cleanup_errors=True) as temporary,
    ):
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path.cwd()))
        patch.setenv("TMPDIR", temporary)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        # Where several Rays run on a machine, its processes would ask the wrong one.
        patch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
        cluster = SmallCluster(nodes, port, Path(temporary))
        try:
            yield cluster
        finally:
            cluster.cluster.shutdown()
