"""What lies where in a run directory: the one place that names its files. docs/data_format.md says what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Of a catalog.
MANIFEST_NAME = "manifest.json"  # written last: it means "complete"
VIEW_NAME = "encoding.h5"  # all shards of an encoding as one table
TALLIES_NAME = "tallies.npz"  # what one pass over the survey added up, in the catalog of scores
MAKING_NAME = "making.json"  # what a catalog of scores that is not finished is made of
# Of a model and of a checkpoint.
MODEL_NAME = "model.json"  # written last
WEIGHTS_NAME = "model.safetensors"
STATE_NAME = "state.json"  # written last
# Of a report.
SUMMARY_NAME = "summary.json"  # written last
PAGE_NAME = "index.html"
COMPARE_NAME = "compare.json"
COMPARE_TABLE_NAME = "compare.csv"


@dataclass(frozen=True)
class RunLayout:
    """The files and directories of one run."""

    run_dir: Path

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.run_dir / "config.yaml"

    @property
    def catalog_dir(self) -> Path:
        """The star catalog, if the run makes it."""
        return self.run_dir / "catalog"

    @property
    def checkpoints_dir(self) -> Path:
        """A directory of each checkpoint."""
        return self.run_dir / "checkpoints"

    @property
    def model_dir(self) -> Path:
        """The model that the run trains."""
        return self.run_dir / "model"

    @property
    def metrics_path(self) -> Path:
        """Losses and rates of the training, a line each."""
        return self.run_dir / "metrics.jsonl"

    @property
    def tensorboard_dir(self) -> Path:
        """The same for TensorBoard, where it was asked for."""
        return self.run_dir / "tensorboard"

    @property
    def encoding_dir(self) -> Path:
        """The encoding catalog."""
        return self.run_dir / "encoding"

    @property
    def scores_dir(self) -> Path:
        """The catalog of scores."""
        return self.run_dir / "scores"

    @property
    def report_dir(self) -> Path:
        """The report."""
        return self.run_dir / "report"

    @property
    def jobs_dir(self) -> Path:
        """Everything of the jobs: logs, state, progress."""
        return self.run_dir / "jobs"

    @property
    def logs_dir(self) -> Path:
        """Logs, batch scripts and payloads, as submitit names them."""
        return self.jobs_dir / "logs"

    @property
    def run_log_path(self) -> Path:
        """What a run in the background says."""
        return self.logs_dir / "run.log"

    @property
    def state_dir(self) -> Path:
        """What was launched, and how its ranks are."""
        return self.jobs_dir / "state"

    @property
    def scheduler_path(self) -> Path:
        """What Slurm said last."""
        return self.state_dir / "scheduler.json"

    @property
    def lock_path(self) -> Path:
        """Held by the one command that works in this directory."""
        return self.jobs_dir / "lock"

    @property
    def verified_path(self) -> Path:
        """Which manifest of the encoding was verified."""
        return self.jobs_dir / "verified.json"

    @property
    def progress_dir(self) -> Path:
        """How far the stages are."""
        return self.jobs_dir / "progress"

    def progress_path(self, stage: str) -> Path:
        """How far a stage is."""
        return self.progress_dir / f"{stage}.json"

    def launch_path(self, stage: str) -> Path:
        """Which launch of a stage is the newest."""
        return self.state_dir / f"{stage}.json"

    def launch(self, stage: str, token: str) -> LaunchLayout:
        """The files of one launch of a stage."""
        return LaunchLayout(self.state_dir / f"{stage}-{token}")

    def log_path(self, job_id: str, task: int) -> Path:
        """Standard error of a task of a job."""
        return self.logs_dir / f"{job_id}_{task}_log.err"


@dataclass(frozen=True)
class LaunchLayout:
    """The files of one launch of a stage: its own config and what its ranks say."""

    launch_dir: Path

    @property
    def config_path(self) -> Path:
        """The config that this launch goes by."""
        return self.launch_dir / "config.yaml"

    def marker_path(self, rank: int) -> Path:
        """How a rank is."""
        return self.launch_dir / f"rank-{rank:05d}.json"

    def starts_path(self, part: int) -> Path:
        """The ledger of the starts of a part of a job array."""
        return self.launch_dir / f"starts-{part:05d}.jsonl"

    def meeting_dir(self, part: int, restart: int) -> Path:
        """Where the ranks of one start find each other."""
        return self.launch_dir / f"meeting-{part}-{restart}"

    def requeue_path(self, job: str, restart: int) -> Path:
        """Made by the one rank that puts a job back into the queue."""
        return self.launch_dir / f"requeue-{job}-{restart}"
