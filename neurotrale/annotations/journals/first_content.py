"""The content of an annotation file before its first recorded change, kept beside its journal."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from neurotrale.annotations.documents.contents import Content, etag_of
from neurotrale.annotations.journals.journal_records import ContentState
from neurotrale.storage.atomic import create_file, fsync_directory
from neurotrale.storage.cache import Stamp
from neurotrale.storage.directories import directory_of
from neurotrale.storage.permissions import follow, permissions_of
from neurotrale.storage.regular import open_companion, open_regular_fd, remove_regular


class FirstContent:
    """The content of one annotation file before its first recorded change.

    Args:
        file: Path of the annotation file.
        path: Where the content is kept.
    """

    def __init__(self, file: Path, path: Path) -> None:
        self.file = file
        self.path = path

    def read(self) -> bytes | None:
        """Return the content; None if there was no file."""
        try:
            with open_companion(self.path, self.file) as base:
                return base.read()
        except FileNotFoundError:
            return None

    def save(self, content: Content | None) -> None:
        """Keep the current content of the file; None if it does not exist."""
        self.remove()
        if content is None:
            return
        if not self._link(content):  # no hard links on this file system, or not permitted
            create_file(self.path, [content.body], like=self.file)
        fsync_directory(self.path.parent)

    def remove(self) -> None:
        """Remove the content that a record did not follow after all."""
        remove_regular(self.path)

    def follow_file(self, is_first: Callable[[ContentState], bool]) -> None:
        """Let those read the content who may read the file now, if it surely is that content.

        Args:
            is_first: Returns whether the journal knows a content as an earlier one of the file.
        """
        with suppress(OSError), open_companion(self.path, self.file) as base:
            body = base.read()
            if is_first(ContentState(len(body), etag_of(body))):
                follow(base.fileno(), permissions_of(self.file))

    def _link(self, content: Content) -> bool:
        """Make a hard link to the file; return False if the file is not the one that was read."""
        try:
            directory, name = directory_of(self.file)
            directory.link(name, self.path.name)
        except OSError:
            return False
        if self._is_link_to(content):
            return True
        directory.unlink(self.path.name)
        return False

    def _is_link_to(self, content: Content) -> bool:
        try:
            descriptor = open_regular_fd(self.path)
        except OSError:
            return False
        try:
            return Stamp.of(os.fstat(descriptor)).recorded == content.stamp.recorded
        finally:
            os.close(descriptor)
