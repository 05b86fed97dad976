"""Annotations in the real Neuroglancer, over the volume, in Debian's Chromium."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import Service, StartService
from tests.datasets import Voxels, info_of, write_chunks
from tests.pictures import screenshot
from tests.shapes import make_many, write
from tests.test_browser import ACCESS, Visit, browser, viewer, visit  # noqa: F401  fixtures

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import neuroglancer
    from neuroglancer.read_precomputed_annotations import AnnotationReader

pytestmark = pytest.mark.browser

SIZE_VX = (240, 200, 40)
Z = 20
CENTRE = (450, 350)
"""The middle of the browser's window in pixels."""

ANNOTATIONS: list[dict[str, Any]] = [
    {"id": "a point", "type": "point", "anntype": "neuron", "point": [40, 50, Z + 0.5]},
    {"id": "a line", "type": "line", "pointA": [80, 30, Z + 0.5], "pointB": [120, 30, Z + 0.5]},
    {
        "id": "a box",
        "type": "axis_aligned_bounding_box",
        "pointA": [140, 40, Z - 5],
        "pointB": [180, 80, Z + 5],
    },
    {"id": "a ball", "type": "ellipsoid", "center": [60, 140, Z + 0.5], "radii": [20, 10, 5]},
    {
        "id": "a fiber",
        "type": "linestring",
        "points": [[120, 120, Z + 0.5], [150, 120, Z + 0.5], [150, 180, Z + 0.5]],
    },
    {
        "id": "a contour",
        "type": "polygon",
        "points": [[180, 110, Z + 0.5], [220, 110, Z + 0.5], [220, 150, Z + 0.5]],
    },
]
COLOURS = {
    "points": "#ff0000",
    "lines": "#00ff00",
    "boxes": "#ffff00",
    "ellipsoids": "#ff00ff",
    "polylines": "#00ffff",
}
SHADERS = dict.fromkeys(COLOURS, "void main() { setColor(defaultColor()); }")
SHADERS["points"] = """void main() {
  setColor(defaultColor()); setPointMarkerSize(7.0); setPointMarkerBorderWidth(0.0); }"""
SHADERS["lines"] = "void main() { setColor(defaultColor()); setLineWidth(3.0); }"
SHADERS["polylines"] = SHADERS["lines"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A flat grey volume with an annotation of each type, and a file with many points."""
    dataset = tmp_path_factory.mktemp("drawn") / "brain"
    voxels = np.full(SIZE_VX[::-1], 100, "uint8")
    write_chunks(dataset / "1_1_1", voxels)
    (dataset / "info").write_text(json.dumps(info_of(voxels, resolution=[1800, 1800, 2000])))
    write(dataset / "annotations/x0y0z0/all.json", ANNOTATIONS)
    write(dataset / "annotations/x0y0z0/many.json", make_many("point", 30_000, SIZE_VX))
    return start_service(dataset.parent)


def look(viewer: Any, service: Service, file: str, kinds: list[str], **state_of: Any) -> None:  # noqa: F811
    source = f"precomputed://{service.url}/brain"
    with viewer.txn() as state:
        state.dimensions = neuroglancer.CoordinateSpace(
            names=["x", "y", "z"], units="nm", scales=[1800, 1800, 2000]
        )
        state.layers["brain"] = neuroglancer.ImageLayer(
            source=source, shader="void main() { emitGrayscale(100.0 / 255.0); }"
        )
        for kind in kinds:
            state.layers[kind] = neuroglancer.AnnotationLayer(
                source=f"{source}/annotations/x0y0z0/{file}.json/layers/{kind}",
                annotation_color=COLOURS[kind],
                shader=SHADERS[kind],
            )
        state.layout = "xy"
        state.position = [120, 100, Z + 0.5]
        state.cross_section_scale = 1
        state.cross_section_background_color = "#0000ff"
        state.show_axis_lines = False
        state.show_scale_bar = False
        state.show_default_annotations = False
        for key, value in state_of.items():
            setattr(state, key, value)


def picture(viewer: Any) -> Voxels:  # noqa: F811
    """Wait until all is drawn, and give the volume's plane as ``[y, x, colour]``."""
    png = viewer.screenshot().screenshot.image
    pixels: Voxels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    outside = (pixels == (0, 0, 255)).all(axis=2)
    rows, columns = (np.flatnonzero(outside.any(axis=axis)) for axis in (1, 0))  # without its frame
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y, x = np.nonzero(~outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    plane: Voxels = pixels[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return plane


def colour(text: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(text[1:]))


GREY = (100, 100, 100)
BALL = (178, 50, 178)
"""Ellipsoids are drawn half transparent."""


@pytest.mark.long
def test_every_kind_is_drawn_over_the_volume_where_it_must_be(
    service: Service,
    visit: Visit,  # noqa: F811
    viewer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    look(viewer, service, "all", list(COLOURS))
    visit.page.goto(viewer.get_viewer_url())
    plane = picture(viewer)
    screenshot(visit.page, path=tmp_path / "kinds.png")
    assert plane.shape == (SIZE_VX[1], SIZE_VX[0], 3)
    at = {
        "points": [(40, 50)],
        "lines": [(90, 30), (110, 30)],
        "boxes": [(160, 40), (160, 80), (140, 60), (180, 60)],
        "ellipsoids": [(60, 140), (45, 140), (60, 133), (75, 140)],
        # The last one is on the side that closes the polygon.
        "polylines": [(135, 120), (150, 150), (200, 110), (220, 130), (200, 130)],
    }
    for kind, places in at.items():
        for x, y in places:
            near = plane[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
            expected = BALL if kind == "ellipsoids" else colour(COLOURS[kind])
            assert (near == expected).all(axis=1).any(), (kind, x, y, near)
    for x, y in [(20, 20), (100, 60), (160, 60), (60, 170), (130, 150), (210, 115), (230, 190)]:
        assert tuple(plane[y, x]) == GREY, (x, y)
    coloured = (plane != GREY).any(axis=2)
    assert coloured.mean() < 0.08
    assert visit.complaints == []


@pytest.mark.long
def test_hovering_shows_the_annotation_s_own_id(
    service: Service,
    visit: Visit,  # noqa: F811
    viewer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    look(viewer, service, "all", ["points"], position=[40, 50, Z + 0.5])
    with viewer.txn() as state:
        state.selected_layer = neuroglancer.SelectedLayerState(layer="points", visible=False)
    page = visit.page
    page.goto(viewer.get_viewer_url())
    viewer.screenshot()
    panel = page.locator(".neuroglancer-rendered-data-panel").first.bounding_box()
    assert panel is not None
    x, y = panel["x"] + panel["width"] / 2, panel["y"] + panel["height"] / 2
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    viewer.screenshot()  # what the pointer is over is known once it is drawn
    page.keyboard.down("Control")
    page.mouse.click(x, y, button="right")
    page.keyboard.up("Control")
    page.wait_for_selector(".neuroglancer-annotation-property-value")
    screenshot(page, path=tmp_path / "hover.png")
    values = page.locator(".neuroglancer-annotation-property-value").all_inner_texts()
    assert any(value.startswith("a point (") for value in values), values
    assert any(value.startswith("neuron (") for value in values), values
    assert "(none) (0)" in values  # no description


def requested(service: Service, before: int) -> list[str]:
    found = [match.groupdict() for match in ACCESS.finditer(service.log()[before:])]
    assert {one["status"] for one in found if "/many.json/" in one["path"]} <= {"200", "304"}
    return [one["path"] for one in found if "/spatial" in one["path"]]


@pytest.mark.long
def test_many_points_are_drawn_and_only_the_cells_in_view_are_asked_for(
    service: Service,
    visit: Visit,  # noqa: F811
    viewer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    info = requests.get(
        f"{service.url}/brain/annotations/x0y0z0/many.json/layers/points/info"
    ).json()
    assert len(info["spatial"]) > 2
    before = len(service.log())
    look(viewer, service, "many", ["points"])
    visit.page.goto(viewer.get_viewer_url())
    everywhere = picture(viewer)
    screenshot(visit.page, path=tmp_path / "many.png")
    red = (everywhere == colour(COLOURS["points"])).all(axis=2)
    assert red[:100, :120].any()
    assert red[100:, 120:].any()
    wide = requested(service, before)
    assert any("/spatial0/0_0_0" in path for path in wide)

    before = len(service.log())
    look(viewer, service, "many", ["points"], position=[30, 30, 5], cross_section_scale=0.05)
    viewer.screenshot()
    screenshot(visit.page, path=tmp_path / "near.png")
    near = requested(service, before)
    finest = len(info["spatial"]) - 1
    cells = [path for path in near if f"/spatial{finest}/" in path]
    assert cells
    grid = info["spatial"][finest]["grid_shape"]
    assert len(cells) < np.prod(grid) / 2
    size = info["spatial"][finest]["chunk_size"]
    for path in cells:
        x, y, _ = map(int, path.split("?")[0].rpartition("/")[2].split("_"))
        assert abs((x + 0.5) * size[0] - 30) < 2 * size[0] + 25
        assert abs((y + 0.5) * size[1] - 30) < 2 * size[1] + 20
    assert visit.complaints == []


# --- The package `neuroglancer` as a reader -------------------------------------------------------


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.quick(1)
def test_neuroglancer_s_own_reader_reads_the_same(service: Service, kind: str) -> None:
    url = f"{service.url}/brain/annotations/x0y0z0/all.json/layers/{kind}/"
    reader = AnnotationReader(url)
    found = reader.spatial[0][0, 0, 0]
    assert len(found) == (2 if kind == "polylines" else 1)
    for annotation in found:
        one = reader.by_id[int(annotation.id)]
        by_id = one.to_json()
        assert by_id.pop("segments") == []
        assert repr(by_id) == repr(annotation.to_json())  # as text: NaN equals NaN
        label = dict(
            zip(reader.properties[0].enum_values, reader.properties[0].enum_labels, strict=True)
        )
        id_ = label[int(annotation.props[0])]
        (expected,) = [a for a in ANNOTATIONS if a["id"] == id_]
        keys = ("point", "pointA", "center", "points")
        given, shown = (
            next(found[key] for key in keys if key in found)
            for found in (expected, annotation.to_json())
        )
        closing = given[:1] if expected["type"] == "polygon" else []
        assert np.array(shown).tolist() == [*given, *closing]
