"""Simulate a catalog and verify it, against the disk's own write + fsync rate and a plain SHA-256 of the same files.

python benchmarks/simulate.py [--stars 10000000] [--folder DIR]      under a minute, 1.5 GB of disk
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from common import bytes_in, measured, report, stopwatch


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


def digest_rate(catalog: Path, most_shards: int = 40) -> float:
    """Read + SHA-256 of the first shards in one thread, GB/s: what no check of digests can do without."""
    paths = sorted(catalog.glob("shard-*.h5"))[:most_shards]
    with stopwatch() as seconds:
        for path in paths:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")
        return sum(path.stat().st_size for path in paths) / seconds() / 1e9


def main() -> None:
    """The disk first, then simulate and verify with one and two workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-simulate-"))
    folder.mkdir(exist_ok=True)
    stars = folder / "stars"
    disk = disk_rate(folder)
    report("disk write + fsync", gb_per_second=disk)
    for workers in (1, 2):
        shutil.rmtree(stars, ignore_errors=True)
        usage = measured("simulate", str(stars), "--stars", str(arguments.stars), "--workers", str(workers))
        values = usage.rates(arguments.stars, bytes_in(stars))
        report(f"hpc-ae simulate, {workers} workers", **values, to_disk=values["gb_per_second"] / disk)
    digest = digest_rate(stars)
    report("read + SHA-256, one thread", gb_per_second=digest)
    for workers in (1, 2):
        usage = measured("verify", str(stars), "--workers", str(workers))
        values = usage.rates(arguments.stars, bytes_in(stars))
        report(f"hpc-ae verify, {workers} workers", **values, to_sha256=values["gb_per_second"] / digest)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
