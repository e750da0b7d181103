"""Ingest a CSV, end to end, against pyarrow.csv reading the same file by batches and whole, each in a fresh process.

python benchmarks/ingest.py [--stars 10000000] [--in DIR]      about 2 minutes, 3 GB of disk
python benchmarks/ingest.py --stars 100000000 --once           memory alone, in both orders: 20 minutes, 35 GB of disk
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
from common import Usage, bytes_in, measured, report, stopwatch

from hpc_ae.photometry import BANDS, simulate_stars

_REFERENCES = {
    "pyarrow_stream": "import sys, pyarrow.csv as c; sum(len(batch) for batch in c.open_csv(sys.argv[1]))",
    "pyarrow_whole": "import sys, pyarrow.csv as c; c.read_csv(sys.argv[1])",  # on all cores, all rows in memory
}


def write_csv(path: Path, num_stars: int, block: int = 1_000_000) -> None:
    """A CSV of simulated stars: objid, ra, dec, u..z, err_u..err_z."""
    writer = None
    for start in range(0, num_stars, block):
        stars = simulate_stars(start, min(block, num_stars - start), 1)
        columns = {name: stars[name] for name in ("objid", "ra", "dec")}
        columns |= {band: stars["magnitude"][:, index] for index, band in enumerate(BANDS)}
        columns |= {f"err_{band}": stars["magnitude_error"][:, index] for index, band in enumerate(BANDS)}
        table = pa.table(columns)
        writer = writer or pc.CSVWriter(path, table.schema)
        writer.write(table)
    if writer is not None:
        writer.close()


def read_seconds(code: str, path: Path) -> float:
    """pyarrow.csv through the whole file, start-up included."""
    with stopwatch() as seconds:
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        return seconds()


def main() -> None:
    """Write the file, ingest it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=10_000_000)
    parser.add_argument("--in", dest="folder", type=Path, default=None, help="where the files go for a while")
    parser.add_argument("--once", action="store_true", help="ours alone, in the order of the file and of the sky")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hpc_ae-ingest-", dir=arguments.folder))
    try:
        write_csv(folder / "stars.csv", arguments.stars)
        (once if arguments.once else compare)(folder / "stars.csv", folder / "stars", arguments.stars)
    finally:
        shutil.rmtree(folder)


def once(raw: Path, stars: Path, num_stars: int) -> None:
    """Time and memory of one ingest in each order."""
    num_bytes = raw.stat().st_size
    for order in ("input", "healpix"):
        shutil.rmtree(stars, ignore_errors=True)
        usage = measured("ingest", str(raw), "--out", str(stars), "--workers", "2", "--order", order)
        rates = usage.rates(num_stars, num_bytes + bytes_in(stars))
        report(f"hpc-ae ingest --order {order}, 2 workers", num_stars=num_stars, **rates)


def compare(raw: Path, stars: Path, num_stars: int) -> None:
    """References and ours, alternating, median of three each."""
    reads: dict[str, list[float]] = {name: [] for name in _REFERENCES}
    writes: list[Usage] = []
    for _ in range(3):
        for name, code in _REFERENCES.items():
            reads[name].append(read_seconds(code, raw))
        shutil.rmtree(stars, ignore_errors=True)
        writes.append(measured("ingest", str(raw), "--out", str(stars), "--workers", "2"))
    num_bytes = raw.stat().st_size
    references = {name: sorted(seconds)[1] for name, seconds in reads.items()}
    for name, read in references.items():
        rates = {"stars_per_second": num_stars / read, "gb_per_second": num_bytes / read / 1e9}
        report(f"ingest, reference {name}", wall_seconds=read, **rates)
    usage = sorted(writes, key=lambda write: write.seconds)[1]
    report(
        "hpc-ae ingest, 2 workers",
        **usage.rates(num_stars, num_bytes + bytes_in(stars)),
        csv_gb_per_second=num_bytes / usage.seconds / 1e9,
        **{f"to_{name}": read / usage.seconds for name, read in references.items()},
    )


if __name__ == "__main__":
    main()
