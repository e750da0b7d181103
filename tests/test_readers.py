"""Readers: dialects, column names and values of other people's files; every wrong one is one clear message."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import HEADER, STARS, assert_stars, lines, refused, run, write

from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.readers import text

# dialects


@pytest.mark.parametrize(
    "content",
    [
        lines(*STARS),
        lines(*STARS).rstrip("\n"),
        lines(*STARS).replace("\n", "\r\n"),
        "\ufeff" + lines(*STARS),
        "#Table1\n" + lines(*STARS),
        "\ufeff#Table1\r\n" + lines(*STARS).replace("\n", "\r\n") + "\r\n\r\n",
        "# made by hand, 2024\n#" + lines(*STARS),
        lines(*STARS[:1], "", "", *STARS[1:], ""),
        lines(*STARS).replace("\n", "\r\n\r\n"),
        gzip.compress(lines(*STARS).encode()),
        gzip.compress(lines(*STARS[:1]).encode()) + gzip.compress("\n".join(STARS[1:]).encode()),
        lines(*STARS).replace(",", "\t"),
        lines(*(f'"{row}"'.replace(",", '","') for row in STARS), header=f'"{HEADER}"'.replace(",", '","')),
        lines(*(f'{row},"a, b"' for row in STARS), header=HEADER.upper() + ",NAME"),
        lines(*(row.replace(",", " , +", 2).replace("+-", "-") for row in STARS)),
        lines(*STARS, header="id, RAJ2000,DEJ2000,umag,gmag,rmag,imag,zmag"),
        lines(*STARS, header="objID,ra,dec,psfMag_u,psfMag_g,psfMag_r,psfMag_i,psfMag_z"),
    ],
)
def test_dialects_hold_the_same_stars(content: str | bytes, tmp_path: Path) -> None:
    """Line ends, marks, comments, quotes, blank lines, compression and the usual names do not change the stars."""
    assert_stars(run(tmp_path, content))


def test_gzip_leaves_no_temporary_file(tmp_path: Path) -> None:
    """What was unpacked is removed, after success as after an error."""
    run(tmp_path, gzip.compress(lines(*STARS).encode()))
    assert sorted(path.name for path in (tmp_path / "catalog").iterdir()) == ["manifest.json", "shard-00000.h5"]
    (tmp_path / "second").mkdir()
    refused(tmp_path / "second", gzip.compress(lines("1,2,3,4,5,6,7,x").encode()))


def test_ids_are_exact_or_flagged(tmp_path: Path) -> None:
    """Integers are exact to 2^63; float text is damaged; no id is -1 and missing; what int64 cannot hold is damaged."""
    ids = ["9223372036854775000", "1.24E+18", "", "null", "12.0", "1237648720142401611.5", "99999999999999999999"]
    catalog = run(tmp_path, lines(*(text + ",1,1,15,15,15,15,15" for text in ids)))
    assert catalog["objid"][:].tolist()[:5] == [9223372036854775000, 1240000000000000000, -1, -1, 12]
    damaged, missing = Caution.ID_DAMAGED, Caution.ID_MISSING
    assert catalog["caution"][:].tolist() == [0, damaged, missing, missing, 0, damaged, damaged]


def test_parquet_ids_of_every_type(tmp_path: Path) -> None:
    """float64 ids beyond 2^53 are damaged, null is missing, text and unsigned ids are exact."""
    big = 1237648720142401611
    for index, (ids, expected) in enumerate(
        [
            (pa.array([7.0, float(big), None]), [(7, 0), (int(float(big)), Caution.ID_DAMAGED), (-1, 1)]),
            (pa.array(["7", str(big), None]), [(7, 0), (big, 0), (-1, Caution.ID_MISSING)]),
            (pa.array([7, 2**63 + 5, None], pa.uint64()), [(7, 0), (-1, Caution.ID_DAMAGED), (-1, 1)]),
        ]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        bands = {band: pa.array([15.0, 16.0, 17.0]) for band in "ugriz"}
        pq.write_table(pa.table({"objid": ids, "ra": [1, 2, 3], "dec": [1, 2, 3], **bands}), folder / "raw")
        catalog = run(folder, folder / "raw")
        assert list(zip(catalog["objid"][:].tolist(), catalog["caution"][:].tolist(), strict=True)) == expected


def test_values_have_their_reasons(tmp_path: Path) -> None:
    """Empty and null are missing, NaN and inf non-finite, -9999 and 9999 sentinels, the rest outside 0-30."""
    texts = ["", "null", "NaN", "inf", "-9999", "9999.0", "31", "-0.1", "1e39", "0", "30", " "]
    catalog = run(tmp_path, lines(*(f"{index},1,1,15,{text},15,15,15" for index, text in enumerate(texts))))
    missing, infinite, sentinel, outside = Quality
    expected = [missing, missing, infinite, infinite, sentinel, sentinel, outside, outside, infinite, 0, 0, missing]
    assert catalog["quality"][:].tolist() == expected
    assert np.isnan(catalog["magnitude"][0][1])
    counts = {"missing": 3, "non_finite": 3, "sentinel": 2, "out_of_range": 2, "magnitude_zero": 1}
    assert catalog.manifest.inputs.raw[0].counts == counts


def test_parquet_null_is_missing_and_nan_is_not(tmp_path: Path) -> None:
    """A null magnitude has no value, a NaN has a wrong one; integers and text columns are numbers too."""
    table = {"u": [15, None, 16], "g": ["15", "+15", None], "r": [15.0, float("nan"), 1.0]}
    pq.write_table(pa.table({**table, "i": [15.0] * 3, "z": [15.0] * 3}), tmp_path / "raw.pq")
    catalog = run(tmp_path, tmp_path / "raw.pq")
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING | Quality.NON_FINITE, Quality.MISSING]
    assert (catalog["caution"][:] == Caution.POSITION_MISSING).all()


def test_positions_are_cautions(tmp_path: Path) -> None:
    """A position outside the sphere or absent does not exclude the star."""
    catalog = run(tmp_path, lines("1,1,91,15,15,15,15,15", "2,,1,15,15,15,15,15", "3,361,1,15,15,15,15,15"))
    outside, missing = Caution.POSITION_OUTSIDE, Caution.POSITION_MISSING
    assert catalog["caution"][:].tolist() == [outside, missing, outside] and catalog.num_good == 3


# column names


def test_z_is_told_by_its_company(tmp_path: Path) -> None:
    """Beside psfMag_z the column z is the redshift; beside u, g, r, i it is the band, and zErr no magnitude error."""
    names = ",".join(f"psfMag_{band}" for band in "ugriz")
    catalog = run(tmp_path, lines("15,16,17,18,19,0.5", header=names + ",z"))
    assert catalog["redshift"][:].tolist() == [0.5] and catalog["magnitude"][0].tolist() == [15, 16, 17, 18, 19]
    (tmp_path / "b").mkdir()
    catalog = run(tmp_path / "b", lines("15,16,17,18,19,0.5,0.1", header="u,g,r,i,z,redshift,zErr"))
    assert catalog["redshift"][:].tolist() == [0.5] and "magnitude_error" not in catalog.columns


@pytest.mark.parametrize("header", ["u,g,r,i,z,zmag", "u,g,r,i,z,Z"])
def test_an_undecidable_z_is_asked_for(header: str, tmp_path: Path) -> None:
    """Where two columns could be the z band the ingest stops and says how to choose."""
    message = refused(tmp_path, lines("1,2,3,4,5,6", header=header))
    assert "--map z=" in message and "raw-0" in message
    chosen = header.split(",")[-1]
    catalog = run(tmp_path, lines("1,2,3,4,5,6", header=header), mapping={"z": chosen})
    assert catalog["magnitude"][0].tolist() == [1, 2, 3, 4, 6]


def test_explicit_mapping_wins(tmp_path: Path) -> None:
    """A mapped column is taken instead of the recognised one, an empty name takes a column away."""
    content = lines("7,8,15,16,17,18,19,20", header="objid,other,u,g,r,i,z,U2")
    catalog = run(tmp_path, content, mapping={"objid": "OTHER", "u": "U2", "redshift": "objid"})
    assert catalog["objid"][:].tolist() == [8] and catalog["magnitude"][0].tolist() == [20, 16, 17, 18, 19]
    assert catalog["redshift"][:].tolist() == [7]
    (tmp_path / "b").mkdir()
    assert run(tmp_path / "b", content, mapping={"objid": ""}).manifest.objid == "generated"


# wrong inputs


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lines(*STARS, "4,1,1,15,abc,15,15,15"), ["row 4", "column g", "'abc'", "columns are objid, ra"]),
        (lines("4,1,1,15,1.07199819e-,15,15,15"), ["row 1", "column g", "1.07199819e-"]),
        (lines("J1234,1,1,15,15,15,15,15"), ["row 1", "column objid", "J1234"]),
        (lines(*STARS[:2], "4,1,1,15"), ["row 3", "4 fields", "8 fields"]),
        (lines('1,1,1,15,"15\n",15,15,15', *STARS), ["line break"]),
        (lines("1,1,15,15,15,15", header="objid,ra,u,g,r,z"), ["band i", "columns objid, ra, u, g, r, z", "--map i="]),
        (lines("a,b", header="x,y"), ["u, g, r, i, z", "columns x, y"]),
        ("", ["empty file"]),
        ("\ufeff\n\n", ["empty file"]),
        (HEADER + "\n", ["no stars", "0 rows"]),
        (lines(*STARS).replace("\n", "\r"), ["line"]),
        (b"SIMPLE  =                    T", ["no END"]),
        (b"\x89HDF\r\n\x1a\n", ["HDF5"]),
        (b"PAR1garbagePAR1", ["cannot be read"]),
        (lines(*STARS).encode("utf-16"), ["UTF-16"]),
        ("<html><body>error</body></html>", ["web page"]),
        (
            lines(*STARS).replace(",", "  ").replace("objid", "object id"),
            ["9 names", "8 fields", "looks whitespace-separated", "commas, tabs, ; or |"],
        ),
        (gzip.compress(lines(*STARS).encode() * 99)[:-20], ["gzip"]),
    ],
)
def test_wrong_files_are_one_clear_message(content: str | bytes, words: list[str], tmp_path: Path) -> None:
    """The message names the file, where in it, and what is there; nothing is written."""
    message = refused(tmp_path, content)
    assert str(tmp_path / "raw-0") in message
    assert [word for word in words if word not in message] == []


def test_parquet_text_in_a_number_names_its_row(tmp_path: Path) -> None:
    """Text that is no number is found by row in Parquet too, and a column of dates is none."""
    bands = {band: [15.0] * 3 for band in "griz"}
    pq.write_table(pa.table({"u": ["15", "16", "bad"], **bands}), tmp_path / "text.pq")
    assert "row 3, column u" in refused(tmp_path, tmp_path / "text.pq")
    pq.write_table(pa.table({"u": pa.array([1, 2, 3], pa.timestamp("s")), **bands}), tmp_path / "time.pq")
    assert "timestamp" in refused(tmp_path, tmp_path / "time.pq")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"mapping": {"y": "u"}}, "y=u"),
        ({"mapping": {"u": "nope"}}, "nope"),
        ({"mapping": {"u": ""}}, "u="),
        ({"shard_rows": 0}, "shard rows"),
        ({"shard_rows": 4_000_001}, "shard rows"),
        ({"bad": "ignore"}, "ignore"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], word: str, tmp_path: Path) -> None:
    """A setting that cannot be is named."""
    assert word in refused(tmp_path, lines(*STARS), **values)


def test_missing_file_directory_and_nothing(tmp_path: Path) -> None:
    """A path that is no readable file is named; so is a list without files."""
    assert "nope.csv" in refused(tmp_path, tmp_path / "nope.csv")
    assert "directory" in refused(tmp_path, tmp_path)
    assert "no raw files" in refused(tmp_path)


def test_a_file_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows between counting and the end is an error, not a mix."""
    path = write(tmp_path / "raw.csv", lines(*STARS))
    original = text.scan_text

    def grow(*arguments: Any) -> Any:
        with path.open("a") as file:
            file.write(STARS[0] + "\n")
        return original(*arguments)

    monkeypatch.setattr("hpc_ae.readers.batches.scan_text", grow)
    assert "changed while" in refused(tmp_path, path)


@pytest.mark.parametrize("end", ["#end", "#end\n", "\n#end\r\n\r\n", "# 3 rows, of 3\n#\n\n# end\n"])
def test_trailing_comments_are_no_rows(end: str, tmp_path: Path) -> None:
    """Lines that begin with # after the last row are ignored, plain and unpacked."""
    assert_stars(run(tmp_path, lines(*STARS) + end))
    (tmp_path / "b").mkdir()
    assert_stars(run(tmp_path / "b", gzip.compress((lines(*STARS) + end).encode())))


def test_a_row_that_begins_like_a_comment_is_a_row(tmp_path: Path) -> None:
    """A last line with as many fields as the header is not lost for its #; comments alone are no stars."""
    header = "name,u,g,r,i,z"
    assert len(run(tmp_path, lines("a,15,16,17,18,19", "#7,15,16,17,18,19", "#end", header=header))) == 2
    (tmp_path / "b").mkdir()
    assert "no stars" in refused(tmp_path / "b", HEADER + "\n#end\n")


@pytest.mark.parametrize("kind", [pa.bool_(), pa.dictionary(pa.int8(), pa.string())])
def test_parquet_truth_values_are_no_magnitudes(kind: pa.DataType, tmp_path: Path) -> None:
    """A boolean column is refused by file and column; a dictionary of numbers as text is read."""
    path = tmp_path / "raw.pq"
    values = pa.array([True, False], kind) if kind == pa.bool_() else pa.array(["15", "16"]).cast(kind)
    pq.write_table(pa.table({"u": values, **{band: [15.0] * 2 for band in "griz"}}), path)
    if kind != pa.bool_():
        assert run(tmp_path, path)["magnitude"][:][:, 0].tolist() == [15, 16]
        return
    message = refused(tmp_path, path)
    assert str(path) in message and "column u" in message and "type bool" in message
