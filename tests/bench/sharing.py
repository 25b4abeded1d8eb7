"""What trained networks gain when their answers share the mixture: whole pieces, all labels that sound.

    platform/local/run python tests/bench/sharing.py SHARDS MODEL [MODEL ...] [--split test]

SHARDS is a folder of shards, MODEL one with model.json. SI-SDR improvement, mean (median) over sources in dB: each
answer alone; ratio masks of magnitudes, as `model.share_mixture` has them, and of powers; and the rest of the mixture
in equal parts (Wisdom et al., Differentiable Consistency Constraints for Improved Deep Speech Enhancement, 2019).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vimss.baselines.spectrogram import masked, spectrum_of
from vimss.metrics import si_sdr_improvement
from vimss.model.separator import load_separator
from vimss.shards.manifest import open_manifest
from vimss.stream.scene import pieces_of
from vimss.systems import model_system

Estimates = Float[np.ndarray, "s c t"]


def shared(mixture: Float[np.ndarray, "c t"], estimates: Estimates, sample_rate: int) -> Mapping[str, Estimates]:
    """The estimates alone, and as they share the mixture in three ways."""
    magnitudes = np.stack([np.abs(spectrum_of(estimate, sample_rate)) for estimate in estimates])
    return {
        "alone": estimates,
        "magnitudes": masked(mixture, magnitudes, sample_rate),
        "powers": masked(mixture, magnitudes**2, sample_rate),
        "the rest in equal parts": estimates + (mixture - estimates.sum(axis=0)) / len(estimates),
    }


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    manifest = open_manifest(arguments.shards)
    rate = manifest.recipe.sample_rate
    print("| model | alone | magnitudes | powers | the rest in equal parts |\n|---|---|---|---|---|")
    for folder in arguments.models:
        if load_separator(folder).config.share_mixture:
            parser.error(f"{folder}: its answers share the mixture already; give one with share_mixture false")
        system = model_system(folder, manifest, str(folder))
        gains: dict[str, list[float]] = {}
        for piece in pieces_of(manifest, arguments.split, system.views):
            labels = sorted(piece.references)
            for how, estimates in shared(piece.mixture, system(piece, labels), rate).items():
                for label, estimate in zip(labels, estimates, strict=True):
                    gain = si_sdr_improvement(piece.mixture, piece.references[label], estimate, rate)
                    gains.setdefault(how, []).append(gain)
        texts = (f"{np.mean(values):.1f} ({np.median(values):.1f})" for values in gains.values())
        print(f"| {folder} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
