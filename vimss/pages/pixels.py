"""The sound of every pixel as a picture.

    Path("pixels.png").write_bytes(pixels_png(places, ("vn", "vc")))

A column per player. From the top: a picture; the share of the mixture's energy at each place, in dB below the loudest;
and the same in colours, where places of one colour sound alike (the first principal components of their values).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vimss.model.pixels import Places
from vimss.pages.charts import figure_png

RANGE_DB = 20.0
"""Below the loudest place: quieter ones are black."""

SILENT = 1e-9
"""Share of the energy below which a place is silent."""


def pixels_png(places: Places, players: Sequence[str]) -> bytes:
    """Three rows, and a column of two inches per player."""
    count = len(players)
    figure = Figure(figsize=(2.2 * count + 1, 6), dpi=100, layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    levels = 10 * np.log10(places.share + SILENT)
    levels = levels - levels.max()
    colours = colours_of(places.values) * np.clip(1 + levels / RANGE_DB, 0, 1)[..., None]
    for player, name in enumerate(players):
        axes[0, player].imshow(places.pictures[player])
        axes[0, player].set_title(name.replace("$", r"\$"))
        heat = axes[1, player].imshow(levels[player], cmap="magma", vmin=-RANGE_DB, vmax=0)
        axes[2, player].imshow(colours[player])
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    figure.colorbar(heat, ax=axes, shrink=0.3, label="dB below the loudest")
    return figure_png(figure)


def colours_of(values: Float[np.ndarray, "p k l m"]) -> Float[np.ndarray, "p k l 3"]:
    """Red, green and blue, 0 to 1, from the first three principal components; where there are fewer, of these."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    found = np.zeros((len(rows), 3))
    found[:, : len(directions[:3])] = rows @ directions[:3].T
    low, high = found.min(axis=0), found.max(axis=0)
    found = np.divide(found - low, high - low, out=np.full_like(found, 0.5), where=high - low > SILENT)
    return found.reshape(*values.shape[:-1], 3)
