"""What runs inside a launched process: the payload, its place among the ranks, its signals, and who says how it ended.

What a job is to do is words (jobs/start.py), nothing that is code. Its config lies in a directory of this launch alone
(RUN_DIR/jobs/state/STAGE-TOKEN), and so do its markers: neither a reused process id nor a later command with another
config can be taken for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hpc_ae.errors import HpcAeError, LostConnection
from hpc_ae.files import make_dir, publish_json
from hpc_ae.jobs.clock import time_at
from hpc_ae.jobs.marker import Marker, State, host_name, process_table, read_marker, started_at
from hpc_ae.jobs.requeue import job_number, not_requeued, requeue_saved
from hpc_ae.layout import LaunchLayout
from hpc_ae.runtime.ranks import MEETING_VARIABLE, forget_ranks

PARENT_VARIABLE = "HPC_AE_PARENT_PID"
SIGN_SECONDS = 20.0
SAVE_SECONDS = 30.0  # that ranks on this machine have to save their work when the command that started them ends
_LOST_SECONDS = 3.0  # in which the rank that went says why, or is found dead: that is the error


@dataclass(frozen=True)
class StageJob:
    """Run one stage of one run as one task of a job, or of one of the jobs of an array."""

    stage: str
    files: LaunchLayout
    digest: str  # of its config: a job that starts hours later runs what was submitted, or nothing
    part: int = 0
    num_parts: int = 1

    def __call__(self, stop: StopFlag) -> str:
        """Run in a process that submitit started; ends it with the exit status of the contract."""
        rank, restart = self._take_place(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        print(f"{self.stage}: rank {rank} of {os.environ['WORLD_SIZE']} on {host_name()}", flush=True)
        files = self.files
        os.environ[MEETING_VARIABLE] = str(files.meeting_dir(self.part, restart))
        watch_parent()
        reporter = Reporter(files.marker_path(rank), restart, has_aftermath="SLURM_JOB_ID" in os.environ)
        before = read_marker(reporter.path)
        outcome = reporter.run(lambda: self._run(files, stop, reporter, before), stop)
        if outcome == "interrupted" and "SLURM_JOB_ID" in os.environ:
            if stop.out_of_time:
                said = requeue_saved(files.requeue_path(job_number(), restart), self._neighbours(files))
                if said:
                    reporter.fail(not_requeued(f"{stop.reason}, and it saved its work", said), 1)
            os._exit(143)  # scancel, or a preemption, which the batch script answers (aftermath.py)
        return outcome

    def _take_place(self) -> int:
        """Set the env:// variables of this task among the ranks of all parts, one GPU to each; returns its rank."""
        import submitit

        forget_ranks()  # where the user's shell said that others meet
        here = submitit.JobEnvironment()
        rank, world_size = self.part * here.num_tasks + here.global_rank, self.num_parts * here.num_tasks
        export_ranks(rank, world_size, here.local_rank, here.num_tasks // here.num_nodes, here.node)
        take_one_gpu(here.local_rank)
        return rank

    def _run(self, files: LaunchLayout, stop: StopFlag, reporter: Reporter, before: Marker | None) -> str:
        from hpc_ae.config import load_config
        from hpc_ae.jobs.restarts import note_restart
        from hpc_ae.jobs.stages import STAGES, make_run
        from hpc_ae.jobs.watchdog import start_watchdog

        run, stage = make_run(load_config(files.config_path, digest=self.digest)), STAGES[self.stage]
        if stage.kind != "ranks":
            stop.call_at_once(reporter.end)  # nothing in it asks whether it should stop
            return stage.run(run, stop)
        start_watchdog(reporter.path, int(os.environ["RANK"]), run.config.cluster.stall_seconds)
        if int(os.environ["RANK"]) % self._tasks() == 0:
            note_restart(files, self.part, stage.done_so_far(run), before)
        return stage.run(run, stop)

    def _tasks(self) -> int:
        return int(os.environ["WORLD_SIZE"]) // self.num_parts

    def _neighbours(self, files: LaunchLayout) -> list[Path]:
        """The markers of the ranks of this job."""
        first = self.part * self._tasks()
        return [files.marker_path(rank) for rank in range(first, first + self._tasks())]


class StopFlag:
    """Set by a signal, asked at step and shard boundaries; work that never asks is ended at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.out_of_time = False
        self._terminated = False
        self._end: Callable[[str], NoReturn] | None = None
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.out_of_time = self.out_of_time or number == signal.SIGUSR2
        self._terminated = self._terminated or number == signal.SIGTERM
        self._event.set()
        self._end_if_told()

    def call_at_once(self, end: Callable[[str], NoReturn]) -> None:
        """Call this on SIGTERM from now on; now, where it has come already."""
        self._end = end
        self._end_if_told()

    def _end_if_told(self) -> None:
        if self._end is not None and self._terminated:
            self._end(self.reason)

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Why, in words."""
        return (
            "its time limit was near" if self.out_of_time else "it was asked to stop (cancelled, preempted or requeued)"
        )


class Reporter:
    """Says in a rank's marker how its work goes and ends."""

    def __init__(self, path: Path, restart: int, *, has_aftermath: bool = False) -> None:
        self.path, self.restart, self.has_aftermath = path, restart, has_aftermath
        self._ahead = time.time() - time_at(make_dir(path.parent))

    def run(self, work: Callable[[], str], stop: StopFlag) -> str:
        """Run `work`; on an error say it in the marker and in the log, and end the process with its status."""
        self._write("running")
        threading.Thread(target=self._show_life, name="sign-of-life", daemon=True).start()
        try:
            outcome = work()
        except LostConnection as error:
            if not self.has_aftermath:
                time.sleep(_LOST_SECONDS)
            self.fail(str(error), error.exit_status, "disconnected" if self.has_aftermath else "failed")
        except HpcAeError as error:
            self.fail(str(error), error.exit_status)
        except Exception as error:
            traceback.print_exc()
            self.fail(f"unexpected {type(error).__name__}: {error}", 1)
        if outcome == "interrupted":
            self._write("interrupted", f"{stop.reason}, and saved its work")
        else:
            self._write("done")
        return outcome

    def _show_life(self) -> None:
        """Give the marker a new time now and then, for who cannot see this process: from another machine."""
        while True:
            time.sleep(SIGN_SECONDS)
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def end(self, reason: str) -> NoReturn:
        """End this process and what it has started."""
        self._write("interrupted", reason)
        kill_descendants(os.getpid())
        os._exit(143)

    def fail(self, message: str, status: int, state: State = "failed") -> NoReturn:
        """Say why in the log and in the marker, and end this process."""
        print(f"hpc-ae: {message}", file=sys.stderr, flush=True)
        self._write(state, message, status)
        sys.stdout.flush()
        os._exit(status)  # not sys.exit: a process group whose other ranks wait would hold it

    def _write(self, state: State, message: str = "", status: int = 0) -> None:
        marker = Marker(
            state=state,
            message=message,
            status=status,
            restart=self.restart,
            pid=os.getpid(),
            started=started_at(os.getpid()),
            host=host_name(),
            processes=process_table(),
            has_aftermath=self.has_aftermath,
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            time=time.time(),
            ahead=self._ahead,
        )
        publish_json(self.path, marker.to_json())


def export_ranks(rank: int, world_size: int, local_rank: int, local_world_size: int, node: int) -> None:
    """Set the env:// variables that hpc_ae reads, under torchrun's names."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(world_size)
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(local_rank), str(local_world_size)
    os.environ["GROUP_RANK"] = str(node)


def take_one_gpu(local_rank: int) -> None:
    """Leave one of the GPUs that the launcher gave to this node's tasks to this task."""
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank % len(devices)]


def watch_parent() -> None:
    """End this process when the one that launched it has died (local runs only): it is asked to save, then killed."""
    pid = os.environ.get(PARENT_VARIABLE)
    if not pid:
        return

    def watch() -> None:
        try:
            descriptor = os.pidfd_open(int(pid))
            select.select([descriptor], [], [])
        except ProcessLookupError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVE_SECONDS)
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
