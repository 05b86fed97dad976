"""What a person sees: Neuroglancer, the listings and Swagger UI in Debian's Chromium."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.chromium import running_chromium
from tests.conftest import CopyDemo, Service, StartService
from tests.datasets import Voxels, boxes
from tests.pictures import screenshot
from tests.processes import PATIENCE_S

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import neuroglancer

pytestmark = pytest.mark.browser

CHROMIUM_OPTIONS = (
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-gpu-watchdog",  # which ends the drawing of all pages when a processor is too busy
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
BRIGHTEST = 5000
SHADER = f"""
#uicontrol invlerp normalized(range=[0, {BRIGHTEST}])
void main() {{ emitGrayscale(normalized()); }}
"""
# client, method, path, status
ACCESS = re.compile(r"neurotrale\.access: \S+ (?P<method>\S+) (?P<path>\S+) (?P<status>\d{3}) ")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium(*CHROMIUM_OPTIONS) as running:
        yield running


@dataclass
class Visit:
    """A page in the browser, and what went on behind it.

    Attributes:
        page: To look at and click on.
        complaints: What it wrote to the console as errors, and scripts that failed.
        origins: Of everything that it loaded.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        def hear(message: Any) -> None:
            # Chromium looks for an icon of its own accord where a page, or a JSON file, names none.
            wanted = not message.location["url"].endswith("/favicon.ico")
            if wanted and message.type in ("error", "warning"):
                self.complaints.append(message.text)

        self.page.on("console", hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda sent: self.origins.add("/".join(sent.url.split("/")[:3])))


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    context.set_default_timeout(1000 * PATIENCE_S)
    yield Visit(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, copy_demo: CopyDemo) -> Path:
    """The demo dataset."""
    return copy_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def service(dataset: Path, start_service: StartService) -> Service:
    return start_service(dataset.parent)


def finest_scale(dataset: Path) -> Voxels:
    scale = json.loads((dataset / "info").read_text())["scales"][0]
    x, y, z = scale["size"]
    voxels = np.zeros((z, y, x), "uint16")
    for name, box in boxes((x, y, z)):
        voxels[box] = tifffile.imread(dataset / scale["key"] / f"{name}.tiff")
    return voxels


# --- Neuroglancer --------------------------------------------------------------------------------


@pytest.fixture
def viewer() -> Iterator[Any]:
    """The viewer that the package `neuroglancer` brings, on a server of its own."""
    neuroglancer.set_server_bind_address("127.0.0.1")
    yield neuroglancer.Viewer()
    neuroglancer.stop()


def look_at(viewer: Any, source: str, z: int) -> None:
    """Show one plane with a pixel for each voxel, on blue, and nothing drawn over it."""
    info = {"names": ["x", "y", "z"], "units": "nm", "scales": [1800, 1800, 2000]}
    with viewer.txn() as state:
        state.dimensions = neuroglancer.CoordinateSpace(**info)
        state.layers["brain"] = neuroglancer.ImageLayer(source=source, shader=SHADER)
        state.layout = "xy"
        state.position = [250, 210, z + 0.5]
        state.cross_section_scale = 1
        state.cross_section_background_color = "#0000ff"
        state.show_axis_lines = False
        state.show_scale_bar = False
        state.show_default_annotations = False


def drawn(viewer: Any) -> Voxels:
    """Wait until every chunk is there, and give the plane as it is drawn: grey, as ``[y, x]``."""
    png = viewer.screenshot().screenshot.image
    red, green, blue = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).transpose(2, 0, 1)
    around = (red == 0) & (green == 0) & (blue == 255)
    rows, columns = (np.flatnonzero(around.any(axis=axis)) for axis in (1, 0))
    inside = ~around[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y, x = np.nonzero(inside)
    y, x = y + rows[0], x + columns[0]
    plane: Voxels = green[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return plane


def likeness(picture: Voxels, plane: Voxels) -> float:
    """Correlate what is drawn with what should be."""
    grey = np.clip(plane / BRIGHTEST, 0, 1) * 255
    return float(np.corrcoef(picture.ravel(), grey.ravel())[0, 1])


@pytest.mark.long
def test_neuroglancer_draws_the_demo_plane_by_plane(
    service: Service, dataset: Path, visit: Visit, viewer: Any, tmp_path: Path
) -> None:
    volume = finest_scale(dataset)
    before = len(service.log())
    pictures: dict[int, Voxels] = {}
    for z in (40, 110):
        look_at(viewer, f"precomputed://{service.url}/{dataset.name}", z)
        if not pictures:
            visit.page.goto(viewer.get_viewer_url())
        pictures[z] = drawn(viewer)
        screenshot(visit.page, path=tmp_path / f"z{z}.png")
    for z, picture in pictures.items():
        assert picture.shape == volume[z].shape
        assert picture.std() > 10
        assert likeness(picture, volume[z]) > 0.99
    assert likeness(pictures[40], volume[110]) < 0.9

    requests = [match.groupdict() for match in ACCESS.finditer(service.log()[before:])]
    chunks = [request for request in requests if "/1_1_1/" in request["path"]]
    assert {request["path"].rpartition("_")[2] for request in chunks} >= {"0-64", "64-128"}
    assert {request["status"] for request in requests} <= {"200", "304"}
    assert visit.origins == {service.url, viewer.get_viewer_url().partition("/v/")[0]}


# --- Pages of the service itself -----------------------------------------------------------------


@pytest.mark.long
def test_links_lead_from_the_index_to_an_annotation_file(
    service: Service, dataset: Path, visit: Visit, tmp_path: Path
) -> None:
    page = visit.page
    page.goto(f"{service.url}/")
    screenshot(page, path=tmp_path / "index.png")
    for link in ("demo-brain/", "annotations/", "x0y0z0/", "fibers.json"):
        page.get_by_role("link", name=link, exact=True).click()
        page.wait_for_url(f"**/{link}")
        if link == "demo-brain/":
            screenshot(page, path=tmp_path / "dataset.png")
    assert page.url == f"{service.url}/demo-brain/annotations/x0y0z0/fibers.json"
    shown = json.loads(page.inner_text("pre"))
    assert shown == json.loads((dataset / "annotations/x0y0z0/fibers.json").read_text())
    page.go_back()
    page.get_by_role("link", name="../", exact=True).click()
    page.wait_for_url("**/demo-brain/annotations/")
    assert visit.complaints == []
    assert visit.origins == {service.url}


def test_index_leads_to_the_documentation(service: Service, visit: Visit) -> None:
    visit.page.goto(f"{service.url}/index.html")
    visit.page.get_by_role("link", name="API documentation").click()
    visit.page.wait_for_url(f"{service.url}/api/")
    visit.page.wait_for_selector(".opblock")
    assert visit.complaints == []


@pytest.mark.long
def test_documentation_shows_and_runs_every_operation(
    service: Service, visit: Visit, tmp_path: Path
) -> None:
    page = visit.page
    page.goto(f"{service.url}/api/")
    page.wait_for_selector(".opblock")
    paths = page.request.get(f"{service.url}/api/openapi.json").json()["paths"]
    assert page.locator(".opblock").count() == sum(len(operations) for operations in paths.values())
    health = page.locator(".opblock", has_text="/api/health")
    health.click()
    health.get_by_role("button", name="Try it out").click()
    health.get_by_role("button", name="Execute").click()
    answer = health.locator(".live-responses-table")
    answer.wait_for()
    assert answer.locator(".response .response-col_status").inner_text().startswith("200")
    assert '"status": "ok"' in answer.inner_text()
    screenshot(page, path=tmp_path / "api.png", full_page=True)
    assert visit.complaints == []
    assert visit.origins == {service.url}


# --- Tokens --------------------------------------------------------------------------------------

TOKEN = "looks-but-does-not-touch"


@pytest.fixture(scope="module")
def guarded(
    dataset: Path, start_service: StartService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that asks for a token; at its end, its log must not hold it."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"guest:ro:{TOKEN}\n")
    service = start_service(dataset.parent, "--token-file", str(tokens))
    yield service
    service.stop()
    assert TOKEN not in service.log()


@pytest.mark.long
def test_person_with_a_token_stays_behind_its_prefix(
    guarded: Service, visit: Visit, tmp_path: Path
) -> None:
    inside = f"{guarded.url}/token/{TOKEN}/"
    page, sent = visit.page, list[str]()
    page.goto(f"{guarded.url}/?token={TOKEN}")
    assert page.url == inside
    page.on("request", lambda request: sent.append(request.url))
    page.get_by_role("link", name="demo-brain/", exact=True).click()
    page.get_by_role("link", name="annotations/", exact=True).click()
    page.get_by_role("link", name="../", exact=True).click()
    page.wait_for_url(f"{inside}demo-brain/")
    page.get_by_role("link", name="../", exact=True).click()
    page.get_by_role("link", name="API documentation").click()
    page.wait_for_selector(".opblock")
    document = page.locator(".opblock", has_text="/api/openapi.json")
    document.click()
    document.get_by_role("button", name="Try it out").click()
    document.get_by_role("button", name="Execute").click()
    answer = document.locator(".live-responses-table")
    answer.wait_for()
    assert answer.locator(".response .response-col_status").inner_text().startswith("200")
    screenshot(page, path=tmp_path / "api.png", full_page=True)
    assert sent.count(f"{inside}api/openapi.json") == 2
    assert [url for url in sent if not url.startswith((inside, "data:"))] == []
    assert visit.complaints == []


@pytest.mark.parametrize(
    ("source", "logged"),
    [
        pytest.param(
            "precomputed://{url}/token/{token}/demo-brain",
            "/token/***/demo-brain/info",
            id="prefix",
        ),
        pytest.param(
            "{url}/demo-brain/?token={token}|neuroglancer-precomputed:",
            "/demo-brain/info",
            id="query",
            marks=pytest.mark.long,
        ),
    ],
)
def test_neuroglancer_draws_with_a_token(
    guarded: Service, dataset: Path, visit: Visit, viewer: Any, source: str, logged: str
) -> None:
    before = len(guarded.log())
    look_at(viewer, source.format(url=guarded.url, token=TOKEN), 40)
    visit.page.goto(viewer.get_viewer_url())
    assert likeness(drawn(viewer), finest_scale(dataset)[40]) > 0.99
    requests = [match.groupdict() for match in ACCESS.finditer(guarded.log()[before:])]
    assert logged in {request["path"] for request in requests}
    assert {request["status"] for request in requests} <= {"200", "304"}
