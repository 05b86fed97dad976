"""The archives of a journal: its older records, compressed, in files beside it.

``.fibers.json.journal.1.zst`` holds the first records, byte for byte the lines that the journal
began with, ``.2.zst`` those that follow, and so on; the journal has the rest. An archive is there
before its records leave the journal, so after a crash both may have them: those of the journal
count. Archives are made by `neurotrale.annotations.journals.compaction`.

Where archives were discarded, ``.fibers.json.journal.checkpoint.zst`` says which and by whom, and
has what corrections need of them. ``.fibers.json.journal.base`` is then the file as it was after
the last discarded record; until it has that name, it is ``.fibers.json.journal.base.next``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from neurotrale.annotations.journals.journal_records import ContentState, JournalEntry, number_of
from neurotrale.errors import DamagedError
from neurotrale.storage.directories import directory_at
from neurotrale.storage.line_archive import ARCHIVE_HEAD, LineArchive
from neurotrale.storage.permissions import follow, permissions_of
from neurotrale.storage.regular import BLOCK_BYTES, is_regular, open_companion


def first_number(journal: BinaryIO) -> int | None:
    """Return the number of the first record in a journal; None if it has none."""
    is_start = True
    journal.seek(0)
    while piece := journal.readline(BLOCK_BYTES):
        if is_start and (number := number_of(piece)):
            return number
        is_start = piece.endswith(b"\n")
    return None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a history whose first records were discarded.

    Attributes:
        through: Number of the last record that was discarded.
        files: Number of the last archive that was discarded.
        at: When, ISO 8601 in UTC.
        by: The name of the user who did it.
        first_at: Time of the first record.
        latest_at: Latest time of the records that were discarded.
        base: The file as it was after the last of them; None if there was none, or if the base is
            still that of the first record.
    """

    through: int
    files: int
    at: str
    by: str
    first_at: str
    latest_at: str
    base: ContentState | None = None

    @property
    def sentence(self) -> str:
        """Which records were discarded, for people."""
        return f"Records 1-{self.through} were discarded on {self.at} by {self.by}."


_checkpoints = msgspec.json.Decoder(Checkpoint)


class Archives:
    """The archives of one annotation file's journal.

    Args:
        file: Path of the annotation file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._prefix = f".{file.name}.journal."
        self.checkpoint_path = file.with_name(f"{self._prefix}checkpoint.zst")
        self.next_base_path = file.with_name(f"{self._prefix}base.next")

    def path(self, number: int) -> Path:
        """Return the path of an archive."""
        return self.file.with_name(f"{self._prefix}{number}.zst")

    def numbers(self) -> list[int]:
        """Return the numbers of all archives that exist, in order."""
        pattern = re.compile(re.escape(self._prefix) + r"([1-9]\d{0,8})\.zst", re.ASCII)
        try:
            names = directory_at(self.file.parent).names()
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for match in map(pattern.fullmatch, names) if match)

    @contextmanager
    def opened(self, number: int) -> Iterator[LineArchive]:
        """Open an archive.

        Raises:
            DamagedError: It is cut off, or not an archive.
            OSError: It does not exist, or cannot be opened.
        """
        with self._opened(self.path(number)) as archive:
            yield archive

    @contextmanager
    def _opened(self, path: Path) -> Iterator[LineArchive]:
        with open_companion(path, self.file) as file:
            yield LineArchive(file, f"{self.file.parent.name}/{path.name}")

    def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint; None if nothing was discarded.

        Raises:
            DamagedError: It cannot be read.
        """
        if not is_regular(self.checkpoint_path):
            return None
        with self._opened(self.checkpoint_path) as archive:
            try:
                return _checkpoints.decode(next(archive.lines(), b""))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DamagedError(
                    archive.name, f"expected a checkpoint, found something else ({error})"
                ) from error

    def kept_lines(self) -> Iterator[bytes]:
        """Iterate over the lines of the checkpoint: what corrections need of discarded records.

        See `neurotrale.annotations.journals.folds`.
        """
        with self._opened(self.checkpoint_path) as archive:
            lines = archive.lines()
            next(lines)
            yield from lines

    def lines(self, journal: int | None) -> Iterator[bytes]:
        """Iterate over the lines in the archives, oldest first.

        Args:
            journal: Number of the first record in the journal; None if the journal has none.

        Raises:
            DamagedError: An archive is missing or damaged.
        """
        for number, after, before in self._parts(journal):
            with self._part(number) as archive:
                if archive is not None:
                    yield from _within(archive.lines(after, before), archive, after, before)

    def lines_backwards(
        self, journal: int | None, most_bytes: int, before: int | None = None
    ) -> Iterator[bytes]:
        """Iterate over the lines in the archives, newest first; long ones are cut.

        Args:
            journal: Number of the first record in the journal; None if the journal has none.
            most_bytes: See `neurotrale.storage.regular.lines_backwards`.
            before: Only records with a smaller number; frames that have none are not unpacked.

        Raises:
            DamagedError: An archive is missing or damaged.
        """
        for number, after, stop in reversed(self._parts(journal)):
            end = min(stop, before or stop)
            with self._part(number) as archive:
                if archive is not None:
                    lines = archive.lines_backwards(most_bytes, after, end)
                    yield from _within(lines, archive, after, end)

    def begins(self, journal: JournalEntry | None) -> int | None:
        """Return the number of the first record if others before it are missing; else None.

        Args:
            journal: The first record in the journal; None if the journal has none.

        Raises:
            DamagedError: Records in between are missing.
        """
        for number, after, _ in self._parts(None if journal is None else journal.n)[:1]:
            with self.opened(number) as archive:
                return archive.first if archive.previous > after else None
        checkpoint = self.checkpoint()
        through = 0 if checkpoint is None else checkpoint.through
        if journal is None or journal.first_covered <= through + 1:
            return None
        return journal.n

    def _parts(self, journal: int | None) -> list[tuple[int, int, int]]:
        """Return the archives that have records which the journal does not have.

        Each with the number that its records follow, and the one that they precede.
        """
        is_whole = not self._may_exist() if journal is None else journal <= 1
        if is_whole:
            return []
        checkpoint = self.checkpoint()
        through = 0 if checkpoint is None else checkpoint.through
        before = sys.maxsize if journal is None else journal
        parts: list[tuple[int, int, int]] = []
        previous = following = through
        for number in self.numbers():
            with self._part(number) as archive:
                if archive is None or archive.last <= through or archive.first >= before:
                    continue
                if archive.previous > previous:
                    raise self._missing(previous + 1, archive.first - 1)
                parts.append((number, through, before))
                previous, following = archive.last, archive.following
        if parts and journal is not None and following < journal:
            raise self._missing(following, journal - 1)
        return parts

    @contextmanager
    def _part(self, number: int) -> Iterator[LineArchive | None]:
        """Open an archive; None if it has been discarded since it was listed."""
        try:
            file = open_companion(self.path(number), self.file)
        except FileNotFoundError:
            checkpoint = self.checkpoint()
            if checkpoint is None or checkpoint.files < number:
                raise
            yield None
            return
        with file:
            yield LineArchive(file, f"{self.file.parent.name}/{self.path(number).name}")

    def _may_exist(self) -> bool:
        return is_regular(self.path(1)) or is_regular(self.checkpoint_path)

    def _missing(self, first: int, last: int) -> DamagedError:
        return DamagedError(
            f"{self.file.parent.name}/{self._prefix}*.zst",
            f"records {first} to {last} of the history are missing: neither an archive nor the"
            " journal has them. Put the archives and the journal back from one backup.",
        )

    def follow_file(self) -> None:
        """Let those read the archives who may read the annotation file now."""
        for path in (self.checkpoint_path, *map(self.path, self.numbers())):
            with suppress(OSError), open_companion(path, self.file) as file:
                if file.read(len(ARCHIVE_HEAD)) == ARCHIVE_HEAD:
                    follow(file.fileno(), permissions_of(self.file))


def _within(
    lines: Iterator[bytes], archive: LineArchive, after: int, before: int
) -> Iterator[bytes]:
    """Leave out lines whose number does not lie between two others; those without one stay."""
    if after < archive.first and archive.last < before:
        return lines
    return (line for line in lines if after < (number_of(line) or before - 1) < before)
