"""A search whose studies lie at s3://, as a process of its own, with a Ray of its own: a machine that can be lost.

python tests/remote_search.py PLACE SHARDS TRIALS
"""

import sys
from typing import Any

from vimss import api
from vimss.config import parse_config
from vimss.experiment import Experiment
from vimss.search import lease
from vimss.session import open_session
from vimss.shards.manifest import open_shards
from vimss.storage import folder_at, mirror

AUDIO_SECONDS = 40.0
"""Budget of each trial; a report comes every four."""

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "question": "Does it go on elsewhere?",
    "expected": "yes",
    "shards": "small",
    "model": {"levels": 3, "filters": 4, "max_filters": 8, "down_kernel": 5, "outputs": "queries", "site": "decoder"},
    "training": {"audio_seconds": AUDIO_SECONDS, "output_samples": 2005, "report_seconds": 4, "batch_size": 2},
    "validation": {"mixtures": 6, "seconds": 0.25},
    "tune": {"training.learning_rate": {"choices": [1e-3, 2e-3]}},
    "search": {"trials": 2, "sampler": "grid", "scheduler": "none"},
}


def experiment(trials: int = 2) -> Experiment:
    """One or two trials of a tiny network, none of which is pruned."""
    return parse_config(EXPERIMENT | {"search": EXPERIMENT["search"] | {"trials": trials}}, Experiment, "remote")


def main() -> None:
    """Search."""
    place, shards, trials = sys.argv[1:]
    with open_session(place) as session:
        manifest = open_shards(folder_at(shards), session.store)
        chosen = experiment(int(trials))
        api.check_finished(chosen, api.run_search(session, chosen, manifest))


if __name__ == "__main__":
    mirror.SECONDS, lease.RENEW_SECONDS, lease.LEASE_SECONDS = 0.5, 1.0, 4.0
    main()
