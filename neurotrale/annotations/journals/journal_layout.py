"""Where the records of a journal lie in it, and up to which of them it may be cut."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import BinaryIO

from neurotrale.annotations.journals.journal import HEAD_BYTES
from neurotrale.annotations.journals.journal_records import (
    END_BYTES,
    FORMAT,
    JournalEntry,
    has_hunks,
    in_this_format,
    parse_entry,
    parse_head,
)
from neurotrale.storage.line_archive import NumberedLine
from neurotrale.storage.ranges import blocks_of


class JournalLayout:
    """The records of a journal, by their place in it.

    Torn lines belong to the record before them.

    Args:
        file: The journal, open for reading; it does not change meanwhile.
        start: Where to begin.
        before: Records from the first one at or after this time on stay (ISO 8601, UTC).

    Attributes:
        numbers: The numbers of the records.
        offsets: Where their lines begin.
    """

    def __init__(self, file: BinaryIO, start: int, before: str) -> None:
        self._file = file
        self._start = start
        self.numbers = array("q")
        self.offsets = array("q")
        self._oldest = array("q")  # number of the oldest record that each one needs beside it
        self._applied = array("q")  # indices of the records that are not marked as aborted
        self._last: tuple[JournalEntry, int] | None = None
        self._old = 0  # records before the first one that stays
        is_old = True
        for offset, size, entry in _lines(file, start):
            if entry is None:
                continue
            is_old = is_old and entry.at < before
            self._old += is_old
            self._add(entry, offset)
            self._last = entry, size
        self.stop = file.seek(0, os.SEEK_END)

    def _add(self, entry: JournalEntry, offset: int) -> None:
        aborts = entry.aborts
        while self._applied and self.numbers[self._applied[-1]] in aborts:
            self._applied.pop()
        if entry.op != "void":
            self._applied.append(len(self.numbers))
        self.numbers.append(entry.n)
        self.offsets.append(offset)
        self._oldest.append(entry.oldest)

    def cut(self) -> int:
        """Return the index of the first record that stays; 0 if all do.

        The last record that took effect stays, and whatever the others refer to: what was written
        together, and what a record marks as aborted.
        """
        if not self._applied:
            return 0
        index = min(self._old, self._applied[-1])
        while index:
            # The numbers that a record covers need not be there themselves.
            needed = bisect_left(self.numbers, min(self._oldest[index:]))
            if needed >= index:
                break
            index = needed
        return index

    def lines(self, stop: int) -> Iterator[NumberedLine]:
        """Iterate over all lines before a record, to be packed.

        Args:
            stop: Index of the record.
        """
        for offset, size, entry in _lines(self._file, self._start, self.offsets[stop]):
            number = 0 if entry is None else entry.n
            yield NumberedLine(number, size, blocks_of(self._file.fileno(), offset, offset + size))

    def rest(self, offset: int) -> Iterator[bytes]:
        """Iterate over the pieces of what follows an offset.

        The last record gets the number of this version's format: older versions, which do not know
        of archives, must not write any more.
        """
        last = self._last
        if last is None or last[0].format >= FORMAT:
            yield from blocks_of(self._file.fileno(), offset, self.stop)
            return
        entry, size = last
        at = self.offsets[-1]
        yield from blocks_of(self._file.fileno(), offset, at)
        head_bytes = min(size, HEAD_BYTES)
        start = os.pread(self._file.fileno(), head_bytes, at)
        if not has_hunks(start):
            head_bytes = size
            start = b"".join(blocks_of(self._file.fileno(), at, at + size))
        yield in_this_format(entry, start)
        yield from blocks_of(self._file.fileno(), at + head_bytes, self.stop)


def _lines(
    file: BinaryIO, start: int, stop: int | None = None
) -> Iterator[tuple[int, int, JournalEntry | None]]:
    """Iterate over lines: offset, size, and the record without its hunks; None for a torn one.

    Of a large line, not all is in memory.
    """
    file.seek(start)
    while (stop is None or start < stop) and (line := file.readline(HEAD_BYTES)):
        size = len(line)
        if line.endswith(b"\n"):
            entry = parse_entry(line)
        else:
            keeps_all = not has_hunks(line)
            end = b""
            while not end.endswith(b"\n") and (piece := file.readline(HEAD_BYTES)):
                size += len(piece)
                line, end = (line + piece if keeps_all else line), (end + piece)[-END_BYTES:]
            entry = parse_entry(line) if keeps_all else parse_head(line + end)
        yield start, size, entry
        start += size
        file.seek(start)
