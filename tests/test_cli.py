"""The command line: quick to answer, and every wrong input gets one message and the exit status of the contract."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from commands import environment, hpc_ae, in_process, write_config

from hpc_ae import __version__, open_catalog
from hpc_ae.errors import InputError
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.jobs.main import run_command
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.runtime.ranks import ranks_from_environment
from hpc_ae.simulate import SimulateSettings, simulate

COMMANDS = ["simulate", "ingest", "inspect", "train", "encode", "postprocess", "run", "check", "plan", "verify"]
COMMANDS += ["status", "logs", "cancel", "init", "doctor", "model", "model import"]
COMMANDS += ["fetch", "order", "query", "export", "model export"]
HEAVY = ("torch", "h5py", "pyarrow", "submitit", "matplotlib", "mpi4py", "astropy")
WATCH = """
import sys
from hpc_ae.jobs.main import run_command
status = run_command(sys.argv[1:])
print("loaded:", *[name for name in %r if name in sys.modules])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def star_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog of 3,000 stars in three shards."""
    directory = tmp_path_factory.mktemp("stars") / "catalog"
    simulate(directory, SimulateSettings(3000, shard_rows=1000))
    return directory


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model imported from a plain state dict by the command."""
    folder = tmp_path_factory.mktemp("model")
    model = make_autoencoder(Architecture(tuple("ugriz"), (8,), 2), [0.0] * 5, [1.0] * 5, seed=2)
    plain = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("scaling.")}
    torch.save(plain, folder / "plain.pt")
    done = hpc_ae("model", "import", folder / "plain.pt", "--out", folder / "model", "--divide", 20)
    assert done.returncode == 0, done.stderr
    return folder / "model"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with `status`, each of `words` in its one message; returns standard error."""

    def run(status: int, words: list[str], *arguments: object) -> str:
        found, text = in_process(capsys, *arguments)
        check(found, text, status, words)
        return text

    return run


def check(found: int, text: str, status: int, words: list[str]) -> None:
    """Exit status and decisive words, and no traceback."""
    assert found == status, text
    assert "Traceback" not in text, text
    missing = [word for word in words if word not in " ".join(text.split())]
    assert not missing, f"{missing} not in: {text}"


def write_text(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text)
    return path


# ---- quick answers


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    """`--help` and `--version` leave torch, h5py, pyarrow and the like unimported."""
    command = [sys.executable, "-c", WATCH % (HEAVY,), option]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_version() -> None:
    """`--version` names the package and its version on standard output."""
    assert hpc_ae("--version").stdout == f"hpc_ae {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command explains itself."""
    from hpc_ae.jobs.main import run_command

    assert run_command([*name.split(), "--help"]) == 0
    assert "Usage: hpc-ae" in capsys.readouterr().out


def test_every_command_is_tested_here(capsys: pytest.CaptureFixture[str]) -> None:
    """COMMANDS are the commands that there are."""
    from hpc_ae.jobs.cli import app, model_app

    names = {str(one.name or one.callback.__name__) for one in app.registered_commands if one.callback}
    names |= {f"model {one.name}" for one in model_app.registered_commands} | {"model"}
    assert names == set(COMMANDS)


def test_check_prints_the_resolved_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` prints YAML with all defaults, overrides applied and paths absolute, and writes nothing."""
    from hpc_ae.jobs.main import run_command

    config = write_config(tmp_path)
    assert run_command(["check", str(config), "train.epochs=7", "cluster.time=12:30:00"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["train"]["epochs"] == 7
    assert printed["cluster"]["time"] == "12:30:00"
    assert printed["model"]["latent"] == 2
    assert printed["run_dir"] == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["quickstart", "seed", "survey"])
def test_shipped_configs_are_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The configs that ship are accepted, but for the raw files that they name, which are the user's."""
    root = Path(__file__).resolve().parent.parent
    status, said = in_process(capsys, "check", root / "configs" / f"{name}.yaml")
    right = "the config is right"
    expected = {"quickstart": right, "seed": "there is no file", "survey": "no file matches"}
    assert status == (0 if name == "quickstart" else 2) and expected[name] in said
    assert said.count("wrong:") == (name != "quickstart") and (right in said) == (name == "quickstart")


# ---- wrong configs

WRONG_YAML = {
    "empty": ("", ["not a set of keys", "NoneType", "run_dir"]),
    "only a comment": ("# nothing\n", ["not a set of keys"]),
    "list": ("- run_dir: x\n", ["not a set of keys", "list"]),
    "broken": ("run_dir: [x\n", ["not valid YAML", "line 2"]),
    "typo": ("run_dir: x\ntrain: {epoch: 3}\n", ["unknown key train.epoch", "did you mean train.epochs"]),
    "typo of a section": ("run_dir: x\ntrian: {epochs: 3}\n", ["unknown key trian", "did you mean train"]),
    "negative epochs": ("run_dir: x\ntrain: {epochs: -1}\n", ["train.epochs = -1", "greater than or equal to 1"]),
    "word for a number": ("run_dir: x\ntrain: {epochs: many}\n", ["train.epochs = 'many'", "valid integer"]),
    "number for a section": ("run_dir: x\ntrain: 3\n", ["key train"]),
    "no for a number": ("run_dir: x\ntrain: {epochs: no}\n", ["train.epochs = False", "truth value"]),
    "infinity": ("run_dir: x\ntrain: {learning_rate: .inf}\n", ["train.learning_rate", "finite"]),
    "duplicate key": ("run_dir: x\ntrain: {epochs: 1, epochs: 2}\n", ["'epochs' occurs twice"]),
    "tag": ("run_dir: !!python/object/apply:os.system [true]\n", ["not valid YAML", "python/object/apply"]),
    "alias": ("run_dir: &a x\ncatalog: {path: *a}\n", ["aliases"]),
    "both sources": ("run_dir: x\ncatalog: {source: {simulate: {stars: 9}, raw: [a]}}\n", ["either simulate or raw"]),
    "no run_dir": ("seed: 1\n", ["run_dir is missing"]),
    "newline in a cluster value": ('run_dir: x\ncluster: {partition: "a\\nid"}\n', ["cluster.partition", "letters"]),
    "newline in a path": ('run_dir: "x\\ny"\n', ["run_dir", "one line"]),
    "newline in setup": ('run_dir: x\ncluster: {setup: ["a\\nb"]}\n', ["cluster.setup", "one line"]),
    "unknown kind of cluster": ("run_dir: x\ncluster: {kind: pbs}\n", ["cluster.kind = 'pbs'", "'local' or 'slurm'"]),
}


@pytest.mark.parametrize("name", WRONG_YAML)
def test_wrong_config(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A wrong config is status 2, names the file, the key and what was found, and makes no run directory."""
    text, words = WRONG_YAML[name]
    config = write_text(tmp_path / "wrong.yaml", text)
    refused(2, [str(config), *words], "run", config)
    assert list(tmp_path.iterdir()) == [config]


def test_unquoted_time_is_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`time: 24:00:00` without quotes, which YAML 1.1 reads as 86400, is a day; a plain number is refused."""
    from hpc_ae.jobs.main import run_command

    config = write_text(tmp_path / "time.yaml", "run_dir: x\ncluster: {time: 24:00:00}\n")
    assert run_command(["check", str(config)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["cluster"]["time"] == "24:00:00"
    status, text = in_process(capsys, "check", config, "cluster.time=86400")
    check(status, text, 2, ["cluster.time = 86400", 'quote it: time: "24:00:00"'])


def test_missing_config(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A config that is not there, or is a directory, is status 2 with its path."""
    path = tmp_path / "none.yaml"
    refused(2, ["cannot read the config: No such file", str(path)], "run", path)
    refused(2, ["cannot read the config: Is a directory", str(tmp_path)], "train", tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", ["not an override", "train.epochs", "section.key=value"]),
        ("=3", ["not an override", "section.key=value"]),
        ("train.epoch=3", ["unknown key train.epoch", "did you mean train.epochs"]),
        ("epochs=3", ["unknown key epochs", "train.epochs"]),
        ("train.epochs=-3", ["train.epochs = -3"]),
        ("train.epochs=[", ["not valid YAML", "train.epochs"]),
        ("cluster.account=$(id)", ["cluster.account", "letters, digits"]),
    ],
)
def test_wrong_override(override: str, words: list[str], tmp_path: Path, refused: Callable[..., str]) -> None:
    """A wrong override is status 2 and names the key."""
    refused(2, words, "run", write_config(tmp_path), override)
    assert not (tmp_path / "run").exists()


def test_unknown_command_and_missing_argument(refused: Callable[..., str]) -> None:
    """Wrong usage is status 2 and names what is wrong."""
    refused(2, ["No such command", "trian"], "trian")
    refused(2, ["Missing argument", "CONFIG"], "run")
    refused(2, ["Invalid value", "--stars"], "simulate", "x", "--stars", "0")
    refused(2, ["Invalid value", "--stars"], "simulate", "x", "--stars", "many")


# ---- wrong runs


def test_batch_size_that_partitions_do_not_divide(star_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A batch size that is no multiple of the partitions is status 2 and names the nearest that are."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster={"ranks_per_node": 1})
    refused(2, ["train.batch_size", "60 over 8 partitions", "56 or 64"], "train", config, "train.batch_size=60")


def test_fewer_stars_than_a_batch(star_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """Fewer training stars than one batch is status 2 and says what to do."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster={"ranks_per_node": 1})
    words = ["fewer training stars than one batch", "at least 8000", "smaller train.batch_size"]
    refused(2, words, "train", config, "train.batch_size=8000")


def test_file_in_place_of_the_run_directory(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A run directory that cannot be made is status 2 with its path, on its own or below a file."""
    config = write_config(tmp_path)
    write_text(tmp_path / "run", "in the way")
    refused(2, ["cannot create a directory", str(tmp_path / "run")], "run", config)
    refused(2, ["cannot create a directory", str(tmp_path / "run" / "x")], "run", config, f"run_dir={tmp_path}/run/x")


def test_missing_catalog(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A catalog that is not there is status 2 with its path."""
    config = write_config(tmp_path, catalog={"path": str(tmp_path / "none"), "source": None})
    words = ["not a catalog", str(tmp_path / "none")]
    refused(2, words, "run", config)
    refused(2, words, "train", config, "cluster.ranks_per_node=1")


def test_directory_without_manifest(star_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A catalog without its manifest is status 2: it was never finished."""
    shutil.copytree(star_dir, tmp_path / "stars")
    (tmp_path / "stars" / "manifest.json").unlink()
    config = write_config(tmp_path, catalog={"path": str(tmp_path / "stars"), "source": None})
    words = ["not a catalog", str(tmp_path / "stars"), "manifest.json"]
    refused(2, words, "train", config, "cluster.ranks_per_node=1")


def test_edited_manifest(star_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """An edited manifest is damage: status 1, and train does not use the catalog."""
    shutil.copytree(star_dir, tmp_path / "stars")
    manifest = tmp_path / "stars" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_stars": 3000', '"num_stars": 3001'))
    config = write_config(tmp_path, catalog={"path": str(tmp_path / "stars"), "source": None})
    words = ["does not match its own digest", str(manifest)]
    refused(1, words, "train", config, "cluster.ranks_per_node=1")


def test_truncated_shard(star_dir: Path, model_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A truncated star shard ends encode with status 1 and its path; no encoding shard of it appears."""
    shutil.copytree(star_dir, tmp_path / "stars")
    shard = tmp_path / "stars" / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-2000])
    config = write_config(tmp_path, catalog={"path": str(tmp_path / "stars"), "source": None})
    refused(1, [str(shard)], "encode", config, f"encode.model={model_dir}", "cluster.ranks_per_node=1")
    assert not (tmp_path / "run" / "encoding" / "shard-00001.h5").exists()
    assert not (tmp_path / "run" / "encoding" / "manifest.json").exists()


def test_encode_without_a_model(star_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """Encoding without a model is status 2 and says how to get one."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None})
    words = ["there is no model", str(tmp_path / "run" / "model"), "hpc-ae model import"]
    refused(2, words, "encode", config, "cluster.ranks_per_node=1")


def test_redo_of_an_unknown_stage(star_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """`--redo` of a stage that this run does not have is status 2 and lists those that it has."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None})
    refused(2, ["no such stage", "trian", "train", "encode"], "run", config, "--redo", "trian")
    refused(2, ["no such stage", "simulate"], "run", config, "--redo", "simulate")
    assert (star_dir / "manifest.json").exists()


def test_what_check_calls_wrong_is_not_started(tmp_path: Path) -> None:
    """A batch that the partitions do not divide is refused by `run` before anything is made."""
    config = write_config(tmp_path, train={"batch_size": 100})
    done = hpc_ae("run", config)
    check(done.returncode, done.stderr, 2, ["the run would fail", "use 104"])
    assert not (tmp_path / "run" / "catalog").exists()
    assert hpc_ae("check", config).returncode == 2
    kept = tmp_path / "run" / "checkpoints" / "step-000000040" / "state.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    done = hpc_ae("run", config, "--redo", "train")
    check(done.returncode, done.stderr, 2, ["the run would fail"])
    assert kept.exists()  # nothing is discarded for a run that is refused


def test_slurm_that_is_not_there(tmp_path: Path) -> None:
    """cluster.kind=slurm on a machine without Slurm is status 2 and says so."""
    config = write_config(tmp_path, cluster={"kind": "slurm"})
    done = hpc_ae("run", config, PATH=str(Path(sys.executable).parent))
    check(done.returncode, done.stderr, 2, ["Slurm is not on this machine", "cluster.kind=local"])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK and WORLD_SIZE are not both numbers"),
        ({"RANK": "3", "WORLD_SIZE": "2"}, "RANK is outside WORLD_SIZE"),
    ],
)
def test_wrong_ranks_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """RANK without WORLD_SIZE, and a rank outside its world, are refused."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(InputError, match=message):
        ranks_from_environment()


# ---- wrong raw files

HEADER = "objid,ra,dec,u,g,r,i,z\n"
ROW = "1237,10.5,-3.25,19.1,18.2,17.9,17.7,17.6\n"


def test_missing_raw_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A raw file that is not there is status 2 with its path."""
    refused(2, [str(tmp_path / "none.csv")], "ingest", tmp_path / "none.csv", "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_empty_raw_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    """An empty raw file is status 2 with its path."""
    raw = write_text(tmp_path / "empty.csv", "")
    refused(2, [str(raw), "empty"], "ingest", raw, "--out", tmp_path / "out")


def test_missing_band(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A raw file without a band is status 2, names the band and the columns that are there."""
    raw = write_text(tmp_path / "raw.csv", "objid,u,g,r,i\n1,19,18,17,16\n")
    refused(2, [str(raw), "z", "objid", "u, g, r, i"], "ingest", raw, "--out", tmp_path / "out")


def test_map_to_a_column_that_is_not_there(tmp_path: Path, refused: Callable[..., str]) -> None:
    """`--map` to a column that the file does not have is status 2, names it and those that are there."""
    raw = write_text(tmp_path / "raw.csv", HEADER + ROW)
    words = ["psfMag_u", str(raw), "objid"]
    refused(2, words, "ingest", raw, "--out", tmp_path / "out", "--map", "u=psfMag_u")


@pytest.mark.parametrize(("entry", "words"), [("u", ["not a mapping", "--map"]), ("u=", ["a wrong column mapping"])])
def test_wrong_map(entry: str, words: list[str], tmp_path: Path, refused: Callable[..., str]) -> None:
    """An entry of `--map` that is not name=column is status 2."""
    raw = write_text(tmp_path / "raw.csv", HEADER + ROW)
    refused(2, [*words, "name=column"], "ingest", raw, "--out", tmp_path / "out", "--map", entry)


def test_map_to_nothing(tmp_path: Path) -> None:
    """`--map objid=` does without the file's ids, as the page on formats says."""
    raw = write_text(tmp_path / "raw.csv", HEADER + ROW)
    assert run_command(["ingest", str(raw), "--out", str(tmp_path / "out"), "--map", "objid=", "--workers", "1"]) == 0
    assert open_catalog(tmp_path / "out").manifest.objid == "generated"


def test_text_in_a_number(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A word where a magnitude is expected is status 2, names file, column, row and the word."""
    raw = write_text(tmp_path / "raw.csv", HEADER + ROW + ROW.replace("19.1", "bright"))
    text = refused(2, [str(raw), "bright"], "ingest", raw, "--out", tmp_path / "out")
    assert re.search(r"column\W+u\b", text) and re.search(r"(row|line)\W+[23]\b", text), text


def test_pattern_without_match(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A pattern that matches no file is status 2 with the pattern, on the command line and in a config."""
    pattern = str(tmp_path / "*.csv")
    refused(2, ["no file matches", pattern], "ingest", pattern, "--out", tmp_path / "out")
    config = write_config(tmp_path, catalog={"source": {"raw": [pattern]}})
    refused(2, ["no file matches", pattern], "run", config)


def test_output_that_is_something_else(star_dir: Path, refused: Callable[..., str]) -> None:
    """Simulating another catalog over one that is there is status 2 and names what differs."""
    digest = read_json(star_dir / "manifest.json")["digest"]
    refused(
        2, ["seed: 1 -> 2", str(star_dir)], "simulate", star_dir, "--stars", 3000, "--seed", 2, "--shard-rows", 1000
    )
    assert read_json(star_dir / "manifest.json")["digest"] == digest


# ---- verify


def test_verify_of_nothing(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Verifying a path without anything recognisable is status 2."""
    refused(2, ["nothing here", "no directory"], "verify", tmp_path / "none")
    refused(2, ["nothing here", str(tmp_path)], "verify", tmp_path)


def test_verify_of_damage(star_dir: Path, tmp_path: Path) -> None:
    """One changed magnitude is status 1 and named by file, as text and as JSON."""
    shutil.copytree(star_dir, tmp_path / "stars")
    shard = tmp_path / "stars" / "shard-00002.h5"
    with h5py.File(shard, "r+") as file:
        file["magnitude"][7, 2] = np.float32(17.0)
    done = hpc_ae("verify", tmp_path / "stars", "--workers", 1)
    assert done.returncode == 1
    assert str(shard) in done.stdout and "1 findings" in done.stdout and "Traceback" not in done.stderr
    done = hpc_ae("verify", tmp_path / "stars", "--json", "--workers", 1)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["num_stars"]) == (1, False, 3000)
    assert str(shard) in found["findings"][0]["where"]


def test_verify_of_what_is_right(star_dir: Path) -> None:
    """A right catalog is status 0, and `--json` is JSON on standard output."""
    done = hpc_ae("verify", star_dir, "--json", "--workers", 1)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["num_stars"], found["num_shards"], found["findings"]) == (True, 3000, 3, [])
    assert "3,000 stars, verified" in hpc_ae("verify", star_dir, "--workers", 1).stdout


# ---- models from elsewhere


def test_import_of_what_is_no_state_dict(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A file that is not a plain state dict is status 2; code in it is not run."""
    text = write_text(tmp_path / "text.pt", "no tensors")
    refused(2, ["not a plain PyTorch state dict", str(text)], "model", "import", text, "--out", "m", "--divide", 20)
    torch.save(["a list"], tmp_path / "list.pt")
    words = ["not a plain PyTorch state dict", "list"]
    refused(2, words, "model", "import", tmp_path / "list.pt", "--out", tmp_path / "m", "--divide", 20)
    torch.save(_Touch(tmp_path / "touched"), tmp_path / "code.pt")
    words = ["not a plain PyTorch state dict", "contain code are not read"]
    refused(2, words, "model", "import", tmp_path / "code.pt", "--out", tmp_path / "m", "--divide", 20)
    assert not (tmp_path / "touched").exists() and not (tmp_path / "m").exists()


class _Touch:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.path),)


def test_import_without_scaling(tmp_path: Path, refused: Callable[..., str]) -> None:
    """An import that does not say the scaling, or says half of it, is status 2."""
    torch.save({"encoder.0.weight": torch.zeros(2, 5)}, tmp_path / "plain.pt")
    command = ["model", "import", tmp_path / "plain.pt", "--out", tmp_path / "m"]
    refused(2, ["no scaling is given", "--divide"], *command)
    refused(2, ["no scaling is given"], *command, "--mean", "1,1,1,1,1")
    refused(2, ["not a list of numbers", "a,b"], *command, "--mean", "a,b", "--std", "1,1")
    refused(2, ["no such file", "none.pt"], "model", "import", tmp_path / "none.pt", "--out", "m", "--divide", 20)


def test_imported_model_encodes(star_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    """`encode` with encode.model encodes a catalog with an imported model, and the result verifies."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster={"ranks_per_node": 1})
    done = hpc_ae("encode", config, f"encode.model={model_dir}")
    assert done.returncode == 0, done.stderr
    manifest = read_json(tmp_path / "run" / "encoding" / "manifest.json", sealed=True)
    assert manifest["inputs"]["model"]["digest"] == read_json(model_dir / "model.json")["digest"]
    done = hpc_ae("verify", tmp_path / "run" / "encoding", "--workers", 1)
    assert done.returncode == 0, done.stdout
    refusal = hpc_ae("encode", config, f"encode.model={tmp_path / 'none'}")
    check(refusal.returncode, refusal.stderr, 2, ["there is no model", str(tmp_path / "none")])


def test_model_of_other_bands(star_dir: Path, model_dir: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A model of other bands than the catalog's is status 2 and names both."""
    shutil.copytree(model_dir, tmp_path / "model")
    record = {**read_json(model_dir / "model.json"), "bands": list("grizy")}
    publish_json(tmp_path / "model" / "model.json", seal(record))
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None})
    words = ["model and catalog have different bands", "'y'", "'u'"]
    refused(2, words, "encode", config, f"encode.model={tmp_path / 'model'}", "cluster.ranks_per_node=1")


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--debug` shows where an error came from."""
    status, text = in_process(capsys, "check", tmp_path / "none.yaml", "--debug")
    assert status == 2
    assert "Traceback" in text and "load_config" in text
