"""The planes of a level that wait for their chunks to be cut: in memory, or in a scratch file.

A scratch file lets a stack of any width be ingested under any limit of memory, and every plane
be read only once. It is laid out in bands of rows, as it is read again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[Any]


class Slab(Protocol):
    """Planes of a level, ``[z, y, x]``; parts of them are written and read by many threads."""

    def put(self, z: int, y: int, block: Voxels) -> None:
        """Write a block that is as wide as the slab."""
        ...

    def rows(self, depth: int, y0: int, y1: int) -> Voxels:
        """Read a band of rows of the first planes; ``y0`` is where a band begins."""
        ...

    def close(self) -> None:
        """Give back what it takes."""
        ...


class MemorySlab:
    """A slab in memory.

    Args:
        shape_zyx: Its extent.
        dtype: A numpy name of the data type.
    """

    def __init__(self, shape_zyx: tuple[int, int, int], dtype: str) -> None:
        self._voxels = np.empty(shape_zyx, dtype)

    def put(self, z: int, y: int, block: Voxels) -> None:
        """Write a block."""
        depth, rows, _ = block.shape
        self._voxels[z : z + depth, y : y + rows] = block

    def rows(self, depth: int, y0: int, y1: int) -> Voxels:
        """Give a view of a band."""
        return self._voxels[:depth, y0:y1]

    def close(self) -> None:
        """Drop the voxels."""
        self._voxels = np.empty((0, 0, 0), self._voxels.dtype)


class ScratchSlab:
    """A slab in a file that has no name any more: it is gone when this process is.

    Args:
        path: A file that does not exist yet, in a directory with enough space.
        shape_zyx: Its extent.
        dtype: A numpy name of the data type.
        band_vx: Rows of a band.
    """

    def __init__(
        self, path: Path, shape_zyx: tuple[int, int, int], dtype: str, band_vx: int
    ) -> None:
        self._shape = shape_zyx
        self._dtype = np.dtype(dtype)
        self._band = band_vx
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            path.unlink()
            # Reserved now: a full disk is better met before the work than in the midst of it.
            os.posix_fallocate(self._file, 0, int(np.prod(shape_zyx)) * self._dtype.itemsize)
        except BaseException:
            os.close(self._file)
            raise

    def put(self, z: int, y: int, block: Voxels) -> None:
        """Write a block, piece by piece into the bands that it lies in."""
        for plane in range(block.shape[0]):
            at = 0
            while at < block.shape[1]:
                band, row = divmod(y + at, self._band)
                count = min(self._rows_of(band) - row, block.shape[1] - at)
                piece = np.ascontiguousarray(block[plane, at : at + count])
                _write(self._file, piece, self._offset(band, z + plane, row))
                at += count

    def rows(self, depth: int, y0: int, y1: int) -> Voxels:
        """Read a band."""
        band = y0 // self._band
        voxels = np.empty((depth, y1 - y0, self._shape[2]), self._dtype)
        _read(self._file, voxels, self._offset(band, 0, 0))
        return voxels

    def close(self) -> None:
        """Close the file, and so remove it."""
        os.close(self._file)

    def _rows_of(self, band: int) -> int:
        return min(self._band, self._shape[1] - band * self._band)

    def _offset(self, band: int, z: int, row: int) -> int:
        above = band * self._band * self._shape[0]
        rows = above + z * self._rows_of(band) + row
        return rows * self._shape[2] * self._dtype.itemsize


def _write(file: int, voxels: Voxels, at: int) -> None:
    view = voxels.reshape(-1).view(np.uint8).data
    while view:
        count = os.pwrite(file, view, at)
        view, at = view[count:], at + count


def _read(file: int, voxels: Voxels, at: int) -> None:
    view = voxels.reshape(-1).view(np.uint8).data
    while view:
        count = os.preadv(file, [view], at)
        if not count:
            raise OSError("the scratch file ends too early")
        view, at = view[count:], at + count
