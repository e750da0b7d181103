"""FITS tables: every kind of column against astropy, damaged and hostile files, and which of several tables is read."""

from __future__ import annotations

import bz2
import gzip
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.io.fits
import fitsio
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import refused, run, write

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.errors import InputError
from hpc_ae.export import ExportSettings, export
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.inspect import findings_text, inspect_files
from hpc_ae.jobs.main import run_command
from hpc_ae.readers.batches import read_batches
from hpc_ae.readers.fits import open_fits
from hpc_ae.readers.raw_file import Mark, Piece, RawFile
from hpc_ae.reading import Reading

BIG = 1237648720142401611
ASTROPY = Path(astropy.io.fits.__file__).parent / "tests" / "data"
BLOCK = 2880


def fits_bytes(*tables: Sequence[fits.Column] | fits.BinTableHDU | fits.TableHDU, image: bool = False) -> bytes:
    """A FITS file of tables, with an image as its primary HDU if asked."""
    primary = fits.PrimaryHDU(np.arange(12.0).reshape(3, 4) if image else None)
    made = [table if isinstance(table, fits.hdu.base.ExtensionHDU) else bintable(*table) for table in tables]
    stream = io.BytesIO()
    fits.HDUList([primary, *made]).writeto(stream, output_verify="ignore")
    return stream.getvalue()


def bintable(*columns: fits.Column, name: str | None = None) -> fits.BinTableHDU:
    """A binary table."""
    return fits.BinTableHDU.from_columns(list(columns), name=name)


def bands(num_rows: int = 3, form: str = "E", first: float = 15.0) -> list[fits.Column]:
    """Columns u to z with values first, first + 1, ... in each row."""
    return [
        fits.Column(band, form, array=np.arange(num_rows) + first + index / 8) for index, band in enumerate("ugriz")
    ]


def patched(content: bytes, **cards: Any) -> bytes:
    """A FITS file with cards of its last header replaced as they stand, whatever becomes of it."""
    header_at = content.rindex(b"XTENSION=")
    data = bytearray(content)
    for key, value in cards.items():
        at = data.index(f"{key:<8}=".encode(), header_at)
        data[at : at + 80] = f"{key:<8}= {value!s:>20}".ljust(80).encode()
    return bytes(data)


def read_table(raw: RawFile, start: int = 0, stop: int | None = None) -> dict[str, list[Any]]:
    """Every column that can be read, as Python values."""
    names = {f"raw:{index}": index for index, kind in enumerate(raw.dtypes) if " of FITS" not in kind}
    whole = Piece(0, RawFile(**{**raw.__dict__, "wanted": names}), start, stop or raw.num_rows, Mark(0, 0), Mark(0, 0))
    found: dict[str, list[Any]] = {raw.columns[index]: [] for index in names.values()}
    for _, batch in read_batches(whole):
        for name, index in names.items():
            found[raw.columns[index]] += batch[name].to_pylist()
    return found


def read_bytes(folder: Path, content: bytes) -> dict[str, list[Any]]:
    """The one table of a FITS file."""
    path = write(folder / "table", content)
    (raw,) = open_fits(path, path)
    return read_table(raw)


# values


def test_numbers_of_every_type_and_scale(tmp_path: Path) -> None:
    """Big-endian integers and floats, unsigned ones beyond the signed range, scaled ones: as astropy has them."""
    ids = np.array([BIG, -1, 2**63 - 1])
    columns = [
        fits.Column("byte", "B", array=np.array([0, 7, 255], np.uint8)),
        fits.Column("signed", "B", bzero=-128, array=np.array([-128, 0, 127], np.int8)),
        fits.Column("i16", "I", array=np.array([-32768, 0, 32767], np.int16)),
        fits.Column("u16", "I", bzero=2**15, array=np.array([0, 1, 65535], np.uint16)),
        fits.Column("i32", "J", array=np.array([-(2**31), 5, 2**31 - 1], np.int32)),
        fits.Column("u32", "J", bzero=2**31, array=np.array([0, 1, 2**32 - 1], np.uint32)),
        fits.Column("i64", "K", array=ids),
        fits.Column("u64", "K", bzero=2**63, array=np.array([0, BIG, 2**64 - 1], np.uint64)),
        fits.Column("f32", "E", array=np.float32([19.1, np.nan, -np.inf])),
        fits.Column("f64", "D", array=np.array([0.1, np.nan, 1e300])),
        fits.Column("scaled", "I", array=np.array([-1, 0, 1234], np.int16)),
        fits.Column("shifted", "J", bzero=100, array=np.array([100, 99, 2**31 + 99])),
    ]
    hdu = bintable(*columns)
    hdu.header["TSCAL11"], hdu.header["TZERO11"] = 0.001, 15.0
    content = fits_bytes(hdu)
    found = read_bytes(tmp_path, content)
    with fits.open(io.BytesIO(content), uint=True) as file:
        table = file[1].data
        for name in found:
            np.testing.assert_array_equal(np.array(found[name]), np.array(table[name]), err_msg=name)
    assert found["i64"] == ids.tolist() and found["u64"] == [0, BIG, 2**64 - 1]
    assert found["signed"] == [-128, 0, 127] and found["u16"] == [0, 1, 65535]
    assert all(type(value) is int for name in ("u64", "u32", "shifted") for value in found[name])


def test_tnull_is_no_value_and_is_compared_before_scaling(tmp_path: Path) -> None:
    """The stored value TNULL is null, also where TSCAL and TZERO would make another number of it; NaN stays NaN."""
    columns = [
        fits.Column("plain", "I", null=-99, array=np.array([1, -99, 3], np.int16)),
        fits.Column("unsigned", "K", bzero=2**63, null=-(2**63), array=np.array([0, 5, 2**63], np.uint64)),
        fits.Column("byte", "B", null=255, array=np.array([1, 2, 255], np.uint8)),
        fits.Column("f", "E", array=np.float32([1, np.nan, 3])),
    ]
    content = fits_bytes(columns)
    found = read_bytes(tmp_path, content)
    assert found["plain"] == [1, None, 3] and found["unsigned"] == [None, 5, 2**63] and found["byte"] == [1, 2, None]
    assert found["f"][1] != found["f"][1] and None not in found["f"]
    scaled = [fits.Column("v", "I", array=np.array([10, -9999, 30], np.int16))]
    hdu = bintable(*scaled)
    hdu.header["TSCAL1"], hdu.header["TZERO1"], hdu.header["TNULL1"] = 0.5, 1.0, -9999
    assert read_bytes(tmp_path, fits_bytes(hdu))["v"] == [6.0, None, 16.0]


def test_missing_and_nan_have_their_reasons(tmp_path: Path) -> None:
    """In a catalog: TNULL is a missing magnitude, NaN a non-finite one, -9999 a sentinel; a null id is missing."""
    columns = bands(4)
    columns[0] = fits.Column("u", "I", null=-1, array=np.array([15, -1, -9999, 16], np.int16))
    columns[1] = fits.Column("g", "E", array=np.float32([15, 15, 15, np.nan]))
    ids = fits.Column("objID", "K", null=0, array=np.array([BIG, BIG + 1, 0, 2**53 + 1]))
    catalog = run(tmp_path, fits_bytes([ids, *columns]))
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING, Quality.SENTINEL, Quality.NON_FINITE]
    assert catalog["objid"][:].tolist() == [BIG, BIG + 1, -1, 2**53 + 1]
    assert (catalog["caution"][:] & Caution.ID_MISSING).tolist() == [0, 0, Caution.ID_MISSING, 0]
    assert not (catalog["caution"][:] & Caution.ID_DAMAGED).any()


def test_ids_of_every_type(tmp_path: Path) -> None:
    """Text and unsigned ids beyond 2^53 are exact, those that a double held are flagged."""
    for index, (column, expected, caution) in enumerate(
        [
            (fits.Column("OBJID", "19A", array=np.array([str(BIG), " 12 "])), [BIG, 12], [0, 0]),
            (fits.Column("objid", "K", bzero=2**63, array=np.array([BIG, 12], np.uint64)), [BIG, 12], [0, 0]),
            (fits.Column("objid", "D", array=np.array([float(BIG), 12.0])), [int(float(BIG)), 12], [4, 0]),
        ]
    ):
        (tmp_path / str(index)).mkdir()
        catalog = run(tmp_path / str(index), fits_bytes([column, *bands(2)]))
        assert catalog["objid"][:].tolist() == expected
        assert (catalog["caution"][:] & Caution.ID_DAMAGED).tolist() == caution


def test_vector_columns_are_bands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """PSFMAG(5) is u to z, as its errors are, and that this was taken so is said and recorded."""
    rng = np.random.default_rng(1)
    magnitude = rng.uniform(14, 22, (50, 5)).astype(np.float32)
    columns = [
        fits.Column("OBJID", "K", array=BIG + np.arange(50)),
        fits.Column("PSFMAG", "5E", array=magnitude),
        fits.Column("PSFMAGERR", "5E", array=magnitude / 512),
        fits.Column("APER", "3D", array=np.arange(150.0).reshape(50, 3)),
        fits.Column("PROFMEAN", "5D", dim="(5)", array=np.ones((50, 5))),
        fits.Column("IMAGE", "75E", dim="(15,5)", array=np.ones((50, 5, 15))),
    ]
    content = fits_bytes(columns)
    found = read_bytes(tmp_path, content)
    assert found["APER_2"] == (1.0 + 3 * np.arange(50)).tolist() and "IMAGE" not in found
    catalog = run(tmp_path, content)
    np.testing.assert_array_equal(catalog["magnitude"][:], magnitude)
    np.testing.assert_array_equal(catalog["magnitude_error"][:], magnitude / 512)
    note = "the bands are the five elements of the array column PSFMAG, in the order u, g, r, i, z"
    assert note in catalog.manifest.inputs.raw[0].notes and note in capfd.readouterr().err


def test_bits_truths_and_strings(tmp_path: Path) -> None:
    """Bits from the most significant on, T, F and neither, text up to its NUL and without blanks behind."""
    bits = np.array([[1, 0, 1] + [0] * 7 + [1], [0] * 11, [1] * 11], bool)
    columns = [
        fits.Column("flag", "11X", array=bits),
        fits.Column("five", "5X", array=bits[:, :5]),
        fits.Column("clean", "L", array=np.array([True, False, True])),
        fits.Column("pair", "2L", array=np.array([[True, False], [False, False], [True, True]])),
        fits.Column("class", "6A", array=np.array(["STAR  ", "", " QSO"])),
        fits.Column("names", "8A", dim="(4,2)", array=np.array([["ab", "cd"]] * 3)),
    ]
    content = bytearray(fits_bytes(columns))
    row_bytes = 2 + 1 + 1 + 2 + 6 + 8
    data_at = len(content) - BLOCK
    content[data_at + row_bytes + 3] = 0  # the logical of row 2: undefined
    content[data_at + 6 : data_at + 12] = b"A\0\xe9 \0B"
    content[data_at + 2 * row_bytes + 6 : data_at + 2 * row_bytes + 12] = b"\xe9 QSO "
    found = read_bytes(tmp_path, bytes(content))
    assert found["five_3"] == bits[:, 2].tolist() and "five_u" not in found
    for index in range(11):
        assert found[f"flag_{index + 1}"] == bits[:, index].tolist()
    assert found["clean"] == [True, None, True] and found["pair_1"] == [True, False, True]
    assert found["class"] == ["A", "", "\xe9 QSO"] and "names" not in found
    assert fits.open(io.BytesIO(fits_bytes(columns)))[1].data["flag"].tolist() == bits.tolist()


def test_conditions_on_truths_bits_and_strings(tmp_path: Path) -> None:
    """--keep on a logical, a bit and a text column chooses the rows; a truth is no magnitude, an array no condition."""
    columns = [
        fits.Column("objid", "K", array=np.arange(4) + BIG),
        *bands(4),
        fits.Column("clean", "L", array=np.array([True, True, False, True])),
        fits.Column("bits", "3X", array=np.array([[0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]], bool)),
        fits.Column("class", "6A", array=np.array(["STAR", "STAR", "STAR", "QSO"])),
        fits.Column("spectrum", "100E", array=np.ones((4, 100))),
    ]
    content = fits_bytes(columns)
    for index, (keep, expected) in enumerate(
        [
            (("clean=1",), [0, 1, 3]),
            (("clean=true", "bits_2=1"), [0, 3]),
            (("clean=0",), [2]),
            (("class=STAR", "clean=1"), [0, 1]),
            (("class!=STAR",), [3]),
        ]
    ):
        (tmp_path / str(index)).mkdir()
        catalog = run(tmp_path / str(index), content, reading=Reading(keep=keep))
        assert (catalog["objid"][:] - BIG).tolist() == expected
        assert catalog.manifest.num_not_kept == 4 - len(expected)
    message = refused(tmp_path, content, mapping={"u": "clean"})
    assert "column clean" in message and "type bool" in message
    message = refused(tmp_path, content, reading=Reading(keep=("spectrum=1",)))
    assert "column spectrum" in message and "100E of FITS" in message


def test_text_tables(tmp_path: Path) -> None:
    """Numbers of a text table are those that astropy reads, D exponents too; TNULL and blanks are no values."""
    columns = [
        fits.Column("objid", "I19", ascii=True, array=np.array([BIG, 2, 3])),
        fits.Column("ra", "D25.17", ascii=True, array=np.array([10.123456789012345, 0.1, 359.9])),
        *(fits.Column(band, "E15.7", ascii=True, array=np.float32([15.1, 16.2, 17.3])) for band in "ugriz"),
        fits.Column("class", "A6", ascii=True, array=np.array(["STAR", "QSO", ""])),
    ]
    content = fits_bytes(fits.TableHDU.from_columns(columns))
    table = fits.open(io.BytesIO(content))[1].data
    catalog = run(tmp_path, content, reading=Reading(keep=("class!=GALAXY",)))
    assert catalog["objid"][:].tolist() == [BIG, 2, 3][:2] and catalog["ra"][:].tolist() == table["ra"].tolist()[:2]
    assert catalog["magnitude"][:][:, 1].tolist() == np.float32([15.1, 16.2]).tolist()
    assert (
        "FITS text table" in inspect_files([tmp_path / "raw-0"], {}, Reading(), 10).to_json()["files"][0]["described"]
    )
    at = content.index(b"1.01234567890123")
    blank = bytearray(content)
    blank[at : at + 23] = b" " * 23
    assert read_bytes(tmp_path, bytes(blank))["ra"][0].strip() == ""


def test_a_number_without_its_point_is_asked_for(tmp_path: Path) -> None:
    """In a text table Fortran reads 15100 in a column F8.3 as 15.1, others as 15100: an error with the row."""
    columns = [fits.Column(band, "F8.3", ascii=True, array=np.array([15.1, 16.2])) for band in "ugriz"]
    content = fits_bytes(fits.TableHDU.from_columns(columns))
    assert run(tmp_path, content)["magnitude"][:][:, 0].tolist() == np.float32([15.1, 16.2]).tolist()
    (tmp_path / "b").mkdir()
    message = refused(tmp_path / "b", content.replace(b"  16.200", b"   16200", 1))
    assert "row 2, column u" in message and "16200 without a point" in message


# real files


def test_rr_lyrae_of_vizier(shared_data: Path, tmp_path: Path) -> None:
    """The real VizieR table: positions, magnitudes and the chosen type are astropy's."""
    path = shared_data / "raw" / "vizier_rrlyrae.fits"
    with fits.open(path, memmap=False) as file:
        table = file[1].data
    catalog = run(tmp_path, path, mapping={"objid": "__SIG2010_"}, reading=Reading(keep=("Type=ab",)), shard_rows=100)
    kept = table["Type"] == "ab"
    assert 0 < kept.sum() < len(kept) == catalog.manifest.num_rows
    np.testing.assert_array_equal(catalog["objid"][:], table["__SIG2010_"][kept])
    np.testing.assert_array_equal(catalog["ra"][:], table["RAJ2000"][kept])
    np.testing.assert_array_equal(catalog["dec"][:], table["DEJ2000"][kept])
    stacked = np.stack([table[f"{band}mag"][kept] for band in "ugriz"], 1)
    np.testing.assert_array_equal(catalog["magnitude"][:], stacked)


def test_sweep_of_sdss_in_astropy(tmp_path: Path) -> None:
    """A real sweep file of SDSS: fluxes in nanomaggies with inverse variances, and its id within a field is none."""
    path = ASTROPY / "stddata.fits"
    with fits.open(path, memmap=False) as file:
        table = file[2].data
    catalog = run(tmp_path, path)
    flux = table["PSFFLUX"].astype(np.float64)
    np.testing.assert_allclose(catalog["magnitude"][:], 22.5 - 2.5 * np.log10(flux), rtol=1e-6)
    error = 2.5 / np.log(10) / np.sqrt(table["PSFFLUX_IVAR"].astype(np.float64)) / flux
    np.testing.assert_allclose(catalog["magnitude_error"][:], error, rtol=1e-6)
    assert catalog["ra"][:].tolist() == table["RA"].tolist() and catalog.manifest.objid == "generated"
    assert any("within a field" in note for note in catalog.manifest.inputs.raw[0].notes)


@pytest.mark.parametrize(
    "name", ["raw/skyserver_table1_header.csv", pytest.param("sdss_photometric_stars.parquet", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_from_raw_to_fits_and_back(name: str, pack: Any, shared_data: Path, tmp_path: Path) -> None:
    """Real stars: raw file -> catalog -> sky order -> FITS -> catalog, without a changed bit in any column."""
    first = run(tmp_path, shared_data / name, order="healpix", shard_rows=100_000)
    export(first.directory, tmp_path / "stars.fits", ExportSettings("fits"))
    packed = write(tmp_path / "packed", pack((tmp_path / "stars.fits").read_bytes()))
    ingest([packed], tmp_path / "again", IngestSettings(shard_rows=100_000))
    second = open_catalog(tmp_path / "again")
    assert second.columns == first.columns and len(first) == second.num_stars > 300
    for column in first.columns:
        assert first[column][:].tobytes() == second[column][:].tobytes(), column


def _same(ours: Any, theirs: Any) -> bool:
    """One value of each side; astropy has False for a truth that is neither T nor F."""
    if isinstance(theirs, str):
        return bool(ours == theirs.rstrip())
    return (ours is None and theirs is False) or ours == theirs or (ours != ours and theirs != theirs)


@pytest.mark.parametrize(
    "name", ["btable", "chandra_time", "checksum", "memtest", "stddata", "table", "tb", "tdim", "zerowidth"]
)
def test_tables_that_astropy_carries(name: str) -> None:
    """Every column of every table in astropy's own test files that is read is equal to what astropy reads."""
    path = ASTROPY / f"{name}.fits"
    num_columns = 0
    with fits.open(path, uint=True) as file:
        for raw in open_fits(path, path):
            hdu = file[int(raw.table.split()[1])]
            found = read_table(raw)
            assert raw.num_rows == len(hdu.data)
            for column in hdu.columns:
                if column.name in found and raw.columns.count(column.name) == 1:
                    theirs = np.asarray(hdu.data[column.name]).reshape(raw.num_rows).tolist()
                    pairs = zip(found[column.name], theirs, strict=True)
                    assert all(_same(one, other) for one, other in pairs), column.name
                    num_columns += 1
    assert num_columns


def test_a_file_of_fitsio(tmp_path: Path) -> None:
    """What cfitsio writes, unsigned integers and vectors among it, is read back the same."""
    data = np.zeros(40, [("objid", "u8"), ("ra", "f8"), ("modelmag", "f4", 5), ("n", "u2"), ("name", "S4")])
    rng = np.random.default_rng(2)
    data["objid"], data["ra"] = BIG + np.arange(40), rng.uniform(0, 360, 40)
    data["modelmag"], data["n"], data["name"] = rng.uniform(14, 24, (40, 5)), 65_535 - np.arange(40), b"ab"
    fitsio.write(tmp_path / "raw.fits", data, extname="STARS")
    catalog = run(tmp_path, tmp_path / "raw.fits", shard_rows=7, reading=Reading(keep=("n>65500", "name=ab")))
    np.testing.assert_array_equal(catalog["objid"][:], data["objid"][:35])
    np.testing.assert_array_equal(catalog["ra"][:], data["ra"][:35])
    np.testing.assert_array_equal(catalog["magnitude"][:], data["modelmag"][:35])


def test_units_of_the_header_count(tmp_path: Path) -> None:
    """TUNIT: radians become degrees, nanomaggies magnitudes; a unit that is neither is refused."""
    columns = [
        fits.Column("RA", "D", unit="rad", array=np.array([1.0, 2.0])),
        fits.Column("DEC", "D", unit="rad", array=np.array([-0.5, 1.5])),
        *(fits.Column(f"FLUX_{band}", "E", unit="nanomaggy", array=np.float32([100, 1000])) for band in "ugriz"),
    ]
    catalog = run(tmp_path, fits_bytes(columns))
    np.testing.assert_allclose(catalog["ra"][:], np.degrees([1, 2]), rtol=1e-15)
    np.testing.assert_allclose(catalog["dec"][:], np.degrees([-0.5, 1.5]), rtol=1e-15)
    np.testing.assert_allclose(catalog["magnitude"][:], np.float32([[17.5] * 5, [15.0] * 5]), rtol=1e-7)
    (tmp_path / "b").mkdir()
    columns[2] = fits.Column("FLUX_u", "E", unit="count/s", array=np.float32([100, 1000]))
    assert "count/s" in refused(tmp_path / "b", fits_bytes(columns))


# several tables, packing, names


def test_one_of_several_tables_is_found_or_asked_for(tmp_path: Path) -> None:
    """The only table with the bands is taken, behind an image too; of two the ingest asks, and --table answers."""
    other = [fits.Column("time", "D", array=np.arange(2.0))]
    assert len(run(tmp_path, fits_bytes(other, bands(3), image=True))) == 3
    (tmp_path / "b").mkdir()
    two = fits_bytes(other, bintable(*bands(3), name="STARS"), bintable(*bands(5, first=17), name="deep field"))
    message = refused(tmp_path / "b", two)
    assert "2 of the 3 tables" in message and "HDU 2 (STARS) with u, g" in message and "--table" in message
    names = {"STARS": 3, "stars": 3, "HDU 2": 3, "2": 3, "3": 5, "deep field": 5, "hdu 3 (deep field)": 5}
    for index, (table, num_rows) in enumerate(names.items()):
        (tmp_path / f"c{index}").mkdir()
        catalog = run(tmp_path / f"c{index}", two, reading=Reading(table=table))
        assert len(catalog) == num_rows and catalog.manifest.fingerprint["table"] == table
    for table, words in (("7", "0 of the 4 tables of a file called 7"), ("1", "the column of band u")):
        content = fits_bytes(other, bands(3), bands(4), bands(5))
        assert words in refused(tmp_path / "b", content, reading=Reading(table=table))


def test_inspect_asks_for_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """inspect lists the tables, and with --table shows that one and a command that has the option too."""
    path = write(tmp_path / "raw.fits", fits_bytes(bintable(*bands(3), name="A"), bintable(*bands(4), name="B")))
    assert run_command(["inspect", str(path)]) == 2
    assert "choose with --table NAME" in capsys.readouterr().err
    assert run_command(["inspect", str(path), "--table", "b"]) == 0
    output = capsys.readouterr().out
    assert "FITS binary table, HDU 2 (B)" in output and "the first 4 rows" in output and "--table b" in output


def test_inspect_shows_columns_that_are_not_read(tmp_path: Path) -> None:
    """Variable-length and complex columns are listed with their type, and do not stop the others."""
    lengths = np.empty(3, object)
    lengths[:] = [np.arange(index + 1) for index in range(3)]
    extra = [fits.Column("list", "PJ()", array=lengths), fits.Column("c", "C", array=np.ones(3, np.complex64))]
    path = write(tmp_path / "raw.fits", fits_bytes([*bands(3), *extra]))
    findings = inspect_files([path], {}, Reading(), 10)
    types = {column.name: column.type for column in findings.files[0].columns}
    assert types["list"].startswith("PJ") and types["c"] == "C of FITS" and types["u"] == "float"
    assert "not read" in findings_text(findings)
    assert run(tmp_path, path)["magnitude"][:][:, 0].tolist() == [15, 16, 17]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_and_misnamed(pack: Any, tmp_path: Path) -> None:
    """A packed FITS file is known by its content, whatever it is called."""
    path = write(tmp_path / "stars.csv", pack(fits_bytes(bands(9))))
    assert run(tmp_path, path)["magnitude"][:][:, 2].tolist() == (np.arange(9) + 15.25).tolist()


def test_images_alone_are_no_stars(tmp_path: Path) -> None:
    """A file of images, compressed ones among them, and a compressed table are refused by what they are."""
    assert "without a table" in refused(tmp_path, ASTROPY / "test0.fits")
    assert "without a table" in refused(tmp_path, ASTROPY / "comp.fits")
    packed = bintable(*bands(3))
    packed.header["ZTABLE"] = True
    message = refused(tmp_path, fits_bytes(packed))
    assert "tile-compressed" in message and "funpack" in message


# damaged and hostile


def _cut(content: bytes) -> bytes:
    return content[: len(content) - BLOCK + 30]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_cut, ["HDU 1 declares 200 rows of 20 bytes", "cut short"]),
        (lambda content: content[: BLOCK + 400], ["no END", "byte 2,880"]),
        (lambda content: content[:2000], ["no END", "byte 0"]),
        (lambda content: content.replace(b"END".ljust(80), b" " * 80), ["no END"]),
        (lambda content: patched(content, NAXIS2=10**15), ["declares 1000000000000000 rows"]),
        (lambda content: patched(content, NAXIS2=-1), ["NAXIS2 is -1"]),
        (lambda content: patched(content, NAXIS2="'many'"), ["NAXIS2 is 'many'"]),
        (lambda content: patched(content, NAXIS1=2**40, NAXIS2=0), ["rows of 1099511627776 bytes"]),
        (lambda content: patched(content, NAXIS1=24), ["rows of 24 bytes, and columns of 20"]),
        (lambda content: patched(content, TFORM1="'99999999999999999999E'"), ["TFORM1"]),
        (lambda content: patched(content, TFORM1="'4611686018427387904D'"), ["TFORM1"]),
        (lambda content: patched(content, TFORM1="'banana'"), ["TFORM1 is 'banana'"]),
        (lambda content: patched(content, TFORM1="'E"), ["HDU 1"]),
        (lambda content: patched(content, TFIELDS=100_000), ["100000 columns"]),
        (lambda content: patched(content, TFIELDS=7), ["TFORM6"]),
        (lambda content: patched(content, BITPIX=16), ["HDU 1"]),
        (lambda content: patched(content, PCOUNT=10**18), ["declares"]),
        (lambda content: patched(content, XTENSION="'IMAGE'"), ["without a table"]),
        (lambda content: content + b"trailing words".ljust(BLOCK), ["should begin HDU 2"]),
        (lambda content: content.replace(b"TTYPE1  = 'u", b"TTYPE1  = '\xff"), ["HDU 1"]),
    ],
)
def test_damaged_files_are_one_clear_message(make: Any, words: list[str], tmp_path: Path) -> None:
    """What a header claims is compared with the file before it is believed; the message names file and place."""
    message = refused(tmp_path, make(fits_bytes(bands(200))))
    assert str(tmp_path / "raw-0") in message
    assert [word for word in words if word not in message] == []


def test_more_tables_than_anyone_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of endless headers takes no endless time, and its later tables are not left out silently."""
    monkeypatch.setattr("hpc_ae.readers.fits._MOST_HDUS", 5)  # of 1000 the test would take seconds
    content = fits_bytes(bands(3))
    assert "more than 5 HDUs" in refused(tmp_path, content[:BLOCK] + content[BLOCK:] * 5)
    (tmp_path / "b").mkdir()
    assert "4 of the 4 tables" in refused(tmp_path / "b", content[:BLOCK] + content[BLOCK:] * 4)


@pytest.mark.parametrize("card", [("TSCAL1", 0), ("TZERO1", "'x'"), ("TNULL1", "'x'")])
def test_impossible_scaling_is_refused(card: tuple[str, Any], tmp_path: Path) -> None:
    """A scale of zero would make all magnitudes equal; words for numbers say nothing."""
    hdu = bintable(fits.Column("u", "I", null=-9, array=np.array([15, 16, 17], np.int16)), *bands(3)[1:])
    hdu.header["TSCAL1"], hdu.header["TZERO1"] = 0.5, 7.0
    content = fits_bytes(hdu)
    assert read_bytes(tmp_path, content)["u"] == [14.5, 15.0, 15.5]
    message = refused(tmp_path, patched(content, **{card[0]: card[1]}))
    assert "HDU 1" in message and ("TSCAL1 is 0.0" in message or "x" in message)


DAMAGED = fits_bytes(bands(20))


@settings(max_examples=80, deadline=None)
@given(where=st.lists(st.integers(0, BLOCK * 2 - 1), min_size=1, max_size=4), values=st.binary(min_size=4, max_size=4))
def test_random_damage_is_refused_or_read(
    where: list[int], values: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bytes of the headers are changed: an InputError, or a table; nothing else, and quickly."""
    content = bytearray(DAMAGED)
    for at, value in zip(where, values, strict=False):
        content[at] = value
    path = write(tmp_path_factory.getbasetemp() / "damaged", bytes(content))
    try:
        for raw in open_fits(path, path):
            read_table(raw)
    except InputError as error:
        assert str(path) in str(error)


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    """Rows that were there when the header was read and are no more are an error with the row."""
    path = write(tmp_path / "raw", fits_bytes(bands(1000)))
    (raw,) = open_fits(path, path)
    write(path, path.read_bytes()[:-BLOCK])
    with pytest.raises(InputError, match="ends after row"):
        read_table(raw)


# round trip


def _columns(num_rows: int) -> st.SearchStrategy[dict[str, Any]]:
    def lists(one: Any) -> Any:
        return st.lists(one, min_size=num_rows, max_size=num_rows)

    number = st.floats(width=32, allow_nan=True, allow_infinity=True)
    return st.fixed_dictionaries(
        {
            "objid": lists(st.integers(0, 2**63 - 1)),
            "ra": lists(st.floats(0, 360)),
            "magnitude": lists(st.lists(number, min_size=5, max_size=5)),
            "flags": lists(st.integers(0, 2**64 - 1)),
            "clean": lists(st.booleans()),
            "class": lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=5)),
        }
    )


@settings(max_examples=30, deadline=None)
@given(table=st.integers(1, 9).flatmap(_columns), vector=st.booleans())
def test_random_tables_come_back_equal(
    table: Mapping[str, Any], vector: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """astropy writes, the reader reads: ids, positions, magnitudes, unsigned flags, truths and text are the same."""
    magnitude = np.float32(table["magnitude"])
    columns = [
        fits.Column("objid", "K", array=np.array(table["objid"], np.int64)),
        fits.Column("ra", "D", array=np.array(table["ra"])),
        *(
            [fits.Column("psfMag", "5E", array=magnitude)]
            if vector
            else [fits.Column(f"psfMag_{band}", "E", array=magnitude[:, index]) for index, band in enumerate("ugriz")]
        ),
        fits.Column("flags", "K", bzero=2**63, array=np.array(table["flags"], np.uint64)),
        fits.Column("clean", "L", array=np.array(table["clean"])),
        fits.Column("class", "5A", array=np.array(table["class"], "S5")),
    ]
    found = read_bytes(tmp_path_factory.mktemp("trip"), fits_bytes(columns))
    for name in ("objid", "ra", "flags", "clean", "class"):
        assert found[name] == table[name]
    for index, band in enumerate("ugriz"):
        np.testing.assert_array_equal(np.float32(found[f"psfMag_{band}"]), magnitude[:, index])


def test_pieces_are_the_whole(tmp_path: Path) -> None:
    """Any range of rows is the same rows; shards of any size and several files keep the order."""
    columns = [fits.Column("objid", "J", array=np.arange(1000)), *bands(1000, first=14)]
    path = write(tmp_path / "a", fits_bytes(columns))
    (raw,) = open_fits(path, path)
    whole = read_table(raw)["objid"]
    assert whole == list(range(1000)) and read_table(raw, 317, 802)["objid"] == whole[317:802]
    shutil.copy(path, tmp_path / "b")
    catalog = run(tmp_path, path, tmp_path / "b", shard_rows=300)
    assert catalog["objid"][:].tolist() == whole * 2
