"""The beginning of a raw file, which is enough to decide what it is and to show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.readers.batches import read_batches, scan_head
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.mapping import understand
from hpc_ae.readers.names import RAW_PREFIX
from hpc_ae.readers.raw_file import Piece, RawFile
from hpc_ae.readers.star_rows import clean_text, is_text
from hpc_ae.reading import Reading

HEAD_ROWS = 1_000


def map_raw(raw: RawFile, mapping: Mapping[str, str], reading: Reading, *, notice: bool = True) -> RawFile:
    """The raw file with its columns understood; with `notice` its first values may raise doubts, as notes.

    InputError where the columns are not understood.
    """

    def head(indices: list[int]) -> list[np.ndarray]:
        return [numbers_of(values) for values in read_head(raw, indices)]

    found = understand(Columns(raw.path, raw.columns, raw.units, notice), mapping, reading, head)
    notes = [*_array_note(raw, found.wanted), *found.notes]
    return replace(raw, wanted=found.wanted, conversion=found.conversion, reasons=found.reasons, notes=tuple(notes))


def _array_note(raw: RawFile, wanted: Mapping[str, int]) -> list[str]:
    """Five elements of an array might be other things than bands, such as apertures: so it is said."""
    names = [raw.columns[wanted[band]] for band in DEFAULT_BANDS]
    array = names[0].removesuffix(f"_{DEFAULT_BANDS[0]}")
    if not all(name in raw.elements and name.startswith(f"{array}_") for name in names):
        return []
    return [f"the bands are the five elements of the array column {array}, in the order {', '.join(DEFAULT_BANDS)}"]


def read_head(raw: RawFile, indices: Sequence[int], num_rows: int = HEAD_ROWS) -> list[pa.ChunkedArray]:
    """The first values of some columns as they stand in the file (text, where it is text), `num_rows` at most.

    Reads the beginning of the file only. InputError where it cannot be read.
    """
    names = [f"{RAW_PREFIX}{index}" for index in indices]
    piece = head_piece(replace(raw, wanted=dict(zip(names, indices, strict=True))), num_rows)
    if not names or not piece.stop:
        return [pa.chunked_array([pa.array([], pa.float64())]) for _ in indices]
    batches = [batch for _, batch in read_batches(piece)]
    return [pa.chunked_array([part for batch in batches for part in batch[name].chunks]) for name in names]


def head_piece(raw: RawFile, num_rows: int) -> Piece:
    """The first rows of a raw file, `num_rows` at most."""
    scan = scan_head(raw)
    stop = min(num_rows, scan.num_rows)
    return Piece(0, scan.raw, 0, stop, scan.mark(0), scan.mark(stop))


def numbers_of(column: pa.ChunkedArray) -> np.ndarray:
    """float64 (N,), NaN for what is no number."""
    if is_text(column.type):
        text, reads = clean_text(column)
        column = pc.if_else(reads, text, pa.scalar(None, text.type)).cast(pa.float64())
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return np.full(len(column), np.nan)
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())
