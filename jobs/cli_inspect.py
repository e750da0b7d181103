"""The command line of raw files: the options that say how they are read, and `inspect`, which shows what they hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from inspect import signature as signature_of
from typing import Annotated, Any, TypeVar

import typer

from hpc_ae.errors import InputError
from hpc_ae.reading import OPTIONS, Option, Reading
from hpc_ae.runtime.streams import as_json

_R = TypeVar("_R")

Raw = Annotated[
    list[str],
    typer.Argument(
        metavar="RAW...",
        help="Raw files: CSV, TSV, tables in spaces (plain, gzip, bzip2, xz, zstd), FITS, VOTable, HDF5, Parquet; "
        "directories of Parquet.",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=COLUMN", help="Which column is which, if the automatic mapping is wrong."),
]


def parse_mapping(entries: list[str]) -> dict[str, str]:
    """`name=column` entries of the command line as a mapping; InputError where one is none, or a name comes twice.

    An empty column says that the file has none, as in `objid=`.
    """
    mapping = {}
    for entry in entries:
        name, separator, column = entry.partition("=")
        if not separator or not name:
            raise InputError("not a mapping", where="--map", got=entry, expected="name=column, such as u=psfMag_u")
        if name in mapping:
            raise InputError("a name is mapped twice", where="--map", got=entry, expected=f"one column for {name}")
        mapping[name] = column
    return mapping


def with_reading(command: Callable[..., _R]) -> Callable[..., _R]:
    """The command with the options of `Reading` in place of its parameter `reading`."""
    signature = signature_of(command, eval_str=True)
    parameters: list[Parameter] = []
    for parameter in signature.parameters.values():
        parameters += map(_parameter, OPTIONS) if parameter.name == "reading" else [parameter]

    @wraps(command)
    def said(**values: Any) -> _R:
        reading = Reading.of({option.name: values.pop(option.name) for option in OPTIONS})
        return command(reading=reading, **values)

    said.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads
    said.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return said


def _parameter(option: Option) -> Parameter:
    """An option as typer reads it off a command's parameter."""
    declared = typer.Option(option.flag, metavar=option.told.metavar, help=option.help)
    kind, default = option.type, option.default
    if option.item is not None:
        kind, default = (list[option.item] if option.repeats else str) | None, None  # type: ignore[name-defined]
    return Parameter(
        option.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, declared]
    )


@with_reading
def inspect(
    raw: Raw,
    map: MapOption = None,
    reading: Reading = Reading(),
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="Number of rows at the beginning to look at.")] = 1_000,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON on standard output.")] = False,
) -> int:
    """Show what ingest would understand of raw files: dialect, columns, mapping, units, missing values, five rows, and
    the command to type. Reads the beginning only, writes nothing. Status 2 where something must be said first.
    """
    from hpc_ae.inspect import findings_text, inspect_files
    from hpc_ae.jobs.stages import expand_paths

    findings = inspect_files(expand_paths(raw), parse_mapping(map or []), reading, rows)
    if json:
        typer.echo(as_json(findings.to_json()))
    else:
        typer.echo(findings_text(findings))
    for question in findings.questions:
        typer.echo(f"hpc-ae: {question}", err=True)
    return 2 if findings.questions else 0
