"""The index of a file: the same from a stored file as from scratch, and never trusted blindly."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents import index_directory
from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.documents.document import Document, StaleIndexError
from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.index_directory import IndexDirectory
from neurotrale.annotations.documents.index_files import KEPT_BYTES, SHARED_BYTES, IndexFiles
from neurotrale.annotations.documents.stored_index import pack_index, unpack_index
from neurotrale.annotations.journals.changes import apply
from neurotrale.errors import ConflictError
from neurotrale.storage.ranges import FileRange, LargeBytes, OpenFile, ShortFileError
from tests.examples import examples
from tests.test_documents import IDS, Speller, dice

thorough = settings(deadline=None, max_examples=examples(200))
SECRET = bytes(range(32))


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Make up a file in any spelling, with ids that are repeated and items that have none."""
    throw = draw(dice)
    speller = Speller(throw)
    ids = draw(st.lists(st.sampled_from((*IDS, None)), max_size=9))
    items = [speller.foreign() if id_ is None else speller.annotation(id_) for id_ in ids]
    return f"{speller.gap()}{speller.array([one.decode() for one in items])}".encode()


def stored(content: bytes, index: Index, secret: bytes = SECRET) -> Index:
    """The index after it was stored and read again."""
    etag = etag_of(content)
    packed = b"".join(pack_index(index, etag, len(content), secret))
    read = unpack_index(packed, etag, len(content), secret)
    assert read is not None
    return read


def facts(document: Document) -> object:
    """What a document tells of its annotations."""
    return (
        list(document.items()),
        dict(document.ids),
        document.repeated,
        {id_: (document.position(id_), document.find(id_)) for id_ in (*IDS, "none")},
        {id_: list(document.positions(id_)) for id_ in IDS},
        document.without_id(),
    )


def outcome(document: Document, operation: str, id_: str, text: bytes) -> object:
    try:
        hunk, after = document.upsert(id_, text) if operation == "upsert" else document.remove(id_)
    except (ConflictError, KeyError) as error:
        return str(error)
    content = apply(document.content, [hunk])
    assert facts(Document(content, after)) == facts(Document.parse(content))
    assert after.is_possible(len(content))
    return content


# --- from a file, or from scratch ---


@given(contents(), st.sampled_from(("upsert", "remove")), st.sampled_from((*IDS, "new")), dice)
@thorough
def test_stored_index_tells_what_one_from_scratch_tells(
    content: bytes, operation: str, id_: str, throw: int
) -> None:
    scratch = Document.parse(content)
    read = Document(content, stored(content, scratch.index))
    assert facts(read) == facts(scratch)
    text = Speller(throw).annotation(id_)
    assert outcome(read, operation, id_, text) == outcome(scratch, operation, id_, text)


@given(contents())
@thorough
def test_document_in_a_file_tells_what_one_in_memory_tells(content: bytes) -> None:
    held = Document.parse(content)
    for cuts in ([], [len(content) // 2], list(range(0, len(content), 3))):
        bounds = [0, *cuts, len(content)]
        parts = [content[a:b] for a, b in pairwise(bounds)]
        assert facts(Document(LargeBytes(parts), held.index)) == facts(held)


@given(st.lists(st.binary(max_size=9), max_size=9), st.integers(0, 99), st.integers(0, 99))
def test_range_of_pieces_is_that_of_their_bytes(pieces: list[bytes], start: int, stop: int) -> None:
    whole, large = b"".join(pieces), LargeBytes(pieces)
    assert large[start:stop] == whole[start:stop]
    assert len(large) == len(whole)
    assert LargeBytes(large.range(start, stop))[:] == whole[start:stop]


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**33])
def test_offsets_of_files_of_any_size_are_kept(size: int) -> None:
    index = Index.of(b'[{"id":"a"},{"id":"b"}]')
    for one in (
        index.with_replaced(0, size - 30, old="a", new="a"),
        index.with_appended("c", size - 10, size - 1),
    ):
        etag = etag_of(b"")
        read = unpack_index(b"".join(pack_index(one, etag, size, SECRET)), etag, size, SECRET)
        assert read is not None
        assert read.stops.tolist() == one.stops.tolist()
        assert int(one.stops[-1]) > size - 40
    assert one.candidates("c") == [2]


def test_index_takes_little_memory() -> None:
    content = b"[" + b",".join(b'{"id":"%d"}' % number for number in range(50_000)) + b"]"
    index = Index.of(content)
    assert index.size_bytes <= 16 * 50_000
    assert Document(content, index).find("49999") == b'{"id":"49999"}'


# --- ids that are hard to tell apart ---


def forged(index: Index) -> tuple[str, str]:
    """Two ids with one hash: only who knows the key of the index can find them."""
    seen: dict[int, str] = {}
    for number in range(2**20):
        other = seen.setdefault(index.hash_of(f"{number:x}"), f"{number:x}")
        if other != f"{number:x}":
            return other, f"{number:x}"
    raise AssertionError


def test_ids_of_one_hash_are_told_apart() -> None:
    empty = Index.of(b"[]")
    first, second = forged(empty)
    content = b"[]"
    index = empty
    for id_ in (first, "x", second):
        hunk, index = Document(content, index).upsert(id_, b'{"id":"%s"}' % id_.encode())
        content = apply(content, [hunk])
    document = Document(content, index)
    assert index.candidates(first) == index.candidates(second) == [0, 2]
    assert (document.position(first), document.position(second)) == (0, 2)
    assert document.repeated == {}
    hunk, index = document.remove(first)
    content = apply(content, [hunk])
    assert Document(content, index).find(first) is None
    assert Document(content, index).find(second) == b'{"id":"%s"}' % second.encode()


def test_hashes_of_two_indices_do_not_tell_of_each_other() -> None:
    one, other = (Index.of(b'[{"id":"a"}]') for _ in range(2))
    assert one.key != other.key
    assert one.hashed.tolist() != other.hashed.tolist()


# --- stored files that are not what they should be ---

CONTENT = b"[" + b",\n".join(b'{"id":"%d","n":1}' % n for n in range(60_000)) + b"]"
INDEX = Index.of(CONTENT)
ETAG = etag_of(CONTENT)
assert len(CONTENT) > SHARED_BYTES


@given(st.data())
@thorough
def test_stored_index_with_any_byte_changed_is_not_used(data: st.DataObject) -> None:
    content = b'[{"id":"a"},{"id":"b"},{}]'
    etag = etag_of(content)
    packed = bytearray(b"".join(pack_index(Index.of(content), etag, len(content), SECRET)))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    assert unpack_index(bytes(packed), etag, len(content), SECRET) is None
    packed = packed[: data.draw(st.integers(0, len(packed) - 1))]
    assert unpack_index(bytes(packed), etag, len(content), SECRET) is None


def wrong_indices() -> dict[str, Index]:
    starts, stops, hashed, key = INDEX.starts, INDEX.stops, INDEX.hashed, INDEX.key
    far = stops.copy()
    far[-1] = len(CONTENT)
    return {
        "unsorted": Index(starts[::-1].copy(), stops[::-1].copy(), hashed, key),
        "overlapping": Index(starts, stops + 2, hashed, key),
        "empty": Index(starts, starts, hashed, key),
        "before the bracket": Index(starts - 1, stops - 1, hashed, key),
        "after the bracket": Index(starts, far, hashed, key),
        "hashes unsorted": Index(starts, stops, hashed[::-1].copy(), key),
        "position of none": Index(starts, stops, np.sort(hashed | np.uint64(2**31)), key),
        "ids without annotations": Index(starts[:0], stops[:0], hashed, key),
    }


@pytest.mark.parametrize("name", wrong_indices())
def test_impossible_index_is_not_used(name: str) -> None:
    index = wrong_indices()[name]
    assert not index.is_possible(len(CONTENT))
    packed = b"".join(pack_index(index, ETAG, len(CONTENT), SECRET))
    assert unpack_index(packed, ETAG, len(CONTENT), SECRET) is None


def never() -> Index:
    raise AssertionError("the stored index was not found")


def shared(directory: Path, *, kept: Path | None = None) -> IndexFiles:
    return IndexFiles(directory, kept)


def one_file(directory: Path) -> Path:
    (found,) = (path for path in directory.rglob("*") if len(path.name) == 32 and not path.suffix)
    return found


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: os.truncate(path, 1000),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "no magic": lambda path: flip(path, 0),
    "another version": lambda path: flip(path, 16),
    "checksum": lambda path: flip(path, 100),
    "numbers": lambda path: flip(path, 5000),
    "pickle": lambda path: path.write_bytes(pickle.dumps(INDEX)),
    "directory": replaced_by(Path.mkdir),
    "link": replaced_by(lambda path: path.symlink_to("/etc/passwd")),
    "pipe": replaced_by(os.mkfifo),
    "secret gone": lambda path: (path.parent / "secret").unlink(),
    "secret short": lambda path: (path.parent / "secret").write_bytes(b"short"),
    "another secret": lambda path: (path.parent / "secret").write_bytes(SECRET),
    "no directory": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file_is_ignored_and_made_anew(tmp_path: Path, name: str) -> None:
    shared(tmp_path).get(ETAG, len(CONTENT), lambda: INDEX)
    assert shared(tmp_path).get(ETAG, len(CONTENT), never).key == INDEX.key
    DAMAGES[name](one_file(tmp_path))
    files = shared(tmp_path)
    again = Index.of(CONTENT)
    assert files.get(ETAG, len(CONTENT), lambda: again) is again
    files.flush()
    if name != "directory":  # which nobody removes
        assert shared(tmp_path).get(ETAG, len(CONTENT), never).key == again.key


def test_index_is_made_once_and_found_after_a_restart(tmp_path: Path) -> None:
    content = b"[" + b",".join(b'{"id":"%d"}' % n for n in range(KEPT_BYTES // 12)) + b"]"
    assert len(content) > KEPT_BYTES
    (tmp_path / "data").mkdir()
    size, etag, index = len(content), etag_of(content), Index.of(content)
    for number in range(3):
        shelf = tmp_path / f"shelf-{number}"
        shelf.mkdir(mode=0o700)
        first, second = (shared(shelf, kept=tmp_path / "data") for _ in range(2))
        if number == 0:
            assert first.get(etag, size, lambda: index) is index
            first.flush()
        for files in (first, second):
            assert files.get(etag, size, never).stops.tolist() == index.stops.tolist()
            files.flush()
        assert one_file(shelf).read_bytes()[48:64] == index.key
    state = tmp_path / "data" / ".neurotrale"
    assert {path.stat().st_mode & 0o77 for path in (state, *state.rglob("*"))} == {0}


def test_index_replaces_that_of_the_content_before(tmp_path: Path) -> None:
    files = shared(tmp_path)
    files.put(ETAG, len(CONTENT), INDEX)
    etags = [f"{number:032x}" for number in range(9)]
    for before, etag in zip([ETAG, *etags], etags, strict=False):
        files.put(etag, len(CONTENT), INDEX, before)
    files.flush()
    assert shared(tmp_path).get(etags[-1], len(CONTENT), never).key == INDEX.key
    one_file(tmp_path)


def test_directory_of_indices_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(b"".join(pack_index(INDEX, ETAG, len(CONTENT), SECRET)))
    monkeypatch.setattr(index_directory, "MOST_BYTES", 3 * size)
    place = IndexDirectory(tmp_path / "indices", is_mapped=False)
    for number in range(9):
        place.put(f"{number:032x}", len(CONTENT), INDEX)
    found = [place.find(f"{number:032x}", len(CONTENT)) is not None for number in range(9)]
    assert found == [False] * 6 + [True] * 3


def test_small_contents_and_services_that_share_nothing_store_nothing(tmp_path: Path) -> None:
    small = b'[{"id":"a"}]'
    for files in (shared(tmp_path), IndexFiles(), IndexFiles(None, tmp_path, keep=False)):
        index = files.get(etag_of(small), len(small), lambda: Index.of(small))
        files.put(etag_of(small), len(small), index)
        files.flush()
    files = IndexFiles(None, tmp_path, keep=False)
    assert files.get(ETAG, len(CONTENT), lambda: INDEX) is INDEX
    assert list(tmp_path.iterdir()) == []


# --- an index of other bytes ---


@given(contents(), st.integers(1, 3))
@thorough
def test_index_that_is_shifted_never_leads_to_a_part_of_an_annotation(
    content: bytes, by: int
) -> None:
    true = Document.parse(content)
    index = Index(true.index.starts + by, true.index.stops + by, true.index.hashed, true.index.key)
    document = Document(content + b" " * by, index)
    for id_ in IDS:
        try:
            found = document.find(id_)
        except StaleIndexError:
            continue
        assert found is None or found in list(true.items())


# --- ranges of files ---


def opened(path: Path, content: bytes) -> OpenFile:
    path.write_bytes(content)
    return OpenFile(os.open(path, os.O_RDONLY))


def refusing(code: int) -> Callable[..., int]:
    def copy(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return copy


KERNEL_COPY = os.copy_file_range
COPIES: dict[str, Callable[..., int]] = {
    "of all": KERNEL_COPY,
    "of little": lambda a, b, count, at: KERNEL_COPY(a, b, min(count, 1000), at),
    "of nothing": lambda *_: 0,
    **{
        errno.errorcode[code]: refusing(code)
        for code in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
    },
}


@pytest.mark.parametrize("name", COPIES)
def test_range_is_copied_whatever_the_kernel_can(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Random(1).randbytes(700_000)
    file = opened(tmp_path / "old", content)
    monkeypatch.setattr(os, "copy_file_range", COPIES[name])
    with (tmp_path / "new").open("wb") as new:
        FileRange(file, 5, 699_990).copy_to(new.fileno())
    assert (tmp_path / "new").read_bytes() == content[5:699_990]


def test_full_disk_is_reported_and_not_tried_again_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(tmp_path / "old", b"x" * 100)
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.ENOSPC))
    with (tmp_path / "new").open("wb") as new, pytest.raises(OSError, match="No space"):
        FileRange(file, 0, 100).copy_to(new.fileno())
    assert (tmp_path / "new").read_bytes() == b""


def test_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    file = opened(tmp_path / "old", b"x" * 100)
    os.truncate(tmp_path / "old", 60)
    large = LargeBytes([FileRange(file, 0, 100)])
    assert large[10:60] == b"x" * 50
    for read in (lambda: large[50:61], lambda: large.whole):
        with pytest.raises(ShortFileError):
            read()
    with (tmp_path / "new").open("wb") as new, pytest.raises(ShortFileError):
        FileRange(file, 0, 100).copy_to(new.fileno())


def test_contents_find_the_index_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(CONTENT)
    Contents(shared(tmp_path)).read(path)
    index = Contents(shared(tmp_path)).read(path).index
    assert index is not None
    assert not index.hashed.flags.owndata  # it is mapped
    assert json.loads(Document(CONTENT, index).find("59999") or b"")["id"] == "59999"
