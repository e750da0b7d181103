"""Fluxes to magnitudes with their errors, angles to degrees, extinction: arithmetic on plain arrays.

Shape letters: N stars, B bands. A flux is in some linear unit; the zero point Z of a band is the magnitude of flux 1 in
that unit, so f / f0 = f * 10^(-0.4 Z) with f0 the flux of magnitude 0. Computed in float64.

Sources: Pogson, N. 1856, MNRAS 17, 12. Lupton, Gunn & Szalay 1999, AJ 118, 1406 (asinh magnitudes). SDSS documentation,
"Measures of flux and magnitude", https://www.sdss.org/dr17/algorithms/magnitudes/ (softening parameters, nanomaggies).
Oke & Gunn 1983, ApJ 266, 713 (AB: magnitude 0 is 10^(-48.6/2.5) erg/s/cm^2/Hz, 3630.78 Jy).
"""

from __future__ import annotations

import re

import numpy as np

POGSON = 2.5 / np.log(10.0)  # mag of a relative change by e
_LEAST_FILL = 1e19  # what numpy's filled() (1e20), netCDF (9.97e36) and IRAF (1.6e38) write for no value
# The AB magnitude of one unit of flux. A nanomaggy is 1e-9 of the flux of magnitude 0; cgs is erg/s/cm^2/Hz.
ZERO_POINTS = {"maggy": 0.0, "nanomaggy": 22.5, "nJy": 31.4, "uJy": 23.9, "mJy": 16.4, "Jy": 8.9, "cgs": -48.6}


def to_pogson(flux: np.ndarray, error: np.ndarray, zero_point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes Z - 2.5 log10(f) and their errors (2.5 / ln 10) * error / f, in mag, each (N, B) float64.

    `zero_point` is (B,) in mag. A flux that is not positive has no such magnitude: both are NaN.
    """
    values, errors = np.asarray(flux, np.float64), np.asarray(error, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = np.where(values > 0, values, np.nan)
        return zero_point - 2.5 * np.log10(positive), POGSON * errors / positive


def to_asinh(
    flux: np.ndarray, error: np.ndarray, zero_point: np.ndarray, softening: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Asinh magnitudes -(2.5 / ln 10) (asinh(x / 2b) + ln b), x = f / f0, and their errors: mag, (N, B) float64.

    `zero_point` is (B,) in mag, `softening` b is (B,). Every finite flux has one, a negative flux too; the error is
    (2.5 / ln 10) (error / f0) / sqrt(x^2 + 4 b^2), the derivative times the flux's error.
    """
    scale = 10.0 ** (-0.4 * np.asarray(zero_point, np.float64))  # 1 / f0
    ratio, ratio_error = np.asarray(flux, np.float64) * scale, np.asarray(error, np.float64) * scale
    magnitude = -POGSON * (np.arcsinh(ratio / (2.0 * softening)) + np.log(softening))
    return magnitude, POGSON * ratio_error / np.hypot(ratio, 2.0 * softening)


def error_of_inverse_variance(inverse_variance: np.ndarray) -> np.ndarray:
    """Standard deviations 1 / sqrt(iv) of inverse variances, float64; NaN where the variance is unknown (iv <= 0, or a
    fill value such as 1e20, which would be an error of nearly nothing).
    """
    values = np.asarray(inverse_variance, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((values > 0) & (values < _LEAST_FILL), 1.0 / np.sqrt(values), np.nan)


def angle_factor(unit: str) -> float | None:
    """Degrees in one `unit` of angle as files write it (deg, rad, h of right ascension); None: no such angle."""
    return _ANGLES.get(unit.strip().strip("'\".").lower())


def flux_unit(unit: str) -> str | None:
    """The name in `ZERO_POINTS` of a unit of flux as files write it; None where it is none of them."""
    word = unit.strip()
    return None if word.startswith("MJ") else _FLUXES.get(word.lower())  # MJy is a megajansky, 1e9 mJy


def magnitude_factor(unit: str) -> float | None:
    """How many mag one `unit` of magnitude is, as files write it: mag, ABmag, mag(AB) 1, mmag 0.001; None: no such."""
    found = _MAGNITUDE.fullmatch(unit.strip())
    if found is None or _POWER.search(found["behind"]):  # mag arcsec-2 is a surface brightness
        return None
    scale = found["scale"].strip(" *.")
    if scale in _SCALES or scale.lower() not in _SCALES:
        return _SCALES.get(scale) or _number(scale)
    return None


def _number(scale: str) -> float | None:
    """The number that stands before a unit, such as 0.001, 1e-3, 10-3 or 10**-3; 1 where words do (AB, Vega)."""
    if not any(letter.isdigit() for letter in scale):
        return 1.0
    power = _POWER_OF_TEN.fullmatch(scale)
    try:
        return 10.0 ** int(power[1]) if power else float(scale)
    except ValueError:
        return None


_ANGLES = {
    **dict.fromkeys(("deg", "degree", "degrees", "°"), 1.0),
    **dict.fromkeys(("rad", "radian", "radians"), 180.0 / np.pi),
    **dict.fromkeys(("h", "hr", "hour", "hours", "hourangle"), 15.0),
    **dict.fromkeys(("arcmin",), 1.0 / 60.0),
    **dict.fromkeys(("arcsec",), 1.0 / 3600.0),
}
_MAGNITUDE = re.compile(
    r"(?P<scale>[^/]*?)(mag|luptitude)(s|nitudes?)?(?![a-z0-9])(?P<behind>[^/]*)", re.IGNORECASE
)  # not mag/arcsec2, not mag2
_POWER = re.compile(r"[-+^*]\s*\d")
_POWER_OF_TEN = re.compile(r"10(?:\^|\*\*)?([-+]\d{1,2})")
_SCALES = {
    **dict.fromkeys(("d", "deci"), 1e-1),
    **dict.fromkeys(("c", "centi"), 1e-2),
    **dict.fromkeys(("m", "milli"), 1e-3),
    **dict.fromkeys(("u", "µ", "μ", "micro"), 1e-6),
}
_FLUXES = {
    **dict.fromkeys(("nanomaggy", "nanomaggies", "nmgy", "nanomgy", "nmaggy", "1e-9 mgy"), "nanomaggy"),
    **dict.fromkeys(("maggy", "maggies", "mgy"), "maggy"),
    **dict.fromkeys(("njy", "nanojansky"), "nJy"),
    **dict.fromkeys(("ujy", "µjy", "μjy", "microjansky"), "uJy"),
    **dict.fromkeys(("mjy", "millijansky"), "mJy"),
    **dict.fromkeys(("jy", "jansky"), "Jy"),
    **dict.fromkeys(("erg/s/cm2/hz", "erg/s/cm^2/hz", "erg/(s.cm2.hz)", "erg.s-1.cm-2.hz-1"), "cgs"),
}
