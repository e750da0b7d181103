"""Tiny runs for tests: catalogs, configs, models, and ranks as real processes.

`python tests/runs.py CONFIG RECORD_DIR` trains as one rank (RANK, WORLD_SIZE, HPC_AE_MEETING_DIR) and records the stars
of every batch, so that a test can see what training saw, and whether it imported PyTorch's compiler.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from hpc_ae import encode as encode_verb
from hpc_ae import train as train_verb
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.manifest import band_statistics, write_manifest
from hpc_ae.catalog.records import StarManifest, summed
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import Arrays, write_shard
from hpc_ae.config import RunConfig, check_config, dump_config, load_config
from hpc_ae.files import digest_file, make_dir, publish_bytes
from hpc_ae.jobs.settings import encoding_of, training_of
from hpc_ae.layout import shard_name
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.files import write_model
from hpc_ae.model.weights import Origin
from hpc_ae.runtime.distributed import Group, process_group
from hpc_ae.runtime.ranks import Ranks, ranks_from_environment
from hpc_ae.sections import TrainSection
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.training import batches
from hpc_ae.training.batches import chunks
from hpc_ae.training.data import TrainingData, load_data
from hpc_ae.training.split import validation_mask
from hpc_ae.training.usable import RowKind, UsableStars

REPOSITORY = Path(__file__).resolve().parent.parent
BANDS = ("u", "g", "r", "i", "z")
TINY = {"steps": 60, "batch_size": 64, "partitions": 8, "checkpoint_steps": 20, "validations": 6}
CPU = torch.device("cpu")
# What a surrounding torchrun or Slurm step would set.
_RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")


def make_catalog(directory: Path, num_stars: int = 2_000, shard_rows: int = 600) -> Path:
    """A simulated star catalog of which a twentieth of the rows is bad."""
    simulate(directory, SimulateSettings(num_stars, seed=7, bad_fraction=0.05, shard_rows=shard_rows))
    return directory


def change_catalog(source: Path, target: Path, change: Callable[[Arrays], None]) -> Path:
    """A copy of a star catalog, with its rows changed in place shard by shard; sealed as ingest would seal it."""
    catalog = open_catalog(source)
    make_dir(target)
    shards = []
    for index, arrays in enumerate(catalog.iter_shards(catalog.columns)):
        change(arrays)
        columns = list(arrays)
        shards.append(write_shard(target / shard_name(index), STAR_FORMAT, arrays, catalog.bands, {}))
    kept = catalog.manifest_as(StarManifest)
    changed = summed(STAR_FORMAT, shards) | {"statistics": band_statistics(catalog.bands, shards)}
    write_manifest(target, kept.replaced(**changed, columns=tuple(columns)))
    return target


def make_config(run_dir: Path, catalog_dir: Path, **train: Any) -> RunConfig:
    """A tiny run; `train` replaces keys of its train section, `model`, `encode` and `seed` those sections."""
    sections = {name: train.pop(name) for name in ("model", "encode", "seed") if name in train}
    values = {"run_dir": str(run_dir), "catalog": {"path": str(catalog_dir)}, "train": {**TINY, **train}, **sections}
    return check_config(values, "test")


def write_config(config: RunConfig) -> Path:
    """Publish a config in its run directory."""
    path = make_dir(config.run_path) / "config.yaml"
    publish_bytes(path, dump_config(config).encode())
    return path


def train_here(config: RunConfig, stop: Callable[[], bool] = lambda: False) -> str:
    """Train in this process, alone, with one thread: encode would set that too, and the bits depend on it."""
    torch.set_num_threads(1)
    return train(config, Group(Ranks(), CPU), stop)


def train(config: RunConfig, group: Group, stop: Callable[[], bool] = lambda: False) -> str:
    """Train as a rank of a group."""
    return train_verb.train(config.catalog_path, config.layout, training_of(config), group, stop)


def encode(config: RunConfig, ranks: Ranks, stop: Callable[[], bool] = lambda: False) -> str:
    """Encode what is a rank's, in this process."""
    return encode_verb.encode(*encoding_of(config), ranks, stop_requested=stop)


def finalise(config: RunConfig) -> dict[str, Any]:
    """Make the view and the manifest of an encoding that all ranks have ended."""
    return encode_verb.finalise(*encoding_of(config), config.model_dump(mode="json"))


@functools.cache
def training_rows(catalog_dir: Path, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Of a catalog whose ids are all sound: its training rows (N, B), and how many each shard has, found plainly."""
    catalog = open_catalog(catalog_dir)
    stars = catalog.read(["objid", "quality", "magnitude"])
    training = (stars["quality"] == 0) & ~validation_mask(stars["objid"], fraction)
    counts = [int(training[start:stop].sum()) for start, stop in itertools.pairwise(catalog.offsets)]
    return stars["magnitude"][training], np.array(counts)


class Wrapped(nn.Module):
    """What DistributedDataParallel is to a Stepper: not the objective itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Any:
        """The objective's loss."""
        return self.inner(*inputs)


class _Share(Group):
    """A rank whose neighbours are not there: it is told what all would count."""

    def __init__(self, ranks: Ranks, counts: np.ndarray) -> None:
        super().__init__(ranks, CPU)
        self.counts = counts

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The counts of all shards; of anything else what this rank has."""
        return self.counts if len(values) == len(self.counts) else values


def load_share(catalog_dir: Path, rank: int, world_size: int, **train: Any) -> TrainingData:
    """The data of one rank of several, as its training would load them."""
    catalog, section = open_catalog(catalog_dir), TrainSection(**train)
    counts = training_rows(catalog_dir, section.validation_fraction)[1]
    share = _Share(Ranks(rank, world_size, rank, world_size), counts)
    return load_data(UsableStars.of(catalog, RowKind(section.needs_errors)), section, 5, share)


def batches_from(data: TrainingData, first_step: int, num_steps: int) -> np.ndarray:
    """The rows of the steps from `first_step` to `num_steps`, in order: (S, n, B or 2 B)."""
    parts = [chunk.rows[chunk.index].numpy() for chunk in chunks(data, first_step, num_steps, numbered=False)]
    return np.concatenate(parts)


def stop_after(num_asks: int) -> Callable[[], bool]:
    """A stop request that comes with the `num_asks`-th question."""
    asks = iter(range(1, 1 << 30))
    return lambda: next(asks) >= num_asks


def metrics_of(config: RunConfig) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the one field that tells of time."""
    lines = (config.run_path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "stars_per_second"} for line in lines]


def checkpoint_digests(config: RunConfig, step: int) -> dict[str, str]:
    """Digest of every file of a checkpoint: weights, optimizer, best weights, state."""
    directory = config.run_path / "checkpoints" / f"step-{step:09d}"
    return {path.name: digest_file(path) for path in sorted(directory.iterdir())}


def assert_same_training(config: RunConfig, expected: RunConfig) -> None:
    """Weights, optimizer, best weights, state and metrics are those of the other run, bit by bit."""
    step = expected.train.steps or 0
    assert checkpoint_digests(config, step) == checkpoint_digests(expected, step)
    assert metrics_of(config) == metrics_of(expected)
    weights = [digest_file(run.run_path / "model" / "model.safetensors") for run in (config, expected)]
    assert weights[0] == weights[1]


def make_random_model(model_dir: Path, catalog_dir: Path, seed: int = 1, bands: tuple[str, ...] = BANDS) -> Path:
    """A model directory with freshly initialised weights: enough to encode with."""
    statistics = list(open_catalog(catalog_dir).manifest.statistics.values())
    architecture = Architecture(bands)
    mean, std = [band.mean for band in statistics], [band.std for band in statistics]
    model = make_autoencoder(architecture, mean, std, seed)
    write_model(model_dir, architecture, model.state_dict(), Origin())
    return model_dir


def start_rank(command: list[str], ranks: Ranks, meeting_dir: Path | None = None) -> subprocess.Popen[str]:
    """Start one rank on this machine, in the repository, with its output in a pipe."""
    environment = {key: value for key, value in os.environ.items() if key not in _RANK_NAMES}
    environment |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.world_size), "PYTHONPATH": str(REPOSITORY)}
    environment |= {"LOCAL_RANK": str(ranks.local_rank), "LOCAL_WORLD_SIZE": str(ranks.local_world_size)}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["HPC_AE_MEETING_DIR"] = str(meeting_dir or "none")  # what encodes alone needs none
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_ranks(command: list[str], world_size: int, meeting_dir: Path) -> list[subprocess.Popen[str]]:
    """Start all ranks of a group; they meet in `meeting_dir`."""
    places = [Ranks(rank, world_size, rank, world_size) for rank in range(world_size)]
    return [start_rank(command, place, meeting_dir) for place in places]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 300.0) -> list[tuple[int, str]]:
    """Exit status and output of each; none outlives this call."""
    deadline = time.monotonic() + timeout
    try:
        outputs = [process.communicate(timeout=max(0.1, deadline - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def train_recorded(config_path: Path, record_dir: Path) -> None:
    """Train as the rank of the environment; save the row numbers and magnitudes of this rank's share of each batch."""
    torch.set_num_threads(1)
    seen: list[np.ndarray] = []
    held: list[np.ndarray] = []
    load_data, make_batches = train_verb.load_data, batches.epoch_batches

    def recorded_data(*arguments: Any) -> Any:
        data = load_data(*arguments)
        held.append(data.rows.numpy())
        return data

    def recorded_batches(plan: Any, epoch: int, partitions: list[int], *place: int) -> Iterator[np.ndarray]:
        numbers = np.concatenate([np.arange(*plan.bounds(partition)) for partition in partitions])
        for rows in make_batches(plan, epoch, partitions, *place):
            seen.append(np.concatenate([numbers[rows][..., None], held[0][rows]], axis=2))
            yield rows

    ranks, config = ranks_from_environment(), load_config(config_path)
    with (
        mock.patch.object(train_verb, "load_data", recorded_data),
        mock.patch.object(batches, "epoch_batches", recorded_batches),
        process_group(ranks, CPU, Path(os.environ["HPC_AE_MEETING_DIR"])) as group,
    ):
        train(config, group)
    np.save(make_dir(record_dir) / f"rank-{ranks.rank}.npy", np.concatenate(seen)[: config.train.steps])
    if "torch._dynamo" in sys.modules:
        (record_dir / f"rank-{ranks.rank}.compiler").touch()


if __name__ == "__main__":
    train_recorded(Path(sys.argv[1]), Path(sys.argv[2]))
