"""Revisions of an annotation file, read from its journal: its changes, and its earlier contents."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from neurotrale.annotations.changes import apply, reversed_hunks
from neurotrale.annotations.contents import Content, etag_of
from neurotrale.annotations.journal import Journal
from neurotrale.annotations.journal_records import JournalEntry, JournalRecord
from neurotrale.errors import DamagedError
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.cache import Stamp
from neurotrale.storage.regular import is_regular

T = TypeVar("T")


class NoHistoryError(LookupError):
    """The content of a revision is not recorded; the message says why."""


class HasVersion(Protocol):
    """Which content a file has, whether or not it was kept."""

    @property
    def etag(self) -> str:
        """Hash of the bytes."""

    @property
    def stamp(self) -> Stamp:
        """Stamp of the file that was read."""


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Selects changes of a file.

    Attributes:
        id_: Only changes that touch this annotation.
        since: Only changes at or after this time (ISO 8601, UTC); see `Journal.numbers`.
        until: Only changes before this time.
        before: Only changes with a smaller number, for the next page.
        by: Only changes by this author.
        session: Only changes by the viewer with this label.
        navigation: Only saves that were ignored because their viewer left the slice.
    """

    id_: str | None = None
    since: str | None = None
    until: str | None = None
    before: int | None = None
    by: str | None = None
    session: str | None = None
    navigation: bool = False

    def matches(self, entry: JournalEntry) -> bool:
        """Return whether an entry is selected; `selected_changes` handles numbers and times."""
        return (
            (self.by is None or entry.by == self.by)
            and (self.session is None or entry.save.session == self.session)
            and (not self.navigation or bool(entry.save.navigated))
            and (
                self.id_ is None
                or self.id_ in (*touched(entry), *entry.held_removals, *entry.save.navigated)
            )
        )


def until_damage(records: Iterator[T]) -> Iterator[T]:
    """Iterate over records up to an archive that is damaged; saves need no more."""
    with suppress(DamagedError):
        yield from records


def touched(entry: JournalEntry) -> list[str]:
    """Return the ids of the annotations that a change adds, changes or removes."""
    return [*entry.added, *entry.changed, *entry.removed]


def applied_changes(
    journal: Journal, content: HasVersion | None
) -> Iterator[tuple[JournalEntry, bool]]:
    """Iterate over the changes, newest first, each with whether it took effect.

    Args:
        journal: The file's journal.
        content: Current content of the file; None if it does not exist.
    """
    aborted: set[int] = set()
    newest = True
    for entry in journal.entries():
        if newest and entry.op != "void" and is_pending(journal, entry, content):
            aborted.update(range(entry.first or entry.n, entry.n + 1))
        newest = False
        if entry.op == "void":
            aborted.update(entry.aborts)
        else:
            yield entry, entry.n not in aborted


def is_pending(journal: Journal, newest: JournalEntry, content: HasVersion | None) -> bool:
    """Return whether the newest change is recorded but the file is not yet replaced.

    That holds for all records that were written together, or for none. Their writer died, or has
    yet to finish. The file is then the same file as before the change, not just one with the same
    content, which another program may have restored. If there was no file before, the temporary
    file still exists.

    Args:
        journal: The file's journal.
        newest: Its last record.
        content: Current content of the file; None if it does not exist.
    """
    oldest = newest
    if newest.first:
        entries = journal.entries()
        oldest = next((entry for entry in entries if entry.n == newest.first), newest)
    if content is None:
        return oldest.old is None and is_regular(temporary_path(journal.file))
    unchanged = oldest.old is not None and oldest.old.hash == content.etag
    return unchanged and newest.stamp == content.stamp.recorded


def selected_changes(
    journal: Journal, content: Content | None, filter_: ChangeFilter
) -> Iterator[tuple[JournalEntry, bool]]:
    """Iterate over the changes that a filter selects; see `applied_changes`."""
    numbers = journal.numbers(filter_.since, filter_.until)
    for entry, applied in applied_changes(journal, content):
        is_before = filter_.before is None or entry.n < filter_.before
        if is_before and entry.n in numbers and filter_.matches(entry):
            yield entry, applied


def page_of_changes(
    journal: Journal, content: Content | None, filter_: ChangeFilter, limit: int
) -> tuple[list[tuple[JournalEntry, bool]], int | None]:
    """Return a page of changes, newest first.

    Returns:
        The page, and the ``before`` of the next one; None on the last page.
    """
    page: list[tuple[JournalEntry, bool]] = []
    for entry, applied in selected_changes(journal, content, filter_):
        if len(page) == limit:
            return page, page[-1][0].n
        page.append((entry, applied))
    return page, None


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
        etag: The hash, see `neurotrale.annotations.contents.etag_of`.
        content: Current content of the file.
    """
    for entry in until_damage(journal.entries()):
        for state, revision in ((entry.new, entry.n), (entry.old, entry.n - 1)):
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
        raise NoHistoryError(f"There is no revision {revision}.")
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
