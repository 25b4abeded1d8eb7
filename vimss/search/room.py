"""The room for trials at a place: its nodes, and how many trials they hold at once.

    check_room(place)                                     # PlaceError where this machine is too small
    check_cluster(place)                                  # or the place's cluster
    concurrent_trials(place, nodes_of(place))             # 2

Ray's own queue decides when a trial starts. This bounds how many are handed to it: as many as the nodes hold, with
those that an autoscaler can add. Without Tune, so that a place which is too small is refused at once.
"""

from collections.abc import Mapping, Sequence

from vimss.errors import PlaceError
from vimss.runtime import Place, in_ray_job, machine_resources, ray_running

RAY_UNITS = 10_000
"""Of one core or GPU: Ray counts resources in ten-thousandths."""


def check_room(place: Place) -> None:
    """PlaceError where trials shall run on this machine and it holds not even one; Ray is not started for it."""
    import ray

    if ray.is_initialized() or is_this_machine(place):
        concurrent_trials(place, nodes_of(place))


def check_cluster(place: Place) -> None:
    """PlaceError where the place's cluster answers and can never hold a trial, which takes a second or two to ask."""
    if is_this_machine(place):
        return
    try:
        nodes = nodes_of(place)
    except PlaceError:
        return  # that is an error where a trial must start, and what has finished needs no cluster
    concurrent_trials(place, nodes)


def nodes_of(place: Place) -> list[dict[str, float]]:
    """The resources of each node: as Ray counts them where it runs, else of this machine, else of a place's cluster."""
    import ray

    if ray.is_initialized():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if is_this_machine(place):
        return [machine_resources(with_gpus=place.gpus_per_worker > 0)]
    with ray_running(place):
        return nodes_of(place)


def concurrent_trials(place: Place, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many trials the nodes, each with its resources, hold at once; PlaceError where it is none.

    A worker fits on one node; those of a trial may lie on several. Nodes that the place's autoscaler can still add
    count as if they were there.
    """
    nodes = [*nodes, *_still_to_add(place, nodes)]
    wanted = _wanted(place)
    workers = sum(min(_times(amount, node.get(kind, 0)) for kind, amount in wanted.items()) for node in nodes)
    room = workers // place.workers_per_trial
    if room == 0:
        count = place.workers_per_trial
        found = _sizes(nodes, wanted) or "no node"
        raise PlaceError(
            f"the nodes must hold one trial of {count} worker{'s' * (count > 1)}, each with {_listed(wanted)}"
            + (f": {_listed({kind: count * amount for kind, amount in wanted.items()})} in all" if count > 1 else ""),
            got=f"room for {workers} worker{'s' * (workers != 1)}: {found}",
            fix=f"set workers_per_trial: {workers} in the place's runtime.yaml, or lower what each worker takes"
            if workers
            else _how_to_fit(place, wanted, nodes),
        )
    return min(room, place.max_concurrent_trials) if place.max_concurrent_trials else room


def waits_for(place: Place, nodes: Sequence[Mapping[str, float]], free: Mapping[str, float]) -> str:
    """What a trial in Ray's queue waits for, given the nodes and what is free of them all together."""
    wanted, count = _wanted(place), place.workers_per_trial
    has = _listed({kind: free.get(kind, 0) for kind in wanted})
    text = f"{count} worker{'s' * (count > 1)}, each with {_listed(wanted)} on one node"
    text += f"; free: {has} of {len(nodes)} node{'s' * (len(nodes) != 1)} with {_sizes(nodes, wanted)}"
    to_add = _sizes(_still_to_add(place, nodes), wanted)
    return text + (f"; the autoscaler can add {to_add}" if to_add else "")


def _wanted(place: Place) -> dict[str, float]:
    return {kind: amount for kind, amount in place.worker_resources.items() if amount}


def _still_to_add(place: Place, nodes: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The nodes that the autoscaler can add; those of the same size that are there are taken for its own."""
    there = [{kind: node.get(kind, 0.0) for kind in ("CPU", "GPU")} for node in nodes]
    to_add = []
    for kind in place.autoscaled_nodes:
        for _ in range(kind.most):
            if kind.resources in there:
                there.remove(kind.resources)
            else:
                to_add.append(kind.resources)
    return to_add


def _sizes(nodes: Sequence[Mapping[str, float]], wanted: Mapping[str, float]) -> str:
    """What each node has of what is wanted, equal ones once: 4 CPU; 8 x 2 CPU."""
    sizes = [_listed({kind: node.get(kind, 0) for kind in wanted}) for node in nodes]
    counted = {size: sizes.count(size) for size in sizes}
    return "; ".join(f"{count} x {size}" if count > 1 else size for size, count in counted.items())


def _times(amount: float, there: float) -> int:
    """How often an amount fits. In Ray's units, as Ray counts: of floats, 0.2 would fit into 1 only four times."""
    return round(there * RAY_UNITS) // max(1, round(amount * RAY_UNITS))


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {kind}" for kind, amount in amounts.items())


def _how_to_fit(place: Place, wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """How a worker would fit on a node, where none has what it takes."""
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in wanted}
    if not most["CPU"]:
        return (
            "add a node with CPUs to the cluster, or name in autoscaled_nodes of runtime.yaml what its autoscaler adds"
        )
    large = [f"{kind.lower()}s_per_worker to {most[kind]:g}" for kind, amount in wanted.items() if amount > most[kind]]
    lower = " and ".join(large) or "cpus_per_worker or gpus_per_worker until one node has both"
    grows = "" if is_this_machine(place) else ", or name what its autoscaler adds in autoscaled_nodes there"
    return f"lower {lower} in the place's runtime.yaml{grows}"


def is_this_machine(place: Place) -> bool:
    """Whether trials run on this machine alone."""
    return not (place.ray_address or in_ray_job())
