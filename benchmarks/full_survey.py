"""The whole of SDSS on this machine: simulate 260,562,744 stars, train, encode, verify, postprocess.

Each stage but train (see train.py) beside its reference: the disk, SHA-256, the batch-sliced loop and the plain pass.

python benchmarks/full_survey.py [--stars N] [--folder DIR] [--yes]      needs about 28 GB of disk; 10-15 minutes
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from common import bytes_in, measured, ratios, report, work_seconds
from encode import READ_BYTES as ENCODE_BYTES
from encode import make_model, user_loop_rate
from postprocess import READ_BYTES as POSTPROCESS_BYTES
from postprocess import plain_rate
from simulate import digest_rate, disk_rate

SURVEY_STARS = 260_562_744
BYTES_PER_STAR = 72 + 28 + 2  # star shard, encoding shard without reconstruction, the rest
TRAINING_STEPS, TRAINING_BATCH = 40_000, 512


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


def make_commands(folder: Path, num_stars: int) -> dict[str, tuple[str, ...]]:
    """The command line of each stage, in order; their config is written."""
    stars, config_path = str(folder / "stars"), str(folder / "run.yaml")
    config = {
        "run_dir": str(folder / "run"),
        "catalog": {"path": stars},
        "train": {"steps": TRAINING_STEPS, "batch_size": TRAINING_BATCH},
        "encode": {"reconstruction": False},
    }
    Path(config_path).write_text(yaml.safe_dump(config))
    return {
        "simulate": ("simulate", stars, "--stars", str(num_stars)),
        "verify stars": ("verify", stars),
        "train": ("train", config_path),
        "encode": ("encode", config_path),
        "postprocess": ("postprocess", config_path),
    }


def bytes_of(stage: str, folder: Path, num_stars: int) -> float | None:
    """Bytes that a stage reads and writes; None for train, whose steps may read a star again or never."""
    if stage in ("simulate", "verify stars"):
        return bytes_in(folder / "stars")
    if stage == "encode":
        return num_stars * ENCODE_BYTES + bytes_in(folder / "run" / "encoding", "shard-*.h5")
    return num_stars * POSTPROCESS_BYTES if stage == "postprocess" else None


def compare(stage: str, folder: Path, values: dict[str, Any], disk: float) -> dict[str, float]:
    """The reference of a stage, on the same files, and the ratio to it."""
    if stage == "simulate":
        return {"disk_gb_per_second": disk, "to_disk": values["gb_per_second"] / disk}
    if stage == "verify stars":
        digest = digest_rate(folder / "stars")
        return {"sha256_gb_per_second": digest, "to_sha256": values["gb_per_second"] / digest}
    if stage == "encode":
        loop = user_loop_rate(make_model(folder), folder, 500_000)
        return {"loop_stars_per_second": loop, **ratios(values, loop=loop)}
    if stage == "postprocess":
        plain = plain_rate(folder / "run" / "encoding")
        return {"plain_stars_per_second": plain, **ratios(values, plain=plain)}
    return {}


def main() -> None:
    """Each stage by the command line: time, memory, size, and its reference after it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=SURVEY_STARS)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-survey-"))).absolute()
    folder.mkdir(exist_ok=True)
    num_stars = ask(folder, arguments.stars, sure=arguments.yes)
    disk = disk_rate(folder)
    for stage, command in make_commands(folder, num_stars).items():
        usage = measured(*command)
        handled = TRAINING_STEPS * TRAINING_BATCH if stage == "train" else num_stars
        values = usage.rates(handled, bytes_of(stage, folder, num_stars), work_seconds(folder / "run", stage))
        values["gb_on_disk"] = bytes_in(folder) / 1e9
        report(f"survey {stage}", num_stars=num_stars, **values, **compare(stage, folder, values, disk))
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
