"""A whole run: what is left to do, on this machine or as a chain of dependent Slurm jobs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.errors import InputError, StaleError, WorkError
from hpc_ae.files import make_dir, read_json
from hpc_ae.jobs.advice import sure_problems_of
from hpc_ae.jobs.launched import Launched, config_path, launched_before, prepare_run
from hpc_ae.jobs.launcher import cancel, launch, parts_left, say, start_environment, wait
from hpc_ae.jobs.lock import run_lock, who_holds
from hpc_ae.jobs.resources import num_workers, ranks_per_node, threads_per_rank
from hpc_ae.jobs.scheduler import ask, ending_jobs, is_alive
from hpc_ae.jobs.slurm import batch_script, dependency_options
from hpc_ae.jobs.stages import STAGES, Stage, progress_path, stages_of
from hpc_ae.jobs.watch import LiveView

_START_SECONDS = 60.0
_ENDING_SECONDS = 3.0


def discard(config: RunConfig, names: list[str]) -> None:
    """Remove the outputs of the named stages and of every stage after the first of them."""
    stages = stages_of(config)
    for stage in stages[first_redone(config, names) :]:
        for path in stage.outputs(config):
            if path.exists() and stage.keeps(config, path):
                say(f"keeping {path}: it does not depend on what was changed")
            elif path.exists():
                say(f"discarding {path}")
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def first_redone(config: RunConfig, names: list[str]) -> int:
    """The place of the first of the named stages among those of the run; the number of stages where none is named."""
    known = [stage.name for stage in stages_of(config)]
    if unknown := [name for name in names if name not in known]:
        raise InputError("no such stage in this run", where="--redo", got=unknown[0], expected=", ".join(known))
    return min((known.index(name) for name in names), default=len(known))


def stages_left(config: RunConfig) -> list[Stage]:
    """The stages that still have something to do; StaleError where an output does not belong to what is to run."""
    left: list[Stage] = []
    for stage in stages_of(config):
        if stage.name == "encode" and "train" in [earlier.name for earlier in left]:
            _refuse_stale(config, STAGES["train"])
        if not stage.is_done(config):
            left.append(stage)
    return left


def stale_shards(config: RunConfig) -> list[Path]:
    """Encoding shards that are there while the model is still to be trained."""
    return sorted(config.encoding_path.glob("shard-*.h5"))


def _refuse_stale(config: RunConfig, running: Stage) -> None:
    if shards := stale_shards(config):
        raise StaleError(
            f"{running.name} is to run, but the encoding of an earlier model is there",
            where=config.encoding_path,
            got=f"{len(shards)} stale shards, the first {shards[0].name}",
            fix=f"hpc-ae run CONFIG --redo {running.name} discards them; another run_dir keeps both",
        )


def run(config: RunConfig, redo: list[str], *, no_wait: bool, parsable: bool) -> int:
    """Run all stages that are not already done; the exit status of the contract."""
    slurm = config.cluster.kind == "slurm"
    with run_lock(config.run_path):
        queued = submitted_before(config)
        if queued:
            refuse_other_run(config, queued, redo, parsable)
        else:
            refuse_problems(config, stages_of(config)[first_redone(config, redo) :])  # before anything is discarded
            discard(config, redo)
        left = [] if queued else stages_left(config)
        refuse_problems(config, left)
        prepare_run(config)
        done = [stage.name for stage in stages_of(config) if stage not in left]
        if done and not queued:
            say(f"already done: {', '.join(done)}")
        started = time.monotonic()
        launched = (queued or submit_chain(config, left, parsable)) if slurm else []
        if launched:
            say_what_next(config)
        if slurm and not no_wait:
            _follow_chain(config, launched)
        elif not slurm and not no_wait:
            _run_locally(config, left)
    if no_wait:
        return 0 if slurm or not left else start_detached(config)
    say_result(config, time.monotonic() - started)
    return 0


def refuse_problems(config: RunConfig, left: list[Stage]) -> None:
    """InputError where a stage that is left is known to fail."""
    names = {stage.name for stage in left}
    if not names & {"train", "encode"}:
        return
    if problems := sure_problems_of(config, keeps_catalog=not names & {"ingest", "simulate"}):
        raise InputError("the run would fail", where="the config", got="; ".join(problems), fix="hpc-ae check CONFIG")


def submitted_before(config: RunConfig) -> list[Launched]:
    """The jobs of this run directory that are still in Slurm's queue; none for a run that was never submitted."""
    known = [launched_before(config.run_path, name) for name in STAGES]
    jobs = [job for job in known if job is not None and not job.local and not _has_ended(job)]
    ids = [job_id for job in jobs for job_id in job.job_ids]
    answer = ask(config.run_path, ids, anew=True)
    while answer and (ending := ending_jobs(answer, ids)):  # cancelled just now: they may still save
        say(f"waiting for jobs that are ending: {' '.join(ending)}")
        time.sleep(_ENDING_SECONDS)
        answer = ask(config.run_path, ids, anew=True)
    if answer is None and config.cluster.kind == "slurm":
        raise WorkError(
            "Slurm does not answer: jobs of this run directory may still be queued",
            where=config.run_path,
            got=" ".join(job.job_id for job in jobs),
            fix="try again when squeue answers",
        )
    return [job for job in jobs if any(is_alive(answer or {}, job_id) for job_id in job.job_ids)]


def _has_ended(job: Launched) -> bool:
    markers = job.markers()
    return all(markers.get(rank, {}).get("state") in ("done", "failed") for rank in job.ranks)


def refuse_other_run(config: RunConfig, queued: list[Launched], redo: list[str], parsable: bool) -> None:
    """InputError where what is asked for is not what the queued jobs do; else say that they are followed."""
    ids = " ".join(job.job_id for job in queued)
    path = config_path(config.run_path)
    if redo or not path.exists() or path.read_text() != dump_config(config):
        raise InputError(
            "Slurm jobs of this run directory are still queued or running, with another config",
            where=config.run_path,
            got=f"jobs {ids}",
            fix=f"wait for them, or end them with: hpc-ae cancel {shlex.quote(config.run_dir)}",
        )
    say(f"already submitted: jobs {ids}")
    if parsable:
        print("\n".join(job.job_id for job in queued), flush=True)


def show_plan(config: RunConfig, redo: list[str]) -> int:
    """Print what a run would start, without starting it or leaving anything behind."""
    stages = stages_of(config)
    left = stages[first_redone(config, redo) :] if redo else stages_left(config)
    previous: Stage | None = None
    for stage in stages:
        if stage not in left:
            print(f"# {stage.name}: already done")
        elif config.cluster.kind == "local":
            print(f"{stage.name}: {describe(stage, config)}")
        else:
            print(f"# {stage.name}" + (f" (after {previous.name})" if previous else ""))
            options = dependency_options(f"<job id of {previous.name}>" if previous else None)
            print("# " + " ".join(["sbatch", *options, "SCRIPT"]))
            sys.stdout.write(batch_script(stage, config, len((0,) if redo else parts_left(stage, config))))
            previous = stage
    return 0


def describe(stage: Stage, config: RunConfig) -> str:
    """One line: how a stage would run on this machine."""
    if stage.kind == "ranks":
        ranks, threads = ranks_per_node(config, stage.name), threads_per_rank(config, stage.name)
        return f"{ranks} ranks of {threads} threads on this machine"
    return f"1 process with {num_workers(config, stage.name)} workers on this machine"


def run_stage_here(config: RunConfig, stage: Stage) -> None:
    """One stage on this machine, whatever cluster.kind says."""
    local = config.model_copy(update={"cluster": config.cluster.model_copy(update={"kind": "local"})})
    with run_lock(config.run_path):
        if stage.is_done(config):
            say(f"already done: {stage.name}")
            return
        if stage.name == "train" and (shards := stale_shards(config)):
            say(
                f"note: {len(shards)} shards in {config.encoding_path} are of an earlier model; encode will refuse them"
            )
        prepare_run(config)
        _run_locally(local, [stage])


def _run_locally(config: RunConfig, stages: list[Stage]) -> None:
    for stage in stages:
        progress_path(config, stage.name).unlink(missing_ok=True)
        launched = launch(stage, config)
        _say_resumed(config, stage, launched)
        try:
            with LiveView(config, stage.name) as view:
                wait(launched, view.refresh)
        except BaseException:
            cancel(launched)
            raise
        _say_counts(config, stage.name)


def _say_counts(config: RunConfig, stage: str) -> None:
    """After an ingest: what it flagged, and why, by file."""
    if stage != "ingest":
        return
    from hpc_ae.readers.tally import describe_counts

    manifest = read_json(config.catalog_path / "manifest.json")
    for entry in manifest["inputs"].get("raw", []):
        for note in entry.get("notes", []):
            say(f"  {entry['name']}: {note}")
        say(f"  {describe_counts(entry)}")


def submit_chain(config: RunConfig, stages: list[Stage], parsable: bool) -> list[Launched]:
    """Submit the stages as dependent jobs; where one is not accepted, cancel those before it."""
    launched: list[Launched] = []
    try:
        for stage in stages:
            progress_path(config, stage.name).unlink(missing_ok=True)
            launched.append(launch(stage, config, launched[-1].job_id if launched else None))
            job = launched[-1]
            print(job.job_id if parsable else f"Submitted batch job {job.job_id} ({stage.name})", flush=True)
            _say_resumed(config, stage, job)
    except BaseException:
        for job in reversed(launched):
            cancel(job)
        if launched:
            say(f"cancelled again: jobs {' '.join(job.job_id for job in launched)}")
        raise
    return launched


def _say_resumed(config: RunConfig, stage: Stage, job: Launched) -> None:
    done, total, unit = stage.done_so_far(config)
    num_parts = config.cluster.array_of(stage.name)[0]
    if job.is_array or num_parts > 1:
        say(f"{stage.name}: {len(job.parts)} of {num_parts} array tasks have work left")
    if done and done != total:
        where = f"{unit} {done + 1:,} of {total:,}" if total and unit == "shard" else f"{unit} {done:,}"
        say(f"{stage.name}: resumed at {where}")


def say_what_next(config: RunConfig) -> None:
    """The commands that a user types next."""
    run_dir = shlex.quote(config.run_dir)
    say(f"next: hpc-ae status {run_dir} --watch\n      hpc-ae logs {run_dir} -f\n      hpc-ae cancel {run_dir}")


def _follow_chain(config: RunConfig, launched: list[Launched]) -> None:
    """Wait for a chain; Ctrl-C leaves its jobs running."""
    try:
        for job in launched:
            with LiveView(config, job.stage) as view:
                wait(job, view.refresh)
            _say_counts(config, job.stage)
    except KeyboardInterrupt:
        say("the Slurm jobs go on; the same command follows them to the end, `hpc-ae cancel` or scancel ends them:")
        say("scancel " + " ".join(job.job_id for job in launched))
        raise


def start_detached(config: RunConfig) -> int:
    """Go on in a process of its own, which a closed terminal does not end; returns when that has the run in hand."""
    log_path = make_dir(config.run_path / "jobs" / "logs") / "run.log"
    words = [sys.executable, "-m", "hpc_ae", "run", str(config_path(config.run_path))]
    with log_path.open("ab") as log, start_environment(attached=False):
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if who_holds(config.run_path).startswith(f"process {process.pid} "):
            say(f"started in the background: process {process.pid}, log {log_path}")
            say_what_next(config)
            return 0
        time.sleep(0.05)
    if process.poll() not in (None, 0):
        raise WorkError("the run ended at once", where=log_path, got=log_path.read_text(errors="replace")[-500:])
    return 0


def say_result(config: RunConfig, seconds: float) -> None:
    """The last lines of a run: what was checked, and where everything is."""
    manifest = read_json(config.encoding_path / "manifest.json")
    num_stars, num_good = manifest["num_stars"], manifest["num_good"]
    say(f"verified: {num_stars:,} stars in, {num_stars:,} out ({num_good:,} good), every row, id and digest checked")
    say(f"done in {seconds:.1f} s: report {config.run_path / 'report'}, encoding {config.encoding_path}")
