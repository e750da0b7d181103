"""An encoding catalog beside its star catalog, shard by shard.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.schema import ENCODING_FORMAT, STAR_FORMAT
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import DamageError, InputError, StaleError

_FROM_ENCODING = ("latent", "reconstruction_error", "reconstruction", "chi2")
_FROM_STARS = ("ra", "dec", "magnitude", "magnitude_error", "redshift")


@dataclass(frozen=True)
class ShardPair:
    """A shard of the encoding and that of the same stars: two catalogs of one shard each, cheap to send to a worker."""

    encoding: Catalog
    stars: Catalog
    first_row: int

    @property
    def num_stars(self) -> int:
        """Stars in the shard."""
        return self.encoding.num_stars

    def read(self, rows: slice = slice(None)) -> Arrays:
        """All columns of both that say something of a star, and `row`; DamageError where the stars are not the same."""
        ours = [name for name in _FROM_ENCODING if name in self.encoding.columns]
        theirs = [name for name in _FROM_STARS if name in self.stars.columns]
        encoded = self.encoding.read_shard(0, ["objid", "quality", "caution", *ours], rows)
        stars = self.stars.read_shard(0, ["objid", "quality", *theirs], rows)
        first = rows.indices(self.num_stars)[0]
        for name in ("objid", "quality"):
            if not np.array_equal(encoded[name], stars[name]):
                row = int(np.argmax(encoded[name] != stars[name]))
                raise DamageError(
                    f"the encoding and the star catalog differ in {name}",
                    where=f"{self.encoding.shard_path(0)}, row {first + row}",
                    got=encoded[name][row],
                    expected=f"{stars[name][row]}, as in {self.stars.shard_path(0)}",
                    fix="hpc-ae verify tells which of the two is damaged; make that one again",
                )
        numbers = np.arange(len(encoded["objid"])) + (self.first_row + first)
        return {"row": numbers, **encoded, **{name: stars[name] for name in theirs}}


@dataclass(frozen=True)
class Survey:
    """The two catalogs, checked to be of the same stars."""

    encoding: Catalog
    stars: Catalog

    @property
    def num_latent(self) -> int:
        """Latent dimensions."""
        return _num_latent(self.encoding)

    @property
    def has_reconstruction(self) -> bool:
        """Whether the encoding has the magnitudes that the model makes of the latents."""
        return "reconstruction" in self.encoding.columns

    @cached_property
    def pairs(self) -> list[ShardPair]:
        """Every shard."""
        return [
            ShardPair(
                _one_shard(self.encoding, index), _one_shard(self.stars, index), int(self.encoding.offsets[index])
            )
            for index in range(len(self.encoding.shards))
        ]

    @property
    def reference_band(self) -> int:
        """The band whose magnitude stands for a star's brightness: r, or the one in the middle."""
        bands = self.stars.bands
        return bands.index("r") if "r" in bands else len(bands) // 2

    @property
    def colours(self) -> list[str]:
        """Names of the colours of neighbouring bands: u-g, g-r, ..."""
        return [f"{one}-{two}" for one, two in zip(self.stars.bands, self.stars.bands[1:], strict=False)]


def open_survey(encoding_dir: Path, star_dir: Path) -> Survey:
    """Open both catalogs.

    InputError where one is missing or of the wrong kind, StaleError where the encoding is of another star catalog,
    DamageError where they differ in their shards.
    """
    encoding, stars = _open(encoding_dir, ENCODING_FORMAT), _open(star_dir, STAR_FORMAT)
    try:
        recorded = encoding.manifest["inputs"]["catalog"]["digest"]
    except (KeyError, TypeError):
        raise DamageError("the manifest of the encoding does not name its catalog", where=encoding.directory) from None
    if recorded != stars.digest:
        raise StaleError(
            "the encoding was made from another star catalog",
            where=encoding.directory,
            got=recorded,
            expected=f"{stars.digest}, that of {stars.directory}",
            fix="name the star catalog that was encoded, or encode this one again (--redo encode)",
        )
    sizes = [[shard["num_stars"] for shard in catalog.shards] for catalog in (encoding, stars)]
    if sizes[0] != sizes[1] or encoding.bands != stars.bands:
        raise DamageError(
            "the encoding and the star catalog differ in their shards or bands",
            where=encoding.directory,
            got=f"{encoding.num_stars} stars in {len(sizes[0])} shards, bands {encoding.bands}",
            expected=f"{stars.num_stars} stars in {len(sizes[1])} shards, bands {stars.bands}",
            fix="encode the catalog again (--redo encode)",
        )
    return Survey(encoding, stars)


def _open(directory: Path, catalog_format: str) -> Catalog:
    catalog = open_catalog(directory)
    if catalog.format != catalog_format:
        raise InputError("the wrong kind of catalog", where=directory, got=catalog.format, expected=catalog_format)
    return catalog


def _one_shard(catalog: Catalog, index: int) -> Catalog:
    shard = catalog.shards[index]
    kept = {key: catalog.manifest[key] for key in ("format", "bands", "columns", "catalog_digest")}
    counts = {key: shard[key] for key in ("num_stars", "num_good")}
    return Catalog(catalog.directory, {**kept, **counts, "latent": _num_latent(catalog), "shards": [shard]})


def _num_latent(catalog: Catalog) -> int:
    return int(catalog.manifest.get("latent", 0))
