"""Placement groups of this job: those that wait for resources, and those whose creator has died.

    waiting_groups()      # 1: so many trials are in Ray's queue
    remove_orphans()      # 2: so many trainings of several workers died, or were pruned

What the group of a dead creator reserves, Ray holds until the whole job ends.

Ray Train starts a process for each training that removes the group of a dead one. It learns of a group only when all
workers run, so that a long search whose trials are killed would at last wait for resources that its own dead hold; and
where it had something to do, it never ends, since it leaves in a thread that is not the actor's (Ray 2.60). A search
does without it, and looks itself.
"""

from collections.abc import Iterator

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group


def waiting_groups() -> int:
    """How many groups of this job have not got what they reserve: that of a trial, or of the workers of one."""
    return sum(group.state == PlacementGroupTableData.PENDING for group in _groups())


def remove_orphans() -> int:
    """Remove the groups of this job that were created by actors which are dead; returns how many there were."""
    orphans = 0
    for group in _groups():
        of_actor = bool(group.creator_actor_id) and not ray.ActorID(group.creator_actor_id).is_nil()
        if of_actor and group.creator_actor_dead and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            orphans += 1
    return orphans


def _groups() -> Iterator[PlacementGroupTableData]:
    """The groups of this job. Ray has no public function that gives the creator of a group."""
    job = ray.get_runtime_context().get_job_id()
    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        if group.creator_job_id.hex() == job:
            yield group
