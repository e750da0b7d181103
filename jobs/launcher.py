"""The one launcher: submitit's local and Slurm executors behind the same few functions."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from hpc_ae.config import ClusterSection, RunConfig, dump_config
from hpc_ae.errors import HpcAeError, InputError, WorkError
from hpc_ae.files import make_dir, publish_bytes, publish_json, read_json
from hpc_ae.provenance import COMMAND_VARIABLE, command_line
from jobs.stages import Stage, num_workers, ranks_per_node
from jobs.worker import PARENT_VARIABLE, StageJob, kill_descendants, marker_path

_POLL_SECONDS = 0.1
_SCHEDULER_SECONDS = 60.0
_GRACE_SECONDS = 2.0
_LEAKING = re.compile(r"^(SLURM|SLURMD|SRUN|SBATCH|PMI|PMIX|OMPI|SUBMITIT)_")


@dataclass
class Launched:
    """A job that was started here or submitted to Slurm."""

    stage: str
    job_id: str
    num_tasks: int
    run_dir: Path
    state_dir: Path
    job: Any = None
    local: bool = True
    asked_at: float = field(default_factory=time.monotonic)

    def markers(self) -> list[dict[str, Any]]:
        """What each rank says of itself, in rank order; ranks that have not started yet are left out."""
        paths = [marker_path(self.state_dir, rank) for rank in range(self.num_tasks)]
        found = []
        for path in paths:
            with contextlib.suppress(HpcAeError):
                found.append(read_json(path))
        return found

    def log_path(self, rank: int = 0) -> Path:
        """Standard error of a rank."""
        return self.run_dir / "jobs" / "logs" / f"{self.job_id}_{rank}_log.err"


def config_path(run_dir: Path) -> Path:
    """The resolved config of a run."""
    return run_dir / "config.yaml"


def launch_record(run_dir: Path, stage: str) -> Path:
    """Says which launch of a stage is the newest."""
    return run_dir / "jobs" / "state" / f"{stage}.json"


def num_tasks(stage: Stage, config: RunConfig) -> tuple[int, int]:
    """(nodes, tasks on each node) of a stage."""
    ranks = ranks_per_node(config, stage.name)
    if config.cluster.kind == "local":
        return 1, ranks if stage.kind == "ranks" else 1
    return (1, 1) if stage.kind == "single" else (config.cluster.nodes, ranks)


def make_executor(stage: Stage, config: RunConfig, depends_on: str | None = None) -> Any:
    """A submitit executor with everything that a stage asks for."""
    folder = config.run_path / "jobs" / "logs"
    _, tasks = num_tasks(stage, config)
    if config.cluster.kind == "local":
        executor: Any = submitit.LocalExecutor(folder=folder)
        executor.update_parameters(
            tasks_per_node=tasks,
            gpus_per_node=config.cluster.gpus_per_node,
            timeout_min=60 * 24 * 365,
            signal_delay_s=1,
        )
        return executor
    try:
        executor = submitit.SlurmExecutor(folder=folder)
    except RuntimeError as error:  # no srun
        raise InputError(
            "Slurm is not on this machine",
            where="cluster.kind",
            got="no srun on PATH",
            fix="cluster.kind=local, or a login node",
        ) from error
    executor.update_parameters(**slurm_parameters(stage, config, depends_on))
    return executor


class _ScriptWriter(submitit.SlurmExecutor):
    """Writes batch scripts, submits nothing."""

    @classmethod
    def affinity(cls) -> int:
        """Always there, unlike an executor that submits."""
        return 1


def slurm_parameters(stage: Stage, config: RunConfig, depends_on: str | None) -> dict[str, Any]:
    """sbatch's and srun's options for a stage."""
    cluster = config.cluster
    nodes, tasks = num_tasks(stage, config)
    names = ("partition", "account", "qos", "constraint", "mem")
    chosen = {name: getattr(cluster, name) for name in names if getattr(cluster, name) is not None}
    more: dict[str, Any] = {"requeue": True}
    if cluster.reservation:
        more["reservation"] = cluster.reservation
    if depends_on:
        more |= {"dependency": f"afterok:{depends_on}", "kill-on-invalid-dep": "yes"}
    if cluster.gpus_per_node and stage.kind == "ranks":
        chosen["gpus_per_node"] = cluster.gpus_per_node
    cores = num_workers(config) if stage.kind == "single" else cluster.cpus_per_task
    mpi = [f"--mpi={cluster.mpi}"] if stage.kind == "mapped" and nodes * tasks > 1 else []
    return {
        **chosen,
        "job_name": f"hpc-ae-{stage.name}",
        "time": cluster.time,
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": cores,
        "signal_delay_s": 90,
        "setup": [*cluster.setup, *_environment_lines(cluster)] or None,
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cores}", *mpi],
        "additional_parameters": more,
    }


def _environment_lines(cluster: ClusterSection) -> list[str]:
    lines = [f"export OMP_NUM_THREADS={cluster.cpus_per_task}"]
    if cluster.network_interface:
        lines += [f"export {name}_SOCKET_IFNAME={cluster.network_interface}" for name in ("GLOO", "NCCL")]
    return lines


def batch_script(stage: Stage, config: RunConfig, depends_on: str | None = None) -> str:
    """The batch script that Slurm would get; Slurm need not be on this machine."""
    executor = _ScriptWriter(folder=config.run_path / "jobs" / "logs")
    executor.update_parameters(**slurm_parameters(stage, config, depends_on))
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def launch(stage: Stage, config: RunConfig, depends_on: str | None = None, *, attached: bool = True) -> Launched:
    """Start a stage here, or submit it to Slurm. `attached`: local children die with this process."""
    make_dir(config.run_path / "jobs" / "logs")
    executor = make_executor(stage, config, depends_on)
    state_dir = make_dir(config.run_path / "jobs" / "state" / f"{stage.name}-{secrets.token_hex(8)}")
    publish_bytes(config_path(state_dir), dump_config(config).encode())
    payload = StageJob(stage.name, str(config_path(state_dir)))
    local = config.cluster.kind == "local"
    nodes, tasks = num_tasks(stage, config)
    with _environment(attached and local), _deaf_to_interrupts(local):
        try:
            job = executor.submit(payload)
        except (submitit.core.utils.FailedJobError, FileNotFoundError, RuntimeError, OSError) as error:
            raise _submission_error(stage, error) from error
    launched = Launched(stage.name, str(job.job_id), nodes * tasks, config.run_path, state_dir, job, local)
    record = {"job_id": launched.job_id, "num_tasks": launched.num_tasks, "local": local, "state_dir": state_dir.name}
    publish_json(launch_record(config.run_path, stage.name), record)
    return launched


def _submission_error(stage: Stage, error: Exception) -> HpcAeError:
    lines = [line for line in str(error).splitlines() if "error" in line.lower()] or str(error).splitlines()[-3:]
    return InputError(f"the {stage.name} job was not accepted", where="sbatch", got=" ".join(lines)[:500])


@contextlib.contextmanager
def _deaf_to_interrupts(local: bool) -> Iterator[None]:
    """Children started here ignore Ctrl-C, which a terminal sends to all of them: this process alone ends them."""
    if not local or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _environment(attached: bool) -> Iterator[None]:
    """The environment that jobs start with: none of an enclosing allocation's variables, this package importable."""
    before = dict(os.environ)
    for name in list(os.environ):
        if _LEAKING.match(name) and name != "SLURM_CONF":
            del os.environ[name]
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, before.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault(COMMAND_VARIABLE, command_line())
    os.environ.pop(PARENT_VARIABLE, None)
    if attached:
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def wait(launched: Launched, watch: Callable[[], None] = lambda: None) -> None:
    """Wait until every rank is done; at the first that fails, end the others and raise its error."""
    while True:
        watch()
        markers = launched.markers()
        failed = [marker for marker in markers if marker["state"] == "failed"]
        if failed:
            cancel(launched)
            first = min(failed, key=lambda marker: float(marker["time"]))
            raise _stage_error(launched, str(first["message"]), int(first["status"]))
        if len(markers) == launched.num_tasks and all(marker["state"] == "done" for marker in markers):
            return
        if (reason := _gone(launched, markers)) is not None:
            cancel(launched)
            raise WorkError(f"{launched.stage} ended without finishing: {reason}", where=launched.log_path())
        time.sleep(_POLL_SECONDS if launched.local else 10 * _POLL_SECONDS)


def _stage_error(launched: Launched, message: str, status: int) -> HpcAeError:
    error: HpcAeError = InputError(message) if status == 2 else WorkError(message)
    error.args = (f"{launched.stage} failed: {message}\n  log:      {launched.log_path()}",)
    return error


def _gone(launched: Launched, markers: list[dict[str, Any]]) -> str | None:
    """Why the job will never finish, where that is known; None while it may."""
    if launched.local:
        return _gone_locally(launched, markers)
    if time.monotonic() - launched.asked_at < _SCHEDULER_SECONDS:
        return None
    launched.asked_at = time.monotonic()
    if jobs_in_queue([launched.job_id]):
        return None
    time.sleep(_GRACE_SECONDS)
    states = [marker["state"] for marker in launched.markers()]
    return (
        None if states.count("done") == launched.num_tasks else "the job left Slurm's queue (cancelled, or out of time)"
    )


def jobs_in_queue(job_ids: list[str]) -> list[str]:
    """Which of these jobs Slurm still has queued or running; none where Slurm does not answer."""
    command = ["squeue", "--noheader", "--jobs", ",".join(job_ids), "--format", "%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [job_id for job_id in job_ids if job_id in answer.stdout.split()]


def _gone_locally(launched: Launched, markers: list[dict[str, Any]]) -> str | None:
    for rank, marker in enumerate(markers):
        if marker["state"] == "interrupted":
            return "it was asked to stop, and saved its work; the same command goes on from there"
        if marker["state"] == "running" and not Path(f"/proc/{marker['pid']}").exists():
            time.sleep(_GRACE_SECONDS / 4)
            now = launched.markers()
            if rank < len(now) and now[rank]["state"] == "running":
                return f"rank {rank} died (killed, perhaps for want of memory)"
    if launched.job is not None and launched.job.done() and len(markers) < launched.num_tasks:
        time.sleep(_GRACE_SECONDS / 4)
        if len(launched.markers()) < launched.num_tasks:
            return "a rank did not start: " + _last_line(launched.log_path())
    return None


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "its log is empty"
    return "it left no log"


def cancel(launched: Launched) -> None:
    """End a job: the ranks that still run are killed, and here whatever they have started."""
    if not launched.local:
        with contextlib.suppress(Exception):
            launched.job.cancel(check=False)
        return
    process = getattr(launched.job, "_process", None)  # submitit's own cancel prints a traceback of its controller
    if process is not None and process.poll() is None:
        os.kill(process.pid, signal.SIGSTOP)  # it starts nothing more
        kill_descendants(process.pid)
        process.kill()
        process.wait()


def say(text: str) -> None:
    """One line for the user, on standard error."""
    print(text, file=sys.stderr, flush=True)
