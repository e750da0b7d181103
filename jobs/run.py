"""A run: one config in one run directory, and the stages that it takes. Made once, where a command or a job begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_ae.config import RunConfig
from hpc_ae.jobs.resources import Kind
from hpc_ae.layout import RunLayout

StopRequested = Callable[[], bool]


@dataclass(frozen=True)
class WorkDone:
    """The work of a stage that outlasts a kill: so many of so many (0: nobody knows) shards or steps."""

    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True)
class Stage:
    """One stage. `kind`: tasks "mapped" over a pool or MPI, "ranks" that know their place, or a "single" process."""

    name: str
    kind: Kind
    run: Callable[[Run, StopRequested], str]
    is_done: Callable[[Run], bool]
    outputs: Callable[[Run], list[Path]]
    done_so_far: Callable[[Run], WorkDone] = lambda _: WorkDone()
    # The ranks of so many that still have something to do; None: the stage cannot be cut into parts.
    ranks_left: Callable[[Run, int], list[int]] | None = None
    # Whether --redo leaves an output, as making it again would give the same.
    keeps: Callable[[Run, Path], bool] = lambda *_: False


@dataclass(frozen=True)
class Run:
    """A run; hpc_ae.jobs.stages.make_run makes it of a config."""

    config: RunConfig
    layout: RunLayout
    stages: tuple[Stage, ...]

    @property
    def stage_names(self) -> list[str]:
        """The names of the stages, in order."""
        return [stage.name for stage in self.stages]

    def on_this_machine(self) -> Run:
        """The same run, whatever cluster.kind says."""
        cluster = self.config.cluster.model_copy(update={"kind": "local"})
        return replace(self, config=self.config.model_copy(update={"cluster": cluster}))
