"""The journal of an annotation file: an append-only file with one line of JSON per change.

It is a hidden file beside the annotation file: ``.fibers.json.journal``. When an existing file is
changed for the first time, its content is kept as ``.fibers.json.journal.base`` (a hard link where
possible, which costs nothing).

Other users may be able to write in the directory: if one of these names is not a regular file,
that is an error; it is never followed, waited for or replaced. Backups made of hard links
(``cp -al``) keep the journal as it was: one with several hard links is copied before it grows.

A record is durable before the file is replaced. So a crash leaves at worst a record whose change
never took effect; the next writer marks it as aborted. A line torn by a crash is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import msgspec

from neurotrale.annotations.archives import Archives, first_number
from neurotrale.annotations.contents import Content, etag_of
from neurotrale.annotations.journal_records import (
    FORMAT,
    ContentState,
    JournalEntry,
    JournalRecord,
    NewRecord,
    joined_blocks,
    number_of,
    parse_entry,
    parse_head,
    parse_record,
)
from neurotrale.errors import ConflictError
from neurotrale.storage.atomic import append, create_file, fsync_directory
from neurotrale.storage.cache import Stamp
from neurotrale.storage.directories import directory_of
from neurotrale.storage.permissions import follow, permissions_of
from neurotrale.storage.regular import (
    is_regular,
    lines_backwards,
    open_companion,
    open_regular_fd,
    remove_regular,
)

HEAD_BYTES = 2**20  # of a record are read when its hunks are not needed
_HEAD = b'{"n":'  # of every journal


class _Mark(msgspec.Struct, frozen=True):
    format: int = 1


_marks = msgspec.json.Decoder(_Mark)


class Journal:
    """The journal of one annotation file.

    Args:
        file: Path of the annotation file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.path = file.with_name(f".{file.name}.journal")
        self.base_path = file.with_name(f".{file.name}.journal.base")
        self.burst_path = file.with_name(f".{file.name}.burst")

    @cached_property
    def archives(self) -> Archives:
        """The older records, which saves rarely look at."""
        return Archives(self.file)

    @property
    def exists(self) -> bool:
        """Whether the journal file exists."""
        return is_regular(self.path)

    def tail(self) -> tuple[JournalEntry | None, JournalEntry | None]:
        """Read the end of the journal; the caller holds the file's lock.

        Returns:
            The last record, and the last one that is not marked as aborted.
        """
        last: JournalEntry | None = None
        aborted: set[int] = set()
        for entry in self.entries():
            last = last or entry
            if entry.op == "void":
                aborted.update(entry.aborts)
            elif entry.n not in aborted:
                return last, entry
        return last, None

    def check_format(self) -> None:
        """Check that this version may write, which a newer one that has written may not allow.

        Raises:
            ConflictError: A newer version has written the last record.
        """
        for line in self._lines_backwards(HEAD_BYTES):
            head = line.partition(b',"hunks":[')[0] + b"}" if len(line) > HEAD_BYTES else line
            try:
                found = _marks.decode(head).format
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # torn
            if found > FORMAT:
                raise ConflictError(
                    f"{self.path.name} was written by a newer version of neurotrale (format"
                    f" {found}; this one writes {FORMAT}), so nothing was changed. Update this"
                    " version, or make changes with the newer one only."
                )
            return

    def append(self, *records: NewRecord) -> None:
        """Append records and make them durable.

        Raises:
            OSError: The journal is unchanged.
        """
        # A line torn by a writer that died is terminated first; the file is never truncated.
        first = b"\n" if self._ends_torn() else b""
        pieces = (piece for record in records for piece in record.line())
        if append(self.path, joined_blocks(first, pieces), self.file, _HEAD):
            self._follow_with_base()
            self.archives.follow_file()

    def begin(self, records: Sequence[NewRecord], content: Content | None) -> None:
        """Save the content before the first effective record as the base, and append records.

        Args:
            records: The records.
            content: Current content of the file; None if it does not exist.

        Raises:
            OSError: The journal is unchanged.
        """
        self._save_base(content)
        try:
            self.append(*records)
        except BaseException:
            with suppress(OSError):
                remove_regular(self.base_path)
            raise

    def _save_base(self, content: Content | None) -> None:
        remove_regular(self.base_path)
        if content is None:
            return
        if not self._link_base(content):  # no hard links on this file system, or not permitted
            create_file(self.base_path, [content.body], like=self.file)
        fsync_directory(self.base_path.parent)

    def _link_base(self, content: Content) -> bool:
        """Hard-link the base to the file; return False if the file is not the one that was read."""
        try:
            directory, name = directory_of(self.file)
            directory.link(name, self.base_path.name)
        except OSError:
            return False
        if self._is_base(content):
            return True
        directory.unlink(self.base_path.name)
        return False

    def _is_base(self, content: Content) -> bool:
        try:
            descriptor = open_regular_fd(self.base_path)
        except OSError:
            return False
        try:
            return Stamp.of(os.fstat(descriptor)).recorded == content.stamp.recorded
        finally:
            os.close(descriptor)

    def _follow_with_base(self) -> None:
        """Let those read the base who may read the file now, if it surely is the base."""
        with suppress(OSError), open_companion(self.base_path, self.file) as base:
            body = base.read()
            state = ContentState(len(body), etag_of(body))
            if any(entry.old == state for entry in self.entries()):
                follow(base.fileno(), permissions_of(self.file))

    def base(self, state: ContentState | None = None) -> bytes | None:
        """Return the content before the first change that is recorded; None if it is not there.

        Args:
            state: The content that the first record replaced; None for whatever is there.
        """
        for path in (self.archives.next_base_path, self.base_path):
            with suppress(FileNotFoundError), open_companion(path, self.file) as base:
                body = base.read()
                if state in (None, ContentState(len(body), etag_of(body))):
                    return body
        return None

    def entries(self, before: int | None = None) -> Iterator[JournalEntry]:
        """Iterate over the records without their hunks, newest first.

        Args:
            before: Only records with a smaller number.
        """
        last = 0
        for most_bytes in (HEAD_BYTES, sys.maxsize):
            for line in self._lines_backwards(most_bytes, before):
                is_large = len(line) > HEAD_BYTES
                entry = parse_head(line) if is_large else parse_entry(line)
                if entry is None and is_large and most_bytes == HEAD_BYTES:
                    break  # it touches very many annotations, or is torn
                if entry is not None and (before is None or entry.n < before):
                    yield entry
                    last = entry.n
            else:
                return
            before = last or before

    def numbers(self, since: str | None, until: str | None = None) -> range:
        """Return the numbers of the records of a time.

        Times go back when a clock is set back, or writers' clocks differ; numbers do not. So all
        records count that follow the first one at or after a time.

        Args:
            since: From this time on (ISO 8601, UTC); None from the first record on.
            until: Before this time; None to the last record.
        """
        first, stop = (0 if since is None else sys.maxsize), sys.maxsize
        for entry in self.entries() if since or until else ():
            if since is not None and entry.at >= since:
                first = min(first, entry.n)
            if until is not None and entry.at >= until:
                stop = min(stop, entry.n)
        return range(first, max(first, stop))

    def records(self) -> Iterator[JournalRecord]:
        """Iterate over the whole records, newest first."""
        for line in self._lines_backwards():
            record = parse_record(line)
            if record is not None:
                yield record

    def records_forward(self) -> Iterator[JournalRecord]:
        """Iterate over the whole records, oldest first."""
        for line in self._lines():
            record = parse_record(line)
            if record is not None:
                yield record

    def _lines(self) -> Iterator[bytes]:
        try:
            journal = open_companion(self.path, self.file)
        except FileNotFoundError:
            yield from self.archives.lines(None)
            return
        # Opened before the archives are looked for, so that no record moves out of sight.
        with journal:
            yield from self.archives.lines(first_number(journal))
            journal.seek(0)
            yield from journal

    def _lines_backwards(
        self, most_bytes: int = sys.maxsize, before: int | None = None
    ) -> Iterator[bytes]:
        first: int | None = None
        with suppress(FileNotFoundError), open_companion(self.path, self.file) as journal:
            for line in lines_backwards(journal, most_bytes):
                number = number_of(line)
                first = number or first
                if before is None or number < before:
                    yield line
        yield from self.archives.lines_backwards(first, most_bytes, before)

    def _ends_torn(self) -> bool:
        try:
            with open_companion(self.path, self.file) as journal:
                if journal.seek(0, os.SEEK_END) == 0:
                    return False
                journal.seek(-1, os.SEEK_END)
                return journal.read(1) != b"\n"
        except FileNotFoundError:
            return False
