"""Earlier contents of an annotation file, derived from its journal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice

from neurotrale.annotations.documents.contents import Content, etag_of
from neurotrale.annotations.journals.changes import apply, reversed_hunks
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry, JournalRecord
from neurotrale.annotations.journals.revisions import until_damage
from neurotrale.errors import DamagedError


class NoHistoryError(LookupError):
    """The content of a revision is not recorded; the message says why."""


def content_at(journal: Journal, revision: int, content: Content | None) -> bytes:
    """Return the bytes of a file after a change.

    Args:
        journal: The file's journal.
        revision: Number of the change; 0 is the file before the first one, or the last record that
            was discarded. For a change that was recorded but never applied, the result is what it
            would have written.
        content: Current content of the file, from which recent revisions are derived; None derives
            them from the first content instead.

    Raises:
        NoHistoryError: There is no such revision, its content is not recorded, was discarded, or
            cannot be read.
    """
    try:
        checkpoint = journal.archives.checkpoint()
        start = 0 if checkpoint is None else checkpoint.through
        if checkpoint is not None and revision < start:
            raise NoHistoryError(f"There is no revision {revision}. {checkpoint.sentence}")
        if content is not None:
            body = _backwards(journal, revision, content, start)
            if body is not None:
                return body
        return _forwards(journal, revision, start)
    except DamagedError as error:  # of an archive
        raise NoHistoryError(f"Revision {revision} cannot be restored: {error}") from error


def content_with(journal: Journal, etag: str, content: Content | None) -> bytes | None:
    """Return the latest content of a file with a hash; None if there is none on record.

    Args:
        journal: The file's journal.
        etag: The hash, see `neurotrale.annotations.documents.contents.etag_of`.
        content: Current content of the file.
    """
    for entry in until_damage(journal.entries()):
        for state, revision in ((entry.new, entry.n), (entry.old, entry.first_covered - 1)):
            if state is not None and state.hash == etag:
                try:
                    body = content_at(journal, revision, content)
                except NoHistoryError:
                    continue
                if etag_of(body) == etag:
                    return body
    return None


def recent_contents(journal: Journal, content: Content, most: int) -> Iterator[bytes]:
    """Iterate over the contents of a file before each of its latest changes, newest first."""
    body, state = content.body, (len(content.body), content.etag)
    for record in islice(until_damage(journal.records()), most):
        if record.op == "void" or _state(record.new) != state:
            continue
        try:
            body = apply(body, reversed_hunks(record.bytes_hunks()))
        except ValueError:
            return
        state = _state(record.old) or (0, etag_of(b""))
        yield body


def existed_at(journal: Journal, revision: int) -> bool:
    """Return whether the file existed after a change; 0 is before the first one."""
    aborted: set[int] = set()
    first: JournalEntry | None = None
    for entry in journal.entries():
        if entry.op == "void":
            aborted.update(entry.aborts)
        elif entry.n == revision:
            return entry.new is not None
        elif entry.n not in aborted:
            first = entry
    return first is not None and first.old is not None


def _backwards(journal: Journal, revision: int, content: Content, start: int) -> bytes | None:
    body = content.body
    state = (len(body), content.etag)
    aborted: set[int] = set()
    at_target = False
    for record in journal.records():
        if record.op == "void":
            aborted.update(record.aborts)
            continue
        if record.n in aborted:
            continue
        if record.n <= revision:
            return body if record.n == revision and _state(record.new) == state else None
        if _state(record.new) != state:
            if _state(record.old) == state:
                continue  # recorded, but never applied
            return None
        try:
            body = apply(body, reversed_hunks(record.bytes_hunks()))
        except ValueError:
            return None
        state = _state(record.old) or (0, etag_of(b""))
        at_target = True
    return body if revision == start and at_target else None


def _forwards(journal: Journal, revision: int, start: int) -> bytes:
    aborted = {n for entry in journal.entries() for n in entry.aborts}
    records = [
        record
        for record in journal.records_forward()
        if record.op != "void"
        and (record.n not in aborted or record.n == revision)
        and record.n <= (sys.maxsize if revision == start else revision)
    ]
    if not records or (revision != start and records[-1].n != revision):
        raise NoHistoryError(_why_missing(journal, revision))
    first = records[0]
    body = b"" if first.old is None else journal.base(first.old)
    if body is None:
        raise NoHistoryError(
            f"Revision {revision} cannot be restored: the file's first content is missing"
            f" ({journal.base_path.name}), or is not the one that was recorded."
        )
    if revision == start:
        return body
    for record in records:
        body = _step(record, body, revision)
    return body


def _why_missing(journal: Journal, revision: int) -> str:
    for entry in journal.entries():
        if entry.covers <= revision < entry.n and entry.covers:
            return (
                f"Revision {revision} is one of {entry.saves} saves that are recorded as one"
                f" change, with the content before and after all of them: {entry.n} is the revision"
                f" after the last one, {entry.covers - 1} the one before the first."
            )
    return f"There is no revision {revision}."


def _step(record: JournalRecord, body: bytes, revision: int) -> bytes:
    try:
        body = apply(body, record.bytes_hunks())
    except ValueError:
        body = b""
    if record.new is not None and _state(record.new) != (len(body), etag_of(body)):
        raise NoHistoryError(
            f"Revision {revision} cannot be restored: the journal is damaged at change {record.n}."
        )
    return body


def _state(state: object) -> tuple[int, str] | None:
    size, hash_ = getattr(state, "size", None), getattr(state, "hash", None)
    return None if size is None or hash_ is None else (size, hash_)
