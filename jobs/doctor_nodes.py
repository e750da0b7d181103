"""`doctor` inside an allocation of several nodes: do all of them see the run directory, and how fast do they talk?

`python -m hpc_ae.jobs.doctor_nodes FOLDER` runs once on each node, under srun, and prints lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from hpc_ae.interpreter import python_words
from hpc_ae.jobs.finding import Finding, error_of, run_quietly
from hpc_ae.record import Record

_SECONDS = 120
_ROUNDS = 50
_GRADIENT_BYTES = 44_500  # of the default model: what training exchanges in a step
_SLOW_SECONDS = 5e-3
_BLIND = 3


class NodeAnswer(Record):
    """A line that a node prints: whether it sees the run directory, or how fast the nodes talk."""

    node: str | None = None
    sees: bool | None = None
    seconds: float | None = None
    backend: str | None = None


def examine_nodes(folder: Path) -> list[Finding]:
    """Findings across the nodes of this allocation; none outside one, or with a single node."""
    num_nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if "SLURM_JOB_ID" not in os.environ or not num_nodes.isdigit() or int(num_nodes) < 2:
        return []
    meeting = folder / f".hpc-ae-doctor-{secrets.token_hex(8)}"
    try:
        meeting.mkdir(mode=0o700)
    except OSError:
        return []  # the row of the run directory says so
    options = (f"--nodes={num_nodes}", f"--ntasks={num_nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1")
    try:
        words = ("srun", *options, "--overlap", *python_words("hpc_ae.jobs.doctor_nodes", str(meeting)))
        return read_answers(run_quietly(*words, seconds=_SECONDS), int(num_nodes))
    finally:
        shutil.rmtree(meeting, ignore_errors=True)


def read_answers(done: subprocess.CompletedProcess[str] | None, num_nodes: int) -> list[Finding]:
    """What the nodes' lines of JSON say."""
    answers = []
    for line in (done.stdout if done else "").splitlines():
        with contextlib.suppress(ValueError):  # what else a node prints
            answers.append(NodeAnswer.model_validate_json(line))
    seen = sorted(str(answer.node) for answer in answers if answer.sees is True)
    blind = sorted(str(answer.node) for answer in answers if answer.sees is False)
    if blind:
        fix = "choose a run_dir on a file system that all nodes mount"
        return [Finding("nodes", "fail", f"the run directory does not exist on {', '.join(blind)}", fix)]
    if len(seen) < num_nodes:
        found = f"{len(seen)} of {num_nodes} nodes answer: {error_of(done)}"
        return [Finding("nodes", "fail", found, "srun must be able to start a task on each node")]
    findings = [Finding("nodes", "ok", f"{', '.join(seen)} see the run directory")]
    times = [answer for answer in answers if answer.seconds is not None]
    if not times:
        fix = "set cluster.network_interface; firewalls between nodes must let them talk"
        return [*findings, Finding("all-reduce", "fail", f"the nodes do not reach each other: {error_of(done)}", fix)]
    return [*findings, _speed(times[0], num_nodes)]


def _speed(answer: NodeAnswer, num_nodes: int) -> Finding:
    seconds = answer.seconds or 0.0
    found = f"{seconds * 1e6:.0f} us for one gradient of 44.5 kB over {num_nodes} nodes ({answer.backend})"
    fix = "set cluster.network_interface to the fast network's"
    return Finding("all-reduce", "ok" if seconds < _SLOW_SECONDS else "warn", found, fix)


def main(meeting: Path) -> int:
    """One node's part."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    _print(NodeAnswer(node=node, sees=meeting.is_dir()))
    if not meeting.is_dir():
        return _BLIND
    import numpy as np

    from hpc_ae.runtime.distributed import pick_device, process_group
    from hpc_ae.runtime.ranks import Ranks

    rank, world_size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    ranks = Ranks(rank, world_size, 0, 1)
    device = pick_device(ranks)
    with process_group(ranks, device, meeting) as group:
        gradient, times = np.zeros(_GRADIENT_BYTES // 8), []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            group.sum(gradient)
            times.append(time.perf_counter() - started)
    if rank == 0:
        backend = "nccl" if device.type == "cuda" else "gloo"
        _print(NodeAnswer(seconds=sorted(times)[_ROUNDS // 2], backend=backend))
    return 0


def _print(answer: NodeAnswer) -> None:
    print(json.dumps(answer.to_json()), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
