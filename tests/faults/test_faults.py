"""After every fault a search ends, by itself or by the same command, with the weights of one that met none.

The search runs on a Ray of several nodes, all on this machine. After its first or second report, and a moment that a
seed draws (FAULTS_SEED), one of its processes or nodes is lost, hangs, or has a full disk. `pytest -m faults` runs them
and prints how long each took; `python tests/golden/faults.py` puts that into the README. One test, of a trial on both
nodes, meets no fault: it is here for the nodes.
"""

import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from searches import Search, check_as_undisturbed
from small_cluster import CPUS, SmallCluster, small_cluster

from vimss.search.observer import INTERRUPTED

pytestmark = pytest.mark.slow

SILENT_SECONDS = 30.0
"""Of the place where something hangs: longer than a trial takes to its first step, with the cores busy."""

FULL_BYTES = 1000
"""Bytes that a file may have where the disk is full: less than a record of a trial, or a file of a checkpoint."""

BY_COMMAND = "by the same command"

HEAD_SECONDS = 90.0
"""How long a search may take to end that has lost the head of Ray."""


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


@pytest.fixture
def start_search(small_manifest, tmp_path) -> Iterator[Callable[..., Search]]:
    """Starts the search of a test, which ends with it."""
    made = []

    def start(cluster: SmallCluster, workers: int, trials: int, options: dict[str, Any] | None = None) -> Search:
        folder = tmp_path / f"search{len(made)}"
        made.append(Search(cluster, small_manifest, folder, workers, trials, options or {}))
        return made[-1].start()

    yield start
    for search in made:
        search.process.kill()
        search.wait()


@pytest.fixture
def drawn(request) -> random.Random:
    """Random numbers for the moments and the victims of a test; another FAULTS_SEED gives others."""
    return random.Random(f"{os.environ.get('FAULTS_SEED', '0')} {request.node.name}")  # noqa: S311


def of_workers(number: int) -> str:
    """In words, for the table."""
    return f"{number} worker{'s' * (number > 1)}"


def wait_for_the_moment(search: Search, drawn: random.Random) -> None:
    """Until the first or the second report of its trials, and a little longer."""
    search.wait_for_reports(drawn.choice([1, 2]))
    time.sleep(drawn.uniform(0, 0.5))


def kill(cluster: SmallCluster, process: psutil.Process) -> None:
    """SIGKILL, as out of memory."""
    process.kill()


def lose_node(cluster: SmallCluster, process: psutil.Process) -> None:
    """The node on which it runs, with all that runs there."""
    cluster.lose_node(process)


def hang(cluster: SmallCluster, process: psutil.Process) -> None:
    """SIGSTOP: it neither works nor answers, and SIGTERM does not end it."""
    process.suspend()


def fill_disk(process: psutil.Process) -> None:
    """No file of the process can grow beyond a few bytes, as on a full disk; EFBIG instead of ENOSPC.

    Neither root nor a file system of the test's own is needed, and it meets a process that runs, and that one alone.
    """
    process.rlimit(psutil.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))


fault = pytest.mark.faults
FAULTS = [
    pytest.param("ImplicitFunc", kill, 1, 2, id="process of a trial killed"),
    pytest.param("ImplicitFunc", lose_node, 1, 2, id="node lost", marks=fault),
    pytest.param("RayTrainWorker", kill, 2, 1, id="training worker killed", marks=fault),
    pytest.param("RayTrainWorker", lose_node, 2, 1, id="node of a rank lost", marks=fault),
    pytest.param("TrainController", kill, 2, 1, id="controller of Train killed", marks=fault),
    pytest.param("ImplicitFunc", kill, 2, 1, id="process of a trial of two workers killed", marks=fault),
    pytest.param("ImplicitFunc", hang, 1, 2, id="process of a trial hangs", marks=fault),
    pytest.param("RayTrainWorker", hang, 2, 1, id="rank hangs", marks=fault),
    pytest.param("TrainController", hang, 2, 1, id="controller of Train hangs", marks=fault),
    # Its workers train to the end meanwhile.
    pytest.param("ImplicitFunc", hang, 2, 1, id="process of a trial of two workers hangs", marks=fault),
]


@pytest.mark.parametrize(("name", "meets", "workers", "trials"), FAULTS)
def test_a_search_that_meets_a_fault_ends_by_itself_as_one_that_does_not(
    cluster, undisturbed, start_search, record_property, request, drawn, name, meets, workers, trials
):
    expected = undisturbed(workers, trials)
    options = {"silent_seconds": SILENT_SECONDS} if meets is hang else {}
    search = start_search(cluster, workers, trials, options)
    wait_for_the_moment(search, drawn)
    hit = drawn.choice(search.hit(name))
    begin = time.monotonic()
    meets(cluster, hit)
    try:
        search.wait_for_progress()
        record_property("fault", [request.node.callspec.id, time.monotonic() - begin, "by itself"])
        assert search.wait() == 0, search.output()
    finally:
        while len(cluster.nodes) < 2:
            cluster.add_node()
    assert max(record.retries for record in search.records()) == 1
    check_as_undisturbed(search, expected)


def test_a_trial_on_two_nodes_gives_what_it_gives_on_one(cluster, start_search):
    """Where two workers do not fit on a node, gradients are added up between two. Each computes with one thread."""
    searches = {}
    for nodes, cpus in ((2, 0.75 * CPUS), (1, 0.5 * CPUS)):
        searches[nodes] = search = start_search(cluster, 2, 1, {"cpus_per_worker": cpus})
        search.wait_for_reports(1)
        raylets = [worker.ppid() for worker in search.hit("RayTrainWorker")]
        assert (len(raylets), len(set(raylets))) == (2, nodes)
        assert search.wait() == 0, search.output()
    check_as_undisturbed(searches[2], searches[1])


@pytest.mark.parametrize(
    ("workers", "trials"), [(1, 2), pytest.param(2, 1, marks=fault)], ids=["one worker", "two workers"]
)
def test_the_same_command_ends_a_search_whose_own_process_was_killed(
    cluster, undisturbed, start_search, record_property, drawn, workers, trials
):
    expected = undisturbed(workers, trials)
    search = start_search(cluster, workers, trials)
    wait_for_the_moment(search, drawn)
    begin = time.monotonic()
    search.process.kill()
    assert search.wait() == -9
    search.start()
    search.wait_for_progress()
    record_property("fault", [f"search killed, {of_workers(workers)}", time.monotonic() - begin, BY_COMMAND])
    assert search.wait() == 0, search.output()
    check_as_undisturbed(search, expected)


@pytest.mark.faults
@pytest.mark.parametrize(("workers", "trials"), [(1, 2), (2, 1)], ids=["one worker", "two workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_search_that_is_told_to_end_leaves_checkpoints_for_the_same_command(
    cluster, undisturbed, start_search, record_property, drawn, number, workers, trials
):
    expected = undisturbed(workers, trials)
    search = start_search(cluster, workers, trials)
    wait_for_the_moment(search, drawn)
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
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    record_property("fault", [f"{name}, {of_workers(workers)}", time.monotonic() - begin, BY_COMMAND])
    assert search.wait() == 0, search.output()
    check_as_undisturbed(search, expected)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("names", "workers", "trials"),
    [
        pytest.param(["search"], 1, 2, id="search"),
        pytest.param(["ImplicitFunc"], 1, 2, id="trial"),
        pytest.param(["search", "ImplicitFunc"], 1, 2, id="search and trial"),
        pytest.param(["RayTrainWorker"], 2, 1, id="rank"),
    ],
)
def test_the_same_command_ends_a_search_whose_disk_was_full_once_there_is_space(
    cluster, undisturbed, start_search, record_property, request, drawn, names, workers, trials
):
    expected = undisturbed(workers, trials)
    search = start_search(cluster, workers, trials)
    wait_for_the_moment(search, drawn)
    for process in [process for name in names for process in search.hit(name)]:
        fill_disk(process)
    assert search.wait() == 1, search.output()
    told = search.output() + "".join(record.message for record in search.records())
    assert re.search(r"must fit on the disk; got File too large with \d+ MB free. To fix: free some space or set", told)
    assert search.cluster.work() == []
    begin = time.monotonic()
    search.start()
    search.wait_for_progress()
    record_property("fault", [f"full disk, {request.node.callspec.id}", time.monotonic() - begin, BY_COMMAND])
    assert search.wait() == 0, search.output()
    check_as_undisturbed(search, expected)


@pytest.mark.faults
def test_a_search_that_loses_the_head_of_ray_says_so_and_ends_on_another_one(
    undisturbed, start_search, record_property, drawn
):
    expected = undisturbed(1, 2)
    with small_cluster() as lost:
        search = start_search(lost, 1, 2)
        wait_for_the_moment(search, drawn)
        begin = time.monotonic()
        lost.lose_head()
        assert search.wait() == 1, search.output()
        seconds = time.monotonic() - begin
        assert seconds < HEAD_SECONDS
        assert "the head of Ray must answer at" in search.output()
        assert "run the same command again, which resumes" in search.output()
        assert lost.work(HEAD_SECONDS) == []
    with small_cluster() as other:
        search.cluster = other
        begin = time.monotonic()
        search.start()
        search.wait_for_progress()
        record_property("fault", ["head of Ray lost", seconds + time.monotonic() - begin, BY_COMMAND])
        assert search.wait() == 0, search.output()
        check_as_undisturbed(search, expected)
