"""What a search costs: starts and paces of its trials beside bare processes, and its policies on real learning curves.

    platform/local/run python tests/bench/search.py [--only starts pace policies] [--batch-size 16]
                                                           [--folder store/bench] [--quick]

On an idle machine: the first two are wall time, medians of interleaved rounds. The learning curves of the third depend
on no load; each is kept in the folder, so that a second call trains nothing. On two cores starts take about three
minutes, paces 25, curves and policies some 40 the first time and five later.

The tables of the third have audio seconds, medians over seeds and orders with 95 % intervals. A random search knows the
best of its 24 trials when all are trained; a policy's `whole search`, and `until found`, when its first trial came
within 0.1 dB of that best, are compared with those. `gap` is how far below that best it ends.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from curves import DECAYS, SEEDS
from pace import Pace
from policies import ANOTHER, OURS, POLICIES, RANDOM, TOLERANCE, TOP_K, Policies, median_of, ratio_of_medians
from replay import Played
from starts import PLACE, first_steps

from vimss.runtime import ray_running
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store

SIBLINGS = Path("/sys/devices/system/cpu")


def cores() -> str:
    """Whether the machine's cores are threads of one another."""
    files = sorted(SIBLINGS.glob("cpu[0-9]*/topology/thread_siblings_list"))
    groups = sorted({file.read_text().strip() for file in files})
    if not groups:
        return "cores: this system does not say whether they are threads of one another"
    threads = len(files) > len(groups)
    how = "some are threads of one core" if threads else "each is a core of its own, as far as this system says"
    return f"cores: {len(files)}, {how} ({'; '.join(groups)})"


def shards(folder: Path, changes: list[str]) -> Manifest:
    """The quickstart's shards with these changes."""
    with ray_running(PLACE):
        return write_shards(load_recipe("quickstart", changes), "quickstart", Store(folder / "store").make())


def print_starts(folder: Path, rounds: int) -> None:
    """Seconds to the first step."""
    manifest = shards(folder, ["options={minutes: 2, piece_seconds: 6}", "clip_seconds=6"])
    with tempfile.TemporaryDirectory() as work:
        bare, first, later = first_steps(manifest, Path(work), rounds)
    reference = statistics.median(bare)
    rows = (("bare process", bare, ""), ("first trial", first, ", at most 2.5x"), ("later trials", later, ", 0.5x"))
    for what, seconds, must in rows:
        median = statistics.median(seconds)
        print(f"{what:14} {median:5.1f} s to the first step, {median / reference:.2f}x of a bare process{must}")


def print_paces(folder: Path, rounds: int, seconds: float, batch_size: int) -> None:
    """Paces beside those of bare processes."""
    pace = Pace(shards(folder, []), seconds, batch_size)
    measured = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            measured.append(pace.measure(Path(work)))
        print("  ".join(f"{name} {value:.1f}" for name, value in measured[-1].items()), "audio s/s", flush=True)
    median = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    bound = median["two bare"] / median["one bare"]
    print(f"{rounds} rounds of {seconds:g} s, medians; batch size {batch_size}, one thread for each worker")
    print(f"two bare processes are {bound:.2f} times as fast as one: the bound for two trials or workers")
    print(
        f"a training alone takes {median['one bare'] / median['one trial']:.3f} of the bare loop's time, at most 1.05"
    )
    print(f"two trials side by side {median['two trials'] / median['two bare']:.3f} of two bare, at least 0.95")
    speedup = median["two workers"] / median["one trial"]
    print(f"two workers {speedup:.2f} times one, {speedup / bound:.3f} of the bound, at least 0.9")


def print_policies(folder: Path, orders: int, replicates: int) -> None:
    """What each policy costs, for both schedules, as tables in Markdown."""
    policies = Policies(folder, shards(folder, []).folder, orders, replicates)
    print(f"trained {policies.train():.0f} audio seconds that were not stored", flush=True)
    for decay in DECAYS:
        targets = policies.targets(decay)
        listed = ", ".join(f"{target:.2f}" for target in targets)
        print(f"\nThe learning rate decays {decay}; a trial is found at {listed} dB (seeds {SEEDS}).\n")
        for rung, values in zip(("1/9", "1/3"), policies.rank_correlations(decay), strict=True):
            each = ", ".join(f"{value:.2f}" for value in values)
            print(f"Rank correlation at {rung}: {statistics.median(values):.2f} ({each}).")
        # Policies that draw by themselves train anew for each schedule: the one that is the default is enough.
        _print_costs(policies.play(decay, draw=not DECAYS[decay]), targets)
    print(f"\nReplay of another policy ({ANOTHER.name}): {policies.replay_seconds():.1f} s, must be under 5")


def _print_costs(played: Mapping[str, Sequence[Sequence[Played]]], targets: Sequence[float]) -> None:
    """The audio seconds of each whole search with what it found, and those until it had found it."""
    until, totals, gaps = (
        {
            name: [[value(one, target) for one in of_seed] for of_seed, target in zip(each, targets, strict=True)]
            for name, each in played.items()
        }
        for value in (Played.until, lambda one, _: one.total, lambda one, target: one.best - target + TOLERANCE)
    )
    costs = ("whole search", "of random's", "of top-K's")
    columns = ("policy", *costs, "gap, dB", "found", "until found", "of random's whole")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for policy in (policy for policy in POLICIES if policy.name in played):
        name = policy.name
        cells = (
            f"{name}{', the default' if policy is OURS else ''}",
            f"{median_of(totals[name])[0]:.0f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*ratio_of_medians(totals[name], totals[RANDOM.name])),
            "{:.2f} ({:.2f} to {:.2f})".format(*ratio_of_medians(totals[name], totals[TOP_K.name])),
            "{:+.2f} ({:+.2f} to {:+.2f})".format(*median_of(gaps[name])),
            f"{statistics.fmean(gap <= TOLERANCE for of_seed in gaps[name] for gap in of_seed):.0%}",
            "{:.0f} ({:.0f} to {:.0f})".format(*median_of(until[name])),
            "{:.2f} ({:.2f} to {:.2f})".format(*ratio_of_medians(until[name], totals[RANDOM.name])),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("starts", "pace", "policies"), default=[])
    parser.add_argument(
        "--batch-size", type=int, default=16, help="of paces, shared by two workers; default %(default)s"
    )
    parser.add_argument("--folder", type=Path, default=Path("store/bench"))
    parser.add_argument("--quick", action="store_true", help="one round of ten seconds; fewer orders")
    arguments = parser.parse_args()
    folder, quick = arguments.folder.absolute(), arguments.quick
    wanted = arguments.only or ["starts", "pace", "policies"]
    print(cores(), flush=True)
    if "starts" in wanted:
        print_starts(folder, rounds=1 if quick else 3)
    if "pace" in wanted:
        rounds, seconds = (1, 10.0) if quick else (3, 60.0)
        print_paces(folder, rounds, seconds, arguments.batch_size)
    if "policies" in wanted:
        print_policies(folder, orders=20 if quick else 100, replicates=1 if quick else 2)


if __name__ == "__main__":
    main()
