"""Text tables: dialects told by content, packing in several streams, exact values, and what is damaged or hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from astropy import units
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import HEADER, STARS, assert_stars, column, lines, refused, run, write

from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.errors import InputError
from hpc_ae.inspect import findings_text, inspect_files
from hpc_ae.readers import packed, text
from hpc_ae.readers.open_raw import open_tables, unpack
from hpc_ae.reading import Reading

DAMAGED = Caution.ID_DAMAGED
Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
CSV = lines(*STARS)
BLANKS = CSV.replace(",", " ")
TSV = CSV.replace(",", "\t")
UNITS = "- deg deg mag mag mag mag mag"
VIZIER = "#\n#   VizieR Astronomical Server\n#Column\tra\t(F9.5)\tRight ascension\n"


def aligned(content: str, width: int = 25) -> str:
    """A whitespace table with columns under each other."""
    return "".join(
        "".join(f"{word:>{width}}" for word in line.split(",")).rstrip() + "\n" for line in content.splitlines()
    )


# dialects


@pytest.mark.parametrize(
    ("content", "described"),
    [
        (BLANKS, "whitespace-separated table"),
        (aligned(CSV), "whitespace-separated table"),
        (BLANKS.replace(" ", "   ").replace("\n", "  \n").replace("objid", "  objid"), "whitespace-separated table"),
        (aligned(CSV).replace("\n", " \t\r\n"), "whitespace-separated table"),
        ("\ufeff" + BLANKS, "whitespace-separated table"),
        ("# " + BLANKS, "whitespace-separated table"),
        ("# made by hand\n#\n# 3 stars\n#" + BLANKS, "whitespace-separated table"),
        (f"# {HEADER.replace(',', ' ')}\n# {UNITS}\n" + BLANKS.partition("\n")[2], "whitespace-separated table"),
        (BLANKS.replace("\n", f"\n# {UNITS}\n", 1), "whitespace-separated table"),
        (BLANKS + "# 3 rows\n   \n\n", "whitespace-separated table"),
        (BLANKS.replace("\n", "\n  \r\n\n \t\n", 1), "whitespace-separated table"),
        ("% made by another program\n!\n" + BLANKS, "whitespace-separated table"),
        (BLANKS.upper(), "whitespace-separated table"),
        (TSV, "TSV"),
        ("\ufeff#Table1\r\n" + TSV.replace("\n", "\r\n"), "TSV"),
        (
            VIZIER
            + TSV.replace("\n", "\n\t" + UNITS[2:].replace(" ", "\t") + "\n" + "\t".join(["---"] * 8) + "\n", 1)
            + "\n#END#\n",
            "TSV",
        ),
        (CSV.replace(",", ";"), "CSV with ;"),
        (CSV.replace(",", "|"), "CSV with |"),
        ("".join(f"| {line.replace(',', ' | ')} |\n" for line in CSV.splitlines()), "CSV with |"),
        ("".join(f"{line},\n" for line in CSV.splitlines()), "CSV"),
        (CSV + "   \n", "CSV"),
        (
            "Name,OBJID,Ra,DEC,U,G,R,I,Z\n" + "".join(f'"a ""b"", c",{row}\r\n' for row in STARS),
            "CSV",
        ),
        (f'name {BLANKS.splitlines()[0]}\n"a  b" ' + '\n"c d" '.join(BLANKS.splitlines()[1:]), "whitespace-separated"),
    ],
)
def test_dialects_hold_the_same_stars(content: str, described: str, tmp_path: Path) -> None:
    """Whatever separates, surrounds and comments them, the stars are the same; the name of the file says nothing."""
    path = write(tmp_path / "stars.fits", content)
    assert_stars(run(tmp_path, path))
    entry = inspect_files([path], {}, Reading(), 10).to_json()["files"][0]
    assert entry["described"].startswith(described) and not entry["question"]


@pytest.mark.parametrize("delimiter", [" ", ","])
def test_ecsv_of_astropy(delimiter: str, tmp_path: Path) -> None:
    """ECSV: units come from its comments, so that radians are not degrees; masked values are missing, ids exact."""
    table = Table({"objid": np.array([2**63 - 1, 2**53 + 1, 7])})
    table["ra"] = np.array([1.0, 2.0, 3.0]) * units.rad
    table["dec"] = np.array([0.1, 0.2, -1.5]) * units.rad
    for index, band in enumerate("ugriz"):
        table[band] = np.float32([15.1, 16.2, 17.3]) + np.float32(index)
        table[band].description = "a long description, which makes the line of the header longer than any: " * 2
    table = Table(table, masked=True)
    table["g"].mask = [False, True, False]
    stream = io.StringIO()
    table.write(stream, format="ascii.ecsv", delimiter=delimiter)
    catalog = run(tmp_path, stream.getvalue())
    assert catalog["objid"][:].tolist() == table["objid"].tolist()
    np.testing.assert_allclose(catalog["ra"][:], np.degrees([1, 2, 3]), rtol=1e-15)
    np.testing.assert_allclose(catalog["dec"][:], np.degrees([0.1, 0.2, -1.5]), rtol=1e-15)
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING, 0]
    assert catalog["magnitude"][:][:, 4].tolist() == table["z"].tolist()
    broken = stream.getvalue().replace("- {name: ra,", "- {name: [ra,", 1)
    (tmp_path / "b").mkdir()
    assert "ECSV" in refused(tmp_path / "b", broken)


def _ecsv(entries: str, names: str = "u g r i z") -> str:
    return f"# %ECSV 1.0\n# ---\n# datatype:\n{entries}# schema: astropy-2.0\n{names}\n" + "15 16 17 18 19\n" * 3


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (_ecsv(""), "not understood"),
        (_ecsv("# - {name: u, unit: !!python/object/apply:os.getcwd []}\n"), "not text"),
        (_ecsv("# - &a [lol, lol]\n# - &b [*a, *a]\n# - {name: *b, datatype: float32}\n"), "not understood"),
        (_ecsv("# - {name: u, unit: &a [x, x]}\n# - {name: g, unit: [*a, *a]}\n"), "not text"),
        (_ecsv("# - " + "{a: " * 5_000 + "\n"), "not understood"),
        (_ecsv("# - {name: u}\n# - {name: u.mask}\n", "u u.mask g r i").replace("16", "True"), "column u.mask"),
        (_ecsv("# - {name: u, unit: Jy/beam}\n"), "Jy/beam"),
    ],
)
def test_hostile_ecsv_is_refused(content: str, word: str, tmp_path: Path) -> None:
    """Its YAML makes no objects and takes no memory; masks beside their columns are not overlooked, units neither."""
    assert word in refused(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        f"# {HEADER.replace(',', ' ')}\n# {UNITS.replace('deg', 'rad')}\n" + BLANKS.partition("\n")[2],
        BLANKS.replace("\n", f"\n# {UNITS.replace('deg', 'rad')}\n", 1),
        "#" + CSV.replace("\n", f"\n#{UNITS.replace('deg', 'rad').replace(' ', ',')}\n", 1),
    ],
)
def test_units_in_comments_count(content: str, tmp_path: Path) -> None:
    """A comment of units above or below the names is one: radians become degrees."""
    catalog = run(tmp_path, content)
    np.testing.assert_allclose(catalog["ra"][:], np.degrees([10.5, 11.5, 12.5]), rtol=1e-15)


def test_a_first_row_like_a_comment_is_a_row(tmp_path: Path) -> None:
    """A name that begins with # is data where its row has numbers, or nothing at all beside it."""
    header = "name,u,g,r,i,z"
    catalog = run(tmp_path, lines("#7,15,16,17,18,19", "b,15,16,17,18,19", header=header))
    assert len(catalog) == 2
    (tmp_path / "b").mkdir()
    catalog = run(tmp_path / "b", lines("#7,,,,,", "b,15,16,17,18,19", header=header))
    assert len(catalog) == 2 and catalog["quality"][:].tolist() == [Quality.MISSING, 0]


def test_real_csv_files(shared_data: Path, tmp_path: Path) -> None:
    """The real files, as they are and as TSV, in columns of blanks and packed: the same values as the csv module's."""
    path = shared_data / "raw" / "skyserver_table1_header.csv"
    plain = path.read_text()
    as_blanks = aligned(plain.partition("\n")[2])
    ids = [int(objid) for objid in column(path, "objid", skip=1)]
    magnitude = np.stack([np.float32(column(path, band, skip=1)) for band in "ugriz"], 1)
    errors = np.stack([np.float32(column(path, f"Err_{band}", skip=1)) for band in "ugriz"], 1)
    contents = [plain, plain.replace(",", "\t"), as_blanks, PACKS["zstd"](as_blanks.encode())]
    for index, content in enumerate(contents):
        (tmp_path / str(index)).mkdir()
        catalog = run(tmp_path / str(index), content, shard_rows=150)
        assert catalog["objid"][:].tolist() == ids and max(ids) > 2**53
        np.testing.assert_array_equal(catalog["magnitude"][:], magnitude)
        np.testing.assert_array_equal(catalog["ra"][:], np.float64(column(path, "ra", skip=1)))
        np.testing.assert_array_equal(catalog["magnitude_error"][:], np.where(errors > 0, errors, np.nan))


def test_a_first_star_is_not_taken_for_names(tmp_path: Path) -> None:
    """A table without names is refused also where columns are given by number, as its first star would be lost."""
    mapping = {band: f"#{index + 4}" for index, band in enumerate("ugriz")}
    assert "names of the columns" in refused(tmp_path, CSV.partition("\n")[2], mapping=mapping)
    assert len(run(tmp_path, CSV.replace("objid,ra", "1,2", 1), mapping=mapping)) == 3


def test_ids_are_exact_in_every_dialect(tmp_path: Path) -> None:
    """Neighbours beyond 2^53 stay apart, quoted, signed and in blanks; what a spreadsheet made of one is flagged."""
    ids = [
        "-9223372036854775808",
        "9223372036854775808",
        "9007199254740993",
        "9007199254740992",
        "9223372036854775807",
        '"1237648720142401611"',
        "+12",
        "1.24E+18",
    ]
    for index, delimiter in enumerate([",", " ", "\t", ";"]):
        (tmp_path / str(index)).mkdir()
        content = lines(*(f"{one},15,16,17,18,19" for one in ids), header="objID,u,g,r,i,z").replace(",", delimiter)
        catalog = run(tmp_path / str(index), content)
        assert catalog["objid"][:].tolist() == [
            -(2**63),
            -1,
            2**53 + 1,
            2**53,
            2**63 - 1,
            1237648720142401611,
            12,
            124 * 10**16,
        ]
        assert (catalog["caution"][:] & DAMAGED).tolist() == [0, DAMAGED, *[0] * 5, DAMAGED]


def test_conditions_on_text(tmp_path: Path) -> None:
    """Classes, truths and numbers in a whitespace table choose rows as in a CSV."""
    header = "objid u g r i z class clean type"
    rows = ["1 15 15 15 15 15 STAR true 6", "2 15 15 15 15 15 STAR False 6", '3 15 15 15 15 15 "QSO AGN" T 3']
    for index, (keep, expected) in enumerate(
        [(("class=STAR", "clean=1"), [1]), (("type=6",), [1, 2]), (("class=QSO AGN",), [3])]
    ):
        (tmp_path / str(index)).mkdir()
        catalog = run(tmp_path / str(index), lines(*rows, header=header), reading=Reading(keep=keep))
        assert catalog["objid"][:].tolist() == expected


# packing


@pytest.mark.parametrize("name", PACKS)
def test_packed_in_several_streams(name: str, tmp_path: Path) -> None:
    """One stream or many, filled up with zeros as tapes do: every row is there."""
    pack, data = PACKS[name], CSV.encode()
    many = b"".join(pack(data[at : at + 11]) for at in range(0, len(data), 11))
    for index, content in enumerate([pack(data), many, *([many + bytes(512)] if name != "zstd" else [])]):
        (tmp_path / str(index)).mkdir()
        path = write(tmp_path / str(index) / "stars.txt", content)
        assert_stars(run(tmp_path / str(index), path))
        entry = inspect_files([path], {}, Reading(), 10).to_json()["files"][0]
        assert entry["compression"] == name and entry["num_rows_looked_at"] == 3


def test_zstd_frames_of_every_kind(tmp_path: Path) -> None:
    """Frames to skip, as pzstd writes, frames without a size, and a checksum that does not fit."""
    data = CSV.encode()
    skip = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    stream = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    frame = stream.compress(data[40:]) + stream.flush()
    whole = skip + PACKS["zstd"](data[:40]) + skip + frame
    assert_stars(run(tmp_path, whole))
    (tmp_path / "b").mkdir()
    assert "damaged zstd" in refused(tmp_path / "b", whole[:-1] + bytes([whole[-1] ^ 1]))
    wide = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    assert "too much memory" in refused(tmp_path / "b", stream.compress(data * 9) + stream.flush())


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda first, second: first[:-4],
        lambda first, second: first + second[: len(second) // 2],
        lambda first, second: first + second[:7],
        lambda first, second: first + b"no stream at all",
        lambda first, second: first + second[:12] + bytes([second[12] ^ 255]) + second[13:],
    ],
)
def test_damaged_streams_lose_no_rows_silently(name: str, damage: Any, tmp_path: Path) -> None:
    """Cut short, with other bytes behind or in a later stream: refused, not taken for the end."""
    pack, data = PACKS[name], CSV.encode()
    message = refused(tmp_path, damage(pack(data[:60]), pack(data[60:])))
    assert f"damaged {name} file" in message and str(tmp_path / "raw-0") in message


@pytest.mark.parametrize("name", PACKS)
def test_bombs_are_refused_in_bounded_memory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that unpacks to a thousand times its size is refused when it passes the limit, and leaves nothing."""
    # A bomb above what is always unpacked would take gigabytes.
    monkeypatch.setattr(packed, "_FREE_BYTES", 1 << 22)
    one = PACKS[name](bytes(1 << 20))
    path = write(tmp_path / "raw-bomb", one * 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="unpacks to more than 300 times its size"):
        unpack(path, tmp_path / "unpacked")
    assert (tmp_path / "unpacked").stat().st_size <= 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert "unpacks to more than" in refused(tmp_path, path)


def test_an_xz_file_of_great_need_is_refused(tmp_path: Path) -> None:
    """The memory that an xz file's header asks for is limited before it is taken."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]
    content = bytearray(lzma.compress(CSV.encode(), filters=[{**filters[0], "dict_size": 1 << 20}]))
    # The dictionary's size is one byte of the block header, whose CRC32 follows.
    at = content.index(b"\x21\x01", 12) + 2
    content[at] = 36  # 1 GiB
    size = (content[12] + 1) * 4
    content[12 + size - 4 : 12 + size] = zlib.crc32(bytes(content[12 : 12 + size - 4])).to_bytes(4, "little")
    assert "Memory usage limit" in refused(tmp_path, bytes(content))


def test_what_only_looks_packed_or_foreign(tmp_path: Path) -> None:
    """A column called BZh1mag is text; archives and files of other programs are named."""
    assert_stars(run(tmp_path, lines(*(f"x,{row}" for row in STARS), header="BZh1mag," + HEADER)))
    (tmp_path / "b").mkdir()
    for content, word in (
        (b"PK\x03\x04" + bytes(200), "zip"),
        (b"stars.csv".ljust(257, b"\0") + b"ustar" + bytes(800), "tar archive"),
        (gzip.compress(b"stars.csv".ljust(257, b"\0") + b"ustar" + bytes(800)), "tar archive"),
        (b"\x04\x22\x4d\x18" + bytes(100), "lz4"),
        (gzip.compress(gzip.compress(CSV.encode())), "compressed file inside"),
        (gzip.compress(b""), "empty file"),
    ):
        assert word in refused(tmp_path / "b", content)


@pytest.mark.parametrize("name", PACKS)
def test_inspect_unpacks_the_beginning_only(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large packed table inspect reads the head: damage far behind does not stop it, but stops an ingest."""
    # Otherwise the whole of a table that a test can write is the head.
    monkeypatch.setattr("hpc_ae.readers.sample._HEAD_BYTES", 1 << 16)
    monkeypatch.setattr(packed, "_BLOCK_BYTES", 1 << 14)
    rng = np.random.default_rng(3)
    table = rng.uniform(14, 24, (12_000, 5)).round(4)
    rows = "\n".join(" ".join(map(str, row)) for row in table.tolist())
    data = f"u g r i z\n{rows}\n".encode()
    content = b"".join(PACKS[name](data[at : at + 20_000]) for at in range(0, len(data), 20_000))
    path = write(tmp_path / "stars", content[:-100])
    findings = inspect_files([path], {}, Reading(), 500)
    (finding,) = findings.files
    assert finding.num_rows_looked_at == 500 and finding.described == "whitespace-separated table"
    assert "whitespace-separated table, " + name in findings_text(findings)
    assert f"damaged {name} file" in refused(tmp_path, path)


# damaged text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BLANKS + "4 1 1 15\n", ["row 4", "4 fields", "8 fields"]),
        (BLANKS + "   \n" + BLANKS.partition("\n")[2], ["row 4", "contains only spaces"]),
        (BLANKS + "4 1 1 15 x 15 15 15\n", ["row 4", "column g", "'x'"]),
        (BLANKS.replace(" ", "  ", 3) + '"4 1 1 15 15 15 15 15\n', ["row 4", "1 fields"]),
        (TSV + "4\t1\t1\t15\t15\t15\t15\n", ["row 4", "7 fields"]),
        (CSV.replace(",", ";").replace(".", ","), ["row 1", "19,1"]),
        (CSV + CSV, ["row 4", "column u", "'u'"]),
        (CSV + "\0" * 8, ["binary content"]),
        (BLANKS.replace("\n", "\r"), ["line"]),
        ("u g r i z\n15 15 15 15 15\n" + "15 " * 2_000_000, ["a line longer than"]),
        ('u,g,r,i,z\n15,"' + "x" * 5_000_000, ["a line longer than"]),
        ("u,g,r,i,z\n15,15,15,15,1.5D+01\n", ["row 1", "column z", "1.5D+01"]),
        ("#" * (2 << 20), ["line"]),
        (BLANKS.partition("\n")[2], ["numbers where the names", "'1 10.5 -0.5 19.1"]),
        (CSV.partition("\n")[2], ["numbers where the names"]),
    ],
)
def test_damaged_text_is_one_clear_message(content: str, words: list[str], tmp_path: Path) -> None:
    """The message names file and row; no row is left out or put together of two."""
    message = refused(tmp_path, content)
    assert str(tmp_path / "raw-0") in message
    assert [word for word in words if word not in message] == []


# round trips

NUMBERS = st.floats(0, 30, width=32) | st.sampled_from(["", "nan", "-9999", "null"])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2**63 - 1),
            st.floats(0, 360),
            st.floats(-90, 90),
            *[st.floats(0, 30, width=32)] * 5,
            st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), max_size=6),
        ),
        min_size=1,
        max_size=12,
    ),
    shape=st.tuples(
        st.sampled_from([",", "\t", ";", "|", " "]),
        st.sampled_from(["\n", "\r\n"]),
        st.sampled_from(["", "\ufeff", "#Table1\n", "# "]),
        st.sampled_from([bytes, *PACKS.values()]),
    ),
    segment=st.integers(20, 400),
)
def test_random_tables_come_back_equal(
    rows: list[tuple[Any, ...]],
    shape: tuple[str, str, str, Pack],
    segment: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Ids, positions and magnitudes are the numbers written, in every dialect and packing, however it is cut."""
    delimiter, end, begin, pack = shape
    if (delimiter, begin) == (" ", "# "):  # refused: what separates such a table is not told from what is quoted
        rows = [(*row[:8], re.sub("[,;|]", "", row[8])) for row in rows]
    header = delimiter.join([*HEADER.split(","), "class"])
    body = [
        delimiter.join([str(row[0]), repr(row[1]), repr(row[2]), *map(repr, row[3:8]), _quoted(row[8])]) for row in rows
    ]
    folder = tmp_path_factory.mktemp("trip")
    content = begin + header + end + "".join(one + end for one in body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "SEGMENT_BYTES", segment)
        catalog = run(folder, pack(content.encode()), shard_rows=5)
        assert catalog["objid"][:].tolist() == [row[0] for row in rows]
        assert catalog["ra"][:].tolist() == [row[1] for row in rows]
        assert catalog["dec"][:].tolist() == [row[2] for row in rows]
        np.testing.assert_array_equal(catalog["magnitude"][:], np.float32([row[3:8] for row in rows]))
    (raw,) = open_tables(folder / "raw-0", folder / "raw-0") if pack is bytes else [None]
    assert raw is None or raw.delimiter == delimiter


def _quoted(word: str) -> str:
    """A word as the csv module writes it where it must be quoted, empty ones in a whitespace table too."""
    return '"' + word.replace('"', '""') + '"'


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=200) | st.text(max_size=200).map(str.encode), head=st.booleans())
def test_random_bytes_are_refused_or_read(data: bytes, head: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever follows a header, or begins a file: an InputError, or a catalog of as many rows as there are lines."""
    folder = tmp_path_factory.mktemp("bytes")
    content = b"u,g,r,i,z\n15,16,17,18,19\n" + data if head else data
    try:
        catalog = run(folder, content)
    except InputError as error:
        assert str(error)
    else:
        assert len(catalog) == catalog.manifest.num_rows <= content.count(b"\n") + 1
