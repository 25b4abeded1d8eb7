"""Arrays of a safetensors file without a copy: pages of the file, which all processes of a node share.

    arrays = map_arrays(Path("valid-1f0c.safetensors"))
    arrays["0"][:, :100]      # reads what is not in memory yet; nothing can be written

safetensors' own numpy interface copies each array into the process. A file that is replaced, as `atomic_write` does it,
leaves those who have mapped it with the old content.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

DTYPES = {"I16": np.dtype("<i2")}
"""Name in the file to what numpy calls it, of what is mapped."""


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name; KeyError or ValueError where the header is not that of arrays in this file."""
    content = np.memmap(path, np.uint8, "r")
    begin = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:begin].tobytes())
    header.pop("__metadata__", None)
    arrays = {}
    for name, about in header.items():
        first, last = (begin + offset for offset in about["data_offsets"])
        kind = DTYPES[about["dtype"]]
        if not begin <= first <= last <= len(content) or last - first != math.prod(about["shape"]) * kind.itemsize:
            raise ValueError(f"the array {name} does not lie in the file")
        arrays[name] = np.asarray(content[first:last]).view(kind).reshape(about["shape"])
    return arrays


def digest_of(text: str, arrays: Iterable[np.ndarray]) -> str:
    """The SHA-256 of a text and some arrays."""
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
