from pathlib import Path

import pytest

from vimss.errors import ConfigError
from vimss.experiment import Experiment, load_experiment
from vimss.shards.recipe import load_recipe


@pytest.mark.parametrize("path", sorted(Path("experiments").glob("*.yaml")), ids=str)
def test_every_experiment_loads_and_names_a_recipe(path):
    experiment = load_experiment(str(path))
    assert load_recipe(experiment.shards).labels


@pytest.mark.parametrize("path", sorted(Path("shards").glob("*.yaml")), ids=str)
def test_every_recipe_loads(path):
    assert load_recipe(path.stem).description


def make(**content) -> Experiment:
    return Experiment(name="x", question="?", expected="!", shards="quickstart", **content)


def test_compare_crosses_its_axes_and_baselines_follow():
    cells = make(
        compare={"model.op": ("film", "add"), "training.batch_size": (2, 4)},
        baselines={"plain": {"model.site": "none"}},
    ).cells()
    assert [cell.name for cell in cells][:2] == ["op=film,batch_size=2", "op=film,batch_size=4"]
    assert [cell.baseline for cell in cells] == [False] * 4 + [True]


def test_question_and_expectation_are_not_part_of_the_signature():
    assert make().signature == make().model_copy(update={"question": "other"}).signature
    assert make().signature != make(seed=1).signature


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text("question: q\nexpected: e\nshards: quickstart\n" + text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"unknown key 'modle'.*did you mean 'model'"),
        ("model: {leves: 3}", r"unknown key 'model.leves'.*did you mean 'levels'"),
        ("training: {batch_size: 0}", r"training.batch_size: .*greater than or equal to 1.*got 0"),
        ("model: {outputs: queries}", r"queries needs a site"),
        ("tune: {training.batch_size: {low: 4, high: 2}}", r"either `choices` or a range"),
        ("tune: {training.x: {choices: [1]}}", r"unknown key 'training.x'"),
        ("tune: {optimizer.x: {choices: [1]}}", r"must be model\.\*, mixing\.\* or training"),
        ("compare: {model.op: [film]}\ntune: {model.op: {choices: [add]}}", r"stands in `compare` or in `tune`"),
        (
            "tune: {model.levels: {choices: [3]}}\nsearch: {first_trials: [{training.batch_size: 4}]}",
            r"first trial sets only what `tune` lists",
        ),
        ("tune: {model.op: {choices: [add], when: {model.site: [output]}}}", r"when must name a tuned key"),
    ],
)
def test_a_wrong_experiment_is_refused_before_anything_runs(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, text))
