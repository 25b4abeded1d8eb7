"""Whether a gain is enough: the interval, the margin, and how many challengers there were.

decide(challenger_scores, champion_scores, "the champion, version 3", Bar(number=2)).sentence
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vimss.errors import ModelError
from vimss.evaluate.figures import FigureEvaluation, gain_of
from vimss.intervals import Gain, Source, paired_gain
from vimss.shards.manifest import Manifest

MIN_PIECES = 4
"""With fewer pieces the interval depends on the assumed normal distribution: three are too few for that."""

Scores = Mapping[Source, float]
"""SI-SDR improvement of each source, dB; NaN where it is not defined."""


@dataclass(frozen=True)
class Terms:
    """The margin that the user asks for, and the reason where the user forces a promotion."""

    margin: float = 0.0
    """The whole interval of the gain must lie above it; in the unit of the gain."""
    forced: str = ""
    """Why the challenger becomes the champion whatever the decision is; empty where the decision counts."""


DEFAULTS = Terms()


@dataclass(frozen=True)
class Bar:
    """The margin above which a gain must lie, and how sure that must be."""

    margin: float = 0.0
    number: int | None = None
    """The challenger is the n-th of this champion on this split; None where the incumbent is no champion."""

    @property
    def level(self) -> float:
        """Of the gain's interval, the whole of which must lie above the margin."""
        return 0.95 if self.number is None else level_of(self.number)


ANY_GAIN = Bar()


def level_of(number: int) -> float:
    """Level of the interval for the n-th challenger of one champion on one split: 95 %, then 1 - 0.05 / (n (n - 1)).

    A challenger that is no better passes with a probability of half of what is outside of the interval: 2.5 % for the
    first, then 2.5 % / (n (n - 1)), which sums to another 2.5 %. So the probability that a champion gives way to any
    challenger that is no better, however many there are, is at most 5 %, by Bonferroni's inequality, whatever the
    challengers have in common (alpha-spending: Tian and Ramdas 2021, "Online control of the familywise error rate").
    The chain of champions as a whole, and first champions, which beat a baseline at 95 %, are not covered; nor are
    challengers that were chosen by scores on these pieces (Blum and Hardt 2015, "The Ladder").
    """
    return 0.95 if number == 1 else 1 - 0.05 / (number * (number - 1))


@dataclass(frozen=True)
class Decision:
    """The outcome of a comparison, with its basis."""

    promoted: bool
    gain: float
    low: float
    high: float
    num_pieces: int
    against: str
    sentence: str
    """The decision and its reason, for people."""
    unit: str = "dB"
    """Of the gain and its interval; empty where the figure has none."""


def decide(
    challenger: Scores,
    champion: Scores,
    against: str,
    bar: Bar = ANY_GAIN,
    without_example: Collection[tuple[str, str]] = (),
) -> Decision:
    """Compare the scores of two models on the same pieces; `against` names the second one in the sentence.

    Sources `without_example` are left out: the shards hold no example of their players, which one of the two needs.

    Raises:
        ModelError: The two were not scored on the same pieces and labels.

    """
    _check_same_items(challenger, champion, against)
    known = set(challenger) - set(without_example)
    keys = sorted(key for key in known if math.isfinite(champion[key]))
    broken = [key for key in keys if not math.isfinite(challenger[key])]
    gain = paired_gain({key: challenger[key] for key in keys}, champion).at_level(bar.level)
    pairs = f"{gain.sources} sources in {gain.pieces} pieces"
    if len(known) < len(challenger):
        pairs += f", leaving out {len(challenger) - len(known)} whose player has no example"
    if len(keys) < len(known):
        pairs += f", without {len(known) - len(keys)} for which {against} has no finite score"
    undefined = ""
    if broken:
        piece, label = broken[0]
        undefined = f"it gives no finite score for {label} in {piece}, where {against} does"
    return _decision(gain, pairs, against, undefined, ("dB", "dB"), bar)


def decide_by_figure(
    challenger: FigureEvaluation, incumbent: FigureEvaluation, against: str, manifest: Manifest, bar: Bar = ANY_GAIN
) -> Decision:
    """The same of two networks that do not separate, by the figure of their objective.

    Raises:
        ModelError: The two were not judged on the same mixtures.

    """
    gain, figure = gain_of([challenger], [incumbent], manifest).at_level(bar.level), challenger.figure
    pairs = f"{gain.sources} mixtures of {gain.pieces} pieces"
    undefined = "" if math.isfinite(challenger.value) else f"its {figure.title} is not finite"
    return _decision(gain, pairs, against, undefined, (figure.unit or figure.title, figure.unit), bar)


def _decision(gain: Gain, pairs: str, against: str, undefined: str, words: tuple[str, str], bar: Bar) -> Decision:
    """Whether the challenger wins, and the sentence that says so.

    Args:
        gain: Of the challenger.
        pairs: What was compared, in words.
        against: The incumbent, in words.
        undefined: Why the challenger has no score; empty where it has.
        words: What the gain is of, in words that follow a number, and its unit.
        bar: What the gain must pass.

    """
    gained, unit = words
    if undefined:
        promoted, reason = False, undefined
    elif gain.pieces < MIN_PIECES:
        promoted, reason = False, f"{pairs} are too few to decide: at least {MIN_PIECES} pieces are needed"
    else:
        promoted = gain.low > bar.margin
        interval = f"{100 * gain.level:.6g} % interval over pieces {gain.low:+.2f} to {gain.high:+.2f} {unit}".rstrip()
        numbered = "" if bar.number is None else f"challenger {bar.number} of this champion on this split, "
        reason = f"{gain.mean:+.2f} {gained} against {against} ({interval}, {numbered}{pairs})"
        if bar.margin:
            reason += f": the interval {'lies' if promoted else 'must lie'} above {bar.margin:g} {unit}".rstrip()
        elif not promoted:
            reason += ": the interval must lie above 0"
    verdict = "Promoted" if promoted else "Not promoted"
    return Decision(promoted, gain.mean, gain.low, gain.high, gain.pieces, against, f"{verdict}: {reason}.", unit)


def _check_same_items(challenger: Scores, champion: Scores, against: str) -> None:
    different = sorted(set(challenger) ^ set(champion))
    if different:
        piece, label = different[0]
        raise ModelError(
            f"challenger and {against} must be scored on the same pieces and labels",
            got=f"{len(different)} that only one has, {label} in {piece} first",
            fix="evaluate both again on the same shards",
        )
