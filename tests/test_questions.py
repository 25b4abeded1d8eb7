"""Every question of experiments/: a short cell of each is trained."""

import json
from pathlib import Path

import pytest

from vimss.experiment import NETWORK, Experiment
from vimss.features import compute_features
from vimss.model.contexts.motion import compute_motion
from vimss.runtime import Place
from vimss.search.consistency import load_experiment
from vimss.search.run import search
from vimss.shards.recipe import Picture
from vimss.shards.write import write_shards
from vimss.storage import Store

PATHS = sorted(Path("experiments").glob("*.yaml"))
FULL = sorted(Path("experiments").glob("full/*.yaml"))
"""Questions for GPUs: no test trains these."""

SHORT = (
    "training.audio_seconds=4", "training.report_seconds=4", "training.batch_size=2", "controls={}", "search={}",
    "validation={mixtures: 6, seconds: 0.25}", "recipe={}", "training.constant_seconds=0", "training.warmup_seconds=0",
)  # fmt: skip
"""Changes that make a question short; its network and its other settings stay."""

NEED_MOTION = {"alignment": ["validation.seconds=9"], "motion": [], "looking_to_listen": [], "on_off_screen": []}
"""Questions about players who move, with what their figures need."""

NEED_ALL_VIEWS = {"visual_context"}
"""Questions about players whose joints are known and who move."""


def short_cell(whole: Experiment) -> list[str]:
    """The question as one cell: the first value of each axis, those of `tune` too; but all networks and variants."""
    axes = {key: values[0] for key, values in whole.compare.items() if key != "training.batch_size"}
    for key, axis in whole.tune.items():
        if key != "training.batch_size" and not axis.when:
            axes[key] = axis.choices[0] if axis.choices else axis.low
    fixed = {key: [value] for key, value in axes.items()}
    # The file has settings of each network, which are refused without it.
    fixed |= {NETWORK: list(whole.compare[NETWORK])} if NETWORK in whole.compare else {}
    budgets = {"training.audio_seconds", "training.report_seconds"}
    variants = {
        name: {key: value for key, value in variant.items() if key not in budgets}
        for name, variant in whole.variants.items()
    }
    return [*SHORT, f"compare={json.dumps(fixed)}", f"variants={json.dumps(variants)}", "tune={}"]


@pytest.mark.parametrize("path", PATHS + FULL, ids=str)
def test_a_question_opens_with_itself_its_command_and_what_is_expected(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [line.partition(":")[0] for line in lines if line.startswith("# ") and line[2].isupper() and ":" in line]
    assert heads[:3] == ["# Question", "# Command", "# Expected"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_short_cell_of_a_question_loads(path):
    whole = load_experiment(path)
    count = len(whole.compare.get(NETWORK, ["one"])) * max(len(whole.variants), 1)
    assert len(load_experiment(path, short_cell(whole)).cells()) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[] if path.stem == "joint" else pytest.mark.rare, id=path.stem) for path in PATHS]
)
def test_a_short_cell_of_a_question_is_trained(shared_ray, path, request, tmp_path):
    changes = short_cell(load_experiment(path))
    if path.stem in NEED_MOTION:
        manifest = request.getfixturevalue("moving_manifest")
        compute_motion(manifest)
        changes += NEED_MOTION[path.stem]
    elif path.stem in NEED_ALL_VIEWS:
        # A whole number of pictures in a clip of three seconds, or it is cut in two.
        recipe = request.getfixturevalue("small_recipe").model_copy(update={"picture": Picture(size=32, frame_rate=12)})
        manifest = write_shards(recipe, "views", Store(tmp_path).make())
        compute_motion(manifest)
    else:
        manifest = request.getfixturevalue("small_manifest")
    short = load_experiment(path, changes)
    for model in (short.settings(cell.fixes).model for cell in short.cells()):
        if model.context == "features":
            compute_features(manifest, model.vision, every=model.features_every)
    place = Place(name="test", max_concurrent_trials=1)
    records = search(short, manifest, place, Store(tmp_path)).records
    assert len(records) == len(short.cells())
    assert [record.state for record in records] == ["finished"] * len(records), [record.message for record in records]
