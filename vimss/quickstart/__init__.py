"""From scores to stems in three minutes: the verbs in their order, with small settings.

    vimss quickstart    # shards/quickstart.yaml, experiments/quickstart.yaml, then a test piece as stems and a page

Results are stored by signature, so a second run reuses those of the first. `quickstart.json` in the store holds
the figures of the last run, and `quickstart-seed1.json` those of the last one with that seed.
"""

from vimss.quickstart.result import BEST, REACHED, Result, print_result
from vimss.quickstart.run import EXPERIMENT, run

__all__ = ["BEST", "EXPERIMENT", "REACHED", "Result", "print_result", "run"]
