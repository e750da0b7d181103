"""How a reconstruction follows the magnitudes that it is made of: its derivative, star by star.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

import numpy as np
import torch

from hpc_ae.model.autoencoder import Autoencoder

_ROWS = 4_096


def reconstruct(
    model: Autoencoder, magnitude: np.ndarray, hidden: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction float32 (N, B) of magnitude (N, B), mag, and its derivative float32 (N, B, B).

    `hidden`: bands, bool (B,), that a masked model is not shown of any star; the derivative by them is 0.
    [n, b, c] is the change of reconstruction b with magnitude c. Exact, by B passes backward: stars do not mix.
    """
    num_stars, num_bands = magnitude.shape
    rebuilt = np.empty((num_stars, num_bands), np.float32)
    derivative = np.empty((num_stars, num_bands, num_bands), np.float32)
    for start in range(0, num_stars, _ROWS):
        rows = slice(start, start + _ROWS)
        stars = torch.from_numpy(np.ascontiguousarray(magnitude[rows], np.float32)).requires_grad_()
        if hidden is None:
            values = stars - model(stars)
        else:
            values = model.predict(stars.masked_fill(torch.from_numpy(hidden), torch.nan))
        rebuilt[rows] = values.detach().numpy()
        for band in range(num_bands):
            (slope,) = torch.autograd.grad(values[:, band].sum(), stars, retain_graph=band + 1 < num_bands)
            derivative[rows, band] = slope.numpy()
    return rebuilt, derivative
