"""How raw files are to be read, beside which column is which: every option of it, declared once.

From a field of `Reading` follow the key under `catalog.source` with its lines in docs/config.md and configs/schema.json
(sections.py), the option of `hpc-ae ingest` and `hpc-ae inspect` (jobs/cli_inspect.py), the words of the command that
inspect suggests, and what a manifest records. A new option is a field here and the code in readers/ that acts on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from hpc_ae.errors import InputError

FluxUnit = Literal["maggy", "nanomaggy", "nJy", "uJy", "mJy", "Jy", "cgs", "counts"]


@dataclass(frozen=True)
class Told:
    """What people are told of an option: `description` in a config, `help` (empty: the same) on the command line.

    `commas` is there for numbers or words that a command line says as one text; it shows such a text. A config says a
    list of them, or one.
    """

    description: str
    help: str = ""
    metavar: str | None = None
    commas: str = ""


@dataclass(frozen=True)
class Reading:
    """What a user says of raw files beside the mapping; the defaults leave it to recognition.

    `survey` is a name of configs/surveys or a path of such a file, `bands` are in the order of the catalog,
    `magnitudes` is the label of a family of the survey's, `zero_point` (of counts, mag) one for all bands or one each,
    `keep` conditions as `parse_condition` reads them, `cuts` a key of `CUTS` (all in readers/).
    """

    survey: Annotated[
        str | None,
        Told(
            "whose bands and columns: sdss, lsst, gaia, ..., or a file as in configs/surveys; null: recognised",
            "Whose bands and columns: sdss, lsst, gaia, ..., or a file as in configs/surveys; else recognised.",
            "NAME",
        ),
    ] = None
    bands: Annotated[
        tuple[str, ...],
        Told(
            "the bands of the catalog in order of wavelength, such as [G, BP, RP]; empty: those of the survey",
            "The bands of the catalog, in order of wavelength: any names, with --map BAND=COLUMN.",
            "B1,B2,...",
            commas="names such as u,g,r,i,z,y",
        ),
    ] = ()
    magnitudes: Annotated[
        str,
        Told(
            "which magnitudes or fluxes of several: psfMag, modelMag, dered, flux, ...",
            "Which magnitudes or fluxes: psfMag, modelMag, dered, flux, ...",
            "FAMILY",
        ),
    ] = ""
    flux: Annotated[
        FluxUnit | None,
        Told(
            "the bands are fluxes in this unit; null: magnitudes, or as file and names say",
            "The bands are fluxes in this.",
        ),
    ] = None
    zero_point: Annotated[
        tuple[float, ...],
        Told(
            "magnitude of one count, or one for each band",
            "Magnitude of one count, or five with commas: with --flux counts.",
            "Z",
            commas="25.1, or five with commas",
        ),
    ] = ()
    asinh: Annotated[bool, Told("fluxes to SDSS asinh magnitudes instead of Pogson's")] = False
    deredden: Annotated[
        bool,
        Told(
            "subtract the file's own extinction of each band, or that of its E(B-V)",
            "Subtract the file's extinction of each band, or of its E(B-V).",
        ),
    ] = False
    angles: Annotated[
        Literal["deg", "rad"] | None,
        Told("unit of ra and dec, where the file says none", "The unit of ra and dec, where the file says none."),
    ] = None
    table: Annotated[
        str | None,
        Told(
            "which table of a file of several: an HDU's name or number, ...",
            "Which table of a file of several: an HDU's name or number, ...",
            "NAME",
        ),
    ] = None
    keep: Annotated[
        tuple[str, ...],
        Told(
            "conditions that a row must fulfil, such as type=6 or r<20",
            "Keep only such rows: type=6, class=STAR, 'r<20'; several: all of them.",
            "CONDITION",
        ),
    ] = ()
    cuts: Annotated[
        Literal["lecture"] | None,
        Told("lecture: keep rows with each band within 0-30", "Keep the lecture's: each band BETWEEN 0 AND 30."),
    ] = None
    fill_value: Annotated[
        tuple[float, ...],
        Told(
            "further numbers that stand for no value in the raw files, such as 1e20 or -1",
            "A further number that stands for no value, such as 1e20 or -1; several: each of them.",
            "VALUE",
        ),
    ] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Reading:
        """The reading of what a config or a command line says, by the options' names. InputError where it cannot be."""
        return cls(**{option.name: option.read(values[option.name]) for option in OPTIONS})

    def given(self) -> list[Option]:
        """The options whose values are not the default."""
        return [option for option in OPTIONS if getattr(self, option.name) != option.default]

    def check_words(self) -> None:
        """InputError where a word is none of those that its option knows."""
        for option in self.given():
            value = getattr(self, option.name)
            if option.choices and value not in option.choices:
                raise InputError("an unknown word", where=option.flag, got=value, expected=", ".join(option.choices))

    def fingerprint(self) -> dict[str, object]:
        """What is not the default, as the manifest records it."""
        values = {option.name: getattr(self, option.name) for option in self.given()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def words(self) -> list[str]:
        """The options of `hpc-ae ingest` that say the same; those that stand alone come last."""
        said = [(option, option.words(getattr(self, option.name))) for option in self.given()]
        said.sort(key=lambda one: 2 if one[0].type is bool else one[0].repeats)
        return [word for _, words in said for word in words]


@dataclass(frozen=True)
class Option:
    """A field of `Reading` as a config and a command line say it."""

    name: str
    type: Any  # of the field
    default: Any
    told: Told

    @property
    def flag(self) -> str:
        """What the command line calls it."""
        return "--" + self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """What the command line says of it."""
        return self.told.help or f"{self.told.description[:1].upper()}{self.told.description[1:]}."

    @property
    def item(self) -> Any:
        """The type of one value where several can be said; None for an option of one value."""
        return get_args(self.type)[0] if get_origin(self.type) is tuple else None

    @property
    def repeats(self) -> bool:
        """Whether the command line says several values by saying the option several times."""
        return self.item is not None and not self.told.commas

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it knows; () where any may be said."""
        kinds = (self.type, *get_args(self.type))
        return tuple(word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))

    def read(self, value: Any) -> Any:
        """The field's value from what a config or a command line says; None stands for the default."""
        if value is None or (value == "" and self.item is None):
            return self.default
        if self.told.commas and isinstance(value, str):
            try:
                return tuple(self.item(word.strip()) for word in value.split(","))
            except ValueError:
                raise InputError(
                    "not a list of numbers", where=self.flag, got=value, expected=self.told.commas
                ) from None
        if self.item is None:
            return value
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    def words(self, value: Any) -> list[str]:
        """The words of a command line for a value that is not the default."""
        if self.type is bool:
            return [self.flag]
        if self.told.commas:
            return [self.flag, ",".join(map(_word, value))]
        return [word for one in (value if self.repeats else [value]) for word in (self.flag, _word(one))]


def _word(value: float | str) -> str:
    """A value as a command line says it, a number as short as it is exact."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _options() -> tuple[Option, ...]:
    kinds = get_type_hints(Reading, include_extras=True)
    found = []
    for field in fields(Reading):
        kind, told = get_args(kinds[field.name])
        found.append(Option(field.name, kind, field.default, told))
    return tuple(found)


OPTIONS = _options()  # in the order in which a config and --help show them

_MAP_WORDS = re.compile(r"--map (\w+)=(\S+?)(?=[\s,;.)]|$)")
_FLAG_WORDS = re.compile(r"(?<!\S)(--[a-z][a-z-]*)( [A-Z]+\b| [0-9]\S*| [a-z]+)?")


def in_config_words(text: str) -> str:
    """A text about options of the command line with the keys of a config in their place, for those who have one."""
    keys = {option.flag: (f"catalog.source.{option.name}", option.choices) for option in OPTIONS}
    keys |= {"--bad": ("catalog.bad", ("flag", "drop", "stop")), "--out": ("catalog.path", ())}
    keys["--map"] = ("catalog.source.columns", ())

    def said(found: re.Match[str]) -> str:
        if found[1] not in keys:
            return found[0]
        (key, choices), value = keys[found[1]], (found[2] or "")
        is_value = value and (not value[1].islower() or value[1:] in choices)
        return f"{key}={value[1:]}" if is_value else key + value

    return _FLAG_WORDS.sub(said, _MAP_WORDS.sub(r"catalog.source.columns={\1: \2}", text))
