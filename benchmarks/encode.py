"""Encode from HDF5 to HDF5, against the best compiled forward pass in memory and the loops that a user would write.

python benchmarks/encode.py [--stars 10000000] [--folder DIR]        about 3 minutes on two cores, 1 GB of disk
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml
from common import hpc_ae, median_seconds, report, stopwatch

from hpc_ae import open_catalog
from hpc_ae.model.autoencoder import Architecture, Autoencoder, make_autoencoder
from hpc_ae.model.files import write_model
from hpc_ae.model.forward import make_forward

ARCHITECTURE = Architecture(("u", "g", "r", "i", "z"))
COMPILED_BATCH = 16_384


def make_inputs(folder: Path, num_stars: int) -> Autoencoder:
    """A simulated catalog and a model directory (the speed does not depend on the weights)."""
    if not (folder / "stars").exists():
        hpc_ae("simulate", str(folder / "stars"), "--stars", str(num_stars))
    model = make_autoencoder(ARCHITECTURE, [20.9, 19.0, 18.0, 17.6, 17.3], [2.3, 1.9, 1.6, 1.6, 1.6], 1)
    if not (folder / "model").exists():
        write_model(folder / "model", ARCHITECTURE, model.state_dict(), {})
    return model.eval()


def compiled_rate(model: Autoencoder, magnitude: torch.Tensor, threads: int) -> float:
    """Compute alone: torch.compile on data in memory, stars/s."""
    torch.set_num_threads(threads)
    compiled = torch.compile(model.encode)
    batches = magnitude.split(COMPILED_BATCH)

    def work() -> None:
        with torch.inference_mode():
            for batch in batches:
                compiled(batch)

    return len(magnitude) / median_seconds(work)


def fused_rate(model: Autoencoder, magnitude: np.ndarray) -> float:
    """Compute alone: our kernel on data in memory, one thread, stars/s."""
    forward = make_forward(model, torch.device("cpu"))
    return len(magnitude) / median_seconds(lambda: forward(magnitude))


def user_loop_rate(model: Autoencoder, folder: Path, num_stars: int, batch: int = 4_096) -> float:
    """Batch-sliced h5py reads, eager model, append to a growing HDF5 file, stars/s."""
    torch.set_num_threads(os.cpu_count() or 1)
    with h5py.File(folder / "stars" / "shard-00000.h5") as source, h5py.File(folder / "loop.h5", "w") as target:
        rows = min(num_stars, len(source["objid"]))
        latent = target.create_dataset("latent", (0, 2), "f4", maxshape=(None, 2), chunks=(batch, 2))
        error = target.create_dataset("error", (0,), "f4", maxshape=(None,), chunks=(batch,))
        with stopwatch() as seconds, torch.inference_mode():
            for start in range(0, rows, batch):
                code, residual = model.encode(torch.from_numpy(source["magnitude"][start : start + batch]))
                stop = start + len(code)
                latent.resize(stop, 0)
                error.resize(stop, 0)
                latent[start:stop] = code.numpy()
                error[start:stop] = residual.square().mean(1).sqrt().numpy()
            target.flush()
            return rows / seconds()


def record_loop_rate(model: Autoencoder, folder: Path, num_stars: int) -> float:
    """One star at a time through a DataLoader, as most people do, stars/s."""
    magnitude = open_catalog(folder / "stars").read(["magnitude"], slice(0, num_stars))["magnitude"]
    rows = [torch.from_numpy(row) for row in magnitude]
    loader = torch.utils.data.DataLoader(rows, batch_size=4_096)  # type: ignore[arg-type]
    with stopwatch() as seconds, torch.inference_mode(), h5py.File(folder / "records.h5", "w") as target:
        latent = target.create_dataset("latent", (0, 2), "f4", maxshape=(None, 2))
        for batch in loader:
            code = model.encode(batch)[0].numpy()
            latent.resize(len(latent) + len(code), 0)
            latent[-len(code) :] = code
        return num_stars / seconds()


def ours(folder: Path, ranks: int, reconstruction: bool, num_stars: int) -> tuple[float, float]:
    """`hpc-ae encode`: stars/s from read to digests, and wall time with start-up."""
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    config = {
        "run_dir": str(run_dir),
        "catalog": {"path": str(folder / "stars")},
        "encode": {"model": str(folder / "model"), "reconstruction": reconstruction},
        "cluster": {"ranks_per_node": ranks},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    seconds = hpc_ae("encode", str(folder / "run.yaml"))
    progress = json.loads((run_dir / "jobs" / "progress" / "encode.json").read_text())
    return num_stars / progress["seconds"], seconds


def main() -> None:
    """References first, then ours, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-encode-"))
    folder.mkdir(exist_ok=True)
    model = make_inputs(folder, arguments.stars)
    magnitude = open_catalog(folder / "stars").read(["magnitude"], slice(0, 2_000_000))["magnitude"]
    compiled = max(compiled_rate(model, torch.from_numpy(magnitude), threads) for threads in (1, 2))
    report("encode compute, torch.compile, best of 1 and 2 threads", stars_per_second=compiled)
    report("encode compute, fused, one thread", stars_per_second=fused_rate(model, magnitude))
    loop = user_loop_rate(model, folder, 500_000)
    report("encode, batch-sliced loop", stars_per_second=loop)
    record = record_loop_rate(model, folder, 200_000)
    report("encode, record at a time", stars_per_second=record)
    for ranks, reconstruction in ((1, False), (2, False), (2, True)):
        rate, seconds = ours(folder, ranks, reconstruction, arguments.stars)
        report(
            f"hpc-ae encode, {ranks} ranks, reconstruction {str(reconstruction).lower()}",
            stars_per_second=rate,
            wall_seconds=seconds,
            to_compiled=rate / compiled,
            to_loop=rate / loop,
            to_record=rate / record,
        )


if __name__ == "__main__":
    main()
