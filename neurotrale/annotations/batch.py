"""Changes of one file that are applied together: what they make of it, and their records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import msgspec

from neurotrale.annotations.documents.contents import (
    Content,
    FileChangedError,
    content_of,
    etag_of,
    etags_of_copy,
)
from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.documents.touched import ids_in
from neurotrale.annotations.journals.changes import (
    AppliedChange,
    Author,
    Before,
    Change,
    JournalTail,
    apply_in_pieces,
)
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import (
    FORMAT,
    ContentState,
    JournalEntry,
    KeyedOperation,
    NewRecord,
)
from neurotrale.annotations.journals.revisions import applied_changes, until_damage
from neurotrale.annotations.journals.viewers import NO_NOTES
from neurotrale.annotations.operation_ids import OperationIds
from neurotrale.errors import OtherRequestError
from neurotrale.storage.cache import Stamp
from neurotrale.storage.ranges import FileRange, LargeBytes, Piece


class PlannedChange(Protocol):
    """A change that is decided when its turn comes.

    Attributes:
        author: The author of the change.
        intent: The name of the request that asks for it; see `JournalEntry.intent`.
        is_repeated: Whether the request may have been applied before.
        key: The operation id of the request; empty for none.
    """

    author: Author
    intent: str
    is_repeated: bool
    key: str

    def decide(self, before: Before) -> Change:
        """Return the change for the current file; may raise to leave the file unchanged."""

    def check_same(self, earlier: KeyedOperation) -> None:
        """Check that an earlier request with the same operation id was this one; may raise."""

    def operation(self, applied: AppliedChange, change: Change) -> KeyedOperation:
        """Return what the record keeps of a request with an operation id."""


class Batch:
    """Changes that are applied together: what they make of a file, and their records."""

    def __init__(
        self,
        journal: Journal,
        tail: JournalTail,
        content: Content | None,
        at: str,
        operation_ids: OperationIds,
    ) -> None:
        self.journal = journal
        self._operation_ids = operation_ids
        self._operations: dict[str, KeyedOperation] = {}
        self.tail = tail
        self.before = content
        self.records: list[NewRecord] = []
        self.results: list[AppliedChange | Exception] = []
        self.pieces: Sequence[Piece] = ()
        self.index: Index | None = None
        self._at = at
        self._exists = content is not None
        self._source: bytes | LargeBytes = b"" if content is None else content.source
        self.etag = "" if content is None else content.etag
        self._content = content  # None also while it is not yet put together
        self._held_removals = tuple(tail.held_removals)
        self._is_pending = False

    @property
    def is_copy(self) -> bool:
        """Whether the new content consists of ranges of the old file, which are not in memory."""
        return any(isinstance(piece, FileRange) for piece in self.pieces)

    def add(self, plan: PlannedChange) -> None:
        """Decide a change, given the file as the changes before it leave it."""
        if self._is_pending:
            self.settle(etag_of(*self.pieces))
        self.results.append(self._decide(plan))

    def settle(self, etag: str) -> None:
        """Set the ETag of the new content, which the last change and its record lack until then.

        It is that of the new file, if that is made of ranges of the old one: so a large file is
        read once less.
        """
        self.etag = etag
        if not self._is_pending:
            return
        self._is_pending = False
        state = ContentState(self.size, etag)
        self.records[-1] = self.records[-1].but(new=state)
        last = self.results[-1]
        assert isinstance(last, AppliedChange)
        self.results[-1] = replace(last, etag=etag)

    def examine(self, descriptor: int) -> None:
        """Check the new file, which was made of ranges of the old one, and set its ETag.

        Raises:
            FileChangedError: The old file was not the one that the changes were decided on.
        """
        assert self.before is not None
        old, new = etags_of_copy(descriptor, self.pieces, self.before.size)
        if old != self.before.etag or not (self._is_pending or new == self.etag):
            raise FileChangedError("it was changed by another program meanwhile")
        self.settle(new)

    @property
    def size(self) -> int:
        """Size of the new content in bytes."""
        return sum(map(len, self.pieces))

    def new_index(self) -> Index | None:
        """Return the index of the new content; None if that is not a JSON array."""
        if self.index is None:
            with suppress(NotAnArrayError):
                return Index.of(LargeBytes(self.pieces).whole)
        return self.index

    def _decide(self, plan: PlannedChange) -> AppliedChange | Exception:
        if plan.key:
            known = self._operation(plan.key)
            if known is not None:
                return self._again(plan, known)
        elif plan.is_repeated and (earlier := self._earlier(plan.intent)) is not None:
            return AppliedChange(self.etag, earlier.old is None, True, earlier)
        try:
            change = plan.decide(Before(self._current(), self._held_removals))
        except (ValueError, LookupError) as error:
            return error
        held = self._held_removals if change.held_removals is None else (*change.held_removals,)
        if change.creates and not self._exists:
            return self._apply(change, held, plan)
        is_same = not change.hunks and held == self._held_removals
        if is_same and not change.notes.tells_more and not plan.key:
            return AppliedChange(self.etag, False, False)
        return self._apply(change, held, plan)

    def _apply(self, change: Change, held: tuple[str, ...], plan: PlannedChange) -> AppliedChange:
        created = not self._exists
        old = None if created else ContentState(len(self._source), self.etag)
        self.pieces = apply_in_pieces(self._source, change.hunks)
        self._is_pending = self.is_copy
        etag = "" if self._is_pending else etag_of(*self.pieces)
        new = ContentState(self.size, etag)
        number = self.tail.next_number + len(self.records)
        record = record_of(number, self._at, change, (old, new), plan, held)
        applied = AppliedChange(new.hash, created, True)
        if plan.key:
            operation = self._operations[plan.key] = plan.operation(applied, change)
            record = record.but(operations=[operation])
        if self.before is not None:
            record = record.but(stamp=self.before.stamp.recorded)
        if self.records:
            first = self.records[0].entry.n
            self.records[-1] = self.records[-1].but(first=first)
            record = record.but(first=first)
        self.records.append(record)
        self.index, self.etag, self._exists, self._held_removals = (
            change.index if change.hunks or change.index is not None else self._same_index,
            new.hash,
            True,
            held,
        )
        self._content = None
        return applied

    def _again(self, plan: PlannedChange, known: KeyedOperation) -> AppliedChange | Exception:
        try:
            plan.check_same(known)
        except OtherRequestError as error:
            return error
        return AppliedChange(self.etag, known.created, False, operation=known)

    def _operation(self, key: str) -> KeyedOperation | None:
        """Return the request with an operation id, of this batch or of the journal."""
        if key in self._operations:
            return self._operations[key]
        return self._operation_ids.find(self.journal, self.before, key)

    def _current(self) -> Content | None:
        """Return the file as it is after the changes so far."""
        if self._content is None and self._exists:
            large = LargeBytes(self.pieces)
            self._source = large if self.is_copy else large.whole
            self.pieces = large.range(0, len(large))
            stamp = Stamp(0, 0, 0, 0) if self.before is None else self.before.stamp
            self._content = content_of(self._source, stamp, self.etag, self.index)
            self.index = self._content.index
        return self._content

    @property
    def _same_index(self) -> Index | None:
        return None if self._content is None else self._content.index

    def _earlier(self, intent: str) -> JournalEntry | None:
        changes = until_damage(applied_changes(self.journal, self.before))
        return next(
            (one for one, applied in changes if applied and intent in one.all_intents), None
        )


def record_of(
    n: int,
    at: str,
    change: Change,
    states: tuple[ContentState | None, ContentState | None],
    plan: PlannedChange | None = None,
    held_removals: Sequence[str] | None = None,
) -> NewRecord:
    """Return the record of a change.

    Args:
        n: Its number.
        at: Its time, see `format_time`.
        change: The change.
        states: The content before and after; None where there is no file.
        plan: Who asked for the change; None for one that the service noticed itself.
        held_removals: What is held back afterwards; by default what the change says.
    """
    added, changed, removed = ids_in(change.hunks)
    held = change.held_removals if held_removals is None else held_removals
    notes = change.notes
    if plan is not None and plan.author.session:
        notes = msgspec.structs.replace(notes, session=plan.author.session)
    entry = JournalEntry(
        n=n,
        at=at,
        op=change.operation,
        by="" if plan is None else plan.author.name,
        source="" if plan is None else plan.author.source,
        old=states[0],
        new=states[1],
        added=added,
        changed=changed,
        removed=removed,
        held_removals=list(held or ()),
        newly_held=change.newly_held,
        target=change.target,
        intent="" if plan is None else plan.intent,
        save=notes if notes != NO_NOTES else NO_NOTES,  # the default, which a line leaves out
        format=FORMAT,
    )
    return NewRecord(entry, change.hunks, change.chain)


def aborted_record(first: JournalEntry, last: JournalEntry, at: str) -> NewRecord:
    """Return the record that marks others, which were written together, as aborted.

    Args:
        first: The first of them.
        last: The last of them, and of the journal.
        at: The time, see `format_time`.
    """
    entry = JournalEntry(
        n=last.n + 1,
        at=at,
        op="void",
        old=first.old,
        new=first.old,
        target=last.n,
        format=FORMAT,
        first=first.n if first.n != last.n else 0,
    )
    return NewRecord(entry)
