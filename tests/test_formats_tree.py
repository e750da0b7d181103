"""Parquet as raw input: files, hive and HATS trees, value by value; and trees that are not what they seem."""

from __future__ import annotations

import json
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table
from catalog_factory import make_stars
from commands import command, environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal
from raw_files import lines, refused, run, write
from raw_tables import (
    BANDS,
    assert_comes_back,
    assert_holds,
    columns_of,
    exported,
    make_arrays,
    package_dir,
    tables,
)

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.schema import Quality
from hpc_ae.errors import InputError
from hpc_ae.inspect import inspect_files
from hpc_ae.readers.tree import expand_dirs
from hpc_ae.reading import Reading

STARS = make_arrays(40)
COLUMNS = columns_of(STARS)


def rows(start: int, stop: int, **more: Any) -> pa.Table:
    """Some of the stars, with other columns beside them."""
    return pa.table({name: values[start:stop] for name, values in (COLUMNS | more).items()})


def put(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write a Parquet file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def assert_stars_of(catalog: Catalog, order: Any) -> None:
    """A catalog holds the stars of these numbers in this order."""
    assert_holds(catalog, {name: values[np.asarray(order)] for name, values in STARS.items()})


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_files(compression: str, tmp_path: Path) -> None:
    """A file of any compression and many row groups is the stars exactly, whatever its name and the shards."""
    path = put(tmp_path / "stars.csv", rows(0, 40), row_group_size=7, compression=compression)
    assert_holds(run(tmp_path, path, shard_rows=9), STARS)


@pytest.mark.parametrize("packed_by", ["dictionary", "compression"])
def test_long_texts_are_not_held_for_all_rows(packed_by: str, tmp_path: Path) -> None:
    """A small file of one long text in 6,000 rows, 600 MB unpacked, takes little memory; a longer one is refused."""
    num, text = 6_000, "9" * 100_000
    table = pa.table({"u": pa.array([text] * num).dictionary_encode() if packed_by == "dictionary" else [text] * num})
    table = pa.table({**{band: pa.array(np.full(num, 18.0)) for band in "griz"}, "u": table["u"]})
    path = put(tmp_path / "stars.parquet", table, use_dictionary=packed_by == "dictionary", compression="snappy")
    words = ["ingest", path, "--out", tmp_path / "catalog", "--workers", 1]
    done = subprocess.run(
        ["prlimit", f"--as={3 << 29}", *command(*words)], env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and f"{num:,} stars out" in done.stderr, done.stderr
    longer = pa.table({**{band: [18.0] for band in "griz"}, "u": pa.array(["9" * (2 << 20)]).dictionary_encode()})
    assert "text of 2,097,152 bytes" in refused(
        tmp_path / "longer", put(tmp_path / "longer" / "longer.parquet", longer)
    )


def test_types(tmp_path: Path) -> None:
    """Ids as text, unsigned, decimal and dictionary, magnitudes of half and double precision, text in dictionaries."""
    ids = pa.array(STARS["objid"])
    for index, kind in enumerate([pa.string(), pa.large_string(), pa.uint64(), pa.decimal128(20), "dictionary"]):
        column = ids.cast(pa.string()).dictionary_encode() if kind == "dictionary" else ids.cast(kind)
        table = rows(0, 40).set_column(0, "objid", column)
        (tmp_path / str(index)).mkdir()
        assert_holds(run(tmp_path / str(index), put(tmp_path / f"{index}.parquet", table)), STARS)
    half = STARS["magnitude"].astype(np.float16)
    table = pa.table({band: half[:, index] for index, band in enumerate(BANDS)})
    assert_array_equal(run(tmp_path, put(tmp_path / "half", table))["magnitude"][:], half.astype(np.float32))


def test_astropy_masks_and_units(tmp_path: Path) -> None:
    """What astropy writes: masked values are missing, of vectors too, and units in its notes are heeded."""
    masked = np.zeros((40, 5), bool)
    masked[3, 1] = masked[5, 0] = True
    table = Table({"objid": STARS["objid"], "psfmag": MaskedColumn(STARS["magnitude"], mask=masked, unit="mag")})
    table["ra"] = MaskedColumn(np.radians(STARS["ra"]), unit="rad", mask=masked[:, 1])
    table["dec"] = MaskedColumn(np.radians(STARS["dec"]), unit="rad", mask=masked[:, 1])
    table.write(tmp_path / "a.parquet")
    catalog = run(tmp_path, tmp_path / "a.parquet")
    assert_array_equal(catalog["magnitude"][:], np.where(masked, np.nan, STARS["magnitude"]).astype("f4"))
    assert np.flatnonzero(catalog["quality"][:] == Quality.MISSING).tolist() == [3, 5]
    assert_array_equal(np.isnan(catalog["ra"][:]), masked[:, 1])
    assert np.nanmax(np.abs(catalog["ra"][:] - STARS["ra"])) < 1e-12


def test_units_of_voparquet(tmp_path: Path) -> None:
    """Units that stand only in the VOTable of a VOParquet, as TOPCAT has them, are heeded; with entities not."""
    table = rows(0, 40, ra=np.radians(STARS["ra"]), dec=np.radians(STARS["dec"]))
    fields = "".join(f'<FIELD name="{name}" datatype="double" unit="rad"/>' for name in ("ra", "dec"))
    text = f"<VOTABLE><RESOURCE><TABLE>{fields}</TABLE></RESOURCE></VOTABLE>"
    meta = {"IVOA.VOTable-Parquet.version": "1.0", "IVOA.VOTable-Parquet.content": text}
    catalog = run(tmp_path, put(tmp_path / "a", table.replace_schema_metadata(meta)))
    assert np.abs(catalog["ra"][:] - STARS["ra"]).max() < 1e-12
    meta["IVOA.VOTable-Parquet.content"] = '<!DOCTYPE VOTABLE [<!ENTITY a "b">]>' + text
    (tmp_path / "more").mkdir()
    catalog = run(tmp_path / "more", put(tmp_path / "b", table.replace_schema_metadata(meta)))
    assert np.abs(catalog["ra"][:]).max() < 2 * np.pi


def test_names_that_occur_twice(tmp_path: Path) -> None:
    """Two columns of one name are both there; an error asks, and a number chooses. A name may begin another's."""
    table = rows(0, 40).append_column("u", pa.array(COLUMNS["g"])).append_column("g.x", pa.array(COLUMNS["z"]))
    path = put(tmp_path / "a.parquet", table)
    assert "u=#14" in refused(tmp_path, path)
    catalog = run(tmp_path, path, mapping={"u": "#14"})
    assert_array_equal(catalog["magnitude"][:], STARS["magnitude"][:, [1, 1, 2, 3, 4]])


def test_a_mask_that_is_none(tmp_path: Path) -> None:
    """A column whose mask holds no truths is refused: what it masks is not known."""
    table = rows(0, 40).append_column("g.mask", pa.array(np.zeros(40, np.int8)))
    assert "masked by g.mask" in refused(tmp_path, put(tmp_path / "a.parquet", table))


# --- trees --------------------------------------------------------------------------------------------------------


def test_hive_tree(tmp_path: Path) -> None:
    """Partitions are columns, of pyarrow's writing too; hidden files, metadata and empty folders are none."""
    table = rows(0, 40, run=np.repeat([94, 125, 1000, 7], 10), **{"my field": ["a b", "c/d", "é", ""] * 10})
    ds.write_dataset(
        table, tmp_path / "tree", format="parquet", partitioning=["run", "my field"], partitioning_flavor="hive"
    )
    root = tmp_path / "tree"
    (root / "run=8").mkdir()
    write(root / "_SUCCESS", b"")
    write(root / ".part.crc", b"x")
    write(root / "run=7" / "notes.txt", b"not a table")
    put(root / "_metadata", rows(0, 0))
    put(root / "_common_metadata", rows(0, 0))
    put(root / "_temporary" / "part.parquet", rows(0, 5))
    put(root / ".hidden" / "part.parquet", rows(0, 5))
    catalog = run(tmp_path, root, num_workers=2)
    assert catalog.num_stars == 40
    assert sorted(catalog["objid"][:]) == sorted(STARS["objid"])
    order = np.argsort(STARS["objid"])[np.searchsorted(np.sort(STARS["objid"]), catalog["objid"][:])]
    assert_stars_of(catalog, order)
    assert table["run"].to_numpy()[order].tolist() == [7] * 10 + [94] * 10 + [125] * 10 + [1000] * 10
    for keep, expected in (("run=94", table["run"].to_numpy() == 94), ("my field=c/d", np.arange(40) % 4 == 1)):
        (tmp_path / keep.replace("/", "")).mkdir()
        kept = run(tmp_path / keep.replace("/", ""), root, reading=Reading(keep=(keep,)))
        assert sorted(kept["objid"][:]) == sorted(STARS["objid"][expected])


def test_partition_values(tmp_path: Path) -> None:
    """Whole numbers are numbers; other text is text; Hive's word for null is null; odd spellings are no crash."""
    values = ["12", "-3", "007", "--5", "1.5", "a%20b", "__HIVE_DEFAULT_PARTITION__", "9" * 30, "٣"]
    read = []
    for value in values:
        [(_, columns)] = tables(put(tmp_path / f"k={value}" / "a.parquet", rows(0, 2)), tmp_path)
        read.append(columns["k"].to_pylist()[0])
    assert read == [12, -3, 7, "--5", "1.5", "a b", None, "9" * 30, "٣"]


def test_files_in_natural_order(tmp_path: Path) -> None:
    """part-10 comes after part-9, in folders as in names."""
    for index in range(12):
        put(tmp_path / "tree" / f"part-{index}.parquet", rows(index, index + 1))
    assert_stars_of(run(tmp_path, tmp_path / "tree"), range(12))


def test_a_neighbour_is_no_further_table(tmp_path: Path) -> None:
    """A file called as another with .1 behind is not taken for its second table."""
    put(tmp_path / "a.parquet.1", rows(5, 9))
    assert_stars_of(run(tmp_path, put(tmp_path / "a.parquet", rows(0, 5))), range(5))


def test_our_exports_come_back(tmp_path: Path) -> None:
    """Every format that hpc-ae export writes is read again without a changed bit, whatever the file is called."""
    stars = make_stars(tmp_path / "stars")
    for to in ("fits", "parquet", "hats"):  # the other formats have tests of their own
        (tmp_path / to).mkdir()
        assert_comes_back(stars, to, tmp_path / to)
    (tmp_path / "vectors").mkdir()
    assert_comes_back(stars, "parquet", tmp_path / "vectors", split=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hats_catalog_and_collection(tmp_path: Path) -> None:
    """A HATS catalog of many partitions with all its side files, alone or in a collection with margins."""
    stars = make_stars(tmp_path / "stars")
    path = exported(stars, tmp_path / "sky", "hats")
    collection = tmp_path / "collection"
    shutil.copytree(path, collection / "sky")
    shutil.copytree(path, collection / "sky_margin")
    put(collection / "sky" / "dataset" / "data_thumbnail.parquet", rows(0, 5))
    (collection / "collection.properties").write_text("#HATS\nobs_collection=x\nhats_primary_table_url=sky\n")
    first = run(tmp_path, path)
    (tmp_path / "more").mkdir()
    again = run(tmp_path / "more", collection)
    assert_array_equal(first["objid"][:], again["objid"][:])
    assert not (again["caution"][:] & 2).any()
    (collection / "collection.properties").unlink()
    assert "several catalogs" in refused(tmp_path / "more" / "most", collection)
    (collection / "collection.properties").write_text("hats_primary_table_url=../sky\n")
    assert "is not in it" in refused(tmp_path / "more" / "most", collection)


def test_real_parquet_files() -> None:
    """Files that pyarrow carries from its early days, and astropy's, read as pyarrow reads them."""
    files = [*(package_dir("pyarrow") / "tests" / "data" / "parquet").glob("*.parquet")]
    files += (package_dir("astropy") / "io" / "votable" / "tests" / "data").glob("*.parquet")
    assert len(files) == 5
    for path in files:
        [(raw, columns)] = tables(path, path)
        table = pq.read_table(path)
        assert list(raw.columns) == table.column_names and raw.num_rows == len(table)
        for name, column in columns.items():
            assert column.to_pylist() == table[name].to_pylist()


# --- trees that are not what they seem ----------------------------------------------------------------------------


def spoil_end(path: Path) -> None:
    """Cut the footer off."""
    path.write_bytes(path.read_bytes()[:-9])


def spoil_start(path: Path) -> None:
    """Spoil the first bytes, as a download of something else has."""
    path.write_bytes(b"<htm" + path.read_bytes()[4:])


def spoil_middle(path: Path) -> None:
    """Spoil a page."""
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)


def empty(path: Path) -> None:
    """Leave no byte."""
    path.write_bytes(b"")


def dangle(path: Path) -> None:
    """Leave a link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("spoil", [spoil_end, spoil_start, spoil_middle, empty, dangle])
def test_one_bad_member_is_never_left_out(spoil: Any, tmp_path: Path) -> None:
    """A tree with one member that is cut, empty or something else is refused by the member's name."""
    for index in range(4):
        put(tmp_path / "tree" / f"k={index}" / "a.parquet", rows(10 * index, 10 * index + 10), compression="gzip")
    spoil(tmp_path / "tree" / "k=2" / "a.parquet")
    assert "k=2/a.parquet" in refused(tmp_path, tmp_path / "tree")


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (rows(5, 9).drop_columns(["objid"]), "objid is missing, not number"),
        (rows(5, 9, extra=np.arange(40)), "extra is number, not missing"),
        (rows(5, 9).rename_columns(["OBJID", *rows(0, 1).column_names[1:]]), "OBJID is number"),
        (rows(5, 9).set_column(1, "ra", pa.array(["a"] * 4)), "ra is text, not number"),
    ],
)
def test_mixed_columns(other: pa.Table, word: str, tmp_path: Path) -> None:
    """Files of a tree with different columns are refused, naming what differs; side by side by name they are read."""
    paths = [put(tmp_path / "tree" / "a.parquet", rows(0, 5)), put(tmp_path / "tree" / "b.parquet", other)]
    assert word in (message := refused(tmp_path, tmp_path / "tree")) and "b.parquet" in message
    if other.schema.field("ra").type == pa.float64():
        assert run(tmp_path, *paths).num_stars == 9


def test_columns_that_may_differ(tmp_path: Path) -> None:
    """Order, width of numbers, dictionaries and a column that is null throughout a file make no difference."""
    first, second = rows(0, 20), rows(20, 40)
    first = first.append_column("class", pa.nulls(20))
    second = second.append_column("class", pa.array(["STAR"] * 20).dictionary_encode())
    second = second.set_column(1, "ra", second["ra"].cast(pa.float64())).select(second.column_names[::-1])
    put(tmp_path / "tree" / "a.parquet", first)
    put(tmp_path / "tree" / "b.parquet", second)
    put(tmp_path / "tree" / "c.parquet", first.slice(0, 0))
    assert_stars_of(run(tmp_path, tmp_path / "tree"), range(40))


def test_unclear_trees(tmp_path: Path) -> None:
    """Nothing there, files beside partitions, partitions of different depth, loops of links: each is one message."""
    tree = tmp_path / "tree"
    tree.mkdir()
    assert "no raw files" in refused(tmp_path, tree)
    put(tree / "k=1" / "a.parquet", rows(0, 5))
    put(tree / "b.parquet", rows(5, 9))
    assert "outside of its key=value" in refused(tmp_path, tree)
    (tree / "b.parquet").unlink()
    put(tree / "k=2" / "l=3" / "a.parquet", rows(5, 9))
    assert "l is partition, not missing" in refused(tmp_path, tree)
    shutil.rmtree(tree / "k=2")
    (tree / "k=2").symlink_to(tree / "k=1")
    assert "twice" in refused(tmp_path, tree)
    (tree / "k=2").unlink()
    (tmp_path / "elsewhere").mkdir()
    put(tmp_path / "elsewhere" / "a.parquet", rows(5, 9))
    (tree / "k=2").symlink_to(tmp_path / "elsewhere")
    assert_stars_of(run(tmp_path, tree), range(9))


def test_a_file_that_claims_too_much(tmp_path: Path) -> None:
    """Zeros that kilobytes unpack to gigabytes are refused; a flipped bit in a footer changes no row count."""
    table = pa.table({"u": np.zeros(2**25 + 1)})
    path = put(tmp_path / "a.parquet", table, compression="zstd", use_dictionary=False, row_group_size=2**26)
    assert path.stat().st_size < 200_000 and "unpacks to" in refused(tmp_path, path)
    whole = put(tmp_path / "b.parquet", rows(0, 40)).read_bytes()
    rng = np.random.default_rng(2)
    num_read = 0
    for index in range(60):
        data = bytearray(whole)
        start = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
        data[rng.integers(start, len(data))] ^= 1 << int(rng.integers(8))
        path = write(tmp_path / f"{index}.parquet", bytes(data))
        try:
            [(raw, columns)] = tables(path, path)
        except (InputError, ValueError):
            continue
        assert {raw.num_rows, *(len(column) for column in columns.values())} == {40}
        num_read += 1
    assert num_read > 10


def test_inspect_looks_at_the_first_files(tmp_path: Path) -> None:
    """inspect shows partitions as columns, and how many files there are."""
    for index in range(20):
        put(tmp_path / "tree" / f"run={index}" / "a.parquet", rows(index, index + 1))
    findings = inspect_files([tmp_path / "tree"], {}, Reading(), 10).to_json()
    assert findings["num_files"] == 20 and "run" in [one["name"] for one in findings["files"][0]["columns"]]
    json.dumps(findings)


def test_directories_are_expanded_once(tmp_path: Path) -> None:
    """Files and directories side by side keep the order in which they were named."""
    for index in (2, 10, 1):
        put(tmp_path / "tree" / f"{index}.parquet", rows(index, index + 1))
    other = write(tmp_path / "a.csv", lines("1,1,1,15,15,15,15,15"))
    names = [path.name for path in expand_dirs([other, tmp_path / "tree", other])]
    assert names == ["a.csv", "1.parquet", "2.parquet", "10.parquet", "a.csv"]


# --- any table ----------------------------------------------------------------------------------------------------

KINDS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "?"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_table_comes_back(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever types, nulls, row groups, dictionaries and vectors a file has, it is read as pyarrow reads it."""
    num = data.draw(st.integers(1, 9))
    columns: dict[str, pa.Array] = {}
    for index, kind in enumerate(
        data.draw(st.lists(st.sampled_from([*KINDS, "text", "list"]), min_size=1, max_size=8))
    ):
        mask = data.draw(npst.arrays(bool, num))
        if kind == "text":
            texts = data.draw(st.lists(st.text("aé ", max_size=3), min_size=num, max_size=num))
            # pyarrow writes no dictionary that has a null in it
            columns[f"c{index}"] = pa.array(texts).dictionary_encode() if index % 2 else pa.array(texts, mask=mask)
        elif kind == "list":
            flat = pa.array(data.draw(npst.arrays(np.float32, 3 * num)))
            columns[f"c{index}"] = pa.FixedSizeListArray.from_arrays(flat, 3)
        else:
            columns[f"c{index}"] = pa.array(data.draw(npst.arrays(np.dtype(kind), num)), mask=mask)
    table, stored = pa.table(columns), data.draw(st.booleans())
    path = put(tmp_path / "a", table, row_group_size=data.draw(st.integers(1, 9)), store_schema=stored)
    [(raw, found)] = tables(path, path)
    for name, column in columns.items():
        if pa.types.is_fixed_size_list(column.type):
            assert (f"{name}_1" in found) == stored  # without Arrow's schema a list may have any length
            if stored:
                parts = [found[f"{name}_{index}"].to_numpy() for index in (1, 2, 3)]
                assert_array_equal(np.stack(parts, 1).ravel(), column.flatten().to_numpy())
        else:
            got, expected = found[name].to_pandas(), column.to_pandas()
            pd.testing.assert_series_equal(got, expected.astype(got.dtype), check_names=False)
    assert raw.num_rows == num


def test_text_views_and_decimals_are_read(tmp_path: Path) -> None:
    """Ids, magnitudes and classes as string_view, and magnitudes as decimals, come out as from plain columns."""
    magnitudes = np.random.default_rng(1).integers(140_000, 220_000, 500)
    words = [f"{value / 10_000:.4f}" for value in magnitudes]
    columns: dict[str, pa.Array] = {band: pa.array(words, pa.string_view()) for band in "uri"}
    columns |= {band: pa.array([Decimal(word) for word in words], pa.decimal128(10, 4)) for band in "gz"}
    columns["objid"] = pa.array([str(2**60 + row) for row in range(500)], pa.string_view())
    columns["class"] = pa.array(["STAR", " GALAXY"] * 250, pa.string_view())
    pq.write_table(pa.table(columns), tmp_path / "stars")
    assert inspect_files([tmp_path / "stars"], {}, Reading(), 100)
    catalog = run(tmp_path, tmp_path / "stars", reading=Reading(keep=("class=STAR",)))
    assert catalog["objid"][:].tolist() == [2**60 + row for row in range(0, 500, 2)]
    expected = np.array([float(word) for word in words[::2]], np.float32)
    np.testing.assert_array_equal(catalog["magnitude"][:], np.repeat(expected[:, None], 5, axis=1))
