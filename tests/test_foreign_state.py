"""State files of a run that somebody else has made: no program is given their words, no process of another is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import in_process

from hpc_ae.errors import DamageError
from hpc_ae.files import make_dir, publish_json
from hpc_ae.jobs.launched import Launched, launched_before, record_launch
from hpc_ae.jobs.marker import host_name, process_table, started_at
from hpc_ae.layout import RunLayout


def unpack(run_dir: Path, **changes: Any) -> RunLayout:
    """A run directory with the record of a training, in which some fields say something else."""
    layout = RunLayout(run_dir)
    files = layout.launch("train", "x")
    make_dir(files.launch_dir)
    layout.config_path.write_text(f"run_dir: {run_dir}\n")
    record_launch(Launched("train", "srun-1", layout, files, 1))
    path = layout.launch_path("train")
    publish_json(path, {**json.loads(path.read_text()), **changes})
    return layout


@pytest.mark.parametrize(
    "changes",
    [
        {"job_id": "--user=root", "local": False},
        {"job_id": "../../../secret"},
        {"job_id": "1\n2"},
        {"job_id": ""},
        {"state_dir": "../elsewhere"},
        {"state_dir": "/etc"},
        {"tasks": 10**9},
        {"tasks": 0},
        {"tasks": -1},
        {"parts": [10**9]},
        {"parts": [-1]},
        {"parts": []},
        {"tasks": 2000, "parts": list(range(1000))},
    ],
    ids=str,
)
def test_forged_record_is_refused(tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that reads what was launched names the record, and does nothing."""
    layout = unpack(tmp_path / "run", **changes)
    with pytest.raises(DamageError, match=r"train\.json"):
        launched_before(layout, "train")
    for verb in ("status", "cancel", "logs"):
        found, said = in_process(capsys, verb, layout.run_dir)
        assert found == 1 and "train.json" in said


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that is no rank."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("job_id", ["41", "srun-1"])
def test_forged_marker_ends_nothing(
    tmp_path: Path, stranger: subprocess.Popen[bytes], job_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`cancel` looks at the process itself, not at what the marker says of it."""
    layout = unpack(tmp_path / "run", job_id=job_id, started=started_at(os.getpid()))
    record = {"state": "running", "pid": stranger.pid, "started": started_at(stranger.pid), "host": host_name()}
    marker = {**record, "processes": process_table(), "time": time.time()}
    publish_json(layout.launch("train", "x").marker_path(0), marker)
    found, _ = in_process(capsys, "cancel", layout.run_dir)
    assert found == 0
    time.sleep(0.3)
    assert stranger.poll() is None
    os.kill(stranger.pid, signal.SIGTERM)  # it would have ended
    assert stranger.wait(10) == -signal.SIGTERM


def test_log_that_is_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`logs` follows no link out of the run."""
    layout = unpack(tmp_path / "run", job_id="41")
    secret = tmp_path / "secret"
    secret.write_text("the key\n")
    make_dir(layout.logs_dir)
    layout.log_path("41", 0).symlink_to(secret)
    found, said = in_process(capsys, "logs", layout.run_dir, "train")
    assert found == 1 and "not a regular file" in said and "the key" not in said
