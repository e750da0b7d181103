"""A compressed catalog: a directory of a manifest, the model, and files of blocks, read as a star catalog.

A block of stars is read, checked and decoded on its own, so memory does not grow with the catalog.
Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpc_ae.analysis.band_predictor import BandPredictor
from hpc_ae.analysis.compression import MagnitudeCoder
from hpc_ae.analysis.grids import LEAST_ERROR, MOST_ERROR, MOST_LATENT_BITS, Grid, LatentGrid
from hpc_ae.analysis.planes import column_of_streams, column_streams
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.records import catalog_digest
from hpc_ae.catalog.schema import COMPRESSED_FORMAT, STAR_FORMAT, Column, columns_of
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import DamageError, HpcAeError, InputError
from hpc_ae.files import digest_bytes, open_regular, read_json, read_regular
from hpc_ae.formats.compressed_records import BlockRecord, CompressedManifest, CompressedShard, shard_file
from hpc_ae.formats.streams import FAST_LEVEL, PackedBlock, pack_block, packed_size
from hpc_ae.layout import MANIFEST_NAME

MODEL_DIR = "model"
MAGIC = b"HPCAEZ\x01\n"
MUST_HAVE = ("objid", "ra", "dec", "magnitude", "quality", "caution")
_BAD = "magnitude_bad"
_MOST_VECTOR = 64
_TABLE_BITS = 12
Decode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class BlockCodec:
    """Blocks of stars to bytes and back. `decode` is the model's exact decoder: latents (N, L) to magnitudes (N, B)."""

    coder: MagnitudeCoder
    decode: Decode
    num_bands: int
    columns: tuple[str, ...]

    def pack(self, arrays: Arrays, latent: np.ndarray) -> tuple[bytes, dict[str, int]]:
        """A block of the columns of some stars and their latents (N, L), and how many bytes each column takes."""
        good = arrays["quality"] == 0
        integers = self.coder.latent_grid.to_integers(latent[good])
        own = self.coder.encode(arrays["magnitude"][good], integers, self._predict(integers))
        own |= column_streams(_BAD, arrays["magnitude"][~good], delta=False)
        streams, column_of = dict(own), dict.fromkeys(own, "magnitude")
        levels: dict[str, int] = {}
        for name in (name for name in self.columns if name != "magnitude"):
            found = _smaller(name, arrays[name])
            streams |= found
            column_of |= dict.fromkeys(found, name)
            levels |= dict.fromkeys(found, FAST_LEVEL)
        data, sizes = pack_block(streams, levels)
        return data, {name: sum(sizes[one] for one in sizes if column_of[one] == name) for name in self.columns}

    def unpack(self, data: bytes | memoryview, num_stars: int, names: Sequence[str]) -> Arrays:
        """Columns of a block of `num_stars`; DamageError where it is not one."""
        block = PackedBlock(data, num_stars * 8 * (len(self.columns) + 2 * self.num_bands + _MOST_VECTOR))
        return {name: self._column(block, name, num_stars) for name in names}

    def _column(self, block: PackedBlock, name: str, num_stars: int) -> np.ndarray:
        if name != "magnitude":
            column = columns_of(STAR_FORMAT)[name]
            shape = (num_stars, self.num_bands) if column.width else (num_stars,)
            return column_of_streams(block, name, column.dtype, shape)
        good = column_of_streams(block, "quality", "<u2", (num_stars,)) == 0
        num_good = int(good.sum())
        magnitude = np.empty((num_stars, self.num_bands), np.float32)
        magnitude[~good] = column_of_streams(block, _BAD, "<f4", (num_stars - num_good, self.num_bands))
        integers = self.coder.decode_latents(block, num_good)
        magnitude[good] = self.coder.decode(block, integers, self._predict(integers))
        return magnitude

    def _predict(self, integers: np.ndarray) -> np.ndarray:
        """The model's magnitudes float64 (N, B) of latent integers (N, L): looked up where there are few of them."""
        grid = self.coder.latent_grid
        if grid.bits * len(grid.low) > _TABLE_BITS:
            return self.decode(grid.to_latents(integers))
        return np.asarray(self._table[integers @ (1 << grid.bits * np.arange(len(grid.low)))])

    @cached_property
    def _table(self) -> np.ndarray:
        """The model's magnitudes of all latent integers there are, the first dimension running fastest."""
        grid = self.coder.latent_grid
        places = np.arange(1 << grid.bits * len(grid.low))
        integers = [(places >> grid.bits * index) & ((1 << grid.bits) - 1) for index in range(len(grid.low))]
        return self.decode(grid.to_latents(np.column_stack(integers)))


def _smaller(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """The streams of a column as numbers or as differences, whichever take less room."""
    plain, delta = (column_streams(name, values, delta=one) for one in (False, True))
    return delta if packed_size(delta, 1) < packed_size(plain, 1) else plain


def read_coder(manifest: CompressedManifest, where: object) -> MagnitudeCoder:
    """The coder that a manifest describes; DamageError where it cannot be."""
    low, high, bits, num_bands = manifest.latent_low, manifest.latent_high, manifest.latent_bits, len(manifest.bands)
    try:
        if not 0 <= bits <= MOST_LATENT_BITS or not 1 <= len(low) == len(high) <= _MOST_VECTOR:
            raise ValueError(f"latents of {bits} bits between {low[:3]} and {high[:3]}")
        if not 1 <= num_bands <= _MOST_VECTOR:
            raise ValueError(f"{num_bands} bands")
        latent_grid = LatentGrid(bits, low, high)
        if manifest.max_error is None:
            return MagnitudeCoder(latent_grid, None, None)
        check_max_error(manifest.max_error, num_bands)
        if manifest.predictor is None:
            raise ValueError("a maximum error, but no predictor")
        predictor = BandPredictor.of_record(manifest.predictor, latent_grid.num_cells, num_bands)
        return MagnitudeCoder(latent_grid, Grid(manifest.max_error), predictor)
    except (TypeError, ValueError, OverflowError, InputError) as error:
        raise DamageError("the manifest does not say how it is coded", where=where, got=repr(error)[:300]) from error


def check_max_error(max_error: Sequence[float], num_bands: int) -> None:
    """InputError where maximum errors per band in mag are not 0 (nothing is lost) or within the limits."""
    wrong = [value for value in max_error if value != 0 and not LEAST_ERROR <= value <= MOST_ERROR]
    if len(max_error) != num_bands or wrong:
        raise InputError(
            "a maximum error that cannot be kept",
            where="--max-error",
            got=list(max_error)[:9],
            expected=f"for each of {num_bands} bands 0 (without loss) or {LEAST_ERROR} to {MOST_ERROR} mag",
        )


def is_compressed(directory: Path) -> bool:
    """Whether a directory's manifest says that it is a compressed catalog, be it damaged or not."""
    path = directory / MANIFEST_NAME
    return path.is_file() and COMPRESSED_FORMAT.encode() in read_regular(path)


def parse_compressed_manifest(path: Path, values: dict[str, Any]) -> CompressedManifest:
    """The manifest of a compressed catalog that a JSON object at `path` says.

    DamageError where a field is missing, it names a file outside its directory or contradicts itself.
    """
    if (found := values.get("format")) != COMPRESSED_FORMAT:
        raise DamageError("not a compressed catalog", where=path, got=found, expected=COMPRESSED_FORMAT)
    manifest = CompressedManifest.parse(values, path)
    if wrong := next(_contradictions(manifest), None):
        raise DamageError("the manifest of a compressed catalog contradicts itself", where=path, got=wrong)
    read_coder(manifest, path)
    return manifest


def _contradictions(manifest: CompressedManifest) -> Iterator[str]:
    """What of fields that are right each does not go together."""
    columns, shards = set(manifest.columns), manifest.shards
    if not set(MUST_HAVE) <= columns <= columns_of(STAR_FORMAT).keys() or len(columns) < len(manifest.columns):
        yield f"columns {', '.join(manifest.columns)}"
    for index, shard in enumerate(shards):
        if shard.file != shard_file(index):
            yield f"a shard of name {shard.file!r}"
        if sum(block.num_stars for block in shard.blocks) != shard.num_stars:
            yield f"{shard.file}: blocks of another number of stars"
        if len(MAGIC) + sum(block.num_bytes for block in shard.blocks) != shard.num_bytes:
            yield f"{shard.file}: blocks of another number of bytes"
    if any(set(manifest.bands) - errors.keys() for errors in (manifest.error.max, manifest.error.rms)):
        yield "bands without an error"
    if manifest.num_stars != sum(shard.num_stars for shard in shards):
        yield f"{manifest.num_stars} stars"
    if manifest.num_good != sum(shard.num_good for shard in shards):
        yield f"{manifest.num_good} good stars"
    if manifest.catalog_digest != catalog_digest(shards):
        yield "catalog_digest"


class CompressedCatalog(Catalog):
    """A compressed catalog as the star catalog that it holds; every block is checked against its digests."""

    manifest: CompressedManifest
    shards: tuple[CompressedShard, ...]

    def __init__(self, directory: Path, manifest: CompressedManifest, decode: Decode) -> None:
        super().__init__(directory, manifest)
        coder = read_coder(manifest, directory / MANIFEST_NAME)
        self.codec = BlockCodec(coder, decode, len(self.bands), manifest.columns)

    @property
    def schema(self) -> dict[str, Column]:
        """Those of a star catalog."""
        return columns_of(STAR_FORMAT)

    @property
    def errors(self) -> dict[str, float]:
        """Largest difference of a good star's magnitude to that of the catalog that was compressed, mag, per band."""
        return {band: self.manifest.error.max[band] for band in self.bands}

    def read_shard(self, index: int, names: Sequence[str], rows: slice = slice(None)) -> Arrays:
        """Columns of one shard: {name: (n,) or (n, width)}; DamageError where a block is not what was written."""
        start, stop, step = rows.indices(self.shards[index].num_stars)
        parts = []
        first = 0
        for number, block in enumerate(self.shards[index].blocks):
            low, high = max(start, first), min(stop, first + block.num_stars)
            if low < high:
                arrays = self.read_block(index, number, names)
                parts.append({name: values[low - first : high - first] for name, values in arrays.items()})
            first += block.num_stars
        if not parts:
            return self._empty(names)
        return {name: np.concatenate([part[name] for part in parts])[::step] for name in names}

    def read_block(self, index: int, number: int, names: Sequence[str]) -> Arrays:
        """Columns of block `number` of shard `index`."""
        record, path = self.shards[index].blocks[number], self.shard_path(index)
        where = f"{path}, block {number}"
        try:
            data = self._read_bytes(index, number)
            if digest_bytes(data) != record.digest:
                raise DamageError("a block has changed since it was written", expected=record.digest)
            arrays = self.codec.unpack(data, record.num_stars, names)
            if "magnitude" in arrays:
                _check_magnitudes(arrays["magnitude"], record)
        except DamageError as error:
            raise DamageError(
                error.what,
                where=where,
                got=error.got,
                expected=error.expected,
                fix="restore the file from a copy or compress again",
            ) from error
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DamageError("a block cannot be decoded", where=where, got=repr(error)[:200]) from error
        return arrays

    def _read_bytes(self, index: int, number: int) -> bytes:
        path = self.shard_path(index)
        sizes = [block.num_bytes for block in self.shards[index].blocks]
        with open_regular(path) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes != self.shards[index].num_bytes:
                what = "a file of a compressed catalog has the wrong size"
                raise DamageError(what, got=num_bytes, expected=self.shards[index].num_bytes)
            if file.read(len(MAGIC)) != MAGIC:
                raise DamageError("not a file of a compressed catalog", expected=MAGIC)
            file.seek(len(MAGIC) + sum(sizes[:number]))
            return file.read(sizes[number])

    def check_blocks(self, index: int) -> Iterator[HpcAeError]:
        """Decode every column of every block of a shard: what is wrong with them."""
        for number in range(len(self.shards[index].blocks)):
            try:
                self.read_block(index, number, self.columns)
            except HpcAeError as error:
                yield error


def open_compressed(directory: Path, load_decoder: Callable[[Path, str], Decode]) -> CompressedCatalog:
    """A compressed catalog, decoded by the model in its own directory: `load_decoder(model_dir, digest)` reads it.

    InputError where there is none, DamageError where its manifest or model does not hold.
    """
    path = directory / MANIFEST_NAME
    manifest = parse_compressed_manifest(path, read_json(path, sealed=True))
    decode = load_decoder(directory / MODEL_DIR, manifest.inputs.model.digest)
    low = np.array([manifest.latent_low], np.float64)
    try:
        fits = decode(low).shape == (1, len(manifest.bands))
    except (ValueError, IndexError):
        fits = False
    if not fits:
        what = "the model in a compressed catalog does not match its bands and latents"
        raise DamageError(what, where=directory / MODEL_DIR, expected=f"{low.shape[1]} to {len(manifest.bands)}")
    return CompressedCatalog(directory, manifest, decode)


def _check_magnitudes(magnitude: np.ndarray, record: BlockRecord) -> None:
    """DamageError where decoded magnitudes are not, bit for bit, those whose error was checked when they were coded."""
    found = magnitude_digest(magnitude)
    if found != record.magnitude_digest:
        raise DamageError(
            "the magnitudes differ from those that were checked when the catalog was compressed",
            got=found,
            expected=record.magnitude_digest,
        )


def magnitude_digest(magnitude: np.ndarray) -> str:
    """Digest of magnitudes float32 (N, B), bit for bit."""
    return digest_bytes(np.ascontiguousarray(magnitude, "<f4").data)
