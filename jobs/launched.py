"""What was launched: the jobs of a stage and their ranks, as RUN_DIR/jobs/state/STAGE.json remembers the newest."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.files import make_dir, publish_bytes, publish_json
from hpc_ae.jobs.marker import Marker, host_name, process_table, read_marker, started_at
from hpc_ae.layout import CONFIG_NAME, LaunchLayout, RunLayout
from hpc_ae.private import check_place, check_private
from hpc_ae.record import Record, read_record

_MOST_RANKS = 1_000_000
_LOOK_SECONDS = 0.05
_Part = Annotated[int, Field(ge=0, lt=_MOST_RANKS)]
_Name = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_-]{0,255}$")]
LAUNCH_VARIABLE = "HPC_AE_LAUNCH"  # which launch a process on this machine was started for


class LaunchRecord(Record):
    """What is remembered of a launch; `state_dir` is the name of its directory.

    A run may have been unpacked from somebody else's archive: names are plain, numbers bounded.
    """

    job_id: _Name
    tasks: Annotated[int, Field(ge=1, le=_MOST_RANKS)]
    parts: Annotated[tuple[_Part, ...], Field(min_length=1, max_length=_MOST_RANKS)]
    local: bool
    state_dir: _Name
    run_dir: str = ""  # whose it is: by its path, and by the number that its file system gave it
    inode: int = 0
    host: str = ""  # where it was launched
    processes: str = ""  # whose number `job_id` is there, as in a marker
    started: str = ""  # of a job on this machine: when the process began that starts its ranks

    @model_validator(mode="after")
    def _is_of_this_size(self) -> Self:
        if self.tasks * len(self.parts) > _MOST_RANKS:
            raise ValueError(f"more than {_MOST_RANKS:,} ranks")
        return self


@dataclass(frozen=True)
class Launched:
    """A job, or an array of jobs, that was started here or submitted to Slurm.

    `files` are those of this launch, `layout` those of its run. `parts`: which part of the stage's work each array task
    does; a part is `tasks` ranks that follow one another. `job` is submitit's, of one that this process has launched.
    """

    stage: str
    job_id: str
    layout: RunLayout
    files: LaunchLayout
    tasks: int
    parts: tuple[int, ...] = (0,)
    local: bool = True
    host: str = ""
    processes: str = ""
    started: str = ""
    job: Any = None
    launched_at: float = field(default_factory=time.monotonic)

    @property
    def job_ids(self) -> list[str]:
        """The job's number, or those of an array's tasks, in the order of the parts."""
        return [f"{self.job_id}_{index}" for index in range(len(self.parts))] if self.is_array else [self.job_id]

    @property
    def is_array(self) -> bool:
        """Whether this is an array of more than one job."""
        return len(self.parts) > 1

    @property
    def adopted(self) -> bool:
        """Whether another launcher started this: its name is then a token, not a number."""
        return not self.job_id.isdigit()

    @property
    def ranks(self) -> list[int]:
        """The ranks that were launched."""
        return [rank for part in self.parts for rank in self.ranks_of(part)]

    def ranks_of(self, part: int) -> range:
        """The ranks of one part."""
        return range(part * self.tasks, (part + 1) * self.tasks)

    def placed_here(self) -> Launched:
        """The same, with this machine as the one that it was launched on."""
        started = started_at(int(self.job_id)) if self.local and not self.adopted else ""
        return replace(self, host=host_name(), processes=process_table(), started=started)

    def is_rank(self, pid: int) -> bool:
        """Whether a process on this machine is a rank of this launch, by what itself was started with: markers may be
        of anybody's making.
        """
        place = Path(f"/proc/{pid}")
        try:
            words, variables = ((place / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            return False
        if self.adopted:
            return any(Path(os.fsdecode(word)).name in ("hpc_ae", "hpc-ae") for word in words)
        return os.fsencode(f"{LAUNCH_VARIABLE}={self.files.launch_dir.name}") in variables

    @property
    def was_started_here(self) -> bool:
        """Whether the processes of this machine are those that it was launched among."""
        return self.host == host_name() and self.processes == process_table()

    @property
    def launcher_is_gone(self) -> bool:
        """Whether the process on this machine that starts the ranks has ended."""
        if not self.local or self.adopted or not self.was_started_here:
            return False
        return started_at(int(self.job_id)) != self.started

    def markers(self) -> dict[int, Marker]:
        """What each rank says of itself, in rank order; ranks that have not started yet are left out."""
        found = {rank: read_marker(self.files.marker_path(rank)) for rank in self.ranks}
        return {rank: marker for rank, marker in found.items() if marker is not None}

    def open_ranks(self, markers: dict[int, Marker]) -> list[int]:
        """The ranks that are neither done nor have failed."""
        return [rank for rank in self.ranks if rank not in markers or not markers[rank].has_ended]

    def job_of(self, rank: int) -> str:
        """The number of the job that a rank belongs to."""
        return self.job_ids[self.parts.index(rank // self.tasks)]

    def log_path(self, rank: int | None = None) -> Path:
        """Standard error of a rank; of the first one where none is named."""
        rank = self.ranks[0] if rank is None else rank
        return self.layout.log_path(self.job_of(rank), rank % self.tasks)


def check_run_dir(layout: RunLayout) -> None:
    """InputError where others have, or may have, put something into a run directory that a run trusts: its config, the
    directories of its jobs, and what was launched. Some calls for each launch, none for a shard.
    """
    check_private(layout.run_dir)
    check_place(layout.run_dir)
    own = (layout.config_path, layout.jobs_dir, layout.lock_path, layout.verified_path)
    for path in (*own, layout.logs_dir, layout.state_dir, layout.progress_dir):
        check_private(path, follow=False)
    for path in sorted(layout.state_dir.iterdir()) if layout.state_dir.is_dir() else ():
        check_private(path, follow=False)


def prepare_run(config: RunConfig) -> None:
    """Make the run directory and write the resolved config into it."""
    make_dir(config.run_path)
    check_run_dir(config.layout)
    publish_bytes(config.layout.config_path, dump_config(config).encode())


def record_launch(launched: Launched) -> None:
    """Write down that this is the newest launch of its stage."""
    run_dir, launched = launched.layout.run_dir, launched.placed_here()
    record = LaunchRecord(
        job_id=launched.job_id,
        tasks=launched.tasks,
        parts=launched.parts,
        local=launched.local,
        state_dir=launched.files.launch_dir.name,
        run_dir=str(run_dir.resolve()),
        inode=run_dir.stat().st_ino,
        host=launched.host,
        processes=launched.processes,
        started=launched.started,
    )
    path = launched.layout.launch_path(launched.stage)
    publish_json(make_dir(path.parent) / path.name, record.to_json())


def launched_before(layout: RunLayout, stage: str) -> Launched | None:
    """The newest launch of a stage; None where there was none, or where it was made in the directory that this one is a
    copy of: its jobs and processes are not this run's.
    """
    record = _record_of(layout, stage)
    if record is None or _is_of_another(layout, record):
        return None
    files = LaunchLayout(layout.state_dir / record.state_dir)
    known = (record.tasks, record.parts, record.local, record.host, record.processes, record.started)
    return Launched(stage, record.job_id, layout, files, *known)


def await_launch(layout: RunLayout, stage: str, job_id: str, seconds: float) -> Launched | None:
    """The launch that this job is of, in the job itself: it is written down just after sbatch has answered. None where
    it is not in that time.
    """
    deadline, delay = time.monotonic() + seconds, _LOOK_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(HpcAeError):
            launched = launched_before(layout, stage)
            if launched is not None and launched.job_id == job_id:
                return launched
        time.sleep(delay)
        delay = min(1.0, 1.5 * delay)  # a thousand ranks may ask
    return None


def copied_from(layout: RunLayout, stages: Iterable[str]) -> str | None:
    """The run directory that this one is a copy of, where it has launched nothing since; None where it is none."""
    records = [record for stage in stages if (record := _record_of(layout, stage))]
    if not records or not all(_is_of_another(layout, record) for record in records):
        return None
    return records[0].run_dir


def _record_of(layout: RunLayout, stage: str) -> LaunchRecord | None:
    path = layout.launch_path(stage)
    return read_record(path, LaunchRecord) if path.exists() else None


def _is_of_another(layout: RunLayout, record: LaunchRecord) -> bool:
    """Whether a launch was of another directory. A renamed one keeps its number; one that is seen by another path, or
    was restored, has one of the two still.
    """
    if not record.run_dir:  # of an earlier version
        return False
    return record.run_dir != str(layout.run_dir.resolve()) and record.inode != layout.run_dir.stat().st_ino


def check_home(config_path: Path, config: RunConfig) -> None:
    """InputError where a config is that of a run directory which was renamed or copied: it names the old place."""
    here = config_path.absolute().parent
    is_of_run = config_path.name == CONFIG_NAME and RunLayout(here).state_dir.is_dir()
    if not is_of_run or here.resolve() == config.run_path.resolve():
        return
    raise InputError(
        "this is the config of a run that was renamed or copied: it names another directory",
        where=config_path,
        got=f"run_dir {config.run_dir}",
        expected=f"run_dir {here}",
        fix=f"say which one is meant: run_dir={shlex.quote(str(here))}, or run_dir={shlex.quote(config.run_dir)}",
    )
