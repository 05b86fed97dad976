"""Operation ids (Idempotency-Key): a request that comes again is answered again, not made again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations import operation_ids
from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.journals.changes import Author, Preconditions, WriteContext
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.operation_ids import answer_of, operation_of
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import FileWriter
from neurotrale.errors import MissingError, OtherRequestError
from neurotrale.locking.locks import Locks
from tests.brains import PAGE, Brain, compact, error_of, new_brain, point
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.disks import RENAME_FAILED, renames_fail
from tests.examples import examples
from tests.processes import PATIENCE_S, writer_of
from tests.stores import ANN, IN_MEMORY, Stores, annotation, array, open_stores
from tests.test_batches import killed_at, written

KEY = "0b8f6c1e-5d0a-4c55-9b5a-2f3f1f0f6a11"
FIRST = compact([point("a"), point("b"), point("c")])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("operations"), "--workers", "3")


@pytest.fixture
def brain(shared: Service) -> Brain:
    """A file with a history, an annotation that was removed, and one that is held."""
    brain = new_brain(shared, FIRST)
    brain.patch(point("d"))
    brain.delete("d")
    brain.load()
    brain.save([])
    assert brain.held() == ["a", "b", "c"]
    return brain


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return open_stores(tmp_path)


def writer() -> FileWriter:
    """A writer as another service has it: it remembers nothing."""
    return FileWriter(FileChanges(Locks("flock"), Contents()))


# --- over HTTP ---

Request = tuple[str, str, dict[str, Any], bytes]
JSON = {"Content-Type": "application/json"}
ODD = b'{"type":"blob"}'
REQUESTS: dict[str, Request] = {
    "put": ("PUT", "", {}, compact([point("b"), point("x")])),
    "put with warnings": ("PUT", "", {}, b'[{"id":"b","point":[1,2,null],"type":"point"}]'),
    "put the same": ("PUT", "", {}, FIRST),
    "patch a new one": ("PATCH", "", {"id": "x"}, compact(point("x"))),
    "patch with warnings": ("PATCH", "", {"id": "b"}, ODD),
    "patch an old one": ("PATCH", "", {"id": "b"}, compact(point("b", 7))),
    "patch the same": ("PATCH", "", {"id": "b"}, compact(point("b"))),
    "patch an array": ("PATCH", "", {}, compact([point("x"), point("b", 7), point("y")])),
    "patch an array of old ones": ("PATCH", "", {}, compact([point("c", 7), point("b", 7)])),
    "patch nothing": ("PATCH", "", {}, b"[]"),
    "delete": ("DELETE", "", {"id": "b"}, b""),
    "delete several": ("DELETE", "", {"id": ["c", "b"]}, b""),
    "restore a revision": ("POST", "/restore", {"revision": 1}, b"{}"),
    "restore an annotation": ("POST", "/restore", {"id": "d"}, b"{}"),
    "restore what was removed": ("POST", "/restore", {"removed": "true"}, b"{}"),
    "restore what was reverted": ("POST", "/restore", {"reverted": "true"}, b"{}"),
    "undo": ("POST", "/restore", {"by": "127.0.0.1", "since": "2020-01-01"}, b"{}"),
    "confirm": ("DELETE", "/held", {}, b""),
    "confirm one": ("DELETE", "/held", {"id": "b"}, b""),
}


def send(brain: Brain, request: Request, key: str | None = KEY, **more: str) -> requests.Response:
    method, last, params, body = request
    headers = {**(JSON if method == "POST" else {}), **more}
    if key is not None:
        headers["Idempotency-Key"] = key
    url = brain.url + last
    return requests.request(
        method, url, params=params, data=body, headers=headers, timeout=PATIENCE_S
    )


def answered(answer: requests.Response) -> tuple[int, object]:
    assert answer.status_code in (200, 201), answer.text
    return answer.status_code, answer.json()


@pytest.mark.parametrize("name", REQUESTS)
def test_request_that_comes_again_is_answered_again_and_not_made_again(
    brain: Brain, name: str
) -> None:
    # As without an operation id, except that one that changes nothing is recorded, too.
    twin = new_brain(brain.service, None)
    shutil.copytree(brain.file.parent, twin.file.parent, dirs_exist_ok=True)
    plain = send(twin, REQUESTS[name], None)
    before = len(brain.history())
    first = send(brain, REQUESTS[name])
    text = json.dumps(first.json()).replace(brain.name, twin.name)
    assert (first.status_code, json.loads(text)) == answered(plain)
    assert first.headers["ETag"] == plain.headers["ETag"]
    assert brain.content() == twin.content()
    assert len(brain.history()) == before + 1
    assert brain.history()[0]["operations"] == [KEY]
    for change in (None, point("z"), point("a", 9)):
        if change is not None:
            brain.patch(change)
        content, history = brain.file.read_bytes(), brain.history()
        again = [send(brain, REQUESTS[name]) for _ in range(4)]  # of any worker
        for answer in again:
            assert answered(answer) == answered(first)
            assert answer.headers["ETag"] == f'"{etag_of(content)}"'
        assert (brain.file.read_bytes(), brain.history()) == (content, history)


@pytest.mark.parametrize("name", ["put", "patch a new one", "delete several"])
def test_request_comes_again_whatever_it_was_conditional_on(brain: Brain, name: str) -> None:
    etag = requests.get(brain.url).headers["ETag"]
    first = send(brain, REQUESTS[name], **{"If-Match": etag})
    assert answered(send(brain, REQUESTS[name], **{"If-Match": etag})) == answered(first)
    new = ("PATCH", "", {"id": "new"}, compact(point("new")))
    first = send(brain, new, "new", **{"If-None-Match": "*"})
    assert answered(send(brain, new, "new", **{"If-None-Match": "*"})) == answered(first)
    assert first.status_code == 201


def test_new_file_comes_again(shared: Service) -> None:
    brain = new_brain(shared, None)
    first = send(brain, REQUESTS["put"], **{"If-None-Match": "*"})
    assert first.status_code == 201
    brain.patch(point("z"))
    again = send(brain, REQUESTS["put"], **{"If-None-Match": "*"})
    assert answered(again) == answered(first)
    assert brain.ids() == {"b", "x", "z"}


def test_save_of_a_viewer_comes_again_with_what_was_held_and_in_conflict(brain: Brain) -> None:
    tab = {**PAGE, "User-Agent": "Mozilla/5.0 one"}
    requests.get(brain.url, headers=tab)
    brain.patch(point("a", 5))
    save: Request = ("PUT", "", {}, compact([point("a", 6), point("b", 2)]))
    first = send(brain, save, **tab)
    assert first.json()["conflicts"] == {"a": ["point"]}
    requests.get(brain.url, headers=tab)
    emptied: Request = ("PUT", "", {}, b"[]")
    held = send(brain, emptied, "held", **tab)
    assert held.json()["kept"] > 1
    content, history = brain.file.read_bytes(), brain.history()
    assert answered(send(brain, save, **tab)) == answered(first)
    assert answered(send(brain, emptied, "held", **tab)) == answered(held)
    assert (brain.file.read_bytes(), brain.history()) == (content, history)


def test_empty_save_of_a_slice_without_a_file_is_recorded_too(shared: Service) -> None:
    brain = new_brain(shared, None, "z-0001.json")
    first = send(brain, ("PUT", "", {}, b"[]"), **PAGE)
    brain.patch(point("a"))
    assert answered(send(brain, ("PUT", "", {}, b"[]"), **PAGE)) == answered(first)
    assert brain.ids() == {"a"}


OTHERS: dict[str, Request] = {
    "other body": ("PATCH", "", {"id": "b"}, compact(point("b", 8))),
    "other spelling": (
        "PATCH",
        "",
        {"id": "b"},
        b" " + compact(point("b", 7)).replace(b",", b", "),
    ),
    "other id": ("PATCH", "", {"id": "x"}, compact({**point("b", 7), "id": "x"})),
    "array": ("PATCH", "", {}, compact([point("b", 7)])),
    **{name: request for name, request in REQUESTS.items() if name != "patch an old one"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_operation_id_of_another_request_is_422_and_changes_nothing(
    brain: Brain, name: str
) -> None:
    assert send(brain, REQUESTS["patch an old one"]).status_code == 200
    content, history = brain.file.read_bytes(), brain.history()
    said = error_of(send(brain, OTHERS[name]), 422)
    assert KEY in said
    assert "Nothing was changed" in said
    assert (brain.file.read_bytes(), brain.history()) == (content, history)
    assert send(brain, REQUESTS["patch an old one"]).status_code == 200


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "put"])
def test_each_request_differs_from_each_other(brain: Brain, name: str) -> None:
    assert send(brain, REQUESTS["put"]).status_code == 200
    error_of(send(brain, REQUESTS[name]), 422)


def test_operation_id_belongs_to_one_file(brain: Brain, shared: Service) -> None:
    other = new_brain(shared, FIRST)
    for one in (brain, other):
        assert send(one, REQUESTS["patch a new one"]).status_code == 201


REFUSED: dict[str, tuple[int, Request, dict[str, str]]] = {
    "malformed": (400, ("PATCH", "", {"id": "x"}, b"{"), {}),
    "without an id": (400, ("DELETE", "", {}, b""), {}),
    "missing": (404, ("DELETE", "", {"id": "x"}, b""), {}),
    "changed": (412, ("PATCH", "", {"id": "x"}, compact(point("x"))), {"If-Match": '"old"'}),
    "there": (412, ("PATCH", "", {"id": "b"}, compact(point("b"))), {"If-None-Match": "*"}),
    "against a rule": (422, ("PATCH", "", {"id": "x"}, b'{"type":"point"}'), {}),
    "no revision": (404, ("POST", "/restore", {"revision": 99}, b"{}"), {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_request_that_is_refused_may_be_tried_again_and_its_id_is_free(
    brain: Brain, name: str
) -> None:
    status, request, headers = REFUSED[name]
    before = brain.file.read_bytes(), brain.history()
    for _ in range(2):
        error_of(send(brain, request, **headers), status)
    assert (brain.file.read_bytes(), brain.history()) == before
    assert send(brain, REQUESTS["patch a new one"]).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb", "\u00a0"], ids=ascii)
def test_operation_id_that_is_none_is_400(brain: Brain, key: str) -> None:
    before = brain.file.read_bytes(), brain.history()
    for request in REQUESTS.values():
        headers: dict[str, str | bytes] = {**JSON, "Idempotency-Key": key.encode("latin-1")}
        method, last, params, body = request
        answer = requests.request(
            method, brain.url + last, params=params, data=body, headers=headers
        )
        assert "Idempotency-Key" in error_of(answer, 400)
    assert (brain.file.read_bytes(), brain.history()) == before


@pytest.mark.parametrize("key", ["x", "x" * 255, '"quoted"', "a b, c; d=\\~"])
def test_operation_id_may_be_any_printable_text(brain: Brain, key: str) -> None:
    first = send(brain, REQUESTS["patch a new one"], key)
    assert answered(send(brain, REQUESTS["patch a new one"], key)) == answered(first)
    assert brain.history()[0]["operations"] == [key]


def test_page_may_send_operation_ids_and_conditions(brain: Brain) -> None:
    wanted = "if-none-match, idempotency-key, if-match"
    for method in ("PUT", "PATCH", "DELETE"):
        asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": wanted}
        answer = requests.options(brain.url, headers={"Origin": PAGE["Origin"], **asked})
        assert answer.headers["Access-Control-Allow-Headers"] in ("*", wanted)
        assert method in answer.headers["Access-Control-Allow-Methods"]


def test_request_comes_again_after_a_restart_and_at_another_service(
    tmp_path: Path, start_service: StartService
) -> None:
    write_dataset(tmp_path / "data" / "other")
    service = start_service(tmp_path / "data", "--workers", "2")
    brain = new_brain(service, FIRST)
    names = [name for name in REQUESTS if name.startswith(("put", "patch"))]
    first = {name: answered(send(brain, REQUESTS[name], name)) for name in names}
    other = start_service(tmp_path / "data", "--workers", "2")
    service.stop(signal.SIGKILL)
    content = brain.file.read_bytes()
    again = replace(brain, service=other)
    assert {name: answered(send(again, REQUESTS[name], name)) for name in names} == first
    third = start_service(tmp_path / "data")
    assert send(replace(brain, service=third), REQUESTS["delete"], "new").status_code == 200
    assert answered(send(again, REQUESTS["delete"], "new")) == (200, {"id": "b"})  # not 404
    assert {name: answered(send(again, REQUESTS[name], name)) for name in names} == first
    assert brain.file.read_bytes() != content


@pytest.mark.parametrize("ends", ["rest", "kill"])
def test_saves_of_a_drag_come_again_however_they_are_recorded(
    tmp_path: Path, start_service: StartService, ends: str
) -> None:
    write_dataset(tmp_path / "data" / "other")
    service = start_service(tmp_path / "data", "--workers", "2")
    brain = new_brain(service, FIRST)
    brain.patch(point("d"))  # the drag is not the first change of the file
    brain.load()
    rest = [point("b"), point("c"), point("d")]
    drag: list[Request] = [("PUT", "", {}, compact([point("a", x), *rest])) for x in range(2, 9)]
    first = [answered(send(brain, save, f"move {n}", **PAGE)) for n, save in enumerate(drag)]
    if ends == "rest":
        brain.patch(point("e"))
    service.stop(signal.SIGTERM if ends == "rest" else signal.SIGKILL)
    again = replace(brain, service=start_service(tmp_path / "data", "--workers", "2"))
    content = brain.file.read_bytes()
    for _ in range(2):
        found = [answered(send(again, save, f"move {n}", **PAGE)) for n, save in enumerate(drag)]
        assert found == first
        assert brain.file.read_bytes() == content
        again.patch(point("f"))
        content = brain.file.read_bytes()
    keys = [key for change in again.history() for key in change.get("operations", [])]
    assert sorted(keys) == [f"move {n}" for n in range(len(drag))]


@pytest.mark.proof
@pytest.mark.quick(1)
@pytest.mark.parametrize("rounds", [10, 40])
def test_writer_that_is_killed_makes_nothing_twice_however_often_clients_send(
    tmp_path: Path, start_service: StartService, rounds: int
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    service = start_service(tmp_path / "data", "--workers", "3")
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.2):
            victim = writer_of(service.process.pid)
            if victim:
                os.kill(victim, signal.SIGKILL)

    def add(number: int) -> list[tuple[int, object]]:
        body = [point(f"k{number}"), point(f"l{number}")]
        headers = {"Idempotency-Key": f"{number // 2}"} if number % 2 else {}
        headers = headers and {**headers, "If-None-Match": "*"}  # refuses what was made before
        found = []
        for _ in range(3):
            answer = requests.patch(url, json=body, headers=headers, timeout=PATIENCE_S)
            found.append((answer.status_code, answer.json().get("created")))
        return found

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(add, range(rounds)))
    finally:
        stop.set()
        killer.join()
    for number, found in enumerate(answers):
        new = (201, [f"k{number}", f"l{number}"])
        assert found == ([new] * 3 if number % 2 else [new, (200, []), (200, [])])
    records = Journal(service.root / "brain/annotations/x0y0z0/fibers.json").entries()
    voided: set[int] = set()
    keys = []
    for record in records:
        voided.update(record.aborts)
        keys += [one.key for one in record.operations if record.n not in voided]
    assert sorted(keys) == sorted(str(number // 2) for number in range(rounds) if number % 2)


# --- in one process ---


def request(stores: Stores, step: tuple[Any, ...], **more: Any) -> WriteRequest:
    """Return a request; a step is its operation, ids and a number that its body has."""
    operation, ids, number, key = step
    context = replace(more.pop("context", ANN), key=key)
    bodies = [annotation(id_, number=number) for id_ in ids]
    ask = partial(WriteRequest, file=stores.place, context=context, **more)
    if operation == "put":
        return ask(operation="put", body=array(*bodies))
    if operation == "patch":
        return ask(operation="patch", body=bodies[0], id=ids[0])
    if operation == "patch all":
        return ask(operation="patch", body=array(*bodies))
    if operation == "delete":
        return ask(operation="delete", id=ids[0])
    return ask(operation="delete", ids=tuple(ids))


def history(stores: Stores) -> list[tuple[int, list[str]]]:
    return [
        (entry.n, [operation.key for operation in entry.operations])
        for entry in stores.journal.entries()
    ]


def test_same_request_twice_in_one_batch_is_made_once(stores: Stores) -> None:
    stores.put(array(annotation("a")))
    steps = [
        ("patch", ["b"], 1, "one"),
        ("delete", ["b"], 0, ""),
        ("patch", ["b"], 1, "one"),
        ("patch", ["b"], 2, "one"),
        ("delete", ["x"], 0, "two"),
        ("patch", ["c"], 2, "two"),
    ]
    results = writer().write_together([request(stores, step) for step in steps])
    assert [type(result) for result in results] == [
        Written, Written, Written, OtherRequestError, MissingError, Written,
    ]  # fmt: skip
    first, deleted, again, last = written([one for one in results if isinstance(one, Written)])
    assert (again.created, again.changed, again.etag) == (first.created, False, deleted.etag)
    assert last.etag == etag_of(stores.file.read_bytes())
    assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["a", "c"]
    assert history(stores) == [(4, ["two"]), (3, []), (2, ["one"]), (1, [])]


def test_record_that_was_marked_as_never_made_names_no_operation(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.put(array(annotation("a")))
    one = writer()
    written([one.write(request(stores, ("patch", ["b"], 1, "first")))])
    with renames_fail(stores.file, monkeypatch), pytest.raises(OSError, match=RENAME_FAILED):
        one.write(request(stores, ("patch", ["c"], 1, "second")))
    for who in (one, writer()):
        assert who.write(request(stores, ("patch", ["c"], 2, "second"))).created
    assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["a", "b", "c"]


SMALL = {"MOST_ANSWERS": 2, "LARGE_ANSWER_BYTES": 70}


@pytest.mark.parametrize("limits", [{}, SMALL], ids=["large", "small"])
def test_ids_are_known_however_many_there_are_and_whoever_wrote_them(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(operation_ids, name, value)
    stores.put(array())
    writers = [writer(), writer()]
    steps = [("patch all", [f"{n}", f"{n + 1}"], 0, f"key {n}") for n in range(12)]
    first = [writers[n % 2].write(request(stores, step)) for n, step in enumerate(steps)]
    content = stores.file.read_bytes()
    for one in (*writers, writer()):
        for step, expected in zip(steps, first, strict=True):
            again = one.write(request(stores, step))
            assert (again.created, again.ids, again.added) == (
                expected.created, expected.ids, expected.added,
            )  # fmt: skip
        with pytest.raises(OtherRequestError):
            one.write(request(stores, ("patch", ["0"], 0, "key 0")))
    assert stores.file.read_bytes() == content
    assert len(history(stores)) == 13


def from_a_backup(stores: Stores) -> None:
    """Put file and journal back to what they were before the last two changes, by content."""
    for path in (stores.file, stores.journal.path):
        path.write_bytes(path.with_name(f"{path.name}.old").read_bytes())


def from_a_backup_and_changed(stores: Stores) -> None:
    from_a_backup(stores)
    for number in range(5):
        written([writer().write(request(stores, ("patch", ["z"], number, f"z{number}")))])


def without_a_journal(stores: Stores) -> None:
    stores.journal.path.unlink()
    stores.journal.base_path.unlink(missing_ok=True)


def as_hard_links(stores: Stores) -> None:
    for path in (stores.file, stores.journal.path):
        os.link(path, path.with_name(f"{path.name}.link"))


@pytest.mark.parametrize(
    ("happens", "is_known"),
    [
        (from_a_backup, False),
        (from_a_backup_and_changed, False),
        (without_a_journal, False),
        (as_hard_links, True),
    ],
)
def test_ids_are_those_of_the_journal_as_it_is(
    stores: Stores, happens: Callable[[Stores], None], is_known: bool
) -> None:
    one = writer()
    stores.put(array(annotation("a")))
    written([one.write(request(stores, ("patch", ["b"], 1, "early")))])
    for path in (stores.file, stores.journal.path):
        shutil.copy2(path, path.with_name(f"{path.name}.old"))
    written([one.write(request(stores, ("patch", ["c"], n, f"late {n}"))) for n in range(2)])
    happens(stores)
    again = one.write(request(stores, ("patch", ["c"], 0, "late 0")))
    assert again.changed == (not is_known)
    early = one.write(request(stores, ("patch", ["b"], 1, "early")))
    assert early.changed == (happens is without_a_journal)


def test_looking_up_an_id_reads_only_the_end_of_the_journal(stores: Stores) -> None:
    text = "x" * 20_000
    stores.put(array(annotation("a")))
    for number in range(200):
        stores.patch("a", text=text, number=number)
    size = stores.journal.path.stat().st_size
    one = writer()

    def reads(key: str) -> int:
        step = request(stores, ("patch", ["b"], 1, key))
        start = read_bytes()
        written([one.write(step)])
        return read_bytes() - start

    assert reads("first") > size
    assert max(reads(f"key {number}") for number in range(5)) < size / 4
    assert reads("key 0") < size / 4


def read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


IDS = st.sampled_from("abcd")
KEYS = st.sampled_from(["", "", "k", "l", "m"])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["put", "patch all", "delete all"]),
            st.lists(IDS, min_size=2, max_size=3, unique=True),
            st.integers(0, 2),
            KEYS,
        ),
        st.tuples(
            st.sampled_from(["patch", "delete"]),
            st.lists(IDS, min_size=1, max_size=1),
            st.integers(0, 2),
            KEYS,
        ),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=examples(300))
@given(STEPS, st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=14), st.booleans())
def test_batches_with_repeats_do_what_a_plain_model_does(
    steps: list[tuple[Any, ...]], parts: list[tuple[int, bool]], small: bool
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory, pytest.MonkeyPatch.context() as m:
        for name, value in SMALL.items() if small else ():
            m.setattr(operation_ids, name, value)
        stores = open_stores(Path(directory))
        stores.put(array(annotation("a")))
        model, expected = Model({"a": None}), []
        for step in steps:
            expected.append(model.apply(step))
        results: list[Written | Exception] = []
        writers, left = [writer(), writer()], list(steps)
        for size, which in [*parts, *[(1, False)] * len(steps)]:
            part, left = left[:size], left[size:]
            if part:
                requests = [request(stores, step) for step in part]
                results += writers[which].write_together(requests)
        assert [outcome(result) for result in results] == expected
        content = json.loads(stores.file.read_bytes())
        assert {one["id"]: one.get("number") for one in content} == model.present
        keys = [key for _, found in history(stores) for key in found]
        assert sorted(keys) == sorted(model.answers)


class Model:
    """What the file has, and what each operation id was answered."""

    def __init__(self, present: dict[str, int | None]) -> None:
        self.present = present
        self.answers: dict[str, tuple[object, object]] = {}

    def apply(self, step: tuple[Any, ...]) -> object:
        operation, ids, number, key = step
        asked = (operation, ids, None if "delete" in operation else number)
        if key in self.answers:
            first, answer = self.answers[key]
            return answer if first == asked else OtherRequestError
        answer = self._change(operation, ids, number)
        if key and answer is not MissingError:
            self.answers[key] = asked, answer
        return answer

    def _change(self, operation: str, ids: list[str], number: int) -> object:
        if operation.startswith("delete"):
            if not set(ids) <= set(self.present):
                return MissingError
            self.present = {id_: n for id_, n in self.present.items() if id_ not in ids}
            return (False, tuple(ids) if operation == "delete all" else (), ())
        new = tuple(id_ for id_ in ids if id_ not in self.present)
        if operation == "put":
            self.present = {}
        self.present = {**self.present, **dict.fromkeys(ids, number)}
        if operation == "patch all":
            return (bool(new), tuple(ids), new)
        return (operation == "patch" and bool(new), (), ())


def outcome(result: Written | Exception) -> object:
    if isinstance(result, Exception):
        return type(result)
    return result.created, result.ids, result.added


@given(st.lists(st.booleans(), max_size=50))
def test_answer_keeps_which_of_several_are_new(flags: list[bool]) -> None:
    ids = tuple(f"{number}" for number in range(len(flags)))
    added = tuple(id_ for id_, new in zip(ids, flags, strict=True) if new)
    first = Written("f", bool(added), "etag", ids=ids, added=added)
    again = answer_of(operation_of("key", "digest", first), "f", "other", ids)
    assert again == replace(first, etag="other", changed=False)


# --- killed ---

VIEWER = WriteContext(Author("bob", "10.0.0.7"), viewer=Viewer("bob", "v"), guarded=True)


@pytest.mark.proof
@pytest.mark.thorough
@pytest.mark.parametrize(
    "step",
    [
        ("put", ["b", "c"], 1, KEY),
        ("put", ["a"], 0, KEY),
        ("patch", ["b"], 1, KEY),
        ("patch", ["a"], 0, KEY),
        ("patch all", ["b", "a", "c"], 1, KEY),
        ("delete", ["a"], 0, KEY),
    ],
    ids=["put", "same-put", "patch", "same-patch", "array", "delete"],
)
@pytest.mark.parametrize("noticed_by", ["another", "the same request"])
def test_request_whose_writer_is_killed_at_any_step_is_made_once_when_it_comes_again(
    step: tuple[Any, ...], noticed_by: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    every = 4 * pytestconfig.option.crash_every
    whole = open_stores(tmp_path / "whole")
    whole.put(array(annotation("a", number=0)))
    # Conditions that no longer hold once it is made: it must not be judged by them again.
    condition = WriteContext(preconditions=Preconditions((etag_of(whole.file.read_bytes()),)))
    expected = writer().write(request(whole, step, context=condition))
    ends: set[bool] = set()
    for number in count(1, every):
        stores = open_stores(tmp_path / str(number))
        stores.put(array(annotation("a", number=0)))
        asked = request(stores, step, context=condition)
        code = killed_at(number, partial(writer().write, asked))
        assert code in (0, -signal.SIGKILL)
        known = [n for n, keys in history(stores) if keys]
        if noticed_by == "another":
            stores.put(stores.file.read_bytes())  # reconciles, and changes nothing
        again = writer().write(asked)
        assert replace(again, changed=True) == expected
        assert stores.file.read_bytes() == whole.file.read_bytes()
        voided = {n for entry in stores.journal.entries() for n in entry.aborts}
        made = [n for n, keys in history(stores) if keys and n not in voided]
        assert len(made) == 1
        ends.add(made == known)
        if not code:
            break
    assert ends == {True, False}
