"""Error on unseen sky and time to train: the defaults against the lecture's recipe, on one split, in one run.

python benchmarks/quality.py [--folder DIR]     needs ../shared/data; about 7 minutes on two cores
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from common import PHOTOMETRY, ROOT, hpc_ae, report

from hpc_ae import open_catalog
from hpc_ae.model.forward import make_forward
from hpc_ae.model.weights import read_weights

HELD_OUT = 15  # per cent of the one-degree cells
CHALLENGERS: dict[str, dict[str, object]] = {
    "10 epochs": {"train": {"epochs": 10}},
    "defaults": {},
    "400 epochs, batch 2048": {"train": {"epochs": 400, "batch_size": 2048, "learning_rate": 5e-3}},
}


def split_by_sky(folder: Path) -> None:
    """Star catalogs `folder`/train and `folder`/test: one-degree cells of sky are in one or the other, by a hash."""
    table = pq.read_table(PHOTOMETRY)
    cell = np.floor(table["ra"]).astype(np.int64) * 181 + np.floor(table["dec"]).astype(np.int64) + 90
    held_out = (cell.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(100) < HELD_OUT
    for name, mask in (("train", ~held_out), ("test", held_out)):
        pq.write_table(table.filter(pa.array(mask)), folder / f"{name}.parquet")
        hpc_ae("ingest", str(folder / f"{name}.parquet"), "--out", str(folder / name))


def test_error(model_dir: Path, stars_dir: Path) -> tuple[float, float]:
    """Mean and median over the good stars of the squared error, mean over bands, mag^2."""
    stars = open_catalog(stars_dir).read(["magnitude", "quality"])
    error = make_forward(read_weights(model_dir)[0])(stars["magnitude"]).reconstruction_error[stars["quality"] == 0]
    squared = error.astype(np.float64) ** 2
    return float(squared.mean()), float(np.median(squared))


def measure(name: str, folder: Path, settings: dict[str, object]) -> tuple[float, float, float]:
    """Train with `hpc-ae train` and judge on the held-out sky: seconds, mean and median error."""
    run_dir = folder / name.replace(" ", "_")
    config = {**settings, "run_dir": str(run_dir), "catalog": {"path": str(folder / "train")}}
    config_path = run_dir.with_suffix(".yaml")
    config_path.write_text(yaml.safe_dump(config))
    seconds = hpc_ae("train", str(config_path))
    mean, median = test_error(run_dir / "model", folder / "test")
    report("quality", recipe=name, seconds=seconds, mean_mag2=mean, median_mag2=median)
    return seconds, mean, median


def main() -> None:
    """The default config and the lecture's recipe, by our fused step and by PyTorch's operators."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp(prefix="hpc_ae-quality-"))
    folder.mkdir(exist_ok=True)
    split_by_sky(folder)
    seed = yaml.safe_load((ROOT / "configs" / "seed.yaml").read_text())
    lecture = {key: seed[key] for key in ("model", "train", "cluster")}
    results = {name: measure(name, folder, settings) for name, settings in CHALLENGERS.items()}
    results["lecture"] = measure("lecture", folder, lecture)
    torch_path = {**lecture, "train": {**lecture["train"], "compute": "torch"}}
    results["lecture_torch"] = measure("lecture_torch", folder, torch_path)
    for name in CHALLENGERS:
        for recipe in ("lecture", "lecture_torch"):
            names = ("time", "mean", "median")
            ratios = (ours / theirs for ours, theirs in zip(results[name], results[recipe], strict=True))
            report(f"quality, {name} to {recipe}", **dict(zip(names, ratios, strict=True)))


if __name__ == "__main__":
    main()
