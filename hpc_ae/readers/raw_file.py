"""One raw file as the readers know it, the pieces that shards are read from, and the errors that all readers share."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.conversion import Conversion
from hpc_ae.readers.names import RAW_PREFIX
from hpc_ae.readers.surveys import Survey

Kind = Literal["csv", "parquet", "fits", "hdf5"]
# What a reader yields: the first row of a batch, counted in the file from 0, and its columns by our names.
Batches = Iterator[tuple[int, dict[str, pa.ChunkedArray]]]

BATCH_ROWS = 65_536
BATCH_BYTES = 1 << 23
FORMATS = "CSV, TSV, whitespace-separated text, FITS, VOTable, HDF5 or Parquet"
_MOST_ELEMENTS = 32  # a wider array column is a spectrum or a profile, nothing that a star has five of
_ANYONES = re.compile(r"(?i)(mag(nitude)?s?|flux(es)?)(_?(err(or)?s?|sigma|ivar))?")
_VALUE_TYPE = re.compile(
    r"u?int\d+|halffloat|float|double|decimal\d*\(.*\)|null|(large_)?(string(_view)?|binary)"
    r"|dictionary<values=(u?int\d+|float|double|(large_)?(string(_view)?|binary)),.*>"
)
_CONDITION_TYPE = re.compile(r"bool|dictionary<values=bool,.*>")


@dataclass(frozen=True)
class RawFile:
    """A recognised table of a raw file. `path` is what the user named, `data_path` holds its bytes uncompressed.

    `columns` has every column, the elements of array columns one by one; `units` and `dtypes` are as long, with ""
    where the file does not say. `layout` is what the reader of this kind needs to find a column.
    """

    path: Path
    data_path: Path
    kind: Kind
    columns: tuple[str, ...]
    wanted: dict[str, int] = field(default_factory=dict)  # our name -> index in columns
    delimiter: str = ","  # of a CSV; a blank stands for any run of blanks and tabs
    data_start: int = 0  # first byte after the header, of a CSV
    data_stop: int = 0  # one past the last byte
    units: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    num_rows: int = -1  # -1 where rows must be counted
    table: str = ""  # which table of the file
    dialect: str = ""  # in words
    layout: Any = None
    elements: frozenset[str] = frozenset()  # the columns that `element_names` made of array columns
    conversion: Conversion = field(default_factory=Conversion)
    survey: Survey | None = None  # whose bands they are, with those that are there alone; None before it is understood
    has_states: bool = False  # whether bands may be missing, and the catalog says which
    reasons: dict[str, str] = field(default_factory=dict)  # our name -> why that column was taken
    notes: tuple[str, ...] = ()  # what a user should know of how the file was understood

    def __post_init__(self) -> None:
        for name in ("units", "dtypes"):
            if not getattr(self, name):
                object.__setattr__(self, name, ("",) * len(self.columns))

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands that were found."""
        return self.survey.band_names if self.survey else ()

    @property
    def name(self) -> str:
        """The file's name with the `key=value` directories that it lies in."""
        return "/".join((*partition_dirs(self.path), self.path.name))


def partition_dirs(path: Path) -> list[str]:
    """The unbroken run of `key=value` directories above a file, outermost first."""
    found: list[str] = []
    for part in reversed(path.parent.parts):
        if "=" not in part.lstrip("="):
            break
        found.insert(0, part)
    return found


@dataclass(frozen=True)
class Mark:
    """A byte offset of a CSV that has `num_rows` complete rows before it."""

    offset: int
    num_rows: int


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a raw file; the marks lie shortly before the end of the rows `start` and `stop`."""

    index: int  # of the file among the inputs
    raw: RawFile
    start: int
    stop: int
    low: Mark
    high: Mark


@dataclass(frozen=True)
class Scan:
    """What the first pass found in a raw file."""

    raw: RawFile
    num_rows: int
    marks: tuple[Mark, ...] = ()

    def mark(self, row: int) -> Mark:
        """The last mark before the end of the `row`-th row."""
        index = bisect_left(self.marks, row, key=lambda mark: mark.num_rows) - 1
        return self.marks[index] if index >= 0 else Mark(self.raw.data_start, 0)


def cut_pieces(scans: list[Scan], start: int, stop: int) -> list[Piece]:
    """The pieces that hold rows `start` to `stop` of all raw files in order."""
    pieces = []
    first = 0
    for index, scan in enumerate(scans):
        low, high = max(start - first, 0), min(stop - first, scan.num_rows)
        if low < high:
            pieces.append(Piece(index, scan.raw, low, high, scan.mark(low), scan.mark(high)))
        first += scan.num_rows
    return pieces


def element_names(name: str, num_elements: int) -> list[str]:
    """What the elements of an array column are called: five are SDSS's bands in its order, others are numbered from 1,
    and so are five of a name that is nobody's own, such as `mag`: they may be grizy as well.

    An empty list where the array is too long to be columns.
    """
    if num_elements == 1:
        return [name]
    if num_elements == len(DEFAULT_BANDS) and not _ANYONES.fullmatch(name):
        return [f"{name}_{band}" for band in DEFAULT_BANDS]
    return [f"{name}_{index + 1}" for index in range(num_elements)] if num_elements <= _MOST_ELEMENTS else []


def check_types(raw: RawFile) -> None:
    """InputError where a wanted column holds neither numbers nor text, one of a condition nor truth values either."""
    for name, index in raw.wanted.items():
        kind = raw.dtypes[index]
        if not kind or _VALUE_TYPE.fullmatch(kind):
            continue
        if not name.startswith(RAW_PREFIX):
            raise bad_value(raw, name, 1, f"values of type {kind}")
        if not _CONDITION_TYPE.fullmatch(kind):
            raise InputError(
                "a condition is on a column that cannot be compared",
                where=f"{raw.path}, column {raw.columns[index]}",
                got=f"values of type {kind}",
                expected="numbers, text or truth values",
                fix="leave out the --keep that names it",
            )


def unreadable(path: Path, got: object, fix: str = "") -> InputError:
    """A file whose content is not what its beginning promises."""
    return InputError(
        "a raw file cannot be read",
        where=path,
        got=str(got)[:300],
        expected=FORMATS,
        fix=fix or "check the file, or fetch it again",
    )


def bad_value(raw: RawFile, name: str, row: int, text: str) -> InputError:
    """A value that is no number; `row` counts the stars of the file from 1."""
    column = raw.columns[raw.wanted[name]] if name in raw.wanted else name
    if name.startswith(RAW_PREFIX):
        return InputError(
            "a value that a condition compares is not a number",
            where=f"{raw.path}, row {row:,}, column {column}",
            got=repr(text[:80]),
            expected="a number, or nothing if there is no value",
            fix="correct the row, or compare with = or != instead",
        )
    return InputError(
        "a value is not a number",
        where=f"{raw.path}, row {row:,}, column {column} (read as {name})",
        got=repr(text[:160]),
        expected="a number, or nothing if there is no value",
        fix=f"correct the row, or name another column with --map {name}=COLUMN; "
        f"the columns are {', '.join(raw.columns[:60])}",
    )


def wrong_count(raw: RawFile, got: int, expected: int) -> InputError:
    """Rows are conserved: what was counted and what was read differ."""
    return InputError(
        "the number of rows read differs from the number counted",
        where=raw.path,
        got=f"{got:,} rows",
        expected=f"{expected:,} rows",
        fix="a quoted field must not hold a line break, a line must not end in a bare carriage return, "
        "and the file must not change while it is read",
    )
