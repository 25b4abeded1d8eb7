"""The page of a promotion: what got better and worse, piece by piece, and the worst to listen to.

    html = promotion_page(PromotionPage("quickstart: version 5 against version 3", decision.sentence, ...))

Charts are rows of a table whose marks lie at per cents of their cells, so that text keeps its size on a narrow screen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from vimss.evaluate.excerpts import Excerpt
from vimss.intervals import Interval
from vimss.media import encode_audio, fitting_gain, quantise
from vimss.pages.charts import strip_png
from vimss.pages.listening import ROLE_COLOURS, data_url, html_text, page_policy, page_template

NUM_TICKS = 5
"""About so many on an axis."""


@dataclass(frozen=True)
class Pair:
    """The figure of champion and challenger on one thing, and by how much the challenger is better."""

    name: str
    champion: float
    challenger: float
    gain: float
    """Positive where the challenger is better, whatever the direction of the figure."""
    interval: Interval | None = None
    """Of the gain."""


@dataclass(frozen=True, eq=False)
class Worst:
    """A source with which the challenger does badly, to listen to."""

    name: str
    champion: float
    challenger: float
    by_challenger: Excerpt
    by_champion: Excerpt


@dataclass(frozen=True, eq=False)
class PromotionPage:
    """The content of the page."""

    title: str
    sentence: str
    is_champion: bool
    facts: Mapping[str, str]
    names: tuple[str, str]
    """Of the champion, or what stands in its place, and of the challenger."""
    heading: str
    """Of the figure, with its unit."""
    total: Pair
    pieces: Sequence[Pair]
    labels: Sequence[Pair]
    worst: Sequence[Worst] = ()
    conventions: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """A range of values, drawn over the width of a cell."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> "Axis":
        """An axis with room for all finite values."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        room = (max(finite) - min(finite)) * 0.06 or 1.0
        return cls(min(finite) - room, max(finite) + room)

    def at(self, value: float) -> str:
        """Where a value lies; one beyond the axis lies at its end."""
        return f"{100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low):.2f}%"

    @property
    def ticks(self) -> list[float]:
        """Round numbers, at steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / NUM_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [step * number for number in range(first, last + 1)]


def promotion_page(page: PromotionPage) -> str:
    """The page as one HTML file, which loads nothing."""
    text = page_template("promotion.html")
    parts = [_table("By piece", "piece", page.pieces, page)]
    if page.labels:
        parts.append(_table("By instrument", "instrument", page.labels, page))
    if page.worst:
        sources = "".join(_source(one, page.names) for one in page.worst)
        parts.append(
            f'<section><h2>The {len(page.worst)} worst to listen to</h2><p class="hint">One plays at a time; within a '
            f'source the next one goes on where the last one was.</p><ol class="sources">{sources}</ol></section>'
        )
    facts = "".join(f"<dt>{html_text(name)}</dt><dd>{html_text(value)}</dd>" for name, value in page.facts.items())
    return Template(text).substitute(
        policy=page_policy(text),
        title=html_text(page.title),
        state="promoted" if page.is_champion else "refused",
        verdict="Champion" if page.is_champion else "Not the champion",
        sentence=html_text(page.sentence),
        facts=facts,
        parts="\n".join(parts),
        conventions="".join(f"<li>{html_text(convention)}</li>" for convention in page.conventions),
    )


def _table(title: str, what: str, pairs: Sequence[Pair], page: PromotionPage) -> str:
    """Pairs from the worst to the best, each with both figures on one axis and the difference on another."""
    ordered = sorted(pairs, key=lambda pair: pair.gain)
    figures = Axis.over([value for pair in ordered for value in (pair.champion, pair.challenger)])
    rows = [*ordered, page.total] if what == "piece" else ordered
    bounds = [bound for pair in rows for bound in (pair.gain, *(pair.interval or ()))]
    gains = Axis.over([0.0, *bounds])
    lost = sum(pair.gain < 0 for pair in ordered)
    body = "".join(_row(pair, figures, gains, pair is page.total) for pair in rows)
    champion, challenger = map(html_text, page.names)
    return f"""<section><h2>{title}</h2>
<p>{f"{lost} of {len(ordered)} got worse." if lost else "Nothing got worse."}</p>
<p class="key"><span class="champion">{champion}</span><span class="challenger">{challenger}</span></p>
<div class="scroll"><table><thead>
<tr><th scope="col">{what}</th><th scope="col" class="chart">{html_text(page.heading)}</th>
<th scope="col" class="chart">difference</th><th scope="col"><span class="hidden">as a number</span></th></tr>
<tr class="axis"><td></td><td>{_ticks(figures)}</td><td>{_ticks(gains)}</td><td></td></tr>
</thead><tbody>{body}</tbody></table></div></section>"""


def _row(pair: Pair, figures: Axis, gains: Axis, is_total: bool) -> str:
    kind = "worse" if pair.gain < 0 else "better"
    both = ""
    if math.isfinite(pair.champion):
        left, right = figures.at(pair.champion), figures.at(pair.challenger)
        both = (
            f'<line class="way" x1="{left}" x2="{right}" y1="50%" y2="50%"/>'
            f'<circle class="champion" cx="{left}" cy="50%" r="4.5"/>'
            f'<circle class="challenger" cx="{right}" cy="50%" r="4.5"/>'
        )
    zero, end = gains.at(0.0), gains.at(pair.gain)
    bar = f'<line class="bar" x1="{zero}" x2="{end}" y1="50%" y2="50%"/>' if math.isfinite(pair.gain) else ""
    if pair.interval is not None and all(map(math.isfinite, pair.interval)):
        low, high = map(gains.at, pair.interval)
        bar += f'<line class="interval" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
    zero_line = f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="100%"/>'
    told = f"{_number(pair.champion)} and {_number(pair.challenger)}"
    shown = f'<svg role="img" aria-label="{told}"><title>{told}</title>{_grid(figures)}{both}</svg>' if both else ""
    change = f'<svg aria-hidden="true">{_grid(gains)}{zero_line}{bar}</svg>'
    return (
        f'<tr class="{kind}{" total" if is_total else ""}"><th scope="row">{html_text(pair.name)}</th>'
        f'<td>{shown}</td><td>{change}</td><td class="number">{_number(pair.gain, "+")}</td></tr>'
    )


def _grid(axis: Axis) -> str:
    return "".join(
        f'<line class="grid" x1="{axis.at(tick)}" x2="{axis.at(tick)}" y1="0" y2="100%"/>' for tick in axis.ticks
    )


def _ticks(axis: Axis) -> str:
    texts = "".join(
        f'<text x="{axis.at(tick)}" y="12" text-anchor="middle">{_tick(tick)}</text>' for tick in axis.ticks
    )
    return f'<svg aria-hidden="true">{texts}</svg>'


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}".replace("-", "−") if math.isfinite(value) else "–"


def _source(one: Worst, names: tuple[str, str]) -> str:
    champion, challenger = one.by_champion, one.by_challenger
    sounds = (
        ("true stem", "reference", champion.reference, ""),
        (names[0], "champion", champion.estimate, _number(champion.si_sdr_improvement, "+")),
        (names[1], "challenger", challenger.estimate, _number(challenger.si_sdr_improvement, "+")),
    )
    gain = fitting_gain(*(audio for _, _, audio, _ in sounds))
    players = "".join(_player(*sound, gain, challenger.sample_rate) for sound in sounds)
    begin = f"{int(challenger.begin) // 60}:{int(challenger.begin) % 60:02d}"
    return (
        f"<li><h3>{html_text(one.name)}</h3>"
        f'<p class="note">whole piece: {_number(one.champion, "+")} → {_number(one.challenger, "+")} dB, '
        f"a difference of {_number(one.challenger - one.champion, '+')} dB; heard from {begin}</p>"
        f'<div class="sounds">{players}</div></li>'
    )


def _player(name: str, role: str, audio: np.ndarray, score: str, gain: float, rate: int) -> str:
    colour = ROLE_COLOURS["reference" if role == "reference" else "estimate" if role == "challenger" else "mix"]
    picture = data_url(strip_png(audio.mean(axis=0), rate, colour), "image/png")
    sound = data_url(encode_audio(quantise(audio * gain), rate, "flac"), "audio/flac")
    title, note = html_text(name), f" <span>{score} dB in this excerpt</span>" if score else ""
    return (
        f'<figure class="{role}"><figcaption><b>{title}</b>{note}</figcaption>'
        f'<img alt="Spectrogram of {title}" src="{picture}">'
        f'<audio controls preload="metadata" aria-label="{title}" src="{sound}"></audio></figure>'
    )
