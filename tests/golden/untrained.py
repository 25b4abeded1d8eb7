"""Sixteen outputs of every blind baseline and every oracle, and the command that writes them anew, with a reason:

    platform/local/run python tests/golden/untrained.py

They show when a library, or a change here, makes a baseline compute something else.
"""

import json
from pathlib import Path

import numpy as np

from vimss.baselines import BASELINES, TwoSourceBaseline
from vimss.baselines.oracle import Oracle
from vimss.stream.scene import Scene

FILE = Path(__file__).with_suffix(".json")
RATE = 8000
SEPARATORS = {name: kind for name, kind in BASELINES.items() if issubclass(kind, TwoSourceBaseline | Oracle)}


def duet() -> Scene:
    """Two seconds in stereo: a glide, and notes of a quarter of a second that repeat every second, with some noise."""
    times = np.arange(2 * RATE) / RATE
    glide = 0.2 * np.sin(2 * np.pi * (500 * times + 150 * times**2))
    pitches = np.repeat(np.tile([440, 660, 880, 550], 2), RATE // 4)
    notes = 0.3 * np.exp(-8 * (times % 0.25)) * np.sin(2 * np.pi * pitches * times)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(times))
    stems = {"vn": np.stack([glide, 0.5 * glide]), "vc": np.stack([0.4 * notes, notes + noise])}
    return Scene("duet", stems["vn"] + stems["vc"], stems, {})


def outputs(name: str) -> list[float]:
    """At equal distances over both estimates, their channels and samples."""
    found = SEPARATORS[name](RATE)(duet(), ["vc", "vn"]).flatten()
    return found[:: len(found) // 16][:16].tolist()


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: outputs(name) for name in SEPARATORS}, indent=1) + "\n", encoding="utf-8")
