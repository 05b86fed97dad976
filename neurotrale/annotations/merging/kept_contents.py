"""The contents that clients saw, kept in memory: compressed, but for those of the moment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from threading import Lock

from cachetools import LRUCache

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.merging.seen import Seen
from neurotrale.storage.compression import pack, unpack

CONTENT_BYTES = 64 * 2**20  # compressed
WAITING_BYTES = 2**24  # not compressed yet
FRESH_BYTES = 2**25  # with their indices
_INDEX_BYTES = 256  # for each annotation, at most
SEEN_ANNOTATIONS = 100_000


class PackedContent:
    """A content as it is kept: compressed, as a file has many views, and they are alike."""

    __slots__ = ("packed",)

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed)

    def __call__(self) -> bytes:
        """Return the content.

        Raises:
            ValueError: It was damaged on disk.
        """
        return unpack(self.packed)


class KeptContents:
    """Contents by hash, as long as there is room.

    A new one waits to be compressed, so that a save does not wait for that; and while a viewer
    saves many times a second, most of them are never compressed at all.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._packed: LRUCache[str, PackedContent] = LRUCache(CONTENT_BYTES, len)
        self._waiting: dict[str, bytes] = {}
        self._users: dict[str, set[str]] = {}  # files for which a content waits
        self._seen: LRUCache[str, Seen] = LRUCache(SEEN_ANNOTATIONS, _cost)
        self._fresh: LRUCache[str, Document] = LRUCache(FRESH_BYTES, _size)

    def keep(self, etag: str, content: bytes, file: str) -> Callable[[], bytes]:
        """Keep a content; return what returns it.

        Args:
            etag: Its hash.
            content: The content.
            file: The file whose content it is, or may become.
        """
        surplus: list[str] = []
        with self._lock:
            if etag in self._waiting or etag not in self._packed:
                self._users.setdefault(etag, set()).add(file)
                self._waiting.setdefault(etag, content)
                surplus = self._surplus()
        packed = self._pack(surplus)
        return packed.get(etag) or self.find(etag) or PackedContent(pack(content))

    def find(self, etag: str) -> Callable[[], bytes] | None:
        """Return what returns a content; None if it is not kept."""
        with self._lock:
            waiting = self._waiting.get(etag)
            return self._packed.get(etag) if waiting is None else lambda: waiting

    def packed(self, etag: str) -> PackedContent | None:
        """Return a content that is compressed already."""
        with self._lock:
            return self._packed.get(etag)

    def add_packed(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Keep contents that are compressed."""
        with self._lock:
            for etag, packed in contents:
                with suppress(ValueError):  # larger than all the room
                    self._packed[etag] = PackedContent(packed)

    def pack_waiting(self) -> None:
        """Compress what waits for that."""
        with self._lock:
            waiting = list(self._waiting)
        self._pack(waiting)

    def drop(self, file: str, needed: Collection[str]) -> None:
        """Drop what waits although no client sees it any more.

        Args:
            file: The file.
            needed: Hashes of what its clients see.
        """
        with self._lock:
            for etag in [one for one in self._waiting if one not in needed]:
                users = self._users[etag]
                users.discard(file)
                if not users:
                    self._forget(etag)

    def refresh(self, etag: str, document: Document) -> None:
        """Have a content at hand with its index, as long as few others are used."""
        with self._lock, suppress(ValueError):  # larger than all the room
            self._fresh[etag] = document

    def fresh(self, etag: str) -> Document | None:
        """Return a content that is at hand."""
        with self._lock:
            return self._fresh.get(etag)

    def seen(self, etag: str) -> Seen | None:
        """Return a content as a client saw it; None if it is not kept.

        Raises:
            ValueError: It is not a JSON array, or was damaged on disk.
        """
        with self._lock:
            document, seen = self._fresh.get(etag), self._seen.get(etag)
        if document is not None:
            return Seen(document, etag=etag)
        if seen is not None:
            return seen
        load = self.find(etag)
        if load is None:
            return None
        seen = Seen(Document.parse(load()), load, etag=etag)
        seen.release()
        if isinstance(load, PackedContent):  # others would stay in memory
            with self._lock, suppress(ValueError):  # larger than all the room
                self._seen[etag] = seen
        return seen

    def _surplus(self) -> list[str]:
        size, surplus = sum(map(len, self._waiting.values())), []
        for etag, content in self._waiting.items():  # the oldest first
            if size <= WAITING_BYTES:
                break
            size -= len(content)
            surplus.append(etag)
        return surplus

    def _pack(self, etags: Iterable[str]) -> dict[str, PackedContent]:
        all_packed = {}
        for etag in etags:
            with self._lock:
                content = self._waiting.get(etag)
            if content is None:  # dropped, or packed by another thread
                continue
            packed = all_packed[etag] = PackedContent(pack(content))
            del content
            with self._lock:
                if etag in self._waiting:
                    with suppress(ValueError):  # larger than all the room
                        self._packed[etag] = packed
                    self._forget(etag)
        return all_packed

    def _forget(self, etag: str) -> None:
        del self._waiting[etag], self._users[etag]


def _cost(seen: Seen) -> int:
    packed = len(seen.load) if isinstance(seen.load, PackedContent) else 0
    return 1 + len(seen.texts) + packed // _INDEX_BYTES


def _size(document: Document) -> int:
    return len(document.content) + _INDEX_BYTES * len(document.index)
