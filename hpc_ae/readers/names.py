"""How columns are named whatever the survey: errors after their bands, words that mean an angle, a redshift, a kind.

What the files of one survey call their columns stands in configs/surveys. docs/columns.md shows these tables; a test
holds it to them. Names are in lower case, as they are compared whatever their case; `{b}` is the band.
"""

from __future__ import annotations

from hpc_ae.readers.surveys import Family

ERROR_PREFIX = "err_"
EXTINCTION_PREFIX = "extinction_"
RAW_PREFIX = "raw:"  # raw:7 is column 7 as it stands in the file: text, where it is text
BARE = "{b}"
# Names that are coordinates only where the other one is there too: alpha alone may be a spectral slope.
PAIRS = {"alpha": "delta", "delta": "alpha", "_ra": "_de", "_de": "_ra", "ramean": "decmean", "decmean": "ramean"}
WITHIN_FIELD = ("run", "camcol", "field")  # beside these SDSS's column id counts the objects of a field
RADIANS = ("ra_rad", "rarad", "ra_radians", "alpha_rad", "dec_rad", "decrad", "dec_radians", "delta_rad")
EITHER_ANGLE = ("coord_ra", "coord_dec")  # radians in files of the LSST pipelines, degrees in tables made of them
# A column z that has one of these beside it, and no error columns of four other bands, may be a redshift.
REDSHIFT_COMPANY = ("zerr", "z_err", "zwarning", "z_warning", "zwarn", "z_conf", "zconf")
# Shown by inspect and useful with --keep; a star catalog does not hold them.
SELECTORS = {
    "type": ("type", "phototype", "objtype", "probpsf"),
    "class": ("class", "sourcetype", "spectrotype", "cl", "spcl", "subclass"),
    "clean": ("clean", "flags_clean", "q_mode", "mode"),
}
OTHERS = ("objid", "ra", "dec", "redshift")  # what a star catalog has beside bands


def error_patterns(pattern: str, family: Family) -> tuple[str, ...]:
    """How the errors of columns named `pattern` may be named, those that follow from the name itself first."""
    word = "flux" if family.is_flux else "mag"
    own = [f"err_{pattern}", f"{pattern}_err", f"{pattern}err", f"e_{pattern}", f"sigma_{pattern}", f"{pattern}_error"]
    if word in pattern:
        own += [pattern.replace(word, word + end) for end in ("err", "_err", "_error")]
    return tuple(dict.fromkeys([*own, f"{pattern}_sigma", *family.errors]))


def inverse_variance_patterns(pattern: str) -> tuple[str, ...]:
    """How the inverse variances of fluxes named `pattern` may be named."""
    return (
        *(pattern.replace("flux", "flux" + end) for end in ("ivar", "_ivar") if "flux" in pattern),
        *(f"{pattern}_ivar", f"ivar_{pattern}", f"{pattern}ivar"),
    )


def number_word(number: int) -> str:
    """A small number in words."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[number] if number < len(words) else str(number)
