"""The pipeline on a real Slurm of two nodes: the same results as on one machine, and errors that come through."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import PASSED_ON, await_sign, command, environment, hpc_ae, write_config
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae import open_catalog
from hpc_ae.files import digest_file, read_json
from hpc_ae.simulate import SimulateSettings, simulate

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600), pytest.mark.usefixtures("no_jobs_left")]
SLURM = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:10:00", "mpi": "pmi2"}
AFTER_CATALOG = ("train", "encode", "finalise", "postprocess")
FLOATS = ("latent", "reconstruction_error", "reconstruction", "chi2")


@pytest.fixture(scope="module")
def star_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog of 3,000 stars in three shards."""
    directory = tmp_path_factory.mktemp("stars") / "catalog"
    simulate(directory, SimulateSettings(3000, shard_rows=1000))
    return directory


def submitted(text: str) -> dict[str, int]:
    """Job number by stage, as `run` prints them."""
    return {stage: int(number) for number, stage in re.findall(r"^Submitted batch job (\d+) \((\w+)\)$", text, re.M)}


@pytest.mark.mpi
def test_same_as_on_one_machine(slurm: SlurmCluster, mpiexec: str, tmp_path: Path) -> None:
    """One config over two nodes and as two local ranks: the same catalog, model and encoding, bit for bit.

    The run directory on Slurm has spaces in its path.
    """
    spaced = tmp_path / "on two nodes" / "a run"
    spaced.parent.mkdir()
    on_slurm = write_config(tmp_path, "slurm.yaml", run_dir=str(spaced), cluster=SLURM)
    done = hpc_ae("run", on_slurm, timeout=400, **slurm.environment())
    assert done.returncode == 0, done.stderr + done.stdout
    assert list(submitted(done.stdout)) == ["simulate", "train", "encode", "finalise", "postprocess"]
    here = hpc_ae("run", write_config(tmp_path), "cluster.ranks_per_node=2")
    assert here.returncode == 0, here.stderr
    assert hpc_ae("verify", spaced).returncode == 0
    both = [spaced, tmp_path / "run"]
    for name in ("catalog/shard-00001.h5", "model/model.safetensors"):
        assert len({digest_file(run_dir / name) for run_dir in both}) == 1, f"{name}: {differences(*both)}"
    slurm_side, local_side = (open_catalog(run_dir / "encoding") for run_dir in both)
    for name in ("objid", "quality", *FLOATS):
        ours, theirs = np.asarray(slurm_side[name][:]), np.asarray(local_side[name][:])
        assert ours.tobytes() == theirs.tobytes(), f"{name}: {np.nanmax(np.abs(ours - theirs))}"
    assert (spaced / "report" / "summary.json").exists()


def differences(first: Path, second: Path) -> str:
    """By how much the latents of two runs differ, for an error message."""
    with h5py.File(first / "encoding" / "encoding.h5") as one, h5py.File(second / "encoding" / "encoding.h5") as two:
        return f"latents differ by up to {np.nanmax(np.abs(one['latent'][:] - two['latent'][:]))}"


def test_scripts_ask_for_what_the_config_says(slurm: SlurmCluster, tmp_path: Path) -> None:
    """The batch scripts end a step at its first bad rank, and have the resources and dependencies of their stages."""
    config = write_config(tmp_path, cluster={**SLURM, "partition": "short", "setup": ["true"]})
    done = hpc_ae("run", config, "--dry-run", **slurm.environment())
    assert done.returncode == 0, done.stderr
    stages = "simulate|train|encode|finalise|postprocess"
    scripts = re.split(rf"^# (?=(?:{stages})\b)", done.stdout, flags=re.MULTILINE)[1:]
    assert len(scripts) == 5
    for script in scripts:
        assert "srun --unbuffered" in script and "--kill-on-bad-exit=1" in script
        assert "#SBATCH --partition=short" in script and "#SBATCH --requeue" in script
        assert ("#SBATCH --nodes=2" in script) == (not script.startswith("finalise"))
        assert ("--mpi=pmi2" in script) == script.startswith(("simulate", "postprocess"))
        assert ("--dependency=afterok:" in script) == (not script.startswith("simulate"))
    assert slurm.queue() == []


def test_rank_killed_on_a_node(slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """A rank that is killed on one node ends the job on both within seconds, and the run with status 1."""
    train = {"steps": 100_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 100}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train, cluster=SLURM)
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        command("run", config),
        env=environment(**slurm.environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await_sign(lambda: any(run_dir.glob("checkpoints/step-*")), process)
        [marker] = (run_dir / "jobs" / "state").glob("train-*/rank-00001.json")
        os.kill(read_json(marker)["pid"], signal.SIGKILL)
        killed = time.monotonic()
        job_id = read_json(run_dir / "jobs" / "state" / "train.json")["job_id"]
        assert slurm.wait(int(job_id), timeout=30) in ("FAILED", "CANCELLED")
        assert time.monotonic() - killed < 60
        printed, text = process.communicate(timeout=150)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, text
    assert "train" in text and "Traceback" not in text
    assert time.monotonic() - killed < 120, text
    assert wait_until(lambda: slurm.queue() == [], timeout=20)
    states = [slurm.state(number) for number in list(submitted(printed).values())[1:]]
    assert set(states) == {"CANCELLED"}


def test_failing_stage_gives_its_message(slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """Training on fewer stars than a batch is status 2 with its message; what depends on it never starts."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster=SLURM)
    done = hpc_ae("run", config, "train.batch_size=8000", **slurm.environment())
    assert done.returncode == 2, done.stderr
    assert "train failed: fewer training stars than one batch" in done.stderr
    assert "at least 8000" in done.stderr and "Traceback" not in done.stderr
    jobs = submitted(done.stdout)
    assert wait_until(lambda: slurm.queue() == [], timeout=20)
    assert {slurm.state(jobs[stage]) for stage in ("encode", "finalise", "postprocess")} == {"CANCELLED"}
    started = (tmp_path / "run" / "jobs" / "state").glob("*/rank-*.json")
    assert {path.parent.name.partition("-")[0] for path in started} == {"train"}


def test_partition_that_does_not_exist(any_slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """A partition that Slurm does not know is status 2 with Slurm's own message, and nothing is in the queue."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster=SLURM)
    done = hpc_ae("run", config, "cluster.partition=nowhere", **any_slurm.environment())
    assert done.returncode == 2, done.stderr
    assert "invalid partition specified: nowhere" in done.stderr and "Traceback" not in done.stderr
    assert any_slurm.queue() == []


def test_half_a_chain_is_taken_back(slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """Where a later job of a chain is not accepted, the earlier ones are cancelled."""
    fake = tmp_path / "bin"
    fake.mkdir()
    script = "#!/bin/sh\nfor last; do :; done\n"
    script += 'grep -q hpc-ae-finalise "$last" && { echo "sbatch: error: enough" >&2; exit 1; }\n'
    (fake / "sbatch").write_text(script + f'exec {slurm.run("which", "sbatch").strip()} "$@"\n')
    (fake / "sbatch").chmod(0o755)
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster=SLURM)
    variables = slurm.environment()
    done = hpc_ae("run", config, **{**variables, "PATH": f"{fake}{os.pathsep}{variables['PATH']}"})
    assert done.returncode == 2, done.stderr
    assert "the finalise job was not accepted" in done.stderr and "enough" in done.stderr
    assert wait_until(lambda: slurm.queue() == [], timeout=20)


ANSWERS = {
    "time-out": 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv" >&2; exit 1',
    "silence": "exit 0",
    "words": 'echo "accepted, thank you"; exit 0',
    "killed": "kill -9 $$",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_sbatch_that_accepts_and_says_otherwise(
    slurm: SlurmCluster, star_dir: Path, tmp_path: Path, answer: str
) -> None:
    """A job that sbatch has handed in without giving its number is found by its script, and taken back, with the jobs
    before it and no other.
    """
    other = slurm.submit("true", "--begin=now+3600", "--job-name=hpc-ae-encode")
    fake = tmp_path / "bin"
    fake.mkdir()
    script = "#!/bin/bash\nfor last; do :; done\n"
    script += f'sent=$({slurm.run("which", "sbatch").strip()} "$@") || exit 1\n'
    script += f'grep -q hpc-ae-encode "$last" && {{ {ANSWERS[answer]}; }}\necho "$sent"\n'
    (fake / "sbatch").write_text(script)
    (fake / "sbatch").chmod(0o755)
    cluster = {**SLURM, "sbatch": {"begin": "now+3600"}}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster=cluster)
    variables = slurm.environment()
    done = hpc_ae("run", config, "--no-wait", **{**variables, "PATH": f"{fake}{os.pathsep}{variables['PATH']}"})
    assert done.returncode == 2, done.stderr
    assert "the encode job was not accepted" in done.stderr and "Traceback" not in done.stderr
    assert re.search(r"it was queued all the same, as job \d+, and is taken back", done.stderr), done.stderr
    assert wait_until(lambda: slurm.queue() == [str(other)], timeout=20), slurm.queue()
    again = hpc_ae("run", config, "--no-wait", **variables)
    assert again.returncode == 0 and len(submitted(again.stdout)) == 4


@pytest.mark.parametrize("any_slurm", ["plain", pytest.param("accounting", marks=pytest.mark.slow)], indirect=True)
def test_no_wait_from_inside_another_job(any_slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """Submitted from inside a job, with its SLURM_* variables set, `--no-wait` prints the jobs and they complete."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster=SLURM)
    words = " ".join(f"'{word}'" for word in command("run", config, "--no-wait"))
    exports = "\n".join(f"export {name}='{environment()[name]}'" for name in PASSED_ON)
    outer = any_slurm.submit(f"{exports}\n{words}", "--nodes=1", "--ntasks=3", "--mem=100")
    assert any_slurm.wait(outer, timeout=60) == "COMPLETED", any_slurm.output(outer)
    jobs = submitted(any_slurm.output(outer))
    assert list(jobs) == ["train", "encode", "finalise", "postprocess"]
    assert any_slurm.wait(jobs["postprocess"], timeout=120) == "COMPLETED", any_slurm.output(outer)
    assert "NumNodes=2" in any_slurm.run("scontrol", "show", "job", str(jobs["train"]))
    again = hpc_ae("run", config, "cluster.kind=local")
    assert again.returncode == 0, again.stderr
    assert "already done: train, encode, finalise" in again.stderr


def test_interrupt_leaves_the_jobs(slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """Ctrl-C while waiting is status 130; the jobs go on and are named."""
    train = {"steps": 100_000, "batch_size": 64, "partitions": 8}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train, cluster=SLURM)
    process = subprocess.Popen(
        command("run", config),
        env=environment(**slurm.environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    records = [tmp_path / "run" / "jobs" / "state" / f"{stage}.json" for stage in AFTER_CATALOG]
    await_sign(lambda: all(path.exists() for path in records), process)
    jobs = [read_json(path)["job_id"] for path in records]
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=150)
    assert process.returncode == 130, text
    assert "scancel " + " ".join(jobs) in text
    assert set(slurm.queue()) == set(jobs)


def test_scancel_is_not_answered_with_a_requeue(slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """A training that is cancelled saves its work and stays cancelled; nothing after it starts."""
    train = {"steps": 100_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 100}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train, cluster=SLURM)
    done = hpc_ae("run", config, "--no-wait", **slurm.environment())
    assert done.returncode == 0, done.stderr
    jobs = submitted(done.stdout)
    assert wait_until(lambda: len(list((tmp_path / "run").glob("checkpoints/step-*"))) > 0, timeout=150)
    slurm.run("scancel", str(jobs["train"]))
    assert wait_until(lambda: slurm.queue() == [], timeout=20)
    assert {slurm.state(number) for number in jobs.values()} == {"CANCELLED"}
    assert slurm.restarts(jobs["train"]) == 0


@pytest.mark.mpi
def test_failing_mpi_stage_gives_its_message(slurm: SlurmCluster, mpiexec: str, tmp_path: Path) -> None:
    """An error in a task of an MPI stage comes through with its status; what depends on it never starts."""
    raw = tmp_path / "raw.csv"
    raw.write_text("objid,ra,dec,u,g,r,i,z\n" + "1,2,3,19,18,17,16,15\n" * 50 + "1,2,3,19,18,17,16,bright\n")
    config = write_config(tmp_path, catalog={"source": {"raw": [str(raw)]}}, cluster=SLURM)
    done = hpc_ae("run", config, **slurm.environment())
    assert done.returncode == 2, done.stderr
    assert "ingest failed: " in done.stderr and "bright" in done.stderr and "Traceback" not in done.stderr
    assert wait_until(lambda: slurm.queue() == [], timeout=20)
    assert {slurm.state(number) for stage, number in submitted(done.stdout).items() if stage != "ingest"} == {
        "CANCELLED"
    }
