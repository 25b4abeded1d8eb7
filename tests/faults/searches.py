"""One search of the faults' tests, and what must hold of it at its end.

search = Search(cluster, manifest, folder, workers=1, trials=2).start()
search.wait_for_reports(2)
assert search.wait() == 0
check_as_undisturbed(search, expected)
"""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file
from small_cluster import SmallCluster

from vimss.search.study import TrialRecord, read_study
from vimss.shards.manifest import Manifest

SCRIPT = Path(__file__).with_name("small_search.py")
SEARCH_SECONDS = 600.0
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
    options: dict[str, Any] = field(default_factory=dict)
    """Of the place, beside the workers of a trial."""
    process: subprocess.Popen[str] | None = None

    def start(self) -> "Search":
        """Run the command."""
        self.folder.mkdir(exist_ok=True)
        place = {"workers_per_trial": self.workers, "max_concurrent_trials": 2, **self.options}
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

    def events(self, *kinds: str) -> list[list[Any]]:
        """All events of some kinds, of all calls; a killed process may leave half a line."""
        path = self.folder / "events"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event[0] in kinds]

    def wait_for_reports(self, count: int) -> None:
        """Until each trial has so many: one without a checkpoint starts anew, as it must."""

        def reported() -> bool:
            counts = Counter(trial for _, trial, *_ in self.events("TrialReported"))
            return len(counts) == self.trials and min(counts.values()) >= count

        self._wait_until(reported)

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + SEARCH_SECONDS
        while not holds():
            assert self.process is not None and self.process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.05)

    def wait_for_progress(self) -> None:
        """Until a trial that was started again has come further than before."""
        self._wait_until(self._has_progressed)

    def _has_progressed(self) -> bool:
        starts: Counter[str] = Counter()
        furthest: dict[str, float] = {}
        before: dict[str, float] = {}
        for kind, trial, audio_seconds, _ in self.events("TrialStarted", "TrialReported"):
            if kind == "TrialStarted":
                starts[trial] += 1
                before[trial] = furthest.get(trial, 0.0)
            elif starts[trial] > 1 and audio_seconds > before[trial]:
                return True
            else:
                furthest[trial] = max(audio_seconds, furthest.get(trial, 0.0))
        return False

    def wait(self) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(SEARCH_SECONDS)

    def output(self) -> str:
        """What the search printed last."""
        return (self.folder / "output").read_text(encoding="utf-8")[-3000:]

    def hit(self, name: str) -> list[psutil.Process]:
        """The processes that may meet a fault: Ray's of a name, or the search's own, "search"."""
        assert self.process is not None
        return [psutil.Process(self.process.pid)] if name == "search" else self.cluster.processes(name)

    def records(self) -> tuple[TrialRecord, ...]:
        """Of its trials, in the order of their draws."""
        (study,) = (self.folder / "store" / "studies").iterdir()
        return tuple(sorted(read_study(study).records, key=lambda record: record.trial))


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
    assert search.cluster.temporary_files() == []
