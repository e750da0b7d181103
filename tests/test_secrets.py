"""Files that are made to be shared hold no value of a job's environment, of its shell lines or of a token."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import hpc_ae
from sky_server import Sky, make_rows, serve, unavailable

from hpc_ae.secrets import shared_text, shared_words

SECRETS = ("hunter2-in-the-file", "hunter2-in-a-line", "hunter2-in-an-override")
CONFIG = """
run_dir: {run_dir}
catalog: {{source: {{simulate: {{stars: 2000}}}}}}
train: {{epochs: 1, batch_size: 64, partitions: 8}}
cluster:
  ranks_per_node: 1
  environment: {{API_TOKEN: hunter2-in-the-file}}
  setup: ["export PASSWORD=hunter2-in-a-line"]
"""


def test_shared_files_of_a_run_hold_no_secret(tmp_path: Path) -> None:
    """Report, manifests, model: the names of variables are there, their values in config.yaml and jobs/ alone."""
    run_dir = tmp_path / "run"
    (tmp_path / "run.yaml").write_text(CONFIG.format(run_dir=run_dir))
    done = hpc_ae("run", tmp_path / "run.yaml", "cluster.environment.MORE=hunter2-in-an-override")
    assert done.returncode == 0, done.stderr
    private = (run_dir / "config.yaml").read_text()
    assert all(secret in private for secret in SECRETS)
    texts = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    shared = {
        path: text for path, text in texts.items() if path.relative_to(run_dir).parts[0] not in ("config.yaml", "jobs")
    }
    assert not [path for path, text in shared.items() if b"hunter2" in text]
    naming = {path.name for path, text in shared.items() if b"API_TOKEN" in text}
    assert {"model.json", "manifest.json", "index.html"} <= naming
    assert b"cluster.environment.MORE=(not shown)" in shared[run_dir / "encoding" / "manifest.json"]


@pytest.mark.parametrize(
    "word", ["cluster.environment={A: hunter2}", "cluster.setup=[hunter2]", "cluster={x: hunter2}"]
)
def test_commands_are_recorded_without_secrets(word: str) -> None:
    """Overrides of the environment, of shell lines and of the section that holds them lose their values."""
    assert shared_words(["run", "a.yaml", word, "seed=1"]) == [
        "run",
        "a.yaml",
        f"{word.split('=')[0]}=(not shown)",
        "seed=1",
    ]


def test_addresses_are_recorded_without_secrets() -> None:
    """Parameters that are called like secrets and a user's password lose their values; all others stay."""
    url = "https://me:hunter2@host/x?release=dr18&access_token=hunter2&Signature=hunter2&n=1#part"
    hidden = "(not shown)"
    assert shared_text(url) == (
        f"https://{hidden}@host/x?release=dr18&access_token={hidden}&Signature={hidden}&n=1#part"
    )
    plain = "https://host/SqlSearch?cmd=SELECT+a&format=csv"
    assert shared_text(plain) == plain


def test_fetch_keeps_a_token_to_itself(tmp_path: Path) -> None:
    """A token of --url reaches the server, and neither the record beside the file nor any message."""
    with serve(Sky(make_rows(200))) as sky:
        words = ("fetch", tmp_path / "stars.csv", "--stars", 200, "--url", f"{sky.url}?token=hunter2", "--pause", 0)
        sky.every = unavailable("0")
        failed = hpc_ae(*words, "--retries", 0)
        sky.every = None
        done = hpc_ae(*words)
        asked = [request.path for request in sky.requests]
    assert failed.returncode == 1 and done.returncode == 0, done.stderr
    assert all("token=hunter2" in path for path in asked)
    said = failed.stdout + failed.stderr + done.stdout + done.stderr
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "hunter2" not in said and "hunter2" not in written and "token=(not shown)" in written
