"""Where work runs: places and their stores, Ray, and a function over many items.

    place = load_place("local")
    store = open_store(place)
    with ray_running(place):
        results = parallel_map(function, items)

place     platform/<name>/runtime.yaml, and the store of a place
cluster   Ray's start and end, its tokens and its temporary files
environment  variables of Ray and of a place, in this process and in workers
head      whether Ray's head answers
nodes     what each node of a cluster has
watchdog  Ray ends with the process that started it, however that one ends
termination  what a process does that is told to end
logs      log files of trials, and warnings of other processes
parallel  a function over many items, on Ray or without it
machine   what this machine has, before Ray runs on it
provenance  which code runs, and where
"""

from vimss.runtime.cluster import (
    TRIAL_SLOT,
    cluster_gpus,
    ray_at_hand,
    ray_running,
    start_ray,
    temporary_folder,
    unfit,
)
from vimss.runtime.environment import check_secrets, set_variables
from vimss.runtime.head import check_head, head_answers
from vimss.runtime.logs import (
    LOG,
    WarningReader,
    forward_warnings,
    is_forwarding,
    log_to,
    rank_log,
)
from vimss.runtime.machine import machine_resources
from vimss.runtime.nodes import Node, look_at_nodes, versions_here
from vimss.runtime.parallel import parallel_map
from vimss.runtime.place import JOB_VARIABLE, PLACES, Place, find_store, in_ray_job, load_place, open_store, sqlite_url
from vimss.runtime.provenance import git_commit, provenance, uncommitted_changes
from vimss.runtime.termination import termination_requested

__all__ = [
    "JOB_VARIABLE",
    "LOG",
    "PLACES",
    "TRIAL_SLOT",
    "Node",
    "Place",
    "WarningReader",
    "check_head",
    "check_secrets",
    "cluster_gpus",
    "find_store",
    "forward_warnings",
    "git_commit",
    "head_answers",
    "in_ray_job",
    "is_forwarding",
    "load_place",
    "log_to",
    "look_at_nodes",
    "machine_resources",
    "open_store",
    "parallel_map",
    "provenance",
    "rank_log",
    "ray_at_hand",
    "ray_running",
    "set_variables",
    "sqlite_url",
    "start_ray",
    "temporary_folder",
    "termination_requested",
    "uncommitted_changes",
    "unfit",
    "versions_here",
]
