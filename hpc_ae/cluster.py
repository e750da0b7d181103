"""The `cluster` section of a config: where the stages run, and what each asks for under sbatch's own names.

Values that reach a batch script are restricted to plain words.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hpc_ae.sections import Count, Section

# Options that `sbatch` may be handed beyond those with a key of their own. Left out: all that name files, run programs,
# change who is charged by another way, or would contradict what the launcher sets (output, dependency, requeue, ...).
SBATCH_OPTIONS = (
    "begin", "contiguous", "core_spec", "cpus_per_gpu", "deadline", "distribution", "exclude", "exclusive",
    "gpu_bind", "gpus_per_task", "gres", "hint", "licenses", "mem_per_cpu", "mem_per_gpu", "network", "nice",
    "nodelist", "ntasks_per_socket", "power", "priority", "spread_job", "switches", "threads_per_core",
    "thread_spec", "tmp", "wckey",
)  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9_.,:&|()\[\]*+@%/=-]{1,128}")
_PLUGIN = re.compile(r"[A-Za-z0-9_]{1,32}")
_TIME = re.compile(r"(\d{1,5}-)?\d{1,5}(:\d{1,2}){0,2}|UNLIMITED|INFINITE")
_MAIL_TYPES = re.compile(r"[A-Z_0-9]{1,20}(,[A-Z_0-9]{1,20})*")
_WORDS = ("mem", "partition", "account", "qos", "constraint", "reservation", "mail_user")


def _plain(value: str | None) -> str | None:
    if value is not None and not _PLAIN.fullmatch(value):
        raise ValueError("only letters, digits and _.,:&|()[]*+@%/=- may stand here")
    return value


class Resources(Section):
    """What the jobs of a stage ask for; null: what `cluster` says of all stages."""

    nodes: Count | None = Field(None, description="nodes of a job")
    ranks_per_node: Count | None = Field(
        None, description="processes on each node; null: one per GPU; without GPUs one per core here, but one to train"
    )
    gpus_per_node: Annotated[int, Field(ge=0)] | None = Field(None, description="GPUs on each node")
    cpus_per_task: Count | None = Field(None, description="cores of each rank")
    mem: str | None = Field(None, description="memory per node, as sbatch --mem takes it: 64G")
    time: str | None = Field(
        None, description="time limit of each job, as sbatch --time takes it: 30, 04:00:00, 1-12 (quote it in YAML)"
    )
    partition: str | None = Field(None, description="Slurm partition")
    account: str | None = Field(None, description="Slurm account")
    qos: str | None = Field(None, description="Slurm quality of service")
    constraint: str | None = Field(None, description="Slurm constraint")
    reservation: str | None = Field(None, description="Slurm reservation")
    mail_type: str | None = Field(None, description="when Slurm sends mail: END,FAIL, as sbatch --mail-type takes it")
    mail_user: str | None = Field(None, description="who gets it; null: you")
    sbatch: dict[str, bool | int | str] = Field(
        {}, description="further options of sbatch that are allowed: {exclusive: true, licenses: scratch}"
    )

    @field_validator(*_WORDS)
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        return _plain(value)

    @field_validator("time", mode="before")
    @classmethod
    def _is_time(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError(f'YAML read this as the number {value}; quote it: time: "24:00:00"')
        if isinstance(value, str) and not _TIME.fullmatch(value):
            raise ValueError("expected minutes, hours:minutes:seconds, or days-hours:minutes:seconds")
        return value

    @field_validator("mail_type")
    @classmethod
    def _is_mail_type(cls, value: str | None) -> str | None:
        if value is not None and not _MAIL_TYPES.fullmatch(value):
            raise ValueError("expected words of sbatch --mail-type such as END,FAIL")
        return value

    @field_validator("sbatch")
    @classmethod
    def _is_allowed(cls, value: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
        for name, given in value.items():
            if name not in SBATCH_OPTIONS:
                raise ValueError(f"{name!r} is not passed on; these are: {', '.join(SBATCH_OPTIONS)}")
            if given is False:
                raise ValueError(f"leave {name} out instead of saying false")
            _plain(str(given))
        return value


class ArrayResources(Resources):
    """Resources of a stage whose tasks need not run at the same time."""

    array: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="tasks of a Slurm job array, each of nodes x ranks_per_node ranks; null: one job"
    )
    array_throttle: Count | None = Field(
        None, description="array tasks that run at the same time, as in sbatch --array=0-N%THROTTLE; null: all"
    )


class StagesSection(Section):
    """Resources of single stages, which replace those of `cluster`."""

    simulate: Resources | None = Field(None, description="of simulate: any of nodes to sbatch, as above")
    ingest: Resources | None = Field(None, description="of ingest, likewise")
    train: Resources | None = Field(None, description="of train, likewise")
    encode: ArrayResources | None = Field(None, description="of encode, likewise, and")
    finalise: Resources | None = Field(None, description="of finalise, likewise: one process")
    postprocess: Resources | None = Field(None, description="of postprocess, likewise")


class Place(Section):
    """Where the stages run."""

    kind: Literal["local", "slurm"] = Field("local", description="this machine, or Slurm jobs")


class ClusterSection(Resources, Place):
    """Where the stages run, and what every stage asks for that `stages` does not say otherwise."""

    nodes: Count = Field(1, description="nodes of each job (finalise takes one)")
    gpus_per_node: Annotated[int, Field(ge=0)] = Field(0, description="GPUs on each node, for train and encode")
    cpus_per_task: Count = Field(1, description="cores of each rank")
    time: str = Field(
        "24:00:00", description="time limit of each job, as sbatch --time takes it: 30, 04:00:00, 1-12 (quote it)"
    )
    stages: StagesSection = Field(
        StagesSection(), description="other resources of single stages: {encode: {array: 16, array_throttle: 4}}"
    )
    stall_seconds: float = Field(
        300.0,
        ge=1.0,
        description="a rank of train or encode without a sign of life so long is ended (at its start six times)",
    )
    mpi: str = Field("pmi2", description="srun --mpi of the MPI stages: pmi2 (MPICH), pmix (Open MPI)")
    modules: list[str] = Field([], description="environment modules that each job loads")
    environment: dict[str, str] = Field(
        {}, description="variables that each job exports, such as HPC_AE_CACHE_DIR (PATH or LD_PRELOAD are code)"
    )
    setup: list[str] = Field([], description="shell lines before srun, such as `source env/bin/activate`: code")
    network_interface: str | None = Field(None, description="for Gloo and NCCL; null: by the route to the first node")

    @field_validator("mpi")
    @classmethod
    def _is_plugin(cls, value: str) -> str:
        if not _PLUGIN.fullmatch(value):
            raise ValueError("expected a name that `srun --mpi=list` shows")
        return value

    @field_validator("network_interface")
    @classmethod
    def _is_word(cls, value: str | None) -> str | None:
        return _plain(value)

    @field_validator("modules")
    @classmethod
    def _are_plain(cls, value: list[str]) -> list[str]:
        for name in value:
            _plain(name)
            if name.startswith(("/", ".", "~", "-")) or ".." in name.split("/"):
                raise ValueError(f"{name!r} is a path or an option; `module use DIR` in cluster.setup adds a directory")
        return value

    @field_validator("environment")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
            if not text.isprintable():
                raise ValueError(f"the value of {name} is not one line of printable characters")
        return value

    @field_validator("setup")
    @classmethod
    def _one_line(cls, value: list[str]) -> list[str]:
        if any(not line.isprintable() for line in value):
            raise ValueError("each entry is one line of printable characters")
        return value

    def of_stage(self, stage: str) -> ClusterSection:
        """What a stage asks for: its own resources before those of all stages; `sbatch` options are put together."""
        own: Resources | None = getattr(self.stages, stage)
        if own is None:
            return self
        names = Resources.model_fields.keys() - {"sbatch"}
        chosen = {name: getattr(own, name) for name in names if getattr(own, name) is not None}
        return self.model_copy(update={**chosen, "sbatch": {**self.sbatch, **own.sbatch}})

    def array_of(self, stage: str) -> tuple[int, int]:
        """(tasks of a stage's job array, how many of them run at the same time); (1, 1) for a plain job."""
        own = getattr(self.stages, stage)
        if self.kind == "local" or not isinstance(own, ArrayResources) or own.array is None:
            return 1, 1
        return own.array, own.array_throttle or own.array


def limit_seconds(text: str) -> float:
    """Seconds of a time limit as sbatch reads it: minutes, minutes:seconds, hours:minutes:seconds,
    days-hours[:minutes[:seconds]]; infinite where there is none.
    """
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
    except ValueError:
        return float("inf")
    if dash:
        hours, minutes, seconds = (parts + [0, 0])[:3]
    else:
        hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
