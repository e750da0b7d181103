"""One shard: an HDF5 file that is built in memory, published whole, and opened without trust.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from hpc_ae.catalog.records import BandSums, ShardRecord
from hpc_ae.catalog.schema import (
    MAX_SHARD_ROWS,
    STAR_FORMAT,
    Column,
    columns_of,
    flag_meaning,
    flag_name,
)
from hpc_ae.catalog.states import State, count_by_bands
from hpc_ae.catalog.trust import find_outward_link, is_elsewhere, overclaimed_bytes, too_large, unknown_filters
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import digest_bytes, publish_bytes

Arrays = dict[str, np.ndarray]
CHUNK_ROWS = 65_536
_SUM_ROWS = 8_192  # (B, rows) in double precision stays in a core's cache


def hdf5_version() -> str:
    """Versions of HDF5 and of h5py."""
    return f"HDF5 {h5py.version.hdf5_version}, h5py {h5py.version.version}"


def write_shard(
    path: Path, catalog_format: str, arrays: Arrays, bands: Iterable[str], notes: dict[str, str]
) -> ShardRecord:
    """Publish a shard and return its record for the manifest.

    `arrays` holds one (N,), (N, B) or (N, L) array for each column; `notes` become attributes of the file.
    Raises WorkError where the disk is full; nothing is left behind then.
    """
    image = shard_image(catalog_format, arrays, tuple(bands), notes)
    with ThreadPoolExecutor(1) as writer:  # while the disk works, the digests are taken
        published = writer.submit(publish_bytes, path, image)
        record = shard_record(path.name, catalog_format, arrays, image)
        published.result()
    return record


def shard_image(catalog_format: str, arrays: Arrays, bands: tuple[str, ...], notes: dict[str, str]) -> memoryview:
    """The bytes of a shard. The same arrays give the same bytes, on any machine."""
    memory = io.BytesIO()  # an image of HDF5's own (core driver) must be copied out, in twice the time
    with h5py.File(memory, "w", libver=("v110", "v110")) as file:
        for key, value in {"format": catalog_format, **notes}.items():
            _write_text(file, key, value)
        for column in columns_of(catalog_format).values():
            if column.name in arrays:
                _write_column(file, column, arrays[column.name], bands)
    return memory.getbuffer()


def _write_text(file: h5py.File, key: str, text: str) -> None:
    """An attribute that every reader reads: text of fixed length, as one flipped bit among texts of variable length
    (HDF5's global heap, which has no checksum) can crash HDF5 or make it loop for ever.
    """
    data = text.encode()
    file.attrs.create(key, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(1, len(data))))


def _read_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _write_column(file: h5py.File, column: Column, values: np.ndarray, bands: tuple[str, ...]) -> None:
    data = np.ascontiguousarray(values, dtype=column.dtype)
    chunks = (max(1, min(CHUNK_ROWS, len(data))), *data.shape[1:])
    dataset = file.create_dataset(column.name, data=data, chunks=chunks, fletcher32=True)
    for key, text in (("unit", column.unit), ("ucd", column.ucd)):
        if text:
            dataset.attrs[key] = text
    if column.width == "B":
        dataset.attrs["bands"] = list(bands)
    if column.flags is not None:
        dataset.attrs["flag_masks"] = np.array([int(flag) for flag in column.flags], np.uint16)
        dataset.attrs["flag_meanings"] = [f"{flag_name(flag)}: {flag_meaning(flag)}" for flag in column.flags]


def shard_record(name: str, catalog_format: str, arrays: Arrays, image: bytes | memoryview) -> ShardRecord:
    """What the manifest says of one shard: counts, digests and, for stars, sums per band over good stars."""
    good = arrays["quality"] == 0
    return ShardRecord(
        file=name,
        num_stars=len(good),
        num_good=int(good.sum()),
        num_bytes=len(image),
        digest=digest_bytes(image),
        objid_digest=digest_bytes(np.ascontiguousarray(arrays["objid"], "<i8").data),
        objid_range=objid_range(arrays["objid"]),
        flags=count_flags(arrays, catalog_format),
        stars_by_bands=count_by_bands(arrays["band_state"]) if "band_state" in arrays else None,
        sums=band_sums(arrays["magnitude"], good, arrays.get("band_state")) if catalog_format == STAR_FORMAT else None,
    )


def objid_range(objid: np.ndarray) -> tuple[str, str] | None:
    """Smallest and largest id, as decimal strings; None where no star has one. -1 stands for a missing id."""
    least = int(objid.min()) if len(objid) else -1
    ids = objid[objid != -1] if least == -1 else objid
    return (str(ids.min()), str(ids.max())) if len(ids) else None


def count_flags(arrays: Arrays, catalog_format: str) -> dict[str, int]:
    """Number of stars with each quality and caution flag, by flag name; flags that occur nowhere are left out."""
    counts = {}
    for column in columns_of(catalog_format).values():
        for flag in column.flags or ():
            num = int(np.count_nonzero(arrays[column.name] & int(flag)))
            if num:
                counts[flag_name(flag)] = num
    return counts


def band_sums(magnitude: np.ndarray, good: np.ndarray, state: np.ndarray | None = None) -> BandSums:
    """Sums per band over the good stars of magnitude (N, B); with states (N, B) over all that is measured."""
    if state is not None:
        return _sums_of_measured(magnitude, state == State.MEASURED)
    values = magnitude if good.all() else magnitude[good]
    if not len(values):
        return BandSums((0,) * magnitude.shape[1], (), (), (), ())
    parts = []
    for start in range(0, len(values), _SUM_ROWS):
        part = np.ascontiguousarray(values[start : start + _SUM_ROWS].T).astype(np.float64) - 20.0
        # einsum, because a product of vectors would call BLAS, whose sums depend on its threads
        parts.append((part.sum(axis=1), np.einsum("bn,bn->b", part, part), part.min(axis=1), part.max(axis=1)))
    return _merged((len(values),) * magnitude.shape[1], parts)


def _sums_of_measured(magnitude: np.ndarray, measured: np.ndarray) -> BandSums:
    parts = []
    for start in range(0, len(magnitude), _SUM_ROWS):
        rows = slice(start, start + _SUM_ROWS)
        known = np.ascontiguousarray(measured[rows].T)
        part = np.where(known, np.ascontiguousarray(magnitude[rows].T).astype(np.float64) - 20.0, 0.0)
        least, most = (np.where(known, part, end) for end in (np.inf, -np.inf))
        parts.append((part.sum(axis=1), np.einsum("bn,bn->b", part, part), least.min(axis=1), most.max(axis=1)))
    return _merged(tuple(np.count_nonzero(measured, axis=0).tolist()), parts)


def _merged(num: tuple[int, ...], parts: Sequence[tuple[np.ndarray, ...]]) -> BandSums:
    """The sums of all parts, in order."""
    sums, squares, smallest, largest = (np.array(column) for column in zip(*parts, strict=True))
    return BandSums(
        num=num,
        sum=tuple(sums.sum(axis=0).tolist()),
        square=tuple(squares.sum(axis=0).tolist()),
        min=tuple((smallest.min(axis=0) + 20.0).tolist()),
        max=tuple((largest.max(axis=0) + 20.0).tolist()),
    )


@contextlib.contextmanager
def open_shard(path: Path, catalog_format: str) -> Iterator[h5py.File]:
    """Open a shard read-only after checking that it can reach no other file and declares no more than it stores."""
    if path.is_symlink():
        raise DamageError("a shard is a symbolic link", where=path, expected="a regular file inside the catalog")
    if not path.is_file():
        raise DamageError("a shard is missing", where=path, fix="restore it from a copy or make the catalog again")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _damaged(path, error) from error
    with file:
        _check_file(path, file, catalog_format)
        yield file


def read_shard(path: Path, catalog_format: str, names: Iterable[str], rows: slice = slice(None)) -> Arrays:
    """Read some columns of a shard: {name: (n,) or (n, width)}. DamageError where bytes do not match their checksum."""
    with open_shard(path, catalog_format) as file:
        return {name: read_column(path, file, name, rows) for name in names}


def read_column(path: Path, file: h5py.File, name: str, rows: slice = slice(None)) -> np.ndarray:
    """One column of an open shard; DamageError where its bytes do not match their checksum."""
    if name not in file:
        raise InputError("a shard has no such column", where=path, got=name, expected=f"one of {sorted(file)}")
    try:
        return np.asarray(file[name][rows])
    except (OSError, MemoryError) as error:
        raise _damaged(path, error, name) from error


def read_notes(path: Path, catalog_format: str) -> dict[str, str]:
    """The attributes of a shard's file: what it was made from."""
    with open_shard(path, catalog_format) as file:
        return {str(key): _read_text(value) for key, value in file.attrs.items()}


def describe_shard(path: Path, catalog_format: str) -> ShardRecord:
    """The record of a shard that is on disk, as its writer would have made it."""
    arrays = read_shard(path, catalog_format, shard_columns(path, catalog_format))
    record = shard_record(path.name, catalog_format, arrays, path.read_bytes())
    return record.replaced(compute=read_notes(path, catalog_format).get("compute"))


def shard_columns(path: Path, catalog_format: str) -> list[str]:
    """Names of the columns that a shard holds, in the order of the schema."""
    with open_shard(path, catalog_format) as file:
        return [name for name in columns_of(catalog_format) if name in file]


def _damaged(path: Path, error: Exception, name: str = "") -> DamageError:
    return DamageError(
        "a shard is damaged: it is not a readable file or does not match its checksums",
        where=f"{path}, dataset {name}" if name else path,
        got=str(error)[:200],
        fix="restore the file from a copy, or remove it and make it again",
    )


def _check_file(path: Path, file: h5py.File, catalog_format: str) -> None:
    try:
        found = _read_text(file.attrs.get("format"))
        if found != catalog_format:
            raise DamageError("not a shard of this format", where=path, got=found, expected=catalog_format)
        known = columns_of(catalog_format)
        lengths = {_check_dataset(path, file, name, known) for name in file}
        absent = [column.name for column in known.values() if not column.optional and column.name not in file]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if absent:
        raise DamageError("a dataset is missing in a shard", where=path, got=sorted(file), expected=", ".join(absent))
    if len(lengths) != 1 or max(lengths) > MAX_SHARD_ROWS:
        raise DamageError("a shard's datasets differ in length or are too long", where=path, got=sorted(lengths))


def _check_dataset(path: Path, file: h5py.File, name: str, known: dict[str, Column]) -> int:
    """Refuse what could read another file or lie about its size; return the number of rows."""

    def refuse(what: str, got: object) -> DamageError:
        return DamageError(f"a shard was refused: {what}", where=f"{path}, dataset {name}", got=got)

    if link := find_outward_link(file, name):
        raise refuse("links out of the file are not followed", link)
    dataset = file[name]
    column = known.get(name)
    if column is None or not isinstance(dataset, h5py.Dataset):
        raise refuse("unknown content", name)
    if is_elsewhere(dataset):
        raise refuse("its data lie in another file", "external storage or a virtual dataset")
    if unknown := unknown_filters(dataset):
        raise refuse("unknown filter", unknown)
    if dataset.dtype != np.dtype(column.dtype) or dataset.ndim != 1 + bool(column.width):
        raise refuse("wrong type or shape", f"{dataset.dtype} {dataset.shape}")
    if num_bytes := overclaimed_bytes(dataset):
        raise refuse("it declares more than it stores", f"{num_bytes} bytes declared")
    if said := too_large(dataset):
        raise refuse("it would take more memory than a shard needs", said)
    return int(dataset.shape[0])
