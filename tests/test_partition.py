"""Which rank trains on which rows: every promise holds for any world size, by arithmetic alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hpc_ae.training import partition
from hpc_ae.training.partition import (
    BatchPlan,
    PartitionOrder,
    epoch_batches,
    owned_partitions,
    valid_batch_sizes,
)
from hpc_ae.training.split import one_in, validation_mask


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks of 8 rows and windows of 4 blocks, so that small plans have many of both."""
    with mock.patch.multiple(partition, BLOCK_ROWS=8, WINDOW_BLOCKS=4):
        yield


@st.composite
def plans(draw: st.DrawFn, *, may_repeat: bool = True) -> BatchPlan:
    """Plans of 5 to 12 partitions with at least one step an epoch, with replacement too where rows `may_repeat`."""
    num_partitions = draw(st.integers(5, 12))
    slice_rows = draw(st.integers(1, 9))
    num_rows = draw(st.integers(num_partitions * slice_rows, 1500))
    seed = draw(st.integers(0, 2**32 - 1))
    return BatchPlan(num_rows, num_partitions, slice_rows * num_partitions, seed, may_repeat and draw(st.booleans()))


def rank_slices(plan: BatchPlan, epoch: int, rank: int, world_size: int, chunk_steps: int) -> dict[int, np.ndarray]:
    """Global rows that a rank gives to each step: {partition: (S, slice_rows)}."""
    owned = owned_partitions(rank, world_size, plan.num_partitions)
    global_rows = np.concatenate([np.arange(*plan.bounds(part)) for part in owned])
    chunks = list(epoch_batches(plan, epoch, owned, chunk_steps))
    rows = global_rows[np.concatenate(chunks)].reshape(plan.steps_per_epoch, len(owned), plan.slice_rows)
    return {part: rows[:, index] for index, part in enumerate(owned)}


def global_batches(plan: BatchPlan, epoch: int, world_size: int = 1, chunk_steps: int = 3) -> np.ndarray:
    """Rows of all batches of an epoch, partition slices in order: (S, batch_size)."""
    slices: dict[int, np.ndarray] = {}
    for rank in range(world_size):
        slices |= rank_slices(plan, epoch, rank, world_size, chunk_steps)
    return np.concatenate([slices[part] for part in range(plan.num_partitions)], axis=1)


@given(st.integers(0, 10**9), st.integers(1, 300))
def test_partitions_cover_all_rows_once(num_rows: int, num_partitions: int) -> None:
    """Partitions follow each other without gap or overlap, cover all rows, and are equal to one row."""
    plan = BatchPlan(num_rows, num_partitions, num_partitions, 1)
    bounds = [plan.bounds(part) for part in range(num_partitions)]
    assert bounds[0][0] == 0 and bounds[-1][1] == num_rows
    assert all(bounds[part][1] == bounds[part + 1][0] for part in range(num_partitions - 1))
    sizes = {plan.size(part) for part in range(num_partitions)}
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 200), st.data())
def test_every_partition_has_one_owner(num_partitions: int, data: st.DataObject) -> None:
    """For every world size up to the number of partitions each is owned once, and no rank is without one."""
    world_size = data.draw(st.integers(1, num_partitions))
    owned = [owned_partitions(rank, world_size, num_partitions) for rank in range(world_size)]
    assert sorted(part for parts in owned for part in parts) == list(range(num_partitions))
    assert all(owned) and max(map(len, owned)) - min(map(len, owned)) <= 1


@settings(max_examples=200, deadline=None)
@given(plans(), st.integers(0, 50), st.data())
def test_batches_do_not_depend_on_the_world_size(plan: BatchPlan, epoch: int, data: st.DataObject) -> None:
    """Any world size up to the number of partitions gives the same partition slices at each step, so the same rows."""
    expected = global_batches(plan, epoch)
    assert expected.shape == (plan.steps_per_epoch, plan.batch_size)
    sizes = st.integers(2, plan.num_partitions)
    for world_size in {data.draw(sizes), data.draw(sizes), plan.num_partitions}:
        batches = global_batches(plan, epoch, world_size, chunk_steps=1 + epoch % 4)
        assert_array_equal(batches, expected)


@settings(max_examples=50, deadline=None)
@given(plans(may_repeat=False), st.integers(0, 50))
def test_no_row_twice_in_an_epoch(plan: BatchPlan, epoch: int) -> None:
    """Each row is used at most once an epoch, and fewer than a slice of each partition is left out."""
    rows = global_batches(plan, epoch).ravel()
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0 and rows.max() < plan.num_rows
    assert plan.num_rows - len(rows) < plan.num_partitions * (plan.slice_rows + 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_an_order_is_a_permutation(num_rows: int, seed: int) -> None:
    """The order of a partition holds each of its rows once, in any way that it is read."""
    order = PartitionOrder(BatchPlan(num_rows, 1, 1, seed), 0, 0)
    whole = order.rows(0, num_rows)
    assert order.num_rows == num_rows
    assert_array_equal(np.sort(whole), np.arange(num_rows))
    edges = sorted({0, num_rows, num_rows // 3, num_rows // 2})
    parts = [order.rows(start, stop) for start, stop in itertools.pairwise(edges)]
    assert_array_equal(np.concatenate(parts), whole)


def test_rows_stay_in_their_window() -> None:
    """A reader needs one window at a time: its positions hold the rows of its own blocks and no others."""
    order = PartitionOrder(BatchPlan(8 * 4 * 6, 1, 1, 4), 2, 0)
    for index in range(6):
        blocks = set(order.rows(index * 32, (index + 1) * 32) // 8)
        assert blocks == set(order.blocks[index * 4 : (index + 1) * 4])


def test_blocks_and_first_window_are_drawn_apart() -> None:
    """The rows of the first window are not permuted as the blocks are: their generators differ."""
    with mock.patch.multiple(partition, BLOCK_ROWS=1, WINDOW_BLOCKS=32):
        order = PartitionOrder(BatchPlan(32, 1, 1, 9), 1, 0)
        assert not np.array_equal(order.rows(0, 32), order.blocks[order.blocks])


def test_epochs_differ_and_so_does_the_remainder() -> None:
    """Each epoch has an order of its own and drops other rows."""
    plan = BatchPlan(1003, 5, 50, 3)
    epochs = [global_batches(plan, epoch).ravel() for epoch in range(6)]
    dropped = {frozenset(range(1003)) - frozenset(rows.tolist()) for rows in epochs}
    assert len(dropped) == 6 and all(len(rows) == 3 for rows in dropped)
    assert len({rows.tobytes() for rows in epochs}) == 6
    assert_array_equal(global_batches(plan, 2).ravel(), epochs[2])


def test_seeds_differ() -> None:
    """Another seed is another order."""
    first, second = (global_batches(BatchPlan(500, 5, 50, seed), 0) for seed in (1, 2))
    assert not np.array_equal(first, second)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 20), st.data())
def test_resumed_epoch_is_the_same(plan: BatchPlan, epoch: int, data: st.DataObject) -> None:
    """Starting in the middle of an epoch, with other chunks, gives the rows that an uninterrupted epoch gives."""
    owned = owned_partitions(1, 2, plan.num_partitions)
    whole = np.concatenate(list(epoch_batches(plan, epoch, owned, 4)))
    first_step = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    rest = np.concatenate(list(epoch_batches(plan, epoch, owned, data.draw(st.integers(1, 9)), first_step)))
    assert_array_equal(rest, whole[first_step:])


def test_draws_with_replacement() -> None:
    """Drawn rows lie in their partition, repeat as chance has it, and differ by epoch."""
    plan = BatchPlan(2000, 4, 40, 8, replacement=True)
    batches = global_batches(plan, 0)
    partitions = batches.reshape(-1, 4, 10) // 500
    assert_array_equal(partitions, np.broadcast_to(np.arange(4)[:, None], partitions.shape))
    share = len(np.unique(batches)) / 2000
    assert abs(share - (1 - np.exp(-1))) < 0.05  # what drawing 2,000 of 2,000 leaves in expectation
    assert not np.array_equal(batches, global_batches(plan, 1))


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_neighbouring_batch_sizes(batch_size: int, num_partitions: int) -> None:
    """The batch sizes that an error offers are multiples of the partitions around the one asked for."""
    below, above = valid_batch_sizes(batch_size, num_partitions)
    assert below % num_partitions == above % num_partitions == 0 < below
    assert above > batch_size and (below <= batch_size or batch_size < num_partitions)


def splitmix64(value: int) -> int:
    """Steele, Lea and Flood (2014), doi:10.1145/2660193.2660195, in plain integers."""
    mask = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def test_splitmix64_of_the_test_is_the_published_one() -> None:
    """The first outputs of the generator seeded with 0, as published with the reference code."""
    assert [splitmix64(step * 0x9E3779B97F4A7C15 % 2**64) for step in range(3)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50), st.floats(0, 1))
def test_held_out_stars_are_those_of_the_hash(ids: list[int], fraction: float) -> None:
    """A star is held out where its hash lies below the fraction of 2^64."""
    threshold = min(int(fraction * 2.0**64), 2**64 - 1)
    expected = [splitmix64(objid % 2**64) < threshold for objid in ids]
    assert validation_mask(np.array(ids, np.int64), fraction).tolist() == expected


def test_held_out_fraction_and_stability() -> None:
    """About the fraction asked for is held out, the same stars in any order, and more with a larger fraction."""
    ids = np.arange(1_237_645_941_824_356_000, 1_237_645_941_824_356_000 + 200_000)
    mask = validation_mask(ids, 0.05)
    assert abs(mask.mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(ids))
    order = np.random.default_rng(1).permutation(len(ids))
    assert_array_equal(validation_mask(ids[order], 0.05), mask[order])
    assert validation_mask(ids, 0.1)[mask].all()
    assert not validation_mask(ids, 0.0).any()


@pytest.mark.parametrize("number", [1, 2, 7])
def test_one_in_some_rows_whatever_rank_holds_them(number: int) -> None:
    """However rows are dealt out, the same ones are chosen, about as many as asked for."""
    rows = np.random.default_rng(3).normal(19, 2, (20_000, 5)).astype(np.float32)
    whole = one_in(number, rows)
    dealt = np.concatenate([one_in(number, rows[rank::3]) for rank in range(3)])
    assert {row.tobytes() for row in whole} == {row.tobytes() for row in dealt} and len(whole) == len(dealt)
    assert abs(len(whole) / (len(rows) / number) - 1) < 0.1
