"""Exports as the other side's own library reads them: every value, unit and id; complete or not at all."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits, votable
from astropy.table import Table
from catalog_factory import make_encoding, make_model, make_stars, rewrite_shard
from commands import REPOSITORY, command, environment, in_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.quality import drop_errors
from hpc_ae.errors import DamageError, InputError, WorkError
from hpc_ae.export import ExportSettings, export
from hpc_ae.formats.conservation import RowSum
from hpc_ae.formats.hats import cut_pixels
from hpc_ae.formats.table import TableInfo
from hpc_ae.formats.writers import open_writer, read_column
from hpc_ae.jobs.main import run_command

FILE_FORMATS = ["fits", "parquet", "votable", "hdf5-table"]
BIG_ID = 2**60


def read_fits(path: Path) -> Table:
    """With astropy, sums checked."""
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
    return Table.read(path, format="fits")


def read_fitsio(path: Path) -> Table:
    """With fitsio (cfitsio)."""
    return Table(fitsio.read(path))


def read_parquet(path: Path) -> Table:
    """With pyarrow alone."""
    table = pq.read_table(path)
    columns = {}
    for field in table.schema:
        column = table[field.name].combine_chunks()
        vector = pa.types.is_fixed_size_list(field.type)
        flat = (column.flatten() if vector else column).to_numpy()
        columns[field.name] = flat.reshape(len(table), field.type.list_size) if vector else flat
    return Table(columns)


def read_votable(path: Path) -> Table:
    """With astropy, every deviation from the standard an error."""
    return votable.parse(path, verify="exception").get_first_table().to_table()


def read_hdf5(path: Path) -> Table:
    """With astropy's Table."""
    return Table.read(path, format="hdf5")


READERS: list[tuple[str, Callable[[Path], Table]]] = [
    ("fits", read_fitsio),
    ("fits", read_fits),
    ("parquet", read_parquet),
    ("votable", read_votable),
    ("hdf5-table", read_hdf5),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A star catalog with bad rows and its encoding catalog; ids are beyond 2^53."""
    folder = tmp_path_factory.mktemp("catalogs")
    stars = make_stars(folder / "stars", 2500, 1000)
    return stars, make_encoding(folder / "encoding", stars, make_model(folder / "model"))


@pytest.fixture
def stars(places: tuple[Path, Path]) -> Catalog:
    """The star catalog."""
    return open_catalog(places[0])


@pytest.fixture
def joined(places: tuple[Path, Path]) -> Catalog:
    """The encoding catalog joined with its stars."""
    return open_catalog(places[1]).join()


def expected_columns(catalog: Catalog, rows: Any = slice(None)) -> dict[str, np.ndarray]:
    """What a split export of a catalog has, read column by column."""
    columns = {}
    for name in catalog.columns:
        values = catalog[name][:][rows]
        parts = catalog.bands if name.startswith(("magnitude", "reconstruction")) else ["1", "2"]
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name}_{part}": values[:, index] for index, part in enumerate(parts)}
    return columns


def assert_same(table: Table, expected: dict[str, np.ndarray]) -> None:
    """A table has these columns, bit for bit (NaN equals NaN), in this order."""
    assert table.colnames == list(expected)
    for name, values in expected.items():
        got = np.ma.filled(table[name], np.nan) if table[name].dtype.kind == "f" else np.asarray(table[name])
        assert_array_equal(np.asarray(got), values)
        kind = got.dtype.newbyteorder("=")
        assert kind.kind in "iu" if values.dtype.kind in "iu" else kind == values.dtype
    assert table["objid"].dtype.newbyteorder("=") == np.int64


@pytest.mark.parametrize(("to", "read"), READERS, ids=lambda one: getattr(one, "__name__", one))
def test_stars_are_read_back_equal(stars: Catalog, tmp_path: Path, to: str, read: Callable[[Path], Table]) -> None:
    """All stars, bad ones too, with their ids beyond 2^53, as the format's own library reads them."""
    done = export(stars.directory, tmp_path / "out", ExportSettings(to))
    assert (done.num_stars, done.num_rows, done.num_bad, done.num_unplaced) == (2500, 2500, 0, 0)
    expected = expected_columns(stars)
    assert (expected["objid"] > 2**53).all() and (expected["quality"] != 0).any()
    assert_same(read(tmp_path / "out"), expected)


@pytest.mark.parametrize(("to", "read"), READERS, ids=lambda one: getattr(one, "__name__", one))
def test_joined_encoding_is_read_back_equal(
    joined: Catalog, tmp_path: Path, to: str, read: Callable[[Path], Table]
) -> None:
    """An encoding with the columns of its stars; NaN stays NaN."""
    export(joined.directory, tmp_path / "out", ExportSettings(to), join=True)
    expected = expected_columns(joined)
    assert {"ra", "magnitude_u", "latent_1", "reconstruction_z", "chi2"} <= expected.keys()
    assert_same(read(tmp_path / "out"), expected)


@pytest.mark.parametrize(("to", "read"), READERS, ids=lambda one: getattr(one, "__name__", one))
def test_vectors_kept(joined: Catalog, tmp_path: Path, to: str, read: Callable[[Path], Table]) -> None:
    """With vectors kept magnitude is one column of five values."""
    columns = ("latent", "magnitude", "objid")
    export(joined.directory, tmp_path / "out", ExportSettings(to, columns, split=False), join=True)
    table = read(tmp_path / "out")
    assert table.colnames == list(columns) and table["magnitude"].shape == (2500, 5)
    for name in columns:
        assert_array_equal(np.ma.filled(table[name], np.nan) if name == "latent" else table[name], joined[name][:])


@pytest.mark.parametrize("to", FILE_FORMATS)
def test_good_stars_only_on_request(stars: Catalog, tmp_path: Path, to: str) -> None:
    """--good leaves out exactly the stars whose quality is not 0, and says how many."""
    done = export(stars.directory, tmp_path / "out", ExportSettings(to, ("objid", "magnitude_r"), good=True))
    assert done.num_rows == stars.num_good and done.num_bad == 2500 - stars.num_good > 0
    table = dict(READERS)[to](tmp_path / "out")
    good = stars["quality"][:] == 0
    assert table.colnames == ["objid", "magnitude_r"]
    assert_array_equal(table["objid"], stars["objid"][good])
    assert_array_equal(table["magnitude_r"], stars["magnitude"][good][:, 2])


@pytest.mark.parametrize("to", FILE_FORMATS)
def test_units_ucds_flags_and_provenance(joined: Catalog, tmp_path: Path, to: str) -> None:
    """Each format's own place holds units, UCDs, the meaning of the flags, the catalog's digest and the command."""
    path = tmp_path / "out"
    export(joined.directory, path, ExportSettings(to), join=True)
    if to == "fits":
        header = fits.getheader(path, 1)
        column = next(i for i in range(1, 40) if header[f"TTYPE{i}"] == "magnitude_g")
        assert (header[f"TUNIT{column}"], header[f"TUCD{column}"]) == ("mag", "phot.mag;em.opt.B")
        text, digest = "\n".join(header["COMMENT"]), header["CATDIGST"]
        assert "command: " in "".join(header["HISTORY"])
    elif to == "votable":
        document = votable.parse(path)
        field = document.get_first_table().get_field_by_id("magnitude_g")
        assert (str(field.unit), field.ucd) == ("mag", "phot.mag;em.opt.B")
        notes = {info.name: info.value for info in document.resources[0].infos}
        text, digest = document.get_first_table().description, notes["catalog_digest"]
        assert notes["command"]
    else:
        table = Table.read(path, format="hdf5" if to == "hdf5-table" else "parquet")
        assert (str(table["magnitude_g"].unit), table["magnitude_g"].meta["ucd"]) == ("mag", "phot.mag;em.opt.B")
        assert table["ra"].unit == "deg" and "right ascension" in table["ra"].description
        text, digest = "\n".join(table.meta["flags"]), table.meta["catalog_digest"]
        stars = open_catalog(joined.directory.parent / "stars")
        assert table.meta["command"] and table.meta["star_catalog_digest"] == stars.digest
    assert "quality bit 8 out_of_range" in text and "caution bit 2 id_repeated" in text
    assert digest == joined.digest


def test_votable_follows_the_schema(stars: Catalog, tmp_path: Path) -> None:
    """Elements stand in the order that VOTable 1.4's schema has; `nrows` is the number of rows."""
    import xml.etree.ElementTree as tree

    export(stars.directory, tmp_path / "out", ExportSettings("votable"))
    space = "{http://www.ivoa.net/xml/VOTable/v1.3}"
    resource = tree.parse(tmp_path / "out").getroot()[0]
    names = list(dict.fromkeys(child.tag.removeprefix(space) for child in resource))
    assert names == ["INFO", "COOSYS", "TABLE"]
    table = resource.find(f"{space}TABLE")
    assert table is not None and table.get("nrows") == "2500"
    assert [child.tag.removeprefix(space) for child in table] == ["DESCRIPTION", *["FIELD"] * 15, "DATA"]


def test_parquet_is_a_voparquet(stars: Catalog, tmp_path: Path) -> None:
    """astropy reads a Parquet export as VOParquet, as TOPCAT does, and pyarrow has units in its fields."""
    path = tmp_path / "stars.parquet"
    export(stars.directory, path, ExportSettings("parquet"))
    table = Table.read(path, format="parquet.votable")
    assert str(table["magnitude_u"].unit) == "mag" and table["dec"].info.meta["ucd"] == "pos.eq.dec;meta.main"
    assert pq.read_schema(path).field("ra").metadata[b"unit"] == b"deg"


@pytest.mark.parametrize("num_files", [1, 3, 7])
def test_several_parquet_files(stars: Catalog, tmp_path: Path, num_files: int) -> None:
    """So many files of nearly equal size, together all rows in order, also where some are empty."""
    export(stars.directory, tmp_path / "out", ExportSettings("parquet", num_files=num_files))
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").iterdir())]
    assert len(sizes) == num_files and sum(sizes) == 2500 and max(sizes) - min(sizes) <= 1
    assert_same(read_parquet(tmp_path / "out"), expected_columns(stars))


def test_order_of_columns_is_that_asked_for(stars: Catalog, tmp_path: Path) -> None:
    """--columns gives order and choice; elements of vectors are named as they come out."""
    export(stars.directory, tmp_path / "out", ExportSettings("fits", ("magnitude_z", "dec", "magnitude_u")))
    assert Table.read(tmp_path / "out", format="fits").colnames == ["magnitude_z", "dec", "magnitude_u"]


@pytest.mark.parametrize("to", FILE_FORMATS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_survive(tmp_path_factory: pytest.TempPathFactory, to: str, data: st.DataObject) -> None:
    """Any int64, uint16, doubles and vectors of floats, NaN and infinities too, come back bit for bit."""
    num = data.draw(st.integers(0, 40))
    arrays = {
        "objid": data.draw(npst.arrays(np.int64, num, elements=st.integers(-(2**63), 2**63 - 1))),
        "ra": data.draw(npst.arrays(np.float64, num, elements=st.floats(allow_nan=True))),
        "quality": data.draw(npst.arrays(np.uint16, num)),
        "latent": data.draw(npst.arrays(np.float32, (num, 3), elements=st.floats(width=32))),
        "caution": data.draw(npst.arrays(np.uint16, num)),
    }
    parts = {"latent": ("0", "1", "2")}
    fields = [Field(name, values.dtype.str, parts.get(name, ())) for name, values in arrays.items()]
    path = tmp_path_factory.mktemp("table") / "out"
    info = TableInfo("stars", tuple(fields), num, {"command": 'a "quoted" <tag> & \x01 ü'})
    writer = open_writer(to, path, info)
    cut = data.draw(st.integers(0, num))
    for rows in (slice(0, cut), slice(cut, num)):
        writer.append({name: values[rows] for name, values in arrays.items()})
    writer.close()
    table = dict(READERS)[to](path)
    if num == 0 and to == "votable":
        assert len(table) == 0
        return
    for name, values in arrays.items():
        got = np.ma.getdata(table[name]) if to == "votable" else np.asarray(table[name])
        assert_array_equal(got.reshape(values.shape), values, strict=False)
    assert_array_equal(np.concatenate([np.empty(0, np.int64), *read_column(to, path, info, "objid")]), arrays["objid"])


# HATS


def hats() -> Any:
    """The package hats, or a skip that says why."""
    return pytest.importorskip("hats", reason="the package hats is not installed (pip install '.[test]')")


def hats_rows(path: Path) -> Any:
    """All rows of a HATS catalog as hats itself reads them, partition by partition."""
    import pandas as pd

    catalog = hats().read_hats(path)
    return pd.concat([catalog.read_pixel_to_pandas(pixel) for pixel in catalog.get_healpix_pixels()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("threshold", [100, 1_000_000])
def test_hats_reads_the_catalog(joined: Catalog, tmp_path: Path, threshold: int) -> None:
    """hats finds the catalog valid by its strictest rules, and in it each star once with its values."""
    package = hats()
    from hats.io.validation import is_valid_catalog
    from hats.pixel_math.spatial_index import compute_spatial_index

    done = export(joined.directory, tmp_path / "sky", ExportSettings("hats", threshold=threshold), join=True)
    assert done.num_rows == 2500
    assert is_valid_catalog(tmp_path / "sky", strict=True)
    catalog = package.read_hats(tmp_path / "sky")
    assert (catalog.catalog_info.total_rows, catalog.catalog_name) == (2500, "sky")
    rows = hats_rows(tmp_path / "sky")
    assert rows["_healpix_29"].is_monotonic_increasing
    assert_array_equal(rows["_healpix_29"], compute_spatial_index(rows["ra"].to_numpy(), rows["dec"].to_numpy()))
    assert rows["objid"].to_numpy().dtype == np.int64
    expected = expected_columns(joined)
    order = np.argsort(expected["objid"])
    rows = rows.sort_values("objid")
    for name, values in expected.items():
        assert_array_equal(rows[name].to_numpy(), values[order])


def test_hats_partitions_are_adaptive(stars: Catalog, tmp_path: Path) -> None:
    """No file has more rows than the threshold; a file holds the pixel that its path says; no larger pixel would do."""
    export(stars.directory, tmp_path / "sky", ExportSettings("hats", threshold=45))
    lines = (tmp_path / "sky" / "partition_info.csv").read_text().split()
    pixels = [tuple(map(int, line.split(","))) for line in lines[1:]]
    assert lines[0] == "Norder,Npix" and len({order for order, _ in pixels}) > 1
    sizes: dict[tuple[int, int], int] = {}
    for order, number in pixels:
        path = tmp_path / "sky/dataset" / f"Norder={order}/Dir=0/Npix={number}.parquet"
        index = pq.read_table(path, columns=["_healpix_29"])["_healpix_29"].to_numpy()
        assert_array_equal(index >> 2 * (29 - order), number)
        assert (np.diff(index) >= 0).all() and 0 < len(index) <= 45
        sizes[order, number] = len(index)
    assert sum(sizes.values()) == 2500
    every = np.concatenate([np.repeat(n << 2 * (29 - o), size) for (o, n), size in sizes.items()])
    for order, number in pixels:
        if order:
            parent = int((every >> 2 * (29 - order + 1) == number // 4).sum())
            assert parent > 45


@settings(max_examples=25, deadline=None)
@given(data=st.data(), order=st.integers(0, 3), threshold=st.integers(1, 50))
def test_pixels_cover_every_row_once(data: st.DataObject, order: int, threshold: int) -> None:
    """Pixels are apart, in sky order, hold all rows, and are as large as the threshold lets them be."""
    size = 12 * 4**order
    counts = data.draw(npst.arrays(np.int64, size, elements=st.integers(0, 60) | st.just(0), fill=st.just(0)))
    covered = np.zeros(size, int)
    starts = []
    for pixel in cut_pixels(counts, threshold):
        span = 4 ** (order - pixel.order)
        inside = slice(pixel.number * span, (pixel.number + 1) * span)
        covered[inside] += 1
        starts.append(inside.start)
        assert counts[inside].sum() > 0 and (counts[inside].sum() <= threshold or pixel.order == order)
        if pixel.order:
            parent = pixel.number // 4 * 4 * span
            assert counts[parent : parent + 4 * span].sum() > threshold
    assert (covered <= 1).all() and (covered[counts > 0] == 1).all() and starts == sorted(starts)


def test_stars_at_one_place_stay_together(tmp_path: Path) -> None:
    """More stars at one position than the threshold are one file of the highest order: none is lost."""
    path = make_stars(tmp_path / "stars", 250, 100)
    arrays = open_catalog(path).read_shard(1, open_catalog(path).columns)
    arrays["ra"][:80], arrays["dec"][:80] = 10.0, -90.0
    rewrite_shard(path, 1, arrays)
    assert export(path, tmp_path / "sky", ExportSettings("hats", threshold=50)).num_rows == 250
    sizes = {one.parts[-3]: pq.read_metadata(one).num_rows for one in (tmp_path / "sky").rglob("Npix*")}
    assert sizes["Norder=9"] == 80


def bad_positions(places: tuple[Path, Path], tmp_path: Path) -> Path:
    """A star catalog of which three stars have no place on the sky."""
    path = make_stars(tmp_path / "stars", 250, 100)
    arrays = open_catalog(path).read_shard(1, open_catalog(path).columns)
    arrays["ra"][3], arrays["dec"][5], arrays["ra"][7] = np.nan, 91.0, -1.0
    arrays["ra"][9] = 360.0
    rewrite_shard(path, 1, arrays)
    return path


def test_stars_without_a_position_and_hats(places: tuple[Path, Path], tmp_path: Path) -> None:
    """They are an error with their number, left out on request with account, and ra 360 is on the sphere."""
    path = bad_positions(places, tmp_path)
    with pytest.raises(InputError, match=r"(?s)3 stars.*--drop-unplaced"):
        export(path, tmp_path / "sky", ExportSettings("hats"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["stars"]
    done = export(path, tmp_path / "sky", ExportSettings("hats", drop_unplaced=True))
    assert (done.num_stars, done.num_rows, done.num_unplaced) == (250, 247, 3)
    ids = np.concatenate([pq.read_table(one)["objid"].to_numpy() for one in (tmp_path / "sky").rglob("Npix*")])
    expected = np.delete(open_catalog(path)["objid"][:], [103, 105, 107])
    assert_array_equal(np.sort(ids), np.sort(expected))


def test_nothing_to_place_is_said(tmp_path: Path) -> None:
    """A HATS catalog without a star is refused; other formats have a table without rows."""
    path = no_good_stars(tmp_path)
    with pytest.raises(InputError, match="no star to place"):
        export(path, tmp_path / "sky", ExportSettings("hats", good=True))
    assert [one.name for one in tmp_path.iterdir()] == ["stars"]


def no_good_stars(folder: Path) -> Path:
    """A star catalog of 250 stars, all of them bad."""
    path = make_stars(folder / "stars", 250, 100)
    for index in range(3):
        arrays = open_catalog(path).read_shard(index, open_catalog(path).columns)
        arrays["magnitude"][:, 0], arrays["quality"][:] = -9999.0, 4
        rewrite_shard(path, index, arrays)
    return path


@pytest.mark.parametrize("to", FILE_FORMATS)
def test_no_rows_are_a_table_too(tmp_path: Path, to: str) -> None:
    """Where no star is good --good gives a table of no rows, with its columns."""
    done = export(no_good_stars(tmp_path), tmp_path / "out", ExportSettings(to, good=True))
    assert (done.num_rows, done.num_bad) == (0, 250)
    table = dict(READERS)[to](tmp_path / "out")
    assert len(table) == 0 and "magnitude_u" in table.colnames


def test_hats_needs_positions(places: tuple[Path, Path], tmp_path: Path) -> None:
    """An encoding catalog alone has none; the message says what adds them."""
    with pytest.raises(InputError, match="--join"):
        export(places[1], tmp_path / "sky", ExportSettings("hats"))


def test_examples_of_the_page(places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands and the Python code of docs/export.md do what the page says."""
    pytest.importorskip("pandas", reason="astropy reads Parquet with pandas, which is not installed")
    page = (REPOSITORY / "docs" / "export.md").read_text().partition("## Compressed")[0]  # see test_compression.py
    shutil.copytree(places[0].parent, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^hpc-ae (export .*?)(?:#.*)?$", page, re.MULTILINE)
    assert [run_command(shlex.split(words)) for words in commands] == [0] * 5
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    (tmp_path / "latents.fits").rename(tmp_path / "first.fits")
    names: dict[str, Any] = {}
    for block in reversed(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)):
        exec(block, names)
    assert before["latents.fits"] != (tmp_path / "latents.fits").stat().st_ino
    assert len(Table.read("latents.fits")) == open_catalog(places[1]).num_good
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "first.fits"])


def test_real_stars_reach_every_format(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The 290,327 real stars: raw file -> catalog -> each format, without a changed bit in ids and magnitudes."""
    raw = shared_data / "sdss_photometric_stars.parquet"
    assert in_process(capsys, "ingest", raw, "--out", tmp_path / "catalog")[0] == 0
    truth = pq.read_table(raw)
    for to, read in READERS:
        export(tmp_path / "catalog", tmp_path / to, ExportSettings(to, overwrite=True))
        table = read(tmp_path / to)
        assert len(table) == 290_327
        assert_array_equal(table["objid"], truth["objid"].to_numpy())
        for band in "ugriz":
            assert_array_equal(table[f"magnitude_{band}"], truth[band].to_numpy().astype(np.float32))


# complete or not at all


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ExportSettings("csv"), "unknown format"),
        (ExportSettings("fits", ("objid", "magnitude_q")), "no such column"),
        (ExportSettings("fits", ("objid", "objid")), "each once"),
        (ExportSettings("fits", ("magnitude", "magnitude_u")), "each once"),
        (ExportSettings("fits", ("magnitude_u",), split=False), "no such column"),
        (ExportSettings("fits", num_files=2), "--files is for --to parquet"),
        (ExportSettings("fits", drop_unplaced=True), "--drop-unplaced is for --to hats"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_wrong_settings_write_nothing(stars: Catalog, tmp_path: Path, given: ExportSettings, message: str) -> None:
    """What cannot be is one message, and no file."""
    with pytest.raises(InputError, match=message):
        export(stars.directory, tmp_path / "out", given)
    assert list(tmp_path.iterdir()) == []


def test_join_needs_an_encoding_and_its_own_stars(places: tuple[Path, Path], tmp_path: Path) -> None:
    """A star catalog cannot be joined, --stars goes with --join, and other stars are refused."""
    settings = ExportSettings("fits")
    with pytest.raises(InputError, match="nothing to join"):
        export(places[0], tmp_path / "out", settings, join=True)
    with pytest.raises(InputError, match="--join"):
        export(places[1], tmp_path / "out", settings, stars=places[0])
    other = make_stars(tmp_path / "other", 2500, 900)
    with pytest.raises(InputError, match="not the star catalog that was encoded"):
        export(places[1], tmp_path / "out", settings, join=True, stars=other)
    assert not (tmp_path / "out").exists()


def test_stars_that_have_moved(places: tuple[Path, Path], tmp_path: Path) -> None:
    """--stars finds them where the manifest's relative path does not."""
    encoding = shutil.copytree(places[1], tmp_path / "elsewhere" / "encoding")
    with pytest.raises(InputError, match="--stars"):
        export(encoding, tmp_path / "out", ExportSettings("fits"), join=True)
    export(encoding, tmp_path / "out", ExportSettings("fits"), join=True, stars=places[0])
    assert_same(read_fits(tmp_path / "out"), expected_columns(open_catalog(encoding).join(places[0])))


def test_other_ids_in_the_encoding_are_found(places: tuple[Path, Path], tmp_path: Path) -> None:
    """A joined row whose ids differ is damage, and nothing is written."""
    stars = make_stars(tmp_path / "stars")
    encoding = make_encoding(tmp_path / "encoding", stars, make_model(tmp_path / "model"))
    arrays = open_catalog(encoding).read_shard(1, open_catalog(encoding).columns)
    arrays["objid"][[0, 1]] = arrays["objid"][[1, 0]]
    rewrite_shard(encoding, 1, arrays)
    with pytest.raises(DamageError, match="star shard in its ids"):
        export(encoding, tmp_path / "out", ExportSettings("fits"), join=True)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("to", [*FILE_FORMATS, "hats"])
def test_existing_output_is_kept(stars: Catalog, tmp_path: Path, to: str) -> None:
    """An output is replaced only with --overwrite; mode 0600 and no temporary file is left."""
    out = tmp_path / "out"
    export(stars.directory, out, ExportSettings(to, ("objid", "ra", "dec")))
    before = out.stat().st_ino
    with pytest.raises(InputError, match="--overwrite"):
        export(stars.directory, out, ExportSettings(to))
    assert out.stat().st_ino == before
    export(stars.directory, out, ExportSettings(to, ("objid", "ra", "dec"), good=True, overwrite=True))
    assert out.stat().st_ino != before and [one.name for one in tmp_path.iterdir()] == ["out"]
    files = [out] if out.is_file() else [one for one in out.rglob("*") if one.is_file()]
    assert {one.stat().st_mode & 0o777 for one in files} == {0o600}


@pytest.mark.parametrize(("to", "num_files"), [("hats", None), ("parquet", 2), ("fits", None)])
def test_foreign_directory_is_never_removed(stars: Catalog, tmp_path: Path, to: str, num_files: int | None) -> None:
    """--overwrite does not replace a directory that is no earlier export of the format."""
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"not an earlier export|not a file"):
        export(stars.directory, out, ExportSettings(to, num_files=num_files, overwrite=True))
    assert (out / "thesis.tex").read_text() == "years of work"


def test_output_inside_the_catalog_is_refused(stars: Catalog) -> None:
    """A catalog's directory holds the catalog alone."""
    with pytest.raises(InputError, match="inside the catalog"):
        export(stars.directory, stars.directory / "out.fits", ExportSettings("fits"))


@pytest.mark.parametrize("to", [*FILE_FORMATS, "hats"])
def test_damaged_shard_leaves_no_output(tmp_path: Path, to: str) -> None:
    """A shard whose bytes changed is named, and no output appears."""
    path = make_stars(tmp_path / "stars", 250, 100)
    shard = path / "shard-00002.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    shard.write_bytes(data)
    with pytest.raises(DamageError, match="shard-00002"):
        export(path, tmp_path / "out", ExportSettings(to))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["stars"]


def test_wrong_number_of_good_stars_is_found(tmp_path: Path) -> None:
    """--good counts the good stars of each shard against the manifest."""
    path = make_stars(tmp_path / "stars", 250, 100)
    (path / "shard-00001.h5").write_bytes((path / "shard-00000.h5").read_bytes())
    with pytest.raises(DamageError, match="number of good stars"):
        export(path, tmp_path / "out", ExportSettings("fits", ("magnitude",), good=True))


@pytest.mark.parametrize("to", FILE_FORMATS)
def test_lost_or_changed_rows_are_not_published(
    stars: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """A file that does not hold the ids that were read (here: one was rounded as a float would) is not published."""
    import hpc_ae.export as verb

    def careless(*arguments: Any) -> Any:
        writer = open_writer(*arguments)
        write = writer.append

        def append(arrays: dict[str, np.ndarray]) -> None:
            write({**arrays, "objid": arrays["objid"].astype(np.float64).astype(np.int64)})

        writer.append = append  # type: ignore[method-assign]
        return writer

    monkeypatch.setattr(verb, "open_writer", careless)
    with pytest.raises(WorkError, match="does not match the rows of the catalog"):
        export(stars.directory, tmp_path / "out", ExportSettings(to))
    assert list(tmp_path.iterdir()) == []


def test_row_sum_sees_every_change() -> None:
    """One id changed by one, two rows swapped or a row gone is another sum; without order a swap is not."""
    ids = BIG_ID + np.arange(1000, dtype=np.int64)

    def sums(values: np.ndarray, *, ordered: bool) -> RowSum:
        total = RowSum(ordered=ordered)
        total.add(values[:300])
        total.add(values[300:].astype(">i8"))
        return total

    swapped = ids.copy()
    swapped[[10, 500]] = swapped[[500, 10]]
    for ordered in (True, False):
        whole = sums(ids, ordered=ordered)
        assert whole == sums(ids, ordered=ordered)
        assert (whole == sums(swapped, ordered=ordered)) is not ordered
        assert whole != sums(ids + (np.arange(1000) == 7), ordered=ordered)
        assert whole != sums(ids[:-1], ordered=ordered)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog that takes a while to export."""
    return make_stars(tmp_path_factory.mktemp("many") / "stars", 20_000, 200)


@pytest.mark.parametrize("to", [*FILE_FORMATS, "hats"])
def test_killed_export_leaves_nothing_under_its_name(many_shards: Path, tmp_path: Path, to: str) -> None:
    """A killed export leaves a hidden temporary only, which the next one removes."""
    stars = many_shards
    process = subprocess.Popen(
        command("export", stars, tmp_path / "out", "--to", to), env=environment(), stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob(".out*")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    names = {one.name for one in tmp_path.iterdir()}
    assert killed and "out" not in names and len(names) == 1
    export(stars, tmp_path / "out", ExportSettings(to, overwrite=True))
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", [*FILE_FORMATS, "hats"])
def test_full_disk_is_one_message(tmp_path: Path, to: str) -> None:
    """Where the file system takes no more bytes the export says so, status 1, and leaves nothing."""
    stars = make_stars(tmp_path / "stars", 20_000, 10_000)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    code = f"import os, resource, sys; {limit}; os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-c", code, *command("export", stars, tmp_path / "out", "--to", to)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["stars"]


def test_command_says_what_it_did(stars: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command states rows in, rows out and rows left out; a wrong one is status 2."""
    status, said = in_process(capsys, "export", stars.directory, tmp_path / "a.fits", "--to", "fits", "--good")
    num_bad = 2500 - stars.num_good
    assert status == 0
    assert f"2,500 stars in {stars.directory}, {stars.num_good:,} rows in {tmp_path / 'a.fits'}" in said
    assert f"{num_bad} left out by --good" in said
    assert "the same rows and ids" in said
    words = ("export", stars.directory, tmp_path / "b.fits", "--to", "fits", "--columns", "magnitude_u")
    assert "no ids were exported" in in_process(capsys, *words)[1]
    status, said = in_process(capsys, "export", stars.directory, tmp_path / "a.fits", "--to", "fits")
    assert status == 2 and "--overwrite" in said


def test_exported_parquet_is_ingested_again(stars: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catalog -> Parquet -> catalog changes no bit of ids, positions, magnitudes, and of errors that can be."""
    path = tmp_path / "stars.parquet"
    export(stars.directory, path, ExportSettings("parquet", ("objid", "ra", "dec", "magnitude", "magnitude_error")))
    prefixes = {"": "magnitude", "err_": "magnitude_error"}
    pairs = {f"{prefix}{band}": f"{name}_{band}" for prefix, name in prefixes.items() for band in "ugriz"}
    words = [word for target, column in pairs.items() for word in ("--map", f"{target}={column}")]
    status, said = in_process(capsys, "ingest", path, "--out", tmp_path / "again", *words)
    assert status == 0, said
    again = open_catalog(tmp_path / "again")
    for name in ("objid", "ra", "dec", "magnitude"):
        assert_array_equal(again[name][:], stars[name][:])
    errors = stars["magnitude_error"][:]
    drop_errors(errors)  # what ingest makes NaN
    assert_array_equal(again["magnitude_error"][:], errors)
    assert np.isfinite(errors).mean() > 0.5
    assert_array_equal(again["quality"][:] == 0, stars["quality"][:] == 0)


@pytest.fixture(scope="module")
def small_and_large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Star catalogs of 300,000 and 1,500,000 stars."""
    folder = tmp_path_factory.mktemp("sizes")
    return make_stars(folder / "small", 300_000, 100_000), make_stars(folder / "large", 1_500_000, 100_000)


@pytest.mark.parametrize("to", [*FILE_FORMATS, "hats"])
def test_memory_does_not_grow_with_the_catalog(small_and_large: tuple[Path, Path], tmp_path: Path, to: str) -> None:
    """A catalog five times as large takes no more memory: what is held is a block, not the table."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom hpc_ae.export import ExportSettings, export\n"
        f"export(Path(sys.argv[1]), Path(sys.argv[2]), ExportSettings({to!r}, threshold=100_000))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for stars in small_and_large:
        words = [sys.executable, "-c", code, str(stars), str(tmp_path / stars.name)]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks  # MiB; the larger table is 80 MB larger
