"""Hostile models, checkpoints, configs and manifests, sealed with the right digests: refused, in little memory, without
a foreign file being opened or a line of theirs being run. Hostile shards are in test_catalog.py.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command, environment, hpc_ae
from runs import make_catalog, make_config, make_random_model, write_config
from safetensors.torch import save
from test_catalog import OpenWatch

from hpc_ae import open_catalog
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import digest_bytes, publish_json, read_json, seal
from hpc_ae.model.check import check_checkpoint
from hpc_ae.model.files import read_model
from hpc_ae.model.weights import read_model_record
from hpc_ae.model_import import import_model
from hpc_ae.runtime.checkpoint import Checkpoint, CheckpointState, load_newest_checkpoint, save_checkpoint
from hpc_ae.verify import verify

MEMORY_BYTES = 6 << 30  # address space: torch alone maps more than a gigabyte
Attack = Callable[[Path, Path], None]


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.open, (self.path, os.O_CREAT | os.O_WRONLY)


def reseal(path: Path, **changes: object) -> None:
    """Change fields of a record and give it the digest that it then should have."""
    publish_json(path, seal({**read_json(path), **changes}))


def weights(directory: Path, data: bytes) -> None:
    """Other bytes in place of a model's weights, with the digest that they have."""
    (directory / "model.safetensors").write_bytes(data)
    reseal(directory / "model.json", weights_digest=digest_bytes(data))


def header(entry: dict[str, object], length: int | None = None) -> bytes:
    """A safetensors file of 8 bytes of data whose header says this of a tensor."""
    text = json.dumps({"encoder.0.weight": entry}).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(8)


def saved_by_torch(value: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


F32: dict[str, object] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
MODELS: dict[str, Attack] = {
    "pickle bomb": lambda path, victim: weights(path, pickle.dumps(Bomb(victim))),
    "torch.save bomb": lambda path, victim: weights(path, saved_by_torch(Bomb(victim))),
    "header beyond the file": lambda path, _: weights(path, header(F32, length=1 << 40)),
    "header of 2^64 bytes": lambda path, _: weights(path, header(F32, length=(1 << 64) - 1)),
    "shape beyond the data": lambda path, _: weights(path, header({**F32, "shape": [10**12]})),
    "offsets beyond the data": lambda path, _: weights(path, header({**F32, "data_offsets": [0, 1 << 40]})),
    "offsets backwards": lambda path, _: weights(path, header({**F32, "data_offsets": [8, 0]})),
    "unknown dtype": lambda path, _: weights(path, header({**F32, "dtype": "O"})),
    "negative shape": lambda path, _: weights(path, header({**F32, "shape": [-2]})),
    "another tensor": lambda path, _: weights(path, save({"__reduce__": torch.zeros(2)})),
    "huge layers": lambda path, _: reseal(path / "model.json", hidden=[10**9, 10**9]),
    "huge latent": lambda path, _: reseal(path / "model.json", latent=1 << 62),
    "layers of text": lambda path, _: reseal(path / "model.json", hidden="40", bands=5),
    "no shape": lambda path, _: reseal(path / "model.json", hidden=None, latent=True),
    "deep JSON": lambda path, _: (path / "model.json").write_text("[" * 200_000) and None,
    "a huge number": lambda path, _: (path / "model.json").write_text('{"latent": ' + "9" * 10_000 + "}") and None,
}


READ = """
import json, resource, sys
from pathlib import Path
from hpc_ae.errors import HpcAeError
from hpc_ae.model.files import read_model
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
said = {}
for path in sys.argv[2:]:
    try:
        said[path] = "read: " + repr(read_model(Path(path)))
    except HpcAeError as error:
        said[path] = str(error)
    except BaseException as error:
        said[path] = "crashed: " + repr(error)[:500]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog that is sound."""
    return make_catalog(tmp_path_factory.mktemp("hostile") / "catalog", 200, 100)


def test_hostile_models(stars: Path, tmp_path: Path) -> None:
    """Each model is refused by its name; nothing of it is run, and no memory taken that it only claims to need."""
    sound = make_random_model(tmp_path / "sound", stars)
    for name, attack in MODELS.items():
        attack(Path(shutil.copytree(sound, tmp_path / name)), tmp_path / "victim")
    words = [sys.executable, "-c", READ, str(MEMORY_BYTES), *(str(tmp_path / name) for name in [*MODELS, "sound"])]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240, check=True)
    said = json.loads(done.stdout)
    assert said.pop(str(sound)).startswith("read: ")
    assert {path: text for path, text in said.items() if path not in text or text.startswith("read: ")} == {}
    assert {path: text for path, text in said.items() if text.startswith("crashed: ")} == {}
    assert not (tmp_path / "victim").exists()


def test_encode_refuses_a_bomb(stars: Path, tmp_path: Path) -> None:
    """The whole command: one message, nothing run, nothing written."""
    model_dir = make_random_model(tmp_path / "model", stars)
    weights(model_dir, saved_by_torch(Bomb(tmp_path / "victim")))
    config = make_config(tmp_path / "run", stars, encode={"model": str(model_dir)})
    done = hpc_ae("encode", write_config(config))
    assert done.returncode == 1 and "model.safetensors" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "victim").exists() and not list(config.encoding_path.glob("shard-*.h5"))


STATE = CheckpointState(
    loss_sum=0.0, loss_steps=0, best_step=-1, best_mse=None, lowest_mse=None, fingerprint={}, step=20
)
CHECKPOINTS: dict[str, Attack] = {
    "foreign path": lambda path, foreign: reseal(
        path / "state.json", digests={"../../../foreign": digest_bytes(foreign.read_bytes())}
    ),
    "absolute path": lambda path, foreign: reseal(
        path / "state.json", digests={str(foreign).removesuffix(".safetensors"): digest_bytes(foreign.read_bytes())}
    ),
    "no names": lambda path, _: reseal(path / "state.json", digests=[1, 2]),
    "pickle bomb": lambda path, foreign: (
        (path / "model.safetensors").write_bytes(pickle.dumps(Bomb(foreign.with_name("victim")))) and None
    ),
}


@pytest.mark.parametrize("attack", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_hostile_checkpoint(attack: Attack, tmp_path: Path) -> None:
    """A checkpoint that names foreign files or holds code is no start; the trace shows no foreign file opened."""
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(save({"weight": torch.zeros(2)}))
    checkpoint = save_checkpoint(tmp_path / "run" / "checkpoints", Checkpoint(STATE, {"weight": torch.zeros(2)}), 3)
    attack(checkpoint, foreign)
    watch = OpenWatch(foreign)
    with pytest.raises(DamageError, match="step-000000020"):
        load_newest_checkpoint(checkpoint.parent)
    check_checkpoint(checkpoint)
    assert not watch.opened() and not foreign.with_name("victim").exists()
    watch.close()


MANIFESTS = ["../foreign.h5", "/foreign.h5", "shard-00000.h5/../../foreign.h5", "shard-00000.h5\0", ".", ""]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_that_leads_outside(name: str, stars: Path, tmp_path: Path) -> None:
    """No file is opened that a manifest names outside its directory, by a reader or by verify."""
    catalog = Path(shutil.copytree(stars, tmp_path / "catalog"))
    foreign = Path(shutil.copy(stars / "shard-00000.h5", tmp_path / "foreign.h5"))
    path = catalog / "manifest.json"
    shards = read_json(path)["shards"]
    shards[0]["file"] = name
    reseal(path, shards=shards)
    watch = OpenWatch(foreign)
    with pytest.raises(DamageError, match=r"manifest\.json"):
        open_catalog(catalog)
    assert not verify(catalog).ok
    assert not watch.opened()
    watch.close()


NAMES = ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1", "u\x1b[2J", "u\n", "u\u202e", "", "u,v", "a" * 65, "g"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_bands_are_plain_words(name: str, stars: Path, tmp_path: Path) -> None:
    """A name that is a formula, steers a terminal or stands there twice is refused where a file is opened."""
    catalog = Path(shutil.copytree(stars, tmp_path / "catalog"))
    model = make_random_model(tmp_path / "model", stars)
    for directory, record in ((catalog, "manifest.json"), (model, "model.json")):
        reseal(directory / record, bands=[name, "g", "r", "i", "z"])
        done = hpc_ae("verify", directory)
        assert done.returncode == 1 and f"{record}" in done.stdout + done.stderr, done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr
    with pytest.raises(DamageError, match="wrong bands or columns"):
        open_catalog(catalog)
    with pytest.raises(DamageError, match="bands"):
        read_model_record(model)
    torch.save(read_model(make_random_model(tmp_path / "sound", stars))[0].state_dict(), tmp_path / "state.pt")
    with pytest.raises(InputError, match="names of bands"):
        import_model(tmp_path / "state.pt", tmp_path / "out", (name, "g", "r", "i", "z"), divide=20)


WRONG_FIELDS: list[dict[str, object]] = [
    {"inputs": []},
    {"inputs": {"raw": {}}},
    {"provenance": "me"},
    {"provenance": {"config": []}},
    {"statistics": []},
    {"statistics": {"u": {"mean": "nan"}}},
    {"flags": {"missing": -1}},
    {"order": 3},
    {"num_rows": True},
    {"fingerprint": [1]},
]


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=str)
def test_manifest_of_wrong_types(fields: dict[str, object], stars: Path, tmp_path: Path) -> None:
    """A field of a wrong type is found where the catalog is opened, before any work on it."""
    catalog = Path(shutil.copytree(stars, tmp_path / "catalog"))
    reseal(catalog / "manifest.json", **fields)
    with pytest.raises(DamageError, match=next(iter(fields))):
        open_catalog(catalog)


BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "call": "run_dir: !!python/object/apply:os.open [VICTIM, 65]\n",
    "module": "run_dir: !!python/module:antigravity\n",
    "merge": "seed: &s {seed: 1}\n<<: *s\n",
    "nesting": "run_dir: " + "[" * 50_000 + "\n",
    "itself": "run_dir: &r [*r]\n",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("verb", ["check", "status"])
def test_hostile_yaml(text: str, verb: str, tmp_path: Path) -> None:
    """Tags and alias bombs are refused as a config and as the config of a run directory; nothing of them is run."""
    run_dir, victim = tmp_path / "run", tmp_path / "victim"
    run_dir.mkdir(mode=0o700)
    path = run_dir / "config.yaml"
    path.write_text(text.replace("VICTIM", str(victim)))
    words = command(verb, path if verb == "check" else run_dir)
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and str(path) in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not victim.exists()


def test_pipe_as_raw_file(tmp_path: Path) -> None:
    """A named pipe in place of a raw file is refused, not waited for."""
    os.mkfifo(tmp_path / "raw.csv")
    words = command("ingest", tmp_path / "raw.csv", "--out", tmp_path / "catalog")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and "raw.csv" in done.stderr and "pipe" in done.stderr
