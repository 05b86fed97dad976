"""Reads and writes annotation files: one lock, one read, one pure change, one durable write."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neurotrale.annotations.blocks import Blocks
from neurotrale.annotations.document import (
    Document,
    NotAnArrayError,
    checked_annotation,
    checked_array,
)
from neurotrale.annotations.locks import Locks
from neurotrale.durable import fsync_directory, replace_file
from neurotrale.errors import DamagedError, MissingError, NameTooLongError, ReadOnlyError
from neurotrale.faults import reading, writing
from neurotrale.names import NAME_MAX_BYTES, AnnotationName, Parts
from neurotrale.tree import Tree

log = logging.getLogger(__name__)

# Room for the names of the lock and of the temporary file beside an annotation file.
LEAF_MAX_BYTES = NAME_MAX_BYTES - 40


@dataclass(frozen=True, slots=True)
class Content:
    """A file, or one annotation of it, as it was read."""

    body: bytes
    etag: str
    mtime_s: float


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did."""

    filename: str
    """Relative to the data root."""
    created: bool
    """Whether the file (PUT) or the annotation (PATCH) is new."""
    etag: str
    warnings: tuple[str, ...] = ()


class AnnotationStore:
    """The annotation files of all data sets below the root.

    Args:
        tree: The data root.
        locks: One writer at a time.
        read_only: Refuse every write.
    """

    def __init__(self, tree: Tree, locks: Locks, *, read_only: bool = False) -> None:
        self.tree = tree
        self.blocks = Blocks(tree)
        self.locks = locks
        self.read_only = read_only

    def read(self, name: AnnotationName) -> Content:
        """Read a whole file.

        Raises:
            MissingError: There is no such file.
            DamagedError: It is empty or no JSON array.
        """
        path = self._existing(name)
        content, mtime_s = self._content(path)
        self._document(path, content)
        return Content(content, content_etag(content), mtime_s)

    def read_one(self, name: AnnotationName, id_: str) -> Content:
        """Read one annotation.

        Raises:
            MissingError: There is no such file, or no annotation of this id in it.
            DamagedError: The file is empty or no JSON array.
        """
        path = self._existing(name)
        content, mtime_s = self._content(path)
        annotation = self._document(path, content).find(id_)
        if annotation is None:
            raise self._no_annotation(path, id_)
        return Content(annotation, content_etag(annotation), mtime_s)

    def put(self, name: AnnotationName, body: bytes) -> Written:
        """Replace a whole file, or create it (and its block's directory).

        Raises:
            BadInputError, RuleBrokenError: The body is refused; nothing was changed.
            MissingError: There is no such data set, or the block lies outside the volume.
        """
        self._check_writable()
        warnings = checked_array(body)
        path = self._placed(name)
        what = self.tree.relative(path)
        with self.locks.hold(path, what):
            created = not os.path.lexists(path)
            with writing(what):
                replace_file(path, body)
        self._log(what, "put", f"{len(body)} bytes", warnings)
        return Written(what, created, content_etag(body), tuple(warnings))

    def patch(self, name: AnnotationName, id_: str, body: bytes) -> Written:
        """Replace one annotation, or add it.

        Raises:
            BadInputError, RuleBrokenError: The body is refused; nothing was changed.
            MissingError: There is no such file.
            ConflictError: The id stands in the file more than once.
            DamagedError: The file is empty or no JSON array.
        """
        self._check_writable()
        annotation, warnings = checked_annotation(body, id_)
        path, etag, created = self._change(
            name,
            lambda document: (document.with_annotation(id_, annotation), id_ not in document.ids),
        )
        self._log(path, "patch", repr(id_), warnings)
        return Written(path, created, etag, tuple(warnings))

    def delete(self, name: AnnotationName, id_: str) -> Written:
        """Remove one annotation.

        Raises:
            MissingError: There is no such file, or no annotation of this id in it.
            ConflictError: The id stands in the file more than once.
            DamagedError: The file is empty or no JSON array.
        """

        def without(document: Document) -> tuple[bytes, bool]:
            if id_ not in document.ids:
                raise self._no_annotation(self._existing(name), id_)
            return document.without_annotation(id_), False

        path, etag, _ = self._change(name, without)
        self._log(path, "delete", repr(id_), [])
        return Written(path, False, etag)

    def _change(
        self, name: AnnotationName, change: Callable[[Document], tuple[bytes, bool]]
    ) -> tuple[str, str, bool]:
        self._check_writable()
        path = self._existing(name)
        what = self.tree.relative(path)
        with self.locks.hold(path, what):
            content, _ = self._content(path)
            new, created = change(self._document(path, content))
            with writing(what):
                replace_file(path, new)
        return what, content_etag(new), created

    def _existing(self, name: AnnotationName) -> Path:
        directory = self.blocks.directory(name)
        path = self.tree.path((*directory.parts, name.leaf))
        with reading(self.tree.relative(path)):
            mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise MissingError(f"{self.tree.relative(path)} is not a file.")
        return path

    def _placed(self, name: AnnotationName) -> Path:
        """Find where a file is or goes, and make the directories that it needs."""
        if len(name.leaf.encode()) > LEAF_MAX_BYTES:
            raise NameTooLongError(f"A file name may have {LEAF_MAX_BYTES} bytes here.")
        if not self.tree.is_dataset(name.dataset):
            raise MissingError(
                f"There is no data set {'/'.join(name.dataset)!r}: it needs an 'info' file or an"
                " 'annotations' directory."
            )
        directory = self.blocks.directory(name)
        path = self.tree.path((*directory.parts, name.leaf))
        if os.path.lexists(path) and not path.is_file():
            raise MissingError(f"{self.tree.relative(path)} is not a file.")
        if not directory.exists:
            self._make_directories(directory.parts)
        return path

    def _make_directories(self, parts: Parts) -> None:
        for depth in (len(parts) - 1, len(parts)):
            path = self.tree.path(parts[:depth])
            with writing("/".join(parts)):
                try:
                    path.mkdir()
                    fsync_directory(path.parent)
                except FileExistsError:  # another writer was quicker, or it was there
                    if not path.is_dir():
                        raise MissingError(
                            f"{self.tree.relative(path)} is not a directory."
                        ) from None

    def _content(self, path: Path) -> tuple[bytes, float]:
        with reading(self.tree.relative(path)), path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime

    def _document(self, path: Path, content: bytes) -> Document:
        try:
            return Document.parse(content)
        except NotAnArrayError as error:
            raise DamagedError(
                self.tree.relative(path), f"{error}. A PUT of the whole file mends it."
            ) from error

    def _no_annotation(self, path: Path, id_: str) -> MissingError:
        return MissingError(f"There is no annotation {id_!r} in {self.tree.relative(path)}.")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(
                "This service is read-only: nothing was changed. It was started with --read-only."
            )

    def _log(self, what: str, operation: str, detail: str, warnings: list[str]) -> None:
        log.info("%s %s: %s", operation, what, detail)
        for warning in warnings:
            log.warning("%s %s: %s", operation, what, warning)


def content_etag(content: bytes) -> str:
    """Identify a content: two edits within one second differ."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
