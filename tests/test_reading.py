"""The options of raw files: declared once, and the same on the command line, in a config and in a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import hpc_ae
from raw_files import lines, write

from hpc_ae.config import load_config
from hpc_ae.errors import InputError
from hpc_ae.jobs.main import run_command
from hpc_ae.readers.conversion import labels_of
from hpc_ae.readers.flux import ZERO_POINTS
from hpc_ae.readers.selection import CUTS
from hpc_ae.reading import OPTIONS, Option, Reading, in_config_words
from hpc_ae.sections import Source

NAMES = [option.name for option in OPTIONS]


def example(option: Option) -> Any:
    """A value of an option that is not its default."""
    kinds: dict[Any, Any] = {bool: True, float: 1.0, str: "r<20"}
    value = kinds[option.item] if option.item else option.choices[0] if option.choices else kinds.get(option.type, "1")
    return (value, kinds[option.item]) if option.item else value


def reading_of_words(folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Reading:
    """What the command `inspect` hands on."""
    found = []

    def stop(paths: list[Path], mapping: dict[str, str], reading: Reading, num_rows: int) -> None:
        found.append(reading)
        raise InputError("seen")

    monkeypatch.setattr("hpc_ae.inspect.inspect_files", stop)
    assert run_command(["inspect", str(write(folder / "raw.csv", lines())), *words]) == 2
    return found[0]


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_an_option_is_the_same_everywhere(option: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value goes through the command line, through a config and through the suggested words and stays what it is."""
    reading = Reading(**{option.name: example(option)})
    assert reading != Reading() and [one.name for one in reading.given()] == [option.name]
    assert reading_of_words(tmp_path, reading.words(), monkeypatch) == reading
    recorded = reading.fingerprint()
    assert set(recorded) == {option.name}
    assert Source(raw=["x"], **recorded).reading == reading
    assert option.name in Source.model_fields and option.told.description


def test_nothing_said_is_nothing_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options all ways give the default, which leaves no trace; an empty word says nothing."""
    assert Source(raw=["x"]).reading == Source(raw=["x"], table="").reading == Reading()
    assert reading_of_words(tmp_path, [], monkeypatch) == Reading()
    assert Reading().fingerprint() == {} and Reading().words() == []


def test_words_are_exact_numbers() -> None:
    """A suggested command says a number as it was given, however many digits it has."""
    assert Reading(zero_point=(25.0, 1e20, 25.123456789)).words() == ["--zero-point", "25,1e+20,25.123456789"]


def test_one_number_of_a_config_is_one_zero_point(tmp_path: Path) -> None:
    """A config may say one zero point without a list; its dump keeps it as it stands."""
    text = "run_dir: x\ncatalog: {source: {raw: [a], flux: counts, zero_point: 25.5}}\n"
    source = load_config(write(tmp_path / "c.yaml", text)).catalog.source
    assert source is not None and source.zero_point == 25.5 and source.reading.zero_point == (25.5,)
    assert source.reading.fingerprint() == {"flux": "counts", "zero_point": [25.5]}


def test_words_that_options_know() -> None:
    """The units, cuts and families that the declarations name are those that the readers have."""
    known = {option.name: option.choices for option in OPTIONS}
    assert known["flux"] == (*ZERO_POINTS, "counts") and known["cuts"] == tuple(CUTS)
    told = {option.name: option.told.description for option in OPTIONS}["magnitudes"]
    assert set(told.partition(": ")[2].removesuffix(", ...").split(", ")) < set(labels_of(Reading()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("set it with --flux UNIT, or choose", "set it with catalog.source.flux=UNIT, or choose"),
        ("choose with --map u=psfMag_u.", "choose with catalog.source.columns={u: psfMag_u}."),
        ("set --angles deg or --angles rad", "set catalog.source.angles=deg or catalog.source.angles=rad"),
        ("use --bad flag (keeps them) or --bad drop", "use catalog.bad=flag (keeps them) or catalog.bad=drop"),
        ("leave --deredden out", "leave catalog.source.deredden out"),
        ("leave out the --keep that names it", "leave out the catalog.source.keep that names it"),
        ("--flux, --zero-point", "catalog.source.flux, catalog.source.zero_point"),
        ("hpc-ae run CONFIG --redo train", "hpc-ae run CONFIG --redo train"),
    ],
)
def test_advice_in_the_words_of_a_config(text: str, expected: str) -> None:
    """What the command line calls an option has its key's name for those who have a config."""
    assert in_config_words(text) == expected


def test_a_run_names_the_keys_of_its_config(tmp_path: Path) -> None:
    """The same file is refused in the words of the way that the user is on."""
    raw = write(tmp_path / "raw.csv", "flux_u,flux_g,flux_r,flux_i,flux_z,ra,dec\n1,2,3,4,5,10,20\n")
    config = tmp_path / "c.yaml"
    config.write_text(f"run_dir: {tmp_path}/run\ncatalog: {{source: {{raw: [{raw}]}}}}\ntrain: {{epochs: 1}}\n")
    done = hpc_ae("run", config)
    assert done.returncode == 2 and "catalog.source.flux=UNIT" in done.stderr and "--flux" not in done.stderr
    done = hpc_ae("ingest", raw, "--out", tmp_path / "stars")
    assert done.returncode == 2 and "--flux UNIT" in done.stderr
