import errno
import fcntl
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vimss.config import parse_config, signature
from vimss.errors import StorageError
from vimss.experiment import Experiment
from vimss.search.lock import LOCK, is_locked, locked
from vimss.search.study import (
    RECORD,
    TrialRecord,
    cell_folder,
    in_cells,
    read_study,
    resolved_controls,
    study_folder,
    write_record,
)
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.storage import Store, kept_beside

AXES = {"training.batch_size": {"choices": [2, 4]}, "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
FIRST = {"training.batch_size": 4, "training.learning_rate": 3e-3}
SECOND = {"training.batch_size": 2, "training.learning_rate": 1e-3}


def experiment(**changes) -> Experiment:
    content = {"name": "x", "question": "?", "expected": "!", "shards": "quickstart", "tune": AXES, **changes}
    return parse_config(content, Experiment, "test")


def trained(folder: Path, by: Experiment, chosen: dict, state: str = "finished", cell: int = 0, loss: float = 0.0):
    """A trial of a cell as a search leaves it; controls inherit from the best trial before."""
    study = in_cells(by, read_study(folder))
    searched = [one for one in by.cells() if not one.is_control]
    one = by.cells()[cell]
    if one.is_control:
        one = resolved_controls(by, study.best(each.name for each in searched))[cell - len(searched)]
    settings = by.settings({**one.fixes, **chosen})
    home = folder / cell_folder(by, one) / signature(settings)
    record = TrialRecord(
        cell=one.name, trial=home.name, is_control=one.is_control, state=state, chosen=chosen, settings=settings,
        reports=({"audio_seconds": 1.0, "valid_loss": loss},), begun=time.time(), folder=home,
    )  # fmt: skip
    (home / "model").mkdir(parents=True)
    write_record(record)
    return record


def names(by: Experiment, folder: Path) -> dict[str, list[str]]:
    """The trials of each cell."""
    study = in_cells(by, read_study(folder))
    return {cell.name: [record.trial for record in study.of_cell(cell.name)] for cell in by.cells()}


@pytest.mark.parametrize(
    "grown",
    [
        {
            "search": {
                "trials": 20,
                "scheduler": "asha",
                "grace_seconds": 9,
                "reduction_factor": 2,
                "first_trials": [FIRST],
            }
        },
        {"validation": {"mixtures": 48}},
        {"tune": {**AXES, "training.batch_size": {"choices": [8, 4, 2]}}},
        {"tune": {**AXES, "training.batch_size": {"low": 2, "high": 4}}},
        {"tune": {**AXES, "training.learning_rate": {"low": 1e-3, "high": 3e-3}}},
        {"tune": {**AXES, "training.learning_rate": {"choices": [0.001, 0.003]}}},
        {"tune": {**AXES, "model.upsampling": {"choices": ["learned", "linear"]}}},
        {"tune": {**AXES, "mixing.max_sources": {"low": 2, "high": 4}}},
        {"model": {"levels": 12}, "training": {"audio_seconds": 36000}},
        {"controls": {"plain": {"model.site": "none"}}},
        {"question": "What?", "expected": "?"},
    ],
    ids=lambda grown: "-".join(grown),
)
def test_a_search_that_grows_or_is_written_in_another_way_finds_what_was_trained(tmp_path, grown):
    before = [trained(tmp_path, experiment(), chosen).trial for chosen in (FIRST, SECOND)]
    assert names(experiment(**grown), tmp_path)["search"] == before


@pytest.mark.parametrize(
    ("compare", "cell"),
    [
        ({"model.upsampling": ["linear", "learned"]}, "upsampling=linear"),
        ({"model.upsampling": ["learned", "linear"], "seed": [0, 1]}, "upsampling=linear,seed=0"),
        ({"training.audio_seconds": [36000.0, 10000]}, "audio_seconds=36000.0"),
    ],
)
def test_another_axis_of_compare_finds_what_was_trained_in_the_cell_that_has_its_value(tmp_path, compare, cell):
    before = [trained(tmp_path, experiment(), chosen).trial for chosen in (FIRST, SECOND)]
    wider = names(experiment(compare=compare), tmp_path)
    assert wider.pop(cell) == before and not any(wider.values())


def test_trials_that_do_not_lie_in_the_cell_any_more_are_kept_and_count_again_when_they_do(tmp_path):
    first, second = (trained(tmp_path, experiment(), chosen).trial for chosen in (FIRST, SECOND))
    narrow = experiment(tune={**AXES, "training.batch_size": {"choices": [2, 8]}})
    assert names(narrow, tmp_path)["search"] == [second]
    assert len(read_study(tmp_path).records) == 2
    assert names(experiment(), tmp_path)["search"] == [first, second]


def test_another_budget_is_another_cell_of_the_same_study(tmp_path):
    longer = experiment(training={"audio_seconds": 72000})
    first, second = trained(tmp_path, experiment(), FIRST), trained(tmp_path, longer, FIRST)
    assert first.folder.parent != second.folder.parent and first.trial != second.trial
    assert names(experiment(), tmp_path)["search"] == [first.trial]
    assert names(longer, tmp_path)["search"] == [second.trial]


def test_a_conditional_axis_counts_only_where_its_condition_holds(tmp_path):
    op = {"choices": ["add", "concat"], "when": {"model.site": ["decoder"]}}
    by = experiment(tune={"model.site": {"choices": ["decoder", "none"]}, "model.op": op})
    chosen = {"model.site": "none"}, {"model.site": "decoder", "model.op": "add"}
    before = [trained(tmp_path, by, one).trial for one in chosen]
    study = in_cells(by, read_study(tmp_path))
    assert [record.trial for record in study.records] == before or len(study.records) == 2
    assert sorted(map(len, (record.chosen for record in study.records))) == [1, 2]
    without = experiment(tune={**by.model_dump()["tune"], "model.op": {**op, "choices": ["concat"]}})
    assert names(without, tmp_path)["search"] == before[:1]


def test_a_draw_that_goes_together_in_no_network_is_known_by_what_was_drawn(tmp_path):
    by = experiment()
    home = tmp_path / cell_folder(by, by.cells()[0])
    for name, state, chosen in (("a", "failed", FIRST), ("b", "finished", FIRST), ("c", "failed", {"model.op": "x"})):
        kept = {"cell": "search", "trial": name, "state": state, "chosen": chosen, "settings": None, "begun": 0}
        write_record(TrialRecord(**kept, folder=home / name))
    assert names(by, tmp_path)["search"] == ["a"]


def test_a_control_of_another_best_trial_is_kept_and_does_not_count(tmp_path):
    by = experiment(controls={"plain": {"model.site": "output"}})
    trained(tmp_path, by, FIRST, loss=-1.0)
    old = trained(tmp_path, by, {}, cell=1, loss=-0.5)
    assert names(by, tmp_path)["plain"] == [old.trial]
    trained(tmp_path, by, SECOND, loss=-2.0)
    assert names(by, tmp_path)["plain"] == []
    new = trained(tmp_path, by, {}, cell=1)
    assert names(by, tmp_path)["plain"] == [new.trial] != [old.trial] and old.folder.is_dir()


def test_a_control_is_no_draw_of_the_search_though_the_axes_allow_it(tmp_path):
    by = experiment(controls={"deep": {"training.batch_size": 2}})
    trained(tmp_path, by, FIRST)
    control = trained(tmp_path, by, {}, cell=1, loss=-9.0)
    assert [len(trials) for trials in names(by, tmp_path).values()] == [1, 1]
    renamed = experiment(controls={"small batches": {"training.batch_size": 2}, "other": {"model.site": "output"}})
    assert names(renamed, tmp_path)["small batches"] == [control.trial]


def test_a_control_with_the_settings_of_a_finished_trial_has_it_and_of_one_that_was_pruned_has_not(tmp_path):
    by = experiment(controls={"again": {}})
    trained(tmp_path, by, FIRST, state="finished")
    assert names(by, tmp_path)["again"] == names(by, tmp_path)["search"]
    trained(tmp_path, by, SECOND, state="pruned", loss=-9.0)
    smaller = experiment(controls={"again": SECOND})
    assert names(smaller, tmp_path)["again"] == []


def test_a_training_alone_is_kept_for_the_search_and_one_that_was_pruned_goes_on(tmp_path):
    by = experiment(training={"batch_size": 4, "learning_rate": 3e-3})
    alone = trained(tmp_path, by.without_search(), {})
    assert names(by, tmp_path)["search"] == [alone.trial]
    pruned = trained(tmp_path, by, SECOND, state="pruned")
    other = experiment(training={"batch_size": 2, "learning_rate": 1e-3}).without_search()
    assert names(other, tmp_path) == {"search": [pruned.trial]}


def manifest(**changes) -> Manifest:
    content = {"name": "quickstart", "signature": "s", "shards": (), "pieces": (), **changes}
    return Manifest(recipe=load_recipe("quickstart"), **content)


def test_a_study_is_its_data_and_its_validation_set():
    store, other = Store(Path("store")), manifest(name="other", signature="t")

    def folder(of: Manifest | None = None, **changes) -> str:
        return study_folder(experiment(**changes), of or manifest(), store).name

    same = folder()
    assert same == folder(tune={}, compare={"seed": [0, 1]}, training={"audio_seconds": 5000}, seed=3)
    assert same == folder(validation={"mixtures": 48, "seconds": 2.0}) != folder(validation={"seconds": 3})
    assert len({same, folder(manifest(signature="t")), folder(manifest(name="copy"))}) == 3
    mixed = [folder(manifest().mixed_with([(other, share)])) for share in (0.5, 0.25)]
    assert len({same, *mixed}) == 3


def test_earlier_studies_of_the_same_name_are_found_and_those_of_other_names_are_not(tmp_path):
    for name in ("x-0123456789", "x-abcdef0123", "x-y-0123456789", "x-0123", "xx-0123456789"):
        (tmp_path / name).mkdir()
    (tmp_path / "x-1111111111").touch()
    assert [path.name for path in kept_beside(tmp_path / "x-abcdef0123")] == ["x-0123456789"]
    assert kept_beside(tmp_path / "none" / "x-abcdef0123") == []


def test_records_of_other_versions_are_read_and_count_where_their_settings_are_known(tmp_path):
    by = experiment()
    fields, settings, both = (
        trained(tmp_path, by, {**SECOND, "training.learning_rate": rate}) for rate in (1e-3, 2e-3, 3e-3)
    )
    for record, more in ((fields, {"host": "a"}), (settings, {}), (both, {"host": "a", "is_control": None})):
        path = record.folder / RECORD
        content = {**json.loads(path.read_text()), **more}
        if record is not fields:
            content["settings"]["model"]["phase"] = True
        if content["is_control"] is None:
            del content["is_control"]
        path.write_text(json.dumps(content))
    assert len(read_study(tmp_path).records) == 3
    assert names(by, tmp_path)["search"] == [fields.trial]


def test_a_record_of_before_controls_and_adamw_had_their_names_is_the_same_trial(tmp_path):
    by = experiment(controls={"plain": {"model.site": "none"}})
    best = trained(tmp_path, by, SECOND)
    control = trained(tmp_path, by, {}, cell=1)
    for record in (best, control):
        content = json.loads((record.folder / RECORD).read_text())
        content["baseline"] = content.pop("is_control")
        content["settings"]["training"]["optimizer"] = "adam"
        (record.folder / RECORD).write_text(json.dumps(content))
    assert sorted(read_study(tmp_path).records, key=lambda each: each.is_control) == [best, control]


def test_a_record_and_its_folders_keep_the_names_that_settings_had_first(tmp_path):
    tuned = {"mixing.remix_probability": {"low": 0.0, "high": 1.0}}
    by = experiment(mixing={"aligned_probability": 0.5}, tune=tuned)
    drawn = trained(tmp_path, by, {"mixing.remix_probability": 0.5})
    content = json.loads((drawn.folder / RECORD).read_text())
    mixing = content["settings"]["mixing"]
    for name in ("aligned", "absent", "silence", "remix"):
        mixing[f"{name}_share"] = mixing.pop(f"{name}_probability")
    content["chosen"] = {"mixing.remix_share": 0.5}
    (drawn.folder / RECORD).write_text(json.dumps(content))
    assert read_study(tmp_path).records == (drawn,)
    assert (drawn.folder.parent.name, drawn.folder.name) == ("search-4f50fa0705", "588189e656")


def test_a_study_and_the_events_of_a_search_are_read_without_ray_and_torch():
    modules = "vimss.search.study, vimss.search.events, vimss.search.remaining"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('ray', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_study_that_is_searched_is_refused_with_the_name_of_the_process(tmp_path):
    code = (
        "from pathlib import Path; from vimss.search.lock import locked\n"
        f"with locked(Path({str(tmp_path / 'study')!r})): print('held', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        rule = rf"one process at a time may search the study study; got process {other.pid} on \S+ since .*--wait"
        with pytest.raises(StorageError, match=rule), locked(tmp_path / "study"):
            pass
        # A process that was killed lets go.
        other.kill()
    with locked(tmp_path / "study"):
        assert str(other.pid) not in (tmp_path / "study" / LOCK).read_text()


def test_a_second_search_that_waits_begins_when_the_first_has_ended(tmp_path):
    order, owners = [], []

    def second() -> None:
        with locked(tmp_path, owners.append):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        while not owners:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and owners[0].startswith("process ")


def test_a_look_whether_a_study_is_searched_refuses_no_search(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
    looking = (tmp_path / LOCK).open()
    fcntl.flock(looking, fcntl.LOCK_EX)
    threading.Timer(0.1, looking.close).start()
    with locked(tmp_path):
        pass
    assert not is_locked(tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    rule = r"must be on a file system with file locks; got No locks available"
    with pytest.raises(StorageError, match=rule), locked(tmp_path):
        pass


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_does_not_change_the_order_of_trials(tmp_path, monkeypatch, jump):
    clock = time.time
    for number in range(3):
        if number == 1:
            monkeypatch.setattr(time, "time", lambda: clock() + jump)
        folder = tmp_path / "cell" / f"{9 - number}"
        state = {"cell": "c", "state": "finished", "chosen": {}, "settings": None}
        position = next(read_study(tmp_path).events())
        write_record(TrialRecord(trial=folder.name, begun=time.time(), drawn_at=position, folder=folder, **state))
        monkeypatch.setattr(time, "time", clock)
    assert [record.trial for record in read_study(tmp_path).of_cell("c")] == ["9", "8", "7"]
