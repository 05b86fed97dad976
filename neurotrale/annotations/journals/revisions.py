"""Revisions of an annotation file, read from its journal: its changes, and its earlier contents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from neurotrale.annotations.documents.contents import Content
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry
from neurotrale.errors import DamagedError
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.cache import Stamp
from neurotrale.storage.regular import is_regular

T = TypeVar("T")


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
