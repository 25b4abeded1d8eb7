"""The page of `vimss listen`: every cell in step, nothing loaded, nothing named in its markup that could be run."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_pages import Tags, picture, runs_its_own_alone, tone

from vimss import media
from vimss.api import write_pictures
from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.pages.charts import Bar, intervals_png
from vimss.pages.of_cells import CellsExcerpt, Heard, cells_page, excerpt_of_cells
from vimss.search.study import FILES, Study, TrialRecord, cell_folder
from vimss.train.config import Settings

RATE = 8000

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def excerpt(name: str = "op=film", level: float = 0.4) -> CellsExcerpt:
    heard = [
        Heard("true stem", "reference", tone(1.0)),
        Heard("mixture", "mixture", tone(1.0, level)),
        Heard(name, "cell", tone(1.0, 0.1), "+3.0 dB SI-SDRi"),
    ]
    return CellsExcerpt(name, name, "study", "test", name, RATE, {"vn": heard, "vc": heard}, {"piece": name})


def content_of(html: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_every_source_has_the_sounds_of_all_systems_at_one_gain_and_length():
    content = content_of(cells_page(excerpt(level=2.0)))
    assert [(one["label"], one["name"]) for one in content["sources"]] == [("vn", "violin"), ("vc", "cello")]
    assert content["seconds"] == 1.0
    systems = content["sources"][0]["systems"]
    assert [one["kind"] for one in systems] == ["reference", "mixture", "cell"]
    sounds = [media.decode_audio(base64.b64decode(one["sound"].partition(",")[2])) for one in systems]
    assert {(sound.shape, rate) for sound, rate in sounds} == {((1, RATE), RATE)}
    loudest = [np.abs(sound.astype(int)).max() for sound, _ in sounds]
    assert loudest[1] >= 32766 and loudest[1] == pytest.approx(20 * loudest[2], rel=0.01)


def test_the_page_is_well_formed_and_runs_its_own_script_alone():
    html = cells_page(excerpt())
    tags = Tags(html)
    assert tags.open == []
    (policy,) = [attributes["content"] for tag, attributes in tags.found if "http-equiv" in attributes]
    assert "default-src 'none'" in policy and policy.endswith("connect-src 'self'") and "unsafe" not in policy
    assert runs_its_own_alone(html, policy)
    assert not re.search(r"https?://|url\(|@import|\son\w+=\"", html)


def rows_in_a_browser(folder, fragment: str) -> list[str]:
    """The rows of the list of systems, as the page's own script makes them; without their styles and labels."""
    (folder / "page.html").write_text(cells_page(excerpt()), encoding="utf-8")
    headless = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom")
    address = f"{(folder / 'page.html').as_uri()}{fragment}"
    shown = subprocess.run([BROWSER, *headless, address], capture_output=True, text=True, check=True, timeout=120)
    (rows,) = re.findall(r'<ol class="systems".*?</ol>', shown.stdout, re.DOTALL)
    return re.findall(r"<li.*?</li>", rows, re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_blind_test_hides_names_and_scores_and_has_a_slider_for_each_system(tmp_path):
    openly, blind = (rows_in_a_browser(tmp_path, fragment) for fragment in ("", "#blind"))
    assert [re.findall(r'class="name">(.*?)<', row) for row in openly] == [["true stem"], ["mixture"], ["op=film"]]
    assert "+3.0 dB" in openly[2] and not any("range" in row for row in openly)
    # The true stem stands openly before all systems, and is one of them.
    reference, *systems = blind
    assert "true stem, to compare with" in reference and "range" not in reference
    for letter, row in zip("ABC", systems, strict=True):
        assert f">System {letter}<" in row and 'type="range"' in row
        assert not re.search("true stem|mixture|film|dB|reference|cell", row)


def test_names_from_strangers_are_shown_and_not_run():
    evil = '"></script><script>alert(1)</script>$title'
    html = cells_page(excerpt(evil))
    assert html.count("<script>") == 1 and "<script>alert" not in html and Tags(html).open == []
    assert content_of(html)["sources"][0]["systems"][2]["system"] == evil


def test_a_row_of_a_chart_is_as_high_as_another_and_one_that_is_not_known_is_empty():
    rows = [Bar("a", 1.0, (0.0, 2.0), (0.5, 1.5)), Bar("$b$", float("nan")), Bar("c", 2.0)]
    three, six = (picture(intervals_png(some, "dB", "a question")) for some in (rows, 2 * rows))
    assert three.shape[1] == six.shape[1] == 800 and six.shape[0] - three.shape[0] == 102
    blue = np.abs(three[..., :3].astype(int) - (0xB2, 0x72, 0x00)).sum(axis=-1) < 30
    assert blue[: three.shape[0] // 3].any() and blue.sum() < 0.1 * blue.size


@pytest.mark.slow
def test_every_cell_plays_the_same_excerpt_by_its_first_seed(small_manifest, tmp_path):
    asked = Experiment(
        name="asked", question="q", expected="x", shards="small",
        compare={"seed": (0, 1), "model.context": ("labels", "frames")},
    )  # fmt: skip
    records = []
    for cell in asked.cells():
        context = cell.overrides["model.context"]
        # Other weights of a vision network would be downloaded.
        vision = {"vision": {"weights": "random"}} if context == "frames" else {}
        config = WaveUNetConfig(
            levels=2, filters=2, down_kernel=5, outputs="queries", site="decoder", context=context, **vision
        )
        folder = tmp_path / cell.name
        save_separator(folder / "model", Separator(config, small_manifest.recipe.labels, RATE), {})
        settings = Settings.model_validate({"model": config.model_dump()})
        records.append(
            TrialRecord(
                cell=cell.name, trial="t", state="finished", chosen={}, settings=settings, begun=0, folder=folder
            )
        )
    found = excerpt_of_cells(asked, small_manifest, Study(tmp_path, tuple(records)), "test")
    assert found.facts["seeds"] == "seed 0, one of 2"
    for heard in found.heard.values():
        assert [one.system for one in heard] == ["true stem", "mixture", "context=labels", "context=frames"]
        assert len({one.audio.shape for one in heard}) == 1 and heard[0].audio.any()
    with pytest.raises(
        ConfigError, match=f"--piece must name a piece of test .*'x'. To fix: choose from {found.piece}"
    ):
        excerpt_of_cells(asked, small_manifest, Study(tmp_path, tuple(records)), "test", "x")
    recognition = asked.model_copy(update={"objective": "instruments"})
    with pytest.raises(ConfigError, match="vimss listen needs networks that separate; got .*'instruments'"):
        excerpt_of_cells(recognition, small_manifest, Study(tmp_path, tuple(records)), "test")


@pytest.mark.slow
def test_pictures_and_pages_of_all_trials_are_written_and_it_is_said_how_far_that_is(small_manifest, tmp_path):
    asked = Experiment(name="asked", question="q", expected="x", shards="small", compare={"seed": (0, 1)})
    config = WaveUNetConfig(levels=2, filters=2, down_kernel=5)
    settings = Settings.model_validate({"model": config.model_dump()})
    reports = ({"audio_seconds": 1.0, "valid_loss": -1.0},)
    records, said = [], []
    for cell in asked.cells():
        folder = tmp_path / cell_folder(asked, cell) / "trial"
        save_separator(folder / "model", Separator(config, small_manifest.recipe.labels, RATE), {})
        records.append(
            TrialRecord(
                cell=cell.name, trial="t", state="finished", chosen={}, settings=settings, reports=reports, begun=0.0,
                folder=folder,
            )
        )  # fmt: skip
    write_pictures(asked, small_manifest, Study(tmp_path, tuple(records)), said.append)
    for record in records:
        assert {"curve.png", "spectrogram.png", "listen.html"} <= {
            path.name for path in (record.folder / FILES).iterdir()
        }
    assert list(dict.fromkeys(said)) == ["cell 1 of 2", "cell 2 of 2"]
