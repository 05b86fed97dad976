"""The journal of an annotation file: an append-only file with one line of JSON per change.

It is a hidden file beside the annotation file: ``.fibers.json.journal``. When an existing file is
changed for the first time, its content is kept as ``.fibers.json.journal.base`` (a hard link where
possible, which costs nothing).

Other users may be able to write in the directory: if one of these names is not a regular file,
that is an error; it is never followed, waited for or replaced. Backups made of hard links
(``cp -al``) keep the journal as it was: one with several hard links is copied before it grows.

While a viewer drags an annotation, its saves are recorded in ``.fibers.json.burst``. When the burst
has ended, one record for all of them is appended to the journal, and that file is removed. Until
then its records are the end of the journal; those that the journal has caught up with count no
more.

A record is durable before the file is replaced. So a crash leaves at worst a record whose change
never took effect; the next writer marks it as aborted. A line torn by a crash is skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from neurotrale.annotations.documents.contents import Content, etag_of
from neurotrale.annotations.documents.pieces import joined_blocks
from neurotrale.annotations.journals.burst_records import folded
from neurotrale.annotations.journals.first_content import FirstContent
from neurotrale.annotations.journals.journal_files import JournalFiles
from neurotrale.annotations.journals.journal_records import (
    FORMAT,
    ContentState,
    JournalEntry,
    JournalRecord,
    NewRecord,
    number_of,
    parse_entry,
    parse_head,
    parse_record,
)
from neurotrale.errors import ConflictError
from neurotrale.storage.atomic import append
from neurotrale.storage.regular import lines_backwards, open_companion, remove_regular

HEAD_BYTES = 2**20  # of a record are read when its hunks are not needed
_HEAD = b'{"n":'  # of every journal

Entry = TypeVar("Entry", bound=JournalEntry)


class _Mark(msgspec.Struct, frozen=True):
    format: int = 1


_marks = msgspec.json.Decoder(_Mark)


class Journal(JournalFiles):
    """The journal of one annotation file.

    Args:
        file: Path of the annotation file.
        seen: Returns hashes of contents that stay revisions of their own, also within a burst.
    """

    def __init__(self, file: Path, seen: Callable[[], Container[str]] = frozenset) -> None:
        super().__init__(file)
        self.seen = seen

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
        """Append records and make them durable; before them, the record of a burst that ends here.

        Without records, only the burst ends; the caller knows that its last save took effect.

        Raises:
            OSError: The journal is unchanged.
        """
        aborted = {n for record in records for n in record.entry.aborts}
        burst = self._burst_after_journal()
        ended = folded(self._last_record(), burst, aborted, self.seen()) if burst else ()
        if (all_records := [*ended, *records]) and self._append(self.path, all_records):
            FirstContent(self.file, self.base_path).follow_file(
                lambda state: any(entry.old == state for entry in self.entries())
            )
            self.archives.follow_file()
        if burst is not None:
            # One that cannot be removed, or comes back after a power cut, counts no more.
            with suppress(OSError):
                remove_regular(self.burst_path)

    def append_to_burst(self, *records: NewRecord) -> None:
        """Append records to the burst file and make them durable.

        Args:
            records: Each continues the one before it, the first one the last record of all; see
                `neurotrale.annotations.journals.burst_records.continues`.

        Raises:
            OSError: The burst file is unchanged.
        """
        self._append(self.burst_path, records)

    def _append(self, path: Path, records: Sequence[NewRecord]) -> bool:
        # A line torn by a writer that died is terminated first; the file is never truncated.
        first = b"\n" if self.ends_torn(path) else b""
        pieces = (piece for record in records for piece in record.line())
        return append(path, joined_blocks(first, pieces), self.file, _HEAD)

    def begin(self, records: Sequence[NewRecord], content: Content | None) -> None:
        """Save the content before the first effective record as the base, and append records.

        Args:
            records: The records.
            content: Current content of the file; None if it does not exist.

        Raises:
            OSError: The journal is unchanged.
        """
        first = FirstContent(self.file, self.base_path)
        first.save(content)
        try:
            self.append(*records)
        except BaseException:
            with suppress(OSError):
                first.remove()
            raise

    def base(self, state: ContentState | None = None) -> bytes | None:
        """Return the content before the first change that is recorded; None if it is not there.

        Args:
            state: The content that the first record replaced; None for whatever is there.
        """
        for path in (self.archives.next_base_path, self.base_path):
            body = FirstContent(self.file, path).read()
            if body is not None and state in (None, ContentState(len(body), etag_of(body))):
                return body
        return None

    def entries(self, before: int = sys.maxsize) -> Iterator[JournalEntry]:
        """Iterate over the records without their hunks, newest first.

        Args:
            before: Only records with a smaller number.
        """
        entries = _uncovered(self._entries(self._lines_backwards))
        return (entry for entry in entries if entry.n < before)

    def _entries(self, lines: Callable[[int], Iterator[bytes]]) -> Iterator[JournalEntry]:
        before = last = 0
        for most_bytes in (HEAD_BYTES, sys.maxsize):
            for line in lines(most_bytes):
                is_large = len(line) > HEAD_BYTES
                entry = parse_head(line) if is_large else parse_entry(line)
                if entry is None and is_large and most_bytes == HEAD_BYTES:
                    break  # it touches very many annotations, or is torn
                if entry is not None and (not before or entry.n < before):
                    yield entry
                    last = entry.n
            else:
                return
            before = last

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
        return _uncovered(filter(None, map(parse_record, self._lines_backwards())))

    def records_forward(self) -> Iterator[JournalRecord]:
        """Iterate over the whole records, oldest first."""
        last: JournalRecord | None = None
        for record in self._all_forward():
            if last is not None and not 0 < record.covers <= last.n:
                yield last
            last = record
        if last is not None:
            yield last

    # The burst file is opened before the journal: what its writer moves on meanwhile is read there.

    def _all_forward(self) -> Iterator[JournalRecord]:
        burst: list[bytes] = []
        with suppress(FileNotFoundError), open_companion(self.burst_path, self.file) as file:
            burst = list(file)  # of limited size
        newest = 0
        for record in filter(None, map(parse_record, self.lines())):
            newest = max(newest, record.n)
            yield record
        yield from (one for one in filter(None, map(parse_record, burst)) if one.n > newest)

    def _lines_backwards(self, most_bytes: int = sys.maxsize) -> Iterator[bytes]:
        below = sys.maxsize
        with suppress(FileNotFoundError), open_companion(self.burst_path, self.file) as burst:
            newest = self._last_number()
            for line in lines_backwards(burst, most_bytes):
                if (number := number_of(line)) > newest:
                    yield line
                    below = min(below, number)
        yield from (line for line in self.lines_backwards(most_bytes) if number_of(line) < below)

    def _last_number(self) -> int:
        return next((entry.n for entry in self._entries(self.own_lines_backwards)), 0)

    def _last_record(self) -> NewRecord | None:
        return next(filter(None, map(NewRecord.parse, self.own_lines_backwards())), None)

    def _burst_after_journal(self) -> list[NewRecord] | None:
        """Return the records of the burst file that count; None if there is no such file."""
        try:
            with open_companion(self.burst_path, self.file) as burst:
                newest = self._last_number()
                records = filter(None, map(NewRecord.parse, burst))
                return [record for record in records if record.entry.n > newest]
        except FileNotFoundError:
            return None


def _uncovered(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Leave out records, newest first, in whose place there is the record of a burst."""
    below = sys.maxsize
    for entry in entries:
        if entry.n < below:
            yield entry
            below = entry.covers or below
