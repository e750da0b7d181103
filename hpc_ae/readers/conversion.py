"""What a raw file's numbers mean, and the step from them to a star catalog's: degrees, magnitudes, rows to keep.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.catalog.quality import find_sentinels
from hpc_ae.catalog.states import State, holds_limit
from hpc_ae.errors import InputError
from hpc_ae.readers.flux import error_of_inverse_variance, to_asinh, to_pogson
from hpc_ae.readers.names import RAW_PREFIX
from hpc_ae.readers.selection import Condition, cut_conditions, fulfils, parse_condition
from hpc_ae.readers.sexagesimal import read_angles
from hpc_ae.readers.star_rows import StarRows, clean_text, is_text
from hpc_ae.readers.surveys import load_survey, said_survey, survey_names
from hpc_ae.reading import Reading

_SENTINEL = -9999.0


def labels_of(reading: Reading) -> tuple[str, ...]:
    """The words that `--magnitudes` knows: the families of the survey that was said, else of all."""
    said = said_survey(reading)
    surveys = [said] if said else map(load_survey, survey_names())
    return tuple(dict.fromkeys(family.label for survey in surveys for family in survey.families))


def check_reading(reading: Reading) -> None:
    """InputError where a value cannot be, or two do not go together."""
    labels = labels_of(reading)
    if reading.magnitudes and reading.magnitudes.lower() not in {label.lower() for label in labels}:
        raise InputError("an unknown word", where="--magnitudes", got=reading.magnitudes, expected=", ".join(labels))
    reading.check_words()
    if reading.zero_point and (len(reading.zero_point) == 2 or not np.isfinite(reading.zero_point).all()):
        raise InputError(
            "wrong zero points",
            where="--zero-point",
            got=reading.zero_point,
            expected="one number, or one for each band",
        )
    if (reading.flux == "counts") != bool(reading.zero_point):
        points = ", ".join(map(str, reading.zero_point)) or "not given"
        raise InputError(
            "counts need a zero point, and only they",
            where="--flux, --zero-point",
            got=f"flux {reading.flux or 'not given'}, zero point {points}",
            expected="--flux counts --zero-point Z, with Z the magnitude of one count; other units have their own",
        )
    if not np.isfinite(reading.fill_value).all():
        got = ", ".join(map(str, reading.fill_value))
        raise InputError("a fill value is not finite", where="--fill-value", got=got, expected="a number such as 1e20")
    conditions_of(reading)


def conditions_of(reading: Reading, bands: Sequence[str] = ()) -> list[Condition]:
    """All conditions that a row must fulfil, of a file that has these bands. InputError where one is none."""
    said = [parse_condition(text) for text in reading.keep]
    return [*cut_conditions(reading.cuts, bands), *said]


@dataclass(frozen=True)
class Conversion:
    """How the numbers of one raw file become those of a star catalog; the defaults change nothing.

    `zero_points` (B,) are there where the bands hold fluxes, whose errors are `inverse_variance` or not. The columns of
    `conditions` are names of ours, which are compared after conversion, or `raw:INDEX`.
    """

    reading: Reading = field(default_factory=Reading)
    ra_factor: float = 1.0  # degrees in one unit of ra
    dec_factor: float = 1.0
    zero_points: tuple[float, ...] = ()
    softening: tuple[float, ...] = ()  # (B,) of asinh magnitudes, in fluxes of magnitude 0; () for Pogson's
    inverse_variance: bool = False
    error_factors: tuple[float, ...] = ()  # (B,): error = factor * the file's value; () is 1
    extinction_factors: tuple[float, ...] = ()  # (B,): extinction = factor * the file's value; () is no correction
    conditions: tuple[Condition, ...] = ()
    sexagesimal: frozenset[str] = frozenset()  # of ra and dec, those that are text such as 12:34:56

    def readable(self, batch: Mapping[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
        """The columns with numbers in the place of text such as 12:34:56. BadValue where it is no angle."""
        return {name: read_angles(name, one) if name in self.sexagesimal else one for name, one in batch.items()}

    def numbers(self, column: pa.ChunkedArray) -> np.ndarray:
        """A column before it is converted: float64 (N,), NaN for what is no number or stands for no value."""
        if is_text(column.type):
            text, reads = clean_text(column)
            column = pc.if_else(reads, text, pa.scalar(None, text.type)).cast(pa.float64())
        elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            return np.full(len(column), np.nan)
        numbers = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())
        return np.where(_find_filled(self.reading, column, numbers), np.nan, numbers)


def convert(conversion: Conversion, rows: StarRows, part: slice, batch: Mapping[str, pa.ChunkedArray]) -> None:
    """Convert the rows `part`, which were just filled from `batch`, in place, and say which are kept."""
    filled = _drop_filled(conversion.reading, rows, part, batch)
    if conversion.ra_factor != 1.0 or conversion.dec_factor != 1.0:
        rows.ra[part] *= conversion.ra_factor
        rows.dec[part] *= conversion.dec_factor
    _turn(rows.ra[part], rows.dec[part], rows.turned[part])
    if conversion.error_factors:
        errors = rows.magnitude_error[part]
        np.multiply(errors, np.array(conversion.error_factors, np.float32), out=errors, where=~find_sentinels(errors))
    if conversion.zero_points:
        _convert_fluxes(conversion, rows, part)
    if conversion.extinction_factors:
        factors = np.array(conversion.extinction_factors, np.float32)
        extinction = factors * rows.extinction[part]
        if len(rows.magnitude_error):
            _deredden_limits(rows.magnitude[part], rows.magnitude_error[part], extinction)
        _deredden(rows.magnitude[part], rows.extinction[part], factors, rows.missing[part])
    for condition in conversion.conditions:
        if condition.column.startswith(RAW_PREFIX):
            column = batch[condition.column]
        else:  # what the star catalog gets, not what the file says
            values = rows.values(condition.column)[part]
            absent = values == -1 if condition.column == "objid" else find_sentinels(values) | np.isinf(values)
            column = pa.chunked_array([pa.array(values, mask=absent | filled.get(condition.column, False))])
        rows.kept[part] &= fulfils(condition, column)


def _turn(ra: np.ndarray, dec: np.ndarray, turned: np.ndarray) -> None:
    """Right ascensions from -180 to 0 modulo 360 in place, where they are of a position; `turned` (n,) says which."""
    with np.errstate(invalid="ignore"):
        turned[:] = (ra < 0) & (ra >= -180) & (np.abs(dec) <= 90)
    if turned.any():
        turned &= ~find_sentinels(ra)
    ra[turned] = np.mod(ra[turned], 360.0) % 360.0  # the smallest ones are 360 at first


def _drop_filled(
    reading: Reading, rows: StarRows, part: slice, batch: Mapping[str, pa.ChunkedArray]
) -> dict[str, np.ndarray]:
    """Replace fill values in place: positions by NaN, all else by the sentinel that flags and counts know.

    Returns where they were: (N,) by column.
    """
    filled = {}
    for name in (rows.names & batch.keys()) - {"objid"} if reading.fill_value else ():
        values = rows.values(name)[part]
        filled[name] = _find_filled(reading, batch[name], values)
        values[filled[name]] = np.nan if name in ("ra", "dec") else _SENTINEL
    return filled


def _find_filled(reading: Reading, column: pa.ChunkedArray, numbers: np.ndarray) -> np.ndarray:
    """Which rows (N,) of a column hold a fill value, compared in its own type; of text, `numbers` are what it says."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        limits = np.iinfo(column.type.to_pandas_dtype())
        whole = [int(one) for one in reading.fill_value if float(one).is_integer() and limits.min <= one <= limits.max]
        return np.asarray(pc.is_in(column, pa.array(whole, column.type)).to_numpy())
    own = np.asarray(column.to_numpy()) if pa.types.is_floating(column.type) else numbers
    with np.errstate(over="ignore"):
        wanted = np.array(reading.fill_value, np.float64).astype(own.dtype)
    return np.isin(own, wanted[np.isfinite(wanted)])


def _convert_fluxes(conversion: Conversion, rows: StarRows, part: slice) -> None:
    """Fluxes to magnitudes; a flux that is a (negative) sentinel stays one, which the quality flags then say."""
    flux = rows.magnitude[part].astype(np.float64)
    has_errors = len(rows.magnitude_error) > 0
    error = rows.magnitude_error[part].astype(np.float64) if has_errors else np.full_like(flux, np.nan)
    if conversion.inverse_variance:
        error = error_of_inverse_variance(error)
    zero_points = np.array(conversion.zero_points)
    if conversion.softening:
        magnitude, magnitude_error = to_asinh(flux, error, zero_points, np.array(conversion.softening))
    else:
        magnitude, magnitude_error = to_pogson(flux, error, zero_points)
        rows.known[part][np.isfinite(flux) & (flux <= 0)] = State.LIMIT
    if conversion.inverse_variance:  # a flux of exactly nothing, of no weight
        rows.known[part][(flux == 0) & ~np.isfinite(error)] = State.UNOBSERVED
    sentinel = find_sentinels(rows.magnitude[part]) & (flux < 0)
    rows.known[part][sentinel] = State.MEASURED  # which it is not: what a sentinel means is said elsewhere
    with np.errstate(over="ignore"):
        rows.magnitude[part] = np.where(sentinel, flux, magnitude)
        if has_errors:
            rows.magnitude_error[part] = np.where(sentinel, np.nan, magnitude_error)


def _deredden(magnitude: np.ndarray, extinction: np.ndarray, factors: np.ndarray, missing: np.ndarray) -> None:
    """Subtract factors (B,) * extinction (N, B) in place; where that has no value the magnitude has none either."""
    sentinel = find_sentinels(magnitude)
    unknown = ~np.isfinite(extinction) | find_sentinels(extinction)
    missing |= unknown & ~sentinel
    np.subtract(magnitude, factors * extinction, out=magnitude, where=~sentinel)
    magnitude[unknown & ~sentinel] = np.nan


def _deredden_limits(magnitude: np.ndarray, error: np.ndarray, extinction: np.ndarray) -> None:
    """Subtract the extinction (N, B) in mag from what stands for a limit among errors (N, B), in place."""
    is_limit = holds_limit(magnitude, error) & np.isfinite(extinction)
    error[is_limit] -= extinction[is_limit]
