"""Bad stars: each of 90 seeded corruptions of a survey's file is named by file, row and column, or flagged with its
reason; no other star changes, none is dropped, nothing crashes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from raw_files import HEADER, refused, run

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.schema import Caution, Quality

NUM_STARS = 300
SHARD_ROWS = 70
BANDS = range(3, 8)
NAMES = HEADER.split(",")
Rows = list[list[str]]
Change = Callable[[Rows], str | bytes]


def survey() -> Rows:
    """Stars as SkyServer writes them, their ids beyond 2^53."""
    chance = random.Random(1)
    return [
        [str(1237648720142401611 + 7 * index), f"{chance.uniform(0, 360):.8f}", f"{chance.uniform(-90, 90):.8f}"]
        + [f"{chance.uniform(14, 22):.6f}" for _ in BANDS]
        for index in range(NUM_STARS)
    ]


@dataclass(frozen=True)
class Cell:
    """A text in place of one value of one row: of `columns`, one by chance. Flagged with `flag`, or refused."""

    text: str
    columns: tuple[int, ...] = tuple(BANDS)
    flag: Quality | Caution | None = None


ID, RA, DEC = (0,), (1,), (2,)
CELLS = [
    *(Cell(text, flag=Quality.MISSING) for text in ("", "null", "  ", "\\N", "N/A")),
    *(Cell(text, flag=Quality.NON_FINITE) for text in ("NaN", "nan", "inf", "-Infinity", "1e39", "1e400")),
    *(
        Cell(text, flag=Quality.SENTINEL)
        for text in ("-9999", "-9999.0", "9999", "-9.999e3", "-9999.59", "99", "-1000")
    ),
    *(Cell(text, flag=Quality.OUT_OF_RANGE) for text in ("-9999.61", "99.5", "-1001", "30.0001", "-0.01", "191")),
    *(Cell(text, flag=Caution.MAGNITUDE_ZERO) for text in ("0.0", "0", "-0.0", "0e0")),
    *(Cell(text) for text in ("1.07199819e-", "1.9E", "19.1mag", "0x13", "1 9.1", "--19", "1.2.3", "19,", "bright")),
    *(Cell(text) for text in ("\u22129999", "\u0661\u0669", "19.1\u00a0mag", "'19.1'", "1_9", "#NUM!", "1d1", ".")),
    *(Cell(text, ID, Caution.ID_MISSING) for text in ("", "null", "-1")),
    *(Cell(text, ID, Caution.ID_DAMAGED) for text in ("1.23765E+18", "99999999999999999999", "12.5")),
    *(Cell(text, ID) for text in ("SDSS J1234", "1237648720142401611L")),
    *(Cell(text, DEC, Caution.POSITION_OUTSIDE) for text in ("91", "-90.0001", "inf")),
    *(Cell(text, RA, Caution.POSITION_OUTSIDE) for text in ("361", "-180.5")),
    *(Cell(text, (1, 2), Caution.POSITION_MISSING) for text in ("", "NaN")),
    Cell("12:34:56.7", (1, 2)),
]


def csv_of(rows: Rows, header: str = HEADER, end: str = "\n") -> str:
    """The file."""
    return end.join([header, *map(",".join, rows), ""])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The catalog of the file without corruption."""
    return run(tmp_path_factory.mktemp("whole"), csv_of(survey()), shard_rows=SHARD_ROWS)


def check(catalog: Catalog, whole: Catalog, flags: dict[int, Quality | Caution]) -> None:
    """Every star is there; those of `flags` (row to flag) are flagged so, all others are those of the whole file."""
    others = ~np.isin(np.arange(NUM_STARS), list(flags))
    assert catalog.num_stars == NUM_STARS
    for name, kind in (("quality", Quality), ("caution", Caution)):
        expected = [flags.get(row, 0) if isinstance(flags.get(row), kind) else 0 for row in range(NUM_STARS)]
        np.testing.assert_array_equal(catalog[name][:], expected)
    for name in ("objid", "ra", "dec", "magnitude"):
        np.testing.assert_array_equal(catalog[name][:][others], whole[name][:][others])
    counts = Counter(str(flag.name).lower() for flag in flags.values())
    assert catalog.manifest.inputs.raw[0].counts == counts


@pytest.mark.parametrize("seed", range(len(CELLS)))
def test_bad_value(seed: int, whole: Catalog, tmp_path: Path) -> None:
    """One value of one star, by chance, is replaced."""
    cell, chance, rows = CELLS[seed], random.Random(seed), survey()
    row, column = chance.randrange(NUM_STARS), chance.choice(cell.columns)
    rows[row][column] = cell.text
    if cell.flag is not None:
        check(run(tmp_path, csv_of(rows), shard_rows=SHARD_ROWS), whole, {row: cell.flag})
        return
    message = refused(tmp_path, csv_of(rows), shard_rows=SHARD_ROWS)
    assert f"{tmp_path / 'raw-0'}, row {row + 1}" in message
    assert cell.text in message or repr(cell.text) in message
    assert f"column {NAMES[column]}" in message or "," in cell.text  # a comma too many: the row's fields are shown


def repeated(rows: Rows, low: int, high: int) -> str:
    rows[high][0] = rows[low][0]
    return csv_of(rows)


def ragged(rows: Rows, row: int, text: str) -> str:
    rows[row] = text.split(",")
    return csv_of(rows)


def with_byte(rows: Rows, row: int, byte: bytes) -> bytes:
    rows[row][4] = "@"
    return csv_of(rows).encode().replace(b"@", b"19" + byte)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3, 4), (68, 69), (69, 70), (0, NUM_STARS - 1), (140, 209), (210, 290)]
)
def test_repeated_id(low: int, high: int, whole: Catalog, tmp_path: Path) -> None:
    """The same id twice, within a shard and across shards: both stars are flagged and stay."""
    catalog = run(tmp_path, repeated(survey(), low, high), shard_rows=SHARD_ROWS)
    check(catalog, whole, {low: Caution.ID_REPEATED, high: Caution.ID_REPEATED})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: ragged(rows, 7, "1,2,3,15,16"), ["row 8", "5 fields"]),
        (lambda rows: ragged(rows, 299, "1,2,3,15,16,17,18"), ["row 300", "7 fields"]),
        (lambda rows: csv_of(rows)[:-30], ["row 300", "fields"]),  # the disk was full when it was written
        (lambda rows: ragged(rows, 120, "1,2,3,15,16,17,18,19,20"), ["row 121", "9 fields"]),
        (lambda rows: ragged(rows, 90, "1,2,3,15,16,17,18,"), None),
        (lambda rows: ragged(rows, 50, HEADER), ["row 51", "column u"]),  # two files, one behind the other
        (lambda rows: ragged(rows, 50, "<html>"), ["row 51", "1 field"]),
        (lambda rows: with_byte(rows, 33, b"\0"), ["raw-0"]),
        (lambda rows: with_byte(rows, 33, b"\xff"), ["row 34", "column g"]),
        (lambda rows: with_byte(rows, 33, b"\r1"), ["raw-0"]),
        (lambda rows: with_byte(rows, 33, b'"'), ["row 34", "column g"]),
        (lambda rows: ragged(rows, 33, '1,2,3,15,"16,17,18,19'), ["raw-0"]),
        (lambda rows: csv_of([[*row[:3], "bright", *row[4:]] for row in rows]), ["row 1", "column u"]),
        (lambda rows: csv_of(rows, HEADER.replace("u,", "v,")), ["band u", "--map u="]),
        (lambda rows: csv_of([[*row, "0.1"] for row in rows], HEADER + ",Z"), ["z", "--map z="]),
        (lambda rows: csv_of([row[:7] for row in rows], "objid,ra,dec,u,g,r,i"), ["band z"]),
        (lambda rows: csv_of(rows, end="\r"), ["line"]),
        (lambda rows: csv_of(rows).encode("utf-16"), ["UTF-16"]),
    ],
)
def test_bad_rows_and_files(change: Change, words: list[str] | None, whole: Catalog, tmp_path: Path) -> None:
    """Rows that are cut or too long, foreign bytes, a column that is no number or shadows another: one message that
    names file, row and column, and nothing is written. An empty last field is a missing value.
    """
    if words is None:
        check(run(tmp_path, change(survey()), shard_rows=SHARD_ROWS), whole, {90: Quality.MISSING})
        return
    message = refused(tmp_path, change(survey()), shard_rows=SHARD_ROWS)
    assert "raw-0" in message and [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: "\ufeff" + csv_of(rows),
        lambda rows: csv_of(rows, end="\r\n"),
        lambda rows: csv_of(rows).rstrip("\n"),
        lambda rows: csv_of([*rows[:70], [""], *rows[70:]]),
        lambda rows: csv_of([*rows, ["", ""]]).replace("\n,\n", "\n\n\n"),
        lambda rows: csv_of([[f" {text} " for text in row] for row in rows]),
        lambda rows: csv_of([[f'"{text}"' for text in row] for row in rows]),
        lambda rows: csv_of(
            [["0.1", *row] for row in rows], "z," + ",".join([*NAMES[:3], *(f"psfMag_{band}" for band in "ugriz")])
        ),
    ],
)
def test_harmless_changes(change: Change, whole: Catalog, tmp_path: Path) -> None:
    """A byte-order mark, CRLF, blank lines, blanks, quotes and a redshift called z change no star."""
    check(run(tmp_path, change(survey()), shard_rows=SHARD_ROWS), whole, {})
