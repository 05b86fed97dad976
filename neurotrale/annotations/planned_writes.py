"""What clients ask for, as changes of a file that are decided when their turn comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

from neurotrale.annotations.documents.bulk import remove_all, upsert_all
from neurotrale.annotations.documents.contents import document_of
from neurotrale.annotations.documents.diff import hunks_between
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.journals.changes import AppliedChange, Before, Change
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import KeyedOperation
from neurotrale.annotations.journals.viewers import NO_NOTES, SaveNotes
from neurotrale.annotations.merging.saves import Saves
from neurotrale.annotations.operation_ids import (
    answer_of,
    check_same_request,
    digest_of,
    operation_of,
)
from neurotrale.annotations.restore import (
    ignored_removals,
    restored_annotation,
    restored_removals,
    restored_reverts,
    restored_revision,
    undone_changes,
)
from neurotrale.annotations.write_requests import WriteOperation, WriteRequest, Written
from neurotrale.errors import MissingError
from neurotrale.metrics import count_held

log = logging.getLogger(__name__)


class PlannedWrite:
    """A request as a change of its file.

    Args:
        request: The request.
        is_wanted: Returns whether its client may still get the answer.
    """

    def __init__(self, request: WriteRequest, is_wanted: Callable[[], bool]) -> None:
        self.request, self.is_wanted = request, is_wanted
        self.saves: Saves | None = None  # of a put
        self.author = request.context.author
        self.intent = request.intent
        self.is_repeated = request.is_repeated
        self.key = request.context.key
        self.added: Collection[str] = ()  # by a patch
        self.newly_held = 0
        self.notes = NO_NOTES

    def decide(self, before: Before) -> Change:
        """Return the change; raises what the operation can raise."""
        if not self.is_wanted():
            raise MissingError("The client has gone; nothing was changed.")
        return _DECISIONS[self.request.operation](self, before)

    @cached_property
    def digest(self) -> str:
        """What tells the request from others with its operation id."""
        return digest_of(self.request)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the annotations, of a write of several."""
        if self.request.operation == "patch" and not self.request.id:
            return tuple(self.array.ids)
        return self.request.ids if self.request.operation == "delete" else ()

    @cached_property
    def array(self) -> Document:
        """The annotations of a patch of several."""
        return Document.parse(self.request.body)

    def check_same(self, earlier: KeyedOperation) -> None:
        """Check that an earlier request with the operation id was this one."""
        check_same_request(earlier, self.digest, self.request.file.display_path)

    def operation(self, applied: AppliedChange, change: Change) -> KeyedOperation:
        """Return what the record keeps of the request, which has an operation id."""
        written = self._written(applied, change.newly_held, change.notes)
        return operation_of(self.key, self.digest, written)

    def finish(self, applied: AppliedChange) -> Written:
        """Return the result of the request, and log it."""
        request, path = self.request, self.request.file.display_path
        if applied.operation is not None:
            log.info("%s %s: came again, and was not made again", request.operation, path)
            return answer_of(applied.operation, path, applied.etag, self.ids)
        newly_held, notes = self.newly_held, self.notes
        if applied.record is not None:  # of a repeated request only the record tells
            newly_held, notes = applied.record.newly_held, applied.record.save
            self.added = applied.record.added
        if request.operation in ("put", "patch", "delete"):
            detail = repr(request.id) if request.id else f"{len(request.body)} bytes"
            log.info("%s %s: %s", request.operation, path, detail)
        else:
            log.info("changed %s from its history", path)
        for warning in request.warnings:
            log.warning("%s %s: %s", request.operation, path, warning)
        if newly_held:
            count_held(newly_held)
            log.warning("put %s: held back the removal of %d annotations", path, newly_held)
        return self._written(applied, newly_held, notes)

    def _written(self, applied: AppliedChange, newly_held: int, notes: SaveNotes) -> Written:
        new = frozenset(self.added)
        return Written(
            self.request.file.display_path,
            applied.created if self.request.operation != "patch" else bool(new),
            applied.etag,
            self.request.warnings,
            newly_held,
            applied.changed,
            notes,
            self.ids,
            tuple(id_ for id_ in self.ids if id_ in new),
        )

    def put(self, before: Before) -> Change:
        """Replace the file, or merge what a viewer saves."""
        context, body = self.request.context, self.request.body
        assert self.saves is not None
        self.saves.begin(id(self))
        new = self.saves.parse(context, before, body)
        context.preconditions.check(before)
        content = before.content
        is_merged = context.viewer is not None and not context.preconditions.match
        if content is None or content.document is None or not is_merged:
            creates = not is_merged or bool(new.texts) or bool(self.key)
            if content is not None or creates:
                return self.saves.replace(context, content, new)
            return Change("put", (), creates=False)  # the viewer leaves a slice that has no file
        change = self.saves.merge(context, before, new)
        self.newly_held, self.notes = change.newly_held, change.notes
        return change

    def patch(self, before: Before) -> Change:
        """Replace or add one annotation, or several."""
        id_, path = self.request.id, self.request.file.display_path
        document = document_of(before.content, path)
        conditions = self.request.context.preconditions
        if not id_:
            upsert = upsert_all(document, self.array)
            conditions.check(before, None, upsert.present)
            self.added = upsert.added
            return Change("patch", upsert.hunks, upsert.index, _still_held(before, self.ids))
        old, annotation = document.find(id_), self.request.body
        conditions.check(before, old, () if old is None else (id_,))
        self.added = (id_,) if old is None else ()
        hunk, index = document.upsert(id_, annotation)
        return Change(
            "patch", [] if old == annotation else [hunk], index, _still_held(before, (id_,))
        )

    def delete(self, before: Before) -> Change:
        """Remove one annotation, or several."""
        id_, path = self.request.id, self.request.file.display_path
        document = document_of(before.content, path)
        if not id_:
            hunks, index = remove_all(document, self.ids, path)
            self.request.context.preconditions.check(before)
            return Change("delete", hunks, index, _still_held(before, self.ids))
        old = document.find(id_)
        if old is None:
            raise MissingError(f"There is no annotation {id_!r} in {path}.")
        self.request.context.preconditions.check(before, old)
        hunk, index = document.remove(id_)
        return Change("delete", [hunk], index, _still_held(before, (id_,)))

    def restore(self, before: Before) -> Change:
        """Restore the file to a revision."""
        assert self.request.revision is not None
        self.request.context.preconditions.check(before)
        return restored_revision(before, self._journal, self.request.revision)

    def restore_annotation(self, before: Before) -> Change:
        """Restore one annotation."""
        request = self.request
        request.context.preconditions.check(before)
        return restored_annotation(
            before, self._journal, request.file.display_path, request.id, request.revision
        )

    def restore_removed(self, before: Before) -> Change:
        """Restore what was removed."""
        self.request.context.preconditions.check(before)
        path = self.request.file.display_path
        return restored_removals(before, self._journal, path, self.request.since)

    def restore_reverted(self, before: Before) -> Change:
        """Bring back what saves of old copies have undone."""
        self.request.context.preconditions.check(before)
        path = self.request.file.display_path
        return restored_reverts(before, self._journal, path, self.request.since)

    def undo(self, before: Before) -> Change:
        """Undo what one author did."""
        request = self.request
        request.context.preconditions.check(before)
        path = request.file.display_path
        return undone_changes(
            before, self._journal, path, request.by, request.session, request.since
        )

    def confirm(self, before: Before) -> Change:
        """Remove what is held back."""
        self.request.context.preconditions.check(before)
        path, revision = self.request.file.display_path, self.request.revision
        document = document_of(before.content, path)
        found: Sequence[str] = before.held_removals
        if revision is not None:
            found = ignored_removals(before, self._journal, revision)
        confirmed = self.request.ids or tuple(found)
        unknown = [id_ for id_ in confirmed if id_ not in found]
        if unknown:
            raise MissingError(f"No removal of {unknown[0]!r} is held back in {path}.")
        content = document.without([id_ for id_ in confirmed if document.position(id_) is not None])
        hunks = hunks_between(document.content, content)
        return Change("confirm", hunks, held_removals=_still_held(before, confirmed))

    @property
    def _journal(self) -> Journal:
        return Journal(self.request.file.path)


def _still_held(before: Before, ids: Sequence[str]) -> list[str]:
    decided = frozenset(ids)
    return [id_ for id_ in before.held_removals if id_ not in decided]


_DECISIONS: dict[WriteOperation, Callable[[PlannedWrite, Before], Change]] = {
    "put": PlannedWrite.put,
    "patch": PlannedWrite.patch,
    "delete": PlannedWrite.delete,
    "restore": PlannedWrite.restore,
    "restore_annotation": PlannedWrite.restore_annotation,
    "restore_removed": PlannedWrite.restore_removed,
    "restore_reverted": PlannedWrite.restore_reverted,
    "undo": PlannedWrite.undo,
    "confirm": PlannedWrite.confirm,
}
