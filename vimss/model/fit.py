"""How models fit a corpus that they need not have been trained on: labels, sample rate, channels, pictures.

fit = fit_models({"best": separator}, manifest, "test")
fit.labels              # of the corpus, which all models know
fit.names["best"]       # label of the corpus -> the model's own name of it
fit.sentences           # what is changed, and what is left out
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vimss.errors import DataError, ModelError
from vimss.media.resample import resample
from vimss.model.contexts.stored import check_stored
from vimss.model.separator import Separator
from vimss.shards.instruments import INSTRUMENTS, label_named
from vimss.shards.manifest import Manifest
from vimss.stream.read import check_holds, has_part


@dataclass(frozen=True)
class Fit:
    """The part of a corpus that several models can be scored on together."""

    labels: tuple[str, ...]
    """Labels of the corpus that every model has."""
    names: Mapping[str, Mapping[str, str]]
    """Model to label of the corpus to its own name of that label."""
    sentences: tuple[str, ...]
    """For people."""


def fit_models(separators: Mapping[str, Separator], manifest: Manifest, split: str) -> Fit:
    """The part of a split that these models, by name, can be scored on; nothing is decoded.

    Raises:
        DataError: The split has no stems, a single label, or no pictures where a model looks at them.
        ModelError: A model has none of the labels, or the models have none in common.

    """
    played = _labels_of(manifest, split)
    names = {name: known_labels(separator, _labels_of(manifest)) for name, separator in separators.items()}
    sentences: list[str] = []
    for name, separator in separators.items():
        if not set(played) & set(names[name]):
            raise ModelError(
                f"the model '{name}' must know a label of the split '{split}' of '{manifest.name}': "
                f"{', '.join(played)}",
                got=f"a model of {', '.join(separator.labels)}",
                fix="evaluate it on a corpus with its instruments, or give the recipe the labels of the model",
            )
        check_seen(separator, manifest, split, name)
        sentences += [*adaptations(separator, manifest, name), *_about_labels(name, names[name], played)]
    common = [label for label in _labels_of(manifest) if all(label in known for known in names.values())]
    if not set(common) & set(played):
        known = "; ".join(f"'{name}' has {', '.join(sorted(set(names[name]) & set(played)))}" for name in names)
        raise ModelError(
            f"models side by side must have a label of the split '{split}' of '{manifest.name}' in common",
            got=known,
            fix="evaluate them one by one",
        )
    if not has_part(manifest, split, "audio"):
        raise DataError(
            f"the split '{split}' of {manifest.home} must hold stems, which estimates are compared with",
            got="mixtures alone",
            fix="choose a split or a recipe with stems",
        )
    if len(played) < 2:
        raise DataError(
            f"the split '{split}' of {manifest.home} must have two labels, to make mixtures of",
            got=f"only {played[0]}",
            fix="choose a split or a recipe with more instruments",
        )
    unscored = [label for label in played if label not in common]
    if unscored:
        sentences.append(
            f"scored in every row: {', '.join(sorted(set(common) & set(played)))}; {', '.join(unscored)} stay in the "
            "mixtures, no row is conditioned on them or scored on them"
        )
    return Fit(tuple(common), names, tuple(sentences))


def _labels_of(manifest: Manifest, split: str = "") -> list[str]:
    """The labels that are played in a split, or in all of them."""
    pieces = [piece for piece in manifest.pieces if split in ("", piece.split)]
    return sorted({label for piece in pieces for label in piece.instruments})


def _about_labels(name: str, names: Mapping[str, str], played: Sequence[str]) -> list[str]:
    unknown = [label for label in played if label not in names]
    called = [f"{label} is its {names[label]}" for label in played if names.get(label, label) != label]
    found = [f"it lacks {', '.join(unknown)}"] if unknown else []
    return [f"{name}: {'; '.join([*called, *found])}"] if called or found else []


def known_labels(separator: Separator, labels: Sequence[str]) -> dict[str, str]:
    """Those labels of a corpus that a model can be scored for, with the model's own names of them.

    The model's name is the same or means the same instrument, as "violin" and "vn" do. Labels that are one to the model
    are left out. Outputs without labels, and those queried by pictures, can be scored for any.
    """
    if not separator.interface.has_labelled_outputs:
        return {label: label for label in labels}
    named = {label: _own_name(label, separator.labels) for label in labels}
    names = list(named.values())
    return {label: name for label, name in named.items() if name is not None and names.count(name) == 1}


def _own_name(label: str, labels: Sequence[str]) -> str | None:
    """A model's own name for a label; None where it has none like it, or several."""
    found = label_named(label, labels)
    if found is not None:
        return found
    codes = tuple(INSTRUMENTS)
    code = label_named(label, codes)
    alike = [own for own in labels if code is not None and label_named(own, codes) == code]
    return alike[0] if len(alike) == 1 else None


def check_seen(separator: Separator, manifest: Manifest, split: str, name: str) -> None:
    """DataError where a model looks at players of whom a split has no pictures, or what else it needs of them."""
    interface = separator.interface
    # Of the sound itself there is nothing to look for: models are scored on stems, and examples are of them.
    if not interface.uses_players or interface.example_seconds:
        return
    source = interface.context.source
    rule = f"the model '{name}', whose context is {separator.config.context}, needs {source}s of the players"
    fix = "evaluate it on shards that hold them, or choose a model whose context is labels"
    check_holds(manifest, split, source, rule, fix)
    check_stored(interface.context, manifest, split)


def adaptations(separator: Separator, manifest: Manifest, name: str) -> list[str]:
    """A sentence about how the corpus is converted for a model, and its output back, before scoring; or none."""
    recipe, found = manifest.recipe, []
    if separator.sample_rate != recipe.sample_rate:
        found.append(f"resampled from {recipe.sample_rate} Hz to its {separator.sample_rate} Hz and back")
        if separator.sample_rate < recipe.sample_rate:
            found.append(f"it gives nothing above {separator.sample_rate / 2:.0f} Hz, which its figures include")
    if separator.config.channels < recipe.channels:
        found.append("it reads the mean of both channels, and its output is copied to both")
    if separator.config.channels > recipe.channels:
        found.append("it reads mono in both channels, and the mean of its output is scored")
    return [f"{name}: {'; '.join(found)}"] if found else []


def with_channels(sound: Float[np.ndarray, "c t"], channels: int) -> Float[np.ndarray, "k t"]:
    """Mono in both channels, or the mean of both: what `separate` does with a recording."""
    if len(sound) == channels:
        return sound
    return sound.mean(axis=0, keepdims=True) if channels == 1 else np.repeat(sound, channels, axis=0)


def resampled(sound: Float[np.ndarray, "c t"], rate: int, wanted: int) -> Float[np.ndarray, "c u"]:
    """Sound at another rate; as it is where that is its own."""
    return sound if rate == wanted else resample(np.ascontiguousarray(sound, np.float32), float(rate), float(wanted))
