"""Records: what a JSON file of ours says, as one frozen typed value.

A record is parsed and checked once, where its file is read, and written from the same definition: fields stand in the
order in which the file has them, but for those named in `placed_last`. What a later version of hpc_ae adds to a record
is passed over; a record of a newer format version is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import read_json

# A name that becomes a header cell, a label or a word of a command: no letter of it means anything to a spreadsheet, a
# shell or a terminal.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_R = TypeVar("_R", bound="Record")
_MOST_PROBLEMS = 3


class Record(BaseModel):
    """The content of a JSON file, or a part of it. A field that is None is left out of the file, but for `nulls`.

    What is declared with `Field(exclude=True)` is not written.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)
    nulls: ClassVar[frozenset[str]] = frozenset()  # fields whose None is written as null
    nulls_said: ClassVar[frozenset[str]] = frozenset()  # the same where None was said, and is not just the default
    placed_last: ClassVar[tuple[str, ...]] = ()  # fields that stand last in the file, in this order
    format_version: ClassVar[int | None] = None  # the newest `version` that is understood, where there is such a field

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            name: _plain(value)
            for name in _names_in_file(type(self))
            if (value := getattr(self, name)) is not None
            or name in self.nulls
            or (name in self.nulls_said and name in self.model_fields_set)
        }

    def replaced(self, **changes: object) -> Self:
        """A checked copy in which some fields have other values; TypeError where there is no such field."""
        if unknown := changes.keys() - type(self).model_fields.keys():
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**said, **changes})

    @classmethod
    def describe(cls, problems: Sequence[ErrorDetails]) -> str:
        """What is said first of a record that is wrong."""
        return "a field of the record is missing or has the wrong type"

    @classmethod
    def parse(cls, values: dict[str, Any], where: Path | str) -> Self:
        """The record of a JSON object; DamageError where a field is missing or of a wrong type."""
        version = values.get("version")
        known = cls.format_version
        if known is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
            what = "the record does not say which version of its format it has"
            raise DamageError(what, where=where, got=f"version {version!r}", expected=f"1 to {known}")
        if known is not None and isinstance(version, int) and version > known:
            raise InputError(
                "made by a newer version of hpc_ae",
                where=where,
                got=f"format version {version}",
                expected=f"version {known} or older",
                fix="update hpc_ae, or make it again with this version",
            )
        try:
            return cls.model_validate_json(json.dumps(values))  # as JSON: there a tuple is a list
        except ValidationError as error:
            problems = error.errors()
            found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems[:_MOST_PROBLEMS]]
            raise DamageError(cls.describe(problems), where=where, got="; ".join(found)) from None


def different_plain_names(names: Sequence[str]) -> bool:
    """Whether these are names of at most 64 letters, digits, _, . and -, each of them once."""
    return len(set(names)) == len(names) and all(PLAIN_NAME.fullmatch(name) for name in names)


def _check_names(names: Sequence[str]) -> Sequence[str]:
    if not different_plain_names(names):
        raise ValueError("a name is not a plain word (letters, digits, _ . -), or stands there twice")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_check_names)]  # of bands or columns


def read_record(path: Path, kind: type[_R], *, sealed: bool = False) -> _R:
    """Read a JSON file as a record; with `sealed`, check its own digest. InputError where there is none."""
    return kind.parse(read_json(path, sealed=sealed), path)


@cache
def _names_in_file(kind: type[Record]) -> tuple[str, ...]:
    """The fields of a record that are written, in the order of the file."""
    names = [*(name for name in kind.model_fields if name not in kind.placed_last), *kind.placed_last]
    return tuple(name for name in names if not kind.model_fields[name].exclude)


def _plain(value: Any) -> Any:
    """A field's value as JSON has it."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
