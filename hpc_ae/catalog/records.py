"""What a manifest says, as records: shards, inputs, and the manifests of star, encoding and score catalogs.

docs/data_format.md says the same in prose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, TypedDict, TypeVar

from pydantic import Field, model_validator
from pydantic_core import ErrorDetails

from hpc_ae.catalog.schema import (
    ENCODING_FORMAT,
    FORMAT_VERSION,
    MAX_SHARD_ROWS,
    SCORE_FORMAT,
    SKY_ORDER,
    STAR_FORMAT,
)
from hpc_ae.files import canonical_json, digest_bytes
from hpc_ae.layout import SHARD_NAME
from hpc_ae.provenance import Fingerprint, Provenance
from hpc_ae.record import Names, Record

Count = Annotated[int, Field(ge=0)]
ShardRows = Annotated[int, Field(ge=0, le=MAX_SHARD_ROWS)]
IdText = Annotated[str, Field(pattern="^-?[0-9]{1,19}$")]  # ids above 2^53 are strings in JSON
Counts = dict[str, Count]
_NUM_PIXELS = 12 << 58  # HEALPix of order 29
# What is said first where a field of a shard's record is wrong.
_WRONG = {
    "file": "the manifest names a file that is no shard",
    "num_stars": "the manifest has a wrong num_stars",
    "num_good": "the manifest has a wrong num_good",
    "objid_range": "a shard's range of ids is wrong",
    "healpix": "a shard's range in the sky is missing or wrong",
}
WRONG_NAMES = "the manifest has wrong bands or columns"


class SkyRange(Record):
    """First and last HEALPix number, nested, order 29, of the stars of a shard."""

    first: IdText
    last: IdText

    @property
    def numbers(self) -> tuple[int, int]:
        """Both as numbers."""
        return int(self.first), int(self.last)

    @model_validator(mode="after")
    def _on_the_sphere(self) -> Self:
        first, last = self.numbers
        if not 0 <= first <= last < _NUM_PIXELS:
            raise ValueError(f"no range of HEALPix numbers: {first} to {last}")
        return self


@dataclass(frozen=True)
class BandSums:
    """Per band over the good stars of a shard (over those measured in it, where states are known): their number, sum
    and sum of squares about 20 mag, smallest, largest.
    """

    num: tuple[int, ...]
    sum: tuple[float, ...]
    square: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]


class ShardRecord(Record):
    """What a manifest says of one shard. `sums` are a new star shard's, on their way to the manifest's statistics."""

    nulls_said: ClassVar[frozenset[str]] = frozenset({"objid_range", "healpix"})

    file: Annotated[str, Field(pattern=f"^(?:{SHARD_NAME.pattern})$")]
    num_stars: ShardRows
    num_good: ShardRows
    num_bytes: Count
    digest: str
    objid_digest: str
    objid_range: tuple[IdText, IdText] | None = None
    flags: Counts = Field(default_factory=dict)
    compute: str | None = None
    healpix: SkyRange | None = None
    stars_by_bands: tuple[Count, ...] | None = None  # with 0, 1, ..., B measured bands, where states are known
    sums: BandSums | None = Field(default=None, exclude=True)

    @property
    def says_ids(self) -> bool:
        """Whether there is a range of ids, be it that of none; catalogs of the package's first version have none."""
        return "objid_range" in self.model_fields_set

    @property
    def says_sky(self) -> bool:
        """Whether there is a range in the sky, be it that of no star: so in catalogs in sky order."""
        return "healpix" in self.model_fields_set

    def placed_like(self, stars: ShardRecord) -> Self:
        """The same with the range in the sky of the star shard whose rows it has, if that has one."""
        return self.replaced(healpix=stars.healpix) if stars.says_sky else self


class Link(Record):
    """Another catalog, or a model, that a catalog was made from: relative path, where that is known, and digest."""

    path: str | None = None
    digest: str


class RawRecord(Record):
    """One raw file of an ingest: how it was understood, and what became of its rows; one of its tables, by `table`,
    where several were taken.
    """

    name: str
    table: str | None = None
    num_bytes: Count
    digest: str
    mapping: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    num_rows: Count
    num_stars: Count
    num_dropped: Count
    num_not_kept: Count = 0
    counts: Counts = Field(default_factory=dict)
    removed: Counts = Field(default_factory=dict)


class ErrorByBand(Record):
    """What compression changed the magnitudes of good stars by, per band in mag."""

    max: dict[str, Annotated[float, Field(ge=0)]]
    rms: dict[str, Annotated[float, Field(ge=0)]]


class CompressedLink(Record):
    """The compressed catalog that a star catalog was restored from; `catalog_digest` is that of the original."""

    nulls: ClassVar[frozenset[str]] = frozenset({"max_error"})

    digest: str
    max_error: tuple[float, ...] | None = None
    error: ErrorByBand
    catalog_digest: str


class Inputs(Record):
    """What a catalog was made from."""

    raw: tuple[RawRecord, ...] | None = None
    catalog: Link | None = None
    encoding: Link | None = None
    model: Link | None = None
    compressed: CompressedLink | None = None

    def digests(self) -> dict[str, str]:
        """The digests of the catalogs and the model, by name."""
        links = {"catalog": self.catalog, "encoding": self.encoding, "model": self.model}
        return {name: link.digest for name, link in links.items() if link is not None}


class BandStatistics(Record):
    """Of a band over all good stars: mean, standard deviation (population), min, max, in mag."""

    mean: float
    std: float
    min: float
    max: float


class Manifest(Record):
    """What every manifest says; each kind of catalog has fields of its own, and its order of them all in the file."""

    format_version: ClassVar[int | None] = FORMAT_VERSION

    format: str
    version: Annotated[int, Field(ge=1)]
    num_stars: Count
    num_good: Count
    catalog_digest: str
    bands: Names
    columns: Names
    order: str | None = None
    inputs: Inputs = Field(default_factory=Inputs)
    provenance: Provenance = Field(default_factory=Provenance)
    shards: tuple[ShardRecord, ...]
    digest: str = ""  # of the rest: made when it is sealed

    @property
    def num_latent(self) -> int:
        """Latent dimensions, 0 where there are none."""
        return 0

    @property
    def is_sky_ordered(self) -> bool:
        """Whether the stars are in sky order."""
        return self.order == SKY_ORDER

    @classmethod
    def describe(cls, problems: Sequence[ErrorDetails]) -> str:
        """The fault of a shard's record in words, where there is one."""
        places = [one["loc"] for one in problems if "shards" in one["loc"]]
        found = [text for place in places for name, text in _WRONG.items() if name in place]
        if any({"bands", "columns"} & set(one["loc"]) for one in problems):
            found.append(WRONG_NAMES)
        return found[0] if found else "a field of the manifest is missing or has the wrong type"


class Hdf5Manifest(Manifest):
    """The manifest of a catalog whose shards are HDF5 files. `flags` counts stars, `fingerprint` decides a skip."""

    flags: Counts = Field(default_factory=dict)
    fingerprint: Fingerprint = Field(default_factory=dict)

    def of_shard(self, index: int) -> Self:
        """The manifest of one shard alone, less what it was made from: small enough to be sent to every worker."""
        shard = self.shards[index]
        return self.replaced(
            shards=(shard,),
            num_stars=shard.num_stars,
            num_good=shard.num_good,
            inputs=Inputs(),
            fingerprint={},
            provenance=Provenance(),
        )


class SurveyBand(Record):
    """A band as its survey's file has it: mean wavelength in nm, system of the magnitudes."""

    name: str
    nm: float | None = None
    system: str


class SurveyRecord(Record):
    """Whose bands a star catalog has, and the address of a page about a place, with {ra} and {dec}."""

    name: str
    title: str
    bands: tuple[SurveyBand, ...]
    explore: str | None = None


class StarManifest(Hdf5Manifest):
    """The manifest of a star catalog. `objid` says where the ids come from; `num_rows` and the like count raw rows.

    `survey` and `stars_by_bands` are there where bands may be missing: whose they are, and the counts of stars with 0,
    1, ..., B measured bands.
    """

    placed_last: ClassVar[tuple[str, ...]] = (
        *("flags", "objid", "order", "bands", "survey", "stars_by_bands", "columns", "inputs", "num_rows"),
        *("num_dropped", "num_not_kept"),
        *("fingerprint", "provenance", "statistics", "shards", "digest"),
    )

    objid: str | None = None
    num_rows: Count | None = None
    num_dropped: Count | None = None
    num_not_kept: Count | None = None
    survey: SurveyRecord | None = None
    stars_by_bands: tuple[Count, ...] | None = None
    statistics: dict[str, BandStatistics] = Field(default_factory=dict)


class SortedManifest(StarManifest):
    """That of a star catalog which `hpc-ae order` made: the same fields in another order."""

    placed_last: ClassVar[tuple[str, ...]] = (
        *("flags", "objid", "bands", "survey", "stars_by_bands", "columns", "num_rows", "num_dropped", "order"),
        *("inputs",),
        *("fingerprint", "provenance", "statistics", "shards", "digest"),
    )


class ViewRecord(Record):
    """The view of an encoding: all its shards as one table."""

    file: str
    num_bytes: Count
    digest: str


class EncodingManifest(Hdf5Manifest):
    """The manifest of an encoding catalog. `compute` is the path of the arithmetic."""

    nulls: ClassVar[frozenset[str]] = frozenset({"compute"})
    placed_last: ClassVar[tuple[str, ...]] = (
        *("flags", "bands", "latent", "min_bands", "columns", "order", "compute", "inputs", "fingerprint"),
        *("provenance", "view", "shards", "digest"),
    )

    latent: Count
    min_bands: Count | None = None  # where the model sees which bands there are: with fewer a star has no latent
    compute: str | None = None
    view: ViewRecord | None = None

    @property
    def num_latent(self) -> int:
        """Latent dimensions."""
        return self.latent


class ScoreManifest(Hdf5Manifest):
    """The manifest of a score catalog. `files` has the digests of what lies beside its shards."""

    placed_last: ClassVar[tuple[str, ...]] = (
        *("flags", "bands", "min_bands", "columns", "order", "files", "inputs", "fingerprint", "provenance", "shards"),
        *("digest",),
    )

    min_bands: Count | None = None  # as in the manifest of the encoding
    files: dict[str, str]


M = TypeVar("M", bound=Manifest)
KINDS: dict[str, type[Hdf5Manifest]] = {
    STAR_FORMAT: StarManifest,
    ENCODING_FORMAT: EncodingManifest,
    SCORE_FORMAT: ScoreManifest,
}


class Summed(TypedDict):
    """The fields of a manifest that follow from its shards."""

    format: str
    version: int
    num_stars: int
    num_good: int
    catalog_digest: str
    flags: Counts
    shards: tuple[ShardRecord, ...]


def summed(catalog_format: str, shards: Sequence[ShardRecord]) -> Summed:
    """What a manifest says of its shards together."""
    flags: Counts = {}
    for shard in shards:
        for name, num in shard.flags.items():
            flags[name] = flags.get(name, 0) + num
    return {
        "format": catalog_format,
        "version": FORMAT_VERSION,
        "num_stars": sum(shard.num_stars for shard in shards),
        "num_good": sum(shard.num_good for shard in shards),
        "catalog_digest": catalog_digest(shards),
        "flags": flags,
        "shards": tuple(shards),
    }


def stars_by_bands(shards: Sequence[ShardRecord]) -> tuple[int, ...] | None:
    """The counts of stars with 0, 1, ..., B measured bands, of all shards; None where the states are not known."""
    counts = [shard.stars_by_bands for shard in shards]
    known = [one for one in counts if one is not None]
    return tuple(map(sum, zip(*known, strict=True))) if known and len(known) == len(counts) else None


def catalog_digest(shards: Sequence[ShardRecord]) -> str:
    """Digest of a catalog: that of its shard digests in order."""
    return digest_bytes(canonical_json([shard.digest for shard in shards]))
