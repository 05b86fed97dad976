"""The writes that clients ask for: as changes of a file, and applied together.

Writes of one file that come at the same time are applied together: one lock, one replacement of the
file, and a journal record each. Every write meets the file as the one before it leaves it, and a
write that is refused leaves it unchanged for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Protocol

from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.journals.changes import AppliedChange, WriteContext
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.merging.saves import Saves
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.planned_writes import PlannedWrite
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.locking.writers import remove_claims


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
        on_change: Called with the path of a file, relative to the data root, when it was changed.
    """

    def __init__(
        self,
        changes: FileChanges,
        views: Views | None = None,
        on_change: Callable[[str], None] = lambda filename: None,
    ) -> None:
        self.changes, self.views, self.on_change = changes, views or Views(None), on_change
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
        planned = [
            PlannedWrite(request, is_wanted)
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
        if any(isinstance(result, AppliedChange) and result.changed for result in applied):
            self.on_change(file.display_path)
        return [
            result if isinstance(result, Exception) else plan.finish(result)
            for plan, result in zip(planned, applied, strict=True)
        ]
