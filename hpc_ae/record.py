"""Records: what a JSON file of ours says, as one frozen typed value.

A record is parsed and checked once, where its file is read, and written from the same definition: fields stand in the
order in which the file has them. What a later version of hpc_ae adds to a record is passed over; a record of a newer
format version is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import canonical_json, read_json

_R = TypeVar("_R", bound="Record")
_MOST_PROBLEMS = 3


class Record(BaseModel):
    """The content of a JSON file, or a part of it. A field that is None is left out of the file, but for `nulls`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)
    nulls: ClassVar[frozenset[str]] = frozenset()  # fields whose None is written as null
    format_version: ClassVar[int | None] = None  # the newest `version` that is understood, where there is such a field

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            name: _plain(value)
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None or name in self.nulls
        }

    @classmethod
    def parse(cls, values: dict[str, Any], where: Path | str) -> Self:
        """The record of a JSON object; DamageError where a field is missing or of a wrong type."""
        version = values.get("version")
        known = cls.format_version
        if known is not None and isinstance(version, int) and version > known:
            raise InputError(
                "made by a newer version of hpc_ae",
                where=where,
                got=f"format version {version}",
                expected=f"version {known} or older",
                fix="update hpc_ae, or make it again with this version",
            )
        try:
            return cls.model_validate_json(canonical_json(values))  # as JSON: there a tuple is a list
        except ValidationError as error:
            found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:_MOST_PROBLEMS]]
            raise DamageError(
                "the record lacks a field, or has one of a wrong type", where=where, got="; ".join(found)
            ) from None


def read_record(path: Path, kind: type[_R], *, sealed: bool = False) -> _R:
    """Read a JSON file as a record; with `sealed`, check its own digest. InputError where there is none."""
    return kind.parse(read_json(path, sealed=sealed), path)


def _plain(value: Any) -> Any:
    """A field's value as JSON has it."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
