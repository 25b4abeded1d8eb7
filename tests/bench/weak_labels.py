"""What part of a mixture is of which label, learned from labels of whole mixtures: experiments/weak_labels.yaml.

A section of vision.py, on the shards of the quickstart. The networks of the cells are judged as `vimss evaluate` judges
them. Then each gives dictionaries of the bases that a label owns, by which the two-source mixtures of unseen works are
separated, or, with two streams, masks of these mixtures' own bases, beside

    untrained         the dictionaries of a network with new weights, with true labels: what labels alone are worth
    stems             dictionaries of the stems of training, which nothing here has: the baseline `NMF, all labels`
    grouped bases     NMF of the mixture itself, its bases in two groups of like cepstra (NMF-MFCC: Spiertz and Gnann
                      2009, the baseline of Gao et al. 2018), which an oracle orders
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from correspondence import judged, models_of, print_table
from jaxtyping import Float
from kept import Bench
from queries import quickstart_shards
from scipy.fft import dct
from sklearn.cluster import KMeans
from torchaudio.functional import melscale_fbanks

from vimss.baselines import Baseline, ConditionedOn, TrainStems, TwoSourceBaseline
from vimss.baselines.nmf import Dictionaries, InformedNMF, activations_of, learn_spectra
from vimss.console import decibel
from vimss.evaluate.records import Values
from vimss.evaluate.scores import two_source_mixtures
from vimss.metrics import si_sdr_improvement
from vimss.search.consistency import load_experiment
from vimss.shards.manifest import Manifest
from vimss.stream.batch import Examples, Position
from vimss.stream.scene import Scene, scene_of
from vimss.systems import BaselineSystem
from vimss.train.config import Settings
from vimss.train.objectives import open_objective
from vimss.train.objectives.saved import load_network
from vimss.train.objectives.weak_labels import WeakLabels
from vimss.train.objectives.weak_labels_network import WeakLabelsNetwork

EXPERIMENT = "weak_labels"

BATCHES = 25
"""Of training mixtures whose bases become dictionaries: 200 mixtures."""

BASES, MEL_BANDS, CEPSTRA = 16, 20, 13
"""Of a mixture of 4 s that is grouped or masked; its first cepstrum, the level, is left out."""


class Masks:
    """The masks of a network of two streams."""

    conditioned_on: ClassVar[ConditionedOn] = "all_labels"
    fitted: ClassVar[bool] = False

    def __init__(self, network: WeakLabelsNetwork) -> None:
        self.network = network

    @classmethod
    def fit(cls, train: TrainStems) -> Self:
        """Never called: no stem is used."""
        raise TypeError("the network is trained by its objective")

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Of labels that sound."""
        return self.network.separate(scene.mixture, labels, BASES)


class GroupedNMF(TwoSourceBaseline):
    """The bases of a mixture in two groups of like cepstra."""

    method = "NMF of grouped bases"

    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """The power of each group."""
        frames = (magnitude.T / magnitude.mean()).astype(np.float32)
        bases = learn_spectra(frames, BASES)
        bands = melscale_fbanks(len(magnitude), 0.0, self.sample_rate / 2, MEL_BANDS, self.sample_rate).numpy()
        cepstra = dct(np.log(bases @ bands + 1e-6), norm="ortho")[:, 1:CEPSTRA]
        group = KMeans(2, n_init=10, random_state=0).fit_predict(cepstra)
        activations = activations_of(frames, bases)
        return np.stack([(activations[:, group == one] @ bases[group == one]).T ** 2 for one in (0, 1)])


def weak_labels(bench: Bench) -> None:
    """Labels and bases of unseen works, and SI-SDR improvement by dictionaries of two-source mixtures."""
    manifest = quickstart_shards(bench)
    stems = InformedNMF.fit(TrainStems(manifest))
    for seed in bench.seeds:
        models = models_of(bench, manifest, EXPERIMENT, seed)
        figures = {cell: judged(bench, folder, cell, manifest, "test") for cell, folder in models.items()}
        print_table(f"seed {seed}, test", figures)
        experiment = load_experiment(EXPERIMENT, (), seed)
        settings = {cell.name: experiment.settings(cell.overrides) for cell in experiment.cells()}
        rows = {cell: separated_by(settings[cell], manifest, folder) for cell, folder in models.items()}
        true = next(one for one in settings.values() if one.weak_labels.labels == "corpus")
        rows["untrained"] = InformedNMF(dictionaries_of(true, manifest))
        rows |= {"stems": stems, "grouped bases": GroupedNMF(manifest.recipe.sample_rate)}
        print_separation(f"seed {seed}", {name: improvements(name, row, manifest) for name, row in rows.items()})


def separated_by(settings: Settings, manifest: Manifest, folder: Path) -> Baseline:
    """What a trained model gives to separate other mixtures."""
    network = load_network(folder)
    assert isinstance(network, WeakLabelsNetwork), "the network of the experiment"
    return Masks(network) if network.sees else InformedNMF(dictionaries_of(settings, manifest, folder))


def dictionaries_of(settings: Settings, manifest: Manifest, folder: Path | None = None) -> Dictionaries:
    """Of the bases of training mixtures that the labels own, by a trained model or, without one, by new weights."""
    objective = open_objective(settings, manifest)
    assert isinstance(objective, WeakLabels), "the objective of the experiment"
    torch.manual_seed(settings.seed)
    network = objective.build() if folder is None else objective.load(folder)
    examples = Examples(manifest, "train", settings.mixing, objective.window(), objective.interface, settings.seed)
    batches = itertools.islice(examples.batches(settings.training.batch_size, Position()), BATCHES)
    return objective.dictionaries(network, (batch for batch, _ in batches))


def improvements(name: str, baseline: Baseline, manifest: Manifest) -> Values:
    """Of each source of the two-source mixtures, in dB."""
    system, rate = BaselineSystem(name, baseline), manifest.recipe.sample_rate
    gains, pieces = [], []
    for mixture in two_source_mixtures(system, manifest, "test"):
        scene = scene_of(mixture, name)
        labels = sorted(scene.references)
        for label, estimate in zip(labels, system(scene, labels), strict=True):
            gains.append(si_sdr_improvement(scene.mixture, scene.references[label], estimate, rate))
            pieces.append(tuple(sorted({source.piece for source in mixture.sources})))
    return Values(np.array(gains), pieces)


def print_separation(title: str, found: Mapping[str, Values]) -> None:
    """The median of each row with its interval, and how far the dictionaries of pictures are above it."""
    first = found[next(iter(found))]
    pieces = len({piece for both in first.pieces for piece in both})
    print(f"\n| {title}: {len(first.values)} sources, {pieces} pieces | SI-SDRi, dB | pictures - it |\n|---|---|---|")
    for row, values in found.items():
        gain = "-" if values is first else decibel(first.median - values.median, first.interval_above(values))
        print(f"| {row} | {decibel(values.median, values.interval)} | {gain} |", flush=True)
