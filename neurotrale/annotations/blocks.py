"""From the block in a URL to its directory below ``{dataset}/annotations``."""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from neurotrale.errors import MissingError
from neurotrale.faults import reading
from neurotrale.files import Stamp
from neurotrale.kept import Kept
from neurotrale.names import AnnotationName, BlockName, Parts
from neurotrale.tree import Tree

log = logging.getLogger(__name__)

BLOCK_INFO = "block_info.csv"
CACHED_SIZES = 1024

LEGACY_DIRECTORY = re.compile(r"x\d{4,}_y\d{4,}", re.ASCII)

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class BlockDirectory:
    """Where the files of a block are, or would be made."""

    parts: Parts
    exists: bool


class Blocks:
    """Finds block directories; keeps the block size of each data set until its file changes."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._kept: Kept[Triple | None] = Kept(CACHED_SIZES)

    def directory(self, name: AnnotationName) -> BlockDirectory:
        """Find the directory of an annotation file's block.

        A directory of the very name wins; else the block is a position in voxels, when the data
        set states its block size; else it is the literal name.

        Raises:
            MissingError: The position is negative, outside the volume.
        """
        above = (*name.dataset, "annotations")
        literal = (*above, name.block.text)
        if self._is_directory(literal):
            return BlockDirectory(literal, True)
        if name.block.position is None:
            raise MissingError(
                f"There is no block directory {name.block.text!r}. A new block is named"
                " x<int>y<int>z<int>, for example x1y2z0."
            )
        if min(name.block.position) < 0:
            raise MissingError(
                f"The block {name.block.text!r} lies outside the volume: a position is negative."
            )
        size_vx = self.size_vx(above)
        if size_vx is None:
            return BlockDirectory(literal, False)
        return self._at(above, name.block, size_vx)

    def _at(self, above: Parts, block: BlockName, size_vx: Triple) -> BlockDirectory:
        assert block.position is not None
        i, j, k = (at // size for at, size in zip(block.position, size_vx, strict=True))
        current = (*above, f"x{i}y{j}z{k}")
        legacy = (*above, f"x{i + 1:04d}_y{j + 1:04d}")
        for parts in (current, legacy):
            if self._is_directory(parts):
                return BlockDirectory(parts, True)
        return BlockDirectory(legacy if self._uses_legacy_names(above) else current, False)

    def size_vx(self, above: Parts) -> Triple | None:
        """Read the block size (x, y, z) in voxels from ``block_info.csv``.

        Args:
            above: The ``annotations`` directory.

        Returns:
            None when the file is missing, empty or malformed, with a warning in the log.
        """
        path = self.tree.path((*above, BLOCK_INFO))
        try:
            with reading(BLOCK_INFO):
                stamp: Stamp | None = Stamp.of(path.stat())
        except MissingError:
            stamp = None
        return self._kept.get(path, stamp, lambda: _learn(path, is_there=stamp is not None))

    def _is_directory(self, parts: Parts) -> bool:
        with reading("/".join(parts)):
            return self.tree.path(parts).is_dir()

    def _uses_legacy_names(self, above: Parts) -> bool:
        try:
            names = [entry.name for entry in self.tree.entries(above) if entry.is_directory]
        except MissingError:
            return False
        return any(map(LEGACY_DIRECTORY.fullmatch, names))


def _learn(path: Path, *, is_there: bool) -> Triple | None:
    size_vx = read_block_size(path) if is_there else None
    if size_vx is None:
        log.warning(
            "%s is %s: blocks are looked up by their literal names (expected three positive"
            " integers x,y,z, the block size in voxels)",
            path,
            "empty or malformed" if is_there else "missing",
        )
    return size_vx


def read_block_size(path: Path) -> Triple | None:
    """Read a ``block_info.csv``: x, y, z in voxels; None when it is missing or malformed."""
    try:
        with reading(path.name):
            if not path.is_file():  # to open a pipe would be to wait for its writer
                return None
            with path.open(encoding="utf-8-sig", newline="") as file:
                row = next((row for row in csv.reader(file) if row), [])
                x, y, z = (int(cell) for cell in row[:3])
    except (MissingError, ValueError, csv.Error):
        return None
    return (x, y, z) if min(x, y, z) > 0 else None
