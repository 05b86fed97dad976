"""The history of annotation files over HTTP: listed, looked at, restored; edits on a condition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import requests
from openapi_spec_validator import validate

from tests.brains import PAGE, Brain, compact, error_of, new_brain, point, succeed
from tests.conftest import Service, StartService

# Spelled as no writer of ours does it.
FIRST = b"""[
   {"id": "a", "type": "point", "point": [1e0, 2.0, 3], "n": 123456789012345678901},
   {"id": "b",  "type": "linestring", "points": [[1, 2, 3], [4, 5.50, 6]], "u": "\\u00e9\xc3\xa9"},
   {"id": "c", "type": "point", "point": [7, 8, 9]}
]
"""
A, B, C = (line.strip(b" ,") for line in FIRST.splitlines()[1:4])

HISTORY = {
    "revision", "at", "by", "from", "operation", "applied", "added", "changed", "removed", "kept",
    "held", "counts", "session", "conflicts", "ignored", "stale",
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("history"), "--workers", "2")


@pytest.fixture(scope="module")
def sealed(shared: Service, start_service: StartService) -> Service:
    """A service on the same data root that was started read-only."""
    return start_service(shared.root, "--read-only")


@pytest.fixture
def brain(shared: Service) -> Brain:
    """A file as a pipeline left it, never changed through the service."""
    return new_brain(shared, FIRST)


@pytest.fixture(scope="module")
def edited(shared: Service) -> Brain:
    """A file with a history of seven changes, for tests that only read."""
    brain = new_brain(shared, FIRST)
    brain.patch(point("d"))  # 1
    brain.patch(point("d", x=5))  # 2
    brain.delete("a")  # 3
    brain.put([point("c"), point("d", x=5), point("e")])  # 4: b goes, c changes, e comes
    restore(brain, revision=3)  # 5
    brain.save([point("d", x=6)])  # 6: d changes, b and c are held
    requests.delete(f"{brain.url}/held")  # 7
    return brain


def restore(brain: Brain, **parameters: Any) -> requests.Response:
    answer = requests.post(f"{brain.url}/restore", json={}, params=parameters)
    assert answer.status_code in (200, 201), answer.text
    return answer


def revision(brain: Brain, number: int, **parameters: str) -> bytes:
    answer = requests.get(f"{brain.url}/history/{number}", params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return answer.content


def numbers(changes: list[dict[str, Any]]) -> list[int]:
    return [change["revision"] for change in changes]


@pytest.fixture
def unchanged(brain: Brain) -> Iterator[None]:
    """Hold that a test changes neither the file nor its history."""
    before = brain.file.read_bytes(), brain.history()
    yield
    assert (brain.file.read_bytes(), brain.history()) == before


# --- listing ---


def test_history_of_a_file_that_was_never_changed_here_is_empty(brain: Brain) -> None:
    answer = requests.get(f"{brain.url}/history")
    assert answer.json() == {"filename": brain.filename, "changes": []}


def test_history_lists_every_change_newest_first(edited: Brain) -> None:
    changes = edited.history()
    assert numbers(changes) == [7, 6, 5, 4, 3, 2, 1]
    operations = ["confirm", "put", "restore", "put", "delete", "patch", "patch"]
    assert [change["operation"] for change in changes] == operations
    times = [change["at"] for change in changes]
    assert times == sorted(times, reverse=True)
    assert all(change["applied"] for change in changes)


@pytest.mark.parametrize(
    ("number", "added", "changed", "removed", "held"),
    [
        pytest.param(1, "d", "", "", "", id="patch-that-adds"),
        pytest.param(2, "", "d", "", "", id="patch-that-changes"),
        pytest.param(3, "", "", "a", "", id="delete"),
        pytest.param(4, "e", "c", "b", "", id="put"),
        pytest.param(5, "b", "c", "e", "", id="restore"),
        pytest.param(6, "", "d", "", "bc", id="merged-put"),
        pytest.param(7, "", "", "bc", "", id="confirm"),
    ],
)
def test_history_names_the_annotations_of_each_change(
    edited: Brain, number: int, added: str, changed: str, removed: str, held: str
) -> None:
    (change,) = edited.history(before=number + 1, limit=1)
    assert change["added"] == list(added)
    assert change["changed"] == list(changed)
    assert change["removed"] == list(removed)
    assert change["held"] == list(held)
    assert change["kept"] == len(held)


def test_history_says_who_when_and_from_where(edited: Brain) -> None:
    for change in edited.history():
        restored = {"restored"} if change["operation"] == "restore" else set()
        assert change.keys() == HISTORY | restored
        assert change["by"] == change["from"] == "127.0.0.1"
        at = datetime.fromisoformat(change["at"])
        assert at.utcoffset() == timedelta(0)


def test_history_asks_caches_to_ask_again(edited: Brain) -> None:
    answer = requests.get(f"{edited.url}/history")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
def test_history_in_pages_gives_every_change_once(edited: Brain, limit: int) -> None:
    seen: list[int] = []
    parameters = {"limit": limit}
    while True:
        page = requests.get(f"{edited.url}/history", params=parameters).json()
        assert 0 < len(page["changes"]) <= limit
        seen += numbers(page["changes"])
        if "next" not in page:
            break
        assert len(page["changes"]) == limit
        parameters["before"] = page["next"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


def test_history_in_pages_with_a_filter_gives_every_match_once(edited: Brain) -> None:
    page = requests.get(f"{edited.url}/history?id=d&limit=2").json()
    assert numbers(page["changes"]) == [6, 2]
    page = requests.get(f"{edited.url}/history?id=d&limit=2&before={page['next']}").json()
    assert numbers(page["changes"]) == [1]
    assert "next" not in page


@pytest.fixture(scope="module")
def thousands(shared: Service) -> Brain:
    """A file whose one save added two thousand annotations."""
    brain = new_brain(shared, b"[]")
    brain.put([point(f"a{number:04}") for number in range(2000)])
    return brain


@pytest.mark.parametrize(
    ("query", "listed"),
    [
        pytest.param("", 20, id="by-default"),
        pytest.param("?ids=0", 0, id="none"),
        pytest.param("?ids=100", 100, id="some"),
        pytest.param("?ids=100000", 2000, id="more-than-there-are"),
        pytest.param("?ids=all", 2000, id="all"),
        pytest.param("?id=a1999", 20, id="of-one-that-is-not-listed"),
    ],
)
def test_history_of_a_large_save_counts_the_ids_and_lists_the_first(
    thousands: Brain, query: str, listed: int
) -> None:
    (change,) = requests.get(f"{thousands.url}/history{query}").json()["changes"]
    assert change["added"] == [f"a{number:04}" for number in range(listed)]
    kinds = ("changed", "removed", "held", "conflicts", "ignored", "stale")
    assert change["counts"] == {"added": 2000, **dict.fromkeys(kinds, 0)}


@pytest.mark.parametrize("ids", ["-1", "x", "", "1.5", "ALL"])
def test_history_with_a_bad_number_of_ids_is_400_that_says_what_fits(
    thousands: Brain, ids: str
) -> None:
    answer = requests.get(f"{thousands.url}/history", params={"ids": ids})
    assert answer.status_code == 400
    assert "'all'" in answer.json()["description"]


@pytest.mark.parametrize("before", [1, 0])
def test_history_before_the_first_change_is_empty(edited: Brain, before: int) -> None:
    assert requests.get(f"{edited.url}/history?before={before}").json() == {
        "filename": edited.filename,
        "changes": [],
    }


@pytest.mark.parametrize(
    ("id_", "expected"),
    [
        pytest.param("a", [3], id="removed"),
        pytest.param("b", [7, 6, 5, 4], id="held-and-back"),
        pytest.param("d", [6, 2, 1], id="added-and-changed"),
        pytest.param("e", [5, 4], id="added-and-removed"),
        pytest.param("unknown", [], id="unknown"),
    ],
)
def test_history_of_an_annotation_is_the_changes_that_touch_it(
    edited: Brain, id_: str, expected: list[int]
) -> None:
    assert numbers(edited.history(id=id_)) == expected


@pytest.mark.parametrize(("by", "count"), [("127.0.0.1", 7), ("ann", 0)])
def test_history_of_a_person_is_what_that_name_changed(edited: Brain, by: str, count: int) -> None:
    assert len(edited.history(by=by)) == count


@pytest.fixture(scope="module")
def apart(shared: Service) -> Brain:
    """A file whose three changes are at least some milliseconds apart."""
    brain = new_brain(shared, FIRST)
    for id_ in "xyz":
        brain.patch(point(id_))
        next_moment = _later(brain.history()[0]["at"], 1)
        while _now() <= next_moment:
            pass
    return brain


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _later(time: str, milliseconds: int) -> str:
    at = datetime.fromisoformat(time) + timedelta(milliseconds=milliseconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_history_since_includes_and_until_excludes_the_moment(apart: Brain) -> None:
    at = apart.history()[1]["at"]
    assert numbers(apart.history(since=at)) == [3, 2]
    assert numbers(apart.history(until=at)) == [1]
    assert numbers(apart.history(since=at, until=_later(at, 1))) == [2]
    assert numbers(apart.history(since=_later(at, 1))) == [3]


@pytest.mark.parametrize("spelling", ["utc-offset", "no-zone", "plus-as-a-space", "basic"])
def test_history_takes_a_time_in_any_spelling_of_iso_8601(apart: Brain, spelling: str) -> None:
    at = datetime.fromisoformat(apart.history()[1]["at"])
    east = at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    text = {
        "utc-offset": east.isoformat(),
        "no-zone": at.replace(tzinfo=None).isoformat(),
        "plus-as-a-space": east.isoformat().replace("+", " "),
        "basic": at.strftime("%Y%m%dT%H%M%S.%fZ"),
    }[spelling]
    assert numbers(apart.history(since=text)) == [3, 2]
    raw = requests.get(f"{apart.url}/history?since={text.replace(' ', '+')}")
    assert numbers(raw.json()["changes"]) == [3, 2]


@pytest.mark.parametrize("day", ["2026-11-22", "1999-01-01T00:00"])
def test_history_takes_a_day_as_its_beginning(apart: Brain, day: str) -> None:
    year = apart.history()[0]["at"] >= day
    assert len(apart.history(since=day)) == (3 if year else 0)


def test_put_of_the_very_same_bytes_is_no_change(brain: Brain) -> None:
    answer = requests.put(brain.url, data=FIRST)
    assert answer.status_code == 200
    assert answer.headers["ETag"] == requests.get(brain.url).headers["ETag"]
    assert brain.history() == []


def test_change_by_another_program_is_recorded_by_the_next_writer(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.file.write_bytes(b'[{"id":"a"},{"id":"x"}]')
    assert numbers(brain.history()) == [1]
    brain.patch(point("e"))
    patched, outside, _ = brain.history()
    assert outside["operation"] == "outside"
    assert outside["by"] == ""
    assert outside["added"] == ["x"]
    assert sorted(outside["removed"]) == ["b", "c", "d"]
    assert outside["changed"] == ["a"]
    assert patched["added"] == ["e"]
    assert revision(brain, 2) == b'[{"id":"a"},{"id":"x"}]'


def test_history_of_a_file_that_another_program_deleted_is_still_there(brain: Brain) -> None:
    brain.patch(point("d"))
    content = brain.file.read_bytes()
    brain.file.unlink()
    assert requests.get(brain.url).status_code == 404
    assert numbers(brain.history()) == [1]
    assert revision(brain, 1) == content


def test_history_through_a_position_in_voxels_is_that_of_its_block(edited: Brain) -> None:
    url = edited.url.replace("/x0y0z0/", "/x41y22z13/")
    answer = requests.get(f"{url}/history", headers=PAGE)
    assert answer.json() == requests.get(f"{edited.url}/history").json()


# --- revisions ---


def test_revision_is_the_file_as_it_was_byte_for_byte(brain: Brain) -> None:
    contents = [FIRST]
    steps = [
        lambda: brain.patch(point("d")),
        lambda: brain.patch({**point("b"), "é": "\u00e9"}),
        lambda: brain.delete("a"),
        lambda: brain.put([point("x"), point("c")]),
        lambda: restore(brain, revision=0),
        lambda: restore(brain, removed="true"),
        lambda: brain.save([point("drawn")]),
        lambda: requests.delete(f"{brain.url}/held"),
        lambda: brain.put([]),
    ]
    for step in steps:
        step()
        contents.append(brain.file.read_bytes())
    for number, content in enumerate(contents):
        assert revision(brain, number) == content


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'[{"id": "cut sho', id="cut-short"),
        pytest.param(b'[{"id": "a", "x": "\xff\xfe"}]', id="not-utf8"),
        pytest.param(b'{"id": "a"}', id="no-array"),
    ],
)
def test_revision_of_a_file_that_was_broken_is_what_was_there(
    shared: Service, content: bytes
) -> None:
    brain = new_brain(shared, content)
    brain.put([point("a")])
    assert revision(brain, 0) == content
    assert revision(brain, 1) == brain.file.read_bytes()


def test_revision_with_an_id_is_that_annotation_as_it_was(brain: Brain) -> None:
    brain.patch(point("b"))
    brain.delete("a")
    assert revision(brain, 0, id="b") == B
    assert json.loads(revision(brain, 1, id="b")) == point("b")
    assert revision(brain, 1, id="a") == A
    error_of(requests.get(f"{brain.url}/history/2", params={"id": "a"}), 404)


def test_revision_is_the_same_for_every_worker_and_service(edited: Brain, sealed: Service) -> None:
    others = Brain(sealed, edited.name)
    for number in range(8):
        assert revision(others, number) == revision(edited, number)


@pytest.mark.parametrize(
    "path", ["history/8", "history/999999999999999", "history/1234567890123456", "history/-1",
             "history/x", "history/1/2"],
)  # fmt: skip
def test_revision_that_is_none_is_404(edited: Brain, path: str) -> None:
    error_of(requests.get(f"{edited.url}/{path}"), 404)


def test_revision_before_a_file_was_made_is_404_that_says_so(shared: Service) -> None:
    brain = new_brain(shared, None)
    brain.put([point("a")])
    assert "no file" in error_of(requests.get(f"{brain.url}/history/0"), 404)
    assert revision(brain, 1) == brain.file.read_bytes()


def test_revision_whose_first_content_was_deleted_is_found_from_the_file_as_it_is(
    brain: Brain,
) -> None:
    brain.patch(point("d"))
    brain.patch(point("e"))
    brain.file.with_name(".fibers.json.journal.base").unlink()
    assert revision(brain, 0) == FIRST


# --- restoring ---


def test_restored_revision_is_that_content_and_a_change_of_its_own(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.delete("a")
    answer = restore(brain, revision=0)
    assert answer.status_code == 200
    assert answer.json() == {"filename": brain.filename}
    assert brain.file.read_bytes() == FIRST
    assert answer.headers["ETag"] == requests.get(brain.url).headers["ETag"]
    change = brain.history()[0]
    assert change["operation"] == "restore"
    assert change["restored"] == 0
    assert change["added"] == ["a"]
    assert change["removed"] == ["d"]


def test_restoring_is_undone_by_restoring_what_was_before_it(brain: Brain) -> None:
    brain.put([point("x")])
    content = brain.file.read_bytes()
    restore(brain, revision=0)
    restore(brain, revision=1)
    assert brain.file.read_bytes() == content
    assert [change["restored"] for change in brain.history()[:2]] == [1, 0]


def test_restored_annotation_without_a_revision_is_what_it_was_before_its_last_change(
    brain: Brain,
) -> None:
    brain.patch(point("b"))
    brain.patch(point("other"))
    restore(brain, id="b")
    assert brain.file.read_bytes() == FIRST.replace(
        b"\n]", b",\n   " + json.dumps(point("other")).encode() + b"\n]"
    )
    assert json.loads(revision(brain, 2, id="b")) == point("b")


def test_restored_annotation_that_was_removed_stands_behind_all_others(brain: Brain) -> None:
    brain.delete("b")
    restore(brain, id="b")
    assert brain.file.read_bytes() == b"[\n   " + b",\n   ".join([A, C, B]) + b"\n]\n"
    assert brain.history()[0]["added"] == ["b"]


def test_restored_annotation_at_a_revision_leaves_all_others_as_they_are(brain: Brain) -> None:
    brain.patch(point("b", x=2))
    brain.patch(point("b", x=3))
    brain.patch(point("a", x=4))
    restore(brain, id="b", revision=1)
    by_id = {annotation["id"]: annotation for annotation in brain.content()}
    assert by_id["b"] == point("b", x=2)
    assert by_id["a"] == point("a", x=4)
    assert C in brain.file.read_bytes()
    assert brain.history()[0]["restored"] == 1


def test_restored_removals_come_back_and_all_that_is_there_stays(brain: Brain) -> None:
    brain.delete("a")
    brain.put([point("b"), point("x")])
    restore(brain, removed="true")
    assert brain.ids() == {"a", "b", "c", "x"}
    text = brain.file.read_bytes()
    assert A in text
    assert C in text
    assert B not in text
    assert sorted(brain.history()[0]["added"]) == ["a", "c"]


@pytest.mark.parametrize("query", ["removed", "removed=true", "removed=", "removed=True"])
def test_restored_removals_are_asked_for_in_any_spelling(brain: Brain, query: str) -> None:
    brain.delete("a")
    assert requests.post(f"{brain.url}/restore?{query}", json={}).status_code == 200
    assert brain.ids() == {"a", "b", "c"}


def test_restored_removals_since_a_time_are_those_after_it_only(brain: Brain) -> None:
    brain.delete("a")
    brain.patch(point("d"))
    before = brain.history()[0]["at"]
    while _now() <= before:
        pass
    brain.delete("b")
    restore(brain, removed="true", since=_later(before, 1))
    assert brain.ids() == {"b", "c", "d"}


def test_restored_removals_of_another_program_come_back_too(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.file.write_bytes(b"[]")
    restore(brain, removed="true")
    assert brain.ids() == {"a", "b", "c", "d"}
    assert [change["operation"] for change in brain.history()] == ["restore", "outside", "patch"]


def test_restored_revision_of_a_file_that_another_program_deleted_is_201(brain: Brain) -> None:
    brain.patch(point("d"))
    content = brain.file.read_bytes()
    brain.file.unlink()
    assert restore(brain, revision=1).status_code == 201
    assert brain.file.read_bytes() == content


def test_restored_revision_of_a_file_that_another_program_emptied_mends_it(brain: Brain) -> None:
    brain.patch(point("d"))
    content = brain.file.read_bytes()
    brain.file.write_bytes(b"")
    assert requests.get(brain.url).status_code == 500
    restore(brain, revision=1)
    assert brain.file.read_bytes() == content


@pytest.mark.parametrize(
    "parameters",
    [{"revision": 1}, {"id": "b", "revision": 1}, {"removed": "true"}],
    ids=["revision", "annotation", "removals"],
)
def test_restoring_what_is_there_already_changes_nothing(
    brain: Brain, parameters: dict[str, Any]
) -> None:
    brain.patch(point("b"))
    before = brain.file.stat()
    restore(brain, **parameters)
    assert brain.file.stat().st_mtime_ns == before.st_mtime_ns
    assert len(brain.history()) == 1


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        pytest.param({"revision": 9}, "revision 9", id="revision"),
        pytest.param({"id": "unknown"}, "'unknown'", id="annotation"),
        pytest.param({"id": "c"}, "'c'", id="annotation-that-never-changed"),
        pytest.param({"id": "d", "revision": 0}, "'d'", id="annotation-not-there-then"),
        pytest.param({"id": "d", "revision": 9}, "revision 9", id="annotation-at-no-revision"),
    ],
)
def test_restoring_what_is_not_in_the_history_is_404(
    brain: Brain, parameters: dict[str, Any], why: str
) -> None:
    brain.patch(point("d"))
    before = brain.file.read_bytes()
    assert why in error_of(requests.post(f"{brain.url}/restore", json={}, params=parameters), 404)
    assert brain.file.read_bytes() == before
    assert len(brain.history()) == 1


@pytest.mark.parametrize(
    "parameters", [{"revision": 0}, {"revision": 0, "id": "a"}], ids=["revision", "annotation"]
)
def test_restoring_the_time_before_a_file_was_made_is_404_and_leaves_it(
    shared: Service, parameters: dict[str, Any]
) -> None:
    brain = new_brain(shared, None)
    brain.put([point("a")])
    answer = requests.post(f"{brain.url}/restore", json={}, params=parameters)
    assert "no file" in error_of(answer, 404)
    assert brain.content() == [point("a")]


def test_restoring_an_annotation_from_a_broken_revision_is_404(shared: Service) -> None:
    brain = new_brain(shared, b'[{"id": "a"')
    brain.put([point("a")])
    answer = requests.post(f"{brain.url}/restore?id=a&revision=0", json={})
    assert "'a'" in error_of(answer, 404)


PARAMETERS = [{"revision": 0}, {"id": "a"}, {"removed": "true"}]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=["revision", "annotation", "removals"])
@pytest.mark.parametrize("last", ["restore", "history", "held"])
def test_history_of_what_never_was_is_404(
    shared: Service, last: str, parameters: dict[str, Any]
) -> None:
    brain = new_brain(shared, None)
    method = "POST" if last == "restore" else "GET"
    error_of(requests.request(method, f"{brain.url}/{last}", params=parameters, json={}), 404)
    assert list(brain.file.parent.iterdir()) == []


@pytest.mark.parametrize("parameters", PARAMETERS, ids=["revision", "annotation", "removals"])
def test_restoring_heeds_if_match(brain: Brain, parameters: dict[str, Any]) -> None:
    old = requests.get(brain.url).headers["ETag"]
    brain.delete("a")
    before = brain.file.read_bytes()
    url = f"{brain.url}/restore"
    answer = requests.post(url, json={}, params=parameters, headers={"If-Match": old})
    current = requests.get(brain.url).headers["ETag"]
    assert current in error_of(answer, 412)
    assert brain.file.read_bytes() == before
    assert len(brain.history()) == 1
    answer = requests.post(url, json={}, params=parameters, headers={"If-Match": current})
    assert answer.status_code == 200
    assert "a" in brain.ids()


def test_confirming_heeds_if_match(brain: Brain) -> None:
    old = requests.get(brain.url).headers["ETag"]
    brain.patch(point("d"))
    brain.save([])
    url = f"{brain.url}/held"
    error_of(requests.delete(url, headers={"If-Match": old}), 412)
    assert len(brain.held()) == 3
    current = requests.get(brain.url).headers["ETag"]
    assert requests.delete(url, headers={"If-Match": current}).status_code == 200
    assert brain.content() == [point("d")]


# --- bad values ---


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        pytest.param("GET", "history?since=yesterday", "since='yesterday'", id="since"),
        pytest.param("GET", "history?until=2026-13-01", "until='2026-13-01'", id="until"),
        pytest.param("GET", "history?before=x", "before='x'", id="before-no-number"),
        pytest.param("GET", "history?before=", "before=''", id="before-empty"),
        pytest.param("GET", "history?before=-1", "before='-1'", id="before-negative"),
        pytest.param("GET", "history?before=1e99", "before='1e99'", id="before-no-integer"),
        pytest.param("GET", f"history?before={2**70}", "before=", id="before-huge"),
        pytest.param("GET", "history?limit=0", "limit='0'", id="limit-zero"),
        pytest.param("GET", "history?limit=10001", "limit='10001'", id="limit-too-many"),
        pytest.param("GET", "history?limit=all", "limit='all'", id="limit-no-number"),
        pytest.param("GET", "history?id=", "id", id="history-id-empty"),
        pytest.param("GET", "history?id=a&id=b", "id", id="history-two-ids"),
        pytest.param("GET", "history/0?id=", "id", id="revision-id-empty"),
        pytest.param("POST", "restore", "revision", id="restore-nothing"),
        pytest.param("POST", "restore?removed=false", "revision", id="restore-not-removed"),
        pytest.param("POST", "restore?removed=some", "removed", id="restore-removed"),
        pytest.param("POST", "restore?revision=x", "revision='x'", id="restore-no-number"),
        pytest.param("POST", "restore?revision=-1", "revision='-1'", id="restore-negative"),
        pytest.param("POST", "restore?revision=0&id=", "id", id="restore-id-empty"),
        pytest.param("POST", "restore?id=a&id=b", "id", id="restore-two-ids"),
        pytest.param("POST", "restore?removed&id=a", "removed", id="removed-and-id"),
        pytest.param("POST", "restore?removed&revision=0", "removed", id="removed-and-revision"),
        pytest.param("POST", "restore?removed&since=x", "since='x'", id="removed-since"),
        pytest.param("POST", "restore?id=a&since=2026-01-01", "since", id="since-not-removed"),
        pytest.param("DELETE", "held?id=", "id", id="held-id-empty"),
        pytest.param("DELETE", "held?id=a&id=b", "id", id="held-two-ids"),
        pytest.param("GET", "../../corrections?since=soon", "since='soon'", id="corrections"),
    ],
)
def test_bad_value_is_400_that_names_the_parameter(
    brain: Brain, method: str, path: str, named: str
) -> None:
    url = f"{brain.url}/{path}".replace("/x0y0z0/fibers.json/../..", "")
    answer = requests.request(method, url, json={})
    assert named in error_of(answer, 400)


# --- edits on a condition ---


def edit(brain: Brain, method: str, headers: dict[str, str], id_: str = "b") -> requests.Response:
    """Make some change of the file by a method."""
    if method == "PUT":
        return requests.put(brain.url, data=compact([point(id_)]), headers=headers)
    return requests.request(
        method,
        brain.url,
        params={"id": id_},
        json=point(id_) if method == "PATCH" else None,
        headers=headers,
    )


METHODS = pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])


@METHODS
@pytest.mark.parametrize(
    "template",
    ["{}", "*", '"other" , {}', '{}, "other"', 'W/"weak", {}', '{},"x"'],
    ids=["etag", "star", "list-end", "list-start", "list-with-weak", "list-without-spaces"],
)
def test_if_match_that_fits_lets_the_edit_through(brain: Brain, method: str, template: str) -> None:
    etag = requests.get(brain.url).headers["ETag"]
    answer = edit(brain, method, {"If-Match": template.format(etag)})
    assert answer.status_code == 200
    assert answer.headers["ETag"] == requests.get(brain.url).headers["ETag"] != etag


@pytest.mark.usefixtures("unchanged")
@METHODS
@pytest.mark.parametrize(
    "template",
    ['"other"', "W/{}", 'W/{}, "other"', "other", '"', '"*"', "{bare}"],
    ids=["other", "weak", "weak-and-other", "unquoted", "half", "quoted-star", "bare-etag"],
)
def test_if_match_that_does_not_fit_is_412_that_says_what_to_do(
    brain: Brain, method: str, template: str
) -> None:
    etag = requests.get(brain.url).headers["ETag"]
    answer = edit(brain, method, {"If-Match": template.format(etag, bare=etag.strip('"'))})
    description = error_of(answer, 412)
    assert etag in description
    assert "nothing was written" in description


@METHODS
def test_if_match_of_a_version_that_another_writer_replaced_is_412(
    brain: Brain, method: str
) -> None:
    old = requests.get(brain.url).headers["ETag"]
    brain.patch(point("d"))
    before = brain.file.read_bytes()
    error_of(edit(brain, method, {"If-Match": old}), 412)
    assert brain.file.read_bytes() == before


@METHODS
def test_if_match_of_a_version_that_another_program_replaced_is_412(
    brain: Brain, method: str
) -> None:
    old = requests.get(brain.url).headers["ETag"]
    brain.file.write_bytes(FIRST.replace(b"7", b"8"))
    error_of(edit(brain, method, {"If-Match": old}), 412)


@METHODS
def test_if_match_fits_again_when_the_content_is_the_same_again(brain: Brain, method: str) -> None:
    old = requests.get(brain.url).headers["ETag"]
    brain.patch(point("d"))
    restore(brain, revision=0)
    assert edit(brain, method, {"If-Match": old}).status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_if_match_of_one_annotation_fits_while_that_one_is_the_same(
    brain: Brain, method: str
) -> None:
    etag = requests.get(brain.url, params={"id": "b"}).headers["ETag"]
    brain.patch(point("a"))
    assert edit(brain, method, {"If-Match": etag}).status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_if_match_of_one_annotation_is_412_once_that_one_has_changed(
    brain: Brain, method: str
) -> None:
    etag = requests.get(brain.url, params={"id": "b"}).headers["ETag"]
    brain.patch(point("b", x=9))
    error_of(edit(brain, method, {"If-Match": etag}), 412)
    assert point("b", x=9) in brain.content()


def test_if_match_of_one_annotation_is_412_for_another_one_and_for_the_file(brain: Brain) -> None:
    etag = requests.get(brain.url, params={"id": "b"}).headers["ETag"]
    error_of(edit(brain, "PATCH", {"If-Match": etag}, "a"), 412)
    error_of(edit(brain, "PUT", {"If-Match": etag}), 412)


@pytest.mark.parametrize("tag", ["*", '"some"'], ids=["star", "etag"])
def test_if_match_on_a_put_of_a_new_file_is_412_and_makes_nothing(
    shared: Service, tag: str
) -> None:
    brain = new_brain(shared, None)
    assert "no file" in error_of(edit(brain, "PUT", {"If-Match": tag}), 412)
    assert not brain.file.exists()


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_if_match_on_an_absent_file_is_404_for_single_edits(shared: Service, method: str) -> None:
    brain = new_brain(shared, None)
    error_of(edit(brain, method, {"If-Match": "*"}), 404)


@pytest.mark.usefixtures("unchanged")
def test_if_none_match_star_refuses_to_overwrite(brain: Brain) -> None:
    answer = edit(brain, "PUT", {"If-None-Match": "*"})
    assert "exists" in error_of(answer, 412)


def test_if_none_match_star_lets_a_new_file_be_made_once(shared: Service) -> None:
    brain = new_brain(shared, None)
    assert edit(brain, "PUT", {"If-None-Match": "*"}).status_code == 201
    error_of(edit(brain, "PUT", {"If-None-Match": "*"}, "c"), 412)
    assert brain.ids() == {"b"}


def test_if_match_lets_one_of_many_at_once_through(brain: Brain) -> None:
    for _ in range(5):
        etag = requests.get(brain.url).headers["ETag"]
        barrier = Barrier(8)

        def save(number: int, etag: str = etag, barrier: Barrier = barrier) -> tuple[int, int]:
            barrier.wait(30)
            body = compact([point(f"{number}"), point(etag)])
            answer = requests.put(brain.url, data=body, headers={"If-Match": etag})
            return answer.status_code, number

        with ThreadPoolExecutor(8) as pool:
            statuses = sorted(pool.map(save, range(8)))
        assert [status for status, _ in statuses] == [200] + [412] * 7
        assert brain.content() == [point(f"{statuses[0][1]}"), point(etag)]


def test_if_none_match_star_lets_one_of_many_at_once_make_the_file(shared: Service) -> None:
    brain = new_brain(shared, None)
    barrier = Barrier(8)

    def save(number: int) -> int:
        barrier.wait(30)
        return edit(brain, "PUT", {"If-None-Match": "*"}, f"{number}").status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(save, range(8))) == [201] + [412] * 7


# --- a read-only service ---

WRITES = [
    ("PUT", "", {}),
    ("PATCH", "", {"id": "c"}),
    ("DELETE", "", {"id": "c"}),
    ("POST", "/restore", {"revision": "0"}),
    ("POST", "/restore", {"id": "a"}),
    ("POST", "/restore", {"removed": "true"}),
    ("DELETE", "/held", {}),
    ("DELETE", "/held", {"id": "b"}),
]


@pytest.mark.parametrize(("method", "last", "parameters"), WRITES, ids=str)
def test_read_only_service_refuses_every_write_with_403(
    brain: Brain, sealed: Service, method: str, last: str, parameters: dict[str, str]
) -> None:
    brain.delete("a")
    brain.save([])
    before = brain.file.read_bytes(), brain.history(), brain.held()
    url = f"{Brain(sealed, brain.name).url}{last}"
    body = compact([] if method == "PUT" else point("c"))
    answer = requests.request(method, url, params=parameters, data=body, headers=PAGE)
    assert "read-only" in error_of(answer, 403)
    assert (brain.file.read_bytes(), brain.history(), brain.held()) == before


def test_read_only_service_shows_the_history(edited: Brain, sealed: Service) -> None:
    others = Brain(sealed, edited.name)
    assert others.history() == edited.history()
    assert others.held() == edited.held()
    assert revision(others, 0) == FIRST
    assert corrections(others) == corrections(edited)


# --- corrections ---


def corrections(brain: Brain, **parameters: str) -> list[dict[str, Any]]:
    """What people changed; every line is one JSON object."""
    url = brain.url.replace("/x0y0z0/fibers.json", "/corrections")
    answer = requests.get(url, params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    assert answer.content.endswith(b"\n") or not answer.content
    return [json.loads(line) for line in answer.content.splitlines()]


def kinds(brain: Brain, **parameters: str) -> dict[str, str]:
    found = corrections(brain, **parameters)
    assert len({(one["block"], one["file"], one["id"]) for one in found}) == len(found)
    return {one["id"]: one["kind"] for one in found}


def test_corrections_of_a_dataset_that_nobody_changed_are_empty(brain: Brain) -> None:
    assert corrections(brain) == []


def test_corrections_tell_what_was_done_to_each_annotation(brain: Brain) -> None:
    brain.patch(point("new"))
    brain.patch({**json.loads(A), "point": [9, 9, 9]})
    brain.delete("b")
    brain.patch({**json.loads(C), "reviewed": True, "visited": True})
    found = {one["id"]: one for one in corrections(brain)}
    assert {id_: one["kind"] for id_, one in found.items()} == {
        "new": "added",
        "a": "changed",
        "b": "removed",
        "c": "reviewed",
    }
    assert found["new"]["first"] is None
    assert found["new"]["last"] == point("new")
    assert found["a"]["first"] == json.loads(A)
    assert found["a"]["last"] == {**json.loads(A), "point": [9, 9, 9]}
    assert found["b"]["first"] == json.loads(B)
    assert found["b"]["last"] is None
    for change in brain.history():
        (touched,) = change["added"] + change["changed"] + change["removed"]
        assert found[touched]["at"] == change["at"]
    for one in found.values():
        assert list(one) == ["block", "file", "id", "kind", "first", "last", "by", "at"]
        assert (one["block"], one["file"], one["by"]) == ("x0y0z0", "fibers.json", "127.0.0.1")


def test_correction_of_an_annotation_that_was_changed_ten_times_is_one(brain: Brain) -> None:
    for x in range(10):
        brain.patch(point("a", x=x))
    (one,) = corrections(brain)
    assert one["kind"] == "changed"
    assert one["first"] == json.loads(A)
    assert one["last"] == point("a", x=9)
    assert one["at"] == brain.history()[0]["at"]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([("patch", point("new")), ("delete", "new")], id="added-then-removed"),
        pytest.param([("patch", point("a", x=9)), ("restore", "a")], id="changed-and-back"),
        pytest.param([("delete", "a"), ("restore", "a")], id="removed-and-restored"),
        pytest.param([("patch", {**json.loads(C), "visited": True})], id="visited-only"),
        pytest.param([("patch", json.loads(A))], id="spelled-differently-only"),
    ],
)
def test_correction_that_leaves_no_trace_is_absent(
    brain: Brain, steps: list[tuple[str, Any]]
) -> None:
    for step, what in steps:
        if step == "patch":
            brain.patch(what)
        elif step == "delete":
            brain.delete(what)
        else:
            restore(brain, id=what)
    assert corrections(brain) == []


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        pytest.param([("patch", point("new")), ("patch", point("new", x=2))], "added", id="added"),
        pytest.param([("patch", point("a", x=9)), ("delete", "a")], "removed", id="removed"),
        pytest.param(
            [("delete", "a"), ("patch", point("a", x=9))], "changed", id="removed-and-drawn-again"
        ),
        pytest.param(
            [("patch", {**json.loads(A), "reviewed": True}), ("patch", point("a", x=9))],
            "changed",
            id="reviewed-then-changed",
        ),
        pytest.param(
            [("patch", {**json.loads(A), "reviewed": True}), ("delete", "a")],
            "removed",
            id="reviewed-then-removed",
        ),
    ],
)
def test_corrections_fold_several_changes_into_one_kind(
    brain: Brain, steps: list[tuple[str, Any]], kind: str
) -> None:
    for step, what in steps:
        if step == "patch":
            brain.patch(what)
        else:
            brain.delete(what)
    assert list(kinds(brain).values()) == [kind]


def test_corrections_of_indented_files_are_one_line_each_with_numbers_as_they_were(
    shared: Service,
) -> None:
    text = '[\n {\n  "id": "a",\n  "t": "two  words\\n",\n  "x": [\n   1e0,\n   2.50\n  ]\n }\n]'
    brain = new_brain(shared, text.encode())
    brain.delete("a")
    url = brain.url.replace("/x0y0z0/fibers.json", "/corrections")
    body = requests.get(url).content
    assert body.count(b"\n") == 1
    assert b'"first":{"id":"a","t":"two  words\\n","x":[1e0,2.50]},"last":null' in body


def test_corrections_cover_all_files_of_all_blocks_in_order(brain: Brain) -> None:
    names = [("x1y0z0", "z-0007.json"), ("x0y0z0", "centroids.json"), ("x0y0z0", "fibers.json"),
             ("x1y0z0", "fibers.json")]  # fmt: skip
    (brain.annotations / "x1y0z0").mkdir()
    for block, leaf in names:
        url = brain.url.replace("x0y0z0/fibers.json", f"{block}/{leaf}")
        requests.put(url, json=[*json.loads(FIRST), point(f"in-{block}-{leaf}")])
    found = corrections(brain)
    assert [(one["block"], one["file"]) for one in found if one["id"].startswith("in-")] == sorted(
        names
    )
    assert {one["id"] for one in found if one["file"] == "centroids.json"} > {"a", "b", "c"}


def test_corrections_leave_out_what_other_programs_changed(brain: Brain) -> None:
    brain.patch(point("a", x=9))
    brain.file.write_bytes(compact([point("a", x=10), point("b"), point("from-the-pipeline")]))
    brain.patch(point("a", x=11))
    assert kinds(brain) == {"a": "changed"}
    (one,) = corrections(brain)
    assert one["first"] == json.loads(A)
    assert one["last"] == point("a", x=11)


def test_corrections_since_a_time_begin_with_the_content_then(apart: Brain) -> None:
    at = apart.history()[1]["at"]
    assert kinds(apart, since=at) == {"y": "added", "z": "added"}
    assert kinds(apart, since=_later(apart.history()[0]["at"], 1)) == {}


def test_corrections_since_a_time_fold_only_what_came_after(brain: Brain) -> None:
    brain.patch(point("a", x=8))
    before = brain.history()[0]["at"]
    while _now() <= before:
        pass
    brain.patch(point("a", x=9))
    (one,) = corrections(brain, since=_later(before, 1))
    assert one["first"] == point("a", x=8)
    assert one["last"] == point("a", x=9)


def test_corrections_by_a_name_are_that_person_s(brain: Brain) -> None:
    brain.delete("a")
    brain.delete("b")
    succeed("restore", brain.file, "--id", "b")
    (user,) = {change["by"] for change in brain.history()} - {"127.0.0.1"}
    assert kinds(brain, by="127.0.0.1") == {"a": "removed", "b": "removed"}
    assert kinds(brain, by=user) == {"b": "added"}
    assert kinds(brain) == {"a": "removed"}
    assert kinds(brain, by="nobody") == {}


def test_corrections_leave_out_what_is_held(brain: Brain) -> None:
    brain.save([point("new")])
    assert kinds(brain) == {"new": "added"}
    requests.delete(f"{brain.url}/held")
    assert kinds(brain) == {"new": "added", "a": "removed", "b": "removed", "c": "removed"}


@pytest.mark.parametrize("path", ["none", "none/deeper"])
def test_corrections_of_what_is_no_dataset_are_404(shared: Service, path: str) -> None:
    error_of(requests.get(f"{shared.url}/{path}/annotations/corrections"), 404)


def test_corrections_of_a_nested_dataset(brain: Brain) -> None:
    nested = Brain(brain.service, f"{brain.name}/lab/mouse-3")
    nested.file.parent.mkdir(parents=True)
    nested.put([point("a")])
    assert kinds(nested) == {"a": "added"}
    assert corrections(brain) == []


def test_corrections_stop_at_links_that_leave_the_data_root_and_at_hidden_directories(
    brain: Brain, tmp_path: Path
) -> None:
    brain.delete("a")
    journal = brain.file.with_name(".fibers.json.journal").read_bytes()
    hidden = brain.annotations / ".trash"
    for place in (tmp_path / "outside", hidden):
        place.mkdir()
        (place / ".fibers.json.journal").write_bytes(journal)
        (place / "fibers.json").write_bytes(brain.file.read_bytes())
    (brain.annotations / "x9y9z9").symlink_to(tmp_path / "outside")
    assert [one["block"] for one in corrections(brain)] == ["x0y0z0"]
    assert len(succeed("corrections", brain.annotations.parent)) == 2


# --- hidden files ---

HIDDEN = [".fibers.json.journal", ".fibers.json.journal.base", ".fibers.json.lock"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize("name", [*HIDDEN, ".fibers.json.tmp", ".other.json"])
def test_hidden_file_is_never_served_nor_written(brain: Brain, method: str, name: str) -> None:
    brain.delete("a")
    hidden = brain.file.with_name(name)
    assert hidden.exists() == (name in HIDDEN)
    before = {path: path.read_bytes() for path in brain.file.parent.iterdir()}
    for spelling in (name, name.replace(".", "%2e", 1), f"/{name}"):
        url = brain.url.replace("fibers.json", spelling)
        answer = requests.request(method, url, params={"id": "x"}, data=b'{"id":"x"}')
        assert answer.status_code == 404
        assert b'"id"' not in answer.content
    assert {path: path.read_bytes() for path in brain.file.parent.iterdir()} == before


@pytest.mark.parametrize("last", ["history", "history/0", "held", "restore"])
def test_hidden_file_has_no_history_either(brain: Brain, last: str) -> None:
    url = brain.url.replace("fibers.json", ".fibers.json")
    method = "POST" if last == "restore" else "GET"
    error_of(requests.request(method, f"{url}/{last}", params={"revision": 0}, json={}), 404)


def test_hidden_files_are_never_listed(brain: Brain) -> None:
    brain.delete("a")
    page = requests.get(brain.url.removesuffix("fibers.json")).text
    assert "fibers.json" in page
    assert not any(name in page for name in (*HIDDEN, "journal", "lock"))


# --- methods, pages of other origins, documentation ---

ROUTES = [
    pytest.param("{url}/history", {"GET", "HEAD"}, id="history"),
    pytest.param("{url}/history/0", {"GET", "HEAD"}, id="revision"),
    pytest.param("{url}/restore", {"POST"}, id="restore"),
    pytest.param("{url}/held", {"GET", "HEAD", "DELETE"}, id="held"),
    pytest.param("{corrections}", {"GET", "HEAD"}, id="corrections"),
]


def route(brain: Brain, template: str) -> str:
    corrections_url = brain.url.replace("/x0y0z0/fibers.json", "/corrections")
    return template.format(url=brain.url, corrections=corrections_url)


@pytest.mark.parametrize(("template", "methods"), ROUTES)
def test_other_methods_are_405_that_names_those_there_are(
    edited: Brain, template: str, methods: set[str]
) -> None:
    for method in {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"} - methods:
        answer = requests.request(method, route(edited, template))
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == methods | {"OPTIONS"}
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(("template", "methods"), ROUTES)
def test_options_names_the_methods(edited: Brain, template: str, methods: set[str]) -> None:
    answer = requests.options(route(edited, template))
    assert answer.status_code == 200
    assert set(answer.headers["Allow"].split(", ")) >= methods


@pytest.mark.parametrize(("template", "methods"), ROUTES)
def test_head_is_get_without_the_body(edited: Brain, template: str, methods: set[str]) -> None:
    if "GET" not in methods:
        return
    url = route(edited, template)
    head, get = requests.head(url), requests.get(url)
    assert (head.status_code, head.content) == (200, b"")
    for header in ("Content-Type", "Cache-Control"):
        assert head.headers[header] == get.headers[header]


@pytest.mark.parametrize(("template", "methods"), ROUTES)
def test_preflight_of_a_page_allows_every_method(
    edited: Brain, template: str, methods: set[str]
) -> None:
    for method in methods:
        answer = requests.options(
            route(edited, template),
            headers={
                "Origin": PAGE["Origin"],
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "if-match, idempotency-key",
                "Access-Control-Request-Private-Network": "true",
            },
        )
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert method in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Allow-Headers"] in ("*", "if-match, idempotency-key")
        assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


@pytest.mark.parametrize(("template", "methods"), ROUTES)
def test_answer_and_error_can_be_read_by_a_page(
    edited: Brain, template: str, methods: set[str]
) -> None:
    for method in ("GET", "PATCH"):
        answer = requests.request(method, route(edited, template), headers=PAGE)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]


FILE = "/{dataset}/annotations/{block}/{leaf}.json"
DOCUMENTED = {
    f"{FILE}/history": {
        "get": {
            "id", "since", "until", "by", "session", "navigation", "before", "limit", "ids",
        }
    },
    f"{FILE}/history/{{revision}}": {"get": {"revision", "id"}},
    f"{FILE}/restore": {
        "post": {
            "revision", "id", "removed", "reverted", "by", "session", "since", "If-Match",
            "Idempotency-Key",
        }
    },
    f"{FILE}/held": {
        "get": {"navigation"},
        "delete": {"id", "navigation", "If-Match", "Idempotency-Key"},
    },
    "/{dataset}/annotations/corrections": {"get": {"since", "by"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def openapi(shared: Service) -> dict[str, Any]:
    document: dict[str, Any] = requests.get(f"{shared.url}/api/openapi.json").json()
    return document


def test_openapi_document_is_valid(openapi: dict[str, Any]) -> None:
    validate(openapi)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_openapi_document_has_every_route_of_the_history(
    openapi: dict[str, Any], path: str
) -> None:
    operations = openapi["paths"][path]
    assert operations.keys() == DOCUMENTED[path].keys()
    for method, operation in operations.items():
        assert operation["summary"]
        assert operation["tags"] == ["History"]
        assert {"200", "404"} <= operation["responses"].keys()
        references = [parameter["$ref"] for parameter in operation["parameters"]]
        names = {
            openapi["components"]["parameters"][reference.rpartition("/")[2]]["name"]
            for reference in references
        }
        assert names - {"dataset", "block", "leaf"} == DOCUMENTED[path][method]


def test_openapi_document_describes_a_change_as_it_is_answered(
    openapi: dict[str, Any], edited: Brain
) -> None:
    schema = openapi["components"]["schemas"]["History"]
    change = schema["properties"]["changes"]["items"]["properties"]
    assert change.keys() == HISTORY | {"restored", "operations"}
    assert {one["operation"] for one in edited.history()} <= set(change["operation"]["enum"])


RESPELT = {
    "as 32-bit floats": ({"point": [40.1234567, 2, 3]}, {"point": [40.12345504760742, 2, 3]}),
    "length cut": ({"length": 12.75}, {"length": 12}),
    "an unknown key dropped": ({"model": "v3"}, {}),
    "visited added": ({}, {"visited": False}),
    "a vertex as an object": (
        {"type": "linestring", "points": [{"0": 1, "1": 2, "2": 3}, [4, 5, 6]]},
        {"type": "linestring", "points": [[1, 2, 3], [4, 5, 6]]},
    ),
}


@pytest.mark.parametrize(("old", "new"), RESPELT.values(), ids=RESPELT)
def test_other_spelling_of_a_viewer_in_an_old_journal_is_no_correction(
    shared: Service, old: dict[str, Any], new: dict[str, Any]
) -> None:
    brain = new_brain(shared, json.dumps([point("a") | old, point("b")]).encode())
    # Saved by a script, as the journal of an earlier version has what a viewer saved.
    brain.put([point("a") | new, point("b") | {"reviewed": True}])
    assert [(one["id"], one["kind"]) for one in corrections(brain)] == [("b", "reviewed")]
    brain.put([point("a") | new | {"description": "checked"}, point("b") | {"reviewed": True}])
    found = {one["id"]: one["kind"] for one in corrections(brain)}
    assert found == {"a": "changed", "b": "reviewed"}


def test_key_that_a_script_removes_from_one_annotation_is_a_correction(shared: Service) -> None:
    brain = new_brain(shared, json.dumps([point("a") | {"model": "v3"}]).encode())
    brain.patch(point("a"))
    assert [(one["id"], one["kind"]) for one in corrections(brain)] == [("a", "changed")]
