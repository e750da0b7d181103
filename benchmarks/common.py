"""What the benchmark scripts share: one JSON line and one table row a result, hardware, commit."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # measure this checkout, installed or not
PHOTOMETRY = ROOT.parent / "shared" / "data" / "sdss_photometric_stars.parquet"
SAMPLE_SECONDS = 0.1
GIB = 1 << 30


def hardware() -> str:
    """Processor and number of cores."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{len(os.sched_getaffinity(0))} x {names[0] if names else platform.machine()}"


def commit() -> str:
    """Short commit of the checkout, with + where it has changes."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def report(name: str, **values: Any) -> None:
    """Print a result as a JSON line on standard output and as a table row on standard error."""
    record = {
        "benchmark": name,
        **values,
        "hardware": hardware(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(record), flush=True)
    row = " | ".join(
        f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
    print(f"| {name} | {row} |", file=sys.stderr, flush=True)


def median_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall time of `work` over some repeats after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yields a function that gives the seconds since the start."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started


def command_line(*arguments: str) -> list[str]:
    """`hpc-ae ARGUMENTS` of this checkout."""
    return [sys.executable, "-m", "hpc_ae", *arguments]


def hpc_ae(*arguments: str) -> float:
    """Run the command line in its own process; seconds of wall time, start-up included."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command_line(*arguments), check=True, env=environment, cwd=ROOT)
    return time.perf_counter() - started


@dataclass(frozen=True)
class Usage:
    """What a command took: wall time with start-up, and of its largest process the most memory that was resident.

    `peak_gib` is VmHWM, file-mapped pages included; `anonymous_gib` the most RssAnon that a sample saw. What a process
    adds in its last tenth of a second is missed.
    """

    seconds: float
    peak_gib: float
    anonymous_gib: float
    largest: str
    num_processes: int

    def rates(self, num_stars: int, num_bytes: float | None = None, work: float | None = None) -> dict[str, Any]:
        """Values for `report`: by wall time, start-up included, and with the prefix work_ by the stage's own clock."""
        values: dict[str, Any] = {"wall_seconds": self.seconds, "stars_per_second": num_stars / self.seconds}
        if num_bytes is not None:
            values["gb_per_second"] = num_bytes / self.seconds / 1e9
        if work:
            values |= {"work_seconds": work, "work_stars_per_second": num_stars / work}
            values |= {} if num_bytes is None else {"work_gb_per_second": num_bytes / work / 1e9}
        return {**values, **self.memory()}

    def memory(self) -> dict[str, Any]:
        """Values for `report`: memory per process."""
        return {
            "peak_gib": self.peak_gib,
            "anonymous_gib": self.anonymous_gib,
            "largest": self.largest,
            "num_processes": self.num_processes,
        }


class MemoryWatch(threading.Thread):
    """Samples the memory of some processes and of all that they start, grandchildren and new sessions included.

    A process belongs to the tree by its parent or by its session, which survives the parent's death. Each process is
    looked up once and only those of the tree are read again, so a sample takes well under a millisecond.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        super().__init__(name="memory-watch", daemon=True)
        self.members, self.sessions = set(roots), set(roots)
        self.strangers: set[int] = set()
        self.seen: set[int] = set()
        self.peaks = {"VmHWM": 0, "RssAnon": 0}
        self.largest = ""
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample until `finish`."""
        while not self.ended.wait(SAMPLE_SECONDS):
            self.sample()

    def finish(self) -> None:
        """Stop sampling."""
        self.ended.set()
        self.join()

    def sample(self) -> None:
        """One look at all processes."""
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
        self.members &= alive
        self.strangers &= alive
        self._admit(sorted(alive - self.members - self.strangers))
        for pid in self.members:
            with suppress(OSError):
                self._read(pid)
        self.seen |= self.members

    def _admit(self, newcomers: list[int]) -> None:
        kin = {}
        for pid in newcomers:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                kin[pid] = (int(words[1]), int(words[3]))
        while ours := {pid for pid, (up, sid) in kin.items() if up in self.members or sid in self.sessions}:
            self.members |= ours
            self.sessions |= {kin.pop(pid)[1] for pid in ours}
        self.strangers |= kin.keys()

    def _read(self, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        kib = {name: int(fields[name].split()[0]) for name in self.peaks if name in fields}  # a zombie has none
        if kib.get("VmHWM", 0) > self.peaks["VmHWM"]:
            self.largest = fields["Name"]
        for name, value in kib.items():
            self.peaks[name] = max(self.peaks[name], value)


def watched(commands: Sequence[list[str]], environments: Sequence[Mapping[str, str]] = ({},)) -> Usage:
    """Run some commands at the same time, each with its variables; time until the last ends, memory of the largest.

    What they print goes to standard error.
    """
    started = time.perf_counter()
    processes = []
    for command, variables in zip(commands, environments, strict=True):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        processes.append(
            subprocess.Popen(command, env=environment, cwd=ROOT, stdout=sys.stderr, start_new_session=True)
        )
    watch = MemoryWatch([process.pid for process in processes])
    watch.start()
    try:
        statuses = [process.wait() for process in processes]
        seconds = time.perf_counter() - started
    finally:
        watch.finish()
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # sessions of their own do not hear Ctrl-C
    for status, command in zip(statuses, commands, strict=True):
        if status:
            raise subprocess.CalledProcessError(status, command)
    gib = {name: kib * 1024 / GIB for name, kib in watch.peaks.items()}
    return Usage(seconds, gib["VmHWM"], gib["RssAnon"], watch.largest, len(watch.seen))


def measured(*arguments: str, **variables: str) -> Usage:
    """Run the command line, with some environment variables, and watch its memory."""
    return watched([command_line(*arguments)], [variables])


def work_seconds(run_dir: Path, stage: str) -> float | None:
    """What a stage's own clock says of its work, to 0.1 s; None where it keeps none."""
    path = run_dir / "jobs" / "progress" / f"{stage}.json"
    return float(json.loads(path.read_text())["seconds"]) if path.exists() else None


def bytes_in(folder: Path, pattern: str = "*") -> int:
    """Size of the files in a folder, at any depth."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def ratios(values: Mapping[str, Any], **references: float) -> dict[str, float]:
    """{to_NAME: stars_per_second of `values` to that reference}, and work_to_NAME where there is a work rate."""
    found = {}
    for prefix in ("", "work_"):
        if rate := values.get(f"{prefix}stars_per_second"):
            found |= {f"{prefix}to_{name}": rate / reference for name, reference in references.items()}
    return found
