"""The viewer that the service brings, against the service itself, in Debian's Chromium."""

# ruff: noqa: F401, F811 - fixtures of another module

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from neurotrale.datasets.viewer_state import plain_shader
from neurotrale.precomputed.info import parse_info
from tests.conftest import Service, StartService
from tests.datasets import Voxels, info_of, write_chunks
from tests.pictures import screenshot
from tests.processes import PATIENCE_S, eventually
from tests.test_browser import (
    ACCESS,
    TOKEN,
    Visit,
    browser,
    dataset,
    finest_scale,
    guarded,
    service,
    visit,
)

pytestmark = pytest.mark.browser

BACKGROUND = (0, 0, 255)
ONE_PLANE = {
    "layout": "xy",
    "crossSectionScale": 1,
    "crossSectionBackgroundColor": "#0000ff",
    "showAxisLines": False,
    "showScaleBar": False,
    "showDefaultAnnotations": False,
}


def state_of(page: Page) -> dict[str, Any]:
    """Read the viewer's state from its URL."""
    found: dict[str, Any] = json.loads(unquote(page.url.partition("#!")[2]))
    return found


def show(page: Page, viewer_url: str, state: dict[str, Any]) -> None:
    """Have the viewer show a state, and wait until it is drawn."""
    page.goto("about:blank")  # a change behind the # alone would not start it anew
    page.goto(f"{viewer_url}#!{quote(json.dumps(state))}")
    wait_until_drawn(page)


def wait_until(page: Page, expression: str) -> None:
    """Wait for a condition in the page, whose policy forbids Playwright's own way to do so."""
    until = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression):
        assert time.monotonic() < until, f"in vain: {expression}"
        page.wait_for_timeout(50)


def wait_until_drawn(page: Page) -> None:
    """Wait until the viewer has asked for all that it shows, has it, and has drawn it."""
    wait_until(page, "window.viewer !== undefined && viewer.isReady()")
    page.wait_for_timeout(300)
    wait_until(page, "viewer.isReady()")
    if page.evaluate("viewer.display.gl.isContextLost()"):  # Chromium's, on a busy processor
        page.reload()
        wait_until(page, "window.viewer !== undefined && viewer.isReady()")
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def pixels_of(page: Page) -> Voxels:
    """The data panel, as ``[y, x, colour]``."""
    panel = page.locator(".neuroglancer-rendered-data-panel").first
    return np.asarray(Image.open(io.BytesIO(screenshot(panel))).convert("RGB"))


def plane_of(page: Page, width: int, height: int) -> Voxels:
    """What is drawn of a plane of this size around the middle, as ``[y, x, colour]``."""
    pixels = pixels_of(page)
    top, left = pixels.shape[0] // 2 - height // 2, pixels.shape[1] // 2 - width // 2
    return pixels[top : top + height, left : left + width]


def complaints_of(page: Page) -> list[str]:
    """What the viewer itself tells of trouble."""
    return page.locator("#statusContainer, .neuroglancer-status-container").all_inner_texts()


def likeness(drawn: Voxels, plane: Voxels, window: list[float]) -> float:
    low, high = window
    grey = np.clip((plane.astype(float) - low) / (high - low), 0, 1) * 255
    return float(np.corrcoef(drawn[..., 1].ravel(), grey.ravel())[0, 1])


SESSION = re.compile("/as/(s-[A-Za-z0-9_-]{16})(?=/)")


def session_of(url: str) -> str:
    """Give the session in a URL, which every 'Open' makes; "" for none."""
    match = SESSION.search(url)
    return match[1] if match else ""


def without_session(url: str) -> str:
    return SESSION.sub("", url)


def opened(page: Page, url: str, name: str) -> dict[str, Any]:
    """Click on 'Open' of a dataset on the index page; give the state that it leads to."""
    page.goto(url)
    card = page.locator(".dataset", has_text=name)
    card.get_by_role("link", name="Open", exact=True).click()
    page.wait_for_url("**/viewer/#!*")
    wait_until_drawn(page)
    return state_of(page)


# --- Opening a dataset --------------------------------------------------------------------------


def check_opened(page: Page, base: str, dataset: Path) -> None:
    state = opened(page, f"{base}/", dataset.name)
    assert without_session(page.url).startswith(f"{base}/viewer/#!")
    source = state["layers"][0]["source"]
    assert without_session(source) == f"precomputed://{base}/{dataset.name}"
    assert session_of(source) == session_of(page.url) != ""
    window = state["layers"][0]["shaderControls"]["normalized"]["range"]
    volume = finest_scale(dataset)
    z = int(state["position"][2])
    # The window spans what is there: neither nothing nor all is black or white.
    assert 0 <= window[0] < np.percentile(volume, 50) < window[1] <= volume.max()
    alone = {"layers": state["layers"][:1], "position": [250, 210, z + 0.5]}
    show(page, f"{base}/viewer/", {**state, **ONE_PLANE, **alone})
    drawn = plane_of(page, 500, 420)
    assert likeness(drawn, volume[z], window) > 0.99


@pytest.mark.long
def test_open_shows_the_volume_from_the_service_alone(
    service: Service,
    dataset: Path,
    visit: Visit,
    tmp_path: Path,
) -> None:
    page = visit.page
    state = opened(page, f"{service.url}/", dataset.name)
    screenshot(page, path=tmp_path / "opened.png")
    assert state["layout"] == "4panel"
    assert [round(scale, 12) for scale, unit in state["dimensions"].values()] == [
        1.8e-6,
        1.8e-6,
        2e-6,
    ]
    assert state["position"] == [250.5, 210.5, 75.5]
    check_opened(page, service.url, dataset)
    assert visit.complaints == []
    assert visit.origins <= {service.url, "data:"}


@pytest.mark.long
def test_what_neurotrale_is_given_draws_the_same_volume(
    service: Service, dataset: Path, visit: Visit
) -> None:
    """Its plain shader, and voxels of 1 nm; this viewer understands them, too."""
    page = visit.page
    window = opened(page, f"{service.url}/", dataset.name)["layers"][0]["shaderControls"][
        "normalized"
    ]["range"]
    session = session_of(page.url)
    info = parse_info((dataset / "info").read_bytes())
    layer = {
        "type": "image",
        "name": "volume",
        "source": f"precomputed://{service.url}/as/{session}/voxels/{dataset.name}",
        "shader": plain_shader(info, [(int(window[0]), int(window[1]))]),
    }
    volume = finest_scale(dataset)
    z = volume.shape[0] // 2
    state = {
        "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
        "position": [250, 210, z + 0.5],
        "layers": [layer],
        **ONE_PLANE,
    }
    show(page, f"{service.url}/viewer/", state)
    assert likeness(plane_of(page, 500, 420), volume[z], window) > 0.99
    assert visit.complaints == []


@pytest.mark.long
def test_open_stays_below_a_token(
    guarded: Service,
    dataset: Path,
    visit: Visit,
) -> None:
    inside = f"{guarded.url}/token/{TOKEN}"
    sent: list[str] = []
    visit.page.on("request", lambda request: sent.append(request.url))
    check_opened(visit.page, inside, dataset)
    assert [url for url in sent if not url.startswith((inside, "data:", "blob:", "about:"))] == []
    assert visit.complaints == []


def test_open_draws_the_annotations_over_the_volume(
    service: Service, dataset: Path, visit: Visit
) -> None:
    state = opened(visit.page, f"{service.url}/", dataset.name)
    assert [layer["name"] for layer in state["layers"]] == ["demo-brain", "polylines", "points"]
    shown = {**state, **ONE_PLANE, "layers": state["layers"][1:]}
    assert shown["layers"][1]["annotationColor"] == "#ffd400"
    points = json.loads((dataset / "annotations/x0y0z0/centroids.json").read_text())
    x, y, z = next(p["point"] for p in points if 20 < p["point"][0] < 230)
    show(visit.page, f"{service.url}/viewer/", {**shown, "position": [x, y, z]})

    began = time.monotonic()

    def with_point() -> list[Voxels]:
        nonlocal began
        if time.monotonic() > began + PATIENCE_S / 3:  # a browser that stopped drawing, once seen
            began = time.monotonic()
            visit.page.reload()
        wait_until_drawn(visit.page)
        plane = plane_of(visit.page, 400, 400)
        return [plane] if tuple(map(int, plane[200, 200])) == (255, 212, 0) else []

    (plane,) = eventually(with_point, "the point is drawn over the fibers")
    red, green, _ = plane.transpose(2, 0, 1)  # fibers are greenish, on blue, the paler the deeper
    assert ((red < 60) & (green > 100)).sum() > 200
    assert visit.complaints == []


@pytest.mark.long
@pytest.mark.parametrize("size", [(900, 700), (1600, 900), (600, 900)], ids=str)
def test_open_fits_the_volume_into_the_window(
    service: Service,
    dataset: Path,
    visit: Visit,
    size: tuple[int, int],
) -> None:
    visit.page.set_viewport_size({"width": size[0], "height": size[1]})
    scale = opened(visit.page, f"{service.url}/", dataset.name)["crossSectionScale"]
    height, width, _ = pixels_of(visit.page).shape
    filled = [500 / scale / width, 420 / scale / height]
    assert 0.6 < max(filled) <= 1


@pytest.mark.long
def test_viewer_can_be_loaded_again_and_shared(
    service: Service,
    dataset: Path,
    visit: Visit,
) -> None:
    page = visit.page
    state = opened(page, f"{service.url}/", dataset.name)
    page.reload()
    wait_until_drawn(page)
    assert without_session(page.url).startswith(f"{service.url}/viewer/#!")
    assert state_of(page)["layers"] == state["layers"]
    page.go_back()
    page.wait_for_url(f"{service.url}/")
    assert visit.complaints == []


@pytest.mark.long
def test_viewer_without_a_state_keeps_what_is_done_in_its_url(
    service: Service,
    visit: Visit,
) -> None:
    page = visit.page
    page.goto(f"{service.url}/viewer")
    wait_until(page, "window.viewer !== undefined")
    page.evaluate("viewer.showAxisLines.value = false")
    page.wait_for_url("**/viewer/#!*showAxisLines*")
    assert visit.complaints == []


# --- Segmentations, holes ------------------------------------------------------------------------


SHAPE_ZYX = (8, 150, 200)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A segmentation of three labels, side by side; 0 around them."""
    voxels = np.zeros(SHAPE_ZYX, "uint32")
    for number, label in enumerate((7, 70_000, 4_000_000_000)):
        voxels[:, 40:100, 20 + 60 * number : 60 + 60 * number] = label
    path = tmp_path / "segmented" / "labels"
    write_chunks(path / "1_1_1", voxels)
    (path / "info").write_text(json.dumps({**info_of(voxels), "type": "segmentation"}))
    return path


@pytest.mark.long
def test_open_shows_a_segmentation_in_a_colour_for_each_label(
    labels: Path, start_service: StartService, visit: Visit
) -> None:
    own = start_service(labels.parent)
    state = opened(visit.page, f"{own.url}/", "labels")
    assert state["layers"][0]["type"] == "segmentation"
    show(visit.page, f"{own.url}/viewer/", {**state, **ONE_PLANE})
    pixels = plane_of(visit.page, SHAPE_ZYX[2], SHAPE_ZYX[1])
    seen = [tuple(map(int, pixels[70, 40 + 60 * number])) for number in range(3)]
    assert len({*seen, BACKGROUND, (0, 0, 0)}) == 5
    for number, colour in enumerate(seen):
        x = 20 + 60 * number
        assert (pixels[45:95, x + 5 : x + 35] == colour).all()
    assert visit.complaints == []


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A volume of one brightness, in 4 x 3 chunks a plane and 2 planes of chunks."""
    voxels = np.full((128, 192, 256), 200, "uint8")
    voxels[..., ::2, ::2] = 150  # contrast needs two values
    path = tmp_path / "flat" / "brain"
    write_chunks(path / "1_1_1", voxels)
    (path / "info").write_text(json.dumps(info_of(voxels)))
    return path


def flat_state(own: Service, z: int) -> dict[str, Any]:
    """Show the volume in green, so that black holes and the background differ from it."""
    return {
        **ONE_PLANE,
        "dimensions": {"x": [1e-6, "m"], "y": [1e-6, "m"], "z": [2e-6, "m"]},
        "position": [128, 96, z + 0.5],
        "layers": [
            {
                "type": "image",
                "name": "brain",
                "source": f"precomputed://{own.url}/brain",
                "opacity": 1,
                "shader": "void main() {"
                " emitRGB(vec3(0, toNormalized(getDataValue()) > 0.2 ? 1 : 0, 0)); }",
            }
        ],
    }


GREEN = (0, 255, 0)


def green_chunks(page: Page) -> list[list[bool]]:
    """Which of the 3 x 4 chunks of the plane are drawn."""
    pixels = plane_of(page, 256, 192)
    return [
        [bool((pixels[64 * y + 8 :, 64 * x + 8 :][:48, :48] == GREEN).all()) for x in range(4)]
        for y in range(3)
    ]


def statuses(own: Service) -> list[str]:
    return [match["status"] for match in ACCESS.finditer(own.log()) if "/1_1_1/" in match["path"]]


@pytest.mark.long
def test_missing_chunk_is_a_hole_and_no_error(
    flat: Path, start_service: StartService, visit: Visit
) -> None:
    (flat / "1_1_1" / "64-128_64-128_0-64.tiff").unlink()
    own = start_service(flat.parent)
    show(visit.page, f"{own.url}/viewer/", flat_state(own, 10))
    drawn = [[True] * 4, [True, False, True, True], [True] * 4]
    assert green_chunks(visit.page) == drawn
    assert "".join(complaints_of(visit.page)).strip() == ""
    assert {"200", "404"} == set(statuses(own))
    # Chromium itself tells of the 404; the viewer does not.
    assert all("404" in complaint for complaint in visit.complaints)


# --- Trouble -------------------------------------------------------------------------------------


@pytest.mark.long
def test_viewer_recovers_from_overload(
    flat: Path, start_service: StartService, visit: Visit
) -> None:
    calm = start_service(flat.parent)
    busy = start_service(flat.parent, "--threads", "1", "--queue", "1")
    show(visit.page, f"{calm.url}/viewer/", flat_state(busy, 10))
    until = time.monotonic() + PATIENCE_S
    while green_chunks(visit.page) != [[True] * 4] * 3:
        assert time.monotonic() < until, "the viewer gave up"
        visit.page.wait_for_timeout(200)
    assert "503" in busy.log()
    assert "".join(complaints_of(visit.page)).strip() == ""


@pytest.mark.long
def test_viewer_goes_on_after_a_restart_of_the_service(
    flat: Path, start_service: StartService, visit: Visit
) -> None:
    first = start_service(flat.parent)
    page = visit.page
    show(page, f"{first.url}/viewer/", flat_state(first, 10))
    assert green_chunks(page) == [[True] * 4] * 3
    assert first.stop() == 0
    second = start_service(flat.parent, "--port", str(first.port))
    assert second.url == first.url
    page.evaluate("viewer.position.value = Float32Array.of(128, 96, 100.5)")
    wait_until(page, "viewer.position.value[2] === 100.5")
    wait_until_drawn(page)
    assert green_chunks(page) == [[True] * 4] * 3
    assert statuses(second) == ["200"] * len(statuses(second))
    assert len(statuses(second)) >= 12


# --- The source box ------------------------------------------------------------------------------


COMPLETION = ".neuroglancer-multiline-autocomplete-completion"


@pytest.fixture
def several(tmp_path: Path) -> Path:
    root = tmp_path / "several"
    for name in ("brain-a", "brain-b", "lab/mouse 3", "other"):
        voxels = np.full((4, 4, 4), 9, "uint8")
        write_chunks(root / name / "1_1_1", voxels)
        (root / name / "info").write_text(json.dumps(info_of(voxels)))
    return root


def completions(page: Page, text: str) -> set[str]:
    """Type a source into the box of a new layer; give what the viewer offers."""
    page.locator(".neuroglancer-layer-add-button").first.click()
    box = page.locator(".neuroglancer-multiline-autocomplete-input").first
    box.focus()
    page.keyboard.type(text)
    offered = page.locator(COMPLETION)
    offered.first.wait_for()
    page.wait_for_timeout(500)
    return {re.sub(r"\s+", " ", entry).strip() for entry in offered.all_inner_texts()}


@pytest.mark.long
def test_source_box_completes_names_of_datasets(
    several: Path, start_service: StartService, visit: Visit
) -> None:
    own = start_service(several)
    visit.page.goto(f"{own.url}/viewer/")
    wait_until(visit.page, "window.viewer !== undefined")
    shown = completions(visit.page, f"precomputed://{own.url}/")
    assert {"brain-a/", "brain-b/", "lab/", "lab/mouse%203/", "other/"} <= shown
    # Beside what is in the data root only the documentation, which is linked to from the page.
    assert shown <= {"brain-a/", "brain-b/", "lab/", "lab/mouse%203/", "other/", "api/"}
    visit.page.keyboard.type("brain-")
    wait_until(visit.page, f"document.querySelectorAll('{COMPLETION}').length === 2")
    assert visit.complaints == []
