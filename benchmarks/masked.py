"""A network that sees which bands are measured: what it costs, and how well it predicts a band that is hidden.

python benchmarks/masked.py [--epochs 50] [--latent 2,3,4] [--share 0.5] [--folder DIR] [--part speed|stars|all]
15 % of the HEALPix cells of an order are held out. Of their stars: the median squared error with all bands, beside that
of a network that refuses missing bands; with one band hidden, the median absolute deviation of that band; and the rank
correlation of the reconstruction errors with and without it. Needs ../shared/data. Prints a table on standard error and
a JSON line for each on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from astropy import units
from astropy.coordinates import Latitude, Longitude
from cdshealpix.nested import lonlat_to_healpix
from common import PHOTOMETRY, report
from scipy.stats import spearmanr

from hpc_ae.config import check_config
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.jobs.settings import training_of
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.files import weights_of
from hpc_ae.model.forward import make_forward
from hpc_ae.model.hiding import Draws, Hiding
from hpc_ae.model.kernel import Batches, Network, Optimizer, load_kernel
from hpc_ae.model.weights import read_weights
from hpc_ae.photometry import simulate_observed
from hpc_ae.runtime.distributed import Group
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.train import train
from hpc_ae.training.split import validation_mask

BANDS = "ugriz"
HELD_OUT = 0.15


@dataclass(frozen=True)
class Stars:
    """The catalog that is trained on, and the held-out magnitudes and errors (N, B)."""

    catalog_dir: Path
    magnitude: np.ndarray
    error: np.ndarray


def cut(folder: Path, order: int) -> Stars:
    """The stars of most of the sky as a catalog, those of the rest as arrays."""
    table = pq.read_table(PHOTOMETRY)
    ra, dec = (table[name].to_numpy() for name in ("ra", "dec"))
    cells = lonlat_to_healpix(Longitude(ra * units.deg), Latitude(dec * units.deg), order).astype(np.int64)
    held_out = validation_mask(cells, HELD_OUT)
    if not (folder / "stars" / "manifest.json").exists():
        pq.write_table(table.filter(pa.array(~held_out)), folder / "stars.parquet")
        ingest([folder / "stars.parquet"], folder / "stars", IngestSettings())
    rest = table.filter(pa.array(held_out))
    values = [np.stack([rest[prefix + band].to_numpy() for band in BANDS], axis=1) for prefix in ("", "err_")]
    return Stars(folder / "stars", *(np.ascontiguousarray(one, np.float32) for one in values))


def trained(stars: Stars, folder: Path, latent: int, missing: str, options: argparse.Namespace) -> tuple[Path, float]:
    """A model directory, and the seconds that training took."""
    said = (
        missing,
        latent,
        options.epochs,
        options.share,
        options.least,
        options.seed,
        abs(hash(options.more)) % 10**6,
    )
    run_dir = folder / "-".join(map(str, said))
    config = check_config(
        {
            "run_dir": str(run_dir),
            "seed": options.seed,
            "catalog": {"path": str(stars.catalog_dir)},
            "model": {"latent": latent, "missing": missing, "min_bands": options.least},
            "train": {"epochs": options.epochs, "hide_bands": options.share, **json.loads(options.more)},
        },
        "benchmark",
    )
    start = time.monotonic()
    group = Group(Ranks(0, 1, 0, 1), torch.device("cpu"))
    train(stars.catalog_dir, config.layout, training_of(config), group)
    return run_dir / "model", time.monotonic() - start


def measure(stars: Stars, model_dir: Path) -> dict[str, object]:
    """Errors of the held-out stars: with all bands, and of each band where it is hidden."""
    weights, _ = read_weights(model_dir)
    forward = make_forward(weights)
    whole = forward(stars.magnitude)
    found: dict[str, object] = {"median_squared_error": float(np.median(whole.reconstruction_error.astype("f8") ** 2))}
    if not weights.architecture.masked:
        return found
    deviations, correlations = {}, {}
    for place, band in enumerate(BANDS):
        seen = stars.magnitude.copy()
        seen[:, place] = np.nan
        encoding = forward(seen)
        off = encoding.reconstruction[:, place] - stars.magnitude[:, place]
        deviations[band] = round(float(np.median(np.abs(off))), 4)
        correlations[band] = round(float(spearmanr(encoding.reconstruction_error, whole.reconstruction_error)[0]), 3)
    return found | {"hidden_mad_mag": deviations, "error_rank_correlation": correlations}


def measure_speed() -> None:
    """What the mask costs the fused kernel, one thread: encoding, and whole steps of training, as ratios of one run."""
    magnitude = np.ascontiguousarray(simulate_observed(0, 1 << 17, 5)["magnitude"])
    gaps = magnitude.copy()
    gaps[np.random.default_rng(1).random(gaps.shape) < 0.15] = np.nan
    index = np.random.default_rng(2).integers(0, len(magnitude), (100, 512))
    seconds: dict[str, list[float]] = {}
    for _ in range(7):
        for name, masked, rows in (("refuse", False, magnitude), ("mask", True, magnitude), ("mask, gaps", True, gaps)):
            kernel = load_kernel(Architecture(tuple(BANDS), masked=masked))
            model = make_autoencoder(kernel.architecture, [18.0] * 5, [1.5] * 5, seed=1)
            weights = weights_of(model)
            network = Network(weights.parameters.copy(), weights.scaling)
            moments = np.zeros((2, kernel.num_parameters), np.float32)
            optimizer = Optimizer((0.9, 0.95, 1e-8, 1e-4, 1.0), (moments[0], moments[1]), 0)
            hiding = Draws(hiding=Hiding(1, 0.5, 3, torch.from_numpy(index), 0)) if masked else None
            start = time.perf_counter()
            kernel.encode(weights.parameters, weights.scaling, rows)
            middle = time.perf_counter()
            kernel.train(network, Batches(rows, index, [1e-3] * 100, 1 / 512, hiding), optimizer, 1)
            seconds.setdefault(f"encode {name}", []).append(middle - start)
            seconds.setdefault(f"train {name}", []).append(time.perf_counter() - middle)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = {name: round(value / medians[f"{name.split()[0]} refuse"], 3) for name, value in medians.items()}
    report("mask in the fused kernel", **ratios)


def main() -> None:
    """Train and measure each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--latent", default="2,3,4")
    parser.add_argument("--order", type=int, default=8, help="HEALPix order of the cells that are held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--more", default="{}", help="further keys of train, as JSON")
    parser.add_argument("--missing", default="refuse,mask")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", default="all", choices=["speed", "stars", "all"])
    options = parser.parse_args()
    if options.part != "stars":
        measure_speed()
    if options.part == "speed":
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stars = cut(folder, options.order)
        for latent in map(int, options.latent.split(",")):
            for missing in options.missing.split(","):
                model_dir, seconds = trained(stars, folder, latent, missing, options)
                found = {
                    "latent": latent,
                    "missing": missing,
                    "seconds": round(seconds, 1),
                    **measure(stars, model_dir),
                }
                print(f"{found}", file=sys.stderr)
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
