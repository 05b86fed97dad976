"""Changes of an annotation file: hunks to apply, reverse and inspect; author and preconditions.

A change is a list of hunks in the order of the old content, each aligned to whole annotations.
Either content can be derived from the other one and the hunks, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from neurotrale.annotations.documents.contents import Content, etag_of
from neurotrale.annotations.documents.document import Hunk
from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.journals.journal_records import JournalEntry, KeyedOperation, Operation
from neurotrale.annotations.journals.viewers import NO_NOTES, SaveNotes, Viewer
from neurotrale.errors import BadInputError, ChangedError
from neurotrale.storage.ranges import LargeBytes, Piece, blocks_in


@dataclass(frozen=True, slots=True)
class Author:
    """The author of a change.

    Attributes:
        name: Name that belongs to the token, else the client's address, or the user's name.
        source: The client's address, or ``command line``.
        session: Label of the viewer, see `Viewer`; empty for other clients.
    """

    name: str = ""
    source: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to be applied to a file.

    Attributes:
        operation: The operation that is recorded.
        hunks: The hunks that lead from the current content to the new one.
        index: Index of the new content, if it is already known.
        held_removals: Ids whose removal is held back afterwards; None leaves them as they are.
        newly_held: Number of removals that this change newly holds back.
        target: The record that the operation refers to; see `JournalEntry.target`.
        notes: What else the record tells.
        creates: Whether it creates a file that does not exist, even without hunks.
        chain: See `neurotrale.annotations.journals.journal_records.NewRecord`.
    """

    operation: Operation
    hunks: Sequence[Hunk]
    index: Index | None = None
    held_removals: Sequence[str] | None = None
    newly_held: int = 0
    target: int = 0
    notes: SaveNotes = NO_NOTES
    creates: bool = True
    chain: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """A file before a change; its writer holds the lock.

    Attributes:
        content: The content; None if the file does not exist.
        held_removals: Ids whose removal is held back.
    """

    content: Content | None
    held_removals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JournalTail:
    """The end of a journal.

    Attributes:
        last: The last record; None if the journal is empty.
        applied: The last record whose change took effect; None if there is none.
    """

    last: JournalEntry | None
    applied: JournalEntry | None

    @property
    def next_number(self) -> int:
        """Number of the next record."""
        return 1 if self.last is None else self.last.n + 1

    @property
    def held_removals(self) -> list[str]:
        """Ids whose removal is held back."""
        return [] if self.applied is None else self.applied.held_removals


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """The result of a change that is on disk.

    Attributes:
        etag: ETag of the new content.
        created: Whether the file is new.
        changed: Whether anything was written.
        record: The record of an earlier application of the same request, if there is one; the
            change was then not applied again.
        operation: The same for a request with an operation id.
    """

    etag: str
    created: bool
    changed: bool
    record: JournalEntry | None = None
    operation: KeyedOperation | None = None


@dataclass(frozen=True, slots=True)
class Preconditions:
    """Conditions that must hold before a file is changed (If-Match, If-None-Match).

    Attributes:
        match: ETags, one of which must be that of the file or the annotation; ``*`` matches any
            existing file. Empty means no condition.
        absent: The file (put) or the annotations (patch) must not exist.
    """

    match: tuple[str, ...] = ()
    absent: bool = False

    def check(
        self,
        before: Before,
        annotation: bytes | None = None,
        present: Sequence[str] | None = None,
    ) -> None:
        """Check the conditions.

        Args:
            before: The file before the change.
            annotation: The annotation that is to be changed, if it is a single one.
            present: Of a change of annotations that may be new, the ids of those that are not.

        Raises:
            ChangedError: A condition does not hold.
        """
        content = before.content
        if self.absent and present:
            more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
            raise ChangedError(
                f"The annotation {present[0]!r} exists already{more}, and If-None-Match: * asks not"
                " to overwrite any. Nothing was changed."
            )
        if self.absent and present is None and content is not None:
            raise ChangedError(
                "The file exists already, and If-None-Match: * asks not to overwrite it. Nothing"
                " was changed."
            )
        if not self.match:
            return
        if content is None:
            raise ChangedError("There is no file, and If-Match names one. Nothing was written.")
        current = {content.etag, "*"}
        if annotation is not None:
            current.add(etag_of(annotation))
        if current.isdisjoint(self.match):
            raise ChangedError(
                "The file has changed since the version that If-Match names; nothing was written."
                f' Get it again (its ETag is now "{content.etag}"), make the change, and save.'
            )


@dataclass(frozen=True, slots=True)
class WriteContext:
    """Everything about a client's write except its body.

    Attributes:
        author: The author of the change.
        preconditions: Conditions that must hold before the change.
        viewer: The client, if what it sees is remembered; its PUT without If-Match is merged.
        arrived_ns: When the request arrived, in nanoseconds since the epoch.
        guarded: Whether removals of a PUT that is merged are held back.
        is_viewer: Whether a viewer sent it, which does not send again what was refused.
        key: The operation id that the client gave the request; empty for none.
        parking: Where the server can hold the request without a thread that waits, see
            `neurotrale.annotations.handover.Parking`; None if it cannot.
    """

    author: Author = field(default_factory=Author)
    preconditions: Preconditions = field(default_factory=Preconditions)
    viewer: Viewer | None = None
    arrived_ns: int = 0
    guarded: bool = False
    is_viewer: bool = False
    key: str = ""
    parking: Any = None


def apply(content: bytes, hunks: Iterable[Hunk]) -> bytes:
    """Return the new content.

    Raises:
        ValueError: The hunks do not belong to this content.
    """
    pieces = apply_in_pieces(content, hunks)
    return b"".join(block for piece in pieces for block in blocks_in(piece))


def apply_in_pieces(content: bytes | LargeBytes, hunks: Iterable[Hunk]) -> list[Piece]:
    """Return the new content in pieces, without copying the old one.

    Raises:
        ValueError: The hunks do not belong to this content.
    """
    pieces: list[Piece] = []
    large = content if isinstance(content, LargeBytes) else LargeBytes([memoryview(content)])
    at = 0
    for hunk in hunks:
        if hunk.at < at or not _is_at(content, hunk.at, hunk.old):
            raise ValueError("the hunks do not belong to this content")
        pieces += (*large.range(at, hunk.at), hunk.new)
        at = hunk.at + len(hunk.old)
    return [*pieces, *large.range(at, len(large))]


def _is_at(content: bytes | LargeBytes, at: int, expected: bytes) -> bool:
    if isinstance(content, LargeBytes) and content.is_whole:
        content = content.whole
    if isinstance(content, bytes):
        return content.startswith(expected, at) and at + len(expected) <= len(content)
    return content[at : at + len(expected)] == expected


def reversed_hunks(hunks: Sequence[Hunk]) -> list[Hunk]:
    """Return the hunks that lead from the new content back to the old one."""
    shift = 0
    reverse = []
    for hunk in hunks:
        reverse.append(Hunk(hunk.at + shift, hunk.new, hunk.old))
        shift += len(hunk.new) - len(hunk.old)
    return reverse


def format_time(when: datetime) -> str:
    """Format a timezone-aware time as in journals: ISO 8601, UTC, milliseconds; sorts as text."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str, name: str) -> str:
    """Parse an ISO 8601 time, and return it in the format of journals.

    Args:
        text: The time; UTC if it has no zone.
        name: Name of the parameter, for the error.

    Raises:
        BadInputError: The text is not a time.
    """
    try:
        # In a query string '+' arrives as a space.
        when = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
        return format_time(when if when.tzinfo else when.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise BadInputError(
            f"{name}={text!r} is not a time; expected ISO 8601, such as 2026-11-22T09:30:00Z."
        ) from None
