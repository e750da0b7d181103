"""A row of `doctor`, and how it asks other programs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Literal

from hpc_ae.interpreter import python_words

Level = Literal["ok", "warn", "fail"]
_COMMAND_SECONDS = 30


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, how it is, what was found, and what to do where it is not well."""

    name: str
    level: Level
    found: str
    fix: str = ""


def run_quietly(
    *command: str, seconds: float = _COMMAND_SECONDS, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str] | None:
    """Run a program to its end, in this process's environment by default; None where it is not there or does not end
    in time.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None


def mpi_version() -> str:
    """The first line of what the MPI library says of itself, "" where none can be loaded; asked in a process of its
    own, as a library that does not start must not end this one.
    """
    done = run_quietly(*python_words("mpi4py", "--mpi-lib-version"))
    return done.stdout.splitlines()[0].strip()[:80] if done is not None and done.returncode == 0 else ""


def error_of(done: subprocess.CompletedProcess[str] | None) -> str:
    """The first line of what a program had to complain of."""
    return "no answer" if done is None else (done.stderr.strip().splitlines() or [""])[0][:200]
