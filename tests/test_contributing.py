"""The examples of .github/CONTRIBUTING.md are code that runs."""

import re
from pathlib import Path

import numpy as np
import torch
import yaml

from vimss.baselines import Baseline
from vimss.media import write_wav
from vimss.model.contexts import Context
from vimss.runtime import load_place
from vimss.shards.clip import Clip, Player
from vimss.shards.recipe import load_recipe
from vimss.stream.scene import Scene
from vimss.train.objectives.protocol import Objective

TEXT = Path(".github/CONTRIBUTING.md").read_text(encoding="utf-8")


def example(heading: str, language: str = "python") -> str:
    """The first block of a section."""
    section = TEXT.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[0]


def run(heading: str) -> dict[str, object]:
    """The names that an example defines."""
    names: dict[str, object] = {}
    exec(example(heading), names)  # noqa: S102
    return names


def test_the_example_of_a_corpus_reads_files_into_clips(tmp_path):
    for name in "abcd":
        write_wav(tmp_path / f"{name}.wav", np.full((1, 8000), 0.1, np.float32), 8000)
    reader, recipe = run("A corpus"), load_recipe("folder", ["sample_rate=8000", "clip_seconds=0.5"])
    listing = reader["pieces"](recipe, reader["Options"](), tmp_path)
    assert [piece.name for piece in listing.pieces] == ["a", "b", "c", "d"]
    clips = list(reader["read"](listing.pieces[0], recipe, reader["Options"](), tmp_path))
    assert sum(clip.samples for clip in clips) == 8000 and len(clips) == 2
    assert {player.instrument for clip in clips for player in clip.players} == {"vn"}


def test_the_example_of_a_baseline_gives_a_signal_for_each_label():
    mixture = np.ones((1, 100), np.float32)
    half = run("A baseline")["Half"]()
    assert isinstance(half, Baseline)
    estimates = half(Scene("a", mixture, {}, {}), ["vn", "vc"])
    assert estimates.shape == (2, 1, 100) and (estimates == 0.5).all()


def test_the_example_of_a_place_is_one(tmp_path, monkeypatch):
    (tmp_path / "runtime.yaml").write_text(example("A place", "yaml"), encoding="utf-8")
    assert load_place(tmp_path).gpus_per_worker == yaml.safe_load(example("A place", "yaml"))["gpus_per_worker"] == 1


def test_the_example_of_a_network_has_windows_and_sites():
    config = run("A network")["BlocksConfig"](width=32, site="output")
    assert config.geometry.input_samples(64) == 96 and config.sites()[config.site] == {"second": 32}


def test_the_example_of_a_context_gives_a_view_of_a_player():
    names = run("A context")
    context = names["Brightness"](names["BrightnessSettings"](brightness_bands=2), ("vn",))
    assert isinstance(context, Context) and context.width == 2
    player = Player("vn", "1", picture=np.full((3, 4, 4, 3), 51, np.uint8))
    np.testing.assert_allclose(context.of_player(Clip("p", 0, 8, 8, (player,)), player), np.full((3, 2), 0.2))


def test_the_example_of_an_objective_has_its_members_and_a_figure():
    names = run("An objective")
    # `interface` is set when it is made.
    members = {name for name in dir(Objective) if not name.startswith("_")} - {"interface"}
    assert members <= set(dir(names["Energy"]))
    assert names["ENTRY"].figure.better(0.1, than=0.2)
    kept = torch.tensor([[1.0, 4.0], [1.0, 4.0]], dtype=torch.float64)
    assert names["Energy"].value(None, kept) == 0.25
