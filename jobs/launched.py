"""What was launched: the jobs of a stage and their ranks, as RUN_DIR/jobs/state/STAGE.json remembers the newest."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.errors import HpcAeError
from hpc_ae.files import check_private, make_dir, publish_bytes, publish_json, read_json
from hpc_ae.jobs.worker import marker_path


@dataclass
class Launched:
    """A job, or an array of jobs, that was started here or submitted to Slurm.

    `parts`: which part of the stage's work each array task does; a part is `tasks` ranks that follow one another.
    """

    stage: str
    job_id: str
    run_dir: Path
    state_dir: Path
    tasks: int
    parts: tuple[int, ...] = (0,)
    local: bool = True
    job: Any = None
    asked_at: float = field(default_factory=time.monotonic)

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
        return [rank for part in self.parts for rank in range(part * self.tasks, (part + 1) * self.tasks)]

    def markers(self) -> dict[int, dict[str, Any]]:
        """What each rank says of itself, in rank order; ranks that have not started yet are left out."""
        found = {}
        for rank in self.ranks:
            with contextlib.suppress(HpcAeError):
                found[rank] = read_json(marker_path(self.state_dir, rank))
        return found

    def job_of(self, rank: int) -> str:
        """The number of the job that a rank belongs to."""
        return self.job_ids[self.parts.index(rank // self.tasks)]

    def log_path(self, rank: int | None = None) -> Path:
        """Standard error of a rank; of the first one where none is named."""
        rank = self.ranks[0] if rank is None else rank
        return self.run_dir / "jobs" / "logs" / f"{self.job_of(rank)}_{rank % self.tasks}_log.err"


def config_path(run_dir: Path) -> Path:
    """The resolved config of a run."""
    return run_dir / "config.yaml"


def _record_path(run_dir: Path, stage: str) -> Path:
    """Says which launch of a stage is the newest."""
    return run_dir / "jobs" / "state" / f"{stage}.json"


def prepare_run(config: RunConfig) -> None:
    """Make the run directory and write the resolved config into it."""
    check_private(make_dir(config.run_path))
    publish_bytes(config_path(config.run_path), dump_config(config).encode())


def record_launch(launched: Launched) -> None:
    """Write down that this is the newest launch of its stage."""
    names = ("job_id", "tasks", "parts", "local")
    record = {**{name: getattr(launched, name) for name in names}, "state_dir": launched.state_dir.name}
    path = _record_path(launched.run_dir, launched.stage)
    publish_json(make_dir(path.parent) / path.name, record)


def launched_before(run_dir: Path, stage: str) -> Launched | None:
    """The newest launch of a stage; None where there was none."""
    path = _record_path(run_dir, stage)
    if not path.exists():
        return None
    record = read_json(path)
    state_dir = run_dir / "jobs" / "state" / record["state_dir"]
    parts = tuple(record["parts"])
    return Launched(stage, record["job_id"], run_dir, state_dir, record["tasks"], parts, record["local"])
