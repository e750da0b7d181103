"""Kills at random moments: no star lost or doubled, and a resumed training is the uninterrupted one bit for bit.

The long forms (`-m slow`) are those that docs/reliability.md quotes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import hpc_ae, run_processes, start
from runs import (
    assert_same_training,
    encode,
    finalise,
    finish,
    make_catalog,
    make_config,
    make_random_model,
    metrics_of,
    start_rank,
    write_config,
)

from hpc_ae import open_catalog
from hpc_ae.config import RunConfig
from hpc_ae.errors import HpcAeError
from hpc_ae.files import digest_file, read_json
from hpc_ae.runtime.ranks import Ranks

pytestmark = pytest.mark.timeout(1800)
NUM_SHARDS = 150


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """30,000 stars in 150 shards, encoded without interruption."""
    directory = tmp_path_factory.mktemp("whole")
    stars = make_catalog(directory / "catalog", 200 * NUM_SHARDS, 200)
    model_dir = make_random_model(directory / "model", stars)
    config = make_config(directory / "run", stars, encode={"model": str(model_dir)})
    assert encode(config, Ranks()) == "done"
    finalise(config)
    return config


def shards(config: RunConfig) -> dict[str, tuple[int, int]]:
    """Inode and time of each encoding shard: whoever computes it again changes them."""
    paths = config.encoding_path.glob("shard-*.h5")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def names_in(directory: Path) -> list[str]:
    """Names of all files, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())


def wait_for_shards(config: RunConfig, goal: int, processes: list[subprocess.Popen[str]]) -> None:
    """Return when so many shards are there, or all processes have ended."""
    while len(shards(config)) < goal and any(process.poll() is None for process in processes):
        time.sleep(0.002)


def kill_some(processes: list[subprocess.Popen[str]], chance: random.Random) -> None:
    """SIGKILL to one process, or to all."""
    for process in processes if chance.random() < 0.5 else [chance.choice(processes)]:
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("num_kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_encoding(whole: RunConfig, tmp_path: Path, num_kills: int) -> None:
    """After SIGKILLs to one of two ranks or to both, at random moments from their start on: every dataset is bitwise
    that of the uninterrupted run, no finished shard is computed again, no debris is left.
    """
    config = make_config(tmp_path / "run", whole.catalog_path, encode={"model": str(whole.model_path)})
    path, chance = write_config(config), random.Random(num_kills)
    for kill in range(num_kills):
        before = shards(config)
        places = [Ranks(rank, 2, rank, 2) for rank in range(2)]
        processes = [start_rank(["-m", "hpc_ae", "encode", str(path)], place) for place in places]
        if chance.random() < 0.15:
            time.sleep(chance.uniform(0, 2.5))  # anywhere, starting up included
        else:
            wait_for_shards(config, (kill + 1) * NUM_SHARDS // (num_kills + 1), processes)
            time.sleep(chance.uniform(0, 0.004))
        kill_some(processes, chance)
        for process in processes:
            process.kill()
        finish(processes)
        assert before.items() <= shards(config).items()
    left = shards(config)
    done = hpc_ae("encode", path)
    assert done.returncode == 0, done.stderr
    assert left.items() <= shards(config).items()
    assert names_in(config.encoding_path) == names_in(whole.encoding_path)
    ours, theirs = open_catalog(config.encoding_path), open_catalog(whole.encoding_path)
    assert ours.num_stars == theirs.num_stars == 200 * NUM_SHARDS
    for name in theirs.columns:
        assert np.asarray(ours[name][:]).tobytes() == np.asarray(theirs[name][:]).tobytes(), name


@pytest.mark.parametrize(
    ("world_size", "num_kills"),
    [(2, 2), pytest.param(1, 20, marks=pytest.mark.slow), pytest.param(2, 20, marks=pytest.mark.slow)],
)
def test_killed_training(tmp_path: Path, world_size: int, num_kills: int) -> None:
    """After SIGKILLs to a rank or to `hpc-ae` itself: weights, optimizer, best model and metrics.jsonl are those of the
    uninterrupted run at the same world size, no line twice, no debris.
    """
    stars = make_catalog(tmp_path / "catalog")
    num_steps = min(12_000, 2_000 * num_kills) // world_size
    settings = {"steps": num_steps, "checkpoint_steps": 40, "validations": 50, "keep_checkpoints": 2}
    expected, config = (make_config(tmp_path / name, stars, **settings) for name in ("expected", "killed"))
    ranks = f"cluster.ranks_per_node={world_size}"
    assert hpc_ae("train", write_config(expected), ranks).returncode == 0
    path, chance = write_config(config), random.Random(num_kills)
    for kill in range(num_kills):
        process = start("train", path, ranks)
        wait_for_step(config, (kill + 1) * num_steps // (num_kills + 2), process)
        time.sleep(chance.uniform(0, 0.05))
        kill_a_rank(config, process, chance)
        process.communicate(timeout=150)
        deadline = time.monotonic() + 60
        while run_processes(config.run_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not run_processes(config.run_path)
    done = hpc_ae("train", path, ranks)
    assert done.returncode == 0, done.stderr
    assert_same_training(config, expected)
    steps = [line["step"] for line in metrics_of(config)]
    assert steps == sorted(set(steps)) and steps[-1] == num_steps
    assert not [path for name in ("checkpoints", "model") for path in (config.run_path / name).rglob(".*")]
    for name in ("model", "optimizer", "best"):
        newest = f"checkpoints/step-{num_steps:09d}/{name}.safetensors"
        assert digest_file(config.run_path / newest) == digest_file(expected.run_path / newest)


def wait_for_step(config: RunConfig, step: int, process: subprocess.Popen[str]) -> None:
    """Return when a checkpoint of this step or a later one is there, or the process has ended."""
    while process.poll() is None:
        if max((path.name for path in config.run_path.glob("checkpoints/step-*")), default="") >= f"step-{step:09d}":
            return
        time.sleep(0.005)


def kill_a_rank(config: RunConfig, process: subprocess.Popen[str], chance: random.Random) -> None:
    """SIGKILL to a rank of the newest launch, or to the command that started them all."""
    record = read_json(config.run_path / "jobs" / "state" / "train.json")
    markers = list((config.run_path / "jobs" / "state" / record["state_dir"]).glob("rank-*.json"))
    try:
        victims = [read_json(marker)["pid"] for marker in markers]
    except HpcAeError:
        victims = []
    with_parent = [*victims, process.pid]
    os.kill(chance.choice(with_parent), signal.SIGKILL)
