"""`init`: starting configs that pass `check`, and the page and the schema that the config model gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import REPOSITORY, hpc_ae

from hpc_ae.cluster import Resources
from hpc_ae.config import RunConfig, check_config, known_keys, load_config
from hpc_ae.jobs.init import config_page, config_schema, read_site, site_names, starting_config
from hpc_ae.yaml_loader import parse_yaml


@pytest.mark.parametrize("site", [None, *site_names()])
def test_starting_config_is_whole_and_right(site: str | None, tmp_path: Path) -> None:
    """It loads, has the site's values, the defaults elsewhere, and names every key of its sections with a comment."""
    path = tmp_path / "hpc_ae.yaml"
    path.write_text(starting_config(site))
    config = load_config(path).model_dump()
    plain = {"run_dir": "runs/mine", "catalog": {"source": {"simulate": {"stars": 200_000}}}}
    assert config == check_config({**plain, **(read_site(site)[1] if site else {})}, "test").model_dump()
    lines = path.read_text().splitlines()
    assert all("#" in line for line in lines if line.strip() and not line.rstrip().endswith(":"))
    for section in ("train", "encode", "cluster", "postprocess"):
        written = parse_yaml(path.read_text(), path)[section]
        assert set(written) == set(RunConfig.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]


def test_init_command(tmp_path: Path) -> None:
    """It writes the file, `check` takes it, a second call does not overwrite it, an unknown site lists the known."""
    path = tmp_path / "my run.yaml"
    assert hpc_ae("init", "--site", "cpu", "--out", path).returncode == 0
    assert hpc_ae("check", path).returncode == 0
    before = path.read_bytes()
    again = hpc_ae("init", "--out", path)
    assert again.returncode == 2 and "--out" in again.stderr and path.read_bytes() == before
    unknown = hpc_ae("init", "--site", "atlantis", "--out", tmp_path / "x.yaml")
    assert unknown.returncode == 2 and "perlmutter" in unknown.stderr and not (tmp_path / "x.yaml").exists()


def test_dry_run_of_every_site(tmp_path: Path) -> None:
    """Each profile gives batch scripts, without Slurm on this machine."""
    for site in site_names():
        path = tmp_path / f"{site}.yaml"
        path.write_text(starting_config(site))
        done = hpc_ae("run", path, f"run_dir={tmp_path / site}", "--dry-run")
        assert done.returncode == 0 and done.stdout.count("#!/bin/bash") == 5, done.stderr


@pytest.mark.parametrize(("name", "made"), [("docs/config.md", config_page), ("configs/schema.json", config_schema)])
def test_made_files_are_true(name: str, made: Any) -> None:
    """The page and the schema are those of the config model; `hpc-ae init --page` or `--schema` makes them again."""
    assert (REPOSITORY / name).read_text() == made()


def test_every_key_is_described() -> None:
    """Each key of the config has a description, which the page and the schema carry."""
    schema = config_schema()
    for key, field in known_keys().items():
        assert field.description, key
        assert json.dumps(field.description) in schema
        section, _, name = key.rpartition(".")
        told_once = section.startswith("cluster.stages.") and name in Resources.model_fields
        assert (f"cluster.{name}`" if told_once else key) in config_page(), key
