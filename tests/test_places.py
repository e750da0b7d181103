"""Odd places: a removed working directory, read-only and noexec file systems, long paths, users without a name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import await_sign, command, environment, hpc_ae, run_processes, start, write_config
from runs import make_catalog

from hpc_ae import open_catalog
from hpc_ae.jobs.main import run_command

STRANGER = 54321  # a user id without an entry in /etc/passwd
ALONE = {"ranks_per_node": 1}


def mounted(option: str, folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line of sh where `folder` is a file system of memory, mounted with an option after it was filled."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    script = f"mount -t tmpfs none {folder} && mkdir {folder}/in && mount -o remount,{option} {folder} && {line}"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def typed(*arguments: object) -> str:
    """The words of a command, for sh."""
    return " ".join(f"'{word}'" for word in command(*arguments))


def test_removed_working_directory(tmp_path: Path) -> None:
    """A command that is typed where nothing is any more says so, with status 2."""
    config = write_config(tmp_path, cluster=ALONE)
    line = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir ../gone && exec {typed('run', config)}"
    done = subprocess.run(
        ["sh", "-c", line], env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "the working directory has been removed" in done.stderr and f"{tmp_path}/gone" in done.stderr


@pytest.mark.slow
def test_working_directory_removed_meanwhile(tmp_path: Path) -> None:
    """A run goes on with its next stage where the directory that it was typed in is removed while it works."""
    config = write_config(tmp_path, cluster=ALONE)
    (tmp_path / "typed").mkdir()
    before = Path.cwd()
    os.chdir(tmp_path / "typed")
    try:
        process = start("run", config)
    finally:
        os.chdir(before)
    await_sign(lambda: (tmp_path / "run" / "jobs").exists(), process)
    (tmp_path / "typed").rmdir()
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said


def test_read_only_parent(tmp_path: Path) -> None:
    """A run directory that cannot be made is named, with the reason, by every command that would make it."""
    config = write_config(tmp_path, run_dir=str(tmp_path / "ro" / "in" / "run"), cluster=ALONE)
    (tmp_path / "ro").mkdir()
    for verb in ("run", "train"):
        done = mounted("ro", tmp_path / "ro", typed(verb, config))
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Read-only file system" in done.stderr and f"{tmp_path}/ro/in/run" in done.stderr
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr


def test_noexec_temporary_directory(tmp_path: Path) -> None:
    """Where no code may be loaded from the temporary directory, doctor says what to set, not to install a compiler."""
    (tmp_path / "tmp").mkdir()
    done = mounted("noexec", tmp_path / "tmp", typed("doctor", tmp_path), TMPDIR=str(tmp_path / "tmp"))
    kernel = done.stdout.partition("kernel")[2][:700]
    assert "set HPC_AE_CACHE_DIR to a directory of your own" in kernel and "install g++" not in kernel, done.stdout


@pytest.mark.parametrize("verb", ["status", "verify", "order"])
def test_refused_path(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the system refuses is said with the path, not as something unexpected: a name that is too long, a file for
    a directory.
    """
    for place in ("/dev/null/run", "/tmp/" + "x" * 300):
        assert run_command([verb, place, *(["--out", "/tmp/none"] if verb == "order" else [])]) == 2
        said = capsys.readouterr().err
        assert "unexpected" not in said and place[:30] in said


# ---- also tried, and right


def test_long_path(tmp_path: Path) -> None:
    """A run whose path has 650 letters."""
    folder = tmp_path
    while len(str(folder)) < 600:
        folder /= "d" * 50
    folder.mkdir(parents=True)
    done = hpc_ae("run", write_config(folder, cluster=ALONE))
    assert done.returncode == 0, done.stderr
    assert hpc_ae("verify", folder / "run").returncode == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("nobody but root becomes another user")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_stranger(arguments: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments as a user without a name, who may read all that root may, as Python may be root's."""
    words = [
        "setpriv",
        f"--reuid={STRANGER}",
        f"--regid={STRANGER}",
        "--clear-groups",
        "--bounding-set=-all,+dac_read_search",
    ]
    words += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", *command()[:1], *arguments]
    return subprocess.run(
        words,
        env={**environment(), "HOME": str(home), "TMPDIR": str(home)},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_user_without_a_name(public: Path) -> None:
    """A user id that no list of users has, as in a container: a whole run."""
    (public / "mine").mkdir()
    config = write_config(public / "mine", cluster=ALONE)
    for path in (public, public / "mine"):
        os.chown(path, STRANGER, STRANGER)
    config.chmod(0o644)
    done = as_stranger([*command("run", config)[1:]], public)
    assert done.returncode == 0, done.stderr


def test_archive_of_another_user(public: Path) -> None:
    """A colleague reads the catalogs of a run that may not be written: verify, query and Python; and is told why `run`
    is not theirs; nothing is left in it.
    """
    stars = make_catalog(public / "stars")
    config = write_config(public, catalog={"path": str(stars), "source": None}, cluster=ALONE)
    assert hpc_ae("run", config).returncode == 0
    for path in [public / "run", *public.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(public.rglob("*"))
    done = as_stranger([*command("verify", public / "run")[1:]], public)
    assert done.returncode == 0, done.stdout + done.stderr
    some = str(open_catalog(stars)["objid"][3])
    found = as_stranger([*command("query", public / "run" / "encoding", "--join", "--objid", some)[1:]], public)
    assert found.returncode == 0 and some in found.stdout, found.stderr
    refused = as_stranger([*command("run", config)[1:]], public)
    assert refused.returncode == 2 and "belongs to someone else" in refused.stderr
    assert "Traceback" not in done.stderr + found.stderr + refused.stderr
    assert sorted(public.rglob("*")) == before and not run_processes(public)
    for path in [public / "run", *public.rglob("*")]:
        path.chmod(0o755)
