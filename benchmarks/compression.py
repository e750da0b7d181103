"""Bits per star of the five magnitudes against their error, beside zstd and gzip of rounded magnitudes; speed, memory.

python benchmarks/compression.py [--folder DIR] [--big 10000000]     needs ../shared/data; about 10 minutes

Real stars: the model is trained on 82 % of the sky and judged on the rest. Simulated stars: others than trained on.
The tables are printed as JSON lines (and rows), `docs/results.md` has them as Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import yaml
from common import bytes_in, hpc_ae, measured, report
from quality import split_by_sky

from hpc_ae import open_catalog
from hpc_ae.analysis.compression_table import TableInput, compression_table
from hpc_ae.files import read_json
from hpc_ae.formats.streams import codec_sizes
from hpc_ae.model.exact import load_decoder


def stage(folder: Path, name: str, verb: str, **sections: object) -> Path:
    """Train or encode with a run directory `folder`/`name`, unless it is done; returns the run directory."""
    run_dir = folder / name
    path = run_dir.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"run_dir": str(run_dir), **sections}))
    hpc_ae(verb, str(path))
    return run_dir


def tables(name: str, run_dir: Path, encoding_dir: Path) -> None:
    """Report the table of an encoding."""
    joined = open_catalog(encoding_dir).join()
    arrays = joined.read(["magnitude", "latent", "quality"])
    good = arrays["quality"] == 0
    model_dir = run_dir / "model"
    given = TableInput(
        arrays["magnitude"][good],
        arrays["latent"][good],
        load_decoder(model_dir, read_json(model_dir / "model.json")["digest"]),
        joined.bands,
        bytes_in(model_dir),
    )
    for row in compression_table(given, codec_sizes()):
        most, rms = (list(row.pop(key).values()) for key in ("max_mag", "rms_mag"))
        counted = {f"bits_with_model_{num}": bits for num, bits in row.pop("bits_with_model").items()}
        values = {"max_mag": round(max(most), 6), "rms_mag": [round(value, 6) for value in rms]}
        report(f"compression, {name}", **row, **counted, **values, stars=int(np.count_nonzero(good)))


def speed(folder: Path, run_dir: Path, num_stars: int) -> None:
    """Compress, verify and restore a large simulated catalog: wall time, memory, size."""
    stars = folder / f"stars-{num_stars}"
    hpc_ae("simulate", str(stars), "--stars", str(num_stars), "--seed", "2", "--bad-rows", "0.01")
    encode = {"model": str(run_dir / "model"), "reconstruction": False}
    encoding = stage(folder, "big", "encode", catalog={"path": str(stars)}, encode=encode) / "encoding"
    out = folder / "stars.z"
    for workers in ("1", "2"):
        shutil.rmtree(out, ignore_errors=True)
        usage = measured("export", str(encoding), str(out), "--to", "compressed", "--workers", workers)
        report(f"compress, {workers} workers", **usage.rates(num_stars, bytes_in(stars)), out_gb=bytes_in(out) / 1e9)
    usage = measured("verify", str(out))
    report("verify compressed", **usage.rates(num_stars, bytes_in(out)))
    usage = measured("export", str(out), str(folder / "restored"), "--to", "catalog")
    report("decompress, 2 workers", **usage.rates(num_stars, bytes_in(out)))


def main() -> None:
    """Both tables and the speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="keeps what is made, and uses what is there")
    parser.add_argument("--big", type=int, default=10_000_000, help="stars of the measurement of speed; 0: none")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-compression-"))).absolute()
    folder.mkdir(exist_ok=True)
    if not (folder / "test").exists():
        split_by_sky(folder)
    real = stage(folder, "real", "train", catalog={"path": str(folder / "train")})
    encode = {"model": str(real / "model")}
    encoding = stage(folder, "held_out", "encode", catalog={"path": str(folder / "test")}, encode=encode) / "encoding"
    tables("real stars, held-out sky", real, encoding)
    for name, seed in (("simulated_train", "1"), ("simulated_test", "2")):
        hpc_ae("simulate", str(folder / name), "--stars", "200000", "--seed", seed)
    simulated = stage(folder, "simulated", "train", catalog={"path": str(folder / "simulated_train")})
    encode = {"model": str(simulated / "model")}
    path = {"path": str(folder / "simulated_test")}
    encoding = stage(folder, "simulated_out", "encode", catalog=path, encode=encode) / "encoding"
    tables("simulated stars", simulated, encoding)
    if arguments.big:
        speed(folder, simulated, arguments.big)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
