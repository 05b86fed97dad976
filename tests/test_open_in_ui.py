"""'Open in NeuroTrALE': where it leads, what it shows, and the requests that the UI then sends."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from neurotrale.datasets.viewer_state import plain_shader
from neurotrale.precomputed.info import Info, in_voxels
from tests.conftest import Service, StartService
from tests.datasets import write_dataset

TOKEN = "annas-token-may-write.0123456789"
READER = "bobs-token-may-look.0123456789_A"
SESSION = "s-[A-Za-z0-9_-]{16}"
SIZE = (100, 80, 60)
AGENT = "Mozilla/5.0 (X11; Linux x86_64) Chrome/120"
JSON = {"Content-Type": "application/json"}


def write_fresh(path: Path) -> Path:
    """Write a dataset of 400 x 400 x 900 nm voxels without annotations."""
    info = {
        "type": "image", "data_type": "uint8", "num_channels": 1,
        "scales": [{"key": "400_400_900", "size": SIZE, "chunk_sizes": [[64, 64, 64]],
                    "resolution": [400, 400, 900], "voxel_offset": [0, 0, 10], "encoding": "raw"}],
    }  # fmt: skip
    path.mkdir(parents=True)
    (path / "info").write_text(json.dumps(info))
    return path


def build_ui(path: Path, script: str) -> Path:
    """Write what a build of the UI looks like."""
    (path / "assets").mkdir(parents=True)
    (path / "index.html").write_text("<!doctype html><head></head><title>NeuroTrALE</title>")
    (path / "assets" / "main.0123abcd.js").write_text(script)
    return path


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A data root with a fresh dataset, and a token file beside it."""
    write_fresh(tmp_path / "data" / "lab" / "fresh")
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"anna:rw:{TOKEN}\nbob:ro:{READER}\n")
    return tmp_path


class Opened:
    """A page that opens a viewer.

    Attributes:
        viewer: URL of the viewer.
        sources: URL that sources are relative to.
        state: The state of the viewer.
    """

    def __init__(self, url: str) -> None:
        answer = requests.get(url, headers={"Accept": "text/html"}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        data = dict(re.findall(r'data-(\w+)="([^"]*)"', answer.text))
        self.viewer = urljoin(url, html.unescape(data["viewer"]))
        self.sources = urljoin(url, html.unescape(data["sources"]))
        self.state: dict[str, Any] = json.loads(html.unescape(data["state"]))

    def source(self, layer: int = 0) -> str:
        return urljoin(self.sources, self.state["layers"][layer]["source"])


@pytest.mark.quick(2)
@pytest.mark.parametrize("prefix", ["", "/as/s-AAAAAAAAAAAAAAAA", "/as/s-AAAAAAAAAAAAAAAA/voxels"])
@pytest.mark.parametrize("token", ["", f"/token/{TOKEN}"])
def test_every_open_link_leads_to_a_session_of_its_own(
    ground: Path, start_service: StartService, prefix: str, token: str
) -> None:
    write_dataset(ground / "data" / "brain")
    ui = build_ui(ground / "ui", "invlerp")
    options = ("--token-file", str(ground / "tokens")) if token else ()
    service = start_service(ground / "data", "--ui", str(ui), *options)
    found = set()
    for where, behind in (("?in=ui", "voxels/"), ("", "")) * 2:
        url = f"{service.url}{token}{prefix}/api/datasets/brain/open{where}"
        opened = Opened(url)
        match = re.fullmatch(f"{service.url}{token}/as/({SESSION})/(ui|viewer)/", opened.viewer)
        assert match is not None, opened.viewer
        assert match[2] == ("ui" if where else "viewer")
        assert opened.sources == f"{service.url}{token}/as/{match[1]}/{behind}"
        assert requests.get(f"{opened.source()}/info", timeout=60).ok
        assert requests.get(opened.viewer, timeout=60).ok
        found.add(match[1])
    assert len(found) == 4
    assert "s-AAAAAAAAAAAAAAAA" not in found
    service.stop()
    assert not [session for session in found if session in service.log()]


def test_directory_named_voxels_keeps_true_voxels(
    ground: Path, start_service: StartService
) -> None:
    (ground / "data" / "voxels").mkdir()
    ui = build_ui(ground / "ui", "")
    service = start_service(ground / "data", "--ui", str(ui))
    opened = Opened(f"{service.url}/api/datasets/lab/fresh/open?in=ui")
    assert "/voxels/" not in opened.sources
    assert opened.state["dimensions"]["z"] == [9e-07, "m"]


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("script", "plain"),
    [("let a = 1;", True), ('match("#uicontrol invlerp")', False)],
    ids=["1.4", "later"],
)
def test_shader_is_one_that_the_ui_can_compile(
    ground: Path, start_service: StartService, script: str, plain: bool
) -> None:
    write_dataset(ground / "data" / "brain")
    service = start_service(ground / "data", "--ui", str(build_ui(ground / "ui", script)))
    (layer,) = Opened(f"{service.url}/api/datasets/brain/open?in=ui").state["layers"]
    assert ("invlerp" in layer["shader"]) != plain
    assert ("shaderControls" in layer) != plain
    viewer = Opened(f"{service.url}/api/datasets/brain/open")
    assert "invlerp" in viewer.state["layers"][0]["shader"]


def evaluate(shader: str, values: list[float], top: float) -> list[float]:
    """Evaluate what a plain shader emits, with the functions that it may use."""
    body = re.fullmatch(r"void main\(\) \{\n  (.*);\n\}\n", shader, re.DOTALL)
    assert body is not None
    emitted: list[float] = []
    names: dict[str, Callable[..., Any]] = {
        "emitGrayscale": emitted.append,
        "emitRGB": emitted.extend,
        "vec3": lambda *levels: list(levels),
        "getDataValue": lambda channel=0: values[channel],
        "toRaw": lambda value: value,
        "toNormalized": lambda value: value / top,
        "float": float,
        "clamp": lambda value, low, high: min(max(value, low), high),
    }
    eval(" ".join(body[1].split()), {"__builtins__": {}}, names)
    return emitted


@pytest.mark.parametrize(
    ("data_type", "channels", "contrast", "values", "levels"),
    [
        ("uint8", 1, [(10, 210)], [110], [0.5]),
        ("uint8", 1, [(10, 210)], [5], [0]),
        ("uint8", 1, None, [255], [1]),
        ("float32", 1, [(-1, 1)], [0], [0.5]),
        ("uint8", 1, [(7, 7)], [7.5], [0.5]),
        ("uint16", 2, [(0, 100), (0, 10)], [50, 5], [0.5, 0.5, 0]),
        ("uint16", 3, [(0, 100), (0, 10), (0, 1)], [50, 5, 2], [0.5, 0.5, 1]),
        ("uint16", 5, [(0, 1)] * 3, [1] * 5, [1, 1, 1]),
        ("uint16", 3, [(0, 100)], [50, 0, 65535], [0.5, 0, 1]),
        ("uint64", 1, [(0, 9)], [2**64 - 1], [1]),
    ],
)
def test_plain_shader_maps_the_window_to_grey_or_colour(
    data_type: Any, channels: int, contrast: Any, values: list[float], levels: list[float]
) -> None:
    info = Info(data_type=data_type, num_channels=channels, scales=[])
    top = {"uint8": 2**8 - 1, "uint16": 2**16 - 1, "uint64": 2**64 - 1}.get(data_type, 1)
    assert evaluate(plain_shader(info, contrast), values, top) == levels
    assert in_voxels(info) == info


# --- start annotating ---


def start(service: Service, prefix: str = "", **more: Any) -> requests.Response:
    url = f"{service.url}{prefix}/api/datasets/lab/fresh/start"
    return requests.post(url, timeout=60, **{"headers": JSON, "data": "{}", **more})


FILES = ["fibers.json", "centroids.json", "z-0040.json"]


def test_start_makes_empty_files_once_and_records_who_did(
    ground: Path, start_service: StartService
) -> None:
    service = start_service(ground / "data", "--token-file", str(ground / "tokens"))
    answer = start(service, f"/token/{TOKEN}/as/s-AAAAAAAAAAAAAAAA")
    assert answer.status_code == 201, answer.text
    block = ground / "data/lab/fresh/annotations/x0y0z0"
    assert answer.json() == {"created": [f"lab/fresh/annotations/x0y0z0/{leaf}" for leaf in FILES]}
    assert {leaf: (block / leaf).read_bytes() for leaf in FILES} == dict.fromkeys(FILES, b"[]")
    for leaf in FILES:
        url = f"{service.url}/token/{READER}/lab/fresh/annotations/x0y0z0/{leaf}/history"
        (change,) = requests.get(url, timeout=60).json()["changes"]
        assert (change["by"], change["operation"]) == ("anna", "put")
    (block / "fibers.json").write_bytes(b'[{"id": "a", "type": "text"}]')
    again = start(service, f"/token/{TOKEN}")
    assert again.status_code == 409
    assert (block / "fibers.json").read_bytes() == b'[{"id": "a", "type": "text"}]'


@pytest.mark.long
def test_start_at_once_makes_each_file_once(ground: Path, start_service: StartService) -> None:
    service = start_service(ground / "data", "--workers", "2")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: start(service), range(6)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    created = [name for one in answers if one.ok for name in one.json()["created"]]
    assert sorted(created) == sorted(f"lab/fresh/annotations/x0y0z0/{leaf}" for leaf in FILES)


FORMS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", None]


@pytest.mark.parametrize("kind", FORMS)
def test_start_cannot_be_sent_by_a_form(service: Service, kind: str | None) -> None:
    answer = start(service, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert not (service.root / "lab/fresh/annotations").exists()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("open") / "data"
    write_fresh(root / "lab" / "fresh")
    return start_service(root)


@pytest.mark.quick(1)
@pytest.mark.parametrize("token", [READER, ""], ids=["ro token", "read-only service"])
def test_start_is_refused_to_readers(ground: Path, start_service: StartService, token: str) -> None:
    options = ("--token-file", str(ground / "tokens")) if token else ("--read-only",)
    service = start_service(ground / "data", *options)
    prefix = f"/token/{token}" if token else ""
    assert start(service, prefix).status_code == 403
    assert 'data-may-write="false"' in requests.get(f"{service.url}{prefix}/", timeout=60).text
    assert not (ground / "data/lab/fresh/annotations").exists()


def test_start_of_what_is_no_dataset_is_404(service: Service) -> None:
    url = f"{service.url}/api/datasets/none/start"
    assert requests.post(url, headers=JSON, data="{}", timeout=60).status_code == 404


# --- the requests of the UI, in their order ---


@pytest.mark.quick(1)
@pytest.mark.parametrize("same_origin", [True, False], ids=["--ui", "another origin"])
def test_ui_draws_a_contour_in_a_dataset_that_was_fresh(
    ground: Path, start_service: StartService, same_origin: bool
) -> None:
    ui = build_ui(ground / "ui", "")
    service = start_service(ground / "data", "--ui", str(ui))
    assert start(service).status_code == 201
    browser = requests.Session()
    browser.headers["User-Agent"] = AGENT
    opened = Opened(f"{service.url}/api/datasets/lab/fresh/open?in=ui")
    page = browser.get(opened.viewer, headers={"Sec-Fetch-Mode": "navigate"}, timeout=60)
    assert page.ok
    assert "Set-Cookie" not in page.headers  # its session is in the path
    if same_origin:
        sends = {"Referer": opened.viewer}
    else:
        browser.cookies.clear()
        sends = {"Origin": "http://localhost:8080"}
    browser.headers.update(sends)
    source = opened.source()

    # The source is detected, and the volume described.
    for name in ("info", "zarr.json", ".zarray"):
        browser.head(f"{source}/{name}", headers={"Accept-Encoding": "identity"}, timeout=60)
    part = browser.get(
        f"{source}/info", headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"}, timeout=60
    )
    assert part.status_code == 206
    info = browser.get(f"{source}/info", timeout=60).json()
    assert info["scales"][0]["resolution"] == [1, 1, 1]
    assert browser.get(f"{source}/tree.json", timeout=60).status_code == 404

    # What is asked for at first is what 'start annotating' has made: z is in nanometres, of which
    # a voxel has one.
    dimensions, position = opened.state["dimensions"], opened.state["position"]
    assert all(dimensions[axis] == [1e-9, "m"] for axis in "xyz")
    z_nm = int(position[2] * dimensions["z"][0] / 1e-9)
    contours = f"{source}/annotations/x0y0z0/z-{z_nm:04d}.json"
    for url in (
        contours,
        f"{source}/annotations/x0y0z0/fibers.json",
        f"{source}/annotations/x0y0z0/centroids.json",
    ):
        answer = browser.get(url, timeout=60)
        assert (answer.status_code, answer.content) == (200, b"[]"), url
        assert answer.headers["Cache-Control"] == "no-cache"

    # A contour is drawn: a preflight, then the whole file as text.
    contour = {
        "id": "0" * 40, "type": "polygon", "anntype": "contour", "description": "",
        "points": [[1.5, 2.25, 40], [4, 5, 40], [7, 8, 40]], "reviewed": False, "visited": True,
    }  # fmt: skip
    if not same_origin:
        preflight = browser.options(
            contours,
            headers={
                "Access-Control-Request-Method": "PUT",
                "Access-Control-Request-Headers": "content-type",
            },
            timeout=60,
        )
        assert preflight.status_code == 200
    saved = browser.put(
        contours,
        data=json.dumps([contour], separators=(",", ":")),
        headers={"Content-Type": "text/plain;charset=UTF-8"},
        timeout=60,
    )
    assert saved.status_code in (200, 201), saved.text
    assert browser.get(contours, timeout=60).json() == [contour]
    plain = contours.replace(urlsplit(opened.sources).path, "/")
    assert requests.get(plain, timeout=60).json() == [contour]
    on_disk = ground / "data/lab/fresh/annotations/x0y0z0" / f"z-{z_nm:04d}.json"
    assert json.loads(on_disk.read_text()) == [contour]
