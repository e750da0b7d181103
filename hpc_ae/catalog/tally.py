"""How many rows and stars came from each raw file, and why some of them are not good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpc_ae.catalog.readers.rawfile import Piece, Scan
from hpc_ae.catalog.schema import STAR_FORMAT, Caution, Quality, flag_name
from hpc_ae.catalog.shard import Arrays, count_flags

_REPEATED = flag_name(Caution.ID_REPEATED)
_FLAGS = (*Quality, *Caution)


@dataclass(frozen=True)
class Part:
    """The rows of one raw file in one shard: read, kept as stars, and stars by flag (dropped ones included)."""

    file: int
    num_rows: int
    num_stars: int
    counts: dict[str, int]


def count_parts(pieces: list[Piece], arrays: Arrays, keep: np.ndarray) -> list[Part]:
    """Stars by flag for each file's rows in a shard, before bad ones are dropped."""
    parts = []
    first = 0
    for piece in pieces:
        rows = slice(first, first + piece.stop - piece.start)
        flags = {name: arrays[name][rows] for name in ("quality", "caution")}
        first = rows.stop
        parts.append(Part(piece.index, len(keep[rows]), int(keep[rows].sum()), count_flags(flags, STAR_FORMAT)))
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


def count_files(scans: Sequence[Scan], parts: Sequence[Part], digests: Sequence[str]) -> list[dict[str, Any]]:
    """One entry for each raw file: name, size, digest, columns used, rows, stars, stars by flag."""
    entries = []
    for index, scan in enumerate(scans):
        own = [part for part in parts if part.file == index]
        counts: Counter[str] = Counter()
        for part in own:
            counts.update(part.counts)
        entries.append(
            {
                "name": scan.raw.name,
                "num_bytes": scan.raw.path.stat().st_size,
                "digest": digests[index],
                "mapping": {name: scan.raw.columns[column] for name, column in scan.raw.wanted.items()},
                "num_rows": sum(part.num_rows for part in own),
                "num_stars": sum(part.num_stars for part in own),
                "counts": {flag_name(flag): counts[flag_name(flag)] for flag in _FLAGS if counts[flag_name(flag)]},
            }
        )
    return entries
