"""A whole run: what is left to do, on this machine or as a chain of dependent Slurm jobs."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.errors import HpcAeError, InputError, StaleError
from hpc_ae.files import make_dir, publish_bytes, publish_json, read_json
from hpc_ae.runtime.progress import Progress
from jobs.launcher import Launched, batch_script, cancel, config_path, jobs_in_queue, launch, say, wait
from jobs.lock import run_lock
from jobs.stages import STAGES, Stage, num_workers, progress_path, ranks_per_node, stages_of, threads_per_rank


def prepare_run(config: RunConfig) -> None:
    """Make the run directory and write the resolved config into it."""
    make_dir(config.run_path)
    publish_bytes(config_path(config.run_path), dump_config(config).encode())


def discard(config: RunConfig, names: list[str]) -> None:
    """Remove the outputs of the named stages and of every stage after the first of them."""
    stages = stages_of(config)
    known = [stage.name for stage in stages]
    if unknown := [name for name in names if name not in known]:
        raise InputError("no such stage in this run", where="--redo", got=unknown[0], expected=", ".join(known))
    first = min((known.index(name) for name in names), default=len(stages))
    for stage in stages[first:]:
        for path in stage.outputs(config):
            if path.exists():
                say(f"discarding {path}")
                shutil.rmtree(path) if path.is_dir() else path.unlink()


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


def run(config: RunConfig, redo: list[str], *, dry_run: bool, no_wait: bool) -> int:
    """Run all stages that are not already done; the exit status of the contract."""
    if dry_run:
        return show_plan(config)
    with run_lock(config.run_path):
        queued = submitted_before(config)
        if queued:
            refuse_other_run(config, queued, redo)
        else:
            discard(config, redo)
        left = [] if queued else stages_left(config)
        prepare_run(config)
        done = [stage.name for stage in stages_of(config) if stage not in left]
        if done and not queued:
            say(f"already done: {', '.join(done)}")
        started = time.monotonic()
        if config.cluster.kind == "local":
            _run_locally(config, left)
        else:
            launched = queued or submit_chain(config, left)
            if no_wait:
                return 0
            _follow_chain(config, launched)
    say_result(config, time.monotonic() - started)
    return 0


def submitted_before(config: RunConfig) -> list[Launched]:
    """The jobs of this run directory that are still in Slurm's queue; none for a run that was never submitted."""
    path = config.run_path / "jobs" / "submitted.json"
    if not path.exists():
        return []
    jobs = read_json(path)["jobs"]
    alive = jobs_in_queue([str(job["job_id"]) for job in jobs])
    return [
        Launched(job["stage"], job["job_id"], job["num_tasks"], config.run_path, Path(job["state_dir"]), local=False)
        for job in jobs
        if job["job_id"] in alive
    ]


def refuse_other_run(config: RunConfig, queued: list[Launched], redo: list[str]) -> None:
    """InputError where what is asked for is not what the queued jobs do; else say that they are followed."""
    ids = " ".join(job.job_id for job in queued)
    path = config_path(config.run_path)
    if redo or not path.exists() or path.read_text() != dump_config(config):
        raise InputError(
            "Slurm jobs of this run directory are still queued or running, with another config",
            where=config.run_path,
            got=f"jobs {ids}",
            fix=f"wait for them, or end them with: scancel {ids}",
        )
    say(f"already submitted: jobs {ids}")


def show_plan(config: RunConfig) -> int:
    """Print what a run would start, without starting it or leaving anything behind."""
    for index, stage in enumerate(stages_of(config)):
        if config.cluster.kind == "local":
            print(f"{stage.name}: {describe(stage, config)}")
        else:
            previous = stages_of(config)[index - 1].name if index else None
            print(f"# {stage.name}" + (f" (after {previous})" if previous else ""))
            print(batch_script(stage, config, f"<job id of {previous}>" if previous else None))
    return 0


def describe(stage: Stage, config: RunConfig) -> str:
    """One line: how a stage would run on this machine."""
    if stage.kind == "ranks":
        ranks, threads = ranks_per_node(config, stage.name), threads_per_rank(config, stage.name)
        return f"{ranks} ranks of {threads} threads on this machine"
    return f"1 process with {num_workers(config)} workers on this machine"


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
    manifest = read_json(config.catalog_path / "manifest.json")
    for entry in manifest["inputs"].get("raw", []):
        reasons = ", ".join(f"{name} {num:,}" for name, num in entry["counts"].items()) or "nothing to remark"
        say(f"  {entry['name']}: {entry['num_rows']:,} rows; {reasons}")


def submit_chain(config: RunConfig, stages: list[Stage]) -> list[Launched]:
    """Submit the stages as dependent jobs; where one is not accepted, cancel those before it."""
    launched: list[Launched] = []
    try:
        for stage in stages:
            progress_path(config, stage.name).unlink(missing_ok=True)
            launched.append(launch(stage, config, launched[-1].job_id if launched else None))
            print(f"Submitted batch job {launched[-1].job_id} ({stage.name})", flush=True)
    except HpcAeError:
        for job in launched:
            cancel(job)
        raise
    record = [
        {"stage": job.stage, "job_id": job.job_id, "num_tasks": job.num_tasks, "state_dir": str(job.state_dir)}
        for job in launched
    ]
    publish_json(config.run_path / "jobs" / "submitted.json", {"jobs": record})
    return launched


def _follow_chain(config: RunConfig, launched: list[Launched]) -> None:
    """Wait for a chain; Ctrl-C leaves its jobs running."""
    try:
        for job in launched:
            with LiveView(config, job.stage) as view:
                wait(job, view.refresh)
            _say_counts(config, job.stage)
    except KeyboardInterrupt:
        say("the Slurm jobs go on; the same command follows them to the end, scancel ends them:")
        say("scancel " + " ".join(job.job_id for job in launched))
        raise


class LiveView:
    """Shows a stage's progress file here, wherever the stage runs."""

    def __init__(self, config: RunConfig, stage: str) -> None:
        self.path = progress_path(config, stage)
        self.stage = stage
        self._progress: Progress | None = None
        self._seen: Any = None
        self._last: dict[str, Any] = {}

    def __enter__(self) -> LiveView:
        return self

    def refresh(self) -> None:
        """Read the progress file, if it changed, and show it."""
        with contextlib.suppress(OSError, HpcAeError):
            stamp = self.path.stat().st_mtime_ns
            if stamp != self._seen:
                self._seen = stamp
                self._show(read_json(self.path))

    def _show(self, record: dict[str, Any]) -> None:
        if self._progress is None:
            self._progress = Progress(str(record["what"]), int(record["total"]), str(record["unit"])).__enter__()
            self._progress.start_at(int(record["done"]))
        self._progress.update(int(record["done"]), str(record["note"]))
        self._last = record

    def __exit__(self, *error: Any) -> None:
        self.refresh()
        if self._progress is not None:
            self._progress.close()
            if error[0] is None:
                say(summary_line({**self._last, "done": self._last["total"]}))  # rank 0 may have ended before others


def summary_line(record: dict[str, Any]) -> str:
    """What a finished stage's progress file says, in one line."""
    unit = record["unit"]
    return f"{record['what']}: {record['done']:,} {unit} in {record['seconds']:.1f} s, {record['rate']:,.0f} {unit}/s"


def say_result(config: RunConfig, seconds: float) -> None:
    """The last lines of a run: what was checked, and where everything is."""
    manifest = read_json(config.encoding_path / "manifest.json")
    num_stars, num_good = manifest["num_stars"], manifest["num_good"]
    say(f"verified: {num_stars:,} stars in, {num_stars:,} out ({num_good:,} good), every row, id and digest checked")
    say(f"done in {seconds:.1f} s: report {config.run_path / 'report'}, encoding {config.encoding_path}")
