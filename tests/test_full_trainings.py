"""Published trainings of experiments/full: their sizes by shapes alone, and a step on corpora that look like theirs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_audioset import segments
from test_train import one_thread  # noqa: F401 - a fixture that all use
from test_urmp import add_piece

from vimss.media import write_video, write_wav
from vimss.model.cost import gmac_per_second, num_weights
from vimss.model.separator import Separator
from vimss.shards.corpora import audioset, musdb18, music, solos, urmp
from vimss.shards.recipe import Expectation, load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.batch import Examples, Position
from vimss.train.config import Settings
from vimss.train.gradients import Gradients
from vimss.train.objectives import open_objective
from vimss.train.optimize import make_optimizers

sys.path.append(str(Path(__file__).with_name("bench")))  # as where it runs by itself
from bench.hours import PUBLISHED, trainings
from bench.roofline import LAUNCH_SECONDS, META, StepCount, batch_of_noise, built, count_step
from bench.systems import InverseTransforms

RATE = 8000
ALL = {f"{name}, {training.name}": training for name in PUBLISHED for training in trainings(name)}
SIZES = {
    "urmp, exp_wave_u_net": (10.3, 200_000), "urmp, cexp_wave_u_net": (10.3, 200_000),
    "solos, sound_of_pixels": (34.8, 62_500), "solos, multi_head_u_net": (33.5, 250_000),
    "solos, film_bottleneck": (33.5, 250_000), "solos, film_final": (33.5, 250_000),
    "music, music": (34.8, 62_500), "musdb18, wave_u_net": (10.3, 186_093), "musdb18, open_unmix": (15.8, 344_000),
    "musdb18, hdemucs": (83.6, 110_000), "audioset, audioset": (9.5, 234_375),
}  # fmt: skip
"""Millions of weights, those of the vision network too, and steps."""

RARE = [pytest.param(name, marks=pytest.mark.rare) for name in ALL if name != "audioset, audioset"]


def test_every_published_training_has_its_number_of_steps():
    assert {name: training.steps for name, training in ALL.items()} == {
        name: steps for name, (_, steps) in SIZES.items()
    }


def of_one_mixture(settings: Settings) -> Settings:
    """The same on batches of one, in the precision of any CPU, and from random weights."""
    training = settings.training.model_copy(update={"batch_size": 1, "precision": "float32"})
    vision = settings.model.vision.model_copy(update={"weights": "random"})
    model = settings.model.model_copy(update={"vision": vision})
    return settings.model_copy(update={"training": training, "model": model})


@pytest.mark.parametrize("name", ["audioset, audioset", *RARE])
def test_a_published_training_has_its_size_and_answers_its_window(name):
    settings, recipe = of_one_mixture(ALL[name].settings), ALL[name].recipe
    objective, network = built(settings, recipe)
    batch, shapes = batch_of_noise(settings, recipe, objective), []
    network.register_forward_hook(lambda module, inputs, found: shapes.append(tuple(found.shape)))
    with InverseTransforms():
        objective.loss(network, batch, torch.from_numpy(objective.totals(batch)).to(META))
    assert num_weights(network) / 1e6 == pytest.approx(SIZES[name][0], rel=0.01)
    # Of every picture with every sound, or a sound of every output.
    assert shapes == [(1, 2, 2) if settings.objective == "correspondence" else batch.targets.shape]


def test_the_operations_of_a_step_are_three_times_those_of_a_forward_pass():
    training = ALL["urmp, exp_wave_u_net"]
    settings = of_one_mixture(training.settings)
    samples = settings.training.output_samples
    with torch.device("meta"):
        separator = Separator(settings.model, training.recipe.labels, training.recipe.sample_rate)
        forward = 2e9 * gmac_per_second(separator, samples) * samples / training.recipe.sample_rate
    # The first layer needs no gradient of the mixture.
    assert count_step(settings, training.recipe).flops == pytest.approx(3 * forward, rel=0.03)


def test_a_step_takes_as_long_as_the_slowest_of_arithmetic_memory_and_launches():
    step = StepCount(weights=1, flops=4e14, bytes=10**12, operations=10**4, kept=0)
    assert step.seconds("tf32", cuda_graphs=False) == pytest.approx(4e14 / (0.4 * 494.7e12))
    assert step.seconds("bfloat16", cuda_graphs=True) == pytest.approx(4e14 / (0.4 * 989.4e12))
    idle = replace(step, flops=0.0, operations=10**6)
    assert idle.seconds("tf32", cuda_graphs=False) == pytest.approx(10**6 * LAUNCH_SECONDS)
    assert idle.seconds("bfloat16", cuda_graphs=True) == pytest.approx(0.5e12 / (0.8 * 3.35e12))


def tone(pitch: float, seconds: float, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.repeat((0.2 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)[None], channels, axis=0)


def clip(path: Path, number: int, seconds: float = 7.0) -> None:
    """A video whose brightness and pitch are its own."""
    pictures = np.full((round(5 * seconds), 32, 48, 3), 20 + 5 * number, np.uint8)
    write_video(path, pictures, 5.0, tone(200 + 20 * number, seconds), RATE)


def like_urmp(folder: Path) -> None:
    for name in urmp.NAMES[:19]:  # whose tones all differ
        add_piece(folder, name)


def like_solos(folder: Path) -> None:
    ids = {instrument: [f"{instrument}_{number}" for number in range(3)] for instrument in solos.CODES}
    folder.mkdir()
    (folder / "solos_ids.json").write_text(json.dumps(ids))
    (folder / "solos_timestamps.json").write_text(
        json.dumps({instrument: {name: [] for name in names} for instrument, names in ids.items()})
    )
    for number, (instrument, names) in enumerate(ids.items()):
        for place, name in enumerate(names):
            clip(folder / instrument / f"{name}.mp4", 3 * number + place)


def like_music(folder: Path) -> None:
    videos = {label: [f"{label}{number}" for number in range(5)] for label in ("cello", "violin", "tuba")}
    folder.mkdir()
    for name, listed in zip(music.Options().lists, (videos, {}), strict=True):
        (folder / name).write_text(json.dumps({"videos": listed}))
    for number, (label, names) in enumerate(videos.items()):
        for place, name in enumerate(names):
            clip(folder / label / f"{name}.mp4", 5 * number + place)


def like_musdb18(folder: Path) -> None:
    tracks = (*(f"train/A - {number}" for number in range(4)), f"train/{musdb18.VALID[0]}", "test/B - 0")
    for number, track in enumerate(tracks):
        for place, stem in enumerate(musdb18.SOUNDS):
            write_wav(folder / track / f"{stem}.wav", tone(100 + 90 * place + number, 12.0, 2), RATE)


def like_audioset(folder: Path) -> None:
    names = ("Violin, fiddle", "Cello", "Piano")
    folder.mkdir()
    others = [name for name in load_recipe("audioset").options["classes"] if name not in names]
    rows = "".join(f'{number},/m/{number},"{name}"\n' for number, name in enumerate((*names, *others)))
    (folder / audioset.CLASSES).write_text(f"index,mid,display_name\n{rows}")
    listed = [(f"v{number}", 0, 2, f"/m/{number % 3}") for number in range(24)]
    segments(folder, "balanced_train_segments.csv", listed)
    segments(folder, "unbalanced_train_segments.csv", [("gone", 0, 10, "/m/0")])
    segments(folder, "eval_segments.csv", [("v0", 0, 2, "/m/0")])
    for number in range(24):
        clip(folder / "media" / f"v{number}.mp4", number, 2.0)


LOOK_ALIKES = {
    "urmp": like_urmp, "solos": like_solos, "music": like_music, "musdb18": like_musdb18, "audioset": like_audioset,
}  # fmt: skip
"""What writes a small corpus in the published layout."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["audioset, audioset", *RARE])
def test_a_published_training_makes_a_step_on_a_corpus_that_looks_like_its_own(name, tmp_path):
    corpus = name.split(",")[0]
    LOOK_ALIKES[corpus](tmp_path / corpus)
    small = ALL[name].recipe.model_copy(update={"expect": Expectation(pieces=1, most_missing=1)})
    manifest = write_shards(small, corpus, Store(tmp_path / "store").make(), tmp_path / corpus)
    settings = of_one_mixture(ALL[name].settings)
    objective = open_objective(settings, manifest)
    network, window = objective.build().train(), objective.window()
    examples = Examples(manifest, "train", settings.mixing, window, objective.interface, seed=0)
    batch, _ = next(examples.batches(1, Position()))
    before = {key: weight.detach().clone() for key, weight in network.named_parameters()}
    loss = Gradients(network, objective, settings.training, torch.device("cpu"), micro_batch=1)(batch)
    for optimizer in make_optimizers(network, settings.training, torch.device("cpu")):
        optimizer.step()
    assert torch.isfinite(loss)
    changed = {key for key, weight in network.named_parameters() if not torch.equal(weight, before[key])}
    # A softmax does not depend on the bias of its keys, and no frame of a tone is unlike another.
    assert len(changed) > 0.9 * len(before)
