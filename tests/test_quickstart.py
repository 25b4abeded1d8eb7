import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
import yaml

from vimss import api
from vimss.cli import app
from vimss.experiment import Experiment
from vimss.media import probe, read_video
from vimss.promote import resolve_model
from vimss.quickstart import BEST, EXPERIMENT, Result, print_result, run
from vimss.quickstart.estimate import expected_seconds, expected_time
from vimss.quickstart.result import labels_gain
from vimss.quickstart.run import job_command, write_recording
from vimss.search.consistency import load_experiment
from vimss.search.estimate import progress_of
from vimss.search.remaining import Progress
from vimss.search.study import TrialRecord
from vimss.session import open_session
from vimss.stream.read import read_pieces
from vimss.track import set_alias
from vimss.train.config import Settings
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.objectives.saved import save_network

SMALL = {
    "question": "Does it run?",
    "expected": "yes",
    "model": {
        "levels": 3, "filters": 4, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder",
        "output_activation": "linear", "initial_output": "mixture",
    },
    "mixing": {"windows_per_clip": 2},
    "training": {"output_samples": 2005, "audio_seconds": 4, "report_seconds": 4, "learning_rate": 1e-3},
    "tune": {"training.batch_size": {"choices": [2, 4]}},
    "search": {"trials": 1, "scheduler": "asha", "grace_seconds": 4},
    "validation": {"mixtures": 6, "seconds": 0.25},
    "controls": {
        "blind": {"model.outputs": "instruments", "model.site": "none"},
        "labels": {"model.outputs": "instruments", "model.site": "every_layer"},
    },
}  # fmt: skip

ROW = "named by pictures"
"""Row of the best trial that is conditioned on what pictures name."""

KEYS = [
    "seconds",
    "stages",
    "seed",
    "trials",
    "controls",
    "labels_gain",
    "pictures_gain",
    "pictures_contrast",
    "systems",
    "baselines",
    "best",
    "intervals",
    "champion",
    "page",
]


@pytest.fixture(scope="module")
def runs(small_recipe, tmp_path_factory) -> tuple[Path, Result, Result]:
    """The store, and the whole flow twice on a minute of music and a few seconds of training."""
    folder = tmp_path_factory.mktemp("quickstart")
    recipe = small_recipe.model_dump(mode="json", exclude={"labels"})
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    looking = {"objective": "instruments", "model": {"vision": {"network": "compact", "weights": "random"}}}
    network = InstrumentsNetwork(Settings.model_validate(looking), small_recipe.labels, small_recipe.sample_rate)
    save_network(folder / "namer", network, {})
    systems = {ROW: {"instruments_from": str(folder / "namer")}}
    experiment, written = folder / "tiny.yaml", {**SMALL, "systems": systems, "shards": str(folder / "small.yaml")}
    experiment.write_text(yaml.safe_dump(written), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIMSS_STORE", str(folder / "store"))
        return folder / "store", *(run(1, "local", str(experiment)) for _ in range(2))


@pytest.mark.slow
def test_the_figures_of_the_last_run_and_of_each_seed_are_kept(runs):
    store, _, second = runs
    summary = json.loads((store / "quickstart.json").read_text(encoding="utf-8"))
    assert list(summary) == KEYS == list(second.summary)
    assert json.loads((store / "quickstart-seed1.json").read_text(encoding="utf-8")) == summary
    assert (summary["trials"], summary["seed"], set(summary["controls"])) == (1, 1, {"blind", "labels"})
    assert summary["best"]["config"]["model"]["site"] == "decoder"
    assert sum(summary["stages"].values()) <= summary["seconds"]


@pytest.mark.slow
def test_the_gain_of_labels_is_the_difference_to_the_control_without_labels(runs):
    summary = runs[1].summary
    informed, blind = (
        row["si_sdr_improvement_mean"] for row in (summary["best"]["metrics"], summary["controls"]["blind"])
    )
    assert summary["labels_gain"] == informed - blind


@pytest.mark.slow
def test_the_best_trial_is_conditioned_on_what_pictures_name_too(runs):
    result, summary = runs[1], runs[1].summary
    looks, blind = summary["systems"][ROW], summary["controls"]["blind"]
    assert re.fullmatch(r"pictures named \d+ of \d+ players rightly; unsure of \d+", looks["named"])
    assert summary["pictures_gain"] == looks["si_sdr_improvement_mean"] - blind["si_sdr_improvement_mean"]
    other = result.by_pictures.two_sources.values("other_picture").mean
    assert summary["pictures_contrast"] == looks["si_sdr_improvement_mean"] - other
    rows = [found.system for found in result.test]
    assert rows[:4] == [BEST, "blind", "labels", ROW] and result.by_pictures.scores == ()
    assert result.by_pictures.pictures.label == summary["best"]["metrics"]["si_sdr_improvement"]


@pytest.mark.slow
def test_it_ends_with_a_page_and_stems_that_sound_and_do_not_clip(runs):
    page = runs[1].page
    stems = {path.stem: soundfile.read(path, dtype="int16")[0] for path in page.parent.glob("*.wav")}
    assert "<video" in page.read_text(encoding="utf-8") and len(stems) > 1
    assert all(0 < np.abs(stem.astype(int)).max() < 32767 for stem in stems.values()), stems


@pytest.mark.slow
def test_a_second_run_finds_what_the_first_one_made(runs):
    _, first, second = runs
    assert second.study == first.study
    assert second.summary["champion"]["version"] == first.summary["champion"]["version"] == 1
    assert second.stages["search"] < first.stages["search"] / 2


@pytest.mark.slow
def test_a_first_champion_must_beat_the_wiener_filter_with_the_same_information(runs):
    result = runs[1]
    row = {"labels": "Wiener filter, all labels"}.get(result.promotion.cell, "Wiener filter per label")
    best = min((record for record in result.study.records), key=lambda record: record.value)
    assert result.promotion.cell == best.cell
    assert f"dB against the row '{row}' (95 % interval over pieces" in result.promotion.decision.sentence


@pytest.mark.slow
def test_a_model_by_its_name_alone_is_its_champion_or_else_its_newest_version(runs, monkeypatch):
    store, result, _ = runs
    monkeypatch.setenv("VIMSS_STORE", str(store))
    session, notes = open_session("local"), []
    expected = "models:/tiny@champion" if result.promotion.is_champion else "models:/tiny/1"
    assert resolve_model(session.tracking, "models:/tiny", notes.append) == expected
    assert notes == [] or "no version of 'tiny' is the champion: its newest is used, version 1" in notes
    assert resolve_model(session.tracking, "models:/tiny/1") == "models:/tiny/1"
    set_alias(session.tracking, "tiny", "champion", 1)
    assert resolve_model(session.tracking, "models:/tiny") == "models:/tiny@champion"


@pytest.mark.slow
def test_what_a_finished_run_left_is_not_counted_again(runs, monkeypatch):
    store, result, _ = runs
    monkeypatch.setenv("VIMSS_STORE", str(store))
    said = expected_time(open_session("local"), result.experiment, api.experiment_recipe(result.experiment))
    assert said.startswith("the rest takes about ")


@pytest.mark.slow
def test_it_tells_what_was_reached_and_how_to_go_on(runs, capsys):
    store, result, _ = runs
    print_result(result)
    printed = capsys.readouterr().out
    for row in (
        "whole run, s",
        "above the equally informed Wiener filter",
        "label contrast",
        "absent label",
        "gain from labels",
        "gain from pictures",
        ROW,
        "What pictures are worth",
    ):
        assert row in printed
    assert result.promotion.decision.sentence in printed and f"{store}/quickstart.json" in printed
    assert "  platform/local/run vimss ui\n" in printed and "vimss search /" in printed


def test_a_first_run_takes_its_steps_and_the_stages_as_fast_as_a_step_is():
    assert expected_seconds(0.05, 100.0, has_shards=False) == pytest.approx(1.3 * 100 + 85)
    assert expected_seconds(0.10, 100.0, has_shards=False) == pytest.approx(1.3 * 100 + 170)
    assert expected_seconds(0.05, 0.0, has_shards=True) == pytest.approx(85 - 29)


def test_trials_of_an_earlier_run_are_as_far_as_they_reported_and_failed_ones_are_drawn_anew():
    states = ("running", "interrupted", "waiting", "finished", "pruned", "failed")
    reports = ({"audio_seconds": 5.0, "valid_loss": 0.0}, {"audio_seconds": 9.0, "valid_loss": 0.0})
    records = [
        TrialRecord(cell="a", trial=state, state=state, chosen={}, settings=None, reports=reports, begun=0.0)
        for state in states
    ]
    (found,) = progress_of(records, rung=12.0).values()
    expected = [("running", 9.0), ("running", 9.0), ("waiting", 9.0), ("finished", 9.0), ("over", 9.0)]
    assert [(progress.state, progress.audio_seconds) for progress in found] == expected
    (begun,) = progress_of([records[0].model_copy(update={"reports": ()})], rung=12.0)["a"]
    assert begun == Progress(0.0, "running")


def test_how_long_it_takes_is_said_of_this_machine_and_of_no_cluster(small_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))
    chosen = Experiment(name="tiny", shards="quickstart", **SMALL)
    session = open_session("local")
    said = expected_time(session, chosen, small_recipe)
    assert re.fullmatch(
        r"this takes about \d+ (seconds?|minutes?) on this machine \(a training step takes [\d.e-]+ s\)", said
    )
    for change in ({"ray_address": "auto"}, {"gpus_per_worker": 1.0}):
        elsewhere = replace(session, place=session.place.model_copy(update=change))
        assert expected_time(elsewhere, chosen, small_recipe) == ""


def test_without_a_control_without_labels_the_gain_of_labels_is_not_defined():
    experiment = load_experiment("quickstart")
    assert labels_gain(experiment, {BEST: 1.5, "no labels": 1.0}) == 0.5
    assert np.isnan(labels_gain(experiment, {BEST: 1.5}))
    assert np.isnan(labels_gain(Experiment(name="x", question="q", expected="e", shards="s"), {BEST: 1.0}))


@pytest.mark.parametrize(("seed", "option"), [(None, []), (0, ["--seed", "0"]), (2, ["--seed", "2"])])
def test_the_job_is_one_line_for_the_shell(seed, option):
    words = shlex.split(job_command(EXPERIMENT, seed, Path("/my music/store")))
    assert words[:3] == ["RAY_AUTH_MODE=token", "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265", "platform/local/run"]
    assert json.loads(words[words.index("--runtime-env-json") + 1]) == {"env_vars": {"VIMSS_STORE": "/my music/store"}}
    python, m, vimss, verb, *rest = words[words.index("--") + 1 :]
    assert (python, m, vimss, verb) == ("python", "-m", "vimss", "search") and Path(words[2]).exists()
    assert rest == ["quickstart", "--on", "cluster", *option] and Path(f"experiments/{rest[0]}.yaml").exists()
    typer.main.get_command(app).commands[verb].make_context(verb, rest)


@pytest.mark.slow
def test_the_recording_has_a_column_and_a_label_per_player_from_left_to_right(small_manifest, tmp_path):
    recording, stems = write_recording(small_manifest, tmp_path)
    clip = next(iter(read_pieces(small_manifest, "test", parts=("audio", "picture"))))
    labels = tuple(player.instrument for player in clip.players)
    assert probe(recording).instruments == labels != tuple(sorted(labels))
    size = small_manifest.recipe.picture.size
    row = read_video(recording, (size, size * len(labels)), clip.frame_rate).astype(float)
    for player, column in zip(clip.players, np.split(row, len(labels), axis=2), strict=True):
        assert np.abs(column - player.picture).mean() < 8
    assert {path.stem for path in stems.iterdir()} == {p.instrument for p in clip.players if not p.silent}


def test_a_changed_recipe_gets_a_recording_of_its_own(small_manifest, tmp_path):
    first, _ = write_recording(small_manifest, tmp_path)
    other, _ = write_recording(small_manifest.model_copy(update={"signature": "other"}), tmp_path)
    assert other != first and write_recording(small_manifest, tmp_path)[0] == first


@pytest.mark.slow
def test_every_figure_has_its_interval_over_pieces(runs):
    summary = runs[1].summary
    gains = {"labels_gain", "pictures_gain", "pictures_contrast"}
    assert set(summary["intervals"]) == {"above_wiener", "pieces_above_wiener", *gains}
    low, high = summary["intervals"]["pictures_contrast"]
    assert (low + high) / 2 == pytest.approx(summary["pictures_contrast"])
    low, high = summary["intervals"]["above_wiener"]
    assert (low + high) / 2 == pytest.approx(summary["best"]["above_wiener"])
    for figures in (summary["best"]["metrics"], *summary["baselines"].values(), *summary["controls"].values()):
        assert {"si_sdr_improvement", "absent_level", "pieces_sdr"} <= set(figures["intervals"])
        assert "scores" not in figures
