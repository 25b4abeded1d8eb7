"""A search that was killed after any event and resumed decides as one that was never killed.

The searcher, the scheduler and the records are the real ones; in Tune's place a loop calls them in Tune's order, and
trials are functions of their settings and audio seconds. Two trials at once report in the order that was recorded.
"""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray._private.dict import flatten_dict
from ray.tune.search import Searcher
from test_search import SMALL, experiment

from vimss.experiment import Experiment
from vimss.runtime import Place
from vimss.search.cells import PrunedCell, TopKCell
from vimss.search.events import TrialEnded
from vimss.search.launch import RecordScheduler
from vimss.search.observer import Observer
from vimss.search.run import search
from vimss.search.running import RunningStudy
from vimss.search.sampler import SAMPLERS, Space, draws
from vimss.search.schedulers import SCHEDULERS
from vimss.search.study import RECORD, read_study
from vimss.search.trial import RUNG, TrialPlan, for_tune
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.storage import Store
from vimss.train.config import reaches

REPORT_SECONDS = 4.0
BUDGET = 16.0
FAILS = "bottleneck"
"""Trials with this site fail after their second report; those with `none` go together in no network."""

MANIFEST = Manifest(recipe=load_recipe("quickstart"), name="quickstart", signature="s", shards=(), pieces=())

Disk = dict[Path, str]
"""The records on disk: the path in the study, and the text."""


@dataclass(eq=False)
class Trial:
    """What Tune tells its callbacks of a trial."""

    trial_id: str
    config: dict[str, Any]
    pickled_error_file: None = None
    error_file: None = None


def small(sampler: str, scheduler: str, trials: int = 4) -> Experiment:
    """A search of a few trials, in which every scheduler prunes one and some draws fail."""
    rates: dict[str, Any] = {"low": 1e-4, "high": 1e-1, "log": True}
    search: dict[str, Any] = {"trials": trials, "sampler": sampler, "scheduler": scheduler}
    search |= {} if scheduler == "none" else {"grace_seconds": 4}
    search |= {"asha": {"reduction_factor": 2}, "top_k": {"keep": 1}}.get(scheduler, {})
    return experiment(
        training={**SMALL["training"], "audio_seconds": BUDGET, "report_seconds": REPORT_SECONDS},
        tune={
            "model.site": {"choices": ["none", "decoder", "bottleneck", "output", "every_layer"]},
            "training.learning_rate": {"choices": [1e-4, 1e-3, 1e-2]} if sampler == "grid" else rates,
        },
        search={
            **search,
            "first_trials": [{"model.site": FAILS, "training.learning_rate": 1e-3}, {"model.site": "none"}],
        },
        controls={},
    )


def loss(chosen: dict[str, Any], audio_seconds: float) -> float:
    """The better the nearer the learning rate is to 0.003, and falling."""
    at = {"decoder": 0.0, "output": 1.0, "bottleneck": 0.5, "every_layer": 0.2}[chosen["model.site"]]
    return (math.log10(chosen["training.learning_rate"]) + 2.5) ** 2 + at + 2.0 / audio_seconds


class SmallTune:
    """What Tune does in a search of one cell, with `at_once` trials at once."""

    def __init__(self, by: Experiment, folder: Path, at_once: int, watch: Callable[[], None]) -> None:
        self.watch = watch
        place = Place(name="test")
        self.running = RunningStudy(by, MANIFEST, place, folder, [lambda _: watch()])
        (cell,) = by.cells()
        self.cell = (TopKCell if by.search.scheduler == "top_k" else PrunedCell)(self.running, cell)
        self.searcher, self.most = self.cell.searcher()
        plan = TrialPlan(by, {cell.name: cell}, folder, (), place, folder)
        prune = getattr(self.cell, "rung_of", lambda _: None)
        self.observer = Observer(plan, self.running.reporters, "a set", self.running.positions, prune)
        self.scheduler = RecordScheduler(self.observer.take_report)
        self.at_once = at_once
        self.active: dict[str, Trial] = {}

    def search(self, recorded: list[tuple[str, int]]) -> None:
        """Search to the end, with reports in the order that was recorded; else in an order that mixes them."""
        known = {(name, steps) for name, steps in reports_of(self.running.folder)}
        left = [report for report in recorded if report not in known]
        for count in itertools.count():
            self.fill()
            if not self.active:
                return
            waiting = {self.observer.records[name].trial: trial for name, trial in self.active.items()}
            name = left.pop(0)[0] if left else list(waiting)[(5 * count + count // 3) % len(waiting)]
            self.advance(waiting[name])

    def fill(self) -> None:
        """Begin what the searcher suggests while there is room."""
        while len(self.active) < self.at_once and self.most:
            name = f"t{self.most}"
            config = self.searcher.suggest(name)
            self.watch()
            if config is None or config == Searcher.FINISHED:
                return
            self.most -= 1
            trial = self.active[name] = Trial(name, config)
            self.observer.on_trial_start(0, [], trial)
            self.watch()
            if self.observer.records[name].reports:
                # From its checkpoint, whose report it repeats.
                self.report(trial, self.observer.records[name].reports[-1]["audio_seconds"])

    def advance(self, trial: Trial) -> None:
        reports = self.observer.records[trial.trial_id].reports
        self.report(trial, REPORT_SECONDS + (reports[-1]["audio_seconds"] if reports else 0.0))

    def report(self, trial: Trial, seconds: float) -> None:
        """One report, and the end of the trial where it is at its end."""
        chosen = {key: value for key, value in trial.config.items() if key != RUNG}
        metrics = {"audio_seconds": seconds, "steps": seconds, "valid_loss": loss(chosen, seconds)}
        result = flatten_dict(for_tune(metrics, self.running.experiment.figure))
        stops = self.scheduler.on_trial_result(None, trial, result) == self.scheduler.STOP
        self.watch()
        fails = chosen["model.site"] == FAILS and seconds >= 2 * REPORT_SECONDS
        if fails:
            self.searcher.on_trial_complete(trial.trial_id, error=True)
            self.observer.on_trial_error(0, [], trial)
        elif stops or reaches(seconds, BUDGET) or reaches(seconds, trial.config.get(RUNG, math.inf)):
            self.searcher.on_trial_complete(trial.trial_id, result)
            self.observer.on_trial_complete(0, [], trial)
        else:
            return
        del self.active[trial.trial_id]
        self.watch()


def disk(folder: Path) -> Disk:
    return {path.relative_to(folder): path.read_text() for path in sorted(folder.glob(f"*/*/{RECORD}"))}


def restore(files: Disk, folder: Path) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def reports_of(folder: Path) -> list[tuple[str, int]]:
    """The trial and the steps of each report, in the order in which they came."""
    found = [
        (position, record.trial, steps)
        for record in read_study(folder).records
        for steps, position in record.reported_at.items()
    ]
    return [(trial, steps) for _, trial, steps in sorted(found)]


def table(folder: Path) -> list[tuple[Any, ...]]:
    """All that a search decided: draws, their order and seeds, ends, rungs, and the reports that were made."""
    return [
        (record.trial, record.number, record.draw_seed, record.chosen, record.state, record.rung, record.reports)
        for record in read_study(folder).of_cell("search")
    ]


def undisturbed(by: Experiment, folder: Path, at_once: int) -> list[Disk]:
    """A whole search; the records on disk after each of its events."""
    seen: list[Disk] = []

    def watch() -> None:
        now = disk(folder)
        if not seen or seen[-1] != now:
            seen.append(now)

    SmallTune(by, folder, at_once, watch).search([])
    return seen


def check_every_kill(by: Experiment, folder: Path, at_once: int, stride: int = 1) -> int:
    """Kill the search after every event, or every `stride`th, and resume it; return how many there were."""
    whole = folder / "whole"
    seen = undisturbed(by, whole, at_once)
    expected, recorded = table(whole), reports_of(whole)
    for number, files in enumerate([{}, *seen][::stride]):
        again = folder / str(number)
        restore(files, again)
        SmallTune(by, again, at_once, lambda: None).search(recorded)
        assert table(again) == expected, f"killed after event {number * stride}"
        assert reports_of(again) == recorded
    return len(seen)


@pytest.mark.rare
@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_was_killed_after_any_event_decides_as_one_that_was_not(tmp_path, sampler, scheduler, at_once):
    by = small(sampler, scheduler)
    assert check_every_kill(by, tmp_path, at_once) > 4 * by.search.trials


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", pytest.param("top_k", marks=pytest.mark.rare)])
def test_a_small_search_that_was_killed_decides_as_one_that_was_not(tmp_path, scheduler):
    check_every_kill(small("tpe", scheduler, trials=3), tmp_path, at_once=2, stride=3)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "sampler", ["tpe", *(pytest.param(name, marks=pytest.mark.rare) for name in list(SAMPLERS)[1:])]
)
def test_every_decision_of_a_search_can_be_made_again_from_its_records(tmp_path, sampler, scheduler):
    by = small(sampler, scheduler)
    undisturbed(by, tmp_path, at_once=2)
    records = read_study(tmp_path).of_cell("search")
    space, counted = Space(by.tune, by.figure, by.search, by.seed), [each for each in records if each.counts]
    assert [each.number for each in counted] == list(range(by.search.trials))
    for record in counted:
        before = [each.as_of(record.drawn_at) for each in records if each.drawn_at < record.drawn_at]
        drawn = itertools.islice(draws(space, record.number, before), 10)
        assert record.chosen in [draw.chosen for draw in drawn if draw.seed == record.draw_seed]
    for trial in counted:
        for report in trial.reports:
            position = trial.position_of(report)
            others = [each.as_of(position) for each in counted if each is not trial and each.drawn_at < position]
            rung = SCHEDULERS[scheduler](trial.as_of(position + 1), others, by.search)
            if not reaches(report["audio_seconds"], BUDGET) and scheduler != "top_k":
                assert rung == (trial.rung if report is trial.reports[-1] else None)


def test_a_trial_that_failed_is_tried_again_by_the_same_command_and_no_other_takes_its_place(tmp_path):
    by = small("random", "none", trials=2)
    undisturbed(by, tmp_path, at_once=1)
    before = table(tmp_path)
    events: list[Any] = []
    tune = SmallTune(by, tmp_path, 1, lambda: None)
    tune.running.reporters = (events.append,)
    tune.observer.reporters = (events.append,)
    tune.search([])
    failed = [row[0] for row in before if row[3]["model.site"] == FAILS]
    assert failed and [event.trial for event in events if isinstance(event, TrialEnded)] == failed
    assert table(tmp_path) == before


KILLED = """
import json, os, signal
from pathlib import Path
from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.runtime import Place, ray_running
from vimss.search.run import search
from vimss.shards.manifest import open_manifest
from vimss.storage import Store

seen = []

def kill(event):
    seen.append(type(event).__name__)
    if seen.count("TrialReported") == 4:
        os.kill(os.getpid(), signal.SIGKILL)

place = Place(name="test", max_concurrent_trials=1)
experiment = parse_config({**json.loads(CONTENT), "name": "small"}, Experiment, "test")
with ray_running(place, num_cpus=2):
    search(experiment, open_manifest(Path(SHARDS)), place, Store(Path(STORE)), [kill])
"""


@pytest.mark.slow
def test_a_search_on_ray_that_was_killed_in_the_middle_decides_as_one_that_was_not(
    shared_ray, small_manifest, tmp_path
):
    """Four trials, one at a time; the driver is killed right after the fourth report was kept."""
    search_config = {"trials": 4, "scheduler": "asha", "grace_seconds": 4, "reduction_factor": 2}
    by, place = experiment(search=search_config, controls={}), Place(name="test", max_concurrent_trials=1)
    killed, whole = Store(tmp_path / "killed").make(), Store(tmp_path / "whole").make()
    words = {"CONTENT": json.dumps(by.model_dump(mode="json")), "SHARDS": str(small_manifest.folder)}
    words["STORE"] = str(killed.root)
    script = "".join(f"{name} = {value!r}\n" for name, value in words.items()) + KILLED
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    resumed, expected = (search(by, small_manifest, place, store) for store in (killed, whole))
    decided = [
        [(each.trial, each.number, each.draw_seed, each.state, each.rung, len(each.reports)) for each in study.records]
        for study in (resumed, expected)
    ]
    assert decided[0] == decided[1] and {each.state for each in expected.records} == {"finished", "pruned"}
    assert reports_of(resumed.folder) == reports_of(expected.folder)
