"""The guard: what the real viewer would destroy stays, and what a person deletes goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import requests

from tests.brains import (
    PAGE,
    Annotation,
    Brain,
    cli,
    compact,
    error_of,
    new_brain,
    point,
    succeed,
)
from tests.conftest import Service, StartService

NEURONS = [point("n1", anntype="neuron"), point("n2", anntype="neuron")]
AXONS = [point(id_, anntype="axon") for id_ in ("a1", "a2", "a3")]
EVERYTHING = [NEURONS[0], AXONS[0], AXONS[1], NEURONS[1], AXONS[2]]
IDS = {"n1", "n2", "a1", "a2", "a3"}

# Leaving a slice: the old slice's file, without the types that the new slice lacks, then empty.
LEAVING: dict[str, list[Annotation]] = {
    "without-axons": NEURONS,
    "without-neurons": AXONS,
    "empty": [],
}


@pytest.fixture(scope="module")
def guarding(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service with two workers."""
    options = ("--workers", "2", "--cors-origins", "*")  # pages of all origins may write
    return start_service(tmp_path_factory.mktemp("guarded"), *options)


@pytest.fixture(scope="module")
def unguarding(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("unguarded"), "--guard", "off")


@pytest.fixture(scope="module")
def guarding_all(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("guarded-all"), "--guard", "all")


@pytest.fixture
def brain(guarding: Service) -> Brain:
    """A file as a pipeline left it: `EVERYTHING`, indented, never changed through the service."""
    return new_brain(guarding, json.dumps(EVERYTHING, indent=3).encode())


@pytest.fixture
def one_slice(guarding: Service) -> Brain:
    """The same as the file of a slice."""
    return new_brain(guarding, json.dumps(EVERYTHING, indent=3).encode(), "z-0001.json")


@pytest.fixture
def unguarded(unguarding: Service) -> Brain:
    return new_brain(unguarding, json.dumps(EVERYTHING, indent=3).encode())


def at_once(brain: Brain, bodies: Sequence[list[Annotation]]) -> None:
    """Save from as many connections at the same moment."""
    barrier = Barrier(len(bodies))

    def save(body: list[Annotation]) -> None:
        barrier.wait(30)
        brain.save(body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(save, bodies))


# --- what the viewer destroys, with the guard ---


@pytest.mark.parametrize("order", list(permutations(LEAVING)), ids="-then-".join)
def test_leaving_a_slice_loses_nothing_in_whatever_order_the_saves_arrive(
    one_slice: Brain, order: tuple[str, ...]
) -> None:
    brain = one_slice
    before = brain.file.read_bytes()
    brain.load()
    brain.load("z-0002.json")
    for name in order:
        brain.save(LEAVING[name])
    assert brain.file.read_bytes() == before
    assert brain.held() == []
    noted = [id_ for change in brain.history() for id_ in change["ignored"]]
    assert sorted(noted) == sorted(set(noted))
    assert set(noted) <= IDS


def test_leaving_a_slice_loses_nothing_when_the_saves_arrive_at_once(one_slice: Brain) -> None:
    before = one_slice.file.read_bytes()
    for _ in range(10):
        one_slice.load()
        one_slice.load("z-0002.json")
        at_once(one_slice, list(LEAVING.values()))
        assert one_slice.file.read_bytes() == before


def test_leaving_a_slice_is_noted_once_for_each_visit(one_slice: Brain) -> None:
    one_slice.load()
    one_slice.load("z-0002.json")
    assert one_slice.save(NEURONS)["ignored"] == 3
    assert "ignored" not in one_slice.save(NEURONS)
    (change,) = one_slice.history()
    assert change["ignored"] == ["a1", "a2", "a3"]
    assert change["removed"] == change["held"] == []


def test_leaving_and_coming_back_to_a_slice_deletions_are_obeyed_again(one_slice: Brain) -> None:
    one_slice.load()
    one_slice.load("z-0002.json")
    one_slice.save([])
    assert one_slice.load() == EVERYTHING
    one_slice.save(EVERYTHING[1:])
    assert one_slice.ids() == IDS - {"n1"}


def test_annotations_of_another_person_that_an_old_copy_lacks_stay(brain: Brain) -> None:
    brain.load()
    brain.patch(point("other-1"))
    brain.patch(point("other-2"))
    assert "kept" not in brain.save(EVERYTHING)
    assert brain.ids() == {"other-1", "other-2", *IDS}
    brain.save([*EVERYTHING, point("mine")])
    assert brain.ids() == {"other-1", "other-2", "mine", *IDS}


def test_annotations_of_another_person_are_held_if_nothing_is_known_of_the_client(
    brain: Brain,
) -> None:
    brain.patch(point("other-1"))
    brain.patch(point("other-2"))
    assert "kept" not in brain.save(EVERYTHING)  # just what was there before
    brain.save([*EVERYTHING, point("mine")], **{"User-Agent": "another"})
    assert brain.ids() == {"other-1", "other-2", "mine", *IDS}


def test_failed_get_and_a_save_of_a_nearly_empty_file_loses_nothing(brain: Brain) -> None:
    first, second = point("first"), point("second")
    assert brain.save([first])["kept"] == len(IDS)
    assert "kept" not in brain.save([first, second])
    assert brain.ids() == {"first", "second", *IDS}
    assert set(brain.held()) == IDS


def test_failed_get_and_a_save_at_once_with_a_whole_one_loses_nothing(brain: Brain) -> None:
    at_once(brain, [[point("new")], EVERYTHING, []])
    assert brain.ids() >= IDS


def test_saves_of_a_drag_that_overlap_change_the_dragged_one_only(brain: Brain) -> None:
    brain.load()
    positions = [float(x) for x in range(24)]
    bodies = [[*EVERYTHING[:-1], {**AXONS[2], "point": [x, 5, 6]}] for x in positions]
    for start in range(0, len(bodies), 6):  # a browser has six connections
        at_once(brain, bodies[start : start + 6])
    others = [annotation for annotation in brain.content() if annotation["id"] != "a3"]
    (dragged,) = (annotation for annotation in brain.content() if annotation["id"] == "a3")
    assert others == EVERYTHING[:-1]
    assert dragged["point"][0] in positions[-6:]
    assert brain.held() == []
    changes = brain.history()
    assert 0 < len(changes) <= len(positions)  # some were overtaken
    assert all(change["changed"] == ["a3"] for change in changes)
    seen = {
        requests.get(f"{brain.url}/history/{change['revision']}", params={"id": "a3"}).json()[
            "point"
        ][0]
        for change in changes
    }
    assert seen <= set(positions)


def test_save_with_nulls_and_in_another_order_changes_nothing(
    guarding: Service,
) -> None:
    ellipsoid = {"id": "e", "type": "ellipsoid", "center": [1, 2, 3], "radii": [4, 5, 6]}
    line = {"id": "l", "type": "linestring", "points": [[1, 2, 3], [4, 5, 6]], "length": 7.25}
    brain = new_brain(guarding, json.dumps([point("p"), line, point("q"), ellipsoid]).encode())
    before = brain.file.read_bytes()
    brain.load()
    sent: list[Annotation] = [
        {**ellipsoid, "radii": [None] * 3},
        {**line, "length": 7},
        point("q"),
        point("p"),
    ]
    answer = brain.save(sent)
    assert "radii" in answer["warnings"][0]
    assert "kept" not in answer
    assert brain.file.read_bytes() == before
    assert not (brain.file.parent / f".{brain.leaf}.journal").exists()


def test_selecting_an_annotation_changes_that_one_alone(brain: Brain) -> None:
    brain.save([*EVERYTHING[:-1], {**EVERYTHING[-1], "reviewed": True, "visited": True}])
    (change,) = brain.history()
    assert change["changed"] == ["a3"]
    assert change["added"] == change["removed"] == change["held"] == []


def test_save_is_answered_with_the_etag_of_what_was_merged(brain: Brain) -> None:
    answer = requests.put(brain.url, data=b"[]", headers=PAGE)
    assert answer.status_code == 200
    assert answer.json() == {"filename": brain.filename, "kept": len(IDS)}
    now = requests.get(brain.url)
    assert answer.headers["ETag"] == now.headers["ETag"]
    assert len(now.json()) == len(IDS)


def test_save_that_is_repeated_is_neither_counted_nor_recorded_again(brain: Brain) -> None:
    assert brain.save([])["kept"] == len(IDS)
    content = brain.file.read_bytes()
    assert "kept" not in brain.save([])
    assert brain.file.read_bytes() == content
    assert [change["kept"] for change in brain.history()] == [len(IDS)]


def test_removals_held_back_are_recorded_and_logged(brain: Brain) -> None:
    brain.save(NEURONS)
    (change,) = brain.history()
    assert change["operation"] == "put"
    assert change["kept"] == 3
    assert change["held"] == ["a1", "a2", "a3"]
    assert change["removed"] == []
    assert f"put {brain.filename}: held back the removal of 3" in brain.service.log()


def test_save_over_a_broken_file_replaces_it(guarding: Service) -> None:
    brain = new_brain(guarding, b'[{"id": "cut sho')
    assert "kept" not in brain.save(NEURONS)
    assert brain.content() == NEURONS


def test_save_of_a_new_file_is_taken_as_it_is(guarding: Service) -> None:
    brain = new_brain(guarding, None)
    assert brain.save(NEURONS) == {"filename": brain.filename}
    assert brain.file.read_bytes() == compact(NEURONS)


@pytest.mark.parametrize("block", ["x0y0z0", "x1y0z0"], ids=["block", "no-block"])
def test_empty_save_of_a_file_that_never_was_leaves_no_trace(guarding: Service, block: str) -> None:
    brain = new_brain(guarding, None)
    url = brain.url.replace("x0y0z0", block)
    answer = requests.put(url, data=b" [ ] ", headers=PAGE)
    assert answer.status_code == 200
    assert "ETag" not in answer.headers
    assert list(brain.file.parent.iterdir()) == []
    assert not (brain.annotations / "x1y0z0").exists()
    assert requests.put(url, json=[]).status_code == 201  # a script wants the file


def test_annotations_without_an_id_stay_when_the_viewer_that_cannot_load_them_saves(
    guarding: Service,
) -> None:
    brain = new_brain(guarding, b'[{"id": 1, "x": 1.0}, {"id": 2, "x": 2.50}]')
    for _ in range(2):
        brain.save([point("drawn")])
        assert brain.file.read_bytes() == (
            b'[{"id": 1, "x": 1.0}, {"id": 2, "x": 2.50}, ' + compact(point("drawn")) + b"]"
        )
    brain.put([point("drawn")])
    assert brain.content() == [point("drawn")]


# --- what a person deletes goes ---


def test_single_deletion_goes_through(brain: Brain) -> None:
    brain.load()
    assert "kept" not in brain.save(EVERYTHING[1:])
    assert brain.ids() == IDS - {"n1"}
    assert brain.held() == []


def test_deletions_one_after_the_other_go_through_with_the_last_one(brain: Brain) -> None:
    brain.load()
    for left in range(len(EVERYTHING) - 1, 0, -1):
        brain.save(EVERYTHING[:left])
        assert brain.content() == EVERYTHING[:left]
    assert "kept" not in brain.save([])
    assert brain.content() == []


def test_single_deletion_goes_through_while_others_are_held(brain: Brain) -> None:
    brain.save(NEURONS)
    assert "kept" not in brain.save(NEURONS[:1])
    assert brain.ids() == IDS - {"n2"}
    assert brain.held() == ["a1", "a2", "a3"]


def test_two_deletions_at_once_go_through_beside_those_that_are_held(brain: Brain) -> None:
    more = [point("x"), point("y"), point("z")]
    brain.save([*NEURONS, *more])
    assert "kept" not in brain.save([*NEURONS, more[0]])
    assert brain.held() == ["a1", "a2", "a3"]
    assert brain.ids() == IDS | {"x"}


@pytest.mark.parametrize("left", [[], [point("new")]], ids=["empty", "one-added"])
def test_all_deletions_at_once_are_held(brain: Brain, left: list[Annotation]) -> None:
    brain.load()
    assert brain.save(left).get("kept", 0) == (0 if left else len(IDS))
    assert brain.ids() >= IDS
    brain.save([*left, point("more")])
    assert brain.ids() >= IDS | {"more"}


def test_only_annotation_of_a_file_is_held_when_the_file_is_emptied(guarding: Service) -> None:
    brain = new_brain(guarding, compact(NEURONS[:1]))
    assert brain.save([])["kept"] == 1
    assert brain.content() == NEURONS[:1]
    assert brain.held() == ["n1"]


def test_only_annotation_of_its_type_goes_like_a_deletion_and_comes_back_by_its_id(
    guarding: Service,
) -> None:
    brain = new_brain(guarding, compact([*AXONS, NEURONS[0]]))
    brain.load()
    brain.save(AXONS)
    brain.save([])
    assert brain.ids() == {"a1", "a2", "a3"}
    assert requests.post(f"{brain.url}/restore", json={}, params={"id": "n1"}).status_code == 200
    assert brain.ids() == {"a1", "a2", "a3", "n1"}


# --- what was held: back, changed, deleted, confirmed ---


def test_held_annotation_that_comes_back_in_a_save_is_no_longer_held(brain: Brain) -> None:
    brain.save(NEURONS)
    brain.save([*NEURONS, AXONS[1]])
    assert brain.held() == ["a1", "a3"]
    brain.save(EVERYTHING)
    assert brain.held() == []
    assert brain.content() == EVERYTHING


def test_held_annotation_that_came_back_can_be_deleted_like_any_other(brain: Brain) -> None:
    brain.save(NEURONS)
    brain.save(EVERYTHING)
    brain.save(EVERYTHING[:-1])
    assert brain.ids() == IDS - {"a3"}


def test_held_annotation_that_is_deleted_by_its_id_goes(brain: Brain) -> None:
    brain.save(NEURONS)
    brain.delete("a2")
    assert brain.ids() == IDS - {"a2"}
    assert brain.held() == ["a1", "a3"]


@pytest.mark.parametrize(
    "annotation", [AXONS[1], {**AXONS[1], "reviewed": True}], ids=["same", "changed"]
)
def test_held_annotation_that_is_patched_is_no_longer_held(
    brain: Brain, annotation: Annotation
) -> None:
    brain.save(NEURONS)
    brain.patch(annotation)
    assert annotation in brain.content()
    assert brain.held() == ["a1", "a3"]


def test_held_annotations_are_given_as_they_are_in_the_file(brain: Brain) -> None:
    assert requests.get(f"{brain.url}/held").json() == []
    brain.save(NEURONS)
    answer = requests.get(f"{brain.url}/held")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.json() == AXONS


def test_held_annotations_are_those_of_the_journal_whoever_asks(brain: Brain) -> None:
    brain.save(NEURONS)
    lines = succeed("held", brain.file)
    assert [json.loads(line) for line in lines] == AXONS


def test_held_annotations_go_all_together_once_they_are_confirmed(brain: Brain) -> None:
    brain.save(NEURONS)
    answer = requests.delete(f"{brain.url}/held")
    assert answer.status_code == 200
    assert answer.json() == {"filename": brain.filename}
    assert answer.headers["ETag"] == requests.get(brain.url).headers["ETag"]
    assert brain.content() == NEURONS
    assert brain.held() == []
    change = brain.history()[0]
    assert change["operation"] == "confirm"
    assert change["removed"] == ["a1", "a2", "a3"]


def test_held_annotation_goes_alone_once_it_is_confirmed_by_its_id(brain: Brain) -> None:
    brain.save(NEURONS)
    assert requests.delete(f"{brain.url}/held", params={"id": "a2"}).status_code == 200
    assert brain.ids() == IDS - {"a2"}
    assert brain.held() == ["a1", "a3"]


def test_confirming_leaves_every_other_annotation_as_it_was_byte_for_byte(
    guarding: Service,
) -> None:
    first = b'[\n   {"id": "a", "x": 1e0}'
    brain = new_brain(guarding, first + b',\n   {"id": "b"},\n   {"id": "c"}\n]\n')
    requests.put(brain.url, data=first + b"]", headers=PAGE)
    assert brain.ids() == {"a", "b", "c"}
    requests.delete(f"{brain.url}/held")
    assert brain.file.read_bytes() == first + b"\n]\n"


def test_confirming_many_takes_one_change(guarding: Service) -> None:
    many = [point(f"{number}") for number in range(2000)]
    brain = new_brain(guarding, compact([*NEURONS, *many]))
    assert brain.save(NEURONS)["kept"] == len(many)
    requests.delete(f"{brain.url}/held")
    assert brain.content() == NEURONS
    assert len(brain.history()) == 2


def test_confirming_what_is_not_held_is_404_and_changes_nothing(brain: Brain) -> None:
    brain.save(NEURONS)
    before = brain.file.read_bytes()
    for id_ in ("n1", "unknown"):
        answer = requests.delete(f"{brain.url}/held", params={"id": id_})
        assert repr(id_) in error_of(answer, 404)
    assert brain.file.read_bytes() == before
    assert len(brain.held()) == 3


def test_confirming_with_an_empty_id_is_400_and_not_a_wish_for_all(brain: Brain) -> None:
    brain.save(NEURONS)
    assert "id" in error_of(requests.delete(f"{brain.url}/held?id="), 400)
    assert len(brain.held()) == 3


def test_confirming_where_nothing_is_held_changes_nothing(brain: Brain) -> None:
    brain.save(EVERYTHING)
    assert requests.delete(f"{brain.url}/held").status_code == 200
    assert not (brain.file.parent / f".{brain.leaf}.journal").exists()
    assert brain.ids() == IDS


def test_confirmed_on_the_command_line_goes_one_or_all(brain: Brain) -> None:
    brain.save(NEURONS)
    lines = succeed("held", brain.file, "--id", "a2", "--confirm")
    assert [json.loads(line)["id"] for line in lines] == ["a1", "a3"]
    assert brain.ids() == IDS - {"a2"}
    assert succeed("held", brain.file, "--confirm") == []
    assert brain.content() == NEURONS
    assert requests.get(brain.url).json() == NEURONS


def test_confirmed_with_an_empty_id_on_the_command_line_is_refused(brain: Brain) -> None:
    brain.save(NEURONS)
    done = cli("held", brain.file, "--id", "", "--confirm")
    assert done.returncode == 1
    assert "No removal of ''" in done.stderr
    assert len(brain.held()) == 3


def test_restored_revision_holds_nothing(brain: Brain) -> None:
    brain.save(NEURONS)
    requests.post(f"{brain.url}/restore", json={}, params={"revision": 0})
    assert brain.content() == EVERYTHING
    assert brain.held() == []


# --- who is guarded ---

SCRIPTS = [
    pytest.param({"Content-Type": "application/json"}, id="plain"),
    pytest.param({"Content-Type": "text/plain;charset=UTF-8"}, id="text"),
    pytest.param({"User-Agent": "curl/8.5.0 (like Mozilla/5.0)"}, id="curl"),
    pytest.param({}, id="no-content-type"),
]
VIEWERS = [
    pytest.param({"Origin": "http://localhost:8080"}, id="origin"),
    pytest.param({"Origin": "https://viewer.example.org"}, id="origin-of-another-site"),
    pytest.param({"Origin": "null"}, id="origin-of-a-sandboxed-page"),
    pytest.param({"Referer": "http://neurotrale.test/ui/"}, id="referer"),
    pytest.param({"Sec-Fetch-Site": "same-origin"}, id="sec-fetch"),
    pytest.param({"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}, id="user-agent"),
    pytest.param({**PAGE, "Content-Type": "application/json"}, id="page-that-says-json"),
]


@pytest.mark.parametrize("headers", SCRIPTS)
def test_put_of_a_script_replaces_the_file(brain: Brain, headers: dict[str, str]) -> None:
    answer = requests.put(brain.url, data=compact(NEURONS), headers=headers)
    assert answer.json() == {"filename": brain.filename}
    assert brain.file.read_bytes() == compact(NEURONS)
    assert brain.held() == []


def test_put_of_a_script_replaces_what_is_held_too(brain: Brain) -> None:
    brain.save(NEURONS)
    brain.put(NEURONS)
    assert brain.content() == NEURONS
    assert brain.held() == []


@pytest.mark.parametrize("headers", VIEWERS)
def test_put_of_a_viewer_is_guarded_by_whatever_it_is_known(
    brain: Brain, headers: dict[str, str]
) -> None:
    answer = requests.put(brain.url, data=compact(NEURONS), headers=headers)
    assert answer.json() == {"filename": brain.filename, "kept": 3}
    assert brain.ids() == IDS


@pytest.mark.parametrize("kind", ["text/plain", "TEXT/PLAIN; charset=utf-8"])
def test_put_of_a_page_is_guarded_however_its_type_is_spelled(brain: Brain, kind: str) -> None:
    brain.save(NEURONS, **{"Content-Type": kind})
    assert brain.ids() == IDS


@pytest.mark.parametrize("every", [True, False], ids=["star", "etag"])
def test_put_of_a_page_with_if_match_replaces_the_file(brain: Brain, every: bool) -> None:
    etag = "*" if every else requests.get(brain.url).headers["ETag"]
    assert "kept" not in brain.save([], **{"If-Match": etag})
    assert brain.content() == []


def test_put_of_a_page_with_an_old_if_match_is_412_and_holds_nothing(brain: Brain) -> None:
    answer = requests.put(brain.url, data=b"[]", headers={**PAGE, "If-Match": '"old"'})
    error_of(answer, 412)
    assert brain.content() == EVERYTHING
    assert brain.held() == []


@pytest.mark.parametrize("headers", [*SCRIPTS, pytest.param(PAGE, id="page")])
def test_guard_for_all_merges_every_put(guarding_all: Service, headers: dict[str, str]) -> None:
    brain = new_brain(guarding_all, compact(EVERYTHING))
    answer = requests.put(brain.url, data=compact(NEURONS), headers=headers)
    assert answer.json()["kept"] == 3
    assert brain.ids() == IDS


def test_guard_for_all_lets_a_script_replace_with_if_match(guarding_all: Service) -> None:
    brain = new_brain(guarding_all, compact(EVERYTHING))
    requests.put(brain.url, data=compact(NEURONS), headers={"If-Match": "*"})
    assert brain.content() == NEURONS


def test_guard_setting_that_is_unknown_is_a_usage_error(tmp_path: Path) -> None:
    done = cli("serve", tmp_path, "--guard", "some")
    assert done.returncode == 2
    assert "--guard" in done.stderr


# --- what the viewer destroys, without the guard: one command brings it back ---


def lose(brain: Brain, saves: Sequence[list[Annotation]], *, parallel: bool) -> None:
    if parallel:
        at_once(brain, saves)
    else:
        for body in saves:
            brain.save(body)


@pytest.mark.parametrize("parallel", [False, True], ids=["in-turn", "at-once"])
def test_unguarded_leaving_of_a_slice_is_undone_by_one_command_and_what_was_added_stays(
    unguarded: Brain, parallel: bool
) -> None:
    lose(unguarded, [NEURONS, []], parallel=parallel)
    drawn = [point("drawn-1"), point("drawn-2")]
    unguarded.save([])
    unguarded.save(drawn[:1])
    unguarded.save(drawn)
    assert unguarded.content() == drawn
    (line,) = succeed("restore", unguarded.file, "--removed")
    assert "restore" in line
    assert "+5" in line
    assert unguarded.ids() == {"drawn-1", "drawn-2", *IDS}
    by_id: dict[str, Any] = {annotation["id"]: annotation for annotation in unguarded.content()}
    assert [by_id[annotation["id"]] for annotation in EVERYTHING] == EVERYTHING
    assert requests.get(unguarded.url).json() == unguarded.content()


def test_unguarded_save_of_a_nearly_empty_file_is_undone_by_one_command(unguarded: Brain) -> None:
    unguarded.save([point("first")])
    unguarded.save([point("first", x=9), point("second")])
    succeed("restore", unguarded.file, "--removed")
    assert unguarded.ids() == {"first", "second", *IDS}
    assert point("first", x=9) in unguarded.content()


def test_unguarded_losses_are_undone_over_http_too(unguarded: Brain) -> None:
    unguarded.save([])
    answer = requests.post(f"{unguarded.url}/restore", json={}, params={"removed": "true"})
    assert answer.status_code == 200
    assert unguarded.ids() == IDS


def test_restored_removals_are_the_newest_versions(unguarded: Brain) -> None:
    unguarded.save([{**EVERYTHING[0], "point": [7, 7, 7]}, *EVERYTHING[1:]])
    unguarded.save([])
    succeed("restore", unguarded.file, "--removed")
    (restored,) = (entry for entry in unguarded.content() if entry["id"] == "n1")
    assert restored["point"] == [7, 7, 7]


def test_restored_removals_since_a_time_leave_earlier_deletions_deleted(unguarded: Brain) -> None:
    unguarded.save(EVERYTHING[1:])
    unguarded.save([])
    since = unguarded.history()[0]["at"]
    succeed("restore", unguarded.file, "--removed", "--since", since)
    assert unguarded.ids() == IDS - {"n1"}
