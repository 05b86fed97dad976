"""Files in which the processes of a service share indices, and find them again after a restart.

They are in a temporary directory of the service, whose files all its processes map; those of large
contents also in a hidden directory of the data root, whose files are only read: on a network file
system, whoever maps a file that is gone is killed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

from neurotrale.annotations.index import Index
from neurotrale.annotations.index_directory import IndexDirectory
from neurotrale.storage.state import STATE

SHARED_BYTES = 100_000
"""A content of this size has an index that is worth sharing."""

KEPT_BYTES = 4 * 2**20
"""A content of this size has one that is worth keeping until after a restart."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    size: int
    index: Index
    before: frozenset[str]  # contents that are no longer there


class IndexFiles:
    """The indices of large contents, as the processes of a service share them.

    Args:
        shelf: A temporary directory of the service, in which only its user can write; None for
            none.
        root: The data root, in whose hidden directory indices are kept; None to keep none.
        keep: Whether anything may be stored in the data root.
    """

    def __init__(
        self, shelf: Path | None = None, root: Path | None = None, *, keep: bool = True
    ) -> None:
        self._shelf = None
        if shelf is not None:  # others in it look at what has no suffix
            self._shelf = IndexDirectory(shelf / "indices.shared", is_mapped=True)
        self._kept = None
        if root is not None and keep:
            self._kept = IndexDirectory(root / STATE / "indices", is_mapped=False)
        self._waiting: dict[str, _Waiting] = {}
        self._changed = Condition()
        self._is_storing = False

    def get(self, etag: str, size: int, compute: Callable[[], Index]) -> Index:
        """Return the index of a content; compute and store it if necessary.

        While one process computes it, the others wait: all of them at once would take longer.

        Args:
            etag: ETag of the content.
            size: Its size in bytes.
            compute: Computes the index; may raise.
        """
        if not self._is_shared(size):
            return compute()
        index = self._find(etag, size)
        if index is None and self._shelf is not None:
            with self._shelf.alone(etag):
                index = self._find(etag, size)
                if index is None:
                    index = compute()
                    self._shelf.put(etag, size, index)  # before the next one looks for it
                    if self._kept is not None and size >= KEPT_BYTES:
                        self.put(etag, size, index)
        return index or compute()

    def put(self, etag: str, size: int, index: Index, before: str | None = None) -> None:
        """Store the index of a content in the background.

        Args:
            etag: ETag of the content.
            size: Its size in bytes.
            index: The index.
            before: ETag of the content that it replaces, whose index is removed.
        """
        if not self._is_shared(size):
            return
        with self._changed:
            replaced = {before} - {None, etag}
            if before in self._waiting:  # what is replaced before it is stored need not be stored
                replaced |= self._waiting.pop(before).before
            self._waiting[etag] = _Waiting(size, index, frozenset(filter(None, replaced)))
            if not self._is_storing:
                self._is_storing = True
                Thread(target=self._store, name="store-indices", daemon=True).start()

    def remove(self, etag: str) -> None:
        """Remove the index of a content."""
        self.flush()
        for place in self._places():
            place.remove(etag)

    def flush(self) -> None:
        """Wait until all that is to be stored is stored."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_storing)

    def _is_shared(self, size: int) -> bool:
        return size >= SHARED_BYTES and bool(self._places())

    def _places(self) -> list[IndexDirectory]:
        return [place for place in (self._shelf, self._kept) if place is not None]

    def _find(self, etag: str, size: int) -> Index | None:
        for place in self._places():
            index = place.find(etag, size)
            if index is not None:
                if place is self._kept:
                    self.put(etag, size, index)  # on the shelf, too
                return index
        return None

    def _store(self) -> None:
        while True:
            with self._changed:
                etag = next(iter(self._waiting), None)
                if etag is None:
                    self._is_storing = False
                    self._changed.notify_all()
                    return
                one = self._waiting.pop(etag)
            for place in self._places():
                if place is self._shelf or one.size >= KEPT_BYTES:
                    place.put(etag, one.size, one.index)
                for before in one.before:
                    place.remove(before)
