"""Noise removal: reconstructions against the truth of simulated stars, and against held-out noise of real ones.

python benchmarks/denoising.py [--epochs 12] [--stars 200000] [--part simulated|real|speed|all] [--folder DIR]
Prints the tables of docs/results.md on standard error and a JSON line for each on standard output.
The real part needs ../shared/data.
"""

from __future__ import annotations

import argparse
import itertools
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
from common import PHOTOMETRY, report

from hpc_ae import open_catalog
from hpc_ae.analysis.denoised import Deviations, noise_pair
from hpc_ae.analysis.denoising import Uncertainty, read_uncertainty
from hpc_ae.catalog.quality import usable_errors
from hpc_ae.config import check_config
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.jobs.settings import training_of
from hpc_ae.model.files import read_model, weights_of
from hpc_ae.model.forward import make_forward
from hpc_ae.model.jacobian import reconstruct
from hpc_ae.model.weights import read_weights
from hpc_ae.photometry import simulate_observed
from hpc_ae.runtime.distributed import Group
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.train import train

BANDS = "ugriz"
EDGES = np.array([14.0, 16.0, 18.0, 19.0, 20.0, 22.0])
COLOUR_EDGES = np.array([-0.5, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6])
WAYS = [("none", 2), ("0.05", 2), ("catalog", 2), ("pairs", 2), ("none", 3), ("pairs", 3)]


@dataclass
class Trained:
    """A model: reconstruction of magnitudes (N, B), and its table of uncertainties."""

    run_dir: Path
    table: Uncertainty

    def __call__(self, magnitude: np.ndarray) -> np.ndarray:
        """Reconstruction (N, B) in mag."""
        rebuilt = make_forward(read_weights(self.run_dir / "model")[0])(magnitude).reconstruction
        assert rebuilt is not None
        return rebuilt


def train_one(folder: Path, stars: Path, noise: str, latent: int, epochs: int) -> Trained:
    """Train here, unless it is there already."""
    run_dir = folder / f"{stars.name}-{noise}-{latent}-{epochs}"
    value = noise if noise.isalpha() else float(noise)
    settings = {"noise": value, "epochs": epochs}
    values = {"run_dir": str(run_dir), "catalog": {"path": str(stars)}, "train": settings, "model": {"latent": latent}}
    config = check_config(values, "benchmark")
    train(config.catalog_path, config.layout, training_of(config), Group(Ranks(), torch.device("cpu")))
    table = read_uncertainty(read_model(run_dir / "model")[1].uncertainty, len(BANDS))
    assert table is not None
    return Trained(run_dir, table)


def table_of(title: str, columns: dict[str, np.ndarray], rows: list[str]) -> None:
    """One line for each band and bin, the columns' values (B, M)."""
    print(f"\n{title}\n| band | {' | '.join(['bin', *columns])} |\n{'|---' * (len(columns) + 2)}|", file=sys.stderr)
    for band, name in enumerate(BANDS):
        for place, row in enumerate(rows):
            cells = " | ".join(f"{values[band, place]:.3f}" for values in columns.values())
            print(f"| {name} | {row} | {cells} |", file=sys.stderr)
    shown = {key: np.where(np.isfinite(values), np.round(values, 4), -1).tolist() for key, values in columns.items()}
    report(title, bins=json.dumps(rows), **{key: json.dumps(values) for key, values in shown.items()})


def bins(edges: np.ndarray) -> list[str]:
    """The names of bins."""
    return [f"{low:g}-{high:g}" for low, high in itertools.pairwise(edges)]


def simulated(folder: Path, num_stars: int, epochs: int) -> None:
    """Deviations from the truth of stars that were not trained on, in bins of the star's true r."""
    stars = folder / "simulated"
    simulate(stars, SimulateSettings(num_stars, 3, observed=True))
    test = simulate_observed(4 * num_stars, 100_000, 3)
    truth, magnitude, errors = test["truth"], test["magnitude"], usable_errors(test["magnitude_error"])
    keys = np.repeat(truth[:, 2:3], len(BANDS), axis=1)
    catalog = Deviations.of(magnitude - truth, keys, EDGES)
    sizes, squares, biases = ({"catalog": catalog.one_sigma}, {"catalog": catalog.rms}, {})
    for noise, latent in WAYS:
        model = train_one(folder, stars, noise, latent, epochs)
        rebuilt = model(magnitude)
        name = f"{noise}, {latent} latents"
        after = Deviations.of(rebuilt - truth, keys, EDGES)
        sizes[name], squares[name] = after.one_sigma, after.rms
        colour = np.repeat(truth[:, 1:2] - truth[:, 2:3], len(BANDS), axis=1)
        usual = (np.abs(rebuilt - truth) < 5 * np.maximum(model.table.of(rebuilt, errors), 1e-6)).all(axis=1)
        biases[name] = Deviations.of((rebuilt - truth)[usual], colour[usual], COLOUR_EDGES).mean
        pulls = Deviations.of((rebuilt - truth) / model.table.of(rebuilt, errors), keys, EDGES)
        best, left = model.table.combine(magnitude, errors, rebuilt)
        combined = Deviations.of(best - truth, keys, EDGES)
        combined_pulls = Deviations.of((best - truth) / left, keys, EDGES)
        columns = {"68 % of pulls": pulls.one_sigma, "combined 68 %": combined.one_sigma}
        columns |= {"combined rms": combined.rms, "68 % of its pulls": combined_pulls.one_sigma}
        table_of(f"simulated, {name}: pulls, and the combination", columns, bins(EDGES))
        compare_derivatives(name, model, test, rebuilt)
    table_of("simulated: 68 % of |deviation from the truth|, mag, by true r", sizes, bins(EDGES))
    table_of("simulated: rms deviation from the truth, mag, by true r", squares, bins(EDGES))
    table_of("simulated: mean deviation from the truth along the locus, by true g-r", biases, bins(COLOUR_EDGES))


def compare_derivatives(name: str, model: Trained, test: dict[str, np.ndarray], rebuilt: np.ndarray) -> None:
    """What 68 % of pulls do not exceed, over all stars: by the table, by each star's own derivative, of blue stars."""
    rows = slice(0, 20_000)
    truth, errors = test["truth"][rows], usable_errors(test["magnitude_error"][rows])
    derivative = reconstruct(read_model(model.run_dir / "model")[0], test["magnitude"][rows])[1]
    misfit = model.table.misfit[model.table.cells(rebuilt[rows])]
    own = np.sqrt(np.einsum("nbj,nj->nb", np.square(derivative), np.square(errors)) + np.square(misfit))
    by_table = np.abs(rebuilt[rows] - truth) / model.table.of(rebuilt[rows], errors)
    by_star, blue = np.abs(rebuilt[rows] - truth) / own, truth[:, 1] - truth[:, 3] < 0.3
    values = {"by_table": by_table, "by_own_derivative": by_star, "blue_by_table": by_table[blue]}
    sizes = {key: json.dumps(np.round(np.quantile(one, 0.6827, axis=0), 2).tolist()) for key, one in values.items()}
    report(f"simulated, {name}: all stars", **sizes, blue_share=float(blue.mean()))


def split_sky(folder: Path) -> tuple[Path, Path]:
    """Star catalogs of real stars: one-degree cells of sky are in one or the other, by a hash."""
    table = pq.read_table(PHOTOMETRY)
    cell = np.floor(table["ra"]).astype(np.int64) * 181 + np.floor(table["dec"]).astype(np.int64) + 90
    held_out = (cell.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(100) < 15
    for name, mask in (("real", ~held_out), ("real-test", held_out)):
        if not (folder / name / "manifest.json").exists():
            pq.write_table(table.filter(pa.array(mask)), folder / f"{name}.parquet")
            ingest([folder / f"{name}.parquet"], folder / name, IngestSettings())
    return folder / "real", folder / "real-test"


def real(folder: Path, epochs: int) -> None:
    """Squared error to the unknown truth on held-out sky, from pairs of measurements made of each star's errors."""
    stars, test_dir = split_sky(folder)
    test = open_catalog(test_dir).read(["magnitude", "magnitude_error", "quality"])
    errors = usable_errors(test["magnitude_error"])
    used = (test["quality"] == 0) & (errors > 0).all(axis=1) & (errors < 1).all(axis=1)
    magnitude, errors = test["magnitude"][used], errors[used]
    place = np.digitize(magnitude[:, 2], np.arange(10, 25, 0.5))
    usual = np.stack(
        [np.median(errors[place == one], axis=0) if (place == one).any() else errors[0] for one in range(31)]
    )
    wild = errors > 2 * usual[place]  # their squares would drown the others' mean
    normals = np.random.default_rng(1).standard_normal(magnitude.shape).astype(np.float32)
    first, second, variance = noise_pair(magnitude, errors, normals)
    noisier = errors * np.float32(np.sqrt(1.25))
    for noise, latent in WAYS:
        model = train_one(folder, stars, noise, latent, epochs)
        rebuilt, name = model(first), f"{noise}, {latent} latents"
        best, _ = model.table.combine(first, noisier, rebuilt)
        known = (best != first).any(axis=1)  # by the first measurement alone, so that the second may still judge
        keys = np.repeat(rebuilt[:, 2:3], len(BANDS), axis=1)[known]

        def risk(values: np.ndarray, known: np.ndarray = known, keys: np.ndarray = keys) -> Deviations:
            return Deviations.of(np.where(wild, np.nan, values - second)[known], keys, EDGES, variance[known])

        expected = Deviations.of(np.where(wild, np.nan, model.table.of(rebuilt, noisier))[known], keys, EDGES)
        table_of(
            f"real, {name}: rms error to the unknown truth, mag, by r, of the {known.mean():.1%} that the model knows",
            {
                "with noise": risk(first).rms,
                "reconstruction": risk(rebuilt).rms,
                "its uncertainty": expected.rms,
                "combined": risk(best).rms,
                "mean deviation": Deviations.of((rebuilt - second)[known], keys, EDGES).mean,
                "without wild": risk(rebuilt).mean,
            },
            bins(EDGES),
        )


def speed(folder: Path) -> None:
    """Processor time of training with and without noise, of the uncertainty table, and of a star's own derivative."""
    stars = folder / "speed"
    simulate(stars, SimulateSettings(200_000, 3))
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}
    for repeat in range(3):
        for noise in ("none", "catalog", "pairs", 0.05):
            settings = {"noise": noise, "steps": 3_000, "validations": 1, "validation_stars": 1_000}
            values = {"run_dir": str(folder / f"speed-{repeat}-{noise}"), "catalog": {"path": str(stars)}}
            config = check_config({**values, "train": settings}, "benchmark")
            started = time.process_time()
            train(config.catalog_path, config.layout, training_of(config), Group(Ranks(), torch.device("cpu")))
            seconds.setdefault(str(noise), []).append(time.process_time() - started)
    least = {name: min(values) for name, values in seconds.items()}
    report("train.noise", **{name: value / least["none"] for name, value in least.items()}, seconds=least["none"])
    model, record = read_model(folder / "speed-0-none" / "model")
    table, arrays = (
        read_uncertainty(record.uncertainty, 5),
        open_catalog(stars).read(["magnitude", "magnitude_error"]),
    )
    assert table is not None
    forward = make_forward(weights_of(model))
    works = {
        "encode": lambda: forward(arrays["magnitude"], arrays["magnitude_error"]),
        "uncertainty": lambda: table.of(arrays["magnitude"], arrays["magnitude_error"]),
        "derivative": lambda: reconstruct(model, arrays["magnitude"][:50_000]),
    }
    times = {}
    for name, work in works.items():
        started = time.process_time()
        work()
        times[f"{name}_us_a_star"] = (
            (time.process_time() - started) / (50_000 if name == "derivative" else 200_000) * 1e6
        )
    report("encode.uncertainty", **times)


def main() -> None:
    """The parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--stars", type=int, default=200_000)
    parser.add_argument("--part", choices=["simulated", "real", "speed", "all"], default="all")
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-denoising-"))
    folder.mkdir(exist_ok=True)
    if arguments.part in ("simulated", "all"):
        simulated(folder, arguments.stars, arguments.epochs)
    if arguments.part in ("real", "all"):
        real(folder, arguments.epochs)
    if arguments.part in ("speed", "all"):
        speed(folder)


if __name__ == "__main__":
    main()
