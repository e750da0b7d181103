"""Is this machine right: each thing that a run needs, as ok, warn or fail, with the mend."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpc_ae.errors import HpcAeError
from hpc_ae.jobs.doctor_nodes import examine_nodes
from hpc_ae.jobs.finding import Finding, Level, error_of, mpi_version, run_quietly
from hpc_ae.jobs.slurm_clients import ask_slurm
from hpc_ae.private import TRUST_VARIABLE, open_place

_LEAST_DISK_GB, _LEAST_MEMORY_GIB = 10.0, 4.0
_MOST_SKEW_SECONDS = 5.0


def examine(run_dir: Path) -> list[Finding]:
    """Look at everything; `run_dir` (or its nearest parent that exists) is the file system that is tried."""
    folder = run_dir.absolute()
    while not folder.is_dir():
        folder = folder.parent
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _torch,
        _gpus,
        _hdf5,
        _mpi,
        _compiler,
        _kernel,
        _slurm,
        _accounting,
        lambda: _writing(folder, run_dir),
        lambda: _locking(folder),
        lambda: _clock(folder),
        lambda: _disk(folder),
        lambda: _quota(folder),
        _memory,
        _umask,
        _interface,
    )
    return [*(check() for check in checks), *examine_nodes(folder)]


def _python() -> Finding:
    found = f"{platform.python_version()}, {sys.executable}"
    return Finding("python", "ok" if sys.version_info >= (3, 11) else "fail", found, "use Python 3.11 or newer")


def _torch() -> Finding:
    try:
        return Finding("torch", "ok", version("torch"))
    except PackageNotFoundError:
        return Finding("torch", "fail", "not installed", "python -m pip install hpc_ae")


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU is visible here"
        return Finding("gpus", "ok", f"none ({reason}): everything runs on CPUs")
    from torch.cuda import nccl

    library = ".".join(map(str, nccl.version()))  # type: ignore[no-untyped-call]
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Finding("gpus", "ok", f"{names}; CUDA {torch.version.cuda}, NCCL {library}")


def _hdf5() -> Finding:
    from hpc_ae.catalog.shard import hdf5_version

    return Finding("hdf5", "ok", hdf5_version())


def _mpi() -> Finding:
    if version := mpi_version():
        return Finding("mpi", "ok", version)
    fix = (
        "python -m pip install 'hpc_ae[mpich]', or load your site's MPI module; needed for catalogs over several nodes"
    )
    return Finding("mpi", "warn", "no MPI library can be loaded", fix)


def _compiler() -> Finding:
    """The one that torch.compile and our kernel take."""
    name = os.environ.get("CXX") or "g++"
    done = run_quietly(name, "--version")
    if done is None or done.returncode:
        return Finding("compiler", "warn", f"no {name}", "install g++, or load its module: CPUs are slower without it")
    return Finding("compiler", "ok", done.stdout.splitlines()[0])


def _kernel() -> Finding:
    from hpc_ae.model.architecture import Architecture
    from hpc_ae.model.kernel import load_kernel

    try:
        return Finding("kernel", "ok", load_kernel(Architecture(("u", "g", "r", "i", "z"))).name)
    except HpcAeError as error:
        found = error.what + (f" ({error.where}: {error.got})" if error.got else "")
        way = error.fix or "look at what the compiler says"
        return Finding("kernel", "warn", found, f"{way}; CPUs are several times slower without it")


def _slurm() -> Finding:
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if len(missing) == 5:
        return Finding("slurm", "ok", "not on this machine: runs are local (cluster.kind: local)")
    if missing:
        return Finding("slurm", "fail", f"not on PATH: {', '.join(missing)}", "load your site's Slurm module")
    done = ask_slurm("sinfo", "--noheader", "--format", "%P")
    named = ask_slurm("sinfo", "--version")
    if done is None or done.returncode or named is None:
        return Finding("slurm", "warn", f"sinfo does not answer: {error_of(done)}", "runs are local until it does")
    return Finding("slurm", "ok", f"{named.stdout.strip()}; partitions {' '.join(done.stdout.split())}")


def _accounting() -> Finding:
    if shutil.which("sacct") is None:
        return Finding("accounting", "ok", "no sacct: status uses its own files and squeue")
    done = ask_slurm("sacct", "--noheader", "--allocations", "--format", "JobID")
    found = (
        "sacct answers" if done is not None and done.returncode == 0 else "none: status uses its own files and squeue"
    )
    return Finding("accounting", "ok", found)


def _writing(folder: Path, run_dir: Path) -> Finding:
    path = folder / f".hpc-ae-doctor-{secrets.token_hex(4)}"
    try:
        path.write_bytes(b"1")
        path.replace(path.with_suffix(".renamed"))
        path.with_suffix(".renamed").unlink()
    except OSError as error:
        return Finding("run directory", "fail", f"{folder}: {error.strerror}", "choose a run_dir that you may write to")
    there = "" if run_dir.is_dir() else f" (tried instead of {run_dir}, which does not exist yet)"
    if place := open_place(run_dir):
        fix = f"run says what to do about it; where you trust all who may write there: export {TRUST_VARIABLE}=..."
        return Finding("run directory", "warn", f"others can replace it in {place.where} ({place.got})", fix)
    return Finding("run directory", "ok", f"{folder}{there}: write and rename work")


def _locking(folder: Path) -> Finding:
    path = folder / f".hpc-ae-doctor-{secrets.token_hex(4)}"
    try:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Finding("file locks", "ok", "work in the run directory")
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
        return Finding("file locks", "warn", name, "two commands in one run directory will not see each other")
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _clock(folder: Path) -> Finding:
    path = folder / f".hpc-ae-doctor-{secrets.token_hex(4)}"
    try:
        path.touch()
        skew = abs(path.stat().st_mtime - time.time())
        path.unlink()
    except OSError as error:
        return Finding("clock", "warn", f"cannot be compared: {error.strerror}")
    level: Level = "ok" if skew < _MOST_SKEW_SECONDS else "warn"
    return Finding(
        "clock", level, f"{skew:.1f} s from the file system's", "ask the administrators: times will be misleading"
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    fix = "a survey of 260 million stars takes 26 GB; a quota may allow less than the file system has"
    return Finding("free disk", "ok" if free > _LEAST_DISK_GB else "warn", f"{free:.0f} GB", fix)


def _quota(folder: Path) -> Finding:
    """By `lfs quota` on Lustre, else by `quota`."""
    user = str(os.getuid())
    for words in (("lfs", "quota", "-q", "-u", user, str(folder)), ("quota", "--no-wrap", "--user", user)):
        done = run_quietly(*words)
        if done is not None and done.returncode == 0 and (left := quota_left_gb(done.stdout)) is not None:
            fix = "make room, or choose another file system: a survey of 260 million stars takes 26 GB"
            return Finding("quota", "ok" if left > _LEAST_DISK_GB else "warn", f"{left:.0f} GB left", fix)
    return Finding("quota", "ok", "none that `lfs quota` or `quota` know of")


def quota_left_gb(text: str) -> float | None:
    """The least room of any file system in the answer of quota or lfs quota; None where none is limited.

    Its lines are: file system, kilobytes used (with * where over), soft limit, hard limit, ...; 0 is no limit.
    """
    left = []
    for line in text.splitlines():
        words = [word.rstrip("*") for word in line.split()]
        if len(words) >= 4 and all(word.isdigit() for word in words[1:4]):
            used, soft, hard = (int(word) for word in words[1:4])
            left += [(limit - used) * 1024 / 1e9 for limit in (soft, hard) if limit]
    return min(left, default=None)


def _memory() -> Finding:
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    fix = "fewer ranks on this machine, or train.memory_limit"
    return Finding("free memory", "ok" if free > _LEAST_MEMORY_GIB else "warn", f"{free:.1f} GiB", fix)


def _umask() -> Finding:
    mask = os.umask(0o077)
    os.umask(mask)
    return Finding("umask", "ok", f"{mask:03o} while hpc-ae runs: what it writes is its owner's alone")


def _interface() -> Finding:
    import socket

    from hpc_ae.runtime.distributed import interface_to

    name = interface_to(socket.gethostname())
    if name is None:
        return Finding("network", "warn", "no interface found for this host's name", "set cluster.network_interface")
    level: Level = "warn" if name == "lo" and "SLURM_JOB_ID" in os.environ else "ok"
    return Finding("network", level, f"Gloo would take {name}", "set cluster.network_interface for more than one node")


def findings_text(findings: list[Finding]) -> str:
    """One line each, the mend under what is not well."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<5}{finding.name:<15}{finding.found}")
        if finding.level != "ok" and finding.fix:
            lines.append(f"{'':<20}to do: {finding.fix}")
    return "\n".join(lines)
