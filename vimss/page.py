"""Arrays to pictures and to listening pages; the home of matplotlib.

    html = listening_page(Page("K. 465", "Four stems from one recording.", tracks, sample_rate=22050))
    Path("page.html").write_text(html)

A page is one file that needs nothing else: sound, picture, style and script lie in it, and its Content-Security-Policy
forbids it to load anything. Without scripts each track has the browser's own player; with them all tracks play
together, with solo, mute and volume. Every text is escaped: names of files and players come from strangers.
"""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from importlib.resources import files
from string import Template
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from scipy.signal import stft

from vimss.media import encode_audio, fitting_gain, quantise

PAGE_SECONDS = 120.0
"""A page plays at most this much of a recording, seconds: it is one file that a browser holds in memory."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
"""Okabe and Ito's palette (2008), told apart with any colour vision."""
LINES = ("-", "--", ":", "-.")
ROLE_COLOURS = {"mix": "#7f8a96", "estimate": "#3a92d2", "reference": "#cc8420"}
"""Of spectrograms on a page: single hues that show on light and on dark ground."""
LOWEST_HZ = 55.0
RANGE_DB = 70.0
WAVEFORM_COLUMNS = 600
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What HTML and UTF-8 cannot hold."""
SPECTROGRAM_SIZE = (96, 900)


@dataclass(frozen=True, eq=False)
class Track:
    """One row of a listening page."""

    name: str
    audio: Float[np.ndarray, "c t"]
    role: Literal["mix", "estimate", "reference"]
    note: str = ""
    """What stands under the name, such as a score with its unit."""


@dataclass(frozen=True)
class Table:
    """Numbers with their conventions; NaN is shown as a dash."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    conventions: tuple[str, ...] = ()
    """What each number means and how it was computed."""


@dataclass(frozen=True, eq=False)
class Page:
    """What stands on a listening page; tracks share one sample rate and one beginning."""

    title: str
    lead: str
    tracks: Sequence[Track]
    sample_rate: int
    facts: Mapping[str, str]
    limits: Sequence[str] = ()
    """What a listener should know before trusting what they hear."""
    tables: Sequence[Table] = ()
    video: bytes | None = None
    """MP4 that begins together with the tracks."""
    whole_seconds: float = 0.0
    """Length of the recording, where the tracks hold only its beginning."""


def listening_page(page: Page) -> str:
    """The page as one HTML file: the first PAGE_SECONDS of the tracks, turned down together where one would clip."""
    text = files("vimss").joinpath("page.html").read_text(encoding="utf-8")
    samples = round(PAGE_SECONDS * page.sample_rate)
    length = max((track.audio.shape[1] for track in page.tracks), default=0)
    seconds = max(length / page.sample_rate, page.whole_seconds)
    gain = fitting_gain(*(track.audio[:, :samples] for track in page.tracks))
    # Waveforms share one scale, at which the loudest track fills its row.
    peak = max((float(np.abs(track.audio[:, :samples]).max(initial=0.0)) for track in page.tracks), default=0.0) or 1.0
    legend = (
        f"Waveforms, and spectrograms from {LOWEST_HZ:.0f} Hz to {page.sample_rate / 2000:.3g} kHz (octaves have equal "
        f"height) over {RANGE_DB:.0f} dB."
    )
    if round(seconds * page.sample_rate) > samples:
        legend = f"The page plays the first {PAGE_SECONDS:.0f} s of {seconds:.0f} s. {legend}"
    video = ""
    if page.video is not None:
        source = _data_url(page.video, "video/mp4")
        video = f'<video controls playsinline preload="auto" aria-label="Video of the players" src="{source}"></video>'
    rows = (
        _track(number, track, samples, (gain, peak), page.sample_rate)
        for number, track in enumerate(page.tracks, start=1)
    )
    return Template(text).substitute(
        policy=_policy(text),
        title=_text(page.title),
        lead=_text(page.lead),
        facts=_definitions(page.facts),
        film=" film" if video else "",
        video=video,
        limits=_limits(page.limits),
        seconds=f"{min(length, samples) / page.sample_rate:.3f}",
        tracks="\n".join(rows),
        legend=_text(legend),
        tables="\n".join(_table(table) for table in page.tables),
    )


def spectrogram_png(audio: Float[np.ndarray, "c t"], sample_rate: int, title: str = "") -> bytes:
    """Waveform over log-frequency spectrogram of the channels' mean, with axes, 900 x 400 pixels."""
    wave = audio.mean(axis=0)
    seconds = len(wave) / sample_rate
    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    low, high = _peaks(wave, WAVEFORM_COLUMNS)
    upper.fill_between(np.linspace(0, seconds, len(low)), low, high, color=COLOURS[0], linewidth=0.4)
    upper.set(ylim=(-1, 1), yticks=(-1, 0, 1), title=_literal(title))
    level, frequencies = _log_spectrogram(wave, sample_rate, SPECTROGRAM_SIZE)
    rows = np.arange(len(frequencies))
    image = lower.imshow(
        level - RANGE_DB, aspect="auto", origin="lower", cmap="magma", extent=(0, seconds, 0, len(rows) - 1)
    )
    ticks = [hertz for hertz in (100, 200, 400, 800, 1600, 3200, 6400, 12800) if hertz < frequencies[-1]]
    lower.set(xlabel="seconds", ylabel="Hz", yticks=np.interp(ticks, frequencies, rows), yticklabels=ticks)
    figure.colorbar(image, ax=lower, label="dB below the peak")
    return _png(figure)


def curves_png(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str = "",
    log: Literal["", "x", "y", "xy"] = "",
) -> bytes:
    """Lines (name -> x values, y values), told apart by colour and dash, 800 x 450 pixels."""
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
    axes.set_xscale("log" if "x" in log else "linear")
    axes.set_yscale("log" if "y" in log else "linear")
    _quiet(axes)
    if series:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return _png(figure)


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
    return _png(figure)


def _literal(name: str) -> str:
    """A name as matplotlib must have it to draw it as it is: between two dollars it would see a formula."""
    return name.replace("$", r"\$")


def _track(number: int, track: Track, samples: int, scale: tuple[float, float], sample_rate: int) -> str:
    audio, (gain, peak) = track.audio[:, :samples], scale
    name, role, note = _text(track.name), track.role, _text(track.note)
    hint = f'title="Hear this alone ({number})"'
    sound = _data_url(encode_audio(quantise(audio * gain), sample_rate), "audio/wav")
    wave = audio.mean(axis=0)
    picture = _data_url(_strip_png(wave, sample_rate, ROLE_COLOURS[role]), "image/png")
    who = f"{name}, {role}"
    # What is played first is the mix alone: it holds every stem already.
    muted = "false" if role == "mix" else "true"
    return f"""<li class="track {role}">
<div>
<h3>{name} <span class="kind">{role}</span></h3>
<p class="note">{note}</p>
<div class="controls">
<button class="solo" type="button" aria-pressed="false" aria-label="Solo {who}" {hint}>Solo</button>
<button class="mute" type="button" aria-pressed="{muted}" aria-label="Mute {who}">Mute</button>
<label><span class="hidden">Volume of {who}</span>
<input class="volume" type="range" min="0" max="1" step="0.01" value="1"></label>
</div>
<audio controls preload="metadata" aria-label="{who}" src="{sound}"></audio>
</div>
<div class="scope">
{_waveform_svg(wave / peak)}
<img alt="Spectrogram of {who}" src="{picture}">
<div class="playhead"></div>
</div>
</li>"""


def _waveform_svg(wave: Float[np.ndarray, " t"]) -> str:
    low, high = _peaks(wave, WAVEFORM_COLUMNS)
    points = [f"{x},{50 - 50 * y:.0f}" for x, y in enumerate(high)]
    points += [f"{x},{50 - 50 * y:.0f}" for x, y in reversed(list(enumerate(low)))]
    return (
        f'<svg viewBox="0 0 {len(low) - 1} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<polygon fill="currentColor" stroke="currentColor" stroke-width="0.6" points="{" ".join(points)}"/></svg>'
    )


def _strip_png(wave: Float[np.ndarray, " t"], sample_rate: int, colour: str) -> bytes:
    """A spectrogram as transparency of one colour, so that it fits any background."""
    level, _ = _log_spectrogram(wave, sample_rate, SPECTROGRAM_SIZE)
    pixels = np.empty((*level.shape, 4), np.uint8)
    pixels[..., :3] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    # In steps of 5: the eye sees no difference and the file is half as large.
    pixels[..., 3] = np.round(level[::-1] / RANGE_DB * 51) * 5
    return _image_png(pixels)


def _image_png(pixels: UInt8[np.ndarray, "h w 4"]) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return buffer.getvalue()


def _peaks(wave: Float[np.ndarray, " t"], columns: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Lowest and highest sample of `columns` stretches of equal length."""
    length = max(1, -(-len(wave) // columns))
    padded = np.pad(wave, (0, length * columns - len(wave))).reshape(columns, length)
    return padded.min(axis=1), padded.max(axis=1)


def _log_spectrogram(
    wave: Float[np.ndarray, " t"], sample_rate: int, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, " h"]]:
    """Level in dB above `peak - RANGE_DB`, low frequencies first, and the frequency of each row."""
    height, width = size
    window = 2 ** round(np.log2(0.064 * sample_rate))
    hop = max(1, len(wave) // width)
    padded = np.pad(wave, (0, max(0, window - len(wave))))
    # Longer recordings are looked at in places, not everywhere: a picture has only `width` columns.
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


def _text(text: str) -> str:
    """Text for HTML. Names of files may hold control characters, and bytes that are no UTF-8."""
    return escape_html(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text))


def _definitions(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _limits(limits: Sequence[str]) -> str:
    rows = "".join(f"<li>{_text(limit)}</li>" for limit in limits)
    return f'<section><h2>Limits of this model</h2><ul class="limits">{rows}</ul></section>' if rows else ""


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_numeric(table, index)}>{_text(column)}</th>' for index, column in enumerate(table.columns)
    )
    rows = "".join(
        f'<tr><th scope="row">{_text(_cell(row[0]))}</th>'
        + "".join(
            f"<td{_numeric(table, index)}>{_text(_cell(cell))}</td>" for index, cell in enumerate(row[1:], start=1)
        )
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li>{_text(convention)}</li>" for convention in table.conventions)
    notes = f'<ul class="conventions">{notes}</ul>' if notes else ""
    caption = _text(table.caption)
    return (
        f'<section><h2>{caption}</h2><div class="scroll"><table><caption class="hidden">{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{notes}</section>"
    )


def _numeric(table: Table, index: int) -> str:
    return ' class="number"' if any(isinstance(row[index], float) for row in table.rows) else ""


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".replace("-", "−") if np.isfinite(value) else "–"


def _policy(text: str) -> str:
    """Only this very style and script may run, and nothing may be loaded."""
    style, script = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0] for tag in ("style", "script"))
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _quiet(axes: Axes) -> None:
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
