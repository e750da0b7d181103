"""What safety costs: a checkpoint in per cent of the training, checksums and digests in encode's throughput.

python benchmarks/recovery.py [--stars 4000000] [--folder DIR]        about 4 minutes on two cores, 1 GB of disk
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import torch
import yaml
from common import ROOT, hpc_ae, report
from encode import make_inputs, write_config

REPEATS = 5
RANKS = 2


def without_checks() -> None:
    """Take fletcher32 out of what is written from now on, and every digest."""
    original = h5py.Group.create_dataset

    def create(self: Any, *arguments: Any, **options: Any) -> Any:
        return original(self, *arguments, **{**options, "fletcher32": False})

    mock.patch.object(h5py.Group, "create_dataset", create).start()
    mock.patch("hpc_ae.catalog.shard.digest_bytes", lambda _: "sha256:none").start()


def rank(config_path: Path, number: int, checked: bool) -> None:
    """One rank of an encoding, started by hand; prints the seconds of its work, by the wall and of processors."""
    if not checked:
        without_checks()
    from hpc_ae.config import load_config
    from hpc_ae.encode import encode
    from hpc_ae.jobs.settings import encoding_of
    from hpc_ae.runtime.ranks import Ranks

    config = load_config(config_path)
    started, used = time.perf_counter(), time.process_time()
    assert encode(*encoding_of(config), Ranks(number, RANKS, number, RANKS)) == "done"
    print(time.perf_counter() - started, time.process_time() - used)


def encode_seconds(folder: Path, checked: bool) -> tuple[float, float]:
    """Seconds of the slower of two ranks, and of processors in both.

    Without checks the stars that are read have none either.
    """
    config = write_config(folder, RANKS, stars="stars" if checked else "plain")
    words = [sys.executable, __file__, "--rank", str(config), str(int(checked))]
    processes = [
        subprocess.Popen([*words, str(number)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
        for number in range(RANKS)
    ]
    walls, cpus = zip(*(map(float, process.communicate()[0].split()) for process in processes), strict=True)
    return max(walls), sum(cpus)


def make_plain(folder: Path) -> None:
    """The same stars without checksums."""
    shutil.copytree(folder / "stars", folder / "plain", dirs_exist_ok=True)
    for path in (folder / "plain").glob("shard-*.h5"):
        arrays = {}
        with h5py.File(path, "r") as file:
            arrays = {name: file[name][:] for name in file}
            attributes = dict(file.attrs)
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            file.attrs.update(attributes)
            for name, values in arrays.items():
                chunks = (min(65_536, len(values)), *values.shape[1:])
                file.create_dataset(name, data=values, chunks=chunks)


def encode_cost(folder: Path, num_stars: int) -> None:
    """Encode with and without, in turn."""
    make_inputs(folder, num_stars)
    make_plain(folder)
    seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for repeat in range(REPEATS + 1):
        for checked in (True, False):
            took = encode_seconds(folder, checked)
            if repeat:  # the first warms the page cache
                seconds[checked].append(took)
    wall, cpu = (
        {checked: sorted(one[kind] for one in times)[REPEATS // 2] for checked, times in seconds.items()}
        for kind in (0, 1)
    )
    report(
        "encode with fletcher32 and digests, against without",
        stars_per_second=num_stars / wall[True],
        ratio=wall[False] / wall[True],
        cpu_ratio=cpu[False] / cpu[True],
        cpu_spread=[round(no[1] / yes[1], 3) for yes, no in zip(seconds[True], seconds[False], strict=True)],
    )


def checkpoint_cost(folder: Path) -> None:
    """The default training of 200,000 stars; the time of each checkpoint by the clock."""
    hpc_ae("simulate", str(folder / "few"), "--stars", "200000")
    config = {"run_dir": str(folder / "train"), "catalog": {"path": str(folder / "few")}}
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    words = [sys.executable, __file__, "--train", str(folder / "train.yaml")]
    printed = subprocess.run(words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    report("checkpoints of the default training", **json.loads(printed.stdout))


def train(config_path: Path) -> None:
    """Train in this process; prints what the checkpoints took of it."""
    from hpc_ae.config import load_config
    from hpc_ae.jobs.settings import training_of
    from hpc_ae.runtime.distributed import Group
    from hpc_ae.runtime.ranks import Ranks
    from hpc_ae.train import train as verb
    from hpc_ae.training import position

    times: list[float] = []
    original = position.save_checkpoint

    def save(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = original(*arguments)
        times.append(time.perf_counter() - started)
        return result

    config = load_config(config_path)
    started = time.perf_counter()
    with mock.patch.object(position, "save_checkpoint", save):
        verb(config.catalog_path, config.layout, training_of(config), Group(Ranks(), torch.device("cpu")))
    total = time.perf_counter() - started
    median = sorted(times)[len(times) // 2]
    share = 100 * sum(times) / total
    values = {"seconds": total, "checkpoints": len(times), "median_seconds": median, "per_cent": share}
    interval = config.train.checkpoint_seconds
    longest = {"per_cent_at_checkpoint_seconds": 100 * median / interval, "checkpoint_seconds": interval}
    print(json.dumps({**values, **longest}))


def main() -> None:
    """All results, or one child process's part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stars", type=int, default=4_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank(Path(options.rank[0]), int(options.rank[2]), options.rank[1] == "1")
    elif options.train:
        train(options.train)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            checkpoint_cost(Path(folder))
            encode_cost(Path(folder), options.stars)


if __name__ == "__main__":
    main()
