"""The config of a run: what a YAML file may say, its defaults, and the errors for what it may not.

`load_config(path, overrides)` is the one way in. Every key has a default but the run directory and a catalog.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hpc_ae.errors import InputError
from hpc_ae.yaml_loader import apply_override, parse_yaml


def _path_text(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("a path is one line of printable characters")
    return value


Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PathText = Annotated[str, AfterValidator(_path_text)]
_PATH_KEYS = ("run_dir", "catalog.path", "encode.model")
_SCALING, _LITERAL = ["model", "scaling"], "literal['standardize']"


class Section(BaseModel):
    """A part of the config; keys that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("YAML reads yes, no, on, off, true and false as a truth value, which has no place here")
        return value


class Simulate(Section):
    """Simulated stars of realistic SDSS photometry."""

    stars: Count = Field(200_000, description="number of stars")
    bad_rows: Fraction = Field(0.0, description="fraction of stars with a band set to -9999")


class Source(Section):
    """How to make the star catalog when it is not there yet: `simulate` or `raw`."""

    simulate: Simulate | None = Field(None, description="simulate the stars")
    raw: list[PathText] | None = Field(None, description="raw files to ingest; may have * wildcards")
    columns: dict[str, str] = Field({}, description="name=column where the automatic mapping does not do")

    @model_validator(mode="after")
    def _one_of(self) -> Source:
        if (self.simulate is None) == (not self.raw):
            raise ValueError("say either simulate or raw")
        return self


class CatalogSection(Section):
    """The star catalog."""

    path: PathText | None = Field(None, description="a star catalog; null: RUN_DIR/catalog")
    source: Source | None = Field(None, description="how to make it when it is not there yet")
    shard_rows: int = Field(500_000, ge=1, le=4_000_000, description="stars in one shard")
    bad: Literal["flag", "drop", "stop"] = Field("flag", description="what to do with unusable rows of raw files")


class Divide(Section):
    """Network input = magnitude / divide."""

    divide: float = Field(gt=0.0, description="what magnitudes are divided by, in mag")


class Standardize(Section):
    """Network input = (magnitude - mean) / std with given numbers."""

    mean: list[float] = Field(description="per band, in mag")
    std: list[Annotated[float, Field(gt=0.0)]] = Field(description="per band, in mag")


class ModelSection(Section):
    """The autoencoder."""

    hidden: list[Count] = Field([40, 40, 40, 40], min_length=1, description="widths of the encoder's hidden layers")
    latent: Count = Field(2, description="latent dimensions")
    scaling: Literal["standardize"] | Divide | Standardize = Field(
        "standardize", description="standardize (mean and std of the catalog's good stars), {divide: 20} or {mean, std}"
    )


class TrainSection(Section):
    """Training."""

    epochs: Count = Field(50, description="passes over the training stars")
    steps: Count | None = Field(None, description="optimizer steps in all; overrides epochs")
    batch_size: Count = Field(512, description="global batch: stars per optimizer step over all ranks")
    learning_rate: float = Field(4.0e-3, gt=0.0, description="peak learning rate")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="adamw or adam")
    weight_decay: float = Field(1.0e-4, ge=0.0, description="of adamw; adam uses none")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="decay rates of Adam's moments")
    clip_norm: float | None = Field(1.0, gt=0.0, description="largest norm of the gradient, in mag^2; null: no limit")
    schedule: Literal["one_cycle", "constant"] = Field("one_cycle", description="of the learning rate")
    sampling: Literal["shuffle", "replacement"] = Field(
        "shuffle", description="every star once an epoch, or draws with replacement, stratified by partition"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field("float32", description="of matrix products, on GPUs")
    compute: Literal["auto", "fused", "compile", "torch"] = Field(
        "auto", description="fused: our kernel (CPU); compile: torch.compile; auto: fused on CPUs, compile on GPUs"
    )
    partitions: Count = Field(64, description="parts that the training stars are cut into; the most ranks possible")
    validation_fraction: float = Field(0.05, ge=0.0, le=0.5, description="stars held out, by a hash of objid")
    validation_stars: Count = Field(100_000, description="at most this many held-out stars are used")
    validations: Count = Field(25, description="how often the held-out error is measured, evenly over the steps")
    checkpoint_steps: Count = Field(5_000, description="steps between checkpoints")
    checkpoint_seconds: float = Field(300.0, gt=0.0, description="seconds between checkpoints, whichever comes first")
    keep_checkpoints: Count = Field(3, description="newest checkpoints that are kept")
    memory_limit: str | None = Field(
        None, description="of a rank, such as 8G: where its rows do not fit they are streamed; null: resident"
    )
    tensorboard: bool = Field(False, description="write RUN_DIR/tensorboard too (extra `tensorboard`)")

    @field_validator("memory_limit")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,3})?[MGT]", value):
            raise ValueError("expected a size such as 512M, 8G or 1T")
        return value

    @model_validator(mode="after")
    def _can_stream(self) -> TrainSection:
        if self.memory_limit is not None and self.sampling == "replacement":
            raise ValueError("memory_limit needs sampling: shuffle, as draws with replacement cannot be streamed")
        return self

    @property
    def memory_limit_bytes(self) -> float:
        """The limit in bytes; infinite where there is none."""
        if self.memory_limit is None:
            return float("inf")
        factors = {"M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
        return float(self.memory_limit[:-1]) * factors[self.memory_limit[-1]]


class EncodeSection(Section):
    """Encoding."""

    reconstruction: bool = Field(True, description="write the decoder's output, 20 bytes a star")
    model: PathText | None = Field(None, description="a model directory; null: RUN_DIR/model")
    compute: Literal["auto", "fused", "torch"] = Field(
        "auto", description="fused: our kernel (CPU); auto: fused on CPUs"
    )


class PostprocessSection(Section):
    """Summary, anomalies and figures."""

    anomalies: Count = Field(1000, description="how many of the strangest stars are listed")


class ClusterSection(Section):
    """Where the stages run. Values that reach a batch script are restricted to plain words."""

    kind: Literal["local", "slurm"] = Field("local", description="this machine, or Slurm jobs")
    nodes: Count = Field(1, description="nodes of train and encode")
    ranks_per_node: Count | None = Field(
        None, description="processes on each node; null: one per GPU; without GPUs one per core here, but one to train"
    )
    gpus_per_node: int = Field(0, ge=0, description="GPUs on each node")
    cpus_per_task: Count = Field(1, description="cores of each rank")
    mem: str | None = Field(None, description="memory per node, as sbatch --mem takes it: 64G")
    time: str = Field("24:00:00", description="time limit of each job, as sbatch --time takes it (quote it in YAML)")
    partition: str | None = Field(None, description="Slurm partition")
    account: str | None = Field(None, description="Slurm account")
    qos: str | None = Field(None, description="Slurm quality of service")
    constraint: str | None = Field(None, description="Slurm constraint")
    reservation: str | None = Field(None, description="Slurm reservation")
    mpi: str = Field("pmi2", description="srun --mpi of the MPI stages: pmi2 (MPICH), pmix (Open MPI)")
    setup: list[str] = Field([], description="shell lines before srun, such as `module load python`")
    network_interface: str | None = Field(None, description="for Gloo and NCCL; null: by the route to the first node")

    @field_validator(
        "mem", "time", "partition", "account", "qos", "constraint", "reservation", "mpi", "network_interface"
    )
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_.,:&|()\[\]*+@%/-]{1,128}", value):
            raise ValueError("only letters, digits and _.,:&|()[]*+@%/- may stand here")
        return value

    @field_validator("time", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError(f'YAML read this as the number {value}; quote it: time: "24:00:00"')
        return value

    @field_validator("setup")
    @classmethod
    def _one_line(cls, value: list[str]) -> list[str]:
        if any(not line.isprintable() for line in value):
            raise ValueError("each entry is one line of printable characters")
        return value


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

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return Path(self.run_dir)

    @property
    def catalog_path(self) -> Path:
        """The star catalog."""
        return Path(self.catalog.path) if self.catalog.path else self.run_path / "catalog"

    @property
    def model_path(self) -> Path:
        """The model that encode uses."""
        return Path(self.encode.model) if self.encode.model else self.run_path / "model"

    @property
    def encoding_path(self) -> Path:
        """The encoding catalog."""
        return self.run_path / "encoding"


def load_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a config, apply `section.key=value` overrides, and return it with absolute paths.

    InputError (exit status 2) names the file, the key, what was found, and the nearest valid keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
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
            section[last] = str(Path(section[last]).expanduser().absolute())
    source = values["catalog"]["source"]
    if source and source["raw"]:
        source["raw"] = [str(Path(name).expanduser().absolute()) for name in source["raw"]]
    return values


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
        "fix": f"correct {key} in the file, or say {key}=VALUE on the command line",
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
