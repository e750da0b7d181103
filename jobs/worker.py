"""What runs inside a launched process: the payload, its place among the ranks, its marker, its signals.

The payload is a stage's name and the path of the resolved config, nothing else. That config lies in a directory of
this launch alone (RUN_DIR/jobs/state/STAGE-TOKEN), and so do its markers: neither a reused process id nor a later
command with another config can be taken for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hpc_ae.errors import HpcAeError, WorkError
from hpc_ae.files import make_dir, publish_json

PARENT_VARIABLE = "HPC_AE_PARENT_PID"


@dataclass(frozen=True)
class StageJob:
    """A picklable callable: run one stage of one run as one task of a job."""

    stage: str
    config_path: str

    def __call__(self) -> str:
        """Run in a process that submitit started; ends it with the exit status of the contract."""
        import submitit

        environment = submitit.JobEnvironment()
        export_ranks(
            environment.global_rank,
            environment.num_tasks,
            environment.local_rank,
            environment.num_tasks // environment.num_nodes,
        )
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        state_dir = Path(self.config_path).parent
        os.environ["HPC_AE_MEETING_DIR"] = str(state_dir / f"meeting-{restart}")
        watch_parent()
        marker = Marker(marker_path(state_dir, environment.global_rank), restart)
        stop = StopFlag()
        outcome = marker.run(lambda: run_stage(self.stage, self.config_path, stop))
        if outcome == "interrupted" and "SLURM_JOB_ID" in os.environ:
            if not stop.out_of_time:
                os._exit(143)  # scancel, or a preemption after which Slurm itself requeues
            requeue(environment.global_rank)
        return outcome

    def checkpoint(self) -> Any:
        """Tell submitit that this job may be requeued as it is: all progress is in files."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def run_stage(stage: str, config_path: str, stop: StopFlag) -> str:
    """Run a stage of the run that the resolved config describes."""
    from hpc_ae.config import load_config
    from jobs.stages import STAGES

    return STAGES[stage].run(load_config(Path(config_path)), stop)


class StopFlag:
    """Set by a signal, asked at step and shard boundaries."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.out_of_time = False
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.out_of_time = self.out_of_time or number == signal.SIGUSR2
        self._event.set()

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()


class Marker:
    """A small file by which a rank says that it runs, is done, or why it failed."""

    def __init__(self, path: Path, restart: int) -> None:
        self.path, self.restart = path, restart
        make_dir(path.parent)

    def run(self, work: Any) -> str:
        """Run `work`; on an error say it in the marker and in the log, and end the process with its status."""
        self._write("running")
        try:
            outcome = str(work())
        except HpcAeError as error:
            self._fail(str(error), error.exit_status)
        except Exception as error:
            traceback.print_exc()
            self._fail(f"unexpected {type(error).__name__}: {error}", 1)
        self._write(outcome)
        return outcome

    def _fail(self, message: str, status: int) -> None:
        print(f"hpc-ae: {message}", file=sys.stderr, flush=True)
        self._write("failed", message, status)
        sys.stdout.flush()
        os._exit(status)  # not sys.exit: a process group whose other ranks wait would hold it

    def _write(self, state: str, message: str = "", status: int = 0) -> None:
        record = {
            "state": state,
            "message": message,
            "status": status,
            "restart": self.restart,
            "pid": os.getpid(),
            "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "time": time.time(),
        }
        publish_json(self.path, record)


def marker_path(state_dir: Path, rank: int) -> Path:
    """Where a rank of a launch says how it is."""
    return state_dir / f"rank-{rank:05d}.json"


def export_ranks(rank: int, world_size: int, local_rank: int, local_world_size: int) -> None:
    """Set the env:// variables that hpc_ae reads."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(world_size)
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(local_rank), str(local_world_size)


def adopt_slurm_step() -> bool:
    """True where this process is one rank already: by RANK and WORLD_SIZE, or as a task of a multi-task Slurm step."""
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return True
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1") or 1) <= 1 or "SLURM_PROCID" not in os.environ:
        return False
    num_tasks, num_nodes = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    export_ranks(
        int(os.environ["SLURM_PROCID"]), num_tasks, int(os.environ["SLURM_LOCALID"]), -(-num_tasks // num_nodes)
    )
    return True


def requeue(rank: int) -> None:
    """Put the job back into Slurm's queue (rank 0) and wait to be ended."""
    if rank == 0:
        job_id = os.environ["SLURM_JOB_ID"]
        answer = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True, timeout=60)
        if answer.returncode:
            raise WorkError("the job could not be requeued", where=f"job {job_id}", got=answer.stderr.strip())
    time.sleep(60)


def watch_parent() -> None:
    """End this process when the one that launched it has died (local runs only)."""
    pid = os.environ.get(PARENT_VARIABLE)
    if not pid:
        return

    def watch() -> None:
        try:
            descriptor = os.pidfd_open(int(pid))
            select.select([descriptor], [], [])
        except ProcessLookupError:
            pass
        kill_descendants(os.getpid())
        os._exit(143)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def kill_descendants(pid: int) -> None:
    """Kill every process that a process has started, and theirs, with SIGKILL; the process itself goes on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
