"""Checks of an experiment against shards and place, before any trial starts.

    check_experiment(experiment, manifest, place)           # all that it may train
    check_settings(settings, manifest, place)               # one training

`vimss.search.consistency` checks an experiment against itself.
"""

from collections.abc import Collection, Sequence

from vimss.axes import Scalar
from vimss.errors import ConfigError
from vimss.experiment import NETWORK, Experiment, sample_values
from vimss.model.contexts import CONTEXT_KEYS
from vimss.model.contexts.stored import check_stored
from vimss.model.interface import Interface
from vimss.model.vision_config import KNOWN_WEIGHTS
from vimss.runtime import Place
from vimss.shards.manifest import Manifest
from vimss.stream.read import check_holds
from vimss.train.config import Settings, has_key
from vimss.train.idle import check_uses
from vimss.train.objectives import OBJECTIVES, open_objective

_OF_CONTEXTS = {NETWORK, "model.context", "model.site", *(f"model.{name}" for name in CONTEXT_KEYS)}
"""Settings that decide how players are seen."""

ANOTHER_NETWORK = "choose a recipe with them, or a network that needs none"
"""The fix where shards lack a part that the network reads."""


def check_experiment(experiment: Experiment, manifest: Manifest, place: Place) -> None:
    """Refuse what the shards or the place do not allow, before any trial starts.

    Conflicts of several tuned settings show when they are drawn: see `check_settings`.
    """
    trainings, decided = [], []
    for cell in experiment.cells():
        tuned = {} if cell.is_control else experiment.tune
        alone = [{key: value} for key, axis in tuned.items() for value in sample_values(key, axis)]
        points: list[dict[str, Scalar]] = [{}, *(experiment.search.first_trials if tuned else ()), *alone]
        for point in points:
            try:
                settings = experiment.settings({**cell.overrides, **point})
            except ConfigError:
                if not tuned:
                    raise
                continue  # needs the other axes too
            undecided = set(tuned) - set(point)
            check_settings(settings, manifest, place, undecided)
            trainings.append(settings)
            if not undecided & _OF_CONTEXTS:
                decided.append(settings)
    check_uses(trainings, f"experiment {experiment.name}", manifest, place)
    if manifest.shards:
        _check_views(decided, manifest)
    _check_systems(experiment, manifest)


def check_settings(settings: Settings, manifest: Manifest, place: Place, undecided: Collection[str] = ()) -> None:
    """ConfigError where a training with these settings could not start on these shards at this place.

    Checks that need one of the `undecided` keys are left out.
    """
    recipe, model, mixing, training = manifest.recipe, settings.model, settings.mixing, settings.training
    open_keys = set(undecided)
    separates = OBJECTIVES[settings.objective].separates
    if separates and NETWORK not in open_keys:
        model.check_installed()
    _check_window(settings, manifest, open_keys)
    workers = place.workers_per_trial
    if "training.batch_size" not in open_keys and training.batch_size % workers:
        raise ConfigError(
            f"training.batch_size must be a multiple of the place's workers_per_trial, {workers}",
            got=f"{training.batch_size}",
            fix=f"use {max(workers, training.batch_size // workers * workers)}",
        )
    if "training.compile" not in open_keys and training.compile == "cuda_graphs" and not place.gpus_per_worker:
        raise ConfigError(
            "training.compile: cuda_graphs needs a place with GPUs",
            got=f"gpus_per_worker: 0 in '{place.name}'",
            fix="set training.compile: compile or off, or choose another place with --on",
        )
    if not any(key.startswith("model.") for key in open_keys) and settings.training.start_from.folder:
        from vimss.train.start import check_start  # loads torch

        check_start(settings, recipe)
    if not separates:
        _check_inputs(settings, manifest, open_keys)
        return
    counted = not open_keys & {"model.outputs", "model.slots", "mixing.max_sources"}
    if counted and model.outputs == "slots" and mixing.max_sources > model.slots:
        raise ConfigError(
            "model.slots must not be fewer than mixing.max_sources: each source needs a slot",
            got=f"{model.slots} slots and up to {mixing.max_sources} sources",
            fix="raise model.slots or lower mixing.max_sources",
        )
    if not open_keys & {NETWORK, "model.outputs", *(f"model.{name}" for name in model.label_keys)}:
        model.check_labels(recipe.labels, manifest.name)
    if not open_keys & _OF_CONTEXTS:
        _check_stored(Interface(model, recipe.labels), manifest)
    if "model.channels" not in open_keys and model.channels != recipe.channels:
        raise ConfigError(
            f"model.channels must be as in the shards '{manifest.name}', {recipe.channels}",
            got=f"{model.channels}",
            fix=f"set model.channels: {recipe.channels}",
        )


def _check_window(settings: Settings, manifest: Manifest, open_keys: Collection[str]) -> None:
    """ConfigError where the network does not allow the output window, or the clips are shorter."""
    recipe, model, samples = manifest.recipe, settings.model, settings.training.output_samples
    separates, decided = OBJECTIVES[settings.objective].separates, "training.output_samples" not in open_keys
    of_network = (NETWORK, *(f"model.{name}" for name in model.window_keys))
    if separates and decided and not any(key in open_keys for key in of_network):
        try:
            model.geometry.input_samples(samples)
        except ConfigError as error:
            raise ConfigError(f"training.output_samples: {error.rule}", got=error.got, fix=error.fix) from error
    if separates and NETWORK not in open_keys and "model.n_fft" not in open_keys:
        model.check_rate(recipe.sample_rate)
    lengths = [min(piece.seconds, recipe.clip_seconds) for piece in manifest.pieces if piece.split == "train"]
    longest = round(max(lengths, default=recipe.clip_seconds) * recipe.sample_rate)
    if decided and samples > longest:
        possible = model.geometry.window_at_most(longest) if separates else longest
        raise ConfigError(
            f"training.output_samples must not exceed the clips of '{manifest.name}', the longest of which has "
            f"{longest} samples",
            got=f"{samples}",
            fix=f"use at most {possible}, or shards with longer clips",
        )


def _check_inputs(settings: Settings, manifest: Manifest, open_keys: Collection[str]) -> None:
    """Errors where the shards do not hold what an objective that does not separate reads."""
    entry = OBJECTIVES[settings.objective]
    if any(key.startswith(("training.output_samples", *entry.settings)) for key in open_keys):
        return
    made = entry.make(settings, manifest.recipe)
    made.window()
    what, inputs = f"objective: {settings.objective}", f"{settings.objective}.inputs"
    fix = f"choose a recipe with them, or change {inputs}" if has_key(settings, inputs) else ANOTHER_NETWORK
    for part in ("picture", "sound_features"):
        if part in made.interface.members:
            _check_holds(part, what, manifest, fix=fix)
    if "masks" in made.validation_interface.members:
        _check_holds("boxes", what, manifest, "valid")


def _check_stored(interface: Interface, manifest: Manifest) -> None:
    """Errors of the context where the shards that are trained on do not hold what it reads."""
    if interface.is_conditioned:
        for each in (manifest, *(other for other, _ in manifest.more)):
            if interface.context.source:
                _check_holds(interface.context.source, f"model.context: {interface.config.context}", each)
            check_stored(interface.context, each, "train")


def _check_holds(part: str, what: str, manifest: Manifest, split: str = "train", fix: str = ANOTHER_NETWORK) -> None:
    """DataError where no player of a split has a picture, boxes or another member that `what` needs."""
    if manifest.shards:
        plural = (part if part.endswith("s") else f"{part}s").replace("_", " ")
        check_holds(manifest, split, part, f"{what} needs shards with {plural} of players", fix)


def _check_views(trainings: Sequence[Settings], manifest: Manifest) -> None:
    """Errors where features or motion that are trained on are not beside the shards, or are not whole; and where a file
    of weights is not of the network that looks.
    """
    groups = {"context", *(key.partition(".")[0] for key in CONTEXT_KEYS)}
    checked: list[object] = []
    for settings in trainings:
        entry = OBJECTIVES[settings.objective]
        members = Interface(settings.model, ()).members
        if not entry.separates:
            members = entry.make(settings, manifest.recipe).interface.members
        read = settings.objective, settings.model.model_dump(include=groups)
        if read in checked:
            continue
        checked.append(read)
        if "features" in members:
            open_objective(settings, manifest)
        if "picture" in members and settings.model.vision.weights not in KNOWN_WEIGHTS:
            from vimss.model.vision import Vision  # loads torch

            Vision(settings.model.vision)


def _check_systems(experiment: Experiment, manifest: Manifest) -> None:
    """Errors where the systems of an experiment could not be evaluated on its shards, before hours of training."""
    if not experiment.systems:
        return
    from vimss.namer import load_namer, namer_folder  # loads torch

    for name, system in experiment.systems.items():
        if manifest.shards:
            rule = f"systems.{name} names players by their pictures, which the shards must hold"
            fix = f"choose a recipe with pictures, or remove systems.{name}"
            check_holds(manifest, "test", "picture", rule, fix)
        named_by = system.instruments_from
        load_namer(namer_folder(named_by), named_by).choices(manifest.recipe.labels)
