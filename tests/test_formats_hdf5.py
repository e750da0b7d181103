"""HDF5 as raw input: every layout that programs write, value by value; and files that lie or lead elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tables as pytables
from astropy.table import MaskedColumn, Table
from catalog_factory import make_stars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal
from raw_files import lines, refused, run
from raw_tables import BANDS, assert_comes_back, assert_holds, columns_of, make_arrays, package_dir, tables
from test_catalog import OpenWatch

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import InputError
from hpc_ae.inspect import inspect_files

STARS = make_arrays()
COLUMNS = columns_of(STARS)
NUM = len(STARS["objid"])


def records(columns: Arrays, **kinds: str) -> np.ndarray:
    """A compound array of some columns, with other types where `kinds` says so."""
    dtype = [(name, kinds.get(name, values.dtype.str), values.shape[1:]) for name, values in columns.items()]
    made = np.zeros(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        made[name] = values
    return made


def write_h5(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """A file with a dataset for each of `columns`, by its path in the file."""
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, **options)
    return path


# --- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"chunks": (3,), "compression": "gzip", "shuffle": True, "fletcher32": True}])
def test_compound(options: dict[str, Any], tmp_path: Path) -> None:
    """A compound dataset of mixed byte orders and vectors, wherever it lies, is the stars exactly."""
    vectors = {"PSFMAG": STARS["magnitude"], "PSFMAGERR": STARS["magnitude_error"]}
    columns = {"pad": np.arange(NUM, dtype="i2"), **{name: STARS[name] for name in ("objid", "ra", "dec")}, **vectors}
    made = records(columns, objid=">i8", ra="<f8", dec=">f8", PSFMAG=">f4")
    path = write_h5(tmp_path / "stars.fits", {"deep/in/stars": made}, **options)
    catalog = run(tmp_path, path)
    assert_holds(catalog, STARS)
    assert "five elements of the array column PSFMAG" in " ".join(catalog.manifest.inputs.raw[0].notes)


def test_columns(tmp_path: Path) -> None:
    """A dataset for each column, in radians as its attribute says, beside short ones that are no columns."""
    path = write_h5(tmp_path / "a.h5", {f"sky/{name}": values for name, values in COLUMNS.items()})
    with h5py.File(path, "a") as file:
        file["sky"]["bands"] = list("ugriz")
        file["version"] = 3
        for name in ("ra", "dec"):
            file["sky"][name][:] = np.radians(STARS[name])
            file["sky"][name].attrs["unit"] = "rad"
    catalog = run(tmp_path, path)
    assert_holds(catalog, {name: STARS[name] for name in ("objid", "magnitude", "magnitude_error")})
    assert_array_equal(catalog["ra"][:], np.radians(STARS["ra"]) * np.degrees(1.0))
    assert_array_equal(catalog["dec"][:], np.radians(STARS["dec"]) * np.degrees(1.0))


@pytest.mark.parametrize(
    "bands", ["zirgu", "z, i, r, g, u", ["z", "i", "r", "g", "u"], np.array([b"z", b"i", b"r", b"g", b"u"])]
)
def test_matrix_with_an_attribute(bands: object, tmp_path: Path) -> None:
    """The columns of a matrix are what its attribute says, in the order that it says."""
    path = write_h5(tmp_path / "a.h5", {"id": STARS["objid"], "mag": STARS["magnitude"][:, ::-1]})
    with h5py.File(path, "a") as file:
        file["mag"].attrs["bands"] = bands
    assert_holds(run(tmp_path, path), {name: STARS[name] for name in ("objid", "magnitude")})


@pytest.mark.parametrize("bands", [None, "grizy", ["u", "g", "r", "i"]], ids=str)
def test_matrix_without_one_asks(bands: object, tmp_path: Path) -> None:
    """Five columns called magnitude may be any five bands: an error asks, and the mapping answers."""
    path = write_h5(tmp_path / "a.h5", {"id": STARS["objid"], "magnitude": STARS["magnitude"]})
    with h5py.File(path, "a") as file:
        if bands is not None:
            file["magnitude"].attrs["bands"] = bands
    assert "--map" in (message := refused(tmp_path, path)) and "magnitude_" in message
    names = [f"magnitude_{band}" for band in ("grizy" if bands == "grizy" else "12345")]
    catalog = run(tmp_path, path, mapping=dict(zip(BANDS, names, strict=True)))
    assert_holds(catalog, {name: STARS[name] for name in ("objid", "magnitude")})


@pytest.mark.parametrize("kind", [h5py.string_dtype(), h5py.string_dtype(length=20), np.dtype("S20")], ids=str)
def test_ids_as_text(kind: Any, tmp_path: Path) -> None:
    """Ids that are text, of fixed or varying length, are exact; empty ones are missing."""
    ids = [str(value) for value in STARS["objid"]]
    ids[2] = ""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("objid", data=np.array(ids, kind), dtype=kind)
        for name in BANDS:
            file[name] = COLUMNS[name]
    made = np.zeros(NUM, [("objid", kind), *((name, "f4") for name in BANDS)])
    for name in made.dtype.names or ():
        made[name] = ids if name == "objid" else COLUMNS[name]
    compound = write_h5(tmp_path / "b.h5", {"t": made})
    for one in (path, compound):
        (tmp_path / f"of-{one.name}").mkdir()
        catalog = run(tmp_path / f"of-{one.name}", one)
        assert catalog["objid"][:].tolist() == [*STARS["objid"][:2], -1, *STARS["objid"][3:]]
        assert catalog["caution"][2] & Caution.ID_MISSING


def test_our_own_catalog(tmp_path: Path) -> None:
    """A star catalog, as directory or shard by shard, is the same again with its quality, caution and lost digits."""
    source = tmp_path / "first"
    source.mkdir()
    rows = [
        "1,,0.5,,18,17,16,15",
        "1.24E+18,2,3,nan,18,17,16,15",
        "2.5,2,3,-9999,18,17,16,15",
        "4.1E15,2,3,15,15,15,15,15",
        "8,1,1,,nan,17,inf,15",
        "9,1,1,16,,17,nan,15",
    ]
    more = [f"{2**60 + index},{index},1,19,18,17,16,{15 + index / 7}" for index in range(20)]
    first = run(source, lines(*rows, *more, "1,9,9,inf,18,17,16,0"), shard_rows=9)
    assert first["quality"][:][5] == Quality.MISSING | Quality.NON_FINITE
    assert (first["caution"][:] & Caution.ID_DAMAGED != 0).sum() == 3
    for index, paths in enumerate([[first.directory], sorted(first.directory.glob("shard-*.h5"))]):
        work_dir = tmp_path / str(index)
        work_dir.mkdir()
        again = run(work_dir, *paths)
        for name in first.columns:
            assert_array_equal(again[name][:], first[name][:], name, strict=True)


# --- pandas, PyTables, astropy ------------------------------------------------------------------------------------


def frame() -> pd.DataFrame:
    """The stars with a column of text and one of truths."""
    classes = {"class": ["STAR", "QSO", None] + ["STAR"] * (NUM - 3), "clean": [True, False] + [True] * (NUM - 2)}
    return pd.DataFrame(COLUMNS | classes)


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning", "ignore:object name is a Python keyword")
@pytest.mark.parametrize("options", [{}, {"format": "table"}, {"format": "table", "data_columns": True}], ids=str)
@pytest.mark.parametrize("index", [None, "objid"])
def test_pandas(options: dict[str, Any], index: str | None, tmp_path: Path) -> None:
    """What pandas writes in its formats is read back, an index that has a name too, and rows chosen by truths."""
    made = frame()
    if index is not None:
        made = made.set_index(index)
    made.to_hdf(tmp_path / "a.h5", key="some/stars", **options)
    assert_holds(run(tmp_path, tmp_path / "a.h5"), STARS)
    (tmp_path / "more").mkdir()
    chosen = run(tmp_path / "more", tmp_path / "a.h5", reading=reading("clean=1"))
    assert chosen["objid"][:].tolist() == np.delete(STARS["objid"], 1).tolist()


def reading(*keep: str) -> Any:
    """A reading that keeps what fulfils conditions."""
    from hpc_ae.reading import Reading

    return Reading(keep=keep)


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
def test_pandas_text_is_pickled_in_one_format_only(tmp_path: Path) -> None:
    """Text is compared where pandas wrote text; where it pickled it, a condition on it is refused, not unfulfilled."""
    frame().to_hdf(tmp_path / "a.h5", key="stars")
    frame().to_hdf(tmp_path / "b.h5", key="stars", format="table")
    assert "pickled" in refused(tmp_path, tmp_path / "a.h5", reading=reading("class=STAR"))
    assert run(tmp_path, tmp_path / "b.h5", reading=reading("class=STAR")).num_stars == NUM - 2
    entry = inspect_files([tmp_path / "a.h5"], {}, reading(), 10).to_json()["files"][0]
    assert "pickled" in {column["name"]: column["type"] for column in entry["columns"]}["class"]


def test_pytables(tmp_path: Path) -> None:
    """A PyTables table with an index, vectors and enumerations; one with times of its own is refused by name."""
    description = {
        "objid": pytables.Int64Col(pos=0),
        "psfmag": pytables.Float32Col(shape=(5,), pos=1),
        "type": pytables.EnumCol(["star", "galaxy"], "star", "int32", pos=2),
        "clean": pytables.BoolCol(pos=3),
    }
    for name, more in (("a.h5", {}), ("b.h5", {"when": pytables.Time64Col(pos=4)})):
        with pytables.open_file(tmp_path / name, "w") as file:
            table = file.create_table("/", "stars", description | more, filters=pytables.Filters(complevel=4))
            for index in range(NUM):
                table.row["objid"], table.row["psfmag"] = STARS["objid"][index], STARS["magnitude"][index]
                table.row["type"], table.row["clean"] = index % 2, index % 3 == 0
                table.row.append()
            table.flush()
            table.cols.objid.create_index()
    mapping = {"u": "psfmag", "g": "type", "r": "clean", "i": "when", "z": "objid", "objid": ""}
    assert "numpy does not have" in refused(tmp_path, tmp_path / "b.h5", mapping=mapping)
    kept = run(tmp_path, tmp_path / "a.h5", reading=reading("clean=1", "type=0"))
    assert kept["objid"][:].tolist() == STARS["objid"][::6].tolist()
    assert_array_equal(kept["magnitude"][:], STARS["magnitude"][::6], strict=True)


def test_astropy_masks_and_units(tmp_path: Path) -> None:
    """Masked values are missing, of vectors too; each table has its own units; fluxes are converted by them."""
    masked = np.zeros((NUM, 5), bool)
    masked[1, 2] = masked[3, 0] = True
    table = Table({"objid": STARS["objid"], "psfMag": MaskedColumn(STARS["magnitude"], mask=masked, unit="mag")})
    table["err_u"] = MaskedColumn(COLUMNS["err_u"], mask=masked[:, 0])
    table["psfMag"].description = "long, " * 50
    table.write(tmp_path / "a.h5", path="one", serialize_meta=True)
    catalog = run(tmp_path, tmp_path / "a.h5")
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING, 0, Quality.MISSING, 0, 0, 0]
    assert_array_equal(catalog["magnitude"][:], np.where(masked, np.nan, STARS["magnitude"]).astype("f4"))

    fluxes = Table({f"flux_{band}": 10 ** (0.4 * (22.5 - COLUMNS[band].astype(float))) for band in BANDS})
    fluxes["ra"], fluxes["dec"] = np.radians(STARS["ra"]), np.radians(STARS["dec"])
    for name in fluxes.colnames:
        fluxes[name].unit = "rad" if name in ("ra", "dec") else "nmgy"
    Table({"ra": [1.0], "flux_u": [2.0]}, units={"ra": "deg", "flux_u": "mJy"}).write(
        tmp_path / "b.h5", path="aaa", serialize_meta=True
    )
    fluxes.write(tmp_path / "b.h5", path="bbb", serialize_meta=True, append=True)
    (tmp_path / "more").mkdir()
    catalog = run(tmp_path / "more", tmp_path / "b.h5")
    assert np.abs(catalog["magnitude"][:] - STARS["magnitude"]).max() < 1e-5
    assert np.abs(catalog["ra"][:] - STARS["ra"]).max() < 1e-12


# --- real files ---------------------------------------------------------------------------------------------------


def real_files() -> list[Path]:
    """HDF5 files that PyTables, h5py and astropy carry for their own tests."""
    folders = [package_dir("tables") / "tests", package_dir("h5py") / "tests", package_dir("astropy") / "io" / "misc"]
    return sorted(path for folder in folders for end in ("h5", "hdf5") for path in folder.rglob(f"*.{end}"))


def test_real_files_read_as_h5py_reads_them() -> None:
    """Of every real file each column that is read has the values that h5py reads; others say why they are not read."""
    num_read, refusals = 0, []
    for path in real_files():
        try:
            found = tables(path, path)
        except InputError as error:
            refusals.append(str(error))
            continue
        with h5py.File(path) as file:
            for raw, columns in found:
                for name, place in zip(raw.columns, raw.layout, strict=True):
                    if not place.dataset:
                        assert columns[name].null_count == raw.num_rows
                        continue
                    values: Any = file[place.dataset]
                    values = values[:] if place.field is None else values[place.field]
                    values = values if place.element is None else values[:, place.element]
                    if values.dtype.kind in "iufb":
                        assert_array_equal(columns[name].to_numpy(), values, f"{path} {name}")
                        num_read += 1
    assert num_read > 100
    assert refusals and not [text for text in refusals if "link" not in text.lower() and "without a table" not in text]


# --- exports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [True, False])
def test_our_exports_come_back(split: bool, tmp_path: Path) -> None:
    """hpc-ae export --to hdf5-table and back, bands as columns or as vectors, changes no bit."""
    assert_comes_back(make_stars(tmp_path / "stars"), "hdf5-table", tmp_path, split)


# --- what lies, and what leads elsewhere --------------------------------------------------------------------------


def bands_beside(**columns: Any) -> dict[str, Any]:
    """Five bands and other columns."""
    return {**{band: COLUMNS[band] for band in BANDS}, **columns}


def test_columns_of_other_lengths_are_not_lost(tmp_path: Path) -> None:
    """Ids, positions or errors of another length than the bands are an error, not stars without them."""
    for name in ("objid", "dec", "err_g"):
        path = write_h5(tmp_path / f"{name}.h5", bands_beside(**COLUMNS | {name: COLUMNS[name][:-1]}))
        assert "6 rows where this one has 7" in refused(tmp_path, path)
    assert run(tmp_path, tmp_path / "objid.h5", mapping={"objid": ""}).num_stars == NUM


@pytest.mark.parametrize("mask", [np.ones(NUM, "i4"), np.array([b"T"] * NUM), np.ones((NUM, 2), bool)], ids=str)
def test_a_mask_that_cannot_be_read_is_not_ignored(mask: np.ndarray, tmp_path: Path) -> None:
    """A column whose mask holds no truths is refused: what it masks is not known."""
    path = write_h5(tmp_path / "a.h5", {"t": records(bands_beside(**{"u.mask": mask}))})
    message = refused(tmp_path, path)
    assert "masked by" in message or "u.mask" in message


def test_packed_numbers_are_refused(tmp_path: Path) -> None:
    """netCDF's packed integers are not magnitudes."""
    path = write_h5(tmp_path / "a.h5", bands_beside(u=np.arange(NUM, dtype="i2")))
    with h5py.File(path, "a") as file:
        file["u"].attrs["scale_factor"] = 0.01
    assert "scale_factor" in refused(tmp_path, path)


def external_link(file: h5py.File, secret: Path) -> None:
    """A name that leads to another file."""
    file["u"] = h5py.ExternalLink(str(secret), "/u")


def external_storage(file: h5py.File, secret: Path) -> None:
    """A dataset whose bytes are another file's."""
    file.create_dataset("u", (NUM,), "f4", external=[(str(secret), 0, NUM * 4)])


def virtual(file: h5py.File, secret: Path) -> None:
    """A view of another file's dataset."""
    layout = h5py.VirtualLayout((NUM,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "u", (NUM,))
    file.create_virtual_dataset("u", layout)


def endless_virtual(file: h5py.File, secret: Path) -> None:
    """A view of unlimited extent, which HDF5 must open the other file for to tell."""
    layout = h5py.VirtualLayout((NUM,), "f4", maxshape=(None,))
    source = h5py.VirtualSource(str(secret), "u", (NUM,), maxshape=(None,))
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("u", layout)


def soft_link(file: h5py.File, secret: Path) -> None:
    """A name that leads through an external link."""
    file["away"] = h5py.ExternalLink(str(secret), "/")
    file["u"] = h5py.SoftLink("/away/u")


@pytest.mark.parametrize("attack", [external_link, external_storage, virtual, endless_virtual, soft_link])
@pytest.mark.parametrize("place", ["/", "/deep/er/"])
def test_nothing_else_is_opened(attack: Callable[[h5py.File, Path], None], place: str, tmp_path: Path) -> None:
    """A file that leads to another one is refused by ingest and inspect, and the other is never opened."""
    secret = write_h5(tmp_path / "secret.h5", {"u": COLUMNS["u"]}, maxshape=(None,), chunks=(NUM,))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.require_group(place)
        for band in "griz":
            group[band] = COLUMNS[band]
        attack(group, secret)
    watch = OpenWatch(secret)
    message = refused(tmp_path, path)
    assert "link" in message.lower() or "another file" in message
    with pytest.raises(InputError):
        inspect_files([path], {}, reading(), 10)
    assert not watch.opened()
    watch.close()


def test_filter_plugins_are_not_loaded(tmp_path: Path) -> None:
    """Columns behind a filter that needs a plug-in are listed and not read; as a band they are refused."""
    path = tmp_path / "a.h5"
    with pytables.open_file(path, "w") as file:
        for band in BANDS:
            filters = pytables.Filters(complevel=5, complib="blosc" if band == "u" else "zlib")
            file.create_carray("/", band, obj=np.resize(COLUMNS[band], 5000), filters=filters)
    assert "filter that is not read, number 32001" in refused(tmp_path, path)
    entry = inspect_files([path], {}, reading(), 10).to_json()["files"][0]
    assert "filter" in {column["name"]: column["type"] for column in entry["columns"]}["u"]
    assert entry["question"]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((10**12,), {"chunks": (1000,), "compression": "gzip"}),
        ((10**15,), {"chunks": (1000,)}),
        ((2**29,), {"chunks": (2**29,), "compression": "gzip"}),
    ],
)
def test_huge_claims_take_no_memory(shape: tuple[int, ...], options: dict[str, Any], tmp_path: Path) -> None:
    """A dataset that declares far more than it stores, or chunks as large as memory, is refused at once."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for band in BANDS:
            file.create_dataset(band, shape, "f4", **options)
    assert "refused" in refused(tmp_path, path)
    assert inspect_files([path], {}, reading(), 10).to_json()["files"][0]["question"]


def test_a_chunk_bomb(tmp_path: Path) -> None:
    """A chunk of half a gigabyte of zeros in half a megabyte of file is refused before it is unpacked."""
    path = tmp_path / "a.h5"
    packed = bytes.fromhex("789c") + b"\0" * 600_000
    with h5py.File(path, "w") as file:
        for band in BANDS:
            dataset = file.create_dataset(band, (2**27,), "f4", chunks=(2**27,), compression="gzip")
            dataset.id.write_direct_chunk((0,), packed)
    assert "refused: chunks of 536,870,912 bytes" in refused(tmp_path, path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8 is said to be one."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[b"we\xffird"] = COLUMNS["u"]
    assert "not UTF-8" in refused(tmp_path, tmp_path / "a.h5")


def test_too_many_names_and_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group inside itself, and more names than any table has, end in a message."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("loop")["loop"] = file["/"]
    assert "groups deeper than" in refused(tmp_path, tmp_path / "a.h5")
    monkeypatch.setattr("hpc_ae.readers.hdf5._MOST_OBJECTS", 50)  # of 20,000 the test would take seconds
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = 1
        for index in range(50):
            file[f"{index}"] = file["x"]
    assert "more than 50 names" in refused(tmp_path, tmp_path / "b.h5")


def test_damage_is_one_message(tmp_path: Path) -> None:
    """A file that is cut anywhere, or has flipped bits, gives a message or the stars; never a traceback."""
    whole = write_h5(tmp_path / "a.h5", {"t": records(COLUMNS)}, chunks=(4,), fletcher32=True).read_bytes()
    rng = np.random.default_rng(3)
    wrong = 0
    for index in range(60):
        data = bytearray(whole)
        if index < 20:
            del data[len(whole) * index // 20 :]
        else:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{index}.h5"
        path.write_bytes(data)
        try:
            found = tables(path, tmp_path)
        except InputError:
            wrong += 1
            continue
        for raw, columns in found:
            if set(COLUMNS) <= set(columns) and raw.num_rows == NUM:
                assert_array_equal(columns["objid"].to_numpy(), STARS["objid"])
    assert wrong >= 20


# --- any table ----------------------------------------------------------------------------------------------------

KINDS = ["<i8", ">i8", "<u8", ">i4", "u1", "i1", "<u2", "<f4", ">f4", "<f8", ">f8", "<f2", "?", "S5"]


@st.composite
def any_columns(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Some columns of any types and values, all of one length."""
    num = draw(st.integers(1, 6))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    text = st.text("abc é", max_size=2).map(lambda value: value.strip().encode())
    return {
        f"c{index}": draw(npst.arrays(np.dtype(kind), num, elements=text if kind == "S5" else None))
        for index, kind in enumerate(kinds)
    }


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=any_columns(), compound=st.booleans(), user_block=st.sampled_from([0, 512, 4096]))
def test_any_table_comes_back(columns: dict[str, np.ndarray], compound: bool, user_block: int, tmp_path: Path) -> None:
    """Whatever types and values a table has, they are read as they were written."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=user_block) as file:
        for name, values in ({"t": records(columns)} if compound else columns).items():
            file[name] = values
    [(raw, found)] = tables(path, tmp_path)
    assert set(raw.columns) == set(columns)
    for name, values in columns.items():
        if values.dtype.kind == "S":
            assert found[name].to_pylist() == [value.decode() for value in values.tolist()]
        else:
            assert_array_equal(found[name].to_numpy(), values)
            assert found[name].to_numpy().dtype == values.dtype.newbyteorder("=")


def test_warnings_are_errors_here() -> None:
    """pandas' own warnings aside, reading these files warns of nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = package_dir("tables") / "tests" / "smpl_compound_chunked.h5"
        tables(path, path)
    assert not caught


def test_catalogs_are_read_in_their_order(tmp_path: Path) -> None:
    """Stars of two catalogs follow each other as they were named."""
    first, second = (make_stars(tmp_path / name, 20, 7) for name in ("a", "b"))
    ids = [open_catalog(path)["objid"][:] for path in (second, first)]
    assert_array_equal(run(tmp_path, second, first)["objid"][:], np.concatenate(ids))
