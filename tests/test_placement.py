"""Placement groups of dead processes."""

import time

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from vimss.runtime.placement import remove_orphans

pytestmark = pytest.mark.slow


@ray.remote(num_cpus=0)
class Creator:
    """Reserves CPUs, as the controller of a training does."""

    def reserve(self, bundles: list[dict[str, float]]) -> str:
        return placement_group(bundles).id.hex()


def states(*groups: str) -> list[str]:
    return [placement_group_table()[group]["state"] for group in groups]


def test_groups_of_dead_actors_are_removed_and_no_others(shared_ray):
    dies, lives = Creator.remote(), Creator.remote()
    created, pending = ray.get([dies.reserve.remote([{"CPU": 0.1}]), dies.reserve.remote([{"CPU": 1000.0}])])
    of_living = ray.get(lives.reserve.remote([{"CPU": 0.1}]))
    own = placement_group([{"CPU": 0.1}])
    assert remove_orphans() == 0
    ray.kill(dies)
    end = time.monotonic() + 20
    removed = 0
    while removed < 2 and time.monotonic() < end:
        removed += remove_orphans()
        time.sleep(0.1)
    assert removed == 2 and states(created, pending) == ["REMOVED", "REMOVED"]
    assert states(of_living, own.id.hex()) == ["CREATED", "CREATED"]
    remove_placement_group(own)
    ray.kill(lives)
