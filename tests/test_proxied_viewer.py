"""A viewer of the same origin behind HAProxy, by host name and plain HTTP, in Debian's Chromium.

Its GETs have no Origin, and as the origin is not a trustworthy one, no Sec-Fetch headers either.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.chromium import program, running_chromium
from tests.conftest import StartService
from tests.processes import REPOSITORY

pytestmark = pytest.mark.browser

HOST = "neurotrale.test"
AXONS = [{"id": f"a{n}", "type": "point", "point": [n, 1, 2]} for n in range(49)]
ELSEWHERE = [{"id": "b", "type": "point", "point": [130, 70, 5]}]
MINE = [{"id": "mine", "type": "point", "point": [70, 1, 2]}]

FETCH = """async ([url, method, body]) => {
    const answer = await fetch(url, {method, body})
    const location = answer.headers.get("Content-Location")
    return {
        status: answer.status,
        body: await answer.json(),
        location: location && new URL(location, answer.url).pathname,
    }
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two datasets: blocks by index, and as the original service named them."""
    root = tmp_path_factory.mktemp("proxied") / "data"
    for dataset, first, other in (
        ("brain", "x0y0z0", "x2y1z0"),
        ("legacy", "x0001_y0001", "x0003_y0002"),
    ):
        annotations = root / dataset / "annotations"
        for block, content in ((first, AXONS), (other, ELSEWHERE)):
            (annotations / block).mkdir(parents=True)
            (annotations / block / "fibers.json").write_text(json.dumps(content))
        (annotations / "block_info.csv").write_text("64,64,64\n")
    return root


@pytest.fixture(scope="module")
def origin(
    root: Path, start_service: StartService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """HAProxy before a service, with the configuration that compose.yaml gives it."""
    haproxy = program("haproxy")
    service = start_service(root, "--allowed-hosts", HOST, "--trusted-proxy", "127.0.0.1")
    config = (REPOSITORY / "container" / "haproxy.cfg").read_text()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = config.replace("bind :8080", f"bind fd@{listening.fileno()}")
        here = re.sub(r"\b(neurotrale|viewer):9000", f"127.0.0.1:{service.port}", here)
        assert here.count(f"127.0.0.1:{service.port}") == 2
        path = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
        path.write_text(here)
        log = path.with_name("log")
        with (
            log.open("w") as output,
            subprocess.Popen(
                [haproxy, "-db", "-f", str(path)],
                stdout=output,
                stderr=output,
                pass_fds=[listening.fileno()],
            ) as process,
        ):
            yield f"http://{HOST}:{listening.getsockname()[1]}"
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium(f"--host-resolver-rules=MAP {HOST} 127.0.0.1") as running:
        yield running


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    """A listing of the service itself, opened by its host name."""
    context = browser.new_context()
    page = context.new_page()
    opened = page.goto(f"{origin}/brain/")
    assert opened is not None
    assert opened.ok
    yield page
    context.close()


def fetched(page: Page, path: str, method: str = "GET", body: Any = None) -> dict[str, Any]:
    """Ask as a viewer on the page does; hold that nothing but its name tells it from a script."""
    text = None if body is None else json.dumps(body)
    with page.expect_request("**") as sent:
        answer: dict[str, Any] = page.evaluate(FETCH, [path, method, text])
    headers = sent.value.all_headers()
    assert not any(name.startswith("sec-fetch-") for name in headers)
    assert ("origin" in headers) == (method != "GET")
    return answer


def files(root: Path, dataset: str) -> dict[str, Any]:
    annotations = root / dataset / "annotations"
    return {
        str(path.relative_to(annotations)): json.loads(path.read_bytes())
        for path in annotations.glob("*/[!.]*.json")
    }


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("dataset", "first", "other", "new"),
    [
        ("brain", "x0y0z0", "x2y1z0", "x1y0z0"),
        ("legacy", "x0001_y0001", "x0003_y0002", "x0002_y0001"),
    ],
)
def test_viewer_of_the_same_origin_reads_and_writes_the_block_at_its_position(
    page: Page, root: Path, dataset: str, first: str, other: str, new: str
) -> None:
    def at(position: str) -> str:
        return f"/{dataset}/annotations/{position}/fibers.json"

    before = files(root, dataset)
    assert before == {f"{first}/fibers.json": AXONS, f"{other}/fibers.json": ELSEWHERE}
    seen = fetched(page, at("x5y7z9"))
    assert (seen["status"], seen["body"], seen["location"]) == (200, AXONS, at(first))
    seen = fetched(page, at("x130y70z5"))
    assert (seen["status"], seen["body"], seen["location"]) == (200, ELSEWHERE, at(other))
    assert fetched(page, at("x70y1z2"))["status"] == 404
    assert fetched(page, at("x-41y22z13"))["status"] == 404
    assert files(root, dataset) == before

    saved = fetched(page, at("x70y1z2"), "PUT", MINE)
    assert (saved["status"], saved["location"]) == (201, at(new))
    assert files(root, dataset) == {**before, f"{new}/fibers.json": MINE}
    moved = [{**ELSEWHERE[0], "point": [131, 71, 5]}]
    saved = fetched(page, at("x130y70z5"), "PUT", moved)
    assert (saved["status"], saved["location"]) == (200, at(other))
    assert files(root, dataset) == {
        **before,
        f"{new}/fibers.json": MINE,
        f"{other}/fibers.json": moved,
    }
    assert fetched(page, at("x70y1z2"))["body"] == MINE


@pytest.mark.parametrize(
    "path",
    [
        "//brain//annotations//x5y0z0//fibers.json",
        "/brain/annotations/x5y0z0//fibers.json//held",
        "/brain//annotations//fibers.json?position=5,0,0",
    ],
)
@pytest.mark.long
def test_location_of_doubled_slashes_leads_a_browser_to_the_block(page: Page, path: str) -> None:
    origin = page.url.removesuffix("/brain/")
    seen = fetched(page, origin + path)
    assert seen["status"] == 200
    assert "x0y0z0" in seen["location"]
    again = fetched(page, origin + seen["location"])
    assert (again["status"], again["body"]) == (200, seen["body"])
