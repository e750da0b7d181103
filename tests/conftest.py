"""Fixtures for the real things: a Slurm of two nodes, mpiexec, a browser, the project's shared data.

Where one is absent its tests are skipped with the reason. HPC_AE_REQUIRE (comma-separated, e.g. "slurm,mpi") names
those that must be there: then the tests fail instead, so that a CI machine cannot pass by leaving something out.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, missing_accounting, missing_requirement

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# A shell starts its background commands deaf to Ctrl-C, which their children inherit: tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _find_mpiexec() -> str | None:
    """The mpiexec beside the running interpreter (pip package mpich), else the one on PATH."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def _missing_mpi() -> str | None:
    if _find_mpiexec() is None:
        return "no mpiexec beside the interpreter or on PATH (pip install mpich)"
    if importlib.util.find_spec("mpi4py") is None:
        return "no mpi4py (pip install mpi4py)"
    return None


def _missing_browser() -> str | None:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not on PATH: {', '.join(missing)} (Debian: chromium, chromium-driver)" if missing else None


def _missing_shared_data() -> str | None:
    return None if SHARED_DATA.is_dir() else f"no directory {SHARED_DATA}"


MISSING: dict[str, Callable[[], str | None]] = {
    "slurm": missing_requirement,
    "accounting": missing_accounting,
    "mpi": _missing_mpi,
    "browser": _missing_browser,
    "shared": _missing_shared_data,
}


def required() -> set[str]:
    """The real things that HPC_AE_REQUIRE says must be present."""
    return {name.strip() for name in os.environ.get("HPC_AE_REQUIRE", "").split(",")} - {""}


def need(what: str) -> None:
    """Goes on where the real thing is there; otherwise skips the test, or fails it where HPC_AE_REQUIRE names it."""
    reason = MISSING[what]()
    if reason is None:
        return
    if what in required():
        pytest.fail(f"HPC_AE_REQUIRE names {what}: {reason}", pytrace=False)
    pytest.skip(f"{what}: {reason}")


def pytest_configure() -> None:
    """Refuses a misspelled HPC_AE_REQUIRE, which would require nothing."""
    unknown = required() - MISSING.keys()
    if unknown:
        raise pytest.UsageError(f"HPC_AE_REQUIRE: unknown {sorted(unknown)}; valid are {sorted(MISSING)}")


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A started Slurm of two nodes, n1 and n2, shared by all tests of the session (with `-n`: of a process)."""
    need("slurm")
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def accounted_slurm() -> Iterator[SlurmCluster]:
    """The same with accounting: a slurmdbd on a MariaDB of its own."""
    need("accounting")
    with SlurmCluster(accounting=True) as cluster:
        yield cluster


@pytest.fixture
def own_slurm() -> SlurmCluster:
    """A cluster, not yet started, that a test may break."""
    need("slurm")
    return SlurmCluster()


@pytest.fixture
def no_jobs_left(slurm: SlurmCluster) -> Iterator[None]:
    """No job of one test is left to the next, and no node that was drained because a task of it would not die."""
    yield
    slurm.clear()


@pytest.fixture(params=["plain", "accounting"])
def any_slurm(request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    """A Slurm without and one with accounting, in turn; no job of a test is left to the next."""
    cluster: SlurmCluster = request.getfixturevalue("slurm" if request.param == "plain" else "accounted_slurm")
    yield cluster
    cluster.clear()


@pytest.fixture(scope="session")
def mpiexec() -> str:
    """The path of an mpiexec that starts mpi4py programs."""
    need("mpi")
    return str(_find_mpiexec())


@pytest.fixture(scope="session")
def browser() -> tuple[str, str]:
    """The paths of chromium and chromedriver."""
    need("browser")
    return str(shutil.which("chromium")), str(shutil.which("chromedriver"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's shared data beside the checkout."""
    need("shared")
    return SHARED_DATA
