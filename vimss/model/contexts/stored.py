"""Whether shards hold what a context reads, in the size that its settings say, before anything is trained or scored.

check_stored(interface.context, manifest, "train")
"""

from vimss.model.contexts import Context
from vimss.shards.manifest import Manifest
from vimss.stream.read import read_clips


def check_stored(context: Context, manifest: Manifest, split: str) -> None:
    """Look at the first player of a split; the context's own errors where it cannot be shown.

    Features that are computed from the shards have checks of their own, and pictures may have any size.
    """
    if context.source in context.members and -1 not in context.view_shape[1:]:
        clip = next(read_clips(manifest, split, parts=context.members))
        context.of_player(clip, clip.players[0])
