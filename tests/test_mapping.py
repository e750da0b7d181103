"""Column names: every family with its errors, precedence, the trap of z, units that contradict; and docs/columns.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from commands import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import lines, run

from hpc_ae.catalog.quality import drop_errors, drop_redshifts
from hpc_ae.catalog.schema import SENTINELS, Quality
from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.mapping import Look, understand
from hpc_ae.readers.names import SELECTORS, error_patterns, inverse_variance_patterns
from hpc_ae.readers.surveys import ANY_SURVEY, DEFAULT_SURVEY, Family, load_survey
from hpc_ae.reading import Reading

BANDS = "ugriz"
SDSS, COMMON = load_survey(DEFAULT_SURVEY), load_survey(ANY_SURVEY)
FAMILIES = SDSS.families
NAMES = {target: getattr(COMMON.names, target) for target in ("objid", "ra", "dec", "redshift")}
EXTINCTIONS, REDDENINGS = COMMON.extinctions, COMMON.reddenings
EXTINCTION_OF_REDDENING = tuple(band.extinction for band in SDSS.bands)
PATTERNS = [(family, pattern) for family in FAMILIES for pattern in family.names]


def no_head(indices: list[int]) -> list[np.ndarray]:
    """No rows to look at."""
    return [np.empty(0) for _ in indices]


NO_HEAD = Look(no_head)


def taken(header: str, units: tuple[str, ...] = (), reading: Reading | None = None, **mapping: str) -> dict[str, str]:
    """What the columns of a header are taken for."""
    names = header.split(",")
    found = understand(Columns(Path("x.csv"), names, units), mapping, reading or Reading(), NO_HEAD)
    return {target: names[index] for target, index in found.wanted.items()}


def asked(header: str, **values: object) -> str:
    """The question about a header."""
    with pytest.raises(InputError) as caught:
        taken(header, **values)  # type: ignore[arg-type]
    return str(caught.value)


def five(pattern: str, case: str = "lower") -> str:
    """The five names of a pattern."""
    return ",".join(getattr(pattern.format(b=band), case)() for band in BANDS)


@pytest.mark.parametrize(("family", "pattern"), PATTERNS, ids=[pattern for _, pattern in PATTERNS])
def test_every_family_is_taken_in_any_case(family: Family, pattern: str) -> None:
    """The five columns of each naming are the bands in lower and upper case, with each naming of their errors."""
    unit = ("nJy",) * 10 if family.is_flux else ()
    for case in ("lower", "upper"):
        found = taken(five(pattern, case), unit)
        assert ",".join(found[band] for band in BANDS) == five(pattern, case)
    extra = inverse_variance_patterns(pattern) if family.is_flux else ()
    for errors in (*error_patterns(pattern, family), *extra):
        found = taken(f"{five(errors)},{five(pattern)}", unit)
        assert ",".join(found[f"err_{band}"] for band in BANDS) == five(errors)


@pytest.mark.parametrize(
    "header",
    [
        "objID,alpha,delta,umag,gmag,rmag,imag,zmag",
        "id,coord_ra,coord_dec,mag_u,mag_g,mag_r,mag_i,mag_z",
        "ID,RAJ2000,DEJ2000,SDSS_u,SDSS_g,SDSS_r,SDSS_i,SDSS_z",
        "objectId,ra,dec,u_psf,g_psf,r_psf,i_psf,z_psf",
        "PHOTOOBJID,RA,DEC,modelmag_u,modelmag_g,modelmag_r,modelmag_i,modelmag_z",
    ],
)
def test_usual_headers(header: str, tmp_path: Path) -> None:
    """Headers of the usual makers are understood from end to end."""
    catalog = run(tmp_path, lines("7,183.5,-0.5,15,16,17,18,19", header=header))
    assert catalog["objid"][0] == 7 and catalog["magnitude"][0].tolist() == [15, 16, 17, 18, 19]
    assert (catalog["ra"][0], catalog["dec"][0]) == (183.5, -0.5)


PHOTO_OBJ = (
    "objID,type,clean,psfMag_u,psfMag_g,psfMag_r,psfMag_i,psfMag_z,u,g,r,i,z,Err_u,Err_g,Err_r,Err_i,Err_z,ra,dec,"
    "extinction_u,extinction_g,extinction_r,extinction_i,extinction_z"
)
SPEC_PHOTO = (
    "specObjID,objID,ra,dec,class,subClass,z,zErr,zWarning,psfMag_u,psfMag_g,psfMag_r,psfMag_i,psfMag_z,psfMagErr_u,"
    "psfMagErr_g,psfMagErr_r,psfMagErr_i,psfMagErr_z,dered_u,dered_g,dered_r,dered_i,dered_z"
)
VIZIER = (
    "_RAJ2000,_DEJ2000,mode,class,SDSS12,RA_ICRS,DE_ICRS,ObsDate,Q,objID,umag,e_umag,gmag,e_gmag,rmag,e_rmag,imag,e_imag,"
    "zmag,e_zmag,zsp,zph,e_zph"
)
SKYMAPPER = (
    "object_id,raj2000,dej2000,u_psf,e_u_psf,v_psf,e_v_psf,g_psf,e_g_psf,r_psf,e_r_psf,i_psf,e_i_psf,z_psf,e_z_psf"
)
RUBIN = (
    "objectId,coord_ra,coord_dec,u_psfFlux,u_psfFluxErr,g_psfFlux,g_psfFluxErr,r_psfFlux,r_psfFluxErr,i_psfFlux,"
    "i_psfFluxErr,z_psfFlux,z_psfFluxErr,y_psfFlux,y_psfFluxErr,refExtendedness"
)
SWEEP = "RA,DEC,THING_ID," + ",".join(
    f"{name}_{band}" for name in ("PSFFLUX", "PSFFLUX_IVAR", "MODELFLUX", "EXTINCTION") for band in BANDS
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (PHOTO_OBJ, {"objid": "objID", "z": "z", "err_z": "Err_z", "redshift": None, "ra": "ra"}),
        (SPEC_PHOTO, {"objid": "objID", "z": "psfMag_z", "err_z": "psfMagErr_z", "redshift": "z"}),
        (
            VIZIER,
            {"objid": "objID", "z": "zmag", "err_z": "e_zmag", "redshift": "zsp", "ra": "RA_ICRS", "dec": "DE_ICRS"},
        ),
        (SKYMAPPER, {"objid": "object_id", "u": "u_psf", "err_u": "e_u_psf", "redshift": None, "ra": "raj2000"}),
        (RUBIN, {"objid": "objectId", "z": "z_psfFlux", "err_z": "z_psfFluxErr", "dec": "coord_dec"}),
        (SWEEP, {"objid": None, "u": "PSFFLUX_u", "err_u": "PSFFLUX_IVAR_u", "ra": "RA"}),
    ],
    ids=["PhotoObj", "SpecPhoto", "VizieR", "SkyMapper", "Rubin", "sweep"],
)
def test_tables_of_surveys(header: str, expected: dict[str, str | None]) -> None:
    """The columns of well-known tables are taken for what their documentation says."""
    found = taken(header, reading=Reading(angles="deg"))
    assert {name: found.get(name) for name in expected} == expected


def test_vizier_names_of_a_real_file(shared_data: Path) -> None:
    """The columns of VizieR's table of RR Lyrae: amplitudes and periods beside umag ... are not taken."""
    header = (shared_data / "raw" / "vizier_rrlyrae.fits").read_bytes()[: 20 * 2880].decode("ascii", "replace")
    names = re.findall(r"TTYPE\d+ *= '([^' ]+) *'", header)
    assert "umag" in names and "uAmp" in names
    found = taken(",".join(names))
    assert [found[band] for band in BANDS] == ["umag", "gmag", "rmag", "imag", "zmag"]
    assert (found["ra"], found["dec"]) == ("RAJ2000", "DEJ2000") and "objid" not in found


# precedence


@pytest.mark.parametrize("first", range(len(FAMILIES) - 1))
def test_precedence_is_the_order_of_the_table(first: int) -> None:
    """Of two neighbours of the table the upper one is taken, and the lower one is named with the way to take it."""
    upper, lower = FAMILIES[first], FAMILIES[first + 1]
    header = f"{five(lower.names[0])},{five(upper.names[0])}"
    units = ("nJy",) * 10 if upper.is_flux else ("",) * 10
    found = understand(Columns(Path("x"), header.split(","), units), {}, Reading(), NO_HEAD)
    assert [header.split(",")[found.wanted[band]] for band in BANDS] == five(upper.names[0]).split(",")
    assert f"--magnitudes {lower.label}" in "; ".join(found.notes)
    chosen = taken(header, ("nJy",) * 10 if lower.is_flux else units, Reading(magnitudes=lower.label))
    assert [chosen[band] for band in BANDS] == five(lower.names[0]).split(",")


def test_a_family_that_is_not_there_is_refused() -> None:
    """--magnitudes names what the file has not."""
    assert "of modelMag is missing" in asked("u,g,r,i,z", reading=Reading(magnitudes="modelMag"))


def test_five_columns_mapped_by_hand_bring_their_errors() -> None:
    """Columns of one naming that were named by hand have the errors of that naming."""
    header = f"{five('modelmag_{b}')},{five('modelmagerr_{b}')},{five('{b}')},{five('err_{b}')}"
    found = taken(header, **{band: f"modelmag_{band}" for band in BANDS})
    assert found["err_u"] == "modelmagerr_u" and found["u"] == "modelmag_u"


@settings(deadline=None)
@given(st.permutations([*five("psfmag_{b}").split(","), *five("psfmagerr_{b}").split(","), "ra", "dec", "objid", "z"]))
def test_the_order_of_columns_does_not_matter(names: list[str]) -> None:
    """Whatever their order, the columns are taken for the same."""
    found = taken(",".join(names))
    assert found["z"] == "psfmag_z" and found["redshift"] == "z" and found["err_i"] == "psfmagerr_i"


def test_alpha_alone_is_no_right_ascension() -> None:
    """alpha without delta may be a spectral slope."""
    assert "ra" not in taken("alpha,u,g,r,i,z") and taken("alpha,delta,u,g,r,i,z")["ra"] == "alpha"


# the trap of z


@pytest.mark.parametrize(
    ("header", "redshift", "band"),
    [
        ("u,g,r,i,z", None, "z"),
        ("u,g,r,i,z,class", None, "z"),
        ("u,g,r,i,z,redshift,zErr,zWarning", "redshift", "z"),
        ("u,g,r,i,z,uErr,gErr,rErr,iErr,zErr", None, "z"),
        ("u,g,r,i,z,u_err,g_err,r_err,i_err,z_err", None, "z"),
        (f"z,zErr,class,{five('psfmag_{b}')}", "z", "psfmag_z"),
        (f"z,z_err,{five('modelmag_{b}')}", "z", "modelmag_z"),
        (f"Z,{five('dered_{b}')}", "Z", "dered_z"),
        (f"z_spec,z,{five('{b}mag')}", "z_spec", "zmag"),
        (f"u,g,r,i,z,{five('psfmag_{b}')}", None, "z"),
    ],
)
def test_z_by_its_company(header: str, redshift: str | None, band: str) -> None:
    """z is the band beside u, g, r, i, the redshift beside another z band; its errors go with it."""
    found = taken(header)
    assert (found.get("redshift"), found["z"]) == (redshift, band)
    assert ("err_z" in found) == ("uErr" in header or "u_err" in header)


@pytest.mark.parametrize(
    "header",
    [
        "u,g,r,i,z,zErr",
        "u,g,r,i,z,z_err,class",
        "u,g,r,i,z,zWarning",
        "u,g,r,i,z,zmag",
        "u,g,r,i,z,Z",
        "umag,gmag,rmag,imag,z",
    ],
)
def test_an_undecidable_z_asks(header: str) -> None:
    """Where z could be either the message says how to choose, and what it says works."""
    message = asked(header)
    assert "--map z=" in message
    assert taken(header, z="z")["z"] == "z"


def test_columns_of_one_name_are_told_by_number(tmp_path: Path) -> None:
    """Two columns z, as a join gives them: the question says how to choose by number, and the other may be redshift."""
    header = "u,g,r,i,z,z"
    assert "--map z=#5 or --map z=#6" in asked(header)
    catalog = run(tmp_path, lines("15,16,17,18,19,0.5", header=header), mapping={"z": "#5", "redshift": "#6"})
    assert catalog["magnitude"][0][4] == 19 and catalog["redshift"][0] == 0.5
    assert "#7" in asked(header, z="#7")


def test_the_redshift_is_named_where_it_was_guessed(tmp_path: Path) -> None:
    """That z was taken for the redshift is said and recorded."""
    catalog = run(tmp_path, lines("0.5,15,16,17,18,19", header=f"z,{five('psfmag_{b}')}"))
    assert "z is the redshift" in catalog.manifest.inputs.raw[0].notes[0]


# units of the file


def test_units_of_the_file_decide() -> None:
    """Radians, hours and fluxes are known by the file's units; another unit is refused, the mapping is believed."""
    header = "ra,dec,u,g,r,i,z"
    found = understand(Columns(Path("x"), header.split(","), ("rad", "rad", *["mag"] * 5)), {}, Reading(), NO_HEAD)
    assert found.conversion.ra_factor == found.conversion.dec_factor == pytest.approx(57.29577951308232)
    found = understand(
        Columns(Path("x"), header.split(","), ("hourangle", "deg", *["nmgy"] * 5)), {}, Reading(), NO_HEAD
    )
    assert (found.conversion.ra_factor, found.conversion.zero_points) == (15.0, (22.5,) * 5)
    assert "km/s" in asked(header, units=("deg", "deg", "km/s", *["mag"] * 4))
    assert taken(header, ("deg", "deg", "km/s", *["mag"] * 4), u="u")["u"] == "u"
    assert "parsec" in asked(header, units=("parsec", "deg", *["mag"] * 5))


@pytest.mark.parametrize(
    ("unit", "wrong"),
    [
        ("mag", False),
        ("mag(AB)", False),
        ("ABmag", False),
        ("---", False),
        ("Mags", False),
        ("luptitude", False),
        ("mag_AB", False),
        ("mag/arcsec2", True),
        ("mag arcsec-2", True),
        ("mmag", True),
        ("0.001 mag", True),
        ("deg", True),
        ("m/s", True),
    ],
)
def test_units_of_magnitudes(unit: str, wrong: bool) -> None:
    """What files write for magnitudes is one, surface brightness and anything else is not."""
    units = ("deg", "deg", *[unit] * 5)
    if wrong:
        assert unit in asked("ra,dec,u,g,r,i,z", units=units)
    else:
        assert taken("ra,dec,u,g,r,i,z", units)["u"] == "u"


def test_units_in_brackets(tmp_path: Path) -> None:
    """A unit behind a column's name is the file's unit."""
    header = "id,ra [rad],dec (rad),u[nmgy],g[nmgy],r[nmgy],i[nmgy],z[nmgy]"
    catalog = run(tmp_path, lines("7,3,-1,1,10,100,1000,1", header=header))
    assert catalog["ra"][0] == pytest.approx(np.degrees(3)) and catalog["dec"][0] == pytest.approx(-np.degrees(1))
    np.testing.assert_allclose(catalog["magnitude"][0], [22.5, 20, 17.5, 15, 22.5], atol=1e-6)


def test_a_column_is_one_thing() -> None:
    """z as the redshift leaves no z band, g as u no g: each is asked for; z as both is taken, g as two bands never."""
    assert "--map z=COLUMN" in asked("ra,dec,u,g,r,i,z", redshift="z")
    assert "--map g=COLUMN" in asked("ra,dec,u,g,r,i,z", u="g")
    assert "--map g=COLUMN" in asked("ra,dec,u,g,r,i,z", u="g", g="g")
    assert taken("ra,dec,u,g,r,i,z", z="z", redshift="z")["redshift"] == "z"


def test_inverse_variances_by_hand() -> None:
    """Errors mapped by hand are inverse variances where their names say so, and then all of them."""
    header = f"{five('psfflux_{b}')},{five('my_ivar_{b}')},{five('my_err_{b}')}"
    by_hand = {f"err_{band}": f"my_ivar_{band}" for band in BANDS}
    found = understand(Columns(Path("x"), header.split(",")), by_hand, Reading(), NO_HEAD)
    assert found.conversion.inverse_variance
    with pytest.raises(InputError, match="inverse variances"):
        understand(Columns(Path("x"), header.split(",")), {**by_hand, "err_z": "my_err_z"}, Reading(), NO_HEAD)


def test_text_coordinates_give_way_to_degrees() -> None:
    """VizieR's RAJ2000 in "h:m:s" is not taken where _RA in degrees is there too."""
    units = ('"h:m:s"', '"d:m:s"', "deg", "deg", *["mag"] * 5)
    assert taken("RAJ2000,DEJ2000,_RA,_DE,umag,gmag,rmag,imag,zmag", units)["ra"] == "_RA"


# values that are none


def test_sentinels_have_their_reason(tmp_path: Path) -> None:
    """Every known sentinel is flagged sentinel, other values outside 0-30 out of range, in CSV as in float32."""
    rows = [f"15,16,17,18,{value!r}" for value in SENTINELS] + ["15,16,17,18,31", "15,16,17,18,-99.5"]
    quality = run(tmp_path, lines(*rows, header="u,g,r,i,z"))["quality"][:].tolist()
    assert quality == [Quality.SENTINEL] * len(SENTINELS) + [Quality.OUT_OF_RANGE] * 2


def test_impossible_errors_and_redshifts_are_no_values(tmp_path: Path) -> None:
    """Errors that are a sentinel, zero, negative or infinite, and impossible redshifts, are NaN and counted by file."""
    header = f"u,g,r,i,z,redshift,{five('err_{b}')}"
    rows = [
        "15,16,17,18,19,0.1,0.1,0.2,0.3,0.4,0.5",
        "15,16,17,18,19,-9999,0,-1,-9999,9999,inf",
        "15,16,17,18,19,,,,,,",
    ]
    catalog = run(tmp_path, lines(*rows, header=header))
    assert np.isfinite(catalog["magnitude_error"][0]).all() and np.isnan(catalog["magnitude_error"][1:]).all()
    assert catalog["redshift"][0] == np.float32(0.1) and np.isnan(catalog["redshift"][1:]).all()
    assert catalog.manifest.inputs.raw[0].removed == {"magnitude_error": 5, "redshift": 1}
    assert catalog.num_good == 3


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=5, max_size=5))
def test_only_usable_errors_are_left(values: list[float]) -> None:
    """Whatever the numbers, what is left of errors is finite and positive and unchanged, the rest NaN."""
    error = np.array([values], np.float32)
    before = error.copy()
    num = drop_errors(error)
    left = ~np.isnan(error)
    assert (error[left] == before[left]).all() and (error[left] > 0).all() and np.isfinite(error[left]).all()
    assert num[0] == (~left & ~np.isnan(before)).sum()
    redshift = np.array(values, np.float32)
    drop_redshifts(redshift)
    assert (redshift[~np.isnan(redshift)] >= -1).all()


# the page


def test_the_page_on_columns_is_true() -> None:
    """docs/columns.md shows the families, names, and sentinels of the code, in their order."""
    page = (REPOSITORY / "docs" / "columns.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    families = [row for row in rows if row[0].strip("`") in {family.label for family in FAMILIES}]
    assert [row[0].strip("`") for row in families] == [family.label for family in FAMILIES]
    for row, family in zip(families, FAMILIES, strict=True):
        assert tuple(re.findall(r"`([^`]+)`", row[1])) == tuple(name.replace("{b}", "u") for name in family.names)
        assert row[2] == ((family.unit or "must be said") if family.is_flux else "mag"), family.label
    named = {row[0].strip("`"): re.findall(r"`([^`]+)`", row[1]) for row in rows if row[0].strip("`") in NAMES}
    assert {name: tuple(found) for name, found in named.items()} == NAMES
    named = {row[0].strip("`"): re.findall(r"`([^`]+)`", row[1]) for row in rows if row[0].strip("`") in SELECTORS}
    assert {name: tuple(found) for name, found in named.items()} == SELECTORS
    extinctions = re.search(r"Extinctions: (.*?), the first", page, re.DOTALL)
    assert extinctions
    assert re.findall(r"`([^`]+)`", extinctions[1]) == [pattern.format(b="u") for pattern in EXTINCTIONS]
    reddenings = re.search(r"Reddenings: (.*?), the first", page, re.DOTALL)
    assert reddenings and re.findall(r"`([^`]+)`", reddenings[1]) == list(REDDENINGS)
    assert f"{EXTINCTION_OF_REDDENING[0]}, {EXTINCTION_OF_REDDENING[1]}, {EXTINCTION_OF_REDDENING[2]}" in page
    listed = re.search(r"Sentinels: (.*?)\n\n", page, re.DOTALL)
    assert listed and [float(text) for text in re.findall(r"`([^`]+)`", listed[1])] == list(SENTINELS)
