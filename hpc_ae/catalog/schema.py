"""What a catalog holds: columns, flag bits, units. docs/data_format.md says the same in prose.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np

STAR_FORMAT = "hpc_ae/star-catalog"
ENCODING_FORMAT = "hpc_ae/encoding-catalog"
COMPRESSED_FORMAT = "hpc_ae/compressed-catalog"  # read in the room formats
SCORE_FORMAT = "hpc_ae/score-catalog"
FORMAT_VERSION = 1
SKY_ORDER = "healpix"  # what a manifest's field `order` says
DEFAULT_SHARD_ROWS = 500_000
MAX_SHARD_ROWS = 4_000_000
DEFAULT_BANDS = ("u", "g", "r", "i", "z")
MAGNITUDE_RANGE = (0.0, 30.0)
# What catalogs write where there is no magnitude. All are outside MAGNITUDE_RANGE: only the reason depends on the list.
# -9999 and -1000: SDSS; 99 and 99.99 and their kin: SExtractor, VizieR, DAOPHOT; the last: HEALPix.
SENTINELS = (
    *(-9999.0, -9999.59, -9999.99, 9999.0, 9999.99, -1000.0, -999.0, 999.0, -999.9, 999.9, -999.99, 999.99, 999.999),
    *(-99.0, 99.0, -99.9, 99.9, -99.99, 99.99, -99.999, 99.999, 99.9999, -1.6375e30),
)


class Quality(IntFlag):
    """What makes the magnitudes of a star unusable; 0 is good."""

    MISSING = 1
    NON_FINITE = 2
    SENTINEL = 4
    OUT_OF_RANGE = 8


class Caution(IntFlag):
    """What a user should know about a star, which does not exclude it."""

    ID_MISSING = 1
    ID_REPEATED = 2
    ID_DAMAGED = 4
    POSITION_MISSING = 8
    POSITION_OUTSIDE = 16
    MAGNITUDE_ZERO = 32


_MEANINGS = (
    (Quality.MISSING, "a band has no value"),
    (Quality.NON_FINITE, "a magnitude is NaN or infinite"),
    (Quality.SENTINEL, "a magnitude is a sentinel such as -9999"),
    (Quality.OUT_OF_RANGE, "a magnitude is outside 0-30 mag"),
    (Caution.ID_MISSING, "the object id is missing (stored as -1)"),
    (Caution.ID_REPEATED, "the object id occurs more than once"),
    (Caution.ID_DAMAGED, "the object id has lost digits, as a spreadsheet does to 1.24E+18"),
    (Caution.POSITION_MISSING, "ra or dec is missing"),
    (Caution.POSITION_OUTSIDE, "ra or dec is outside the sphere"),
    (Caution.MAGNITUDE_ZERO, "a magnitude is exactly 0, which often stands for no value"),
)


@dataclass(frozen=True)
class Column:
    """One dataset of a shard: `width` is '' for (N,), 'B' for (N, bands), 'L' for (N, latent)."""

    name: str
    dtype: str
    width: str = ""
    unit: str = ""
    ucd: str = ""
    optional: bool = False
    flags: type[IntFlag] | None = None

    @property
    def fill(self) -> float | int:
        """What a missing shard reads as through the virtual view."""
        fills = {"<i8": -1, "|u1": 255}
        return np.nan if self.dtype.startswith("<f") else fills.get(self.dtype, 65535)


_OBJID = Column("objid", "<i8", ucd="meta.id;meta.main")
_QUALITY = Column("quality", "<u2", ucd="meta.code.qual", flags=Quality)
_CAUTION = Column("caution", "<u2", ucd="meta.code", flags=Caution)

STAR_COLUMNS = (
    _OBJID,
    Column("ra", "<f8", unit="deg", ucd="pos.eq.ra;meta.main"),
    Column("dec", "<f8", unit="deg", ucd="pos.eq.dec;meta.main"),
    Column("magnitude", "<f4", "B", unit="mag", ucd="phot.mag"),
    Column("magnitude_error", "<f4", "B", unit="mag", ucd="stat.error;phot.mag", optional=True),
    Column("band_state", "|u1", "B", ucd="meta.code.status", optional=True),
    Column("magnitude_limit", "<f4", "B", unit="mag", ucd="phot.mag;stat.max", optional=True),
    Column("redshift", "<f4", ucd="src.redshift", optional=True),
    _QUALITY,
    _CAUTION,
)
ENCODING_COLUMNS = (
    _OBJID,
    _QUALITY,
    _CAUTION,
    Column("latent", "<f4", "L"),
    Column("reconstruction_error", "<f4", unit="mag", ucd="stat.error;phot.mag"),
    Column("reconstruction", "<f4", "B", unit="mag", ucd="phot.mag;meta.modelled", optional=True),
    Column(
        "reconstruction_uncertainty", "<f4", "B", unit="mag", ucd="stat.error;phot.mag;meta.modelled", optional=True
    ),
    Column("chi2", "<f4", ucd="stat.fit.chi2", optional=True),
    Column("num_bands", "|u1", ucd="meta.number;instr.bandpass", optional=True),
)
SCORE_COLUMNS = (
    _OBJID,
    _QUALITY,
    _CAUTION,
    Column("anomaly_score", "<f4", ucd="stat.value"),
    Column("tail_probability", "<f4", ucd="stat.probability"),
    Column("cluster", "<i2", ucd="meta.code.class"),
)
NO_CLUSTER = -1
COLUMNS = {STAR_FORMAT: STAR_COLUMNS, ENCODING_FORMAT: ENCODING_COLUMNS, SCORE_FORMAT: SCORE_COLUMNS}


def columns_of(catalog_format: str) -> dict[str, Column]:
    """The columns of a catalog format by name."""
    return {column.name: column for column in COLUMNS[catalog_format]}


def flag_meaning(flag: IntFlag) -> str:
    """What a flag says, in words. (Flags of the two kinds are equal numbers: never keys of one dictionary.)"""
    return next(text for known, text in _MEANINGS if known is flag)


def flag_name(flag: IntFlag) -> str:
    """A flag's name as counts and attributes use it: `Quality.OUT_OF_RANGE` is `out_of_range`."""
    return str(flag.name).lower()
