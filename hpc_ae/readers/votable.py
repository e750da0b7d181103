"""VOTable in bounded memory: one pass of expat turns each table into a Parquet file, which has places to go to.

astropy reads a whole VOTable into memory, and a BINARY stream as one text, several times its size. Here the XML goes
through expat a MiB at a time, whatever a table's size. Declared entities are refused, nothing is fetched.
"""

from __future__ import annotations

import xml.parsers.expat
from collections.abc import Callable
from pathlib import Path
from xml.parsers.expat import ExpatError

import pyarrow as pa

from hpc_ae.errors import InputError
from hpc_ae.readers.raw_file import unreadable
from hpc_ae.readers.votable_table import BadTable, VoField, VoTable

_READ_BYTES = 1 << 20
_MOST_TOKEN_BYTES = 1 << 24  # expat keeps a tag whole until it ends
_MOST_TEXT = 1 << 22  # characters of a cell or a message
_MOST_DEPTH = 64
_MOST_TABLES = 100
_MOST_FIELDS = 10_000


def converted_paths(data_path: Path) -> list[Path]:
    """The file and its further tables, as `convert_votable` called them."""
    paths = [data_path]
    while (more := _table_path(data_path, len(paths))).exists():
        paths.append(more)
    return paths


def is_cut_short(data_path: Path) -> bool:
    """Whether the service said that there are more rows than it gave (OVERFLOW)."""
    return _cut_mark(data_path).exists()


def _cut_mark(target_path: Path) -> Path:
    return target_path.with_name(f"{target_path.name}-overflow")


def _table_path(target_path: Path, index: int) -> Path:
    return target_path.with_name(f"{target_path.name}.{index}") if index else target_path


def convert_votable(path: Path, xml_path: Path, target_path: Path) -> None:
    """Write the tables of a VOTable as new Parquet files: `target_path`, and .1, .2, ... behind it (mode 0600).

    InputError where the XML is damaged or hostile, holds no table or a service's error, or its data lie elsewhere.
    """
    reader = _Reader(path, target_path)
    try:
        with xml_path.open("rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                reader.feed(data)
        reader.end()
    except ExpatError as error:
        raise unreadable(path, f"a damaged VOTable, or one cut short: {error}") from error
    except BadTable as error:
        raise unreadable(path, f"a VOTable whose {error}") from error
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(path, f"a damaged VOTable: {error}") from error
    finally:
        reader.close()


class _Reader:
    """The handlers of expat, and where in the document it is."""

    def __init__(self, path: Path, target_path: Path) -> None:
        self.path, self.target_path = path, target_path
        self.parser = parser = xml.parsers.expat.ParserCreate()
        parser.buffer_text = True
        parser.buffer_size = 1 << 16
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._stop
        parser.EntityDeclHandler = self._refuse_entity
        parser.SkippedEntityHandler = self._refuse_entity  # of a DTD, which is not fetched
        self.inside = ""  # TABLEDATA, a TD of it, or STREAM
        self.fed = self.depth = self.num_tables = 0
        self.table: VoTable | None = None
        self.names_of_table = "", ""  # ID and ref
        self.known_nulls: dict[str, str] = {}  # of VALUES by their ID
        self.known_fields: dict[str, list[VoField]] = {}  # of tables by their ID
        self.field: VoField | None = None
        self.texts: list[str] = []
        self.error: str | None = None
        self.remark = ""
        self.is_cut_short = False  # as the service says, before or after the tables
        self.num_rows = 0
        self.starts: dict[str, Callable[[dict[str, str]], None]] = {
            "INFO": self._info,
            "TABLE": self._start_table,
            "FIELD": self._start_field,
            "VALUES": self._values,
            "BINARY": lambda _: self._open_table("BINARY"),
            "BINARY2": lambda _: self._open_table("BINARY2"),
            "TABLEDATA": lambda _: self._open_table("TABLEDATA"),
            "TR": lambda _: self._check_inside("TR"),
            "TD": self._start_cell,
            "DESCRIPTION": lambda _: self._collect() if self.field is not None else None,
            "STREAM": self._stream,
            "FITS": lambda _: self._elsewhere("FITS"),
            "PARQUET": lambda _: self._elsewhere("Parquet"),
        }
        self.stops: dict[str, Callable[[], None]] = {
            "INFO": self._stop_info,
            "FIELD": self._stop_field,
            "DESCRIPTION": self._stop_description,
            "TABLEDATA": self._leave,
            "STREAM": self._stop_stream,
            "TABLE": self._stop_table,
        }

    def feed(self, data: bytes) -> None:
        """Parse some bytes more."""
        self.parser.Parse(data, False)
        self.fed += len(data)
        if self.fed - self.parser.CurrentByteIndex > _MOST_TOKEN_BYTES:
            raise BadTable(f"tag at byte {self.parser.CurrentByteIndex:,} does not end")

    def end(self) -> None:
        """Check that the document is whole and had tables."""
        self.parser.Parse(b"", True)
        if self.remark and not self.num_rows:
            raise self._service_error(self.remark)
        if not self.num_tables:
            raise unreadable(self.path, "a VOTable without a table", "fetch the data again")
        if self.is_cut_short:
            _cut_mark(self.target_path).touch(0o600)

    def close(self) -> None:
        """Close the table that an error left open."""
        if self.table is not None:
            self.table.close()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if name == "TD" and not attributes and self.inside == "TABLEDATA":  # nearly all there is: the short way
            self.inside, self.texts, self.num_characters = "TD", [], 0
            self.parser.CharacterDataHandler = self._characters
            return
        name = name.rpartition(":")[2]
        if self.depth > _MOST_DEPTH or (self.depth == 1 and name != "VOTABLE"):
            raise BadTable(f"element {name} stands at depth {self.depth}")
        if self.inside in ("TD", "STREAM"):
            raise BadTable(f"{self.inside} holds an element {name}")
        if name in self.starts:
            self.starts[name](attributes)

    def _stop(self, name: str) -> None:
        self.depth -= 1
        if name == "TD" and self.table is not None and self.inside == "TD":
            self.inside = "TABLEDATA"
            self.table.row.append(self._collected())
            return
        name = name.rpartition(":")[2]
        if name == "TD" and self.table is not None:  # with a prefix
            self.inside = "TABLEDATA"
            self.table.row.append(self._collected())
        elif name == "TR" and self.table is not None:
            self.table.add_row()
        elif name in self.stops:
            self.stops[name]()

    def _check_inside(self, name: str) -> None:
        if self.inside != "TABLEDATA":
            raise BadTable(f"element {name} stands outside of TABLEDATA")

    def _start_cell(self, attributes: dict[str, str]) -> None:
        self._check_inside("TD")
        if "encoding" in attributes:
            raise BadTable(f"cells are encoded in {attributes['encoding']}, which is not read")
        self.inside = "TD"
        self._collect()

    def _leave(self) -> None:
        self.inside = ""

    def _stop_description(self) -> None:
        if self.field is not None:
            self.field.describe(self._collected())

    def _collect(self) -> None:
        self.texts = []
        self.num_characters = 0
        self.parser.CharacterDataHandler = self._characters

    def _characters(self, text: str) -> None:
        self.num_characters += len(text)
        if self.num_characters > _MOST_TEXT:
            raise BadTable(f"cell before byte {self.parser.CurrentByteIndex:,} has more than {_MOST_TEXT:,} characters")
        self.texts.append(text)

    def _collected(self) -> str:
        self.parser.CharacterDataHandler = None
        return self.texts[0] if len(self.texts) == 1 else "".join(self.texts)

    def _refuse_entity(self, name: str, *_: object) -> None:
        raise unreadable(self.path, f"XML that declares or needs an entity, {name}", "a VOTable needs none: remove it")

    def _info(self, attributes: dict[str, str]) -> None:
        if attributes.get("name") == "QUERY_STATUS" and attributes.get("value", "").upper() == "ERROR":
            self.error = "an error"
            self._collect()
        elif attributes.get("name") == "QUERY_STATUS" and attributes.get("value", "").upper() == "OVERFLOW":
            self.is_cut_short = True
        elif attributes.get("name", "").lower() == "error":  # before there was QUERY_STATUS
            self.remark = attributes.get("value", "") or "an error"
            self._collect()

    def _stop_info(self) -> None:
        if self.parser.CharacterDataHandler is None:
            return
        text = " ".join(self._collected().split())
        if self.error is not None:
            raise self._service_error(text or self.error)
        self.remark = text or self.remark

    def _service_error(self, message: str) -> InputError:
        return unreadable(self.path, f"the error message of a service: {message}", "fetch the data again")

    def _start_table(self, attributes: dict[str, str]) -> None:
        if self.table is not None or self.num_tables >= _MOST_TABLES:
            raise BadTable(f"tables are more than {_MOST_TABLES}, or one inside another")
        label = attributes.get("name") or attributes.get("ID") or f"number {self.num_tables + 1}"
        num_rows = attributes.get("nrows", "").strip()
        self.table = VoTable(f"table {label}", int(num_rows) if num_rows.isdecimal() else None)
        self.names_of_table = attributes.get("ID", ""), attributes.get("ref", "")

    def _take_fields(self, table: VoTable) -> None:
        """Note the fields of a table that others may refer to; take those of the one that this refers to."""
        own, other = self.names_of_table
        table.fields = table.fields or list(self.known_fields.get(other, []))
        self.known_fields[own] = table.fields

    def _start_field(self, attributes: dict[str, str]) -> None:
        if self.table is None:
            return
        if self.table.writer or len(self.table.fields) >= _MOST_FIELDS:
            raise BadTable("fields come after the data, or are too many")
        self.field = VoField.of(attributes, f"col{len(self.table.fields) + 1}")
        self.table.fields.append(self.field)

    def _stop_field(self) -> None:
        self.field = None

    def _values(self, attributes: dict[str, str]) -> None:
        null = attributes.get("null", "").strip() or self.known_nulls.get(attributes.get("ref", ""), "")
        self.known_nulls[attributes.get("ID", "")] = null
        if self.field is not None and null:
            self.field.null = null

    def _open_table(self, serialization: str) -> None:
        if self.table is None or self.table.writer:
            raise BadTable("data belong to no table")
        self._take_fields(self.table)
        self.table.open(_table_path(self.target_path, self.num_tables), serialization)
        self.inside = serialization if serialization == "TABLEDATA" else ""

    def _stream(self, attributes: dict[str, str]) -> None:
        if attributes.get("href"):
            self._elsewhere(attributes["href"])
        if attributes.get("encoding", "base64") != "base64" or self.table is None or not self.table.is_binary:
            raise BadTable(f"stream has the encoding {attributes.get('encoding')}: base64 is read")
        self.inside = "STREAM"
        self.parser.CharacterDataHandler = self.table.add_base64

    def _stop_stream(self) -> None:
        self._leave()
        self.parser.CharacterDataHandler = None

    def _elsewhere(self, what: str) -> None:
        raise unreadable(self.path, f"a VOTable whose data lie in another file: {what}", "name that file")

    def _stop_table(self) -> None:
        table, self.table = self.table, None
        if table is None:
            return
        if not table.writer:
            self._take_fields(table)
        if not table.fields:
            return
        if not table.writer:
            table.open(_table_path(self.target_path, self.num_tables), "TABLEDATA")
        self.num_tables += 1
        try:
            table.finish()
            self.num_rows += table.num_rows
        finally:
            table.close()


def field_units(text: str) -> dict[str, str]:
    """Units by name of the fields of a VOTable without data, as Parquet files carry it; none where it is damaged."""
    units: dict[str, str] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2] == "FIELD" and attributes.get("unit"):
            units[attributes.get("name", "")] = attributes["unit"]

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = _no_entity
    try:
        parser.Parse(text.encode(), True)
    except (ExpatError, BadTable):
        return {}
    return units


def _no_entity(name: str, *_: object) -> None:
    raise BadTable(f"entity {name} is declared")
