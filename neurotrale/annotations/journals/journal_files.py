"""The files of a journal: a burst, the journal itself, its archives and its base; their lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from neurotrale.annotations.journals.archives import Archives, first_number
from neurotrale.annotations.journals.journal_records import number_of
from neurotrale.storage.regular import is_regular, lines_backwards, open_companion


class JournalFiles:
    """The hidden files beside an annotation file in which its changes are recorded.

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

    def lines(self) -> Iterator[bytes]:
        """Iterate over the lines of the archives and the journal, oldest first."""
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

    def lines_backwards(self, most_bytes: int) -> Iterator[bytes]:
        """Iterate over the lines of the journal and its archives, newest first; long ones are cut.

        Args:
            most_bytes: See `neurotrale.storage.regular.lines_backwards`.
        """
        first: int | None = None
        with suppress(FileNotFoundError), open_companion(self.path, self.file) as journal:
            for line in lines_backwards(journal, most_bytes):
                first = number_of(line) or first
                yield line
        yield from self.archives.lines_backwards(first, most_bytes)

    def own_lines_backwards(self, most_bytes: int = sys.maxsize) -> Iterator[bytes]:
        """Iterate over the lines of the journal without its archives, newest first."""
        with suppress(FileNotFoundError), open_companion(self.path, self.file) as journal:
            yield from lines_backwards(journal, most_bytes)

    def ends_torn(self, path: Path) -> bool:
        """Return whether one of the files ends within a line, whose writer died."""
        try:
            with open_companion(path, self.file) as journal:
                if journal.seek(0, os.SEEK_END) == 0:
                    return False
                journal.seek(-1, os.SEEK_END)
                return journal.read(1) != b"\n"
        except FileNotFoundError:
            return False
