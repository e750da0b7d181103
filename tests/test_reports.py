"""What users of other software have met in their files: each kind of it, in the formats that have it.

The first part reads the files of ../shared/data/reports, where they are; the second makes further ones of each kind.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table
from commands import hpc_ae
from raw_files import refused, run

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.errors import InputError
from hpc_ae.inspect import inspect_files
from hpc_ae.photometry import BANDS
from hpc_ae.readers.star_rows import read_ids
from hpc_ae.reading import Reading

REPORTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "reports"
IDS = [1237645879551066262, 1237645879562928145, 1237645941824356375, 1237645941824356443]
IDS += [1237646588246688101, 1237646798137852047]
shared = pytest.mark.skipif(not REPORTS.is_dir(), reason="../shared/data/reports is not there")


def notes(catalog: Catalog) -> str:
    """The notes of the manifest, a line each."""
    return "\n".join(note for raw in catalog.manifest.inputs.raw or () for note in raw.notes)


def flagged(catalog: Catalog, flag: Quality | Caution) -> list[int]:
    """The rows that have a flag."""
    name = "quality" if isinstance(flag, Quality) else "caution"
    return np.flatnonzero(catalog[name][:] & flag).tolist()


def is_nan(values: np.ndarray) -> list[int]:
    """The rows that have no value."""
    return np.flatnonzero(np.isnan(values)).tolist()


def check_masks(catalog: Catalog) -> None:
    """Masked values are no values."""
    assert flagged(catalog, Quality.MISSING) == [1] and flagged(catalog, Caution.ID_MISSING) == [2]
    assert flagged(catalog, Caution.POSITION_MISSING) == [4] and is_nan(catalog["redshift"][:]) == [3]


def check_default_fills(catalog: Catalog) -> None:
    """netCDF's own fill values are no values."""
    assert flagged(catalog, Caution.ID_MISSING) == [2] and flagged(catalog, Quality.MISSING) == [1]
    assert is_nan(catalog["redshift"][:]) == [0] and is_nan(catalog["magnitude_error"][:][:, 1]) == [3]
    assert flagged(catalog, Caution.POSITION_MISSING) == [4] and catalog.num_good == 5


def check_fill_attribute(catalog: Catalog) -> None:
    """The number of `_FillValue` is none."""
    assert flagged(catalog, Quality.MISSING) == [1] and catalog.num_good == 5


def check_filled(catalog: Catalog) -> None:
    """1e20 is neither a redshift nor an error, and is counted."""
    assert is_nan(catalog["redshift"][:]) == [0] and is_nan(catalog["magnitude_error"][0]) == [0]
    assert catalog.manifest.inputs.raw[0].removed == {"magnitude_error": 1, "redshift": 1}


def check_first_dashes(catalog: Catalog) -> None:
    """A row of dashes is a star without values."""
    assert catalog.num_stars == 3 and flagged(catalog, Quality.MISSING) == [0]


def check_second_dashes(catalog: Catalog) -> None:
    """The same in the second row."""
    assert catalog.num_stars == 4 and flagged(catalog, Quality.MISSING) == [1]


def check_blank_field(catalog: Catalog) -> None:
    """Where g is blank nothing moves to its place."""
    assert flagged(catalog, Quality.MISSING) == [1] and catalog["dec"][1] == 1.25563
    assert catalog["magnitude"][1].tolist()[2:] == [np.float32(one) for one in (18.19, 17.91, 17.77)]


def check_float_ids(catalog: Catalog) -> None:
    """Ids of more digits than a float32 has are damaged."""
    assert flagged(catalog, Caution.ID_DAMAGED) == list(range(6))


def check_turned(catalog: Catalog) -> None:
    """Right ascensions from -180 to 0 are those from 180 to 360."""
    assert catalog["ra"][:2] == pytest.approx([348.90253, 348.99612]) and not catalog["caution"][:].any()
    assert "ra is negative in 3 rows" in notes(catalog)


def check_coordinates(catalog: Catalog) -> None:
    """coord.ra and coord.dec are positions."""
    assert catalog["ra"][:2].tolist() == [348.90253, 348.99612] and "coord.ra and coord.dec" in notes(catalog)


def check_hours(catalog: Catalog) -> None:
    """12:34:56.7 is 188.73625 degrees."""
    assert catalog["ra"][0] == pytest.approx(188.73625) and catalog["dec"][0] == pytest.approx(-1.0341666667)


def check_redshifts(catalog: Catalog) -> None:
    """-1 is none, near it and 9.99 may be some."""
    assert is_nan(catalog["redshift"][:]) == [1, 2, 5] and catalog["redshift"][4] == np.float32(9.99)


def check_synthetic(catalog: Catalog) -> None:
    """The SDSS magnitudes of Gaia's synthetic photometry."""
    assert catalog["magnitude"][0].tolist() == [np.float32(one) for one in (19.38, 18.19, 17.47, 17.25, 17.12)]
    assert "no column of ra and dec" in notes(catalog)


def check_exact_ids(catalog: Catalog) -> None:
    """Every id to its last digit, none flagged."""
    assert catalog["objid"][:].tolist() == IDS and not catalog["caution"][:].any()


def check_decimals(catalog: Catalog) -> None:
    """What no int64 holds is damaged, the others are exact."""
    assert flagged(catalog, Caution.ID_DAMAGED) == [1] and flagged(catalog, Caution.ID_MISSING) == [2]
    assert [*catalog["objid"][:1].tolist(), *catalog["objid"][3:].tolist()] == [*IDS[:1], *IDS[3:]]


def check_cut_short(catalog: Catalog) -> None:
    """The last row is named."""
    assert "the last row has no line end" in notes(catalog) and "12376459418" in notes(catalog)


def check_overflow(catalog: Catalog) -> None:
    """What the service said stands in the manifest."""
    assert "OVERFLOW" in notes(catalog) and catalog.num_stars == 6


READ: dict[str, Callable[[Catalog], None]] = {
    "fits_mask_columns.fits": check_masks,
    "dashes_first_row.csv": check_first_dashes,
    "dashes_second_row.csv": check_second_dashes,
    "blank_field_shift.txt": check_blank_field,
    "netcdf_default_fill.nc": check_default_fills,
    "hdf5_fill_value.h5": check_fill_attribute,
    "filled_1e20.csv": check_filled,
    "float32_ids.fits": check_float_ids,
    "negative_ra.csv": check_turned,
    "skycoord_columns.fits": check_coordinates,
    "sexagesimal.vot": check_hours,
    "redshift_sentinels.csv": check_redshifts,
    "gaia_gspc.csv": check_synthetic,
    "vaex_plain.hdf5": check_exact_ids,
    "binary_ids.parquet": check_exact_ids,
    "decimal_ids.parquet": check_decimals,
    "quoted_after_comment.csv": check_exact_ids,
    "ids_dot_zero.csv": check_exact_ids,
    "truncated_last_line.csv": check_cut_short,
    "overflow.vot": check_overflow,
    "excel_sep_line.csv": check_exact_ids,
}
ASKED = {
    "johnson_U_beside_sdss.csv": ["mixed case", "--map u=U"],
    "johnson_Umag.csv": ["mixed case", "--map u=Umag"],
    "johnson_psf.csv": ["mixed case", "--map u=psfMag_U"],
    "topcat_suffixes.csv": ["ra_1 and dec_1, ra_2 and dec_2", "--map ra=ra_1 --map dec=dec_1"],
    "pandas_like_tables.h5": ["2 of the 2 tables", "--table all"],
}


@shared
def test_every_report_is_here() -> None:
    """No file of the reports is passed over."""
    assert {path.name for path in REPORTS.iterdir()} - {"README.md"} == READ.keys() | ASKED.keys()


@shared
@pytest.mark.parametrize("name", READ)
def test_report_that_is_read(name: str, tmp_path: Path) -> None:
    """What is right is in the catalog, and `ingest` says what `inspect` says."""
    catalog = run(tmp_path, REPORTS / name)
    READ[name](catalog)
    [found] = inspect_files([REPORTS / name], {}, Reading(), 100).files
    assert not found.question and set(found.notes) <= set(notes(catalog).split("\n"))


@shared
@pytest.mark.parametrize("name", ASKED)
def test_report_that_is_asked_about(name: str, tmp_path: Path) -> None:
    """Where nobody can know it is asked for, with the words that answer."""
    message = refused(tmp_path, REPORTS / name)
    assert all(word in message for word in ASKED[name]), message


@shared
def test_all_tables_of_a_file(tmp_path: Path) -> None:
    """`--table all` takes them one behind the other, each with its own line in the manifest."""
    path = REPORTS / "pandas_like_tables.h5"
    words = ("ingest", path, "--table", "all", "--out", tmp_path / "catalog", "--shard-rows", 5)
    done, again = hpc_ae(*words), hpc_ae(*words)
    assert done.returncode == 0 and "12 rows in, 12 stars out" in done.stderr, done.stderr
    assert again.returncode == 0 and "already exists" in again.stderr
    assert hpc_ae("verify", tmp_path / "catalog").returncode == 0
    catalog = open_catalog(tmp_path / "catalog")
    assert [raw.table for raw in catalog.manifest.inputs.raw or ()] == [
        f"pandas frame /object_4850_{number}" for number in (31, 32)
    ]
    assert "2 tables are taken" in notes(catalog)


@shared
def test_cones_around_negative_right_ascensions(tmp_path: Path) -> None:
    """A cone finds them by either number, across 0 too, on the command line."""
    run(tmp_path, REPORTS / "negative_ra.csv")
    for cone, num in (("348.9 1.27 10", 2), ("-11.1 1.27 10", 2), ("0.002 12.5 1", 1), ("-0.002 12.5 1", 1)):
        found = hpc_ae("query", tmp_path / "catalog", "--cone", *cone.split())
        assert found.stderr.startswith(f"query: {num} stars"), found.stderr


def stars(**changes: object) -> dict[str, np.ndarray]:
    """Columns of three stars."""
    columns = {"objid": np.array([11, 12, 13]), "ra": np.array([10.0, 20, 30]), "dec": np.array([1.0, 2, 3])}
    columns |= {band: np.array([20.0, 21, 22], np.float32) for band in BANDS}
    columns |= {f"err_{band}": np.array([0.1, 0.2, 0.3], np.float32) for band in BANDS}
    return columns | {"redshift": np.array([0.1, 0.2, 0.3], np.float32)} | changes


def as_csv(columns: dict[str, np.ndarray], delimiter: str = ",") -> str:
    """A text of columns."""
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return "\n".join(delimiter.join(map(str, row)) for row in [tuple(columns), *rows]) + "\n"


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("format", ["fits", "hdf5", "parquet", "votable"])
def test_mask_columns(format: str, *, vector: bool, tmp_path: Path) -> None:
    """astropy's mask columns, of vectors too, in every format that can have them."""
    masked = np.array([False, True, False])
    values = stars()
    table = Table({name: values[name] for name in ("objid", "ra", "dec", "redshift")})
    matrix = np.stack([values[band] for band in BANDS], 1)
    if vector:
        table["PSFMAG"], table["PSFMAG.mask"] = matrix, np.repeat(masked[:, None], 5, 1) & (np.arange(5) == 2)
    else:
        for band in BANDS:
            table[band] = values[band]
        table["r.mask"] = masked
    table["redshift.mask"], table["objid.mask"] = masked[::-1], ~masked
    if vector and format == "parquet":
        matrices = {"PSFMAG": matrix, "PSFMAG.mask": np.asarray(table["PSFMAG.mask"])}
        rest = {name: np.asarray(table[name]) for name in table.colnames if name not in matrices}
        lists = {name: pa.FixedSizeListArray.from_arrays(one.ravel(), 5) for name, one in matrices.items()}
        pq.write_table(pa.table({**rest, **lists}), tmp_path / "raw")
    else:
        table.write(tmp_path / "raw", format=format, **({"path": "stars"} if format == "hdf5" else {}))
    catalog = run(tmp_path, tmp_path / "raw")
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING, 0] and np.isnan(catalog["magnitude"][1][2])
    assert flagged(catalog, Caution.ID_MISSING) == [0, 2] and np.isnan(catalog["redshift"][:]).sum() == 1


def test_mask_that_is_no_truth(tmp_path: Path) -> None:
    """A column whose mask is a number is not read; in text no mask is."""
    table = Table(stars())
    table["u.mask"] = np.array([0, 1, 0], np.int16)
    table.write(tmp_path / "raw.fits")
    assert "masked by u.mask, which is int16" in refused(tmp_path, tmp_path / "raw.fits")
    assert "u.mask" in refused(tmp_path, as_csv(stars() | {"u.mask": np.array([False, True, False])}))


def test_masked_column_of_astropy(tmp_path: Path) -> None:
    """What astropy writes of a masked column by its own choice, and with masks beside it."""
    for number, method in enumerate(("null_value", "data_mask")):
        table = Table(stars())
        table["g"] = MaskedColumn(table["g"], mask=[True, False, False])
        table["g"].info.serialize_method["fits"] = method
        table.write(tmp_path / f"{number}.fits")
        (tmp_path / str(number)).mkdir()
        catalog = run(tmp_path / str(number), tmp_path / f"{number}.fits")
        assert flagged(catalog, Quality.MISSING if number else Quality.NON_FINITE) == [0]


FILLS = [("f4", 25.0), ("f8", 25.0), ("i2", 25), ("i8", -1), ("u1", 25)]


@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value", ""])
@pytest.mark.parametrize(("kind", "fill"), FILLS)
def test_fill_values_of_hdf5(attribute: str, kind: str, fill: float, tmp_path: Path) -> None:
    """By attribute, alone or in a list, and where nothing was written; the same number elsewhere is a value."""
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        for name, values in stars(u=np.array([20, fill, 22]).astype(kind)).items():
            file.create_dataset(name, data=values, fillvalue=fill if name == "u" and not attribute else None)
        if attribute:
            file["u"].attrs[attribute] = np.array([fill, 24]) if attribute == "missing_value" else fill
    catalog = run(tmp_path, tmp_path / "raw.h5")
    assert flagged(catalog, Quality.MISSING) == [1] and catalog.num_good == 2


@pytest.mark.parametrize("fill", [1e20, 9.96921e36, 1.6e38, 3.4e38, -1e20])
@pytest.mark.parametrize("write", ["csv", "parquet", "fits"])
def test_numbers_of_no_value(fill: float, write: str, tmp_path: Path) -> None:
    """Redshifts and errors of 1e20 and the like, in any format; such inverse variances are no tiny errors."""
    columns = stars(redshift=np.array([0.1, fill, 0.3]), err_g=np.array([fill, 0.1, 0.1]))
    path = tmp_path / "raw"
    if write == "csv":
        path.write_text(as_csv(columns))
    else:
        Table(columns).write(path, format=write)
    catalog = run(tmp_path, path)
    assert is_nan(catalog["redshift"][:]) == [1] and is_nan(catalog["magnitude_error"][:][:, 1]) == [0]


def test_inverse_variance_of_no_value(tmp_path: Path) -> None:
    """An inverse variance of 1e20 is unknown, not the best of all."""
    columns = {f"psfFlux_{band}": np.array([10.0, 20.0]) for band in BANDS}
    columns |= {f"psfFluxIvar_{band}": np.array([1e20, 25.0]) for band in BANDS}
    catalog = run(tmp_path, as_csv(columns))
    assert np.isnan(catalog["magnitude_error"][0]).all() and (catalog["magnitude_error"][1] > 0).all()


@pytest.mark.parametrize(
    "names",
    ["U,g,r,i,z", "Umag,gmag,rmag,imag,zmag", "psfMag_u,psfMag_g,psfMag_R,psfMag_I,psfMag_z", "e,U [mag],g,r,i,z"],
)
def test_mixed_case_is_asked_about(names: str, tmp_path: Path) -> None:
    """U beside g, r, i and z is Johnson's; said by hand it is taken."""
    header = names.split(",")
    columns = {name: np.array([20.0, 21]) for name in header}
    message = refused(tmp_path, as_csv(columns))
    assert ("mixed case" in message and f"--map u={header[-5]}" in message) or "--map r=" in message, message
    mapping = dict(zip(BANDS, header[-5:], strict=True))
    assert run(tmp_path, as_csv(columns), mapping=mapping).num_good == 2


@pytest.mark.parametrize("case", [str.upper, str.lower])
@pytest.mark.parametrize("more", ["", "U,B,V"])
def test_one_case_is_taken(case: Callable[[str], str], more: str, tmp_path: Path) -> None:
    """Five names of one case are SDSS's, with Johnson's U beside small letters too."""
    if more and case is str.upper:
        more = "b,v"
    columns = {name: np.array([18.0, 18]) for name in more.split(",") if name}
    columns |= {case(f"{band}"): np.array([20.0, 21]) for band in BANDS}
    columns |= {case(f"err_{band}"): np.array([0.1, 0.2]) for band in BANDS}
    catalog = run(tmp_path, as_csv(columns))
    assert catalog["magnitude"][:].tolist() == [[20.0] * 5, [21.0] * 5] and "magnitude_error" in catalog.columns


def test_errors_of_mixed_case_are_not_taken(tmp_path: Path) -> None:
    """The error of U is not that of u."""
    columns = {band: np.array([20.0, 21]) for band in BANDS}
    columns |= {f"err_{name}": np.array([0.1, 0.2]) for name in "Ugriz"}
    catalog = run(tmp_path, as_csv(columns))
    assert "magnitude_error" not in catalog.columns and "no errors of all five bands" in notes(catalog)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", " "])
def test_rows_of_dashes(delimiter: str, tmp_path: Path) -> None:
    """A row of `--` is a star without values in any place; a rule of longer dashes is none."""
    lines = [delimiter.join(BANDS), *[delimiter.join(["--"] * 5)] * 2, delimiter.join(["20"] * 5)]
    assert run(tmp_path, "\n".join(lines) + "\n")["quality"][:].tolist() == [1, 1, 0]
    (tmp_path / "ruled").mkdir()
    ruled = [delimiter.join(BANDS), delimiter.join(["-----"] * 5), delimiter.join(["20.00"] * 5)]
    assert run(tmp_path / "ruled", "\n".join(ruled) + "\n").num_stars == 1


FIXED = """\
objid        u     g     r     i     z class
          mag         mag   mag   mag
-------- ----- ----- ----- ----- ----- ------
12345678 20.00 21.00 22.00 19.00 18.00 A STAR
12345679       21.00 22.00 19.00 18.00

    \t
"""


def test_columns_of_fixed_width(tmp_path: Path) -> None:
    """Dashes bound the columns, of units too; empty fields at either end, lines that end early, any line end."""
    text = FIXED.replace("    \t\n", "") + "         20.00 21.00 22.00 19.00       é\n"
    for number, one in enumerate((text, text.replace("\n", "\r\n"))):
        (tmp_path / str(number)).mkdir()
        catalog = run(tmp_path / str(number), one.encode(), reading=Reading(keep=()))
        assert catalog["quality"][:].tolist() == [0, 1, 1]
        assert flagged(catalog, Caution.ID_MISSING) == [2] and catalog["magnitude"][1][4] == 18


def test_value_across_the_dashes(tmp_path: Path) -> None:
    """A value that stands between columns is named by its row; an ornament of dashes bounds nothing."""
    rows = "12345678 20.00 21.00 22.00 19.00 18.00 STAR\n" * 3000
    wrong = "12345678 20.0021.00  22.00 19.00 18.00 STAR\n"
    message = refused(tmp_path, FIXED.split("1234")[0] + rows + wrong + rows)
    assert "does not stand under the dashes" in message and "row 3,001" in message
    ornament = "u g r i z\n-- --- -- --- --\n20.00 21.00 22.00 19.00 18.00\n"
    assert run(tmp_path, ornament)["magnitude"][0].tolist() == [20, 21, 22, 19, 18]


@pytest.mark.parametrize(("kind", "digits"), [("f2", 11), ("f4", 24), ("f8", 53)])
def test_digits_of_floats(kind: str, digits: int) -> None:
    """Ids are exact up to the digits of their type, in Arrow's columns of any reader."""
    values = np.array([2**digits - 1, 2**digits, 2 ** (digits - 1)]).astype(kind)
    ids, damaged = read_ids(pa.chunked_array([pa.array(values)]))
    assert damaged.tolist() == [False, True, False] and ids[0] == 2**digits - 1


@pytest.mark.parametrize("text", ["{}.0", "{}.", "{}.000", " +{}.0"])
def test_digits_before_the_point(text: str, tmp_path: Path) -> None:
    """An id with .0 behind it has all its digits."""
    rows = [f"{text.format(IDS[0])},1,1,20,20,20,20,20", f"{text.format(-5)},1,1,20,20,20,20,20".replace("+-", "-")]
    catalog = run(tmp_path, "objid,ra,dec,u,g,r,i,z\n" + "\n".join(rows) + "\n")
    assert catalog["objid"][:].tolist() == [IDS[0], -5] and not catalog["caution"][:].any()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.decimal128(20, 0), pa.decimal128(22, 2)])
def test_ids_of_odd_types(kind: pa.DataType, tmp_path: Path) -> None:
    """Ids as bytes and decimals, in Parquet with and without dictionary."""
    texts = pa.array([str(one) for one in IDS])
    ids = texts.cast(kind)
    rest = {band: np.full(6, 20.0) for band in BANDS}
    for number, use in enumerate((True, False)):
        (tmp_path / str(number)).mkdir()
        pq.write_table(pa.table({"objid": ids, **rest}), tmp_path / "raw.parquet", use_dictionary=use)
        assert run(tmp_path / str(number), tmp_path / "raw.parquet")["objid"][:].tolist() == IDS


@pytest.mark.parametrize(
    ("ra", "turned"), [(-0.0001, 359.9999), (-180, 180), (-180.1, None), (-99, None), (-1e-15, 0.0), (-360, None)]
)
def test_negative_right_ascensions(ra: float, turned: float | None, tmp_path: Path) -> None:
    """From -180 to 0 they are taken modulo 360; what is a sentinel or beyond stays outside."""
    catalog = run(tmp_path, as_csv(stars(ra=np.array([ra, 20, 30]))))
    assert flagged(catalog, Caution.POSITION_OUTSIDE) == ([] if turned is not None else [0])
    assert catalog["ra"][0] == pytest.approx(ra if turned is None else turned)
    assert ("taken modulo 360" in notes(catalog)) == (turned is not None)


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        ("coord.ra", "coord.dec"),
        ("gaia_ra", "gaia_dec"),
        ("RA_1", "DEC_1"),
        ("RAJ2000_x", "DEJ2000_x"),
        ("s.alpha", "s.delta"),
    ],
)
def test_the_only_pair_of_coordinates(ra: str, dec: str, tmp_path: Path) -> None:
    """Positions that are called so beside something else, with their errors beside them."""
    columns = {name: values for name, values in stars().items() if name not in ("ra", "dec")}
    more = {ra: np.array([10.0, 20, 30]), dec: np.array([1.0, 2, 3]), f"{ra}_err": np.ones(3), f"{dec}_err": np.ones(3)}
    catalog = run(tmp_path, as_csv({**columns, **more}))
    assert catalog["ra"][:].tolist() == [10, 20, 30] and f"the positions are the columns {ra} and {dec}" in notes(
        catalog
    )


@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [
        ("12:34:56.7", "-01:02:03", (188.73625, -1.0341666667)),
        ("12 34 56.7", "+01 02 03.0", (188.73625, 1.0341666667)),
        ("12h34m56.7s", "-01d02m03s", (188.73625, -1.0341666667)),
        ("00:00:00.1", "-00:00:01", (0.0004166667, -0.0002777778)),
    ],
)
def test_hours_minutes_seconds(ra: str, dec: str, expected: tuple[float, float], tmp_path: Path) -> None:
    """Text of positions without a unit; a row without any has none."""
    rows = [f"{ra},{dec},20,20,20,20,20", ",,20,20,20,20,20"]
    catalog = run(tmp_path, "ra,dec,u,g,r,i,z\n" + "\n".join(rows) + "\n")
    assert (catalog["ra"][0], catalog["dec"][0]) == pytest.approx(expected)
    assert flagged(catalog, Caution.POSITION_MISSING) == [1] and "12:34:56" in notes(catalog)


@pytest.mark.parametrize("wrong", ["12:60:00", "188.7", "12:34", "x"])
def test_what_is_no_angle_among_them(wrong: str, tmp_path: Path) -> None:
    """A wrong angle is named by its row, in whatever stretch of the file."""
    rows = ["12:34:56,1,20,20,20,20,20\n"] * 1500
    message = refused(tmp_path, "ra,dec,u,g,r,i,z\n" + "".join([*rows, f"{wrong},1,20,20,20,20,20\n", *rows]))
    assert "row 1,501, column ra" in message and wrong in message


@pytest.mark.parametrize("masked", [False, True])
def test_tables_of_vaex(masked: bool, tmp_path: Path) -> None:
    """Columns as groups with values and masks; text that is not read is named, where it is needed."""
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        for name, values in stars().items():
            group = file.create_group(f"table/columns/{name}")
            group["data"] = values
            if masked and name in ("g", "objid"):
                group["mask"] = np.array([False, True, False])
        group = file.create_group("table/columns/name")
        group["data"], group["indices"] = np.frombuffer(b"abc", np.uint8), np.arange(4)
    catalog = run(tmp_path, tmp_path / "raw.h5")
    assert catalog["quality"][:].tolist() == ([0, 1, 0] if masked else [0, 0, 0])
    assert catalog["objid"][:].tolist() == ([11, -1, 13] if masked else [11, 12, 13])


def test_columns_that_are_two_bands(tmp_path: Path) -> None:
    """One column for two bands is asked about, also where both were said."""
    message = refused(tmp_path, as_csv(stars()), mapping={"u": "g", "g": "g"})
    assert "taken for u and for g" in message
    with pytest.raises(InputError, match="taken for u and for g"):
        run(tmp_path, as_csv(stars()), mapping={"u": "g"})


def test_bands_of_other_surveys_are_said(tmp_path: Path) -> None:
    """y beside the five, and Gaia's bands by hand, are noted; x and y are places on a chip."""
    columns = {f"{band}_psf": np.array([20.0]) for band in "ugrizy"}
    assert "u_psf" not in notes(run(tmp_path, as_csv(columns))) and "y_psf" in notes(open_catalog(tmp_path / "catalog"))
    (tmp_path / "b").mkdir()
    columns = {f"{band}": np.array([20.0]) for band in "ugrixyz"} | {"phot_g_mean_mag": np.array([19.0])}
    said = notes(run(tmp_path / "b", as_csv(columns), mapping={"g": "phot_g_mean_mag"}))
    assert "band of Gaia" in said and "column y" not in said


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_that_names_the_separator(first: str, end: str, tmp_path: Path) -> None:
    """Excel's first line, with a byte-order mark too."""
    text = end.join([first, *as_csv(stars(), ";").splitlines(), ""])
    for number, content in enumerate((text.encode(), b"\xef\xbb\xbf" + text.encode())):
        (tmp_path / str(number)).mkdir()
        assert run(tmp_path / str(number), content)["objid"][:].tolist() == [11, 12, 13]


def test_conditions_on_sentinels(tmp_path: Path) -> None:
    """`r<18` does not keep what has no value in r."""
    rows = [f"20,20,{r},20,20" for r in ("17", "-9999", "-inf", "nan", "", "19")]
    catalog = run(tmp_path, "u,g,r,i,z\n" + "\n".join(rows) + "\n", reading=Reading(keep=("r<18",)))
    assert catalog["magnitude"][:][:, 2].tolist() == [17]


def test_fields_in_quotes_below_a_comment(tmp_path: Path) -> None:
    """Numbers in quotes are numbers for finding the names, in a table of blanks too."""
    for number, delimiter in enumerate((",", " ", ";", "\t")):
        text = io.StringIO()
        text.write(f"# {delimiter.join(BANDS)}\n" + delimiter.join(['"20.0"'] * 5) + "\n")
        (tmp_path / str(number)).mkdir()
        assert run(tmp_path / str(number), text.getvalue()).num_good == 1
