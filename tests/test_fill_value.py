"""--fill-value: further numbers that stand for no value, in text, FITS and Parquet, whatever a column holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from raw_files import lines, refused, run, write

from hpc_ae.catalog.quality import find_sentinels
from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.inspect import inspect_files
from hpc_ae.reading import Reading

FILL = 1e20
BANDS = "ugriz"
Columns = dict[str, np.ndarray]


def columns(num_rows: int = 6, kind: str = "f4") -> Columns:
    """Stars with everything that a catalog can have; each row but the first lacks one thing."""
    found = {
        "objid": np.arange(1, num_rows + 1),
        "ra": np.full(num_rows, 183.5, "f8"),
        "dec": np.full(num_rows, 1.5, "f8"),
    }
    found |= {band: np.full(num_rows, 20.0, kind) for band in BANDS}
    found |= {f"err_{band}": np.full(num_rows, 0.125, kind) for band in BANDS}
    found["redshift"] = np.full(num_rows, 0.5, kind)
    for row, name in enumerate(("g", "err_r", "redshift", "ra", "dec"), 1):
        found[name][row] = FILL
    return found


def as_text(path: Path, table: Columns) -> Path:
    rows = [",".join(str(value) for value in row) for row in zip(*table.values(), strict=True)]
    return write(path, lines(*rows, header=",".join(table)))


def as_fits(path: Path, table: Columns) -> Path:
    Table(table).write(path, format="fits")
    return path


def as_parquet(path: Path, table: Columns) -> Path:
    pq.write_table(pa.table(table), path)
    return path


FORMATS = pytest.mark.parametrize("as_file", [as_text, as_fits, as_parquet])
AsFile = Callable[[Path, Columns], Path]


@FORMATS
def test_a_fill_value_is_no_value(as_file: AsFile, tmp_path: Path) -> None:
    """A magnitude is flagged as a sentinel, an error, a redshift and a position are missing; the other stars stay."""
    catalog = run(tmp_path, as_file(tmp_path / "raw", columns()), reading=Reading(fill_value=(FILL,)))
    assert catalog["quality"][:].tolist() == [0, Quality.SENTINEL, 0, 0, 0, 0]
    assert catalog["caution"][:].tolist() == [0, 0, 0, 0, Caution.POSITION_MISSING, Caution.POSITION_MISSING]
    assert catalog["magnitude"][1].tolist() == [20.0, -9999.0, 20.0, 20.0, 20.0]
    assert np.isnan(catalog["magnitude_error"][:]).nonzero() == (2, 2)
    assert np.isnan(catalog["redshift"][:]).tolist() == [False, False, False, True, False, False]
    assert np.isnan(catalog["ra"][:]).nonzero()[0].tolist() == [4]
    (raw,) = catalog.manifest.inputs.raw
    assert raw.removed == {"magnitude_error": 1, "redshift": 1} and raw.counts["sentinel"] == 1
    assert catalog.manifest.fingerprint["fill_value"] == [FILL]


@FORMATS
def test_without_it_the_number_is_a_number(as_file: AsFile, tmp_path: Path) -> None:
    """What nobody said stays as the file has it, but where it can be no redshift and no error at all."""
    catalog = run(tmp_path, as_file(tmp_path / "raw", columns()))
    assert catalog["quality"][1] == Quality.OUT_OF_RANGE and catalog["magnitude"][1][1] == np.float32(FILL)
    assert np.isnan(catalog["redshift"][3]) and np.isnan(catalog["magnitude_error"][2][2])
    assert catalog.manifest.inputs.raw[0].removed == {"magnitude_error": 1, "redshift": 1}
    assert catalog["ra"][4] == FILL and catalog["caution"][4] == Caution.POSITION_OUTSIDE
    assert "fill_value" not in catalog.manifest.fingerprint


@pytest.mark.parametrize("kind", ["f4", "f8", "i2", "i8", "u1"])
def test_it_is_compared_in_the_type_of_the_column(kind: str, tmp_path: Path) -> None:
    """Whole and broken numbers, and those that a type cannot hold: none is taken for another."""
    table = columns(kind="f4") | {"g": np.array([20, 21, 22, 23, 24, 25]).astype(kind)}
    wrong = (20.000001, 1e300, -1e300, 256.0 + 21, 65536.0 + 22, 2.0**64 + 2**32)
    path = as_parquet(tmp_path / "raw", table)
    catalog = run(tmp_path, path, reading=Reading(fill_value=(24.0, *wrong)))
    assert catalog["quality"][:].tolist()[1:] == [0, 0, 0, Quality.SENTINEL, 0]
    is_same = np.float32(20.000001) == np.float32(20)
    assert (catalog["quality"][0] == Quality.SENTINEL) == (is_same and kind == "f4")


@FORMATS
def test_fluxes_errors_and_extinctions(as_file: AsFile, tmp_path: Path) -> None:
    """They are compared before they are converted: a flux of -1 is none, and an extinction of it corrects nothing."""
    table: Columns = {f"psfflux_{band}": np.full(4, 100.0, "f4") for band in BANDS}
    table |= {f"psffluxerr_{band}": np.full(4, 1.0, "f4") for band in BANDS}
    table |= {f"a_{band}": np.full(4, 0.5, "f4") for band in BANDS}
    table["psfflux_u"][1] = table["psffluxerr_r"][2] = table["a_z"][3] = -1.0
    path = as_file(tmp_path / "raw", table)
    catalog = run(tmp_path, path, reading=Reading(deredden=True, asinh=True, fill_value=(-1.0,)))
    assert catalog["quality"][:].tolist() == [0, Quality.SENTINEL, 0, Quality.MISSING]
    assert catalog["magnitude"][1][0] == -9999 and np.isnan(catalog["magnitude"][3][4])
    assert np.isnan(catalog["magnitude_error"][2]).tolist() == [False, False, True, False, False]
    assert find_sentinels(np.array([-9999.0], np.float32)).all()


def test_text_that_is_read_as_text(tmp_path: Path) -> None:
    """A column of text is compared by what it says: blanks and a plus in front change nothing."""
    rows = ["1,183.5,-0.5, +1e20 ,16,17,18,19", "2,+99,-0.5,15,16,17,18,19"]
    catalog = run(tmp_path, lines(*rows), reading=Reading(fill_value=(FILL, 99.0)))
    assert catalog["quality"][:].tolist() == [Quality.SENTINEL, 0]
    assert catalog["caution"][:].tolist() == [0, Caution.POSITION_MISSING]


def test_such_a_row_fulfils_no_condition(tmp_path: Path) -> None:
    """Conditions on what a catalog has pass it over; one on a column of the file's own compares what stands there."""
    rows = ["1,-1,15,16,17,18,19,5", "2,0.5,15,16,17,18,19,-1", "3,0.5,15,16,-1,18,19,7"]
    content = lines(*rows, header="objid,redshift,u,g,r,i,z,nobs")
    for keep, ids in (("redshift<1", [2, 3]), ("r<20", [1, 2]), ("nobs=-1", [2]), ("objid!=-1", [1, 2, 3])):
        folder = tmp_path / keep
        folder.mkdir()
        catalog = run(folder, content, reading=Reading(keep=(keep,), fill_value=(-1.0,)))
        assert catalog["objid"][:].tolist() == ids


def test_it_says_nothing_of_angles(tmp_path: Path) -> None:
    """Degrees or radians is decided by values alone: a fill value neither hides the doubt nor settles it."""
    reading = Reading(fill_value=(99.0,))
    rows = [f"{index / 100},0.5,15,15,15,15,15" for index in range(200)] + ["99.0,99.0,15,15,15,15,15"]
    assert "--angles" in refused(tmp_path, lines(*rows, header="coord_ra,coord_dec,u,g,r,i,z"), reading=reading)
    catalog = run(tmp_path, lines(*rows, header="ra,dec,u,g,r,i,z"), reading=reading)
    assert "--angles rad" in catalog.manifest.inputs.raw[0].notes[0]


@FORMATS
def test_inspect_shows_what_it_does(as_file: AsFile, tmp_path: Path) -> None:
    """The counts of the sample and the command say it."""
    path = as_file(tmp_path / "raw", columns())
    findings = inspect_files([path], {}, Reading(fill_value=(FILL, -1.0)), 10).to_json()
    assert findings["files"][0]["counts"] == {
        "sentinel": 1,
        "position_missing": 2,
        "magnitude_error without value": 1,
        "redshift without value": 1,
    }
    assert findings["command"].endswith(" --fill-value 1e+20 --fill-value -1")


def test_a_fill_value_is_finite(tmp_path: Path) -> None:
    """NaN and infinity are no value already."""
    assert "--fill-value" in refused(
        tmp_path, lines("1,2,3,4,5", header="u,g,r,i,z"), reading=Reading(fill_value=(np.inf,))
    )
