"""The files of a compressed catalog, shard by shard: every block is decoded again and compared before it is written.

Shape letters: B bands, L latent dimensions, n stars of a block.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_ae.analysis.compression import MagnitudeCoder
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import WorkError
from hpc_ae.files import digest_bytes
from hpc_ae.formats.compressed import MAGIC, BlockCodec, magnitude_digest
from hpc_ae.formats.compressed_records import BLOCK_ROWS, BlockRecord, CompressedShard, shard_file
from hpc_ae.formats.table import create_file


@dataclass(frozen=True)
class CompressJob:
    """What is compressed, how, and the folder that the files go to."""

    encoding: Catalog
    stars: Catalog
    codec: BlockCodec
    folder: Path

    def read(self, index: int, rows: slice) -> tuple[Arrays, np.ndarray]:
        """The columns of some stars of a shard, and their latents (n, L)."""
        joined = self.encoding.join(self.stars.directory)
        arrays = joined.read_shard(index, [*self.codec.columns, "latent"], rows)
        latent = arrays.pop("latent")
        return arrays, latent


@dataclass(frozen=True)
class WrittenShard:
    """A file that was written, and of its stars: largest error and sum of squares (B,), bytes by column."""

    record: CompressedShard
    most: np.ndarray
    squares: np.ndarray
    column_bytes: dict[str, int]


def write_compressed_shard(job: CompressJob, index: int) -> WrittenShard:
    """Write the blocks of one shard, each decoded and compared before."""
    star_shard = job.stars.shards[index]
    path = job.folder / shard_file(index)
    digest = hashlib.sha256(MAGIC)
    blocks = []
    column_bytes = dict.fromkeys(job.codec.columns, 0)
    most, squares = np.zeros(len(job.stars.bands)), np.zeros(len(job.stars.bands))
    with create_file(path) as file:
        file.write(MAGIC)
        for start in range(0, star_shard.num_stars, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, star_shard.num_stars))
            arrays, latent = job.read(index, rows)
            data, sizes = job.codec.pack(arrays, latent)
            decoded = job.codec.unpack(data, rows.stop - rows.start, job.codec.columns)
            error = _compare(arrays, decoded, job.codec.coder, f"{job.stars.shard_path(index)}, from row {start}")
            most, squares = np.maximum(most, error.max(axis=0, initial=0.0)), squares + np.square(error).sum(axis=0)
            column_bytes = {name: column_bytes[name] + sizes[name] for name in column_bytes}
            file.write(data)
            digest.update(data)
            blocks.append(_block_record(data, decoded))
    record = CompressedShard(
        file=path.name,
        num_stars=star_shard.num_stars,
        num_good=star_shard.num_good,
        objid_digest=star_shard.objid_digest,
        flags=star_shard.flags,
        num_bytes=path.stat().st_size,
        digest=f"sha256:{digest.hexdigest()}",
        blocks=tuple(blocks),
    ).placed_like(star_shard)
    if star_shard.says_ids:
        record = record.replaced(objid_range=star_shard.objid_range)
    return WrittenShard(record, most, squares, column_bytes)


def _block_record(data: bytes, decoded: Arrays) -> BlockRecord:
    return BlockRecord(
        num_stars=len(decoded["magnitude"]),
        num_bytes=len(data),
        digest=digest_bytes(data),
        magnitude_digest=magnitude_digest(decoded["magnitude"]),
    )


def _compare(arrays: Arrays, decoded: Arrays, coder: MagnitudeCoder, where: str) -> np.ndarray:
    """|decoded - magnitude| of good stars, float64 (n, B); WorkError where a column or an error is not as promised."""
    good = arrays["quality"] == 0
    exact = {name: (values, decoded[name]) for name, values in arrays.items() if name != "magnitude"}
    exact["magnitude of stars that are not good"] = (arrays["magnitude"][~good], decoded["magnitude"][~good])
    for name, (values, found) in exact.items():
        if values.shape != found.shape or values.tobytes() != found.tobytes():
            raise WorkError(f"{name} does not come back bit for bit", where=where, fix="please report this")
    error = np.abs(arrays["magnitude"][good].astype(np.float64) - decoded["magnitude"][good].astype(np.float64))
    if coder.grid is not None:
        excess = error > np.array(coder.grid.max_error)
        if excess.any():
            row, band = np.argwhere(excess)[0]
            got, expected = error[row, band], coder.grid.max_error[band]
            raise WorkError(
                "a magnitude does not come back within its error",
                where=f"{where}, good star {row}, band {band}",
                got=got,
                expected=expected,
                fix="please report this",
            )
    return np.asarray(error)
