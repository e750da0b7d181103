"""The fused kernel: built by the machine's C++ compiler at first use, cached, called through ctypes.

Where it cannot be built PyTorch's own operators do the work: `load_kernel` says why, and callers fall back.
Shape letters: N stars, B bands, L latent dimensions, P parameters, S steps, n rows of a batch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_ae.errors import WorkError
from hpc_ae.files import digest_bytes, publish_bytes
from hpc_ae.model.architecture import Architecture
from hpc_ae.private import open_place

if TYPE_CHECKING:
    from hpc_ae.model.hiding import Draws, Hiding
    from hpc_ae.model.noise import Noise

_SOURCE = Path(__file__).parent / "kernels" / "fused.cpp"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_BUILD_SECONDS = 300
CACHE_VARIABLE = "HPC_AE_CACHE_DIR"
_MOST_LIBRARY_BYTES, _DIGEST_BYTES = 1 << 26, len(digest_bytes(b""))
_ELSEWHERE = f"set {CACHE_VARIABLE} to a directory of your own, on a file system that is not mounted noexec"


class Kernel:
    """The compiled functions of one architecture. All arrays are float32 and C-contiguous."""

    def __init__(self, library: ctypes.CDLL, name: str, architecture: Architecture) -> None:
        self._library = library
        self.name = name
        self.architecture = architecture
        self.num_parameters = int(library.hpc_ae_num_parameters())
        library.hpc_ae_gradient.restype = library.hpc_ae_train.restype = ctypes.c_double

    def encode(
        self,
        parameters: np.ndarray,
        scaling: tuple[np.ndarray, np.ndarray],
        magnitude: np.ndarray,
        magnitude_error: np.ndarray | None = None,
        reconstruction: bool = True,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
        """Latent (N, L), reconstruction (N, B), reconstruction_error (N,) in mag and chi2 (N,) of magnitude (N, B).

        reconstruction and chi2 are None where they are not asked for or there are no magnitude errors (N, B).
        """
        stars = np.ascontiguousarray(magnitude, np.float32)
        errors = None if magnitude_error is None else np.ascontiguousarray(magnitude_error, np.float32)
        latent = np.empty((len(stars), self.architecture.latent), np.float32)
        rebuilt = np.empty_like(stars) if reconstruction else None
        error = np.empty(len(stars), np.float32)
        chi2 = None if errors is None else np.empty(len(stars), np.float32)
        inputs = [_pointer(values) for values in (parameters, *scaling, stars, errors)]
        outputs = [_pointer(values) for values in (latent, rebuilt, error, chi2)]
        self._library.hpc_ae_encode(*inputs, ctypes.c_int64(len(stars)), *outputs)
        return latent, rebuilt, error, chi2

    def gradient(
        self,
        network: Network,
        rows: tuple[np.ndarray, np.ndarray],
        gradient: np.ndarray,
        num_threads: int = 1,
        draws: Draws | None = None,
    ) -> float:
        """Sum over stars of the loss (mag^2) of `rows`: magnitude (N, B) and which of them, int64 (n,).

        `gradient` (P,) gets the gradient of that sum: the same bits for any number of threads.
        """
        size = ctypes.c_int64(len(rows[1]))
        chance = _pack_draws(draws)
        arguments = (*network.pointers, *map(_pointer, rows), size, *chance, num_threads, _pointer(gradient))
        return float(self._library.hpc_ae_gradient(*arguments))

    def hidden(self, hiding: Hiding, magnitude: np.ndarray) -> np.ndarray:
        """Which bands of magnitude (n, B) the first step of `hiding` hides, bool (n, B), as training does."""
        stars, out = np.ascontiguousarray(magnitude, np.float32), np.zeros(magnitude.shape, np.uint8)
        packed = _packed_hiding(hiding)
        self._library.hpc_ae_hidden(packed, _pointer(stars), ctypes.c_int64(len(stars)), _pointer(out))
        return out.astype(bool)

    def normals(self, noise: Noise) -> np.ndarray:
        """Standard normal numbers float32 (n, B) of the first step of `noise`, as training draws them."""
        normals = np.empty((noise.row.shape[1], len(self.architecture.bands)), np.float32)
        self._library.hpc_ae_normals(_packed(noise), ctypes.c_int64(len(normals)), _pointer(normals))
        return normals

    def train(self, network: Network, batches: Batches, optimizer: Optimizer, num_threads: int = 1) -> float:
        """Take S steps of AdamW in place; returns the sum of the steps' losses times `batches.factor`."""
        num_steps, num_rows = batches.index.shape
        rates = np.array(batches.rates, np.float64)
        return float(
            self._library.hpc_ae_train(
                *network.pointers,
                *(_pointer(values) for values in (batches.magnitude, batches.index)),
                ctypes.c_int64(num_steps),
                ctypes.c_int64(num_rows),
                ctypes.c_float(batches.factor),
                *_pack_draws(batches.draws),
                _pointer(rates),
                ctypes.c_int64(optimizer.steps_before),
                optimizer.packed,
                *(_pointer(moment) for moment in optimizer.moments),
                num_threads,
            )
        )

    def update(self, network: Network, gradient: np.ndarray, rate: float, optimizer: Optimizer) -> None:
        """Clip and update alone, in place, from a gradient (P,) that was made elsewhere."""
        step, moments = ctypes.c_int64(optimizer.steps_before), [_pointer(moment) for moment in optimizer.moments]
        arrays = (network.pointers[0], _pointer(gradient), *moments)
        self._library.hpc_ae_update(optimizer.packed, ctypes.c_double(rate), step, *arrays)


class Network:
    """Parameters (P,), mean and std (B,), which stay where they are from call to call."""

    def __init__(self, parameters: np.ndarray, scaling: tuple[np.ndarray, np.ndarray]) -> None:
        self.arrays = (parameters, *scaling)  # kept alive as long as their addresses
        self.pointers = tuple(_pointer(values) for values in self.arrays)


@dataclass(frozen=True)
class Batches:
    """S batches: rows `index` (S, n) int64 of magnitude (N, B), learning rates (S,), the factor of the loss.

    With noise of each star's own errors these follow its magnitudes: (N, 2 B).
    """

    magnitude: np.ndarray
    index: np.ndarray
    rates: list[float]
    factor: float
    draws: Draws | None = None


@dataclass(frozen=True)
class Optimizer:
    """Settings (beta1, beta2, epsilon, decay, clip_norm), both moments (P,), and the steps taken so far."""

    settings: tuple[float, float, float, float, float]
    moments: tuple[np.ndarray, np.ndarray]
    steps_before: int

    @property
    def packed(self) -> ctypes.Array[ctypes.c_double]:
        """The settings as C reads them."""
        return (ctypes.c_double * len(self.settings))(*self.settings)


class _PackedNoise(ctypes.Structure):
    """`Noise` as kernels/noise.h reads it."""

    _fields_ = (
        ("row", ctypes.c_void_p),
        ("step", ctypes.c_int64),
        ("seed", ctypes.c_uint32),
        ("sigma", ctypes.c_float),
        ("echo", ctypes.c_float),
    )


def _packed(noise: Noise | None) -> Any:
    """A pointer for C, null without noise; it is good as long as `noise` is."""
    if noise is None:
        return ctypes.c_void_p(None)
    sigma = -1.0 if noise.sigma is None else noise.sigma
    if not noise.row.is_contiguous():
        raise ValueError("the rows of noise are not contiguous")
    return ctypes.byref(_PackedNoise(noise.row.data_ptr(), noise.step, noise.seed, sigma, float(noise.echo)))


class _PackedHiding(ctypes.Structure):
    """`Hiding` as kernels/hiding.h reads it."""

    _fields_ = (
        ("row", ctypes.c_void_p),
        ("step", ctypes.c_int64),
        ("threshold", ctypes.c_uint64),
        ("seed", ctypes.c_uint32),
        ("least", ctypes.c_int32),
    )


def _packed_hiding(hiding: Hiding | None) -> Any:
    """A pointer for C, null where nothing is hidden; it is good as long as `hiding` is."""
    if hiding is None:
        return ctypes.c_void_p(None)
    if not hiding.row.is_contiguous():
        raise ValueError("the rows of hiding are not contiguous")
    packed = _PackedHiding(hiding.row.data_ptr(), hiding.step, hiding.threshold, hiding.seed, hiding.least)
    return ctypes.byref(packed)


def _pack_draws(draws: Draws | None) -> tuple[Any, Any]:
    """Pointers for C to noise and hiding."""
    if draws is None:
        return _packed(None), _packed_hiding(None)
    return _packed(draws.noise), _packed_hiding(draws.hiding)


def _pointer(values: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if values is None else values.ctypes.data)


@functools.cache
def load_kernel(architecture: Architecture) -> Kernel:
    """The kernel of an architecture, built unless it is in the cache; WorkError where it cannot be."""
    compiler = _find_compiler()
    source = "".join(path.read_text() for path in sorted(_SOURCE.parent.glob("*.[ch]*")))
    widths = architecture.widths
    chain = [*widths, *architecture.decoder_widths[1:]]
    defines = (f"-DHPC_AE_WIDTHS={','.join(map(str, chain))}", f"-DHPC_AE_LATENT={len(widths) - 1}")
    key = _digest(source, *_FLAGS, *defines, _compiler_version(compiler), _processor())
    path = cache_dir() / f"fused-{key[:24]}.so"
    descriptor = _open_built(path)
    if descriptor is None:
        _build([compiler, *_FLAGS, *defines], path)
        descriptor = _open_built(path)
    try:
        library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        path.unlink(missing_ok=True)
        fix = _ELSEWHERE if _forbids_programs(path.parent) else ""
        raise WorkError("the fused kernel cannot be loaded", where=path, got=str(error), fix=fix) from error
    library.hpc_ae_instructions.restype = ctypes.c_char_p
    name = f"fused-{library.hpc_ae_instructions().decode()}-{_digest(source, *defines)[:8]}"
    return Kernel(library, name, architecture)


def _build(command: list[str], path: Path) -> None:
    temp_path = path.with_suffix(f".{os.getpid()}.tmp")
    full = [*command, "-shared", "-fPIC", "-pthread", "-Wno-psabi", str(_SOURCE), "-o", str(temp_path)]
    own = {**os.environ, "TMPDIR": str(path.parent)}  # for what the compiler's parts hand to each other
    try:
        answer = subprocess.run(full, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False, env=own)
        if answer.returncode:
            raise WorkError("the fused kernel cannot be compiled", where=command[0], got=answer.stderr.strip()[:300])
        library = temp_path.read_bytes()
        publish_bytes(path, library + digest_bytes(library).encode())  # what follows the library does not disturb it
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkError("the fused kernel cannot be compiled", where=command[0], got=str(error)[:300]) from error
    finally:
        temp_path.unlink(missing_ok=True)


def _open_built(path: Path) -> int | None:
    """A descriptor of a library that this user has built, open as long as the process lives: what was looked at is what
    is loaded. None where there is none, or one of someone else, or not the one that was built.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    entry = os.fstat(descriptor)
    if stat.S_ISREG(entry.st_mode) and entry.st_uid == os.geteuid() and not entry.st_mode & 0o022:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(_MOST_LIBRARY_BYTES)
        if data.endswith(digest_bytes(data[:-_DIGEST_BYTES]).encode()):
            return descriptor
    os.close(descriptor)
    return None


def _check_place(path: Path) -> None:
    """WorkError where others could put another directory in the place of this one, or of one that it lies in."""
    if place := open_place(path):
        raise WorkError(
            "the cache directory of the fused kernel lies where others may replace it",
            where=place.where,
            got=place.got,
            expected=place.expected,
            fix=_ELSEWHERE,
        )


def cache_dir() -> Path:
    """A directory on this node that is ours alone: code is loaded from it."""
    chosen = os.environ.get(CACHE_VARIABLE)
    path = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"hpc_ae-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        what = "the cache directory of the fused kernel cannot be made"
        raise WorkError(what, where=path, got=error.strerror, fix=_ELSEWHERE) from error
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise WorkError(
            "the cache directory is not this user's alone",
            where=path,
            fix=_ELSEWHERE,
        )
    _check_place(path)
    return path


def _forbids_programs(directory: Path) -> bool:
    """Whether the file system of a directory is mounted so that no code is loaded from it (noexec)."""
    return bool(os.statvfs(directory).f_flag & os.ST_NOEXEC)


def _find_compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    raise WorkError("there is no C++ compiler for the fused kernel", expected="g++ 12 or clang++", fix="install g++")


def _compiler_version(compiler: str) -> str:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkError("the C++ compiler does not answer", where=compiler, got=str(error)) from error


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
