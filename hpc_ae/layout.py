"""What lies where in a run directory: the one place that names its files. docs/data_format.md says what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONFIG_NAME = "config.yaml"  # of a run, and of each launch
# Of a catalog.
MANIFEST_NAME = "manifest.json"  # written last: it means "complete"
SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")
SHARD_PATTERN = "shard-*.h5"
VIEW_NAME = "encoding.h5"  # all shards of an encoding as one table
TALLIES_NAME = "tallies.npz"  # what one pass over the survey added up, in the catalog of scores
PARTS_NAME = ".parts"  # directory of what a catalog of scores that is not finished has so far
MAKING_NAME = "making.json"  # in it: what those scores are made of
# Of a model and of a checkpoint.
MODEL_NAME = "model.json"  # written last
WEIGHTS_NAME = "model.safetensors"
STATE_NAME = "state.json"  # written last
CHECKPOINT_PATTERN = "step-*"
_CHECKPOINT_NAME = re.compile(r"step-(\d{9,})")
# Of a report.
SUMMARY_NAME = "summary.json"  # written last
PAGE_NAME = "index.html"
ANOMALIES_NAME = "anomalies.csv"
LOCUS_NAME = "locus.csv"
SKY_MAP_NAME = "sky_map.fits"
LATENT_MAP_NAME = "latent_map.fits.gz"
ERROR_FIGURE_NAME = "error_vs_magnitude.png"
DENSITY_FIGURE_NAME = "latent_density.png"
LOSS_FIGURE_NAME = "loss_curve.png"
COMPARE_NAME = "compare.json"
COMPARE_TABLE_NAME = "compare.csv"
# Of the place where the ranks of a training meet.
STORE_NAME = "store"  # on one node
ADDRESS_NAME = "address.json"  # across nodes: where rank 0 listens


def shard_name(index: int) -> str:
    """File name of shard `index` of a catalog, counted from 0."""
    return f"shard-{index:05d}.h5"


def shard_record_name(shard: str) -> str:
    """Beside an encoding shard: its record, which finalise gathers into the manifest."""
    return f".{Path(shard).stem}.json"


def part_name(index: int) -> str:
    """What one part of the survey added up to, until all parts are done."""
    return f"part-{index:05d}.npz"


def checkpoint_name(step: int) -> str:
    """Name of the directory of a checkpoint."""
    return f"step-{step:09d}"


def list_checkpoints(checkpoints_dir: Path) -> list[Path]:
    """The checkpoint directories by their names, oldest first."""
    if not checkpoints_dir.is_dir():
        return []
    found = [path for path in checkpoints_dir.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint_dir: Path) -> int:
    """The step of a checkpoint directory."""
    return int(checkpoint_dir.name.removeprefix("step-"))


def progress_name(stage: str) -> str:
    """File name of how far a stage is."""
    return f"{stage}.json"


def tensors_name(group: str) -> str:
    """File name of one group of a checkpoint's tensors: model, optimizer."""
    return f"{group}.safetensors"


@dataclass(frozen=True)
class RunLayout:
    """The files and directories of one run."""

    run_dir: Path

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.run_dir / CONFIG_NAME

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
    def model_record_path(self) -> Path:
        """The record of the model that the run trains, which means that it is complete."""
        return self.model_dir / MODEL_NAME

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
        return self.progress_dir / progress_name(stage)

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
        return self.launch_dir / CONFIG_NAME

    def marker_path(self, rank: int) -> Path:
        """How a rank is."""
        return self.launch_dir / f"rank-{rank:05d}.json"

    def starts_path(self, part: int) -> Path:
        """The ledger of the starts of a part of a job array."""
        return self.launch_dir / f"starts-{part:05d}.jsonl"

    def meeting_dir(self, part: int, restart: int) -> Path:
        """Where the ranks of one start find each other."""
        return self.launch_dir / f"meeting-{part}-{restart}"

    @property
    def adopted_meeting_dir(self) -> Path:
        """Where the ranks that another launcher started find each other."""
        return self.launch_dir / "meeting"

    def requeue_path(self, job: str, restart: int) -> Path:
        """Made by the one rank that puts a job back into the queue."""
        return self.launch_dir / f"requeue-{job}-{restart}"
