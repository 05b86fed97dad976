"""Many annotations at once: PATCH with an array, DELETE of several ids, PATCH that only adds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.journals.changes import Preconditions, WriteContext
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.errors import ChangedError, ConflictError, MissingError, RuleBrokenError
from tests.brains import PAGE, Brain, compact, error_of, new_brain, point
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.examples import examples
from tests.stores import IN_MEMORY, NAME, Stores, annotation, array, open_stores

A, B, C = point("a"), point("b"), point("c")
FIRST = b'[\n {"id": "a", "type": "point", "point": [1e0, 2.0, 3]},\n {"id":"b"} , {"id":"c"}\n]\n'
TWICE = b'[{"id":"a"},{"id":"b"},{"id":"a"},{"id":"c"}]'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("bulk")
    write_dataset(root / "brain")
    return start_service(root, "--workers", "2")


@pytest.fixture
def brain(shared: Service) -> Brain:
    return new_brain(shared, FIRST)


@pytest.fixture
def unchanged(brain: Brain) -> Iterator[None]:
    before = brain.file.read_bytes(), brain.file.stat().st_mtime_ns, brain.history()
    yield
    after = brain.file.read_bytes(), brain.file.stat().st_mtime_ns, brain.history()
    assert after == before


def patch(brain: Brain, body: object, **headers: str) -> requests.Response:
    content = body if isinstance(body, bytes) else compact(body)
    return requests.patch(brain.url, data=content, headers=headers)


# --- what is answered and written ---


def test_array_replaces_and_adds_all_with_one_record(brain: Brain) -> None:
    b = {**B, "text": "new", "note": 1}
    answer = patch(brain, [point("x"), b, point("y")])
    assert (answer.status_code, answer.json()) == (
        201,
        {"ids": ["x", "b", "y"], "created": ["x", "y"], "warnings": answer.json()["warnings"]},
    )
    assert answer.headers["ETag"] == requests.get(brain.url).headers["ETag"]
    start, stop = FIRST.index(b'{"id":"b"}'), FIRST.index(b' , {"id":"c"}')
    expected = FIRST[:start] + compact(b) + FIRST[stop:]
    added = b", " + compact(point("x")) + b", " + compact(point("y"))
    at = expected.index(b"\n]\n")
    assert brain.file.read_bytes() == expected[:at] + added + expected[at:]
    (change,) = brain.history()
    assert (change["operation"], change["added"], change["changed"]) == ("patch", ["x", "y"], ["b"])
    assert requests.get(f"{brain.url}/history/0").content == FIRST


def test_array_that_only_replaces_is_200(brain: Brain) -> None:
    answer = patch(brain, [C, A])
    assert (answer.status_code, answer.json()) == (200, {"ids": ["c", "a"], "created": []})
    assert brain.content() == [A, {"id": "b"}, C]


@pytest.mark.parametrize("body", [b"[]", b' [ {"id":"b"} ] '], ids=["nothing", "the-same"])
@pytest.mark.usefixtures("unchanged")
def test_array_that_changes_nothing_writes_nothing(brain: Brain, body: bytes) -> None:
    answer = patch(brain, body)
    assert answer.status_code == 200
    assert answer.json()["created"] == []


def test_several_ids_are_removed_with_one_record(brain: Brain) -> None:
    answer = requests.delete(brain.url, params={"id": ["c", "a"]})
    assert (answer.status_code, answer.json()) == (200, {"ids": ["c", "a"]})
    assert answer.headers["ETag"] == requests.get(brain.url).headers["ETag"]
    assert brain.content() == [{"id": "b"}]
    (change,) = brain.history()
    assert (change["operation"], change["removed"]) == ("delete", ["a", "c"])


def test_one_id_is_answered_as_ever(brain: Brain) -> None:
    assert requests.delete(brain.url, params={"id": ["c"]}).json() == {"id": "c"}
    assert requests.patch(brain.url, params={"id": "z"}, json=point("z")).json() == {"id": "z"}


def test_warnings_name_the_place_in_the_array(brain: Brain) -> None:
    answer = patch(brain, [A, {"id": "q", "type": "blob"}])
    assert [warning[:8] for warning in answer.json()["warnings"]] == ["[1].type"]


def test_what_is_decided_in_bulk_is_no_longer_held(shared: Service) -> None:
    brain = new_brain(shared, compact([A, B, C, point("d")]))
    brain.load()
    assert brain.save([])["kept"] == 4
    assert patch(brain, [{**A, "reviewed": True}, B]).status_code == 200
    assert sorted(brain.held()) == ["c", "d"]
    assert requests.delete(brain.url, params={"id": ["c", "b"]}).status_code == 200
    assert brain.held() == ["d"]


# --- all or nothing ---

REFUSED: list[Any] = [
    pytest.param(b'[{"id":"x"},{"id":"x"}]', 422, "[1].id: expected a unique id", id="id-twice"),
    pytest.param(b'[{"id":"x"},{"type":"point"}]', 422, "[1].", id="without-an-id"),
    pytest.param(b'[{"id":"x"},{"id":""}]', 422, "[1].id", id="empty-id"),
    pytest.param(b'[{"id":"x"},{"id":7}]', 422, "[1].id", id="number-as-id"),
    pytest.param(b'[{"id":"x"},[]]', 422, "[1]: expected an annotation", id="not-an-object"),
    pytest.param(
        b'[{"id":"x"},{"id":"b","type":"point","point":[1,2]}]', 422, "[1].point", id="two-numbers"
    ),
    pytest.param(
        b'[{"id":"x"},{"id":"b","type":"point","point":[1,2,null]}]', 422, "[1].point", id="null"
    ),
    pytest.param(b'[{"id":"x"},{"id":"b"', 400, "not valid JSON", id="cut-short"),
    pytest.param(b'[{"id":"x"},{"id":"b","n":NaN}]', 400, "not valid JSON", id="nan"),
    pytest.param(b'{"id":"x"}', 400, "id in the query, as in ?id=4f2a..., or an array", id="one"),
    pytest.param(b"", 400, "or an array", id="empty"),
    pytest.param(b"7", 400, "or an array", id="number"),
]


@pytest.mark.parametrize(("body", "status", "said"), REFUSED)
@pytest.mark.parametrize("headers", [{}, PAGE], ids=["script", "viewer"])
@pytest.mark.usefixtures("unchanged")
def test_array_with_one_fault_changes_nothing_and_names_the_place(
    brain: Brain, body: bytes, status: int, said: str, headers: dict[str, str]
) -> None:
    assert said in error_of(patch(brain, body, **headers), status)


@pytest.mark.parametrize(
    ("ids", "status", "said"),
    [
        (["a", "nobody"], 404, "'nobody'"),
        (["a", "b", "a"], 400, "'a' more than once"),
        (["a", ""], 400, "id is empty"),
    ],
    ids=["missing", "twice", "empty"],
)
@pytest.mark.usefixtures("unchanged")
def test_ids_with_one_fault_remove_nothing(
    brain: Brain, ids: list[str], status: int, said: str
) -> None:
    assert said in error_of(requests.delete(brain.url, params={"id": ids}), status)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_id_that_is_twice_in_the_file_changes_nothing(shared: Service, method: str) -> None:
    brain = new_brain(shared, TWICE)
    if method == "PATCH":
        answer = patch(brain, [C, A])
    else:
        answer = requests.delete(brain.url, params={"id": ["c", "a"]})
    assert "'a' appears 2 times in the file, at [0], [2]" in error_of(answer, 409)
    assert brain.file.read_bytes() == TWICE
    assert brain.history() == []


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_file_that_is_missing_is_404(shared: Service, method: str) -> None:
    brain = new_brain(shared, None)
    new_only = {"If-None-Match": "*"}
    if method == "PATCH":
        error_of(patch(brain, [A]), 404)
        error_of(patch(brain, [A], **new_only), 404)
        error_of(requests.patch(brain.url, params={"id": "a"}, json=A, headers=new_only), 404)
    else:
        error_of(requests.delete(brain.url, params={"id": ["a", "b"]}), 404)
    assert not brain.file.exists()


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_if_match_of_another_version_changes_nothing(brain: Brain, method: str) -> None:
    etag = requests.get(brain.url).headers["ETag"]
    brain.patch(point("z"))
    before = brain.file.read_bytes()
    for tag, status in ((etag, 412), (requests.get(brain.url).headers["ETag"], 200)):
        if method == "PATCH":
            answer = patch(brain, [A, B], **{"If-Match": tag})
        else:
            params = {"id": ["a", "b"]}
            answer = requests.delete(brain.url, params=params, headers={"If-Match": tag})
        assert answer.status_code == status
        assert (brain.file.read_bytes() == before) == (status == 412)


# --- PATCH that only adds ---


def test_if_none_match_star_lets_an_annotation_be_added_once(brain: Brain) -> None:
    def add(number: int) -> requests.Response:
        body = point("new", number)
        headers = {"If-None-Match": "*"}
        return requests.patch(brain.url, params={"id": "new"}, json=body, headers=headers)

    assert add(1).status_code == 201
    assert "'new' exists already" in error_of(add(2), 412)
    assert brain.content()[-1] == point("new", 1)


@pytest.mark.usefixtures("unchanged")
def test_if_none_match_star_adds_none_of_an_array_if_one_is_there(brain: Brain) -> None:
    answer = patch(brain, [point("x"), B, point("y"), A], **{"If-None-Match": "*"})
    assert "'b' exists already (and 1 more)" in error_of(answer, 412)


def test_if_none_match_star_adds_an_array_of_new_ones(brain: Brain) -> None:
    answer = patch(brain, [point("x"), point("y")], **{"If-None-Match": "*"})
    assert (answer.status_code, answer.json()["created"]) == (201, ["x", "y"])


# --- against a plain model ---

IDS = "abcdefgh"
BATCHES = st.lists(
    st.one_of(
        st.tuples(st.just("patch"), st.lists(st.sampled_from(IDS), max_size=6)),
        st.tuples(st.just("new"), st.lists(st.sampled_from(IDS), max_size=3)),
        st.tuples(
            st.just("delete"), st.lists(st.sampled_from(IDS), min_size=2, max_size=4, unique=True)
        ),
    ),
    min_size=1,
    max_size=8,
)
START = st.lists(st.sampled_from(IDS), max_size=6)
SPACES = st.tuples(*[st.sampled_from(["", " ", "\n   "])] * 3)
REFUSALS = (ChangedError, ConflictError, MissingError, RuleBrokenError)


@settings(max_examples=examples(300))
@given(START, SPACES, BATCHES)
def test_batches_do_what_a_plain_list_does(
    start: list[str], spaces: tuple[str, str, str], batches: list[tuple[str, list[str]]]
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        stores = open_stores(Path(directory))
        before, between, after = (space.encode() for space in spaces)
        items = [annotation(id_, of="before") for id_ in start]
        stores.file.write_bytes(b"[" + before + (b"," + between).join(items) + after + b"]")
        contents = [stores.file.read_bytes()]
        for number, (kind, ids) in enumerate(batches):
            bodies = [annotation(id_, of=number) for id_ in ids]
            expected = expected_after(items, kind, ids, bodies)
            try:
                apply(stores, kind, ids, bodies)
            except REFUSALS:
                assert expected is None
                assert stores.file.read_bytes() == contents[-1]
                continue
            assert expected is not None
            items = expected
            content = stores.file.read_bytes()
            document = Document.parse(content)
            assert [bytes(item) for item in document.items()] == items
            kept = stores.store.contents.read(stores.file).index
            assert kept is not None
            assert list(map(kept.span, range(len(kept)))) == list(
                map(document.index.span, range(len(items)))
            )
            found = Document(content, kept)
            assert (found.ids, found.repeated) == (document.ids, document.repeated)
            assert all(found.position(id_) == at for id_, at in document.ids.items())
            if content != contents[-1]:
                contents.append(content)
        if len(contents) > 1:
            for revision, content in enumerate(contents):
                assert stores.past.revision(stores.place, revision) == content
                assert content_at(stores.journal, revision, None) == content


def expected_after(
    items: list[bytes], kind: str, ids: list[str], bodies: list[bytes]
) -> list[bytes] | None:
    """The annotations afterwards; None if the batch is refused."""
    present = [json.loads(item)["id"] for item in items]
    if len(set(ids)) < len(ids) or any(present.count(id_) > 1 for id_ in ids):
        return None
    if kind == "delete":
        if not set(ids) <= set(present):
            return None
        return [item for item, id_ in zip(items, present, strict=True) if id_ not in ids]
    if kind == "new" and set(ids) & set(present):
        return None
    new = dict(zip(ids, bodies, strict=True))
    replaced = [new.get(id_, item) for item, id_ in zip(items, present, strict=True)]
    return replaced + [body for id_, body in new.items() if id_ not in present]


def apply(stores: Stores, kind: str, ids: list[str], bodies: list[bytes]) -> None:
    conditions = Preconditions(absent=kind == "new")
    context = WriteContext(preconditions=conditions)
    if kind == "delete":
        stores.store.delete_all(NAME, ids, context)
        return
    written = stores.store.patch_all(NAME, array(*bodies), context)
    assert list(written.ids) == ids
    assert set(written.added) <= set(ids)
    assert written.created == bool(written.added)


def test_many_are_changed_in_a_file_of_many(tmp_path: Path) -> None:
    stores = open_stores(tmp_path)
    ids = [f"{number:040x}" for number in range(30_000)]
    stores.file.write_bytes(array(*(annotation(id_) for id_ in ids[:20_000])))
    written = stores.store.patch_all(
        NAME, array(*(annotation(id_, n=1) for id_ in ids)), WriteContext()
    )
    assert (len(written.ids), len(written.added)) == (30_000, 10_000)
    stores.store.delete_all(NAME, ids[::2], WriteContext())
    document = Document.parse(stores.file.read_bytes())
    assert list(document.ids) == ids[1::2]
