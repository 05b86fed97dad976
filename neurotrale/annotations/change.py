"""One recorded change of one annotation file: lock, read, change, journal, replace.

Whoever changes a file goes through `FileChanges.change`; nothing else writes below
``annotations``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from neurotrale.annotations.author import Author
from neurotrale.annotations.content import Content, Contents, etag_of
from neurotrale.annotations.difference import applied, changes, hunks_between
from neurotrale.annotations.document import Hunk, Index, NotAnArrayError
from neurotrale.annotations.history import NoHistoryError, content_at, never_made
from neurotrale.annotations.journal import (
    Entry,
    Journal,
    Operation,
    Record,
    State,
    encoded_hunks,
)
from neurotrale.annotations.leftovers import Leftovers
from neurotrale.annotations.locks import Locks
from neurotrale.durable import replace_file
from neurotrale.errors import MissingError
from neurotrale.faults import writing
from neurotrale.files import Stamp
from neurotrale.times import format_time

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to a file.

    Attributes:
        operation: What is recorded.
        hunks: From the content as it is to the new one.
        index: The index of the new content, when it is known already.
        held: Ids whose removal is held back afterwards; None leaves them as they are.
        kept: How many of them are new.
        of: The revision that is restored.
    """

    operation: Operation
    hunks: Sequence[Hunk]
    index: Index | None = None
    held: Sequence[str] | None = None
    kept: int = 0
    of: int = 0


@dataclass(frozen=True, slots=True)
class Before:
    """A file as its writer finds it, under the lock.

    Attributes:
        content: None when there is no file.
        held: Ids whose removal is held back.
    """

    content: Content | None
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a journal stands.

    Attributes:
        last: Its last record.
        applied: The last one whose change took effect.
    """

    last: Entry | None
    applied: Entry | None

    @property
    def next(self) -> int:
        """The number of the next record."""
        return 1 if self.last is None else self.last.n + 1

    @property
    def held(self) -> list[str]:
        """Ids whose removal is held back."""
        return [] if self.applied is None else self.applied.held


@dataclass(frozen=True, slots=True)
class Done:
    """A change that is on disk.

    Attributes:
        etag: Of the content now.
        created: Whether the file is new.
        changed: Whether anything was written.
    """

    etag: str
    created: bool
    changed: bool


class FileChanges:
    """Makes changes to annotation files, each one recorded.

    Args:
        locks: One writer at a time.
        contents: Reads files.
        now: The clock of the records.
    """

    def __init__(
        self,
        locks: Locks,
        contents: Contents,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.locks = locks
        self.contents = contents
        self._now = now
        self._leftovers = Leftovers(locks, self._agree_alone)

    def change(
        self, path: Path, what: str, author: Author, decide: Callable[[Before], Change]
    ) -> Done:
        """Change a file.

        Args:
            path: The file; its directory exists.
            what: What to call it in errors.
            author: Who does it.
            decide: Given the file as it is, tells what to do; may raise to leave it alone.

        Raises:
            BusyError, ReadOnlyError, DiskFullError: Nothing was changed.
        """
        with self.locks.hold(path, what), writing(what):
            content = self._read(path)
            journal = Journal(path)
            try:
                standing = self._agree(journal, content)
            finally:
                self._leftovers.remove(path)
            change = decide(Before(content, tuple(standing.held)))
            return self._write(journal, standing, content, change, author)

    def _agree_alone(self, path: Path) -> None:
        self._agree(Journal(path), self._read(path))

    def _read(self, path: Path) -> Content | None:
        try:
            return self.contents.read(path)
        except FileNotFoundError:
            return None

    def _write(
        self,
        journal: Journal,
        standing: Standing,
        content: Content | None,
        change: Change,
        author: Author,
    ) -> Done:
        body = b"" if content is None else content.body
        held = standing.held if change.held is None else list(change.held)
        if not change.hunks and content is not None and held == standing.held:
            return Done(content.etag, False, False)
        new = applied(body, change.hunks)
        state = State(sum(map(len, new)), etag_of(*new))
        stamp = "" if content is None else content.stamp.etag
        record = self._record(standing.next, _state(content), state, change, author, held, stamp)
        write = journal.append if standing.applied is not None else journal.begin
        try:
            status = replace_file(journal.file, new, lambda: write(record))
        except OSError:
            self._void(journal, record)
            raise
        self._remember(journal.file, Stamp.of(status), state.hash, change.index, new)
        return Done(state.hash, content is None, True)

    def _record(
        self,
        n: int,
        old: State | None,
        new: State | None,
        change: Change,
        author: Author,
        held: Sequence[str],
        stamp: str = "",
    ) -> Record:
        touched = changes(change.hunks)
        texts, is_base64 = encoded_hunks(change.hunks)
        return Record(
            n=n,
            at=format_time(self._now()),
            op=change.operation,
            by=author.name,
            source=author.source,
            old=old,
            stamp=stamp,
            new=new,
            added=list(touched.added),
            changed=list(touched.changed),
            removed=list(touched.removed),
            held=list(held),
            kept=change.kept,
            of=change.of,
            hunks=texts,
            base64=is_base64,
        )

    def _remember(
        self,
        path: Path,
        stamp: Stamp,
        etag: str,
        index: Index | None,
        new: Sequence[bytes | memoryview],
    ) -> None:
        if index is None:
            try:
                index = Index.of(b"".join(new))
            except NotAnArrayError:
                return
        self.contents.keep(path, stamp, etag, index)

    def _agree(self, journal: Journal, content: Content | None) -> Standing:
        """Make the journal say what the file says, before anything is added to it."""
        last, applied = journal.standing()
        if last is None or applied is None:
            return Standing(last, applied)
        if last is applied and never_made(journal, last, content):
            log.warning("%s: change %d was recorded and never made", journal.file, last.n)
            journal.append(self._void_record(last))
        elif applied.new == _state(content):
            return Standing(last, applied)
        else:
            log.warning("%s was changed by another program", journal.file)
            journal.append(self._outside(journal, last, applied, content))
        return Standing(*journal.standing())

    def _void(self, journal: Journal, record: Record) -> None:
        """Mark a change that was recorded, but whose file could not be replaced."""
        try:
            last, _ = journal.standing()
            # When the last step failed, the file is replaced; only its directory may not know.
            if last is not None and last.n == record.n and _stamp(journal.file) == record.stamp:
                journal.append(self._void_record(last))
        except OSError:
            log.exception("%s: change %d is marked by the next writer", journal.file, record.n)

    def _void_record(self, last: Entry) -> Record:
        change = Change("void", (), of=last.n)
        return self._record(last.n + 1, last.old, last.old, change, Author(), ())

    def _outside(
        self, journal: Journal, last: Entry, applied: Entry, content: Content | None
    ) -> Record:
        try:
            known = content_at(journal, applied.n, None)
            hunks = hunks_between(known, b"" if content is None else content.body)
        except NoHistoryError:
            log.warning("%s: what it was before is not known", journal.file)
            hunks = []
        present = {} if content is None or content.index is None else content.index.ids
        held = [id_ for id_ in applied.held if id_ in present]
        change = Change("outside", hunks)
        return self._record(last.n + 1, applied.new, _state(content), change, Author(), held)


def existing(before: Before, what: str) -> Content:
    """Give the content of a file that must be there."""
    if before.content is None:
        raise MissingError(f"There is nothing at {what!r}.")
    return before.content


def _state(content: Content | None) -> State | None:
    return None if content is None else State(len(content.body), content.etag)


def _stamp(path: Path) -> str:
    try:
        return Stamp.of(path.stat()).etag
    except FileNotFoundError:
        return ""
