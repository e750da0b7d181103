"""Fit the simulated photometry's table of numbers to a sample of real SDSS stars.

    python benchmarks/fit_photometry.py STARS.parquet [--out hpc_ae/photometry/sdss_stars.json]

STARS.parquet has the columns u, g, r, i, z and err_u ... err_z (mag). Two models go into the JSON file that
`hpc_ae.photometry` reads; the same stars, options and library versions give the same file.

- A Gaussian mixture of (normal score of r, u-g, g-r, r-i, i-z). The sample ends sharply at its r limit, which no
  mixture of normals reproduces: r is therefore replaced by its normal score, the x with the same rank in a standard
  normal distribution, and a table leads back. The colours are fitted as observed, noise included, so the faint,
  noisy u tail comes out as in the data.
- log10 of the magnitude error against magnitude, per band: median and the 16 and 84 % points in bins.

Needs scikit-learn and pyarrow, which the package itself does not. With one thread it takes about two minutes;
the mixture is stopped after --max-iter iterations, before full convergence (scikit-learn warns).
"""

import argparse
import hashlib
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import sklearn
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

BANDS = ("u", "g", "r", "i", "z")
COORDINATES = ("score_r", "u-g", "g-r", "r-i", "i-z")
SCORE_LIMIT, SCORE_STEP = 4.5, 0.02
FAINTEST_MAG, ERROR_STEP_MAG = 30.0, 0.25
MIN_STARS_PER_BIN = 30
MIN_SCATTER_DEX = 0.01

Array = NDArray[np.float64]


def read_stars(path: Path) -> tuple[Array, Array]:
    """Read magnitudes and errors, both (N, B) mag, of the rows where all ten are usable."""
    table = parquet.read_table(path, columns=[*BANDS, *(f"err_{band}" for band in BANDS)])
    columns = np.stack([table[name].to_numpy().astype(np.float64) for name in table.column_names], axis=1)
    magnitude, error = columns[:, :5], columns[:, 5:]
    good = np.isfinite(columns).all(axis=1)
    good &= ((magnitude > 0) & (magnitude < FAINTEST_MAG) & (error > 0)).all(axis=1)
    return magnitude[good], error[good]


def score_table(r: Array) -> tuple[Array, Array]:
    """Normal scores on a uniform grid and the r magnitude at each, both (T,)."""
    half = round(SCORE_LIMIT / SCORE_STEP)
    score = np.arange(-half, half + 1, dtype=np.float64) * np.float64(SCORE_STEP)
    normal = NormalDist()
    score_mag: Array = np.quantile(r, [normal.cdf(float(value)) for value in score]).astype(np.float64)
    return score, score_mag


def to_coordinates(magnitude: Array, score: Array, score_mag: Array) -> Array:
    """Turn magnitudes (N, 5) into the mixture's coordinates (N, 5)."""
    colours = magnitude[:, :-1] - magnitude[:, 1:]
    return np.column_stack([np.interp(magnitude[:, 2], score_mag, score), colours])


def fit_mixture(coordinates: Array, num_components: int, seed: int, max_iter: int) -> dict[str, Any]:
    """Fit weights (K,), means (K, 5) and lower Cholesky factors (K, 5, 5), heaviest component first."""
    shift, scale = coordinates.mean(axis=0), coordinates.std(axis=0)
    mixture = GaussianMixture(num_components, max_iter=max_iter, tol=1e-4, reg_covar=1e-5, random_state=seed)
    mixture.fit((coordinates - shift) / scale)
    order = np.argsort(-mixture.weights_, kind="stable")
    cholesky = np.linalg.cholesky(mixture.covariances_) * scale[:, None]
    print(f"{mixture.n_iter_} iterations, converged: {mixture.converged_}, lower bound {mixture.lower_bound_:.4f}")
    return {
        "weights": rounded(mixture.weights_[order], 8),
        "means": rounded((mixture.means_ * scale + shift)[order], 5),
        "cholesky": rounded(cholesky[order], 5),
    }


def fit_errors(magnitude: Array, error: Array) -> dict[str, Any]:
    """Fit one band's log10 error (dex) at bin centres: median, and scatter below and above it, each (M,)."""
    centres = np.arange(0.0, FAINTEST_MAG + ERROR_STEP_MAG / 2, ERROR_STEP_MAG)
    bins = np.rint(magnitude / ERROR_STEP_MAG).astype(np.int64)
    full = [b for b in range(len(centres)) if np.count_nonzero(bins == b) >= MIN_STARS_PER_BIN]
    low, median, high = np.array([np.percentile(np.log10(error[bins == b]), [16, 50, 84]) for b in full]).T
    columns = {
        "median": median,
        "below": np.maximum(median - low, MIN_SCATTER_DEX),
        "above": np.maximum(high - median, MIN_SCATTER_DEX),
    }
    return {name: rounded(np.interp(centres, centres[full], column), 4) for name, column in columns.items()}


def rounded(values: Array, decimals: int) -> Any:
    """Turn an array into nested lists with so many decimals."""
    return np.round(values, decimals).tolist()


def provenance(path: Path, num_stars: int, args: argparse.Namespace) -> dict[str, Any]:
    """Say where the numbers come from."""
    return {
        "made_by": "benchmarks/fit_photometry.py",
        "stars": "SDSS point sources (type 6) with r < 20 in 280 fields of 20 arcmin: model magnitudes and errors",
        "file": path.name,
        "digest": "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
        "num_stars": num_stars,
        "seed": args.seed,
        "max_iter": args.max_iter,
        "software": f"scikit-learn {sklearn.__version__}, numpy {np.__version__}",
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="fit the simulated photometry to real SDSS stars")
    parser.add_argument("stars", type=Path, help="parquet file with u..z and err_u..err_z")
    default = Path(__file__).parents[1] / "hpc_ae" / "photometry" / "sdss_stars.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--components", type=int, default=48)
    parser.add_argument("--max-iter", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Fit both models and write the JSON file."""
    args = parse_arguments()
    magnitude, error = read_stars(args.stars)
    score, score_mag = score_table(magnitude[:, 2])
    coordinates = to_coordinates(magnitude, score, score_mag)
    fitted = {
        "format": "hpc_ae/photometry",
        "version": 1,
        "provenance": provenance(args.stars, len(magnitude), args),
        "bands": BANDS,
        "coordinates": COORDINATES,
        "score_r": {"first": -SCORE_LIMIT, "step": SCORE_STEP, "magnitude": rounded(score_mag, 4)},
        "mixture": fit_mixture(coordinates, args.components, args.seed, args.max_iter),
        "log10_error": {
            "first_mag": 0.0,
            "step_mag": ERROR_STEP_MAG,
            "bands": {band: fit_errors(magnitude[:, b], error[:, b]) for b, band in enumerate(BANDS)},
        },
    }
    args.out.write_text(json.dumps(fitted, separators=(",", ":")) + "\n")
    print(f"{len(magnitude)} stars, {args.out.stat().st_size} bytes -> {args.out}")


if __name__ == "__main__":
    main()
