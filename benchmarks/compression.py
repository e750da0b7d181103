"""Bits per star of the five magnitudes against their error, beside zstd and gzip of rounded magnitudes; speed, memory.

python benchmarks/compression.py [--folder DIR] [--big 10000000]     needs ../shared/data; about 10 minutes
python benchmarks/compression.py --coder CHECKOUT     the coding of magnitudes against that of another checkout; no data

Real stars: the model is trained on 82 % of the sky and judged on the rest. Simulated stars: others than trained on.
The tables are printed as JSON lines (and rows), `docs/results.md` has them as Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import yaml
from common import ROOT, bytes_in, hpc_ae, measured, report
from quality import split_by_sky

from hpc_ae import open_catalog
from hpc_ae.analysis.compression_table import TableInput, compression_table
from hpc_ae.files import read_json
from hpc_ae.formats.streams import gzip_codec, zstd_codec
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
    for row in compression_table(given, [zstd_codec(), gzip_codec()]):
        report(
            f"compression, {name}",
            **{"method": row.method, "codec": row.codec, "max_error": row.max_error, "latent_bits": row.latent_bits},
            bits_per_star=row.bits_per_star,
            **{f"bits_with_model_{num}": bits for num, bits in row.bits_with_model.items()},
            max_mag=round(max(row.max_mag.values()), 6),
            rms_mag=[round(value, 6) for value in row.rms_mag.values()],
            stars=int(np.count_nonzero(good)),
        )


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


def coder_speed(other: Path, num_stars: int = 131_072, rounds: int = 40) -> None:
    """Processor time of `MagnitudeCoder.encode` and its share of another checkout's, in turns; the same bytes."""
    random = np.random.default_rng(0)
    latent, noise, slope = (random.normal(size=shape) for shape in ((num_stars, 2), (num_stars, 5), (2, 5)))
    encoders = []
    for name, root in (("ours", ROOT), ("theirs", other)):
        module = load_module(name, root / "hpc_ae" / "analysis" / "compression.py")
        grid = module.LatentGrid.of(latent, 3)
        integers = grid.to_integers(latent)
        predicted = 20.0 + grid.to_latents(integers) @ slope
        magnitude = (predicted + 0.05 * noise).astype(np.float32)
        coder = module.make_coder(
            [0.01] * 5, grid, {"magnitude": magnitude, "latent": integers, "predicted": predicted}
        )
        encoders.append(partial(coder.encode, magnitude, integers, predicted))
    ours, theirs = (encode() for encode in encoders)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    seconds = np.array([[processor_seconds(encode) for encode in encoders] for _ in range(rounds)])
    best = seconds.min(axis=0)
    report(
        "magnitudes to bytes", us_per_star=round(1e6 * best[0] / num_stars, 3), of_theirs=round(best[0] / best[1], 3)
    )


def load_module(name: str, path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def processor_seconds(work: Callable[[], object]) -> float:
    """Seconds of this process's processors that some work takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Both tables and the speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="keeps what is made, and uses what is there")
    parser.add_argument("--big", type=int, default=10_000_000, help="stars of the measurement of speed; 0: none")
    parser.add_argument("--coder", type=Path, metavar="CHECKOUT", help="compare the coding of magnitudes alone")
    arguments = parser.parse_args()
    if arguments.coder:
        coder_speed(arguments.coder)
        return
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
