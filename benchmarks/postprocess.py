"""Postprocess an encoding catalog, against a plain h5py + NumPy pass over its latents and errors.

python benchmarks/postprocess.py [--stars 10000000] [--folder DIR]        about a minute on two cores, 1.5 GB of disk
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
from common import hpc_ae, measured, ratios, report, stopwatch, work_seconds
from encode import make_inputs, write_config

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
PLAIN_BYTES = 12  # a star: latent, reconstruction_error
READ_BYTES = 94  # a star, of both catalogs; 23 are written
RECONSTRUCTION_BYTES = 20  # more where the encoding has them


def plain_rate(encoding_dir: Path, most_stars: int = 20_000_000) -> float:
    """Latents and errors of the shards in memory; mean, quantiles and a histogram of the latent plane, stars/s."""
    with stopwatch() as seconds:
        latents, errors, num_stars = [], [], 0
        for path in sorted(encoding_dir.glob("shard-*.h5")):
            with h5py.File(path) as file:
                latents.append(file["latent"][:])
                errors.append(file["reconstruction_error"][:])
            num_stars += len(errors[-1])
            if num_stars >= most_stars:
                break
        latent, error = np.concatenate(latents), np.concatenate(errors)
        good = np.isfinite(error)
        np.mean(error[good], dtype=np.float64)
        np.quantile(error[good], QUANTILES)
        np.histogram2d(latent[good, 0], latent[good, 1], bins=200)
        return num_stars / seconds()


def main() -> None:
    """The reference, then ours with one and two workers, each after the same encoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-postprocess-"))).absolute()
    folder.mkdir(exist_ok=True)
    make_inputs(folder, arguments.stars)
    config, run_dir = write_config(folder, 2), folder / "run"
    hpc_ae("encode", str(config))
    plain = plain_rate(run_dir / "encoding")
    report("postprocess, h5py + NumPy", stars_per_second=plain, gb_per_second=plain * PLAIN_BYTES / 1e9)
    for workers in (1, 2):
        for name in ("report", "scores"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        usage = measured("postprocess", str(config), f"cluster.ranks_per_node={workers}")
        num_bytes = arguments.stars * (READ_BYTES + RECONSTRUCTION_BYTES)
        values = usage.rates(arguments.stars, num_bytes, work_seconds(run_dir, "postprocess"))
        report(f"hpc-ae postprocess, {workers} workers", **values, **ratios(values, plain=plain))
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
