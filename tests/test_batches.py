"""Writes of one file that are applied together, and requests that are repeated."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.journals.changes import Author, Preconditions, WriteContext
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import FileWriter
from neurotrale.errors import ChangedError, DiskFullError, MissingError
from neurotrale.locking.locks import Locks
from neurotrale.storage.cache import Stamp
from tests.disks import RENAME_FAILED, renames_fail
from tests.examples import examples
from tests.stores import ANN, IN_MEMORY, Stores, annotation, array, open_stores
from tests.test_crash import Killer

A, B, C = (annotation(id_) for id_ in "abc")


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return open_stores(tmp_path)


def writer() -> FileWriter:
    return FileWriter(FileChanges(Locks("flock"), Contents()))


def put(stores: Stores, *annotations: bytes, **more: Any) -> WriteRequest:
    context = more.pop("context", ANN)
    body = array(*annotations)
    return WriteRequest(operation="put", file=stores.place, context=context, body=body, **more)


def patch(stores: Stores, id_: str, number: int = 0, **more: Any) -> WriteRequest:
    context = more.pop("context", ANN)
    body = annotation(id_, number=number)
    return WriteRequest(
        operation="patch", file=stores.place, context=context, body=body, id=id_, **more
    )


def delete(stores: Stores, id_: str, **more: Any) -> WriteRequest:
    context = more.pop("context", ANN)
    return WriteRequest(operation="delete", file=stores.place, context=context, id=id_, **more)


def written(results: list[Written | Exception]) -> list[Written]:
    assert all(isinstance(result, Written) for result in results), results
    return [result for result in results if isinstance(result, Written)]


def records(stores: Stores) -> list[JournalEntry]:
    return list(stores.journal.records_forward())


def history(stores: Stores) -> list[tuple[int, str, str, bool]]:
    page = stores.past.page(stores.place, ChangeFilter(), 1000)
    return [(entry.n, entry.op, entry.by, applied) for entry, applied in page.changes]


# --- together ---


def test_writes_together_replace_the_file_once_and_have_a_record_each(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.put(array(A))
    renames: list[str] = []
    rename = os.replace

    def counted(old: str, new: str, **directories: int) -> None:
        renames.append(new)
        rename(old, new, **directories)

    monkeypatch.setattr(os, "replace", counted)
    bob = WriteContext(Author("bob", "10.0.0.2"))
    results = written(
        writer().write_together(
            [patch(stores, "b"), patch(stores, "c", context=bob), delete(stores, "a")]
        )
    )
    assert [result.created for result in results] == [True, True, False]
    assert renames.count(stores.file.name) == 1
    assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["b", "c"]
    assert results[-1].etag == etag_of(stores.file.read_bytes())
    assert history(stores) == [
        (4, "delete", "ann", True),
        (3, "patch", "bob", True),
        (2, "patch", "ann", True),
        (1, "put", "ann", True),
    ]
    assert [record.first for record in records(stores)] == [0, 2, 2, 2]
    for revision, ids in enumerate((["a"], ["a", "b"], ["a", "b", "c"], ["b", "c"]), 1):
        content = stores.past.revision(stores.place, revision)
        assert [one["id"] for one in json.loads(content)] == ids


def test_each_write_meets_the_file_as_the_one_before_leaves_it(stores: Stores) -> None:
    stores.put(array(A, B))
    etag = etag_of(stores.file.read_bytes())
    on_it = WriteContext(preconditions=Preconditions((etag,)))
    results = writer().write_together(
        [
            patch(stores, "a", 1, context=on_it),
            patch(stores, "b", 2, context=on_it),
            delete(stores, "nobody"),
            delete(stores, "b"),
            patch(stores, "b", 3),
        ]
    )
    assert isinstance(results[0], Written)
    assert isinstance(results[1], ChangedError)
    assert isinstance(results[2], MissingError)
    assert isinstance(results[3], Written)
    assert isinstance(results[4], Written)
    assert results[4].created
    assert [one.get("number") for one in json.loads(stores.file.read_bytes())] == [1, 3]
    assert [entry[1] for entry in history(stores)] == ["patch", "delete", "patch", "put"]


def test_writes_that_are_all_refused_write_nothing(stores: Stores) -> None:
    stores.put(array(A))
    before = Stamp.of(stores.file.stat()), stores.journal.path.read_bytes()
    results = writer().write_together([delete(stores, "x"), delete(stores, "y")])
    assert [type(result) for result in results] == [MissingError, MissingError]
    assert (Stamp.of(stores.file.stat()), stores.journal.path.read_bytes()) == before


def test_first_write_makes_the_file_that_the_others_change(stores: Stores) -> None:
    requests = [delete(stores, "a"), put(stores, A), patch(stores, "b"), delete(stores, "a")]
    results = writer().write_together(requests)
    assert isinstance(results[0], MissingError)
    assert [result.created for result in written(results[1:])] == [True, True, False]
    assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["b"]
    assert content_at(stores.journal, 1, None) == array(A)


def test_disk_that_is_full_refuses_all_and_leaves_file_and_history(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.put(array(A))
    real = os.fsync
    failing = iter([True])

    def full(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith(".journal") and next(failing, False):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError):
        writer().write_together([patch(stores, "b"), patch(stores, "c")])
    assert stores.file.read_bytes() == array(A)
    assert history(stores) == [(1, "put", "ann", True)]
    written(writer().write_together([patch(stores, "b"), patch(stores, "c")]))
    assert [entry[0] for entry in history(stores)] == [3, 2, 1]


def test_rename_that_fails_leaves_all_marked_as_never_made(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.put(array(A))
    with renames_fail(stores.file, monkeypatch), pytest.raises(OSError, match=RENAME_FAILED):
        writer().write_together([patch(stores, "b"), patch(stores, "c")])
    assert stores.file.read_bytes() == array(A)
    assert [(n, applied) for n, _, _, applied in history(stores)] == [
        (3, False),
        (2, False),
        (1, True),
    ]
    stores.patch("d")
    assert history(stores)[0] == (5, "patch", "ann", True)
    assert stores.past.revision(stores.place, 1) == array(A)


IDS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("patch"), IDS, st.integers(0, 3)),
        st.tuples(st.just("delete"), IDS),
        st.tuples(st.just("put"), st.lists(IDS, max_size=3, unique=True)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=examples(300))
@given(STEPS, st.lists(st.integers(1, 5), max_size=12))
def test_together_or_one_by_one_is_the_same(steps: list[Any], sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        one, many = open_stores(Path(directory) / "one"), open_stores(Path(directory) / "many")
        outcomes = []
        for stores, parts in ((one, [1] * len(steps)), (many, [*sizes, *[1] * len(steps)])):
            left, results = [request_of(stores, step) for step in steps], []
            for size in parts:
                batch, left = left[:size], left[size:]
                if batch:
                    results += writer().write_together(batch)
            outcomes.append([outcome(result) for result in results])
        assert outcomes[0] == outcomes[1]
        assert one.file.exists() == many.file.exists()
        if one.file.exists():
            assert one.file.read_bytes() == many.file.read_bytes()
        assert history(one) == history(many)
        for number, *_ in history(one):
            assert one.past.revision(one.place, number) == many.past.revision(many.place, number)


def request_of(stores: Stores, step: tuple[Any, ...]) -> WriteRequest:
    if step[0] == "patch":
        return patch(stores, step[1], step[2])
    if step[0] == "delete":
        return delete(stores, step[1])
    return put(stores, *(annotation(id_) for id_ in step[1]))


def outcome(result: Written | Exception) -> object:
    return type(result) if isinstance(result, Exception) else (result.etag, result.created)


# --- repeated ---


def test_repeated_request_is_applied_once_and_gets_the_same_result(stores: Stores) -> None:
    stores.put(array(A))
    first = writer().write(patch(stores, "b", intent="one"))
    later = writer().write(patch(stores, "a", 9, intent="two"))
    again = writer().write(patch(stores, "b", intent="one", is_repeated=True))
    assert (again.created, again.changed) == (first.created, True)
    assert again.etag == later.etag == etag_of(stores.file.read_bytes())
    assert [entry[1] for entry in history(stores)] == ["patch", "patch", "put"]
    assert [record.intent for record in records(stores)] == ["", "one", "two"]


def test_repeated_request_that_was_never_applied_is_applied(stores: Stores) -> None:
    stores.put(array(A))
    assert writer().write(patch(stores, "b", intent="one", is_repeated=True)).created
    assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["a", "b"]


# --- killed ---


def batch_of_a_new_file(stores: Stores) -> list[WriteRequest]:
    return [put(stores, A, intent="p"), patch(stores, "b", intent="q")]


def batch(stores: Stores) -> list[WriteRequest]:
    return [
        patch(stores, "a", 5, intent="p"),
        patch(stores, "b", intent="q"),
        delete(stores, "a", intent="r"),
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("requests", [batch_of_a_new_file, batch])
@pytest.mark.parametrize("noticed_by", ["another", "the same request"])
def test_batch_that_is_killed_at_any_step_is_applied_whole_or_not_at_all(
    requests: Callable[[Stores], list[WriteRequest]],
    noticed_by: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    every = 4 * pytestconfig.option.crash_every
    ends: set[bool] = set()
    for step in count(1, every):
        stores = open_stores(tmp_path / str(step))
        if requests is batch:
            stores.put(array(A))
        before = stores.file.read_bytes() if stores.file.exists() else None
        code = killed_at(step, partial(writer().write_together, requests(stores)))
        assert code in (0, -signal.SIGKILL)
        found = stores.file.read_bytes() if stores.file.exists() else None
        ids = [] if found is None else [one["id"] for one in json.loads(found)]
        whole = ids == (["b"] if requests is batch else ["a", "b"])
        assert whole or found == before
        ends.add(whole)
        applied = [entry[:2] for entry in history(stores) if entry[3]]
        assert (len(applied) > 1 if requests is batch else bool(applied)) == whole
        if noticed_by == "another":
            if not stores.file.exists():
                stores.put(array())
            stores.patch("z")
            expected = [*ids, "z"]
        else:
            again = [replace(request, is_repeated=True) for request in requests(stores)]
            results = written(writer().write_together(again))
            assert results[1].created
            expected = ["b"] if requests is batch else ["a", "b"]
        assert [one["id"] for one in json.loads(stores.file.read_bytes())] == expected
        intents = [
            entry.intent
            for entry, applied in stores.past.page(stores.place, ChangeFilter(), 99).changes
            if applied and entry.intent
        ]
        assert len(intents) == len(set(intents))
        for number in (entry[0] for entry in history(stores) if entry[3]):
            json.loads(stores.past.revision(stores.place, number))
        numbers = [entry.n for entry in Journal(stores.file).entries()]
        assert numbers == list(range(len(numbers), 0, -1))
        if not code:
            break
    assert ends == {True, False}


@pytest.mark.thorough
def test_batch_whose_records_are_torn_anywhere_was_never_applied(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """The power goes while the journal is written: any part of what was appended may be there."""
    for step in count(0, pytestconfig.option.crash_every):
        stores = open_stores(tmp_path / str(step))
        stores.put(array(A))
        old = stores.file.with_name("old")
        os.link(stores.file, old)
        size = stores.journal.path.stat().st_size
        written(writer().write_together(batch(stores)))
        old.replace(stores.file)
        if size + step > stores.journal.path.stat().st_size:
            break
        os.truncate(stores.journal.path, size + step)
        assert [entry[0] for entry in history(stores) if entry[3]] == [1]
        again = [replace(request, is_repeated=True) for request in batch(stores)]
        written(writer().write_together(again))
        assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["b"]
        applied = [entry for entry in history(stores) if entry[3]]
        assert [entry[1] for entry in applied] == ["delete", "patch", "patch", "put"]
        assert stores.past.revision(stores.place, 1) == array(A)
        assert stores.past.revision(stores.place, applied[1][0]) == array(
            annotation("a", number=5), annotation("b", number=0)
        )


def killed_at(step: int, work: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            killer = Killer(step)
            killer.start()
            work()
            killer.stop()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
