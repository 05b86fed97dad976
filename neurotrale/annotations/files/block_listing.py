"""Lists the blocks of a dataset, and the annotation files of each, with few system calls.

A dataset may have a hundred thousand blocks. Each is opened once, relative to the directory above
it; its files are examined and read in the open directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neurotrale.annotations.files.blocks import ANNOTATIONS
from neurotrale.errors import MissingError, NameTooLongError, raise_read_error, reading
from neurotrale.storage.cache import Stamp
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.names import Parts, check_name

_BLOCK_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_HIDDEN = "."
_COMPANIONS = (".journal", ".burst")


class ReadableFile(Protocol):
    """An annotation file that can be read."""

    @property
    def path(self) -> Path:
        """Its path, links resolved."""

    @property
    def display_path(self) -> str:
        """Its path relative to the data root, for answers and errors."""

    def current_stamp(self) -> Stamp:
        """Return its version; raises what `read` can raise."""

    def read(self) -> tuple[bytes, Stamp, bool]:
        """Return its content, the version it had before that, and whether that was settled then.

        Raises:
            MissingError: It does not exist.
            ReadOnlyError, BusyError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ListedFile:
    """An annotation file, as it was when its block was listed.

    Attributes:
        display_path: Path relative to the data root.
        leaf: Its name in the block.
        directory: The open directory that it is in: that of its block, or where a link leads.
        name: Its name there.
        stamp: Its version.
    """

    display_path: str
    leaf: str
    directory: Directory
    name: str
    stamp: Stamp

    @property
    def path(self) -> Path:
        """Path of the file, links resolved."""
        return self.directory.path_of(self.name)

    def current_stamp(self) -> Stamp:
        """Return its version when it was listed, a moment ago."""
        return self.stamp

    def read(self) -> tuple[bytes, Stamp, bool]:
        """Read the file; see `ReadableFile.read`.

        Raises:
            MissingError: It has been removed, or is not a regular file any more.
            ReadOnlyError, BusyError: It cannot be read.
        """
        try:
            descriptor = self.directory.open(self.name)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise MissingError(f"{self.display_path} is not a file.")
                stamp = Stamp.of(status)
                is_settled = stamp.is_settled
                return _read_all(descriptor, status.st_size), stamp, is_settled
            finally:
                os.close(descriptor)
        except OSError as error:
            raise_read_error(error, self.display_path)


def _read_all(descriptor: int, size_bytes: int) -> bytes:
    content = os.read(descriptor, size_bytes + 1)
    if len(content) == size_bytes:
        return content
    pieces = [content]  # it grew, or is so large that one call does not read it
    while piece := os.read(descriptor, 2**24):
        pieces.append(piece)
    return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class ListedBlock:
    """A block directory that was listed.

    Attributes:
        name: Its name.
        files: Its annotation files, sorted by name.
        journals: The stamps of the journal and its like beside each file, by the file's name; a
            deleted file keeps its journal.
        directory: The open directory.
    """

    name: str
    files: list[ListedFile]
    journals: dict[str, list[Stamp]]
    directory: Directory


class BlockListing:
    """The blocks of a dataset.

    Args:
        data_root: The data root.
        dataset: The dataset.
    """

    def __init__(self, data_root: DataRoot, dataset: Parts) -> None:
        self.parts = (*dataset, ANNOTATIONS)
        self._data_root = data_root
        self._directories = data_root.directories
        self._display_path = "/".join(self.parts)

    def check(self) -> None:
        """Check that the dataset has annotations.

        Raises:
            MissingError: It has none.
        """
        if not self._data_root.is_directory(self.parts):
            raise MissingError(f"There is nothing at {self._display_path!r}.")

    def names(self) -> list[str]:
        """Return the names of the block directories, and of links that may be some, sorted.

        Raises:
            MissingError: The dataset has no annotations.
            ReadOnlyError, BusyError: They cannot be listed.
        """
        self._data_root.path(self.parts)  # a directory that was replaced is opened anew
        names = []
        with reading(self._display_path):
            descriptor = self._directories.get(self.parts).list_descriptor()
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                            names.append(entry.name)
            finally:
                os.close(descriptor)
        return sorted(filter(_is_served, names))

    def block(self, name: str) -> ListedBlock | None:
        """List a block; None if it was removed, or is a link that may not be followed.

        Raises:
            ReadOnlyError, BusyError: It cannot be listed.
        """
        try:
            directory, names = self._opened(name)
            files, journals = self._entries(name, directory, sorted(names))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise_read_error(error, f"{self._display_path}/{name}")
        return ListedBlock(name, files, journals, directory)

    def files(self) -> Iterator[ListedFile]:
        """Return the annotation files of all blocks, sorted by block and name; see `names`."""
        return self._files(self.names())

    def _files(self, names: list[str]) -> Iterator[ListedFile]:
        for name in names:
            block = self.block(name)
            if block is not None:
                yield from block.files

    def _opened(self, name: str) -> tuple[Directory, list[str]]:
        """Open a block, and list its names."""
        # Kept open for a second at most, however long the blocks take: it may have been moved.
        above = self._directories.get(self.parts)
        try:
            descriptor = os.open(name, _BLOCK_FLAGS, dir_fd=above.descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            directory = self._directories.get((*self.parts, name))
            return directory, directory.names()
        return Directory(descriptor, f"{above.path}/{name}"), os.listdir(descriptor)

    def _entries(
        self, block: str, directory: Directory, names: list[str]
    ) -> tuple[list[ListedFile], dict[str, list[Stamp]]]:
        files: list[ListedFile] = []
        journals: dict[str, list[Stamp]] = {}
        display_path = f"{self._display_path}/{block}"
        for name in names:
            if name.startswith(_HIDDEN):
                leaf = _leaf_of(name)
                if leaf:
                    with suppress(FileNotFoundError):
                        status = directory.status(name)
                        if stat.S_ISREG(status.st_mode):
                            journals.setdefault(leaf, []).append(Stamp.of(status))
            elif name.endswith(".json") and _is_served(name):
                with suppress(FileNotFoundError):  # removed since it was listed
                    file = self._file(f"{display_path}/{name}", directory, name)
                    if file is not None:
                        files.append(file)
        return files, journals

    def _file(self, display_path: str, directory: Directory, leaf: str) -> ListedFile | None:
        name, status = leaf, directory.status(leaf)
        if stat.S_ISLNK(status.st_mode):
            try:
                directory, name = self._directories.behind(directory, leaf)
                status = directory.status(name)
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                raise
        if not stat.S_ISREG(status.st_mode):
            return None
        return ListedFile(display_path, leaf, directory, name, Stamp.of(status))


def _leaf_of(companion: str) -> str:
    """Return the name of the annotation file that a journal or its like is of; "" for others."""
    for suffix in _COMPANIONS:
        if companion.endswith(suffix):
            return companion[len(_HIDDEN) : -len(suffix)]
    return ""


def _is_served(name: str) -> bool:
    try:
        check_name(name)
    except (MissingError, NameTooLongError):
        return False
    return True
