"""What every forward pass gives, and what chi2 is. Without PyTorch.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Encoding:
    """What the model says of N stars: latent (N, L), reconstruction (N, B), reconstruction_error (N,), chi2 (N,).

    reconstruction and chi2 are None where they are not asked for or there are no magnitude errors.
    """

    latent: np.ndarray
    reconstruction: np.ndarray | None
    reconstruction_error: np.ndarray
    chi2: np.ndarray | None = None


class Forward(Protocol):
    """A way to compute; `name` is recorded with what it computed."""

    name: str

    def __call__(
        self, magnitude: np.ndarray, magnitude_error: np.ndarray | None = None, reconstruction: bool = True
    ) -> Encoding:
        """Encode magnitude float32 (N, B) in mag. Rows that are not finite give outputs of no meaning."""
        ...


def chi_squared(residual: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Sum over bands of (residual / error)^2, of (N, B) in mag.

    float32 (N,), NaN where an error is not finite and positive.
    """
    usable = (np.isfinite(error) & (error > 0)).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.square(residual / error).sum(axis=1)
    return np.asarray(np.where(usable, values, np.float32(np.nan)), np.float32)
