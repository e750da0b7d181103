"""How many rows and stars came from each raw file, and why some of them are not good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpc_ae.catalog.quality import flag_magnitudes
from hpc_ae.catalog.records import RawRecord
from hpc_ae.catalog.schema import STAR_FORMAT, Caution, Quality, flag_name
from hpc_ae.catalog.shard import Arrays, count_flags
from hpc_ae.errors import InputError
from hpc_ae.readers.names import RAW_PREFIX
from hpc_ae.readers.raw_file import Piece, Scan

_REPEATED = flag_name(Caution.ID_REPEATED)
_FLAGS = (*Quality, *Caution)
_NAMED_ROWS = 5
TURNED = "ra_turned"  # rows whose ra was negative
REMOVED = ("magnitude_error", "redshift")  # columns whose sentinels and impossible values become NaN


@dataclass(frozen=True)
class Part:
    """The rows of one raw file in one shard: read, not asked for, kept as stars, and stars by flag (dropped ones
    included); `removed` counts values by column that were none and are NaN now.
    """

    file: int
    num_rows: int
    num_not_kept: int
    num_stars: int
    counts: dict[str, int]
    removed: dict[str, int]
    num_turned: int


def count_parts(pieces: list[Piece], arrays: Arrays, asked: np.ndarray, keep: np.ndarray) -> list[Part]:
    """Stars by flag for each file's rows in a shard that were `asked` for, (N,), before bad ones are dropped.

    `arrays` holds the flags and the numbers of removed values of each row; `keep` (N,) says which rows become stars.
    """
    parts = []
    first = 0
    for piece in pieces:
        rows = slice(first, first + piece.stop - piece.start)
        mine = asked[rows]
        flags = {name: arrays[name][rows][mine] for name in ("quality", "caution")}
        removed = {name: int(arrays[name][rows][mine].sum()) for name in REMOVED if name in arrays}
        num_not_kept = len(mine) - int(mine.sum())
        first = rows.stop
        counts = count_flags(flags, STAR_FORMAT)
        num_turned = int(arrays[TURNED][rows][mine].sum())
        parts.append(Part(piece.index, len(mine), num_not_kept, int(keep[rows].sum()), counts, removed, num_turned))
    return parts


def recount(parts: list[Part], repeated: np.ndarray) -> list[Part]:
    """The parts with the number of repeated ids among the stars that were kept."""
    counted = []
    first = 0
    for part in parts:
        num = int(np.count_nonzero(repeated[first : first + part.num_stars]))
        first += part.num_stars
        counts = {key: value for key, value in part.counts.items() if key != _REPEATED}
        counted.append(replace(part, counts={**counts, _REPEATED: num} if num else counts))
    return counted


def count_files(scans: Sequence[Scan], parts: Sequence[Part], digests: Mapping[Path, str]) -> list[RawRecord]:
    """One entry for each raw file: name, size, digest, columns used, rows, stars, stars by flag; one for each table of
    a file of which several were taken.
    """
    entries = []
    tables: dict[Path, set[str]] = {}
    for scan in scans:
        tables.setdefault(scan.raw.path, set()).add(scan.raw.table)
    for index, scan in enumerate(scans):
        own = [part for part in parts if part.file == index]
        counts: Counter[str] = Counter()
        removed: Counter[str] = Counter()
        for part in own:
            counts.update(part.counts)
            removed.update(part.removed)
        num_rows, num_stars, num_not_kept = (
            sum(getattr(part, key) for part in own) for key in ("num_rows", "num_stars", "num_not_kept")
        )
        entries.append(
            RawRecord(
                name=scan.raw.name,
                table=scan.raw.table if len(tables[scan.raw.path]) > 1 else None,
                num_bytes=scan.raw.path.stat().st_size,
                digest=digests[scan.raw.path],
                mapping={
                    name: scan.raw.columns[column]
                    for name, column in scan.raw.wanted.items()
                    if not name.startswith(RAW_PREFIX)
                },
                notes=(*scan.raw.notes, *note_turned(sum(part.num_turned for part in own))),
                num_rows=num_rows,
                num_stars=num_stars,
                num_dropped=num_rows - num_not_kept - num_stars,
                num_not_kept=num_not_kept,
                counts={flag_name(flag): counts[flag_name(flag)] for flag in _FLAGS if counts[flag_name(flag)]},
                removed={name: num for name, num in removed.items() if num},
            )
        )
    return entries


def describe_counts(raw: RawRecord) -> str:
    """One line on a raw file in a manifest: its rows, stars by flag, values removed, rows not kept."""
    parts = [f"{name} {num:,}" for name, num in raw.counts.items()]
    parts += [f"{name} without value {num:,}" for name, num in raw.removed.items()]
    not_kept = f", {raw.num_not_kept:,} not kept" if raw.num_not_kept else ""
    name = f"{raw.name}, {raw.table}" if raw.table else raw.name
    return f"{name}: {raw.num_rows:,} rows{not_kept}; {', '.join(parts) or 'nothing to remark'}"


def note_turned(num_rows: int) -> tuple[str, ...]:
    """What a user should know of negative right ascensions."""
    return (f"ra is negative in {num_rows:,} rows, and taken modulo 360",) if num_rows else ()


@dataclass(frozen=True)
class Noted:
    """The name of a raw file, and what a user should know of how it was understood."""

    name: str
    notes: tuple[str, ...]


def describe_notes(files: Sequence[Noted]) -> list[str]:
    """A line for each note, once for files of the same kind."""
    names_of: dict[str, list[str]] = {}
    for file in files:
        for note in file.notes:
            names_of.setdefault(note, []).append(file.name)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {note}"
        for note, names in names_of.items()
    ]


def bad_rows(pieces: list[Piece], magnitude: np.ndarray, quality: np.ndarray) -> InputError:
    """Policy stop: the first unusable magnitudes of a shard by file, row and column."""
    named: list[str] = []
    first = 0
    for piece in pieces:
        stop = first + piece.stop - piece.start
        for row in first + np.flatnonzero(quality[first:stop])[: _NAMED_ROWS - len(named)]:
            bands = np.flatnonzero(
                [flag_magnitudes(magnitude[row : row + 1, [band]])[0] for band in range(magnitude.shape[1])]
            )
            values = ", ".join(f"column {_column(piece, int(band))} is {magnitude[row, band]:g}" for band in bands)
            named.append(f"{piece.raw.path}, row {piece.start + row - first + 1:,}: {values}")
        first = stop
    return InputError(
        "stars with unusable magnitudes, and the policy is to stop",
        where=named[0],
        got="; ".join(named),
        expected="every magnitude finite and within 0-30 mag (nan here also stands for no value)",
        fix="correct the rows, or use --bad flag (keeps and flags them) or --bad drop",
    )


def _column(piece: Piece, band: int) -> str:
    return piece.raw.columns[piece.raw.wanted[piece.raw.bands[band]]]
