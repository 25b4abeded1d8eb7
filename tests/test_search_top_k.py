"""One round of successive halving: what goes on is a function of the records, and resuming loses nothing."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ray.tune.search import Searcher
from safetensors.torch import load_file
from test_search import SMALL, experiment

from vimss.api import check_finished
from vimss.errors import StorageError, TrainingError
from vimss.experiment import SearchConfig
from vimss.model.separator import load_separator
from vimss.runtime import Place
from vimss.search.draws import DeduplicatingSearcher
from vimss.search.events import TrialContinues, TrialEnded, TrialReplayed, TrialReported, TrialStarted, TrialWaits
from vimss.search.run import search
from vimss.search.sampler import Space, optuna_study
from vimss.search.study import TrialRecord, read_study, write_record
from vimss.search.top_k import Rung, TopK, choose, value_at_rung
from vimss.search.trial import RUNG
from vimss.shards.manifest import Manifest
from vimss.storage import Store
from vimss.train.distribute import Job, fit
from vimss.train.objectives import figure_of
from vimss.train.own_copy import CHECKPOINTS


def record(
    trial: str, *losses: float, state: str = "waiting", begun: float = 0.0, folder: Path = Path()
) -> TrialRecord:
    """A trial with a report every 4 audio seconds."""
    reports = [{"audio_seconds": 4.0 * number, "valid_loss": loss} for number, loss in enumerate(losses, start=1)]
    return TrialRecord(
        cell="search", trial=trial, state=state, chosen={}, settings=None, reports=reports, begun=begun, folder=folder
    )


def test_a_trial_that_was_scored_again_is_at_the_rung_that_it_reached_before():
    """One report is left of it, of its best weights, which may be from before the rung."""
    again = record("a", -1.0, -3.0, -2.0, state="pruned").moved_to(
        "larger", [{"audio_seconds": 8.0, "valid_loss": -2.5}]
    )
    assert value_at_rung(again, 12.0) == -2.5
    # Pruned at an earlier rung, it has not been to this one.
    assert value_at_rung(again, 16.0) is None and value_at_rung(record("b", -1.0, state="pruned"), 8.0) is None


def names(chosen: tuple[list[TrialRecord], list[TrialRecord]]) -> tuple[list[str], list[str]]:
    going_on, pruned = chosen
    return [each.trial for each in going_on], [each.trial for each in pruned]


def test_the_loss_at_the_rung_is_the_lowest_up_to_the_first_report_there():
    assert value_at_rung(record("a", -1.0, -3.0, -2.0, -9.0), rung=11.0) == -3.0
    assert value_at_rung(record("a", -1.0), rung=4.0 + 1e-12) == -1.0
    assert value_at_rung(record("a", -1.0), rung=5.0) is None and value_at_rung(record("a"), rung=4.0) is None


def test_a_trial_that_ended_by_itself_before_the_rung_has_its_lowest_loss():
    assert value_at_rung(record("a", -2.0, -1.0, state="finished"), rung=12.0) == -2.0
    assert value_at_rung(record("a", state="finished"), rung=12.0) == math.inf


def test_the_best_go_on_and_the_others_are_pruned_in_whatever_order_they_are_listed():
    records = [record("a", -1.0), record("b", -3.0), record("c", -2.0), record("d", -4.0, -4.5, state="interrupted")]
    for order in itertools.permutations(records):
        going_on, pruned = names(choose(order, rung=4.0, keep=2))
        assert going_on == ["d", "b"] and sorted(pruned) == ["a", "c"]


def test_of_equal_losses_the_one_that_was_drawn_first_goes_on():
    first, second = record("z", -1.0, begun=1.0), record("a", -1.0, begun=2.0)
    assert names(choose([second, first], rung=4.0, keep=1)) == (["z"], ["a"])


def test_what_a_trial_reached_beyond_the_rung_does_not_count():
    gone_on, waiting = record("a", -1.0, -9.0, state="interrupted"), record("b", -2.0)
    assert names(choose([gone_on, waiting], rung=4.0, keep=1)) == (["b"], ["a"])


@pytest.mark.parametrize(("others", "sure"), [(0, ["b", "c"]), (1, ["b"]), (2, []), (5, [])])
def test_while_others_are_on_their_way_only_those_go_on_that_are_sure_to_be_among_the_best(others, sure):
    known = [record("a", -1.0), record("b", -3.0), record("c", -2.0)]
    going_on, pruned = names(choose(known, rung=4.0, keep=2, others=others))
    assert going_on == sure and (pruned == ["a"]) == (others == 0)
    late = [record(f"late{number}", -10.0) for number in range(others)]
    assert set(sure) <= set(names(choose([*known, *late], rung=4.0, keep=2))[0])


def test_a_trial_that_was_lost_before_the_rung_is_waited_for():
    lost = record("lost", state="interrupted")
    assert names(choose([record("a", -1.0), record("b", -2.0), lost], rung=4.0, keep=1)) == ([], [])


def test_failed_trials_are_out_and_fewer_trials_than_may_go_on_all_do():
    failed = record("x", -9.0, state="failed")
    assert names(choose([failed, record("a", -1.0), record("b", -2.0)], rung=4.0, keep=3)) == (["b", "a"], [])


def test_a_finished_trial_takes_a_place_and_is_never_pruned():
    early = record("early", -5.0, state="finished")
    late = record("late", 5.0, state="finished")
    others = [record("a", -1.0), record("b", -2.0)]
    assert names(choose([early, late, *others], rung=8.0 - 4.0, keep=2)) == (["early", "b"], ["a"])


def test_more_trials_or_more_places_let_a_pruned_trial_go_on_where_it_is_among_the_best():
    records = [record("a", -2.0, state="pruned"), record("b", -3.0, -4.0, state="finished"), record("c", -1.0)]
    assert names(choose(records, rung=4.0, keep=2)) == (["b", "a"], ["c"])


class SmallTune:
    """What Tune does with a searcher, trial by trial, where the loss of a trial depends on what was chosen alone."""

    def __init__(self, folder: Path, keep: int, trials: int) -> None:
        self.folder = folder
        axes = experiment(tune={"training.batch_size": {"low": 1, "high": 64}}).tune
        config = SearchConfig(trials=trials, sampler="random", scheduler="top_k", grace_seconds=4.0, keep=keep)
        self.space = Space(axes, figure_of(), config, seed=0)
        self.draws = DeduplicatingSearcher(self.space, self.records, lambda draw: True)
        rung = Rung(4.0, keep, figure_of(), self.records, self._prune, lambda _: ())
        self.searcher = TopK(self.draws, rung, trials)
        self.running: dict[str, TrialRecord] = {}
        self.started = 0

    def records(self) -> tuple[TrialRecord, ...]:
        return read_study(self.folder).of_cell("search")

    def start(self) -> str | None:
        """Begin what the searcher suggests; its id where it suggests something."""
        name = f"t{self.started}"
        config = self.searcher.suggest(name)
        if config is None or config == Searcher.FINISHED:
            return config
        self.started += 1
        chosen = {key: value for key, value in config.items() if key != RUNG}
        trial = str(chosen["training.batch_size"])
        known = [each for each in read_study(self.folder).of_cell("search") if each.trial == trial]
        begun = known[0] if known else record(trial, begun=self.started, folder=self.folder / "search" / trial)
        self._keep(name, begun, state="running", chosen=chosen)
        return name

    def end(self, name: str, state: str) -> None:
        """Let a trial report and return, or fail."""
        kept = self.running.pop(name)
        result = {
            "audio_seconds": 4.0 * (len(kept.reports) + 1),
            "valid_loss": -float(kept.trial),
            "training_iteration": 1,
        }
        if state != "failed":
            reports = (*kept.reports, {key: result[key] for key in ("audio_seconds", "valid_loss")})
            kept = kept.model_copy(update={"reports": reports})
        self.searcher.on_trial_complete(name, None if state == "failed" else result, error=state == "failed")
        self._keep(name, kept, state=state)
        del self.running[name]

    def _keep(self, name: str, kept: TrialRecord, **update: object) -> None:
        self.running[name] = kept.model_copy(update=update)
        write_record(self.running[name])

    def _prune(self, waiting: TrialRecord) -> None:
        write_record(waiting.model_copy(update={"state": "pruned"}))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_in_which_trials_reach_the_rung_does_not_change_which_go_on(tmp_path, order):
    tune = SmallTune(tmp_path, keep=2, trials=4)
    begun = [tune.start() for _ in range(4)]
    assert tune.start() is None
    drawn = sorted(int(each.trial) for each in tune.running.values())
    gone_on = []
    for number in order:
        tune.end(begun[number], "waiting")
        while (name := tune.start()) is not None:
            gone_on.append(name)
            if len(gone_on) > 2:
                pytest.fail("more than `keep` trials went on")
    assert sorted(int(tune.running[name].trial) for name in gone_on) == drawn[2:]
    for name in gone_on:
        tune.end(name, "finished")
    assert tune.start() == Searcher.FINISHED
    states = {int(each.trial): each.state for each in read_study(tmp_path).records}
    assert [states[trial] for trial in drawn] == ["pruned", "pruned", "finished", "finished"]


def test_optuna_learns_the_loss_at_the_rung_of_every_trial_and_no_other(tmp_path):
    tune = SmallTune(tmp_path, keep=1, trials=2)
    for _ in range(2):
        tune.end(tune.start(), "waiting")
    tune.end(tune.start(), "finished")
    known = optuna_study(tune.space, tune.records()).trials
    assert [(each.state.name, each.value) for each in known] == [
        ("COMPLETE", -float(each.params["training.batch_size"])) for each in known
    ]
    assert len(known) == 2


def test_where_a_trial_fails_after_the_rung_the_next_best_goes_on(tmp_path):
    tune = SmallTune(tmp_path, keep=1, trials=3)
    for _ in range(3):
        tune.end(tune.start(), "waiting")
    best = tune.start()
    failed = int(tune.running[best].trial)
    tune.end(best, "failed")
    second = tune.start()
    others = [int(each.trial) for each in read_study(tmp_path).records if each.trial != str(failed)]
    assert int(tune.running[second].trial) == max(others) < failed


def test_a_trial_that_fails_before_the_rung_leaves_the_choice_to_the_others(tmp_path):
    tune = SmallTune(tmp_path, keep=1, trials=3)
    begun = [tune.start() for _ in range(3)]
    tune.end(begun[0], "waiting")
    tune.end(begun[1], "waiting")
    assert tune.start() is None
    tune.end(begun[2], "failed")
    others = [int(each.trial) for each in read_study(tmp_path).records if each.state == "waiting"]
    assert int(tune.running[tune.start()].trial) == max(others)


def test_where_a_trial_is_lost_before_the_rung_the_search_ends_with_the_others_waiting(tmp_path):
    tune = SmallTune(tmp_path, keep=1, trials=3)
    begun = [tune.start() for _ in range(3)]
    tune.end(begun[0], "waiting")
    tune.end(begun[2], "waiting")
    assert tune.start() is None
    lost = tune.running.pop(begun[1])
    tune.searcher.on_trial_complete(begun[1], error=True)
    write_record(lost.model_copy(update={"state": "interrupted"}))
    assert tune.start() == Searcher.FINISHED
    assert sorted(each.state for each in read_study(tmp_path).records) == ["interrupted", "waiting", "waiting"]


def test_a_trial_that_is_lost_after_the_rung_keeps_its_place_and_is_not_begun_again_in_this_run(tmp_path):
    tune = SmallTune(tmp_path, keep=1, trials=2)
    for _ in range(2):
        tune.end(tune.start(), "waiting")
    best = tune.start()
    tune.end(best, "interrupted")
    assert tune.start() == Searcher.FINISHED
    assert sorted(each.state for each in read_study(tmp_path).records) == ["interrupted", "pruned"]


TOP_ONE = {"trials": 3, "scheduler": "top_k", "keep": 1, "grace_seconds": 4}

KILLED = """
import json, os, signal
from pathlib import Path
from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.search.events import TrialWaits
from vimss.runtime import Place, ray_running
from vimss.search.run import search
from vimss.shards.manifest import open_manifest
from vimss.storage import Store

waiting = []

def kill(event):
    if isinstance(event, TrialWaits):
        waiting.append(event)
    if len(waiting) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

place = Place(name="test", max_concurrent_trials=1)
experiment = parse_config({**json.loads(CONTENT), "name": "small"}, Experiment, "test")
with ray_running(place, num_cpus=2):
    search(experiment, open_manifest(Path(SHARDS)), place, Store(Path(STORE)), [kill])
"""


@pytest.fixture(scope="module")
def killed(shared_ray, small_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory):
    """A search that was killed while two of three trials waited, and what the same command made of it."""
    store = Store(tmp_path_factory.mktemp("killed"))
    chosen = experiment(search=TOP_ONE, controls={})
    words = {"CONTENT": json.dumps(chosen.model_dump(mode="json")), "SHARDS": str(small_manifest.folder)}
    words["STORE"] = str(store.root)
    script = "".join(f"{name} = {value!r}\n" for name, value in words.items()) + KILLED
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    before = read_study(next(store.studies.iterdir())).of_cell("search")
    events: list = []
    place = Place(name="test", max_concurrent_trials=1)
    study = search(chosen, small_manifest, place, store, [events.append])
    return before, study, events


@pytest.mark.rare
def test_a_search_that_was_killed_at_the_rung_goes_on_with_the_trials_that_waited(killed):
    before, study, _ = killed
    assert [each.state for each in before] == ["waiting", "waiting"]
    after = study.of_cell("search")
    assert [each.trial for each in after[:2]] == [each.trial for each in before] and len(after) == 3
    best = min(after, key=lambda each: each.reports[0]["valid_loss"])
    assert {each.trial: each.state for each in after} == {
        each.trial: "finished" if each is best else "pruned" for each in after
    }
    assert best.reports[-1]["audio_seconds"] >= 12 and all(len(each.reports) == 1 for each in after if each is not best)


@pytest.mark.rare
def test_an_error_while_trials_are_pruned_is_told_as_it_is_and_they_still_wait(shared_ray, small_manifest, tmp_path):
    """In Tune's searcher, which Tune asks for a trial: it would hide the error behind its own."""
    full = StorageError("the record must fit on the disk", got="0 MB free", fix="free some space")

    def fail(event):
        if isinstance(event, TrialEnded):
            raise full

    place, store = Place(name="test", max_concurrent_trials=1), Store(tmp_path)
    chosen = experiment(search={**TOP_ONE, "trials": 2}, controls={})
    with pytest.raises(StorageError, match="the record must fit on the disk; got 0 MB free"):
        search(chosen, small_manifest, place, store, [fail])
    study = search(chosen, small_manifest, place, store)
    assert sorted(each.state for each in study.records) == ["finished", "pruned"]


def test_a_cell_with_trials_that_wait_is_not_at_its_end(tmp_path):
    for trial, state in (("a", "finished"), ("b", "waiting")):
        write_record(record(trial, -1.0, state=state, folder=tmp_path / "search" / trial))
    with pytest.raises(TrainingError, match=r"got cell 'search': 1 finished, 1 waiting\. To fix: .*run the same"):
        check_finished(experiment(search=TOP_ONE, controls={}), read_study(tmp_path))


@pytest.mark.rare
def test_events_say_that_a_trial_waits_and_that_it_goes_on_or_is_pruned(killed):
    _, study, events = killed
    for each in study.of_cell("search"):
        kinds = [type(event) for event in events if getattr(event, "trial", "") == each.trial]
        kinds = [kind for kind in kinds if kind is not TrialReported]
        waited = [TrialReplayed] if each in study.of_cell("search")[:2] else [TrialStarted, TrialWaits]
        assert kinds == [*waited, *([TrialContinues] if each.state == "finished" else []), TrialEnded]


@pytest.mark.rare
def test_a_trial_that_went_on_has_the_weights_of_one_that_never_waited(killed, small_manifest, tmp_path):
    _, study, _ = killed
    waited = study.best(["search"])
    chosen = experiment(search=TOP_ONE, controls={})
    reports: list = []
    fit(
        Job(tmp_path, waited.settings, chosen.validation, small_manifest.folder, (), Place(name="test")), reports.append
    )
    assert [report["valid_loss"] for report in waited.reports] == [report["valid_loss"] for report in reports]
    newest = sorted((tmp_path / CHECKPOINTS).glob("step_*"))[-1].name
    one, other = (load_file(path / CHECKPOINTS / newest / "state.safetensors") for path in (waited.folder, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.rare
def test_every_trial_that_was_pruned_at_the_rung_has_its_weights(killed):
    _, study, _ = killed
    assert all(load_separator(each.folder / "model").labels for each in study.of_cell("search"))


@pytest.mark.rare
def test_draws_that_cannot_be_trained_and_trials_that_end_before_the_rung_do_not_hold_up_the_others(
    shared_ray, small_manifest, tmp_path
):
    """The first draw goes together in no network, the second loses its patience before the rung; two at once."""
    refused = {"model.site": "none", "training.learning_rate": 1e-3}
    slow = {"model.site": "decoder", "training.learning_rate": 1e-12}
    chosen = experiment(
        training={**SMALL["training"], "weight_decay": 0, "audio_seconds": 40, "patience_seconds": 8},
        tune={
            "model.site": {"choices": ["none", "decoder", "bottleneck"]},
            "training.learning_rate": {"choices": [1e-3, 1e-12]},
        },
        search={**TOP_ONE, "grace_seconds": 20, "first_trials": [refused, slow]},
        controls={},
    )
    study = search(chosen, small_manifest, Place(name="test"), Store(tmp_path))
    records = study.of_cell("search")
    state = {(each.chosen["model.site"], each.chosen["training.learning_rate"]): each.state for each in records}
    assert state["none", 1e-3] == "failed" and state["decoder", 1e-12] == "finished"
    assert set(state.values()) <= {"failed", "finished", "pruned"}
    assert sum(each.state != "failed" for each in records) == 3
    assert next(each for each in records if each.chosen == slow).reports[-1]["audio_seconds"] < 20
    (best,), _ = choose(records, rung=20.0, keep=1)
    assert best.state == "finished"
