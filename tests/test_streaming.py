"""Streamed training rows: the same batches as resident ones, whatever the shards, partitions and flags."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from runs import batches_from, load_share, make_config, metrics_of, train_here, training_rows

from hpc_ae.catalog import table
from hpc_ae.catalog.shard import open_shard
from hpc_ae.errors import DamageError
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.training import data
from hpc_ae.training.partition import owned_partitions
from hpc_ae.training.streaming import StreamedRows

FRACTION = 0.05


@pytest.fixture(scope="module")
def stars_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60,000 stars in shards of 7,001, a tenth of them flagged."""
    path = tmp_path_factory.mktemp("streaming") / "stars"
    simulate(path, SimulateSettings(60_000, 3, 0.1, 7_001))
    return path


@pytest.mark.parametrize(("partitions", "rank", "world_size"), [(1, 0, 1), (4, 0, 1), (4, 1, 3), (2, 1, 2)])
def test_streamed_batches_are_the_resident_ones(stars_dir: Path, partitions: int, rank: int, world_size: int) -> None:
    """Two epochs, from the middle too: every value of every batch is the same, in the same place."""
    settings = {"partitions": partitions, "batch_size": 64, "validation_fraction": FRACTION}
    resident = load_share(stars_dir, rank, world_size, **settings)
    streamed = load_share(stars_dir, rank, world_size, **settings, memory_limit="1M")
    assert isinstance(resident.rows, torch.Tensor) and isinstance(streamed.rows, StreamedRows)
    epoch = resident.plan.steps_per_epoch
    for first_step in (0, epoch + 37):
        num_steps = first_step + epoch
        assert np.array_equal(
            batches_from(resident, first_step, num_steps), batches_from(streamed, first_step, num_steps)
        )


def test_streamed_windows_cross_blocks(tmp_path: Path) -> None:
    """One partition of several windows, its last block short: still the same values."""
    simulate(tmp_path / "stars", SimulateSettings(150_000, 4, 0.0, 40_000))
    settings = {"partitions": 1, "batch_size": 500, "validation_fraction": FRACTION}
    resident = load_share(tmp_path / "stars", 0, 1, **settings)
    streamed = load_share(tmp_path / "stars", 0, 1, **settings, memory_limit="1M")
    epoch = resident.plan.steps_per_epoch
    assert np.array_equal(batches_from(resident, 0, epoch), batches_from(streamed, 0, epoch))


@pytest.mark.parametrize("sigmas", [6.0, 0.0, -40.0])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_rows_from_one_pass(stars_dir: Path, world_size: int, sigmas: float) -> None:
    """Each rank has the training rows of its partitions, in order, opened each shard once at most, and all shards are
    counted; where the edges of partitions lie farther off than was expected, it reads the rows again and has the same.
    """
    every = training_rows(stars_dir, FRACTION)[0]
    opened: list[Path] = []

    def watched(path: Path, catalog_format: str) -> Any:
        opened.append(path)
        return open_shard(path, catalog_format)

    for rank in range(world_size):
        opened.clear()
        with mock.patch.object(data, "_SIGMAS", sigmas), mock.patch.object(table, "open_shard", watched):
            share = load_share(stars_dir, rank, world_size, partitions=8, batch_size=64, validation_fraction=FRACTION)
        assert isinstance(share.rows, torch.Tensor)
        expected = [every[slice(*share.plan.bounds(one))] for one in owned_partitions(rank, world_size, 8)]
        assert np.array_equal(share.rows.numpy(), np.concatenate(expected))
        if sigmas == 6.0:
            assert len(set(opened)) == len(opened)


def test_each_shard_is_opened_once(tmp_path: Path) -> None:
    """A rank alone that trains on 500 shards opens each of them once: to count, to train and to validate."""
    simulate(tmp_path / "stars", SimulateSettings(5_000, 3, 0.1, 10))
    config = make_config(tmp_path / "run", tmp_path / "stars", steps=20, validation_fraction=0.2)
    opened: list[str] = []

    def watched(path: Path, catalog_format: str) -> Any:
        opened.append(path.name)
        return open_shard(path, catalog_format)

    with mock.patch.object(table, "open_shard", watched):
        train_here(config)
    assert metrics_of(config)[-1]["validation_mse_mag2"] is not None
    assert len(opened) == len(set(opened)) == 500


def test_shard_of_other_stars(stars_dir: Path, tmp_path: Path) -> None:
    """A shard that took another's place is found by its number of good stars, before a model is made of it."""
    stars = Path(shutil.copytree(stars_dir, tmp_path / "stars"))
    shutil.copy(stars / "shard-00001.h5", stars / "shard-00002.h5")
    with pytest.raises(DamageError, match=r"does not match its manifest[\s\S]*shard-00002\.h5"):
        train_here(make_config(tmp_path / "run", stars))


def test_streamed_training_is_bitwise_the_resident_one(stars_dir: Path, tmp_path: Path) -> None:
    """With a memory limit below what the rows need the weights come out the same, bit for bit."""
    weights = []
    for name, limit in (("resident", None), ("streamed", "1G")):
        config = make_config(tmp_path / name, stars_dir, memory_limit=limit)
        train_here(config)
        weights.append((config.run_path / "model" / "model.safetensors").read_bytes())
        assert metrics_of(config)
    assert weights[0] == weights[1]
