"""Operation ids (Idempotency-Key): a request that comes again is answered again, not made again.

The journal of a file keeps the id of each request that had one, with what the client was answered.
So an id is known however long ago it was used, to every worker and every service.

The process that makes all changes has the ids of each file in memory: the journal is read whole
once, and then only what was appended. The newest ids are there with their answers; of older ones a
hash, which is enough to know that an id is new. Only an old id that comes again has the journal
searched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from neurotrale.annotations.documents.contents import Content
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry, KeyedOperation
from neurotrale.annotations.journals.revisions import applied_changes
from neurotrale.annotations.journals.viewers import SaveNotes
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.errors import BadInputError, OtherRequestError
from neurotrale.late import LazyModule
from neurotrale.storage.cache import VersionedCache
from neurotrale.storage.regular import open_companion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

HEADER = "Idempotency-Key"
MOST_CHARACTERS = 255

MOST_ANSWERS = 25_000
"""Of a file, at least so many answers are kept in memory; hashes of all ids."""
LARGE_ANSWER_BYTES = 1000  # is read from the journal instead
CACHED_FILES = 4096
CACHED_ANSWERS = 200_000  # of all files
TAIL_BYTES = 256

_DIGEST_BYTES = 16
_TARGET = ("operation", "id", "ids", "revision", "since", "by", "session")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(KeyedOperation)


def check_operation_id(text: str) -> None:
    """Check an operation id.

    Raises:
        BadInputError: It is not one.
    """
    if not text:
        found = "nothing"
    elif len(text) > MOST_CHARACTERS:
        found = f"{len(text)}"
    elif not (text.isascii() and text.isprintable()):
        found = ascii(text)
    else:
        return
    raise BadInputError(
        f"{HEADER}: expected 1 to {MOST_CHARACTERS} printable ASCII characters, such as a UUID,"
        f" found {found}. Nothing was changed."
    )


def digest_of(request: WriteRequest) -> str:
    """Return what tells a request from others with the same operation id.

    That is what it does, to which annotations, with which body; not who sends it, and on which
    conditions.
    """
    values = {name: getattr(request, name) for name in _TARGET}
    target = {name: value for name, value in values.items() if value not in (None, "", ())}
    hashed = hashlib.blake2b(msgspec.json.encode(target), digest_size=_DIGEST_BYTES)
    hashed.update(b"\n")
    hashed.update(request.body)
    return hashed.hexdigest()


def check_same_request(found: KeyedOperation, digest: str, display_path: str) -> None:
    """Check that an operation id comes again with the request that it came with first.

    Raises:
        OtherRequestError: It was another request.
    """
    if found.digest != digest:
        raise OtherRequestError(
            f"{HEADER}: expected the request that {found.key!r} named first in the history of"
            f" {display_path}, found one with another method, id or body. Nothing was changed:"
            " send a new request with an id of its own."
        )


def operation_of(key: str, digest: str, written: Written) -> KeyedOperation:
    """Return what the journal keeps of a request and its answer."""
    new = frozenset(written.added)
    return KeyedOperation(
        key,
        digest,
        written.created,
        _runs_of(id_ in new for id_ in written.ids) if new else [],
        list(written.warnings),
        written.newly_held,
        dict(written.notes.conflicts),
        list(written.notes.navigated),
    )


def answer_of(
    operation: KeyedOperation, filename: str, etag: str, ids: Sequence[str] = ()
) -> Written:
    """Return the answer that a request had.

    Args:
        operation: The request.
        filename: Path of its file relative to the data root.
        etag: ETag of the file as it is.
        ids: Ids of the annotations, of a request for several.
    """
    notes = SaveNotes(conflicts=operation.conflicts, navigated=operation.navigated)
    return Written(
        filename,
        operation.created,
        etag,
        tuple(operation.warnings),
        operation.newly_held,
        changed=False,
        notes=notes,
        ids=tuple(ids),
        added=tuple(id_ for id_, new in zip(ids, _flags_of(operation.added), strict=False) if new),
    )


def _runs_of(flags: Iterable[bool]) -> list[int]:
    """Return how many are false, then how many true, and so on."""
    runs = [0]
    for flag, same in groupby(flags):
        count = sum(1 for _ in same)
        if flag == bool(len(runs) % 2):  # there is none of the other kind before it
            runs.append(count)
        else:
            runs[-1] += count
    return runs


def _flags_of(runs: Iterable[int]) -> Iterator[bool]:
    for number, count in enumerate(runs):
        yield from (bool(number % 2) for _ in range(count))


def _no_hashes() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass
class _KnownIds:
    """The operation ids in the journal of one file."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Number of the record, and the operation; empty if it has to be read from the journal."""
    older: NDArray[np.int64] = field(default_factory=_no_hashes)
    """Hashes of the other ids, sorted."""
    last: int = 0
    size: int = 0
    tail: bytes = b""

    def __len__(self) -> int:
        return len(self.answers)

    def is_of(self, journal: Journal) -> bool:
        """Return whether a journal is the one that was read, perhaps with more at its end."""
        tail, size = _tail(journal, self.size)
        return size >= self.size and tail == self.tail

    def read(self, journal: Journal) -> None:
        """Read what was appended since the last time."""
        _, size = _tail(journal, 0)
        self.tail, self.size = _tail(journal, size)[0], size
        aborted: set[int] = set()
        before, newest = self.last, self.last
        for entry in journal.entries():
            if entry.n <= before:
                break
            newest = max(newest, entry.n)
            aborted.update(entry.aborts)
            if entry.op != "void" and entry.n not in aborted:
                self._add(entry)
        self.last = newest
        if any(number <= before for number in aborted):
            gone = [key for key, (number, _) in self.answers.items() if number in aborted]
            for key in gone:
                del self.answers[key]

    def _add(self, entry: JournalEntry) -> None:
        for operation in entry.operations:
            encoded = _encoder.encode(operation)
            kept = encoded if len(encoded) <= LARGE_ANSWER_BYTES else b""
            if self.answers.get(operation.key, (0, b""))[0] < entry.n:
                self.answers[operation.key] = entry.n, kept
        if len(self.answers) > 2 * MOST_ANSWERS:
            in_order = sorted(self.answers, key=lambda key: self.answers[key][0])
            old = in_order[:-MOST_ANSWERS]
            hashes = np.fromiter(map(hash, old), np.int64, len(old))
            self.older = np.union1d(self.older, hashes)
            for key in old:
                del self.answers[key]

    def find(self, journal: Journal, content: Content | None, key: str) -> KeyedOperation | None:
        """Return the request with an operation id; None if there is none."""
        known = self.answers.get(key)
        if known is not None and known[1]:
            return _decoder.decode(known[1])
        if known is None and not self._may_be_older(key):
            return None
        for entry, applied in applied_changes(journal, content):
            for operation in entry.operations if applied else ():
                if operation.key == key:
                    return operation
        return None

    def _may_be_older(self, key: str) -> bool:
        at = int(np.searchsorted(self.older, hash(key)))
        return at < len(self.older) and int(self.older[at]) == hash(key)


class OperationIds:
    """Finds requests by their operation ids, in the journals of files."""

    def __init__(self) -> None:
        self._files: VersionedCache[_KnownIds] = VersionedCache(CACHED_FILES, CACHED_ANSWERS, len)

    def find(self, journal: Journal, content: Content | None, key: str) -> KeyedOperation | None:
        """Return the request that had an operation id; None if there is none.

        Args:
            journal: The journal of the file, which agrees with it; the caller holds the file's
                lock.
            content: The file; None if it does not exist.
            key: The operation id.
        """
        known = self._files.find_latest(journal.file)
        if known is None or not known.is_of(journal):
            known = _KnownIds()
        known.read(journal)
        self._files.put(journal.file, None, known)
        return known.find(journal, content, key)


def _tail(journal: Journal, stop: int) -> tuple[bytes, int]:
    """Return the bytes of a journal before an offset, and its size."""
    try:
        with open_companion(journal.path, journal.file) as file:
            start = max(0, stop - TAIL_BYTES)
            return os.pread(file.fileno(), stop - start, start), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return b"", 0
