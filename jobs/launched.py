"""What was launched: the jobs of a stage and their ranks, as RUN_DIR/jobs/state/STAGE.json remembers the newest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.files import check_private, make_dir, publish_bytes, publish_json
from hpc_ae.jobs.marker import Marker, read_marker
from hpc_ae.layout import LaunchLayout, RunLayout
from hpc_ae.record import Record, read_record


class LaunchRecord(Record):
    """What is remembered of a launch; `state_dir` is the name of its directory."""

    job_id: str
    tasks: int
    parts: tuple[int, ...]
    local: bool
    state_dir: str


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


def prepare_run(config: RunConfig) -> None:
    """Make the run directory and write the resolved config into it."""
    check_private(make_dir(config.run_path))
    publish_bytes(config.layout.config_path, dump_config(config).encode())


def record_launch(launched: Launched) -> None:
    """Write down that this is the newest launch of its stage."""
    record = LaunchRecord(
        job_id=launched.job_id,
        tasks=launched.tasks,
        parts=launched.parts,
        local=launched.local,
        state_dir=launched.files.launch_dir.name,
    )
    path = launched.layout.launch_path(launched.stage)
    publish_json(make_dir(path.parent) / path.name, record.to_json())


def launched_before(layout: RunLayout, stage: str) -> Launched | None:
    """The newest launch of a stage; None where there was none."""
    path = layout.launch_path(stage)
    if not path.exists():
        return None
    record = read_record(path, LaunchRecord)
    files = LaunchLayout(layout.state_dir / record.state_dir)
    return Launched(stage, record.job_id, layout, files, record.tasks, record.parts, record.local)
