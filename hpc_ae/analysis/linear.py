"""What a linear compression leaves: the yardstick of an autoencoder. Shape letters: N stars, B bands, K components."""

from __future__ import annotations

import numpy as np


def linear_error(magnitude: np.ndarray, num_components: int) -> float:
    """Mean square over stars and bands, in mag^2, of what the best K principal components of magnitude (N, B) leave:
    the sum of the smallest B - K eigenvalues of the covariance, over B. The components are these very stars' own.

    Sums without BLAS, whose order depends on the number of threads. Source: Jolliffe 2002, Principal Component
    Analysis, chapter 2.
    """
    wide = magnitude.astype(np.float64)
    centred = (wide - wide.mean(axis=0)).T
    covariance = np.array([[(one * other).mean() for other in centred] for one in centred])
    eigenvalues = np.linalg.eigvalsh(covariance)  # ascending
    return float(np.clip(eigenvalues[: max(0, len(centred) - num_components)], 0.0, None).sum() / len(centred))
