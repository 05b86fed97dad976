"""What the service tells of datasets: facts, counts, pictures, the state of the viewer."""

from __future__ import annotations

import gzip
import html
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from neurotrale.datasets.viewer_state import viewer_state
from neurotrale.web.webapps import VIEWER_PACKAGE, viewer_directory
from tests.conftest import Service, StartService, emptied
from tests.datasets import Voxels, info_of, write_chunks, write_dataset
from tests.processes import REPOSITORY, neurotrale, run, running

LABELS = (7, 70_000, 4_000_000_000)


@pytest.fixture
def data_root(shared_service: Service) -> Path:
    return emptied(shared_service)


@pytest.fixture
def service(shared_service: Service, dataset: Path) -> Service:
    return shared_service


def get(service: Service, path: str, **more: Any) -> requests.Response:
    return requests.get(f"{service.url}{path}", timeout=60, **more)


def facts(service: Service, name: str) -> dict[str, Any]:
    answer = get(service, f"/api/datasets/{name}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-cache"
    told: dict[str, Any] = answer.json()
    return told


def picture(service: Service, name: str) -> Voxels:
    answer = get(service, f"/api/datasets/{name}/preview.png")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def state(service: Service, name: str, **params: str) -> dict[str, Any]:
    answer = get(service, f"/api/datasets/{name}/open", params=params)
    assert answer.status_code == 200, answer.text
    match = re.search(r'data-state="([^"]*)"', answer.text)
    assert match is not None
    read: dict[str, Any] = json.loads(html.unescape(match[1]))
    return read


def write_volume(path: Path, voxels: Voxels, **info: Any) -> Path:
    """Write a volume ``[z, y, x]`` in chunks of 32 voxels, with more in its `info`."""
    write_chunks(path / "1_1_1", voxels, 32)
    (path / "info").write_text(json.dumps({**info_of(voxels, 32), **info}))
    return path


def write_annotations(dataset: Path, block: str, leaf: str, annotations: object) -> Path:
    path = dataset / "annotations" / block / leaf
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(annotations))
    return path


# --- facts ---------------------------------------------------------------------------------------


def test_dataset_has_its_size_in_voxels_and_millimetres(service: Service) -> None:
    told = facts(service, "brain")
    assert told["name"] == "brain"
    assert told["preview"] is True
    assert told["volume"] == {
        "type": "image",
        "data_type": "uint16",
        "channels": 1,
        "size_vx": [100, 90, 70],
        "size_mm": [0.1, 0.09, 0.14],
        "voxel_nm": [1000.0, 1000.0, 2000.0],
        "levels": [
            {
                "key": "1_1_1",
                "size_vx": [100, 90, 70],
                "voxel_nm": [1000.0, 1000.0, 2000.0],
                "chunk_vx": [64, 64, 64],
                "encoding": "raw",
                "sharded": False,
                "layout": "",
            }
        ],
    }


def test_dataset_counts_its_annotations_by_kind(service: Service, dataset: Path) -> None:
    point = {"type": "point", "anntype": "neuron", "point": [1, 2, 3]}
    reviewed = [{"id": str(n), **point, "reviewed": n < 3} for n in range(5)]
    odd = [
        {"id": "no type"},
        {"id": "in capitals", "type": "POINT", "anntype": "neuron", "reviewed": True},
        {"id": "of another program", "type": 5, "anntype": ["a"], "reviewed": 1},
    ]
    write_annotations(dataset, "x1y0z0", "centroids.json", reviewed)
    write_annotations(dataset, "x1y0z0", "odd.json", odd)
    told = facts(service, "brain")["annotations"]
    kinds = {(k["anntype"], k["type"]): (k["count"], k["reviewed"]) for k in told["kinds"]}
    assert kinds == {
        ("neuron", "point"): (7, 4),
        ("", ""): (2, 0),
        ("axon", "linestring"): (1, 0),
        ("glia", "polygon"): (1, 0),
    }
    assert told["kinds"][0]["anntype"] == "neuron"
    assert (told["files"], told["count"], told["reviewed"]) == (3, 11, 4)
    assert told["damaged"] == []


def test_counts_follow_each_edit(service: Service, dataset: Path) -> None:
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    before = facts(service, "brain")["annotations"]["count"]
    body = {"type": "point", "point": [1, 2, 3], "reviewed": True}
    assert requests.patch(url, params={"id": "new"}, json=body, timeout=60).status_code == 201
    told = facts(service, "brain")["annotations"]
    assert (told["count"], told["reviewed"]) == (before + 1, 1)
    (dataset / "annotations/x0y0z0/fibers.json").unlink()
    assert facts(service, "brain")["annotations"]["count"] == 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[{", '{"a": []}'], ids=repr)
def test_damaged_annotation_file_is_named_and_the_others_count(
    service: Service, dataset: Path, content: str
) -> None:
    (dataset / "annotations/x0y0z0/broken.json").write_text(content)
    told = facts(service, "brain")["annotations"]
    assert told["damaged"] == ["brain/annotations/x0y0z0/broken.json"]
    assert told["count"] == 3


def test_many_kinds_of_annotations_are_counted_as_one_beyond_the_frequent(
    service: Service, dataset: Path
) -> None:
    many = [{"id": str(n), "anntype": f"kind {n}", "reviewed": True} for n in range(500)]
    write_annotations(dataset, "x0y0z0", "many.json", many)
    told = facts(service, "brain")["annotations"]
    assert len(told["kinds"]) < 50
    assert sum(kind["count"] for kind in told["kinds"]) == 503
    assert sum(kind["reviewed"] for kind in told["kinds"]) == 500


def test_dataset_of_annotations_alone_has_no_volume(service: Service, dataset: Path) -> None:
    write_annotations(dataset.with_name("notes"), "x0y0z0", "fibers.json", [{"id": "a"}])
    told = facts(service, "notes")
    assert (told["volume"], told["preview"]) == (None, False)
    assert told["annotations"]["count"] == 1
    assert get(service, "/api/datasets/notes/preview.png").status_code == 404
    assert state(service, "notes")["layers"] == []


def test_dataset_without_annotations_says_so(service: Service, dataset: Path) -> None:
    write_volume(dataset.with_name("plain"), np.ones((4, 4, 4), "uint8"))
    assert facts(service, "plain")["annotations"] is None
    assert get(service, "/api/datasets/plain/history").status_code == 404


def test_nested_dataset_is_named_by_its_path(service: Service, dataset: Path) -> None:
    write_dataset(dataset.parent / "lab" / "mouse: 3", (8, 8, 8))
    assert facts(service, "lab/mouse:%203")["name"] == "lab/mouse: 3"
    layer = state(service, "lab/mouse:%203")["layers"][0]
    assert (layer["name"], layer["source"]) == ("mouse: 3", "./lab/mouse%3A%203")


def test_root_that_is_a_dataset_can_be_opened(dataset: Path, start_service: StartService) -> None:
    own = start_service(dataset)
    assert get(own, "/api/datasets").json()["volume"]["size_vx"] == [100, 90, 70]
    assert get(own, "/api/datasets/preview.png").status_code == 200
    assert '"source": "./"' in html.unescape(get(own, "/api/datasets/open").text)
    assert "fibers.json/history/" in get(own, "/api/datasets/history").text
    assert (
        "History of annotations/x0y0z0" in get(own, "/annotations/x0y0z0/fibers.json/history/").text
    )


@pytest.mark.parametrize("rest", ["", "/preview.png", "/open", "/history"])
@pytest.mark.parametrize("name", ["none", "brain/1_1_1", "..%2f..", ".hidden", "brain%00"])
def test_what_is_no_dataset_is_404(service: Service, name: str, rest: str) -> None:
    answer = get(service, f"/api/datasets/{name}{rest}")
    assert answer.status_code == 404
    assert set(answer.json()) == {"title", "description"}


@pytest.mark.parametrize("rest", ["", "/preview.png", "/open"])
def test_broken_info_is_told(service: Service, dataset: Path, rest: str) -> None:
    (dataset / "info").write_text("{")
    answer = get(service, f"/api/datasets/brain{rest}")
    assert answer.status_code == 500
    assert "brain/info" in answer.json()["description"]


# --- pictures ------------------------------------------------------------------------------------


def test_picture_is_the_plane_through_the_middle(service: Service, dataset: Path) -> None:
    voxels = np.zeros((40, 80, 160), "uint16")
    voxels[20, :, 80:] = 1000
    voxels[21:, :, :80] = 1000
    write_volume(dataset.with_name("half"), voxels)
    drawn = picture(service, "half")
    assert drawn.shape == (160, 320, 3)
    assert (drawn[:, 165:] > 250).all()
    assert (drawn[:, :155] == 0).all()


def test_picture_is_true_to_scale(service: Service, dataset: Path) -> None:
    voxels = np.full((4, 40, 20), 9, "uint8")
    path = write_volume(dataset.with_name("tall"), voxels)
    info = json.loads((path / "info").read_text())
    info["scales"][0]["resolution"] = [2000, 500, 1000]
    (path / "info").write_text(json.dumps(info))
    assert picture(service, "tall").shape == (160, 320, 3)


def test_picture_of_a_segmentation_has_a_colour_for_each_label(
    service: Service, dataset: Path
) -> None:
    voxels = np.zeros((8, 40, 160), "uint32")
    for number, label in enumerate(LABELS):
        voxels[..., 40 + 40 * number : 80 + 40 * number] = label
    write_volume(dataset.with_name("labels"), voxels, type="segmentation")
    drawn = picture(service, "labels")
    colours = [tuple(map(int, drawn[40, 40 + 80 * number])) for number in range(4)]
    assert colours[0] == (0, 0, 0)
    assert len(set(colours)) == 4


def test_picture_is_black_where_chunks_are_missing(service: Service, dataset: Path) -> None:
    path = write_volume(dataset.with_name("holes"), np.full((8, 64, 64), 9, "uint8"))
    (path / "1_1_1" / "32-64_32-64_0-8.tiff").unlink()
    drawn = picture(service, "holes")
    assert drawn.shape == (320, 320, 3)
    assert (drawn[165:, 165:] == 0).all()
    assert (drawn[:155] > 0).all()


def test_picture_follows_its_chunks_and_has_an_etag(service: Service, dataset: Path) -> None:
    path = write_volume(dataset.with_name("new"), np.full((8, 32, 32), 9, "uint8"))
    url = f"{service.url}/api/datasets/new/preview.png"
    first = requests.get(url, timeout=60)
    same = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=60)
    assert same.status_code == 304
    voxels = np.full((8, 32, 32), 9, "uint8")
    voxels[..., :16] = 0
    write_chunks(path / "1_1_1", voxels, 32)
    later = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=60)
    assert later.status_code == 200
    assert later.content != first.content


def test_picture_of_the_dataset_itself_is_preferred(service: Service, dataset: Path) -> None:
    Image.new("RGB", (3, 2), (255, 0, 0)).save(dataset / "preview.png")
    drawn = picture(service, "brain")
    assert drawn.shape == (2, 3, 3)
    assert (drawn == (255, 0, 0)).all()


@pytest.mark.parametrize("how", ["raw", "gz"])
def test_picture_is_made_of_chunks_stored_in_other_ways(
    service: Service, dataset: Path, how: str
) -> None:
    path = dataset.with_name("stored")
    voxels = np.full((8, 16, 32), 9, "<u2")
    (path / "1_1_1").mkdir(parents=True)
    (path / "info").write_text(json.dumps(info_of(voxels, 32)))
    name, body = "0-32_0-16_0-8", voxels.tobytes()
    if how == "gz":
        name, body = f"{name}.gz", gzip.compress(body)
    (path / "1_1_1" / name).write_bytes(body)
    assert (picture(service, "stored") > 0).all()


def test_picture_of_a_damaged_chunk_is_500_but_the_dataset_opens(
    service: Service, dataset: Path
) -> None:
    path = write_volume(dataset.with_name("bad"), np.full((8, 32, 32), 9, "uint8"))
    (path / "1_1_1" / "0-32_0-32_0-8.tiff").write_bytes(b"II*\0")
    answer = get(service, "/api/datasets/bad/preview.png")
    assert answer.status_code == 500
    assert "0-32_0-32_0-8" in answer.json()["description"]
    assert "shaderControls" not in state(service, "bad")["layers"][0]


@pytest.mark.parametrize("encoding", ["jpeg", "compressed_segmentation"])
def test_volume_of_another_encoding_has_no_picture_but_opens(
    service: Service, dataset: Path, encoding: str
) -> None:
    path = write_volume(dataset.with_name("other"), np.full((8, 32, 32), 9, "uint8"))
    info = json.loads((path / "info").read_text())
    info["scales"][0]["encoding"] = encoding
    (path / "info").write_text(json.dumps(info))
    assert facts(service, "other")["preview"] is False
    assert get(service, "/api/datasets/other/preview.png").status_code == 404
    assert len(state(service, "other")["layers"]) == 1


def test_picture_of_a_volume_of_one_huge_level_reads_a_few_chunks(
    service: Service, dataset: Path
) -> None:
    path = dataset.with_name("huge")
    voxels = np.full((32, 32, 32), 9, "uint8")
    info = info_of(voxels, 32)
    info["scales"][0]["size"] = [32_000_000, 32_000_000, 32_000_000]
    path.mkdir()
    (path / "info").write_text(json.dumps(info))
    middle = 16_000_000
    name = f"{middle}-{middle + 32}_{middle}-{middle + 32}_{middle}-{middle + 32}"
    write_chunks(path / "1_1_1", voxels, 32)
    os.rename(path / "1_1_1" / "0-32_0-32_0-32.tiff", path / "1_1_1" / f"{name}.tiff")
    drawn = picture(service, "huge")
    assert drawn.any()
    assert not drawn.all()


# --- the state of the viewer ---------------------------------------------------------------------


def test_state_shows_the_whole_volume_from_its_middle(service: Service) -> None:
    shown = state(service, "brain")
    assert shown["dimensions"] == {"x": [1e-6, "m"], "y": [1e-6, "m"], "z": [2e-6, "m"]}
    assert shown["position"] == [50.5, 45.5, 35.5]
    assert shown["layout"] == "4panel"
    # 140 voxels as wide as those of x, deep or high, must fit in a quarter of 1280 x 800.
    assert 140 / shown["crossSectionScale"] <= 400
    assert 140 / shown["crossSectionScale"] >= 200


def test_state_begins_where_the_volume_does(service: Service, dataset: Path) -> None:
    voxels = np.full((4, 4, 4), 9, "uint8")
    info = info_of(voxels, 32, voxel_offset=[1000, -20, 6])
    path = dataset.with_name("moved")
    path.mkdir()
    (path / "info").write_text(json.dumps(info))
    write_chunks(path / "1_1_1", voxels, 32)
    moved = "1000-1004_-20--16_6-10.tiff"
    os.rename(path / "1_1_1" / "0-4_0-4_0-4.tiff", path / "1_1_1" / moved)
    shown = state(service, "moved")
    assert shown["position"] == [1002.5, -17.5, 8.5]
    assert "shaderControls" in shown["layers"][0]


def test_contrast_leaves_out_what_is_rare(service: Service, dataset: Path) -> None:
    rng = np.random.default_rng(1)
    voxels = np.zeros((64, 64, 64), "uint16")
    voxels[:, 16:48] = rng.integers(100, 1000, (64, 32, 64))
    voxels[0, 0, :20] = 60_000
    write_volume(dataset.with_name("grey"), voxels)
    low, high = state(service, "grey")["layers"][0]["shaderControls"]["normalized"]["range"]
    assert low == 0
    assert 900 < high < 1010


def test_contrast_of_an_empty_volume_has_two_ends(service: Service, dataset: Path) -> None:
    write_volume(dataset.with_name("empty"), np.zeros((8, 8, 8), "float32"))
    (low, high) = state(service, "empty")["layers"][0]["shaderControls"]["normalized"]["range"]
    assert low < high


def test_channels_are_red_green_and_blue_with_a_contrast_each(
    service: Service, dataset: Path
) -> None:
    path = dataset.with_name("colours")
    voxels = np.stack([np.full((4, 8, 8), value, "<u2") for value in (10, 200, 3000)])
    (path / "1_1_1").mkdir(parents=True)
    (path / "info").write_text(json.dumps(info_of(voxels, 32)))
    (path / "1_1_1" / "0-8_0-8_0-4").write_bytes(voxels.tobytes())
    controls = state(service, "colours")["layers"][0]["shaderControls"]
    assert list(controls) == ["red", "green", "blue"]
    assert [controls[name]["range"][1] for name in controls] == [10, 200, 3000]
    assert picture(service, "colours").shape == (320, 320, 3)


def test_annotations_are_layers_only_where_they_have_sources(dataset: Path) -> None:
    """A service without annotation sources must not lead the viewer to what is not there."""
    named = [
        layer["source"] for layer in layers_of(viewer_state(("lab", "a b"), None, None, KINDS))
    ]
    above = "./lab/a%20b/annotations/layers"
    assert named == [
        f"{above}/{kind}" for kind in ("boxes", "ellipsoids", "lines", "polylines", "points")
    ]
    assert layers_of(viewer_state(("brain",), None, None, [])) == []


KINDS = (
    "axis_aligned_bounding_box",
    "ellipsoid",
    "line",
    "linestring",
    "point",
    "polygon",
    "text",
    "",
)


def layers_of(shown: dict[str, Any]) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = shown["layers"]
    return layers


# --- the viewer's files --------------------------------------------------------------------------


def test_viewer_is_packed_typed_and_kept(service: Service) -> None:
    page = get(service, "/viewer/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-cache"
    assert "'self'" in page.headers["Content-Security-Policy"]
    again = get(service, "/viewer/", headers={"If-None-Match": page.headers["ETag"]})
    assert again.status_code == 304
    scripts = re.findall(r'<script[^>]* src="([^"]+)"', page.text)
    assert scripts[0] == "../api/viewer.js"
    for name in scripts[1:]:
        for coding in ("gzip", "zstd", "identity"):
            answer = get(service, f"/viewer/{name}", headers={"Accept-Encoding": coding})
            assert answer.status_code == 200
            assert "/javascript" in answer.headers["Content-Type"]
            assert answer.headers.get("Content-Encoding", "identity") == coding
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.headers["Vary"] == "Accept-Encoding"
            tag = {"If-None-Match": answer.headers["ETag"], "Accept-Encoding": coding}
            assert get(service, f"/viewer/{name}", headers=tag).status_code == 304


def test_viewer_types_its_wasm_and_hides_what_is_not_its_own(service: Service) -> None:
    scripts = get(service, "/viewer/").text
    assert get(service, "/viewer/none.js").status_code == 404
    assert get(service, "/viewer/..%2f__init__.py").status_code == 404
    assert get(service, "/viewer/%2e%2e/__init__.py").status_code == 404
    directory = viewer_directory()
    assert directory is not None
    assert scripts
    for wasm in directory.glob("*.wasm"):
        answer = get(service, f"/viewer/{wasm.name}")
        assert answer.headers["Content-Type"] == "application/wasm"
        assert answer.content == wasm.read_bytes()


WITHOUT = (
    "import sys; sys.modules['neuroglancer'] = None;"
    "from neurotrale.cli import main; sys.argv[0] = 'neurotrale'; main()"
)


def test_service_without_the_viewer_says_how_to_install_it(dataset: Path) -> None:
    command = neurotrale("serve", dataset.parent, "--port", "0", "--workers", "1")
    at = command.index("serve")
    with running([command[0], "-c", WITHOUT, *command[at:]]) as own:
        for path in ("/viewer/", "/viewer/main.js"):
            answer = requests.get(f"{own.url}{path}", timeout=60)
            assert answer.status_code == 404
            assert f"pip install --no-deps {VIEWER_PACKAGE}" in answer.json()["description"]
        assert 'data-viewer="false"' in requests.get(f"{own.url}/", timeout=60).text


def test_viewer_is_the_one_that_is_pinned_and_documented() -> None:
    pins = (REPOSITORY / "requirements-viewer.txt").read_text().splitlines()
    assert [pin for pin in pins if pin and not pin.startswith("#")] == [VIEWER_PACKAGE]
    assert VIEWER_PACKAGE in (REPOSITORY / "requirements-dev.txt").read_text().splitlines()
    reference = (REPOSITORY / "docs" / "reference.md").read_text()
    assert f"pip install --no-deps {VIEWER_PACKAGE}" in reference


def test_ui_is_served_from_its_directory_when_it_is_named(
    dataset: Path, tmp_path: Path, start_service: StartService
) -> None:
    built = tmp_path / "built"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<!doctype html><head></head><title>NeuroTrALE</title>")
    (built / "assets" / "main.0123abcd.js").write_text("let a = 1;")
    own = start_service(dataset.parent, "--ui", str(built))
    assert "NeuroTrALE" in get(own, "/ui/").text
    assert get(own, "/ui").url == f"{own.url}/ui/"
    answer = get(own, "/ui/assets/main.0123abcd.js")
    assert (answer.text, "immutable" in answer.headers["Cache-Control"]) == ("let a = 1;", True)
    assert get(own, "/ui/assets/").status_code == 404
    assert 'data-ui="true"' in get(own, "/").text
    assert state(own, "brain", **{"in": "ui"})["layers"][0]["source"] == "./brain"


def test_ui_without_a_page_is_refused_at_the_start(dataset: Path, tmp_path: Path) -> None:
    done = run(neurotrale("serve", dataset.parent, "--port", "0", "--ui", tmp_path / "none"))
    assert done.returncode == 1
    assert "index.html" in done.stderr


def test_directory_named_ui_is_one_of_the_data_unless_a_ui_is_served(
    service: Service, dataset: Path
) -> None:
    write_dataset(dataset.with_name("ui"), (8, 8, 8))
    assert get(service, "/ui/info").status_code == 200


def test_counts_of_many_files_are_those_of_each(service: Service, dataset: Path) -> None:
    for block in range(30):
        for leaf in range(40):
            annotations = [{"id": "a", "anntype": "axon", "reviewed": leaf % 2 == 0}]
            write_annotations(dataset, f"x{block}y1z0", f"z-{leaf:04d}.json", annotations)
    told = facts(service, "brain")["annotations"]
    assert (told["files"], told["count"], told["reviewed"]) == (1201, 1203, 600)
    (dataset / "annotations/x3y1z0/z-0000.json").unlink()
    write_annotations(dataset, "x4y1z0", "z-0001.json", [])
    told = facts(service, "brain")["annotations"]
    assert (told["files"], told["count"], told["reviewed"]) == (1200, 1201, 599)
