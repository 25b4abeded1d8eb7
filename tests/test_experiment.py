import json
from pathlib import Path

import pytest
from golden import signatures as golden
from pydantic import ValidationError
from test_fit import SOUND, written_alone

from vimss.errors import ConfigError, DataError, ModelError
from vimss.experiment import Experiment
from vimss.runtime import Place
from vimss.search.checks import check_experiment
from vimss.search.consistency import load_experiment
from vimss.shards.clip import Player
from vimss.shards.manifest import Manifest, PieceEntry
from vimss.shards.recipe import load_recipe, recipe_name


@pytest.mark.parametrize("path", sorted(Path("experiments").rglob("*.yaml")), ids=str)
def test_every_experiment_loads_and_names_a_recipe(path):
    experiment = load_experiment(str(path))
    assert load_recipe(experiment.shards).labels


@pytest.mark.parametrize("path", sorted(Path("shards").glob("*.yaml")), ids=str)
def test_every_recipe_loads(path):
    assert load_recipe(path.stem).description


ANEW = "say why in the commit and write the file anew: .venv/bin/python tests/golden/signatures.py"


def test_signatures_of_all_that_ships_are_those_that_they_were():
    known, now = json.loads(golden.FILE.read_text(encoding="utf-8"))["signatures"], golden.signatures()
    changed = {name: (known.get(name), now.get(name)) for name in known | now if known.get(name) != now.get(name)}
    assert not changed, (
        "What was written or trained under the first of these signatures would not be found any more. A new setting "
        "needs a default that means what was done before it. Where the change is meant (a file in shards/ or "
        f"experiments/ is new or asks for something else, a reader has another VERSION), {ANEW}"
    )


def test_no_default_has_changed_and_all_are_known():
    known, now = json.loads(golden.FILE.read_text(encoding="utf-8"))["defaults"], golden.defaults()
    changed = {name: (value, now.get(name)) for name, value in known.items() if now.get(name) != value}
    assert not changed, (
        "Signatures hold what differs from the defaults, so what was made with the first of these values would be "
        "taken for the second. Keep the default, and set the new value in YAML; or, where old work shall not count "
        f"any more, give the setting another name or raise the VERSION of the reader, then {ANEW}"
    )
    new = sorted(set(now) - set(known))
    assert not new, f"These settings are new, and each default must mean what was done before it; then {ANEW}"


def make(**content) -> Experiment:
    return Experiment(**{"name": "x", "question": "?", "expected": "!", "shards": "quickstart", **content})


def test_compare_crosses_its_axes_and_controls_follow():
    cells = make(
        compare={"model.op": ("film", "add"), "training.batch_size": (2, 4)},
        controls={"plain": {"model.site": "none"}},
    ).cells()
    assert [cell.name for cell in cells][:2] == ["op=film,batch_size=2", "op=film,batch_size=4"]
    assert [cell.is_control for cell in cells] == [False] * 4 + [True]


def fixed(**content) -> list[str]:
    """The signatures of an experiment's cells."""
    experiment = make(**content)
    return [experiment.cell_signature(cell) for cell in experiment.cells()]


@pytest.mark.parametrize(
    "spelled",
    [
        {"model": {"levels": 12}},
        {"model": {"vision": {"network": "resnet18"}, "feature_size": 512}},
        {"training": {"audio_seconds": 36000, "output_samples": 16389.0}, "seed": 0},
        {"search": {"trials": 3, "scheduler": "asha", "reduction_factor": 5, "grace_seconds": 1}},
        {"validation": {"mixtures": 48, "seconds": 3}},
        {"recipe": {"clip_seconds": 3}, "shards": "chamber", "question": "other", "expected": "more"},
        {"tune": {"training.batch_size": {"choices": [2, 4]}}},
    ],
)
def test_a_cell_is_what_it_fixes_whatever_is_written_beside_it(spelled):
    assert fixed(**spelled) == fixed()


@pytest.mark.parametrize(
    "changed",
    [
        {"training": {"audio_seconds": 30}},
        {"model": {"vision": {"frozen": False}}},
        {"seed": 1},
        {"compare": {"training.audio_seconds": [30]}},
        {"compare": {"seed": [3]}},
    ],
)
def test_what_a_cell_fixes_and_its_budget_change_it(changed):
    assert fixed(**changed) != fixed()


def test_a_cell_is_the_same_whether_a_value_stands_in_its_group_or_in_compare_and_however_it_is_written():
    inside = fixed(training={"audio_seconds": 30})
    assert inside == fixed(compare={"training.audio_seconds": [30.0]})
    assert inside == fixed(training={"audio_seconds": 40}, compare={"training.audio_seconds": [30]})
    both = {"model.op": ["add"], "training.batch_size": [2]}
    assert fixed(compare=both) == fixed(compare=dict(reversed(both.items())))


def test_a_control_is_what_it_changes_without_what_it_inherits():
    plain = {"controls": {"plain": {"model.site": "output"}}}
    (_, one), (_, other) = fixed(**plain), fixed(**plain, training={"batch_size": 2, "learning_rate": 0.01})
    assert one == other
    assert fixed(controls={"x": {"model.site": "output", "training.batch_size": 2}})[1] != one
    # The same settings, but trained to the end whatever the others do.
    assert fixed(controls={"all": {}})[0] != fixed(controls={"all": {}})[1]


def test_seed_is_compared_like_any_other_setting():
    experiment = make(compare={"seed": (0, 1, 2), "model.op": ("film", "add")}, controls={"plain": {"seed": 7}})
    cells = experiment.cells()
    assert [cell.name for cell in cells][:2] == ["seed=0,op=film", "seed=0,op=add"]
    assert [experiment.settings(cell.overrides).seed for cell in cells] == [0, 0, 1, 1, 2, 2, 7]


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        ({"training": {"audio_seconds": 900}}, 100.0),
        ({}, 4000.0),
        ({"training": {"audio_seconds": 900}, "search": {"grace_seconds": 30}}, 30.0),
        ({"compare": {"training.audio_seconds": [1800, 450]}}, 50.0),
    ],
)
def test_the_first_rung_is_a_ninth_of_the_shortest_training_unless_the_experiment_says_otherwise(content, seconds):
    axes = {"training.batch_size": {"choices": [2, 4, 8]}}
    assert make(tune=axes, **content).search.grace_seconds == seconds


def test_of_few_trials_none_is_pruned_unless_a_number_that_continues_is_asked_for():
    assert make(search={"trials": 2}).search.keep == 2
    with pytest.raises(ValidationError, match=r"keep \(3\) must be below trials \(2\)"):
        make(search={"trials": 2, "keep": 3})


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text("question: q\nexpected: e\nshards: quickstart\n" + text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"unknown key 'modle'.*did you mean 'model'"),
        ("mixing: {aligned_share: 0.5}", r"unknown key 'mixing.aligned_share'.*did you mean 'aligned_probability'"),
        ("tune: {mixing.remix_share: {low: 0, high: 1}}", r"'mixing.remix_share'.*did you mean 'remix_probability'"),
        ("compare: {mixing.silence_share: [0, 1]}", r"'mixing.silence_share'.*did you mean 'silence_probability'"),
        ("model: {leves: 3}", r"unknown key 'model.leves'.*did you mean 'levels'"),
        ("training: {batch_size: 0}", r"training.batch_size: .*greater than or equal to 1.*got 0"),
        ("model: {outputs: queries}", r"queries needs a site"),
        ("tune: {training.batch_size: {low: 4, high: 2}}", r"either `choices` or a range"),
        ("tune: {training.x: {choices: [1]}}", r"unknown key 'training.x'"),
        (
            "tune: {optimizer.x: {choices: [1]}}",
            r"must be model\.\*, mixing\.\*, training\.\*, instruments\.\*, alignment\.\*, correspondence\.\* or weak",
        ),
        (
            "compare: {model.op: [film]}\ntune: {model.op: {choices: [add]}}",
            r"stands in `compare`, `variants` or `tune`",
        ),
        (
            "tune: {model.levels: {low: 3, high: 20}}",
            r"model.levels: .*less than or equal to 16.*got 20",
        ),
        (
            "tune: {model.levels: {choices: [3]}}\nsearch: {trials: 1, first_trials: [{training.batch_size: 4}]}",
            r"first trial sets only what `tune` lists",
        ),
        (
            "tune: {model.levels: {choices: [3, 4]}}\nsearch: {trials: 2, first_trials: [{model.levels: 5}]}",
            r"first trial's model.levels must be a value of its axis, one of 3, 4; got 5",
        ),
        (
            "tune: {training.ema: {low: 0, high: 0.9}}\nsearch: {first_trials: [{training.ema: 0.99}]}",
            r"first trial's training.ema must be a value of its axis, 0 to 0.9; got 0.99",
        ),
        (
            "tune: {model.site: {choices: [none, output]}, model.op: {choices: [add], when: {model.site: [output]}}}\n"
            "search: {trials: 2, first_trials: [{model.site: none, model.op: add}]}",
            r"sets model.op only where its `when` holds; got model.site: none",
        ),
        (
            "tune: {model.site: {choices: [none, output]}, model.op: {choices: [add], when: {model.site: [decoder]}}}",
            r"when must name values of tune.model.site, one of none, output; got 'decoder'",
        ),
        (
            "tune: {model.op: {choices: [add], when: {model.op: [add]}}}",
            r"must not run in a circle; got model.op",
        ),
        (
            "model: {site: decoder}\ntune: {model.levels: {choices: [3, 4]}, model.op: {choices: [add, film]}}\n"
            "search: {trials: 5}",
            r"search.trials must not exceed the number of settings that `tune` allows; got 5 trials of 4 settings",
        ),
        (
            "tune: {training.batch_size: {choices: []}}",
            r"tune.training.batch_size: an axis has either `choices` or a range with `low` below `high`; got "
            r"\{'choices': \[\]\}. To fix: correct 'tune.training.batch_size'",
        ),
        (
            "tune: {training.learning_rate: {low: 1.e-3, high: 1.e-3}}",
            r"tune.training.learning_rate: an axis has either `choices` or a range with `low` below `high`; got",
        ),
        (
            "tune: {training.batch_size: {}}",
            r"tune.training.batch_size: an axis has either `choices` or a range with `low` below `high`; got \{\}",
        ),
        (
            "tune: {}\nsearch: {trials: 4}",
            r"search.trials needs `tune`: without it a cell has one trial; got search.tr",
        ),
        (
            "compare: {training.batch_size: []}",
            r"compare.training.batch_size must list values; got \[\]. To fix: remove the key",
        ),
        (
            "model: {network: spectrogram_u_net, n_fft: 64, hop_length: 16}\ntune: {model.depth: {choices: [7, 8]}}"
            "\nsearch: {trials: 2}",
            r"`tune` must allow at least one training; got none; for example with model.depth: 7: model: depth halves "
            r"33 frequencies: at most 5 times. To fix: change these values, or the settings that they do not fit",
        ),
        (
            "search: {scheduler: asha, keep: 3}",
            r"search: keep \(3\) needs `scheduler: top_k`; asha has `reduction_factor`",
        ),
        (
            "search: {scheduler: top_k, reduction_factor: 4}",
            r"search: reduction_factor \(4\) needs `scheduler: asha`; top_k has `keep`",
        ),
        ("search: {scheduler: none, keep: 3}", r"search: keep \(3\) needs `scheduler: top_k`; got"),
        ("search: {scheduler: median, reduction_factor: 4}", r"reduction_factor \(4\) needs `scheduler: asha`; got"),
        ("search: {scheduler: none, grace_seconds: 9}", r"grace_seconds \(9\) needs a scheduler that prunes"),
        (
            "search: {scheduler: top_k, trials: 4, keep: 4}",
            r"search: keep \(4\) must be below trials \(4\), or no trial is pruned",
        ),
        (
            "search: {scheduler: asha}",
            r"search.scheduler needs `tune`: without it a cell has one trial; got search.scheduler: asha",
        ),
        (
            "tune: {training.ema: {low: 0, high: 0.9}}\ntraining: {audio_seconds: 900, report_seconds: 100}\n"
            "search: {scheduler: top_k, grace_seconds: 900}",
            r"search.grace_seconds must be below the budget, training.audio_seconds 900, or top_k prunes no trial; "
            r"got 900.*fix: set for example search.grace_seconds: 225",
        ),
        (
            "tune: {training.ema: {low: 0, high: 0.9}}\ncompare: {training.audio_seconds: [9000, 3600]}\n"
            "search: {grace_seconds: 3600}",
            r"training.audio_seconds 3600, or top_k prunes no trial; got 3600",
        ),
        ("tune: {mixing.flip_polarity: {low: 0, high: 1}}", r"only numbers have a range; got 0 to 1"),
        ("tune: {model.op: {choices: [add], when: {model.site: [output]}}}", r"when must name a tuned key"),
        (
            "tune: {seed: {choices: [0, 1]}}",
            r"tune.seed must stand in `compare`: .* is luck.*; got one of 0, 1 to choose from.*compare: {seed: \[0",
        ),
        ("compare: {seed: [0, 1.5]}", r"experiment mine: seed: must be an integer; got 1.5"),
        ("training: {start_from: 3}", r"training.start_from: must be new, a folder, or a model such as .*; got 3"),
        ("compare: {seed: [0, -1]}", r"experiment mine: seed: .*greater than or equal to 0.*got -1"),
        (
            "compare: {seed.x: [0]}",
            r"a varied key must be model\.\*, mixing\.\*, training\.\*, instruments\.\*, alignment\.\*, "
            r"correspondence\.\* or weak_labels\.\*, seed or objective; got 'seed.x'",
        ),
        ("controls: {a: {seeds: 1}}", r"a varied key must be model\.\*, .*, seed or objective; got 'seeds'"),
        (
            "training: {report_seconds: 9}\ncompare: {training.audio_seconds: [30, 60, 30.0]}",
            r"no two variants or values in `compare` may mean the same; got the cells audio_seconds=30 and "
            r"audio_seconds=30\.0\. To fix: remove one",
        ),
        ("compare: {model.op: [add, film, add]}", r"may mean the same; got the cells op=add and op=add"),
    ],
)
def test_a_wrong_experiment_is_refused_before_anything_runs(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, text))


def test_the_budget_of_a_cell_is_its_own_and_the_largest_where_it_is_tuned():
    key = "training.audio_seconds"
    compared = make(compare={key: (7200.0, 9000.0)}, controls={"plain": {"model.site": "none"}})
    assert [compared.audio_seconds(cell) for cell in compared.cells()] == [7200, 9000, 36000]
    assert make(tune={key: {"choices": (4000, 5000)}}).audio_seconds(make().cells()[0]) == 5000
    assert make(tune={key: {"low": 4000, "high": 6000}}).audio_seconds(make().cells()[0]) == 6000
    assert make(training={"audio_seconds": 5000}).audio_seconds(make().cells()[0]) == 5000


FITTING = {"model": {"levels": 3, "down_kernel": 5}, "training": {"output_samples": 2005}}


def manifest(piece_seconds: float = 3.0, clip_seconds: float = 3.0) -> Manifest:
    recipe = load_recipe("quickstart", [f"clip_seconds={clip_seconds}"])
    piece = PieceEntry(name="p", split="train", composition="c", seconds=piece_seconds, instruments=("vn",))
    return Manifest(name="small", recipe=recipe, signature="s", shards=(), pieces=(piece,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {**FITTING, "training": {"output_samples": 24005}},
            r"output_samples must not exceed the clips of 'small', the longest of which has 24000 samples; got 24005\. "
            r"To fix: use at most 23997",
        ),
        (
            {**FITTING, "training": {"output_samples": 2000}},
            r"output_samples: an output window must be 8 n \+ 5 samples long.*got 2000.*use 1997 or 2005",
        ),
        (
            {**FITTING, "training": {"output_samples": 2005, "batch_size": 3}},
            r"batch_size must be a multiple of the place's workers_per_trial, 2; got 3\. To fix: use 2",
        ),
        (
            {**FITTING, "model": {**FITTING["model"], "channels": 2}},
            r"channels must be as in the shards 'small', 1; got 2\. To fix: set model.channels: 1",
        ),
        (
            {"model": {"network": "spectrogram_u_net", "n_fft": 8192}, "training": {"output_samples": 16384}},
            r"n_fft must be 16 to 4000 samples at 8000 Hz: a window of 2 to 500 ms; got 8192, 1024 ms\. To fix: set",
        ),
        ({**FITTING, "compare": {"model.levels": (3, 5)}}, r"32 n \+ 5 samples long with 5 levels; got 2005"),
        ({**FITTING, "controls": {"deep": {"model.levels": 5}}}, r"32 n \+ 5 samples long with 5 levels; got 2005"),
        ({**FITTING, "tune": {"training.batch_size": {"low": 2, "high": 16}}}, r"workers_per_trial, 2; got 3"),
        (
            {
                **FITTING,
                "tune": {"model.levels": {"choices": (3, 5)}, "training.output_samples": {"choices": (2005, 2013)}},
                "search": {"trials": 2, "first_trials": ({"model.levels": 5, "training.output_samples": 2005},)},
            },
            r"32 n \+ 5 samples long with 5 levels; got 2005",
        ),
    ],
)
def test_what_shards_or_place_do_not_allow_is_refused_before_any_trial(content, message):
    with pytest.raises(ConfigError, match=message):
        check_experiment(make(**content), manifest(), Place(name="x", workers_per_trial=2))


def test_the_window_is_compared_with_the_clips_that_were_written():
    too_long = make(**{**FITTING, "training": {"output_samples": 16005}})
    with pytest.raises(ConfigError, match=r"the longest of which has 8000 samples; got 16005"):
        check_experiment(too_long, manifest(piece_seconds=1.0), Place(name="x"))


def test_settings_that_another_axis_may_mend_are_let_through():
    tune = {"model.levels": {"choices": (3, 5)}, "training.output_samples": {"choices": (2005, 2021)}}
    check_experiment(make(**FITTING, tune=tune), manifest(), Place(name="x"))
    query = {**FITTING, "model": {**FITTING["model"], "outputs": "queries"}}
    check_experiment(make(**query, tune={"model.site": {"choices": ("none", "output")}}), manifest(), Place(name="x"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"model": {**FITTING["model"], "context": "frames", "site": "decoder"}}, "model.context: frames"),
        ({"model": {**FITTING["model"], "context": "motion", "site": "decoder"}}, "model.context: motion"),
        ({"objective": "instruments", "instruments": {"inputs": "pictures"}}, "objective: instruments"),
    ],
)
def test_a_corpus_without_pictures_is_refused_before_a_search(tmp_path, content, what):
    alone = written_alone(tmp_path, [Player("vn", "1", SOUND), Player("vc", "2", SOUND)])
    shards = tuple(shard.model_copy(update={"split": "train"}) for shard in alone.shards)
    asked = make(**{**FITTING, **content})
    with pytest.raises(
        DataError, match=rf"{what} needs shards with pictures of players; got none in the split 'train'"
    ):
        check_experiment(asked, alone.model_copy(update={"shards": shards}), Place(name="x"))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (
            {"context": "features", "vision": {"network": "resnet50"}},
            "one complete folder of resnet50 features .* got none",
        ),
        ({"context": "motion"}, "motion needs at least 10 pictures a second, .*; got picture.frame_rate: 4 in 'small'"),
    ],
)
def test_features_that_were_not_computed_are_refused_before_a_search(small_manifest, context, message):
    asked = make(**{**FITTING, "model": {**FITTING["model"], "site": "decoder", **context}})
    with pytest.raises(DataError, match=message):
        check_experiment(asked, small_manifest, Place(name="x"))


def test_features_are_looked_for_where_all_settings_that_decide_them_are_known(small_manifest):
    model = {**FITTING["model"], "site": "decoder", "context": "features", "vision": {"network": "resnet50"}}
    asked = make(**{**FITTING, "model": model}, tune={"model.features_every": {"choices": (0.5, 1.0)}})
    with pytest.raises(DataError, match="needs one complete folder of resnet50-0.5s features"):
        check_experiment(asked, small_manifest, Place(name="x"))


@pytest.mark.parametrize(
    "content",
    [
        {"model": {**FITTING["model"], "site": "decoder", "context": "frames", "vision": {"weights": "none.pth"}}},
        {"objective": "instruments", "model": {"vision": {"weights": "none.pth"}}},
    ],
)
def test_weights_of_no_vision_network_are_refused_before_a_search(small_manifest, content):
    with pytest.raises(ModelError, match="vision.weights must be .*; got none.pth, which does not exist. To fix: corr"):
        check_experiment(make(**{**FITTING, **content}), small_manifest, Place(name="x"))


@pytest.mark.parametrize("name", ["search", "tune", "a/b", ".hidden", ""])
def test_the_name_of_a_control_is_a_folder_of_its_own(tmp_path, name):
    with pytest.raises(ConfigError, match="a control's name must be a folder's name that no other cell has"):
        load_experiment(write(tmp_path, f"controls: {{'{name}': {{model.site: none}}}}"))


NAMED = "systems: {s: {instruments_from: m}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NAMED, r"systems\.s needs a network that is conditioned on labels, .*; got none in search"),
        ("systems: {s: {cell: all}}", r"systems\.s\.instruments_from"),
        (f"{NAMED[:-2]}, cell: x}}}}", r"systems\.s\.cell must name a cell, one of search; got 'x'"),
        (
            "model: {site: output, context: frames}\n" + NAMED,
            r"systems\.s needs a network .*; got none in search\. To fix: set model\.site, with model\.context: labels",
        ),
        (
            "model: {site: output}\n" + NAMED.replace("{s:", "{search:"),
            r"must have a name that no cell has, .*; got 'search'\. To fix: choose another name",
        ),
        ("objective: alignment\n" + NAMED, r"systems\.s must be of an .* networks separate; got objective: al"),
    ],
)
def test_a_system_that_could_not_be_evaluated_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "model: {site: output}\n" + NAMED,
        "search: {trials: 2}\ntune: {model.site: {choices: [none, output]}}\n" + NAMED,
        "controls: {told: {model.site: output}}\n" + NAMED[:-2] + ", cell: told}}",
    ],
)
def test_a_system_changes_no_training(tmp_path, text):
    plain, named = (load_experiment(write(tmp_path, part)) for part in (text.rpartition("\n")[0], text))
    assert [named.cell_signature(cell) for cell in named.cells()] == [
        plain.cell_signature(cell) for cell in plain.cells()
    ]
    assert named.systems["s"].instruments_from == "m" and named.without_search().systems == {}


@pytest.mark.parametrize(
    ("file", "better"),
    [
        ("my question.yaml", "my-question.yaml"),
        ("résumé.yaml", "resume.yaml"),
        (".yml", "my-experiment.yaml"),
        (".yaml", "my-experiment.yaml"),
        ("a.b.yml", "a-b.yaml"),
        ("日本.yaml", "my-experiment.yaml"),
        ("_x.yaml", "x.yaml"),
        ("[x].yaml", "x.yaml"),
        ("a" * 200 + ".yaml", "a" * 150 + ".yaml"),
    ],
)
def test_the_odd_name_of_a_file_is_told_with_a_better_one(tmp_path, file, better):
    text = Path("experiments/quickstart.yaml").read_text(encoding="utf-8")
    (tmp_path / file).write_text(text, encoding="utf-8")
    message = "an experiment's file must consist of letters from a to z, digits, - and _, .* rename it, for example to "
    with pytest.raises(ConfigError, match=f"{message}{better}$"):
        load_experiment(tmp_path / file)
    (tmp_path / better).write_text(text, encoding="utf-8")
    assert load_experiment(str(tmp_path / better)).name == better.removesuffix(".yaml")


@pytest.mark.parametrize("name", ["012", "true", "null", "1e-4"])
def test_a_name_is_a_word_whatever_yaml_would_make_of_it(tmp_path, name):
    (tmp_path / f"{name}.yaml").write_bytes(Path("experiments/quickstart.yaml").read_bytes())
    assert load_experiment(tmp_path / f"{name}.yaml").name == name


def test_a_setting_of_a_group_in_a_group_can_be_varied_and_its_neighbours_stay():
    own = {"network": "compact", "weights": "chamber", "frozen": False}
    looking = {"context": "frames", "outputs": "queries", "site": "decoder", "vision": own}
    experiment = make(model=looking, compare={"model.vision.weights": ("chamber", "random")})
    found = [experiment.settings(cell.overrides).model.vision for cell in experiment.cells()]
    assert [each.weights for each in found] == ["chamber", "random"]
    assert {(each.network, each.frozen) for each in found} == {("compact", False)}
    with pytest.raises(ConfigError, match=r"model\.levels: must be an integer"):
        experiment.settings({"model.levels.more": 3})


def test_a_file_that_names_itself_is_refused(tmp_path):
    text = Path("experiments/quickstart.yaml").read_text(encoding="utf-8")
    (tmp_path / "a.yaml").write_text(f"name: other\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError, match="every key must be known; got the unknown key 'name'"):
        load_experiment(tmp_path / "a.yaml")


@pytest.mark.parametrize(("file", "better"), [("a\nb.yaml", "a-b"), (".hidden.yaml", "hidden"), ("\x1b[2J.yaml", "2J")])
def test_a_recipe_whose_name_cannot_be_printed_is_refused(file, better):
    with pytest.raises(ConfigError, match=f"a recipe's file must consist of letters .* for example to {better}.yaml"):
        recipe_name(Path(file))


@pytest.mark.parametrize("name", ["my music", "résumé", "K. 421 [live] #1?%20"])
def test_a_recipe_may_have_any_name_that_is_printed(name):
    assert recipe_name(f"{name}.yaml") == name


def test_the_key_that_controls_had_before_is_refused_with_the_one_of_now(tmp_path):
    path = write(tmp_path, "baselines: {plain: {model.site: none}}")
    with pytest.raises(ConfigError, match=r"got the unknown key 'baselines'\. To fix: did you mean 'controls'\?"):
        load_experiment(path)


def test_the_optimizer_that_was_called_adam_is_refused_by_the_name_of_now(tmp_path):
    path = write(tmp_path, "training: {optimizer: adam}")
    with pytest.raises(ConfigError, match="training.optimizer: the optimizer is AdamW: write ada"):
        load_experiment(path)
