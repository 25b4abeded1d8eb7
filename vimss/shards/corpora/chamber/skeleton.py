"""The skeleton of a drawn player: the joints in each picture, which the postures mark while they draw.

    pen.mark("left hand", place)
    rows = skeleton_rows([[pen.joints.get(joint, UNSEEN) for joint in JOINTS]], mirrored=False)
    rows[0, :16]  # x of each of the 16 joints of JOINTS; then their y, then their confidence

x and y are relative to the player's crop, 0 to 1, to the right and down. The confidence is 1; a joint that is missing,
such as a bow, or that lies outside the crop is 0, 0 with confidence 0.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16

JOINTS = (
    "head",
    "neck",
    "right shoulder",
    "right elbow",
    "right hand",
    "left shoulder",
    "left elbow",
    "left hand",
    "right finger 0",
    "right finger 1",
    "right finger 2",
    "left finger 0",
    "left finger 1",
    "left finger 2",
    "bow frog",
    "bow tip",
)
"""In the order of a row. The player faces us, so the right hand is at the picture's left."""

UNSEEN = complex("nan")

SIDES = {1: "left", -1: "right"}
"""Of the player, by the side of the picture: 1 is its right."""

_EXCHANGE = {"left": "right", "right": "left"}
_MIRRORED = [JOINTS.index(" ".join(_EXCHANGE.get(word, word) for word in joint.split(" "))) for joint in JOINTS]


def skeleton_rows(places: Sequence[Sequence[complex]], mirrored: bool) -> Float16[np.ndarray, "v j"]:
    """Rows of numbers from the places of all JOINTS in each picture; mirroring exchanges left and right."""
    joints = np.array(places, np.complex128).reshape(-1, len(JOINTS))
    if mirrored:
        joints = (1 - joints.conj())[:, _MIRRORED]
    x, y = joints.real, joints.imag
    seen = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)  # false for NaN
    return np.concatenate([np.where(seen, x, 0), np.where(seen, y, 0), seen], axis=1).astype(np.float16)
