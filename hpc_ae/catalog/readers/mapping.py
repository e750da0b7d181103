"""Which column of a raw file is which of ours: the usual names in the order they are tried, and what was said by hand.

Names are compared whatever their case. Precedence, highest first: explicit mapping; for the bands the first naming of
`FAMILIES` of which all five are there; the errors likewise (a lone `zErr` is the redshift's); for everything else the
first name of its list. The trap of `z`: beside u, g, r and i it is the band, beside five bands of another naming it is
the redshift, and where both could be it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError

ERROR_PREFIX = "err_"
_BARE = "{b}"
# (how the five magnitudes are named, how their errors may be named), {b} is the band.
FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (_BARE, ("err_{b}", "{b}_err", "{b}err", "e_{b}", "sigma_{b}", "modelmagerr_{b}")),
    ("psfmag_{b}", ("psfmagerr_{b}", "psfmag_err_{b}", "err_{b}")),
    ("modelmag_{b}", ("modelmagerr_{b}", "modelmag_err_{b}", "err_{b}")),
    ("cmodelmag_{b}", ("cmodelmagerr_{b}", "cmodelmag_err_{b}", "err_{b}")),
    ("dered_{b}", ("modelmagerr_{b}", "err_{b}")),
    ("{b}mag", ("e_{b}mag", "{b}magerr", "{b}mag_err")),
    ("{b}_mag", ("{b}_magerr", "{b}_mag_err", "e_{b}_mag")),
    ("{b}psf", ("e_{b}psf",)),
    ("mag_{b}", ("magerr_{b}", "mag_err_{b}", "err_mag_{b}", "err_{b}")),
    ("sdss_{b}", ("sdss_{b}_err", "sdss_err_{b}")),
)
NAMES: dict[str, tuple[str, ...]] = {
    "objid": (
        *("objid", "obj_id", "photoobjid", "photo_objid", "sdss_objid", "bestobjid", "objectid", "object_id"),
        *("source_id", "sourceid", "id"),
    ),
    "ra": ("ra", "raj2000", "ra_j2000", "ra_icrs", "_raj2000", "ra_deg", "radeg", "alpha", "alpha_j2000"),
    "dec": (
        *("dec", "dej2000", "decj2000", "dec_j2000", "de_icrs", "dec_icrs", "_dej2000", "dec_deg", "decdeg", "dedeg"),
        *("delta", "delta_j2000"),
    ),
    "redshift": ("redshift", "z_spec", "zspec", "specz", "spec_z", "z_sp", "zsp", "spz"),
}
TARGETS = (*NAMES, *DEFAULT_BANDS, *(ERROR_PREFIX + band for band in DEFAULT_BANDS))


@dataclass(frozen=True)
class _Columns:
    """The columns of one raw file, looked up by name."""

    path: Path
    names: Sequence[str]

    def __contains__(self, name: str) -> bool:
        return any(column.strip().lower() == name for column in self.names)

    def find(self, name: str, target: str, *, exactly: bool = False) -> int:
        """Index of the one column called `name` whatever its case; with `exactly`, its own spelling settles a tie.

        InputError where there is none, or several.
        """
        same = [index for index, column in enumerate(self.names) if column.strip().lower() == name.lower()]
        if exactly and len(spelled := [index for index in same if self.names[index].strip() == name]) == 1:
            return spelled[0]
        if not same:
            raise self.error("a column is missing", target, f"a column {name}")
        if len(same) > 1:
            raise self.error("several columns could be meant", target, f"one column {name}, whatever its case")
        return same[0]

    def first(self, target: str, candidates: Sequence[str]) -> int | None:
        """Index of the first candidate that is there."""
        return next((self.find(name, target) for name in candidates if name in self), None)

    def error(self, what: str, target: str, expected: str) -> InputError:
        """The one message for a column that is not there or not clear; it lists those that are."""
        return InputError(
            f"{what}: {target}",
            where=self.path,
            got="the columns " + ", ".join(self.names[:60]) + (", ..." if len(self.names) > 60 else ""),
            expected=expected,
            fix=f"say which with --map {target.split(',')[0]}=COLUMN",
        )


def map_columns(path: Path, names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, int]:
    """Which column (index) of a raw file is which of `TARGETS`; only the five bands must be there.

    `mapping` (target to column name) wins over recognition; an empty column name says that the file has none.
    InputError where a band is missing, a mapped column is not there, or a name is not clear.
    """
    check_mapping(mapping)
    columns = _Columns(path, names)
    wanted = {target: columns.find(name, target, exactly=True) for target, name in mapping.items() if name}
    open_bands = [band for band in DEFAULT_BANDS if band not in mapping]
    family, error_names = _choose_family(columns, open_bands)
    for band in open_bands:
        wanted[band] = columns.find(family.format(b=band), band)
    errors = [name for name in error_names if all(name.format(b=band) in columns for band in DEFAULT_BANDS)]
    for target in TARGETS:
        candidates = NAMES.get(target, [name.format(b=target[-1]) for name in errors])
        if target in wanted or target in mapping:
            continue
        if (index := columns.first(target, candidates)) is not None:
            wanted[target] = index
    if not {"redshift", "z"} & mapping.keys() and "redshift" not in wanted and "z" in columns:
        index = columns.find("z", "redshift")
        if index != wanted["z"]:
            wanted["redshift"] = index
    return wanted


def check_mapping(mapping: Mapping[str, str]) -> None:
    """InputError where a mapping names what a star catalog has not, or takes a band away."""
    for target, name in mapping.items():
        if target not in TARGETS or (not name and target in DEFAULT_BANDS):
            raise InputError(
                "a wrong column mapping",
                where="--map",
                got=f"{target}={name}",
                expected=f"name=column, name one of {', '.join(TARGETS)}",
            )


def _choose_family(columns: _Columns, bands: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The first naming of which all of `bands` are there; InputError names the bands that are missing."""
    found = {family: [band for band in bands if family.format(b=band) in columns] for family, _ in FAMILIES}
    for family, errors in FAMILIES:
        if len(found[family]) == len(bands):
            if family == _BARE and "z" in bands:
                _check_bare_z(columns, found)
            return family, errors
    best = max(found, key=lambda family: len(found[family]))
    missing = [band for band in bands if band not in found[best]]
    examples = ", ".join(family.format(b=missing[0]) for family, _ in FAMILIES[:6])
    raise columns.error(f"the column of band {', '.join(missing)} is missing", missing[0], f"one of {examples}, ...")


def _check_bare_z(columns: _Columns, found: Mapping[str, list[str]]) -> None:
    """Refuse u, g, r, i, z where another column has the z band's name too and no naming of its own beside it."""
    for family, bands in found.items():
        if bands == ["z"]:
            other = family.format(b="z")
            raise columns.error(
                "two columns could be the band", "z", f"either z (and {other} is something else) or {other}"
            )
