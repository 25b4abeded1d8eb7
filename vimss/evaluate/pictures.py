"""What pictures are worth to a system that looks at players: the four numbers of a claim.

    trained = {"motion": trained_as(settings, add="..."), "shuffled pictures": trained_as(others)}
    evaluations = with_claims(evaluations, trained)
    evaluations[0].pictures.sentence      # "gain from pictures: +2.1 dB (+0.9 to +3.3)"

The numbers are medians of SI-SDR improvement on two-source mixtures: with the right picture, with the picture of
another player, of a control that was trained in the same way with shuffled pictures, and of the same network
conditioned on labels. A network that is conditioned on anything learns from more than its context, so the first number
alone says nothing about pictures: what it has above the control does. The same holds of a recording of the player as an
example, whose label stays where the example is shuffled.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vimss.evaluate.records import Evaluation, PictureClaim, Values
from vimss.model.config import ModelConfig
from vimss.model.contexts import CONTEXTS
from vimss.model.separator import load_separator, read_card
from vimss.namer import SURE, namer_settings
from vimss.train.config import Settings
from vimss.train.rules import RULES

NAN = float("nan")

SHUFFLED = "mixing.shuffle_pictures"

_OF_CONTEXT = {
    "model.context",
    "training.start_from.sha256",
    # Two players of one label are one stem to it, so it may be trained without mixtures of them.
    "mixing.same_label_probability",
    "mixing.aligned_probability",
    *(key for key, rule in RULES.items() if "model.context" in rule.depends_on),
}
"""Keys in which a network conditioned on labels may differ from one conditioned on players."""


@dataclass(frozen=True)
class Trained:
    """How the model of a row was trained."""

    settings: Mapping[str, Any]
    """By key path, all that distinguish one training from another; the seed does not."""
    context: str
    """Name of the context; empty where there is none."""
    seed: int = 0
    """Of two controls the one with the same seed is taken."""
    label_row: str = ""
    """The row that is conditioned on labels in the same way, where it is not one of other settings."""
    add: str = ""
    """How to get the control with shuffled pictures, where it is missing."""
    namer: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the network that names players by their pictures, where there is one."""

    @property
    def shuffled(self) -> bool:
        """Whether it is a control with shuffled pictures."""
        return bool(self.namer.get(SHUFFLED) if self.namer else self.settings.get(SHUFFLED))

    @property
    def looks(self) -> bool:
        """Whether it takes views of players."""
        return bool(self.namer) or (self.context != "" and CONTEXTS[self.context].uses_players)

    def is_control_of(self, other: "Trained") -> bool:
        """Whether it was trained as the other one, but with shuffled pictures."""
        alike = all(
            _without(one, {SHUFFLED}) == _without(two, {SHUFFLED})
            for one, two in ((self.settings, other.settings), (self.namer, other.namer))
        )
        return self.shuffled and not other.shuffled and alike

    def is_by_label(self, other: "Trained") -> bool:
        """Whether it was trained as the other one, but conditioned on labels."""
        by_label = self.context == "labels" and not self.namer
        return by_label and _without(self.settings, _OF_CONTEXT) == _without(other.settings, _OF_CONTEXT)


def trained_as(settings: Settings, ignored: Collection[str] = (), add: str = "") -> Trained:
    """What these settings say, but for the keys that are ignored, such as those that a search tunes."""
    known = _without(flat(settings.model_dump(mode="json")), {"seed", *ignored})
    return Trained(known, _context_of(settings.model), settings.seed, add=add)


def trained_model(folder: Path) -> Trained:
    """What is known of a saved separator: its network, and whether its pictures were shuffled in training."""
    config = load_separator(folder).config
    shuffled = bool(read_card(folder)["card"].get("shuffle_pictures", False))
    add = "add --model with one that was trained so"
    return Trained(
        {**flat({"model": config.model_dump(mode="json")}), SHUFFLED: shuffled}, _context_of(config), add=add
    )


def named_by(trained: Trained, row: str, namer: Path) -> Trained:
    """The separator of a row, queried by the instruments that a network names from pictures."""
    settings, shuffled = namer_settings(namer)
    add = "add --instruments-from with a model that was trained so"
    about = {**flat(settings.model_dump(mode="json")), SHUFFLED: shuffled}
    return replace(trained, label_row=row, add=add, namer=about)


def _context_of(config: ModelConfig) -> str:
    return "" if config.site == "none" else config.context


def flat(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings by key path."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return found


def with_claims(evaluations: Sequence[Evaluation], trained: Mapping[str, Trained]) -> list[Evaluation]:
    """The same rows; those of `trained` that look at players get their claims, but for the controls."""
    rows = {one.system: one for one in evaluations}
    found = []
    for one in evaluations:
        own = trained.get(one.system)
        if own is None or not own.looks or own.shuffled:
            found.append(one)
            continue
        others = [(name, other) for name, other in trained.items() if name in rows]
        others.sort(key=lambda pair: pair[1].seed != own.seed)
        shuffled = next((rows[name] for name, other in others if other.is_control_of(own)), None)
        by_label = rows.get(own.label_row) or next(
            (rows[name] for name, other in others if other.is_by_label(own)), None
        )
        shown = "pictures" if own.context != "example" else "examples"
        made = claim(one, shuffled, by_label, own.add, shown)
        unknown = one.count(has_example=False)
        if unknown:
            sentence = (
                f"{made.sentence}; whole pieces without {unknown} of {one.count()} sources, for want of an example"
            )
            made = made.model_copy(update={"sentence": sentence})
        found.append(one.model_copy(update={"pictures": made}))
    return found


def claim(
    right: Evaluation, shuffled: Evaluation | None, by_label: Evaluation | None, add: str = "", shown: str = "pictures"
) -> PictureClaim:
    """The four numbers, and whether pictures, or what else is `shown` of players, are a gain; `add` says how to get the
    control where it is missing.
    """
    own = right.two_sources.values("si_sdr_improvement")
    control = None if shuffled is None else shuffled.two_sources.values("si_sdr_improvement")
    gain = NAN if control is None else own.median - control.median
    interval = None if control is None else own.interval_above(control)
    return PictureClaim(
        right=own.median,
        other=right.two_sources.values("other_picture").median,
        shuffled=NAN if control is None else control.median,
        label=NAN if by_label is None else by_label.two_sources.si_sdr_improvement,
        gain=gain,
        interval=interval,
        is_gain=interval is not None and interval[0] > 0,
        sentence=_sentence(control, gain, interval, add, shown),
    )


def _sentence(control: Values | None, gain: float, interval: tuple[float, float] | None, add: str, shown: str) -> str:
    if control is None:
        return f"no claim: no control with {SHUFFLED}; {add or 'train one'}"
    if interval is None:
        return f"no claim: right minus shuffled is {gain:+.1f} dB, and one piece gives no interval"
    found = f"{gain:+.1f} dB ({interval[0]:+.1f} to {interval[1]:+.1f})"
    if interval[0] > 0:
        return f"gain from {shown}: {found}"
    if interval[1] < 0:
        return f"no gain: {shown} cost {found}"
    return f"no gain: right minus shuffled is {found}, and the interval touches 0"


def naming(evaluation: Evaluation) -> str:
    """How often the instruments of a row's players were named rightly; empty where none were named."""
    players = [player for score in evaluation.two_sources.scores for player in score.named]
    if not players:
        return ""
    right = sum(player.named == player.label for player in players)
    unsure = sum(player.probability < SURE for player in players)
    return f"pictures named {right} of {len(players)} players rightly; unsure of {unsure}"


def _without(settings: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}
