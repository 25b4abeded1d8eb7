import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_search import record

from vimss.inventory import COLUMNS, Entry, inventory, inventory_rows, print_inventory, size
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.promote import CHAMPION
from vimss.search.study import RECORD
from vimss.storage import Store
from vimss.track import Tracking, register, set_alias
from vimss.track.names import DATABASE

HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").make()


@pytest.fixture
def study(store: Store) -> Path:
    """Two finished trials, of which `a` is the better, and one that was pruned with a lower loss."""
    folder = store.studies / "mine-0123456789"
    record(folder, "search-0000000000", "a", -3.0)
    record(folder, "search-0000000000", "b", -2.0)
    record(folder, "search-0000000000", "c", -9.0, state="pruned")
    return folder


def by_name(store: Store) -> dict[str, Entry]:
    return {entry.name: entry for entry in inventory(store)}


def test_an_empty_store_holds_nothing(store):
    assert inventory(store) == []


def test_a_study_says_how_its_trials_ended_and_its_best_finished_figure(store, study):
    entries = by_name(store)
    assert entries["mine-0123456789"].state == "2 finished, 1 pruned"
    assert entries["mine-0123456789"].figures == {"valid_loss": -3.0}
    assert entries["mine-0123456789/search-0000000000/c"].figures == {"valid_loss": -9.0}


def test_a_study_has_the_size_of_all_its_files_and_trials_that_of_theirs(store, study):
    (study / "search-0000000000" / "a" / "model" / "weights").write_bytes(bytes(5000))
    entries = by_name(store)
    trials = [entry.size_bytes for entry in entries.values() if entry.kind == "trial"]
    assert entries["mine-0123456789"].size_bytes == sum(trials) and max(trials) > 5000 > min(trials)


def test_a_link_has_the_size_of_a_link(store, study, tmp_path):
    (tmp_path / "large").write_bytes(bytes(50_000))
    (study / "link").symlink_to(tmp_path / "large")
    assert by_name(store)["mine-0123456789"].size_bytes < 10_000


def test_a_trial_that_a_killed_search_left_behind_does_not_run(store, study):
    record(study, "search-0000000000", "d", -1.0, state="running")
    assert by_name(store)["mine-0123456789/search-0000000000/d"].state == "running"
    home = study / "search-0000000000" / "d"
    for path in (home, *home.iterdir()):
        os.utime(path, (time.time() - HOUR, time.time() - HOUR))
    assert by_name(store)["mine-0123456789/search-0000000000/d"].state == "interrupted"


def test_a_damaged_record_is_listed_as_that_and_hides_no_other(store, study):
    (study / "search-0000000000" / "b" / RECORD).write_text("{")
    entries = by_name(store)
    assert entries["mine-0123456789/search-0000000000/b"].state == "unreadable"
    assert entries["mine-0123456789"].figures == {"valid_loss": -3.0}


def test_unfinished_work_of_a_dead_process_is_not_listed(store, study):
    shutil.copytree(study / "search-0000000000" / "a", study / "search-0000000000" / ".tmp-a.1.abcdef")
    (store.studies / ".tmp-mine.1.abcdef").mkdir()
    assert len(inventory(store)) == 4


def test_shards_are_whole_once_they_have_a_manifest(store, small_manifest):
    shutil.copytree(small_manifest.folder, store.root / "shards" / "small-0123456789")
    (store.root / "shards" / "other-0123456789").mkdir()
    (store.root / "shards" / "other-0123456789" / "train-000000.tar").write_bytes(bytes(1000))
    entries = by_name(store)
    assert entries["small-0123456789"].state == "whole"
    assert entries["small-0123456789"].size_bytes >= sum(shard.size for shard in small_manifest.shards)
    assert (entries["other-0123456789"].state, entries["other-0123456789"].size_bytes) == ("unfinished", 1000)


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> Store:
    """A store with two versions of a model, the second of which is the champion."""
    tracking = Tracking(Store(tmp_path_factory.mktemp("registry")))
    client = tracking.client()
    run_id = client.create_run(client.create_experiment("mine", str(tracking.artifacts))).info.run_id
    for seed in range(2):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("model") / "model"
        save_separator(folder, Separator(WaveUNetConfig(levels=1, filters=1), ("vn", "vc"), 8000), {})
        register(tracking, "mine", folder, run_id, {"si_sdr_improvement": 2.5 + seed, "sar": float("nan")}, {})
    set_alias(tracking, "mine", CHAMPION, 2)
    return tracking.store


@pytest.mark.slow
def test_models_have_alias_scores_and_size(registered):
    first, second = inventory(registered)
    assert [entry.name for entry in (first, second)] == ["models:/mine/1", "models:/mine/2"]
    assert [entry.state for entry in (first, second)] == ["registered", "champion"]
    assert [entry.figures for entry in (first, second)] == [{"si_sdr_improvement": 2.5}, {"si_sdr_improvement": 3.5}]
    weights = sum(path.stat().st_size for path in Path(second.location).rglob("*") if path.is_file())
    assert second.size_bytes == weights > 1000 and abs(time.time() - second.changed) < HOUR


@pytest.mark.slow
def test_models_of_a_store_that_was_moved_are_found_where_it_is_now(registered, tmp_path):
    shutil.copytree(registered.root, tmp_path / "moved")
    _, second = inventory(Store(tmp_path / "moved"))
    assert Path(second.location).is_relative_to(tmp_path / "moved") and second.size_bytes


def test_a_registry_that_is_no_database_is_listed_as_that(store):
    store.tracking.mkdir()
    (store.tracking / DATABASE).write_text("not a database")
    assert [(entry.name, entry.state) for entry in inventory(store)] == [(DATABASE, "unreadable")]


def test_a_row_has_a_cell_per_column_and_trials_stand_below_their_study(store, study):
    rows = inventory_rows(inventory(store), time.time() + 2 * HOUR)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert rows[0][:4] == ("mine-0123456789", "study", "2 finished, 1 pruned", "valid_loss -3.00")
    assert rows[1][0] == "  search-0000000000/a" and rows[1][5] == "2 hours"


def test_what_is_not_known_is_a_dash():
    (row,) = inventory_rows([Entry("shards", "a", "whole", None, None)], 0.0)
    assert row == ("a", "shards", "whole", "-", "-", "-")


def test_json_holds_every_entry_with_its_figures(store, study, capsys):
    print_inventory(store, as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["store"] == str(store.root)
    assert [entry["kind"] for entry in content["entries"]] == ["study", "trial", "trial", "trial"]
    assert content["entries"][0]["figures"] == {"valid_loss": -3.0}


def test_the_table_says_how_much_the_store_holds_and_counts_no_trial_twice(store, study, capsys):
    (study / "search-0000000000" / "a" / "model" / "weights").write_bytes(bytes(2_000_000))
    print_inventory(store)
    assert f"{store.root}: 2.0 MB" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e12, "2.5 TB")])
def test_sizes_are_said_in_words(number, text):
    assert size(number) == text


def test_listing_loads_neither_ray_nor_torch_nor_mlflow(store, study):
    code = f"""
import sys
from pathlib import Path
from vimss.inventory import inventory
from vimss.storage import Store
assert len(inventory(Store(Path({str(store.root)!r})))) == 4
sys.exit(any(name in sys.modules for name in ("ray", "torch", "mlflow", "optuna")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
