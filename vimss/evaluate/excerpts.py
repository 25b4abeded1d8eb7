"""The loudest stretch of one source of a whole piece, separated by one row of a table: something to listen to.

    excerpt = separate_excerpt(ExcerptTask(table, row, "bwv386", "vn", seconds=8.0))
    excerpt.begin, excerpt.reference, excerpt.estimate                          # seconds into the piece, [c t], [c t]

Where the stretch lies depends on the true stem alone, so all systems give the same one. It is separated by itself,
which takes as long for an hour of music as for a minute.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vimss.evaluate.tasks import Row, Table, system_of
from vimss.metrics import si_sdr_improvement
from vimss.shards.manifest import open_manifest
from vimss.stream.scene import pieces_of


@dataclass(frozen=True)
class ExcerptTask:
    """One source for one row; plain values that travel to another process."""

    table: Table
    row: Row
    piece: str
    label: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Excerpt:
    """The sound of one source, and what one system makes of it."""

    system: str
    piece: str
    label: str
    begin: float
    """Seconds from the beginning of the piece."""
    sample_rate: int
    reference: Float[np.ndarray, "c t"]
    estimate: Float[np.ndarray, "c t"]
    si_sdr_improvement: float
    """Of this excerpt alone."""
    seconds: float


def separate_excerpt(task: ExcerptTask) -> Excerpt:
    """Run a task."""
    manifest = open_manifest(task.table.shards)
    rate, system = manifest.recipe.sample_rate, system_of(task.row, manifest, task.table)
    scene = next(scene for scene in pieces_of(manifest, task.table.split, system.views) if scene.name == task.piece)
    samples = round(task.seconds * rate)
    first = loudest(scene.references[task.label], samples)
    around, begin = scene.around(first, samples)
    labels = sorted(around.references)
    estimate = system(around, labels)[labels.index(task.label)]
    mixture, reference, estimate = (
        sound[:, first - begin : first - begin + samples]
        for sound in (around.mixture, around.references[task.label], estimate)
    )
    return Excerpt(
        system=system.name,
        piece=task.piece,
        label=task.label,
        begin=first / rate,
        sample_rate=rate,
        reference=reference,
        estimate=estimate,
        si_sdr_improvement=si_sdr_improvement(mixture, reference, estimate, rate),
        seconds=task.seconds,
    )


def loudest(stem: Float[np.ndarray, "c t"], samples: int) -> int:
    """The sample at which the stretch of this length with the most energy begins."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(stem, dtype=np.float64).sum(0))])
    length = min(samples, stem.shape[1])
    return int(np.argmax(energy[length:] - energy[: energy.size - length]))
