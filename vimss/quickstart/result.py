"""The figures of a quickstart, as JSON and as printed tables.

print_result(result)
result.summary  # the content of quickstart.json
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.api import best_trial
from vimss.console import decibel, out, print_table
from vimss.evaluate import PIECE_FIGURES, Evaluation, Values
from vimss.evaluate.pictures import naming
from vimss.experiment import Experiment
from vimss.intervals import Interval
from vimss.model.separator import load_separator
from vimss.promote import Promotion
from vimss.report import comparison_columns, comparison_rows, print_evaluations
from vimss.search.study import Study, TrialRecord
from vimss.systems import equally_informed

BEST = "best trial"
"""Row of the searched model in the tables."""

ROWS = ("mixture", "Wiener filter per label", "Wiener filter, all labels", "oracle ratio mask")
"""The baselines that the aims need. NMF takes 6 to 10 s more and is in the table of `vimss evaluate quickstart`."""

REACHED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("whole run, s", ("seconds",), "at most 210"),
    ("SI-SDR improvement on two-source mixtures, dB", ("best", "metrics", "si_sdr_improvement"), "at least +3.0"),
    ("  above the equally informed Wiener filter, dB", ("best", "above_wiener"), "at least +0.5"),
    ("  the same on whole pieces, dB", ("best", "pieces_above_wiener"), "at least +0.5"),
    ("  on timbres that training never saw, dB", ("best", "unseen_timbres", "si_sdr_improvement"), "-"),
    ("label contrast: right label minus an absent one, dB", ("best", "metrics", "label_contrast"), "at least +2.0"),
    ("absent label's output against the mixture, dB", ("best", "metrics", "absent_level"), "at most -15.0"),
    ("gain from labels: best trial minus the control without, mean, dB", ("labels_gain",), "at least +0.2"),
    ("gain from pictures: labels that they name minus the same control, mean, dB", ("pictures_gain",), "-"),
    ("  minus the pictures of another player, mean, dB", ("pictures_contrast",), "-"),
)
"""The aims of the quickstart: a name, the key path in quickstart.json, and the aim."""


@dataclass(frozen=True)
class Result:
    """The results of a run."""

    experiment: Experiment
    study: Study
    test: list[Evaluation]
    """The best trial first."""
    unseen: Evaluation
    promotion: Promotion
    page: Path
    stages: dict[str, float]
    """Seconds of each."""
    seconds: float
    next_steps: dict[str, str]
    """Purpose, and a path or a line for the shell."""

    @property
    def equally_informed(self) -> str:
        """The row with the same information as the best trial."""
        return equally_informed(load_separator(self.best.folder / "model").config)

    @property
    def best(self) -> TrialRecord:
        """The best searched trial."""
        return best_trial(self.experiment, self.study)

    @property
    def by_pictures(self) -> Evaluation | None:
        """The first row under `systems` of the experiment; None where it has none."""
        return next((found for found in self.test if found.system in self.experiment.systems), None)

    def _pieces_gain(self) -> float:
        """Median SI-SDR improvement on whole pieces, minus that of the equally informed row."""
        found = self._piece_values
        return found[BEST].median - found[self.equally_informed].median

    @property
    def _piece_values(self) -> dict[str, Values]:
        return {found.system: found.values("si_sdr_improvement") for found in self.test}

    @property
    def _mixture_values(self) -> dict[str, Values]:
        return {found.system: found.two_sources.values("si_sdr_improvement") for found in self.test}

    def _pictures_gain(self, name: str) -> float:
        """A mean paired difference in dB; NaN where the experiment has no such rows."""
        one, other = self._gains.get(name, (None, None))
        return float("nan") if one is None or other is None else one.mean - other.mean

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """Intervals over pieces of the differences in the summary."""
        informed, pieces, mixtures = self.equally_informed, self._piece_values, self._mixture_values
        return {
            "above_wiener": mixtures[BEST].interval_above(mixtures[informed]),
            "pieces_above_wiener": pieces[BEST].interval_above(pieces[informed]),
            **{name: one.interval_above(other, mean=True) for name, (one, other) in self._gains.items()},
        }

    @property
    def _gains(self) -> dict[str, tuple[Values, Values]]:
        """The two rows, or two numbers of a row, whose mean paired difference each gain is; those that there are."""
        mixtures = self._mixture_values
        blind, looks = mixtures.get(without_labels(self.experiment)), self.by_pictures
        found = {"labels_gain": (mixtures[BEST], blind)} if blind else {}
        if looks is not None:
            pictures, others = (looks.two_sources.values(name) for name in ("si_sdr_improvement", "other_picture"))
            found |= {"pictures_gain": (pictures, blind)} if blind else {}
            found |= {"pictures_contrast": (pictures, others)} if len(others.values) == len(pictures.values) else {}
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The content of quickstart.json."""
        cells = self.experiment.cells()
        best = self.best
        figures = {found.system: _figures(found) for found in self.test}
        gains = {found.system: found.two_sources.si_sdr_improvement for found in self.test}
        means = {found.system: found.two_sources.si_sdr_improvement_mean for found in self.test}
        return {
            "seconds": self.seconds,
            "stages": self.stages,
            "seed": self.experiment.seed,
            "trials": sum(len(self.study.of_cell(cell.name)) for cell in cells if not cell.is_control),
            "controls": {cell.name: figures[cell.name] for cell in cells if cell.is_control and cell.name in figures},
            "labels_gain": labels_gain(self.experiment, means),
            **{name: self._pictures_gain(name) for name in ("pictures_gain", "pictures_contrast")},
            "systems": {name: figures[name] for name in self.experiment.systems},
            "baselines": {name: figures[name] for name in ROWS},
            "best": {
                "cell": best.cell,
                "trial": best.trial,
                "config": best.settings.model_dump(mode="json") if best.settings else {},
                "metrics": {**best.best_report, **figures[BEST]},
                "above_wiener": gains[BEST] - gains[self.equally_informed],
                "pieces_above_wiener": self._pieces_gain(),
                "unseen_timbres": self.unseen.two_sources.model_dump(exclude={"scores"}),
            },
            "intervals": self.intervals,
            "champion": {
                "name": self.promotion.name,
                "version": self.promotion.version,
                "promoted": self.promotion.is_champion,
                "sentence": self.promotion.decision.sentence,
            },
            "page": str(self.page),
        }


def print_result(result: Result) -> None:
    """Print the tables, the figures reached beside the aims, and the next steps."""
    summary = result.summary
    print_table("Trials", comparison_columns(result.experiment), comparison_rows(result.experiment, result.study))
    print_evaluations("test", result.test, best_trial(result.experiment, result.study))
    print_table(
        "The best trial beside the aims",
        ("", "reached", "aim"),
        reached(summary),
        "Aims are for medians of three seeds of the quickstart on two idle cores. Intervals: over pieces of this seed.",
    )
    seconds = ", ".join(f"{name} {passed:.0f}" for name, passed in summary["stages"].items())
    out.print(f"Seconds: {seconds}.")
    out.print(summary["champion"]["sentence"])
    for name, line in result.next_steps.items():
        out.print(f"{name}:")
        out.print(f"  {line}")


def reached(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Names, figures of the best trial and aims, as text; `summary` is the content of quickstart.json."""
    rows = []
    for name, path, aim in REACHED:
        holder: Any = summary
        for key in path[:-1]:
            holder = holder[key]
        value, last = holder[path[-1]], path[-1]
        defined = float("nan") if value is None else float(value)
        interval = {**summary.get("intervals", {}), **holder.get("intervals", {})}.get(last)
        rows.append((name, f"{defined:.0f}" if last == "seconds" else decibel(defined, interval), aim))
    return rows


def labels_gain(experiment: Experiment, two_sources: Mapping[str, float]) -> float:
    """The gain from labels in dB: the best trial minus the control that trains in the same way without labels.

    `two_sources` holds mean SI-SDR improvements, so the difference is the mean paired one, which varies less than a
    difference of medians. NaN if the experiment has no such control, or one of them has no figure.
    """
    return two_sources.get(BEST, float("nan")) - two_sources.get(without_labels(experiment), float("nan"))


def without_labels(experiment: Experiment) -> str:
    """The unconditioned control with one output per label; empty if there is none."""
    for cell in experiment.cells():
        model = experiment.settings(cell.overrides).model
        if cell.is_control and model.outputs == "instruments" and model.site == "none":
            return cell.name
    return ""


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    pieces = {f"pieces_{name}": evaluation.median(name) for name in PIECE_FIGURES}
    two_sources = evaluation.two_sources.model_dump(exclude={"scores", "pieces"})
    names = {"named": naming(evaluation)} if naming(evaluation) else {}
    intervals = {f"pieces_{name}": interval for name, interval in evaluation.intervals.items()}
    return {**two_sources, **pieces, **names, "intervals": {**two_sources["intervals"], **intervals}}
