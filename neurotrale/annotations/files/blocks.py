"""Directories of blocks: from the block in a URL to a directory below ``{dataset}/annotations``.

Viewers name a block by a position in voxels, scripts by its index. The two look the same, so the
meaning depends on the client: an index taken for a position would lead to another block's file.
"""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from neurotrale.errors import DamagedError, MissingError, reading
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.names import AnnotationName, BlockName, Parts, Triple
from neurotrale.storage.regular import open_regular

log = logging.getLogger(__name__)

ANNOTATIONS = "annotations"
BLOCK_INFO = "block_info.csv"
_EXPECTED = "expected three positive integers x,y,z, the block size in voxels"
CACHED_SIZES = 1024

LEGACY_DIRECTORY = re.compile(r"x\d{4,}_y\d{4,}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BlockDirectory:
    """The directory of a block, whether or not it exists."""

    parts: Parts
    exists: bool


class Blocks:
    """Finds the directories of blocks; caches the block size of each dataset.

    Args:
        data_root: The data root.
    """

    def __init__(self, data_root: DataRoot) -> None:
        self.data_root = data_root
        self._sizes: VersionedCache[Triple | None] = VersionedCache(CACHED_SIZES)
        self._warned: VersionedCache[bool] = VersionedCache(CACHED_SIZES)

    def directory(self, name: AnnotationName) -> BlockDirectory:
        """Return the directory of an annotation file's block: the one with exactly its name.

        Raises:
            MissingError: It does not exist, and its name is not one that a new block can have.
        """
        block = name.block
        parts = (*name.dataset, ANNOTATIONS, block.text)
        if self._is_directory(parts):
            return BlockDirectory(parts, True)
        if block.position is None:
            raise MissingError(
                f"There is no block directory {block.text!r}. A new block is named"
                " x<int>y<int>z<int>, for example x1y2z0."
            )
        _check_inside(block.position, f"The block {block.text!r}")
        return BlockDirectory(parts, False)

    def for_viewer(self, dataset: Parts, block: BlockName) -> BlockName:
        """Return the block that a viewer names by a position in voxels.

        An existing directory with exactly this name takes precedence. If the dataset does not
        state its block size, the block is returned unchanged.

        Raises:
            MissingError: The position is negative, outside the volume.
        """
        above = (*dataset, ANNOTATIONS)
        if block.position is None or self._is_directory((*above, block.text)):
            return block
        _check_inside(block.position, f"The block {block.text!r}")
        size_vx = self.size_vx(above)
        return block if size_vx is None else self._containing(above, block.position, size_vx)

    def at(self, dataset: Parts, position_vx: Triple) -> BlockName:
        """Return the block that contains a voxel.

        Raises:
            MissingError: The position is negative, or the dataset has no ``block_info.csv``.
            DamagedError: Its ``block_info.csv`` does not state a block size.
        """
        _check_inside(position_vx, f"The position {','.join(map(str, position_vx))}")
        above = (*dataset, ANNOTATIONS)
        size_vx = self.size_vx(above)
        if size_vx is not None:
            return self._containing(above, position_vx, size_vx)
        display_path = "/".join((*above, BLOCK_INFO))
        if self.data_root.status((*above, BLOCK_INFO)) is not None:
            raise DamagedError(
                display_path, f"{_EXPECTED}; without it no position leads to a block."
            )
        raise MissingError(
            f"There is no {display_path}, so no position leads to a block. Write the block size in"
            " voxels into it, as in 64,64,64, or name the block:"
            " .../annotations/{block}/{leaf}.json."
        )

    def _containing(self, above: Parts, position_vx: Triple, size_vx: Triple) -> BlockName:
        i, j, k = (at // size for at, size in zip(position_vx, size_vx, strict=True))
        current = BlockName(f"x{i}y{j}z{k}", (i, j, k))
        legacy = BlockName(f"x{i + 1:04d}_y{j + 1:04d}", (i, j, 0))
        for block in (current, legacy):
            if self._is_directory((*above, block.text)):
                return block
        return legacy if self._uses_legacy_names(above) else current

    def size_vx(self, above: Parts) -> Triple | None:
        """Return the block size (x, y, z) in voxels from ``block_info.csv``.

        Args:
            above: The ``annotations`` directory.

        Returns:
            The size; None, with a warning in the log, if the file is missing, empty or malformed.
        """
        parts = (*above, BLOCK_INFO)
        path = self.data_root.file_path(parts)
        status = self.data_root.status(parts)
        stamp = None if status is None else Stamp.of(status)
        size_vx = self._sizes.get(
            path,
            stamp,
            lambda: None if stamp is None else read_block_size(path),
            is_settled=stamp is None or stamp.is_settled,
        )
        if size_vx is None and self._warned.find(path, stamp) is None:
            self._warned.put(path, stamp, True)
            _warn(path, exists=stamp is not None)
        return size_vx

    def _is_directory(self, parts: Parts) -> bool:
        return self.data_root.is_directory(parts)

    def _uses_legacy_names(self, above: Parts) -> bool:
        try:
            names = [entry.name for entry in self.data_root.entries(above) if entry.is_directory]
        except MissingError:
            return False
        return any(map(LEGACY_DIRECTORY.fullmatch, names))


def _check_inside(position: Triple, subject: str) -> None:
    if min(position) < 0:
        raise MissingError(f"{subject} lies outside the volume: a position is negative.")


def _warn(path: Path, *, exists: bool) -> None:
    log.warning(
        "%s is %s: blocks are looked up by their literal names (%s)",
        path,
        "empty or malformed" if exists else "missing",
        _EXPECTED,
    )


def read_block_size(path: Path) -> Triple | None:
    """Parse a ``block_info.csv``: x, y, z in voxels; None if it is missing or malformed."""
    try:
        with (
            reading(path.name),
            open_regular(path) as file,
            TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
        ):
            row = next((row for row in csv.reader(text) if row), [])
            x, y, z = (int(cell) for cell in row[:3])
    except (MissingError, DamagedError, ValueError, csv.Error):
        return None
    return (x, y, z) if min(x, y, z) > 0 else None
