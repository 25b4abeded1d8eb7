"""What Ray still holds and does after an error: groups of dead processes, tasks that nobody waits for."""

import time
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from vimss.runtime import parallel_map
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


def test_an_error_of_the_caller_ends_what_waits_and_what_runs(shared_ray, tmp_path):
    def work(path: Path) -> None:
        time.sleep(0.3)
        path.touch()

    def stop(_: None) -> None:
        raise ValueError("a full disk")

    with pytest.raises(ValueError, match="a full disk"):
        parallel_map(work, [tmp_path / str(number) for number in range(20)], stop)
    end = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 1.5 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) < 10
