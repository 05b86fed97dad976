"""Where an annotation file is on disk, or will be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurotrale.annotations.blocks import Blocks
from neurotrale.annotations.journal import Journal
from neurotrale.durable import fsync_directory
from neurotrale.errors import MissingError, NameTooLongError
from neurotrale.faults import reading, writing
from neurotrale.names import NAME_MAX_BYTES, AnnotationName, Parts
from neurotrale.tree import Tree

# Room for the names of the journal and the lock beside an annotation file.
LEAF_MAX_BYTES = NAME_MAX_BYTES - 40


@dataclass(frozen=True, slots=True)
class Place:
    """An annotation file on disk.

    Attributes:
        path: The file.
        what: What to call it: its path relative to the data root.
    """

    path: Path
    what: str


class Places:
    """Finds annotation files below the data root.

    Args:
        tree: The data root.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.blocks = Blocks(tree)

    def existing(self, name: AnnotationName) -> Place:
        """Find a file that exists.

        Raises:
            MissingError: There is none.
        """
        place = self._place(self.blocks.directory(name).parts, name.leaf)
        with reading(place.what):
            mode = place.path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise MissingError(f"{place.what} is not a file.")
        return place

    def recorded(self, name: AnnotationName) -> Place:
        """Find a file that exists, or did: one that was deleted has its journal still.

        Raises:
            MissingError: There is neither.
        """
        place = self._place(self.blocks.directory(name).parts, name.leaf)
        with reading(place.what):
            found = place.path.is_file() or Journal(place.path).path.is_file()
        if not found:
            raise MissingError(f"There is nothing at {place.what!r}.")
        return place

    def made(self, name: AnnotationName) -> Place:
        """Find where a file is or goes, and make the directories that it needs.

        Raises:
            MissingError: There is no such data set, or the block lies outside the volume.
            NameTooLongError: The name leaves no room for those of the lock and the journal.
        """
        if len(name.leaf.encode()) > LEAF_MAX_BYTES:
            raise NameTooLongError(f"A file name may have {LEAF_MAX_BYTES} bytes here.")
        if not self.tree.is_dataset(name.dataset):
            raise MissingError(
                f"There is no data set {'/'.join(name.dataset)!r}: it needs an 'info' file or an"
                " 'annotations' directory."
            )
        directory = self.blocks.directory(name)
        place = self._place(directory.parts, name.leaf)
        if os.path.lexists(place.path) and not place.path.is_file():
            raise MissingError(f"{place.what} is not a file.")
        if not directory.exists:
            self._make(directory.parts)
        return place

    def every(self, dataset: Parts) -> Iterator[Place]:
        """Find the annotation files of all blocks of a data set, ordered by block and name.

        Raises:
            MissingError: The data set has no annotations.
        """
        above = (*dataset, "annotations")
        blocks = sorted(entry.name for entry in self.tree.entries(above) if entry.is_directory)
        return (place for block in blocks for place in self._files((*above, block)))

    def _files(self, block: Parts) -> Iterator[Place]:
        try:
            entries = list(self.tree.entries(block))
        except MissingError:  # it was there a moment ago
            return
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.endswith(".json") and not entry.is_directory:
                yield self._place(block, entry.name)

    def _place(self, directory: Parts, leaf: str) -> Place:
        path = self.tree.path((*directory, leaf))
        what = self.tree.relative(path)
        with reading(what):
            if path.is_symlink():  # the file behind it is what is written, locked and recorded
                path = path.resolve()
        return Place(path, what)

    def _make(self, directory: Parts) -> None:
        for depth in (len(directory) - 1, len(directory)):
            path = self.tree.path(directory[:depth])
            with writing("/".join(directory)):
                try:
                    path.mkdir()
                    fsync_directory(path.parent)
                except FileExistsError:  # another writer was quicker, or it was there
                    if not path.is_dir():
                        raise MissingError(
                            f"{self.tree.relative(path)} is not a directory."
                        ) from None
