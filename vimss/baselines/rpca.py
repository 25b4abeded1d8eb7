"""RPCA: a background of low rank and a sparse foreground (Huang, Chen, Smaragdis and Hasegawa-Johnson 2012).

    RPCA(sample_rate)(scene, labels)      # [2 c t]: background, foreground

The magnitudes M are split into L + S with the least nuclear norm of L plus 1 / sqrt(longer side) times the sum of |S|,
by the inexact augmented Lagrange multiplier method (Lin, Chen and Ma 2010). Each bin goes to the larger of |L| and |S|.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vimss.baselines.two_source import TwoSourceBaseline

TOLERANCE = 1e-5
"""Norm of M - L - S over that of M at which the iteration ends; masks depend on no more digits."""
MOST_ITERATIONS = 100
PENALTY_GROWTH = 1.5


class RPCA(TwoSourceBaseline):
    """Background and foreground."""

    method: ClassVar[str] = "RPCA"

    def shares(self, magnitude: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "2 f n"]:
        """1 for the larger part."""
        background, foreground = map(np.abs, low_rank_and_sparse(magnitude.astype(np.float64)))
        return np.stack([background >= foreground, background < foreground]).astype(magnitude.dtype)


def low_rank_and_sparse(matrix: Float[np.ndarray, "f n"]) -> tuple[Float[np.ndarray, "f n"], Float[np.ndarray, "f n"]]:
    """L and S of a matrix."""
    sparsity = 1 / np.sqrt(max(matrix.shape))
    scale = np.linalg.norm(matrix)
    if scale == 0:
        return matrix, np.zeros_like(matrix)
    spectral = np.sqrt(np.linalg.eigvalsh(_gram(matrix))[-1])
    multiplier = matrix / max(spectral, np.abs(matrix).max() / sparsity)
    penalty, low_rank, sparse = 1.25 / spectral, np.zeros_like(matrix), np.zeros_like(matrix)
    for _ in range(MOST_ITERATIONS):
        sparse = _shrunk(matrix - low_rank + multiplier / penalty, sparsity / penalty)
        low_rank = _of_less_rank(matrix - sparse + multiplier / penalty, 1 / penalty)
        error = matrix - low_rank - sparse
        multiplier = multiplier + penalty * error
        penalty *= PENALTY_GROWTH
        if np.linalg.norm(error) < TOLERANCE * scale:
            break
    return low_rank, sparse


def _shrunk(values: Float[np.ndarray, "..."], by: float) -> Float[np.ndarray, "..."]:
    return np.sign(values) * np.maximum(np.abs(values) - by, 0)


def _of_less_rank(matrix: Float[np.ndarray, "f n"], by: float) -> Float[np.ndarray, "f n"]:
    """The matrix with singular values that are smaller by `by`, and not below 0."""
    # The eigenvectors of the smaller Gram matrix take a tenth of the time of singular vectors.
    if matrix.shape[0] > matrix.shape[1]:
        return _of_less_rank(matrix.T, by).T
    squares, vectors = np.linalg.eigh(_gram(matrix))
    kept = squares > by**2
    vectors = vectors[:, kept]
    return (vectors * (1 - by / np.sqrt(squares[kept]))) @ (vectors.T @ matrix)


def _gram(matrix: Float[np.ndarray, "f n"]) -> Float[np.ndarray, "k k"]:
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
