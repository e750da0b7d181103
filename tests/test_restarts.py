"""The ledger of restarts: reasons, and the end of a job that gets nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_ae.errors import WorkError
from hpc_ae.jobs.marker import Marker
from hpc_ae.jobs.restarts import note_restart, read_ledger, restart_reasons
from hpc_ae.jobs.run import WorkDone
from hpc_ae.layout import LaunchLayout

LOST = Marker(state="running", host="n3")
SAVED = Marker(state="interrupted", host="n3", message="its time limit was near")


def start(folder: Path, monkeypatch: pytest.MonkeyPatch, restart: int, done: int, before: Marker | None) -> None:
    """A start of the job's first rank."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    note_restart(LaunchLayout(folder), 0, WorkDone(done, 0, "step"), before)


def test_four_starts_without_progress_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three restarts that get nowhere are too many; the error says how often, where it stands, why it began again."""
    start(tmp_path, monkeypatch, 0, 0, None)
    start(tmp_path, monkeypatch, 1, 500, LOST)
    for restart in (2, 3):
        start(tmp_path, monkeypatch, restart, 500, SAVED)
    with pytest.raises(WorkError, match=r"started 4 times without progress[\s\S]*500 steps[\s\S]*time limit was near"):
        start(tmp_path, monkeypatch, 4, 500, SAVED)


def test_progress_is_always_allowed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that finishes something between its starts may begin as often as it likes, with its reasons in order."""
    start(tmp_path, monkeypatch, 0, 0, None)
    for restart in range(1, 12):
        start(tmp_path, monkeypatch, restart, restart // 3, SAVED if restart % 2 else LOST)
    reasons = restart_reasons(LaunchLayout(tmp_path), (0,))
    assert len(reasons) == 11 and reasons[0] == "its time limit was near" and reasons[1].startswith("n3 was lost")


def test_line_of_a_killed_writer_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line at the end does not keep a job from starting."""
    start(tmp_path, monkeypatch, 0, 0, None)
    with LaunchLayout(tmp_path).starts_path(0).open("a") as file:
        file.write('{"restart": 1, "ti')
    assert len(read_ledger(LaunchLayout(tmp_path), 0)) == 1
    start(tmp_path, monkeypatch, 1, 0, LOST)
    assert read_ledger(LaunchLayout(tmp_path), 0)[0].why == "first start"
