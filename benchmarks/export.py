"""Export of a simulated star catalog to every format: time with start-up and reading back, memory, size.

python benchmarks/export.py [--stars 10000000] [--folder DIR]       about 2 minutes, 3 GB of disk
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from common import bytes_in, hpc_ae, measured, report

FORMATS = ("fits", "parquet", "votable", "hdf5-table", "hats")


def main() -> None:
    """Each format once, its output removed before the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the catalog, and uses one that is there")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-export-"))).absolute()
    stars = folder / f"stars-{arguments.stars}"
    if not (stars / "manifest.json").exists():
        hpc_ae("simulate", str(stars), "--stars", str(arguments.stars), "--bad-rows", "0.01")
    for to in FORMATS:
        out = folder / f"out.{to}"
        usage = measured("export", str(stars), str(out), "--to", to)
        num_bytes = bytes_in(out) if out.is_dir() else out.stat().st_size
        report(f"export, {to}", **usage.rates(arguments.stars, num_bytes), out_gb=num_bytes / 1e9)
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
