"""What the manifest of a compressed catalog says, as records. docs/data_format.md says the same in prose."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from hpc_ae.analysis.band_predictor import PredictorRecord
from hpc_ae.catalog.records import Count, ErrorByBand, Inputs, Link, Manifest, ShardRecord
from hpc_ae.record import Record

COMPRESSED_VERSION = 1
BLOCK_ROWS = 131_072
_SHARD_NAME = r"shard-[0-9]{5,}\.zst"
_MOST_BYTES = 1 << 40
FileBytes = Annotated[int, Field(ge=0, le=_MOST_BYTES)]


def shard_file(index: int) -> str:
    """Name of file `index`, counted from 0."""
    return f"shard-{index:05d}.zst"


class BlockRecord(Record):
    """A block of a file: what it takes, and the digest of the float32 magnitudes that it decodes to."""

    num_stars: Annotated[int, Field(ge=0, le=BLOCK_ROWS)]
    num_bytes: FileBytes
    digest: str
    magnitude_digest: str


class CompressedShard(ShardRecord):
    """A file of blocks, with the stars of one star shard."""

    placed_last: ClassVar[tuple[str, ...]] = ("num_bytes", "digest", "blocks")

    file: Annotated[str, Field(pattern=f"^{_SHARD_NAME}$")]
    num_bytes: FileBytes
    blocks: tuple[BlockRecord, ...]


class CompressedInputs(Inputs):
    """What was compressed, and the model that lies in the catalog."""

    catalog: Link
    encoding: Link
    model: Link


class CompressedManifest(Manifest):
    """The manifest of a compressed catalog. `error` was measured on decoding; bytes say where the room goes."""

    format_version: ClassVar[int | None] = COMPRESSED_VERSION
    nulls: ClassVar[frozenset[str]] = frozenset({"max_error", "predictor"})
    placed_last: ClassVar[tuple[str, ...]] = (
        *("objid", "order", "catalog_digest", "max_error", "latent_bits", "latent_low", "latent_high", "predictor"),
        *("error", "column_bytes", "model_bytes", "inputs", "provenance", "shards", "digest"),
    )

    objid: str | None = None
    max_error: tuple[float, ...] | None
    latent_bits: int
    latent_low: tuple[float, ...]
    latent_high: tuple[float, ...]
    predictor: PredictorRecord | None
    error: ErrorByBand
    column_bytes: dict[str, Count]
    model_bytes: Count
    inputs: CompressedInputs
    shards: tuple[CompressedShard, ...]
