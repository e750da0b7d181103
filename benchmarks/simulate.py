"""Simulate a catalog and verify it, against the disk's own write + fsync rate.

python benchmarks/simulate.py [--stars 10000000] [--folder DIR]      under a minute, 1.5 GB of disk
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from common import hpc_ae, report, stopwatch


def disk_rate(folder: Path, num_bytes: int = 1 << 30) -> float:
    """Plain write + fsync of 36 MB files, GB/s."""
    block = os.urandom(36_000_000)
    count = num_bytes // len(block)
    with stopwatch() as seconds:
        for index in range(count):
            with (folder / f"block-{index}").open("wb") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
        rate = count * len(block) / seconds() / 1e9
    for path in folder.glob("block-*"):
        path.unlink()
    return rate


def main() -> None:
    """The disk first, then simulate and verify with one and two workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-simulate-"))
    disk = disk_rate(folder)
    report("disk write + fsync", gb_per_second=disk)
    for workers in (1, 2):
        shutil.rmtree(folder / "stars", ignore_errors=True)
        seconds = hpc_ae("simulate", str(folder / "stars"), "--stars", str(arguments.stars), "--workers", str(workers))
        num_bytes = sum(path.stat().st_size for path in (folder / "stars").iterdir())
        report(
            f"hpc-ae simulate, {workers} workers",
            stars_per_second=arguments.stars / seconds,
            gb_per_second=num_bytes / seconds / 1e9,
            to_disk=num_bytes / seconds / 1e9 / disk,
            wall_seconds=seconds,
        )
    for workers in (1, 2):
        seconds = hpc_ae("verify", str(folder / "stars"), "--workers", str(workers))
        report(f"hpc-ae verify, {workers} workers", stars_per_second=arguments.stars / seconds, wall_seconds=seconds)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
