"""The writes that clients ask for: as changes of a file, and applied together.

Writes of one file that come at the same time are applied together: one lock, one replacement of the
file, and a journal record each. Every write meets the file as the one before it leaves it, and a
write that is refused leaves it unchanged for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Protocol

from neurotrale.annotations.changes import AppliedChange, Before, Change, WriteContext
from neurotrale.annotations.contents import document_of
from neurotrale.annotations.diff import hunks_between
from neurotrale.annotations.index import Index
from neurotrale.annotations.journal import Journal
from neurotrale.annotations.restore import (
    ignored_removals,
    restored_annotation,
    restored_removals,
    restored_reverts,
    restored_revision,
    undone_changes,
)
from neurotrale.annotations.saves import Saves
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.view_store import Views
from neurotrale.annotations.viewers import NO_NOTES, Viewer
from neurotrale.annotations.write_requests import WriteOperation, WriteRequest, Written
from neurotrale.errors import MissingError
from neurotrale.locking.writers import remove_claims
from neurotrale.metrics import count_held

log = logging.getLogger(__name__)


class AnnotationWriter(Protocol):
    """Applies writes, in this process or in another one."""

    def resumed(self, context: WriteContext) -> Written | None:
        """Return the result of a request that waited for it without a thread; None for a new one.

        A request that is answered the second time need not be checked again.
        """

    def write(self, request: WriteRequest) -> Written:
        """Apply a write; raises what the operation can raise."""

    def saw(self, viewer: Viewer, file: str, etag: str, arrived_ns: int) -> None:
        """Record that a client asked for a file, see `Views.saw`; nobody waits for it."""


class FileWriter:
    """Applies writes in this process.

    Args:
        changes: Changes files.
        views: What clients saw of them.
        before: Called with the path of a file, relative to the data root, before it is changed.
    """

    def __init__(
        self,
        changes: FileChanges,
        views: Views | None = None,
        before: Callable[[str], None] = lambda filename: None,
    ) -> None:
        self.changes, self.views, self.before = changes, views or Views(None), before
        changes.bursts.loaded = self.views.loaded

    def saw(self, viewer: Viewer, file: str, etag: str, arrived_ns: int) -> None:
        """Record that a client asked for a file, see `Views.saw`."""
        self.views.saw(viewer, file, etag, arrived_ns)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Use this process for nothing but writes: load what they need, and in the end store all.

        What is stored is what the service would like to know after a restart.
        """
        Thread(target=Index.of, args=(b"[]",), name="load", daemon=True).start()
        try:
            yield
        finally:
            self.changes.bursts.close()
            self.views.close()
            self.changes.contents.files.flush()
            remove_claims()

    def resumed(self, context: WriteContext) -> None:
        """Return None: in this process, every write is applied at once."""

    def write(self, request: WriteRequest) -> Written:
        """Apply one write.

        Raises:
            ChangedError: A precondition does not hold.
            MissingError, ConflictError, DamagedError: The operation is not possible on this file.
            BusyError, ReadOnlyError, DiskFullError: The file could not be written.
        """
        (result,) = self.write_together([request])
        if isinstance(result, Exception):
            raise result
        return result

    def write_together(
        self, requests: Sequence[WriteRequest], wanted: Sequence[Callable[[], bool]] = ()
    ) -> list[Written | Exception]:
        """Apply writes of one file in their order, with one replacement of the file.

        Args:
            requests: The writes.
            wanted: For each of them, returns whether its client may still get the answer. One whose
                connection has broken may have sent a newer write since: the older one is dropped.

        Returns:
            What `write` would return or raise for each of them.

        Raises:
            BusyError, ReadOnlyError, DiskFullError: None of them was applied.
        """
        file = requests[0].file
        self.before(file.display_path)
        planned = [
            _Planned(request, is_wanted)
            for request, is_wanted in zip(
                requests, wanted or [lambda: True] * len(requests), strict=True
            )
        ]
        puts = [plan for plan in planned if plan.request.operation == "put"]
        saves = Saves(self.views, file) if puts else None
        for plan in puts:
            plan.saves = saves
        applied = self.changes.change_together(file.path, file.display_path, planned)
        if saves is not None:
            saves.finish()
        return [
            result if isinstance(result, Exception) else plan.finish(result)
            for plan, result in zip(planned, applied, strict=True)
        ]


class _Planned:
    """A request as a change of its file; each method decides one operation."""

    def __init__(self, request: WriteRequest, is_wanted: Callable[[], bool]) -> None:
        self.request, self.is_wanted = request, is_wanted
        self.saves: Saves | None = None  # of a put
        self.author = request.context.author
        self.intent = request.intent
        self.is_repeated = request.is_repeated
        self.created = False
        self.newly_held = 0
        self.notes = NO_NOTES

    def decide(self, before: Before) -> Change:
        if not self.is_wanted():
            raise MissingError("The client has gone; nothing was changed.")
        return _DECISIONS[self.request.operation](self, before)

    def finish(self, applied: AppliedChange) -> Written:
        request = self.request
        created = applied.created
        if request.operation == "patch":
            # Of a repeated request only the record tells.
            created = self.created if applied.record is None else request.id in applied.record.added
        newly_held = self.newly_held if applied.record is None else applied.record.newly_held
        path = request.file.display_path
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
        notes = self.notes if applied.record is None else applied.record.save
        return Written(
            path, created, applied.etag, request.warnings, newly_held, applied.changed, notes
        )

    def put(self, before: Before) -> Change:
        context, body = self.request.context, self.request.body
        assert self.saves is not None
        self.saves.begin(id(self))
        new = self.saves.parse(context, before, body)
        context.preconditions.check(before)
        content = before.content
        is_merged = context.viewer is not None and not context.preconditions.match
        if content is None or content.document is None or not is_merged:
            creates = not is_merged or bool(new.texts)
            if content is not None or creates:
                return self.saves.replace(context, content, new)
            return Change("put", (), creates=False)  # the viewer leaves a slice that has no file
        change = self.saves.merge(context, before, new)
        self.newly_held, self.notes = change.newly_held, change.notes
        return change

    def patch(self, before: Before) -> Change:
        id_, annotation = self.request.id, self.request.body
        document = document_of(before.content, self.request.file.display_path)
        old = document.find(id_)
        self.request.context.preconditions.check(before, old)
        self.created = old is None
        hunk, index = document.upsert(id_, annotation)
        held_removals = [other for other in before.held_removals if other != id_]
        return Change("patch", [] if old == annotation else [hunk], index, held_removals)

    def delete(self, before: Before) -> Change:
        id_, path = self.request.id, self.request.file.display_path
        document = document_of(before.content, path)
        old = document.find(id_)
        if old is None:
            raise MissingError(f"There is no annotation {id_!r} in {path}.")
        self.request.context.preconditions.check(before, old)
        hunk, index = document.remove(id_)
        held_removals = [other for other in before.held_removals if other != id_]
        return Change("delete", [hunk], index, held_removals)

    def restore(self, before: Before) -> Change:
        assert self.request.revision is not None
        self.request.context.preconditions.check(before)
        return restored_revision(before, self._journal, self.request.revision)

    def restore_annotation(self, before: Before) -> Change:
        request = self.request
        request.context.preconditions.check(before)
        return restored_annotation(
            before, self._journal, request.file.display_path, request.id, request.revision
        )

    def restore_removed(self, before: Before) -> Change:
        self.request.context.preconditions.check(before)
        path = self.request.file.display_path
        return restored_removals(before, self._journal, path, self.request.since)

    def restore_reverted(self, before: Before) -> Change:
        self.request.context.preconditions.check(before)
        path = self.request.file.display_path
        return restored_reverts(before, self._journal, path, self.request.since)

    def undo(self, before: Before) -> Change:
        request = self.request
        request.context.preconditions.check(before)
        path = request.file.display_path
        return undone_changes(
            before, self._journal, path, request.by, request.session, request.since
        )

    def confirm(self, before: Before) -> Change:
        self.request.context.preconditions.check(before)
        path, revision = self.request.file.display_path, self.request.revision
        document = document_of(before.content, path)
        found: Sequence[str] = before.held_removals
        if revision is not None:
            found = ignored_removals(before, self._journal, revision)
        confirmed = list(self.request.ids) or list(found)
        unknown = [id_ for id_ in confirmed if id_ not in found]
        if unknown:
            raise MissingError(f"No removal of {unknown[0]!r} is held back in {path}.")
        still_held = [id_ for id_ in before.held_removals if id_ not in confirmed]
        content = document.without([id_ for id_ in confirmed if document.position(id_) is not None])
        hunks = hunks_between(document.content, content)
        return Change("confirm", hunks, held_removals=still_held)

    @property
    def _journal(self) -> Journal:
        return Journal(self.request.file.path)


_DECISIONS: dict[WriteOperation, Callable[[_Planned, Before], Change]] = {
    "put": _Planned.put,
    "patch": _Planned.patch,
    "delete": _Planned.delete,
    "restore": _Planned.restore,
    "restore_annotation": _Planned.restore_annotation,
    "restore_removed": _Planned.restore_removed,
    "restore_reverted": _Planned.restore_reverted,
    "undo": _Planned.undo,
    "confirm": _Planned.confirm,
}
