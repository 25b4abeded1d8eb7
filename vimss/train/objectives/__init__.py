"""What a training is for: one file per objective, all behind one protocol.

    objective = open_objective(settings, manifest)     # that of `objective: separation`, say
    network = objective.build()
    share = objective.loss(network, batch, totals)     # share.backward() gives the weights their gradients

To add an objective, write a file with a class that has the members of `Objective` (in `protocol`), and name it in
`OBJECTIVES` with what must be known of it before torch is loaded: YAML is checked, and records are read, without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from vimss.config import Rule
from vimss.errors import ConfigError
from vimss.model.contexts import CONTEXTS
from vimss.model.vision_config import VisionConfig
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import Recipe
from vimss.train.config import VALIDATION_SOURCES, Settings, value_at
from vimss.train.figure import Figure
from vimss.train.objectives.protocol import Objective


@dataclass(frozen=True)
class Entry:
    """An objective, as far as it is known before torch is loaded."""

    home: str
    """Module and name of its class."""
    figure: Figure
    """Its figure on the validation set, which steers a search; objectives whose figures are equal can be compared."""
    settings: tuple[str, ...]
    """Of the settings that only some objectives depend on (`vimss.train.rules.OF_SOME_OBJECTIVES`), those that it
    does, by key path; a group stands for all of its keys."""
    separates: bool
    """Whether its network is a Separator, evaluated by the stems that it gives; else it is a FigureObjective."""
    kind: str = "model.network"
    """Key path of the setting that says which of its networks is trained: only one of the same kind has weights of the
    same names."""
    network: str = ""
    """Module and name of the class of its network, a Predictor, where it does not separate."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """When those of these settings work that do not always, by key path."""
    requires: tuple[Rule, ...] = ()
    """What settings must be for it."""
    distractors: bool = False
    """Whether each validation mixture also has a player who does not sound."""
    sources: tuple[int, ...] = VALIDATION_SOURCES
    """Sources of the validation mixtures, in equal shares; as many as the recipe has labels where those are fewer."""
    aligned: tuple[bool, ...] = (False, True)
    """Whether the sources of a validation mixture are of one clip at one time, in equal shares."""
    seconds: float = 2.0
    """Length of the mixtures of a split that its networks are judged on; half a clip where clips are short."""
    least_seconds: float = 0.0
    """Length below which a mixture has no figure."""
    meaning: str = ""
    """The definition of the figure, for the caption of a table."""

    def make(self, settings: Settings, recipe: Recipe, features: str = "") -> Objective:
        """One of its class; this loads torch."""
        module, _, name = self.home.partition(":")
        made: Objective = getattr(import_module(module), name)(settings, recipe, features)
        return made


def _is(key: str, *values: str) -> Rule:
    """That a setting has one of these values."""
    return Rule(f"{key}: {' or '.join(values)}", (key,), lambda settings: value_at(settings, key) in values)


_READS_PICTURES, _READS_PICTURES_ALONE = (
    _is("instruments.inputs", "pictures", "both"),
    _is("instruments.inputs", "pictures"),
)
_READS_BASES, _TWO_STREAM = _is("weak_labels.inputs", "bases"), _is("weak_labels.network", "two_stream")
_COMPACT = _is("model.vision.network", "compact")
_VISION = tuple(f"model.vision.{name}" for name in VisionConfig.model_fields)

_STEMS = ("gain_db", "flip_polarity", "equaliser_db", "pitch_semitones", "room_seconds", "silence_probability")
_OF_STEMS = tuple(f"mixing.{name}" for name in _STEMS)
"""Settings that change stems, which features of the sound do not have."""

_ALWAYS_SHOWS_PLAYERS = {"mixing.shuffle_pictures": Rule("players who are shown", (), lambda settings: True)}

PLAYER_CONTEXTS = tuple(name for name, context in CONTEXTS.items() if context.uses_players)
"""Contexts that show players."""
ANY_PLAYER_CONTEXT = f"{', '.join(PLAYER_CONTEXTS[:-1])} or {PLAYER_CONTEXTS[-1]}"
"""Their names, for a rule."""

_MASKS_PLAYERS = Rule(
    "instruments.labels: players and model.vision.network: compact",
    ("instruments.labels", "model.vision.network"),
    lambda settings: settings.instruments.labels == "players" and settings.model.vision.network == "compact",
)

_SHOWS_PICTURES = Rule(
    "weak_labels.labels: pictures or weak_labels.network: two_stream",
    ("weak_labels.labels", "weak_labels.network"),
    lambda settings: settings.weak_labels.labels == "pictures" or settings.weak_labels.network == "two_stream",
)
_TWO_STREAM_READS_BASES = Rule(
    "weak_labels.inputs: bases where weak_labels.network is two_stream, which looks at players and listens to them",
    ("weak_labels.inputs", "weak_labels.network"),
    lambda settings: settings.weak_labels.inputs == "bases" or settings.weak_labels.network == "miml",
)
_TRUE_LABELS = Rule(
    "weak_labels.labels: corpus where weak_labels.inputs are sound_features, as there are no pictures",
    ("weak_labels.inputs", "weak_labels.labels"),
    lambda settings: settings.weak_labels.inputs == "bases" or settings.weak_labels.labels == "corpus",
)

_TAKES_MEDIA = _is("correspondence.inputs", "media")
_SMALL_STREAMS = Rule(
    "correspondence.inputs: media and correspondence.streams: small",
    ("correspondence.inputs", "correspondence.streams"),
    lambda settings: settings.correspondence.inputs == "media" and settings.correspondence.streams == "small",
)
_PLACES_IN_PICTURES = Rule(
    "correspondence.inputs: media where correspondence.network is avol_net, which says where in a picture a sound is",
    ("correspondence.inputs", "correspondence.network"),
    lambda settings: settings.correspondence.inputs == "media" or settings.correspondence.network == "ave_net",
)

CANDIDATES = 8
"""Players among whom the objective `correspondence` finds the right one: as many instruments, fewer where there are."""
_SHOWS_PLAYERS = Rule(
    f"model.outputs: queries and a model.context of players, {ANY_PLAYER_CONTEXT}",
    ("model.outputs", "model.context"),
    lambda settings: settings.model.outputs == "queries" and settings.model.context in PLAYER_CONTEXTS,
)

_QUERIES_ALL = Rule(
    "all players of two videos queried, so mixing.min_sources, mixing.max_sources and mixing.queries alike, at least 2",
    ("mixing.min_sources", "mixing.max_sources", "mixing.queries"),
    lambda settings: (
        settings.mixing.min_sources == settings.mixing.max_sources == settings.mixing.queries
        and settings.mixing.queries >= 2
    ),
)

_HAS_A_MINIMUM = Rule(
    "training.dissimilarity_weight times mixing.max_sources below 1, as the loss has no minimum otherwise",
    ("training.dissimilarity_weight", "mixing.max_sources"),
    lambda settings: settings.training.dissimilarity_weight * settings.mixing.max_sources < 1,
)

_HAS_LEVELS = Rule(
    "a network that gives levels for training.loss: cross_entropy, such as wavenet with model.estimate: mu_law",
    ("training.loss", "model.network"),
    lambda settings: settings.training.loss != "cross_entropy" or settings.model.classifies_samples,
)
_COMPARES_WAVEFORMS = Rule(
    "a training.loss of waveforms, of which stems can be summed",
    ("training.loss",),
    lambda settings: settings.training.loss != "cross_entropy",
)

_SEPARATION_FIGURE = Figure(name="valid_loss", direction="min", title="validation loss", unit="dB")

OBJECTIVES: dict[str, Entry] = {
    "separation": Entry(
        "vimss.train.objectives.separation:Separation",
        _SEPARATION_FIGURE,
        settings=(
            "model",
            "training.loss",
            "training.absent_weight",
            "training.dissimilarity_weight",
            "training.slot_order",
        ),
        separates=True,
        requires=(_HAS_A_MINIMUM, _HAS_LEVELS),
        meaning="mean -SNR in dB, floored at -30, over present sources of the fixed set",
    ),
    "co_separation": Entry(
        "vimss.train.objectives.co_separation:CoSeparation",
        _SEPARATION_FIGURE,
        settings=("model", "training.loss", "training.absent_weight", "training.consistency_weight"),
        separates=True,
        rules={
            "mixing.absent_probability": Rule(
                "queries of absent players, which objective: separation has", ("objective",), lambda settings: False
            )
        },
        requires=(_SHOWS_PLAYERS, _QUERIES_ALL, _COMPARES_WAVEFORMS),
        meaning="mean -SNR in dB, floored at -30, over present sources of the fixed set",
    ),
    "instruments": Entry(
        "vimss.train.objectives.instruments:Instruments",
        Figure(name="valid_map", direction="max", title="mean average precision"),
        settings=("model.vision", "instruments"),
        separates=False,
        kind="instruments.inputs",
        network="vimss.train.objectives.instruments_network:InstrumentsNetwork",
        rules={
            **dict.fromkeys(
                (
                    "instruments.every",
                    "instruments.augment",
                    "mixing.shuffle_pictures",
                    *_VISION,
                ),
                _READS_PICTURES,
            ),
            "instruments.labels": _READS_PICTURES_ALONE,
            "instruments.masks": _MASKS_PLAYERS,
        },
        distractors=True,
        meaning="mean over the labels that play in the fixed set, 1 at most",
    ),
    "alignment": Entry(
        "vimss.train.objectives.alignment:Alignment",
        Figure(name="valid_alignment", direction="max", title="two-alternative accuracy"),
        settings=("alignment",),
        separates=False,
        rules=_ALWAYS_SHOWS_PLAYERS,
        network="vimss.train.objectives.alignment_network:AlignmentNetwork",
        seconds=14.0,
        least_seconds=9.0,
        meaning="the sound of the same 5 s against one that is shifted by 2 s or more; 0.5 is chance",
    ),
    "correspondence": Entry(
        "vimss.train.objectives.correspondence:Correspondence",
        Figure(name="valid_recall", direction="max", title="recall@1"),
        settings=("model.vision", "correspondence"),
        separates=False,
        kind="correspondence.network",
        network="vimss.train.objectives.correspondence_network:CorrespondenceNetwork",
        rules={
            **dict.fromkeys(
                ("correspondence.streams", "correspondence.augment", "mixing.shuffle_pictures", *_OF_STEMS),
                _TAKES_MEDIA,
            ),
            **dict.fromkeys(_VISION, _SMALL_STREAMS),
        },
        requires=(_PLACES_IN_PICTURES,),
        sources=(CANDIDATES,),
        aligned=(False,),
        seconds=1.0,
        meaning=f"the own sound of a picture, and the own picture of a sound, first among {CANDIDATES} players of "
        f"different instruments, or as many as the corpus has; chance is one in {CANDIDATES}, or in as many",
    ),
    "localisation": Entry(
        "vimss.train.objectives.localisation:Localisation",
        Figure(name="valid_pointing", direction="max", title="pointing accuracy"),
        settings=("model.vision", "correspondence.loss", "correspondence.augment"),
        separates=False,
        network="vimss.train.objectives.correspondence_network:CorrespondenceNetwork",
        rules=_ALWAYS_SHOWS_PLAYERS,
        distractors=True,
        aligned=(True,),
        seconds=1.0,
        meaning="the highest place lies in the box of the player who sounds, among all side by side and one who rests; "
        "the box's share of the scene is chance. AP50 of half is 0 for every method where a box has less than a "
        "quarter of the scene, as with four players",
    ),
    "segmentation": Entry(
        "vimss.train.objectives.segmentation:Segmentation",
        Figure(name="valid_iou", direction="max", title="mean IoU"),
        settings=("model.vision", "instruments.every", "instruments.augment"),
        separates=False,
        network="vimss.train.objectives.segmentation_network:SegmentationNetwork",
        rules=_ALWAYS_SHOWS_PLAYERS,
        requires=(_COMPACT,),
        distractors=True,
        meaning="of the masks of player and instrument in the players' pictures, summed over pictures; the share of "
        "their pixels is what a constant guess has",
    ),
    "weak_labels": Entry(
        "vimss.train.objectives.weak_labels:WeakLabels",
        Figure(name="valid_label_map", direction="max", title="mean average precision of labels"),
        settings=("model.vision", "weak_labels"),
        separates=False,
        network="vimss.train.objectives.weak_labels_network:WeakLabelsNetwork",
        kind="weak_labels.inputs",
        rules={
            **dict.fromkeys(_VISION, _TWO_STREAM),
            **dict.fromkeys(_OF_STEMS, _READS_BASES),
            "mixing.shuffle_pictures": _SHOWS_PICTURES,
            "weak_labels.bases": _READS_BASES,
        },
        requires=(_TRUE_LABELS, _TWO_STREAM_READS_BASES),
        meaning="mean over the labels that play in the fixed set, 1 at most; by the scores of all parts of a mixture",
    ),
}
"""`objective` of the settings to what it is."""


def figure_of(objective: str = "separation") -> Figure:
    """The figure that a search for this objective is steered by."""
    return OBJECTIVES[objective].figure


def open_objective(settings: Settings, manifest: Manifest) -> Objective:
    """The objective of these settings on these shards, with the folder beside them that it reads, if any.

    Raises:
        ConfigError: pictures or features of another size.
        DataError: features that are missing or damaged.

    """
    entry, recipe = OBJECTIVES[settings.objective], manifest.recipe
    interface = entry.make(settings, recipe).interface
    features = interface.prepare(manifest)
    for other, _ in manifest.more:
        if interface.uses_players and not interface.example_seconds and other.recipe.picture != recipe.picture:
            raise ConfigError(
                f"more_shards: '{other.name}' must have the pictures of '{manifest.name}', {recipe.picture}",
                got=str(other.recipe.picture),
                fix="write both recipes with the same `picture`",
            )
        if features:
            interface.prepare(other, features)
    return entry.make(settings, recipe, features)
