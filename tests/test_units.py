"""Fluxes, angles, extinction: the arithmetic against astropy, SDSS's pages and finite differences, and whole files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import lines, refused, run

from hpc_ae.catalog.schema import Quality
from hpc_ae.readers.flux import (
    ZERO_POINTS,
    angle_factor,
    error_of_inverse_variance,
    flux_unit,
    magnitude_factor,
    to_asinh,
    to_pogson,
)
from hpc_ae.readers.surveys import DEFAULT_SURVEY, load_survey
from hpc_ae.reading import Reading

B = np.array([band.softening for band in load_survey(DEFAULT_SURVEY).bands])
ASTROPY = {"nJy": units.nJy, "uJy": units.uJy, "mJy": units.mJy, "Jy": units.Jy}
FLUX_HEADER = ",".join(f"psfFlux_{band}" for band in "ugriz")


def flux_rows(*rows: str, errors: str = "", header: str = FLUX_HEADER) -> str:
    """A CSV of fluxes; `errors` names five more columns by a prefix."""
    extra = "".join(f",{errors}_{band}" for band in "ugriz") if errors else ""
    return lines(*rows, header=header + extra)


# arithmetic


@pytest.mark.parametrize("name", ASTROPY)
def test_ab_magnitudes_are_astropys(name: str) -> None:
    """A flux in Jy and its fractions has the AB magnitude that astropy.units gives it."""
    flux = np.array([[1e-3, 0.5, 1.0, 3631.0, 1e9]])
    ours, _ = to_pogson(flux, flux, np.full(5, ZERO_POINTS[name]))
    np.testing.assert_allclose(ours, (flux * ASTROPY[name]).to_value(units.ABmag), rtol=0, atol=1e-12)


def test_nanomaggies_are_sdss() -> None:
    """1 nanomaggy is magnitude 22.5, 1e9 nanomaggies are magnitude 0, and 1 nanomaggy is about 3.631e-6 Jy."""
    magnitude, error = to_pogson(np.array([1.0, 1e9, 100.0]), np.array([0.1, 1e7, 1.0]), np.array(22.5))
    np.testing.assert_allclose(magnitude, [22.5, 0.0, 17.5], atol=1e-12)
    np.testing.assert_allclose(error, 2.5 / np.log(10) * np.array([0.1, 0.01, 0.01]), rtol=1e-14)
    in_jansky, _ = to_pogson(np.array([3.6307805e-6]), np.array([0.0]), np.array(ZERO_POINTS["Jy"]))
    assert in_jansky[0] == pytest.approx(22.5, abs=1e-6)


@pytest.mark.parametrize(
    ("band", "zero_flux", "ten_b"),
    [(0, 24.63, 22.12), (1, 25.11, 22.60), (2, 24.80, 22.29), (3, 24.36, 21.85), (4, 22.83, 20.32)],
)
def test_asinh_magnitudes_are_those_of_the_sdss_table(band: int, zero_flux: float, ten_b: float) -> None:
    """The table of the SDSS page on asinh magnitudes: those of zero flux and of f / f0 = 10 b, by band."""
    flux = np.array([0.0, 10 * B[band] * 1e9])
    magnitude, _ = to_asinh(flux, flux, np.array(22.5), B[band])
    np.testing.assert_allclose(magnitude, [zero_flux, ten_b], atol=0.006)


def test_asinh_is_pogson_where_stars_are_bright() -> None:
    """At f / f0 > 1e5 b the two scales agree to 1e-9 mag, in errors too; at zero flux only asinh has a value."""
    flux, error = np.array([[1e6] * 5]), np.array([[1e4] * 5])
    for ours, pogson in zip(
        to_asinh(flux, error, np.full(5, 22.5), B), to_pogson(flux, error, np.full(5, 22.5)), strict=True
    ):
        np.testing.assert_allclose(ours, pogson, atol=1e-9)
    assert np.isnan(to_pogson(np.array([0.0, -1.0, np.nan]), np.ones(3), np.array(22.5))).all()
    assert np.isfinite(to_asinh(np.array([0.0, -1.0]), np.ones(2), np.array(22.5), B[0])).all()


@settings(deadline=None)
@given(st.floats(-100, 1e6), st.floats(1e-3, 10), st.integers(0, 4))
def test_errors_are_the_derivative(flux: float, error: float, band: int) -> None:
    """An error is the slope of the magnitude times the flux's error, by a central difference in float64."""
    step = 1e-4 * max(1.0, abs(flux))
    values = np.array([flux - step, flux, flux + step])
    zero_point = np.array(22.5)
    magnitude, found = to_asinh(values, np.full(3, error), zero_point, B[band])
    slope = (magnitude[0] - magnitude[2]) / (2 * step)
    assert found[1] == pytest.approx(slope * error, rel=1e-3)
    if flux > 1:
        magnitude, found = to_pogson(values, np.full(3, error), zero_point)
        assert found[1] == pytest.approx((magnitude[0] - magnitude[2]) / (2 * step) * error, rel=1e-3)


def test_inverse_variances() -> None:
    """1 / sqrt(iv); zero, which says that nothing is known, and negative ones are NaN."""
    np.testing.assert_array_equal(error_of_inverse_variance(np.array([4.0, 0.0, -1.0])), [0.5, np.nan, np.nan])


@pytest.mark.parametrize("name", ["deg", "rad", "hourangle", "arcsec", "arcmin"])
def test_angles_are_astropys(name: str) -> None:
    """Degrees in one unit of angle are those of astropy.units."""
    assert angle_factor(name) == pytest.approx(units.Unit(name).to(units.deg), rel=1e-15)


def test_units_that_are_none() -> None:
    """Another unit is neither an angle nor a flux."""
    assert angle_factor("km/s") is None and flux_unit("mag") is None
    assert flux_unit("MJy") is None and flux_unit("mJy") == "mJy"  # 1e15 times as much
    assert (flux_unit("nanomaggies"), flux_unit("nmgy"), flux_unit("uJy")) == ("nanomaggy", "nanomaggy", "uJy")


def test_fractions_of_a_magnitude() -> None:
    """VizieR writes mmag, cmag, 0.01mag and 10-3mag; words before mag name a system; densities are none."""
    shown = ["mag", "ABmag", "mmag", "cmag", "0.01mag", "10-3mag", "10**-3 mag", "uag", "mag2", "mag.arcsec-2", "Mmag"]
    assert [magnitude_factor(unit) for unit in shown] == [1, 1, 1e-3, 1e-2, 0.01, 1e-3, 1e-3, None, None, None, None]


# whole files


@pytest.mark.parametrize("kind", ["fits", "votable", "ascii.ecsv"])
def test_errors_have_units_of_their_own(kind: str, tmp_path: Path) -> None:
    """Errors in mmag beside magnitudes, and in uJy beside fluxes in nJy, come out in mag; -9999 there is no value."""
    magnitudes, fluxes = Table(), Table()
    for band in "ugriz":
        magnitudes[band], fluxes[f"flux_{band}"] = [18.0, 19.0] * units.mag, [1000.0, 2000.0] * units.nJy
        magnitudes[f"e_{band}"], fluxes[f"e_flux_{band}"] = [25.0, -9999.0] * units.mmag, [0.01, 0.1] * units.uJy
    magnitudes.write(tmp_path / "magnitudes", format=kind)
    fluxes.write(tmp_path / "fluxes", format=kind)
    found = run(tmp_path, tmp_path / "magnitudes", tmp_path / "fluxes")["magnitude_error"][:]
    np.testing.assert_allclose(found[0], 0.025, rtol=1e-6)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2:, 0], 2.5 / np.log(10) * np.array([0.01, 0.05]), rtol=1e-6)


@pytest.mark.parametrize(
    ("header", "reading", "word"),
    [
        ("u,g,r,i,z," + ",".join(f"e_{band} [%]" for band in "ugriz"), Reading(), "not a magnitude"),
        (FLUX_HEADER + "," + ",".join(f"psfFluxErr_{band} [mag]" for band in "ugriz"), Reading(), "not a flux"),
        ("u,g,r,i,z," + ",".join(f"a_{band} [K]" for band in "ugriz"), Reading(deredden=True), "not a magnitude"),
        ("u,g,r,i,z,a,b,c,d,redshift [km/s]", Reading(), "velocity"),
    ],
)
def test_units_that_cannot_be_are_refused(header: str, reading: Reading, word: str, tmp_path: Path) -> None:
    """Errors, extinctions and redshifts whose unit says that they are something else are not taken."""
    assert word in refused(tmp_path, lines("18,18,18,18,18,1,1,1,1,1", header=header), reading=reading)


def test_extinctions_may_be_in_mmag(tmp_path: Path) -> None:
    """The file's unit of an extinction, or of E(B-V), counts."""
    rows = "20,20,20,20,20,100,100,100,100,100"
    header = "u,g,r,i,z," + ",".join(f"a_{band} [mmag]" for band in "ugriz")
    catalog = run(tmp_path, lines(rows, header=header), reading=Reading(deredden=True))
    np.testing.assert_allclose(catalog["magnitude"][0], 19.9, rtol=1e-6)


def test_sdss_fluxes_are_nanomaggies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """psfFlux_u is nanomaggies by convention, which is said; errors are propagated from the inverse variances."""
    catalog = run(tmp_path, flux_rows("1,10,100,1000,1,4,4,4,4,0", errors="psfFluxIvar"))
    np.testing.assert_allclose(catalog["magnitude"][0], [22.5, 20, 17.5, 15, 22.5], atol=1e-6)
    expected = 2.5 / np.log(10) * 0.5 / np.array([1, 10, 100, 1000])
    np.testing.assert_allclose(catalog["magnitude_error"][0][:4], expected, rtol=1e-6)
    assert np.isnan(catalog["magnitude_error"][0][4])
    notes = catalog.manifest.inputs.raw[0].notes
    assert "nanomaggy" in notes[0] and notes[0] in capfd.readouterr().err


def test_fluxes_of_unknown_unit_are_asked_for(tmp_path: Path) -> None:
    """flux_u may be anything: the message says --flux; with it, or as counts with zero points, it is read."""
    content = lines("1,10,100,1000,1", header=",".join(f"flux_{band}" for band in "ugriz"))
    assert "--flux" in refused(tmp_path, content)
    catalog = run(tmp_path, content, reading=Reading(flux="nJy"))
    np.testing.assert_allclose(catalog["magnitude"][0], 31.4 - np.array([0, 2.5, 5, 7.5, 0]), atol=2e-6)
    assert catalog.num_good == 0  # 31.4 mag is outside 0-30
    (tmp_path / "b").mkdir()
    reading = Reading(flux="counts", zero_point=(20.0, 21.0, 22.0, 23.0, 24.0))
    catalog = run(tmp_path / "b", content, reading=reading)
    np.testing.assert_allclose(catalog["magnitude"][0], [20, 18.5, 17, 15.5, 24], atol=1e-6)
    assert catalog.manifest.fingerprint["zero_point"] == [20, 21, 22, 23, 24]


def test_real_asinh_magnitudes_come_back(shared_data: Path, tmp_path: Path) -> None:
    """Real SDSS magnitudes and errors, made fluxes in nanomaggies by the inverse formula, come back with --asinh."""
    table = pq.read_table(shared_data / "sdss_photometric_stars.parquet").slice(0, 20_000)
    magnitude = np.stack([table[band].to_numpy() for band in "ugriz"], axis=1).astype(np.float64)
    error = np.stack([table[f"err_{band}"].to_numpy() for band in "ugriz"], axis=1).astype(np.float64)
    scale = np.log(10) / 2.5
    flux = 1e9 * 2 * B * np.sinh(-scale * magnitude - np.log(B))
    flux_error = error * scale * np.hypot(flux, 2e9 * B)
    names = {f"psfFlux_{band}": flux[:, index] for index, band in enumerate("ugriz")}
    names |= {f"psfFluxErr_{band}": flux_error[:, index] for index, band in enumerate("ugriz")}
    pq.write_table(pa.table(names), tmp_path / "fluxes")
    catalog = run(tmp_path, tmp_path / "fluxes", reading=Reading(asinh=True), shard_rows=7_000)
    np.testing.assert_allclose(catalog["magnitude"][:], magnitude, rtol=0, atol=4e-6)
    usable = error > 0
    np.testing.assert_allclose(catalog["magnitude_error"][:][usable], error[usable], rtol=1e-5)
    assert usable.mean() > 0.99 and (flux < 5e9 * B).any()  # faint ones too, where the scales differ


def test_fluxes_that_are_not_positive_are_flagged(tmp_path: Path) -> None:
    """Under Pogson a flux of zero or less is NaN, flagged non-finite; a missing one is missing, -9999 a sentinel."""
    rows = ["1,1,1,1,1", "0,1,1,1,1", "1,-0.5,1,1,1", "1,1,,1,1", "1,1,1,-9999,1", "1,1,1,1,nan"]
    catalog = run(tmp_path, flux_rows(*rows))
    missing, infinite, sentinel = Quality.MISSING, Quality.NON_FINITE, Quality.SENTINEL
    assert catalog["quality"][:].tolist() == [0, infinite, infinite, missing, sentinel, infinite]
    (tmp_path / "b").mkdir()
    catalog = run(tmp_path / "b", flux_rows(*rows), reading=Reading(asinh=True))
    assert catalog["quality"][:].tolist() == [0, 0, 0, missing, sentinel, infinite]
    np.testing.assert_allclose(catalog["magnitude"][1][0], 24.63, atol=0.006)


def test_magnitudes_win_over_fluxes_unless_said(tmp_path: Path) -> None:
    """With psfMag and psfFlux the magnitudes are read, with --flux the fluxes, with --magnitudes what it names."""
    header = ",".join(f"psfMag_{band}" for band in "ugriz") + "," + FLUX_HEADER
    row = "15,16,17,18,19,1,1,1,1,1"
    for name, reading, expected in (
        ("a", Reading(), [15, 16, 17, 18, 19]),
        ("b", Reading(flux="nanomaggy"), [22.5] * 5),
        ("c", Reading(magnitudes="psfflux"), [22.5] * 5),
        ("d", Reading(magnitudes="psfMag"), [15, 16, 17, 18, 19]),
    ):
        (tmp_path / name).mkdir()
        catalog = run(tmp_path / name, lines(row, header=header), reading=reading)
        np.testing.assert_allclose(catalog["magnitude"][0], expected, atol=1e-6)


def test_extinction_is_subtracted_if_asked(tmp_path: Path) -> None:
    """--deredden subtracts extinction_u ...; without a value there the magnitude has none; dered refuses it."""
    header = "u,g,r,i,z," + ",".join(f"extinction_{band}" for band in "ugriz")
    rows = ["20,19,18,17,16,0.5,0.4,0.3,0.2,0.1", "20,19,18,17,16,,0.4,0.3,0.2,0.1", "-9999,19,18,17,16,.5,.4,.3,.2,.1"]
    catalog = run(tmp_path, lines(*rows, header=header), reading=Reading(deredden=True))
    np.testing.assert_allclose(catalog["magnitude"][0], [19.5, 18.6, 17.7, 16.8, 15.9], atol=1e-6)
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING, Quality.SENTINEL]
    assert catalog["magnitude"][2][0] == -9999
    (tmp_path / "b").mkdir()
    assert run(tmp_path / "b", lines(*rows, header=header))["magnitude"][0][0] == 20
    dered = lines("20,19,18,17,16", header=",".join(f"dered_{band}" for band in "ugriz"))
    (tmp_path / "c").mkdir()
    assert "corrected" in refused(tmp_path / "c", dered, reading=Reading(deredden=True))
    assert "extinction" in refused(
        tmp_path / "c", lines("1,2,3,4,5", header="u,g,r,i,z"), reading=Reading(deredden=True)
    )


@pytest.mark.parametrize("name", ["ebv", "E(B-V)", "SFD_EBV"])
def test_reddening_makes_extinctions(name: str, tmp_path: Path) -> None:
    """--deredden takes E(B-V) where there are no extinctions, which are preferred, and the manifest says by what."""
    rows = ["20,19,18,17,16,0.1", "20,19,18,17,16,"]
    catalog = run(tmp_path, lines(*rows, header=f"u,g,r,i,z,{name}"), reading=Reading(deredden=True))
    np.testing.assert_allclose(catalog["magnitude"][0], [19.5761, 18.6697, 17.7715, 16.8302, 15.8737], atol=2e-6)
    assert catalog["quality"][:].tolist() == [0, Quality.MISSING]
    (tmp_path / "b").mkdir()
    header = "u,g,r,i,z,ebv," + ",".join(f"a_{band}" for band in "ugriz")
    both = run(tmp_path / "b", lines("20,19,18,17,16,9,1,1,1,1,1", header=header), reading=Reading(deredden=True))
    np.testing.assert_allclose(both["magnitude"][0], [19, 18, 17, 16, 15], atol=1e-6)


# angles


@pytest.mark.parametrize(
    ("names", "values", "angles", "expected"),
    [
        ("ra_rad,dec_rad", "3.0,-1.0", "", (np.degrees(3.0), np.degrees(-1.0))),
        ("coord_ra,coord_dec", "183.5,-0.5", "", (183.5, -0.5)),
        ("coord_ra,coord_dec", "3.0,-1.0", "rad", (np.degrees(3.0), np.degrees(-1.0))),
        ("coord_ra,coord_dec", "3.0,-1.0", "deg", (3.0, -1.0)),
        ("ra,dec", "3.0,-1.0", "rad", (np.degrees(3.0), np.degrees(-1.0))),
        ("ra,dec", "3.0,-1.0", "", (3.0, -1.0)),
        ("alpha,delta", "183.5,-0.5", "", (183.5, -0.5)),
    ],
)
def test_positions_become_degrees(
    names: str, values: str, angles: str, expected: tuple[float, float], tmp_path: Path
) -> None:
    """Radians by name or as said, degrees where a value can be nothing else or the name says so."""
    content = lines(f"{values},15,15,15,15,15", header=f"{names},u,g,r,i,z")
    catalog = run(tmp_path, content, reading=Reading(angles=angles or None))
    np.testing.assert_allclose([catalog["ra"][0], catalog["dec"][0]], expected, rtol=1e-15)
    assert catalog["caution"][0] == 0


def test_angles_that_may_be_either_are_asked_for(tmp_path: Path) -> None:
    """coord_ra with small values stops with --angles; many small values called ra are noted."""
    rows = [f"{index / 100},0.5,15,15,15,15,15" for index in range(200)]
    assert "--angles" in refused(tmp_path, lines(*rows, header="coord_ra,coord_dec,u,g,r,i,z"))
    (tmp_path / "b").mkdir()
    catalog = run(tmp_path / "b", lines(*rows, header="ra,dec,u,g,r,i,z"))
    assert "--angles rad" in catalog.manifest.inputs.raw[0].notes[0] and catalog["ra"][100] == 1.0


def test_files_of_different_units_are_one_catalog(tmp_path: Path) -> None:
    """Each file is converted by its own units: radians and nanomaggies beside degrees and magnitudes."""
    of_fluxes = lines("1,3.0,-1.0,1,10,100,1000,1", header="objid,ra_rad,dec_rad," + FLUX_HEADER)
    of_magnitudes = lines("2,183.5,-0.5,15,16,17,18,19")
    catalog = run(tmp_path, of_fluxes, of_magnitudes, of_fluxes.replace("\n1,", "\n3,"))
    assert catalog["objid"][:].tolist() == [1, 2, 3]
    np.testing.assert_allclose(catalog["ra"][:], [np.degrees(3.0), 183.5, np.degrees(3.0)])
    np.testing.assert_allclose(catalog["magnitude"][:][:, 1], [20, 16, 20], atol=1e-6)


@pytest.mark.parametrize(
    ("reading", "word"),
    [
        (Reading(flux="counts"), "--zero-point"),
        (Reading(flux="nJy", zero_point=(25.0,)), "counts"),
        (Reading(zero_point=(1.0, 2.0), flux="counts"), "zero points"),
        (Reading(flux="erg"), "erg"),
        (Reading(magnitudes="apMag"), "psfMag"),
        (Reading(angles="h"), "rad"),
        (Reading(cuts="mine"), "lecture"),
    ],
)
def test_wrong_readings_are_refused(reading: Reading, word: str, tmp_path: Path) -> None:
    """A word that is not known, and counts without a zero point."""
    assert word in refused(tmp_path, lines("1,2,3,4,5", header="u,g,r,i,z"), reading=reading)
