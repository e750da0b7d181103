"""VOTable as raw input: three serializations, nulls, units, several tables, against astropy; damage and hostility."""

from __future__ import annotations

import base64
import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import votable
from astropy.io.votable.exceptions import VOWarning
from astropy.table import MaskedColumn, Table
from catalog_factory import make_stars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal
from raw_files import refused, run, write
from raw_tables import BANDS, assert_comes_back, assert_holds, columns_of, make_arrays, package_dir, tables
from test_catalog import OpenWatch

from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.errors import InputError
from hpc_ae.inspect import inspect_files
from hpc_ae.reading import Reading

STARS = make_arrays()
COLUMNS = columns_of(STARS)
NUM = len(STARS["objid"])
SERIALIZATIONS = ["tabledata", "binary", "binary2"]


def xml_of(table: Table, serialization: str, null: int | None = None) -> bytes:
    """A table as astropy writes it; `null` stands for no value among integers."""
    file = io.BytesIO()
    made = votable.from_table(table)
    for field in made.get_first_table().fields:
        if null is not None and field.datatype in ("short", "int", "long"):
            field.values.null = null
    made.to_xml(file, tabledata_format=serialization)
    return file.getvalue()


def document(fields: str, data: str, attributes: str = "", before: str = "", head: str = "") -> bytes:
    """A VOTable of one table, by hand."""
    return (
        f'<?xml version="1.0"?>{head}<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">{before}'
        f"<RESOURCE><TABLE {attributes}>{fields}<DATA>{data}</DATA></TABLE></RESOURCE></VOTABLE>"
    ).encode()


BAND_FIELDS = "".join(f'<FIELD name="{band}" datatype="float" unit="mag"/>' for band in BANDS)
ROW = "<TR>" + "".join(f"<TD>{value}</TD>" for value in (19, 18, 17, 16, 15)) + "</TR>"
FLOATS = struct.pack(">5f", 19, 18, 17, 16, 15)


def binary(data: bytes, serialization: str = "BINARY") -> str:
    """A stream of base64."""
    text = base64.b64encode(data).decode()
    return f'<{serialization}><STREAM encoding="base64">{text}</STREAM></{serialization}>'


# --- what is there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("serialization", SERIALIZATIONS)
def test_serializations(serialization: str, packed: bool, tmp_path: Path) -> None:
    """Each of the three is the stars exactly, beside text of any length and truths; packed with gzip too."""
    table = Table(
        {"name": ["é", "", "long enough"] + ["x"] * (NUM - 3), **COLUMNS, "clean": [True, False] + [True] * (NUM - 2)}
    )
    content = xml_of(table, serialization)
    path = write(tmp_path / "stars.fits", gzip.compress(content) if packed else content)
    assert_holds(run(tmp_path, path), STARS)
    assert {one.name for one in tmp_path.iterdir()} == {"stars.fits", "catalog"}
    assert not list((tmp_path / "catalog").glob(".*"))
    (tmp_path / "kept").mkdir()
    kept = run(tmp_path / "kept", path, reading=Reading(keep=("clean=true", "name=x")))
    assert_holds(kept, {name: values[3:] for name, values in STARS.items()})


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
def test_missing_values(serialization: str, tmp_path: Path) -> None:
    """Masked integers and floats have no value, in whatever way the serialization says it."""
    masked = np.zeros(NUM, bool)
    masked[2] = True
    table = Table(COLUMNS | {"objid": MaskedColumn(COLUMNS["objid"], mask=masked)})
    table["g"] = MaskedColumn(COLUMNS["g"], mask=masked[::-1])
    catalog = run(tmp_path, xml_of(table, serialization, null=-99 if serialization == "binary" else None))
    assert catalog["objid"][:].tolist() == [*STARS["objid"][:2], -1, *STARS["objid"][3:]]
    assert catalog["caution"][:].tolist() == [0, 0, Caution.ID_MISSING, 0, 0, 0, 0]
    # A float of BINARY has no other way to be missing than NaN.
    assert catalog["quality"][4] == (Quality.NON_FINITE if serialization == "binary" else Quality.MISSING)
    assert catalog["quality"][:].astype(bool).tolist() == masked[::-1].tolist()


@pytest.mark.parametrize("datatype", ["short", "int", "long", "float", "double"])
@pytest.mark.parametrize("null", ["-99", "-099", "-99.0", "0x63"])
def test_null_values(datatype: str, null: str, tmp_path: Path) -> None:
    """What a field declares to be no value is none, however it is spelled; what no integer is, is an error."""
    low, cell = (99, "99") if null == "0x63" else (-99, "-99")
    letter = {"short": "h", "int": "i", "long": "q", "float": "f", "double": "d"}[datatype]
    fields = f'<FIELD name="u" datatype="{datatype}"><VALUES null="{null}"/></FIELD>' + BAND_FIELDS.split("/>", 1)[1]
    rows = [struct.pack(f">{letter}4f", first, 18, 17, 16, 15) for first in (low, 19)]
    content = document(fields, binary(b"".join(rows)))
    text = "".join(ROW.replace("19", first) for first in (cell, "19"))
    found = run(tmp_path, document(fields, f"<TABLEDATA>{text}</TABLEDATA>"))
    assert found["quality"][:].tolist() == [Quality.MISSING, 0]
    (tmp_path / "more").mkdir()
    if null == "-99.0" and datatype not in ("float", "double"):
        assert "null value" in refused(tmp_path / "more", content)
    else:
        assert run(tmp_path / "more", content)["quality"][:].tolist() == [Quality.MISSING, 0]


def test_several_tables_and_units(tmp_path: Path) -> None:
    """Of several tables the one with the bands is taken, with its own units; a table may refer to others' fields."""
    other = Table({"ra": [1.0], "flux": [2.0]}, units={"ra": "deg", "flux": "Jy"})
    radians = COLUMNS | {name: np.radians(COLUMNS[name]) for name in ("ra", "dec")}
    stars = Table(radians, units={"ra": "rad", "dec": "rad"} | dict.fromkeys(BANDS, "mag"))
    parts = [xml_of(table, "binary2").decode() for table in (other, stars)]
    resource = parts[0][parts[0].index("<RESOURCE") : parts[0].index("</VOTABLE")]
    content = parts[1].replace("<RESOURCE", resource + "<RESOURCE", 1).encode()
    catalog = run(tmp_path, content)
    assert_holds(catalog, {name: STARS[name] for name in ("objid", "magnitude", "magnitude_error")})
    assert_array_equal(catalog["ra"][:], np.radians(STARS["ra"]) * np.degrees(1.0))
    both = document(BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA>", 'ID="a"').replace(
        b"</TABLE>", f'</TABLE><TABLE name="again" ref="a"><DATA>{binary(FLOATS)}</DATA></TABLE>'.encode()
    )
    message = refused(tmp_path / "more", write(tmp_path / "two.xml", both))
    assert "2 of the 2 tables" in message and "table again" in message


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
def test_vectors(serialization: str, tmp_path: Path) -> None:
    """A vector of SDSS's own names is its bands; one that is just called mag asks, unless its description tells."""
    table = Table({"objid": STARS["objid"], "PSFMAG": STARS["magnitude"], "PSFMAGERR": STARS["magnitude_error"]})
    expected = {name: STARS[name] for name in ("objid", "magnitude", "magnitude_error")}
    catalog = run(tmp_path, xml_of(table, serialization))
    assert_holds(catalog, expected)
    note = "the bands are the five elements of the array column PSFMAG"
    assert note in " ".join(catalog.manifest.inputs.raw[0].notes)
    table = Table({"objid": STARS["objid"], "mag": STARS["magnitude"][:, ::-1]})
    (tmp_path / "more").mkdir()
    assert "mag_5" in refused(tmp_path / "more", xml_of(table, serialization))
    table["mag"].description = "magnitude; elements: z, i, r, g, u"
    catalog = run(tmp_path / "more", xml_of(table, serialization))
    assert_holds(catalog, {name: expected[name] for name in ("objid", "magnitude")})


@pytest.mark.parametrize("split", [True, False])
def test_our_exports_come_back(split: bool, tmp_path: Path) -> None:
    """hpc-ae export --to votable and back, bands as columns or as vectors, changes no bit."""
    assert_comes_back(make_stars(tmp_path / "stars"), "votable", tmp_path, split)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + document(BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA>"),
        b"\n <!-- a remark -->" + document(BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA>").split(b"?>", 1)[1],
        document(BAND_FIELDS, f"<TABLEDATA>\n{ROW}\n<!-- \xe9 -->\n</TABLEDATA>")
        .replace(b'"1.0"', b'"1.0" encoding="latin-1"', 1)
        .replace("\xe9".encode(), "\xe9".encode("latin-1")),
        document(BAND_FIELDS, f"<TABLEDATA>{ROW.replace('19', '<![CDATA[19]]>')}</TABLEDATA>"),
        document(BAND_FIELDS, binary(FLOATS).replace("Q", " \r\n Q")),
        document(BAND_FIELDS, binary(b"\0" + FLOATS, "BINARY2"), 'nrows="1"'),
        document(
            BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA>", head='<!DOCTYPE VOTABLE SYSTEM "http://localhost:1/V.dtd">'
        ),
        document(BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA>")
        .replace(b"</", b"<//")
        .replace(b"<", b"<v:")
        .replace(b"<v://", b"</v:")
        .replace(b"<v:?", b"<?")
        .replace(b"xmlns=", b"xmlns:v="),
    ],
)
def test_spellings(content: bytes, tmp_path: Path) -> None:
    """Byte-order marks, remarks, another encoding, line ends, CDATA, prefixes, a document type of long ago are read."""
    catalog = run(tmp_path, content)
    assert catalog["magnitude"][:].tolist() == [[19, 18, 17, 16, 15]]
    assert not catalog["quality"][:].any()


def test_names_that_occur_twice(tmp_path: Path) -> None:
    """Two fields of one name are both there, and an error asks which is meant."""
    fields = BAND_FIELDS + '<FIELD name="u" datatype="float"/>'
    data = binary(FLOATS + struct.pack(">f", 20))
    assert "u=#6" in refused(tmp_path, document(fields, data))
    assert run(tmp_path, document(fields, data), mapping={"u": "#6"})["magnitude"][:][0, 0] == 20
    (tmp_path / "more").mkdir()
    assert run(tmp_path / "more", document(fields, data), mapping={"u": "#1"})["magnitude"][:][0, 0] == 19


# --- real files ---------------------------------------------------------------------------------------------------


def real_files() -> list[Path]:
    """VOTables that astropy carries for its own tests."""
    folder = package_dir("astropy") / "io"
    names = [*(folder / "votable" / "tests" / "data").glob("*.xml*"), *(folder / "misc").rglob("*.vot")]
    return sorted(path for path in names if path.suffix != ".parquet" and path.name != "timesys_errors.xml")


@pytest.mark.filterwarnings("ignore")
def test_real_files_read_as_astropy_reads_them(tmp_path: Path) -> None:
    """Every readable column of every real file has the values that astropy reads, and is missing where it is masked."""
    num_read, refusals = 0, {}
    for path in real_files():
        try:
            found = tables(path, tmp_path)
        except InputError as error:
            refusals[path.name] = str(error)
            continue
        theirs = list(votable.parse(path, verify="ignore", datatype_mapping={"bar": "int"}).iter_tables())
        assert len(theirs) >= len(found)
        for (raw, columns), table in zip(found, theirs, strict=False):
            assert raw.num_rows == len(table.array)
            for name in raw.columns:
                field = [one for one in table.fields if one.name == name]
                if (
                    len(field) == 1
                    and field[0].ID in (table.array.dtype.names or ())
                    and field[0].arraysize in (None, "1", "*")
                    and columns[name].type != "null"
                ):
                    num_read += _compare(columns[name], table.array[field[0].ID])
    assert num_read > 120
    assert {name for name, text in refusals.items() if "claims 18,949" in text} == {"names.xml"}
    assert "Either wrong or missing coordinate" in refusals["irsa-nph-error.xml"]
    assert "another file: Parquet" in refusals["parquet_binary.xml"]
    assert "45 cells, not 41" in refusals["too_many_columns.xml.gz"]


def _compare(ours: Any, theirs: Any) -> int:
    """Assert that a column is the same; return 1. An empty integer, which old versions read as 0, is none here."""
    masked = np.ma.getmaskarray(theirs)
    values = np.ma.getdata(theirs)
    for index, value in enumerate(ours.to_pylist()):
        if values.dtype.kind in "iuf":
            number = (
                np.nan if value in (None, "", "null") else float(str(value)) if values.dtype.kind == "f" else int(value)
            )
            if masked[index] or (value == "" and values[index] == 0):
                assert value in (None, "", "null") or number != number
            else:
                assert_array_equal(np.array(number, values.dtype), values[index])
        elif values.dtype.kind == "O" and not masked[index]:
            assert (value or "") == values[index].rstrip("\0")
    return 1


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
def test_cut_anywhere(serialization: str, tmp_path: Path) -> None:
    """A document that ends early is refused wherever it ends."""
    content = xml_of(Table(COLUMNS | {"name": ["abc"] * NUM}), serialization)
    for stop in np.linspace(content.index(b"<VOTABLE") + 9, len(content) - 12, 40).astype(int):
        path = write(tmp_path / "a.xml", content[:stop])
        with pytest.raises(InputError, match="VOTable"):
            tables(path, tmp_path / "work")


@pytest.mark.parametrize("serialization", ["BINARY", "BINARY2"])
def test_a_stream_that_is_cut_or_changed(serialization: str, tmp_path: Path) -> None:
    """A stream inside a whole document that lacks bytes, has strange ones or goes on behind its end is refused."""
    row = (b"\0" if serialization == "BINARY2" else b"") + FLOATS
    text = base64.b64encode(row * 10).decode()
    bad = [
        *(text[:stop] for stop in (1, 2, 3, 5, 20, len(text) - 1)),
        *(base64.b64encode((row * 10)[:stop]).decode() for stop in (1, len(row) - 1, len(row) * 10 - 1)),
        text[:8] + "!" + text[8:],
        text[:8] + "é" + text[8:],
        text[:8] + "====" + text[8:],
        base64.b64encode(row[:4]).decode() + base64.b64encode(row[4:]).decode(),
        text + text[:1],
        text[:4] + "<TD>" + text[4:8] + "</TD>" + text[8:],
    ]
    for stream in bad:
        data = f'<{serialization}><STREAM encoding="base64">{stream}</STREAM></{serialization}>'
        refused(tmp_path, document(BAND_FIELDS, data))
    assert run(tmp_path, document(BAND_FIELDS, binary(row * 10, serialization))).num_stars == 10


LONG = '<FIELD name="t" datatype="char" arraysize="*"/>'


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (document(BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA>", 'nrows="2"'), "claims 2"),
        (document(BAND_FIELDS, binary(FLOATS * 2), 'nrows="1"'), "2 rows, and claims 1"),
        (document(BAND_FIELDS, f"<TABLEDATA>{ROW.replace('<TD>15</TD>', '')}</TABLEDATA>"), "4 cells, not 5"),
        (document(BAND_FIELDS, f"<TABLEDATA>{ROW.replace('</TR>', '<TD>1</TD></TR>')}</TABLEDATA>"), "6 cells, not 5"),
        (document(BAND_FIELDS, f"<TABLEDATA>{ROW.replace('19', '1<b/>9')}</TABLEDATA>"), "holds an element b"),
        (
            document(
                BAND_FIELDS,
                f"<TABLEDATA>{ROW.replace('<TD>', '<TD encoding=`base64`>', 1)}</TABLEDATA>".replace("`", '"'),
            ),
            "encoded",
        ),
        (document(BAND_FIELDS, ROW), "outside of TABLEDATA"),
        (document(BAND_FIELDS, f"<TABLEDATA>{ROW}</TABLEDATA><TABLEDATA>{ROW}</TABLEDATA>"), "belong to no table"),
        (document(BAND_FIELDS + LONG, binary(FLOATS + b"\x7f\xff\xff\xff" + b"abc")), "claims"),
        (document(BAND_FIELDS + LONG, binary(FLOATS + b"\xff\xff\xff\xff" + b"abc")), "claims"),
        (document(BAND_FIELDS + LONG, binary(FLOATS + b"\0\0")), "claims"),
        (
            document(BAND_FIELDS + '<FIELD name="x" datatype="double" arraysize="99999999x99999999"/>', binary(FLOATS)),
            "too long",
        ),
        (document(BAND_FIELDS + '<FIELD name="x" datatype="double" arraysize="-1"/>', binary(FLOATS)), "arraysize"),
        (document('<FIELD name="u" datatype="float" arraysize="0"/>', binary(FLOATS)), "empty"),
        (document("", binary(FLOATS)), "empty"),
        (document(BAND_FIELDS.replace("float", "quad"), binary(FLOATS)), "datatype"),
        (document(BAND_FIELDS, binary(FLOATS).replace("base64", "gzip")), "encoding"),
        (document(BAND_FIELDS, "<BINARY><STREAM href='http://localhost:1/x'/></BINARY>"), "another file"),
        (document(BAND_FIELDS, "<FITS extnum='1'><STREAM href='file:///etc/passwd'/></FITS>"), "another file"),
        (
            document(BAND_FIELDS, ROW, before="<INFO name='QUERY_STATUS' value='ERROR'>no such column</INFO>"),
            "no such column",
        ),
        (document("<G>" * 70 + "</G>" * 70, ""), "depth"),
        (b"<VOTABLE><RESOURCE><TABLE " + b"a" * (1 << 25), "does not end"),
        (b"<VOTABLE></VOTABLE>", "without a table"),
        (b"<VOTABLE>", "cut short"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_contradictions(content: bytes, word: str, tmp_path: Path) -> None:
    """A document that contradicts itself, or has its data elsewhere, is one message that says what is wrong."""
    assert word in refused(tmp_path, content)


def test_entities(tmp_path: Path) -> None:
    """Bombs of entities and entities of other files are refused, and nothing is opened or fetched."""
    secret = write(tmp_path / "secret", b"19")
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    heads = [
        f'<!DOCTYPE VOTABLE [<!ENTITY e0 "9">{bomb}]>',
        f'<!DOCTYPE VOTABLE [<!ENTITY e11 SYSTEM "{secret.as_uri()}">]>',
        f'<!DOCTYPE VOTABLE [<!ENTITY % p SYSTEM "{secret.as_uri()}"> %p;]>',
        f'<!DOCTYPE VOTABLE SYSTEM "{secret.as_uri()}">',
    ]
    watch = OpenWatch(secret)
    for head in heads:
        content = document(BAND_FIELDS, f"<TABLEDATA>{ROW.replace('19', '1&e11;')}</TABLEDATA>", head=head)
        assert "entity" in refused(tmp_path, content)
        with pytest.raises(InputError, match="entity"):
            inspect_files([tmp_path / "raw-0"], {}, Reading(), 10)
    assert not watch.opened()
    watch.close()


def test_a_cell_as_large_as_memory(tmp_path: Path) -> None:
    """A cell of many megabytes ends in a message before it is whole."""
    text = ROW.replace("19", "1" * (5 << 20))
    assert "characters" in refused(tmp_path, document(BAND_FIELDS, f"<TABLEDATA>{text}</TABLEDATA>"))


# --- any table ----------------------------------------------------------------------------------------------------

KINDS = ["i2", "i4", "i8", "u1", "f4", "f8", "?", "U3", "O"]


@st.composite
def any_table(draw: st.DrawFn, with_masks: bool) -> Table:
    """Some columns of any types and values, some of them masked."""
    num = draw(st.integers(1, 5))
    columns: dict[str, Any] = {}
    for index, kind in enumerate(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=10))):
        if kind in ("U3", "O"):
            text = st.text("aé<&]\u263a", max_size=3)
            columns[f"c{index}"] = np.array(draw(st.lists(text, min_size=num, max_size=num)), kind)
            continue
        values = draw(npst.arrays(np.dtype(kind), num))
        mask = draw(npst.arrays(bool, num)) if with_masks and kind[0] in "iu" else np.zeros(num, bool)
        columns[f"c{index}"] = MaskedColumn(values, mask=mask)
    return Table(columns)


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings(f"ignore::{VOWarning.__module__}.VOWarning")
def test_any_table_comes_back(serialization: str, data: st.DataObject, tmp_path: Path) -> None:
    """Whatever astropy writes is read as it was, text, numbers, truths and what is masked."""
    table = data.draw(any_table(with_masks=serialization != "binary"))
    path = write(tmp_path / "a.xml", xml_of(table, serialization))
    [(raw, found)] = tables(path, tmp_path / "work")
    assert list(raw.columns) == table.colnames
    for name in table.colnames:
        masked = np.ma.getmaskarray(table[name])
        got = found[name].to_pylist()
        values = np.ma.getdata(table[name])
        for value, expected, is_masked in zip(got, values.tolist(), masked, strict=True):
            if is_masked:
                assert value is None or value == ""
            elif values.dtype.kind in "UO":
                assert (value or "") == expected
            elif values.dtype.kind == "b":
                assert value is expected
            else:
                number = (
                    float("nan")
                    if value in (None, "", "NaN")
                    else float(value)
                    if values.dtype.kind == "f"
                    else int(value)
                )
                assert_array_equal(np.array(number, values.dtype), np.array(expected, values.dtype))
