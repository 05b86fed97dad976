"""The history of annotation files: list, read and restore revisions; confirm held removals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neurotrale.annotations.documents.contents import Content, Contents, document_of
from neurotrale.annotations.files.paths import AnnotationFile
from neurotrale.annotations.journals.changes import Before, WriteContext
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry
from neurotrale.annotations.journals.revisions import (
    ChangeFilter,
    applied_changes,
    page_of_changes,
    selected_changes,
)
from neurotrale.annotations.restore import (
    annotation_in,
    ignored_removals,
    revision_content,
)
from neurotrale.annotations.store import writable
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import AnnotationWriter
from neurotrale.errors import MissingError, reading


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a file's changes, newest first.

    Attributes:
        changes: The changes, each with whether it took effect.
        next_before: The ``before`` of the next page; None on the last one.
    """

    changes: Sequence[tuple[JournalEntry, bool]]
    next_before: int | None


class AnnotationHistory:
    """Reads and restores earlier contents of annotation files.

    Args:
        contents: Reads files.
        writer: Writes files; None if the service is read-only.
    """

    def __init__(self, contents: Contents, writer: AnnotationWriter | None) -> None:
        self.contents = contents
        self._writer = writer

    def page(self, file: AnnotationFile, filter_: ChangeFilter, limit: int) -> Page:
        """Return a page of the changes of a file, newest first."""
        with reading(file.display_path):
            return Page(*page_of_changes(Journal(file.path), self._current(file), filter_, limit))

    def changes(
        self, file: AnnotationFile, filter_: ChangeFilter
    ) -> Iterator[tuple[JournalEntry, bool]]:
        """Iterate over a file's changes, newest first, each with whether it took effect."""
        with reading(file.display_path):
            yield from selected_changes(Journal(file.path), self._current(file), filter_)

    def discarded(self, file: AnnotationFile) -> str | None:
        """Return a sentence on which records of a file were discarded; None if none were."""
        with reading(file.display_path):
            checkpoint = Journal(file.path).archives.checkpoint()
        return None if checkpoint is None else checkpoint.sentence

    def revision(self, file: AnnotationFile, revision: int) -> bytes:
        """Return the content of a file after a change; revision 0 is before the first one.

        Raises:
            MissingError: There is no such revision, or its content is not recorded.
        """
        with reading(file.display_path):
            return revision_content(self._current(file), Journal(file.path), revision)

    def annotation(self, file: AnnotationFile, revision: int, id_: str) -> bytes:
        """Return one annotation as it was after a change.

        Raises:
            MissingError: There is no such revision, or the annotation is not in it.
        """
        annotation = annotation_in(self.revision(file, revision), id_)
        if annotation is None:
            raise MissingError(
                f"Revision {revision} of {file.display_path} has no annotation {id_!r}."
            )
        return annotation

    def restore(self, file: AnnotationFile, revision: int, context: WriteContext) -> Written:
        """Restore a whole file to a revision; this is itself recorded as a change.

        Raises:
            MissingError: There is no such revision, or its content is not recorded.
            ChangedError: A precondition does not hold.
        """
        return self._write(
            WriteRequest(operation="restore", file=file, context=context, revision=revision)
        )

    def restore_annotation(
        self, file: AnnotationFile, id_: str, revision: int | None, context: WriteContext
    ) -> Written:
        """Restore one annotation to a revision, or to its content before its last change.

        Raises:
            MissingError: The annotation is not in the history.
            ChangedError: A precondition does not hold.
        """
        return self._write(
            WriteRequest(
                operation="restore_annotation",
                file=file,
                context=context,
                id=id_,
                revision=revision,
            )
        )

    def restore_removed(
        self, file: AnnotationFile, since: str | None, context: WriteContext
    ) -> Written:
        """Restore all annotations that were removed; those in the file stay.

        Args:
            file: The file.
            since: Only those removed at or after this time (ISO 8601, UTC).
            context: The client's preconditions and author.

        Raises:
            ChangedError: A precondition does not hold.
        """
        return self._write(
            WriteRequest(operation="restore_removed", file=file, context=context, since=since)
        )

    def restore_reverted(
        self, file: AnnotationFile, since: str | None, context: WriteContext
    ) -> Written:
        """Bring back changes that saves of old copies have undone; see `restored_reverts`.

        Args:
            file: The file.
            since: Only what was undone at or after this time (ISO 8601, UTC).
            context: The client's preconditions and author.

        Raises:
            ChangedError: A precondition does not hold.
        """
        return self._write(
            WriteRequest(operation="restore_reverted", file=file, context=context, since=since)
        )

    def undo(
        self,
        file: AnnotationFile,
        by: str | None,
        session: str | None,
        since: str,
        context: WriteContext,
    ) -> Written:
        """Undo what one author did, and keep what others did; see `undone_changes`.

        Args:
            file: The file.
            by: The author's name; None for any.
            session: Label of the author's viewer; None for any.
            since: Only changes at or after this time (ISO 8601, UTC).
            context: The client's preconditions and author.

        Raises:
            ChangedError: A precondition does not hold.
        """
        return self._write(
            WriteRequest(
                operation="undo", file=file, context=context, by=by, session=session, since=since
            )
        )

    def held_removals(self, file: AnnotationFile, revision: int | None = None) -> list[bytes]:
        """Return the annotations whose removal is held back.

        Args:
            file: The file.
            revision: Instead, those that this save dropped, which was ignored because its viewer
                left the slice.

        Raises:
            MissingError: There is no such save.
        """
        with reading(file.display_path):
            content = self.contents.read(file.path)
            changes = applied_changes(Journal(file.path), content)
            last = next((entry for entry, applied in changes if applied), None)
            held = tuple(last.held_removals) if last is not None else ()
            if revision is not None:
                before = Before(content, held)
                held = tuple(ignored_removals(before, Journal(file.path), revision))
        found = map(document_of(content, file.display_path).find, held)
        return [annotation for annotation in found if annotation is not None]

    def confirm(
        self,
        file: AnnotationFile,
        ids: Sequence[str],
        context: WriteContext,
        revision: int | None = None,
    ) -> Written:
        """Remove annotations whose removal was held back.

        Args:
            file: The file.
            ids: Ids of the annotations; empty means all that are held.
            context: The client's preconditions and author.
            revision: Instead of what is held, what this save dropped, which was ignored because
                its viewer left the slice.

        Raises:
            MissingError: The removal of one of them is not held back.
            ChangedError: A precondition does not hold.
        """
        return self._write(
            WriteRequest(
                operation="confirm", file=file, context=context, ids=tuple(ids), revision=revision
            )
        )

    def _write(self, request: WriteRequest) -> Written:
        return writable(self._writer).write(request)

    def _current(self, file: AnnotationFile) -> Content | None:
        try:
            return self.contents.read(file.path)
        except FileNotFoundError:
            return None
