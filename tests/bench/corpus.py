"""What the embedded corpus costs: CPU seconds per minute of music, by part.

python tests/bench/corpus.py [--minutes 14] [--recipe shards/quickstart.yaml]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import midirenderer
import soxr

from vimss.config import parse_config
from vimss.shards.corpora.chamber import Options, arrange, drawing, make, pieces, read, sound
from vimss.shards.recipe import load_recipe

PARTS = (
    ("scores", arrange, "read_score"),
    ("arrangement", make, "arrange"),
    ("synthesiser", midirenderer, "render_wave_from"),
    ("resampling", soxr, "resample"),
    ("equaliser, room", sound, "_colour"),
    ("rest of the sound", make, "perform"),
    ("motion", make, "move"),
    ("light, noise", drawing, "_develop"),
    ("boxes", drawing, "boxes_of"),
    ("drawing, masks", make, "draw"),
)
"""Name, module and function; a part that calls others counts only its own time."""


def timed(function: Callable[..., Any], part: str, spent: dict[str, float], inside: list[float]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        inside.append(0.0)
        begin = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.process_time() - begin
            spent[part] += took - inside.pop()
            if inside:
                inside[-1] += took

    return wrapper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="shards/quickstart.yaml")
    parser.add_argument("--minutes", type=float)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    changes = {} if args.minutes is None else {"minutes": args.minutes}
    options = parse_config({**recipe.options, **changes}, Options, f"{Path(args.recipe)}: options")
    begin = time.process_time()
    listed = pieces(recipe, options, None).pieces
    spent: dict[str, float] = defaultdict(float, {"listing": time.process_time() - begin})
    inside: list[float] = []
    for part, module, name in PARTS:
        setattr(module, name, timed(getattr(module, name), part, spent, inside))
    begin, players = time.process_time(), 0.0
    for piece in listed:
        for clip in read(piece, recipe, options, None):
            players += len(clip.players) * clip.samples / clip.sample_rate / 60
    total = time.process_time() - begin
    minutes = sum(piece.seconds for piece in listed) / 60
    print(
        f"{minutes:.1f} minutes of music, {players:.1f} player minutes, {len(listed)} pieces; {recipe.sample_rate} Hz,"
    )
    print(f"{recipe.picture.size} px, {recipe.picture.frame_rate} pictures per second\n")
    print(f"{'part':<20}{'CPU s':>8}{'CPU s per minute of music':>28}")
    for part, seconds in [*spent.items(), ("everything", total)]:
        print(f"{part:<20}{seconds:>8.2f}{seconds / minutes:>28.3f}")


if __name__ == "__main__":
    main()
