"""Where an output came from: package version, git commit, time, command; and the fingerprints that decide a skip."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from hpc_ae.errors import StaleError
from hpc_ae.record import Record
from hpc_ae.secrets import shared_words
from hpc_ae.version import __version__

Fingerprint = dict[str, Any]  # what an output was made from, as JSON: compared, never looked into
COMMAND_VARIABLE = "HPC_AE_COMMAND"  # what the user typed, where a launcher stands in between
PACKAGE = f"hpc_ae {__version__}"


class Provenance(Record):
    """Where an output came from. `config` is what was asked for, as its maker says it."""

    nulls: ClassVar[frozenset[str]] = frozenset({"git_commit"})

    package: str = ""
    git_commit: str | None = None
    time: str = ""
    command: str = ""
    config: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def now(cls, config: dict[str, Any]) -> Provenance:
        """That of what this process makes, by a config ({}: by none)."""
        return cls(
            package=PACKAGE,
            git_commit=git_commit(),
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=os.environ.get(COMMAND_VARIABLE) or command_line(),
            config=config,
        )

    def facts(self) -> dict[str, str]:
        """What is known of the making but the config, by name."""
        facts = {"package": self.package, "git_commit": self.git_commit, "time": self.time, "command": self.command}
        return {name: text for name, text in facts.items() if text}


def command_line() -> str:
    """This process's command line, as a shell would take it; values that may be secrets are left out."""
    return shlex.join([Path(sys.argv[0]).name, *shared_words(sys.argv[1:])])


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, None when installed elsewhere."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def differences(recorded: Fingerprint, wanted: Fingerprint, prefix: str = "") -> list[str]:
    """The dotted keys in which two fingerprints differ, each with both values."""
    found = []
    for key in sorted(recorded.keys() | wanted.keys()):
        old, new = recorded.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} -> {new}")
    return found


def check_fingerprint(where: Path, recorded: Fingerprint, wanted: Fingerprint, stage: str) -> None:
    """StaleError, naming what changed, where an output was made from something else."""
    if changed := differences(recorded, wanted):
        raise StaleError(
            f"the output of {stage} was made from another config or other inputs",
            where=where,
            got="; ".join(changed[:5]),
            expected="an output of the same config and inputs",
            fix=f"hpc-ae run CONFIG --redo {stage} discards it and makes it again; another run_dir keeps both",
        )
