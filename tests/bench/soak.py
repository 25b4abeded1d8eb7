"""Trials for a long time, of which one process after the other is killed: memory, files and threads must not grow.

    platform/local/run python tests/bench/soak.py --minutes 15 [--pause 10 30]

Searches follow each other on one Ray of two nodes: of two trials with one worker each, and of one trial with two
workers. Every few seconds, drawn between those of `--pause`, one of their processes is killed; where a trial takes
longer to start than that, it needs more. Each minute prints what the search's process (this one) and Ray's hold; the
last line is the verdict, and the exit code is 1 where something grew.
"""

import argparse
import faulthandler
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "faults"))

from small_cluster import WORK, SmallCluster, small_cluster
from small_search import experiment

from vimss.runtime import Place, ray_running
from vimss.search.run import search
from vimss.search.study import TrialRecord
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store

PAUSE_SECONDS = (10.0, 30.0)
"""Between two kills, at least and at most."""

LAST_SEARCH_SECONDS = 300.0
"""In which the search that runs when the time is over must end; otherwise the stacks are printed and all ends."""

AUDIO_SECONDS = 40.0

GROWTH, MEGABYTES, NUMBER = 0.1, 50, 5
"""What may be more in the last third than in the first: a share, and beside it so much of memory, so many others."""


@dataclass(frozen=True)
class Held:
    """What processes hold at one time; memory is what is theirs alone, in MB."""

    megabytes: float
    files: int
    threads: int
    processes: int


def held(processes: list[psutil.Process]) -> Held:
    """Of these processes, without those that end meanwhile."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            memory = process.memory_full_info().uss / 2**20
            found.append((memory, process.num_fds(), process.num_threads()))
    memory, files, threads = (sum(column) for column in zip(*found, strict=True))
    return Held(memory, files, threads, len(found))


def look(cluster: SmallCluster) -> dict[str, Held]:
    """This process, and those of Ray that are there whatever runs: those of trials come and go."""
    work = {process.pid for process in cluster.processes(*WORK, "IDLE")}
    ray = [process for process in psutil.Process().children(recursive=True) if process.pid not in work]
    return {"search": held([psutil.Process()]), "Ray": held(ray)}


def grown(lines: list[dict[str, Held]]) -> list[str]:
    """What is more in the last third of the lines than in the first, in words.

    The least of each is compared, since pools, log files and processes of trials come and go.
    """
    third = max(1, len(lines) // 3)
    found = []
    for name in lines[0]:
        for field in fields(Held):
            first, last = (
                min(getattr(line[name], field.name) for line in part) for part in (lines[:third], lines[-third:])
            )
            if last > first * (1 + GROWTH) + (MEGABYTES if field.name == "megabytes" else NUMBER):
                found.append(f"{field.name} of {name}: {first:.0f} to {last:.0f}")
    return found


class Soak:
    """The searches, the kills and the minutes, side by side."""

    def __init__(
        self, cluster: SmallCluster, manifest: Manifest, folder: Path, seconds: float, pause: tuple[float, float]
    ) -> None:
        self.cluster = cluster
        self.manifest = manifest
        self.folder = folder
        self.end = time.monotonic() + seconds
        self.pause = pause
        self.kills = 0
        self.trials: list[TrialRecord] = []
        self.curves: set[tuple[str, tuple[float, ...]]] = set()
        """Of the trials, each as its workers and name, and its losses: one for each however often it was killed."""
        self.lines: list[dict[str, Held]] = []

    def run(self) -> None:
        """Search until the time is over."""
        threads = [threading.Thread(target=target, daemon=True) for target in (self._kill, self._look)]
        for thread in threads:
            thread.start()
        number = 0
        while time.monotonic() < self.end:
            workers = number % 2 + 1
            place = Place(
                name="soak", ray_address=self.cluster.address, workers_per_trial=workers, max_concurrent_trials=2,
                max_retries=20,
            )  # fmt: skip
            store = Store(self.folder / f"{number}").make()
            records = search(experiment(AUDIO_SECONDS, 3 - workers), self.manifest, place, store).records
            for record in records:
                losses = tuple(report["valid_loss"] for report in record.reports)
                self.curves.add((f"{workers} {record.trial}", losses))
            self.trials += records
            number += 1
        for thread in threads:
            thread.join()

    def _kill(self) -> None:
        drawn = random.Random(0)  # noqa: S311
        while self._wait(drawn.uniform(*self.pause)):
            found = self.cluster.processes(*WORK)
            with suppress(psutil.Error):
                if found:
                    drawn.choice(found).kill()
                    self.kills += 1

    def _look(self) -> None:
        begin = time.monotonic()
        while self._wait(60 - (time.monotonic() - begin) % 60):
            self.lines.append(look(self.cluster))
            told = "; ".join(
                f"{name} {one.megabytes:.0f} MB, {one.files} files, {one.threads} threads, {one.processes} processes"
                for name, one in self.lines[-1].items()
            )
            minutes = (time.monotonic() - begin) / 60
            print(f"{minutes:4.0f} min, {len(self.trials)} trials, {self.kills} kills: {told}", flush=True)

    def _wait(self, seconds: float) -> bool:
        """Wait so long; whether there is time left."""
        left = self.end - time.monotonic()
        time.sleep(max(0.0, min(seconds, left)))
        return time.monotonic() < self.end


def main() -> None:
    """Run it, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--pause", type=float, nargs=2, default=PAUSE_SECONDS, metavar=("FEWEST", "MOST"))
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    faulthandler.dump_traceback_later(seconds + LAST_SEARCH_SECONDS, exit=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    recipe = load_recipe("quickstart", ["options={minutes: 1, piece_seconds: 3}", "clip_seconds=3"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_shards(recipe, "quickstart", Store(folder / "store").make())
        with small_cluster() as cluster, ray_running(Place(name="soak", ray_address=cluster.address)):
            soak = Soak(cluster, manifest, folder, seconds, tuple(arguments.pause))
            soak.run()
        states = {record.state for record in soak.trials}
        retries = sum(record.retries for record in soak.trials)
    found = grown(soak.lines)
    if len(soak.curves) > len({name for name, _ in soak.curves}):
        found.append("the number of curves of a trial")
    print(f"{len(soak.trials)} trials, all {' or '.join(sorted(states))}, {retries} retries, {soak.kills} kills")
    print(f"grew: {'; '.join(found)}" if found else "nothing grew")
    sys.exit(bool(found) or states != {"finished"})


if __name__ == "__main__":
    main()
