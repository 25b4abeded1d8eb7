"""Systems that separate by label, for evaluation: trained models, and baselines that need no training.

    system = model_system(folder, manifest, "best trial")
    scene = next(pieces_of(manifest, "test", system.views))
    estimates = system(scene, ["vn", "vc"])                                 # [2 c t]

All models are judged by the stems of labels, whatever they are conditioned on. By the stems of players, see
`vimss.evaluate.assigned`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from vimss.baselines import BASELINES, Baseline, ConditionedOn, TrainStems, TwoSourceBaseline
from vimss.errors import ModelError
from vimss.metrics import si_sdr_improvement
from vimss.model.apply import separate_all
from vimss.model.config import ModelConfig
from vimss.model.device import on_device
from vimss.model.fit import resampled, with_channels
from vimss.model.separator import Separator, load_separator, read_card
from vimss.namer import InstrumentNamer, Named, load_namer, picture_views
from vimss.shards.manifest import Manifest
from vimss.stream.mix import SOUND_ALONE, SOUND_AND_NOTES, PlayerViews
from vimss.stream.scene import Scene

WrongContext = Literal["none", "other", "absent"]
"""The wrong context to measure label contrast with: nothing, since a system has no context; the query of
another player; or a label that does not sound, in place of the right one among all that condition the system."""

WRONG_CONTEXTS: dict[ConditionedOn, WrongContext] = {
    "nothing": "none",
    "label": "other",
    "all_labels": "absent",
    "notes": "other",
    "order": "none",
    "stems": "none",
}
"""The wrong contexts of baselines, by what they are conditioned on."""

Truth = Literal["nothing", "notes", "order", "stems"]
"""What a system is given of the truth: nothing, the notes, the order of its outputs, or, as an oracle, the stems."""


@runtime_checkable
class System(Protocol):
    """Anything that separates by label."""

    name: str
    views: PlayerViews
    """The views of the players that its scenes need."""
    ordered: bool
    """Whether each output belongs to a label; otherwise an oracle assigns the outputs."""
    weights: str
    """SHA-256 of its weights; empty where it has none."""
    wrong_context: WrongContext

    def __call__(self, scene: Scene, queried: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Estimates for the queried labels; only an oracle reads the references, other systems only their labels."""

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The output for `label` when conditioned on `absent` instead; called where the wrong context is "absent"."""


class ModelSystem:
    """A trained separator with any context and any kind of outputs."""

    def __init__(self, separator: Separator, name: str, features: str = "", weights: str = "") -> None:
        self.separator = separator.eval()
        self.name = name
        self.weights = weights
        config = separator.config
        self.interface = replace(separator.interface, features=features)
        self.views: PlayerViews = self.interface
        self.ordered = not self.interface.any_order
        self.wrong_context: WrongContext = "none"
        if self.interface.is_conditioned and self.ordered:
            self.wrong_context = "absent" if config.outputs == "instruments" else "other"

    def __call__(self, scene: Scene, queried: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """One output per label: selected, queried, or the slot that an oracle assigns to it.

        A network with one output per label is conditioned on all that sound. Of several players of one label, each is
        a query, and their estimates are added.
        """
        separator = self.separator
        match separator.config.outputs:
            case "slots":
                slots = self.slots(scene)
                return slots[best_order(slots, scene, queried, separator.sample_rate)]
            case "instruments":
                outputs = self._separate_all_that_sound(scene, sorted(scene.references))
                return outputs[[separator.labels.index(label) for label in queried]]
            case "queries":
                players = [(row, view) for row, label in enumerate(queried) for view in scene.views.get(label, ())]
                outputs = self._separate(scene, queried, [view for _, view in players])
                if not self.interface.uses_players:
                    return outputs
                estimates = np.zeros((len(queried), *outputs.shape[1:]), outputs.dtype)
                np.add.at(estimates, [row for row, _ in players], outputs)
                return estimates

    def slots(self, scene: Scene) -> Float[np.ndarray, "k c t"]:
        """The outputs of a network with slots, in their own order."""
        return self._separate(scene, (), ())

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The output for `label` of a network with one output per label when conditioned on `absent` instead."""
        labels = [absent if sounding == label else sounding for sounding in sorted(scene.references)]
        return self._separate_all_that_sound(scene, labels)[self.separator.labels.index(label)]

    def _separate_all_that_sound(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "i c t"]:
        return self._separate(scene, labels, [view for label in labels for view in scene.views.get(label, ())])

    def _separate(self, scene: Scene, labels: Sequence[str], views: Sequence[np.ndarray]) -> Float[np.ndarray, "s c t"]:
        sound = torch.from_numpy(np.ascontiguousarray(scene.mixture, np.float32))
        rows = self.interface.context_of(labels, views)
        return separate_all(self.separator, sound, None if rows is None else torch.from_numpy(rows)).numpy()


class AdaptedSystem:
    """A model on sound of another rate, with other channels, or with other names of labels than its own."""

    def __init__(self, model: ModelSystem, sample_rate: int, names: Mapping[str, str]) -> None:
        """`names` are the model's own for the labels of the scenes, which have `sample_rate`."""
        self.model, self.sample_rate, self.names = model, sample_rate, names
        self.name, self.views = model.name, model.views
        self.ordered, self.weights, self.wrong_context = model.ordered, model.weights, model.wrong_context

    def __call__(self, scene: Scene, queried: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The model's estimates, at the rate and with the channels of the scene."""
        estimates = self.model(self._to_model(scene), [self._own(name) for name in queried])
        return np.stack([self._from_model(estimate, scene) for estimate in estimates])

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The model's output for `label` when conditioned on `absent` instead."""
        found = self.model.exchanged(self._to_model(scene), self._own(label), self._own(absent))
        return self._from_model(found, scene)

    def _own(self, name: str) -> str:
        """The model's name of a label; the name of a player stays."""
        return self.names.get(name, name)

    def _to_model(self, scene: Scene) -> Scene:
        separator = self.model.separator

        def convert(sound: np.ndarray) -> np.ndarray:
            return resampled(with_channels(sound, separator.config.channels), self.sample_rate, separator.sample_rate)

        mixture = convert(scene.mixture)
        # Only an oracle reads the references; of other models only their labels matter, so any sound will do.
        references = {
            self._own(name): mixture if self.ordered else convert(stem) for name, stem in scene.references.items()
        }
        views = {self._own(name): views for name, views in scene.views.items()}
        return Scene(scene.name, mixture, references, views)

    def _from_model(self, estimate: Float[np.ndarray, "k u"], scene: Scene) -> Float[np.ndarray, "c t"]:
        channels, length = scene.mixture.shape
        sound = resampled(with_channels(estimate, channels), self.model.separator.sample_rate, self.sample_rate)
        # There and back, rounding may take or add a sample at the end.
        return np.pad(sound[:, :length], ((0, 0), (0, max(0, length - sound.shape[1]))))


class NamedSystem:
    """A separator conditioned on labels, queried by pictures: a network names the instrument of each player from them.

    Where two players of one label are named differently, both outputs are added, as a player's own outputs are.
    """

    def __init__(
        self, inner: ModelSystem | AdaptedSystem, name: str, namer: InstrumentNamer, labels: Sequence[str]
    ) -> None:
        """`labels` are those that players may be named: some of the scenes'."""
        self.inner, self.name, self.namer = inner, name, namer
        self.choices = namer.choices(labels)
        self.views: PlayerViews = picture_views(labels)
        self.ordered, self.weights, self.wrong_context = inner.ordered, namer.weights, inner.wrong_context
        self._last: tuple[Scene, dict[str, list[Named]]] | None = None

    def __call__(self, scene: Scene, queried: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The separator's outputs for the labels that the players of the queried ones are named."""
        names = [self._labels(scene, label) for label in queried]
        wanted = list(dict.fromkeys(name for some in names for name in some))
        outputs = dict(zip(wanted, self.inner(self._as_named(scene), wanted), strict=True))
        return np.stack([np.sum([outputs[name] for name in some], axis=0) for some in names])

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The output for `label` when the separator is conditioned on what `absent` is named instead."""
        instead, known = self._labels(scene, absent)[0], self._as_named(scene)
        found = [self.inner.exchanged(known, name, instead) for name in self._labels(scene, label)]
        return np.asarray(np.sum(found, axis=0))

    def named(self, scene: Scene, label: str) -> list[Named]:
        """What the players of a label are named."""
        if self._last is None or self._last[0] is not scene:
            named = {
                of: [self.namer.name_player(view, self.choices) for view in views] for of, views in scene.views.items()
            }
            self._last = scene, named
        return self._last[1][label]

    def _labels(self, scene: Scene, label: str) -> list[str]:
        return list(dict.fromkeys(one.label for one in self.named(scene, label)))

    def _as_named(self, scene: Scene) -> Scene:
        """The scene as the separator is to know it: the labels that sound are those that their players are named."""
        names = dict.fromkeys(name for label in scene.references for name in self._labels(scene, label))
        return replace(scene, references=dict.fromkeys(names, scene.mixture), views={})


class BaselineSystem:
    """A baseline as a row of a table."""

    weights = ""

    def __init__(self, name: str, baseline: Baseline) -> None:
        self.name, self.baseline = name, baseline
        self.views: PlayerViews = SOUND_AND_NOTES if baseline.conditioned_on == "notes" else SOUND_ALONE
        self.ordered = not isinstance(baseline, TwoSourceBaseline)
        self.wrong_context: WrongContext = WRONG_CONTEXTS[baseline.conditioned_on]

    def __call__(self, scene: Scene, queried: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The baseline's estimates; of one without labels, those that an oracle assigns."""
        estimates = self.baseline(scene, queried)
        if isinstance(self.baseline, TwoSourceBaseline):
            return estimates[best_order(estimates, scene, queried, self.baseline.sample_rate)]
        return estimates

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The baseline's estimate for `absent` when conditioned on it instead of `label`."""
        return self.baseline(scene.renamed(label, absent), [absent])[0]


def separates_players(system: System) -> bool:
    """Whether two players of one label can have an output each: of players, of any source, or by the truth."""
    if isinstance(system, BaselineSystem):
        return truth_of(system) != "nothing"
    model = system.model if isinstance(system, AdaptedSystem) else system
    return isinstance(model, ModelSystem) and not model.interface.has_labelled_outputs


def baseline_systems(manifest: Manifest, names: Sequence[str] = tuple(BASELINES)) -> list[BaselineSystem]:
    """These rows of BASELINES, fitted on the train split of some shards: each once, here."""
    train = TrainStems(manifest)
    return [BaselineSystem(name, BASELINES[name].fit(train)) for name in names]


def separates_pieces(system: System) -> bool:
    """Whether a system is scored on whole pieces: baselines for two sources are not, since most pieces have more."""
    return system.ordered or not isinstance(system, BaselineSystem)


def truth_of(system: System) -> Truth:
    """What a system is given of the truth."""
    if isinstance(system, BaselineSystem):
        match system.baseline.conditioned_on:
            case "stems" | "notes" as truth:
                return truth
    return "nothing" if system.ordered else "order"


def equally_informed(config: ModelConfig) -> str:
    """The first baseline with the same information as a network: all labels that sound, or one label per output."""
    # Answers that share the mixture depend on every label that is asked.
    together = config.outputs == "queries" and config.share_mixture
    all_labels = together or (config.outputs == "instruments" and config.site != "none")
    known = "all_labels" if all_labels else "label"
    return next(name for name, baseline in BASELINES.items() if baseline.conditioned_on == known)


def model_system(
    folder: Path, manifest: Manifest, name: str, names: Mapping[str, str] | None = None, device: str = "cpu"
) -> System:
    """The trained separator in `folder`, to be evaluated on these shards.

    With `names`, from `fit_models`, the shards may be of any recipe, and the model is evaluated on those labels only.

    Raises:
        DataError: It needs vision features that are not beside the shards.
        ModelError: No model is there, or it works at another rate or with other channels or labels than the shards.

    """
    separator = on_device(load_separator(folder), device)
    # Examples are of the shards themselves, at their rate and under their labels.
    if names is None or separator.interface.example_seconds:
        check_same_recipe(separator, folder, manifest, name)
    features = _features_of(separator, folder, manifest, name)
    system = ModelSystem(separator, name, features, read_card(folder)["sha256"])
    recipe = manifest.recipe
    alike = (separator.sample_rate, separator.config.channels) == (recipe.sample_rate, recipe.channels)
    if names is None or (alike and all(label == own for label, own in names.items())):
        return system
    return AdaptedSystem(system, recipe.sample_rate, names)


def named_system(
    folder: Path, manifest: Manifest, name: str, namer: tuple[str, Path], names: Mapping[str, str] | None = None
) -> NamedSystem:
    """The separator in `folder`, queried by pictures: `namer` is name and folder of the model that names players.

    `names` as in `model_system`; players are named one of these labels.

    Raises:
        ModelError: as `model_system`; the separator is not conditioned on labels, or the other model names no players.

    """
    inner = model_system(folder, manifest, name, names)
    assert isinstance(inner, ModelSystem | AdaptedSystem), "the system of a model"  # noqa: S101
    model = inner if isinstance(inner, ModelSystem) else inner.model
    check_takes_labels(model.separator, name)
    named_by, path = namer
    return NamedSystem(inner, name, load_namer(path, named_by), tuple(names or manifest.recipe.labels))


def check_takes_labels(separator: Separator, name: str) -> None:
    """ModelError unless a separator is conditioned on labels, and so can be queried by those that players are named."""
    if not separator.interface.takes_labels:
        is_conditioned = separator.interface.is_conditioned
        raise ModelError(
            f"the model '{name}' must be conditioned on labels, to be asked by the instruments that pictures name",
            got=f"model.context: {separator.config.context}" if is_conditioned else "model.site: none",
            fix="choose a model whose model.context is labels, or leave --instruments-from out",
        )


def check_same_recipe(separator: Separator, folder: Path, manifest: Manifest, name: str) -> None:
    """ModelError where a model has another rate or other channels or labels than the shards."""
    recipe = manifest.recipe
    for what, has, wanted in (
        ("sample rate", separator.sample_rate, recipe.sample_rate),
        ("number of channels", separator.config.channels, recipe.channels),
        ("labels", ", ".join(sorted(separator.labels)), ", ".join(sorted(recipe.labels))),
    ):
        if has != wanted:
            raise ModelError(
                f"the model '{name}' must have the {what} of the shards '{manifest.name}', {wanted}",
                got=f"{has} in {folder}",
                fix="evaluate it on shards of its own recipe; a champion of another recipe needs another experiment "
                "name",
            )


def _features_of(separator: Separator, folder: Path, manifest: Manifest, name: str) -> str:
    """The folder beside the shards that a model reads, after a look at it; empty where it reads none."""
    interface = separator.interface
    if not interface.computed:
        return ""
    card = read_card(folder)["card"]
    if "features" not in card:
        raise ModelError(
            f"the card of the model '{name}', whose context is {separator.config.context}, must name its features",
            got=f"none in {folder}",
            fix="train it again, or add the key 'features' to the card in model.json",
        )
    return interface.prepare(manifest, str(card["features"]))


def best_order(
    estimates: Float[np.ndarray, "k c t"], scene: Scene, queried: Sequence[str], sample_rate: int
) -> Int[np.ndarray, " s"]:
    """The slot of each queried reference: the permutation with the best mean SI-SDR improvement.

    Where there are fewer slots than references, those left over take the slot that fits them best.
    """
    gains = np.array(
        [
            [
                si_sdr_improvement(scene.mixture, scene.references[label], estimate, sample_rate)
                for estimate in estimates
            ]
            for label in queried
        ]
    )
    gains = np.nan_to_num(gains)  # a label that rests fits every slot alike
    rows, slots = linear_sum_assignment(gains, maximize=True)
    best = gains.argmax(axis=1)
    best[rows] = slots
    return best
