"""Any survey's bands: what is recognised, which columns are taken, and the state of each band of each star.

The first part reads the real files of ../shared/data/surveys, where they are, as their survey and by --bands and --map
alone; the rest makes files of each kind.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import REPOSITORY
from raw_files import lines, refused, run

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.states import State
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.order import order
from hpc_ae.readers.surveys import load_survey, survey_names
from hpc_ae.reading import Reading
from hpc_ae.verify import verify

SURVEYS = Path(__file__).resolve().parents[2] / "shared" / "data" / "surveys"
shared = pytest.mark.skipif(not SURVEYS.is_dir(), reason="../shared/data/surveys is not there")
TOLERANCE = 2e-4  # mag
NAMES = ("apass-sa98", "cosmos-lephare", "desi-targets", "gaia-hd219829", "jplus-ucd", "kids-dr4", "lsst-dc2-rail")
NAMES += ("phat-b15", "rubin-dm-dc2", "splus-blanco1", "twomass-bd-vot", "ubvri-dias6", "ucd-sanghi23")
# The bands of index.csv, where the survey's own file calls them otherwise.
RENAMED = {"twomass-bd-vot": {"K": "Ks"}, "desi-targets": {"G": "g", "R": "r", "Z": "z"}}
SURVEY_OF = {
    **{"apass-sa98": "apass", "desi-targets": "desi", "gaia-hd219829": "gaia", "kids-dr4": "kids"},
    **{"lsst-dc2-rail": "lsst", "rubin-dm-dc2": "lsst", "splus-blanco1": "splus", "twomass-bd-vot": "twomass"},
}
POSITIONS = {"splus-blanco1": {"ra": "RA_1", "dec": "Dec_1"}}


@dataclass(frozen=True)
class Described:
    """A row of index.csv."""

    path: Path
    bands: list[str]
    columns: list[str]
    errors: list[str]
    num_rows: int
    num_complete: int
    usable: dict[str, int]

    @classmethod
    def of(cls, name: str) -> Described:
        """The row of a file."""
        with (SURVEYS / "index.csv").open(newline="") as file:
            row = next(row for row in csv.DictReader(file) if row["name"] == name)
        errors = [] if row["error_columns"] == "none" else row["error_columns"].split(" | ")
        usable = dict(pair.split("=") for pair in row["usable_per_band"].split())
        return cls(
            SURVEYS / row["file"],
            row["bands"].split(),
            row["band_columns"].split(" | "),
            errors,
            int(row["rows"]),
            int(row["rows_all_bands"]),
            {band: int(num) for band, num in usable.items()},
        )

    @property
    def mapping(self) -> dict[str, str]:
        """What --map would say of the bands and their errors."""
        said = dict(zip(self.bands, self.columns, strict=True))
        return said | {f"err_{band}": one for band, one in zip(self.bands, self.errors, strict=False)}


def probes(name: str) -> list[dict[str, str]]:
    """The single values of a file."""
    with (SURVEYS / "probes.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["name"] == name]


def check_probes(name: str, catalog: Catalog, renamed: dict[str, str]) -> None:
    """Every probe: the value, or that there is none."""
    magnitude, state = catalog["magnitude"][:], catalog["band_state"][:]
    for probe in probes(name):
        row, band = int(probe["row"]), list(catalog.bands).index(renamed.get(probe["band"], probe["band"]))
        if probe["expect"] == "missing":
            assert state[row, band] != State.MEASURED and np.isnan(magnitude[row, band]), probe
        else:
            assert abs(magnitude[row, band] - float(probe["value_full"])) < TOLERANCE, probe
            assert state[row, band] == State.MEASURED, probe
    assert np.array_equal(np.isnan(magnitude), state != State.MEASURED)
    assert np.array_equal(catalog["quality"][:] == 0, (state == State.MEASURED).all(axis=1))


def flux_options(name: str) -> dict[str, Any]:
    """What must be said of a file's fluxes, whose unit no header says."""
    return {
        "cosmos-lephare": {"flux": "cgs"},
        "desi-targets": {"flux": "nanomaggy"},
        "rubin-dm-dc2": {"flux": "nJy"},
    }.get(name, {})


@shared
@pytest.mark.parametrize("name", NAMES)
def test_real_file_by_its_bands_alone(name: str, tmp_path: Path) -> None:
    """Named band by band each file has its values and its gaps, no row is lost, and verify agrees."""
    found = Described.of(name)
    mapping = found.mapping | POSITIONS.get(name, {}) | ({"objid": ""} if name == "ubvri-dias6" else {})
    reading = Reading(bands=tuple(found.bands), **flux_options(name))
    catalog = run(tmp_path, found.path, mapping=mapping, reading=reading)
    check_probes(name, catalog, {})
    assert len(catalog) == found.num_rows and catalog.manifest.num_good == found.num_complete
    measured = (catalog["band_state"][:] == State.MEASURED).sum(axis=0)
    assert dict(zip(catalog.bands, measured.tolist(), strict=True)) == found.usable
    counts = catalog.manifest.stars_by_bands
    assert counts is not None and sum(counts) == found.num_rows and counts[-1] == found.num_complete
    assert not verify(tmp_path / "catalog").findings


@shared
@pytest.mark.parametrize("name", SURVEY_OF)
def test_real_file_of_its_survey(name: str, tmp_path: Path) -> None:
    """As a survey's each file has its values and its gaps; all but that of several surveys are recognised."""
    found = Described.of(name)
    survey = SURVEY_OF[name] if name == "splus-blanco1" else None
    catalog = run(tmp_path, found.path, reading=Reading(survey=survey))
    assert catalog.manifest.survey is not None and catalog.manifest.survey.name == SURVEY_OF[name]
    check_probes(name, catalog, RENAMED.get(name, {}))
    assert len(catalog) == found.num_rows
    assert set(catalog.bands) == {RENAMED.get(name, {}).get(band, band) for band in found.bands}


@shared
def test_limits_of_real_files(tmp_path: Path) -> None:
    """A magnitude of 99 with the limit in the column of errors is below that limit; -99 was not looked at."""
    catalog = run(tmp_path, Described.of("lsst-dc2-rail").path)
    state, limit = catalog["band_state"][:], catalog["magnitude_limit"][:]
    assert (state[:, 0] == State.LIMIT).sum() == 714
    np.testing.assert_allclose(np.unique(limit[:, 0][state[:, 0] == State.LIMIT]), 26.6208, atol=2e-4)
    assert np.isnan(limit[state != State.LIMIT]).all()
    (tmp_path / "more").mkdir()
    catalog = run(tmp_path / "more", Described.of("splus-blanco1").path, reading=Reading(survey="splus"))
    state, limit = catalog["band_state"][:], catalog["magnitude_limit"][:]
    known = limit[state == State.LIMIT]
    assert len(known) and ((known > 20) & (known < 24)).all() and (state == State.UNOBSERVED).any()


# ---- survey files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", survey_names())
def test_shipped_surveys(name: str) -> None:
    """Every file is right: bands ascend in wavelength, and each family names a column for each band."""
    survey = load_survey(name)
    lengths = [band.nm for band in survey.bands]
    assert lengths == sorted(lengths) and None not in lengths
    assert len({family.label for family in survey.families}) == len(survey.families)


def test_the_page_on_surveys(tmp_path: Path) -> None:
    """docs/surveys.md lists every survey with its bands, and the file that it shows is one."""
    page = (REPOSITORY / "docs" / "surveys.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE))
    assert rows.keys() == set(survey_names())
    for name in ("sdss", "lsst", "panstarrs", "des", "desi", "gaia", "twomass", "wise", "skymapper", "kids", "euclid"):
        words = {word for band in load_survey(name).bands for word in (band.name, *band.aliases)}
        assert set(rows[name].split()) <= words and len(rows[name].split()) == len(load_survey(name).bands)
    shown = re.search(r"```yml\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    (tmp_path / "my.yaml").write_text(shown[1])
    header = "number,alpha,delta,psf_B,PSF_VIS,psf_R,psf_B_sigma,psf_vis_sigma,psf_r_sigma"
    catalog = run(
        tmp_path, lines("7,1,2,15,99,-99,0.1,21.5,0", header=header), reading=Reading(survey=str(tmp_path / "my.yaml"))
    )
    assert catalog.bands == ["B", "V", "R"] and catalog["objid"][0] == 7 and catalog["ra"][0] == 1
    assert catalog["band_state"][0].tolist() == [State.MEASURED, State.LIMIT, State.UNOBSERVED]
    assert catalog["magnitude_limit"][0][1] == 21.5 and catalog.manifest.stars_by_bands == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("title: x\nfamilies: []\nband: []\n", "key band"),
        ("title: x\nfamilies: []\nbands: [{name: a}, {name: a}]\n", "is there twice"),
        ("title: x\nfamilies: []\nbands: [{name: ra}]\n", "cannot be the name of a band"),
        ("title: x\nfamilies: [{label: y, names: [mag]}]\n", "families.0.names.0"),
        ("title: x\nfamilies: []\nrange: [3, 3]\n", "a range of magnitudes"),
        ("- 1\n", "a survey's file is wrong"),
        ("title: x\nfamilies: []\nexplore: javascript:alert(1)\n", "explore"),
    ],
)
def test_wrong_survey_files(content: str, words: str, tmp_path: Path) -> None:
    """A file that is wrong is one clear error that names the key."""
    (tmp_path / "my.yaml").write_text(content)
    message = refused(tmp_path, lines("1,2,3", header="a,b,c"), reading=Reading(survey=str(tmp_path / "my.yaml")))
    assert words in message and "my.yaml" in message


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading(survey="sloan"), "no such survey"),
        (Reading(survey="no/such.yaml"), "cannot read a survey's file"),
        (Reading(bands=("g", "r")), "at least 3"),
        (Reading(bands=("g", "r", "g", "i")), "the band g is there twice"),
        (Reading(bands=("g", "r", "ra")), "cannot be the name of a band"),
        (Reading(bands=tuple(f"b{one}" for one in range(61))), "at most 60"),
        (Reading(survey="galex"), "too few bands"),
        (Reading(survey="gaia", magnitudes="psfMag"), "an unknown word"),
        (Reading(bands=("g", "r", "i", "w")), "the column of band w is missing"),
    ],
)
def test_wrong_bands(reading: Reading, words: str, tmp_path: Path) -> None:
    """Bands that are too few, doubled or not there are one clear error, and nothing is left behind."""
    assert words in refused(tmp_path, lines("1,2,15,16,17", header="ra,dec,g,r,i"), reading=reading)


def test_mapping_of_other_bands_needs_them_named(tmp_path: Path) -> None:
    """A band that is nobody's must be among those that --bands names; the message says so."""
    message = refused(tmp_path, lines("15,16,17", header="a,b,c"), mapping={"J": "a", "H": "b", "K": "c"})
    assert "--bands" in message


# ---- recognition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "survey", "bands"),
    [
        ("objid,u,g,r,i,z", None, "u g r i z"),
        ("objid,u,g,r,i,z,y", None, "u g r i z"),
        ("u_psfFlux,g_psfFlux,r_psfFlux,i_psfFlux,z_psfFlux,y_psfFlux", "lsst", "u g r i z y"),
        ("gMeanPSFMag,rMeanPSFMag,iMeanPSFMag,zMeanPSFMag,yMeanPSFMag", "panstarrs", "g r i z y"),
        ("WAVG_MAG_PSF_G,WAVG_MAG_PSF_R,WAVG_MAG_PSF_I,WAVG_MAG_PSF_Z,WAVG_MAG_PSF_Y", "des", "g r i z Y"),
        ("FLUX_G,FLUX_R,FLUX_Z,FLUX_W1,FLUX_W2,FLUX_W3,FLUX_W4", "desi", "g r z W1 W2 W3 W4"),
        ("phot_g_mean_mag,phot_bp_mean_mag,phot_rp_mean_mag", "gaia", "BP G RP"),
        ("j_m,h_m,k_m,j_msigcom,h_msigcom,k_msigcom", "twomass", "J H Ks"),
        ("w1mpro,w2mpro,w3mpro,w4mpro,w1sigmpro,w2sigmpro,w3sigmpro,w4sigmpro", "wise", "W1 W2 W3 W4"),
        ("u_psf,v_psf,g_psf,r_psf,i_psf,z_psf", "skymapper", "u v g r i z"),
        ("u,g,r,i,z,phot_g_mean_mag,phot_bp_mean_mag,phot_rp_mean_mag,w1mpro,w2mpro,w3mpro", None, "u g r i z"),
    ],
)
def test_recognised_by_its_columns(header: str, survey: str | None, bands: str, tmp_path: Path) -> None:
    """A survey is known by columns that are its alone; SDSS stays what it is, also beside other surveys' columns."""
    row = ",".join(str(15 + 0.1 * place) for place in range(len(header.split(","))))
    catalog = run(tmp_path, lines(row, row, header=header))
    assert " ".join(catalog.bands) == bands
    record = catalog.manifest.survey
    assert (record.name if record else None) == survey
    assert ("band_state" in catalog.columns) == (survey is not None)


def test_two_surveys_are_asked_about(tmp_path: Path) -> None:
    """A joined table of two surveys asks, and both answers work."""
    header = "phot_g_mean_mag,phot_bp_mean_mag,phot_rp_mean_mag,j_m,h_m,k_m"
    content = lines("15,16,14,13,12,11", header=header)
    message = refused(tmp_path, content)
    assert "several surveys" in message and "gaia (Gaia), twomass (2MASS)" in message
    for name, bands in (("gaia", ["BP", "G", "RP"]), ("twomass", ["J", "H", "Ks"])):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, content, reading=Reading(survey=name)).bands == bands
    mapping = {"BP": "phot_bp_mean_mag", "G": "phot_g_mean_mag", "RP": "phot_rp_mean_mag", "J": "j_m"}
    both = run(tmp_path, content, reading=Reading(bands=("BP", "G", "RP", "J")), mapping=mapping)
    assert both["magnitude"][0].tolist() == [16, 15, 14, 13]


def test_what_might_be_another_survey_is_named(tmp_path: Path) -> None:
    """grizy of plain names are not SDSS's: the message names the surveys whose they may be."""
    message = refused(tmp_path, lines("15,15,15,15,15", header="gmag,rmag,imag,zmag,ymag"))
    assert "panstarrs" in message and "--survey" in message
    catalog = run(
        tmp_path, lines("15,15,15,15,15", header="gmag,rmag,imag,zmag,ymag"), reading=Reading(survey="panstarrs")
    )
    assert catalog.bands == list("grizy")


# ---- states --------------------------------------------------------------------------------------------------------

STATES = [
    ("15", "0.1", State.MEASURED, np.nan),
    ("15", "-999", State.MEASURED, np.nan),
    ("15", "0", State.MEASURED, np.nan),
    ("15", "inf", State.MEASURED, np.nan),
    ("15", "", State.MEASURED, np.nan),
    ("", "0.1", State.UNOBSERVED, np.nan),
    ("99", "26.62", State.LIMIT, np.float32(26.62)),
    ("99.99", "22.8", State.LIMIT, np.float32(22.8)),
    ("99", "99", State.UNUSABLE, np.nan),
    ("99.999", "9.999", State.UNUSABLE, np.nan),
    ("-99", "0", State.UNUSABLE, np.nan),
    ("nan", "0.1", State.UNUSABLE, np.nan),
    ("inf", "0.1", State.UNUSABLE, np.nan),
    ("1e20", "0.1", State.UNUSABLE, np.nan),
    ("-9999", "-9999", State.UNUSABLE, np.nan),
    ("25.2", "1e-28", State.LIMIT, np.nan),
]


def test_states_of_magnitudes(tmp_path: Path) -> None:
    """What a number and its error mean of one band; quality is 0 only where all are measured; verify agrees."""
    rows = [f"{value},16,17,{error},0.1,0.1" for value, error, _, _ in STATES]
    content = lines(*rows, header="B,V,R,err_B,err_V,err_R")
    catalog = run(tmp_path, content, reading=Reading(bands=("B", "V", "R")))
    assert catalog["band_state"][:][:, 0].tolist() == [int(state) for _, _, state, _ in STATES]
    assert not catalog["band_state"][:][:, 1:].any()
    np.testing.assert_array_equal(catalog["magnitude_limit"][:][:, 0], [limit for *_, limit in STATES])
    measured = catalog["band_state"][:][:, 0] == State.MEASURED
    assert np.array_equal(np.isfinite(catalog["magnitude"][:][:, 0]), measured)
    assert np.array_equal(catalog["quality"][:] == 0, measured)
    assert catalog.manifest.statistics["V"].mean == 16 and catalog.manifest.statistics["B"].mean == 15
    assert not verify(tmp_path / "catalog").findings


def test_states_of_fluxes(tmp_path: Path) -> None:
    """A flux of nothing or less is below the limit under Pogson's law, and a measured asinh magnitude; one of no weight
    was not observed.
    """
    header = ",".join([f"{band}_psfFlux" for band in "ugr"] + [f"{band}_psfFluxErr" for band in "ugr"])
    content = lines("-3,0,100,5,5,5", header=header)
    catalog = run(tmp_path, content)
    assert catalog["band_state"][0].tolist() == [State.LIMIT, State.LIMIT, State.MEASURED]
    (tmp_path / "asinh").mkdir()
    catalog = run(tmp_path / "asinh", content, reading=Reading(asinh=True))
    assert not catalog["band_state"][0].any() and np.isfinite(catalog["magnitude"][0]).all()
    (tmp_path / "custom").mkdir()
    reading = Reading(asinh=True, bands=("u", "g", "r"), flux="nJy")
    mapping = {band: f"{band}_psfFlux" for band in "ugr"}
    assert "softening" in refused(tmp_path / "custom", content, reading=reading, mapping=mapping)
    header = "FLUX_G,FLUX_R,FLUX_W1,FLUX_IVAR_G,FLUX_IVAR_R,FLUX_IVAR_W1"
    (tmp_path / "ivar").mkdir()
    catalog = run(tmp_path / "ivar", lines("0,-1,9,0,4,4", header=header))
    assert catalog["band_state"][0].tolist() == [State.UNOBSERVED, State.LIMIT, State.MEASURED]


def test_upper_limits_without_an_error(tmp_path: Path) -> None:
    """In 2MASS a magnitude without an error is a limit; where a file has no errors at all it is a magnitude."""
    catalog = run(
        tmp_path, lines("15,14,13,0.1,,0.1", "15,14,13,0.1,0.1,0.1", header="j_m,h_m,k_m,j_cmsig,h_cmsig,k_cmsig")
    )
    assert catalog["band_state"][:].tolist() == [[0, 2, 0], [0, 0, 0]] and catalog["magnitude_limit"][0][1] == 14
    (tmp_path / "bare").mkdir()
    assert not run(tmp_path / "bare", lines("15,14,13", header="j_m,h_m,k_m"))["band_state"][:].any()


def test_names_of_stars_are_no_ids(tmp_path: Path) -> None:
    """Of a survey's file an id of words is left out, and said; a mapped one is refused."""
    catalog = run(tmp_path, lines("GD 71,15,14,13", header="id,j_m,h_m,k_m"))
    assert catalog["objid"][0] == 0 and "names of stars" in str(catalog.manifest.inputs.raw)
    (tmp_path / "mapped").mkdir()
    content = lines("GD 71,15,14,13", header="id,j_m,h_m,k_m")
    assert "not a number" in refused(tmp_path / "mapped", content, mapping={"objid": "id"})


@pytest.mark.parametrize("damage", ["band_state", "magnitude_limit"])
def test_flipped_bits_of_states_are_found(damage: str, tmp_path: Path) -> None:
    """Bits flipped anywhere in the new datasets' bytes: verify finds each."""
    rows = [f"{15 + one % 7},{14 if one % 3 else 99},13,0.1,{0.1 if one % 3 else 21.5},0.1" for one in range(300)]
    run(tmp_path, lines(*rows, header="B,V,R,err_B,err_V,err_R"), reading=Reading(bands=("B", "V", "R")))
    path = tmp_path / "catalog" / "shard-00000.h5"
    with h5py.File(path) as file:
        chunk = file[damage].id.get_chunk_info(0)
    data = path.read_bytes()
    random = np.random.default_rng(4)
    for place in random.integers(0, 8 * chunk.size, 6).tolist():
        spoilt = bytearray(data)
        spoilt[chunk.byte_offset + place // 8] ^= 1 << place % 8
        path.write_bytes(spoilt)
        assert verify(tmp_path / "catalog").findings, place
    path.write_bytes(data)
    assert not verify(tmp_path / "catalog").findings


def test_sky_order_keeps_states_and_survey(tmp_path: Path) -> None:
    """`order` keeps whose bands they are, their states and their counts; a manifest without the counts is damaged."""
    bands = ["15,14,13,0.1,0.1,0.1" if one % 3 else "99,14,13,21.5,0.1,0.1" for one in range(90)]
    rows = [f"{one},{one * 3 % 360},{one % 80},{some}" for one, some in enumerate(bands)]
    header = "number,ra,dec,j_m,h_m,k_m,j_cmsig,h_cmsig,k_cmsig"
    before = run(tmp_path, lines(*rows, header=header))
    order(tmp_path / "catalog", tmp_path / "sorted", 40)
    after = open_catalog(tmp_path / "sorted")
    assert after.manifest.survey == before.manifest.survey and after.manifest.survey is not None
    assert after.manifest.stars_by_bands == before.manifest.stars_by_bands == (0, 0, 30, 60)
    limits = after["magnitude_limit"][:][:, 0]
    assert limits[np.isfinite(limits)].tolist() == [21.5] * 30
    assert not verify(tmp_path / "sorted").findings
    values = read_json(tmp_path / "sorted" / "manifest.json")
    del values["stars_by_bands"], values["digest"]
    publish_json(tmp_path / "sorted" / "manifest.json", seal(values))
    assert verify(tmp_path / "sorted").findings


def test_bands_without_a_column_of_errors(tmp_path: Path) -> None:
    """Where some bands have errors and others have no such column, all are measured, and those have none."""
    rows = [f"{15 + one * 1e-3:.3f},14,13,0.1" for one in range(5_000)]
    catalog = run(tmp_path, lines(*rows, header="B,V,R,e_B"), reading=Reading(bands=("B", "V", "R")))
    assert not catalog["band_state"][:].any() and np.isfinite(catalog["magnitude"][:]).all()
    error = catalog["magnitude_error"][:]
    assert (error[:, 0] == np.float32(0.1)).all() and np.isnan(error[:, 1:]).all()
