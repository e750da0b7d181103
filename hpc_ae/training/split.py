"""One shard as training takes it: which of its usable stars are trained on, which are held out, and their values.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.draws import part_of
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.schema import Caution
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import DamageError
from hpc_ae.training.usable import RowKind

_DOUBTFUL_ID = int(Caution.ID_MISSING | Caution.ID_REPEATED | Caution.ID_DAMAGED)


@dataclass(frozen=True)
class Split:
    """The stars of one shard: which are usable, and what decides which are held out, uint64 (N,)."""

    good: np.ndarray
    hashes: np.ndarray

    def held_out(self, fraction: float) -> np.ndarray:
        """The usable stars that are held out of training, bool (N,)."""
        return np.asarray(self.good & below(self.hashes, fraction))

    def training(self, fraction: float) -> np.ndarray:
        """The usable stars that are trained on, bool (N,)."""
        return np.asarray(self.good & ~below(self.hashes, fraction))


def split_stars(arrays: Arrays, first_row: int, kind: RowKind) -> Split:
    """The split of stars of which the first is row `first_row` of its catalog.

    By the hash of objid; of the row where the id is missing, damaged or repeated, as many stars may share such an id.
    """
    rows = np.arange(first_row, first_row + len(arrays["objid"]))
    keys = np.where(arrays["caution"] & _DOUBTFUL_ID, rows, arrays["objid"])
    return Split(kind.usable(arrays), star_hashes(keys))


def star_hashes(objid: np.ndarray) -> np.ndarray:
    """The splitmix64 hash of each id, uint64 (N,)."""
    value = objid.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


def below(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which hashes lie in the first `fraction` of their range, bool (N,)."""
    return np.asarray(hashes < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1)))


def validation_mask(objid: np.ndarray, fraction: float) -> np.ndarray:
    """Which stars are held out: bool (N,), by the hash of objid, so the same in any shard or world size."""
    return below(star_hashes(objid), fraction)


def read_split(catalog: Catalog, index: int, kind: RowKind) -> Split:
    """The split of a shard's stars."""
    return split_stars(catalog.read_shard(index, kind.key_columns), int(catalog.offsets[index]), kind)


@dataclass(frozen=True)
class SplitShard:
    """One shard, read once: its number, the split of its stars, their columns."""

    index: int
    split: Split
    arrays: Arrays


def read_shards(catalog: Catalog, indices: list[int], kind: RowKind, counts: list[int]) -> Iterator[SplitShard]:
    """Shards with the values of their stars; `counts` has the number of usable ones of every shard."""
    for index in indices:
        arrays = catalog.read_shard(index, list(dict.fromkeys([*kind.key_columns, *kind.value_columns])))
        split = split_stars(arrays, int(catalog.offsets[index]), kind)
        if (num_good := np.count_nonzero(split.good)) != counts[index]:
            raise DamageError(
                "a shard does not match its manifest",
                where=catalog.shard_path(index),
                got=f"{num_good} usable stars",
                expected=counts[index],
            )
        yield SplitShard(index, split, arrays)


def one_in(number: int, rows: np.ndarray) -> np.ndarray:
    """About one in `number` of rows float32 (n, k), which ones by their own bits: the same whatever rank holds them."""
    if number == 1:
        return rows
    return np.asarray(rows[part_of(rows, number) == 0])
