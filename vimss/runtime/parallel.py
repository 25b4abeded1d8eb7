"""A function over many items, on the cores and GPUs of Ray or one after the other here.

parallel_map(write_shard, tasks, on_done=print)
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vimss.runtime.cluster import cluster_gpus, start_ray
from vimss.runtime.head import LOOK_SECONDS, check_head, head_answers
from vimss.runtime.logs import is_forwarding, with_warnings

log = logging.getLogger(__name__)

Item = TypeVar("Item")


Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    on_done: Callable[[Result], None] | None = None,
    gpus: Callable[[Item], float] = lambda item: 0.0,
) -> list[Result]:
    """`function` over the items: on the cores of Ray where it runs or is at hand, else here, one after the other.

    Results come in order, `on_done` is called with each as it arrives, and the first error, of an item or of `on_done`,
    ends the work and is raised as it was. `gpus` gives the share of a GPU that an item needs beside its core, where the
    cluster has any.
    """
    import ray

    start_ray()
    report = on_done or (lambda _: None)
    if not ray.is_initialized():
        done = []
        for item in items:
            done.append(function(item))
            report(done[-1])
        return done
    forwards = is_forwarding()
    # GPUs come by `options` below: a task made with some would have a process of its own, and import PyTorch anew. A
    # process keeps the GPU of its first item; there are as many on each GPU as shares fit there.
    task = ray.remote(num_cpus=1)(with_warnings if forwards else function)
    # Ray would wait for ever for a GPU that it does not count.
    most = float(cluster_gpus() > 0)
    given = (function,) if forwards else ()
    pending = {task.options(num_gpus=most * gpus(item)).remote(*given, item): index for index, item in enumerate(items)}
    results: dict[int, Result] = {}
    try:
        while pending:
            ready = _wait(list(pending))
            index = pending.pop(ready)
            outcome = ray.get(ready)
            if forwards:
                outcome, messages = outcome
                for message in messages:
                    log.warning("%s", message)
            results[index] = outcome
            report(outcome)
    except BaseException as error:  # of an item, of `on_done`, or Ctrl-C
        if head_answers():
            for reference in pending:
                ray.cancel(reference, force=True)
        if isinstance(error, ray.exceptions.RayTaskError):
            raise error.cause from error
        raise
    return [results[index] for index in range(len(items))]


def _wait(pending: list[Any]) -> Any:
    """The first of Ray's references that is ready; PlaceError where the head of Ray is lost meanwhile."""
    import ray

    while True:
        ready, _ = ray.wait(pending, num_returns=1, timeout=LOOK_SECONDS)
        check_head()
        if ready:
            return ready[0]
