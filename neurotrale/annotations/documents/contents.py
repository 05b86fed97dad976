"""Contents of annotation files, with a cache of their indices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xxhash

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.index_files import IndexFiles
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.directories import status_of
from neurotrale.storage.ranges import FileRange, LargeBytes, OpenFile, Piece, blocks_in, blocks_of
from neurotrale.storage.regular import open_regular_fd

CACHED_BYTES = 64 * 2**20
CACHED_FILES = 4096

LARGE_BYTES = 4 * 2**20


class FileChangedError(Exception):
    """A file was changed by another program after it was read, and before it was replaced."""


@dataclass(frozen=True, slots=True)
class Content:
    """The whole content of one version of a file.

    Attributes:
        source: The bytes; of a large file those that somebody asks for.
        stamp: Stamp of the file that was read.
        etag: Hash of the bytes.
        index: Index of the annotations; None if the content is not a JSON array.
        parse_error: Why it is not a JSON array.
        is_assumed: Whether the ETag is what the stamp tells, and is still to be checked.
    """

    source: bytes | LargeBytes
    stamp: Stamp
    etag: str
    index: Index | None
    parse_error: str = ""
    is_assumed: bool = False

    def check(self) -> None:
        """Check an ETag that is assumed.

        Raises:
            FileChangedError: It is not that of the bytes.
        """
        if self.is_assumed and isinstance(self.source, LargeBytes) and not self.source.is_whole:
            _check_etag(self.etag, *self.source.pieces)

    @property
    def body(self) -> bytes:
        """The bytes.

        Raises:
            FileChangedError: They are no longer those that the ETag was made of.
        """
        return self.source if isinstance(self.source, bytes) else self.source.whole

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.source)

    @property
    def document(self) -> Document | None:
        """The content with its index; None if it is not a JSON array."""
        return None if self.index is None else Document(self.source, self.index)


def etag_of(*pieces: Piece) -> str:
    """Return the ETag of a content, given whole or in pieces: a hash of its bytes.

    Unlike one made of times, it differs for two edits within a second.
    """
    hashed = xxhash.xxh3_128()
    for piece in pieces:
        for block in blocks_in(piece):
            hashed.update(block)
    return hashed.hexdigest()


def etags_of_copy(descriptor: int, pieces: Sequence[Piece], old_size: int) -> tuple[str, str]:
    """Return the ETags of a changed copy of a file, and of the file that it is a copy of.

    All bytes that both have are read from the copy: they are those that will be there.

    Args:
        descriptor: The open copy.
        pieces: What it was made of: ranges of the old file, in order, and new bytes.
        old_size: Size of the old file.

    Returns:
        The ETag of the old file, and that of the copy.

    Raises:
        OSError: Not all bytes can be read.
    """
    old, new = xxhash.xxh3_128(), xxhash.xxh3_128()
    at = old_at = 0
    file: OpenFile | None = None
    for piece in pieces:
        if isinstance(piece, FileRange):
            file = piece.file
            for block in blocks_of(file.descriptor, old_at, piece.start):
                old.update(block)
            old_at = piece.stop
        for block in blocks_of(descriptor, at, at + len(piece)):
            new.update(block)
            if isinstance(piece, FileRange):
                old.update(block)
        at += len(piece)
    if file is not None:
        for block in blocks_of(file.descriptor, old_at, old_size):
            old.update(block)
    return old.hexdigest(), new.hexdigest()


def content_of(
    source: bytes | LargeBytes, stamp: Stamp, etag: str, index: Index | None = None
) -> Content:
    """Return a content, with the given index or a new one."""
    if index is None:
        try:
            index = Index.of(source if isinstance(source, bytes) else source.whole)
        except NotAnArrayError as error:
            return Content(source, stamp, etag, None, str(error))
    return Content(source, stamp, etag, index)


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
    document = content.document
    if document is None:
        raise DamagedError(
            display_path, f"{content.parse_error}. Keep a copy of the file, then PUT a whole one."
        )
    return document


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

    Args:
        files: Where processes share the indices of large files; None for nowhere.
        large_bytes: Files of this size need not be held in memory to change an annotation in them.
    """

    def __init__(self, files: IndexFiles | None = None, large_bytes: int = LARGE_BYTES) -> None:
        self.large_bytes = large_bytes
        self.files = files or IndexFiles()
        self._indices: VersionedCache[Index] = VersionedCache(
            CACHED_FILES, CACHED_BYTES, lambda index: index.size_bytes, "annotations"
        )
        self._etags: VersionedCache[str] = VersionedCache(CACHED_FILES)

    def read(self, path: Path, *, in_parts: bool = False, assume: bool = False) -> Content:
        """Read a file; take its index from the cache or compute it.

        Args:
            path: The file; links are not followed.
            in_parts: Whether to leave a large file on disk, until somebody needs all of it.
            assume: Whether one that has the stamp of a content known here may be taken for it until
                `Content.check`, or who copies it, looks at its bytes.

        Raises:
            IrregularFileError: The path is a link, a pipe, a directory or the like.
            FileChangedError: The file was changed while it was read in parts.
            OSError: The file cannot be read.
        """
        file = OpenFile(open_regular_fd(path))
        stamp = Stamp.of(os.fstat(file.descriptor))
        source: bytes | LargeBytes
        if in_parts and stamp.size >= self.large_bytes:
            known = self._etags.find(path, stamp.recorded) if assume else None
            etag = known or etag_of(FileRange(file, 0, stamp.size))
            source = LargeBytes([FileRange(file, 0, stamp.size)], partial(_check_etag, etag))
            index = self._indices.find(path, etag)
            if known and index is not None:
                return Content(source, stamp, etag, index, is_assumed=True)
            if known:  # without an index, all of it is read anyway
                return self.read(path, in_parts=True)
        else:
            source = _read_whole(file)
            etag = etag_of(source)
        self._etags.put(path, stamp.recorded, etag)
        index = self._indices.find(path, etag)
        if index is not None:
            return Content(source, stamp, etag, index)

        def compute() -> Index:
            return Index.of(source if isinstance(source, bytes) else source.whole)

        try:
            index = self.files.get(etag, len(source), compute)
        except NotAnArrayError as error:
            return Content(source, stamp, etag, None, str(error))
        self._indices.put(path, etag, index)
        return Content(source, stamp, etag, index)

    def cache_index(
        self, path: Path, etag: str, index: Index, stamp: Stamp, before: Content | None = None
    ) -> None:
        """Cache the index of a new content.

        Args:
            path: The file.
            etag: ETag of the content.
            index: Its index.
            stamp: Stamp of the new file.
            before: The content that it replaces.
        """
        self._indices.put(path, etag, index)
        self._etags.put(path, stamp.recorded, etag)
        self.files.put(etag, stamp.size, index, None if before is None else before.etag)

    def forget(self, path: Path) -> None:
        """Forget what is known of a file: it was read while it changed, or the index is wrong."""
        etag = self._etags.find_latest(path)
        self._etags.put(path, None, "")
        self._indices.put(path, None, Index.of(b"[]"))
        if etag:
            self.files.remove(etag)


def _read_whole(file: OpenFile) -> bytes:
    with os.fdopen(os.dup(file.descriptor), "rb") as stream:
        return stream.read()


def _check_etag(etag: str, *pieces: Piece) -> None:
    if etag_of(*pieces) != etag:
        raise FileChangedError("it was changed by another program while it was read")
