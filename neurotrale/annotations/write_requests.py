"""The writes that clients ask for, and their results, as values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neurotrale.annotations.files.paths import AnnotationFile
from neurotrale.annotations.journals.changes import WriteContext
from neurotrale.annotations.journals.viewers import NO_NOTES, SaveNotes

WriteOperation = Literal[
    "put",
    "patch",
    "delete",
    "restore",
    "restore_annotation",
    "restore_removed",
    "restore_reverted",
    "undo",
    "confirm",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """A write of one annotation file.

    Attributes:
        operation: What to do.
        file: The file.
        context: The author and the preconditions.
        body: The checked body: a whole file (put), an annotation with its id (patch), or an array
            of annotations (patch without an id).
        id: Id of the annotation (patch, delete, restore_annotation).
        ids: Ids of the annotations (delete without an id, confirm); for a confirm, empty means all
            whose removal is held back.
        revision: The revision to restore (restore); or to restore the annotation from, None for
            its content before its last change (restore_annotation); or a save that was ignored
            because its viewer left the slice, None for what is held back (confirm).
        since: Restores or undoes only what happened at or after this time (restore_removed,
            restore_reverted, undo).
        by: The author whose changes are undone; None for any (undo).
        session: Label of the viewer whose changes are undone; None for any (undo).
        warnings: What the check of the body found that viewers may not understand.
        intent: A name that no other request has; its journal record keeps it.
        is_repeated: Whether the same request may have been applied before.
    """

    operation: WriteOperation
    file: AnnotationFile
    context: WriteContext
    body: bytes = b""
    id: str = ""
    ids: tuple[str, ...] = ()
    revision: int | None = None
    since: str | None = None
    by: str | None = None
    session: str | None = None
    warnings: tuple[str, ...] = ()
    intent: str = ""
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write.

    Attributes:
        filename: Path of the file relative to the data root.
        created: Whether the file (put), the annotation, or any of several (patch) is new.
        etag: ETag of the file after the write.
        warnings: What was kept although viewers may not understand it.
        newly_held: Number of removals that were held back for the first time.
        changed: Whether anything was written.
        notes: What else the record of the write tells.
        ids: Ids of the annotations, of a write of several, in its order.
        added: Those of them that are new.
    """

    filename: str
    created: bool
    etag: str
    warnings: tuple[str, ...] = ()
    newly_held: int = 0
    changed: bool = True
    notes: SaveNotes = NO_NOTES
    ids: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
