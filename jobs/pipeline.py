"""A whole run: what is left to do, on this machine or as a chain of dependent Slurm jobs."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hpc_ae.config import RunConfig, dump_config, load_config
from hpc_ae.errors import HpcAeError, InputError, StaleError, WorkError
from hpc_ae.files import make_dir
from hpc_ae.interpreter import python_words
from hpc_ae.jobs.advice import mpi_warnings, sure_problems_of
from hpc_ae.jobs.aside import find_aside, remove_replaced, set_aside, strangers
from hpc_ae.jobs.launched import Launched, launched_before, prepare_run
from hpc_ae.jobs.launcher import await_saving, cancel, launch, parts_left, say, start_environment, wait
from hpc_ae.jobs.lock import run_lock, who_holds
from hpc_ae.jobs.resources import num_workers, ranks_per_node, threads_per_rank
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.jobs.said import say_result, say_stage
from hpc_ae.jobs.scheduler import ask, ending_jobs, is_alive
from hpc_ae.jobs.slurm import batch_script, sbatch_options
from hpc_ae.jobs.slurm_clients import ignored_options
from hpc_ae.jobs.stages import ENCODE, FINALISE, STAGES, TRAIN
from hpc_ae.jobs.watch import LiveView
from hpc_ae.layout import MODEL_NAME, SHARD_PATTERN, RunLayout
from hpc_ae.model.weights import read_model_record
from hpc_ae.provenance import differences
from hpc_ae.runtime.streams import report

_START_SECONDS = 60.0
_ENDING_SECONDS = 3.0


def discard(run: Run, names: list[str]) -> None:
    """Set the outputs of the named stages, and of every stage after the first of them, aside."""
    for stage in stages_from(run, names):
        for path in stage.outputs(run):
            if path.exists() and stage.keeps(run, path):
                say(f"keeping {path}: it does not depend on what was changed")
            elif path.exists():
                say(f"discarding {path}: it is {set_aside(path).name} until a new one is whole")


def stages_from(run: Run, names: list[str]) -> tuple[Stage, ...]:
    """The first of the named stages and those after it; none where none is named."""
    known = run.stage_names
    if unknown := [name for name in names if name not in known]:
        raise InputError("no such stage in this run", where="--redo", got=unknown[0], expected=", ".join(known))
    return run.stages[min((known.index(name) for name in names), default=len(known)) :]


def stages_left(run: Run) -> list[Stage]:
    """The stages that still have something to do; StaleError where an output does not belong to what is to run."""
    left: list[Stage] = []
    for stage in run.stages:
        if stage is ENCODE and TRAIN in left and not run.layout.model_record_path.exists():
            _refuse_stale(run.layout)
        if not stage.is_done(run):
            left.append(stage)
    return left


def stale_shards(layout: RunLayout) -> list[Path]:
    """Encoding shards that are there while the model is still to be trained."""
    return sorted(layout.encoding_dir.glob(SHARD_PATTERN))


def _refuse_stale(layout: RunLayout) -> None:
    if shards := stale_shards(layout):
        raise StaleError(
            "train would run, but there is an encoding of an earlier model",
            where=layout.encoding_dir,
            got=f"no {layout.model_record_path}, and {len(shards)} stale shards, the first {shards[0].name}",
            fix="hpc-ae run CONFIG --redo train discards them; another run_dir keeps both; a model that was removed "
            "by mistake is restored from a copy",
        )


def run_all(run: Run, redo: list[str], *, no_wait: bool, parsable: bool) -> int:
    """Run all stages that are not already done; the exit status of the contract."""
    from hpc_ae.jobs.lost import check_untouched

    config, slurm = run.config, run.config.cluster.kind == "slurm"
    with run_lock(run.layout.run_dir):
        queued = submitted_before(run)
        if queued:
            refuse_other_run(config, queued, redo, parsable)
        else:
            again = stages_from(run, redo)
            kept = [stage for stage in run.stages if stage not in again]
            check_untouched(run, kept)
            for stage in kept:
                stage.is_done(run)  # StaleError where it is of another config, while nothing is discarded yet
            refuse_problems(config, again)  # before anything is discarded
            discard(run, redo)
            _remove_replaced(run)
        left = [] if queued else stages_left(run)
        refuse_problems(config, left)
        prepare_run(config)
        done = [stage.name for stage in run.stages if stage not in left]
        if done and not queued:
            say(f"already done: {', '.join(done)}")
        started = time.monotonic()
        launched = (queued or submit_chain(run, left, parsable)) if slurm else []
        if launched:
            say_what_next(run.layout)
        if slurm and not no_wait:
            _follow_chain(run, launched)
        elif not slurm and not no_wait:
            _run_locally(run, left)
        if not no_wait:
            _remove_replaced(run)
    if no_wait:
        return 0 if slurm or not left else start_detached(run.layout)
    say_result(run.layout, time.monotonic() - started, checked=bool(queued) or FINALISE in left)
    return 0


def _remove_replaced(run: Run) -> None:
    if removed := remove_replaced(run):
        say(f"removed, as new ones are whole: {', '.join(path.name for path in removed)}")
    for path in (path for stage in run.stages for path in find_aside(run, stage) if strangers(path)):
        say(f"note: {path} is kept: it contains files that no stage has made: {', '.join(strangers(path)[:5])}")


def refuse_problems(config: RunConfig, left: Sequence[Stage]) -> None:
    """InputError where a stage that is left is known to fail."""
    names = {stage.name for stage in left}
    if not names & {"train", "encode"}:
        return
    if problems := sure_problems_of(config, keeps_catalog=not names & {"ingest", "simulate"}):
        raise InputError("the run would fail", where="the config", got="; ".join(problems), fix="hpc-ae check CONFIG")


def submitted_before(run: Run) -> list[Launched]:
    """The jobs of this run directory that are still in Slurm's queue; none for a run that was never submitted."""
    known = [launched_before(run.layout, name) for name in STAGES]  # an earlier config may have had other stages
    jobs = [job for job in known if job is not None and not job.local and not _has_ended(job)]
    ids = [job_id for job in jobs for job_id in job.job_ids]
    answer = ask(run.layout, ids, fresh=True)
    while answer and (ending := ending_jobs(answer, ids)):  # cancelled just now: they may still save
        say(f"waiting for jobs that are ending: {' '.join(ending)}")
        time.sleep(_ENDING_SECONDS)
        answer = ask(run.layout, ids, fresh=True)
    if answer is None and run.config.cluster.kind == "slurm":
        raise WorkError(
            "Slurm does not answer: jobs of this run directory may still be queued",
            where=run.layout.run_dir,
            got=" ".join(job.job_id for job in jobs),
            fix="try again when squeue answers",
        )
    return [job for job in jobs if any(is_alive(answer or {}, job_id) for job_id in job.job_ids)]


def _has_ended(job: Launched) -> bool:
    return not job.open_ranks(job.markers())


def _what_differs(path: Path, config: RunConfig) -> list[str]:
    """The keys in which a config differs from that of the queued jobs."""
    with contextlib.suppress(HpcAeError):
        return differences(load_config(path).shared, config.shared)[:5]  # without what people keep secret
    return []


def refuse_other_run(config: RunConfig, queued: list[Launched], redo: list[str], parsable: bool) -> None:
    """InputError where what is asked for is not what the queued jobs do; else say that they are followed."""
    ids = " ".join(job.job_id for job in queued)
    path = config.layout.config_path
    if redo or not path.exists() or path.read_text() != dump_config(config):
        raise InputError(
            "Slurm jobs of this run directory are still queued or running, with another config",
            where=config.run_path,
            got="; ".join([f"jobs {ids}", *(f"--redo {stage}" for stage in redo), *_what_differs(path, config)]),
            fix=f"wait for them, or end them with: hpc-ae cancel {shlex.quote(config.run_dir)}",
        )
    say(f"already submitted: jobs {ids}")
    if parsable:
        report("\n".join(job.job_id for job in queued))


def show_plan(run: Run, redo: list[str]) -> int:
    """Print what a run would start, without starting it or leaving anything behind."""
    config = run.config
    left = stages_from(run, redo) if redo else stages_left(run)
    previous: Stage | None = None
    for stage in run.stages:
        if stage not in left:
            print(f"# {stage.name}: already done")
        elif config.cluster.kind == "local":
            print(f"{stage.name}: {describe(stage, config)}")
        else:
            print(f"# {stage.name}" + (f" (after {previous.name})" if previous else ""))
            options = sbatch_options(f"<job id of {previous.name}>" if previous else None)
            print("# " + " ".join(["sbatch", *options, "SCRIPT"]))
            sys.stdout.write(batch_script(stage, config, len((0,) if redo else parts_left(stage, run))))
            previous = stage
    return 0


def describe(stage: Stage, config: RunConfig) -> str:
    """One line: how a stage would run on this machine."""
    if stage.kind == "ranks":
        ranks, threads = ranks_per_node(config, stage.name), threads_per_rank(config, stage.name)
        return f"{ranks} ranks of {threads} threads on this machine"
    return f"1 process with {num_workers(config, stage.name)} workers on this machine"


def check_stages_before(run: Run, stage: Stage) -> None:
    """StaleError where what is there of an earlier stage is of another config: RUN_DIR/config.yaml, which is about to
    be written, would say of it what it was not made from.
    """
    for before in itertools.takewhile(lambda one: one is not stage, run.stages):
        is_own = before is not TRAIN or not _is_from_elsewhere(run.layout.model_dir)
        if is_own and any(path.exists() for path in before.outputs(run)):
            before.is_done(run)


def _is_from_elsewhere(model_dir: Path) -> bool:
    """Whether a model is there that no training of ours has made, but somebody put there."""
    return (model_dir / MODEL_NAME).is_file() and not read_model_record(model_dir).fingerprint


def run_stage_here(run: Run, stage: Stage) -> None:
    """One stage on this machine, whatever cluster.kind says."""
    from hpc_ae.jobs.lost import check_untouched

    with run_lock(run.layout.run_dir):
        check_untouched(run, [stage])
        if stage.is_done(run):
            say(f"already done: {stage.name}")
            return
        if stage is TRAIN and (shards := stale_shards(run.layout)):
            where = run.layout.encoding_dir
            say(f"note: {len(shards)} shards in {where} are of an earlier model; encode will refuse them")
        check_stages_before(run, stage)
        prepare_run(run.config)
        _run_locally(run.on_this_machine(), [stage])


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is done in here as Ctrl-C does; once: a second one does not cut short the saving."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_locally(run: Run, stages: list[Stage]) -> None:
    with _terminable():
        for stage in stages:
            _run_stage_locally(run, stage)


def _run_stage_locally(run: Run, stage: Stage) -> None:
    progress_path = run.layout.progress_path(stage.name)
    progress_path.unlink(missing_ok=True)
    launched = launch(stage, run)
    _say_resumed(run, stage, launched)
    try:
        with LiveView(progress_path) as view:
            wait(launched, view.refresh)
    except BaseException as error:
        try:
            if isinstance(error, KeyboardInterrupt):
                await_saving(launched)
        finally:
            cancel(launched)
        raise
    say_stage(run.config, stage.name)


def submit_chain(run: Run, stages: list[Stage], parsable: bool) -> list[Launched]:
    """Submit the stages as dependent jobs; where one is not accepted, cancel those before it."""
    launched: list[Launched] = []
    if ignored := ignored_options(os.environ):
        say(f"note: ignored, as the section cluster says what jobs ask for: {', '.join(ignored)}")
    for warning in mpi_warnings(run.config, stages):
        say(f"warning: {warning}")
    try:
        for stage in stages:
            run.layout.progress_path(stage.name).unlink(missing_ok=True)
            launched.append(launch(stage, run, launched[-1].job_id if launched else None))
            job = launched[-1]
            report(job.job_id if parsable else f"Submitted batch job {job.job_id} ({stage.name})")
            _say_resumed(run, stage, job)
    except BaseException:
        for job in reversed(launched):
            cancel(job)
        if launched:
            say(f"cancelled again: jobs {' '.join(job.job_id for job in launched)}")
        raise
    return launched


def _say_resumed(run: Run, stage: Stage, job: Launched) -> None:
    work = stage.done_so_far(run)
    num_parts = run.config.cluster.array_of(stage.name)[0]
    if job.is_array or num_parts > 1:
        say(f"{stage.name}: {len(job.parts)} of {num_parts} array tasks have work left")
    if work.done and work.done != work.total:
        counted = work.total and work.unit == "shard"
        where = f"{work.unit} {work.done + 1:,} of {work.total:,}" if counted else f"{work.unit} {work.done:,}"
        say(f"{stage.name}: resumed at {where}")


def say_what_next(layout: RunLayout) -> None:
    """The commands that a user types next."""
    run_dir = shlex.quote(str(layout.run_dir))
    say(f"next: hpc-ae status {run_dir} --watch\n      hpc-ae logs {run_dir} -f\n      hpc-ae cancel {run_dir}")


def _follow_chain(run: Run, launched: list[Launched]) -> None:
    """Wait for a chain; Ctrl-C leaves its jobs running."""
    try:
        for job in launched:
            with LiveView(run.layout.progress_path(job.stage)) as view:
                wait(job, view.refresh)
            say_stage(run.config, job.stage)
    except KeyboardInterrupt:
        say("the Slurm jobs continue; the same command follows them to the end, `hpc-ae cancel` or scancel ends them:")
        say("scancel " + " ".join(job.job_id for job in launched))
        raise


def start_detached(layout: RunLayout) -> int:
    """Go on in a process of its own, which a closed terminal does not end; returns when that has the run in hand."""
    make_dir(layout.logs_dir)
    log_path = layout.run_log_path
    words = python_words("hpc_ae", "run", str(layout.config_path))
    with log_path.open("ab") as log, start_environment(attached=False, local=True):
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if who_holds(layout.run_dir).startswith(f"process {process.pid} "):
            say(f"started in the background: process {process.pid}, log {log_path}")
            say_what_next(layout)
            return 0
        time.sleep(0.05)
    if process.poll() not in (None, 0):
        raise WorkError("the run ended at once", where=log_path, got=log_path.read_text(errors="replace")[-500:])
    return 0
