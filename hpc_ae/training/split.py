"""One shard as training takes it: which of its good stars are trained on, which are held out, and their values.

Rows are the magnitudes of a star, (N, B), or with errors (N, 2 B): then their errors, 0 where the catalog has no
usable one. Shape letters: N stars, B bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.draws import part_of
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.quality import usable_errors
from hpc_ae.catalog.schema import Caution
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import DamageError

_DOUBTFUL_ID = int(Caution.ID_MISSING | Caution.ID_REPEATED | Caution.ID_DAMAGED)
_KEY_COLUMNS = ("objid", "quality", "caution")


@dataclass(frozen=True)
class Split:
    """The stars of one shard: which are good, and what decides which are held out, uint64 (N,)."""

    good: np.ndarray
    hashes: np.ndarray

    def held_out(self, fraction: float) -> np.ndarray:
        """The good stars that are held out of training, bool (N,)."""
        return np.asarray(self.good & below(self.hashes, fraction))

    def training(self, fraction: float) -> np.ndarray:
        """The good stars that are trained on, bool (N,)."""
        return np.asarray(self.good & ~below(self.hashes, fraction))


def split_stars(arrays: Arrays, first_row: int) -> Split:
    """The split of stars of which the first is row `first_row` of its catalog.

    By the hash of objid; of the row where the id is missing, damaged or repeated, as many stars may share such an id.
    """
    rows = np.arange(first_row, first_row + len(arrays["objid"]))
    keys = np.where(arrays["caution"] & _DOUBTFUL_ID, rows, arrays["objid"])
    return Split(arrays["quality"] == 0, star_hashes(keys))


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


def read_split(catalog: Catalog, index: int) -> Split:
    """The split of a shard's stars."""
    return split_stars(catalog.read_shard(index, _KEY_COLUMNS), int(catalog.offsets[index]))


@dataclass(frozen=True)
class SplitShard:
    """One shard, read once: its number, the split of its stars, their columns."""

    index: int
    split: Split
    arrays: Arrays


def read_shards(catalog: Catalog, indices: list[int], errors: bool) -> Iterator[SplitShard]:
    """Shards with the magnitudes of their stars, and with the errors where they are asked for."""
    for index in indices:
        arrays = catalog.read_shard(index, [*_KEY_COLUMNS, *value_columns(errors)])
        split = split_stars(arrays, int(catalog.offsets[index]))
        if (num_good := np.count_nonzero(split.good)) != catalog.shards[index].num_good:
            raise DamageError(
                "a shard does not match its manifest",
                where=catalog.shard_path(index),
                got=f"{num_good} good stars",
                expected=catalog.shards[index].num_good,
            )
        yield SplitShard(index, split, arrays)


def value_columns(errors: bool) -> list[str]:
    """The columns that rows are made of."""
    return ["magnitude", "magnitude_error"] if errors else ["magnitude"]


def row_width(catalog: Catalog, errors: bool) -> int:
    """Numbers of one row."""
    return len(catalog.bands) * (2 if errors else 1)


def rows_of(arrays: Arrays, chosen: np.ndarray, errors: bool) -> np.ndarray:
    """Rows float32 (n, B), with errors (n, 2 B), of the stars that are chosen by a mask or by number."""
    if not errors:
        return np.asarray(arrays["magnitude"][chosen])
    return np.concatenate([arrays["magnitude"][chosen], usable_errors(arrays["magnitude_error"][chosen])], axis=1)


def one_in(number: int, rows: np.ndarray) -> np.ndarray:
    """About one in `number` of rows float32 (n, k), which ones by their own bits: the same whatever rank holds them."""
    if number == 1:
        return rows
    return np.asarray(rows[part_of(rows, number) == 0])
