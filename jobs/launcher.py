"""The one launcher: submitit's local and Slurm executors behind the same few functions."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import submitit

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.errors import HpcAeError, InputError, WorkError
from hpc_ae.files import is_full, make_dir, publish_bytes, write_error
from hpc_ae.interpreter import forget_safe_path, same_path
from hpc_ae.jobs.launched import LAUNCH_VARIABLE, Launched, check_run_dir, record_launch
from hpc_ae.jobs.marker import Marker, read_marker
from hpc_ae.jobs.resources import num_tasks
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.jobs.scheduler import ASK_SECONDS, ask, is_alive
from hpc_ae.jobs.slurm import slurm_executor, submission_error
from hpc_ae.jobs.slurm_clients import is_option, scancel
from hpc_ae.jobs.start import start_words
from hpc_ae.jobs.worker import PARENT_VARIABLE, SAVE_SECONDS, kill_descendants
from hpc_ae.provenance import COMMAND_VARIABLE, command_line

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 2.0
_PAYLOAD_BYTES = 1 << 16  # what a launch writes before its work: config, payload, marker, log
_LEAKING = re.compile(r"(SLURMD|PMI|PMIX|OMPI|SUBMITIT)_|MPI_LOCAL")


class LocalExecutor(submitit.LocalExecutor):
    """submitit's executor on this machine, with our words for what the ranks run: no pickle. See ChainExecutor."""

    words = ""

    @property
    def _submitit_command_str(self) -> str:
        return self.words

    def start(self) -> Any:
        """Start the ranks; submitit's job."""
        return self._submit_command(self._submitit_command_str)


def _local_executor(stage: Stage, config: RunConfig) -> Any:
    executor = LocalExecutor(folder=config.layout.logs_dir)
    executor.update_parameters(
        tasks_per_node=num_tasks(config, stage.name, stage.kind)[1],
        gpus_per_node=config.cluster.of_stage(stage.name).gpus_per_node,
        timeout_min=60 * 24 * 365,
        signal_delay_s=1,
    )
    executor.words = shlex.join(start_words(stage.name, config))
    return executor


def launch(stage: Stage, run: Run, depends_on: str | None = None, *, attached: bool = True) -> Launched:
    """Start a stage here, or submit what is left of it to Slurm. `attached`: local children die with this process."""
    config, layout = run.config, run.layout
    check_run_dir(layout)
    make_dir(layout.logs_dir)
    _stand_somewhere(layout.run_dir)
    local = config.cluster.kind == "local"
    parts = (0,) if local else parts_left(stage, run)
    executor = _local_executor(stage, config) if local else slurm_executor(stage, config, len(parts))
    executor.depends_on = depends_on
    files = layout.launch(stage.name, secrets.token_hex(8))
    make_dir(files.launch_dir)
    publish_bytes(files.config_path, dump_config(config).encode())
    nodes, tasks = num_tasks(config, stage.name, stage.kind)
    with start_environment(files.launch_dir.name, attached=attached and local, local=local), _deaf_to_interrupts(local):
        try:
            job = executor.start()
        except (submitit.core.utils.FailedJobError, FileNotFoundError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and is_full(error):
                raise write_error(files.launch_dir, _PAYLOAD_BYTES, error) from error
            raise submission_error(stage.name, error) from error
    job_id = str(job.job_id)
    launched = Launched(stage.name, job_id, layout, files, nodes * tasks, parts, local, job=job).placed_here()
    try:
        record_launch(launched)
    except BaseException:
        cancel(launched)  # nobody would know of it
        raise
    return launched


def _stand_somewhere(run_dir: Path) -> None:
    """Go to the run directory where the working directory has been removed since: no process starts in it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir(run_dir)


def parts_left(stage: Stage, run: Run) -> tuple[int, ...]:
    """The parts of a job array that still have something to do; (0,) for a stage that is one job."""
    config = run.config
    num_parts = config.cluster.array_of(stage.name)[0]
    if num_parts == 1 or stage.ranks_left is None:
        return (0,)
    nodes, tasks = num_tasks(config, stage.name, stage.kind)
    left = stage.ranks_left(run, num_parts * nodes * tasks)
    return tuple(sorted({rank // (nodes * tasks) for rank in left})) or (0,)


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
def start_environment(launch: str = "", *, attached: bool, local: bool) -> Iterator[None]:
    """The environment that jobs start with: no variable of an enclosing allocation, no option of Slurm's programs.

    Here submitit starts a Python in words of its own, which is to find what this one finds; a batch script has ours.
    """
    before = dict(os.environ)
    for name in list(os.environ):
        if _LEAKING.match(name) or is_option(name):
            del os.environ[name]
    if local:
        os.environ.update(same_path())
    else:
        forget_safe_path()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault(COMMAND_VARIABLE, command_line())
    os.environ.pop(PARENT_VARIABLE, None)
    os.environ[LAUNCH_VARIABLE] = launch
    if attached:
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def wait(launched: Launched, watch: Callable[[], None] = lambda: None) -> None:
    """Wait until every rank is done. The first that fails ends a job and raises its error; the other tasks of an array
    go on, and the error comes when all have ended.
    """
    asked_at = launched.launched_at
    while True:
        watch()
        markers = launched.markers()
        failed = {rank: marker for rank, marker in markers.items() if marker.state == "failed"}
        open_ranks = launched.open_ranks(markers)
        if failed and (not launched.is_array or not open_ranks):
            if open_ranks:
                cancel(launched)
            raise _stage_error(launched, failed)
        if not open_ranks:
            return
        reason = None
        if launched.local:
            reason = _gone_locally(launched, markers)
        elif time.monotonic() - asked_at >= ASK_SECONDS:
            reason, asked_at = _gone_from_slurm(launched, open_ranks), time.monotonic()
        if reason is not None:
            if failed:
                raise _stage_error(launched, failed)
            cancel(launched)
            raise WorkError(
                f"{launched.stage} ended without finishing: {reason}", where=launched.log_path(open_ranks[0])
            )
        time.sleep(_POLL_SECONDS if launched.local else 10 * _POLL_SECONDS)


def _stage_error(launched: Launched, failed: dict[int, Marker]) -> HpcAeError:
    """The first failure, with its status; of an array also how many of its tasks failed."""
    rank = min(failed, key=lambda rank: failed[rank].moment)
    message = failed[rank].message
    error: HpcAeError = InputError(message) if failed[rank].status == 2 else WorkError(message)
    text = f"{launched.stage} failed: {message}\n  log:      {launched.log_path(rank)}"
    if launched.is_array:
        jobs = sorted({launched.job_of(rank) for rank in failed})
        text += f"\n  tasks:    {len(jobs)} of {len(launched.parts)} failed: {', '.join(jobs[:5])}"
        text += "\n  to do:    the same command runs only those tasks"
    error.args = (text,)
    return error


def _gone_from_slurm(launched: Launched, open_ranks: list[int]) -> str | None:
    """Why the ranks that are not done never will be, where Slurm knows; None while they may."""
    answer = ask(launched.layout, launched.job_ids)
    if answer is None or any(is_alive(answer, launched.job_of(rank)) for rank in open_ranks):
        return None
    time.sleep(_GRACE_SECONDS)
    now = launched.markers()
    if all(rank in now and now[rank].state == "done" for rank in open_ranks):
        return None
    said = answer.get(launched.job_of(open_ranks[0]))
    return f"Slurm says {said.state.lower()} ({said.reason})" if said else "the job has left Slurm's queue"


def _gone_locally(launched: Launched, markers: dict[int, Marker]) -> str | None:
    """The same of ranks on this machine."""
    for rank, marker in markers.items():
        if marker.state == "interrupted":
            return f"{marker.message}; the same command continues"
        if marker.state == "running" and not marker.still_runs:
            time.sleep(_GRACE_SECONDS / 4)
            now = read_marker(launched.files.marker_path(rank))
            if now is not None and now.state == "running":
                return f"rank {rank} died (killed, perhaps because memory ran out)"
    if launched.launcher_is_gone and not launched.files.launch_dir.is_dir():
        return "its directory was renamed or removed while it ran"
    if launched.job is not None and launched.job.done() and len(markers) < launched.tasks:
        time.sleep(_GRACE_SECONDS / 4)
        if len(launched.markers()) < launched.tasks:
            return "a rank did not start: " + _last_words(launched)
    return None


def _last_words(launched: Launched) -> str:
    """Why a rank left without a word, as far as that is known."""
    free = shutil.disk_usage(launched.layout.run_dir).free
    if free < _PAYLOAD_BYTES:
        return f"the disk is full: {free} bytes are left, {_PAYLOAD_BYTES} are needed for its log and marker"
    return _last_line(launched.log_path())


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "its log is empty"
    return "it left no log"


def cancel(launched: Launched) -> None:
    """End a job: the ranks that still run are killed, and here whatever they have started."""
    if not launched.local:
        scancel(launched.job_id)
        return
    process = launched.job._process if launched.job is not None else None  # see ChainExecutor in slurm.py
    if process is not None and process.poll() is None:
        os.kill(process.pid, signal.SIGSTOP)  # it starts nothing more
        kill_descendants(process.pid)
        process.kill()
        process.wait()


def ask_to_save(launched: Launched) -> int:
    """SIGTERM to each rank on this machine: it saves its work and ends. How many ranks were asked."""
    asked = 0
    for marker in launched.markers().values():
        if marker.state == "running" and marker.runs_here and launched.is_rank(marker.pid):
            with contextlib.suppress(OSError):
                os.kill(marker.pid, signal.SIGTERM)
                asked += 1
    return asked


def await_saving(launched: Launched) -> None:
    """Ask the ranks to save, and wait until they have ended, for a time."""
    if not ask_to_save(launched):
        return
    say(f"{launched.stage} is asked to save its work")
    deadline = time.monotonic() + SAVE_SECONDS
    while time.monotonic() < deadline and any(marker.still_runs for marker in launched.markers().values()):
        time.sleep(_POLL_SECONDS)


def say(text: str) -> None:
    """One line for the user, on standard error."""
    print(text, file=sys.stderr, flush=True)
