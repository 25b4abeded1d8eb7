"""A search as a process of its own, on a Ray that runs: what the faults hit.

    python tests/faults/small_search.py '{"address": ..., "shards": ..., "store": ..., "events": ..., "place": {...}}'

Each event becomes a line of `events`, a JSON list of its kind, trial, audio seconds and message. At the end comes a
line "left", of the placement groups that Ray still has. Exit codes are those of `vimss search`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vimss import api
from vimss.config import parse_config
from vimss.errors import VimssError
from vimss.experiment import Experiment
from vimss.runtime import Place, ray_running
from vimss.search.run import search
from vimss.shards.manifest import open_manifest
from vimss.storage import Store

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "question": "Does it recover?",
    "expected": "yes",
    "shards": "small",
    "model": {
        "levels": 3, "filters": 4, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder",
        "output_activation": "linear", "initial_output": "mixture",
    },
    "mixing": {"windows_per_clip": 2},
    "training": {"output_samples": 2005, "report_seconds": 4, "learning_rate": 1e-3, "batch_size": 2},
    "validation": {"mixtures": 6, "seconds": 0.25},
}  # fmt: skip
"""A tiny network, with a report every four audio seconds."""


def experiment(audio_seconds: float, trials: int) -> Experiment:
    """The search of one or two trials; nothing is pruned, so that every one of them must reach its whole budget."""
    training = {**EXPERIMENT["training"], "audio_seconds": audio_seconds}
    tune = {"training.learning_rate": {"choices": [1e-3, 2e-3][:trials]}}
    chosen = {"tune": tune, "search": {"trials": trials, "sampler": "grid", "scheduler": "none"}} if trials > 1 else {}
    return parse_config({**EXPERIMENT, "training": training, **chosen}, Experiment, "faults")


def main() -> None:
    """Search, and say what is left of it in Ray."""
    import ray
    from ray.util import placement_group_table

    given = json.loads(sys.argv[1])
    place = Place(name="faults", ray_address=given["address"], **given["place"])
    asked, manifest = experiment(given["audio_seconds"], given["trials"]), open_manifest(Path(given["shards"]))
    with Path(given["events"]).open("a", encoding="utf-8", buffering=1) as events:

        def write(event: Any) -> None:
            fields = (getattr(event, name, None) for name in ("trial", "audio_seconds", "message"))
            events.write(json.dumps([type(event).__name__, *fields]) + "\n")

        with ray_running(place):
            study = search(asked, manifest, place, Store(Path(given["store"])).make(), [write])
            groups = [group["state"] for group in placement_group_table().values()]
            write_left = json.dumps(
                ["left", [state for state in groups if state != "REMOVED"], ray.cluster_resources()]
            )
            events.write(write_left + "\n")
        api.check_finished(asked, study)


if __name__ == "__main__":
    try:
        main()
    except VimssError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command resumes")
