"""Answers of change feeds: what they tell of each change, and how much fits into one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.journals.journal_records import JournalEntry

MOST_IDS = 1000
"""Ids that are told of one change, and the annotations that are sent at once."""
MOST_CHARACTERS = 100_000  # of these ids
MOST_BYTES = 4 * 2**20  # of these annotations
MOST_HELD = 20
MOST_IDS_OF_PAGE = 10 * MOST_IDS


class ChangeNotice(msgspec.Struct, kw_only=True, rename={"source": "from"}):
    """One change; names as in the history of the file.

    Attributes:
        revision: Number of the record.
        at: Time, ISO 8601 in UTC.
        by: Author.
        source: The client's address.
        operation: The operation.
        session: Label of the viewer; empty for other clients.
        saves: How many saves the record stands for: several if an annotation was dragged.
        etag: ETag of the file after the change; None if it did not exist then.
        added: Ids of added annotations.
        changed: Ids of changed annotations.
        removed: Ids of removed annotations.
        held: Ids of annotations whose removal is held back after the change; the first few.
        kept: Number of removals that the change newly held back.
        cut: Whether the ids are left out, as they are too many, or not known: the client has to
            load the file again.
    """

    revision: int
    at: str
    by: str
    source: str
    operation: str
    session: str
    saves: int
    etag: str | None
    added: list[str]
    changed: list[str]
    removed: list[str]
    held: list[str]
    kept: int
    cut: bool = False

    @classmethod
    def of(cls, entry: JournalEntry) -> ChangeNotice:
        """Return the notice of a record."""
        notice = cls(
            revision=entry.n,
            at=entry.at,
            by=entry.by,
            source=entry.source,
            operation=entry.op,
            session=entry.save.session,
            saves=entry.saves,
            etag=None if entry.new is None else entry.new.hash,
            added=entry.added,
            changed=entry.changed,
            removed=entry.removed,
            held=entry.held_removals[:MOST_HELD],
            kept=entry.newly_held,
        )
        # Another program may have changed what has no id, or the content before is not known.
        touched = notice.touched
        is_unknown = entry.op == "outside" and entry.old != entry.new and not touched
        if is_unknown or len(touched) > MOST_IDS or sum(map(len, touched)) > MOST_CHARACTERS:
            notice.leave_out_ids()
        return notice

    @property
    def touched(self) -> list[str]:
        """Ids of the annotations that the change added, changed or removed."""
        return [*self.added, *self.changed, *self.removed]

    def leave_out_ids(self) -> None:
        """Leave out the ids."""
        self.cut = True
        self.added, self.changed, self.removed = [], [], []


class PresentAnnotation(msgspec.Struct, frozen=True):
    """An annotation as it is in the file now.

    Attributes:
        etag: Its ETag.
        annotation: Its JSON, byte for byte.
    """

    etag: str
    annotation: msgspec.Raw


class ChangePage(msgspec.Struct, kw_only=True):
    """An answer of a change feed.

    Attributes:
        filename: Path of the file relative to the data root.
        last: Number of the last record that the answer tells: the next ``since``.
        etag: ETag of the file; None if it does not exist.
        outside: Whether another program has written this content, so that the journal does not
            tell of it yet. A client that has another content has to load the file again.
        reset: Whether the journal cannot tell what has changed since the given record.
        reason: Why it cannot.
        more: Whether there are more changes already.
        changes: The changes, oldest first.
        annotations: Those that the changes touched and that are in the file now, by id.
    """

    filename: str
    last: int
    etag: str | None
    outside: bool
    reset: bool = False
    reason: str | msgspec.UnsetType = msgspec.UNSET
    more: bool = False
    changes: list[ChangeNotice] = []
    annotations: dict[str, PresentAnnotation] | msgspec.UnsetType = msgspec.UNSET


def fill_page(page: ChangePage, notices: Iterable[ChangeNotice], document: Document | None) -> int:
    """Add changes to an answer, as far as there is room; return their number."""
    room = _Room(page.annotations if isinstance(page.annotations, dict) else {}, document)
    for notice in notices:
        if not room.has(notice):
            if page.changes:
                break
            notice.leave_out_ids()
        page.changes.append(notice)
        page.last = notice.revision
    return len(page.changes)


@dataclass(slots=True)
class _Room:
    """What an answer can still take.

    Attributes:
        annotations: The annotations in it.
        document: The file, if annotations are to be in it.
    """

    annotations: dict[str, PresentAnnotation]
    document: Document | None
    ids: int = 0
    size: int = 0

    def has(self, notice: ChangeNotice) -> bool:
        """Add what belongs to a change, and return True; return False if there is no room."""
        touched = notice.touched
        found: dict[str, PresentAnnotation] = {}
        if self.document is not None:
            for id_ in touched:
                annotation = None if id_ in self.annotations else self.document.find(id_)
                if annotation is not None:
                    found[id_] = PresentAnnotation(etag_of(annotation), msgspec.Raw(annotation))
        ids = self.ids + len(touched)
        size = self.size + sum(len(memoryview(one.annotation)) for one in found.values())
        is_full = len(self.annotations) + len(found) > MOST_IDS or size > MOST_BYTES
        if is_full or ids > MOST_IDS_OF_PAGE:
            return False
        self.annotations.update(found)
        self.ids, self.size = ids, size
        return True
