"""Variants: settings that belong together, as one variable of a question."""

import pytest

from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.report import seed_spreads
from vimss.search.consistency import load_experiment
from vimss.search.study import Study

TWO = """
question: "?"
expected: "!"
shards: quickstart
model: {outputs: queries, context: labels}
training: {audio_seconds: 300, report_seconds: 100}
variants:
  waves:
    model.filters: 12
    model.site: decoder
  spectra:
    model.network: spectrogram_u_net
    model.site: bottleneck
    training.output_samples: 16384
    training.audio_seconds: 600
"""


def load(tmp_path, text: str) -> Experiment:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_experiment(path)


def test_every_variant_is_crossed_with_what_is_compared(tmp_path):
    cells = load(tmp_path, TWO + "compare: {seed: [0, 1]}").cells()
    assert [cell.name for cell in cells] == ["waves,seed=0", "waves,seed=1", "spectra,seed=0", "spectra,seed=1"]


def test_a_variant_alone_names_its_cell_and_has_its_own_settings_and_budget(tmp_path):
    experiment = load(tmp_path, TWO)
    waves, spectra = experiment.cells()
    assert [waves.name, spectra.name] == ["waves", "spectra"]
    assert experiment.settings(waves.overrides).model.network == "wave_u_net"
    assert experiment.settings(spectra.overrides).model.network == "spectrogram_u_net"
    assert [experiment.audio_seconds(cell) for cell in (waves, spectra)] == [300, 600]


def test_a_cell_is_the_same_whether_a_variant_or_compare_fixes_its_settings(tmp_path):
    by_variant = load(tmp_path, TWO)
    alone = TWO.partition("variants:")[0] + "compare: {model.filters: [12], model.site: [decoder]}"
    by_value = load(tmp_path, alone)
    assert by_variant.cell_signature(by_variant.cells()[0]) == by_value.cell_signature(by_value.cells()[0])


def test_settings_of_other_networks_in_the_file_are_left_out_of_a_variant(tmp_path):
    text = TWO.replace("context: labels}", "context: labels, levels: 6, n_fft: 512, hop_length: 128}")
    experiment = load(tmp_path, text)
    waves, spectra = (experiment.settings(cell.overrides).model.model_dump() for cell in experiment.cells())
    assert waves["levels"] == 6 and "n_fft" not in waves
    assert spectra["n_fft"] == 512 and "levels" not in spectra


def test_the_first_rung_is_a_ninth_of_the_shortest_variant(tmp_path):
    tuned = "tune: {training.learning_rate: {choices: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3]}}"
    assert load(tmp_path, TWO.replace("600", "270") + tuned).search.grace_seconds == 30


def test_what_varies_is_told_to_mlflow_by_key(tmp_path):
    experiment = load(tmp_path, TWO + "compare: {seed: [0, 1]}")
    expected = "model.filters model.site model.network training.output_samples training.audio_seconds seed"
    assert experiment.varied == tuple(expected.split())


def test_variants_that_differ_in_their_seed_alone_are_one_group(tmp_path):
    experiment = load(tmp_path, TWO + "compare: {seed: [0, 1]}")
    spreads = seed_spreads(experiment, Study(tmp_path, ()))
    assert [(spread.name, spread.cells) for spread in spreads] == [("waves", 2), ("spectra", 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TWO + "compare: {model.filters: [12, 24]}",
            r"stands in `compare`, `variants` or `tune`; got model\.filters in",
        ),
        (
            TWO + "tune: {model.filters: {choices: [12, 24]}}",
            r"`variants` or `tune`; got model\.filters in both",
        ),
        (TWO.replace("waves:", "a/b:"), r"begins names of cells, which are folders; got 'a/b'"),
        (TWO.replace("model.filters: 12", "model.filers: 12"), r"filers"),
        (TWO.replace("model.filters: 12", "model.n_fft: 12"), r"n_fft"),
        (
            TWO.replace("600", "300") + "  again: {model.filters: 12, model.site: decoder}",
            r"got the cells waves and again",
        ),
        (TWO + "controls: {waves: {model.site: none}}", r"a control's name must be .* that no other cell has"),
        (
            TWO.replace("model.filters: 12", "objective: instruments"),
            r"variants\.waves\.objective must name objectives",
        ),
        (TWO.replace("bottleneck", "bottleneck\n    model.bins: 64"), r"variants\.spectra\.model\.bins"),
    ],
)
def test_a_variant_that_is_none_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)
