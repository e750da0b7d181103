"""An encoding catalog beside its star catalog, shard by shard.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.link import Place, check_stars
from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.records import EncodingManifest, Hdf5Manifest, StarManifest
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.states import seen_magnitudes
from hpc_ae.errors import DamageError, InputError
from hpc_ae.report.data import EXPLORE_URL

_FROM_ENCODING = ("latent", "reconstruction_error", "reconstruction", "chi2", "num_bands")
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
        """All columns of both that say something of a star, and `row`; DamageError where the stars are not the same.

        Where bands may be missing `magnitude` is NaN where one is, and `filled` (N, B) has the model's in its place.
        """
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
        found = {"row": numbers, **encoded, **{name: stars[name] for name in theirs}}
        return _with_gaps(found, "band_state" in self.stars.columns) if "num_bands" in found else found


def _with_gaps(stars: Arrays, has_states: bool) -> Arrays:
    """The stars with NaN for every band that is not measured, and all bands filled."""
    magnitude = seen_magnitudes(stars["magnitude"], has_states)
    filled = np.where(np.isnan(magnitude), stars["reconstruction"], magnitude)
    return {**stars, "magnitude": magnitude, "filled": filled}


@dataclass(frozen=True)
class Survey:
    """The two catalogs, checked to be of the same stars."""

    encoding: Catalog
    stars: Catalog

    @property
    def num_latent(self) -> int:
        """Latent dimensions."""
        return self.encoding.manifest.num_latent

    @property
    def has_reconstruction(self) -> bool:
        """Whether the encoding has the magnitudes that the model makes of the latents."""
        return "reconstruction" in self.encoding.columns

    @property
    def has_gaps(self) -> bool:
        """Whether stars with latents may lack bands."""
        return "num_bands" in self.encoding.columns

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
    def explore_url(self) -> str:
        """The page about a place: the survey's own, SkyServer's where nothing is said, "" where there is none."""
        survey = self.stars.manifest_as(StarManifest).survey
        return EXPLORE_URL if survey is None else survey.explore or ""

    @property
    def colours(self) -> list[str]:
        """Names of the colours of neighbouring bands: u-g, g-r, ..."""
        return [f"{one}-{two}" for one, two in zip(self.stars.bands, self.stars.bands[1:], strict=False)]


def open_survey(encoding_dir: Path, star_dir: Path) -> Survey:
    """Open both catalogs.

    InputError where one is missing or of the wrong kind, StaleError where the encoding is of another star catalog,
    DamageError where they differ in their shards.
    """
    encoding = Catalog(encoding_dir, read_manifest(encoding_dir, EncodingManifest))
    stars = Catalog(star_dir, read_manifest(star_dir, StarManifest))
    check_stars(Place(encoding_dir, encoding.manifest), Place(star_dir, stars.manifest))
    survey = Survey(encoding, stars)
    if survey.has_gaps and not survey.has_reconstruction:
        raise InputError(
            "stars that lack bands are judged by what the model predicts of these",
            where=encoding_dir,
            got="an encoding without reconstruction",
            expected="encode.reconstruction: true where model.missing is mask",
            fix="encode again with encode.reconstruction=true (--redo encode)",
        )
    return survey


def _one_shard(catalog: Catalog, index: int) -> Catalog:
    return Catalog(catalog.directory, catalog.manifest_as(Hdf5Manifest).of_shard(index))
