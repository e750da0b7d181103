"""Slurm's own programs (squeue, scancel, ...), started as they are without options of the user's.

Each of them takes options from the environment: SQUEUE_PARTITION hides jobs from squeue, SCANCEL_STATE makes scancel
pass over them. What a run asks or ends must not depend on what a user has set for the terminal.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable

from hpc_ae.jobs.finding import run_quietly

_OPTIONS = re.compile(r"(SQUEUE|SCANCEL|SACCT|SCONTROL|SINFO|SBATCH|SALLOC|SRUN|SLURM)_")
_WHERE_SLURM_IS = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})  # how to reach it, and as whom
_CLIENT_SECONDS = 60


def is_option(name: str) -> bool:
    """Whether a variable of the environment is an option of one of Slurm's programs, or tells of an allocation."""
    return _OPTIONS.match(name) is not None and name not in _WHERE_SLURM_IS


def ask_slurm(*command: str, seconds: float = _CLIENT_SECONDS) -> subprocess.CompletedProcess[str] | None:
    """Run one of Slurm's programs to its end; None where it is not there or does not end in time."""
    kept = {name: text for name, text in os.environ.items() if not is_option(name)}
    return run_quietly(*command, seconds=seconds, environment=kept)


def scancel(job_id: str) -> str:
    """Cancel a job, or a whole array; what Slurm said, nothing where all went well."""
    answer = ask_slurm("scancel", job_id)
    return "scancel does not answer" if answer is None else answer.stderr.strip()


def ignored_options(names: Iterable[str]) -> list[str]:
    """Variables by which a user tells sbatch something that jobs of a run do not take: SBATCH_PARTITION, ..."""
    return sorted(name for name in names if name.startswith("SBATCH_"))
