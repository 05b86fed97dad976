"""Contents of annotation files, with a cache of their indices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash

from neurotrale.annotations.document import Document, Index
from neurotrale.annotations.pieces import NotAnArrayError
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.directories import status_of
from neurotrale.storage.regular import open_regular

CACHED_ANNOTATIONS = 2_000_000
CACHED_FILES = 4096


@dataclass(frozen=True, slots=True)
class Content:
    """The whole content of one version of a file.

    Attributes:
        body: The bytes.
        stamp: Stamp of the file that was read.
        etag: Hash of the bytes.
        index: Index of the annotations; None if the content is not a JSON array.
        parse_error: Why it is not a JSON array.
    """

    body: bytes
    stamp: Stamp
    etag: str
    index: Index | None
    parse_error: str = ""

    @property
    def document(self) -> Document | None:
        """The content with its index; None if it is not a JSON array."""
        return None if self.index is None else Document(self.body, self.index)


def etag_of(*pieces: bytes | memoryview) -> str:
    """Return the ETag of a content, given whole or in pieces: a hash of its bytes.

    Unlike one made of times, it differs for two edits within a second.
    """
    hashed = xxhash.xxh3_128()
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()


def content_of(body: bytes, stamp: Stamp, etag: str, index: Index | None = None) -> Content:
    """Return a content, with the given index or a new one."""
    if index is None:
        try:
            index = Index.of(body)
        except NotAnArrayError as error:
            return Content(body, stamp, etag, None, str(error))
    return Content(body, stamp, etag, index)


def document_of(content: Content | None, display_path: str) -> Document:
    """Return the document of a file that must exist and be valid.

    Args:
        content: Content of the file; None if it does not exist.
        display_path: Its path for errors.

    Raises:
        MissingError: The file does not exist.
        DamagedError: The file is empty or not a JSON array.
    """
    if content is None:
        raise MissingError(f"There is nothing at {display_path!r}.")
    if content.index is None:
        raise DamagedError(
            display_path, f"{content.parse_error}. Keep a copy of the file, then PUT a whole one."
        )
    return Document(content.body, content.index)


def recorded_stamp(path: Path) -> str:
    """Return the stamp of a file as journals record it; empty if it does not exist."""
    try:
        return Stamp.of(status_of(path)).recorded
    except FileNotFoundError:
        return ""


class Contents:
    """Reads annotation files; caches the index of the latest content of each.

    Contents are identified by the hash of the bytes that were read, never by the file's size and
    times: other programs can set those, and some file systems only store whole seconds. With the
    index of other bytes, a change would write into the middle of an annotation.
    """

    def __init__(self) -> None:
        self._indices: VersionedCache[Index] = VersionedCache(CACHED_FILES, CACHED_ANNOTATIONS, len)

    def read(self, path: Path) -> Content:
        """Read a file; take its index from the cache or compute it.

        Args:
            path: The file; links are not followed.

        Raises:
            IrregularFileError: The path is a link, a pipe, a directory or the like.
            OSError: The file cannot be read.
        """
        with open_regular(path) as file:
            stamp = Stamp.of(os.fstat(file.fileno()))
            body = file.read()
        etag = etag_of(body)
        index = self._indices.find(path, etag)
        content = content_of(body, stamp, etag, index)
        if index is None and content.index is not None:
            self.cache_index(path, etag, content.index)
        return content

    def cache_index(self, path: Path, etag: str, index: Index) -> None:
        """Cache the index of a content."""
        self._indices.put(path, etag, index)
