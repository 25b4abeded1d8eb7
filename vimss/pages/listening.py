"""Signals to a listening page: one HTML file that plays them.

    html = listening_page(Page("K. 465", "Four stems from one recording.", tracks, sample_rate=22050))
    Path("page.html").write_text(html)

The file contains everything it needs: sound, pictures, style and script; its Content-Security-Policy forbids loading
anything. Without scripts each track has the browser's own player; with them all tracks play together, with solo, mute
and volume. All text is escaped: names of files and players are untrusted.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from importlib.resources import files
from string import Template
from typing import Literal

import numpy as np
from jaxtyping import Float

from vimss.media import encode_audio, fitting_gain, quantise
from vimss.pages.charts import LOWEST_HZ, RANGE_DB, WAVEFORM_COLUMNS, peaks, strip_png

PAGE_SECONDS = 120.0
"""A page plays at most this much of a recording, seconds: it is one file that a browser holds in memory."""
ROLE_COLOURS = {"mix": "#7f8a96", "estimate": "#3a92d2", "reference": "#cc8420"}
"""Colours of spectrograms on a page: single hues that show on light and on dark ground."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that HTML or UTF-8 cannot represent."""


@dataclass(frozen=True, eq=False)
class Track:
    """One row of a listening page."""

    name: str
    audio: Float[np.ndarray, "c t"]
    role: Literal["mix", "estimate", "reference"]
    note: str = ""
    """The line under the name, such as a score with its unit."""


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
    """The content of a listening page; tracks share one sample rate and one beginning."""

    title: str
    lead: str
    tracks: Sequence[Track]
    sample_rate: int
    facts: Mapping[str, str]
    limits: Sequence[str] = ()
    """Limits of the model, for listeners."""
    tables: Sequence[Table] = ()
    video: bytes | None = None
    """MP4 that starts together with the tracks."""
    whole_seconds: float = 0.0
    """Length of the recording, where the tracks cover only its beginning."""


def listening_page(page: Page) -> str:
    """The page as one HTML file: the first PAGE_SECONDS of the tracks, with one gain so that none of them clips."""
    text = page_template("page.html")
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
        source = data_url(page.video, "video/mp4")
        video = f'<video controls playsinline preload="auto" aria-label="Video of the players" src="{source}"></video>'
    rows = (
        _track(number, track, samples, (gain, peak), page.sample_rate)
        for number, track in enumerate(page.tracks, start=1)
    )
    return Template(text).substitute(
        policy=page_policy(text),
        title=html_text(page.title),
        lead=html_text(page.lead),
        facts=_definitions(page.facts),
        film=" film" if video else "",
        video=video,
        limits=_limits(page.limits),
        seconds=f"{min(length, samples) / page.sample_rate:.3f}",
        tracks="\n".join(rows),
        legend=html_text(legend),
        tables="\n".join(_table(table) for table in page.tables),
    )


def _track(number: int, track: Track, samples: int, scale: tuple[float, float], sample_rate: int) -> str:
    audio, (gain, peak) = track.audio[:, :samples], scale
    name, role, note = html_text(track.name), track.role, html_text(track.note)
    hint = f'title="Hear this alone ({number})"'
    sound = data_url(encode_audio(quantise(audio * gain), sample_rate), "audio/wav")
    wave = audio.mean(axis=0)
    picture = data_url(strip_png(wave, sample_rate, ROLE_COLOURS[role]), "image/png")
    who = f"{name}, {role}"
    # Only the mix plays at first, since it contains every stem.
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
    low, high = peaks(wave, WAVEFORM_COLUMNS)
    points = [f"{x},{50 - 50 * y:.0f}" for x, y in enumerate(high)]
    points += [f"{x},{50 - 50 * y:.0f}" for x, y in reversed(list(enumerate(low)))]
    return (
        f'<svg viewBox="0 0 {len(low) - 1} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<polygon fill="currentColor" stroke="currentColor" stroke-width="0.6" points="{" ".join(points)}"/></svg>'
    )


def html_text(text: str) -> str:
    """Text for HTML. File names may contain control characters and bytes that are not UTF-8."""
    return escape_html(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text))


def _definitions(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{html_text(name)}</dt><dd>{html_text(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _limits(limits: Sequence[str]) -> str:
    rows = "".join(f"<li>{html_text(limit)}</li>" for limit in limits)
    return f'<section><h2>Limits of this model</h2><ul class="limits">{rows}</ul></section>' if rows else ""


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_numeric(table, index)}>{html_text(column)}</th>'
        for index, column in enumerate(table.columns)
    )
    rows = "".join(
        f'<tr><th scope="row">{html_text(_cell(row[0]))}</th>'
        + "".join(
            f"<td{_numeric(table, index)}>{html_text(_cell(cell))}</td>" for index, cell in enumerate(row[1:], start=1)
        )
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li>{html_text(convention)}</li>" for convention in table.conventions)
    notes = f'<ul class="conventions">{notes}</ul>' if notes else ""
    caption = html_text(table.caption)
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


def page_template(name: str) -> str:
    """The text of a page of this folder, for `string.Template`: the head that all pages share, and what is its own."""
    return "".join(files("vimss.pages").joinpath(part).read_text(encoding="utf-8") for part in ("head.html", name))


def page_policy(text: str, more: str = "") -> str:
    """Allow only the styles and the script of this page to run, and nothing to be loaded; `more` allows more."""
    styles, scripts = (
        " ".join(map(_digest, re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL))) for tag in ("style", "script")
    )
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src {styles}; script-src {scripts}; "
        f"base-uri 'none'; form-action 'none'{more}"
    )


def _digest(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def data_url(data: bytes, kind: str) -> str:
    """A file as an address, for a page that loads nothing."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
