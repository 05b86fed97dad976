"""Buffers between the planes of a stack and its chunks: slabs of planes; problems of a source.

A slab collects the planes of a level until its chunks can be cut, in memory or in a scratch file.
With a scratch file a stack of any width can be ingested under any memory limit, with every plane
read only once. The file is laid out in bands of rows, the order in which it is read back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurotrale.errors import printable
from neurotrale.settings.stacks import DTYPES as DTYPES
from neurotrale.tools.ingest.other_formats import other_format

Voxels = NDArray[Any]


class Slab(Protocol):
    """The buffered planes of a level, ``[z, y, x]``; several threads write and read parts of it."""

    def put(self, z: int, y: int, block: Voxels) -> None:
        """Write a block, as wide as the slab, at plane `z` and row `y`."""
        ...

    def rows(self, depth: int, y0: int, y1: int) -> Voxels:
        """Return rows `y0` to `y1` of the first `depth` planes; `y0` is the start of a band."""
        ...

    def close(self) -> None:
        """Release the memory or the file."""
        ...


class MemorySlab:
    """A slab in memory.

    Args:
        shape_zyx: Extent in voxels.
        dtype: A numpy name of the data type.
    """

    def __init__(self, shape_zyx: tuple[int, int, int], dtype: str) -> None:
        self._voxels = np.empty(shape_zyx, dtype)

    def put(self, z: int, y: int, block: Voxels) -> None:
        """Write a block at plane `z` and row `y`."""
        depth, rows, _ = block.shape
        self._voxels[z : z + depth, y : y + rows] = block

    def rows(self, depth: int, y0: int, y1: int) -> Voxels:
        """Return a view of a band of rows."""
        return self._voxels[:depth, y0:y1]

    def close(self) -> None:
        """Release the voxels."""
        self._voxels = np.empty((0, 0, 0), self._voxels.dtype)


class ScratchSlab:
    """A slab in an unlinked file, which disappears with the process.

    Args:
        path: A file that does not exist yet, on a file system with enough space.
        shape_zyx: Extent in voxels.
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
            # Reserve the space now: better to fail before the work than halfway through.
            os.posix_fallocate(self._file, 0, int(np.prod(shape_zyx)) * self._dtype.itemsize)
        except BaseException:
            os.close(self._file)
            raise

    def put(self, z: int, y: int, block: Voxels) -> None:
        """Write a block at plane `z` and row `y`, split at the borders of bands."""
        for plane in range(block.shape[0]):
            done = 0
            while done < block.shape[1]:
                band, row = divmod(y + done, self._band)
                count = min(self._rows_of(band) - row, block.shape[1] - done)
                rows = np.ascontiguousarray(block[plane, done : done + count])
                _write(self._file, rows, self._offset(band, z + plane, row))
                done += count

    def rows(self, depth: int, y0: int, y1: int) -> Voxels:
        """Read a band of rows."""
        band = y0 // self._band
        voxels = np.empty((depth, y1 - y0, self._shape[2]), self._dtype)
        _read(self._file, voxels, self._offset(band, 0, 0))
        return voxels

    def close(self) -> None:
        """Close the file, which frees its space."""
        os.close(self._file)

    def _rows_of(self, band: int) -> int:
        return min(self._band, self._shape[1] - band * self._band)

    def _offset(self, band: int, z: int, row: int) -> int:
        above = band * self._band * self._shape[0]
        rows = above + z * self._rows_of(band) + row
        return rows * self._shape[2] * self._dtype.itemsize


def _write(file: int, voxels: Voxels, offset: int) -> None:
    view = voxels.reshape(-1).view(np.uint8).data
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _read(file: int, voxels: Voxels, offset: int) -> None:
    view = voxels.reshape(-1).view(np.uint8).data
    while view:
        count = os.preadv(file, [view], offset)
        if not count:
            raise OSError("the scratch file ends too early")
        view, offset = view[count:], offset + count


READABLE_DTYPES = (*DTYPES, "bool", "int64", "float16", "float64")
"""Types of voxels that can be read; those that datasets do not have are converted."""
# No one reads more lines than this; the others are only counted.
_MOST_LINES = 50


def format_problems(problems: Sequence[str]) -> str:
    """Format all problems of a source as one message."""
    lines = [f"  {printable(problem)}" for problem in problems[:_MOST_LINES]]
    if len(problems) > _MOST_LINES:
        lines.append(f"  ... and {len(problems) - _MOST_LINES} more")
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    return "\n".join(
        [f"The source has {count}; fix them and start again. Nothing was written.", *lines]
    )


def dtype_problems(dtype: str) -> list[str]:
    """Return the problem with a data type that cannot be read or converted; else no problem."""
    if dtype in READABLE_DTYPES:
        return []
    return [f"the voxels are {dtype}; convert them to one of {', '.join(DTYPES)}"]


def unreadable_problem(path: Path, error: Exception) -> str:
    """Return the problem with a file that is not a TIFF, or has an unsupported compression."""
    other = other_format(path)
    if other:
        return f"{path}: not a readable TIFF, but {other}"
    return f"{path}: not a readable TIFF ({str(error) or type(error).__name__})"


def absence_notes(planes: Iterable[tuple[int, float]]) -> list[str]:
    """Return a note if strips or tiles of planes have no data.

    Args:
        planes: For each plane, the number of absent strips or tiles, and the value they read as.
    """
    sparse = [(count, value) for count, value in planes if count]
    if not sparse:
        return []
    values = " or ".join(sorted({str(value) for _, value in sparse}))
    segments, planes_text = sum(count for count, _ in sparse), f"{len(sparse)} planes"
    text = f"{segments} strips or tiles, of {planes_text if len(sparse) > 1 else '1 plane'}"
    return [f"{text}, have no data in the file: they read as {values}"]
