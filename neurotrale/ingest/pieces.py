"""A page in pieces: rows of it at a time, so that a plane need not fit into memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

Piece = tuple[int, NDArray[Any]]
"""The first row and the voxels of some rows, as wide as the plane."""

Page = tifffile.TiffPage | tifffile.TiffFrame

# A smaller plane is read as a whole, which is quicker.
WHOLE_BYTES = 32 * 2**20
_PIECE_BYTES = 8 * 2**20


def pieces_of(page: Page) -> Iterator[Piece]:
    """Read a page of one plane, from its first row to its last.

    Args:
        page: Of grey values; its file is open.
    """
    kind = page.keyframe
    assert kind is not None
    rows, columns = kind.imagelength, kind.imagewidth
    if kind.nbytes <= WHOLE_BYTES or kind.dtype is None:
        yield 0, page.asarray(maxworkers=1).reshape(rows, columns)
    elif kind.is_final:
        yield from _stored(page, kind)
    else:
        yield from _decoded(page, kind)


def piece_bytes(page: tifffile.TiffPage) -> int:
    """Tell how much memory reading a page in pieces takes, roughly."""
    if page.nbytes <= WHOLE_BYTES or page.dtype is None:
        return 2 * page.nbytes
    if page.is_final:
        return 3 * _PIECE_BYTES
    rows = page.chunks[0] if page.is_tiled else page.rowsperstrip
    high = min(rows, page.imagelength) * page.imagewidth * page.dtype.itemsize
    return 3 * high + 2 * _PIECE_BYTES


def _stored(page: Page, kind: tifffile.TiffPage) -> Iterator[Piece]:
    """Read the rows of one uncompressed run."""
    assert kind.dtype is not None
    stored = kind.dtype.newbyteorder(page.parent.byteorder)
    row_bytes = kind.imagewidth * stored.itemsize
    step = max(1, _PIECE_BYTES // row_bytes)
    handle = page.parent.filehandle
    for y in range(0, kind.imagelength, step):
        count = min(step, kind.imagelength - y)
        with handle.lock:
            handle.seek(page.dataoffsets[0] + y * row_bytes)
            content = handle.read(count * row_bytes)
        if len(content) < count * row_bytes:
            raise ValueError("the file ends before it")
        voxels = np.frombuffer(content, stored).reshape(count, kind.imagewidth)
        yield y, voxels.astype(kind.dtype, copy=False)


def _decoded(page: Page, kind: tifffile.TiffPage) -> Iterator[Piece]:
    """Decode strips, or tiles of which each row is put together."""
    rows, columns = kind.imagelength, kind.imagewidth
    high = min(kind.chunks[0] if kind.is_tiled else kind.rowsperstrip, rows)
    band = np.zeros((high, columns), kind.dtype)
    lock = page.parent.filehandle.lock
    at = 0
    for voxels, (_, _, y, x, _), _ in page.segments(
        lock=lock, maxworkers=1, buffersize=_PIECE_BYTES
    ):
        if y != at:
            yield at, band[: rows - at]
            at = y
            band = np.zeros((high, columns), kind.dtype)
        if voxels is not None:
            part = voxels[0, : rows - y, : columns - x, 0]
            band[: part.shape[0], x : x + part.shape[1]] = part
    yield at, band[: rows - at]
