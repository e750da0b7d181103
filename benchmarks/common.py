"""What the benchmark scripts share: one JSON line and one table row a result, hardware, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # measure this checkout, installed or not
PHOTOMETRY = ROOT.parent / "shared" / "data" / "sdss_photometric_stars.parquet"


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


def hpc_ae(*arguments: str) -> float:
    """Run the command line in its own process; seconds of wall time, start-up included."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "jobs", *arguments], check=True, env=environment, cwd=ROOT)
    return time.perf_counter() - started
