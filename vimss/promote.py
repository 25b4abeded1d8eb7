"""Whether a new model becomes the champion, decided on the whole pieces of the `promote` split.

    decision = decide(challenger_scores, champion_scores, against="version 3")
    promote(tracking, "quickstart", 4, decision)
    print(decision.sentence)

The challenger is compared with the champion, or with the baseline where there is none, pair by pair: the same source
in the same piece. It is promoted where the 95 % interval of the mean gain over pieces lies above 0 dB, and otherwise
refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vimss.errors import ModelError
from vimss.intervals import Source, paired_gain
from vimss.track import Tracking, find_alias, find_version, set_alias, tag_version

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases of the version in use and of the one that it replaced."""

MIN_PIECES = 4
"""Below it the interval rests on the normal distribution alone: three pieces say next to nothing of their spread."""

Scores = Mapping[Source, float]
"""SI-SDR improvement of each source, dB; NaN where it is not defined."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a comparison, with everything it was based on."""

    promoted: bool
    gain_db: float
    low_db: float
    high_db: float
    num_pieces: int
    against: str
    sentence: str
    """For people."""


def decide(challenger: Scores, champion: Scores, against: str) -> Decision:
    """Compare the scores of two models on the same pieces; `against` names the second one in the sentence.

    Raises:
        ModelError: The two were not scored on the same pieces and labels.

    """
    _check_same_items(challenger, champion, against)
    keys = sorted(key for key in challenger if math.isfinite(champion[key]))
    broken = [key for key in keys if not math.isfinite(challenger[key])]
    gain = paired_gain({key: challenger[key] for key in keys}, champion)
    pairs = f"{gain.sources} sources in {gain.pieces} pieces"
    left_out = len(challenger) - len(keys)
    if left_out:
        pairs += f", without {left_out} for which {against} has no finite score"
    if broken:
        piece, label = broken[0]
        promoted, reason = False, f"it gives no finite score for {label} in {piece}, where {against} does"
    elif gain.pieces < MIN_PIECES:
        promoted, reason = False, f"{pairs} are too few to tell: at least {MIN_PIECES} pieces are needed"
    else:
        promoted = gain.significant
        interval = f"95 % interval over pieces {gain.low:+.2f} to {gain.high:+.2f} dB"
        comparison = f"{gain.mean:+.2f} dB against {against} ({interval}, {pairs})"
        reason = comparison if promoted else f"{comparison}: the interval must lie above 0"
    verdict = "Promoted" if promoted else "Not promoted"
    return Decision(promoted, gain.mean, gain.low, gain.high, gain.pieces, against, f"{verdict}: {reason}.")


def champion_to_beat(tracking: Tracking, name: str, version: int) -> int | None:
    """The champion's version; for the champion itself the one that it replaced, so that a second call says the same."""
    for alias in (CHAMPION, PREVIOUS):
        holder = find_alias(tracking, name, alias)
        if holder is not None and holder.version != version:
            return holder.version
    return None


def promote(tracking: Tracking, name: str, version: int, decision: Decision) -> bool:
    """Carry out a decision; the same call again changes nothing.

    A promoted version gets the alias `champion` and the one before it `previous`; a refused one keeps the reason as a
    tag. True where the version is the champion now.

    Raises:
        ModelError: There is no such version.
        PlaceError: MLflow does not answer.

    """
    challenger = find_version(tracking, name, str(version))
    tag_version(tracking, name, version, {"promotion": decision.sentence})
    if not decision.promoted:
        return False
    tags = {
        "promoted_gain_db": f"{decision.gain_db:.3f}",
        "promoted_interval_db": f"{decision.low_db:.3f} to {decision.high_db:.3f}",
        "promoted_against": decision.against,
    }
    tag_version(tracking, name, version, tags)
    champion = find_alias(tracking, name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return True
    # The old champion gets its new alias first: killed in between, the same call finishes the work.
    if champion is not None:
        set_alias(tracking, name, PREVIOUS, champion.version)
    set_alias(tracking, name, CHAMPION, version)
    return True


def _check_same_items(challenger: Scores, champion: Scores, against: str) -> None:
    different = sorted(set(challenger) ^ set(champion))
    if different:
        piece, label = different[0]
        raise ModelError(
            f"challenger and {against} must be scored on the same pieces and labels",
            got=f"{len(different)} that only one has, {label} in {piece} first",
            fix="evaluate both again on the same shards",
        )
