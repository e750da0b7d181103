"""How a reconstruction follows the magnitudes that it is made of: its derivative, star by star.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

import numpy as np
import torch

from hpc_ae.model.autoencoder import Autoencoder

_ROWS = 4_096


def reconstruct(model: Autoencoder, magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction float32 (N, B) of magnitude (N, B), mag, and its derivative float32 (N, B, B).

    [n, b, c] is the change of reconstruction b with magnitude c. One forward pass with B tangents, exact.
    """
    num_stars, num_bands = magnitude.shape
    rebuilt = np.empty((num_stars, num_bands), np.float32)
    derivative = np.empty((num_stars, num_bands, num_bands), np.float32)
    tangents = torch.eye(num_bands)
    with torch.no_grad():
        for start in range(0, num_stars, _ROWS):
            stars = torch.from_numpy(np.ascontiguousarray(magnitude[start : start + _ROWS], np.float32))

            def along(tangent: torch.Tensor, stars: torch.Tensor = stars) -> tuple[torch.Tensor, torch.Tensor]:
                residual, slope = torch.func.jvp(model, (stars,), (tangent.expand_as(stars),))
                return stars - residual, tangent - slope

            values, slopes = torch.func.vmap(along, out_dims=(None, 2))(tangents)
            rebuilt[start : start + _ROWS] = values.numpy()
            derivative[start : start + _ROWS] = slopes.numpy()
    return rebuilt, derivative
