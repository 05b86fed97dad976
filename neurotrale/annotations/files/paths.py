"""Paths of annotation files: from a name in a URL to a file on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurotrale.annotations.files.block_listing import BlockListing, ListedFile
from neurotrale.annotations.files.blocks import ANNOTATIONS, Blocks
from neurotrale.annotations.journals.journal import Journal
from neurotrale.errors import MissingError, NameTooLongError, raise_read_error, reading, writing
from neurotrale.storage.atomic import fsync_directory
from neurotrale.storage.cache import Stamp
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.directories import directory_of, status_of
from neurotrale.storage.names import NAME_MAX_BYTES, AnnotationName, Parts
from neurotrale.storage.permissions import share_directory
from neurotrale.storage.regular import open_regular

# Leaves room for the names of the journal and the lock beside an annotation file.
LEAF_MAX_BYTES = NAME_MAX_BYTES - 40


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """An annotation file on disk.

    Attributes:
        path: Path of the file, links resolved.
        display_path: Path relative to the data root, for answers and errors.
    """

    path: Path
    display_path: str

    def current_stamp(self) -> Stamp:
        """Return the version of the file; raises what `read` can raise."""
        with reading(self.display_path):
            return Stamp.of(status_of(self.path))

    def read(self) -> tuple[bytes, Stamp, bool]:
        """Read the file; see `ReadableFile.read`.

        Raises:
            MissingError: It does not exist.
            ReadOnlyError, BusyError: It cannot be read.
        """
        with reading(self.display_path), open_regular(self.path) as file:
            stamp = Stamp.of(os.fstat(file.fileno()))
            is_settled = stamp.is_settled
            return file.read(), stamp, is_settled


class AnnotationFiles:
    """Finds annotation files below the data root.

    Args:
        data_root: The data root.
        share: Whether the group of a shared directory may use new directories.
    """

    def __init__(self, data_root: DataRoot, *, share: bool = True) -> None:
        self.data_root = data_root
        self._share = share
        self.blocks = Blocks(data_root)

    def existing(self, name: AnnotationName) -> AnnotationFile:
        """Return a file that exists.

        Raises:
            MissingError: The file does not exist.
        """
        parts = (*name.dataset, ANNOTATIONS, name.block.text, name.leaf)
        # A link's target is what is written, locked and recorded.
        path, display_path = self.data_root.file_path(parts), "/".join(parts)
        try:
            mode = status_of(path).st_mode
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                self._in_block(name)  # if the block does not exist either, this error says so
            raise_read_error(error, display_path)
        if not stat.S_ISREG(mode):
            raise MissingError(f"{display_path} is not a file.")
        return AnnotationFile(path, display_path)

    def display_path(self, name: AnnotationName) -> str:
        """Return the path of a file relative to the data root, whether it exists or not."""
        return "/".join((*name.dataset, ANNOTATIONS, name.block.text, name.leaf))

    def recorded(self, name: AnnotationName) -> AnnotationFile:
        """Return a file that exists or has a journal; that of a deleted file remains.

        Raises:
            MissingError: Neither the file nor its journal exists.
        """
        file = self._in_block(name)
        with reading(file.display_path):
            exists = _is_file(file.path) or Journal(file.path).exists
        if not exists:
            raise MissingError(f"There is nothing at {file.display_path!r}.")
        return file

    def prepare(self, name: AnnotationName, *, is_needed: bool = True) -> AnnotationFile | None:
        """Return a file that exists or can be created; create the directories that it needs.

        Args:
            name: The file.
            is_needed: Otherwise, nothing is created for a file that does not exist, and the result
                is None.

        Raises:
            MissingError: There is no such dataset, or the block's name is not that of a block.
            NameTooLongError: The name leaves no room for the names of the lock and the journal.
        """
        if len(name.leaf.encode()) > LEAF_MAX_BYTES:
            raise NameTooLongError(f"A file name can have at most {LEAF_MAX_BYTES} bytes here.")
        if not self.data_root.is_dataset(name.dataset):
            raise MissingError(
                f"There is no dataset {'/'.join(name.dataset)!r}: it needs an 'info' file or an"
                " 'annotations' directory."
            )
        directory = self.blocks.directory(name)
        file = self._file(directory.parts, name.leaf)
        with reading(file.display_path):
            is_file = _is_file(file.path)
        if is_file is False:
            raise MissingError(f"{file.display_path} is not a file.")
        if not is_needed and is_file is None:
            return None
        if not directory.exists:
            self._make_directories(directory.parts)
        return file

    def listing(self, dataset: Parts) -> BlockListing:
        """Return the blocks of a dataset, to be listed."""
        return BlockListing(self.data_root, dataset)

    def in_dataset(self, dataset: Parts) -> Iterator[ListedFile]:
        """Return the annotation files of all blocks of a dataset, sorted by block and name.

        Raises:
            MissingError: The dataset has no annotations.
        """
        return self.listing(dataset).files()

    def block_directories(self, dataset: Parts) -> list[Parts]:
        """Return the block directories of a dataset, sorted by name.

        Raises:
            MissingError: The dataset has no annotations.
        """
        annotations = (*dataset, ANNOTATIONS)
        entries = self.data_root.entries(annotations)
        names = sorted(entry.name for entry in entries if entry.is_directory)
        return [(*annotations, name) for name in names]

    def _in_block(self, name: AnnotationName) -> AnnotationFile:
        directory = self.blocks.directory(name)
        if not directory.exists:
            *above, block = directory.parts
            raise MissingError(
                f"There is no block {block!r} in {'/'.join(above)!r}. A block is named by its"
                " index; the one that holds a voxel is found with"
                f" /{'/'.join(above)}/{name.leaf}?position=x,y,z."
            )
        return self._file(directory.parts, name.leaf)

    def _file(self, directory: Parts, leaf: str) -> AnnotationFile:
        # A link's target is what is written, locked and recorded.
        parts = (*directory, leaf)
        return AnnotationFile(self.data_root.file_path(parts), "/".join(parts))

    def _make_directories(self, directory: Parts) -> None:
        for depth in (len(directory) - 1, len(directory)):
            path = self.data_root.path(directory[:depth])
            with writing("/".join(directory)):
                above, name = directory_of(path)
                try:
                    above.make_directory(name)
                    if self._share:
                        share_directory(path)
                    fsync_directory(path.parent)
                except FileExistsError:  # it existed, or another writer created it just now
                    if not self.data_root.is_directory(directory[:depth]):
                        raise MissingError(
                            f"{self.data_root.relative(path)} is not a directory."
                        ) from None


def _is_file(path: Path) -> bool | None:
    """Return whether a path is a regular file; None if it does not exist."""
    try:
        return stat.S_ISREG(status_of(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
