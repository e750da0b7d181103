"""Distance of each path to a float64 forward pass, on real stars, magnitudes / 20: maximum and 99.9 % quantile.

python benchmarks/accuracy.py [--stars 100000]        needs ../shared/data; 10 seconds
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from common import PHOTOMETRY, hpc_ae, report

from hpc_ae.model.autoencoder import Autoencoder
from hpc_ae.model.files import read_model, weights_of
from hpc_ae.model.forward import make_forward

BANDS = ("u", "g", "r", "i", "z")


def train_model(folder: Path) -> Autoencoder:
    """A model of the real stars, magnitudes / 20 as in the lecture, after 10 epochs."""
    hpc_ae("ingest", str(PHOTOMETRY), "--out", str(folder / "stars"))
    config = {
        "run_dir": str(folder / "run"),
        "catalog": {"path": str(folder / "stars")},
        "model": {"scaling": {"divide": 20.0}},
        "train": {"epochs": 10},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    hpc_ae("train", str(folder / "run.yaml"))
    return read_model(folder / "run" / "model")[0].eval()


def main() -> None:
    """Latent and residual of both paths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=100_000)
    num_stars = parser.parse_args().stars
    table = pq.read_table(PHOTOMETRY).slice(0, num_stars)
    magnitude = np.ascontiguousarray(np.stack([table[band] for band in BANDS], axis=1), np.float32)
    with tempfile.TemporaryDirectory(prefix="hpc_ae-accuracy-") as name:
        model = train_model(Path(name))
    with torch.inference_mode():
        exact = copy.deepcopy(model).double().encode(torch.from_numpy(magnitude).double())
    latent, residual = (values.numpy() for values in exact)
    for compute in ("fused", "torch"):
        encoding = make_forward(weights_of(model), compute=compute)(magnitude)
        assert encoding.reconstruction is not None
        differences = {
            "latent": np.abs(encoding.latent - latent),
            "reconstruction_mag": np.abs(encoding.reconstruction - (magnitude - residual)),
            "error_mag": np.abs(encoding.reconstruction_error - np.sqrt(np.square(residual).mean(axis=1))),
        }
        for name, values in differences.items():
            report(f"{compute}, {name}", maximum=float(values.max()), quantile_999=float(np.quantile(values, 0.999)))


if __name__ == "__main__":
    main()
