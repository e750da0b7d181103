"""Fields: what another program sees of a catalog's columns: name, type, unit, UCD and a description of each.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.catalog.schema import Column, flag_meaning, flag_name
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import InputError

# The part of the spectrum of each band, as VizieR and UCD1+ have it for SDSS: their list knows no g and no z.
_BAND_UCDS = {"u": "em.opt.U", "g": "em.opt.B", "r": "em.opt.R", "i": "em.opt.I", "z": "em.opt.I"}
_DESCRIPTIONS = {
    "objid": "identifier of the star, 64 bits; -1 where there is none",
    "ra": "right ascension, ICRS",
    "dec": "declination, ICRS",
    "magnitude": "magnitude",
    "magnitude_error": "error of the magnitude",
    "redshift": "redshift",
    "latent": "encoder output",
    "reconstruction_error": "root mean square over bands of magnitude - reconstruction",
    "reconstruction": "decoder output, a magnitude",
    "reconstruction_uncertainty": "standard uncertainty of the reconstruction as a noiseless magnitude",
    "chi2": "sum over bands of (magnitude - reconstruction)^2 / error^2",
    "anomaly_score": "how strange the star is: higher is stranger",
    "tail_probability": "fraction of the survey's stars of the same brightness that score at least as high",
    "cluster": "cluster of the density in the latent plane, 0 has most stars; -1: none",
}


@dataclass(frozen=True)
class Field:
    """One column of a table for other programs: (N,) without `elements`, else (N, number of elements)."""

    name: str
    dtype: str
    elements: tuple[str, ...] = ()
    unit: str = ""
    ucd: str = ""
    description: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: () or (number of elements,)."""
        return (len(self.elements),) if self.elements else ()


def field_of(column: Column, elements: Sequence[str]) -> Field:
    """The field of a catalog's column; `elements` names the parts of a vector: bands, or numbers of latents."""
    return Field(column.name, column.dtype, tuple(elements), column.unit, column.ucd, _describe(column, elements))


def _describe(column: Column, elements: Sequence[str]) -> str:
    if column.flags is not None:
        bits = ", ".join(f"{int(flag)} {flag_name(flag)}" for flag in column.flags)
        return f"0 is {'good' if column.name == 'quality' else 'none'}; bits: {bits}"
    text = _DESCRIPTIONS.get(column.name, column.name.replace("_", " "))
    return f"{text}; elements: {', '.join(elements)}" if elements else text


def no_such_column(where: object, name: str, fields: Sequence[Field], more: str) -> InputError:
    """The error for a column that is not there; `more` says what else than `fields` could be asked for."""
    parts = {part.name: (field, at) for field in fields for at, part in enumerate(split_field(field)) if field.elements}
    fix = ""
    if name in parts:
        vector, at = parts[name]
        fix = f"read the vector: ['{vector.name}'][:][:, {at}]"
    if name == "latent_0" and "latent_1" in parts:
        fix = "latents are numbered from 1, as on the page: latent_0 is latent_1 now, and latent_1 is latent_2"
    expected = f"one of {', '.join(field.name for field in fields)}{more}"
    return InputError("no such column", where=where, got=name, expected=expected, fix=fix)


def flag_lines(columns: Iterable[Column]) -> list[str]:
    """What every bit of the flag columns means, a line each: `quality bit 1 missing: a band has no value`."""
    return [
        f"{column.name} bit {int(flag)} {flag_name(flag)}: {flag_meaning(flag)}"
        for column in columns
        for flag in column.flags or ()
    ]


def split_field(field: Field) -> list[Field]:
    """A vector's elements as fields of their own: `magnitude_u`, `latent_1`; a field without elements as it is."""
    if not field.elements:
        return [field]
    text = field.description.partition("; elements")[0]
    return [
        replace(
            field,
            name=f"{field.name}_{element}",
            elements=(),
            ucd=";".join(filter(None, [field.ucd, _BAND_UCDS.get(element, "") if field.ucd else ""])),
            description=f"{text}, {'band' if field.unit == 'mag' else 'element'} {element}",
        )
        for element in field.elements
    ]


def split_arrays(fields: Iterable[Field], arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays of `split_field`'s fields: each vector (N, B) as B arrays (N,)."""
    parts: Arrays = {}
    for field in fields:
        values = arrays[field.name]
        if field.elements:
            parts |= {f"{field.name}_{element}": values[:, index] for index, element in enumerate(field.elements)}
        else:
            parts[field.name] = values
    return parts
