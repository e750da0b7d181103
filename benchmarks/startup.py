"""How long a command takes before it works: `--help`, and the first encoded shard, with and without a kernel cached.

python benchmarks/startup.py [--repeats 5] [--folder DIR]        about 3 minutes on two cores, 0.2 GB of disk
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, command_line, median_seconds, report
from encode import make_inputs, write_config

NUM_STARS = 1_000_000
POLL_SECONDS = 0.005


def run(arguments: list[str], **variables: str) -> subprocess.Popen[bytes]:
    """Start the command line; what it prints on standard output is not shown."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(command_line(*arguments), env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)


def help_seconds(repeats: int) -> float:
    """Median wall time of `hpc-ae --help`."""
    return median_seconds(lambda: run(["--help"]).wait(), repeats)


def first_shard_seconds(folder: Path, cache: Path) -> float:
    """From the start of `hpc-ae encode` to the first shard under its final name, into a fresh run directory."""
    config = write_config(folder, 2)
    started = time.perf_counter()
    process = run(["encode", str(config)], HPC_AE_CACHE_DIR=str(cache))
    while not any((folder / "run" / "encoding").glob("shard-*.h5")):
        if process.poll() is not None:
            raise RuntimeError("encode ended without a shard")
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - started
    if process.wait():
        raise RuntimeError(f"encode failed: {process.returncode}")
    return seconds


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Help first, then encode: with an empty cache each time, then with the last of these."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-startup-"))).absolute()
    folder.mkdir(exist_ok=True)
    make_inputs(folder, NUM_STARS)
    python = median_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True), arguments.repeats)
    wanted = help_seconds(arguments.repeats)
    report("hpc-ae --help", median_seconds=wanted, python_seconds=python)
    cold = []
    for _ in range(arguments.repeats):
        cache = Path(tempfile.mkdtemp(prefix="cache-", dir=folder))  # mode 0700, as the command demands
        cold.append(first_shard_seconds(folder, cache))
    warm = [first_shard_seconds(folder, cache) for _ in range(arguments.repeats)]
    for name, seconds in (("warm", warm), ("empty", cold)):
        report(
            f"hpc-ae encode to the first shard, {name} kernel cache",
            num_stars=NUM_STARS,
            median_seconds=median(seconds),
            least_seconds=min(seconds),
            most_seconds=max(seconds),
            to_warm=median(seconds) / median(warm),
        )
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
