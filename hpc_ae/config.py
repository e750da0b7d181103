"""The config of a run: what a YAML file may say, its defaults, and the errors for what it may not.

`load_config(path, overrides)` is the one way in. Every key has a default but the run directory and a catalog.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from hpc_ae.cluster import ClusterSection
from hpc_ae.errors import InputError
from hpc_ae.files import digest_bytes
from hpc_ae.layout import RunLayout
from hpc_ae.secrets import shared_config
from hpc_ae.sections import (
    CatalogSection,
    Divide,
    EncodeSection,
    ModelSection,
    PathText,
    PostprocessSection,
    Section,
    Standardize,
    TrainSection,
)
from hpc_ae.yaml_loader import apply_override, parse_yaml

_PATH_KEYS = ("run_dir", "catalog.path", "encode.model", "postprocess.compare")
_SCALING, _LITERAL = ["model", "scaling"], "literal['standardize']"
_MOST_BYTES = 1 << 22
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class RunConfig(Section):
    """A whole run."""

    run_dir: PathText = Field(description="the directory that the run writes to")
    seed: int = Field(1, ge=0, lt=2**32, description="of everything random")
    catalog: CatalogSection = Field(CatalogSection(), description="the star catalog")
    model: ModelSection = Field(ModelSection(), description="the autoencoder")
    train: TrainSection = Field(TrainSection(), description="training")
    encode: EncodeSection = Field(EncodeSection(), description="encoding")
    postprocess: PostprocessSection = Field(PostprocessSection(), description="what follows")
    cluster: ClusterSection = Field(ClusterSection(), description="where it runs")

    @field_validator("run_dir")
    @classmethod
    def _no_pattern(cls, value: str) -> str:
        if "%" in value:
            raise ValueError("a run_dir has no %: Slurm and submitit replace %j, %t and the like in the paths of logs")
        if "\\" in value:
            raise ValueError("a run_dir has no backslash: Slurm takes it out of the paths of logs")
        return value

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return Path(self.run_dir)

    @property
    def shared(self) -> dict[str, Any]:
        """The values as files say them that are made to be shared."""
        return shared_config(self.model_dump(mode="json"))

    @property
    def layout(self) -> RunLayout:
        """The files of the run directory."""
        return RunLayout(self.run_path)

    @property
    def catalog_path(self) -> Path:
        """The star catalog."""
        return Path(self.catalog.path) if self.catalog.path else self.layout.catalog_dir

    @property
    def model_path(self) -> Path:
        """The model that encode uses."""
        return Path(self.encode.model) if self.encode.model else self.layout.model_dir

    @property
    def encoding_path(self) -> Path:
        """The encoding catalog."""
        return self.layout.encoding_dir


def load_config(path: Path, overrides: list[str] | None = None, *, digest: str | None = None) -> RunConfig:
    """Read a config, apply `section.key=value` overrides, and return it with absolute paths.

    InputError (exit status 2) names the file, the key, what was found, and the nearest valid keys; it also says where
    the file is not the one of this `digest`.
    """
    try:
        text = _read_text(path, digest)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read the config: {reason}", where=path, fix="configs/quickstart.yaml is one to start from"
        ) from error
    values = parse_yaml(text, path)
    if not isinstance(values, dict):
        raise InputError(
            "the config is not a set of keys", where=path, got=type(values).__name__, expected="run_dir: ..."
        )
    for override in overrides or []:
        apply_override(values, override)
    return check_config(values, path)


def _read_text(path: Path, digest: str | None) -> str:
    """The text of a config, which may come through a pipe; OSError where it does not end."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {_MOST_BYTES:,} bytes")
    if digest is not None and digest_bytes(data) != digest:
        raise InputError(
            "the config of this job was replaced after the job was submitted",
            where=path,
            got=digest_bytes(data),
            expected=digest,
            fix="find out who can write there; the same command submits the stage again",
        )
    return data.decode("utf-8")


def check_config(values: dict[str, Any], where: object) -> RunConfig:
    """Validate the values of a config and make its paths absolute."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where) from None
    return RunConfig.model_validate(_absolute(config.model_dump()))


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    for dotted in _PATH_KEYS:
        *sections, last = dotted.split(".")
        section = values
        for name in sections:
            section = section[name]
        if section[last] is not None:
            section[last] = _absolute_path(section[last], dotted)
    source = values["catalog"]["source"]
    if source and source["raw"]:
        source["raw"] = [_absolute_path(name, "catalog.source.raw") for name in source["raw"]]
    return values


def _absolute_path(text: str, key: str) -> str:
    """A path with ~ and the environment's ${NAME} and ${NAME:-default} filled in; relative to the working directory."""

    def value_of(found: re.Match[str]) -> str:
        name, default = found.groups()
        value = os.environ.get(name) or default
        if not value or not value.isprintable():
            raise InputError(
                f"the environment variable {name} is not set",
                where=f"key {key}",
                got=text,
                fix=f"export {name}=..., or give a default: ${{{name}:-runs}}",
            )
        return value

    return str(Path(_VARIABLE.sub(value_of, text)).expanduser().absolute())


def _explain(error: ValidationError, where: object) -> InputError:
    """One error for all problems; got, expected and what to do are those of the first."""
    problems = _of_one_scaling(error.errors())
    keys = [".".join(parts) for parts, _ in problems]
    lines = [_describe(parts, problem) for parts, problem in problems]
    return InputError(
        "the config is wrong: " + "; ".join(dict.fromkeys(lines)),
        where=f"{where}, key {keys[0]}",
        **_way_out(keys[0], problems[0][1]),
    )


def _of_one_scaling(problems: Sequence[Any]) -> list[tuple[list[str], Any]]:
    """Each problem with the parts of its key; of the kinds of model.scaling only the one whose keys were given."""
    kept = []
    for problem in problems:
        loc = [str(part) for part in problem["loc"]]
        if loc[:2] == _SCALING and len(loc) > 2:
            if loc[2] != _scaling_kind(problems):
                continue
            del loc[2]
        kept.append((loc, problem))
    return kept


def _scaling_kind(problems: Sequence[Any]) -> str:
    """What pydantic calls the kind of scaling that was meant: it tries all, the literal with the whole value."""
    given = next((one["input"] for one in problems if one["loc"] == (*_SCALING, _LITERAL)), None)
    if not isinstance(given, dict):
        return _LITERAL
    kinds: tuple[type[Section], ...] = (Divide, Standardize)
    return max(kinds, key=lambda kind: len(kind.model_fields.keys() & given.keys())).__name__


def _describe(parts: list[str], problem: Any) -> str:
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        if key in known_keys():
            return f"{key} does not go with the other keys there"
        return f"unknown key {key}{_nearest(parts)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {_shown(problem['input'])}: {problem['msg'].removeprefix('Value error, ')}"


def _way_out(key: str, problem: Any) -> dict[str, str]:
    """What a problem's error says as got, expected and to do, where pydantic and the key's description give it."""
    field = known_keys().get(re.sub(r"(\.\d+)+$", "", key))
    description = field.description if field else ""
    if problem["type"] == "extra_forbidden":
        return {"got": f"{key} = {_shown(problem['input'])}", "fix": f"correct the key {key}, or remove it"}
    if problem["type"] == "missing":
        return {"expected": description, "fix": f"add {key} to the file, or {key}=VALUE to the command line"}
    wanted = problem["msg"].removeprefix("Input should be ")
    if problem["type"] == "value_error" or problem["loc"] == (*_SCALING, _LITERAL):
        wanted = description
    elif description and problem["type"] != "literal_error":
        wanted = f"{wanted}: {description}"
    return {
        "got": _shown(problem["input"]),
        "expected": wanted,
        "fix": f"correct {key} in the file, or set {key}=VALUE on the command line",
    }


def _shown(value: Any) -> str:
    """A value as an error shows it."""
    return "null" if value is None else repr(value)[:200]


def _nearest(parts: list[str]) -> str:
    """What the user may have meant by an unknown key."""
    known = list(known_keys())
    leaves = {key.rsplit(".", 1)[-1]: key for key in known}
    section = ".".join(parts[:-1])
    siblings = [key for key in known if key.rpartition(".")[0] == section]
    close = difflib.get_close_matches(".".join(parts), known, n=2) or [
        leaves[name] for name in difflib.get_close_matches(parts[-1], leaves, n=2)
    ]
    return (
        f"; did you mean {' or '.join(close)}?" if close else f"; valid here: {', '.join(siblings) or ', '.join(known)}"
    )


def known_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the config with its pydantic field, sections included."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        found[prefix + name] = field
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found.update(known_keys(kind, f"{prefix}{name}."))
    return found


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
