"""What files, archives and configs of others bring reaches no terminal as a command to it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from commands import command, environment, hpc_ae
from runs import make_catalog, make_random_model

from hpc_ae.errors import InputError, harmless
from hpc_ae.files import make_dir, publish_json, read_json, seal
from hpc_ae.jobs.launched import Launched, record_launch
from hpc_ae.layout import RunLayout
from hpc_ae.runtime.progress import NOTHING_YET
from hpc_ae.runtime.streams import as_json

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\x08\x7f"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
HEADER = "objid,ra,dec,u,g,r,i,z\n"
ROW = "1237,10.5,-3.25,19.1,18.2,17.9,17.7,17.6\n"


def shown(*words: object) -> str:
    """All that a command prints; it holds nothing that a terminal would obey."""
    done = hpc_ae(*words)
    text = done.stdout + done.stderr
    assert not OBEYED.search(text), repr(OBEYED.search(text))
    assert "Traceback" not in text and "unexpected" not in text, text
    return text


def evil_config(folder: Path) -> list[list[object]]:
    """A key and a value of a config, and the name of one."""
    path = folder / "config.yaml"
    text = json.dumps(EVIL)
    path.write_text(f"run_dir: {folder}/run\ncatalog: {{path: stars}}\n{text}: 1\ntrain: {{batch_size: {text}}}\n")
    return [["check", path], ["run", path], ["check", folder / f"{EVIL}.yaml"], ["run", path, f"train.{EVIL}=1"]]


def evil_columns(folder: Path) -> list[list[object]]:
    """Names of columns, a value and the name of a raw file."""
    path = folder / f"raw{EVIL}.csv"
    path.write_text(
        HEADER.replace("\n", f",{EVIL}\n") + ROW.replace("\n", f",{EVIL}\n") * 3 + f"1,2,3,{EVIL},1,1,1,1,1\n"
    )
    words: list[list[object]] = [["inspect", path], ["inspect", path, "--json"]]
    return [
        *words,
        ["ingest", path, "--out", folder / "stars"],
        ["ingest", path, "--out", folder / "b", "--map", f"u={EVIL}"],
    ]


def evil_hdf5(folder: Path) -> list[list[object]]:
    """Names and attributes in a file of another's."""
    path = folder / "table.h5"
    with h5py.File(path, "w") as file:
        for name in ("objid", "ra", "u", "g", "r", "i", "z", EVIL.replace("\x00", "")):
            file[name] = [1.0, 2.0]
            file[name].attrs["unit"] = EVIL
        file.attrs[EVIL] = EVIL
    return [["inspect", path], ["ingest", path, "--out", folder / "stars"]]


def evil_manifest(folder: Path) -> list[list[object]]:
    """The format of a catalog, a name in it, and what lies in it."""
    stars = make_catalog(folder / "stars", 100)
    path = stars / "manifest.json"
    publish_json(path, seal({**read_json(path), "format": EVIL}))
    named = make_catalog(folder / "named", 100)
    record = read_json(named / "manifest.json")
    record["shards"][0]["file"] = EVIL
    publish_json(named / "manifest.json", seal(record))
    shard = make_catalog(folder / "shard", 100)
    with h5py.File(shard / "shard-00000.h5", "a") as file:
        file[EVIL.replace("/", "")] = [1]
        file.attrs["format"] = EVIL
    verbs: list[list[object]] = [["verify", one] for one in (stars, named, shard)]
    return [*verbs, ["query", stars, "--objid", "1"], ["query", shard, "--objid", "1"], ["verify", shard, "--json"]]


def evil_model(folder: Path) -> list[list[object]]:
    """The bands of a model, and a directory of a strange name."""
    model = make_random_model(folder / "model", make_catalog(folder / "stars", 100))
    path = model / "model.json"
    publish_json(path, seal({**read_json(path), "bands": [EVIL, "g", "r", "i", "z"], "format": "hpc_ae/model"}))
    place = folder / f"m{EVIL}"
    shutil.copytree(model, place)
    return [["verify", model], ["verify", place], ["verify", folder / f"no{EVIL}"]]


def evil_state(folder: Path) -> list[list[object]]:
    """Markers, progress and logs of a run."""
    layout = RunLayout(make_dir(folder / "run"))
    files = layout.launch("train", "x")
    make_dir(files.launch_dir)
    layout.config_path.write_text(f"run_dir: {layout.run_dir}\ncatalog: {{path: stars}}\n")
    record_launch(Launched("train", "41", layout, files, 2, local=False))
    for rank, state in enumerate(("running", "failed")):
        publish_json(files.marker_path(rank), {"state": state, "message": EVIL, "host": EVIL, "time": 1.0})
    make_dir(layout.progress_dir)
    publish_json(layout.progress_path("train"), {**NOTHING_YET.to_json(), "what": EVIL, "unit": EVIL, "total": 9})
    make_dir(layout.logs_dir)
    for rank in (0, 1):
        layout.log_path("41", rank).write_text(f"a line\n{EVIL}\n", newline="")
    answer = {"41": {"state": EVIL, "reason": EVIL, "nodes": EVIL, "time": "1"}}
    publish_json(layout.scheduler_path, {"jobs": ["41"], "time": 1.0, "answer": answer})
    verbs: list[list[object]] = [["status", layout.run_dir], ["status", layout.run_dir, "--json"]]
    return [*verbs, ["logs", layout.run_dir, "train"], ["logs", layout.run_dir, "train", "--rank", "1"]]


@pytest.mark.parametrize(
    "make",
    [evil_config, evil_columns, evil_hdf5, evil_manifest, evil_model, evil_state],
    ids=lambda make: make.__name__.removeprefix("evil_"),
)
def test_nothing_steers_a_terminal(make: Callable[[Path], list[list[object]]], tmp_path: Path) -> None:
    """Every command that shows a word of others shows it by the numbers of its letters."""
    texts = [shown(*words) for words in make(tmp_path)]
    assert any("\\x1b" in text or "\\u001b" in text or "?" in text or "owned" in text for text in texts)


def test_nothing_steers_a_real_terminal(tmp_path: Path) -> None:
    """The same on a terminal, where colours are used and a table is drawn."""
    for words in [evil_state(tmp_path)[0], evil_state(tmp_path)[2], ["verify", tmp_path / f"no{EVIL}"]]:
        line = " ".join("'" + str(word).replace("'", "") + "'" for word in command(*words))
        done = subprocess.run(
            ["script", "--quiet", "--command", line, "/dev/null"],
            env=environment(TERM="xterm-256color"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        left = re.sub("\x1b\\[[0-9;]*m", "", done.stdout)
        assert "owned" in left and not OBEYED.search(left), repr(left)


def test_harmless() -> None:
    """Lines, tabs and letters of all scripts stay; the rest is shown by its number. JSON stays JSON."""
    kept = "Åström δ 東京 \t a\nb\r\nc"
    assert harmless(kept) == kept
    assert harmless("a\rb\x1b\x9b\u202e") == "a\\rb\\x1b\\x9b\\u202e"
    assert not OBEYED.search(str(InputError(EVIL, where=EVIL, got=EVIL, expected=EVIL, fix=EVIL)))
    record = {EVIL: [EVIL, "\U000f0000", "\ud800"]}
    assert json.loads(as_json(record)) == record and not OBEYED.search(as_json(record))
