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

from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.index_directory import IndexDirectory
from neurotrale.storage.state import STATE

SHARED_BYTES = 2**20
"""A content of this size has an index that is worth sharing."""

KEPT_BYTES = 4 * 2**20
"""A content of this size has one that is worth keeping until after a restart."""

_REST_S = 1.0  # without changes, before anything is kept: during a drag, each lasts for a moment


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
        self._is_storing = self._is_hurried = False

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
        return compute() if index is None else index

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
            _replace(self._waiting, etag, _Waiting(size, index, frozenset([before or etag])))
            if not self._is_storing:
                self._is_storing = True
                Thread(target=self._store, name="store-indices", daemon=True).start()
            self._changed.notify_all()

    def remove(self, etag: str) -> None:
        """Remove the index of a content."""
        self.flush()
        for place in self._places():
            place.remove(etag)

    def flush(self) -> None:
        """Wait until all that is to be stored is stored."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_storing)
            self._is_hurried = False

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
        resting: dict[str, _Waiting] = {}  # on the shelf, and to be kept
        while True:
            with self._changed:
                if resting and not self._waiting and not self._is_hurried:
                    self._changed.wait(_REST_S)
                etag = next(iter(self._waiting), None)
                if etag is None and not resting:
                    self._is_storing = False
                    self._changed.notify_all()
                    return
                one = None if etag is None else self._waiting.pop(etag)
            if etag is not None and one is not None:
                _put(self._shelf, etag, one)
                if self._kept is not None and one.size >= KEPT_BYTES:
                    _replace(resting, etag, one)
                continue
            for etag, one in resting.items():
                _put(self._kept, etag, one)
            resting.clear()


def _replace(waiting: dict[str, _Waiting], etag: str, new: _Waiting) -> None:
    """Add an index in place of those of contents that it replaces: these need not be stored."""
    before = set(new.before)
    for one in new.before & waiting.keys():
        before |= waiting.pop(one).before
    waiting[etag] = _Waiting(new.size, new.index, frozenset(before - {etag}))


def _put(place: IndexDirectory | None, etag: str, one: _Waiting) -> None:
    if place is None:
        return
    place.put(etag, one.size, one.index)
    for before in one.before:
        place.remove(before)
