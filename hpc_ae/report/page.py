"""The report as one HTML file that needs nothing else: no network, no other file, no library.

The page's policy forbids it every request, and lets it run its own script alone (by digest). What the files of a run
say (names, reasons, a config) is text everywhere: jinja2 escapes it in markup, `_json` in the data. The size is
bounded: maps beyond a budget are shown with larger cells. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from functools import cache
from itertools import groupby

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpc_ae.report import curves
from hpc_ae.report.charts import Drawing
from hpc_ae.report.colours import CATEGORIES, DIVERGING_MAP, MAPS, colour_maps
from hpc_ae.report.data import (
    MAX_ANOMALIES,
    MAX_COUNTS_SIDE,
    MAX_LAYER_SIDE,
    MAX_SAMPLE,
    MAX_SKY_ORDER,
    SCALES,
    AtlasLayer,
    AtlasPanel,
    Cell,
    ReportData,
    SkyLayer,
    StarSample,
)
from hpc_ae.report.embedded import (
    Colours,
    Content,
    EmbeddedArray,
    EmbeddedLayer,
    EmbeddedPanel,
    EmbeddedSample,
    EmbeddedSky,
    Mark,
)
from hpc_ae.report.pack import Packed, halve_panel, pack, pack_counts, pack_floats
from hpc_ae.report.rows import anomaly_rows, explore_link, number_columns
from hpc_ae.report.words import is_number, number_text, true_minus

ATLAS_BYTES = 10_000_000  # of text, all panels together
SKY_BYTES = 4_000_000  # of text, all layers together
_MAX_HALVINGS = 5
_BARE_STYLE = ".anomalies tr[hidden] { display: table-row !important; }"  # without a script nothing else shows them
_SCRIPTS = ("core.js", "atlas_grid.js", "stars.js", "atlas.js", "sky.js", "table.js", "save.js", "main.js")


def render_page(data: ReportData) -> bytes:
    """The page as UTF-8; the same bytes for the same data. ValueError where its arrays do not fit each other."""
    _check(data)
    store = _Store()
    halvings = _embed_atlas(store, data.atlas)
    sky = _embed_sky(store, data)
    content = Content(
        atlas=store.atlas,
        sample=_embed_sample(store, data),
        sky=sky,
        marks=_marks(data),
        ridge=_ridge(data),
        bands=data.bands,
        explore=data.explore_url,
        colours=Colours(maps=colour_maps(), order=MAPS, diverging=DIVERGING_MAP, categories=CATEGORIES),
    )
    style, script = _source("page.css"), "\n".join(_source(name) for name in _SCRIPTS)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            charts=_charts(data),
            residual_table=curves.residual_table(data.residuals) if data.residuals else None,
            levels=curves.say_levels(data.residuals.levels) if data.residuals else "",
            layer_table=_layer_rows(data.atlas),
            halvings=halvings,
            num_sky_layers=len(sky.layers) if sky else 0,
            anomaly_columns=number_columns(data.anomalies, data.bands) if data.anomalies else [],
            anomaly_rows=anomaly_rows(data.anomalies, data.bands, data.explore_url) if data.anomalies else [],
            kind_stars=[
                [(objid, explore_link(data.explore_url, ra, dec)) for objid, ra, dec in kind.stars]
                for kind in data.kinds
            ],
            max_anomalies=MAX_ANOMALIES,
            max_sample=MAX_SAMPLE,
            facts=[(group, list(facts)) for group, facts in groupby(data.provenance, key=lambda fact: fact.group)],
            payload=store.texts,
            content=Markup(_json(content)),
            style=Markup(style),
            script=Markup(script),
            bare_style=Markup(_BARE_STYLE),
            policy=_policy([style, _BARE_STYLE], script),
        )
    )
    return page.encode()


class _Store:
    """The packed arrays of the page, each under a number, and the descriptions of the atlas's panels."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.atlas: list[EmbeddedPanel] = []

    def put(self, packed: Packed) -> EmbeddedArray:
        """Keep an array; what the page's JSON says of it."""
        self.texts.append(packed.text)
        return EmbeddedArray(id=f"payload-{len(self.texts) - 1}", **dict(packed.form))

    def put_layer(self, layer: AtlasLayer | SkyLayer, packed: Packed) -> EmbeddedLayer:
        """Keep a layer."""
        array = self.put(packed)
        return EmbeddedLayer(name=layer.name, label=layer.label, unit=layer.unit, scale=layer.scale, **dict(array))


def _check(data: ReportData) -> None:
    for panel in data.atlas:
        side = len(panel.counts)
        if panel.counts.shape != (side, side) or not 0 < side <= MAX_COUNTS_SIDE:
            raise ValueError(f"counts of shape {panel.counts.shape}: square, at most {MAX_COUNTS_SIDE} cells a side")
        for layer in panel.layers:
            num = len(layer.values)
            if layer.values.shape != (num, num) or num > MAX_LAYER_SIDE or side % max(1, num):
                raise ValueError(f"layer {layer.name} of shape {layer.values.shape} on counts of {panel.counts.shape}")
    used = {layer.scale for panel in data.atlas for layer in panel.layers}
    used |= {layer.scale for layer in (data.sky.layers if data.sky else ())}
    if unknown := used - set(SCALES):
        raise ValueError(f"unknown scales {sorted(unknown)}; valid are {SCALES}")
    if data.sky and data.sky.order > MAX_SKY_ORDER:
        raise ValueError(f"a sky map of order {data.sky.order}: at most {MAX_SKY_ORDER}")
    if data.sky and any(layer.values.shape != (12 * 4**data.sky.order,) for layer in data.sky.layers):
        raise ValueError(f"a sky map of order {data.sky.order} has {12 * 4**data.sky.order} pixels in every layer")


def _embed_atlas(store: _Store, panels: tuple[AtlasPanel, ...]) -> int:
    """Pack all panels; how often their cells were doubled to stay within the budget."""
    for halvings in range(_MAX_HALVINGS + 1):
        packed = [(panel, pack_counts(panel.counts), _pack_layers(panel)) for panel in panels]
        size = sum(len(counts.text) + sum(len(one.text) for one in layers) for _, counts, layers in packed)
        if size <= ATLAS_BYTES or halvings == _MAX_HALVINGS:
            break
        panels = tuple(halve_panel(panel) for panel in panels)
    store.atlas = [_describe_panel(store, *one) for one in packed]
    return halvings


def _pack_layers(panel: AtlasPanel) -> list[Packed]:
    return [pack_floats(layer.values, layer.scale) for layer in panel.layers]


def _describe_panel(store: _Store, panel: AtlasPanel, counts: Packed, layers: list[Packed]) -> EmbeddedPanel:
    first, second = panel.dimensions
    return EmbeddedPanel(
        dimensions=panel.dimensions,
        labels=panel.labels or (f"latent {first + 1}", f"latent {second + 1}"),
        window=[[float(end) for end in span] for span in panel.window],
        outside=panel.num_outside,
        counts=store.put(counts),
        layers=[store.put_layer(layer, packed) for layer, packed in zip(panel.layers, layers, strict=True)],
    )


def _embed_sample(store: _Store, data: ReportData) -> EmbeddedSample | None:
    """Magnitudes to 0.001 mag, places to 10^-6 deg (0.004 arcsec), the rest as it is."""
    sample = data.sample
    if sample is None:
        return None
    rows = slice(0, MAX_SAMPLE)
    score = None if sample.score is None else store.put(pack(sample.score[rows], "f4"))
    return EmbeddedSample(
        complete=_is_complete(sample, data.atlas),
        objid=store.put(pack(sample.objid[rows], "i8")),
        latent=store.put(pack(sample.latent[rows], "f4")),
        ra=store.put(pack(_whole(sample.ra[rows], 1e6, 2**31 - 1), "i4", divide=1e6)),
        dec=store.put(pack(_whole(sample.dec[rows], 1e6, 2**31 - 1), "i4", divide=1e6)),
        magnitude=store.put(pack(_whole(sample.magnitude[rows], 1e3, 2**15 - 1), "i2", divide=1e3)),
        error=store.put(pack(sample.error[rows], "f4")),
        score=score,
    )


def _is_complete(sample: StarSample, panels: tuple[AtlasPanel, ...]) -> bool:
    """Whether the page holds every star that the atlas counts."""
    counted = {int(panel.counts.sum()) + panel.num_outside for panel in panels}
    return counted == {len(sample.objid)} and len(sample.objid) <= MAX_SAMPLE


def _whole(values: np.ndarray, factor: float, limit: int) -> np.ndarray:
    """Values as whole multiples; what is not known, or beyond the limit, is the lowest number there is."""
    scaled = np.rint(np.asarray(values, np.float64) * factor)
    known = np.isfinite(scaled) & (np.abs(scaled) <= limit)
    return np.where(known, np.where(known, scaled, 0), -limit - 1).astype(np.int64)


def _embed_sky(store: _Store, data: ReportData) -> EmbeddedSky | None:
    """Pack the sky map's layers, in order, as many as fit."""
    if data.sky is None or not data.sky.layers:
        return None
    layers: list[EmbeddedLayer] = []
    room = SKY_BYTES
    for layer in data.sky.layers:
        packed = pack_floats(layer.values, layer.scale)
        room -= len(packed.text)
        if room < 0:
            break
        layers.append(store.put_layer(layer, packed))
    return EmbeddedSky(order=data.sky.order, layers=layers)


def _marks(data: ReportData) -> list[Mark]:
    """The anomalies that the atlas can mark."""
    found = data.anomalies
    if found is None or found.latent is None:
        return []
    return [
        Mark(objid=objid, latent=[_json_number(value) for value in latent])
        for objid, latent in zip(found.objid[:MAX_ANOMALIES], found.latent[:MAX_ANOMALIES], strict=True)
    ]


def _ridge(data: ReportData) -> list[list[float | None]]:
    if data.locus is None or data.locus.latent is None:
        return []
    return [[_json_number(value) for value in point] for point in data.locus.latent]


def _json_number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _charts(data: ReportData) -> dict[str, list[Drawing]]:
    """All line charts, by section."""
    return {
        "training": [curves.training_chart(data.training)] if data.training else [],
        "residuals": curves.residual_charts(data.residuals) if data.residuals else [],
        "pulls": [curves.pull_chart(data.pulls)] if data.pulls else [],
        "calibration": [curves.calibration_chart(data.calibration)] if data.calibration else [],
        "locus": [curves.locus_chart(data.locus)] if data.locus else [],
        "histogram": [curves.histogram_chart(data.latent_histogram)] if data.latent_histogram else [],
    }


def _layer_rows(panels: tuple[AtlasPanel, ...]) -> list[tuple[Cell, ...]]:
    """The atlas in numbers: of each panel and layer the cells with stars, and their 1, 50 and 99 percentiles."""
    rows: list[tuple[Cell, ...]] = []
    for panel in panels:
        name = " × ".join(str(dimension + 1) for dimension in panel.dimensions)
        occupied = panel.counts[panel.counts > 0]
        rows.append((name, "stars per cell", "", int(occupied.size), *_percentiles(occupied)))
        for layer in panel.layers:
            known = layer.values[np.isfinite(layer.values)]
            rows.append((name, layer.label, layer.unit, int(known.size), *_percentiles(known)))
    return rows


def _percentiles(values: np.ndarray) -> list[Cell]:
    return [float(value) for value in np.quantile(values, [0.01, 0.5, 0.99])] if values.size else [None] * 3


def _json(content: Content) -> str:
    """JSON that no text in it can end: no <, > or & is left."""
    text = json.dumps(content.to_json(), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(styles: list[str], script: str) -> str:
    """What the page may do: nothing but its own styles and script, known by their digests."""
    digests = " ".join(f"'{_digest(style)}'" for style in styles)
    parts = ["default-src 'none'", f"style-src {digests}", f"script-src '{_digest(script)}'", "img-src data:"]
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hpc_ae.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": number_text, "element_id": _element_id, "thousands": "{:,}".format}
    environment.filters["true_minus"] = true_minus
    environment.tests["numeric"] = is_number
    return environment


@cache
def _source(name: str) -> str:
    """A style sheet or script of the templates, as it stands."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _element_id(name: str) -> str:
    return "id-" + re.sub(r"\W+", "-", name).lower()
