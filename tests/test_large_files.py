"""Large files are changed without being held in memory, and end as if they were."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.index_files import IndexFiles
from neurotrale.annotations.journals.changes import Preconditions, WriteContext
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import FileWriter
from neurotrale.errors import ChangedError, MissingError
from neurotrale.locking.locks import Locks
from neurotrale.storage.cache import Stamp
from tests.examples import examples
from tests.stores import ANN, IN_MEMORY, NAME, Stores, annotation, array, open_stores

IDS = "abcdef"
ALL = array(*(annotation(id_) for id_ in IDS))


def writer_of(large_bytes: int, files: IndexFiles | None = None) -> FileWriter:
    return FileWriter(FileChanges(Locks("flock"), Contents(files, large_bytes)))


@contextmanager
def new_stores() -> Iterator[Stores]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as root:
        yield open_stores(Path(root))


def request(stores: Stores, operation: str, id_: str, number: int) -> WriteRequest:
    match operation:
        case "patch":
            body = annotation(id_, number=number)
        case "put":
            body = array(*(annotation(one, number=number) for one in IDS if one != id_))
        case "stale":
            context = WriteContext(preconditions=Preconditions(match=("other",)))
            return WriteRequest(operation="delete", file=stores.place, context=context, id=id_)
        case _:
            return WriteRequest(operation="delete", file=stores.place, context=ANN, id=id_)
    if operation == "put":
        return WriteRequest(operation="put", file=stores.place, context=ANN, body=body)
    return WriteRequest(operation="patch", file=stores.place, context=ANN, body=body, id=id_)


def told(results: list[Written | Exception]) -> list[object]:
    return [
        (one.created, one.changed, one.etag) if isinstance(one, Written) else str(one)
        for one in results
    ]


def recorded(stores: Stores) -> list[object]:
    return [
        (one.n, one.op, one.old, one.new, one.added, one.changed, one.removed, one.bytes_hunks())
        for one in stores.journal.records()
    ]


OPERATIONS = st.tuples(
    st.sampled_from(("patch", "patch", "patch", "delete", "delete", "put", "stale")),
    st.sampled_from(IDS + "g"),
    st.integers(0, 2),
)


@given(st.lists(st.lists(OPERATIONS, min_size=1, max_size=4), max_size=5))
@settings(deadline=None, max_examples=examples(60))
def test_file_changed_in_parts_is_that_changed_in_memory(
    batches: list[list[tuple[str, str, int]]],
) -> None:
    with new_stores() as held, new_stores() as parted:
        writers = {held.root: writer_of(2**30), parted.root: writer_of(1)}
        for stores in (held, parted):
            stores.put(ALL)
        for batch in batches:
            results = [
                told(writers[stores.root].write_together([request(stores, *one) for one in batch]))
                for stores in (held, parted)
            ]
            assert results[0] == results[1]
            assert held.file.read_bytes() == parted.file.read_bytes()
        assert recorded(held) == recorded(parted)
        for record in parted.journal.entries():
            now = Contents().read(parted.file)
            content = content_at(parted.journal, record.n, now)
            assert record.new is not None
            assert record.new.hash == etag_of(content)


# --- other programs that write in place, and leave no trace in the stamp ---


def rewrite(path: Path, content: bytes) -> None:
    """Write other bytes into the same file, and give it the time that it had."""
    status = path.stat()
    before = Stamp.of(status).recorded
    assert len(content) == status.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Stamp.of(path.stat()).recorded == before


def moved(content: bytes) -> bytes:
    """All annotations but the last begin four bytes earlier."""
    return content.replace(b"[\n   ", b"[", 1).replace(b'{"id": "f",', b'    {"id": "f",', 1)


SWAPS: dict[str, Callable[[bytes], bytes]] = {
    "another value": lambda content: content.replace(b"[1, 2, 3]", b"[4, 5, 6]", 1),
    "another id": lambda content: content.replace(b'"id": "a"', b'"id": "z"'),
    "moved": moved,
}


@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.parametrize("operation", ["patch", "delete", "put"])
def test_change_by_a_program_that_restores_the_time_is_noticed(
    tmp_path: Path, name: str, operation: str
) -> None:
    stores, writer = open_stores(tmp_path), writer_of(1)
    stores.put(ALL)
    writer.write(request(stores, "patch", "f", 1))  # its stamp is known from here on
    writer.write(request(stores, "patch", "f", 2))
    before = stores.file.read_bytes()
    other = SWAPS[name](before)
    assert other != before
    rewrite(stores.file, other)
    writer.write(request(stores, operation, "c", 7))
    expected = {one["id"]: one for one in json.loads(other)}
    if operation == "delete":
        del expected["c"]
    elif operation == "patch":
        expected["c"] = json.loads(annotation("c", number=7))
    else:
        expected = {id_: json.loads(annotation(id_, number=7)) for id_ in IDS if id_ != "c"}
    assert {one["id"]: one for one in json.loads(stores.file.read_bytes())} == expected
    page = stores.past.page(stores.place, ChangeFilter(), 9)
    assert [entry.op for entry, _ in page.changes][:2] == [operation, "outside"]
    assert content_at(stores.journal, 4, Contents().read(stores.file)) == other


def test_refusal_is_of_the_file_as_it_is(tmp_path: Path) -> None:
    stores, writer = open_stores(tmp_path), writer_of(1)
    stores.put(ALL)
    writer.write(request(stores, "patch", "f", 1))
    rewrite(stores.file, stores.file.read_bytes().replace(b'"id": "a"', b'"id": "z"', 1))
    with pytest.raises(MissingError):
        writer.write(request(stores, "delete", "a", 0))
    with pytest.raises(ChangedError):
        writer.write(request(stores, "stale", "z", 0))
    assert writer.write(request(stores, "delete", "z", 0)).changed


def test_file_that_changes_while_it_is_copied_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, writer = open_stores(tmp_path), writer_of(1)
    stores.put(ALL)
    writer.write(request(stores, "patch", "f", 1))
    copy, content = os.copy_file_range, stores.file.read_bytes()
    other = content.replace(b"[1, 2, 3]", b"[9, 9, 9]", 1)

    def changed_first(*arguments: Any) -> int:
        monkeypatch.setattr(os, "copy_file_range", copy)
        rewrite(stores.file, other)
        return copy(*arguments)

    monkeypatch.setattr(os, "copy_file_range", changed_first)
    writer.write(request(stores, "delete", "c", 0))
    expected = [one for one in json.loads(other) if one["id"] != "c"]
    assert json.loads(stores.file.read_bytes()) == expected
    assert expected[0]["point"] == [9, 9, 9]


def test_file_that_is_cut_short_while_it_is_copied_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, writer = open_stores(tmp_path), writer_of(1)
    stores.put(ALL)
    writer.write(request(stores, "patch", "f", 1))
    copy = os.copy_file_range

    def cut_first(*arguments: Any) -> int:
        monkeypatch.setattr(os, "copy_file_range", copy)
        os.truncate(stores.file, 0)
        stores.file.write_bytes(array(annotation("c"), annotation("x")))
        return copy(*arguments)

    monkeypatch.setattr(os, "copy_file_range", cut_first)
    writer.write(request(stores, "delete", "c", 0))
    assert [one["id"] for one in json.loads(stores.file.read_bytes())] == ["x"]


# --- wrong indices ---


def shifted(index: Index, by: int) -> Index:
    return Index(index.starts + by, index.stops + by, index.hashed, index.key)


@pytest.mark.parametrize("operation", ["patch", "delete"])
@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("by", [1, 2, 5])
def test_wrong_index_of_a_file_is_found_out_and_made_anew(
    tmp_path: Path, operation: str, id_: str, by: int
) -> None:
    (tmp_path / "shelf").mkdir(mode=0o700)
    files, stores = IndexFiles(tmp_path / "shelf"), open_stores(tmp_path / "data")
    content = array(
        *(annotation(one, text="x" * 200_000) for one in IDS), b'{"text": "%s"}' % (b"x" * 1000)
    )
    stores.file.write_bytes(content)
    files.put(etag_of(content), len(content), shifted(Index.of(content), by))
    files.flush()
    writer = writer_of(1, IndexFiles(tmp_path / "shelf"))
    writer.write(request(stores, operation, id_, 1))
    expected = [one for one in json.loads(content) if operation == "patch" or one.get("id") != id_]
    expected = [json.loads(annotation(id_, number=1)) if one.get("id") == id_ else one
                for one in expected]  # fmt: skip
    assert json.loads(stores.file.read_bytes()) == expected


# --- reading one annotation ---


@pytest.mark.parametrize("large_bytes", [1, 2**30])
def test_one_annotation_is_read(tmp_path: Path, large_bytes: int) -> None:
    stores = open_stores(tmp_path)
    stores.put(ALL)
    stores.store.contents.large_bytes = large_bytes
    read = stores.store.read_one(NAME, "d")
    assert (read.body, read.etag) == (annotation("d"), etag_of(annotation("d")))
    with pytest.raises(MissingError):
        stores.store.read_one(NAME, "g")
