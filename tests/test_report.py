"""The report's page: what it holds, how large it gets, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import pickle
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from commands import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from report_data import Survey, make_report, simulated_survey
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from hpc_ae.report import curves
from hpc_ae.report.charts import Chart, Line, lay_out
from hpc_ae.report.colours import CATEGORIES
from hpc_ae.report.data import (
    AtlasLayer,
    AtlasPanel,
    Fact,
    LatentHistogram,
    ReportData,
    SkyLayer,
    SkyMap,
)
from hpc_ae.report.pack import halve_panel, pack_counts, pack_floats
from hpc_ae.report.page import render_page
from hpc_ae.report.rows import bars, explore_link
from hpc_ae.report.words import number_text

SIDE, LAYER_SIDE = 256, 64
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'>",
    "{{ 7 * 7 }} & <b>bold</b> \u2028 <!--<script>",
)
WAIT_SECONDS = 30


@pytest.fixture(scope="module")
def survey() -> Survey:
    """Simulated stars."""
    return simulated_survey(30_000)


@pytest.fixture(scope="module")
def report(survey: Survey) -> ReportData:
    """A whole report, whose texts try to be markup."""
    plain = make_report(survey, SIDE, LAYER_SIDE, 3_000, 200)
    assert plain.anomalies is not None and plain.throughput is not None
    names = (*HOSTILE, *plain.anomalies.objid[len(HOSTILE) :])
    reasons = (*(f"reason {text}" for text in HOSTILE), *plain.anomalies.reason[len(HOSTILE) :])
    return replace(
        plain,
        title=f"Stars {HOSTILE[1]}",
        kinds=(replace(plain.kinds[0], stars=tuple((text, 10.0, 2.0) for text in HOSTILE)), *plain.kinds[1:]),
        anomalies=replace(plain.anomalies, objid=names, reason=reasons),
        provenance=(*plain.provenance, *(Fact(text, text, "Texts") for text in HOSTILE)),
        config_text="</pre>" + "\n".join(HOSTILE),
        throughput=replace(plain.throughput, caption=HOSTILE[0]),
        notes=HOSTILE,
    )


@pytest.fixture(scope="module")
def page_path(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that report."""
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_bytes(render_page(report))
    return path


class _Text(HTMLParser):
    """What is text outside of scripts and styles, and the names of all elements."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)


def content(page: bytes) -> dict[str, Any]:
    """The page's JSON."""
    found = re.search(rb'<script type="application/json" id="page-data">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


# ---- arrays as text


def unpacked(text: str, meta: dict[str, Any]) -> np.ndarray:
    """What the page's script makes of a packed array, in numpy."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    width = int(meta["dtype"][1])
    plain = np.ascontiguousarray(planes.reshape(width, -1).T).view(np.dtype("<" + meta["dtype"])).reshape(meta["shape"])
    if "code" not in meta:
        return plain
    code = meta["code"]
    if code["kind"] == "category":
        return np.where(plain == 0, np.nan, plain.astype(float) - 1)
    values = code["centre"] + code["width"] * np.sinh(code["low"] + (plain.astype(float) - 1) * code["step"])
    return np.where(plain == 0, np.nan, values)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint32, st.tuples(st.integers(0, 9), st.integers(1, 9))))
def test_counts_are_packed_exactly(counts: np.ndarray) -> None:
    """Counts of any size come back as they were."""
    packed = pack_counts(counts)
    assert np.array_equal(unpacked(packed.text, packed.form.to_json()), counts)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6) | st.just(float("nan"))))
def test_floats_are_packed_finely(values: np.ndarray) -> None:
    """A value is off by less than a thousandth of itself or of the middle half's width; none stays none."""
    packed = pack_floats(values)
    found = unpacked(packed.text, packed.form.to_json())
    assert np.array_equal(np.isnan(found), np.isnan(values))
    known = values[~np.isnan(values)]
    if known.size:
        low, centre, high = np.quantile(known, [0.25, 0.5, 0.75])
        width = max((high - low) / 2, 1e-6 * float(np.ptp(known)))
        off = np.abs(found[~np.isnan(values)] - known)
        assert np.all(off <= 1e-3 * (np.abs(known - centre) + width) + 1e-9 * np.abs(known) + 1e-300)


def test_categories_are_packed_exactly() -> None:
    """Whole numbers of a layer of categories come back, no star stays none."""
    packed = pack_floats(np.array([[0, 1], [41, np.nan]]), "category")
    assert np.array_equal(unpacked(packed.text, packed.form.to_json()), [[0, 1], [41, np.nan]], equal_nan=True)


def test_larger_cells_keep_stars_and_means() -> None:
    """Halving a panel keeps the number of stars and the mean over stars; a category is that of most stars."""
    rng = np.random.default_rng(4)
    counts = rng.poisson(0.7, (128, 128)).astype(np.uint32)
    stars = counts.reshape(64, 2, 64, 2).sum((1, 3))
    values = np.where(stars > 0, rng.normal(size=(64, 64)), np.nan)
    groups = np.where(stars > 0, rng.integers(0, 3, (64, 64)), np.nan)
    layers = (AtlasLayer("a", "a", "mag", values), AtlasLayer("b", "b", "", groups, "category"))
    half = halve_panel(AtlasPanel((0, 1), ((0, 1), (0, 1)), counts, layers))
    assert half.counts.shape == (64, 64) and half.layers[0].values.shape == (32, 32)
    assert np.array_equal(half.counts, stars)
    fewer = half.counts.reshape(32, 2, 32, 2).sum((1, 3))
    assert np.nansum(half.layers[0].values * fewer) == pytest.approx(np.nansum(values * stars), rel=1e-5)
    four = [
        (stars[0, 0], groups[0, 0]),
        (stars[0, 1], groups[0, 1]),
        (stars[1, 0], groups[1, 0]),
        (stars[1, 1], groups[1, 1]),
    ]
    assert half.layers[1].values[0, 0] == max(four, key=lambda one: one[0])[1]


# ---- the page as bytes


_RENDER = """
import hashlib, pickle, sys
from pathlib import Path
from hpc_ae.report.page import render_page
print(hashlib.sha256(render_page(pickle.loads(Path(sys.argv[1]).read_bytes()))).hexdigest())
"""


def test_same_bytes(report: ReportData, page_path: Path, tmp_path: Path) -> None:
    """The same data give the same page in any process, whatever order its sets have."""
    (tmp_path / "report").write_bytes(pickle.dumps(report))
    words = [sys.executable, "-c", _RENDER, str(tmp_path / "report")]
    started = [
        subprocess.Popen(words, env=environment(PYTHONHASHSEED=seed), stdout=subprocess.PIPE, text=True)
        for seed in ("1", "2")
    ]
    digests = {process.communicate(timeout=240)[0].strip() for process in started}
    assert digests == {hashlib.sha256(page_path.read_bytes()).hexdigest()}


def test_texts_stay_text(page_path: Path) -> None:
    """Markup in names, reasons, facts, config and captions is text; the JSON has no character that ends a script."""
    page = page_path.read_bytes()
    parsed = _Text(page)
    text = "".join(parsed.text)
    for hostile in HOSTILE:
        assert text.count(hostile) >= 5
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "b", "iframe", "object", "embed")]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in parsed.tags) == 1
    assert [mark["objid"] for mark in content(page)["marks"][: len(HOSTILE)]] == list(HOSTILE)


def test_nothing_is_loaded(page_path: Path) -> None:
    """No element names another file, the policy forbids requests, links are of http(s) or within the page."""
    parsed = _Text(page_path.read_bytes())
    for tag, attributes in parsed.tags:
        assert "src" not in attributes and "srcset" not in attributes
        if tag == "a":
            assert re.match(r"#|https://skyserver\.sdss\.org/", attributes["href"] or "")
            assert str(attributes["href"]).startswith("#") or "noreferrer" in str(attributes["rel"])
        if tag == "link":
            assert attributes["href"] == "data:,"
    policy = next(one["content"] for tag, one in parsed.tags if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy) and "unsafe" not in str(policy)


def test_empty_report() -> None:
    """A report of nothing is a page that says how its parts are made."""
    text = " ".join(_Text(render_page(ReportData("Nothing", ()))).text)
    assert "export RUN_DIR/encoding OUT --to compressed" in text and "encode.reconstruction: true" in text
    assert "nan" not in text.lower().split()


def test_parts_without_values() -> None:
    """No star anywhere: maps, curves and tables of NaN make a page too."""
    none = np.full((64, 64), np.nan)
    layers = tuple(AtlasLayer(scale, scale, "", none, scale) for scale in ("linear", "log", "diverging", "category"))
    panel = AtlasPanel((0, 1), ((0, 1), (0, 1)), np.zeros((128, 128), np.uint32), layers)
    sky = SkyMap(1, (SkyLayer("count", "count", "", np.full(48, np.nan), "log"),))
    histogram = LatentHistogram(np.linspace(0, 1, 11), np.zeros(10))
    page = render_page(ReportData("Empty", ("u",), atlas=(panel,), sky=sky, latent_histogram=histogram))
    assert b"NaN" not in page.split(b"<script", 1)[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"atlas": (AtlasPanel((0, 1), ((0, 1), (0, 1)), np.zeros((4, 5), np.uint32)),)},
        {"atlas": (AtlasPanel((0, 1), ((0, 1), (0, 1)), np.zeros((2048, 2048), np.uint32)),)},
        {"sky": SkyMap(2, (SkyLayer("a", "a", "", np.zeros(48)),))},
        {"sky": SkyMap(8, ())},
        {"sky": SkyMap(1, (SkyLayer("a", "a", "", np.zeros(48), "cubic"),))},
    ],
)
def test_arrays_that_do_not_fit_are_refused(bad: dict[str, Any]) -> None:
    """Grids beyond the bounds, or of another shape than they say, are a ValueError."""
    with pytest.raises(ValueError):
        render_page(ReportData("Bad", ("u",), **bad))


def test_numbers_as_text() -> None:
    """Four digits, thousands, a true minus sign; nothing for what is not known."""
    given = [None, float("nan"), "a", 12_345, -3, 0.0, 0.123456, -1.5, 1234.56, 1.7e-6, 3.2e12, np.float32(0.5)]
    wanted = ["", "", "a", "12,345", "−3", "0", "0.1235", "−1.5", "1,235", "1.700e−6", "3.200e12", "0.5"]
    assert [number_text(value) for value in given] == wanted


def test_curves_break_where_nothing_is_known() -> None:
    """A curve has a piece for each run of known values; ticks of a logarithmic axis are powers of ten."""
    line = Line(np.arange(1.0, 7.0), np.array([1, 10, np.nan, 1000, 1e4, np.nan]), "a")
    drawing = lay_out(Chart("A", "", "x", "y", [line], log_y=True))
    assert drawing.paths[0].d.count("M") == 2 and drawing.paths[0].d.count("L") == 2
    assert [tick.text for tick in drawing.y_ticks] == ["1", "10", "100", "1,000", "10,000"]
    gap = np.where(np.arange(6) < 3, np.nan, 1.0)
    late = lay_out(
        Chart("A", "", "x", "y", [Line(np.arange(6.0), gap, "a"), Line(np.arange(6.0), np.zeros(6), "zero")])
    )
    assert (late.x_ticks[0].text, late.x_ticks[-1].text) == ("3.0", "5.0"), "the axis shows what is known"
    long = Line(np.arange(100_000.0), np.sin(np.arange(100_000.0)), "a")
    assert len(lay_out(Chart("A", "", "x", "y", [long])).paths[0].d) < 40_000


def test_text_of_a_curve_says_its_ends(report: ReportData) -> None:
    """The text alternative of a curve has its numbers."""
    assert report.training is not None and report.residuals is not None
    first = curves.training_chart(report.training).chart.description
    assert f"{report.training.validation[0]:.3g} to {report.training.validation[-1]:.3g} mag²" in first
    charts = curves.residual_charts(report.residuals)
    assert len(charts) == 5 and all(re.search(r"\d mag at \d", one.chart.description) for one in charts)


def test_links_are_of_the_web() -> None:
    """A link needs a place, and a template of http(s)."""
    assert explore_link("https://x/?ra={ra:.2f}&dec={dec:.2f}", 1.234, -5) == "https://x/?ra=1.23&dec=-5.00"
    assert not explore_link("https://x/?ra={ra}", float("nan"), 0)
    assert not explore_link("javascript:alert({ra})", 1, 2)
    assert not explore_link("https://x/{place}", 1, 2)


def test_bars_grow_with_brightness() -> None:
    """A brighter band has a taller bar, the model's mark is where the model's magnitude would end; no value, no bar."""
    found = bars(np.array([20.0, 18.0, np.nan]), np.array([0.0, -1.0, 0.1]))
    assert [bar.x for bar in found] == [1, 13]
    assert found[1].height > found[0].height and found[0].model == pytest.approx(found[0].top)
    assert found[1].model is not None and found[1].top < found[1].model < found[0].top
    assert bars(np.full(5, np.nan), None) == []


@pytest.fixture(scope="module")
def full_size() -> ReportData:
    """100 million stars spread over three planes of 1024 x 1024 cells with five layers of 512 x 512."""
    rng = np.random.default_rng(2)
    counts = rng.poisson(95, (1024, 1024)).astype(np.uint32)
    values = rng.normal(18, 2, (512, 512)).astype(np.float32)
    layers = tuple(AtlasLayer(f"{k}", f"layer {k}", "mag", np.roll(values, k), "linear") for k in range(5))
    panels = tuple(AtlasPanel(pair, ((-1, 1), (-1, 1)), counts, layers) for pair in itertools.combinations(range(3), 2))
    sky = SkyMap(7, tuple(SkyLayer(f"{k}", f"sky {k}", "", np.roll(values, k).ravel()[: 12 * 4**7]) for k in range(12)))
    small = make_report(simulated_survey(21_000), 128, 64)
    return replace(small, num_stars=int(counts.sum()), atlas=panels, sky=sky)


@pytest.fixture(scope="module")
def full_size_path(full_size: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of it."""
    path = tmp_path_factory.mktemp("full") / "index.html"
    path.write_bytes(render_page(full_size))
    return path


def test_size_is_bounded(full_size_path: Path, full_size: ReportData) -> None:
    """100 million stars in grids of the largest size, filled with noise, make a page below 20 MB that has them all."""
    page = full_size_path.read_bytes()
    assert len(page) < 20_000_000
    panel = content(page)["atlas"][0]["counts"]
    assert b"further layers are left out" in page and len(content(page)["sky"]["layers"]) >= 6
    text = re.search(rf'id="{panel["id"]}">([^<]*)<'.encode(), page)
    assert text and unpacked(text[1].decode(), panel).sum() == full_size.num_stars


# ---- the page in a browser


class Browser:
    """Headless Chromium with what it logs."""

    def __init__(self, paths: tuple[str, str]) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = paths[0]
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(executable_path=paths[1]))
        self.driver.set_script_timeout(WAIT_SECONDS)

    def open(self, path: Path, width: int = 1200, height: int = 900) -> None:
        """Load a page and wait for its maps."""
        self.resize(width, height)
        self.driver.get(path.as_uri())
        self.wait("document.documentElement.dataset.ready")
        assert self.run("return document.documentElement.dataset.ready") == "yes"

    def resize(self, width: int, height: int = 900) -> None:
        """The size of the window; that of a phone below 500."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def media(self, medium: str = "", scheme: str = "light") -> None:
        """Screen or print, light or dark."""
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})

    def run(self, script: str, *values: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *values)

    def wait(self, condition: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.run(f"return {condition}"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def find(self, element_id: str) -> WebElement:
        """An element by its id."""
        return self.driver.find_element(By.ID, element_id)

    def picture(self, element_id: str) -> str:
        """The pixels of a canvas."""
        return str(self.run("return document.getElementById(arguments[0]).toDataURL()", element_id))

    def text(self, element_id: str) -> str:
        """The text of an element, shown or not."""
        return str(self.run("return document.getElementById(arguments[0]).textContent", element_id))

    def choose(self, element_id: str, text: str) -> None:
        """Choose of a list."""
        Select(self.find(element_id)).select_by_visible_text(text)

    def press(self, *keys: str) -> None:
        """Keys, wherever the focus is."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """What the console has said since the last question."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> set[str]:
        """Everything asked for since the last question."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}


@pytest.fixture(scope="module")
def chromium(browser: tuple[str, str]) -> Iterator[Browser]:
    """One browser for all tests of the module."""
    found = Browser(browser)
    yield found
    found.driver.quit()


@pytest.fixture
def shown(chromium: Browser, page_path: Path) -> Browser:
    """The page, freshly opened on a desktop in light."""
    chromium.media()
    chromium.open(page_path)
    return chromium


def cell_place(shown: Browser, i: int, j: int) -> tuple[float, float]:
    """Where the middle of a cell of the shown resolution is on the canvas, in CSS pixels from its corner."""
    x, y = shown.run(
        "const a = parts.atlas; return a.toPixels({x: (arguments[0] + .5) / a.side, y: (arguments[1] + .5) / a.side})",
        i,
        j,
    )
    return float(x), float(y)


def point_at(shown: Browser, element_id: str, place: tuple[float, float]) -> ActionChains:
    """Move the pointer over a canvas, counted from its upper left corner."""
    canvas = shown.find(element_id)
    shown.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    box = canvas.size
    offset = (round(place[0] - box["width"] / 2), round(place[1] - box["height"] / 2))
    return ActionChains(shown.driver, duration=0).move_to_element_with_offset(canvas, *offset)


def densest_cell(report: ReportData, side: int) -> tuple[int, int, int]:
    """Cell of most stars at a resolution: (i, j, stars)."""
    counts = report.atlas[0].counts
    times = len(counts) // side
    coarse = counts.reshape(side, times, side, times).sum((1, 3))
    i, j = np.unravel_index(int(coarse.argmax()), coarse.shape)
    return int(i), int(j), int(coarse.max())


def readout(shown: Browser) -> dict[str, str]:
    """The numbers of the cell beside the atlas."""
    script = (
        "return [...document.querySelectorAll('#atlas-cell div')].map((d) => [...d.children].map((c) => c.textContent))"
    )
    return dict(shown.run(script))


@pytest.mark.browser
def test_browser_unpacks_what_was_packed(shown: Browser, report: ReportData) -> None:
    """Counts, layers, ids and places are in the browser what they were in numpy."""
    assert report.sample is not None
    script = """
        const done = arguments[arguments.length - 1];
        const known = (v) => (v === v ? v : null);
        const plane = parts.atlas.plane, sample = parts.atlas.sample;
        done({
            counts: [...plane.counts.get(plane.side)],
            layers: plane.spec.layers.map((l, i) => Array.from(plane.layers[i].get(l.shape[0]), known)),
            objid: [...sample.objid].map(String), ra: [...sample.ra], dec: [...sample.dec],
            latent: [...sample.latent], magnitude: [...sample.magnitude],
        });
    """
    found = shown.driver.execute_async_script(script)
    panel, sample = report.atlas[0], report.sample
    assert found["counts"] == panel.counts.ravel().tolist()
    for layer, values in zip(panel.layers, found["layers"], strict=True):
        wanted = layer.values.ravel()
        got = np.array([np.nan if value is None else value for value in values])
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    assert found["objid"] == [str(one) for one in sample.objid]
    np.testing.assert_allclose(found["ra"], sample.ra, atol=1e-6)
    np.testing.assert_allclose(found["dec"], sample.dec, atol=1e-6)
    np.testing.assert_allclose(found["latent"], sample.latent.ravel(), rtol=1e-6)
    np.testing.assert_allclose(found["magnitude"], sample.magnitude.ravel(), atol=6e-4)


@pytest.mark.browser
def test_browser_knows_healpix(shown: Browser) -> None:
    """Pixels of the sky map are those of astropy-healpix, for all orders and places, poles and edges included."""
    from astropy import units
    from astropy_healpix import HEALPix

    rng = np.random.default_rng(7)
    ra = np.concatenate([rng.uniform(0, 360, 400), [0, 90, 359.999, 45.01, 180.001]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 400))), [0.001, 89.9, -89.9, 41.7, -41.9]])
    script = """return arguments[0].map((order) => arguments[1].map((ra, i) =>
        healpixNested(order, ra * Math.PI / 180, arguments[2][i] * Math.PI / 180)))"""
    found = shown.run(script, list(range(8)), ra.tolist(), dec.tolist())
    for order, pixels in enumerate(found):
        wanted = HEALPix(2**order, "nested").lonlat_to_healpix(ra * units.deg, dec * units.deg)
        assert pixels == wanted.tolist()


@pytest.mark.browser
def test_no_error_and_no_request(shown: Browser, page_path: Path) -> None:
    """Loading and using the page logs nothing and asks for nothing but the file; its policy stops what would ask."""
    shown.complaints(), shown.requested()
    shown.open(page_path)
    shown.find("theme").click()
    shown.choose("atlas-colour", "cluster")
    shown.find("atlas-in").click()
    shown.choose("sky-colour", "mean latent 1")
    shown.find("anomaly-text").send_keys("brighter")
    assert shown.complaints() == []
    assert {url for url in shown.requested() if not url.startswith("data:")} == {page_path.as_uri()}
    script = "const done = arguments[0]; fetch('https://example.org/').then(() => done('sent'), () => done('refused'))"
    assert shown.driver.execute_async_script(script) == "refused"
    assert any("Content Security Policy" in line for line in shown.complaints())
    assert "https://example.org/" not in shown.requested()


@pytest.mark.browser
def test_markup_stays_text(shown: Browser, report: ReportData) -> None:
    """No text of the run became an element or ran."""
    assert shown.driver.title == report.title
    assert shown.run("return document.querySelectorAll('img, main b, svg[onload]').length") == 0
    names = shown.run("return [...document.querySelectorAll('#anomalies td.star')].map((cell) => cell.dataset.key)")
    assert report.anomalies is not None
    assert tuple(names) == report.anomalies.objid
    rows = shown.run(
        "return [...document.querySelectorAll('#anomalies td.reason')].map((c) => c.firstChild.textContent)"
    )
    assert tuple(rows) == report.anomalies.reason
    assert shown.run("return document.querySelector('pre').textContent") == report.config_text


@pytest.mark.browser
def test_atlas_zooms_and_pans(shown: Browser) -> None:
    """Buttons, wheel and dragging change what the canvas shows; the whole plane comes back."""
    whole = shown.picture("atlas")
    shown.find("atlas-in").click()
    half = shown.picture("atlas")
    assert shown.run("return parts.atlas.view.size") == 0.5 and half != whole
    point_at(shown, "atlas", (300, 300)).click_and_hold().move_by_offset(-60, 40).release().perform()
    moved = shown.run("return parts.atlas.view")
    assert moved["x"] > 0.25 and moved["y"] > 0.25 and shown.picture("atlas") != half
    shown.find("atlas-whole").click()
    point_at(shown, "atlas", (300, 300)).click().scroll_by_amount(0, 0).perform()
    ActionChains(shown.driver, duration=0).scroll_from_origin(scroll_origin(shown), 0, -600).perform()
    shown.wait("parts.atlas.view.size < 0.9")
    shown.find("atlas-whole").click()
    assert shown.run("return parts.atlas.view.size") == 1
    shown.run("for (let i = 0; i < 20; i++) document.getElementById('atlas-in').click()")
    assert shown.run("return parts.atlas.view.size") == 1 / 256
    assert shown.run("return document.getElementById('atlas-in').disabled")


def scroll_origin(shown: Browser) -> Any:
    """The middle of the atlas, for the wheel."""
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    return ScrollOrigin.from_element(shown.find("atlas"))


@pytest.mark.browser
def test_wheel_over_an_atlas_not_chosen_scrolls_the_page(shown: Browser) -> None:
    """Somebody who reads on is not caught by the map: it says how to zoom instead."""
    ActionChains(shown.driver, duration=0).scroll_from_origin(scroll_origin(shown), 0, 200).perform()
    shown.wait("scrollY > 0")
    assert shown.run("return parts.atlas.view.size") == 1
    assert shown.find("atlas-hint").is_displayed()


@pytest.mark.browser
def test_pinch_zooms(chromium: Browser, page_path: Path) -> None:
    """Two fingers zoom on a phone, a tap lists stars."""
    chromium.media()
    chromium.open(page_path, 390, 800)
    chromium.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    chromium.run("document.getElementById('atlas').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = chromium.run("return document.getElementById('atlas').getBoundingClientRect().toJSON()")
    x, y = box["x"] + 180, box["y"] + 160

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": one, "y": two, "id": k} for k, (one, two) in enumerate(points)]
        chromium.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (x - 20, y), (x + 20, y))
    for far in (30, 50, 80):
        touch("touchMove", (x - far, y), (x + far, y))
    touch("touchEnd")
    assert chromium.run("return parts.atlas.view.size") < 0.6
    touch("touchStart", (x, y))
    touch("touchEnd")
    chromium.wait("!document.getElementById('atlas-stars').hidden")
    chromium.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.browser
def test_atlas_changes_colour(shown: Browser, report: ReportData) -> None:
    """Every layer and every colour map gives another picture and another bar, which says its range."""
    pictures, said = [], []
    for name in ["density of stars", *(layer.label for layer in report.atlas[0].layers)]:
        shown.choose("atlas-colour", name)
        pictures.append(shown.picture("atlas"))
        said.append(shown.find("atlas-bar").get_attribute("aria-label"))
    shown.choose("atlas-colour", "density of stars")
    for name in ("cividis", "magma"):
        shown.choose("atlas-map", name)
        pictures.append(shown.picture("atlas"))
    assert len(set(pictures)) == len(pictures) and len(set(said)) == len(said)
    assert all(re.search(r"from .*\d to .*\d|: 0, 1", str(text)) for text in said)


@pytest.mark.browser
def test_hover_shows_the_cell(shown: Browser, report: ReportData) -> None:
    """The number of stars of the cell under the pointer is the survey's, and its means are the layers'."""
    side = int(shown.run("return parts.atlas.side"))
    i, j, stars = densest_cell(report, side)
    point_at(shown, "atlas", cell_place(shown, i, j)).perform()
    found = readout(shown)
    assert found["stars"] == f"{stars:,}"
    layer = report.atlas[0].layers[1]
    index = [k * LAYER_SIDE // side for k in (i, j)]
    assert float(found[layer.label].removesuffix(" mag")) == pytest.approx(layer.values[index[0], index[1]], rel=2e-3)


@pytest.mark.browser
def test_click_lists_the_stars_of_a_cell(shown: Browser, report: ReportData) -> None:
    """All of the page's stars in the cell are listed, each with a link to its place at SkyServer."""
    assert report.sample is not None
    side = int(shown.run("return parts.atlas.side"))
    panel, sample = report.atlas[0], report.sample
    spans = np.array(panel.window)
    index = np.floor((sample.latent - spans[:, 0]) / np.diff(spans, axis=1).T * side).astype(int)
    where, num = np.unique(index[(index >= 0).all(1) & (index < side).all(1)], axis=0, return_counts=True)
    i, j = (int(k) for k in where[num.argmax()])
    point_at(shown, "atlas", cell_place(shown, i, j)).click().perform()
    rows = shown.driver.find_elements(By.CSS_SELECTOR, "#atlas-stars-rows tr[data-inside=true]")
    mine = np.flatnonzero((index == (i, j)).all(1))
    links = {
        row.find_element(By.TAG_NAME, "a").text: row.find_element(By.TAG_NAME, "a").get_attribute("href")
        for row in rows
    }
    assert set(links) == {str(sample.objid[star]) for star in mine}
    star = mine[0]
    assert links[str(sample.objid[star])] == report.explore_url.format(ra=sample.ra[star], dec=sample.dec[star])
    assert f"{len(mine)} of the page’s sample" in shown.text("atlas-stars-title")


@pytest.mark.browser
def test_click_beside_the_stars_takes_the_nearest_cell(shown: Browser, report: ReportData) -> None:
    """Cells hold several stars each; a click on an empty one lists those of the nearest that has any."""
    side = int(shown.run("return parts.atlas.side"))
    counts = report.atlas[0].counts
    times = len(counts) // side
    coarse = counts.reshape(side, times, side, times).sum((1, 3))
    by_size = np.sort(coarse[coarse > 0])
    assert side == 32 or by_size[np.searchsorted(by_size.cumsum(), coarse.sum() / 2)] >= 5
    occupied = np.argwhere(coarse > 0)
    i, j = next(cell.tolist() for cell in np.argwhere(coarse == 0) if min(cell) > 2 and max(cell) < side - 3)
    away = ((occupied - (i, j)) ** 2).sum(1)
    point_at(shown, "atlas", cell_place(shown, i, j)).click().perform()
    taken = shown.run("const a = parts.atlas, b = a.bounds(a.pinned); return [b.i, b.j]")
    assert away[(occupied == taken).all(1)].tolist() == [away.min()]
    assert shown.driver.find_elements(By.CSS_SELECTOR, "#atlas-stars-rows tr")
    beside = "const r = document.getElementById('atlas-stars').getBoundingClientRect(); return [r.left, r.top]"
    left, top = shown.run(beside)
    box = shown.run("const r = document.getElementById('atlas').getBoundingClientRect(); return [r.right, r.bottom]")
    assert left >= box[0] and top < box[1]


@pytest.mark.browser
def test_star_is_found_by_its_id(shown: Browser, report: ReportData) -> None:
    """The id of a star that the page holds leads to it, first of the list; another is said not to be there."""
    assert report.sample is not None
    shown.find("atlas-find").send_keys(str(report.sample.objid[7]), Keys.ENTER)
    first = shown.driver.find_element(By.CSS_SELECTOR, "#atlas-stars-rows tr.found")
    assert first.find_element(By.TAG_NAME, "a").text == str(report.sample.objid[7])
    assert shown.run("return parts.atlas.view.size") <= 1 / 8 and not shown.text("atlas-found")
    field = shown.find("atlas-find")
    field.clear()
    field.send_keys("123", Keys.ENTER)
    assert "123 is not among the stars that the page holds" in shown.text("atlas-found")


@pytest.mark.browser
def test_table_leads_to_the_atlas_and_back(shown: Browser, report: ReportData) -> None:
    """A star's rank shows it in the atlas, whose list of the strangest leads back to its row."""
    shown.run("document.querySelectorAll('button.find')[11].click()")
    assert shown.run("return document.activeElement.id") == "atlas"
    assert shown.run("return parts.atlas.view.size") <= 1 / 8
    link = shown.driver.find_element(By.CSS_SELECTOR, "#atlas-strange a[href='#anomaly-12']")
    assert report.anomalies is not None and report.anomalies.objid[11] in link.text
    shown.find("anomaly-text").send_keys("no such star")
    shown.run("arguments[0].click()", link)
    assert shown.find("anomaly-12").is_displayed() and "found" in str(shown.find("anomaly-12").get_attribute("class"))


def shown_ranks(shown: Browser) -> list[int]:
    """Ranks of the rows that are shown, in their order."""
    script = (
        "return [...document.querySelectorAll('#anomalies tbody tr:not([hidden])')].map((r) => Number(r.id.slice(8)))"
    )
    return list(shown.run(script))


@pytest.mark.browser
def test_table_sorts(shown: Browser, report: ReportData) -> None:
    """A column's title sorts by its numbers, once up and once down, and says so."""
    assert report.anomalies is not None
    assert shown_ranks(shown) == list(range(1, 26))
    head = next(one for one in shown.driver.find_elements(By.CSS_SELECTOR, "#anomalies th") if one.text == "r")
    order = np.argsort(report.anomalies.magnitude[:, 2], kind="stable") + 1
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown_ranks(shown) == order[:25].tolist()
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert (
        report.anomalies.magnitude[np.array(shown_ranks(shown)) - 1, 2].tolist()
        == sorted(report.anomalies.magnitude[:, 2], reverse=True)[:25]
    )


@pytest.mark.browser
def test_table_filters(shown: Browser, report: ReportData) -> None:
    """Text and a range of a column choose rows, in table and atlas alike; clearing brings all back."""
    assert report.anomalies is not None
    before = shown.picture("atlas")
    shown.find("anomaly-text").send_keys("u is")
    shown.choose("anomaly-column", "g")
    shown.find("anomaly-high").send_keys("18.5")
    shown.find("anomaly-more").click() if shown.find("anomaly-more").is_displayed() else None
    wanted = [
        rank
        for rank, (reason, magnitude) in enumerate(
            zip(report.anomalies.reason, report.anomalies.magnitude, strict=True), 1
        )
        if "u is" in reason and round(float(magnitude[1]), 6) <= 18.5
    ]
    assert 0 < len(wanted) < 200
    assert shown_ranks(shown) == wanted
    assert shown.text("anomaly-count") == f"{len(wanted)} of 200 stars"
    assert shown.picture("atlas") != before
    clear = shown.driver.find_element(By.CSS_SELECTOR, "#anomaly-filter button[type=reset]")
    clear.click()
    shown.wait("document.getElementById('anomaly-text').value === ''")
    shown.choose("anomaly-column", "u − g")
    shown.find("anomaly-high").send_keys("0.6")
    blue = np.flatnonzero(np.diff(-report.anomalies.magnitude[:, :2])[:, 0] <= 0.6) + 1
    assert 0 < len(blue) < 200 and shown.text("anomaly-count") == f"{len(blue)} of 200 stars"
    assert shown_ranks(shown) == blue[:25].tolist()
    clear.click()
    shown.wait("document.getElementById('anomaly-count').textContent === '200 stars'")
    shown.find("anomaly-text").send_keys(HOSTILE[0])
    assert shown_ranks(shown) == [1]


def tab_to(shown: Browser, condition: str) -> None:
    """Tab until the focused element fulfils an expression of `e`."""
    for _ in range(60):
        shown.press(Keys.TAB)
        if shown.run(f"const e = document.activeElement; return Boolean({condition})"):
            return
    pytest.fail(f"not reached by Tab: {condition}")


@pytest.mark.browser
def test_keyboard_alone(shown: Browser) -> None:
    """Toggle, choices, atlas, filter, sorting and sky are reached by Tab in this order and work by keys."""
    tab_to(shown, "e.id === 'theme'")
    shown.press(Keys.ENTER)
    assert shown.run("return document.documentElement.dataset.theme") == "dark"
    tab_to(shown, "e.id === 'atlas-colour'")
    before = shown.picture("atlas")
    shown.press(Keys.ARROW_DOWN)
    shown.wait("parts.atlas.index === 0")
    assert shown.picture("atlas") != before
    tab_to(shown, "e.id === 'atlas'")
    shown.press("+", "+")
    assert shown.run("return parts.atlas.view.size") == 0.25
    shown.press(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert re.search(r"stars \d", shown.text("atlas-said"))
    at = shown.run("return parts.atlas.view.x")
    ActionChains(shown.driver, duration=0).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert shown.run("return parts.atlas.view.x") > at
    shown.press(Keys.ENTER)
    assert not shown.run("return document.getElementById('atlas-stars').hidden")
    shown.press("0")
    assert shown.run("return parts.atlas.view.size") == 1
    tab_to(shown, "e.closest('#atlas-stars-rows')")
    tab_to(shown, "e.id === 'anomaly-text'")
    shown.press("brighter")
    assert "of 200" in shown.text("anomaly-count")
    tab_to(shown, "e.closest('#anomalies th')")
    shown.press(Keys.ENTER)
    assert shown.run("return document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    tab_to(shown, "e.closest('#anomalies td.star')")
    shown.run("document.getElementById('sky-map').focus()")
    tab_to(shown, "e.id === 'sky-canvas'")
    shown.press(Keys.ARROW_LEFT)
    assert re.search(r"RA \d+.*stars per pixel", shown.text("sky-said"))


@pytest.mark.browser
def test_areas_lie_about_their_curves(shown: Browser) -> None:
    """The areas of a chart are drawn within its axes, where the median runs: no style of the page moves them."""
    script = """
        return [...document.querySelectorAll('svg.chart')].filter((svg) => svg.querySelector('.area')).map((svg) => {
            const box = (e) => e.getBoundingClientRect();
            const [frame, line] = [box(svg.querySelector('.frame')), box(svg.querySelector('.line'))];
            return [...svg.querySelectorAll('path.area')].map(box).every((area) => area.left >= frame.left - 1 &&
                area.right <= frame.right + 1 && Math.abs(area.left - line.left) < 5 &&
                Math.abs(area.right - line.right) < 5);
        });
    """
    found = shown.run(script)
    assert len(found) == 6 and all(found)


@pytest.mark.browser
def test_everything_has_a_name(shown: Browser) -> None:
    """Canvases, drawings and controls say what they are, headings descend one by one, ids are unique."""
    nameless = shown.run("""
        const named = (e) => e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length ||
            e.textContent.trim();
        return [...document.querySelectorAll('canvas, svg, button, input, select, a, [role=region]')]
            .filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 100));
    """)
    assert nameless == []
    levels = shown.run("return [...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = shown.run("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_sideways_scrolling(chromium: Browser, page_path: Path, width: int) -> None:
    """Phone, tablet and desktop show the page in its whole width, with a cell's stars listed too."""
    chromium.media()
    chromium.open(page_path, width)
    chromium.run("parts.atlas.pin({x: .5, y: .5})")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.run("return document.getElementById('atlas').clientWidth") > 0.5 * min(width, 1000)


@pytest.mark.browser
def test_dark_and_light(chromium: Browser, page_path: Path) -> None:
    """The page follows the system's choice, and its button overrides it; the maps are drawn again."""
    background = "getComputedStyle(document.body).backgroundColor"
    chromium.media(scheme="dark")
    chromium.open(page_path)
    assert chromium.run(f"return {background}") == "rgb(20, 23, 26)"
    dark = chromium.picture("atlas")
    chromium.find("theme").click()
    assert chromium.run(f"return {background}") == "rgb(255, 255, 255)"
    assert chromium.picture("atlas") != dark
    assert chromium.text("theme") == "Dark page"


@pytest.mark.browser
def test_print(chromium: Browser, page_path: Path) -> None:
    """On paper a dark page is light, without controls, within the paper's width, maps and table included."""
    chromium.media(scheme="dark")
    chromium.open(page_path)
    chromium.resize(680)
    chromium.media("print", "dark")
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert chromium.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shown = chromium.run(
        "return [...document.querySelectorAll('button, select, input')].filter((e) => e.offsetWidth && "
        "!e.closest('table')).map((e) => e.id)"
    )
    assert shown == []
    assert chromium.run("return document.documentElement.scrollWidth") <= 680
    cut = "return [...document.querySelectorAll('.scroll')].filter((e) => getComputedStyle(e).overflowX !== 'visible')"
    assert chromium.run(f"{cut}.length") == 0  # paper cannot be scrolled
    box = chromium.run("return document.getElementById('atlas').getBoundingClientRect().toJSON()")
    assert box["width"] > 300 and 0.9 < box["height"] / box["width"] < 1.2
    assert (
        chromium.run(
            "return [...document.querySelectorAll('#anomalies td.number')].at(9).getBoundingClientRect().right"
        )
        <= 680
    )
    chromium.run("dispatchEvent(new Event('afterprint'))")
    assert chromium.run("return document.documentElement.dataset.theme") is None


@pytest.mark.browser
def test_figures_are_saved_as_svg(chromium: Browser, page_path: Path, tmp_path: Path) -> None:
    """Each figure becomes a file of its own, in light though the page is dark: lines and letters, only cells pixels."""
    chromium.media(scheme="dark")
    chromium.open(page_path)
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    chromium.driver.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    dark = chromium.picture("atlas")
    buttons = chromium.driver.find_elements(By.CSS_SELECTOR, "button.save")
    captions = chromium.driver.find_elements(By.CSS_SELECTOR, "figure:not(.table) > figcaption")
    assert len(buttons) == len(captions) > 5
    chromium.run("document.querySelectorAll('button.save').forEach((button) => button.click())")
    names = chromium.run(
        "return [...document.querySelectorAll('main figure:not(.table)')].map((f) => f.closest('section').id)"
    )
    for number, (name, caption) in enumerate(zip(names, captions, strict=True), 1):
        path = tmp_path / f"figure-{number}-{name}.svg"
        wait_for(path)
        root = ElementTree.fromstring(path.read_bytes())
        assert root.findtext("{*}desc") == caption.get_property("textContent")
        letters = [text for text in root.iter() if text.tag.endswith("}text") and text.text]
        assert {text.get("font-size") for text in letters} == {"13px"}, "lettering of one size"
        pictures = [image.get("href", "") for image in root.iter() if image.tag.endswith("}image")]
        assert [picture[:22] for picture in pictures] == ["data:image/png;base64,"] * (name in ("latent-plane", "sky"))
        assert not any("var(" in str(value) for one in root.iter() for value in one.attrib.values())
        assert "#14171a" not in path.read_text() and "rgb(20, 23, 26)" not in path.read_text()
    atlas = (tmp_path / "figure-1-latent-plane.svg").read_text()
    assert ">latent 1<" in atlas and ">stars per unit area<" in atlas
    assert chromium.picture("atlas") == dark, "the page itself stays as it was"
    assert chromium.complaints() == []


def wait_for(path: Path) -> None:
    """Until a browser has written a file."""
    end = time.monotonic() + WAIT_SECONDS
    while not (path.exists() and path.read_bytes().endswith(b"</svg>")):
        assert time.monotonic() < end, path
        time.sleep(0.02)


@pytest.mark.browser
def test_lettering_has_one_size(shown: Browser) -> None:
    """Curves, maps, captions, controls and tables of a desktop's page are lettered in one size."""
    sizes = shown.run("""
        const scale = (svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        const size = (e) => parseFloat(getComputedStyle(e).fontSize) * (e.closest('svg') ? scale(e.closest('svg')) : 1);
        const all = [...document.querySelectorAll('svg.chart text, figcaption, label, .data td, .data small')];
        return [parseFloat(lettering()), ...all.filter((e) => e.getClientRects().length).map(size)];
    """)
    assert len(sizes) > 200
    assert max(abs(size - 13) for size in sizes) < 0.1, set(sizes)


@pytest.mark.browser
def test_pairs_of_three_latents(chromium: Browser, tmp_path: Path) -> None:
    """Three latents have three planes to choose from; the chosen colour stays, the ridge is where it is known."""
    path = tmp_path / "index.html"
    report = make_report(simulated_survey(4_000, 3), 128, 64, 500)
    assert report.locus is not None and report.locus.latent is not None
    report.locus.latent[:, 2] = np.nan
    path.write_bytes(render_page(report))
    chromium.media()
    chromium.open(path)
    chromium.choose("atlas-colour", "mean r")
    first = chromium.picture("atlas")
    chromium.choose("atlas-panel", "latent 2 × latent 3")
    chromium.wait("parts.atlas.plane.spec.dimensions[0] === 1")
    assert chromium.picture("atlas") != first
    assert Select(chromium.find("atlas-colour")).first_selected_option.text == "mean r"
    second = chromium.picture("atlas")
    chromium.find("atlas-ridge").click()
    assert chromium.picture("atlas") == second, "a ridge that is not known in this plane is drawn"
    chromium.choose("atlas-panel", "latent 1 × latent 2")
    chromium.wait("parts.atlas.plane.spec.dimensions[0] === 0")
    assert chromium.picture("atlas") != first


@pytest.mark.browser
def test_without_javascript(chromium: Browser, page_path: Path) -> None:
    """Where scripts are off all rows of the table are shown, and a line says what is missing."""
    chromium.media()
    chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    chromium.driver.get(page_path.as_uri())
    assert chromium.find("anomaly-200").is_displayed()
    assert chromium.driver.find_element(By.CSS_SELECTOR, "noscript p").is_displayed()
    assert not chromium.find("anomaly-filter").is_displayed() and not chromium.find("theme").is_displayed()
    chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.browser
def test_full_size_opens_quickly(chromium: Browser, full_size_path: Path) -> None:
    """Opening the page of 100 million stars takes less than 2 s of the browser's time, whoever else computes."""
    chromium.media()
    chromium.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    chromium.open(full_size_path)
    metrics = chromium.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    assert 0.05 < next(one["value"] for one in metrics if one["name"] == "TaskDuration") < 2
    assert int(chromium.run("return parts.atlas.plane.counts.get(32).reduce((a, b) => a + b)")) > 90_000_000


def test_neighbouring_categories_differ() -> None:
    """The colours of twenty clusters can be told apart: no two of them are near each other."""
    colours = np.array([[int(text[k : k + 2], 16) for k in (1, 3, 5)] for text in CATEGORIES])
    assert len(colours) == 20
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(colours, 2)) >= 40
