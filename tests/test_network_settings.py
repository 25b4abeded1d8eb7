"""Settings of several networks: `network` says whose the others are, in files, on command lines and in experiments."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from smallest_network import BlocksConfig
from test_idle import manifest
from test_study import experiment, names, trained

from vimss.config import differences, parse_config, signature
from vimss.errors import ConfigError
from vimss.experiment import Experiment, field_type
from vimss.model.networks import NETWORKS
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.runtime import Place
from vimss.search.checks import check_experiment
from vimss.search.consistency import load_experiment
from vimss.search.trial import trial_name
from vimss.train.config import Settings, default_of
from vimss.train.rules import idle_settings


@pytest.fixture(autouse=True)
def _one_more_network(monkeypatch):
    """The smallest network is one of them, as if it had its line."""
    monkeypatch.setitem(NETWORKS, "blocks", BlocksConfig)


def settings(**model) -> Settings:
    return parse_config({"model": model}, Settings, "here")


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    path = folder / "mine.yaml"
    path.write_text(f"question: q\nexpected: e\nshards: quickstart\n{text}", encoding="utf-8")
    return load_experiment(path, overrides)


def cell_settings(experiment: Experiment) -> dict:
    return {cell.name: experiment.settings(cell.overrides).model for cell in experiment.cells()}


def test_the_network_says_whose_settings_they_are():
    assert settings(levels=8).model == settings(network="wave_u_net", levels=8).model == WaveUNetConfig(levels=8)
    assert settings(network="blocks", hop=8).model == BlocksConfig(hop=8)


def test_settings_of_every_network_survive_json():
    for chosen in (settings(levels=8), settings(network="blocks", hop=8)):
        assert Settings.model_validate_json(chosen.model_dump_json()) == chosen
        assert Settings.model_validate(chosen.model_dump()) == chosen


def test_the_default_network_is_in_no_signature_and_another_is_by_its_name():
    assert differences(settings(network="wave_u_net", levels=8)) == {"model": {"levels": 8}}
    assert differences(settings(network="blocks")) == {"model": {"network": "blocks"}}
    assert len({signature(settings(network=name)) for name in NETWORKS}) == len(NETWORKS)


def test_a_key_of_another_network_is_refused_with_the_network_that_has_it():
    message = (
        "^here: every key must be known; got the unknown key 'model.hop', which network: blocks has, and network: "
        "wave_u_net has not. To fix: remove it, or choose from channels, context, down_kernel, .*, upsampling, vision$"
    )
    with pytest.raises(ConfigError, match=message):
        settings(hop=8)
    message = r"'model.levels', which network: wave_u_net has, and network: blocks has not. .* hop, .*, width$"
    with pytest.raises(ConfigError, match=message):
        settings(network="blocks", levels=8)


def test_a_misspelt_key_names_the_nearest_of_its_own_network():
    with pytest.raises(ConfigError, match=r"got the unknown key 'model.widht'. To fix: did you mean 'width'\?"):
        settings(network="blocks", widht=8)
    with pytest.raises(ConfigError, match=r"unknown key 'model.vision.frosen'. To fix: did you mean 'frozen'\?"):
        settings(network="blocks", feature_size=5, vision={"frosen": 8})


def test_an_unknown_network_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"here: model.network: must be .*'wave_u_net'.* or 'blocks'; got 'x'"):
        settings(network="x")


@pytest.mark.parametrize("content", [3, "wave_u_net", None, [1]])
def test_settings_that_are_no_group_are_refused(content):
    with pytest.raises(ConfigError, match="here: model: must be a group of settings, such as"):
        parse_config({"model": content}, Settings, "here")


def test_editors_are_told_the_settings_of_every_network():
    choices = TypeAdapter(Settings).json_schema()["properties"]["model"]["oneOf"]
    assert [choice["properties"]["network"]["const"] for choice in choices] == list(NETWORKS)
    assert "hop" in choices[-1]["properties"]


@pytest.mark.parametrize("network", ["x", 1, "[wave_u_net]"])
def test_an_experiment_with_an_unknown_network_is_refused(tmp_path, network):
    known = " or ".join(repr(name) for name in NETWORKS)
    with pytest.raises(ConfigError, match=f"experiment mine: model.network: must be {known}; got"):
        load(tmp_path, f"model: {{network: {network}, hop: 3}}")


def test_the_command_line_sets_the_network_and_its_keys(tmp_path):
    assert load(tmp_path, "", "model.network=blocks", "model.hop=8").settings().model == BlocksConfig(hop=8)
    assert load(tmp_path, "model: {levels: 3}", "model.levels=8").settings().model == WaveUNetConfig(levels=8)


def test_networks_are_compared_and_each_takes_its_own_settings_of_the_file(tmp_path):
    loaded = load(tmp_path, "model: {levels: 3, hop: 8, site: output}\ncompare: {model.network: [wave_u_net, blocks]}")
    assert cell_settings(loaded) == {
        "network=wave_u_net": WaveUNetConfig(levels=3, site="output"),
        "network=blocks": BlocksConfig(hop=8, site="output"),
    }
    names = {loaded.cell_signature(cell) for cell in loaded.cells()}
    assert len(names) == 2 and len({trial_name(loaded.settings(cell.overrides)) for cell in loaded.cells()}) == 2


def test_a_control_may_have_another_network(tmp_path):
    loaded = load(tmp_path, "model: {levels: 3}\ncontrols: {short: {model.network: blocks, model.hop: 8}}")
    assert cell_settings(loaded) == {"search": WaveUNetConfig(levels=3), "short": BlocksConfig(hop=8)}


@pytest.mark.parametrize(
    "text",
    [
        "model: {hop: 8}",
        "model: {hop: 8}\ncompare: {model.network: [wave_u_net]}",
        "compare: {model.network: [wave_u_net, blocks], model.hop: [8, 16]}",
        "model: {network: blocks}\ncompare: {model.network: [blocks, wave_u_net]}\n"
        "tune: {model.hop: {choices: [8, 16]}}\nsearch: {trials: 2}",
    ],
)
def test_a_key_of_a_network_that_is_not_trained_with_it_is_refused(tmp_path, text):
    with pytest.raises(
        ConfigError, match="unknown key 'model.hop', which network: blocks has, and network: wave_u_net"
    ):
        load(tmp_path, text)


def test_a_key_of_one_network_is_tuned_where_that_network_is_drawn(tmp_path):
    loaded = load(
        tmp_path,
        "tune:\n  model.network: {choices: [wave_u_net, blocks]}\n"
        "  model.hop: {choices: [8, 16], when: {model.network: [blocks]}}\nsearch: {trials: 3}",
    )
    drawn = loaded.settings({"model.network": "blocks", "model.hop": 8})
    assert drawn.model == BlocksConfig(hop=8)


def test_a_setting_that_changes_nothing_in_the_one_network_that_has_it_is_refused(tmp_path):
    # In the small Wave-U-Net no layer is that wide; the other network has no such setting.
    text = "model: {network: blocks, max_filters: 512, filters: 8}\n"
    with pytest.raises(ConfigError, match="model.max_filters needs layers that would have more channels"):
        load(tmp_path, f"{text}compare: {{model.network: [wave_u_net, blocks]}}")
    with pytest.raises(ConfigError, match="model.max_filters needs layers that would have more channels"):
        load(tmp_path, f"{text}tune: {{model.network: {{choices: [blocks, wave_u_net]}}}}\nsearch: {{trials: 2}}")


def test_the_type_of_a_key_is_that_of_the_network_that_has_it():
    assert [field_type(f"model.{name}") for name in ("hop", "levels", "gain", "nothing")] == [int, int, float, None]
    assert field_type("model.network") is str


def test_defaults_are_those_of_the_settings_own_network():
    assert default_of("model.hop") == 16 and default_of("model.hop", settings(network="blocks", hop=8)) == 16
    assert idle_settings(settings(network="blocks", hop=8)) == []


def test_windows_are_those_of_the_network(tmp_path):
    loaded = load(tmp_path, "model: {network: blocks}\ntraining: {output_samples: 2000, batch_size: 4}", "model.hop=32")
    message = "output_samples: an output window must be 32 n \\+ 0 samples long with this network; .* use 1984 or 2016"
    with pytest.raises(ConfigError, match=message):
        check_experiment(loaded, manifest(), Place(name="here"))
    check_experiment(loaded.model_copy(update={"model": {"network": "blocks"}}), manifest(), Place(name="here"))


def test_trials_of_one_network_lie_in_no_cell_that_tunes_another(tmp_path):
    tuned = experiment(tune={"model.levels": {"choices": [2, 3]}})
    trained(tmp_path, tuned, {"model.levels": 2})
    assert [len(trials) for trials in names(tuned, tmp_path).values()] == [1]
    other = experiment(model={"network": "blocks"}, tune={"model.hop": {"choices": [8, 16]}})
    assert [len(trials) for trials in names(other, tmp_path).values()] == [0]
