"""The command line as a user types it, in a process of its own or in this one, and small configs for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm_cluster import wait_until

REPOSITORY = Path(__file__).resolve().parent.parent
LAUNCHED = ("SLURM", "PMI", "OMPI", "MPI_", "HPC_AE_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")


PASSED_ON = ("PYTHONPATH", "PATH", "MPIR_CVAR_CH4_NETMOD")  # of it, what a job must be told that has not inherited it


def environment(**more: str) -> dict[str, str]:
    """This process's variables without a launcher's; this checkout is importable, this interpreter comes first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    # MPICH's UCX now and then hands Slurm a broken address (pmodels/mpich issue 7417); its other network has not.
    network = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
    return {**kept, **network, "PYTHONPATH": str(REPOSITORY), "PATH": path, "COLUMNS": "200", **more}


def command(*arguments: object) -> list[str]:
    """The words that start `hpc-ae`."""
    return [sys.executable, "-m", "hpc_ae", *map(str, arguments)]


def hpc_ae(*arguments: object, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `hpc-ae` to its end in a process of its own; where it does not end, say what it and Slurm had to say."""
    try:
        return subprocess.run(
            command(*arguments),
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        lines = [f"not done after {timeout} s: {error.cmd}", str(error.stdout), str(error.stderr)]
        if "SLURM_CONF" in variables:
            lines += [_output("squeue", "--long", **variables), _output("sinfo", "--list-reasons", **variables)]
            lines += [_output("scontrol", "show", "jobs", **variables)]
            lines += [path.read_text()[-2000:] for path in Path(variables["SLURM_CONF"]).parent.glob("*.log")]
        pytest.fail("\n".join(lines), pytrace=False)


def _output(*words: str, **variables: str) -> str:
    done = subprocess.run(words, env=environment(**variables), capture_output=True, text=True, timeout=240, check=False)
    return f"$ {' '.join(words)}\n{done.stdout}{done.stderr}"


def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Start `hpc-ae` in a session of its own, its standard error in a pipe."""
    return subprocess.Popen(
        command(*arguments),
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def await_sign(
    sign: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 100, interval: float = 0.1
) -> None:
    """Return when the sign is there; a command that ends without it, or is too slow, fails with what it said."""
    seen = wait_until(lambda: sign() or process.poll() is not None, timeout, interval) and sign()
    if seen:
        return
    status = process.poll()
    process.kill()
    try:
        said: object = process.communicate(timeout=60)
    except subprocess.TimeoutExpired as error:  # a child of it has the pipe
        said = error.stderr
    pytest.fail(f"no sign of it; status {status}, it said: {said}", pytrace=False)


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and standard error of a command that is run in this process, where starting one would be slow."""
    from hpc_ae.jobs.main import run_command

    status = run_command([str(word) for word in arguments])
    return status, capsys.readouterr().err


def write_config(folder: Path, name: str = "config.yaml", **changes: Any) -> Path:
    """A config of 3,000 simulated stars in three shards, trained for 86 steps by two ranks; `changes` by section."""
    values: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "catalog": {"source": {"simulate": {"stars": 3000, "bad_rows": 0.02}}, "shard_rows": 1000},
        "train": {"epochs": 2, "batch_size": 64, "partitions": 8},
        "cluster": {"kind": "local", "ranks_per_node": 2},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


def run_processes(run_dir: Path) -> list[int]:
    """Ids of the living processes whose command line names a run directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(run_dir) in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found
