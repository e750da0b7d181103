"""Bits per star of the five magnitudes against their error, beside zstd and gzip of rounded magnitudes; speed, memory.

python benchmarks/compression.py [--folder DIR] [--big 10000000]     needs ../shared/data; about 10 minutes
python benchmarks/compression.py --coder CHECKOUT     the coding of magnitudes against that of another checkout; no data

Real stars: the model is trained on 82 % of the sky and judged on the rest. Simulated stars: others than trained on.
The tables are printed as JSON lines (and rows), `docs/results.md` has them as Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

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


# Codes one block of magnitudes near their prediction; says the digest, then at each line of input the seconds it takes.
_CODER = """
import hashlib, sys, time
import numpy as np
from hpc_ae.analysis import compression
try:
    from hpc_ae.analysis.grids import LatentGrid
except ImportError:
    from hpc_ae.analysis.compression import LatentGrid

num_stars, random = int(sys.argv[1]), np.random.default_rng(0)
latent, noise, slope = (random.normal(size=shape) for shape in ((num_stars, 2), (num_stars, 5), (2, 5)))
grid = LatentGrid.of(latent, 3)
integers = grid.to_integers(latent)
predicted = 20.0 + grid.to_latents(integers) @ slope
magnitude = (predicted + 0.05 * noise).astype(np.float32)
sample = getattr(compression, "CoderSample", dict)(magnitude=magnitude, latent=integers, predicted=predicted)
coder = compression.make_coder([0.01] * 5, grid, sample)
streams = coder.encode(magnitude, integers, predicted)
print(hashlib.sha256(b"".join(streams[name].tobytes() for name in sorted(streams))).hexdigest(), flush=True)
for _ in sys.stdin:
    started = time.process_time()
    coder.encode(magnitude, integers, predicted)
    print(time.process_time() - started, flush=True)
"""


def coder_speed(other: Path, num_stars: int = 131_072, rounds: int = 40) -> None:
    """Processor time of `MagnitudeCoder.encode` and its share of another checkout's, in turns; the same bytes."""
    with ExitStack() as stack:
        coders = [stack.enter_context(_start_coder(root, num_stars)) for root in (ROOT, other)]
        assert len({_answer(coder) for coder in coders}) == 1, "the bytes differ"
        seconds = np.array([[float(_answer(coder, ask=True)) for coder in coders] for _ in range(rounds)])
    best = seconds.min(axis=0)
    report(
        "magnitudes to bytes", us_per_star=round(1e6 * best[0] / num_stars, 3), of_theirs=round(best[0] / best[1], 3)
    )


def _start_coder(root: Path, num_stars: int) -> subprocess.Popen[str]:
    """A process of a checkout that codes when it is asked to."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CODER, str(num_stars)],
        env={**os.environ, "PYTHONPATH": str(root.absolute())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(coder: subprocess.Popen[str], *, ask: bool = False) -> str:
    """The next line of a process, which is asked for it first."""
    assert coder.stdin is not None and coder.stdout is not None
    if ask:
        coder.stdin.write("\n")
        coder.stdin.flush()
    return coder.stdout.readline()


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
