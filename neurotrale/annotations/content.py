"""The content of an annotation file as it is read, and the index that is kept of it."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import xxhash

from neurotrale.annotations.document import Document, Index, NotAnArrayError
from neurotrale.files import Stamp, is_settled

KEPT_ANNOTATIONS = 2_000_000
KEPT_FILES = 4096


@dataclass(frozen=True, slots=True)
class Content:
    """One version of a file, read whole.

    Attributes:
        body: Its bytes.
        stamp: What told it from other versions when it was read.
        etag: What tells it from other contents.
        index: Where its annotations stand; None when it is no JSON array.
        mistake: Why it is none.
    """

    body: bytes
    stamp: Stamp
    etag: str
    index: Index | None
    mistake: str = ""

    @property
    def document(self) -> Document | None:
        """The content with its index, when it has one."""
        return None if self.index is None else Document(self.body, self.index)


def etag_of(*pieces: bytes | memoryview) -> str:
    """Identify a content, given whole or in pieces.

    Two edits within one second differ, the same content is the same.
    """
    hashed = xxhash.xxh3_128()
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()


class Contents:
    """Reads annotation files; an index is made once for each version of a file.

    A version is told by inode, size and time of change in nanoseconds. Our own writes set that
    time from a clock that never gives the same twice; a file that another program has only just
    written is indexed anew each time, until its time of change is safely past.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[Stamp, str, Index]] = OrderedDict()
        self._annotations = 0
        self._lock = Lock()

    def read(self, path: Path) -> Content:
        """Read a file and look up, or make, its index.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            body = file.read()
        stamp = Stamp.of(status)
        with self._lock:
            kept = self._kept.get(path)
            if kept is not None and kept[0] == stamp and len(body) == stamp.size:
                self._kept.move_to_end(path)
                return Content(body, stamp, kept[1], kept[2])
        try:
            index = Index.of(body)
        except NotAnArrayError as error:
            return Content(body, stamp, etag_of(body), None, str(error))
        content = Content(body, stamp, etag_of(body), index)
        if is_settled(status.st_mtime_ns):
            self.keep(path, stamp, content.etag, index)
        return content

    def keep(self, path: Path, stamp: Stamp, etag: str, index: Index) -> None:
        """Remember the index of a version."""
        with self._lock:
            self._drop(path)
            self._kept[path] = stamp, etag, index
            self._annotations += len(index)
            while self._annotations > KEPT_ANNOTATIONS or len(self._kept) > KEPT_FILES:
                self._drop(next(iter(self._kept)))

    def _drop(self, path: Path) -> None:
        old = self._kept.pop(path, None)
        if old is not None:
            self._annotations -= len(old[2])
