"""Settings that change nothing: refused where a file asks for one, left out where another part of it makes it idle."""

import re
from pathlib import Path

import pytest
import yaml

from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.model.contexts import CONTEXT_KEYS, CONTEXTS, contexts_with
from vimss.runtime import Place
from vimss.search.checks import check_experiment
from vimss.search.consistency import load_experiment
from vimss.search.trial import trial_name
from vimss.shards.manifest import Manifest, PieceEntry
from vimss.shards.recipe import load_recipe
from vimss.train.config import Settings, default_of, has_key, value_at
from vimss.train.idle import without_idle
from vimss.train.rules import RULES, deciding_keys, idle_settings

HEAD = "question: q\nexpected: e\nshards: quickstart\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


LOOKS = {"model.site": "decoder", "model.context": "frames"}
IDLE = {
    "model.context": ("frames", {}, {"model.site": "decoder"}),
    "model.op": ("add", {"model.site": "none"}, {"model.site": "decoder"}),
    "model.slots": (3, {"model.outputs": "instruments"}, {"model.outputs": "slots"}),
    "model.share_mixture": (True, {"training.loss": "si_sdr"}, {"training.loss": "l1"}),
    "model.max_filters": (512, {"model.filters": 8}, {"model.filters": 100}),
    "model.vision.network": ("resnet50", {"model.site": "decoder"}, LOOKS),
    "model.vision.weights": ("random", {"model.site": "decoder"}, LOOKS),
    "model.vision.frozen": (False, {"model.site": "decoder", "model.context": "features"}, LOOKS),
    "mixing.aligned_probability": (0.5, {"mixing.min_sources": 1, "mixing.max_sources": 1}, {"mixing.max_sources": 3}),
    "mixing.same_label_probability": (0.5, {"mixing.aligned_probability": 1}, {"mixing.max_sources": 2}),
    "mixing.absent_probability": (0.5, {}, {"model.outputs": "queries", "model.site": "output"}),
    "mixing.queries": (3, {"model.outputs": "slots"}, {"model.outputs": "queries", "model.site": "output"}),
    "mixing.shuffle_pictures": (True, {"model.site": "decoder"}, LOOKS),
    "mixing.swap_channels": (True, {"model.channels": 1}, {"model.channels": 2}),
    "mixing.remix_probability": (0.5, {"training.batch_size": 1}, {"training.batch_size": 2}),
    "mixing.curriculum_epochs": (4, {"mixing.max_sources": 2}, {"mixing.max_sources": 3}),
    "training.absent_weight": (0.5, {"training.loss": "l1"}, {"training.loss": "si_sdr"}),
    "training.dissimilarity_weight": (0.1, {"training.loss": "l1"}, {"training.loss": "mse"}),
    "training.slot_order": ("pitch", {"model.outputs": "slots", "model.slots": 1}, {"model.outputs": "slots"}),
    "training.constant_seconds": (9000, {}, {"training.learning_rate_decay": 0.5}),
    "training.patience_seconds": (9000, {"training.audio_seconds": 10000}, {"training.audio_seconds": 18000}),
}
"""A setting to a value that is not the default, to others under which it changes nothing, and under which it does.

Those of every network and of the default one; another network's test has its own."""


def _under(contexts) -> dict[str, str]:
    return {"model.site": "decoder", "model.context": next(iter(contexts))}


IDLE["model.motion_encoder"] = ("convolutions", LOOKS, {"model.site": "decoder", "model.context": "motion"})
# The numbers that single contexts add; any other kind of setting has a row above.
for name in [key for key in CONTEXT_KEYS if f"model.{key}" not in IDLE]:
    having = contexts_with(name)
    others = [context for context in CONTEXTS if context not in having]
    IDLE[f"model.{name}"] = (default_of(f"model.{name}") + 1, _under(others), _under(having))


def nested(flat) -> dict:
    content: dict = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        group = content
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    return content


def experiment(flat, **more) -> Experiment:
    return Experiment(name="mine", question="q", expected="e", shards="quickstart", **nested(flat), **more)


def test_every_rule_is_tried():
    assert set(IDLE) == {key for key in RULES if has_key(Settings(), key)}


@pytest.mark.parametrize("key", IDLE)
def test_a_setting_that_changes_nothing_is_refused_with_what_it_needs(tmp_path, key):
    value, others, _ = IDLE[key]
    path = write(tmp_path, yaml.safe_dump(nested({**others, key: value})))
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    error = caught.value
    assert error.rule == f"experiment mine: {key} needs {RULES[key].needs}"
    asked = re.match(rf"{key}: (\S+) with ", error.got)
    assert asked is not None and asked[1] in {str(value), f"{value}.0"}
    decide = deciding_keys(Settings(), key)
    assert decide and all(f"{other}: " in error.got for other in decide)
    assert error.fix == f"remove {key}, or change {' or '.join(decide)}"


@pytest.mark.parametrize("key", IDLE)
def test_the_same_setting_is_kept_where_it_changes_something(tmp_path, key):
    value, _, others = IDLE[key]
    settings = experiment({**others, key: value}).settings()
    assert value_at(settings, key) == value and idle_settings(settings) == []


@pytest.mark.parametrize("key", IDLE)
def test_its_default_may_be_spelled_out(tmp_path, key):
    _, others, _ = IDLE[key]
    assert experiment({**others, key: default_of(key)}).settings() == experiment(others).settings()


@pytest.mark.parametrize("key", IDLE)
def test_where_another_part_makes_it_idle_the_training_is_the_same_and_has_the_same_name(key):
    value, idle, _ = IDLE[key]
    one, other = experiment({**idle, key: value}).settings(), experiment(idle).settings()
    assert one == other and trial_name(one) == trial_name(other)


@pytest.mark.parametrize("key", IDLE)
def test_settings_that_a_program_makes_are_refused_alike(key):
    value, others, _ = IDLE[key]
    with pytest.raises(ValueError, match=f"{key} needs {RULES[key].needs}; got {key}: "):
        Settings.model_validate(nested({**others, key: value}))


@pytest.mark.parametrize(
    "text",
    [
        "model: {op: add, context: frames}\ncompare: {model.site: [none, decoder]}",
        "model: {op: add, context: frames}\ncontrols: {told: {model.site: decoder}}",
        "model: {op: add, site: decoder}\ncontrols: {blind: {model.site: none}}",
        "model: {op: add}\ntune: {model.site: {choices: [none, decoder]}}\nsearch: {trials: 2}",
        "model: {site: decoder, op: add}\ntune: {model.op: {choices: [film, concat]}}\nsearch: {trials: 2}",
        "compare: {model.site: [none, decoder], model.op: [add, film]}",
        "training: {absent_weight: 3}\ntune: {training.loss: {choices: [l1, snr]}}\nsearch: {trials: 2}",
        "compare: {model.site: [none, decoder]}\ntune: {model.op: {choices: [add, film]}}\n"
        "search: {trials: 2, first_trials: [{model.op: add}]}",
        "mixing: {remix_probability: 0.5}\ntune: {training.batch_size: {low: 1, high: 8}}",
    ],
)
def test_what_changes_one_of_the_trainings_is_not_refused(tmp_path, text):
    load_experiment(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("controls: {blind: {model.site: none, model.op: add}}", "controls.blind.model.op"),
        ("model: {site: decoder}\ncontrols: {blind: {model.site: none, model.op: add}}", "controls.blind.model.op"),
        ("training: {loss: l1}\ncontrols: {x: {training.absent_weight: 2}}", "controls.x.training.absent_weight"),
        ("compare: {model.op: [add, film]}", "compare.model.op"),
        ("compare: {model.op: [add, film], model.site: [none]}", "compare.model.op"),
        ("tune: {model.op: {choices: [add, film]}}\nsearch: {trials: 2}", "tune.model.op"),
        ("tune: {training.absent_weight: {low: 1, high: 2}}\ntraining: {loss: mse}", "tune.training.absent_weight"),
        (
            "tune: {model.site: {choices: [none, output]}, model.op: {choices: [add], when: {model.site: [none]}}}\n"
            "search: {trials: 2}",
            "tune.model.op",
        ),
        (
            "tune: {model.site: {choices: [none, output]}, model.op: {choices: [add, film]}}\n"
            "search: {trials: 2, first_trials: [{model.site: none, model.op: add}]}",
            "search.first_trials.model.op",
        ),
        ("model: {op: add}\ntune: {model.site: {choices: [none]}}\nsearch: {trials: 1}", "model.op"),
    ],
)
def test_what_changes_none_of_them_is_refused_where_it_stands(tmp_path, text, where):
    with pytest.raises(
        ConfigError, match=rf"^experiment mine: {re.escape(where)} needs .*To fix: remove {re.escape(where)},"
    ):
        load_experiment(write(tmp_path, text))


def test_a_set_on_the_command_line_makes_a_setting_of_the_file_idle_without_an_error(tmp_path):
    path = write(tmp_path, "model: {site: decoder, op: add}")
    assert load_experiment(path, ["model.site=none"]).settings() == load_experiment(write(tmp_path, "")).settings()


def test_a_set_that_changes_nothing_itself_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="mine: model.op needs a model.site other than none"):
        load_experiment(write(tmp_path, "model: {site: decoder}"), ["model.site=none", "model.op=add"])
    with pytest.raises(ConfigError, match="mine: model.context needs a model.site other than none"):
        load_experiment(write(tmp_path, "model: {context: frames}"), ["seed=1"])


@pytest.mark.parametrize("setting", ["trials: 9", "scheduler: asha", "grace_seconds: 7", "first_trials: [{}]"])
def test_how_to_search_needs_something_to_search(tmp_path, setting):
    name = setting.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"mine: search.{name} needs `tune`: .*got search.{name}: .*or add `tune`$"):
        load_experiment(write(tmp_path, f"search: {{{setting}}}"))


def test_trials_are_counted_by_what_they_train(tmp_path):
    text = "tune: {model.site: {choices: [none, decoder]}, model.op: {choices: [add, film]}}\nsearch: {trials: %d}"
    assert load_experiment(write(tmp_path, text % 3)).search.trials == 3
    with pytest.raises(ConfigError, match="got 4 trials of 3 settings. To fix: set search.trials: 3, or add choices"):
        load_experiment(write(tmp_path, text % 4))


def test_a_compared_setting_has_values(tmp_path):
    with pytest.raises(ConfigError, match=r"compare.model.levels must list values; got \[\]. To fix: remove the key"):
        load_experiment(write(tmp_path, "compare: {model.levels: []}"))


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("{choices: [2, 4], log: true}", "has no `low`, `high` or `log`"),
        ("{choices: [2, 4], low: 9}", "has no `low`, `high` or `log`"),
        ("{choices: [2, 2]}", "must list each choice once"),
    ],
)
def test_an_axis_has_nothing_that_it_does_not_use(tmp_path, axis, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, f"tune: {{training.batch_size: {axis}}}"))


@pytest.mark.parametrize(("filters", "same"), [((64, 32), (32, 32)), ((16, 16), (24, 16)), ((200, 3000), (200, 2600))])
def test_two_spellings_of_the_same_widths_are_one_training(filters, same):
    one, other = (
        experiment({"model.filters": first, "model.max_filters": most}).settings() for first, most in (filters, same)
    )
    assert one == other


def test_leaving_out_twice_leaves_out_no_more():
    for key, (value, others, _) in IDLE.items():
        once = without_idle(nested({**others, key: value}))
        assert without_idle(once) == once


def test_a_warm_up_ends_within_the_budget(tmp_path):
    with pytest.raises(
        ConfigError, match=r"warmup_seconds \(90000\) must not exceed audio_seconds \(36000\): the learning"
    ):
        load_experiment(write(tmp_path, "training: {warmup_seconds: 90000}"))


CONSTANT = "training: {learning_rate_decay: 0.1, constant_seconds: 90, report_seconds: 45, audio_seconds: 270}\n"


@pytest.mark.parametrize(
    "text", ["", "tune: {training.learning_rate: {low: 1e-4, high: 1e-3}}", "compare: {seed: [0, 1]}"]
)
def test_the_decay_starts_within_every_budget_that_is_compared(tmp_path, text):
    load_experiment(write(tmp_path, CONSTANT + text))
    message = r"constant_seconds \(90\) must be below audio_seconds \(90\): the learning rate would never decay"
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, CONSTANT + text), ["training.audio_seconds=90"])
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, CONSTANT + text), ["compare={training.audio_seconds: [90, 270]}"])


def test_where_the_constant_rate_is_drawn_one_choice_must_fit_the_budget(tmp_path):
    tune = "tune: {training.constant_seconds: {choices: [%s]}}\nsearch: {trials: 1}"
    head = CONSTANT.replace("constant_seconds: 90, ", "")
    assert load_experiment(write(tmp_path, head + tune % "90, 300")).search.trials == 1
    with pytest.raises(ConfigError, match=r"constant_seconds \(400\) must be below audio_seconds \(270\)"):
        load_experiment(write(tmp_path, head + tune % "300, 400"))


def manifest(*labels: str) -> Manifest:
    recipe = load_recipe("quickstart").model_copy(update={"labels": labels or ("vn", "vc")})
    piece = PieceEntry(name="p", split="train", composition="c", seconds=30.0, instruments=("vn",))
    return Manifest(name="small", recipe=recipe, signature="s", shards=(), pieces=(piece,))


FITS = {"model.levels": 3, "model.down_kernel": 5, "training.output_samples": 2005, "training.batch_size": 4}


@pytest.mark.parametrize(
    ("flat", "labels", "message"),
    [
        (
            {"training.gradient_compression": "bfloat16"},
            (),
            "training.gradient_compression needs a place where several workers exchange gradients; "
            r"got workers_per_trial: 1 in 'here'. To fix: remove it, or choose another place with --on",
        ),
        (
            {"training.warmup_seconds": 1},
            (),
            "training.warmup_seconds needs to be longer than one step; got 1, and steps of 1.0025 audio seconds",
        ),
        (
            {"mixing.room_seconds": 1e-4},
            (),
            "mixing.room_seconds needs to be longer than one audio sample; got 0.0001 at",
        ),
        (
            {"training.compile": "cuda_graphs"},
            (),
            "cuda_graphs needs a place with GPUs; got gpus_per_worker: 0 in 'here'",
        ),
        (
            {"model.outputs": "slots", "mixing.max_sources": 3},
            (),
            "model.slots must not be fewer than mixing.max_sources: each source needs a slot; got 2 slots and up to 3",
        ),
        ({"model.output_type": "difference"}, ("vn",), "difference needs shards with several labels, unlike 'small'"),
    ],
)
def test_what_shards_or_place_make_idle_or_impossible_is_refused_before_any_trial(flat, labels, message):
    with pytest.raises(ConfigError, match=message):
        check_experiment(experiment({**FITS, **flat}), manifest(*labels), Place(name="here"))


def test_a_worker_with_one_mixture_has_nothing_to_remix():
    remixed = experiment({**FITS, "mixing.remix_probability": 0.5})
    check_experiment(remixed, manifest(), Place(name="here", workers_per_trial=2))
    message = "remix_probability needs several mixtures in the batch of each worker; got batch_size: 4 with workers_"
    with pytest.raises(ConfigError, match=message):
        check_experiment(remixed, manifest(), Place(name="here", workers_per_trial=4))


def test_what_one_cell_can_use_is_not_refused_for_another():
    compared = experiment({**FITS, "training.warmup_seconds": 2}, compare={"training.batch_size": (4, 64)})
    check_experiment(compared, manifest(), Place(name="here"))
