"""What astropy notes of a table's columns, beside HDF5 and in Parquet: units in YAML, masks, elements of vectors."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

import yaml

from hpc_ae.readers.raw_file import element_names

MASK = ".mask"  # astropy's companion of a column with missing values
_MOST_CHARACTERS = 1 << 20
_ELEMENTS = re.compile(r"; elements: (.+)$")  # as our own exports describe a vector


def column_notes(text: str) -> dict[str, dict[str, str]]:
    """The notes (name, unit, description, ...) of each column by name; nothing where the text is not astropy's.

    Only the list of columns is parsed, and nothing of it is constructed: an unknown tag or an alias does no harm.
    """
    lines = text[:_MOST_CHARACTERS].splitlines()
    start = next((index for index, line in enumerate(lines) if line.rstrip() == "datatype:"), len(lines))
    stop = next((i for i, line in enumerate(lines) if i > start and line[:1] not in ("", " ", "-")), len(lines))
    try:
        node = yaml.compose("\n".join(lines[start + 1 : stop]), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(node, yaml.SequenceNode):
        return {}
    notes = [_plain(item) for item in node.value]
    return {note["name"]: note for note in notes if "name" in note}


def _plain(node: yaml.Node) -> dict[str, str]:
    """The texts of a mapping; of a unit that is an object of its own (`!astropy.units.Unit {unit: mag}`) its name."""
    found: dict[str, str] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if isinstance(value, yaml.MappingNode) and key.value == "unit":
            found["unit"] = _plain(value).get("unit", "?")
        elif isinstance(value, yaml.ScalarNode):
            found[str(key.value)] = str(value.value)
    return found


def said_elements(description: str) -> list[str]:
    """The names of a vector's elements where its description says them."""
    found = _ELEMENTS.search(description)
    return [name.strip() for name in found[1].split(",")] if found else []


def named_elements(name: str, width: int, said: Sequence[str]) -> list[str]:
    """Names of the elements of an array column: those that the file says, if they are as many, else by its own; those
    of a mask are as those of the column that it masks.
    """
    base = name.removesuffix(MASK)
    known = width > 1 and len(said) == width
    names = [f"{base}_{element}" for element in said] if known else element_names(base, width) if width else []
    return [name + one.removeprefix(base) for one in names]


def find_masks(names: Sequence[str], types: Sequence[str]) -> tuple[dict[int, int], dict[int, int], set[int]]:
    """Columns and their masks by number, columns whose mask is unfit to be one, and all masks."""
    places = {name: index for index, name in enumerate(names)}
    found = {index: places[mask] for name, index in places.items() if (mask := _mask_name(name, places))}
    masks = {index: mask for index, mask in found.items() if types[mask] == "bool"}
    unfit = {index: mask for index, mask in found.items() if types[mask] != "bool"}
    for name, place in places.items():
        if MASK in name and place not in found.values():  # of another shape than the column: all of that is in doubt
            base = name.partition(MASK)[0]
            for index, other in enumerate(names):
                if MASK not in other and index not in masks and (other == base or other.startswith(f"{base}_")):
                    unfit[index] = place
    return masks, unfit, {*masks.values(), *unfit.values()}


def _mask_name(name: str, names: Container[str]) -> str:
    """The mask among `names` of a column or of the array whose element it is: `mag.mask_u` of `mag_u`; "" for none."""
    if name + MASK in names:
        return name + MASK
    array, _, element = name.rpartition("_")
    while array:
        if (mask := f"{array}{MASK}_{element}") in names:
            return mask
        array, _, more = array.rpartition("_")
        element = f"{more}_{element}"
    return ""
