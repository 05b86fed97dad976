"""The records of journals, and how they are spelled: one line of JSON each."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from neurotrale.annotations.documents.document import Hunk
from neurotrale.annotations.documents.pieces import PIECE_BYTES, check_utf8, decoded_pieces
from neurotrale.annotations.journals.viewers import NO_NOTES, SaveNotes

FORMAT = 3
"""The format of the records that this version writes; those without a number have format 1.

A version that finds a newer one does not write, because it does not know what it would break. So it
is raised whenever an older version must not write any more.
"""

Operation = Literal["put", "patch", "delete", "restore", "confirm", "outside", "void"]


class ContentState(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Identifies a content by its size and its hash.

    See `neurotrale.annotations.documents.contents.etag_of`.
    """

    size: int
    hash: str


class KeyedOperation(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A request that its client gave an operation id (Idempotency-Key), and what it was answered.

    Attributes:
        key: The operation id.
        digest: Identifies the request: what it does, to which annotations, with which body.
        created: Whether the file (put) or an annotation (patch) was new.
        added: Which annotations of an array were new, in its order: how many were not, then how
            many were, and so on.
        warnings: See `neurotrale.annotations.write_requests.Written`, as are the others.
        newly_held: Number of removals that were held back.
        conflicts: Fields that somebody else had changed, too, by id.
        navigated: Ids that were dropped because the user left the slice.
    """

    key: str
    digest: str
    created: bool = False
    added: list[int] = []
    warnings: list[str] = []
    newly_held: int = 0
    conflicts: dict[str, list[str]] = {}
    navigated: list[str] = []


_RENAMED = {"held_removals": "held", "newly_held": "kept", "target": "of"}  # in the file


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename=_RENAMED):
    """A record without its hunks, for listing, searching and comparing.

    Attributes:
        n: Number of the record in its journal, from 1; of a burst, the number of its last save.
        at: Time, ISO 8601 in UTC; of a burst, that of its last save.
        by: Author: the name that belongs to the token, or the client's address.
        source: The client's address.
        op: The operation; ``outside`` records a change that another program made to the file,
            ``void`` marks an earlier record as aborted.
        old: The content before; None if the file did not exist.
        stamp: Version stamp of the file this change replaced; distinguishes it from a
            byte-identical file written later.
        new: The content after.
        added: Ids of added annotations.
        changed: Ids of changed annotations.
        removed: Ids of removed annotations.
        held_removals: Ids of all annotations whose removal is held back after this record.
        newly_held: Number of removals that this record newly held back.
        target: The record that a ``void`` marks, or whose state a ``restore`` restored.
        first: Number of the first of several records that were written together, with one
            replacement of the file; all of them took effect or none. A ``void`` with it marks all
            records from there to its target. 0 for a record on its own.
        covers: Number of the first of several saves that the record stands for, a burst; 0 for a
            record of its own. It takes the place of the record before it, if that has a number in
            this range.
        began: Time of the first save of a burst.
        intent: The name that the writer gave the request; no other request has it.
        intents: The names of all requests of a burst.
        operations: The requests that their clients gave operation ids.
        save: What else is known about the request.
        format: The format of the record, see `FORMAT`.
    """

    n: int
    at: str
    op: Operation
    by: str = ""
    source: str = ""
    old: ContentState | None = None
    stamp: str = ""
    new: ContentState | None = None
    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    held_removals: list[str] = []
    newly_held: int = 0
    target: int = 0
    first: int = 0
    covers: int = 0
    began: str = ""
    intent: str = ""
    intents: list[str] = []
    operations: list[KeyedOperation] = []
    save: SaveNotes = NO_NOTES
    format: int = 1

    @property
    def aborts(self) -> range:
        """Numbers of the records that this one marks as aborted."""
        if self.op != "void":
            return range(0)
        return range(self.first or self.target, self.target + 1)

    @property
    def first_covered(self) -> int:
        """Number of the first save that the record stands for; its own if there is only one."""
        return self.covers or self.n

    @property
    def saves(self) -> int:
        """How many saves the record stands for."""
        return self.n - self.first_covered + 1

    @property
    def oldest(self) -> int:
        """Number of the oldest record that this one must not be parted from; its own if none."""
        return min(self.first_covered, self.first or self.n, self.aborts.start or self.n)

    @property
    def all_intents(self) -> list[str]:
        """The names of all requests that the record stands for."""
        return [*self.intents, self.intent] if self.intent else self.intents


class JournalRecord(JournalEntry, frozen=True, omit_defaults=True, kw_only=True):
    """A whole record.

    Attributes:
        hunks: The hunks of the change: offset in the old content, old text, new text.
        base64: Whether the texts are base64, because the bytes are not valid UTF-8.
    """

    hunks: list[tuple[int, str, str]] = []
    base64: bool = False

    def bytes_hunks(self) -> list[Hunk]:
        """Return the hunks as bytes."""
        decode = base64.b64decode if self.base64 else str.encode
        return [Hunk(at, decode(old), decode(new)) for at, old, new in self.hunks]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record that is to be appended.

    Attributes:
        entry: The record without its hunks.
        hunks: The hunks, whose text is made when it is written.
        chain: The client of a save that may be part of a burst, and when the chain of its views
            began that the save continues, 0 if that is not clear; it is not written.
    """

    entry: JournalEntry
    hunks: Sequence[Hunk] = ()
    chain: tuple[str, int] | None = None

    @classmethod
    def parse(cls, line: bytes) -> NewRecord | None:
        """Return the record of a line; None if the line is torn."""
        entry, record = parse_entry(line), parse_record(line)
        return None if entry is None or record is None else cls(entry, record.bytes_hunks())

    def but(self, **changes: Any) -> NewRecord:
        """Return this record with some attributes of its entry changed."""
        return replace(self, entry=msgspec.structs.replace(self.entry, **changes))

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


_NUMBER = re.compile(rb'\{"n":(\d+)[,}]')


def number_of(line: bytes) -> int:
    """Return the number of the record of a line; 0 if it is torn before that."""
    match = _NUMBER.match(line)
    return 0 if match is None else int(match[1])


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


def in_this_format(entry: JournalEntry, start: bytes) -> bytes:
    """Return the start of a record's line with the number of this version's format.

    Args:
        entry: The record.
        start: The start of its line: all that is before its hunks, or the whole line.
    """
    stop = start.find(_HUNKS)
    stop = start.rindex(b"}") if stop < 0 else stop
    return _encoder.encode(msgspec.structs.replace(entry, format=FORMAT))[:-1] + start[stop:]


def has_hunks(start: bytes) -> bool:
    """Return whether the start of a line reaches to the hunks of its record."""
    return _HUNKS in start


def parse_record(line: bytes) -> JournalRecord | None:
    """Return a whole record; None if the line is torn."""
    try:
        return _records.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
