"""Systems that need no training and give a dB its meaning: rows beside every model, under the same evaluation.

To add one, write a file with a class that has the members of Baseline, and a line of BASELINES: the name of the row, in
the order of the tables. `vimss.systems.baseline_systems` uses them:

    train = TrainStems(manifest)
    estimates = BASELINES["Wiener filter per label"].fit(train)(scene, ["vn", "vc"])     # [2 c t]

Axis letters: s source (label), c channel, t audio sample, f frequency bin, n STFT frame.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vimss.baselines.fourier_2d import Fourier2D
from vimss.baselines.hpss import HPSS
from vimss.baselines.mixture import MixtureBaseline
from vimss.baselines.nmf import InformedNMF
from vimss.baselines.oracle_binary_mask import OracleBinaryMask
from vimss.baselines.oracle_mask import OracleMask
from vimss.baselines.oracle_phase_mask import OraclePhaseMask
from vimss.baselines.oracle_wiener import OracleWiener
from vimss.baselines.repet import REPET
from vimss.baselines.repet_sim import REPETSIM
from vimss.baselines.rpca import RPCA
from vimss.baselines.score_nmf import ScoreInformedNMF
from vimss.baselines.train_stems import ConditionedOn, TrainStems
from vimss.baselines.two_source import TwoSourceBaseline
from vimss.baselines.wiener import InformedWiener, WienerPerLabel
from vimss.stream.scene import Scene

__all__ = ["BASELINES", "Baseline", "ConditionedOn", "TrainStems", "TwoSourceBaseline"]


@runtime_checkable
class Baseline(Protocol):
    """The members of a baseline. Instances are pickled for other processes, so they hold plain values and arrays."""

    conditioned_on: ClassVar[ConditionedOn]
    """The information that it uses beside the mixture. Label contrast varies it, and a model is compared with a
    baseline that has the same information."""
    fitted: ClassVar[bool]
    """Whether `fit` reads training stems; without them, the row is left out."""

    @classmethod
    def fit(cls, train: TrainStems) -> "Baseline":
        """Make a baseline for some shards, from the stems of their train split if it is `fitted`."""

    def __call__(self, scene: Scene, labels: Sequence[str]) -> Float[np.ndarray, "s c t"]:
        """Estimates for these labels, some of which may not sound; as long as the mixture, at any level.

        With `conditioned_on = "order"`, two estimates without labels instead: see `TwoSourceBaseline`.

        The keys of `scene.references` are the labels that sound; their audio is for `conditioned_on = "stems"` alone.
        `scene.notes` are there for `conditioned_on = "notes"` alone.
        """


BASELINES: dict[str, type[Baseline]] = {
    "mixture": MixtureBaseline,
    "Wiener filter per label": WienerPerLabel,
    "Wiener filter, all labels": InformedWiener,
    "NMF, all labels": InformedNMF,
    "NMF, all notes": ScoreInformedNMF,
    "HPSS, oracle order": HPSS,
    "REPET, oracle order": REPET,
    "REPET-SIM, oracle order": REPETSIM,
    "2DFT, oracle order": Fourier2D,
    "RPCA, oracle order": RPCA,
    "oracle binary mask": OracleBinaryMask,
    "oracle ratio mask": OracleMask,
    "oracle phase-sensitive mask": OraclePhaseMask,
    "oracle multichannel Wiener filter": OracleWiener,
}
"""Name of a table's row -> its baseline."""
