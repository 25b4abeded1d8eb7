"""Placement groups whose creator has died: Ray holds what they reserve until the whole job ends.

    remove_orphans()      # 2: so many trainings of several workers died, or were pruned

Ray Train starts a process for each training that removes the group of a dead one. It learns of a group only when all
workers run, so that a long search whose trials are killed would at last wait for resources that its own dead hold; and
where it had something to do, it never ends, since it leaves in a thread that is not the actor's (Ray 2.60). A search
does without it, and looks itself.
"""

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_orphans() -> int:
    """Remove the groups of this job that were created by actors which are dead; returns how many there were.

    Ray has no public function that gives the creator of a group.
    """
    orphans, job = 0, ray.get_runtime_context().get_job_id()
    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        of_actor = bool(group.creator_actor_id) and not ray.ActorID(group.creator_actor_id).is_nil()
        ours = of_actor and group.creator_job_id.hex() == job
        if ours and group.creator_actor_dead and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            orphans += 1
    return orphans
