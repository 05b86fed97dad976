"""The state behind the `#!` of the viewer's URL: shown whole, on slow machines too."""

# ruff: noqa: F401, F811 - fixtures of another module

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Page, Route

from tests.conftest import Service, StartService
from tests.datasets import info_of, write_chunks
from tests.test_browser import TOKEN, Visit, browser, dataset, guarded, service, visit
from tests.test_viewer import state_of, wait_until, without_session

pytestmark = pytest.mark.browser

DEMO = "demo-brain"
SCENE = {
    DEMO: f"/{DEMO}",
    "polylines": f"/{DEMO}/annotations/layers/polylines",
    "points": f"/{DEMO}/annotations/layers/points",
}
"""The layers that 'Open' leads to, and where their sources are below the service."""

VIEWER = "window.viewer !== undefined"
LAYERS = """viewer.layerManager.managedLayers.map(({ name, layer }) => ({
    name,
    sources: layer.dataSources.map(({ loadState }) =>
        loadState === undefined ? "pending" : loadState.error ? "failed" : "loaded"),
    drawn: layer.renderLayers.length > 0,
}))"""
SETTLED = f"{VIEWER} && {LAYERS}.every(({{ sources }}) => !sources.includes('pending'))"
WRITTEN = "decodeURIComponent(location.hash.slice(2)) === JSON.stringify(viewer.state.toJSON())"


def throttle(page: Page, rate: int) -> None:
    """Slow the processor down, as the page sees it."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": rate})


def wait_until_settled(page: Page) -> None:
    """Wait until each source is loaded or has failed, and the URL holds what is shown."""
    wait_until(page, SETTLED)
    wait_until(page, WRITTEN)


def open_scene(page: Page, base: str) -> None:
    """Follow the link 'Open' of the demo."""
    page.goto(f"{base}/api/datasets/{DEMO}/open")
    page.wait_for_url("**/viewer/#!*")
    wait_until_settled(page)


def edit_hash(page: Page, state: dict[str, Any]) -> None:
    """Put another state into the URL of the viewer that is shown."""
    page.evaluate("hash => { location.hash = hash; }", f"!{quote(json.dumps(state))}")


def names_in_url(page: Page) -> list[str]:
    return [layer["name"] for layer in state_of(page).get("layers", [])]


def loaded(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "sources": ["loaded"], "drawn": True} for name in names]


def assert_scene_is_whole(page: Page, base: str) -> None:
    assert page.evaluate(LAYERS) == loaded(*SCENE)
    in_url = {layer["name"]: without_session(layer["source"]) for layer in state_of(page)["layers"]}
    assert in_url == {name: f"precomputed://{base}{path}" for name, path in SCENE.items()}


def marks(*names: str) -> list[dict[str, Any]]:
    """Layers of annotations that stand in the state itself, and need no service."""
    return [{"type": "annotation", "name": name, "source": "local://annotations"} for name in names]


# --- Slow machines, slow networks ----------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("rate", "loads"),
    [
        pytest.param(1, 6, marks=pytest.mark.long),
        (4, 6),
        pytest.param(5, 4, marks=pytest.mark.long),
        pytest.param(8, 4, marks=pytest.mark.long),
    ],
)
def test_open_shows_every_layer_each_time_on_a_slow_processor(
    service: Service, visit: Visit, rate: int, loads: int
) -> None:
    throttle(visit.page, rate)
    for _ in range(loads):
        open_scene(visit.page, service.url)
        assert_scene_is_whole(visit.page, service.url)
    assert visit.complaints == []


@pytest.mark.long
def test_open_shows_every_layer_below_a_token_on_a_slow_processor(
    guarded: Service, visit: Visit
) -> None:
    inside = f"{guarded.url}/token/{TOKEN}"
    throttle(visit.page, 4)
    open_scene(visit.page, inside)
    assert_scene_is_whole(visit.page, inside)
    visit.page.reload()
    wait_until_settled(visit.page)
    assert without_session(visit.page.url).startswith(f"{inside}/viewer/#!")
    assert_scene_is_whole(visit.page, inside)
    assert visit.complaints == []


@pytest.mark.long
def test_scene_is_whole_before_and_after_its_sources_arrive(service: Service, visit: Visit) -> None:
    page = visit.page
    held: list[Route] = []
    holding = True

    def hold(route: Route) -> None:
        if holding:
            held.append(route)
        else:
            route.continue_()

    page.route("**/info", hold)
    throttle(page, 4)
    page.goto(f"{service.url}/api/datasets/{DEMO}/open")
    page.wait_for_url("**/viewer/#!*")
    wait_until(page, f"{VIEWER} && {WRITTEN}")
    assert {layer["sources"][0] for layer in page.evaluate(LAYERS)} == {"pending"}
    assert names_in_url(page) == list(SCENE)
    holding = False
    for route in held:
        route.continue_()
    wait_until_settled(page)
    assert_scene_is_whole(page, service.url)
    assert visit.complaints == []


# --- What people put into the URL ----------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, start_service: StartService) -> Service:
    """Another service, with one small volume."""
    voxels = np.full((8, 8, 8), 9, "uint8")
    write_chunks(tmp_path / "root" / "other" / "1_1_1", voxels)
    (tmp_path / "root" / "other" / "info").write_text(json.dumps(info_of(voxels)))
    return start_service(tmp_path / "root")


@pytest.mark.long
def test_pasted_state_of_many_layers_is_shown_whole_and_steps_back_and_forth(
    service: Service, elsewhere: Service, visit: Visit
) -> None:
    page = visit.page
    throttle(page, 4)
    open_scene(page, service.url)
    state = state_of(page)
    other = {"type": "image", "name": "other", "source": f"precomputed://{elsewhere.url}/other"}
    many = [f"mark {number}" for number in range(12)]
    edit_hash(page, {**state, "layers": [other, *state["layers"], *marks(*many)]})
    wait_until(page, "viewer.layerManager.getLayerByName('mark 11') !== undefined")
    wait_until_settled(page)
    assert page.evaluate(LAYERS) == loaded("other", *SCENE, *many)
    assert names_in_url(page) == ["other", *SCENE, *many]

    page.go_back()
    wait_until(page, "viewer.layerManager.managedLayers.length === 3")
    wait_until_settled(page)
    assert_scene_is_whole(page, service.url)
    page.go_forward()
    wait_until(page, "viewer.layerManager.managedLayers.length === 16")
    wait_until_settled(page)
    assert names_in_url(page) == ["other", *SCENE, *many]
    assert visit.complaints == []


@pytest.mark.long
def test_deleted_layer_stays_deleted(service: Service, visit: Visit) -> None:
    page = visit.page
    throttle(page, 4)
    open_scene(page, service.url)
    tab = page.locator(".neuroglancer-layer-item", has_text="polylines")
    tab.hover()
    tab.get_by_title("Delete this layer").click()
    wait_until(page, "viewer.layerManager.managedLayers.length === 2")
    wait_until_settled(page)
    assert names_in_url(page) == [DEMO, "points"]
    page.reload()
    wait_until_settled(page)
    page.evaluate("viewer.showAxisLines.value = false")
    wait_until(page, "location.hash.includes('showAxisLines')")
    assert page.evaluate(LAYERS) == loaded(DEMO, "points")
    assert names_in_url(page) == [DEMO, "points"]
    assert visit.complaints == []


@pytest.mark.long
def test_edit_of_the_url_wins_over_a_write_that_the_busy_viewer_owes(
    service: Service, visit: Visit
) -> None:
    page = visit.page
    page.goto(f"{service.url}/viewer/")
    wait_until(page, VIEWER)
    for number in range(5):
        name = f"edited {number}"
        page.evaluate(
            """hash => new Promise((done) => {
                viewer.showAxisLines.toggle();  // to be written to the URL 0.2 s later
                setTimeout(() => {
                    setTimeout(() => { location.hash = hash; done(); }, 150);
                    const until = performance.now() + 400;
                    while (performance.now() < until);
                });
            })""",
            f"!{quote(json.dumps({'layers': marks(name)}))}",
        )
        wait_until(page, f"viewer.layerManager.getLayerByName({name!r}) !== undefined")
        wait_until_settled(page)
        assert page.evaluate("viewer.layerManager.managedLayers.length") == 1
        assert names_in_url(page) == [name]
        assert without_session(page.url).startswith(f"{service.url}/viewer/#!")


@pytest.mark.long
def test_layers_that_fail_stay_in_the_url_and_are_asked_for_once(
    service: Service, visit: Visit
) -> None:
    page = visit.page
    throttle(page, 4)
    open_scene(page, service.url)
    state = state_of(page)
    absent = f"precomputed://{service.url}/absent"
    broken = {"type": "image", "name": "broken", "source": absent}
    wrong = {**marks("wrong")[0], "annotationProperties": "none"}
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    edit_hash(page, {**state, "layers": [broken, wrong, *state["layers"]]})
    wait_until(page, "viewer.layerManager.getLayerByName('broken') !== undefined")
    wait_until_settled(page)
    page.evaluate("viewer.showAxisLines.value = false")
    wait_until(page, "location.hash.includes('showAxisLines')")
    # The viewer takes a layer away that it cannot make; what has no source yet can still get one.
    failed = {"name": "broken", "sources": ["failed"], "drawn": False}
    assert page.evaluate(LAYERS) == [failed, *loaded(*SCENE)]
    assert names_in_url(page) == ["broken", *SCENE]
    assert asked.count(f"{service.url}/absent/info") == 1
