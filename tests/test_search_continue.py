"""`vimss search --continue`: one trial that stopped goes on to its whole budget."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_search import experiment
from test_search_resume import BUDGET, FAILS, SmallTune, small, table

from vimss import api
from vimss.console import SearchLines
from vimss.errors import ConfigError, TrainingError
from vimss.runtime import Place
from vimss.search.events import CellEnded, CellStarted, TrialEnded, TrialReplayed, TrialReported, TrialStarted
from vimss.search.run import continue_trial, search
from vimss.search.stopped import stopped_trial
from vimss.search.study import Study, TrialRecord, in_cells, read_study, write_record
from vimss.session import Session
from vimss.storage import Store
from vimss.train.distribute import Job, fit
from vimss.train.own_copy import CHECKPOINTS

ONE = Place(name="test", max_concurrent_trials=1)
GOOD = {"training.batch_size": 4, "training.learning_rate": 3e-3}
BAD = {"training.batch_size": 4, "training.learning_rate": 1e-4}
PRUNES = {"trials": 2, "scheduler": "asha", "grace_seconds": 4, "reduction_factor": 2, "first_trials": [GOOD, BAD]}


def stopped(trial: str, state: str, **more) -> TrialRecord:
    return TrialRecord(cell="search", trial=trial, state=state, chosen={}, settings=None, begun=0.0, **more)


STUDY = Study(
    Path("/store/studies/small-1234"),
    (
        stopped("aab1", "pruned"),
        stopped("aac2", "interrupted"),
        stopped("bb", "finished"),
        stopped("bbc3", "failed"),
        stopped("dd", "failed", is_refused=True, message="op must have a site"),
    ),
)


@pytest.mark.parametrize(
    ("name", "found"), [("aab1", "aab1"), ("aab", "aab1"), ("aac", "aac2"), ("bbc", "bbc3")]
)  # fmt: skip
def test_a_trial_is_found_by_its_name_or_how_it_begins(name, found):
    assert stopped_trial(experiment(), STUDY, name).trial == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "zz",
            "--continue must name a trial of the experiment 'small' by its folder in small-1234; got 'zz'. To fix: "
            "choose from aab1 (search, pruned), aac2 (search, interrupted), bbc3 (search, failed)",
        ),
        (
            "aa",
            "--continue must name one trial; got 'aa', as aab1 (search, pruned), aac2 (search, interrupted) begin. "
            "To fix: write more of its name",
        ),
        (
            "bb",
            "--continue must name a trial that has not finished; got bb, which was trained to its end. To fix: leave "
            "it out; another training.audio_seconds makes other trials",
        ),
        (
            "dd",
            "--continue must name a trial that can be trained; got dd, a draw that was refused: op must have a site. "
            "To fix: choose another trial",
        ),
    ],
)
def test_a_name_that_is_unknown_ambiguous_finished_or_refused_is_an_error(name, message):
    with pytest.raises(ConfigError) as error:
        stopped_trial(experiment(), STUDY, name)
    assert str(error.value) == message


def test_where_no_trial_has_stopped_the_error_says_so():
    whole = Study(STUDY.folder, (stopped("bb", "finished"),))
    with pytest.raises(ConfigError, match="To fix: leave it out: none of its trials has stopped"):
        stopped_trial(experiment(), whole, "zz")


def test_an_error_lists_only_some_of_many_trials():
    many = Study(STUDY.folder, tuple(stopped(f"a{number}", "pruned") for number in range(20)))
    with pytest.raises(ConfigError, match=r"a11 \(search, pruned\) and 8 more begin"):
        stopped_trial(experiment(), many, "a")


def test_nothing_starts_and_a_trial_continues_are_not_asked_together(vimss_says):
    code, _, err = vimss_says("search", "quickstart", "--dry-run", "--continue", "ab")
    assert code == 2
    assert (
        "vimss search takes --dry-run or --continue; got --dry-run and --continue ab. To fix: remove one of them" in err
    )


def test_the_time_left_is_that_of_the_trial_alone(capsys):
    said: list[str] = []
    lines = SearchLines(said.append, experiment(), is_whole=False)
    lines(TrialStarted("search", "a", None, {}))
    lines(TrialReported("search", "a", 8.0, {"valid_loss": -1.0, "audio_seconds_per_second": 1.0}))
    assert said[-1].endswith("about 4 seconds of the trial left")


def interrupted_again(scheduler: str, folder: Path, reports: int | None = None) -> TrialRecord:
    """A search that is over, in whose folder a pruned trial was continued and interrupted after so many reports."""
    SmallTune(small("random", scheduler, trials=6), folder, 1, lambda: None).search([])
    records = read_study(folder).of_cell("search")
    pruned = next(one for one in records if one.state == "pruned" and one.chosen["model.site"] != FAILS)
    begun = {"is_continued": True, "state": "interrupted", "rung": None, "reports": pruned.reports[:reports]}
    write_record(pruned.model_copy(update=begun))
    return pruned


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", pytest.param("median", marks=pytest.mark.rare), "top_k"])
def test_a_search_finishes_a_continued_trial_that_was_interrupted_and_prunes_it_no_more(tmp_path, scheduler):
    pruned = interrupted_again(scheduler, tmp_path)
    others = [row for row in table(tmp_path) if row[0] != pruned.trial]
    SmallTune(small("random", scheduler, trials=6), tmp_path, 1, lambda: None).search([])
    (record,) = [one for one in read_study(tmp_path).of_cell("search") if one.trial == pruned.trial]
    assert (record.state, record.rung, record.is_continued) == ("finished", None, True)
    assert record.reports[-1]["audio_seconds"] == BUDGET and record.reports[: len(pruned.reports)] == pruned.reports
    assert [row for row in table(tmp_path) if row[0] != pruned.trial] == others


@pytest.mark.rare
def test_with_top_k_one_that_was_interrupted_before_the_rung_goes_beyond_it(tmp_path):
    pruned = interrupted_again("top_k", tmp_path, reports=0)
    SmallTune(small("random", "top_k", trials=6), tmp_path, 1, lambda: None).search([])
    (record,) = [one for one in read_study(tmp_path).of_cell("search") if one.trial == pruned.trial]
    assert record.state == "finished" and record.reports[-1]["audio_seconds"] == BUDGET


def test_a_continued_trial_counts_among_the_best_only_when_it_has_finished(tmp_path):
    (tmp_path / "model").mkdir()

    def with_weights(trial: str, state: str, loss: float, is_continued: bool = False) -> TrialRecord:
        reports = ({"steps": 1.0, "audio_seconds": 4.0, "valid_loss": loss},)
        return stopped(trial, state, folder=tmp_path, reports=reports, is_continued=is_continued)

    def best(*records: TrialRecord) -> str:
        return Study(STUDY.folder, records).best(["search"]).trial

    pruned = with_weights("a", "pruned", -1.0)
    assert best(pruned, with_weights("b", "interrupted", -9.0)) == "b"
    for state in ("running", "interrupted", "waiting"):
        assert best(pruned, with_weights("b", state, -9.0, is_continued=True)) == "a"
    assert best(pruned, with_weights("b", "finished", -9.0, is_continued=True)) == "b"


@pytest.fixture(scope="module")
def continued(shared_ray, small_manifest, tmp_path_factory):
    """Store, the pruned trial, the study after it went on, and the events of that."""
    store = Store(tmp_path_factory.mktemp("continued"))
    chosen = experiment(search=PRUNES, controls={})
    events: list = []
    before = search(chosen, small_manifest, ONE, store)
    (pruned,) = [record for record in before.records if record.state == "pruned"]
    study = continue_trial(chosen, small_manifest, ONE, store, pruned.trial[:6], [events.append])
    return store, pruned, study, events


@pytest.mark.slow
def test_a_pruned_trial_that_continues_ends_as_one_that_was_trained_alone(continued, small_manifest, tmp_path):
    _, pruned, study, _ = continued
    (record,) = [record for record in study.records if record.trial == pruned.trial]
    assert (pruned.reports[-1]["audio_seconds"] < 12, pruned.rung, record.state, record.rung) == (
        True,
        4,
        "finished",
        None,
    )
    alone: list = []
    validation = experiment().validation
    fit(Job(tmp_path, record.settings, validation, small_manifest.folder, (), Place(name="test")), alone.append)
    assert [report["valid_loss"] for report in record.reports] == [report["valid_loss"] for report in alone]
    newest = sorted((tmp_path / CHECKPOINTS).glob("step_*"))[-1].name
    one, other = (load_file(path / CHECKPOINTS / newest / "state.safetensors") for path in (record.folder, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_it_stays_the_same_trial_of_its_cell_and_no_other_one_starts(shared_ray, continued, small_manifest):
    store, pruned, study, events = continued
    assert [(record.number, record.draw_seed, record.state) for record in study.of_cell("search")] == [
        (record.number, record.draw_seed, "finished") for record in sorted(study.records, key=lambda one: one.number)
    ]
    kinds = [type(event) for event in events if getattr(event, "trial", "") == pruned.trial]
    assert kinds[0] is TrialStarted and kinds[-1] is TrialEnded and kinds.count(TrialStarted) == 1
    assert type(events[0]) is CellStarted and type(events[-1]) is CellEnded
    others = {event.trial for event in events if isinstance(event, TrialReplayed)}
    assert others == {one.trial for one in study.of_cell("search")} - {pruned.trial}
    assert [record.trial for record in study.records if record.is_continued] == [pruned.trial]
    again = search(experiment(search=PRUNES, controls={}), small_manifest, ONE, store)
    assert again == study


@pytest.mark.rare
def test_a_control_that_was_interrupted_continues_with_what_it_inherits(
    shared_ray, continued, small_manifest, tracking
):
    store, *_ = continued
    chosen = experiment(search=PRUNES)
    whole = search(chosen, small_manifest, ONE, store)
    (plain,) = whole.of_cell("plain")
    write_record(plain.model_copy(update={"state": "interrupted", "message": "lost"}))
    session = Session(ONE, store, tracking)
    found = api.continue_trial(session, chosen, small_manifest, plain.trial)
    (record,) = found.of_cell("plain")
    assert (record.state, record.reports, record.settings) == ("finished", plain.reports, plain.settings)


@pytest.mark.rare
def test_one_that_does_not_finish_is_an_error_with_its_reason(continued, small_manifest, tracking):
    store, pruned, study, _ = continued
    chosen = experiment(search=PRUNES, controls={})
    (record,) = [record for record in study.records if record.trial == pruned.trial]
    for folder in (record.folder / CHECKPOINTS).glob("step_*"):
        (folder / "state.json").unlink()
    (record.folder / CHECKPOINTS).rename(record.folder / "away")
    (record.folder / CHECKPOINTS).write_text("a file in the way")
    write_record(record.model_copy(update={"state": "interrupted"}))
    with pytest.raises(TrainingError, match=f"trial {record.trial} must be trained to its"):
        api.continue_trial(Session(ONE, store, tracking), chosen, small_manifest, record.trial)
    (failed,) = [one for one in in_cells(chosen, read_study(study.folder)).records if one.trial == record.trial]
    assert failed.state == "failed" and failed.number == record.number
