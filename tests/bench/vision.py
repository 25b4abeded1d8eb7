"""What pictures tell, on unseen works of the embedded corpus: who plays which sound, and what it is worth.

    platform/local/run python tests/bench/vision.py [--folder store/bench] [--seeds 0 1 2] [SECTION ...]
    platform/local/run python tests/bench/vision.py --device auto --loader-workers 8 [SECTION ...]

40 minutes of chamber music, 8 kHz, 80 pixels, 25 pictures a second. Figures are means over players with 95 % intervals
over pieces, one column per seed of the training. Shards and trained networks are kept in the folder, whatever the
device; once the shards are there, other processes may train and judge other seeds or sections beside this one.

Sections: motion, alignment, duos, shuffled, motion_queries, looking_to_listen, slots, instruments, queries,
sound_of_pixels, correspondence, localisation, segmentation, on_off_screen, pretraining, weak_labels.
"""

import argparse
import itertools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from correspondence import correspondence, localisation
from in_step import (
    PLAIN,
    Learned,
    Part,
    Score,
    accuracy_by_pair,
    accuracy_by_player,
    bits_by_player,
    in_the_mixture,
    of_other_pieces,
    pairs_of,
    parts_of,
    with_crosstalk,
)
from instruments import instruments
from kept import DUOS, Bench, minutes
from motion_queries import looking_to_listen, motion_queries
from on_off_screen import on_off_screen
from pretraining import pretraining
from queries import queries, sound_of_pixels
from scipy.special import stdtrit
from segmentation import segmentation
from slots import slots
from weak_labels import weak_labels

from vimss.intervals import Source, interval_over_pieces, paired_gain, weighted_mean
from vimss.model.contexts.motion import FOLDER, write_motion
from vimss.model.device import DeviceName, find_device
from vimss.runtime import load_place, ray_running
from vimss.shards.cache import FEATURES

LEAST = {2.0: 0.92, 5.0: 0.97, 10.0: 0.99}
LEAST_OF_PAIRS = {2.0: 0.92, 5.0: 0.98, 10.0: 0.99}
CROSSTALK = (0.0, 0.3, 0.85)
"""Amplitudes of the other player in each sound; 0 are the true stems."""

NO_RESTS = 0.97
"""Share of a window in which both players sound where neither rests."""

UNSEEN = ("test", "valid", "promote", "test_unseen_style", "test_unseen_timbres")
"""Splits without a piece that was trained on; no training was stopped early by what it gave on `valid`."""

OTHERS = "motion of another piece"

UNTRAINED = 16
"""Networks without training."""

Values = Mapping[Source, float]
"""Of each player, or pair of players, in each piece."""


def with_interval(values: Values) -> str:
    """The mean over pieces' players with its interval: .981 (.960 to 1.000)."""
    numbers = np.array(list(values.values()))
    found = interval_over_pieces([(piece,) for piece, _ in values], lambda weights: weighted_mean(numbers, weights))
    low, high = found or (float("nan"), float("nan"))
    if numbers.min() >= 0:
        low, high = max(low, 0), min(high, 1)
    return f"{numbers.mean():.3f} ({low:.3f} to {high:.3f}; {len({piece for piece, _ in values})} pieces)"


def print_row(what: str, measure: Callable[[Score], Values], scores: Sequence[Score], least: str = "") -> list[Values]:
    """One line per row of the table, a column for each score."""
    found = [measure(score) for score in scores]
    print(f"| {what} | {' | '.join(with_interval(values) for values in found)} | {least} |", flush=True)
    return found


def motion(bench: Bench) -> None:
    """Motion of 40 minutes, computed anew: at most 2 minutes of two cores."""
    manifest = bench.shards()
    with ray_running(load_place("local")):
        shutil.rmtree(str(manifest.home / FEATURES / FOLDER))
        begin = time.perf_counter()
        write_motion(manifest)
    print(f"motion of {minutes(manifest):.0f} minutes: {time.perf_counter() - begin:.0f} s, at most 120")


def alignment(bench: Bench) -> None:
    """Two-alternative accuracy, right sound against shifted, after at most 60 s of one core's training."""
    _print_header(bench, "hand-made, fitted", "plain correlation")
    scores = [*bench.networks, bench.handmade, PLAIN]
    test = parts_of(bench.shards(), "test")
    for seconds, least in LEAST.items():
        measure = partial(accuracy_by_player, parts=test, seconds=seconds)
        values = print_row(f"unseen works, {seconds:g} s", measure, scores, f"{least:g}")
        _print_gains(values, len(bench.networks))
    mixed = partial(accuracy_by_player, parts=in_the_mixture(test), seconds=5.0)
    print_row("all players sound, 5 s", mixed, scores, "0.9")
    for split, least in (("test_unseen_style", 0.95), ("test_unseen_timbres", 0.9)):
        measure = partial(accuracy_by_player, parts=parts_of(bench.shards(), split), seconds=5.0)
        print_row(f"{split}, 5 s", measure, scores, f"{least:g}")


def duos(bench: Bench) -> None:
    """Two equal instruments, two sounds: how often they are assigned rightly."""
    _print_header(bench, "hand-made, fitted", "plain correlation")
    scores = [*bench.networks, bench.handmade, PLAIN]
    pairs = pairs_of(parts_of(bench.shards(DUOS), "test"))
    for share, (seconds, least) in itertools.product(CROSSTALK, LEAST_OF_PAIRS.items()):
        mixed = [with_crosstalk(pair, share) for pair in pairs]
        measure = partial(accuracy_by_pair, pairs=mixed, seconds=seconds)
        values = print_row(f"{share:g} of the other, {seconds:g} s", measure, scores, f"{least:g}")
        _print_gains(values, len(bench.networks))
    measure = partial(accuracy_by_pair, pairs=pairs, seconds=5.0, least=NO_RESTS)
    print_row("true stems, nobody rests, 5 s", measure, scores, "0.95")


def shuffled(bench: Bench) -> None:
    """Trained with pictures of others: what the sound alone gives away is chance, 0.45 to 0.55, at every length."""
    print(
        "\nFilters that learned nothing follow motion or its opposite, as the seed has it: the accuracy of one\n"
        "network lies where those of networks without training lie, and seeds differ more than pieces do. Shown the\n"
        "motion of another piece, a network has the sound alone to choose by. Bits are what it says of each choice, 1\n"
        "where it is sure and right: an accuracy counts the smallest difference of scores like the largest."
    )
    parts = [part for split in UNSEEN for part in parts_of(bench.shards(), split)]
    seeds = {f"seed {seed}": bench.network(seed, "mixing.shuffle_pictures=true") for seed in bench.seeds}
    new = {f"untrained {seed}": bench.untrained(seed) for seed in range(UNTRAINED)}
    # One network after the other: its vectors are kept while all of its accuracies are computed.
    found = {name: _of_shuffled(Learned(network), parts) for name, network in (seeds | new).items()}
    print(f"\n| | {' | '.join(seeds)} | all seeds | must reach |\n|{'---|' * (len(seeds) + 3)}")
    for row in found["untrained 0"]:
        values = [found[name][row] for name in seeds]
        least = "0.45 to 0.55" if row.endswith(OTHERS) else ""
        print(f"| {row} | {' | '.join(with_interval(each) for each in values)} | {over_seeds(values)} | {least} |")
    for row in found["untrained 0"]:
        means = [float(np.mean(list(found[name][row].values()))) for name in new]
        low, middle, high = np.quantile(means, (0.05, 0.5, 0.95))
        print(f"{len(new)} networks without training, {row}: {middle:.3f}, nine of ten from {low:.3f} to {high:.3f}")


def _of_shuffled(score: Score, parts: Sequence[Part]) -> dict[str, Values]:
    """All rows of one network."""
    found: dict[str, Values] = {}
    for seconds in LEAST:
        found[f"{seconds:g} s, own motion"] = accuracy_by_player(score, parts, seconds)
        found[f"{seconds:g} s, {OTHERS}"] = accuracy_by_player(score, parts, seconds, of_other_pieces(parts))
        found[f"{seconds:g} s, bits of own motion"] = bits_by_player(score, parts, seconds)
    return found


def over_seeds(found: Sequence[Values]) -> str:
    """The mean over seeds and pieces, with a 95 % interval that has the variance of both."""
    pieces = sorted({piece for piece, _ in found[0]})
    means = np.array(
        [[np.mean([v for (of, _), v in values.items() if of == piece]) for piece in pieces] for values in found]
    )
    if len(found) < 2:
        return f"{means.mean():.3f}"
    error = (means.mean(0).var(ddof=1) / len(pieces) + means.mean(1).var(ddof=1) / len(found)) ** 0.5
    half = stdtrit(len(found) - 1, 0.975) * error
    return f"{means.mean():.3f} ({means.mean() - half:.3f} to {means.mean() + half:.3f})"


def _print_header(bench: Bench, *more: str) -> None:
    columns = ("", *(f"seed {seed}" for seed in bench.seeds), *more, "must reach")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def _print_gains(values: Sequence[Values], networks: int) -> None:
    """Each network's paired difference to each of the other scores."""
    for number, name in ((networks, "hand-made"), (networks + 1, "plain")):
        gains = [paired_gain(of_network, values[number]) for of_network in values[:networks]]
        listed = " | ".join(f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" for gain in gains)
        print(f"| above {name} | {listed} | | | above 0 |", flush=True)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "motion": motion,
    "alignment": alignment,
    "duos": duos,
    "shuffled": shuffled,
    "motion_queries": motion_queries,
    "looking_to_listen": looking_to_listen,
    "slots": slots,
    "instruments": instruments,
    "queries": queries,
    "sound_of_pixels": sound_of_pixels,
    "correspondence": correspondence,
    "localisation": localisation,
    "segmentation": segmentation,
    "on_off_screen": on_off_screen,
    "pretraining": pretraining,
    "weak_labels": weak_labels,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all where none")
    parser.add_argument("--folder", type=Path, default=Path("store/bench"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", choices=get_args(DeviceName), default="cpu", help="one core of a CPU, or a GPU")
    parser.add_argument("--loader-workers", type=int, default=0, help="threads that make batches ahead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = find_device(arguments.device)
    bench = Bench(arguments.folder.absolute(), arguments.seeds, device, arguments.loader_workers)
    for name in arguments.sections or SECTIONS:
        print(f"\n## {name}: {SECTIONS[name].__doc__}", flush=True)
        begin = time.perf_counter()
        SECTIONS[name](bench)
        print(f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
