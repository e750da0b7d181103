"""Simulated stars whose noiseless magnitudes are known: what noise removal can be judged by.

The mixture of `mixture.py` is of stars as SDSS observed them, noise included. Here the mean noise of each component, as
its magnitudes have it, is taken off its covariance; truth is drawn from what is left, and observed with errors drawn as
there. So the observed stars are spread about as the real ones, and noise is exactly what the errors say it is.

Shapes: N stars, B bands (5), C mixture coordinates (5: score of r, u-g, g-r, r-i, i-z), K components, Q nodes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from hpc_ae.photometry import mixture

NOISE_STREAM = 2
_LEAST_SHARE = 0.02
"""Of a component's variance in any direction what is never taken for noise."""
_NODES = 15
_COLOURS = ((0, 1), (1, 2), (2, 3), (3, 4))  # the bands of u-g, g-r, r-i, i-z


def simulate_observed(first_row: int, num_stars: int, seed: int) -> mixture.Stars:
    """Rows first_row ... first_row + num_stars - 1 of the catalog of this seed whose truth is known.

    Args:
        first_row: catalog row of the first star, from 0.
        num_stars: number of stars N, may be 0.
        seed: from 0; the same seed gives the same stars, however the catalog is cut.

    Returns:
        The columns of `simulate_stars`, and `truth` float32 (N, 5): the noiseless magnitudes. `magnitude` - `truth` is
        Gaussian with standard deviation `magnitude_error`, mag, unless the sum would leave 1-29.95 mag.

    Raises:
        ValueError: as `simulate_stars`.
    """
    return mixture.simulate_rows(first_row, num_stars, seed, partial(_observe_block, seed))


def _observe_block(seed: int, block: int) -> mixture.Stars:
    """All stars of one block, without their ids; (B, N)."""
    stars = mixture.simulate_block(seed, block, 0.0, _intrinsic_model())
    truth = stars["magnitude"]
    noise = mixture.draw_normals(mixture.block_generator(seed, block, NOISE_STREAM), np.empty_like(truth))
    noise *= stars["magnitude_error"]
    noise += truth
    magnitude = np.clip(noise, np.float32(mixture.BRIGHTEST_MAG), np.float32(mixture.FAINTEST_MAG))
    return {**stars, "magnitude": magnitude, "truth": truth}


@cache
def _intrinsic_model() -> mixture.Model:
    """The mixture without the noise of its stars, once per process."""
    model = mixture.load_model()
    means = model.affine[:, :, 0].astype(np.float64)
    factors = model.affine[:, :, 1:].astype(np.float64)
    narrow = [_narrowed(factor, _mean_noise(mean, factor, model)) for mean, factor in zip(means, factors, strict=True)]
    affine = np.concatenate([means[:, :, None], np.stack(narrow)], axis=2)
    return replace(model, affine=affine.astype(np.float32))


def _narrowed(factor: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """A square root (C, C) of the covariance factor factor^T less noise (C, C), positive in every direction."""
    inverse = np.linalg.inv(factor)
    shares, directions = np.linalg.eigh(inverse @ noise @ inverse.T)
    left = np.sqrt(np.maximum(1.0 - shares, _LEAST_SHARE))
    return np.asarray(factor @ (directions * left))


def _mean_noise(mean: NDArray[np.float64], factor: NDArray[np.float64], model: mixture.Model) -> NDArray[np.float64]:
    """Covariance (C, C) of the noise in mixture coordinates, mean over the r of a component's stars."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    coordinates = (mean[:, None] + factor[:, :1] * nodes).astype(np.float32)  # the others follow r
    bands = mixture.magnitudes_of(coordinates, model)
    cells = np.clip((bands * mixture.ERROR_CELLS_PER_MAG).astype(np.intp), 0, model.log_error.shape[1] - 1)
    variances = np.exp(2.0 * np.take_along_axis(model.log_error, cells, axis=1).astype(np.float64))  # (B, Q)
    slope = _score_per_mag(coordinates[0], model)
    total = np.zeros((len(mean), len(mean)))
    for node, weight in enumerate(weights / weights.sum()):
        into = np.zeros((len(mean), len(mixture.BANDS)))
        into[0, 2] = slope[node]
        for row, (blue, red) in enumerate(_COLOURS, 1):
            into[row, blue], into[row, red] = 1.0, -1.0
        total += weight * (into * variances[:, node]) @ into.T
    return total


def _score_per_mag(score: NDArray[np.float32], model: mixture.Model) -> NDArray[np.float64]:
    """Change of the score with r (Q,), 0 where r does not change with it."""
    cell = np.clip((score - model.score_first) / model.score_step, 0, len(model.score_rise) - 1).astype(np.intp)
    rise = model.score_rise[cell].astype(np.float64)
    slope: NDArray[np.float64] = np.divide(model.score_step, rise, out=np.zeros_like(rise), where=rise > 0)
    return slope
