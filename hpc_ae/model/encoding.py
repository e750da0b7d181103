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
    return _chi_squared(residual, error, np.ones(residual.shape, bool))


def chi_squared_of_measured(residual: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The same over the bands whose residual is not NaN."""
    return _chi_squared(residual, error, ~np.isnan(residual))


def _chi_squared(residual: np.ndarray, error: np.ndarray, counted: np.ndarray) -> np.ndarray:
    usable = ((np.isfinite(error) & (error > 0)) | ~counted).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.square(np.where(counted, residual / error, np.float32(0))).sum(axis=1)
    return np.asarray(np.where(usable, values, np.float32(np.nan)), np.float32)


def rms(residual: np.ndarray) -> np.ndarray:
    """Root mean square of residuals (N, B) in mag: float32 (N,)."""
    return np.asarray(np.sqrt(np.square(residual).mean(axis=1)))


def rms_of_measured(residual: np.ndarray) -> np.ndarray:
    """The same over the bands that are not NaN; NaN of a star that has none."""
    measured = ~np.isnan(residual)
    num = np.count_nonzero(measured, axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(np.square(np.where(measured, residual, np.float32(0))).sum(axis=1) / num))
