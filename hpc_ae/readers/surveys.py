"""Surveys: their bands and what their files call what. Data of configs/surveys/*.yaml, and of such files of a user's.

docs/surveys.md says what stands in such a file. Names are in lower case, as they are compared whatever their case;
`{b}` is the band, or one of its aliases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from hpc_ae.catalog.states import Meaning
from hpc_ae.errors import InputError
from hpc_ae.reading import FluxUnit, Reading
from hpc_ae.record import PLAIN_NAME, Record
from hpc_ae.yaml_loader import parse_yaml

DEFAULT_SURVEY, ANY_SURVEY = "sdss", "custom"
MIN_BANDS, MAX_BANDS = 3, 60
NOT_BANDS = ("objid", "ra", "dec", "redshift", "quality", "caution")  # what else a star catalog has
_Pattern = Annotated[str, Field(pattern=r"^[^{}]*\{b\}[^{}]*$")]


class _Said(Record):
    """A part of a survey's file; keys that it does not know are refused."""

    model_config = ConfigDict(extra="forbid")


class Band(_Said):
    """A band: its mean wavelength in nm, the system of its magnitudes, the other words of its columns' names, its
    extinction in mag for E(B-V) = 1, and the softening of its asinh magnitudes, in fluxes of magnitude 0.
    """

    name: str
    nm: Annotated[float, Field(gt=0)] | None = None
    system: Literal["AB", "Vega"] = "AB"
    aliases: tuple[str, ...] = ()
    extinction: Annotated[float, Field(ge=0)] | None = None
    softening: Annotated[float, Field(gt=0)] | None = None

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not PLAIN_NAME.fullmatch(name) or name.lower() in NOT_BANDS or name.startswith(("err_", "extinction_")):
            raise ValueError(f"{name!r} cannot be the name of a band: letters, digits, _ and - alone, none of ours")
        return name

    @property
    def words(self) -> tuple[str, ...]:
        """What stands for the band in the names of columns."""
        return (self.name, *self.aliases)


class Family(_Said):
    """A way to name magnitudes (or fluxes): `label` for `--magnitudes`, names and errors with `{b}` for the band.

    `errors` stand behind the names that follow from the columns' own. `unit` is that of fluxes by convention, as is
    `zero_point` (the magnitude of a flux of 1); `flux` alone leaves it open. A survey is recognised by its families,
    but not by one that is `shared` by several, nor by one of which no column of `marks` is there.
    """

    label: str
    names: tuple[_Pattern, ...]
    errors: tuple[_Pattern, ...] = ("err_{b}",)
    flux: bool = False
    unit: FluxUnit | None = None
    zero_point: float | None = None
    dereddened: bool = False
    shared: bool = False
    marks: tuple[str, ...] = ()

    @property
    def is_flux(self) -> bool:
        """Whether the columns hold fluxes."""
        return self.flux or self.unit is not None or self.zero_point is not None


class Names(_Said):
    """Names of the columns that are not bands, in the order in which they are tried."""

    objid: tuple[str, ...] = ()
    ra: tuple[str, ...] = ()
    dec: tuple[str, ...] = ()
    redshift: tuple[str, ...] = ()


class Sentinels(_Said):
    """Numbers in the place of magnitudes, and what they mean: a star that was not seen, with the limit in the column
    of the errors where that has one, or one that was not looked at.
    """

    values: tuple[float, ...]
    means: Literal["limit", "unobserved"]


class Survey(_Said):
    """A survey as its file says it, bands in order of wavelength. `range` is that of its magnitudes.

    `complete`: a file has all bands or is none of this survey. `empty_error: limit`: a magnitude without an error is an
    upper limit of the brightness. `explore` is the address of a page about a place, with {ra} and {dec}.
    """

    name: str = ""  # what the user called it
    title: str
    complete: bool = False
    range: tuple[float, float] = (-10.0, 40.0)
    empty_error: Literal["nothing", "limit"] = "nothing"
    explore: Annotated[str, Field(pattern=r"^https://[^\s]+$")] | None = None
    bands: tuple[Band, ...] = ()
    families: tuple[Family, ...]
    names: Names = Names()
    sentinels: tuple[Sentinels, ...] = ()
    extinctions: tuple[_Pattern, ...] = ()
    reddenings: tuple[str, ...] = ()

    @field_validator("bands")
    @classmethod
    def _each_once(cls, bands: tuple[Band, ...]) -> tuple[Band, ...]:
        check_bands([band.name for band in bands])
        return bands

    @model_validator(mode="after")
    def _range(self) -> Survey:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"a range of magnitudes from {self.range[0]} to {self.range[1]}")
        return self

    @property
    def band_names(self) -> tuple[str, ...]:
        """The names of the bands."""
        return tuple(band.name for band in self.bands)

    def with_bands(self, names: tuple[str, ...]) -> Survey:
        """The survey with these bands alone, in this order; bands that it does not know have nothing but a name."""
        known = {band.name: band for band in self.bands}
        return self.replaced(bands=tuple(known.get(name) or Band(name=name) for name in names))

    @property
    def meaning(self) -> Meaning:
        """What the numbers of its files mean."""
        limits, unobserved = (
            tuple(value for one in self.sentinels if one.means == means for value in one.values)
            for means in ("limit", "unobserved")
        )
        return Meaning(self.range, limits, unobserved, self.empty_error == "limit")

    def names_of(self, target: str) -> tuple[str, ...]:
        """The names of the columns of a target that is no band: the survey's own, then everybody's."""
        own, common = getattr(self.names, target), getattr(load_survey(ANY_SURVEY).names, target)
        return tuple(dict.fromkeys((*own, *common)))


def common_names() -> frozenset[str]:
    """The names of ids, positions and redshifts that are tried for every survey."""
    names = load_survey(ANY_SURVEY).names
    return frozenset((*names.objid, *names.ra, *names.dec, *names.redshift))


def check_bands(names: list[str]) -> None:
    """ValueError where a name of a band occurs twice, or there are too many."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the band {', '.join(twice)} is there twice")
    if len(names) > MAX_BANDS:
        raise ValueError(f"{len(names)} bands: at most {MAX_BANDS}")


@cache
def survey_names() -> tuple[str, ...]:
    """The surveys that are shipped."""
    entries = resources.files("hpc_ae").joinpath("configs/surveys").iterdir()
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")))


@cache
def _shipped(name: str) -> Survey:
    file = resources.files("hpc_ae").joinpath("configs/surveys").joinpath(f"{name}.yaml")
    return _parse(file.read_text(encoding="utf-8"), f"{name}.yaml").replaced(name=name)


def load_survey(name: str) -> Survey:
    """A survey by its name, or by the path of its file. InputError where there is none, or the file is wrong."""
    if name in survey_names():
        return _shipped(name)
    if not re.search(r"[./]", name):
        known = f"{', '.join(survey_names())}, or the path of such a file (.yaml)"
        raise InputError("no such survey", where="--survey", got=name, expected=known)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fix = "docs/surveys.md says what stands in one"
        raise InputError(f"cannot read a survey's file: {reason}", where=name, fix=fix) from error
    return _parse(text, name).replaced(name=Path(name).stem)


def _parse(text: str, where: str) -> Survey:
    values = parse_yaml(text, where)
    try:
        return Survey.model_validate(values, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what, got = first["msg"].removeprefix("Value error, "), repr(first["input"])[:200]
        fix = "docs/surveys.md says what stands in one"
        raise InputError(f"a survey's file is wrong: {what}", where=f"{where}, key {key}", got=got, fix=fix) from None


def known_surveys() -> Iterator[str]:
    """The surveys that a file can be recognised as, beside the one that is assumed of any."""
    return (name for name in survey_names() if name not in (DEFAULT_SURVEY, ANY_SURVEY))


def said_survey(reading: Reading) -> Survey | None:
    """The survey that the user says, with the bands that were named; None where nothing was said.

    InputError where there is no such survey, or its bands are doubled or fewer than three.
    """
    if not (reading.survey or reading.bands):
        return None
    survey = load_survey(reading.survey or ANY_SURVEY)
    if reading.bands:
        try:
            check_bands(list(reading.bands))
            survey = survey.with_bands(reading.bands)
        except (ValueError, ValidationError) as error:
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            got, expected = ",".join(reading.bands), "names such as u,g,r,i,z,y, each once"
            raise InputError(f"wrong bands: {what}", where="--bands", got=got, expected=expected) from None
    if len(survey.bands) < MIN_BANDS:
        got = ", ".join(survey.band_names) or "none"
        fix = "name them in order of wavelength: --bands B1,B2,B3,... with --map BAND=COLUMN for what is not found"
        raise InputError("too few bands", where="--bands", got=got, expected=f"at least {MIN_BANDS}", fix=fix)
    return survey
