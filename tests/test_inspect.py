"""inspect: what it says of a file is what an ingest then does; it reads the beginning only and writes nothing."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import HEADER, STARS, lines, write

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.errors import InputError
from hpc_ae.inspect import inspect_files, option_words
from hpc_ae.jobs.main import run_command
from hpc_ae.readers import sample, text
from hpc_ae.reading import Reading


def look(path: Path, num_rows: int = 1_000, **values: Any) -> dict[str, Any]:
    """The findings on one file."""
    findings = inspect_files([path], values.pop("mapping", {}), Reading(**values), num_rows).to_json()
    entry: dict[str, Any] = findings["files"][0]
    return {**entry, "command": findings["command"]}


def taken(entry: dict[str, Any]) -> dict[str, str]:
    """Our name to column."""
    return {name: column["name"] for column in entry["columns"] for name in column["taken_for"].split(", ") if name}


def test_real_files_are_ingested_as_shown(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every real file: the command that inspect shows runs, and its catalog has the mapping, notes and counts shown."""
    monkeypatch.setattr(text, "SEGMENT_BYTES", 1 << 21)  # of a text inspect reads the first segment: here the whole
    paths = [
        *sorted(shared_data.glob("*.csv")),
        *sorted((shared_data / "raw").glob("*.csv")),
        *shared_data.glob("*.parquet"),
    ]
    assert len(paths) == 5
    for index, path in enumerate(paths):
        status = run_command(["inspect", str(path), "--json", "--rows", "100000"])
        findings = json.loads(capsys.readouterr().out)
        entry, words = findings["files"][0], shlex.split(findings["command"])
        assert status == 0 and words[:2] == ["hpc-ae", "ingest"] and not entry["question"]
        out = tmp_path / str(index)
        assert run_command([*(str(out) if word == "catalog" else word for word in words[1:]), "--workers", "1"]) == 0
        manifest = open_catalog(out).manifest
        recorded = manifest.inputs.raw[0].to_json()
        assert taken(entry) == recorded["mapping"]
        assert entry["notes"][: len(recorded["notes"])] == recorded["notes"]
        assert entry["num_rows_looked_at"] == min(100_000, recorded["num_rows"])
        if path.suffix == ".csv":  # whole; the Parquet file is longer
            assert entry["counts"] == {**recorded["counts"], **recorded["removed"]}


def test_the_dialect_of_a_real_answer(shared_data: Path) -> None:
    """A raw SkyServer answer: the line before the header, the delimiter, types, and the selector columns."""
    entry = look(shared_data / "raw" / "skyserver_table1_header.csv")
    assert entry["format"] == "csv" and entry["compression"] is None
    assert entry["dialect"] == {
        "delimiter": ",",
        "comment_lines": 1,
        "line_end": "LF",
        "byte_order_mark": False,
        "encoding": "ASCII",
        "quoted": False,
    }
    columns = {column["name"]: column for column in entry["columns"]}
    assert (columns["objid"]["type"], columns["u"]["type"]) == ("integer", "number")
    assert columns["objid"]["values"][0] == "1237648721229774920" and "--keep" in columns["type"]["why"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lines(*STARS).replace(",", "\t"), {"delimiter": "\t"}),
        (
            "\ufeff# made by hand\n# é\n" + lines(*STARS).replace("\n", "\r\n"),
            {"comment_lines": 2, "line_end": "CRLF", "byte_order_mark": True, "encoding": "UTF-8"},
        ),
        (lines(*(f'{row},"a, b"' for row in STARS), header=HEADER + ",name"), {"quoted": True}),
        (
            lines(*(f"{row},a" for row in STARS), header=HEADER + ",name").replace(",a", ",\xe9").encode("latin-1"),
            {"encoding": "other than UTF-8"},
        ),
        (gzip.compress(lines(*STARS).encode()), {"delimiter": ","}),
    ],
)
def test_dialects(content: str | bytes, expected: dict[str, Any], tmp_path: Path) -> None:
    """What a text is written in is said, and its three rows are read whatever it is."""
    entry = look(write(tmp_path / "raw", content))
    assert {key: entry["dialect"][key] for key in expected} == expected
    assert entry["num_rows_looked_at"] == 3 and taken(entry)["z"] == "z"
    assert list(entry["columns"][0]["values"]) == ["1", "2", "3"] and entry["command"]


def test_missing_values_are_counted_by_kind(tmp_path: Path) -> None:
    """Empty fields and words for no value, NaN, and sentinels of each column, and what an ingest would flag."""
    rows = ["1,1,1,-9999,15,15,15,15", "2,,1,null,15,15,15,15", "3,1,1,nan,15,15,15,31", "1.2E+18,1,1,15,15,15,15,15"]
    entry = look(write(tmp_path / "raw", lines(*rows)))
    u = entry["columns"][3]
    assert [u[key] for key in ("num_missing", "num_empty", "num_nan", "num_sentinels")] == [3, 1, 1, 1]
    counts = {"missing": 1, "non_finite": 1, "sentinel": 1, "out_of_range": 1, "id_damaged": 1, "position_missing": 1}
    assert entry["counts"] == counts


def test_types_and_rows_of_parquet(tmp_path: Path) -> None:
    """Arrow's own types; lists, times and truths are shown; five rows, fewer where there are fewer."""
    table = {
        "objid": pa.array([1237648720142401611, 2, None]),
        **{band: pa.array([15.1, 16.0, np.nan], pa.float32()) for band in "ugriz"},
        "flags": pa.array([[1], [2, 3], None]),
        "when": pa.array([1, 2, 3], pa.timestamp("s")),
        "clean": pa.array([True, False, None]),
        "class": pa.array(["STAR", "QSO", None]).dictionary_encode(),
        "name": pa.array([b"a", b"\xff", None]),
    }
    pq.write_table(pa.table(table), tmp_path / "raw")
    columns = {column["name"]: column for column in look(tmp_path / "raw")["columns"]}
    assert [columns[name]["type"] for name in ("objid", "u", "clean")] == ["int64", "float", "bool"]
    assert columns["objid"]["values"] == ["1237648720142401611", "2", ""] and columns["u"]["values"][0] == "15.1"
    assert (columns["u"]["num_nan"], columns["class"]["num_empty"]) == (1, 1)
    assert columns["flags"]["values"][1] == "[2, 3]" and columns["name"]["values"][:1] == ["a"]


def test_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value behind the first segment, or behind the rows looked at, is not seen; gzip is unpacked in part."""
    monkeypatch.setattr(text, "SEGMENT_BYTES", 4_000)
    # Otherwise the whole of a table that a test can write is the head.
    monkeypatch.setattr(sample, "_HEAD_BYTES", 100_000)
    good = [STARS[0]] * 50_000
    path = write(tmp_path / "raw", lines(*good, "4,1,1,bad,15,15,15,15"))
    entry = look(path, 100_000)
    assert 100 < entry["num_rows_looked_at"] < 120
    packed = write(tmp_path / "packed", gzip.compress(path.read_bytes())[:-20])  # its end is missing
    assert look(packed, 40)["num_rows_looked_at"] == 40
    (tmp_path / "b").mkdir()
    assert "row 4, column u" in look(write(tmp_path / "b" / "raw", lines(*STARS, "4,1,1,bad,15,15,15,15")))["question"]


def test_hints_on_columns_that_are_not_taken(tmp_path: Path) -> None:
    """Extinctions of all bands can be subtracted, of one band not; classes can be chosen by."""
    header = "u,g,r,i,z,A_r,Class," + ",".join(f"extinction_{band}" for band in "ugriz")
    entry = look(write(tmp_path / "raw", lines("15,15,15,15,15,0.1,STAR,.1,.1,.1,.1,.1", header=header)))
    why = {column["name"]: column["why"] for column in entry["columns"]}
    assert "--deredden" in why["extinction_r"] and "--keep" in why["Class"] and not why["A_r"]


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the file nothing appears, and nothing is left in the directory of temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    look(write(tmp_path / "raw", gzip.compress(lines(*STARS).encode())))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["raw", "tmp"]


# questions and errors


@pytest.mark.parametrize(
    ("header", "option"),
    [("u,g,r,i,z,zErr", "--map z="), ("a,b,c,d,e,f", "--map u="), ("flux_u,flux_g,flux_r,flux_i,flux_z,x", "--flux")],
)
def test_a_question_is_shown_with_all_else(
    header: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where something must be said first: columns and rows, the question of ingest, no command, status 2."""
    path = write(tmp_path / "raw", lines("1,2,3,4,5,6", header=header))
    assert run_command(["inspect", str(path)]) == 2
    shown = capsys.readouterr()
    assert all(name in shown.out for name in header.split(",")) and "to ingest" not in shown.out
    assert option in shown.err and "Traceback" not in shown.err
    assert run_command(["ingest", str(path), "--out", str(tmp_path / "catalog")]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", b"PAR1garbagePAR1", "<html><body>error</body></html>", lines(*STARS).encode("utf-16")]
)
def test_a_file_that_cannot_be_read_is_the_error_of_ingest(
    content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same message as ingest's, status 2."""
    path = write(tmp_path / "raw", content)
    messages = []
    for words in (["inspect", str(path)], ["ingest", str(path), "--out", str(tmp_path / "catalog")]):
        assert run_command(words) == 2
        messages.append(capsys.readouterr().err)
    assert messages[0] == messages[1] and str(path) in messages[0]


def test_a_file_without_stars_is_a_question(tmp_path: Path) -> None:
    """A header alone: its columns are shown, and that there are no stars."""
    entry = look(write(tmp_path / "raw", HEADER + "\n"))
    assert taken(entry)["u"] == "u" and "no stars" in entry["question"] and entry["command"] is None


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    """No file, a file that is not there, and a reading that cannot be."""
    with pytest.raises(InputError, match="no raw files"):
        inspect_files([], {}, Reading(), 10)
    with pytest.raises(InputError, match="nope"):
        look(tmp_path / "nope")
    with pytest.raises(InputError, match="zero point"):
        look(write(tmp_path / "raw", lines(*STARS)), flux="counts")


def test_the_command_repeats_every_option(tmp_path: Path) -> None:
    """The command has each option that inspect was given, quoted for the shell."""
    reading = Reading(
        magnitudes="psfFlux",
        flux="counts",
        zero_point=(25.0, 25.5, 26.0, 26.5, 27.0),
        asinh=True,
        deredden=True,
        angles="rad",
        table="2",
        keep=("r<20", "class=A B"),
        cuts="lecture",
        survey="sdss",
        bands=("u", "g", "r", "i", "z"),
    )
    words = option_words({"u": "my u"}, reading)
    assert shlex.join(words) == (
        "--map 'u=my u' --survey sdss --bands u,g,r,i,z --magnitudes psfFlux --flux counts "
        "--zero-point 25,25.5,26,26.5,27 --angles rad --table 2 "
        "--cuts lecture --keep 'r<20' --keep 'class=A B' --asinh --deredden"
    )


def test_several_files_are_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file has its part, and one command ingests them all."""
    paths = [write(tmp_path / f"raw {index}", lines(*STARS)) for index in range(2)]
    assert run_command(["inspect", *map(str, paths)]) == 0
    output = capsys.readouterr().out
    assert (
        f"hpc-ae ingest '{paths[0]}' '{paths[1]}' --out catalog" in output
        and output.count("3 rows were looked at") == 2
    )
    assert run_command(["inspect", *map(str, paths * 10)]) == 0
    assert "4 more files were not looked at" in capsys.readouterr().out
