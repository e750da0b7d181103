"""Which stars a network can be trained on, and what it is shown of them.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.quality import usable_errors
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.states import count_measured, seen_magnitudes
from hpc_ae.sections import ModelSection, TrainSection

_KEY_COLUMNS = ("objid", "quality", "caution")


@dataclass(frozen=True)
class RowKind:
    """What the rows of a training are made of: magnitudes (N, B), with `errors` (N, 2 B).

    `least_bands`: with how many measured bands a star is used, NaN standing for the others; None: with all.
    `has_states`: whether the catalog says which bands are measured.
    """

    errors: bool = False
    least_bands: int | None = None
    has_states: bool = False

    @classmethod
    def of(cls, model: ModelSection, train: TrainSection, catalog: Catalog) -> RowKind:
        """What a config asks for of a catalog."""
        least_bands = model.min_bands if model.masked else None
        return cls(train.needs_errors, least_bands, "band_state" in catalog.columns)

    def with_errors(self, errors: bool) -> RowKind:
        """The same stars with or without errors."""
        return replace(self, errors=errors)

    @property
    def key_columns(self) -> list[str]:
        """The columns that say which stars are used."""
        return [*_KEY_COLUMNS, *([] if self.least_bands is None else ["magnitude"])]

    @property
    def value_columns(self) -> list[str]:
        """The columns that rows are made of."""
        return ["magnitude", "magnitude_error"] if self.errors else ["magnitude"]

    def usable(self, arrays: Arrays) -> np.ndarray:
        """Which stars are used, bool (N,)."""
        if self.least_bands is None:
            return np.asarray(arrays["quality"] == 0)
        return count_measured(seen_magnitudes(arrays["magnitude"], self.has_states)) >= self.least_bands

    def width(self, num_bands: int) -> int:
        """Numbers of one row."""
        return num_bands * (2 if self.errors else 1)

    def rows_of(self, arrays: Arrays, chosen: np.ndarray) -> np.ndarray:
        """Rows float32 (n, B), with errors (n, 2 B), of the stars that are chosen by a mask or by number."""
        magnitude = np.asarray(arrays["magnitude"][chosen])
        magnitude = magnitude if self.least_bands is None else seen_magnitudes(magnitude, self.has_states)
        if not self.errors:
            return magnitude
        return np.concatenate([magnitude, usable_errors(arrays["magnitude_error"][chosen])], axis=1)

    def count(self, catalog: Catalog, index: int) -> int:
        """How many stars of a shard are used; one that does not say it is read."""
        shard = catalog.shards[index]
        if self.least_bands is None or shard.num_good == shard.num_stars:
            return shard.num_good
        if shard.stars_by_bands is not None:
            return sum(shard.stars_by_bands[self.least_bands :])
        return int(np.count_nonzero(self.usable(catalog.read_shard(index, ["magnitude"]))))


@dataclass(frozen=True)
class UsableStars:
    """A catalog, what its rows are made of, and how many stars of each shard are used."""

    catalog: Catalog
    kind: RowKind
    counts: list[int]

    @classmethod
    def of(cls, catalog: Catalog, kind: RowKind) -> UsableStars:
        """Those of a catalog."""
        return cls(catalog, kind, [kind.count(catalog, index) for index in range(len(catalog.shards))])

    @property
    def num_stars(self) -> int:
        """All of them."""
        return sum(self.counts)
