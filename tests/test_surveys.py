"""Any survey's bands: what is recognised, which columns are taken, and the state of each band of each star.

The first part reads the real files of ../shared/data/surveys, where they are, as their survey and by --bands and --map
alone; the rest makes files of each kind.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import hpc_ae
from raw_files import run

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.states import State
from hpc_ae.reading import Reading

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
    assert hpc_ae("verify", tmp_path / "catalog").returncode == 0


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
