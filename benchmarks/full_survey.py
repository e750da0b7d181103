"""The whole of SDSS on this machine: simulate 260,562,744 stars, train, encode, verify, postprocess.

python benchmarks/full_survey.py [--stars N] [--folder DIR] [--yes]      needs about 28 GB of disk; 10-15 minutes
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from common import hpc_ae, report

SURVEY_STARS = 260_562_744
BYTES_PER_STAR = 72 + 28 + 2  # star shard, encoding shard without reconstruction, the rest
TRAINING_STEPS = 40_000


def ask(folder: Path, num_stars: int, *, sure: bool) -> int:
    """The number of stars that the disk has room for, after asking."""
    free = shutil.disk_usage(folder).free
    room = int(free * 0.9 / BYTES_PER_STAR)
    chosen = min(num_stars, room)
    needed = chosen * BYTES_PER_STAR / 1e9
    print(f"{chosen:,} stars need {needed:.0f} GB in {folder}, {free / 1e9:.0f} GB are free", file=sys.stderr)
    if not sure and input("go on? [y/N] ").strip().lower() != "y":
        raise SystemExit(1)
    return chosen


def main() -> None:
    """Each stage by the command line, its time and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=SURVEY_STARS)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-survey-"))
    num_stars = ask(folder, arguments.stars, sure=arguments.yes)
    stars, run_dir = folder / "stars", folder / "run"
    config = {
        "run_dir": str(run_dir),
        "catalog": {"path": str(stars)},
        "train": {"steps": TRAINING_STEPS, "batch_size": 512},
        "encode": {"reconstruction": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    commands = {
        "simulate": ("simulate", str(stars), "--stars", str(num_stars)),
        "verify stars": ("verify", str(stars)),
        "train": ("train", str(folder / "run.yaml")),
        "encode": ("encode", str(folder / "run.yaml")),
        "postprocess": ("postprocess", str(folder / "run.yaml")),
    }
    for name, command in commands.items():
        seconds = hpc_ae(*command)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
        values = {
            "wall_seconds": seconds,
            "stars_per_second": num_stars / seconds,
            "gb_on_disk": size,
        }
        progress = run_dir / "jobs" / "progress" / f"{name}.json"
        if progress.exists():
            values["work_seconds"] = json.loads(progress.read_text())["seconds"]
        report(f"survey {name}", num_stars=num_stars, **values)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
