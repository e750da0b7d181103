"""Draw stars from a Gaussian mixture fitted to real SDSS stars.

Stars are made in blocks of BLOCK_ROWS rows, each with its own random generators keyed by (seed, block): row i is the
same star however the catalog is cut into shards and whoever makes them. Each row of a block draws its component; the
stars of one component are then made together, contiguously, and put into their rows. No BLAS is called, so the number
of threads does not matter; another processor type or numpy version may change last digits or, for a new numpy, the
stars.

The arithmetic here limits a survey: the arrays of a block stay in a core's cache, and normal numbers come from
vectorised float32 functions, in a third of the time of `standard_normal`.

Shapes: N stars, B bands (5), C mixture coordinates (5: score of r, u-g, g-r, r-i, i-z), K components. Arrays inside a
block are band-major (B, N), results (N, B).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

BANDS = ("u", "g", "r", "i", "z")
BLOCK_ROWS = 31_250
"""Even; divides the usual shard, so that no block is made for two shards; hides the cost of numpy calls."""
FIRST_OBJID = 1_237_645_879_551_066_112
"""The id of row 0, in the range of SDSS's own 64-bit photometric ids (above 2**53)."""
MISSING = -9999.0
"""SDSS's sentinel for a magnitude or error that was not measured."""

BRIGHTEST_MAG, FAINTEST_MAG = 1.0, 29.95
ERROR_CELLS_PER_MAG = 100
STARS_STREAM, MISSING_STREAM = 0, 1

Stars = dict[str, NDArray[Any]]
Floats = NDArray[np.float32]


def simulate_stars(first_row: int, num_stars: int, seed: int, bad_fraction: float = 0.0) -> Stars:
    """Simulate the rows first_row ... first_row + num_stars - 1 of the catalog of this seed.

    Magnitudes follow a 5-D Gaussian mixture fitted to 290,327 real stars with r < 20 as observed, noise and the dust
    of some fields in the Galactic plane included (2.6 % have g - r > 2.2, as 2.7 % of these stars have);
    errors are drawn around the real ones of that band and magnitude; positions are uniform on the sphere and
    independent of the rest. Source: SDSS point sources, see the provenance in `sdss_stars.json`.

    Args:
        first_row: catalog row of the first star, from 0.
        num_stars: number of stars N, may be 0.
        seed: from 0; the same seed gives the same stars.
        bad_fraction: the expected fraction, 0 to 1, of rows of which one or more bands, in magnitude and
            error, are -9999. All other values are the same as without it.

    Returns:
        `objid` int64 (N,), unique, above 2**53; `ra`, `dec` float64 (N,), deg;
        `magnitude` float32 (N, 5), u g r i z, mag, between 0 and 30 unless bad;
        `magnitude_error` float32 (N, 5), mag, positive unless bad.

    Raises:
        ValueError: a negative row, number or seed, a fraction outside 0 to 1, or rows beyond the int64 ids.
    """
    if not 0.0 <= bad_fraction <= 1.0:
        raise ValueError(f"bad_fraction is {bad_fraction}, expected a number from 0 to 1")
    return simulate_rows(first_row, num_stars, seed, partial(simulate_block, seed, bad_fraction=bad_fraction))


def simulate_rows(first_row: int, num_stars: int, seed: int, make_block: Callable[[int], Stars]) -> Stars:
    """Rows first_row to first_row + num_stars - 1 of the blocks that `make_block` makes, vectors (B, N), as (N, B).

    ValueError: a negative row, number or seed, or rows beyond the int64 ids.
    """
    _check_request(first_row, num_stars, seed)
    stars = _empty_stars(num_stars)
    stars["objid"][:] = np.arange(FIRST_OBJID + first_row, FIRST_OBJID + first_row + num_stars, dtype=np.int64)
    end_row = first_row + num_stars
    for block in range(first_row // BLOCK_ROWS, -(-end_row // BLOCK_ROWS) if num_stars else 0):
        start = max(first_row, block * BLOCK_ROWS)
        stop = min(end_row, (block + 1) * BLOCK_ROWS)
        part = slice(start - block * BLOCK_ROWS, stop - block * BLOCK_ROWS)
        for name, values in make_block(block).items():
            if name not in stars:
                stars[name] = np.empty_like(stars["magnitude"])
            _copy_rows(values, part, stars[name][start - first_row : stop - first_row])
    return stars


def _check_request(first_row: int, num_stars: int, seed: int) -> None:
    """Refuse what cannot be simulated."""
    for name, value in (("first_row", first_row), ("num_stars", num_stars), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} is {value}, expected 0 or more")
    if FIRST_OBJID + first_row + num_stars > np.iinfo(np.int64).max:
        raise ValueError(f"row {first_row + num_stars} has no int64 id, expected fewer rows")


def _empty_stars(num_stars: int) -> Stars:
    """Allocate the columns for so many stars."""
    return {
        "objid": np.empty(num_stars, np.int64),
        "ra": np.empty(num_stars, np.float64),
        "dec": np.empty(num_stars, np.float64),
        "magnitude": np.empty((num_stars, len(BANDS)), np.float32),
        "magnitude_error": np.empty((num_stars, len(BANDS)), np.float32),
    }


def _copy_rows(values: NDArray[Any], part: slice, out: NDArray[Any]) -> None:
    """Copy a part of a block's values, (N,) or (B, N), to out, (n,) or (n, B)."""
    if values.ndim == 1:
        out[:] = values[part]
    else:  # band after band, which numpy does in half the time of a transposition
        for band, column in enumerate(values):
            out[:, band] = column[part]


def simulate_block(seed: int, block: int, bad_fraction: float, model: "Model | None" = None) -> Stars:
    """Simulate all BLOCK_ROWS stars of one block, without their ids; magnitudes and errors are (B, N)."""
    model = load_model() if model is None else model
    generator = block_generator(seed, block, STARS_STREAM)
    ra = 360.0 * generator.random(BLOCK_ROWS)
    dec = np.degrees(np.arcsin(2.0 * generator.random(BLOCK_ROWS) - 1.0))
    counts, places = _draw_components(generator, model)
    bands = magnitudes_of(_draw_coordinates(generator, counts, model), model)
    magnitude = np.take(bands, places, axis=1, mode="clip")
    magnitude_error = _draw_errors(generator, magnitude, model)
    if bad_fraction > 0.0:
        missing = _draw_missing(block_generator(seed, block, MISSING_STREAM), bad_fraction)
        magnitude[missing] = MISSING
        magnitude_error[missing] = MISSING
    return {"ra": ra, "dec": dec, "magnitude": magnitude, "magnitude_error": magnitude_error}


def block_generator(seed: int, block: int, stream: int) -> np.random.Generator:
    """Return the random generator of one block and purpose."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(block, stream))))


def draw_normals(generator: np.random.Generator, out: Floats) -> Floats:
    """Fill out (B, N), N even, with standard normal numbers by the Box-Muller transform; the largest are +-6.8."""
    half = out.shape[1] // 2
    for normals in out:
        bits = generator.bit_generator.random_raw(half).view(np.uint32)
        radius, angle = bits[:half].astype(np.float32), bits[half:].view(np.int32).astype(np.float32)
        radius += np.float32(0.5)
        radius *= np.float32(2.0**-32)
        np.log(radius, out=radius)
        radius *= np.float32(-2.0)
        np.sqrt(radius, out=radius)
        angle *= np.float32(np.pi * 2.0**-31)
        np.multiply(radius, np.cos(angle), out=normals[:half])
        np.multiply(radius, np.sin(angle, out=angle), out=normals[half:])
    return out


def _draw_components(generator: np.random.Generator, model: "Model") -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw the component of each row; the number of stars of each (K,), and the place of each row (N,) among stars
    that are ordered by component. Sorting 8-bit components takes half the time of a random permutation.
    """
    keys = generator.integers(0, 2**16, BLOCK_ROWS, dtype=np.uint16)
    components = np.take(model.component_of_key, keys, mode="clip")
    places = np.empty(BLOCK_ROWS, np.intp)
    places[np.argsort(components, kind="stable")] = np.arange(BLOCK_ROWS)
    return np.bincount(components, minlength=len(model.affine)), places


def _draw_coordinates(generator: np.random.Generator, counts: NDArray[np.intp], model: "Model") -> Floats:
    """Draw mixture coordinates (C, N): so many stars (K,) of each component, component after component."""
    normals = np.ones((1 + len(BANDS), BLOCK_ROWS), np.float32)  # the row of ones is for the means
    draw_normals(generator, normals[1:])
    coordinates = np.empty((len(BANDS), BLOCK_ROWS), np.float32)
    start = 0
    for affine, stop in zip(model.affine, np.cumsum(counts).tolist(), strict=True):
        # einsum, because matmul would call BLAS
        np.einsum("cd,dn->cn", affine, normals[:, start:stop], out=coordinates[:, start:stop])
        start = stop
    return coordinates


def magnitudes_of(coordinates: Floats, model: "Model") -> Floats:
    """Turn mixture coordinates (C, N) into magnitudes (B, N), folded back at the faint limit."""
    score, colour_ug, colour_gr, colour_ri, colour_iz = coordinates
    bands = np.empty_like(coordinates)
    bands[2] = model.r_from_score(score)
    bands[1] = bands[2] + colour_gr
    bands[0] = bands[1] + colour_ug
    bands[3] = bands[2] - colour_ri
    bands[4] = bands[3] - colour_iz
    np.minimum(bands, np.float32(2 * FAINTEST_MAG) - bands, out=bands)
    return np.maximum(bands, np.float32(BRIGHTEST_MAG), out=bands)


def _draw_errors(generator: np.random.Generator, bands: Floats, model: "Model") -> Floats:
    """Draw magnitude errors (B, N) for magnitudes (B, N): log-normal, with unequal scatter below and above."""
    errors = draw_normals(generator, np.empty_like(bands))
    for band, error in enumerate(errors):
        cells = (bands[band] * np.float32(ERROR_CELLS_PER_MAG)).astype(np.intp)
        median = np.take(model.log_error[band], cells, mode="clip")
        cells += (error > 0).astype(np.intp) * (30 * ERROR_CELLS_PER_MAG)
        error *= np.take(model.log_error_scatter[band], cells, mode="clip")
        error += median
        np.exp(error, out=error)
    return errors


def _draw_missing(generator: np.random.Generator, bad_fraction: float) -> NDArray[np.bool_]:
    """Choose the missing bands (B, N): about bad_fraction of the rows, any non-empty set of bands alike."""
    bad = generator.random(BLOCK_ROWS) < bad_fraction
    patterns = generator.integers(1, 2 ** len(BANDS), BLOCK_ROWS)
    chosen = (patterns >> np.arange(len(BANDS))[:, None]) & 1
    missing: NDArray[np.bool_] = (chosen == 1) & bad
    return missing


@dataclass(frozen=True)
class Model:
    """The fitted numbers, ready for arithmetic; tables are on uniform grids."""

    component_of_key: NDArray[np.uint8]  # (65536,) each component as often as its weight says, to 1e-5
    affine: Floats  # (K, C, 1 + C), the mean and the lower triangular Cholesky factor of each component
    score_first: float
    score_step: float
    score_mag: Floats  # (T,) r at each score
    score_rise: Floats  # (T,) r at the next score less r at this one, 0 at the end
    log_error: Floats  # (B, M) natural logarithm of the median error / mag
    log_error_scatter: Floats  # (B, 2 M) scatter of that logarithm below the median, then above

    def r_from_score(self, score: Floats) -> Floats:
        """Interpolate r (N,) mag at normal scores (N,), held constant beyond the table."""
        position = (score - np.float32(self.score_first)) * np.float32(1.0 / self.score_step)
        np.clip(position, 0.0, len(self.score_mag) - 1, out=position)
        cell = position.astype(np.intp)
        position -= cell.astype(np.float32)
        position *= np.take(self.score_rise, cell, mode="clip")
        position += np.take(self.score_mag, cell, mode="clip")
        return position


@cache
def load_model() -> Model:
    """Read `sdss_stars.json`, once per process."""
    fitted = json.loads(resources.files(__package__).joinpath("sdss_stars.json").read_text())
    ends = np.cumsum(fitted["mixture"]["weights"]) / np.sum(fitted["mixture"]["weights"])
    keys = (np.arange(2**16) + 0.5) / 2**16
    means, cholesky = np.array(fitted["mixture"]["means"]), np.array(fitted["mixture"]["cholesky"])
    score_mag = np.array(fitted["score_r"]["magnitude"])
    errors = {name: _error_table(fitted["log10_error"], name) for name in ("median", "below", "above")}
    return Model(
        component_of_key=np.searchsorted(ends[:-1], keys, side="right").astype(np.uint8),
        affine=np.concatenate([means[:, :, None], cholesky], axis=2).astype(np.float32),
        score_first=fitted["score_r"]["first"],
        score_step=fitted["score_r"]["step"],
        score_mag=score_mag.astype(np.float32),
        score_rise=np.append(np.diff(score_mag), 0.0).astype(np.float32),
        log_error=errors["median"],
        log_error_scatter=np.concatenate([errors["below"], errors["above"]], axis=1),
    )


def _error_table(fitted: dict[str, Any], name: str) -> Floats:
    """Interpolate one column of the error model at the centres of fine cells, (B, M), dex to natural logarithm."""
    cells = (np.arange(30 * ERROR_CELLS_PER_MAG) + 0.5) / ERROR_CELLS_PER_MAG
    columns = [fitted["bands"][band][name] for band in BANDS]
    grid = fitted["first_mag"] + fitted["step_mag"] * np.arange(len(columns[0]))
    dex = np.stack([np.interp(cells, grid, column) for column in columns])
    table: Floats = (dex * np.log(10.0)).astype(np.float32)
    return table
