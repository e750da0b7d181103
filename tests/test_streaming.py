"""Streamed training rows: the same batches as resident ones, whatever the shards, partitions and flags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import make_config, metrics_of, train_here

from hpc_ae import open_catalog
from hpc_ae.catalog.partition import BatchPlan, epoch_batches, owned_partitions
from hpc_ae.catalog.training import StreamedRows, count_training_rows, load_training_rows
from hpc_ae.simulate import SimulateSettings, simulate

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
    catalog = open_catalog(stars_dir)
    counts = count_training_rows(catalog, range(len(catalog.shards)), FRACTION)
    plan = BatchPlan(int(counts.sum()), partitions, 64, 5)
    mine = owned_partitions(rank, world_size, partitions)
    rows = load_training_rows(catalog, counts, plan, mine, FRACTION)
    streamed = StreamedRows(catalog, counts, plan, mine, FRACTION)
    for epoch, first_step in ((0, 0), (1, 37)):
        resident = [rows[index] for index in epoch_batches(plan, epoch, mine, 100, first_step)]
        assert np.array_equal(np.concatenate(resident), np.concatenate(list(streamed.chunks(epoch, 100, first_step))))


def test_streamed_windows_cross_blocks(tmp_path: Path) -> None:
    """One partition of several windows, its last block short: still the same values."""
    simulate(tmp_path / "stars", SimulateSettings(150_000, 4, 0.0, 40_000))
    catalog = open_catalog(tmp_path / "stars")
    counts = count_training_rows(catalog, range(len(catalog.shards)), FRACTION)
    plan = BatchPlan(int(counts.sum()), 1, 500, 5)
    rows = load_training_rows(catalog, counts, plan, [0], FRACTION)
    resident = [rows[index] for index in epoch_batches(plan, 0, [0], 50)]
    streamed = list(StreamedRows(catalog, counts, plan, [0], FRACTION).chunks(0, 50, 0))
    assert np.array_equal(np.concatenate(resident), np.concatenate(streamed))


def test_streamed_training_is_bitwise_the_resident_one(stars_dir: Path, tmp_path: Path) -> None:
    """With a memory limit below what the rows need the weights come out the same, bit for bit."""
    weights = []
    for name, limit in (("resident", None), ("streamed", "1G")):
        config = make_config(tmp_path / name, stars_dir, memory_limit=limit)
        train_here(config)
        weights.append((config.run_path / "model" / "model.safetensors").read_bytes())
        assert metrics_of(config)
    assert weights[0] == weights[1]
