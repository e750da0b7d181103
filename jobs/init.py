"""What the config model says of itself: a commented starting config, a page on every key, a JSON Schema."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from hpc_ae.cluster import Resources
from hpc_ae.config import RunConfig, check_config, known_keys
from hpc_ae.errors import InputError
from hpc_ae.files import publish_bytes
from hpc_ae.sections import Source
from hpc_ae.yaml_loader import parse_yaml

_COMMENT_COLUMN = 44
# What a stage may ask for is what `cluster` may: the page says it once.
_REPEATED = re.compile(rf"cluster\.stages\.\w+\.({'|'.join(Resources.model_fields)})")
_START: dict[str, Any] = {"run_dir": "runs/mine", "catalog": {"source": {"simulate": {"stars": 200_000}}}}
_NOT_SHOWN = tuple(
    name for name in Source.model_fields if name != "simulate"
)  # the other way to make a catalog stands beside it as a comment
_RAW = (
    '    # raw: ["survey/*.parquet"]             # instead of simulate: CSV, FITS, Parquet, ...; * wildcards\n'
    "    # columns: {u: psfMag_u}                # with raw: name=column if the automatic mapping is wrong\n"
    "    # keep: [clean=1, 'r<20']               # with raw: conditions on rows; more in docs/columns.md\n"
)


def site_names() -> list[str]:
    """The site profiles that ship with the package."""
    folder = resources.files("hpc_ae").joinpath("configs/sites")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_site(name: str) -> tuple[str, dict[str, Any]]:
    """The comments at the top of a site profile, and its values; InputError names the sites that there are."""
    if name not in site_names():
        raise InputError("no such site", where="--site", got=name, expected=", ".join(site_names()))
    text = resources.files("hpc_ae").joinpath("configs/sites").joinpath(f"{name}.yaml").read_text()
    comments = "".join(line + "\n" for line in text.splitlines() if line.startswith("#"))
    return comments, parse_yaml(text, Path(f"{name}.yaml"))


def starting_config(site: str | None = None) -> str:
    """A whole config with every key, its default or the site's value, and what it means."""
    comments, values = read_site(site) if site else ("", {})
    check_config({**_START, **values}, site or "defaults")  # a profile that is wrong is found here
    head = "# Every key with its value and meaning; what you leave out keeps its default.\n"
    return head + comments + "".join(_lines(RunConfig, {**_START, **values}, 0))


def _lines(section: type[BaseModel], values: dict[str, Any], depth: int) -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        if name in _NOT_SHOWN:
            continue
        if name == "stages":  # one line, as it may say much about little
            found.append(_commented(f"{'  ' * depth}stages: {_flow(values.get(name, {}))}", field.description or ""))
            continue
        kind = _section_of(field.annotation)
        given = values.get(name)
        if kind is not None and (isinstance(given, dict) or not _may_be_null(field)):
            found += [f"{'  ' * depth}{name}:\n", *_lines(kind, given or {}, depth + 1)]
            found += [_RAW] if name == "source" else []
            continue
        value = values.get(name, field.get_default())
        found.append(_commented(f"{'  ' * depth}{name}: {_flow(value)}", field.description or ""))
    return found


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds; None for a plain value, and for model.scaling, which is mostly a word."""
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sections[0] if len(sections) == 1 else None


def _may_be_null(field: Any) -> bool:
    return type(None) in getattr(field.annotation, "__args__", ())


def _flow(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _commented(line: str, comment: str) -> str:
    return f"{line:<{_COMMENT_COLUMN - 2}}  # {comment}\n"


def write_starting_config(path: Path, site: str | None) -> None:
    """Write a starting config; InputError where the file already exists."""
    if path.exists():
        raise InputError("the file already exists", where=path, fix="choose another name with --out, or remove it")
    publish_bytes(path, starting_config(site).encode())


def config_page() -> str:
    """docs/config.md: every key, its default and its meaning."""
    rows = []
    for key, field in known_keys().items():
        if _REPEATED.fullmatch(key):
            continue
        if _section_of(field.annotation) is not None:
            rows.append(f"| **{key}** | | {field.description or ''} |")
            continue
        default = "required" if field.is_required() else f"`{_flow(field.get_default())}`"
        rows.append(f"| `{key}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |")
    head = (
        "# Every key of a config\n\nMade from the config model by `hpc-ae init --page`; a test keeps it true.\n\n"
        "| key | default | meaning |\n|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def config_schema() -> str:
    """configs/schema.json: the JSON Schema of a config, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=1) + "\n"
