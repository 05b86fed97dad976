"""The pages that people look at, in Debian's Chromium: what they show, do, and ask for."""

# ruff: noqa: F401, F811 - fixtures of another module

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import numpy as np
import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from neurotrale.datasets.background_count import LARGE_BLOCKS
from neurotrale.datasets.counted_writer import counts_name
from neurotrale.storage.data_root import DirectoryEntry
from neurotrale.storage.shared_files import SharedFiles
from neurotrale.web.pages import index_page
from tests.conftest import Service, StartService, emptied
from tests.datasets import ANNOTATIONS, info_of, write_chunks, write_dataset
from tests.pictures import screenshot
from tests.test_browser import Visit, browser, visit
from tests.test_listings import consume, links_of

pytestmark = pytest.mark.browser

FILE = "brain/annotations/x0y0z0/fibers.json"
EDITOR = {"Origin": "http://localhost:8080", "Content-Type": "text/plain;charset=UTF-8"}


@pytest.fixture
def own(shared_service: Service) -> Service:
    """A service whose history tests may write."""
    write_dataset(emptied(shared_service) / "brain")
    return shared_service


def change(own: Service) -> None:
    """Add an annotation, change one, remove it, and save the file as a viewer that lost it all."""
    url = f"{own.url}/{FILE}"
    point = {"type": "point", "point": [1, 2, 3]}
    assert requests.patch(url, params={"id": "new"}, json=point, timeout=60).ok
    assert requests.patch(
        url, params={"id": "new"}, json={**point, "reviewed": True}, timeout=60
    ).ok
    assert requests.delete(url, params={"id": "new"}, timeout=60).ok
    # One who has never been here: what the same viewer saved before would be what it sees.
    viewer = EDITOR | {"User-Agent": uuid4().hex}
    assert requests.get(url, headers=viewer, timeout=60).ok
    assert requests.put(url, data=b"[]", headers=viewer, timeout=60).json()["kept"] == 3


def content(own: Service) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = requests.get(f"{own.url}/{FILE}", timeout=60).json()
    return read


def ids(own: Service) -> set[str]:
    return {annotation["id"][:4] for annotation in content(own)}


def card(page: Page, name: str) -> Any:
    found = page.locator(".dataset", has=page.get_by_role("link", name=f"{name}/", exact=True))
    found.locator(".links").wait_for()
    return found


# --- Annotating ----------------------------------------------------------------------------------


@pytest.mark.long
def test_person_starts_annotating_and_is_told_what_becomes_of_the_saves(
    tmp_path: Path, start_service: StartService, visit: Visit
) -> None:
    voxels = np.full((8, 8, 8), 9, "uint8")
    write_chunks(tmp_path / "data" / "fresh" / "1_1_1", voxels)
    (tmp_path / "data" / "fresh" / "info").write_text(json.dumps(info_of(voxels)))
    (tmp_path / "ui").mkdir()
    (tmp_path / "ui" / "index.html").write_text("<!doctype html><title>UI</title><p>opened</p>")
    own = start_service(tmp_path / "data", "--ui", str(tmp_path / "ui"))
    page = visit.page
    page.goto(f"{own.url}/")
    assert card(page, "fresh").get_by_role("link", name="My saves").count() == 0
    card(page, "fresh").get_by_role("button", name="Start annotating").click()
    page.wait_for_url(re.compile(f"{own.url}/as/s-[A-Za-z0-9_-]{{16}}/ui/#!"))
    session = page.url.partition("/ui/")[0]
    assert unquote(page.url).count(f"precomputed://{session}/voxels/fresh") == 1
    file = f"{session}/voxels/fresh/annotations/x0y0z0/fibers.json"
    assert requests.get(file, timeout=60).json() == []
    assert requests.put(file, json=ANNOTATIONS, timeout=60).ok
    assert requests.put(file, data=b"[]", timeout=60).json()["kept"] == len(ANNOTATIONS)

    page.goto(f"{own.url}/")
    fresh = card(page, "fresh")
    assert f"{len(ANNOTATIONS)} removals held back" in fresh.inner_text()
    assert fresh.get_by_role("button").count() == 0
    fresh.get_by_role("link", name="My saves").click()
    page.wait_for_url(f"{session}/fresh/annotations/mine")
    changes = page.locator("#changes > li")
    changes.first.wait_for()
    assert f"{len(ANNOTATIONS)} removals held back" in changes.first.inner_text()
    assert requests.put(file, data=b"[", timeout=60).status_code == 400
    page.get_by_text("Refused (400)").wait_for()  # the page has updated itself
    assert changes.count() == 2
    changes.last.get_by_role("link").click()
    page.wait_for_url(f"{session}/fresh/annotations/x0y0z0/fibers.json/history/")
    assert visit.complaints == []


# --- The index -----------------------------------------------------------------------------------


def test_index_shows_each_dataset_with_picture_facts_and_progress(
    own: Service, visit: Visit
) -> None:
    reviewed = [{**annotation, "reviewed": True} for annotation in ANNOTATIONS[:1]]
    requests.put(f"{own.url}/{FILE}", json=reviewed + ANNOTATIONS[1:], timeout=60)
    visit.page.goto(f"{own.url}/")
    brain = card(visit.page, "brain")
    text = brain.inner_text()
    for fact in ("100 × 90 × 70 voxels", "0.1 × 0.09 × 0.14 mm", "1 × 1 × 2 µm", "uint16"):
        assert fact in text
    assert "1 of 3 reviewed (33 %)" in text
    bar = brain.get_by_role("progressbar", name="All annotations: reviewed")
    assert (bar.get_attribute("value"), bar.get_attribute("max")) == ("1", "3")
    shown = brain.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert shown == 320
    links = brain.locator(".links a").evaluate_all("all => all.map((one) => [one.text, one.href])")
    assert dict(links) == {
        "Open": f"{own.url}/api/datasets/brain/open",
        "Files": f"{own.url}/brain/",
        "History": f"{own.url}/api/datasets/brain/history",
        "API": f"{own.url}/api/datasets/brain",
    }
    for _, href in links:
        assert requests.get(href, timeout=60).status_code == 200
    assert visit.complaints == []
    assert visit.origins == {own.url}


@pytest.mark.long
def test_index_shows_how_far_the_count_of_a_large_dataset_is_and_then_the_counts(
    tmp_path: Path, start_service: StartService, visit: Visit
) -> None:
    blocks = tmp_path / "data" / "large" / "annotations"
    for number in range(LARGE_BLOCKS + 100):
        (blocks / f"x{number}y0z0").mkdir(parents=True)
        (blocks / f"x{number}y0z0" / "fibers.json").write_text('[{"id": "a", "reviewed": true}]')
    (tmp_path / "temporary").mkdir()
    own = start_service(tmp_path / "data", env={"TMPDIR": str(tmp_path / "temporary")})
    (shelf,) = (tmp_path / "temporary").iterdir()
    with SharedFiles(shelf).claimed(f"{counts_name('large/annotations')}.claim"):
        visit.page.goto(f"{own.url}/")  # as if another worker counted
        status = card(visit.page, "large").locator(".counting")
        status.wait_for()
        assert status.inner_text().startswith("Counting: ")
    everything = f"{LARGE_BLOCKS + 100:,}"
    visit.page.get_by_text(f"{everything} of {everything} reviewed").first.wait_for()
    assert status.count() == 0
    assert visit.complaints == []


@pytest.mark.long
def test_index_tells_what_is_wrong_with_a_dataset(own: Service, visit: Visit) -> None:
    (own.root / "bad").mkdir()
    (own.root / "bad" / "info").write_text("{")
    visit.page.goto(f"{own.url}/")
    problem = visit.page.locator(".dataset .problem")
    problem.wait_for()
    assert "bad/info: expected the JSON description of a volume" in problem.inner_text()


@pytest.mark.long
def test_index_is_found_through_by_keyboard(own: Service, visit: Visit) -> None:
    for name in ("lab/mouse-1", "lab/mouse-2", "other"):
        write_dataset(own.root / name, (8, 8, 8))
    page = visit.page
    page.goto(f"{own.url}/")
    page.keyboard.press("/")
    page.keyboard.type("MOUSE lab")
    seen = [heading for heading in page.locator("h2 a").all() if heading.is_visible()]
    assert [heading.inner_text() for heading in seen] == ["lab/mouse-1/", "lab/mouse-2/"]
    assert page.locator("#found").inner_text() == "2 of 4"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{own.url}/lab/mouse-1/")
    assert visit.complaints == []


@pytest.mark.long
def test_index_holds_only_links_that_completion_may_take(own: Service) -> None:
    """Without scripts, as Neuroglancer reads it: datasets, entries, the documentation."""
    page = requests.get(f"{own.url}/", timeout=60).text
    assert links_of(page).hrefs == ["brain/", "api/"]


MANY = 10_000


@pytest.mark.long
def test_index_of_many_datasets_is_flat_in_memory() -> None:
    few, many = ([f"lab/brain-{n:05d}" for n in range(count)] for count in (1000, MANY))
    _, least = consume(index_page(few, []))
    length, most = consume(index_page(many, (DirectoryEntry(name, True) for name in many)))
    assert length > 500_000
    assert most < least + 4 * 2**20


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("many")
    info = json.dumps(info_of(np.zeros((4, 4, 4), "uint8")))
    for number in range(MANY):
        dataset = root / f"lab-{number % 100:02d}" / f"brain-{number:05d}"
        dataset.mkdir(parents=True)
        (dataset / "info").write_text(info)
    return start_service(root)


@pytest.mark.long
def test_index_of_many_datasets_has_them_all_and_asks_for_those_in_view(
    many: Service, visit: Visit
) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.page.goto(f"{many.url}/")
    visit.page.locator(".dataset.filled").first.wait_for()
    assert visit.page.locator(".dataset").count() == MANY
    visit.page.wait_for_timeout(1000)
    assert 0 < len([url for url in asked if "/api/datasets/" in url]) < 60
    visit.page.locator(".dataset").last.scroll_into_view_if_needed()
    last = visit.page.locator(".dataset").last.locator(".links")
    last.wait_for()
    assert visit.complaints == []


# --- History -------------------------------------------------------------------------------------


def open_history(visit: Visit, base: str) -> Page:
    page = visit.page
    page.goto(f"{base}/")
    card(page, "brain").get_by_role("link", name="History").click()
    page.get_by_role("link", name="fibers.json").click()
    page.wait_for_url(f"{base}/{FILE}/history/")
    page.locator("#changes:not([aria-busy]) > li").first.wait_for()
    return page


def press(page: Page, name: str, within: str = "main") -> None:
    """Press a button that asks, say yes, and wait for the answer."""
    page.locator(within).get_by_role("button", name=name).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=name).click()
    dialog.wait_for(state="detached")
    page.locator("#message", has_text=re.compile(r"\.$")).wait_for()


@pytest.mark.long
def test_history_shows_who_did_what(own: Service, visit: Visit) -> None:
    change(own)
    page = open_history(visit, own.url)
    shown = page.locator("#changes > li").all_inner_texts()
    for text, expected in zip(
        shown,
        ["saved the file", "removed an annotation", "saved an annotation", "saved an annotation"],
        strict=True,
    ):
        assert expected in text
        assert "127.0.0.1" in text
    assert "Held back 3" in shown[0]
    assert "Removed 1" in shown[1]
    assert "Changed 1" in shown[2]
    assert "Added 1" in shown[3]
    assert visit.complaints == []
    assert visit.origins == {own.url}


@pytest.mark.long
def test_history_of_an_untouched_file_says_so(own: Service, visit: Visit) -> None:
    page = open_history(visit, own.url)
    assert page.locator("#changes").inner_text() == "No changes recorded yet."
    assert page.get_by_role("button").all() == []


@pytest.mark.long
def test_history_brings_back_an_annotation(own: Service, visit: Visit) -> None:
    change(own)
    page = open_history(visit, own.url)
    page.locator("summary", has_text="Removed 1").click()
    press(page, "Restore annotation", "#changes")
    page.locator("#changes > li").nth(4).wait_for()
    assert "new" in ids(own)
    assert content(own)[-1]["reviewed"] is True
    assert visit.complaints == []


@pytest.mark.long
def test_history_undoes_a_change_of_an_annotation(own: Service, visit: Visit) -> None:
    change(own)
    page = open_history(visit, own.url)
    page.locator("summary", has_text="Changed 1").click()
    press(page, "Undo", "#changes")
    page.locator("#changes > li").nth(4).wait_for()
    assert [a for a in content(own) if a["id"] == "new"] == [
        {"id": "new", "type": "point", "point": [1, 2, 3]}
    ]


@pytest.mark.long
def test_history_brings_back_the_whole_file(own: Service, visit: Visit) -> None:
    url = f"{own.url}/{FILE}"
    before = requests.get(url, timeout=60).content
    assert requests.put(url, data=b"[]", timeout=60).ok
    page = open_history(visit, own.url)
    press(page, "Restore the file to its state before all changes")
    page.locator("#changes > li").nth(1).wait_for()
    assert requests.get(url, timeout=60).content == before


@pytest.mark.long
def test_history_confirms_removals_that_were_held_back(own: Service, visit: Visit) -> None:
    change(own)
    page = open_history(visit, own.url)
    page.locator("#held summary").click()
    press(page, "Remove", "#held .ids li:first-child")
    page.locator("#held", has_text="2 annotations").wait_for()
    assert len(content(own)) == 2
    press(page, "Remove all 2", "#held")
    page.locator("#held h2").wait_for(state="detached")
    assert content(own) == []
    press(page, "Restore everything that was removed")
    page.locator("#changes > li").nth(6).wait_for()
    assert len(content(own)) == 4
    assert visit.complaints == []


@pytest.mark.long
def test_history_removes_what_was_ignored_as_leaving_a_slice(own: Service, visit: Visit) -> None:
    block = f"{own.url}/brain/annotations/x0y0z0"
    file = f"{block}/z-0001.json"
    points = [
        {"id": kind, "type": "point", "anntype": kind, "point": [1, 2, 3]}
        for kind in ("glia", "neuron")
    ]
    assert requests.put(file, json=points, timeout=60).status_code == 201
    viewer = EDITOR | {"User-Agent": uuid4().hex}
    assert requests.get(file, headers=viewer, timeout=60).ok
    requests.get(f"{block}/z-0002.json", headers=viewer, timeout=60)
    saved = requests.put(file, data=json.dumps(points[1:]), headers=viewer, timeout=60)
    assert saved.json()["ignored"] == 1
    page = visit.page
    page.goto(f"{file}/history/")
    page.get_by_text("Ignored, as its viewer left the slice").first.wait_for()
    press(page, "Remove what was ignored", "#changes")
    page.locator("#changes > li").nth(2).wait_for()
    assert [one["id"] for one in requests.get(file, timeout=60).json()] == ["neuron"]
    assert visit.complaints == []


@pytest.mark.long
def test_history_changes_nothing_when_a_person_thinks_better_of_it(
    own: Service, visit: Visit
) -> None:
    change(own)
    before = content(own)
    page = open_history(visit, own.url)
    page.get_by_role("button", name="Remove all 3").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel").click()
    dialog.wait_for(state="detached")
    page.get_by_role("button", name="Remove all 3").click()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert content(own) == before


@pytest.mark.long
def test_history_of_many_changes_comes_in_pages(own: Service, visit: Visit) -> None:
    url = f"{own.url}/{FILE}"
    for number in range(60):
        body = {"type": "point", "point": [number, 2, 3]}
        assert requests.patch(url, params={"id": "x"}, json=body, timeout=60).ok
    page = open_history(visit, own.url)
    assert page.locator("#changes > li").count() == 50
    page.get_by_role("button", name="Older changes").click()
    page.locator("#changes > li").nth(59).wait_for()
    assert page.locator("#changes > li").count() == 60
    assert not page.get_by_role("button", name="Older changes").is_visible()


@pytest.mark.long
def test_history_of_a_read_only_service_has_no_buttons(
    own: Service, start_service: StartService, visit: Visit
) -> None:
    change(own)
    page = open_history(visit, start_service(own.root, "--read-only").url)
    assert page.locator("#changes > li").count() == 4
    assert page.get_by_role("button").all() == []
    assert page.locator("#held").inner_text().startswith("Removals that were held back")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rw", "ro"])
def test_history_offers_what_the_token_allows(
    own: Service, start_service: StartService, tmp_path: Path, visit: Visit, kind: str
) -> None:
    change(own)
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"anna:{kind}:a-token-of-some-length-0123\n")
    guarded = start_service(own.root, "--token-file", str(tokens))
    page = open_history(visit, f"{guarded.url}/token/a-token-of-some-length-0123")
    if kind == "ro":
        assert page.get_by_role("button").all() == []
        return
    press(page, "Restore everything that was removed")
    page.locator("#changes > li").nth(4).wait_for()
    assert "anna" in page.locator("#changes > li").first.inner_text()
    assert "new" in ids(own)


@pytest.mark.parametrize(
    "path", ["/viewer/", "/api/datasets/brain/open", f"/{FILE}/history/", "/brain/annotations/mine"]
)
@pytest.mark.long
def test_page_with_a_token_in_its_query_leads_behind_the_prefix(
    own: Service, start_service: StartService, tmp_path: Path, path: str
) -> None:
    """The links and scripts of a page are relative: a query would not be carried to them."""
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text("anna:ro:a-token-of-some-length-0123\n")
    guarded = start_service(own.root, "--token-file", str(tokens))
    answer = requests.get(
        f"{guarded.url}{path}?token=a-token-of-some-length-0123",
        headers={"Accept": "text/html,application/xhtml+xml"},
        timeout=60,
    )
    assert answer.url == f"{guarded.url}/token/a-token-of-some-length-0123{path}"
    assert answer.status_code == 200


@pytest.mark.long
def test_history_shows_names_as_text(
    tmp_path: Path, start_service: StartService, visit: Visit
) -> None:
    """Ids and names are anybody's; none of them becomes HTML."""
    evil = "<img src=x onerror=alert(1)>'\""
    dataset = write_dataset(tmp_path / "data" / "brain")
    block = dataset / "annotations" / "x0y0z0"
    (block / f"{evil.replace('/', '')}.json").write_text("[]")
    own = start_service(dataset.parent)
    url = f"{own.url}/{FILE}"
    body = {"type": evil, "anntype": evil}
    assert requests.patch(url, params={"id": evil}, json=body, timeout=60).ok
    assert requests.get(url, headers=EDITOR, timeout=60).ok
    assert requests.put(url, data=b"[]", headers=EDITOR, timeout=60).ok
    page = open_history(visit, own.url)
    page.locator("#held summary").click()
    assert evil in page.locator("#held").inner_text()
    page.goto(f"{own.url}/api/datasets/brain/history")
    page.get_by_role("link", name=evil).click()
    page.locator("#changes:not([aria-busy])").wait_for()
    page.goto(f"{own.url}/")
    card(page, "brain").locator("summary").click()
    assert page.locator("img").count() == 1
    assert visit.complaints == []


# --- For everybody -------------------------------------------------------------------------------

WIDE, PHONE = (1280, 900), (390, 844)
LOOKS = [
    pytest.param(WIDE, "light", id="wide-light"),
    pytest.param(PHONE, "dark", id="phone-dark"),
    pytest.param(WIDE, "dark", id="wide-dark", marks=pytest.mark.long),
    pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.long),
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("shown")
    for name in ("brain", "lab/a mouse with a rather long name, of 2026"):
        write_dataset(root / name)
    (root / "notes.txt").write_text("notes")
    own = start_service(root)
    change(own)
    return own


PAGES = {
    "index": "/",
    "directory": "/brain/",
    "files": "/api/datasets/brain/history",
    "history": f"/{FILE}/history/",
    "mine": "/brain/annotations/mine",
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("path", [pytest.param(path, id=id_) for id_, path in PAGES.items()])
@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_page_is_accessible_and_fits(
    shown: Service,
    browser: Browser,
    tmp_path: Path,
    path: str,
    scheme: Any,
    size: tuple[int, int],
) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(f"{shown.url}{path}")
    page.wait_for_load_state("networkidle")
    for summary in page.locator("summary").all():
        summary.click()
    screenshot(page, path=tmp_path / "page.png", full_page=True)
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_pages_run_nothing_that_is_written_in_them(shown: Service) -> None:
    for path in (*PAGES.values(), "/api/datasets/brain/open"):
        answer = requests.get(f"{shown.url}{path}", timeout=60)
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", answer.text)
