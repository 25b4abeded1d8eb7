"""Cells that this machine can never train are left out of a search, which is whole without them."""

import pytest
from test_search import SMALL, experiment
from test_search_resume import MANIFEST

from vimss import api, report
from vimss.console import SearchLines
from vimss.errors import ConfigError, TrainingError
from vimss.experiment import Cell, Experiment
from vimss.runtime import Place
from vimss.runtime.place import JOB_VARIABLE
from vimss.search.events import CellsLeftOut, CellStarted
from vimss.search.left_out import left_out
from vimss.search.remaining import trainings_left
from vimss.search.run import search
from vimss.search.study import Study, TrialRecord, cell_folder, in_cells, read_study, study_folder, write_record
from vimss.search.trial import trial_name
from vimss.storage import Store
from vimss.train.validation import validation_spec

HERE = Place(name="test")
HALF = {"training.precision": "bfloat16"}
WHY = "training.precision: bfloat16 needs a device with bfloat16 units; got cpu, which has none"


@pytest.fixture(autouse=True)
def without_units(monkeypatch):
    """Cores that have none, whatever this machine is."""
    monkeypatch.setattr("vimss.train.device.has_bfloat16_units", lambda device: False)


def fixed(**changes) -> Experiment:
    """An experiment without axes: one cell and, unless it is changed, two controls in bfloat16."""
    return experiment(
        **{"tune": {}, "search": {}, "controls": {"half": HALF, "half, seed 1": {**HALF, "seed": 1}}, **changes}
    )


def finish(by: Experiment, cell: Cell, store: Store) -> None:
    """Write the record of a cell's training as if it had finished."""
    settings = by.settings(cell.fixes)
    folder = study_folder(by, MANIFEST, store) / cell_folder(by, cell) / trial_name(settings)
    (folder / "model").mkdir(parents=True)
    validation = validation_spec(MANIFEST, by.validation, by.objective).signature(MANIFEST)
    reports = ({"audio_seconds": 12.0, "steps": 24.0, "valid_loss": -1.0},)
    write_record(
        TrialRecord(
            cell=cell.name, trial=folder.name, is_control=cell.is_control, state="finished", chosen={},
            settings=settings, reports=reports, validation=validation, begun=0.0, folder=folder,
        )
    )  # fmt: skip


def test_a_search_without_them_is_whole_and_its_table_names_them(tmp_path, capsys):
    by, store, events = fixed(), Store(tmp_path), []
    finish(by, by.cells()[0], store)
    lines = SearchLines(lambda text: None, by)
    # Ray would start if anything were left to train.
    study = search(by, MANIFEST, HERE, store, [events.append, lines])
    reasons = {"half": WHY, "half, seed 1": WHY}
    assert [event.cells for event in events if isinstance(event, CellsLeftOut)] == [reasons]
    assert [event.cell for event in events if isinstance(event, CellStarted)] == ["search"]
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"cells 'half' and 'half, seed 1' are left out on this machine: {WHY} cell search")
    untrained = left_out(by, study, HERE)
    assert untrained == reasons
    api.check_finished(by, study, untrained)
    with pytest.raises(TrainingError, match="cell 'half': no trial. cell 'half, seed 1': no trial"):
        api.check_finished(by, study)
    rows = report.comparison_rows(by, study, untrained)
    assert rows[1:] == [(name, "0", "0", "-", "left out on this machine") for name in reasons]


def test_time_left_counts_only_cells_that_are_trained():
    assert [len(each) for each in trainings_left(fixed(), {}, ["half"])] == [1, 1]


@pytest.mark.parametrize(
    "place",
    [Place(name="cluster", ray_address="ray://head:10001"), Place(name="gpu", gpus_per_worker=1)],
    ids=lambda place: place.name,
)
def test_elsewhere_the_process_of_the_trial_decides(place, tmp_path, monkeypatch):
    assert left_out(fixed(), Study(tmp_path, ()), place) == {}
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    assert left_out(fixed(), Study(tmp_path, ()), HERE) == {}


def test_what_another_machine_has_trained_is_not_left_out(tmp_path):
    by, store = fixed(), Store(tmp_path)
    for cell in by.cells()[:2]:
        finish(by, cell, store)
    study = in_cells(by, read_study(study_folder(by, MANIFEST, store)))
    assert list(left_out(by, study, HERE)) == ["half, seed 1"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"compare": {"training.precision": ["float32", "bfloat16"]}, "controls": {}}, ["precision=bfloat16"]),
        # A draw may choose the other one.
        ({"tune": {"training.precision": {"choices": ["bfloat16", "float32"]}}, "controls": {"plain": {}}}, []),
        # A control keeps what the experiment sets.
        ({"training": {**SMALL["training"], "precision": "float32"}, "controls": {"plain": {}}}, []),
    ],
)
def test_a_cell_is_left_out_where_each_of_its_trainings_would_be_refused(changes, names, tmp_path):
    assert list(left_out(fixed(**changes), Study(tmp_path, ()), HERE)) == names


@pytest.mark.parametrize(
    "controls", [{}, {"whole": {"training.precision": "float32"}}], ids=["all", "all but controls"]
)
def test_it_is_an_error_where_nothing_can_be_trained(controls, tmp_path):
    by = fixed(training={**SMALL["training"], "precision": "bfloat16"}, controls=controls)
    with pytest.raises(
        ConfigError, match="needs a device with bfloat16 units; got cpu, which has none. To fix: set flo"
    ):
        search(by, MANIFEST, HERE, Store(tmp_path))
