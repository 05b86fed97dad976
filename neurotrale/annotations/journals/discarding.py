"""Discards the archives of a journal, and keeps of them what corrections and revisions need.

The checkpoint is what counts: once it is there, the records are discarded, whatever else of this is
not yet done; the next time does it. Before that, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.journals.archives import Archives, Checkpoint
from neurotrale.annotations.journals.compaction import Compaction, LockedJournal, write_archive
from neurotrale.annotations.journals.earlier_contents import NoHistoryError, content_at
from neurotrale.annotations.journals.folds import AuthorFolds
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import (
    ContentState,
    JournalEntry,
    JournalRecord,
    parse_entry,
    parse_record,
)
from neurotrale.errors import ConflictError
from neurotrale.locking.held import HeldLock
from neurotrale.storage.atomic import create_file, fsync_directory
from neurotrale.storage.directories import directory_of
from neurotrale.storage.line_archive import NumberedLine, pack_lines
from neurotrale.storage.regular import is_regular, open_companion, remove_regular

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class DiscardedRecords:
    """What was discarded.

    Attributes:
        first: Number of the first record; 0 if nothing was.
        last: Number of the last one.
    """

    first: int = 0
    last: int = 0


@dataclass(slots=True)
class _Chosen:
    """The archives that are to be discarded."""

    numbers: list[int] = field(default_factory=list)
    last: int = 0
    first_at: str = ""
    latest_at: str = ""
    aborted: set[int] = field(default_factory=set)
    applied: JournalEntry | None = None


class Discarding:
    """Discards archives.

    Args:
        compaction: Moves records into archives.
        contents: Reads annotation files.
    """

    def __init__(self, compaction: Compaction, contents: Contents) -> None:
        self._compaction = compaction
        self._contents = contents

    def discard(
        self, file: Path, display_path: str, before: str, at: str, by: str
    ) -> DiscardedRecords:
        """Discard the archives whose records were all made before a time.

        Args:
            file: Path of the annotation file, which need not exist.
            display_path: Its path for errors.
            before: The time (ISO 8601, UTC).
            at: The time now.
            by: The name of the user.

        Raises:
            ConflictError: The file as it was then, which later revisions need, cannot be derived.
            BusyError, DamagedError, ReadOnlyError, DiskFullError: Nothing was discarded.
        """

        def discard(lock: HeldLock) -> DiscardedRecords:
            journal = Journal(file)
            if not journal.exists:
                return DiscardedRecords()
            LockedJournal(journal, lock).move(before, dry_run=False)
            return self._discard(journal, lock, before, at, by)

        return self._compaction.held(file, display_path, discard)

    def _discard(
        self, journal: Journal, lock: HeldLock, before: str, at: str, by: str
    ) -> DiscardedRecords:
        archives = journal.archives
        checkpoint = archives.checkpoint()
        _finish(journal, checkpoint)
        through = 0 if checkpoint is None else checkpoint.through
        chosen = _choose(archives, through, before)
        if not chosen.numbers:
            return DiscardedRecords()
        base = None if checkpoint is None else checkpoint.base
        if chosen.applied is not None:
            base = chosen.applied.new
            self._prepare_base(journal, chosen.applied)
        kept = AuthorFolds() if checkpoint is None else AuthorFolds(archives.kept_lines())
        for record in _records(archives, chosen):
            kept.add(record)
        following = Checkpoint(
            through=chosen.last,
            files=chosen.numbers[-1],
            at=at,
            by=by,
            first_at=chosen.first_at if checkpoint is None else checkpoint.first_at,
            latest_at=max(chosen.latest_at, "" if checkpoint is None else checkpoint.latest_at),
            base=base,
        )
        lines = _numbered([_encoder.encode(following) + b"\n"], kept.lines())
        write_archive(archives.checkpoint_path, pack_lines(lines, 0, 0), journal.file, lock)
        _finish(journal, following)
        if chosen.applied is not None and base is None:  # there was no file
            remove_regular(journal.base_path)
        return DiscardedRecords(through + 1, chosen.last)

    def _prepare_base(self, journal: Journal, applied: JournalEntry) -> None:
        """Write the file as it was after a change, to become the base."""
        path, state = journal.archives.next_base_path, applied.new
        remove_regular(path)
        if state is None:
            return
        try:
            content = self._contents.read(journal.file)
        except FileNotFoundError:
            content = None
        try:
            body = content_at(journal, applied.n, content)
        except NoHistoryError as error:
            raise ConflictError(
                f"Nothing of {journal.file.name} was discarded, because its later revisions need"
                f" the file as it was after change {applied.n}. {error}"
            ) from error
        if ContentState(len(body), etag_of(body)) != state:
            raise ConflictError(
                f"Nothing of {journal.file.name} was discarded: the file as it was after change"
                f" {applied.n} is not the one that was recorded."
            )
        create_file(path, [body], like=journal.file)
        fsync_directory(path.parent)


def _finish(journal: Journal, checkpoint: Checkpoint | None) -> None:
    """Remove what a checkpoint says is discarded, and give the base its name."""
    archives = journal.archives
    path = archives.next_base_path
    if is_regular(path):
        with open_companion(path, journal.file) as base:
            body = base.read()
        state = ContentState(len(body), etag_of(body))
        if checkpoint is not None and checkpoint.base == state:
            place, name = directory_of(path)
            place.rename(name, journal.base_path.name)
        else:
            remove_regular(path)
    if checkpoint is not None:
        for number in archives.numbers():
            if number <= checkpoint.files:
                remove_regular(archives.path(number))
    fsync_directory(path.parent)


def _choose(archives: Archives, through: int, before: str) -> _Chosen:
    chosen = _Chosen(last=through)
    for number in archives.numbers():
        with archives.opened(number) as archive:
            entries = [
                entry for line in archive.lines() if (entry := parse_entry(line)) is not None
            ]
            if archive.previous != chosen.last or any(entry.at >= before for entry in entries):
                break
            chosen.last = archive.last
        chosen.numbers.append(number)
        chosen.first_at = chosen.first_at or entries[0].at
        chosen.latest_at = max([chosen.latest_at, *(entry.at for entry in entries)])
        chosen.aborted.update(n for entry in entries for n in entry.aborts)
        for entry in entries:
            if entry.op != "void" and entry.n not in chosen.aborted:
                chosen.applied = entry
    return chosen


def _records(archives: Archives, chosen: _Chosen) -> Iterator[JournalRecord]:
    """Iterate over the records that corrections are made of."""
    for number in chosen.numbers:
        last: JournalRecord | None = None
        with archives.opened(number) as archive:
            for line in archive.lines():
                record = parse_record(line)
                if record is None or record.n in chosen.aborted or record.op == "void":
                    continue
                if last is not None and not 0 < record.covers <= last.n and last.op != "outside":
                    yield last
                last = record
        if last is not None and last.op != "outside":
            yield last


def _numbered(*parts: Iterable[bytes]) -> Iterator[NumberedLine]:
    number = 0
    for part in parts:
        for line in part:
            number += 1
            yield NumberedLine(number, len(line), [line])
