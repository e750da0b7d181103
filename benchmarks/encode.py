"""Encode from HDF5 to HDF5, against the best compiled forward pass in memory and the loops that a user would write.

python benchmarks/encode.py [--stars 10000000] [--folder DIR]        about 5 minutes on two cores, 2 GB of disk
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from common import (
    Usage,
    bytes_in,
    command_line,
    hpc_ae,
    measured,
    median_seconds,
    ratios,
    report,
    stopwatch,
    watched,
    work_seconds,
)

from hpc_ae import open_catalog
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import Autoencoder, make_autoencoder
from hpc_ae.model.files import weights_of, write_model
from hpc_ae.model.forward import make_forward
from hpc_ae.model.weights import Origin

ARCHITECTURE = Architecture(("u", "g", "r", "i", "z"))
COMPILED_BATCH = 16_384
RECORD_STARS = 20_000
READ_BYTES = 52  # a star: objid, quality, caution, magnitude, magnitude_error


def make_inputs(folder: Path, num_stars: int) -> Autoencoder:
    """A simulated catalog and a model directory (the speed does not depend on the weights)."""
    if not (folder / "stars" / "manifest.json").exists():
        hpc_ae("simulate", str(folder / "stars"), "--stars", str(num_stars))
    return make_model(folder)


def make_model(folder: Path) -> Autoencoder:
    """A model directory in `folder`, and the model."""
    model = make_autoencoder(ARCHITECTURE, [20.9, 19.0, 18.0, 17.6, 17.3], [2.3, 1.9, 1.6, 1.6, 1.6], 1)
    if not (folder / "model" / "model.json").exists():
        write_model(folder / "model", ARCHITECTURE, model.state_dict(), Origin())
    return model.eval()


def write_config(folder: Path, ranks: int, *, reconstruction: bool = True, stars: str = "stars") -> Path:
    """The config of a run in `folder`/run; an earlier one is removed."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    config = {
        "run_dir": str(folder / "run"),
        "catalog": {"path": str(folder / stars)},
        "encode": {"model": str(folder / "model"), "reconstruction": reconstruction},
        "cluster": {"ranks_per_node": ranks},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder / "run.yaml"


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
    forward = make_forward(weights_of(model))
    return len(magnitude) / median_seconds(lambda: forward(magnitude))


def user_loop_rate(model: Autoencoder, folder: Path, num_stars: int) -> float:
    """The batch-sliced loop with one thread or all cores, whichever is faster, stars/s."""
    return better_rate(lambda: _user_loop(model, folder, num_stars))


def better_rate(rate: Callable[[], float]) -> float:
    """The better of one thread and as many as there are cores: several hinder small batches on some machines."""
    rates = []
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        rates.append(rate())
    return max(rates)


def _user_loop(model: Autoencoder, folder: Path, num_stars: int, batch: int = 4_096) -> float:
    """Batch-sliced h5py reads, eager model, append to a growing HDF5 file, stars/s."""
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


class StarRecords(torch.utils.data.Dataset[torch.Tensor]):
    """One star at a time from an open HDF5 dataset, as a first Dataset is usually written."""

    def __init__(self, magnitude: h5py.Dataset, num_stars: int) -> None:
        self.magnitude, self.num_stars = magnitude, min(num_stars, len(magnitude))

    def __len__(self) -> int:
        return self.num_stars

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.magnitude[index])


def loader_rate(model: Autoencoder, rows: Any, out_path: Path) -> float:
    """A DataLoader over single rows, eager model, latents and errors appended to HDF5, stars/s."""
    loader = torch.utils.data.DataLoader(rows, batch_size=4_096, num_workers=0)
    with stopwatch() as seconds, torch.inference_mode(), h5py.File(out_path, "w") as target:
        latent = target.create_dataset("latent", (0, 2), "f4", maxshape=(None, 2))
        error = target.create_dataset("error", (0,), "f4", maxshape=(None,))
        for batch in loader:
            code, residual = model.encode(batch)
            for dataset, values in ((latent, code), (error, residual.square().mean(1).sqrt())):
                dataset.resize(len(dataset) + len(values), 0)
                dataset[-len(values) :] = values.numpy()
        target.flush()
        return len(rows) / seconds()


def record_rates(model: Autoencoder, folder: Path) -> dict[str, float]:
    """Record at a time: from a contiguous dataset as h5py writes by default, from our chunks, from rows in memory."""
    out_path = folder / "records.h5"
    magnitude = open_catalog(folder / "stars").read(["magnitude"], slice(0, 200_000))["magnitude"]
    with h5py.File(folder / "contiguous.h5", "w") as file:
        file["magnitude"] = magnitude
    rates = {}
    for name, path in (("record", folder / "contiguous.h5"), ("record_chunked", folder / "stars" / "shard-00000.h5")):
        with h5py.File(path) as file:
            records = StarRecords(file["magnitude"], RECORD_STARS)
            rates[name] = better_rate(partial(loader_rate, model, records, out_path))
    rows = [torch.from_numpy(row) for row in magnitude]
    rates["record_in_memory"] = better_rate(lambda: loader_rate(model, rows, out_path))
    return rates


def ours(folder: Path, ranks: int, reconstruction: bool, num_stars: int) -> dict[str, Any]:
    """`hpc-ae encode`: wall time with start-up and verification, and from read to digests by its own clock."""
    usage = measured("encode", str(write_config(folder, ranks, reconstruction=reconstruction)))
    num_bytes = num_stars * READ_BYTES + bytes_in(folder / "run" / "encoding", "shard-*.h5")
    return usage.rates(num_stars, num_bytes, work_seconds(folder / "run", "encode"))


def pinned(config: Path, num_ranks: int, first: int, world_size: int) -> Usage:
    """Ranks `first`... of `world_size`, each on one core of its own, as a launcher would start them."""
    cores = sorted(os.sched_getaffinity(0))
    commands, environments = [], []
    for local_rank in range(num_ranks):
        commands.append(["taskset", "-c", str(cores[local_rank]), *command_line("encode", str(config))])
        place = {"RANK": first + local_rank, "WORLD_SIZE": world_size}
        place |= {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": num_ranks, "OMP_NUM_THREADS": 1}
        environments.append({name: str(value) for name, value in place.items()})
    return watched(commands, environments)


def scaling_seconds(folder: Path, num_ranks: int, num_shards: int, repeats: int) -> tuple[float, float, Usage]:
    """(work, start-up) of the slowest of some pinned ranks, medians: the same ranks without any shards are start-up.

    Work includes what a rank does before it ends (fsync, digests) and nothing that follows the ranks (finalise).
    """
    starts, usages = [], []
    for _ in range(repeats):
        idle = pinned(write_config(folder, num_ranks), num_ranks, num_shards, num_shards + num_ranks)
        busy = pinned(write_config(folder, num_ranks), num_ranks, 0, num_ranks)
        if (found := len(list((folder / "run" / "encoding").glob("shard-*.h5")))) != num_shards:
            raise RuntimeError(f"{found} of {num_shards} shards")
        starts.append(idle.seconds)
        usages.append(busy)
    start = sorted(starts)[repeats // 2]
    usage = sorted(usages, key=lambda each: each.seconds)[repeats // 2]
    return usage.seconds - start, start, usage


def scaling(folder: Path, num_stars: int, repeats: int) -> None:
    """Strong scaling: one rank on one core against two ranks on a core each, the same catalog."""
    num_shards = len(open_catalog(folder / "stars").shards)
    if num_shards % 2 or len(os.sched_getaffinity(0)) < 2:
        report("hpc-ae encode, strong scaling", skipped="needs two cores and an even number of shards")
        return
    single = 0.0
    for num_ranks in (1, 2):
        work, start, usage = scaling_seconds(folder, num_ranks, num_shards, repeats)
        single = single or work
        report(
            f"hpc-ae encode, strong scaling, {num_ranks} pinned ranks",
            work_seconds=work,
            startup_seconds=start,
            work_stars_per_second=num_stars / work,
            speedup=single / work,
            efficiency=single / work / num_ranks,
            **usage.memory(),
        )


def main() -> None:
    """References first, then ours, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3, help="of the strong scaling")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-encode-"))).absolute()
    folder.mkdir(exist_ok=True)
    model = make_inputs(folder, arguments.stars)
    magnitude = open_catalog(folder / "stars").read(["magnitude"], slice(0, 2_000_000))["magnitude"]
    compiled = max(compiled_rate(model, torch.from_numpy(magnitude), threads) for threads in (1, 2))
    report("encode compute, torch.compile, best of 1 and 2 threads", stars_per_second=compiled)
    report("encode compute, fused, one thread", stars_per_second=fused_rate(model, magnitude))
    del magnitude
    references = {"compiled": compiled, "loop": user_loop_rate(model, folder, 500_000), **record_rates(model, folder)}
    for name, rate in references.items():
        if name != "compiled":
            report(f"encode, reference {name}", stars_per_second=rate)
    for ranks, reconstruction in ((1, False), (2, False), (2, True)):
        values = ours(folder, ranks, reconstruction, arguments.stars)
        name = f"hpc-ae encode, {ranks} ranks, reconstruction {str(reconstruction).lower()}"
        report(name, **values, **ratios(values, **references))
    scaling(folder, arguments.stars, arguments.repeats)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
