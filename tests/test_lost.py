"""Files of a finished run that are removed, cut short, changed or touched: made again, or refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from commands import hpc_ae, write_config
from runs import make_catalog, make_random_model

from hpc_ae.files import digest_file

ALONE = {"ranks_per_node": 1}
# Of each kind of file one; what of it is there again, byte for byte, when it was removed.
FILES = {
    "catalog/shard-00001.h5": True,
    "model/model.safetensors": True,
    "encoding/shard-00000.h5": True,
    "encoding/encoding.h5": True,
    "scores/shard-00002.h5": True,
    "scores/tallies.npz": True,
    "report/anomalies.csv": True,
    "report/index.html": False,  # has the time of its making
}
RECORDS = ("catalog/manifest.json", "encoding/manifest.json", "scores/manifest.json", "report/summary.json")
QUICK = ("model/model.safetensors", "encoding/shard-00000.h5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the config of a run, and the run."""
    folder = tmp_path_factory.mktemp("finished")
    done = hpc_ae("run", write_config(folder, cluster=ALONE))
    assert done.returncode == 0 and "verified: 3,000 stars in" in done.stderr, done.stderr
    return folder


@pytest.fixture
def run_dir(finished: Path) -> Path:
    """The run as it was when it was finished; what a test does to it is taken back."""
    kept = finished / "kept"
    if not kept.exists():
        shutil.copytree(finished / "run", kept)
    shutil.rmtree(finished / "run")
    shutil.copytree(kept, finished / "run")
    return finished / "run"


def rerun(run_dir: Path, *words: str) -> tuple[int, str]:
    """Type the same command again."""
    done = hpc_ae("run", run_dir.parent / "config.yaml", *words)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def stage_of(name: str) -> str:
    """The stage that makes a file."""
    return {"catalog": "simulate", "model": "train", "encoding": "encode"}.get(name.split("/")[0], "postprocess")


def parts(names: dict[str, bool]) -> list[object]:
    """The quick ones in the suite, the others in its long form."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", parts(FILES))
def test_removed_file_is_made_again(run_dir: Path, name: str) -> None:
    """A purge that takes a file: the stage that makes it runs again, nothing else changes, and all verifies."""
    path = run_dir / name
    digest = digest_file(path)
    path.unlink()
    shown = hpc_ae("run", run_dir.parent / "config.yaml", "--dry-run").stdout
    assert f"\n{stage_of(name)}: " in "\n" + shown
    status, said = rerun(run_dir)
    assert status == 0, said
    assert path.is_file() and (digest_file(path) == digest or not FILES[name])
    assert hpc_ae("verify", run_dir).returncode == 0
    status, said = rerun(run_dir)
    assert status == 0 and "already done: simulate, train, encode, finalise, postprocess" in said
    assert "verified" not in said and "complete: 3,000 stars in, 3,000 out" in said


@pytest.mark.parametrize("name", parts(FILES))
@pytest.mark.parametrize("change", ["cut", pytest.param("flip", marks=pytest.mark.slow)])
def test_changed_file_is_refused(run_dir: Path, name: str, change: str) -> None:
    """A file with another content is named, and nothing of the run is touched."""
    path = run_dir / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data if change == "flip" else data[:-10])
    before = {one: one.stat().st_mtime_ns for one in run_dir.rglob("*") if one.is_file() and "jobs" not in one.parts}
    status, said = rerun(run_dir)
    assert status == 1 and f"a file has changed since it was written\n  where:    {path}" in said, said
    assert before == {one: one.stat().st_mtime_ns for one in before}
    assert f"--redo {stage_of(name)}" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
def test_removed_record_is_made_again(run_dir: Path, name: str) -> None:
    """Without its record, an output is made again."""
    (run_dir / name).unlink()
    status, said = rerun(run_dir)
    assert status == 0 and (run_dir / name).exists(), said
    assert hpc_ae("verify", run_dir).returncode == 0


def test_touched_files_are_looked_at(run_dir: Path) -> None:
    """Files that are younger than their record and the same are taken for what they are."""
    for name in FILES:
        os.utime(run_dir / name)
    status, said = rerun(run_dir)
    assert status == 0 and "complete: 3,000" in said, said


def test_removed_model_record_is_named(run_dir: Path) -> None:
    """Without its record nobody knows whether the model of an encoding is the one that would be trained."""
    (run_dir / "model" / "model.json").unlink()
    status, said = rerun(run_dir)
    assert status == 2 and str(run_dir / "model" / "model.json") in said


@pytest.mark.slow
def test_lost_model_without_checkpoints(run_dir: Path) -> None:
    """Trained again from the beginning, by as many ranks, the model is the same, and the encoding stays."""
    digest = digest_file(run_dir / "model" / "model.safetensors")
    (run_dir / "model" / "model.safetensors").unlink()
    shutil.rmtree(run_dir / "checkpoints")
    before = (run_dir / "encoding" / "shard-00000.h5").stat().st_mtime_ns
    status, said = rerun(run_dir)
    assert status == 0, said
    assert digest_file(run_dir / "model" / "model.safetensors") == digest
    assert (run_dir / "encoding" / "shard-00000.h5").stat().st_mtime_ns == before


def test_lost_checkpoint_is_said(run_dir: Path) -> None:
    """A finished run does without its checkpoints, and says which file of one is gone."""
    path = sorted((run_dir / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    path.unlink()
    status, said = rerun(run_dir)
    assert status == 0 and f"note: {path} is missing" in said


def test_lost_inputs_are_refused(tmp_path: Path) -> None:
    """Stars and a model that the run did not make are named where a file of theirs is missing."""
    stars, model = make_catalog(tmp_path / "stars"), make_random_model(tmp_path / "model", tmp_path / "stars")
    catalog, encode = {"path": str(stars), "source": None}, {"model": str(model)}
    config = write_config(tmp_path, catalog=catalog, encode=encode, cluster=ALONE)
    assert hpc_ae("run", config).returncode == 0
    for path in (stars / "shard-00002.h5", model / "model.safetensors"):
        path.rename(tmp_path / "away")
        done = hpc_ae("run", config)
        assert done.returncode == 1 and f"cannot be made again here\n  where:    {path}" in done.stderr, done.stderr
        (tmp_path / "away").rename(path)
    assert hpc_ae("run", config).returncode == 0


@pytest.mark.parametrize("raw_is_there", [pytest.param(True, marks=pytest.mark.slow), False])
def test_lost_shard_of_an_ingest(tmp_path: Path, raw_is_there: bool) -> None:
    """A shard of raw files is made of them again; without them it is named, and the rest of the catalog stays."""
    raw = tmp_path / "raw.csv"
    magnitudes = [",".join(f"{19 - band + number % (7 + band) / 9:.3f}" for band in range(5)) for number in range(2000)]
    rows = "".join(f"{number + 1},1,2,{text}\n" for number, text in enumerate(magnitudes))
    raw.write_text("objid,ra,dec,u,g,r,i,z\n" + rows)
    catalog = {"source": {"raw": [str(raw)]}, "shard_rows": 500}
    config = write_config(tmp_path, catalog=catalog, cluster=ALONE)
    assert hpc_ae("run", config).returncode == 0
    lost = tmp_path / "run" / "catalog" / "shard-00003.h5"
    digest = digest_file(lost)
    lost.unlink()
    if not raw_is_there:
        raw.unlink()
    done = hpc_ae("run", config)
    assert done.returncode == (0 if raw_is_there else 1), done.stderr
    if raw_is_there:
        assert digest_file(lost) == digest and hpc_ae("verify", tmp_path / "run").returncode == 0
    else:
        assert str(lost) in done.stderr and (tmp_path / "run" / "catalog" / "manifest.json").exists()
