"""The table of `vimss compare`: seeds gathered, intervals over pieces, paired gains, costs, refusals."""

import csv
import io
import json
import math
from dataclasses import asdict
from statistics import mean

import numpy as np
import pytest
import torch

from vimss import report
from vimss.comparison import columns, compare, csv_text, markdown, row_texts
from vimss.comparison.rows import wall_seconds
from vimss.config import to_json
from vimss.errors import ConfigError, DataError, StorageError
from vimss.evaluate import Evaluation, MixtureScore, Part, PictureClaim, SourceCount, SourceScore, TwoSources
from vimss.evaluations import save_evaluations
from vimss.experiment import Experiment
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, read_card, save_separator
from vimss.pages.of_comparison import compare_study, write_files
from vimss.search.study import Study, TrialRecord, best_of_cell
from vimss.train.config import Settings

PIECES = 12

ASKED = Experiment(
    name="asked", question="q", expected="x", shards="small",
    compare={"seed": (0, 1), "model.site": ("none", "decoder")}, controls={"plain": {}},
    model={"levels": 2, "filters": 2, "down_kernel": 5, "outputs": "queries"},
)  # fmt: skip

SHIFTS = {"seed=0,site=none": 1.0, "seed=1,site=none": 2.0, "seed=0,site=decoder": 2.0, "seed=1,site=decoder": 4.0}
"""Of each cell in dB, over what is easy or hard in each source."""


def trial(folder, cell: str, number: int, validation: str = "set") -> TrialRecord:
    """A finished trial with weights of its own, four times as fast in the second half."""
    torch.manual_seed(number)
    config = WaveUNetConfig(levels=2, filters=2, down_kernel=5, outputs="queries", site="decoder", padding="same")
    save_separator(folder / cell / "model", Separator(config, ("vn", "vc"), 8000), {})
    training = {"output_samples": 2004, "audio_seconds": 40, "report_seconds": 20}
    reports = [(20.0, 5.0, -1.0), (40.0, 20.0, -2.0 - number)]
    return TrialRecord(
        cell=cell, trial="t", state="finished", chosen={}, begun=0.0, folder=folder / cell, validation=validation,
        settings=Settings.model_validate({"model": config.model_dump(), "training": training}),
        reports=tuple(
            {"audio_seconds": seconds, "audio_seconds_per_second": rate, "valid_loss": loss}
            for seconds, rate, loss in reports
        ),
    )  # fmt: skip


def evaluation(
    system: str, shift: float, weights: str = "", truth: str = "nothing", pieces: int = PIECES
) -> Evaluation:
    rng = np.random.default_rng(len(system))
    scores = [
        SourceScore(
            piece=f"p{piece}", label=label, sources=2, sdr=0, sir=0, sar=0, pes=0, eps=0,
            si_sdr_improvement=3 * math.sin(piece) + shift + 0.2 * rng.standard_normal(),
        )
        for piece in range(pieces) for label in ("vc", "vn")
    ]  # fmt: skip
    return Evaluation.of(Part(system, weights, (), tuple(scores), truth=truth), "test")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    return Study(folder, tuple(trial(folder, cell, number) for number, cell in enumerate(SHIFTS)))


@pytest.fixture(scope="module")
def table(study) -> tuple[Evaluation, ...]:
    """All cells, the mixture and an oracle."""
    cells = (
        evaluation(cell, shift, read_card(best_of_cell(study, cell).folder / "model")["sha256"])
        for cell, shift in SHIFTS.items()
    )
    others = evaluation("mixture", 0.0), evaluation("oracle", 20.0, truth="stems"), evaluation("plain", 9.0, "gone")
    return (*cells, *others)


@pytest.fixture
def evaluated(study, table, no_table_left) -> tuple[Evaluation, ...]:
    """The table, kept in the study."""
    save_evaluations(study, "test", table)
    return table


@pytest.fixture
def no_table_left(study):
    """No table is left behind for the next test."""
    yield
    for path in study.folder.glob("evaluation-*.json"):
        path.unlink()


def compared(study, **how):
    return compare(ASKED, None, study, "test", **how)


def test_a_row_is_a_cell_with_its_seeds_gathered(study, evaluated):
    found = compared(study)
    assert [row.name for row in found.rows] == ["site=none", "site=decoder", "plain", "mixture"]
    row = found.rows[1]
    medians = [one.median("si_sdr_improvement") for one in evaluated if one.system.endswith("site=decoder")]
    assert row.over_seeds == pytest.approx(medians) and row.value == pytest.approx(mean(medians))
    assert row.interval[0] < row.value < row.interval[1]
    assert (row.cells, row.trials, row.finished) == (2, 2, 2)


def with_contrast(one: Evaluation, contrast: float) -> Evaluation:
    mixtures = [
        MixtureScore(
            mixture=number, pieces=(f"p{number}",), aligned=True, labels=("vc", "vn"), si_sdr_improvement=(0.0, 0.0),
            label_contrast=(contrast + math.sin(number),) * 2, absent_level=(),
        )
        for number in range(PIECES)
    ]  # fmt: skip
    return Evaluation.of(Part(one.system, one.weights, tuple(mixtures), one.scores, truth=one.truth), "test")


def test_the_label_contrast_of_seeds_stands_beside_where_there_is_one(study, evaluated):
    assert "label contrast, dB" not in columns(compared(study))
    shown = {"seed=0,site=decoder": 6.0, "seed=1,site=decoder": 8.0}
    kept = [with_contrast(one, shown[one.system]) if one.system in shown else one for one in evaluated]
    save_evaluations(study, "test", kept)
    found = compared(study)
    column = columns(found).index("label contrast, dB")
    _, decoder, *others = found.rows
    assert decoder.contrast == pytest.approx(7.0, abs=0.3)
    assert decoder.contrast_interval[0] < decoder.contrast < decoder.contrast_interval[1]
    assert row_texts(found)[1][column].startswith(f"{decoder.contrast:.1f} (")
    assert {row_texts(found)[found.rows.index(row)][column] for row in others} == {"-"}
    (line,) = [row for row in csv.DictReader(io.StringIO(csv_text(found))) if row["cell"] == "site=decoder"]
    assert float(line["contrast"]) == pytest.approx(decoder.contrast)


def scored_by_sources(evaluated, counts) -> list[Evaluation]:
    """The table, of which the cells at the decoder were scored on mixtures of these numbers of sources too."""
    gains = {"seed=0,site=decoder": 3.0, "seed=1,site=decoder": 5.0}
    kept = []
    for one in evaluated:
        many = [
            MixtureScore(
                mixture=number, pieces=(f"p{number}",), aligned=False, sources=count, labels=("fl", "vc", "vn"),
                si_sdr_improvement=(gains[one.system] + math.sin(number),) * 3, label_contrast=(), absent_level=(),
            )
            for count in counts for number in range(PIECES if one.system in gains else 0)
        ]  # fmt: skip
        kept.append(one.model_copy(update={"source_counts": SourceCount.each(many)}))
    return kept


def test_mixtures_of_each_number_of_sources_stand_beside_where_they_were_scored(study, evaluated):
    assert not [heading for heading in columns(compared(study)) if "sources" in heading]
    save_evaluations(study, "test", scored_by_sources(evaluated, [3]))
    found = compared(study)
    column, (none, decoder, *_) = columns(found).index("3 sources, dB"), found.rows
    value, (low, high) = decoder.by_sources[3]
    assert value == pytest.approx(4.0, abs=0.3) and low < value < high and none.by_sources == {}
    assert [row[column] for row in row_texts(found)[:2]] == ["-", f"{value:.1f} ({low:.1f} to {high:.1f})"]
    assert "3 sources, dB" in markdown(found) and "mixtures of N independent players" in markdown(found)
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [line["sources_3"] for line in lines] == ["", str(value), "", ""]
    assert float(lines[1]["sources_3_high"]) == pytest.approx(high)
    summary = json.loads(to_json(asdict(found)))
    assert [row["by_sources"] for row in summary["rows"][:2]] == [{}, {"3": [value, [low, high]]}]


def test_a_terminal_of_120_columns_shows_the_whole_table(study, evaluated, capsys):
    kept = scored_by_sources([with_contrast(one, 10.0) for one in evaluated], [2, 3, 4, 5])
    save_evaluations(study, "test", kept)
    report.print_compared(compare_study(ASKED, None, study, "test"))
    table = capsys.readouterr().out.partition("\n  SI-SDRi: ")[0]
    # Beside names of up to 25 characters, as "Wiener filter, all labels" has.
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 120 - 25 + len("site=decoder")
    assert all(heading in table for heading in ("label contrast", "5 sources, dB", "GMAC per s"))
    figures, _, others = table.partition("SI-SDRi on mixtures of N")
    sources, _, cost = others.partition("Cost of the best trials")
    assert all("site=none" in block for block in (figures, cost)) and "site=none" not in sources
    assert "mixture" in figures and "\n  mixture" not in cost


def test_the_interval_of_one_seed_is_that_of_the_evaluation(study, evaluated):
    row = compared(study).rows[-1]
    (alone,) = [one for one in evaluated if one.system == "mixture"]
    assert row.interval == pytest.approx(alone.intervals["si_sdr_improvement"])
    assert (row.cells, row.cost, len(row.over_seeds)) == (0, None, 1)


def test_the_gain_is_paired_so_it_is_sure_where_the_figures_are_not(study, evaluated):
    none, decoder, _, mixture = compared(study).rows
    assert none.gain is None and none.interval[1] > decoder.interval[0]
    assert decoder.gain.mean == pytest.approx(1.5, abs=0.2) and decoder.gain.significant
    assert decoder.gain.pieces == PIECES and mixture.gain.high < 0
    over_mixture = compared(study, against="mixture").rows
    assert over_mixture[-1].gain is None and over_mixture[1].gain.mean == pytest.approx(3.0, abs=0.2)


def test_a_damaged_table_is_explained(study, no_table_left):
    for content in ('[{"system', '{"system": 1}', "7"):
        (study.folder / "evaluation-test.json").write_text(content, encoding="utf-8")
        with pytest.raises(
            DataError, match=r"evaluation-test.json must be a table that .* kept; got .*: delete it, and"
        ):
            compared(study)


def test_the_rows_to_compare_with_are_named(study):
    with pytest.raises(
        ConfigError, match="got 'site=nowhere'. To fix: choose from 'site=none', 'site=decoder', 'plain'$"
    ):
        compared(study, against="site=nowhere")


def test_a_cost_has_seconds_of_the_machine_weights_and_multiplications(study):
    cost = compared(study).rows[0].cost
    # 20 audio seconds at five times real time, 20 at twenty times.
    assert (cost.audio_seconds, cost.wall_seconds) == (40.0, pytest.approx(5.0))
    assert cost.weights == sum(
        one.numel() for one in Separator(study.records[0].settings.model, ("vn", "vc"), 8000).parameters()
    )
    assert cost.gmac_per_second > 0


def test_the_seconds_of_a_trial_that_was_scored_again_are_those_it_trained(study):
    assert wall_seconds(study.records[0].moved_to("other", study.records[0].reports[1:])) == pytest.approx(5.0)


def test_without_an_evaluation_the_figure_is_that_of_the_validation_set_and_says_so(study):
    found = compared(study)
    none, decoder, plain = found.rows
    # Trials 0 and 1 are of site=none.
    assert (none.value, none.interval, none.over_seeds) == (-2.5, None, (-2.0, -3.0))
    assert decoder.gain.mean == pytest.approx(2.0) and math.isnan(plain.value) and math.isnan(plain.gain.mean)
    assert found.split == "" and found.figure.title == "validation loss" and "too good for a result" in found.basis
    assert found.sentences == (
        "the best trials are not evaluated on test: run `vimss evaluate asked --split test` for figures with intervals "
        "over pieces",
    )
    assert row_texts(found)[1][2:5] == ("-4.50", "-5.00 to -4.00", "+2.00")


def test_a_trial_that_is_newer_than_the_evaluation_is_named(study, evaluated):
    save_evaluations(study, "test", [one for one in evaluated if one.system != "seed=1,site=decoder"])
    found = compared(study)
    assert (
        "not evaluated on test yet, in site=decoder: run `vimss evaluate asked --split test` again"
        in found.sentences[0]
    )
    assert row_texts(found)[1][1] == "1 of 2"


def test_what_was_validated_on_different_sets_is_not_compared(study, tmp_path):
    moved = Study(study.folder, (*study.records[:-1], study.records[-1].model_copy(update={"validation": "larger"})))
    with pytest.raises(DataError, match=r"validated on one set before .*seed=1,site=decoder on larger.*`vimss search`"):
        compared(moved)


def test_what_was_evaluated_on_different_pieces_is_not_compared(study, evaluated):
    save_evaluations(study, "test", [*evaluated[:-1], evaluation("NMF", 0.0, pieces=3)])
    with pytest.raises(DataError, match="the same sources of the same pieces; got 24 sources for .* 6 sources for NMF"):
        compared(study)


def test_pictures_are_claimed_as_evaluate_claims_them(study, evaluated):
    claim = PictureClaim(
        right=3, other=0, shuffled=math.nan, label=math.nan, gain=math.nan, interval=None, is_gain=False,
        sentence="no claim: no control",
    )  # fmt: skip
    save_evaluations(study, "test", [evaluated[0].model_copy(update={"pictures": claim}), *evaluated[1:]])
    assert compared(study).sentences == ("what seed=0,site=none is shown of players: no claim: no control",)


def test_where_there_are_no_whole_pieces_two_source_mixtures_are_compared(study, evaluated):
    scores = [
        MixtureScore(
            mixture=number, pieces=(f"p{number}", f"p{(number + 1) % 8}"), aligned=False, labels=("vn", "vc"),
            si_sdr_improvement=(float(number), float(number) + 1), label_contrast=(), absent_level=(),
        )
        for number in range(8)
    ]  # fmt: skip
    better = [
        one.model_copy(update={"si_sdr_improvement": tuple(x + 1 for x in one.si_sdr_improvement)}) for one in scores
    ]
    save_evaluations(
        study,
        "test",
        [
            one.model_copy(
                update={"scores": (), "two_sources": TwoSources.of(better if "decoder" in one.system else scores)}
            )
            for one in evaluated
        ],
    )
    found = compared(study)
    none, decoder = found.rows[:2]
    assert "16 sources in two-source mixtures of 8 pieces" in found.basis
    assert (none.value, decoder.value) == (4.0, 5.0) and none.interval[0] < 4 < none.interval[1]
    assert (decoder.gain.mean, decoder.gain.pieces) == (1.0, 8)
    assert (decoder.gain.low, decoder.gain.high) == pytest.approx((1.0, 1.0))


def test_an_oracle_that_assigns_the_outputs_of_a_cell_is_named(study, evaluated):
    save_evaluations(study, "test", [evaluated[0].model_copy(update={"truth": "order"}), *evaluated[1:]])
    assert "seed=0,site=none: an oracle assigns its outputs to the sources" in compared(study).sentences[0]


def test_the_convention_stands_below_the_table_and_in_markdown(study, evaluated, capsys):
    text = markdown(compared(study))
    assert "- SI-SDRi: SI-SDR (Le Roux et al. 2019)" in text and "- gain: mean of the paired difference" in text
    assert "| site=decoder | 2 |" in text and "12 whole pieces" in text
    report.print_compared(compare_study(ASKED, None, study, "test"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "SI-SDRi: SI-SDR (Le Roux et al. 2019)" in shown and "gain over site=none" in shown


def test_the_csv_has_a_value_for_every_heading_and_nothing_for_what_is_not_known(study, evaluated):
    found = compared(study)
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [row["cell"] for row in rows] == [row.name for row in found.rows]
    assert None not in rows[0] and float(rows[1]["gain"]) == pytest.approx(found.rows[1].gain.mean)
    assert (rows[0]["gain"], rows[2]["value"], rows[3]["weights"]) == ("", "", "") and rows[1]["split"] == "test"


def test_the_files_lie_in_the_study_under_names_that_stay_and_each_split_has_its_own(study, evaluated):
    by_validation = compare_study(ASKED, None, study, "valid").folder
    (study.folder / "compare" / "test").mkdir(exist_ok=True)
    (study.folder / "compare" / "test" / "interactions-gone.png").write_bytes(b"of an earlier comparison")
    found = compare_study(ASKED, None, study, "test")
    assert found.folder == study.folder / "compare" / "test" and found.files == ("table.csv", "table.md", "chart.png")
    assert by_validation == study.folder / "compare" / "validation" and (by_validation / "table.md").is_file()
    assert {path.name for path in found.folder.iterdir()} == set(found.files)
    assert (found.folder / "chart.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads(to_json(report.compared_summary(found)))
    assert summary["rows"][1]["gain"]["mean"] and summary["rows"][2]["value"] is None
    assert summary["figure"] == "SI-SDRi" and len(summary["files"]) == 3


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "compare").touch()
    with pytest.raises(StorageError, match="compare must be a folder or free to become one; got a file in its way"):
        write_files(tmp_path / "compare", {})


def test_a_heading_has_a_text_in_every_row(study, evaluated):
    found = compared(study)
    assert {len(row) for row in row_texts(found)} == {len(columns(found))}
