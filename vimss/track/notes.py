"""The descriptions of runs and experiments, which MLflow's pages let everyone edit: a user's words stay as they are.

    tags = with_note({"mlflow.note.content": "**failed**: out of memory"}, run.data.tags)

A tag beside ours has its digest. A description with another digest was written by a user.
"""

import hashlib
from collections.abc import Mapping

NOTE, NOTE_TAG = "mlflow.note.content", "vimss.note"
"""Tags: MLflow's for the description, and the one with the digest of ours."""


def with_note(wanted: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The tags to write where MLflow has `known`: without the description where that is a user's, else with its digest.

    A description without a digest is ours: of an earlier VIMSS.
    """
    if NOTE not in wanted:
        return dict(wanted)
    digest = known.get(NOTE_TAG)
    # Ours may have been written just before a kill, and its digest not.
    is_ours = digest is None or known.get(NOTE) == wanted[NOTE] or digest == _digest(known.get(NOTE, ""))
    others = {name: value for name, value in wanted.items() if name != NOTE}
    return {**others, NOTE: wanted[NOTE], NOTE_TAG: _digest(wanted[NOTE])} if is_ours else others


def _digest(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:10]
