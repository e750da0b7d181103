"""Numbers that stand for no value in a dataset of HDF5: those that its attributes say, those that are written where
nobody has written anything, and netCDF's own.
"""

from __future__ import annotations

import h5py
import numpy as np

_ATTRIBUTES = ("_FillValue", "missing_value")  # of the CF conventions
_NETCDF_FILE = "_NCProperties"
_NETCDF = ("_Netcdf4Dimid", "_Netcdf4Coordinates")  # beside a variable of netCDF 4
# What netCDF 4 writes for no value unless a variable says something else (netcdf.h, NC_FILL_*); bytes have none.
_NETCDF_DEFAULTS = {
    **{"i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295, "i8": -9223372036854775806},
    **{"u8": 18446744073709551614, "f4": 9.9692099683868690e36, "f8": 9.9692099683868690e36},
}


def fill_values(dataset: h5py.Dataset, dtype: np.dtype | None) -> tuple[int | float, ...]:
    """The numbers of the dataset's own type that stand for no value."""
    if dtype is None or dtype.kind not in "iuf":
        return ()
    said = [value for name in _ATTRIBUTES for value in _numbers(dataset, name)]
    if not said and (_NETCDF_FILE in dataset.file.attrs or any(name in dataset.attrs for name in _NETCDF)):
        said = [_NETCDF_DEFAULTS[kind] for kind in [f"{dtype.kind}{dtype.itemsize}"] if kind in _NETCDF_DEFAULTS]
    if dataset.id.get_create_plist().fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        said += [value for value in [dataset.fillvalue.item()] if value]  # 0 may be a value that somebody has written
    return tuple(dict.fromkeys(value for value in said if _fits(value, dtype)))


def _numbers(dataset: h5py.Dataset, name: str) -> list[int | float]:
    """The numbers of an attribute."""
    values = np.asarray(dataset.attrs[name]).ravel() if name in dataset.attrs else np.empty(0)
    return values.tolist() if values.dtype.kind in "iuf" else []


def _fits(value: float, dtype: np.dtype) -> bool:
    """Whether a type has a number; NaN needs no mention."""
    if dtype.kind == "f":
        return bool(np.isfinite(value))
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= int(value) <= limits.max


def find_filled(values: np.ndarray, fills: tuple[int | float, ...]) -> np.ndarray:
    """Which values (n,) are one of `fills`, compared in their own type."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isin(values, np.array(fills).astype(values.dtype)))
