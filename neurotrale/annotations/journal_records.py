"""The records of journals: what a line says."""

from __future__ import annotations

import base64
from typing import Literal

import msgspec

from neurotrale.annotations.document import Hunk
from neurotrale.annotations.viewers import NO_NOTES, SaveNotes

FORMAT = 2
"""The format of the records that this version writes; those without a number have format 1.

A version that finds a newer one does not write, because it does not know what it would break. So it
is raised whenever an older version must not write any more.
"""

Operation = Literal["put", "patch", "delete", "restore", "confirm", "outside", "void"]


class ContentState(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Identifies a content by its size and hash (`neurotrale.annotations.contents.etag_of`)."""

    size: int
    hash: str


_RENAMED = {"held_removals": "held", "newly_held": "kept", "target": "of"}  # in the file


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename=_RENAMED):
    """A record without its hunks, for listing, searching and comparing.

    Attributes:
        n: Number of the record in its journal, from 1.
        at: Time, ISO 8601 in UTC.
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
        intent: The name that the writer gave the request; no other request has it.
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
    intent: str = ""
    save: SaveNotes = NO_NOTES
    format: int = 1

    @property
    def aborts(self) -> range:
        """Numbers of the records that this one marks as aborted."""
        if self.op != "void":
            return range(0)
        return range(self.first or self.target, self.target + 1)


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
