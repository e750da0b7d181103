"""The sections of a config: every key with its type, default, limits and meaning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from hpc_ae.reading import OPTIONS, Option, Reading


def _path_text(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("a path is one line of printable characters")
    return value


Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PathText = Annotated[str, AfterValidator(_path_text)]


class Section(BaseModel):
    """A part of the config; keys that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("YAML reads yes, no, on, off, true and false as a truth value, which is not valid here")
        return value


class Simulate(Section):
    """Simulated stars of realistic SDSS photometry."""

    stars: Count = Field(200_000, description="number of stars")
    bad_rows: Fraction = Field(0.0, description="fraction of stars with a band set to -9999")
    observed: bool = Field(False, description="stars whose noiseless magnitudes simulate_observed gives")


class _Files(Section):
    simulate: Simulate | None = Field(None, description="simulate the stars")
    raw: list[PathText] | None = Field(None, description="raw files to ingest; may have * wildcards")
    columns: dict[str, str] = Field({}, description="name=column if the automatic mapping is wrong")


def _key_of(option: Option) -> tuple[Any, Any]:
    """The type and the field of the key that an option of `Reading` has in a config."""
    description = option.told.description
    if option.told.commas:
        return option.item | list[option.item] | None, Field(None, description=description)  # type: ignore[name-defined]
    if option.item is not None:
        return list[option.item], Field(list(option.default), description=description)  # type: ignore[name-defined]
    return option.type, Field(option.default, description=description)


if TYPE_CHECKING:
    _SourceKeys = _Files
else:
    _SourceKeys = create_model(
        "_SourceKeys", __base__=_Files, __module__=__name__, **{option.name: _key_of(option) for option in OPTIONS}
    )


class Source(_SourceKeys):
    """How to make the star catalog when it is not there yet: `simulate` or `raw`."""

    @model_validator(mode="after")
    def _one_of(self) -> Source:
        if (self.simulate is None) == (not self.raw):
            raise ValueError("set either simulate or raw")
        return self

    @property
    def reading(self) -> Reading:
        """How the raw files are to be read."""
        return Reading.of({option.name: getattr(self, option.name) for option in OPTIONS})


class CatalogSection(Section):
    """The star catalog."""

    path: PathText | None = Field(None, description="a star catalog; null: RUN_DIR/catalog")
    source: Source | None = Field(None, description="how to make it when it is not there yet")
    shard_rows: int = Field(500_000, ge=1, le=4_000_000, description="stars in one shard")
    bad: Literal["flag", "drop", "stop"] = Field("flag", description="what to do with unusable rows of raw files")
    order: Literal["input", "healpix"] = Field(
        "input", description="of the stars of raw files: as they come, or by their place in the sky (for query --cone)"
    )

    @model_validator(mode="after")
    def _order_of_raw_files(self) -> CatalogSection:
        if self.order != "input" and self.source and self.source.simulate:
            raise ValueError("order is for raw files; hpc-ae order sorts a simulated catalog")
        return self


class Divide(Section):
    """Network input = magnitude / divide."""

    divide: float = Field(gt=0.0, description="what magnitudes are divided by, in mag")


class Standardize(Section):
    """Network input = (magnitude - mean) / std with given numbers."""

    mean: list[float] = Field(description="per band, in mag")
    std: list[Annotated[float, Field(gt=0.0)]] = Field(description="per band, in mag")


MIN_MASKED_BANDS = 3


class ModelSection(Section):
    """The autoencoder."""

    hidden: list[Count] = Field([40, 40, 40, 40], min_length=1, description="widths of the encoder's hidden layers")
    latent: Count = Field(2, description="latent dimensions")
    scaling: Literal["standardize"] | Divide | Standardize = Field(
        "standardize", description="standardize (mean and std of the catalog's good stars), {divide: 20} or {mean, std}"
    )
    missing: Literal["refuse", "mask"] = Field(
        "refuse",
        description="stars that lack a band: refuse (no latent), or mask (the network sees which bands there are)",
    )
    min_bands: int = Field(
        MIN_MASKED_BANDS, ge=1, le=60, description="with mask: a star with fewer measured bands has no latent"
    )

    @property
    def masked(self) -> bool:
        """Whether the network sees which bands are measured."""
        return self.missing == "mask"


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
    noise: Literal["none", "catalog", "pairs"] | Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        "none",
        description="added to what the network sees, not to what it is to answer: none, catalog (drawn from each "
        "star's own errors), pairs (the same, and taken off what it is to answer), or a standard deviation in mag",
    )
    hide_bands: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="with model.missing mask: how often a star of a batch has measured bands hidden",
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
    def needs_errors(self) -> bool:
        """Whether training reads the stars' magnitude errors beside their magnitudes."""
        return self.noise in ("catalog", "pairs")

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
    uncertainty: bool = Field(False, description="write the uncertainty of the reconstruction, 20 bytes a star")
    model: PathText | None = Field(None, description="a model directory; null: RUN_DIR/model")
    compute: Literal["auto", "fused", "torch"] = Field(
        "auto", description="fused: our kernel (CPU); auto: fused on CPUs"
    )

    @model_validator(mode="after")
    def _of_a_reconstruction(self) -> EncodeSection:
        if self.uncertainty and not self.reconstruction:
            raise ValueError("uncertainty is that of the reconstruction: it needs reconstruction: true")
        return self


class PostprocessSection(Section):
    """Scores, maps, anomalies and the report."""

    anomalies: Count = Field(1000, description="how many of the strangest stars are listed")
    compare: PathText | None = Field(
        None, description="another encoding of these stars: how its latents differ; null: nothing is compared"
    )
