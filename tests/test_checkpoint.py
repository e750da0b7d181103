"""A checkpoint is whole or not there; the newest whole one is found; old ones go."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from hpc_ae.errors import DamageError, HpcAeError, WorkError
from hpc_ae.layout import list_checkpoints
from hpc_ae.runtime.checkpoint import (
    Checkpoint,
    CheckpointState,
    load_checkpoint,
    load_newest_checkpoint,
    save_checkpoint,
)
from hpc_ae.runtime.metrics import Measurement, Metrics


def tensors_of(step: int) -> dict[str, dict[str, Tensor]]:
    """What a training might save at a step."""
    generator = torch.Generator().manual_seed(step)
    return {name: {"weight": torch.randn(7, 3, generator=generator)} for name in ("model", "optimizer", "best")}


def state_of(step: int) -> CheckpointState:
    """The numbers of a training at a step."""
    return CheckpointState(
        loss_sum=0.1 * step, loss_steps=1, best_step=step, best_mse=0.5, lowest_mse=None, fingerprint={}, step=step
    )


def save(directory: Path, *steps: int, keep: int = 9) -> None:
    """Save checkpoints of some steps."""
    for step in steps:
        save_checkpoint(directory, Checkpoint(state_of(step), **tensors_of(step)), keep)


def newest_step(directory: Path) -> int | None:
    """Step of the checkpoint that a restart would take."""
    found = load_newest_checkpoint(directory)
    return None if found is None else found.state.step


def test_round_trip(tmp_path: Path) -> None:
    """State and tensors come back bit by bit, in the layout of the contract."""
    save(tmp_path, 12_000)
    names = {path.name for path in (tmp_path / "step-000012000").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json"}
    found = load_checkpoint(tmp_path / "step-000012000")
    assert (found.state.step, found.state.loss_sum) == (12_000, 0.1 * 12_000)
    assert (found.state.best_mse, found.state.lowest_mse) == (0.5, None)
    for name, group in tensors_of(12_000).items():
        assert torch.equal(found.groups()[name]["weight"], group["weight"])


def test_none_at_all(tmp_path: Path) -> None:
    """No directory and an empty directory are a fresh start."""
    assert newest_step(tmp_path / "checkpoints") is None
    assert newest_step(tmp_path) is None


def test_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    """Step 1,000,000,000 is newer than step 999,999,999, though its name sorts before."""
    save(tmp_path, 1_000_000_000, 999_999_999)
    assert newest_step(tmp_path) == 1_000_000_000


def test_keep(tmp_path: Path) -> None:
    """The newest `keep` stay, and other things in the directory too."""
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, 10, 20, 30, 40, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000030", "step-000000040"]
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_damaged_newest_falls_back(tmp_path: Path, name: str, how: str) -> None:
    """Any file of the newest checkpoint flipped, cut short or lost: the one before is taken."""
    save(tmp_path, 10, 20)
    path = tmp_path / "step-000000020" / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) * 2 // 3] ^= 1
        path.write_bytes(data)
    elif how == "truncate":
        path.write_bytes(data[:-1] if name != "state.json" else data[:-9])
    else:
        path.unlink()
    with pytest.raises(HpcAeError):
        load_checkpoint(path.parent)
    assert newest_step(tmp_path) == 10


def test_all_damaged(tmp_path: Path) -> None:
    """Where every checkpoint is damaged a restart does not silently begin at the start."""
    save(tmp_path, 10, 20)
    for path in list_checkpoints(tmp_path):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamageError, match="step-000000020"):
        load_newest_checkpoint(tmp_path)


def test_debris_of_a_killed_writer(tmp_path: Path) -> None:
    """What a killed process left half done is no checkpoint, and the next save removes it."""
    save(tmp_path, 10)
    debris = tmp_path / ".step-000000020.tmp-99999999"
    shutil.copytree(tmp_path / "step-000000010", debris)
    assert newest_step(tmp_path) == 10
    save(tmp_path, 20)
    assert not debris.exists() and newest_step(tmp_path) == 20


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A disk that is full is a WorkError; the checkpoint before it is still the newest, and no debris is left."""
    save(tmp_path, 10)
    with mock.patch("os.write", side_effect=OSError(28, "No space left on device")), pytest.raises(WorkError):
        save(tmp_path, 20)
    assert newest_step(tmp_path) == 10
    assert os.listdir(tmp_path) == ["step-000000010"]  # noqa: PTH208 (hidden names too)


def test_saving_a_step_again(tmp_path: Path) -> None:
    """A step that is there already is replaced: a restart from the one before a damaged one comes there again."""
    save(tmp_path, 10)
    (tmp_path / "step-000000010" / "model.safetensors").write_bytes(b"")
    save(tmp_path, 10)
    assert newest_step(tmp_path) == 10


def measured(step: int, train_mse_mag2: float) -> Measurement:
    """A line of the metrics."""
    return Measurement(
        step=step,
        epoch=1.0,
        learning_rate=0.1,
        train_mse_mag2=train_mse_mag2,
        validation_mse_mag2=None,
        stars_per_second=1,
    )


def test_metrics_are_cut_at_a_restart(tmp_path: Path) -> None:
    """Lines after the checkpoint's step and a half-written line go; no step occurs twice."""
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        for step in (10, 20, 30):
            metrics.write(measured(step, 0.5))
    with path.open("a") as file:
        file.write('{"step": 15, "tra')
    with Metrics(path, 20) as metrics:
        metrics.write(measured(30, 0.25))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30] and lines[-1]["train_mse_mag2"] == 0.25
