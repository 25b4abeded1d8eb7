"""The room for trials at a place: its nodes, and how many trials they hold at once.

    check_room(place)                                     # PlaceError where this machine is too small
    concurrent_trials(place, nodes_of(place))             # 2

Without Tune, so that a place which is too small is refused at once.
"""

from collections.abc import Mapping, Sequence

from vimss.errors import PlaceError
from vimss.runtime import Place, in_ray_job, machine_resources, ray_running

RAY_UNITS = 10_000
"""Of one core or GPU: Ray counts resources in ten-thousandths."""


def check_room(place: Place) -> None:
    """PlaceError where trials shall run on this machine and it holds not even one; Ray is not started for it."""
    import ray

    if ray.is_initialized() or _is_this_machine(place):
        concurrent_trials(place, nodes_of(place))


def nodes_of(place: Place) -> list[dict[str, float]]:
    """The resources of each node: as Ray counts them where it runs, else of this machine, else of a place's cluster."""
    import ray

    if ray.is_initialized():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if _is_this_machine(place):
        return [machine_resources(with_gpus=place.gpus_per_worker > 0)]
    with ray_running(place):
        return nodes_of(place)


def concurrent_trials(place: Place, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many trials the nodes, each with its resources, hold at once; PlaceError where it is none.

    A worker fits on one node; those of a trial may lie on several.
    """
    wanted = {kind: amount for kind, amount in place.worker_resources.items() if amount}
    workers = sum(min(_times(amount, node.get(kind, 0)) for kind, amount in wanted.items()) for node in nodes)
    room = workers // place.workers_per_trial
    if room == 0:
        count = place.workers_per_trial
        found = "; ".join(_listed({kind: node.get(kind, 0) for kind in wanted}) for node in nodes) or "no node"
        raise PlaceError(
            f"the nodes must hold one trial of {count} worker{'s' * (count > 1)}, each with {_listed(wanted)}"
            + (f": {_listed({kind: count * amount for kind, amount in wanted.items()})} in all" if count > 1 else ""),
            got=f"room for {workers} worker{'s' * (workers != 1)}: {found}",
            fix=f"set workers_per_trial: {workers} in the place's runtime.yaml, or lower what each worker takes"
            if workers
            else _how_to_fit(wanted, nodes),
        )
    return min(room, place.max_concurrent_trials) if place.max_concurrent_trials else room


def _times(amount: float, there: float) -> int:
    """How often an amount fits. In Ray's units, as Ray counts: of floats, 0.2 would fit into 1 only four times."""
    return round(there * RAY_UNITS) // max(1, round(amount * RAY_UNITS))


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {kind}" for kind, amount in amounts.items())


def _how_to_fit(wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """How a worker would fit on a node, where none has what it takes."""
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in wanted}
    if not most["CPU"]:
        return "add a node with CPUs to the cluster"
    large = [f"{kind.lower()}s_per_worker to {most[kind]:g}" for kind, amount in wanted.items() if amount > most[kind]]
    lower = " and ".join(large) or "cpus_per_worker or gpus_per_worker until one node has both"
    return f"lower {lower} in the place's runtime.yaml"


def _is_this_machine(place: Place) -> bool:
    return not (place.ray_address or in_ray_job())
