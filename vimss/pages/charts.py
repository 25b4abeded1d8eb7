"""Arrays to pictures: spectrograms, curves, bars; the home of matplotlib.

png = curves_png({"search": (audio_seconds, values)}, "audio seconds seen", "validation loss, dB")
Path("curves.png").write_bytes(png)
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from scipy.signal import stft

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
"""Okabe and Ito's palette (2008), distinguishable with any colour vision."""
LINES = ("-", "--", ":", "-.")
LOWEST_HZ = 55.0
RANGE_DB = 70.0
WAVEFORM_COLUMNS = 600
SPECTROGRAM_SIZE = (96, 900)


def spectrogram_png(audio: Float[np.ndarray, "c t"], sample_rate: int, title: str = "") -> bytes:
    """Waveform over log-frequency spectrogram of the channels' mean, with axes, 900 x 400 pixels."""
    wave = audio.mean(axis=0)
    seconds = len(wave) / sample_rate
    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    low, high = peaks(wave, WAVEFORM_COLUMNS)
    upper.fill_between(np.linspace(0, seconds, len(low)), low, high, color=COLOURS[0], linewidth=0.4)
    upper.set(ylim=(-1, 1), yticks=(-1, 0, 1), title=_literal(title))
    level, frequencies = log_spectrogram(wave, sample_rate, SPECTROGRAM_SIZE)
    rows = np.arange(len(frequencies))
    image = lower.imshow(
        level - RANGE_DB, aspect="auto", origin="lower", cmap="magma", extent=(0, seconds, 0, len(rows) - 1)
    )
    ticks = [hertz for hertz in (100, 200, 400, 800, 1600, 3200, 6400, 12800) if hertz < frequencies[-1]]
    lower.set(xlabel="seconds", ylabel="Hz", yticks=np.interp(ticks, frequencies, rows), yticklabels=ticks)
    figure.colorbar(image, ax=lower, label="dB below the peak")
    return figure_png(figure)


def curves_png(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str = "",
) -> bytes:
    """Lines (name -> x values, y values) with a colour and dash each, 800 x 450 pixels."""
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(series.items()):
        style = LINES[index // len(COLOURS) % len(LINES)]
        marker = "o" if len(x) < 12 else None
        axes.plot(
            x,
            y,
            label=_literal(name),
            color=COLOURS[index % len(COLOURS)],
            linestyle=style,
            linewidth=1.8,
            marker=marker,
            markersize=4,
        )
    axes.set(xlabel=x_label, ylabel=y_label, title=_literal(title))
    _quiet(axes)
    if series:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure_png(figure)


def bars_png(groups: Mapping[str, Mapping[str, float]], y_label: str, title: str = "") -> bytes:
    """Bars side by side (series -> category -> value), 800 x 450 pixels; a value that is NaN or absent has no bar."""
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    categories = list(dict.fromkeys(category for values in groups.values() for category in values))
    width = 0.8 / max(1, len(groups))
    for index, (name, values) in enumerate(groups.items()):
        heights = [values.get(category, float("nan")) for category in categories]
        places = np.arange(len(categories)) + (index - (len(groups) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, label=_literal(name), color=COLOURS[index % len(COLOURS)])
    axes.axhline(0, color="#555555", linewidth=0.8)
    axes.set(ylabel=y_label, title=_literal(title), xticks=range(len(categories)))
    axes.set_xticklabels([_literal(category) for category in categories])
    _quiet(axes)
    if len(groups) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure_png(figure)


@dataclass(frozen=True)
class Bar:
    """A value with its interval and the values of single seeds, drawn as one row."""

    name: str
    value: float
    """NaN where it is not known: the row stays empty."""
    interval: tuple[float, float] | None = None
    single: tuple[float, ...] = ()


def intervals_png(rows: Sequence[Bar], x_label: str, title: str = "") -> bytes:
    """A dot with its interval per row, and a tick per single value, 800 pixels wide and as high as the rows need."""
    figure = Figure(figsize=(8, 1.2 + 0.34 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot(row.single, [place] * len(row.single), "|", color=COLOURS[-1], markersize=9, zorder=2)
        if row.interval is not None:
            axes.plot(row.interval, (place, place), color=COLOURS[0], linewidth=2.2, solid_capstyle="butt", zorder=1)
        axes.plot(row.value, place, "o", color=COLOURS[0], markersize=6.5, zorder=3)
    axes.set(xlabel=x_label, yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticklabels([_literal(row.name) for row in rows])
    # Over the names too: a question is longer than the axes are wide.
    figure.suptitle(_literal(title), x=0.01, ha="left", fontsize=11)
    _quiet(axes, "x")
    return figure_png(figure)


@dataclass(frozen=True)
class Levels:
    """One axis of a search for a chart: where each trial lies on it, and the level that it is of."""

    name: str
    positions: Float[np.ndarray, " n"]
    level_of: Int[np.ndarray, " n"]
    levels: tuple[str, ...]
    is_choice: bool = False
    is_log: bool = False


def interactions_png(
    pairs: Sequence[tuple[Levels, Levels]], values: Float[np.ndarray, " n"], y_label: str, title: str = ""
) -> bytes:
    """A panel per pair of axes: values over the first, and for each level of the second a line through their means.

    Where lines are parallel, the axes act each by itself.
    """
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(1 + 4 * columns, 0.6 + 3.4 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(pairs) :]:
        panel.set_visible(False)
    for panel, (first, second) in zip(panels.flat, pairs, strict=False):
        for level, name in enumerate(second.levels):
            colour, chosen = COLOURS[level % len(COLOURS)], second.level_of == level
            panel.plot(first.positions[chosen], values[chosen], "o", color=colour, markersize=3.5, alpha=0.45)
            means = [
                (first.positions[both].mean(), values[both].mean())
                for one in range(len(first.levels))
                if (both := chosen & (first.level_of == one)).any()
            ]
            if means:
                panel.plot(*zip(*means, strict=True), "s-", color=colour, markersize=4, label=_literal(name))
        panel.set(xlabel=_literal(first.name), ylabel=y_label, xscale="log" if first.is_log else "linear")
        if first.is_choice:
            panel.set(xticks=range(len(first.levels)), xlim=(-0.4, len(first.levels) - 0.6))
            panel.set_xticklabels([_literal(name) for name in first.levels])
        panel.legend(title=_literal(second.name), fontsize=8, title_fontsize=8, frameon=False)
        _quiet(panel)
    figure.suptitle(_literal(title), x=0.01, ha="left", fontsize=11)
    return figure_png(figure)


def strip_png(wave: Float[np.ndarray, " t"], sample_rate: int, colour: str) -> bytes:
    """A spectrogram as transparency of one colour, so that it fits any background."""
    level, _ = log_spectrogram(wave, sample_rate, SPECTROGRAM_SIZE)
    pixels = np.empty((*level.shape, 4), np.uint8)
    pixels[..., :3] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    # In steps of 5: the eye sees no difference and the file is half as large.
    pixels[..., 3] = np.round(level[::-1] / RANGE_DB * 51) * 5
    return _image_png(pixels)


def peaks(wave: Float[np.ndarray, " t"], columns: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Lowest and highest sample of `columns` stretches of equal length."""
    length = max(1, -(-len(wave) // columns))
    padded = np.pad(wave, (0, length * columns - len(wave))).reshape(columns, length)
    return padded.min(axis=1), padded.max(axis=1)


def log_spectrogram(
    wave: Float[np.ndarray, " t"], sample_rate: int, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, " h"]]:
    """Level in dB above `peak - RANGE_DB`, low frequencies first, and the frequency of each row."""
    height, width = size
    window = 2 ** round(np.log2(0.064 * sample_rate))
    hop = max(1, len(wave) // width)
    padded = np.pad(wave, (0, max(0, window - len(wave))))
    # A picture has only `width` columns, so a longer recording is sampled rather than covered.
    hertz, _, spectrum = stft(padded, sample_rate, nperseg=window, noverlap=window - min(hop, window // 2))
    edges = np.geomspace(LOWEST_HZ, sample_rate / 2, height + 1)
    frequencies = np.sqrt(edges[:-1] * edges[1:])
    columns = np.linspace(0, spectrum.shape[1] - 1, width).round().astype(int)
    power = np.abs(spectrum[:, columns]) ** 2
    rows = np.stack([np.interp(frequencies, hertz, column) for column in power.T], axis=1)
    # High rows are wider than a bin: a tone between their centres must show too.
    for row, (first, last) in enumerate(zip(*np.searchsorted(hertz, (edges[:-1], edges[1:])), strict=True)):
        rows[row] = power[first:last].max(axis=0, initial=0.0) if last > first else rows[row]
    level = 10 * np.log10(np.maximum(rows, 1e-12) / max(float(rows.max()), 1e-9))
    return np.clip(level + RANGE_DB, 0, RANGE_DB), frequencies


def _image_png(pixels: UInt8[np.ndarray, "h w 4"]) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return buffer.getvalue()


def _literal(name: str) -> str:
    """Escape a name for matplotlib, which reads text between two dollar signs as a formula."""
    return name.replace("$", r"\$")


def _quiet(axes: Axes, lines_at: Literal["x", "y"] = "y") -> None:
    axes.grid(axis=lines_at, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def figure_png(figure: Figure) -> bytes:
    """A figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
