"""The journal of an annotation file: one line of JSON for each change, only ever appended.

It lies beside the file, hidden: ``.fibers.json.journal``. When a file that was there before is
changed for the first time, its first content is kept as ``.fibers.json.journal.base`` (a hard
link where possible, so that it costs nothing).

A record is durable before the file is replaced. So a crash leaves at worst a record whose change
never took effect; the next writer marks it. A line that was torn by a crash is passed over.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from neurotrale.annotations.document import Hunk
from neurotrale.durable import append, fsync_directory

Operation = Literal["put", "patch", "delete", "restore", "confirm", "outside", "void"]
BLOCK_BYTES = 2**16


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """A content by its size and hash (`neurotrale.annotations.content.etag_of`)."""

    size: int
    hash: str


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A record without its content: enough to list, to find and to compare.

    Attributes:
        n: Number of the record in its journal, from 1.
        at: Time, ISO 8601 in UTC.
        by: Who: the name that belongs to the token, or the client's address.
        source: The client's address.
        op: What was done.
        old: The content before; None when there was no file.
        stamp: What told the file before from another one of the same content.
        new: The content after.
        added: Ids of annotations.
        changed: Ids of annotations.
        removed: Ids of annotations.
        held: Ids whose removal is held back, all that are after this record.
        kept: How many removals this record newly held back.
        of: The record that a ``void`` marks or whose state a ``restore`` brought back.
    """

    n: int
    at: str
    op: Operation
    by: str = ""
    source: str = ""
    old: State | None = None
    stamp: str = ""
    new: State | None = None
    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    held: list[str] = []
    kept: int = 0
    of: int = 0


class Record(Entry, frozen=True, omit_defaults=True, kw_only=True):
    """A whole record.

    Attributes:
        hunks: The change: ``[offset in the old content, old text, new text]`` each.
        base64: Whether the texts are base64 of bytes that are no UTF-8.
    """

    hunks: list[tuple[int, str, str]] = []
    base64: bool = False

    def bytes_hunks(self) -> list[Hunk]:
        """Give the change as bytes."""
        decode = base64.b64decode if self.base64 else str.encode
        return [Hunk(at, decode(old), decode(new)) for at, old, new in self.hunks]


def encoded_hunks(hunks: Sequence[Hunk]) -> tuple[list[tuple[int, str, str]], bool]:
    """Give a change as text for a record, and whether that is base64."""
    try:
        return [(hunk.at, hunk.old.decode(), hunk.new.decode()) for hunk in hunks], False
    except UnicodeDecodeError:
        return [
            (hunk.at, base64.b64encode(hunk.old).decode(), base64.b64encode(hunk.new).decode())
            for hunk in hunks
        ], True


_encoder = msgspec.json.Encoder()
_entries = msgspec.json.Decoder(Entry)
_records = msgspec.json.Decoder(Record)


class Journal:
    """The journal of one annotation file.

    Args:
        file: The annotation file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.path = file.with_name(f".{file.name}.journal")
        self.base_path = file.with_name(f".{file.name}.journal.base")

    def standing(self) -> tuple[Entry | None, Entry | None]:
        """Read the end of the journal; the caller holds the file's lock.

        Returns:
            The last record, and the last one whose change was not marked as never made.
        """
        last: Entry | None = None
        voided = set()
        for entry in self.entries():
            last = last or entry
            if entry.op == "void":
                voided.add(entry.of)
            elif entry.n not in voided:
                return last, entry
        return last, None

    def append(self, record: Record) -> None:
        """Append a record and make it durable.

        Raises:
            OSError: The journal is as it was.
        """
        # A torn line, of a writer that died, is closed first; the file is never cut.
        line = _encoder.encode(record) + b"\n"
        append(self.path, b"\n" + line if self._ends_torn() else line, self.file)

    def begin(self, record: Record) -> None:
        """Append the first record that counts; the content before it is kept as the base.

        Raises:
            OSError: The journal is as it was.
        """
        self._keep_base()
        try:
            self.append(record)
        except BaseException:
            with suppress(OSError):
                self.base_path.unlink(missing_ok=True)
            raise

    def _keep_base(self) -> None:
        self.base_path.unlink(missing_ok=True)
        try:
            os.link(os.path.realpath(self.file), self.base_path)  # never a link to the link
        except FileNotFoundError:
            return
        except OSError:  # no hard links here, or not ours to link
            shutil.copy2(self.file, self.base_path)
            with self.base_path.open("rb") as copied:
                os.fsync(copied.fileno())
        fsync_directory(self.base_path.parent)

    def base(self) -> bytes | None:
        """Read the content before the first recorded change; None when there was no file."""
        try:
            return self.base_path.read_bytes()
        except FileNotFoundError:
            return None

    def entries(self, before: int | None = None) -> Iterator[Entry]:
        """Give the records without content, newest first.

        Args:
            before: Only records with a smaller number.
        """
        for line in _lines_backwards(self.path):
            entry = _entry(line)
            if entry is not None and (before is None or entry.n < before):
                yield entry

    def records(self) -> Iterator[Record]:
        """Give the whole records, newest first."""
        for line in _lines_backwards(self.path):
            record = _record(line)
            if record is not None:
                yield record

    def records_forward(self) -> Iterator[Record]:
        """Give the whole records, oldest first."""
        try:
            with self.path.open("rb") as journal:
                for line in journal:
                    record = _record(line)
                    if record is not None:
                        yield record
        except FileNotFoundError:
            return

    def _ends_torn(self) -> bool:
        try:
            with self.path.open("rb") as journal:
                if journal.seek(0, os.SEEK_END) == 0:
                    return False
                journal.seek(-1, os.SEEK_END)
                return journal.read(1) != b"\n"
        except FileNotFoundError:
            return False


def _entry(line: bytes) -> Entry | None:
    try:
        return _entries.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _record(line: bytes) -> Record | None:
    try:
        return _records.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """Give the lines of a file from its end, without reading more of it than is asked for."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        at = file.seek(0, os.SEEK_END)
        parts: list[bytes] = []  # of the line whose beginning is not found yet, last part first
        while at > 0:
            size = min(max(BLOCK_BYTES, sum(map(len, parts))), at)
            at -= size
            file.seek(at)
            block = file.read(size)
            lines = block.split(b"\n")
            if len(lines) > 1:
                yield from _nonempty(lines[-1] + b"".join(reversed(parts)))
                for line in lines[-2:0:-1]:
                    yield from _nonempty(line)
                parts = [lines[0]]
            else:
                parts.append(block)
        yield from _nonempty(b"".join(reversed(parts)))


def _nonempty(line: bytes) -> Iterator[bytes]:
    if line:
        yield line
