"""What became of the saves of one session: its page, and what other pages say of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from neurotrale.annotations.files.activity import ActivityLog
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry, NewRecord
from neurotrale.annotations.journals.viewers import SaveNotes
from neurotrale.annotations.refusals import MOST_BYTES, MOST_VIEWERS, Refusals
from neurotrale.datasets.review_progress import ReviewProgress
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.shared_files import SharedFiles
from neurotrale.storage.state import STATE
from neurotrale.tokens.sessions import label_of
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.processes import neurotrale, run

ANNA, BOB = "s-AAAAAAAAAAAAAAAA", "s-BBBBBBBBBBBBBBBB"
BLOCK = "brain/annotations/x0y0z0"
JSON = {"Accept": "application/json"}
POINTS = [{"id": f"p{n}", "type": "point", "point": [n, 1, 2], "anntype": "soma"} for n in range(5)]


@pytest.fixture
def service(tmp_path: Path, start_service: StartService) -> Service:
    write_dataset(tmp_path / "data" / "brain")
    (tmp_path / "data" / "other" / "annotations").mkdir(parents=True)
    return start_service(tmp_path / "data")


def put(
    service: Service, session: str, leaf: str, body: Any, path: str = BLOCK
) -> requests.Response:
    url = f"{service.url}/as/{session}/{path}/{leaf}"
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.put(url, data=data, headers={"Content-Type": "text/plain"}, timeout=60)


def mine(service: Service, session: str, dataset: str = "brain") -> dict[str, Any]:
    url = f"{service.url}/as/{session}/{dataset}/annotations/mine"
    answer = requests.get(url, headers=JSON, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    told: dict[str, Any] = answer.json()
    assert told["session"] == label_of(session)
    return told


def load_and_save(service: Service, session: str, leaf: str, body: Any) -> requests.Response:
    loaded = requests.get(f"{service.url}/as/{session}/{BLOCK}/{leaf}", timeout=60)
    assert loaded.status_code in (200, 404)
    return put(service, session, leaf, body)


def test_nothing_was_saved_yet(service: Service) -> None:
    assert mine(service, ANNA) | {"session": ""} == {
        "session": "", "saves": 0, "changes": [], "refused": [],
    }  # fmt: skip
    assert not (service.root / STATE).exists()


def test_held_removals_are_those_of_the_session_until_somebody_confirms(service: Service) -> None:
    assert load_and_save(service, ANNA, "z-0001.json", POINTS).status_code == 201
    answer = load_and_save(service, ANNA, "z-0001.json", [])
    assert answer.json()["kept"] == 5
    told = mine(service, ANNA)
    assert told["saves"] == 2
    (change,) = told["changes"]
    assert change["file"] == f"{BLOCK}/z-0001.json"
    assert sorted(change["held"]) == [point["id"] for point in POINTS]
    assert mine(service, BOB)["changes"] == []
    assert mine(service, ANNA, "other")["changes"] == []

    facts = f"{service.url}/api/datasets/brain"
    assert requests.get(facts, timeout=60).json()["annotations"]["held"] == 5
    held = f"{service.url}/{BLOCK}/z-0001.json/held"
    assert requests.delete(held, params={"id": "p0"}, timeout=60).ok
    assert len(mine(service, ANNA)["changes"][0]["held"]) == 4
    assert requests.get(facts, timeout=60).json()["annotations"]["held"] == 4
    assert requests.delete(held, timeout=60).ok
    assert mine(service, ANNA)["changes"] == []
    assert requests.get(facts, timeout=60).json()["annotations"]["held"] == 0


def test_conflicts_and_left_slices_are_told_to_the_one_who_saved(service: Service) -> None:
    def load(session: str, leaf: str) -> None:
        requests.get(f"{service.url}/as/{session}/{BLOCK}/{leaf}", timeout=60)

    put(service, ANNA, "z-0001.json", POINTS)
    for session in (ANNA, BOB):
        load(session, "z-0001.json")
    for session, x in ((ANNA, 70), (BOB, 80)):
        moved = [{**POINTS[0], "point": [x, 1, 2]}, *POINTS[1:]]
        assert put(service, session, "z-0001.json", moved).status_code == 200
    (change,) = mine(service, BOB)["changes"]
    assert list(change["conflicts"]) == ["p0"]
    assert mine(service, ANNA)["changes"] == []
    load(ANNA, "z-0001.json")
    load(ANNA, "z-0002.json")
    assert put(service, ANNA, "z-0001.json", []).status_code == 200
    (change,) = mine(service, ANNA)["changes"]
    assert sorted(change["ignored"]) == [point["id"] for point in POINTS]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        pytest.param(b'[{"id": "a"', 400, "JSON", id="truncated"),
        pytest.param([{"id": "a"}, {"id": "a"}], 422, "a", id="repeated id"),
        pytest.param([{"id": "a", "type": "point"}], 422, "point", id="no geometry"),
    ],
)
def test_refused_saves_are_told_with_the_reason(
    service: Service, body: Any, status: int, reason: str
) -> None:
    assert put(service, ANNA, "fibers.json", body).status_code == status
    (refused,) = mine(service, ANNA)["refused"]
    assert (refused["file"], refused["status"]) == (f"{BLOCK}/fibers.json", status)
    assert reason in refused["reason"]
    assert mine(service, BOB)["refused"] == []
    assert mine(service, ANNA, "other")["refused"] == []
    plain = requests.put(f"{service.url}/{BLOCK}/fibers.json", data=b"[", timeout=60)
    assert plain.status_code == 400  # a script reads its answers
    assert len(list((service.root / STATE / "refused").iterdir())) == 1


@pytest.mark.long
def test_newest_refusal_comes_first_and_survives_a_restart(
    service: Service, start_service: StartService
) -> None:
    for n in range(3):
        put(service, ANNA, f"z-{n:04d}.json", b"[")
    service.stop()
    again = start_service(service.root)
    files = [refused["file"] for refused in mine(again, ANNA)["refused"]]
    assert files == [f"{BLOCK}/z-{n:04d}.json" for n in (2, 1, 0)]


@pytest.mark.long
def test_who_has_no_token_leaves_nothing_behind(
    tmp_path: Path, start_service: StartService
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text("bob:ro:bobs-token-may-look.0123456789_A\n")
    service = start_service(tmp_path / "data", "--token-file", str(tokens))
    assert put(service, ANNA, "fibers.json", []).status_code == 401
    assert not (service.root / STATE).exists()
    prefix = "/token/bobs-token-may-look.0123456789_A"
    url = f"{service.url}{prefix}/as/{ANNA}/{BLOCK}"
    assert requests.put(f"{url}/fibers.json", data=b"[]", timeout=60).status_code == 403
    answer = requests.get(url.replace("x0y0z0", "mine"), headers=JSON, timeout=60)
    (refused,) = answer.json()["refused"]
    assert refused["status"] == 403
    assert "read-only" in refused["reason"]
    assert "0123456789_A" not in answer.text


@pytest.mark.long
def test_refusals_are_bounded(tmp_path: Path) -> None:
    refusals = Refusals(tmp_path)
    for n in range(MOST_VIEWERS + 20):
        refusals.add(f"{n:010x}", "brain/annotations/x0y0z0/a.json", 400, "bad")
    assert len(list((tmp_path / STATE / "refused").iterdir())) <= MOST_VIEWERS
    label = "a" * 10
    for _ in range(400):
        refusals.add(label, "brain/annotations/x0y0z0/a.json", 400, "x" * 5000)
    assert (tmp_path / STATE / "refused" / label).stat().st_size < MOST_BYTES + 3000
    assert len(refusals.of(label, "brain")) == 100
    assert refusals.of(label, "brai") == refusals.of(label, "") == []


def record(n: int, hour: int, session: str, **more: Any) -> NewRecord:
    notes = SaveNotes(session=session, **more.pop("notes", {}))
    at = f"2026-11-22T{hour:02}:00:00.000Z"
    return NewRecord(JournalEntry(n=n, at=at, op="put", save=notes, **more))


def test_conflicts_and_ignored_saves_are_those_of_the_session(tmp_path: Path) -> None:
    block = tmp_path / "brain/annotations/x0y0z0"
    block.mkdir(parents=True)
    (block / "z-0001.json").write_text("[]")
    Journal(block / "z-0001.json").append(
        record(1, 5, "a", notes={"navigated": ["too", "old"]}),
        record(2, 8, "a", notes={"conflicts": {"id": ["point"]}}),
        record(3, 9, "b", notes={"conflicts": {"id": ["point"]}}, held_removals=["of b"]),
        record(4, 9, "a", notes={"navigated": ["c"]}, held_removals=["of b"]),
        # Two were held, and one would have been put back to an older revision: all are counted.
        record(5, 10, "a", notes={"stale": ["d"]}, held_removals=["of b", "e", "f"], newly_held=3),
        record(6, 11, "a", held_removals=["of b", "f"]),
        record(7, 12, "a", notes={"navigated": ["never"]}),
        NewRecord(JournalEntry(n=8, at="2026-11-22T12:00:00.000Z", op="void", target=7)),
    )
    log = ActivityLog(AnnotationFiles(DataRoot(tmp_path)))
    activity = log.of_session(("brain",), "a", datetime(2026, 11, 22, 7, tzinfo=UTC))
    told = [change.summary() for change in activity.changes]
    assert {one["file"] for one in told} == {"brain/annotations/x0y0z0/z-0001.json"}
    assert activity.saves == 4
    kinds = ("held", "conflicts", "ignored", "stale")
    assert [{key: one[key] for key in kinds if key in one} for one in told] == [
        {"held": ["f"], "stale": ["d"]},
        {"ignored": ["c"]},
        {"conflicts": {"id": ["point"]}},
    ]
    assert [one["revision"] for one in told] == [5, 4, 2]
    counts = ReviewProgress(log.files, SharedFiles(None)).of_dataset(("brain",))
    assert counts is not None
    assert counts.held == 2


def test_page_names_the_label_and_not_the_session(service: Service) -> None:
    url = f"{service.url}/as/{ANNA}/brain/annotations/mine"
    for accept in ("text/html,application/xhtml+xml,*/*;q=0.8", "*/*"):
        page = requests.get(url, headers={"Accept": accept}, timeout=60)
        assert page.headers["Content-Type"].startswith("text/html")
        assert label_of(ANNA) in page.text
        assert ANNA not in page.text
    assert requests.get(f"{service.url}/none/annotations/mine", timeout=60).status_code == 404
    assert requests.get(url.replace("mine", "mine/"), timeout=60).status_code == 404


@pytest.mark.long
def test_real_file_or_directory_of_this_name_is_sent_instead(service: Service) -> None:
    url = f"{service.url}/brain/annotations/mine"
    real = service.root / "brain" / "annotations" / "mine"
    real.mkdir()
    assert requests.get(url, timeout=60).url == f"{url}/"
    real.rmdir()
    real.write_text("a file")
    assert requests.get(url, timeout=60).text == "a file"


def test_history_tells_authors_apart(service: Service) -> None:
    load_and_save(service, ANNA, "z-0001.json", POINTS)
    load_and_save(service, BOB, "z-0001.json", [*POINTS, {"id": "new", "type": "text"}])
    requests.patch(f"{service.url}/{BLOCK}/z-0001.json?id=s", data=b'{"type": "text"}', timeout=60)
    url = f"{service.url}/{BLOCK}/z-0001.json/history"
    changes = requests.get(url, timeout=60).json()["changes"]
    assert [change["session"] for change in changes] == ["", label_of(BOB), label_of(ANNA)]
    assert {(change["by"], change["from"]) for change in changes} == {("127.0.0.1", "127.0.0.1")}
    lines = run(neurotrale("history", service.root / BLOCK / "z-0001.json")).stdout.splitlines()
    assert label_of(ANNA) in lines[-1]
    assert label_of(BOB) in lines[-2]
    assert "session" not in lines[-3]
