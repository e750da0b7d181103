"""The whole pipeline on this machine as a user runs it: outputs, skips, refusals, kills, and the way back."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import REPOSITORY, await_sign, environment, hpc_ae, run_processes, start, write_config
from slurm_cluster import wait_until

from hpc_ae import open_catalog
from hpc_ae.config import dump_config, load_config
from hpc_ae.files import make_dir, read_json
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.files import write_model
from hpc_ae.model.weights import Origin
from hpc_ae.simulate import SimulateSettings, simulate

STAGES = ["simulate", "train", "encode", "finalise", "postprocess"]
ALONE = {"ranks_per_node": 1}
LONG = {"steps": 1500, "checkpoint_steps": 100, "batch_size": 64, "partitions": 8}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that is finished; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, cluster=ALONE)
    done = hpc_ae("run", config)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stderr)
    return config


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The config of a copy of the finished run."""
    shutil.copytree(finished.parent / "run", tmp_path / "run")
    return write_config(tmp_path, cluster=ALONE)


@pytest.fixture(scope="module")
def star_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog of 3,000 stars in three shards."""
    directory = tmp_path_factory.mktemp("stars") / "catalog"
    simulate(directory, SimulateSettings(3000, shard_rows=1000))
    return directory


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file below a directory."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def model_digest(run_dir: Path) -> str:
    """Digest of the model of a run."""
    return str(read_json(run_dir / "model" / "model.json", sealed=True)["digest"])


def encoding_model(run_dir: Path) -> str:
    """Digest of the model that made the encoding of a run."""
    return str(read_json(run_dir / "encoding" / "manifest.json", sealed=True)["inputs"]["model"]["digest"])


# ---- a run from end to end


def test_run_leaves_everything(finished: Path) -> None:
    """A run leaves config, catalog, checkpoint, model, metrics, encoding and report, and says where they are."""
    run_dir = finished.parent / "run"
    for name in ("config.yaml", "catalog/manifest.json", "model/model.safetensors", "metrics.jsonl", "jobs/logs"):
        assert (run_dir / name).exists(), name
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000000086"]
    names = {"encoding.h5", "manifest.json", "shard-00000.h5", "shard-00001.h5", "shard-00002.h5"}
    assert {path.name for path in (run_dir / "encoding").iterdir()} == names
    assert {"summary.json", "anomalies.csv"} <= {path.name for path in (run_dir / "report").iterdir()}
    last = (finished.parent / "said").read_text().strip().splitlines()[-2:]
    assert "3,000 stars in, 3,000 out" in last[0]
    assert str(run_dir / "report") in last[1] and str(run_dir / "encoding") in last[1]


def test_run_is_its_owners_alone(finished: Path) -> None:
    """No file of a run is readable by others."""
    paths = [finished.parent / "run", *(finished.parent / "run").rglob("*")]
    assert not [path for path in paths if path.stat().st_mode & 0o077]


def test_run_verifies(finished: Path) -> None:
    """`verify` of the run, and of its parts, finds nothing."""
    run_dir = finished.parent / "run"
    for directory in (run_dir, run_dir / "encoding"):
        done = hpc_ae("verify", directory)
        assert done.returncode == 0, done.stdout + done.stderr


def test_open_catalog_reads_the_encoding(finished: Path) -> None:
    """Encoding and star catalog have the same ids in the same order; good rows are finite, bad ones NaN."""
    run_dir = finished.parent / "run"
    stars, encoding = open_catalog(run_dir / "catalog"), open_catalog(run_dir / "encoding")
    assert encoding.num_stars == stars.num_stars == 3000
    assert np.array_equal(encoding["objid"][:], stars["objid"][:])
    good = np.asarray(encoding["quality"][:]) == 0
    assert 0 < (~good).sum() < 300
    assert np.array_equal(np.isfinite(encoding["latent"][:]).all(axis=1), good)
    assert np.array_equal(np.isfinite(encoding["reconstruction_error"][:]), good)
    assert len(encoding.to_table(columns=["objid", "latent"])) == 3000


def test_rerun_makes_nothing_again(copy: Path, tmp_path: Path) -> None:
    """A second run with the same config says what is done and leaves catalog, model, encoding and report alone."""
    names = ("catalog", "checkpoints", "model", "encoding", "report")
    before = {name: files(tmp_path / "run" / name) for name in names}
    done = hpc_ae("run", copy)
    assert done.returncode == 0, done.stderr
    assert "already done: simulate, train, encode, finalise, postprocess" in done.stderr
    assert {name: files(tmp_path / "run" / name) for name in names} == before


# ---- what does not belong together is refused


def test_changed_training_is_refused_and_redone(copy: Path, tmp_path: Path) -> None:
    """Another train config is status 2 and names the key; `--redo train` discards the encoding too: no mix."""
    before, old = (
        files(tmp_path / "run" / "model") | files(tmp_path / "run" / "encoding"),
        model_digest(tmp_path / "run"),
    )
    refused = hpc_ae("run", copy, "train.learning_rate=0.001")
    assert refused.returncode == 2
    assert "train.learning_rate: 0.004 -> 0.001" in refused.stderr and "--redo train" in refused.stderr
    assert files(tmp_path / "run" / "model") | files(tmp_path / "run" / "encoding") == before
    done = hpc_ae("run", copy, "train.learning_rate=0.001", "--redo", "train")
    assert done.returncode == 0, done.stderr
    assert f"discarding {tmp_path / 'run' / 'encoding'}" in done.stderr
    assert re.search(r"held-out error 0\.\d+ mag .* principal components leave 0\.\d+ mag", done.stderr)
    assert "report/index.html, encoding" in done.stderr.splitlines()[-1]
    assert "removed, as new ones are whole" in done.stderr and not list((tmp_path / "run").glob("*.before-redo"))
    assert encoding_model(tmp_path / "run") == model_digest(tmp_path / "run") != old
    assert hpc_ae("verify", tmp_path / "run").returncode == 0


def test_redo_with_a_forgotten_override_discards_nothing(copy: Path, tmp_path: Path) -> None:
    """`--redo encode` where training was with another config is refused while everything is still there."""
    run_dir = tmp_path / "run"
    names = ("catalog", "model", "encoding", "scores", "report")
    before = {name: files(run_dir / name) for name in names}
    for stage in ("encode", "finalise", "postprocess"):
        refused = hpc_ae("run", copy, "train.learning_rate=0.001", "--redo", stage)
        assert refused.returncode == 2 and "train.learning_rate: 0.004 -> 0.001" in refused.stderr
        assert "discarding" not in refused.stderr
    assert {name: files(run_dir / name) for name in names} == before


def test_redo_that_fails_can_be_taken_back(copy: Path, tmp_path: Path) -> None:
    """What a redo discards is there until its stage has ended well, whatever is done in between."""
    run_dir = tmp_path / "run"
    names = ("model", "encoding", "scores", "report")
    before = {name: list(files(run_dir / name).values()) for name in names}
    for _ in range(2):  # the second finds what the first has begun
        failed = hpc_ae("run", copy, "train.learning_rate=1e30", "--redo", "train")
        assert failed.returncode == 1 and "diverged" in failed.stderr, failed.stderr
        assert {name: list(files(run_dir / f"{name}.before-redo").values()) for name in names} == before
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    (run_dir / "metrics.jsonl").unlink()
    for path in run_dir.glob("*.before-redo"):
        path.rename(path.with_name(path.name.removesuffix(".before-redo")))
    again = hpc_ae("run", copy)
    assert again.returncode == 0 and "already done: simulate, train, encode" in again.stderr, again.stderr
    assert {name: list(files(run_dir / name).values()) for name in names} == before


def test_redo_keeps_files_of_the_user(copy: Path, tmp_path: Path) -> None:
    """What somebody has put into an output is not removed with it: the old one stays, and it is said why."""
    run_dir = tmp_path / "run"
    (run_dir / "report" / "notes.txt").write_text("my findings")
    done = hpc_ae("run", copy, "--redo", "postprocess")
    assert done.returncode == 0 and "files that no stage has made: notes.txt" in done.stderr, done.stderr
    (run_dir / "report" / "more.txt").write_text("further findings")
    assert hpc_ae("run", copy, "--redo", "postprocess").returncode == 0
    assert (run_dir / "report.before-redo" / "notes.txt").read_text() == "my findings"
    assert (run_dir / "report.before-redo-2" / "more.txt").read_text() == "further findings"
    assert not list(run_dir.glob("scores*.before-redo"))


def test_model_that_somebody_put_there_is_of_any_config(tmp_path: Path) -> None:
    """A model without a training of ours says nothing of the config: `verify` does not call that another one."""
    config = load_config(write_config(tmp_path))
    make_dir(config.run_path)
    config.layout.config_path.write_text(dump_config(config))
    model = make_autoencoder(Architecture(tuple("ugriz")), [18.0] * 5, [1.5] * 5, seed=3)
    write_model(config.layout.model_dir, model.architecture, model.state_dict(), Origin())
    assert "trained this model" not in hpc_ae("verify", config.run_path).stdout


def test_single_stage_keeps_the_config_of_the_run(copy: Path, tmp_path: Path) -> None:
    """`postprocess` with another training in its config is refused: the run's own config stays what made it. `verify`
    notices a config that did not.
    """
    run_dir = tmp_path / "run"
    before = (run_dir / "config.yaml").read_bytes()
    shutil.rmtree(run_dir / "report")
    refused = hpc_ae("postprocess", copy, "train.learning_rate=0.001", "postprocess.anomalies=7")
    assert refused.returncode == 2 and "train.learning_rate: 0.004 -> 0.001" in refused.stderr, refused.stderr
    assert (run_dir / "config.yaml").read_bytes() == before
    assert hpc_ae("postprocess", copy, "postprocess.anomalies=7").returncode == 0
    assert hpc_ae("verify", run_dir).returncode == 0
    (run_dir / "config.yaml").write_bytes(before.replace(b"learning_rate: 0.004", b"learning_rate: 0.001"))
    found = hpc_ae("verify", run_dir)
    assert found.returncode == 1 and "not the one that trained this model" in found.stdout
    assert "train.learning_rate: 0.004 -> 0.001" in found.stdout


@pytest.mark.parametrize("finalised", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_encode_after_another_training_is_refused(copy: Path, tmp_path: Path, finalised: bool) -> None:
    """Encoding with a retrained model beside shards of the earlier one is status 2 and names the stale shard."""
    run_dir = tmp_path / "run"
    old = model_digest(run_dir)
    for name in ("model", "checkpoints"):
        shutil.rmtree(run_dir / name)
    if not finalised:
        for name in ("manifest.json", "encoding.h5"):
            (run_dir / "encoding" / name).unlink()
    stars = f"catalog={{path: {run_dir / 'catalog'}, source: null}}"
    refused = hpc_ae("run", copy, "seed=2", stars)
    assert refused.returncode == 2
    assert "stale" in refused.stderr and "shard-00000.h5" in refused.stderr
    trained = hpc_ae("train", copy, "seed=2", stars)
    assert trained.returncode == 0, trained.stderr
    assert model_digest(run_dir) != old
    before = files(run_dir / "encoding")
    refused = hpc_ae("encode", copy, "seed=2", stars)
    assert refused.returncode == 2
    assert old in refused.stderr and model_digest(run_dir) in refused.stderr
    assert finalised or re.search(r"encoding/shard-0000\d\.h5", refused.stderr)
    assert files(run_dir / "encoding") == before
    assert hpc_ae("run", copy, "seed=2", stars, "--redo", "encode").returncode == 0
    assert encoding_model(run_dir) == model_digest(run_dir)


def test_damage_is_not_called_verified(copy: Path, tmp_path: Path) -> None:
    """An encoding that does not verify is never reported as verified: every further run says so again."""
    (tmp_path / "run" / "jobs" / "verified.json").unlink()
    view = tmp_path / "run" / "encoding" / "encoding.h5"
    view.write_bytes(view.read_bytes()[:-100])
    for _ in range(2):
        done = hpc_ae("run", copy)
        assert done.returncode == 1
        assert "has changed since it was written" in done.stderr and str(view) in done.stderr
        assert "verified:" not in done.stderr


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_dry_run_leaves_nothing(kind: str, tmp_path: Path) -> None:
    """`--dry-run` names all stages in order, starts nothing and leaves nothing behind."""
    config = write_config(tmp_path, run_dir=str(tmp_path / "runs" / "dry"), cluster={"kind": kind})
    done = hpc_ae("run", config, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(?:# )?(\w+)(?=:| \(after|$)", done.stdout, re.MULTILINE)[:1] == ["simulate"]
    places = [re.search(rf"^(# )?{stage}\b", done.stdout, re.MULTILINE) for stage in STAGES]
    assert [place.start() for place in places if place] == sorted(place.start() for place in places if place)
    assert None not in places
    assert list(tmp_path.iterdir()) == [config]


# ---- kills


def ranks(run_dir: Path, stage: str) -> list[int]:
    """Process ids of the running ranks of the job that a stage is, in rank order."""
    if not (run_dir / "checkpoints").exists() and stage == "train":
        return []
    jobs = sorted((run_dir / "jobs" / "state").glob("*/"), key=lambda path: path.stat().st_mtime)
    found = [read_json(path) for path in sorted(jobs[-1].glob("rank-*.json"))] if jobs else []
    return [record["pid"] for record in found if record["state"] == "running"]


def kill_rank(process: subprocess.Popen[str], run_dir: Path) -> None:
    """SIGKILL rank 1."""
    os.kill(ranks(run_dir, "train")[1], signal.SIGKILL)


def kill_parent(process: subprocess.Popen[str], run_dir: Path) -> None:
    """SIGKILL `hpc-ae` itself."""
    process.kill()


def press_ctrl_c(process: subprocess.Popen[str], run_dir: Path) -> None:
    """SIGINT to the whole process group, as a terminal does it."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("kill", "status", "words"),
    [
        (kill_rank, 1, "train ended without finishing: rank 1 died"),
        pytest.param(kill_parent, -signal.SIGKILL, "", marks=pytest.mark.slow),
        (press_ctrl_c, 130, "hpc-ae: interrupted"),
    ],
    ids=["rank", "parent", "ctrl-c"],
)
def test_killed_training(
    kill: Callable[[subprocess.Popen[str], Path], None], status: int, words: str, star_dir: Path, tmp_path: Path
) -> None:
    """A kill in training ends everything within seconds, leaves no process, and the same command goes on from there."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=LONG)
    run_dir = tmp_path / "run"
    process = start("run", config)
    await_sign(lambda: any(run_dir.glob("checkpoints/step-*")), process)
    assert len(ranks(run_dir, "train")) == 2
    killed = time.monotonic()
    kill(process, run_dir)
    _, text = process.communicate(timeout=150)
    assert wait_until(lambda: not run_processes(run_dir), timeout=10), run_processes(run_dir)
    assert time.monotonic() - killed < 60
    assert process.returncode == status, text
    assert words in text and "Traceback" not in text
    assert not (run_dir / "model").exists()
    done = hpc_ae("run", config)
    assert done.returncode == 0, done.stderr
    steps = [line.split('"step": ')[1].split(",")[0] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps), key=int) and steps[-1] == "1500"
    assert hpc_ae("verify", run_dir).returncode == 0


def end_group(process: subprocess.Popen[str], run_dir: Path) -> None:
    """SIGTERM to the whole process group, as Slurm, `timeout` and a container do it."""
    os.killpg(process.pid, signal.SIGTERM)


def end_parent(process: subprocess.Popen[str], run_dir: Path) -> None:
    """SIGTERM to `hpc-ae` alone."""
    process.terminate()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (end_group, 130),
        pytest.param(end_parent, 130, marks=pytest.mark.slow),
        pytest.param(kill_parent, -signal.SIGKILL, marks=pytest.mark.slow),
    ],
    ids=["group", "parent", "kill"],
)
def test_training_saves_before_it_ends(
    end: Callable[[subprocess.Popen[str], Path], None], status: int, star_dir: Path, tmp_path: Path
) -> None:
    """However a run is told to end, its ranks save what they have done since the last checkpoint, and none is left."""
    rare = {"steps": 1_000_000, "checkpoint_steps": 900_000, "checkpoint_seconds": 3600, "batch_size": 64}
    train = {**rare, "partitions": 8}
    process = start("run", write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train))
    run_dir = tmp_path / "run"
    progress = run_dir / "jobs" / "progress" / "train.json"
    await_sign(lambda: progress.exists() and read_json(progress)["done"] > 0, process)
    assert not list(run_dir.glob("checkpoints/step-*"))
    end(process, run_dir)
    _, text = process.communicate(timeout=150)
    assert process.returncode == status, text
    assert wait_until(lambda: not run_processes(run_dir), timeout=40), run_processes(run_dir)
    assert list(run_dir.glob("checkpoints/step-*"))
    shown = hpc_ae("status", run_dir)
    assert "stopped" in shown.stdout and "saved its work" in shown.stdout


def test_killed_simulation_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL of `hpc-ae` while pool workers simulate leaves none of them, and the same command completes."""
    config = write_config(tmp_path, catalog={"source": {"simulate": {"stars": 400_000}}, "shard_rows": 20_000})
    run_dir = tmp_path / "run"
    before = pool_processes()
    process = start("run", config)
    await_sign(lambda: len(list(run_dir.glob("catalog/shard-*.h5"))) > 1, process)
    assert pool_processes() - before
    process.kill()
    process.communicate(timeout=150)
    assert wait_until(lambda: not run_processes(run_dir) and not pool_processes() - before, timeout=10)
    assert not (run_dir / "catalog" / "manifest.json").exists()
    out = run_dir / "catalog"
    done = hpc_ae("simulate", out, "--stars", 400_000, "--shard-rows", 20_000)
    assert done.returncode == 0, done.stderr
    assert hpc_ae("verify", out).returncode == 0


def pool_processes() -> set[int]:
    """Process ids of all living workers of Python's process pools."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"multiprocessing" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


# ---- what the README says


def test_first_command_of_the_readme(tmp_path: Path) -> None:
    """README's first command, without its installation, finishes and says where the report and the encoding are."""
    blocks = re.findall(r"```\w*\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    first = next((block for block in blocks if "hpc-ae run" in block), None)
    assert first is not None, "README.md has no code block with hpc-ae run"
    typed = next(part.strip() for part in re.split(r"&&|\n", first) if part.strip().startswith("hpc-ae run"))
    words = shlex.split(typed, comments=True)
    assert words == ["hpc-ae", "run", "configs/quickstart.yaml"]
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    done = subprocess.run(
        [sys.executable, "-m", "hpc_ae", *words[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "quickstart"
    last = done.stderr.strip().splitlines()[-1]
    assert f"report {run_dir / 'report'}" in last and f"encoding {run_dir / 'encoding'}" in last
    assert open_catalog(run_dir / "encoding").num_stars == 200_000
    assert (run_dir / "report" / "summary.json").exists()
