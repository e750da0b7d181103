"""Where others could put something else in the place of a run, and that a job runs what was submitted or nothing."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import hpc_ae, in_process, write_config

from hpc_ae.config import dump_config, load_config
from hpc_ae.errors import InputError
from hpc_ae.files import make_dir, read_json
from hpc_ae.jobs import start
from hpc_ae.jobs.launched import Launched, check_run_dir, record_launch
from hpc_ae.jobs.start import find_job, start_words
from hpc_ae.jobs.status import open_run
from hpc_ae.jobs.worker import StageJob
from hpc_ae.layout import RunLayout
from hpc_ae.private import TRUST_VARIABLE, check_place, open_place

OTHER = 12345
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")

pytestmark = only_root


def make_place(tmp_path: Path, mode: int, owner: int = 0, group: int = 0) -> Path:
    """A directory of this mode, and in it one of the user's own, where a run may be."""
    place = tmp_path / "project"
    (place / "mine").mkdir(parents=True, mode=0o700)
    os.chown(place, owner, group)
    place.chmod(mode)
    return place


@pytest.mark.parametrize(
    ("mode", "owner", "group", "is_open"),
    [
        (0o755, 0, 0, False),
        (0o777, 0, 0, True),
        (0o2770, 0, OTHER, True),
        (0o2775, OTHER, OTHER, True),
        (0o1777, 0, 0, False),
        (0o3770, 0, OTHER, False),
        (0o1777, OTHER, 0, True),  # the owner of a sticky directory may rename what is in it
        (0o700, OTHER, OTHER, True),
        (0o775, 0, 0, True),
    ],
)
def test_directories_above(tmp_path: Path, mode: int, owner: int, group: int, *, is_open: bool) -> None:
    """The directories above a run: one's own or root's, and written to by nobody else unless sticky."""
    place = make_place(tmp_path, mode, owner, group)
    for path in (place / "run", place / "mine" / "run", place / "mine" / "not" / "there" / "yet"):
        found = open_place(path)
        assert (found is not None) == is_open
        assert found is None or (found.where == place and f"{mode:04o}" in found.got)


@pytest.mark.parametrize("mode", [0o777, 0o2770])
def test_a_run_below_an_open_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path, mode: int) -> None:
    """Refused by every verb that trusts a run, with what is needed and the ways out; each way is one."""
    place = make_place(tmp_path, mode, 0, OTHER)
    config = write_config(tmp_path, run_dir=str(place / "mine" / "run"))
    before = sorted(tmp_path.rglob("*"))
    for verb in ("run", "train", "encode"):
        status, said = in_process(capsys, verb, config)
        assert status == 2 and "other users can put another directory in the place of run" in said, said
        assert f"mode {mode:04o}" in said and "sticky" in said and f"{TRUST_VARIABLE}={place}" in said
    assert sorted(tmp_path.rglob("*")) == before
    make_dir(place / "mine" / "run")
    (place / "mine" / "run" / "config.yaml").write_text(dump_config(load_config(config)))
    for verb in ("status", "logs", "cancel"):
        assert in_process(capsys, verb, place / "mine" / "run")[0] == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRUST_VARIABLE, f"/nowhere:{place}")
        assert in_process(capsys, "status", place / "mine" / "run")[0] == 0
    place.chmod(mode | 0o1000)
    assert in_process(capsys, "status", place / "mine" / "run")[0] == 0


def test_links_on_the_way(tmp_path: Path) -> None:
    """A link counts as what lies in its directory does, and where it leads counts as well."""
    mine, place = tmp_path / "mine", make_place(tmp_path, 0o1777)
    mine.mkdir()
    link = place / "link"
    link.symlink_to(mine)
    check_place(link / "run")
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(InputError, match="a link of 12345"):
        check_place(link / "run")
    place.chmod(0o755)
    check_place(link / "run")  # nobody else may write here: who made the link is of no matter
    open_dir = tmp_path / "open"
    open_dir.mkdir()
    open_dir.chmod(0o777)
    (open_dir / "mine").mkdir()
    for name, target in (("there", open_dir / "mine"), ("around", Path("open/../mine"))):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(InputError, match="0777"):
        check_place(tmp_path / "there" / "run")
    assert open_place(tmp_path / "around" / "run") is None or "0777" in str(open_place(tmp_path / "around" / "run"))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert open_place(tmp_path / "circle" / "run") is None


def test_access_lists(tmp_path: Path) -> None:
    """An access control list that lets another user write counts as the group's permission does."""
    place = make_place(tmp_path, 0o755)
    entries = ((0x01, 7, 2**32 - 1), (0x02, 7, OTHER), (0x04, 5, 2**32 - 1), (0x10, 7, 2**32 - 1), (0x20, 5, 2**32 - 1))
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(place, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("no access control lists on this file system")
    assert open_place(place / "run") is not None


def test_a_group_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory that one's own group may write to, of which nobody else is a member, is not open; where a list of
    more users is on it, it is.
    """
    place = make_place(tmp_path, 0o775, OTHER, OTHER)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    user = SimpleNamespace(pw_uid=OTHER, pw_gid=OTHER, pw_name="anna")
    members: list[str] = []
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_gid=OTHER, gr_name="anna", gr_mem=members))
    assert open_place(place / "run") is None
    monkeypatch.setattr(os, "getxattr", lambda *_: b"a list")
    assert open_place(place / "run") is not None
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_gid=OTHER, gr_name="anna", gr_mem=["eve"]))
    assert open_place(place / "run") is not None


def test_directories_that_are_made(tmp_path: Path) -> None:
    """A run's directory is the user's alone, and those above it that are made for it are open to be read at most,
    whatever the umask is.
    """
    before = os.umask(0)
    try:
        make_dir(tmp_path / "a" / "b" / "run")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/run")]
    assert modes == [0o755, 0o755, 0o700]


SWAP = """
import os, sys, time
place = sys.argv[1]
while True:
    time.sleep(0.005)
    try:
        os.rename(f"{place}/run", f"{place}/taken")
        os.mkdir(f"{place}/run", 0o755)
    except OSError:
        pass
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_another_user_who_swaps_the_directory(tmp_path: Path, mode: int) -> None:
    """Another user who tries to rename a run away and put a directory of their own there: in an open directory nothing
    starts; in a sticky one they cannot, and the run ends well.
    """
    place = tmp_path / "project"
    place.mkdir()
    place.chmod(mode)
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    source = {"path": None, "source": {"simulate": {"stars": 2000}}}
    config = write_config(tmp_path, run_dir=str(place / "run"), catalog=source, cluster={"ranks_per_node": 1})
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    other = subprocess.Popen(
        ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", python, "-c", SWAP, place]
    )
    try:
        done = hpc_ae("run", config)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    if mode == 0o777:
        assert done.returncode == 2 and not (place / "run" / "jobs").exists() and "sticky" in done.stderr, done.stderr
    else:
        assert done.returncode == 0 and "verified" in done.stderr, done.stderr


def test_calls_of_a_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checks of a launch are some dozen system calls, however many shards, logs and links to follow there are."""
    layout = load_config(write_config(tmp_path)).layout
    counts = []
    for number in (1, 300):
        for folder in (layout.catalog_dir, layout.encoding_dir, layout.logs_dir, layout.state_dir / "train-1"):
            for name in range(number):
                (make_dir(folder) / f"{name}").write_text("")
        counted: list[object] = []
        with monkeypatch.context() as patch:
            for function in (os.stat, os.lstat, os.scandir, os.listdir, os.readlink):
                patch.setattr(os, function.__name__, _counted(function, counted))
            check_run_dir(layout)
        counts.append(len(counted))
    assert counts[0] == counts[1] < 80, counts


def _counted(function: Callable[..., Any], counted: list[object]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        counted.append(arguments)
        return function(*arguments, **named)

    return call


def test_parts_of_an_array(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A task of an array finds its part by its number, in the record of its own launch."""
    layout = RunLayout(make_dir(tmp_path / "run"))
    files = layout.launch("encode", "token")
    record_launch(Launched("encode", "41", layout, files, 2, parts=(2, 5, 8), local=False))
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "44", "SLURM_ARRAY_JOB_ID": "41"}
    for name, value in {**variables, "SLURM_ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert find_job("encode", "sha256:0", "9", str(layout.run_dir)) == StageJob("encode", files, "sha256:0", 5, 9)
    monkeypatch.setattr(start, "_RECORD_SECONDS", 0.1)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "42")
    with pytest.raises(InputError, match="not the newest launch"):
        find_job("encode", "sha256:0", "9", str(layout.run_dir))


def test_a_config_that_was_replaced(tmp_path: Path) -> None:
    """A job whose config is another than that which was submitted says so and does nothing."""
    config = load_config(write_config(tmp_path, catalog={"path": None, "source": {"simulate": {"stars": 2000}}}))
    files = config.layout.launch("simulate", "token")
    make_dir(files.launch_dir)
    files.config_path.write_text(dump_config(config).replace("2000", "2001"))
    record_launch(Launched("simulate", "1", config.layout, files, 1))
    variables = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "1", "SUBMITIT_LOCAL_NTASKS": "1"}
    words = start_words("simulate", config)
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    assert done.returncode == 2 and "replaced after the job was submitted" in done.stderr, done.stderr
    assert "replaced" in read_json(files.marker_path(0))["message"]
    assert not (tmp_path / "run" / "catalog").exists()


def test_a_link_of_another_user(tmp_path: Path) -> None:
    """A run that is named by a link which another user can turn elsewhere is refused, their own run or not."""
    place = make_place(tmp_path, 0o1777)
    run_dir = make_dir(tmp_path / "run")
    (run_dir / "config.yaml").write_text(f"run_dir: {run_dir}\n")
    (place / "link").symlink_to(run_dir)
    os.chown(place / "link", OTHER, OTHER, follow_symlinks=False)
    assert hpc_ae("run", write_config(tmp_path, run_dir=str(place / "link"))).returncode == 2
    with pytest.raises(InputError, match="a link of 12345"):
        open_run(place / "link")
