"""What the page's JSON says, for its script (templates/): the arrays, panels, layers and marks of atlas and sky."""

from __future__ import annotations

from typing import ClassVar

from hpc_ae.record import Record


class Code(Record):
    """How whole numbers stand for values: categories, or steps of an inverse hyperbolic sine about the centre."""

    kind: str  # category or asinh
    centre: float | None = None
    width: float | None = None
    low: float | None = None
    step: float | None = None


class ArrayForm(Record):
    """How the text of an array is read. `divide`: what whole numbers are to be divided by."""

    dtype: str
    shape: tuple[int, ...]
    divide: float | None = None
    code: Code | None = None


class _Element(Record):
    id: str  # of the element that has the text


class EmbeddedArray(ArrayForm, _Element):
    """An array of the page: where its text is, and how that is read."""


class _Labelled(Record):
    name: str
    label: str
    unit: str
    scale: str


class EmbeddedLayer(EmbeddedArray, _Labelled):
    """A layer of the atlas or of the sky."""


class EmbeddedPanel(Record):
    """A plane of the atlas."""

    dimensions: tuple[int, int]
    labels: tuple[str, str]
    window: list[list[float]]
    outside: int
    counts: EmbeddedArray
    layers: list[EmbeddedLayer]


class EmbeddedSample(Record):
    """The stars that a click lists. `complete`: they are all that the atlas counts."""

    complete: bool
    objid: EmbeddedArray
    latent: EmbeddedArray
    ra: EmbeddedArray
    dec: EmbeddedArray
    magnitude: EmbeddedArray
    error: EmbeddedArray
    score: EmbeddedArray | None = None


class EmbeddedSky(Record):
    """The map of the sky."""

    order: int
    layers: list[EmbeddedLayer]


class Mark(Record):
    """An anomaly that the atlas can mark."""

    objid: str
    latent: list[float | None]


class Colours(Record):
    """Colour maps by name, 256 times rrggbb each, in the order of the choice; the diverging one; categories."""

    maps: dict[str, str]
    order: tuple[str, ...]
    diverging: str
    categories: tuple[str, ...]


class Content(Record):
    """Everything that the script knows."""

    nulls: ClassVar[frozenset[str]] = frozenset({"sample", "sky"})
    atlas: list[EmbeddedPanel]
    sample: EmbeddedSample | None
    sky: EmbeddedSky | None
    marks: list[Mark]
    ridge: list[list[float | None]]
    bands: tuple[str, ...]
    explore: str
    colours: Colours
