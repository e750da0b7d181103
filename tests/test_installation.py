"""The installed distribution: one import name, every file of it, and runs that no directory of the user's disturbs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REPOSITORY, environment, run_processes, write_config
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae.files import read_json

# What pip calls; pip itself would only add seconds.
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
# Where the folders of the repository are installed.
INSTALLED = {"hpc_ae/": "hpc_ae/", "jobs/": "hpc_ae/jobs/", "configs/": "hpc_ae/configs/"}
FOLDERS = ("jobs", "configs", "runs", "tests")
LIBRARIES = ("numpy", "submitit", "torch", "typer", "pydantic", "h5py", "mpi4py", "matplotlib", "files", "inspect")
STANDARD = ("random", "queue", "select", "types", "typing", "contextlib", "subprocess", "socket", "tempfile")
# A user's own module: it says that it was imported, and is of no use.
HOSTILE = "open({seen!r}, 'a').write(__file__ + '\\n')\nraise ImportError('not the module that you want')\n"


# ---- wheels and where they are installed


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows of this repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("source") / "checkout"
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (REPOSITORY / name).is_symlink() or (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name, follow_symlinks=False)
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    """The wheel or sdist of a source directory."""
    out.mkdir()
    words = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    done = subprocess.run(words, cwd=source, env=environment(PYTHONPATH=""), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build(checkout, "wheel", tmp_path_factory.mktemp("built") / "wheel")


def make_venv(folder: Path) -> Path:
    """A virtual environment with all that this interpreter has, but this package; its directory of commands."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=240)
    libraries = folder / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and "hpc_ae" not in entry.name:
            (libraries / entry.name).symlink_to(entry)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return folder / "bin"


def install(commands: Path, *words: str) -> Path:
    """Install into a virtual environment without a network; its command `hpc-ae`."""
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, *words], env=environment(PYTHONPATH=""), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return commands / "hpc-ae"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hpc-ae` of the installed wheel."""
    return install(make_venv(tmp_path_factory.mktemp("installed") / "venv"), str(wheel))


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hpc-ae` of an editable installation of the checkout."""
    commands = make_venv(tmp_path_factory.mktemp("editable") / "venv")
    return install(commands, "--no-build-isolation", "--editable", str(checkout))


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_wheel_holds_every_file_under_one_name(checkout: Path, wheel: Path) -> None:
    """All that git tracks of hpc_ae/, jobs/ and configs/ is in the wheel, byte for byte, under hpc_ae/ alone."""
    wanted = {
        name.replace(folder, where, 1): path.read_bytes()
        for folder, where in INSTALLED.items()
        for path in (checkout / folder).rglob("*")
        if path.is_file() and (name := str(path.relative_to(checkout))).startswith(folder) and not _is_linked(path)
    }
    found = contents(wheel)
    assert {name for name in found if not name.startswith("hpc_ae-")} == wanted.keys()
    assert {name: found[name] for name in wanted} == wanted
    assert {name.partition("/")[0] for name in found} == {
        "hpc_ae",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    assert {"hpc_ae/jobs/cli.py", "hpc_ae/configs/schema.json", "hpc_ae/py.typed"} <= wanted.keys()


def _is_linked(path: Path) -> bool:
    return path.resolve() != path.absolute()


def test_sdist_makes_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    """A wheel made of the sdist is the one made of the checkout."""
    archive = build(checkout, "sdist", tmp_path / "sdist")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    again = build(source, "wheel", tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


# ---- a user's own directory


def make_hostile(folder: Path, names: tuple[str, ...]) -> Path:
    """A user's own directory with packages and modules of these names; what was imported stands in `seen`."""
    folder.mkdir()
    text = HOSTILE.format(seen=str(folder.parent / "seen"))
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    for name in names:
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory with modules of all names, this package's and the standard library's too."""
    return make_hostile(tmp_path / "here", (*LIBRARIES, *STANDARD, "hpc_ae"))


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH: one with modules of the standard library's names ends any Python before its start."""
    return make_hostile(tmp_path / "named", LIBRARIES)


@pytest.fixture
def user_dirs(here: Path, named: Path) -> tuple[Path, Path]:
    """Both of them."""
    return here, named


def run(command: Path, *words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an installed `hpc-ae` in a directory, nothing of the checkout on its path."""
    return subprocess.run(
        [str(command), *map(str, words)],
        cwd=cwd,
        env=environment(**{"PYTHONPATH": "", **variables}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )


def check_run(tmp_path: Path) -> None:
    """A run is complete, and no module of the user's own was imported in any process of it."""
    assert read_json(tmp_path / "run" / "report" / "summary.json")
    assert not (tmp_path / "seen").exists(), (tmp_path / "seen").read_text()


def test_run_of_the_wheel_in_a_hostile_directory(installed: Path, here: Path, tmp_path: Path) -> None:
    """The installed wheel runs where the working directory has modules of all names, and starts by `python -m` too."""
    config = write_config(tmp_path)
    done = run(installed, "run", config, cwd=here)
    assert done.returncode == 0, done.stderr
    done = run(installed, "verify", tmp_path / "run" / "catalog", cwd=here)  # by a pool of processes of its own
    assert done.returncode == 0, done.stderr
    check_run(tmp_path)
    (here / "hpc_ae.py").unlink()  # the one module that `-m` itself looks for
    for name in STANDARD:
        (here / f"{name}.py").unlink()  # what `-m` imports before our first line
    done = run(installed.parent / "python", "-m", "hpc_ae", "--version", cwd=here)
    assert done.returncode == 0, done.stderr
    check_run(tmp_path)


def test_background_run_with_a_hostile_pythonpath(editable: Path, here: Path, named: Path, tmp_path: Path) -> None:
    """`run --no-wait` of an editable installation goes through where PYTHONPATH names a user's own modules too."""
    done = run(editable, "run", write_config(tmp_path), "--no-wait", cwd=here, PYTHONPATH=str(named))
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: not run_processes(tmp_path / "run"), timeout=100)
    assert "done in" in (said := (tmp_path / "run" / "jobs" / "logs" / "run.log").read_text()), said
    check_run(tmp_path)


def test_editable_installation(editable: Path, named: Path, tmp_path: Path) -> None:
    """An editable installation starts, finds its data files, and is a module too."""
    assert run(editable, "--version", cwd=named, PYTHONPATH=str(named)).stdout.startswith("hpc_ae ")
    done = run(editable, "init", "--site", "gpu", "--out", tmp_path / "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "mine.yaml").exists(), done.stderr
    done = run(editable.parent / "python", "-m", "hpc_ae", "--help", cwd=tmp_path, PYTHONPATH=str(named))
    assert done.returncode == 0 and "Usage: hpc-ae" in done.stdout, done.stderr
    assert not (tmp_path / "seen").exists()


@pytest.mark.slurm
@pytest.mark.mpi
@pytest.mark.usefixtures("no_jobs_left")
def test_run_on_slurm_with_a_hostile_pythonpath(
    slurm: SlurmCluster, mpiexec: str, installed: Path, user_dirs: tuple[Path, Path], tmp_path: Path
) -> None:
    """On two nodes, MPI stages among them, likewise: in the directory itself, and with another in PYTHONPATH."""
    cluster = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:10:00", "mpi": "pmi2"}
    library = Path(mpiexec).parents[1] / "lib"  # as an MPI module of a site would say it
    here, named = user_dirs
    variables = {**slurm.environment(), "PYTHONPATH": str(named), "LD_LIBRARY_PATH": str(library)}
    done = run(installed, "run", write_config(tmp_path, cluster=cluster), cwd=here, **variables)
    assert done.returncode == 0, done.stderr + done.stdout
    check_run(tmp_path)


# ---- where a Python looks


@pytest.fixture
def other_copy(tmp_path: Path) -> Iterator[Path]:
    """Another copy of this package, which has a module that says where it looks."""
    package = tmp_path / "other" / "hpc_ae"
    package.mkdir(parents=True)
    shutil.copy(REPOSITORY / "hpc_ae" / "interpreter.py", package)
    (package / "__init__.py").touch()
    (package / "look.py").write_text("import sys\nprint(__file__, *sys.path, sep='\\n')\n")
    return package


def test_order_of_the_path(other_copy: Path, tmp_path: Path) -> None:
    """The copy that starts a process runs in it, whatever PYTHONPATH names; what that names comes last, the working
    directory never, not even where PYTHONPATH says it with an empty part.
    """
    words = [sys.executable, "-P", str(other_copy / "interpreter.py"), "-m", "hpc_ae.look"]
    path = f"{tmp_path}::{REPOSITORY}"
    done = subprocess.run(words, cwd=other_copy, env=environment(PYTHONPATH=path), capture_output=True, text=True)
    file, *looked = done.stdout.splitlines()
    assert file == str(other_copy / "look.py"), done.stderr
    own = looked.index(str(other_copy.parent))  # before any other copy, installed or listed
    assert not [folder for folder in looked[:own] if (Path(folder) / "hpc_ae" / "__init__.py").exists()]
    others = [folder for folder in looked if folder != str(other_copy.parent)]
    assert others[-2:] == [str(tmp_path), str(REPOSITORY)]
    assert str(other_copy) not in looked
    assert {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")} <= set(others[:-2])
