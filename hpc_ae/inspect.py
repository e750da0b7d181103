"""VERB inspect: what an ingest would understand of raw files, from their first rows; nothing is written.

What a file holds and what is unclear of it are told apart: a file that cannot be read is an error, a question (which
column is the z band?) is shown with all else that is known.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np

from hpc_ae.catalog.identity import flag_repeated
from hpc_ae.catalog.quality import drop_errors, drop_redshifts
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import count_flags
from hpc_ae.errors import InputError
from hpc_ae.readers.content import Content
from hpc_ae.readers.conversion import check_reading
from hpc_ae.readers.first_rows import first_piece
from hpc_ae.readers.names import RAW_PREFIX, SELECTORS
from hpc_ae.readers.open_raw import choose_tables, compression_name, is_called, is_packed, open_tables, read_piece
from hpc_ae.readers.raw_file import RawFile, check_types
from hpc_ae.readers.sample import ColumnSample, Dialect, dialect_of, sample_columns, unpack_head
from hpc_ae.readers.star_rows import StarRows
from hpc_ae.readers.surveys import ANY_SURVEY, DEFAULT_SURVEY, load_survey
from hpc_ae.readers.tree import expand_dirs
from hpc_ae.reading import Reading
from hpc_ae.record import Record

_NUM_VALUES = 5
_MOST_FILES = 16  # of a directory or pattern that names thousands, which are of one kind
_WIDTH = 22
_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", " ": "blanks"}


class ColumnFinding(Record):
    """A column: what it is taken for and why, and what its first rows hold (see `ColumnSample`)."""

    name: str
    unit: str
    taken_for: str  # our names, "" for none
    why: str
    num_missing: int
    type: str
    num_rows: int
    num_empty: int
    num_nan: int
    num_sentinels: int
    values: tuple[str, ...]


class FileFinding(Record):
    """A raw file. `question` is the error that an ingest would stop with where something must be said, else "".

    `counts` has stars by flag among the first rows, and rows and values that would not be kept.
    """

    nulls: ClassVar[frozenset[str]] = frozenset({"described", "compression", "table"})

    path: str
    format: str
    described: str | None
    compression: str | None
    table: str | None
    dialect: Dialect
    num_rows_looked_at: int
    columns: tuple[ColumnFinding, ...]
    notes: tuple[str, ...]
    counts: dict[str, int]
    question: str


class Findings(Record):
    """The first ones of some raw files, the number of all, and the command that ingests them where nothing is asked."""

    nulls: ClassVar[frozenset[str]] = frozenset({"command"})

    files: tuple[FileFinding, ...]
    num_files: int
    command: str | None

    @property
    def questions(self) -> list[str]:
        """What must be said before an ingest."""
        return [file.question for file in self.files if file.question]


@dataclass(frozen=True)
class _Serves:
    """What a column serves as, by our names, and why."""

    taken_for: str = ""
    why: str = ""


def inspect_files(paths: list[Path], mapping: Mapping[str, str], reading: Reading, num_rows: int) -> Findings:
    """What would be understood of raw files. InputError where a file cannot be read, or an option is wrong."""
    check_reading(reading)
    if not paths:
        raise InputError("no raw files", expected="one file or more")
    every = expand_dirs(paths)
    files = tuple(_inspect(path, mapping, reading, num_rows) for path in every[:_MOST_FILES])
    words = ["hpc-ae", "ingest", *map(str, paths), "--out", "catalog", *option_words(mapping, reading)]
    asks = any(file.question for file in files)
    return Findings(files=files, num_files=len(every), command=None if asks else shlex.join(words))


def option_words(mapping: Mapping[str, str], reading: Reading) -> list[str]:
    """The options of `hpc-ae ingest` that say the same."""
    pairs = [("--map", f"{name}={column}") for name, column in mapping.items()]
    return [*(word for pair in pairs for word in pair), *reading.words()]


def _inspect(path: Path, mapping: Mapping[str, str], reading: Reading, num_rows: int) -> FileFinding:
    with TemporaryDirectory(prefix="hpc-ae-inspect-") as folder:
        data_path = path
        if is_packed(path):
            data_path = Path(folder) / "raw"
            unpack_head(path, data_path)
        raw, question = _choose(open_tables(path, data_path), mapping, reading)
        samples = sample_columns(replace(raw, wanted={}), num_rows, _NUM_VALUES)
        counts: dict[str, int] = {}
        try:
            check_types(raw)
            counts = {} if question else _count(raw, num_rows)
        except InputError as error:
            question = str(error)
        if not any(sample.num_rows for sample in samples):
            question = question or f"{path} holds no stars"
        return FileFinding(
            path=str(path),
            format=raw.kind,
            described=raw.dialect or None,
            compression=compression_name(path) or None,
            table=raw.table or None,
            dialect=dialect_of(raw),
            num_rows_looked_at=samples[0].num_rows if samples else 0,
            columns=tuple(_column(raw, index, sample) for index, sample in enumerate(samples)),
            notes=raw.notes,
            counts=counts,
            question=question,
        )


def _column(raw: RawFile, index: int, sample: ColumnSample) -> ColumnFinding:
    serves = _serves(raw, index)
    return ColumnFinding(
        name=raw.columns[index],
        unit=raw.units[index] if index < len(raw.units) else "",
        taken_for=serves.taken_for,
        why=serves.why,
        num_missing=sample.num_missing,
        type=(raw.dtypes[index] if index < len(raw.dtypes) else "") or sample.type,
        num_rows=sample.num_rows,
        num_empty=sample.num_empty,
        num_nan=sample.num_nan,
        num_sentinels=sample.num_sentinels,
        values=sample.values,
    )


def _choose(tables: list[RawFile], mapping: Mapping[str, str], reading: Reading) -> tuple[RawFile, str]:
    """The one table that an ingest would take; else the first that could be meant, and what an ingest would ask."""
    try:
        return choose_tables(tables, mapping, reading)[0], ""
    except InputError as error:
        named = [table for table in tables if not reading.table or is_called(table, reading.table)]
        return (named or tables)[0], str(error)


def _serves(raw: RawFile, index: int) -> _Serves:
    """What a column is taken for and why; for one that is not taken, what else it serves."""
    targets = [name for name, place in raw.wanted.items() if place == index and not name.startswith(RAW_PREFIX)]
    if targets:
        return _Serves(", ".join(targets), "; ".join(raw.reasons[name] for name in targets))
    name = raw.columns[index].strip().lower()
    for what, names in SELECTORS.items():
        if name in names:
            return _Serves(why=f"a {what}: rows can be chosen by it with --keep")
    there = {column.strip().lower() for column in raw.columns}
    common, survey = load_survey(ANY_SURVEY), raw.survey or load_survey(DEFAULT_SURVEY)
    families = [
        [pattern.replace("{b}", band).lower() for band in survey.band_names]
        for pattern in (*survey.extinctions, *common.extinctions)
    ]
    if any(name in family and there.issuperset(family) for family in families):
        return _Serves(why="an extinction: --deredden subtracts it")
    return _Serves(why="a reddening: --deredden makes extinctions of it" if name in common.reddenings else "")


def _count(raw: RawFile, num_rows: int) -> dict[str, int]:
    """Stars by flag among the first rows, as an ingest would count them, and rows that would not be kept."""
    piece = first_piece(raw, num_rows)
    content = Content.of([raw])
    rows = StarRows(piece.stop, content.names, content.bands)
    if piece.stop:
        read_piece(piece, rows, 0)
    kept = rows.kept
    arrays = content.flagged(rows, 0)
    caution = arrays["caution"]
    if "objid" in raw.wanted:
        caution[kept] = _repeated(rows.objid[kept], caution[kept])
    flags = {"quality": arrays["quality"][kept], "caution": caution[kept]}
    counts = {"not_kept": len(kept) - int(kept.sum()), **count_flags(flags, STAR_FORMAT)}
    counts["ra taken modulo 360"] = int(rows.turned[kept].sum())
    if len(rows.magnitude_error):
        counts["magnitude_error without value"] = int(drop_errors(rows.magnitude_error)[kept].sum())
    if "redshift" in raw.wanted:
        counts["redshift without value"] = int(drop_redshifts(rows.redshift)[kept].sum())
    return {name: num for name, num in counts.items() if num}


def _repeated(objid: np.ndarray, caution: np.ndarray) -> np.ndarray:
    flag_repeated(objid, caution)
    return caution


def findings_text(findings: Findings) -> str:
    """The findings for people: for each file its dialect, a line for each column, notes; then the command."""
    parts = [_file_text(file) for file in findings.files]
    if findings.num_files > len(parts):
        parts.append(f"{findings.num_files - len(parts):,} more files were not looked at")
    if findings.command:
        parts.append(f"to ingest {'it' if findings.num_files == 1 else 'them'}:\n  {findings.command}")
    return "\n\n".join(parts)


def _file_text(file: FileFinding) -> str:
    looked = f"the first {file.num_rows_looked_at:,} rows"
    what = file.described or file.format
    extra = [word for word in (file.compression, file.table) if word and word not in what]
    head = ", ".join([what, *extra, *_dialect_words(file.dialect)])
    lines = [f"{file.path}: {head}", f"{len(file.columns)} columns, {looked} were looked at", ""]
    titles = ["column", "type", "unit", "taken for", "missing", *(f"row {row + 1}" for row in range(_NUM_VALUES))]
    rows = [titles, *map(_cells, file.columns)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(titles))]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons = [f"  {column.name}: {column.why}" for column in file.columns if column.why]
    lines += ["", "why:", *reasons] if reasons else []
    lines += ["", "to know:", *(f"  {note}" for note in file.notes)] if file.notes else []
    if file.counts:
        counts = ", ".join(f"{name} {num:,}" for name, num in file.counts.items())
        lines += ["", f"of {looked} an ingest would say: {counts}"]
    return "\n".join(lines)


def _cells(column: ColumnFinding) -> list[str]:
    """A column's line of the table."""
    values = [*column.values, *[""] * _NUM_VALUES][:_NUM_VALUES]
    said = [column.name, column.type, column.unit, column.taken_for, f"{column.num_missing:,}", *values]
    return [_short(text) for text in said]


def _dialect_words(dialect: Dialect) -> list[str]:
    if dialect.delimiter is None or dialect.line_end is None or dialect.encoding is None:
        return []
    words = [f"delimiter {_DELIMITERS.get(dialect.delimiter, dialect.delimiter)}"]
    if comments := dialect.comment_lines:
        words.append(f"{comments} comment{'s' * (comments != 1)} at the beginning")
    words += [f"line ends {dialect.line_end}", dialect.encoding]
    words += ["byte-order mark"] if dialect.byte_order_mark else []
    return words + (["quotes"] if dialect.quoted else [])


def _short(text: str) -> str:
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= _WIDTH else plain[: _WIDTH - 3] + "..."
