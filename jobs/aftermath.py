"""What a batch script does where its ranks did not end well: a job that lost a node, or whose nodes another job is to
have, goes back into the queue.

Ranks cannot tell a lost node from a rank that was killed: both break a connection, and srun ends the step for both.
The batch script can: it asks every node of the job for a sign of life. Where all answer, a rank was killed, which is
said in its marker and is the job's failure; where one does not, or its slurmd is younger than the job, the job is
requeued. Nor can ranks tell a preemption from scancel: both are SIGTERM. In a partition with a grace time they save
and end before Slurm itself would requeue the job, which therefore is done here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from hpc_ae.files import publish_json
from hpc_ae.jobs.launched import Launched, await_launch
from hpc_ae.jobs.marker import Marker, State, read_marker
from hpc_ae.jobs.requeue import not_requeued, requeue_now
from hpc_ae.jobs.restarts import MOST_WITHOUT_PROGRESS
from hpc_ae.jobs.slurm_clients import ask_slurm
from hpc_ae.layout import RunLayout

_PROBE_SECONDS = 30
_PROBES_AT_ONCE = 16
_RECORD_SECONDS = 10.0  # `run` writes down what it submitted just after sbatch has answered
_OPEN = ("running", "disconnected")


def main(run_dir: str, stage: str, status: int) -> int:
    """Requeue this job where it is preempted or a node of it is lost, else say which ranks died; returns the job's
    exit status.
    """
    number = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"]
    launched = await_launch(RunLayout(Path(run_dir)), stage, number, _RECORD_SECONDS)
    if launched is None:
        return status
    paths = _my_markers(launched)
    ended = {rank: read_marker(path) or Marker(state="running") for rank, path in paths.items()}
    open_ranks = [rank for rank, marker in ended.items() if marker.state in _OPEN]
    job = _show("job", os.environ["SLURM_JOB_ID"])
    if job.get("JobState") != "RUNNING":
        return status  # Slurm is ending it
    if _is_preempted(job) and not any(marker.state == "failed" for marker in ended.values()):
        return _requeue(paths, ended, "another job is to have its nodes (preempted)", status)
    if not open_ranks:
        return status  # it failed by itself and said so
    node = _lost_node(job)
    if node and int(os.environ.get("SLURM_RESTART_COUNT", "0")) < _most_restarts(stage):
        return _requeue(paths, ended, f"node {node} was lost", status)
    _say_who_died(paths, {rank: ended[rank] for rank in open_ranks}, node)
    return status


def _requeue(paths: dict[int, Path], ended: dict[int, Marker], why: str, status: int) -> int:
    """Say why in the markers, and put the job back into the queue; the job's exit status where Slurm refuses."""
    unfinished = {rank: marker for rank, marker in ended.items() if not marker.has_ended}
    for rank, marker in unfinished.items():
        _write(paths[rank], marker, "interrupted", why)
    print(f"hpc-ae: {why}: the job is requeued", file=sys.stderr, flush=True)
    if said := requeue_now():
        message = not_requeued(why, said)
        print(f"hpc-ae: {message}", file=sys.stderr, flush=True)
        for rank, marker in unfinished.items():
            _write(paths[rank], marker, "failed", message)
    return status


def _is_preempted(job: dict[str, str]) -> bool:
    """Whether Slurm has told this start of the job that another is to have its nodes."""
    told, started = job.get("PreemptTime", ""), job.get("StartTime", "")
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(told) >= datetime.fromisoformat(started)
    return False


def _my_markers(launched: Launched) -> dict[int, Path]:
    """The markers of the ranks of this job, or of this task of an array."""
    part = launched.parts[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
    return {rank: launched.files.marker_path(rank) for rank in launched.ranks_of(part)}


def _most_restarts(stage: str) -> float:
    """Training and encoding have a ledger that counts starts without progress; the others start from the beginning."""
    return float("inf") if stage in ("train", "encode") else MOST_WITHOUT_PROGRESS


def _lost_node(job: dict[str, str]) -> str | None:
    """The first node of this job that is gone, or was; None where all are as they were, or nothing can be said."""
    names = _run("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    here = os.environ.get("SLURMD_NODENAME", "")
    if not _answers(here):
        return None  # then it says nothing that others do not
    others = [name for name in names if name != here]
    for name in others:
        if _is_later(_show("node", name).get("SlurmdStartTime", ""), job.get("StartTime", "")):
            return name
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        answers = list(pool.map(_answers, others))
    return next((name for name, answer in zip(others, answers, strict=True) if not answer), None)


def _is_later(one: str, other: str) -> bool:
    """Whether one of Slurm's times is after another; not where one of them is a word such as None or Unknown."""
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(one) > datetime.fromisoformat(other)
    return False


def _answers(node: str) -> bool:
    """Whether a step of one small task runs on a node of this job."""
    words = ["srun", f"--jobid={os.environ['SLURM_JOB_ID']}", f"--nodelist={node}", "--overlap", "--mem=0"]
    words += ["--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--mpi=none", "true"]
    answer = ask_slurm(*words, seconds=_PROBE_SECONDS)
    return answer is not None and answer.returncode == 0


def _show(kind: str, name: str) -> dict[str, str]:
    """Some of the fields that `scontrol show` prints, of values without blanks."""
    return dict(re.findall(r"(\w+)=(\S*)", _run("scontrol", "show", kind, name, "--oneliner")))


def _run(*words: str) -> str:
    answer = ask_slurm(*words)
    return "" if answer is None else answer.stdout


def _say_who_died(paths: dict[int, Path], ended: dict[int, Marker], node: str | None) -> None:
    """Ranks that never said how they ended were killed; those that lost the connection to them failed after them."""
    for rank, marker in sorted(ended.items(), key=lambda item: item[1].state == "disconnected"):
        died = f"rank {rank} died ({f'node {node} was lost' if node else 'killed, perhaps because memory ran out'})"
        message = marker.message if marker.state == "disconnected" else died
        print(f"hpc-ae: {message}", file=sys.stderr, flush=True)
        _write(paths[rank], marker, "failed", message)


def _write(path: Path, before: Marker, state: State, message: str) -> None:
    publish_json(path, before.judged(state, message, time.time()).to_json())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
