"""What keeps a run directory honest: one command at a time, nothing written by a refused one, ids that are no ids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pytest
from commands import hpc_ae, in_process, start, write_config

from hpc_ae import open_catalog
from hpc_ae.errors import InputError
from hpc_ae.files import publish_json, read_json
from hpc_ae.jobs.lock import run_lock
from hpc_ae.jobs.status import open_run
from hpc_ae.photometry import BANDS, simulate_stars
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.training.split import read_split
from hpc_ae.training.usable import RowKind

SMALL = "train: {epochs: 1, batch_size: 64, partitions: 8}\ncluster: {ranks_per_node: 1}"


def write_stars(path: Path, objid: np.ndarray, num_bad: int = 0) -> None:
    """A CSV of simulated stars with these ids, some of them with u = -9999."""
    magnitude = simulate_stars(0, len(objid), 1)["magnitude"]
    magnitude[:num_bad, 0] = -9999
    columns = {"objid": objid, **{band: magnitude[:, index] for index, band in enumerate(BANDS)}}
    pc.write_csv(pa.table(columns), path)


def test_flags_mean_what_they_say(tmp_path: Path) -> None:
    """Each flag's meaning in the file is its own: those of quality speak of magnitudes, those of caution do not."""
    assert hpc_ae("simulate", tmp_path / "stars", "--stars", 100).returncode == 0
    with h5py.File(tmp_path / "stars" / "shard-00000.h5") as file:
        quality, caution = (list(file[name].attrs["flag_meanings"]) for name in ("quality", "caution"))
        assert file["quality"].attrs["flag_masks"].tolist() == [1, 2, 4, 8]
    assert [text.split(": ")[1].split()[-1] for text in quality] == ["value", "infinite", "-9999", "mag"]
    assert caution[0] == "id_missing: the object id is missing (stored as -1)" and not set(quality) & set(caution)


@pytest.mark.slow
def test_default_run_is_rerun_as_done(tmp_path: Path) -> None:
    """With every default a second run finds everything done, and says which command made it."""
    (tmp_path / "run.yaml").write_text(f"run_dir: {tmp_path}/run\ncatalog: {{source: {{simulate: {{stars: 3000}}}}}}\n")
    first = hpc_ae("run", tmp_path / "run.yaml", "train.epochs=2")
    assert first.returncode == 0, first.stderr
    again = hpc_ae("run", tmp_path / "run.yaml", "train.epochs=2")
    assert again.returncode == 0 and "already done: simulate, train, encode, finalise, postprocess" in again.stderr
    assert " run " in read_json(tmp_path / "run" / "encoding" / "manifest.json")["provenance"]["command"]
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    refused = hpc_ae("run", tmp_path / "run.yaml", "train.epochs=3")
    assert refused.returncode == 2 and "train.epochs: 2 -> 3" in refused.stderr
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_second_command_is_told_who_holds_the_run(tmp_path: Path) -> None:
    """While one command works in a run directory another leaves with status 2; a dead owner's lock is free."""
    (tmp_path / "run.yaml").write_text(f"run_dir: {tmp_path}/run\ncatalog: {{source: {{simulate: {{stars: 3000}}}}}}\n")
    with run_lock(tmp_path / "run"):
        refused = hpc_ae("run", tmp_path / "run.yaml")
        assert refused.returncode == 2 and "another hpc-ae works in this run directory" in refused.stderr
        assert "process" in refused.stderr and not (tmp_path / "run" / "config.yaml").exists()
    owner = start("run", tmp_path / "run.yaml")
    while not (tmp_path / "run" / "jobs" / "state").exists():
        assert owner.poll() is None
    owner.kill()
    owner.communicate()
    with run_lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize("verb", ["ingest", "simulate", "order"])
def test_shards_of_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str) -> None:
    """A directory of other software's files that are called as shards is refused, and they stay."""
    write_stars(tmp_path / "stars.csv", np.arange(10))
    simulate(tmp_path / "sky", SimulateSettings(100))
    words = {"ingest": [tmp_path / "stars.csv", "--out"], "simulate": [], "order": [tmp_path / "sky", "--out"]}[verb]
    more = ["--stars", 50] if verb == "simulate" else []
    (tmp_path / "out").mkdir()
    with h5py.File(tmp_path / "out" / "shard-00000.h5", "w") as file:
        file["photons"] = np.arange(9)
    (tmp_path / "out" / "shard-best.h5").write_bytes(b"all my work")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    status, said = in_process(capsys, verb, *words, tmp_path / "out", *more)
    assert status == 2 and "contains something else" in said and "shard-00000.h5" in said, said
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_lock_with_another_name(tmp_path: Path) -> None:
    """A lock that is a further name of another file of the user's holds, and nothing is written into that."""
    own = tmp_path / "precious"
    own.write_text("all my work")
    (tmp_path / "run" / "jobs").mkdir(parents=True)
    (tmp_path / "run" / "jobs" / "lock").hardlink_to(own)
    with run_lock(tmp_path / "run"):
        assert own.read_text() == "all my work"
        with pytest.raises(InputError, match="another hpc-ae works"), run_lock(tmp_path / "run"):
            pass


def test_ids_that_are_no_ids_do_not_decide_the_split(tmp_path: Path) -> None:
    """All stars with one id: about 5 % are held out all the same, and `run` prints what was flagged."""
    write_stars(tmp_path / "stars.csv", np.full(4000, 10), num_bad=7)
    source = f"catalog: {{source: {{raw: [{tmp_path}/stars.csv]}}}}"
    (tmp_path / "run.yaml").write_text(f"run_dir: {tmp_path}/run\n{source}\n{SMALL}\n")
    done = hpc_ae("run", tmp_path / "run.yaml")
    assert done.returncode == 0, done.stderr
    assert "sentinel 7" in done.stderr and "id_repeated 4,000" in done.stderr
    split = read_split(open_catalog(tmp_path / "run" / "catalog"), 0, RowKind())
    held_out, training = split.held_out(0.05), split.training(0.05)
    assert 120 < held_out.sum() < 280 and held_out.sum() + training.sum() == 3993


def test_raw_files_may_go_and_may_have_brackets(tmp_path: Path) -> None:
    """A finished run is not stopped by raw files that are gone; a name with [1] is a name where such a file exists."""
    write_stars(tmp_path / "stars[1].csv", np.arange(3000) + 2**60)
    source = f"catalog: {{source: {{raw: ['{tmp_path}/stars[1].csv']}}}}"
    (tmp_path / "run.yaml").write_text(f"run_dir: {tmp_path}/run\n{source}\n{SMALL}\n")
    assert hpc_ae("run", tmp_path / "run.yaml").returncode == 0
    (tmp_path / "stars[1].csv").unlink()
    again = hpc_ae("run", tmp_path / "run.yaml")
    assert again.returncode == 0 and "using the existing catalog" in again.stderr.replace("\n", " ")


@pytest.mark.slow
def test_redo_of_a_catalog_elsewhere(tmp_path: Path) -> None:
    """`--redo simulate` makes the catalog again where catalog.path says."""
    catalog = f"catalog: {{path: {tmp_path}/stars, source: {{simulate: {{stars: 3000}}}}}}"
    (tmp_path / "run.yaml").write_text(f"run_dir: {tmp_path}/run\n{catalog}\n{SMALL}\n")
    assert hpc_ae("run", tmp_path / "run.yaml").returncode == 0
    redone = hpc_ae("run", tmp_path / "run.yaml", "catalog.source.simulate.stars=4000", "--redo", "simulate")
    assert redone.returncode == 0, redone.stderr
    assert open_catalog(tmp_path / "stars").num_stars == open_catalog(tmp_path / "run" / "encoding").num_stars == 4000


@pytest.mark.slow
def test_report_of_another_model_is_refused(tmp_path: Path) -> None:
    """postprocess does not draw the figures of an encoding beside another model's training."""
    values = f"run_dir: {tmp_path}/run\ncatalog: {{source: {{simulate: {{stars: 3000}}}}}}\n{SMALL}\n"
    (tmp_path / "run.yaml").write_text(values)
    assert hpc_ae("run", tmp_path / "run.yaml").returncode == 0
    for name in ("model", "checkpoints", "report"):
        for path in sorted((tmp_path / "run" / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (tmp_path / "run" / name).rmdir()
    trained = hpc_ae("train", tmp_path / "run.yaml", "train.learning_rate=1e-3")
    assert trained.returncode == 0 and "earlier model" in trained.stderr
    refused = hpc_ae("postprocess", tmp_path / "run.yaml", "train.learning_rate=1e-3")
    assert refused.returncode == 2 and "model: sha256:" in refused.stderr


def test_directory_that_others_may_write(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run directory that others may write into is refused by every command that trusts it; another one is advised."""
    config = write_config(tmp_path)
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o777)
    run_dir.chmod(0o777)
    for words in (("run", config), ("train", config), ("run", config, "--no-wait")):
        status, said = in_process(capsys, *words)
        assert status == 2 and "other users may write to the directory" in said, said
        assert "choose a new directory" in said and "chmod" not in said and list(run_dir.iterdir()) == []
    (run_dir / "config.yaml").write_text(config.read_text())
    for verb in ("status", "cancel", "logs"):
        assert in_process(capsys, verb, run_dir)[0] == 2
    run_dir.chmod(0o755)
    assert in_process(capsys, "status", run_dir)[0] == 0


PLANTED = ("jobs", "jobs/logs", "jobs/state", "jobs/progress", "jobs/state/train.json", "jobs/lock", "config.yaml")
WAYS = [*((name, "owner") for name in PLANTED), *((name, how) for name in PLANTED[2::2] for how in ("mode", "link"))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize(("name", "how"), WAYS)
def test_planted_in_a_run_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, how: str) -> None:
    """What others put into a run directory while they could is found after it has been closed to them."""
    config = write_config(tmp_path)
    path, elsewhere = tmp_path / "run" / name, tmp_path / "elsewhere"
    path.parent.mkdir(parents=True)
    is_file = "." in name or name.endswith("lock")
    place = elsewhere if how == "link" else path
    place.write_text("{}") if is_file else place.mkdir()
    place.chmod(0o666 if is_file and how == "mode" else 0o777 if how == "mode" else 0o700)
    if how == "owner":
        os.chown(path, 12345, 12345)
    if how == "link":
        path.symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))
    for words in (("run", config), ("status", tmp_path / "run")):
        status, said = in_process(capsys, *words)
        assert status == 2 and str(path) in said, said
        assert ("symbolic link" in said) == (how == "link")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_someone_else(tmp_path: Path) -> None:
    """A run directory that belongs to someone else is refused: its owner could replace what is run or read."""
    config = write_config(tmp_path)
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", 12345, 12345)
    done = hpc_ae("run", config)
    assert done.returncode == 2 and "belongs to someone else" in done.stderr and "user 12345" in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


def test_cancel_spares_a_reused_process_number(tmp_path: Path) -> None:
    """A marker whose process number belongs to another process by now: that one is not signalled, the rank is lost."""
    simulate(tmp_path / "stars", SimulateSettings(3000))
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    assert hpc_ae("train", write_config(tmp_path, catalog=catalog, cluster={"ranks_per_node": 1})).returncode == 0
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record = read_json(tmp_path / "run" / "jobs" / "state" / "train.json")
        path = tmp_path / "run" / "jobs" / "state" / record["state_dir"] / "rank-00000.json"
        publish_json(path, {**read_json(path), "state": "running", "pid": bystander.pid})
        assert "train: lost before" in hpc_ae("cancel", tmp_path / "run").stdout
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


FLIP = """
import os, sys
link, one, other, temp = sys.argv[1:]
while True:
    for target in (one, other):
        os.symlink(target, temp)
        os.replace(temp, link)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_link_that_flips(tmp_path: Path) -> None:
    """A link that leads to one's own run and to somebody else's in turn: theirs is never read."""
    for name, seed in (("mine", 1), ("theirs", 666)):
        (tmp_path / name).mkdir(mode=0o755)
        (tmp_path / name / "config.yaml").write_text(f"run_dir: {tmp_path / name}\nseed: {seed}\n")
    for path in (tmp_path / "theirs", tmp_path / "theirs" / "config.yaml"):
        os.chown(path, 12345, 12345)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "mine")
    flipping = subprocess.Popen(
        [sys.executable, "-c", FLIP, link, tmp_path / "mine", tmp_path / "theirs", tmp_path / "temp"]
    )
    seen: list[int] = []
    try:
        for _ in range(600):
            try:
                seen.append(open_run(link).config.seed)
            except InputError as error:
                seen.append(0)
                assert "belongs to someone else" in str(error)
    finally:
        flipping.kill()
        flipping.wait()
    assert set(seen) == {0, 1}
