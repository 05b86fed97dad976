"""The records of a journal, and how they are spelled: one line of JSON each."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from neurotrale.annotations.document import Hunk
from neurotrale.annotations.journal_records import JournalEntry, JournalRecord
from neurotrale.annotations.pieces import PIECE_BYTES, check_utf8, decoded_pieces


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record that is to be appended.

    Attributes:
        entry: The record without its hunks.
        hunks: The hunks, whose text is made when it is written.
    """

    entry: JournalEntry
    hunks: Sequence[Hunk] = ()

    def but(self, **changes: Any) -> NewRecord:
        """Return this record with some attributes changed."""
        return NewRecord(msgspec.structs.replace(self.entry, **changes), self.hunks)

    def line(self) -> Iterator[bytes]:
        """Iterate over the pieces of its line: a `JournalRecord` as JSON."""
        head = _encoder.encode(self.entry)
        if not self.hunks:
            yield head + b"\n"
            return
        is_text = all(_is_text(hunk.old) and _is_text(hunk.new) for hunk in self.hunks)
        texts = _as_text if is_text else _as_base64
        yield head[:-1] + _HUNKS
        for number, hunk in enumerate(self.hunks):
            yield b"%s[%d," % (b"," if number else b"", hunk.at)
            yield from texts(hunk.old)
            yield b","
            yield from texts(hunk.new)
            yield b"]"
        yield b"]}\n" if is_text else b'],"base64":true}\n'


_HUNKS = b',"hunks":['
END_BYTES = 64


def _is_text(content: bytes) -> bool:
    try:
        check_utf8(content)
    except UnicodeDecodeError:
        return False
    return True


def _as_text(content: bytes) -> Iterator[bytes]:
    yield b'"'
    for text in decoded_pieces(content):
        yield _encoder.encode(text)[1:-1]
    yield b'"'


def _as_base64(content: bytes) -> Iterator[bytes]:
    yield b'"'
    step = PIECE_BYTES // 3 * 3  # so that no piece but the last is padded
    for at in range(0, len(content), step):
        yield base64.b64encode(content[at : at + step])
    yield b'"'


_encoder = msgspec.json.Encoder()
_entries = msgspec.json.Decoder(JournalEntry)
_records = msgspec.json.Decoder(JournalRecord)


def joined_blocks(first: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join the pieces of lines: a line that is not large is written at once."""
    block, size = [first], len(first)
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)


def parse_entry(line: bytes) -> JournalEntry | None:
    """Return a record without its hunks; None if the line is torn."""
    try:
        return _entries.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# A quotation mark that ends a text, at the end of a line; those within are escaped.
_END = re.compile(rb'[^\\](?:\\\\)*"\]\](?:,"base64":true)?\}\s*$')


def parse_head(line: bytes) -> JournalEntry | None:
    """Return a record without its hunks, of whose line only beginning and end are there.

    None if the line is torn, or its beginning is not all that is before the hunks.
    """
    stop = line.find(_HUNKS)
    if stop < 0 or not _END.search(line, len(line) - END_BYTES):
        return None
    return parse_entry(line[:stop] + b"}")


def parse_record(line: bytes) -> JournalRecord | None:
    """Return a whole record; None if the line is torn."""
    try:
        return _records.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
