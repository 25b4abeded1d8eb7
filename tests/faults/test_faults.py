"""After every fault a search ends, by itself or by the same command, with the weights of one that met none.

The search runs on a Ray of several nodes, all on this machine. After its first or second report, and a moment that a
seed draws, one of its processes or nodes is lost. `pytest -m faults` runs all of them and prints how long each took.
"""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from small_cluster import SmallCluster, small_cluster

from vimss.search.observer import INTERRUPTED
from vimss.search.study import TrialRecord, read_study
from vimss.shards.manifest import Manifest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("small_search.py")
SEARCH_SECONDS = 300.0
"""The longest that one call of the search may take."""

AUDIO_SECONDS = {1: 40.0, 2: 32.0}
"""Of a trial, by its workers."""


@dataclass
class Search:
    """One search and what is known of it."""

    cluster: SmallCluster
    manifest: Manifest
    folder: Path
    workers: int
    trials: int
    process: subprocess.Popen[str] | None = None

    def start(self) -> "Search":
        """Run the command."""
        self.folder.mkdir(exist_ok=True)
        place = {"workers_per_trial": self.workers, "max_concurrent_trials": 2}
        given = {
            "address": self.cluster.address,
            "shards": str(self.manifest.folder),
            "store": str(self.folder / "store"),
            "events": str(self.folder / "events"),
            "trials": self.trials,
            "audio_seconds": AUDIO_SECONDS[self.workers],
            "place": place,
        }
        command = [sys.executable, str(SCRIPT), json.dumps(given)]
        with (self.folder / "output").open("a", encoding="utf-8") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        return self

    def events(self, kind: str) -> list[list[Any]]:
        """All events of a kind, of all calls; a killed process may leave half a line."""
        path = self.folder / "events"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event[0] == kind]

    def wait_for(self, kind: str, count: int) -> None:
        """Until there are so many events of a kind."""
        self._wait_until(lambda: len(self.events(kind)) >= count)

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + SEARCH_SECONDS
        while not holds():
            assert self.process is not None and self.process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.05)

    def wait_for_progress(self) -> None:
        """Until a trial that was started again has made a report that is new: its first one repeats the last."""

        def count() -> int:
            lines = (self.folder / "events").read_text(encoding="utf-8").split("\n")[:-1]
            kinds = [event[0:2] for event in map(json.loads, lines)]
            again = [place for place, event in enumerate(kinds) if event[0] == "TrialStarted"][self.trials :]
            return kinds[again[0] :].count(["TrialReported", kinds[again[0]][1]]) if again else 0

        self._wait_until(lambda: count() >= 2)

    def wait(self) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(SEARCH_SECONDS)

    def output(self) -> str:
        """What the search printed last."""
        return (self.folder / "output").read_text(encoding="utf-8")[-3000:]

    def records(self) -> tuple[TrialRecord, ...]:
        """Of its trials, in the order of their draws."""
        (study,) = (self.folder / "store" / "studies").iterdir()
        return tuple(sorted(read_study(study).records, key=lambda record: record.trial))


@pytest.fixture(scope="module")
def cluster():
    """Two nodes; each test leaves as many."""
    with small_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(cluster, small_manifest, tmp_path_factory) -> Callable[[int, int], Search]:
    """A search without a fault, made once for each number of workers and trials."""
    made: dict[tuple[int, int], Search] = {}

    def make(workers: int, trials: int) -> Search:
        if (workers, trials) not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            search = Search(cluster, small_manifest, folder, workers, trials).start()
            assert search.wait() == 0, search.output()
            made[workers, trials] = search
        return made[workers, trials]

    return make


def check_as_undisturbed(search: Search, expected: Search) -> None:
    """The same trials, each with the same curve and weights, and nothing that is left of the search."""
    records = search.records()
    assert [record.trial for record in records] == [record.trial for record in expected.records()]
    for record, other in zip(records, expected.records(), strict=True):
        assert record.state == other.state == "finished", record.message
        assert [report["steps"] for report in record.reports] == [report["steps"] for report in other.reports]
        assert [report["valid_loss"] for report in record.reports] == [report["valid_loss"] for report in other.reports]
        weights, wanted = (load_file(next((each.folder / "model").glob("*.safetensors"))) for each in (record, other))
        assert weights.keys() == wanted.keys() and all(weights[name].equal(wanted[name]) for name in weights)
        text = "".join(path.read_text(encoding="utf-8") for path in sorted(record.folder.glob("log*.txt")))
        begun = re.findall(r"begins after step (\d+) of \d+, (resumed|anew)", text)
        assert [how for _, how in begun].count("anew") == search.workers, begun
    (*_, (_, groups, _)) = search.events("left")
    assert groups == [], "placement groups"
    assert search.cluster.work() == []
    assert [path for path in search.folder.rglob(".tmp-*") if path.exists()] == []


def kill(cluster: SmallCluster, process: psutil.Process) -> None:
    """SIGKILL, as out of memory."""
    process.kill()


def lose_node(cluster: SmallCluster, process: psutil.Process) -> None:
    """The node on which it runs, with all that runs there."""
    cluster.lose_node(process)


fault = pytest.mark.faults
FAULTS = [
    pytest.param("ImplicitFunc", kill, 1, 2, id="process of a trial killed"),
    pytest.param("ImplicitFunc", lose_node, 1, 2, id="node lost", marks=fault),
    pytest.param("RayTrainWorker", kill, 2, 1, id="training worker killed", marks=fault),
    pytest.param("RayTrainWorker", lose_node, 2, 1, id="node of a rank lost", marks=fault),
    pytest.param("TrainController", kill, 2, 1, id="controller of Train killed", marks=fault),
    pytest.param("ImplicitFunc", kill, 2, 1, id="process of a trial of two workers killed", marks=fault),
]


@pytest.mark.parametrize(("name", "meets", "workers", "trials"), FAULTS)
def test_a_search_that_meets_a_fault_ends_by_itself_as_one_that_does_not(
    cluster, undisturbed, small_manifest, tmp_path, record_property, request, name, meets, workers, trials
):
    drawn = random.Random(request.node.name)  # noqa: S311
    expected = undisturbed(workers, trials)
    search = Search(cluster, small_manifest, tmp_path / "search", workers, trials).start()
    search.wait_for("TrialReported", drawn.choice([1, 2]) * trials)
    time.sleep(drawn.uniform(0, 0.5))
    hit = drawn.choice(cluster.processes(name))
    begin = time.monotonic()
    meets(cluster, hit)
    try:
        search.wait_for_progress()
        record_property("fault", [time.monotonic() - begin, "by itself"])
        assert search.wait() == 0, search.output()
    finally:
        while len(cluster.nodes) < 2:
            cluster.add_node()
    assert max(record.retries for record in search.records()) == 1
    check_as_undisturbed(search, expected)


@pytest.mark.parametrize(
    ("workers", "trials"), [(1, 2), pytest.param(2, 1, marks=fault)], ids=["one worker", "two workers"]
)
def test_the_same_command_ends_a_search_whose_own_process_was_killed(
    cluster, undisturbed, small_manifest, tmp_path, record_property, request, workers, trials
):
    drawn = random.Random(request.node.name)  # noqa: S311
    expected = undisturbed(workers, trials)
    search = Search(cluster, small_manifest, tmp_path / "search", workers, trials).start()
    search.wait_for("TrialReported", drawn.choice([1, 2]) * trials)
    time.sleep(drawn.uniform(0, 0.5))
    begin = time.monotonic()
    search.process.kill()
    assert search.wait() == -9
    search.start()
    search.wait_for_progress()
    record_property("fault", [time.monotonic() - begin, "by the same command"])
    assert search.wait() == 0, search.output()
    check_as_undisturbed(search, expected)


@pytest.mark.faults
@pytest.mark.parametrize(("workers", "trials"), [(1, 2), (2, 1)], ids=["one worker", "two workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_search_that_is_told_to_end_leaves_checkpoints_for_the_same_command(
    cluster, undisturbed, small_manifest, tmp_path, record_property, request, number, workers, trials
):
    drawn = random.Random(request.node.name)  # noqa: S311
    expected = undisturbed(workers, trials)
    search = Search(cluster, small_manifest, tmp_path / "search", workers, trials).start()
    search.wait_for("TrialReported", drawn.choice([1, 2]) * trials)
    time.sleep(drawn.uniform(0, 0.5))
    begin = time.monotonic()
    search.process.send_signal(number)
    assert search.wait() == 1, search.output()
    assert {record.message for record in search.records()} == {INTERRUPTED}
    for record in search.records():
        steps = [int(path.name.partition("_")[2]) for path in (record.folder / "train").glob("step_*")]
        assert record.state == "interrupted" and max(steps) > record.reports[-1]["steps"]
    assert search.cluster.work() == []
    search.start()
    search.wait_for_progress()
    record_property("fault", [time.monotonic() - begin, "by the same command"])
    assert search.wait() == 0, search.output()
    check_as_undisturbed(search, expected)
