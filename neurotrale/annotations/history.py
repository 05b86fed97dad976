"""What the journal of a file tells: its changes, and the file as it was at any of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from neurotrale.annotations.content import Content, etag_of
from neurotrale.annotations.difference import apply, reversed_hunks
from neurotrale.annotations.journal import Entry, Journal, Record
from neurotrale.durable import temporary_of


class NoHistoryError(LookupError):
    """The content at this revision is not recorded; the message says why."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which changes to list.

    Attributes:
        id_: Only those that touch this annotation.
        since: Only those at or after this time (ISO 8601, UTC).
        until: Only those before this time.
        before: Only those with a smaller number, for the next page.
        by: Only those of this name.
    """

    id_: str | None = None
    since: str | None = None
    until: str | None = None
    before: int | None = None
    by: str | None = None

    def takes(self, entry: Entry) -> bool:
        """Tell whether an entry is among them; `before` is the reader's business."""
        return (
            (self.by is None or entry.by == self.by)
            and (self.since is None or entry.at >= self.since)
            and (self.until is None or entry.at < self.until)
            and (self.id_ is None or self.id_ in touched(entry) or self.id_ in entry.held)
        )


def touched(entry: Entry) -> list[str]:
    """List the annotations that a change adds, changes or removes."""
    return [*entry.added, *entry.changed, *entry.removed]


def made(journal: Journal, content: Content | None) -> Iterator[tuple[Entry, bool]]:
    """Give the changes, newest first, each with whether it took effect.

    Args:
        journal: The file's journal.
        content: The file as it is now.
    """
    voided: set[int] = set()
    newest = True
    for entry in journal.entries():
        if entry.op == "void":
            voided.add(entry.of)
            newest = False
            continue
        pending = newest and never_made(journal, entry, content)
        newest = False
        yield entry, entry.n not in voided and not pending


def never_made(journal: Journal, newest: Entry, content: Content | None) -> bool:
    """Tell whether the newest change is one of a writer that died, or that has yet to finish.

    Its file is then the very file of before, not only one of the same content: that, another
    program may have brought back. Where there was no file, the temporary one lies there still.

    Args:
        journal: The file's journal.
        newest: Its last record.
        content: The file as it is now.
    """
    if content is None:
        return newest.old is None and temporary_of(journal.file).exists()
    unchanged = _state(newest.old) == (len(content.body), content.etag)
    return unchanged and newest.stamp == content.stamp.etag


def changes_of(
    journal: Journal, content: Content | None, wanted: Filter, limit: int
) -> tuple[list[tuple[Entry, bool]], int | None]:
    """List changes, newest first, a page at a time.

    Returns:
        The page, and the ``before`` of the next one; None when there is no more.
    """
    page: list[tuple[Entry, bool]] = []
    for entry, applied in made(journal, content):
        if wanted.before is not None and entry.n >= wanted.before:
            continue
        if wanted.takes(entry):
            if len(page) == limit:
                return page, page[-1][0].n
            page.append((entry, applied))
    return page, None


def content_at(journal: Journal, revision: int, content: Content | None) -> bytes:
    """Give the bytes of a file as they were after a change.

    Args:
        journal: The file's journal.
        revision: Number of the change; 0 is the file before the first one. Of a change that was
            recorded and never made, it is the file as that would have made it.
        content: The file as it is now, from which recent revisions are found; None to begin from
            the first content instead.

    Raises:
        NoHistoryError: There is no such revision, or its content is not recorded.
    """
    if content is not None:
        body = _backwards(journal, revision, content)
        if body is not None:
            return body
    return _forwards(journal, revision)


def existed_at(journal: Journal, revision: int) -> bool:
    """Tell whether there was a file after a change; 0 is before the first one."""
    voided: set[int] = set()
    first: Entry | None = None
    for entry in journal.entries():
        if entry.op == "void":
            voided.add(entry.of)
        elif entry.n == revision:
            return entry.new is not None
        elif entry.n not in voided:
            first = entry
    return first is not None and first.old is not None


def _backwards(journal: Journal, revision: int, content: Content) -> bytes | None:
    body = content.body
    state = (len(body), content.etag)
    voided: set[int] = set()
    at_target = False
    for record in journal.records():
        if record.op == "void":
            voided.add(record.of)
            continue
        if record.n in voided:
            continue
        if record.n <= revision:
            return body if record.n == revision and _state(record.new) == state else None
        if _state(record.new) != state:
            if _state(record.old) == state:
                continue  # recorded, and never made
            return None
        try:
            body = apply(body, reversed_hunks(record.bytes_hunks()))
        except ValueError:
            return None
        state = _state(record.old) or (0, etag_of(b""))
        at_target = True
    return body if revision == 0 and at_target else None


def _forwards(journal: Journal, revision: int) -> bytes:
    voided = {entry.of for entry in journal.entries() if entry.op == "void"}
    records = [
        record
        for record in journal.records_forward()
        if record.op != "void"
        and (record.n not in voided or record.n == revision)
        and record.n <= (revision or sys.maxsize)
    ]
    if not records or (revision and records[-1].n != revision):
        raise NoHistoryError(f"There is no revision {revision}.")
    first = records[0]
    body = b"" if first.old is None else journal.base()
    if body is None or not _fits(first, body):
        raise NoHistoryError(
            f"Revision {revision} cannot be given: the file's first content is missing"
            f" ({journal.base_path.name}) or not the one that was recorded."
        )
    if revision == 0:
        return body
    for record in records:
        body = _step(record, body, revision)
    return body


def _step(record: Record, body: bytes, revision: int) -> bytes:
    try:
        body = apply(body, record.bytes_hunks())
    except ValueError:
        body = b""
    if record.new is not None and _state(record.new) != (len(body), etag_of(body)):
        raise NoHistoryError(
            f"Revision {revision} cannot be given: the journal is broken at change {record.n}."
        )
    return body


def _fits(first: Record, body: bytes) -> bool:
    return first.old is None or _state(first.old) == (len(body), etag_of(body))


def _state(state: object) -> tuple[int, str] | None:
    size, hash_ = getattr(state, "size", None), getattr(state, "hash", None)
    return None if size is None or hash_ is None else (size, hash_)
