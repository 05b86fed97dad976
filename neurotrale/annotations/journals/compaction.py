"""Moves the older records of a journal into archives, and discards archives.

Both happen under the lock of the annotation file, while a service runs. An archive is written,
read back and renamed before its records leave the journal, which is then replaced by the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import xxhash

from neurotrale.annotations.journals.archives import first_number
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_layout import JournalLayout
from neurotrale.errors import BusyError, ConflictError, raise_write_error
from neurotrale.locking.held import HeldLock, LockLostError
from neurotrale.locking.locks import Locks
from neurotrale.storage.atomic import (
    create_file,
    fsync_directory,
    replace_file,
    temporary_path,
)
from neurotrale.storage.directories import directory_of, forget_directory
from neurotrale.storage.line_archive import LineArchive, pack_lines
from neurotrale.storage.ranges import ShortFileError, blocks_of
from neurotrale.storage.regular import is_regular, open_companion, remove_regular

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CompactedJournal:
    """What was moved into an archive, or would be.

    Attributes:
        first: Number of the first record; 0 if there is nothing to move.
        last: Number of the last one.
        bytes_moved: Size of the records in the journal.
        bytes_packed: Size of the archive; 0 if it was not made.
        bytes_left: Size of the rest of the journal.
    """

    first: int = 0
    last: int = 0
    bytes_moved: int = 0
    bytes_packed: int = 0
    bytes_left: int = 0


class Compaction:
    """Moves the older records of journals into archives.

    Args:
        locks: The locks of the annotation files.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def compact(
        self, file: Path, display_path: str, before: str, *, dry_run: bool = False
    ) -> CompactedJournal:
        """Move the records of a file's journal that were made before a time into an archive.

        The journal keeps at least the last record that took effect, and what was written together
        or refers to what it keeps.

        Args:
            file: Path of the annotation file, which need not exist.
            display_path: Its path for errors.
            before: The time (ISO 8601, UTC).
            dry_run: Change nothing.

        Raises:
            BusyError, ConflictError, DamagedError, ReadOnlyError, DiskFullError: The history is as
                it was.
        """

        def compact(lock: HeldLock) -> CompactedJournal:
            return LockedJournal(Journal(file), lock).move(before, dry_run=dry_run)

        return self.held(file, display_path, compact)

    def held(self, file: Path, display_path: str, work: Callable[[HeldLock], T]) -> T:
        """Do something under the lock of a file, and do it again if the lock was removed."""
        for _ in range(MOST_ATTEMPTS):
            forget_directory(file.parent)
            with self._locks.hold(file, display_path) as lock:
                try:
                    return work(lock)
                except LockLostError as error:
                    log.warning("%s: %s; trying again", display_path, error)
                except OSError as error:
                    raise_write_error(error, display_path)
        raise BusyError(f"The lock of {display_path} is removed again and again. Try again later.")


class LockedJournal:
    """The journal of a file whose lock is held."""

    def __init__(self, journal: Journal, lock: HeldLock) -> None:
        self.journal = journal
        self.lock = lock

    def move(self, before: str, *, dry_run: bool) -> CompactedJournal:
        """Move the records before a time into an archive; see `Compaction.compact`."""
        journal = self.journal
        if not journal.exists:
            return CompactedJournal()
        journal.check_format()
        with open_companion(journal.path, journal.file) as file:
            start = self._moved_already(file)
            layout = JournalLayout(file, start, before)
            cut = layout.cut()
            if not dry_run and cut:
                packed = self._archive(layout, cut)
                self._keep(layout, layout.offsets[cut])
            elif not dry_run and start:
                self._keep(layout, start)
            if not cut:
                return CompactedJournal()
            moved = layout.offsets[cut] - start
            return CompactedJournal(
                first=layout.numbers[0],
                last=layout.numbers[cut - 1],
                bytes_moved=moved,
                bytes_packed=0 if dry_run else packed,
                bytes_left=layout.stop - layout.offsets[cut],
            )

    def _moved_already(self, file: BinaryIO) -> int:
        """Return up to where the last archive has the journal, because its writer died.

        Raises:
            ConflictError: It has other records of the same numbers.
        """
        archives, first = self.journal.archives, first_number(file)
        numbers = archives.numbers()
        if not numbers or first is None:
            return 0
        with archives.opened(numbers[-1]) as archive:
            if archive.last < first:
                return 0
            if archive.first == first and _digest(file, archive.size) == archive.digest:
                return archive.size
            raise ConflictError(
                f"{self.journal.path.name} and {archives.path(numbers[-1]).name} have other records"
                f" of the same numbers ({first} to {archive.last}), as after one of them came back"
                " from a backup. Nothing was changed; the history shows those of the journal."
            )

    def _archive(self, layout: JournalLayout, cut: int) -> int:
        """Write the next archive, with the records before a cut; return its size."""
        archives = self.journal.archives
        checkpoint = archives.checkpoint()
        number, previous = (0, 0) if checkpoint is None else (checkpoint.files, checkpoint.through)
        for number in archives.numbers()[-1:]:
            with archives.opened(number) as archive:
                previous = archive.last
        pieces = pack_lines(layout.lines(cut), previous, layout.numbers[cut])
        return write_archive(archives.path(number + 1), pieces, self.journal.file, self.lock)

    def _keep(self, layout: JournalLayout, offset: int) -> None:
        """Replace the journal by what follows an offset."""
        replace_file(self.journal.path, layout.rest(offset), self.lock.check)


def _digest(file: BinaryIO, size: int) -> bytes:
    hashed = xxhash.xxh3_128()
    try:
        for piece in blocks_of(file.fileno(), 0, size):
            hashed.update(piece)
    except ShortFileError:
        return b""
    return hashed.digest()


def write_archive(path: Path, pieces: Iterable[bytes], file: Path, lock: HeldLock) -> int:
    """Write an archive beside an annotation file, read it back, and give it its name.

    Args:
        path: The archive.
        pieces: Its content.
        file: The annotation file, whose permissions it gets.
        lock: The lock of the file.

    Returns:
        Its size in bytes.

    Raises:
        DamagedError: What was read back is not what was written.
        OSError: There is no archive of that name.
    """
    temporary = temporary_path(path)
    remove_regular(temporary)
    # A file that was deleted has a journal still, with the permissions that the file had.
    like = file if is_regular(file) else Journal(file).path
    create_file(temporary, pieces, like=like)
    try:
        with open_companion(temporary, file) as written:
            LineArchive(written, temporary.name).check()
            size = os.fstat(written.fileno()).st_size
        lock.check()
        place, name = directory_of(path)
        place.rename(temporary.name, name)
    except BaseException:
        remove_regular(temporary)
        raise
    fsync_directory(path.parent)
    return size
