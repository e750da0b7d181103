"""Selection of rows: conditions in every type of column, the lecture's cuts, and that no row is lost uncounted."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import HEADER, STARS, column, lines, refused, run, shard_bytes, write

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.errors import InputError, StaleError
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.jobs.main import run_command
from hpc_ae.readers.selection import fulfils, parse_condition
from hpc_ae.readers.star_rows import BadValue
from hpc_ae.reading import Reading

BIG = 1237648720142401611
OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def met(text: str, values: Any) -> list[bool]:
    """Which values fulfil a condition."""
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return fulfils(parse_condition(text), pa.chunked_array([column])).tolist()


# one condition


@pytest.mark.parametrize("kind", [pa.int16(), pa.uint64(), pa.float32(), pa.float64(), pa.string(), pa.large_string()])
@settings(deadline=None)
@given(values=st.lists(st.integers(0, 5)), number=st.integers(0, 5), sign=st.sampled_from(list(OPERATORS)))
def test_numbers_compare_as_in_python(kind: pa.DataType, values: list[int], number: int, sign: str) -> None:
    """Small integers in every type of column, text too, and with a value that is no value behind."""
    array = pa.array([*values, None]).cast(kind)
    assert met(f"c{sign}{number}", array) == [OPERATORS[sign](value, number) for value in values] + [False]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.string()])
def test_ids_beyond_2_53_are_exact(kind: pa.DataType) -> None:
    """Neighbours that are one float64 are told apart."""
    array = pa.array([BIG - 1, BIG, BIG + 1]).cast(kind)
    assert met(f"id={BIG}", array) == [False, True, False]
    assert met(f"id>{BIG}", array) == [False, False, True]
    assert met(f"id!={BIG}", array) == [True, False, True]


@pytest.mark.parametrize(
    "values", [["STAR", " STAR ", "GALAXY", "star", None, ""], ["STAR", "STAR  ", "QSO", "star", None, ""]]
)
def test_text_is_equal_but_for_blanks(values: list[Any]) -> None:
    """Blanks around text do not count, its case does; no value is neither equal nor unequal."""
    array = pa.array(values)
    assert met("class=STAR", array) == [True, True, False, False, False, False]
    assert met("class != STAR", array) == [False, False, True, True, False, False]
    assert met("class='STAR'", array.dictionary_encode()) == [True, True, False, False, False, False]


def test_numbers_in_text_and_truth() -> None:
    """Text compares as the number it reads as; other text is unequal, and cannot be ordered; booleans are 1 and 0."""
    assert met("t=6", ["6", "6.0", " +6", "6e0", "A6", "null", None]) == [True] * 4 + [False] * 3
    assert met("t!=6", ["6", "7", "A6", ""]) == [False, True, True, False]
    with pytest.raises(BadValue) as caught:
        met("t<6", ["5", None, "A6"])
    assert (caught.value.row, caught.value.text) == (2, "A6")
    assert (
        met("clean=1", ["True", "false", "", "1"])
        == met("clean=TRUE", ["true", "0", "", "1"])
        == [True, False, False, True]
    )
    assert met("clean=1", [True, False, None]) == met("clean=true", [True, False, None]) == [True, False, False]
    assert met("m<20", pa.array([19.0, np.nan, None])) == [True, False, False]
    assert met("m!=20", pa.array([19.0, np.nan, None])) == [True, False, False]
    assert met("m<=19.1", pa.array([19.1, 19.2], pa.float32())) == [True, False]  # as float32 has it
    with pytest.raises(InputError, match="STAR"):
        met("m=STAR", [1.0])


@pytest.mark.parametrize("text", ["", "type", "=6", "type=", "r<", "class<STAR", "r<nan", "r<20<30", "type~6"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    """A condition is a name, a sign and a value."""
    with pytest.raises(InputError, match="not a condition"):
        parse_condition(text)


# whole files


def test_classes_of_a_real_file(shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the SkyServer export the stars alone, over shards of unequal size: the right ones, counted, and verified."""
    path = shared_data / "raw" / "skyserver_dr14_mixed_classes.csv"
    catalog = run(tmp_path, path, shard_rows=1_000, reading=Reading(keep=("class=STAR", "r<17")))
    wanted = [
        (name == "STAR") and float(r) < 17 for name, r in zip(column(path, "class"), column(path, "r"), strict=True)
    ]
    assert (catalog["magnitude"][:][:, 2] == np.float32(column(path, "r"))[wanted]).all()
    manifest = catalog.manifest
    assert (manifest.num_rows, manifest.num_dropped, manifest.num_not_kept) == (
        10_000,
        0,
        10_000 - sum(wanted),
    )
    assert manifest.num_stars == sum(wanted) and manifest.fingerprint["keep"] == ["class=STAR", "r<17"]
    entry = manifest.inputs.raw[0]
    assert entry.num_not_kept == manifest.num_not_kept and entry.counts["id_damaged"] == sum(wanted)
    assert f"{10_000 - sum(wanted):,} not kept" in capfd.readouterr().err
    assert len({shard.num_stars for shard in catalog.shards}) > 1
    assert run_command(["verify", str(catalog.directory)]) == 0


def test_point_sources_of_a_real_file(shared_data: Path, tmp_path: Path) -> None:
    """type=6 of a raw SkyServer answer keeps the stars of it; type=99 nothing: then there is no catalog."""
    path = shared_data / "raw" / "skyserver_table1_header.csv"
    ids, types = (column(path, name, skip=1) for name in ("objid", "type"))
    stars = [int(objid) for objid, kind in zip(ids, types, strict=True) if kind == "6"]
    assert run(tmp_path, path, reading=Reading(keep=("type=6",)))["objid"][:].tolist() == stars
    assert 0 < len(stars) < len(ids)
    (tmp_path / "b").mkdir()
    message = refused(tmp_path / "b", path, reading=Reading(keep=("type=99",)))
    assert "no star is left" in message and "not kept" in message


def test_parquet_and_csv_keep_the_same(tmp_path: Path) -> None:
    """The same table in both formats, conditions on a number, a text and a truth, gives the same shards."""
    rng = np.random.default_rng(1)
    table = {
        "objid": np.arange(500) + BIG,
        **{band: rng.uniform(14, 24, 500).astype(np.float32) for band in "ugriz"},
        "kind": rng.choice(["STAR", "QSO"], 500),
        "clean": rng.integers(0, 2, 500),
    }
    pq.write_table(pa.table(table), tmp_path / "raw.parquet", row_group_size=77)
    rows = [",".join(map(str, row)) for row in zip(*table.values(), strict=True)]
    write(tmp_path / "raw.csv", lines(*rows, header=",".join(table)))
    reading = Reading(keep=("kind=STAR", "clean=1", "r<22", f"objid>={BIG + 20}"))
    asked = IngestSettings(shard_rows=120, reading=reading)
    for name, num_workers in (("raw.parquet", 1), ("raw.csv", 2)):
        ingest([tmp_path / name], tmp_path / f"of-{name}", asked, num_workers)
    assert shard_bytes(tmp_path / "of-raw.csv") == shard_bytes(tmp_path / "of-raw.parquet")
    wanted = (table["kind"] == "STAR") & (table["clean"] == 1) & (table["r"] < 22) & (np.arange(500) >= 20)
    assert (open_catalog(tmp_path / "of-raw.csv")["objid"][:] == table["objid"][wanted]).all()


@pytest.mark.parametrize("kind", [pa.bool_(), pa.dictionary(pa.int8(), pa.string()), pa.binary()])
def test_truths_and_words_of_parquet(kind: pa.DataType, tmp_path: Path) -> None:
    """A boolean, a dictionary and a column of bytes choose rows; a date is refused before any row is read."""
    words = [True, None, False, True] if kind == pa.bool_() else [b"STAR", None, b"QSO", b"STAR"]
    chosen = pa.array(words, pa.bool_() if kind == pa.bool_() else pa.binary())
    chosen = chosen.cast(pa.string()).cast(kind) if pa.types.is_dictionary(kind) else chosen
    days = pa.array([1, 2, 3, 4], pa.date32())
    bands = {band: [15.0, 16.0, 17.0, 18.0] for band in "ugriz"}
    pq.write_table(pa.table({**bands, "what": chosen, "day": days}), tmp_path / "raw.pq")
    keep = ("what=1",) if kind == pa.bool_() else ("what=STAR",)
    catalog = run(tmp_path, tmp_path / "raw.pq", reading=Reading(keep=keep))
    assert catalog["magnitude"][:][:, 0].tolist() == [15, 18]
    (tmp_path / "b").mkdir()
    message = refused(tmp_path / "b", tmp_path / "raw.pq", reading=Reading(keep=("day=1",)))
    assert "column day" in message and "date32" in message


def test_the_lectures_cuts(tmp_path: Path) -> None:
    """Each band BETWEEN 0 AND 30, limits included: what SkyServer's query would not have returned is not kept."""
    values = ["0", "30", "-0.0001", "30.001", "-9999", "nan", "", "15"]
    content = lines(*(f"{index},1,1,15,15,15,15,{value}" for index, value in enumerate(values)))
    catalog = run(tmp_path, content, reading=Reading(cuts="lecture"))
    assert catalog["objid"][:].tolist() == [0, 1, 7] and catalog.num_good == 3
    assert catalog.manifest.num_not_kept == 5
    assert catalog.manifest.inputs.raw[0].counts == {"magnitude_zero": 1}


def test_rows_in_are_stars_dropped_and_not_kept(tmp_path: Path) -> None:
    """Three fates: kept, dropped as unusable, not asked for; each row has one, in each file."""
    rows = ["1,1,1,15,15,15,15,15", "2,1,1,-9999,15,15,15,15", "3,1,1,15,15,25,15,15", "4,1,1,-9999,15,25,15,15"]
    catalog = run(tmp_path, lines(*rows), lines(*rows[1:]), shard_rows=3, bad="drop", reading=Reading(keep=("r<20",)))
    keys = ("num_rows", "num_stars", "num_dropped", "num_not_kept")
    counted = [[getattr(entry, key) for key in keys] for entry in catalog.manifest.inputs.raw]
    assert counted == [
        [4, 1, 1, 2],
        [3, 0, 1, 2],
    ]
    assert [getattr(catalog.manifest, key) for key in keys] == [7, 1, 2, 4]


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["15", "-9999", "", "25", "nan"]), st.integers(0, 3)), min_size=1, max_size=60
    ),
    bad=st.sampled_from(["flag", "drop"]),
    shard_rows=st.integers(1, 25),
)
def test_every_row_has_one_fate(
    rows: list[tuple[str, int]], bad: Any, shard_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random rows, shards and policies: the stars are those asked for (and usable), in order; the sums are the rows."""
    folder = tmp_path_factory.mktemp("fates")
    content = lines(
        *(f"{index},1,1,{u},15,15,15,15,{kind}" for index, (u, kind) in enumerate(rows)), header=HEADER + ",type"
    )
    asked = [index for index, (_, kind) in enumerate(rows) if kind >= 2]
    stars = [index for index in asked if bad == "flag" or rows[index][0] in ("15", "25")]
    values: dict[str, Any] = {"bad": bad, "shard_rows": shard_rows, "reading": Reading(keep=("type>=2",))}
    if not stars:
        assert "no star is left" in refused(folder, content, **values)
        return
    catalog = run(folder, content, **values)
    assert catalog["objid"][:].tolist() == stars
    keys = ("num_rows", "num_dropped", "num_not_kept")
    assert [getattr(catalog.manifest, key) for key in keys] == [
        len(rows),
        len(asked) - len(stars),
        len(rows) - len(asked),
    ]


def test_stop_looks_at_kept_rows_only(tmp_path: Path) -> None:
    """A row that is not asked for may be unusable; the first that is asked for and unusable is named by its own row."""
    rows = [*STARS[:2], "3,1,1,-9999,15,25,15,15"]
    assert run(tmp_path, lines(*rows), bad="stop", reading=Reading(keep=("r<20",))).num_stars == 2
    (tmp_path / "b").mkdir()
    message = refused(tmp_path / "b", lines(*rows, "4,1,1,-9999,1,1,1,1"), bad="stop", reading=Reading(keep=("r<20",)))
    assert "row 4: column u is -9999" in message and "row 3" not in message


def test_generated_ids_are_row_numbers_of_the_file(tmp_path: Path) -> None:
    """Without ids a star's id says which row of the inputs it was, whatever was left out."""
    rows = [f"15,15,{15 + index % 3},15,15" for index in range(9)]
    catalog = run(tmp_path, lines(*rows, header="u,g,r,i,z"), shard_rows=4, reading=Reading(keep=("r=16",)))
    assert catalog["objid"][:].tolist() == [1, 4, 7]


def test_ids_repeat_among_kept_stars_only(tmp_path: Path) -> None:
    """An id whose other occurrence was left out is not repeated."""
    rows = ["1,1,1,15,15,15,15,15", "1,1,1,15,15,25,15,15", "2,1,1,15,15,15,15,15", "2,1,1,15,15,15,15,15"]
    catalog = run(tmp_path, lines(*rows), shard_rows=1, reading=Reading(keep=("r<20",)))
    assert catalog["objid"][:].tolist() == [1, 2, 2] and catalog.manifest.flags == {"id_repeated": 2}


def test_conditions_are_on_converted_values_or_on_columns(tmp_path: Path) -> None:
    """r is the magnitude that the catalog gets, psfFlux_r the flux as it stands, redshift the column z."""
    header = "z," + ",".join(f"psfFlux_{band}" for band in "ugriz")
    rows = ["0.1,9,9,100,9,9", "0.2,9,9,1,9,9", "0.3,9,9,10,9,9"]
    for index, (text, expected) in enumerate(
        [("r<21", [0.1, 0.3]), ("psfFlux_r<5", [0.2]), ("redshift>=0.2", [0.2, 0.3])]
    ):
        (tmp_path / str(index)).mkdir()
        catalog = run(tmp_path / str(index), lines(*rows, header=header), reading=Reading(keep=(text,)))
        np.testing.assert_allclose(catalog["redshift"][:], expected, rtol=1e-6)
        np.testing.assert_allclose(catalog["magnitude"][:][:, 0], 22.5 - 2.5 * np.log10(9), atol=1e-6)
    (tmp_path / "b").mkdir()
    assert "could mean two columns" in refused(
        tmp_path / "b", lines(*rows, header=header), reading=Reading(keep=("z<1",))
    )
    message = refused(tmp_path / "b", lines(*rows, header=header), reading=Reading(keep=("typo=1",)))
    assert "typo" in message and "the columns z, psfFlux_u" in message


def test_a_missing_id_fulfils_no_condition(tmp_path: Path) -> None:
    """An id that is not there is stored as -1, and is no number below others."""
    content = lines(STARS[0], STARS[1].replace("2,", ",", 1), STARS[2])
    assert run(tmp_path, content, reading=Reading(keep=("objid<3",)))["objid"][:].tolist() == [1]


def test_text_that_is_ordered_is_named_by_row(tmp_path: Path) -> None:
    """A word in a column that is compared with < is an error with file, row and column."""
    content = lines("1,1,1,15,15,15,15,15,3", "2,1,1,15,15,15,15,15,many", header=HEADER + ",nobs")
    message = refused(tmp_path, content, reading=Reading(keep=("nobs>1",)))
    assert "raw-0, row 2, column nobs" in message and "'many'" in message


def test_other_conditions_are_another_catalog(tmp_path: Path) -> None:
    """The conditions are part of the fingerprint; a catalog made without any has the fingerprint of before."""
    run(tmp_path, lines(*STARS))
    assert set(open_catalog(tmp_path / "catalog").manifest.fingerprint) == {
        "verb",
        "raw",
        "mapping",
        "shard_rows",
        "bad",
    }
    with pytest.raises(StaleError, match="keep"):
        run(tmp_path, lines(*STARS), reading=Reading(keep=("r<20",)))


def test_command_line_and_config_say_the_same(tmp_path: Path) -> None:
    """`ingest` with options and a run with catalog.source keys write the same shards and fingerprint."""
    path = write(
        tmp_path / "raw.csv",
        lines(*(f"{row},{index % 2}" for index, row in enumerate(STARS * 40)), header=HEADER + ",clean"),
    )
    out = tmp_path / "by-hand"
    options = ["--keep", "clean=1", "--keep", "r<18.5", "--cuts", "lecture", "--angles", "deg", "--magnitudes", "ugriz"]
    options += ["--table", "any"]  # a CSV has but one
    assert run_command(["ingest", str(path), "--out", str(out), *options]) == 0
    config = write(
        tmp_path / "run.yaml",
        f"run_dir: {tmp_path / 'run'}\ncatalog: {{source: {{raw: [{path}], keep: [clean=1, r<18.5], cuts: lecture, "
        "angles: deg, magnitudes: ugriz, table: any}}\ntrain: {epochs: 1, batch_size: 4, partitions: 1}\n",
    )
    from hpc_ae.config import load_config
    from hpc_ae.jobs.stages import STAGES, make_run

    assert STAGES["ingest"].run(make_run(load_config(config)), lambda: False) == "done"
    assert shard_bytes(tmp_path / "run" / "catalog") == shard_bytes(out)
    manifests = [open_catalog(place).manifest.fingerprint for place in (out, tmp_path / "run" / "catalog")]
    assert manifests[0] == manifests[1] and manifests[0]["keep"] == ["clean=1", "r<18.5"]


def test_check_names_a_wrong_condition(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`check` says before anything runs that a condition or a unit cannot be."""
    config = write(
        tmp_path / "run.yaml", "run_dir: x\ncatalog: {source: {raw: [a.csv], keep: [clean], flux: counts}}\n"
    )
    assert run_command(["check", str(config)]) == 2
    assert "counts need a zero point" in capfd.readouterr().err
    write(config, "run_dir: x\ncatalog: {source: {raw: [a.csv], keep: [clean]}}\n")
    assert run_command(["check", str(config)]) == 2
    assert "not a condition" in capfd.readouterr().err
