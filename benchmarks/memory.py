"""Peak memory of the largest process of each stage at two sizes of the catalog, and of training beside its bound.

python benchmarks/memory.py [--stars 10000000 100000000] [--raw-stars 10000000 30000000] [--folder DIR]

About 10 minutes and 13 GB of disk at the default sizes. `--folder` keeps the catalogs and uses those that are there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from common import GIB, Usage, bytes_in, hpc_ae, measured, report
from encode import make_model, write_config

from hpc_ae import open_catalog

TRAIN_BATCH = 4_096
TRAIN_STEPS = 6_000  # three windows of every partition of a streamed catalog of 100 million stars
BYTES_PER_STAR = 20
STREAMED_LIMIT = "1G"  # what a rank takes beside its rows, so that these are streamed at any size


def make_stars(folder: Path, num_stars: int) -> str:
    """Name of a simulated catalog in `folder`, made unless it is there."""
    name = f"stars-{num_stars}"
    if not (folder / name / "manifest.json").exists():
        hpc_ae("simulate", str(folder / name), "--stars", str(num_stars))
    return name


def write_parquet(catalog_dir: Path, path: Path) -> None:
    """A star catalog as one Parquet file, a row group a shard: objid, ra, dec, u..z, err_u..err_z."""
    catalog = open_catalog(catalog_dir)
    writer = None
    for index in range(len(catalog.shards)):
        stars = catalog.read_shard(index, ["objid", "ra", "dec", "magnitude", "magnitude_error"])
        columns = {name: stars[name] for name in ("objid", "ra", "dec")}
        for band_index, band in enumerate(catalog.bands):
            columns[band] = stars["magnitude"][:, band_index]
            columns[f"err_{band}"] = stars["magnitude_error"][:, band_index]
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=len(table))
    if writer is not None:
        writer.close()


def show(stage: str, num_stars: int, usage: Usage, **more: float) -> float:
    """Report a stage and return its peak."""
    name = f"memory, {stage}"
    report(name, num_stars=num_stars, wall_seconds=usage.seconds, **usage.memory(), **more)
    return usage.peak_gib


def stages(folder: Path, num_stars: int) -> dict[str, float]:
    """Peaks of verify, encode (two ranks, with reconstruction) and postprocess."""
    stars = make_stars(folder, num_stars)
    config = str(write_config(folder, 2, stars=stars))
    commands = {
        "verify stars": ("verify", str(folder / stars)),
        "encode": ("encode", config),
        "verify encoding": ("verify", str(folder / "run" / "encoding")),
        "postprocess": ("postprocess", config),
    }
    return {stage: show(stage, num_stars, measured(*command)) for stage, command in commands.items()}


def ingest(folder: Path, num_stars: int) -> float:
    """Peak of an ingest of one Parquet file with two workers."""
    raw, out = folder / f"raw-{num_stars}.parquet", folder / "ingested"
    if not raw.exists():
        write_parquet(folder / make_stars(folder, num_stars), raw)
    shutil.rmtree(out, ignore_errors=True)
    usage = measured("ingest", str(raw), "--out", str(out), "--workers", "2")
    raw_gib, out_gib = (size / GIB for size in (raw.stat().st_size, bytes_in(out)))
    shutil.rmtree(out)
    return show("ingest parquet", num_stars, usage, raw_gib=raw_gib, catalog_gib=out_gib)


def train(folder: Path, num_stars: int, limit: str | None) -> float:
    """Peak of a training with one rank, its rows resident, or streamed below a limit."""
    config = {
        "run_dir": str(folder / "run"),
        "catalog": {"path": str(folder / make_stars(folder, num_stars))},
        "train": {"steps": TRAIN_STEPS, "batch_size": TRAIN_BATCH, "memory_limit": limit},
        "cluster": {"ranks_per_node": 1},
    }
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    usage = measured("train", str(folder / "train.yaml"))
    bound = 1.0 if limit else (BYTES_PER_STAR * num_stars + GIB) / GIB
    stage = f"train, memory_limit {limit}" if limit else "train, resident"
    return show(stage, num_stars, usage, bound_gib=bound, to_bound=usage.peak_gib / bound)


def compare(stage: str, sizes: list[int], peaks: list[float]) -> None:
    """Report how the peak grows with the catalog."""
    growth = (peaks[-1] - peaks[0]) * GIB / max(1, sizes[-1] - sizes[0])
    report(f"memory growth, {stage}", stars=sizes, ratio=peaks[-1] / peaks[0], bytes_per_star=growth)


def main() -> None:
    """Every stage at both sizes, then how each grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, nargs=2, default=[10_000_000, 100_000_000], metavar=("A", "B"))
    parser.add_argument("--raw-stars", type=int, nargs=2, default=[10_000_000, 30_000_000], metavar=("A", "B"))
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-memory-"))).absolute()
    folder.mkdir(exist_ok=True)
    make_model(folder)
    ingested = [ingest(folder, num_stars) for num_stars in arguments.raw_stars]
    peaks = [stages(folder, num_stars) for num_stars in arguments.stars]
    trained = [train(folder, num_stars, None) for num_stars in arguments.stars]
    train(folder, arguments.stars[-1], STREAMED_LIMIT)
    compare("ingest parquet", arguments.raw_stars, ingested)
    for stage in peaks[0]:
        compare(stage, arguments.stars, [each[stage] for each in peaks])
    compare("train, resident", arguments.stars, trained)
    shutil.rmtree(folder / "run")
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
