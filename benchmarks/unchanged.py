"""Has a refactor changed what comes out? Digests of everything that three runs write, to compare before and after.

    python benchmarks/unchanged.py WORK_DIR > before.txt      # on the old commit
    python benchmarks/unchanged.py WORK_DIR > after.txt       # on the new one, in the same WORK_DIR
    diff before.txt after.txt

The runs: simulated stars with bad rows, real stars (`--real FILE`, default ../shared/data/sdss_spectroscopic_stars.csv;
left out where there is none), and two ranks in every stage. What differs from one making to the next is masked in JSON
and page: times, commands, commits, speeds, process numbers, and the digests of what holds these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pyarrow.parquet as pq

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "sdss_spectroscopic_stars.csv"
VARYING_TEXT = re.compile(
    rb"sha256:[0-9a-f]{64}"
    rb"|\b[0-9a-f]{40}\b"
    rb"|\d{4}-\d\d-\d\d[T ][\d:+]*( UTC)?"
    rb'|<tr><td>\w+</td>(<td class="number">[\d,.]+</td>){3}</tr>'
)
VARYING = {
    "time",
    "command",
    "git_commit",
    "package",
    "digest",
    "manifest",
    "seconds",
    "stars_per_second",
    "throughput",
}
TRAIN = ["train.batch_size=512", "postprocess.anomalies=100", "seed=7"]


def run(*words: object) -> None:
    """One hpc-ae command, which must end well; its messages go on to standard error."""
    subprocess.run(["hpc-ae", *map(str, words)], check=True, stdout=sys.stderr)


def write_config(path: Path, text: str) -> Path:
    """A config file at `path`."""
    path.write_text(text)
    return path


def make_runs(work: Path, real: Path) -> list[Path]:
    """Run everything afresh; the directories to look at."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    simulated, two, stars = work / "simulated", work / "two_ranks", work / "real"
    config = write_config(work / "simulated.yaml", f"run_dir: {simulated}\ncluster: {{ranks_per_node: 1}}\n")
    source = "catalog.source={simulate: {stars: 30000, bad_rows: 0.02}}"
    run("run", config, source, "catalog.shard_rows=7000", "train.epochs=3", *TRAIN)
    config = write_config(work / "two.yaml", f"run_dir: {two}\ncatalog: {{path: {simulated / 'catalog'}}}\n")
    options = ["train.noise=catalog", "encode.uncertainty=true", f"postprocess.compare={simulated / 'encoding'}"]
    run("run", config, "cluster.ranks_per_node=2", "train.epochs=2", *options, *TRAIN)
    found = [simulated, two]
    if real.exists():
        run("ingest", real, "--out", work / "catalog", "--shard-rows", 60000, "--order", "healpix")
        config = write_config(work / "real.yaml", f"run_dir: {stars}\ncatalog: {{path: {work / 'catalog'}}}\n")
        run("run", config, "train.epochs=1", "train.memory_limit=1100M", *TRAIN)
        run("export", stars / "encoding", work / "export" / "real.parquet", "--to", "parquet", "--join")
        found += [work / "catalog", stars, work / "export"]
    return found


def masked(value: Any) -> Any:
    """JSON without what differs from one making to the next."""
    if isinstance(value, dict):
        return {key: "-" if key in VARYING else masked(inner) for key, inner in value.items()}
    return [masked(inner) for inner in value] if isinstance(value, list) else value


def content(path: Path) -> bytes:
    """What of a file is to stay the same."""
    if path.suffix == ".parquet":  # its schema is written in base64, digests and times with it
        table = pq.read_table(path)
        return repr(table.schema.remove_metadata()).encode() + b"".join(
            buffer for column in table.columns for chunk in column.chunks for buffer in chunk.buffers() if buffer
        )
    if path.suffix == ".jsonl":
        return json.dumps(masked([json.loads(line) for line in path.read_text().splitlines()])).encode()
    if path.suffix == ".json":
        return VARYING_TEXT.sub(b"-", json.dumps(masked(json.loads(path.read_text()))).encode())
    return VARYING_TEXT.sub(b"-", hdf5_content(path) if path.suffix == ".h5" else path.read_bytes())


def hdf5_content(path: Path) -> bytes:
    """Every dataset and attribute of an HDF5 file in order: its headers have checksums over the digests in them."""
    parts: list[object] = []

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        parts.extend([name, sorted((key, repr(value)) for key, value in item.attrs.items())])
        if isinstance(item, h5py.Dataset):
            parts.extend(
                [item.dtype, item.shape, item.chunks, item.is_virtual, hashlib.sha256(item[()].tobytes()).hexdigest()]
            )

    with h5py.File(path, "r") as file:
        add("/", file)
        file.visititems(add)
    return "\n".join(map(str, [*parts, path.stat().st_size])).encode()


def main() -> None:
    """Print `digest  path` of every file of the runs, sorted by path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--real", type=Path, default=REAL)
    options = parser.parse_args()
    work = options.work.absolute()
    for directory in make_runs(work, options.real):
        for path in sorted(directory.rglob("*")):
            if path.is_file() and "jobs" not in path.relative_to(directory).parts:
                print(f"{hashlib.sha256(content(path)).hexdigest()}  {path.relative_to(work)}")


if __name__ == "__main__":
    main()
