"""A recorded change of one annotation file: lock, read, change, append to the journal, replace.

Every change of a file goes through `FileChanges`; nothing else writes below
``annotations``. A writer that died may leave a temporary file, and a record of a change that never
took effect; the next writer removes the one and marks the other as aborted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from neurotrale.annotations.batch import Batch, PlannedChange, aborted_record, record_of
from neurotrale.annotations.documents.contents import (
    Content,
    Contents,
    FileChangedError,
    recorded_stamp,
)
from neurotrale.annotations.documents.diff import hunks_between
from neurotrale.annotations.documents.document import StaleIndexError
from neurotrale.annotations.journals.bursts import REST_S, Bursts
from neurotrale.annotations.journals.changes import AppliedChange, Change, JournalTail, format_time
from neurotrale.annotations.journals.earlier_contents import NoHistoryError, content_at
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import ContentState, JournalEntry, NewRecord
from neurotrale.annotations.journals.revisions import is_pending
from neurotrale.annotations.operation_ids import OperationIds
from neurotrale.errors import (
    BusyError,
    ConflictError,
    DamagedError,
    MissingError,
    raise_write_error,
)
from neurotrale.locking.held import HeldLock, LockLostError
from neurotrale.locking.locks import Locks
from neurotrale.storage.atomic import replace_file, temporary_path
from neurotrale.storage.cache import Stamp
from neurotrale.storage.directories import directory_at, forget_directory
from neurotrale.storage.ranges import ShortFileError
from neurotrale.storage.regular import remove_regular

log = logging.getLogger(__name__)

_SUFFIX = ".tmp"
MOST_ATTEMPTS = 10
_MADE_AGAIN = (LockLostError, FileChangedError, ShortFileError, StaleIndexError)
_OF_OTHERS = (OSError, FileChangedError, MissingError, DamagedError, ConflictError)


class StaleTemporaryFiles:
    """Removes temporary files of writers that died.

    Args:
        locks: Show whether a file is being written.
        reconcile: Reconciles the journal of a file with the file.
    """

    def __init__(self, locks: Locks, reconcile: Callable[[Path], object]) -> None:
        self._locks = locks
        self._reconcile = reconcile
        self._swept: set[Path] = set()

    def remove(self, path: Path) -> None:
        """Remove the stale temporary file of a file; the caller holds the file's lock.

        As the lock is held, no writer uses the temporary file. The first call for a directory also
        removes those of the other files in it.

        Raises:
            IrregularFileError: The temporary file is a link, a directory or the like.
        """
        remove_regular(temporary_path(path))
        directory = path.parent
        if directory in self._swept:
            return
        for name in directory_at(directory).names():
            if name.startswith(".") and name.endswith(_SUFFIX):
                self._remove_other(directory / name[1 : -len(_SUFFIX)], path)
        self._swept.add(directory)

    def _remove_other(self, other: Path, own: Path) -> None:
        if other == own or other.suffix != ".json":
            return
        try:
            with self._locks.try_hold(other) as free:
                if free:
                    self._reconcile(other)
                    remove_regular(temporary_path(other))
                    log.info("removed the stale temporary file of %s", other)
        except _OF_OTHERS as error:  # not of this write
            log.warning("cannot remove the stale temporary file of %s: %s", other, error)


class FileChanges:
    """Applies changes to annotation files, and records each in the file's journal.

    Args:
        locks: The locks of the files.
        contents: Reads files.
        now: Returns the time for the records.
        share: Whether the group of a shared directory may use new files.
        rest_s: For how many seconds a burst of saves rests before it has ended; 0 for no bursts.
    """

    def __init__(
        self,
        locks: Locks,
        contents: Contents,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        share: bool = True,
        rest_s: float = REST_S,
    ) -> None:
        self._operation_ids = OperationIds()
        self.locks = locks
        self.bursts = Bursts(locks, rest_s)
        self.contents = contents
        self._now = now
        self._share = share
        self._stale_files = StaleTemporaryFiles(locks, self._reconcile_file)

    def change_together(
        self, path: Path, display_path: str, planned: Sequence[PlannedChange]
    ) -> list[AppliedChange | Exception]:
        """Apply changes to a file in their order, with one replacement of the file.

        Args:
            path: Path of the file; its directory exists.
            display_path: Its path for errors.
            planned: The changes.

        Returns:
            The result of each, or what it raised when it was decided; such a change leaves the
            file unchanged for the next.

        Raises:
            BusyError, ConflictError, ReadOnlyError, DiskFullError: Nothing was changed.
        """
        for _ in range(MOST_ATTEMPTS):
            forget_directory(path.parent)
            with self.locks.hold(path, display_path) as lock:
                try:
                    return self._change_together(path, display_path, planned, lock)
                except _MADE_AGAIN as error:  # the next attempt marks its records as aborted
                    log.warning("%s: %s; the changes are made again", display_path, error)
                    self.contents.forget(path)
                except OSError as error:
                    raise_write_error(error, display_path)
        raise BusyError(
            f"{display_path} or its lock is changed by other programs again and again. Save again"
            " later."
        )

    def _change_together(
        self, path: Path, display_path: str, planned: Sequence[PlannedChange], lock: HeldLock
    ) -> list[AppliedChange | Exception]:
        content = self._read(path)
        journal = Journal(path, partial(self.bursts.loaded, display_path))
        try:
            tail = self._reconcile(journal, content)
        finally:
            self._stale_files.remove(path)
        now = self._now()
        batch = Batch(journal, tail, content, format_time(now), self._operation_ids)
        for plan in planned:
            batch.add(plan)
        if content is not None and not batch.is_copy:
            content.check()
        if records := batch.records:
            may_go_on = records[-1].chain is not None
            goes_on = may_go_on and self.bursts.goes_on(path, tail, records, now)
            self._write(batch, lock, in_burst=goes_on)
            if may_go_on:
                self.bursts.note(path, display_path, records, now, goes_on=goes_on)
        return batch.results

    def _reconcile_file(self, path: Path) -> None:
        self._reconcile(Journal(path), self._read(path))

    def _read(self, path: Path) -> Content | None:
        try:
            return self.contents.read(path, in_parts=True, assume=True)
        except FileNotFoundError:
            return None

    def _write(self, batch: Batch, lock: HeldLock, *, in_burst: bool) -> None:
        journal, records = batch.journal, batch.records

        def record() -> None:
            lock.check()
            _check_unchanged(journal.file, batch.before)
            if in_burst:
                journal.append_to_burst(*records)
            elif batch.tail.applied is not None:
                journal.append(*records)
            else:
                journal.begin(records, batch.before)
            lock.check()
            _check_unchanged(journal.file, batch.before)

        try:
            status = replace_file(
                journal.file,
                batch.pieces,
                record,
                share=self._share,
                examine=batch.examine if batch.is_copy else None,
            )
        except FileNotFoundError as error:
            raise LockLostError("its temporary file was removed") from error
        except (OSError, FileChangedError) as error:
            lock.check()  # without the lock, nothing may be appended to the journal
            self._mark_aborted(journal, records, error)
            raise
        index = batch.new_index()
        if index is not None:
            self.contents.cache_index(
                journal.file, batch.etag, index, Stamp.of(status), batch.before
            )

    def _reconcile(self, journal: Journal, content: Content | None) -> JournalTail:
        """Make the journal agree with the file, before a record is appended to it."""
        journal.check_format()
        last, applied = journal.tail()
        if last is None or applied is None:
            return JournalTail(last, applied)
        # As long as a change has not replaced the file, the file has the stamp of its record.
        stamp = "" if content is None else content.stamp.recorded
        if content is not None and (applied.new != _state(content) or last.stamp == stamp):
            content.check()
        if last is applied and last.stamp == stamp and is_pending(journal, last, content):
            log.warning("%s: change %d was recorded but never applied", journal.file, last.n)
            entries = journal.entries()
            first = next((entry for entry in entries if entry.n == (last.first or last.n)), last)
            journal.append(aborted_record(first, last, format_time(self._now())))
        elif applied.new == _state(content):
            return JournalTail(last, applied)
        else:
            log.warning("%s was changed by another program", journal.file)
            journal.append(self._external_record(journal, last, applied, content))
        return JournalTail(*journal.tail())

    def _mark_aborted(
        self, journal: Journal, records: Sequence[NewRecord], error: Exception
    ) -> None:
        """Mark changes as aborted: they were recorded, but the file could not be replaced."""
        try:
            last, _ = journal.tail()
            if last is None:
                return
            # If only the last step failed, the file is replaced, and the changes took effect.
            is_replaced = isinstance(error, OSError) and recorded_stamp(journal.file) != last.stamp
            if last.n != records[-1].entry.n or is_replaced:
                return
            journal.append(aborted_record(records[0].entry, last, format_time(self._now())))
        except OSError:
            log.exception(
                "%s: the next writer will mark change %d as aborted",
                journal.file,
                records[-1].entry.n,
            )

    def _external_record(
        self,
        journal: Journal,
        last: JournalEntry,
        applied: JournalEntry,
        content: Content | None,
    ) -> NewRecord:
        try:
            recorded = content_at(journal, applied.n, None)
            hunks = hunks_between(recorded, b"" if content is None else content.body)
        except NoHistoryError:
            log.warning("%s: its content before that is not known", journal.file)
            hunks = []
        document = None if content is None else content.document
        held_removals = [id_ for id_ in applied.held_removals if document and document.find(id_)]
        change = Change("outside", hunks, held_removals=held_removals)
        return record_of(
            last.n + 1, format_time(self._now()), change, (applied.new, _state(content))
        )


def _state(content: Content | None) -> ContentState | None:
    return None if content is None else ContentState(content.size, content.etag)


def _check_unchanged(path: Path, content: Content | None) -> None:
    """Check that a file is still the one that was read."""
    if recorded_stamp(path) != ("" if content is None else content.stamp.recorded):
        raise FileChangedError("it was changed by another program meanwhile")
