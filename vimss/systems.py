"""What separates: trained models, the rows that need no training, and the scenes that they hear and see.

    system = model_system(folder, manifest, "best trial")
    scene = next(pieces_of(manifest, "test", system.cue, system.features))
    estimates = system(scene, ["vn", "vc"])                                 # [2 c t]

Four rows need no training and give a dB its meaning: the mixture itself (0 dB by definition), a time-invariant Wiener
filter per label, the same told all labels that sound, and the oracle ratio mask. What is asked for is the stem of a
label, whatever a model is told.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from vimss.errors import DataError, ModelError
from vimss.metrics import LabelWiener, oracle_ratio_mask, si_sdr_improvement
from vimss.model.apply import separate_all
from vimss.model.config import ModelConfig
from vimss.model.device import on_device
from vimss.model.fit import resampled, with_channels
from vimss.model.separator import Separator, load_separator, read_card
from vimss.shards.clip import Clip
from vimss.shards.manifest import Manifest, Shard
from vimss.stream.mix import SOUND_ALONE, Mixture, PlayerViews
from vimss.stream.read import read_clips, read_pieces

Cue = str
"""What a system sees of the players: none, or a context that uses players."""

WrongContext = Literal["none", "other", "absent"]
"""What stands in for the right context to measure label contrast: nothing, since a system has no context; the query of
another player; or a label that does not sound, in place of the right one among all that the system is told."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A piece or a mixture, as evaluation hears and sees it."""

    name: str
    mixture: Float[np.ndarray, "c t"]
    references: dict[str, Float[np.ndarray, "c t"]]
    """The labels that sound, with the sum of their players' stems."""
    cues: Mapping[str, Sequence[np.ndarray]]
    """Label to what is seen of each of its players, pictures "v h w 3" or features "v d", spread evenly over the
    mixture; nothing where nobody looks. A label that does not sound may be seen."""
    unscored: Mapping[str, Float[np.ndarray, "c t"]] = field(default_factory=dict)
    """Labels that sound too, but that a model of the table does not know; no system is told of them."""

    def restricted(self, labels: Collection[str]) -> "Scene":
        """The same sound, of which only these labels are references and only their players are seen."""
        parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        for label, stem in self.references.items():
            parts[label not in labels][label] = stem
        cues = {label: cues for label, cues in self.cues.items() if label in labels}
        return replace(self, references=parts[0], cues=cues, unscored={**self.unscored, **parts[1]})

    def beginning(self, samples: int) -> "Scene":
        """About the first `samples`, cut between two pictures; labels that rest there are left out."""
        total = self.mixture.shape[1]
        frames = next((len(cue) for cues in self.cues.values() for cue in cues), total)
        kept = max(1, round(frames * min(samples / total, 1)))
        length = round(kept * total / frames)
        references = {label: stem[:, :length] for label, stem in self.references.items() if stem[:, :length].any()}
        cues = {label: [cue[:kept] for cue in self.cues[label]] for label in references if label in self.cues}
        return Scene(self.name, self.mixture[:, :length], references, cues)


@runtime_checkable
class System(Protocol):
    """Anything that separates by label."""

    name: str
    cue: Cue = "none"
    """What the scenes that it gets must show."""
    features: str = ""
    """Folder of the vision network whose features they show."""
    views: PlayerViews = SOUND_ALONE
    """The same for mixtures: what of the players is read, and how."""
    ordered: bool = True
    """Whether it can be asked for a label; else an oracle tells its outputs apart."""
    weights: str = ""
    """SHA-256 of its weights, where it has any."""
    wrong_context: WrongContext = "none"

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Estimates for the labels `asked`; only an oracle hears the references, others read their labels alone."""

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The output for `label` where `absent` is told in its place; of systems whose wrong context is "absent"."""
        raise TypeError(f"{self.name} is not told all labels that sound")


class ModelSystem(System):
    """A trained separator, whatever it is told and however it answers."""

    def __init__(self, separator: Separator, name: str, features: str = "", weights: str = "") -> None:
        self.separator = separator.eval()
        self.name = name
        self.features = features
        self.weights = weights
        config = separator.config
        self.views = interface = replace(separator.interface, features=features)
        self.cue = config.context if interface.uses_players else "none"
        self.ordered = config.outputs != "slots"
        if interface.is_conditioned and self.ordered:
            self.wrong_context = "absent" if config.outputs == "instruments" else "other"

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """One output per label: chosen, asked for, or the slot that an oracle gives it.

        A network with one output per label is told of all that sound. Of several players of one label, each is asked
        for by its picture, and their estimates are added.
        """
        separator = self.separator
        context: torch.Tensor | None = None
        match separator.config.outputs:
            case "slots":
                return _best_slots(self._separate(scene, None), scene, asked, separator.sample_rate)
            case "instruments":
                context = self._all_that_sound(scene, sorted(scene.references))
                return self._separate(scene, context)[[separator.labels.index(label) for label in asked]]
            case "queries":
                if self.cue == "none":
                    return self._separate(scene, self._labels(asked))
                seen = [(row, cue) for row, label in enumerate(asked) for cue in scene.cues[label]]
                outputs = self._separate(scene, _stack([cue for _, cue in seen]))
                estimates = np.zeros((len(asked), *outputs.shape[1:]), outputs.dtype)
                np.add.at(estimates, [row for row, _ in seen], outputs)
                return estimates

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The output for `label` of a network with one output per label that is told `absent` in its place."""
        told = [absent if sounding == label else sounding for sounding in sorted(scene.references)]
        outputs = self._separate(scene, self._all_that_sound(scene, told))
        return outputs[self.separator.labels.index(label)]

    def _all_that_sound(self, scene: Scene, labels: Sequence[str]) -> torch.Tensor | None:
        """The context of a network with one output per label."""
        if self.cue != "none":
            return _stack([cue for label in labels for cue in scene.cues[label]])
        return self._labels(sorted(labels))

    def _labels(self, labels: Sequence[str]) -> torch.Tensor | None:
        """The context that asks for labels, where the network takes one."""
        rows = self.separator.interface.context_of(labels)
        return None if rows is None else torch.from_numpy(rows)

    def _separate(self, scene: Scene, context: torch.Tensor | None) -> Float[np.ndarray, "s c t"]:
        sound = torch.from_numpy(np.ascontiguousarray(scene.mixture, np.float32))
        return separate_all(self.separator, sound, context).numpy()


class AdaptedSystem(System):
    """A model on sound of another rate, with other channels, or with other names of labels than its own."""

    def __init__(self, model: ModelSystem, sample_rate: int, names: Mapping[str, str]) -> None:
        """`names` are the model's own for the labels of the scenes, which have `sample_rate`."""
        self.model, self.sample_rate, self.names = model, sample_rate, names
        self.name, self.cue, self.features, self.views = model.name, model.cue, model.features, model.views
        self.ordered, self.weights, self.wrong_context = model.ordered, model.weights, model.wrong_context

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The model's estimates, at the rate and with the channels of the scene."""
        estimates = self.model(self._to_model(scene), [self.names[label] for label in asked])
        return np.stack([self._from_model(estimate, scene) for estimate in estimates])

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """The same of a label in whose place another one is told."""
        found = self.model.exchanged(self._to_model(scene), self.names[label], self.names[absent])
        return self._from_model(found, scene)

    def _to_model(self, scene: Scene) -> Scene:
        separator = self.model.separator

        def convert(sound: np.ndarray) -> np.ndarray:
            return resampled(with_channels(sound, separator.config.channels), self.sample_rate, separator.sample_rate)

        mixture = convert(scene.mixture)
        # Only an oracle listens to references; other models are told their labels, and any sound will do.
        references = {
            self.names[label]: mixture if self.ordered else convert(stem) for label, stem in scene.references.items()
        }
        cues = {self.names[label]: cues for label, cues in scene.cues.items()}
        return Scene(scene.name, mixture, references, cues)

    def _from_model(self, estimate: Float[np.ndarray, "k u"], scene: Scene) -> Float[np.ndarray, "c t"]:
        channels, length = scene.mixture.shape
        sound = resampled(with_channels(estimate, channels), self.model.separator.sample_rate, self.sample_rate)
        # There and back, rounding may take or add a sample at the end.
        return np.pad(sound[:, :length], ((0, 0), (0, max(0, length - sound.shape[1]))))


def model_system(
    folder: Path, manifest: Manifest, name: str, names: Mapping[str, str] | None = None, device: str = "cpu"
) -> System:
    """The trained separator in `folder`, to be heard on these shards.

    With `names`, from `fit_models`, the shards may be of any recipe, and the model is asked for those labels alone.

    Raises:
        DataError: It needs vision features that are not beside the shards.
        ModelError: No model is there, or it works at another rate or with other channels or labels than the shards.

    """
    separator = on_device(load_separator(folder), device)
    if names is None:
        _check_same_recipe(separator, folder, manifest, name)
    features = _features_of(separator, folder, manifest, name)
    system = ModelSystem(separator, name, features, read_card(folder)["sha256"])
    recipe = manifest.recipe
    alike = (separator.sample_rate, separator.config.channels) == (recipe.sample_rate, recipe.channels)
    if names is None or (alike and all(label == own for label, own in names.items())):
        return system
    return AdaptedSystem(system, recipe.sample_rate, names)


def _check_same_recipe(separator: Separator, folder: Path, manifest: Manifest, name: str) -> None:
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
    """The folder of the vision features that a model reads, after a look at them; empty where it reads none."""
    if "features" not in separator.interface.members:
        return ""
    card = read_card(folder)["card"]
    if "features" not in card:
        raise ModelError(
            f"the card of the model '{name}', whose context is features, must name them",
            got=f"none in {folder}",
            fix="train it again, or add the key 'features' to the card in model.json",
        )
    # Only networks that look at pictures pay for importing torchvision.
    from vimss.features import read_features

    read_features(manifest, card["features"])
    return str(card["features"])


def _best_slots(
    estimates: Float[np.ndarray, "k c t"], scene: Scene, asked: Sequence[str], sample_rate: int
) -> Float[np.ndarray, "s c t"]:
    """The slot of each label asked for: the permutation with the best mean SI-SDR improvement.

    Where there are fewer slots than labels, those left over take the slot that fits them best.
    """
    gains = np.array(
        [
            [
                si_sdr_improvement(scene.mixture, scene.references[label], estimate, sample_rate)
                for estimate in estimates
            ]
            for label in asked
        ]
    )
    gains = np.nan_to_num(gains)  # a label that rests fits every slot alike
    rows, slots = linear_sum_assignment(gains, maximize=True)
    best = gains.argmax(axis=1)
    best[rows] = slots
    return estimates[best]


def _stack(cues: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(cues))


class WienerSystem(System):
    """The per-label Wiener filter: one fixed filter for each label, whoever else plays."""

    name = "Wiener filter per label"
    wrong_context: WrongContext = "other"

    def __init__(self, wiener: LabelWiener) -> None:
        self.wiener = wiener

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Each label by its own filter: it knows what a query knows."""
        return self.wiener.separate_each(scene.mixture, asked)


class InformedWienerSystem(System):
    """Wiener filters that are told every label that sounds, as no query is."""

    name = "Wiener, all labels told"
    wrong_context: WrongContext = "absent"

    def __init__(self, wiener: LabelWiener) -> None:
        self.wiener = wiener

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Filters among the labels that sound; a label that does not sound gets silence."""
        sounding = sorted(scene.references)
        estimates = dict(zip(sounding, self.wiener.separate(scene.mixture, sounding), strict=True))
        return np.stack([estimates.get(label, np.zeros_like(scene.mixture)) for label in asked])

    def exchanged(self, scene: Scene, label: str, absent: str) -> Float[np.ndarray, "c t"]:
        """What the filters give to `absent` where it is told in place of `label`."""
        told = [absent if sounding == label else sounding for sounding in sorted(scene.references)]
        return self.wiener.separate(scene.mixture, told)[told.index(absent)]


def equally_informed(config: ModelConfig) -> str:
    """The Wiener filter that is told as much as a network is: all labels that sound, or the one asked for."""
    told_all = config.outputs == "instruments" and config.site != "none"
    return InformedWienerSystem.name if told_all else WienerSystem.name


class OracleSystem(System):
    """The ratio mask of the true stems."""

    name = "oracle ratio mask"

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """The best that a mask can do."""
        true = {**scene.references, **scene.unscored}
        sounding = sorted(true)
        stems = np.stack([true[label] for label in sounding])
        masked = oracle_ratio_mask(scene.mixture, stems, self.sample_rate)
        estimates = dict(zip(sounding, masked, strict=True))
        return np.stack([estimates.get(label, np.zeros_like(scene.mixture)) for label in asked])


class MixtureSystem(System):
    """The mixture as the estimate of every source."""

    name = "mixture"

    def __call__(self, scene: Scene, asked: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """As many copies as labels."""
        return np.repeat(scene.mixture[None], len(asked), axis=0)


def pieces_of(
    manifest: Manifest, split: str, cue: Cue = "none", features: str = "", shards: Sequence[Shard] | None = None
) -> Iterator[Scene]:
    """Whole pieces of a split that have two or more sounding labels; players of one label are one reference.

    `cue` says what to show of the players; of "features", those in the folder `features`. With `shards`, only theirs.
    """
    parts = {"none": ("audio",), "frames": ("audio", "picture"), "features": ("audio", "features")}[cue]
    for clip in read_pieces(manifest, split, parts, features, shards):
        references = references_of(clip)
        if len(references) > 1:
            yield Scene(clip.piece, mixture_of(clip), references, cues_of(clip, cue))


def scene_of(mixture: Mixture, name: str) -> Scene:
    """A drawn mixture, in which the distractors are seen too."""
    references: dict[str, np.ndarray] = {}
    cues: dict[str, list[np.ndarray]] = {}
    for source in mixture.sources:
        references[source.label] = references.get(source.label, 0) + source.stem
    for player in (*mixture.sources, *mixture.distractors):
        if player.view is not None:
            cues.setdefault(player.label, []).append(player.view)
    return Scene(name, mixture.sound, references, cues)


def cues_of(clip: Clip, cue: Cue) -> dict[str, list[np.ndarray]]:
    """What is seen of the players that sound, by label; DataError where one is not seen."""
    cues: dict[str, list[np.ndarray]] = {}
    for player in clip.players if cue != "none" else ():
        if player.audio is not None and player.audio.any():
            seen = player.picture if cue == "frames" else player.features
            if seen is None:
                raise DataError(
                    f"a model with context: {cue} needs {cue} of every player",
                    got=f"none for {player.part} in {clip.key}",
                    fix="evaluate it on a corpus with pictures",
                )
            cues.setdefault(player.instrument, []).append(seen)
    return cues


def references_of(clip: Clip) -> dict[str, Float[np.ndarray, "c t"]]:
    """The sounding labels of a clip with the sum of their players' stems."""
    references: dict[str, np.ndarray] = {}
    for player in clip.players:
        if player.audio is not None and player.audio.any():
            stem = player.audio.astype(np.float32) / 32768
            references[player.instrument] = (
                references[player.instrument] + stem if player.instrument in references else stem
            )
    return references


def mixture_of(clip: Clip) -> Float[np.ndarray, "c t"]:
    """The recorded mix, or the sum of the stems."""
    if clip.mixture is not None:
        return clip.mixture.astype(np.float32) / 32768
    stems = [player.audio.astype(np.float32) for player in clip.players if player.audio is not None]
    return np.sum(stems, axis=0) / np.float32(32768)


def fit_wiener(manifest: Manifest) -> LabelWiener:
    """The Wiener filter of the train split."""

    def stems() -> Iterator[tuple[str, np.ndarray]]:
        for clip in read_clips(manifest, "train"):
            for player in clip.players:
                if player.audio is not None:
                    yield player.instrument, player.audio.astype(np.float32) / 32768

    return LabelWiener.fit(stems(), manifest.recipe.sample_rate)
