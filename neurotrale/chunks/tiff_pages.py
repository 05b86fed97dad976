"""Reads pages of TIFF files, however their segments (strips or tiles) are stored.

tifffile decodes the segments. They may be in any order in the file, share bytes, or be absent:
offset or size 0, which reads as the value of the tag GDAL_NODATA, else as 0. A page is read whole,
or as blocks of rows, so that it does not have to fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    import tifffile
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")
    tifffile = LazyModule("tifffile")

RowBlock: TypeAlias = "tuple[int, NDArray[Any]]"
"""Consecutive rows of a plane: the index of the first one, and their voxels ``[y, x]``."""

Page: TypeAlias = "tifffile.TiffPage | tifffile.TiffFrame"

# Smaller pages are read whole, which is faster.
WHOLE_BYTES = 32 * 2**20
BLOCK_BYTES = 8 * 2**20
# Segments that are closer to each other than this are read at once.
_MOST_GAP_BYTES = 4096
# The segments of larger pages take more memory than it is worth to keep.
_MOST_LOCATED = 64
_JPEGS = (6, 7, 33007, 34892)  # whose segments may need tables of the header

_Reader: TypeAlias = "Callable[[int, int], bytes]"


def page_array(page: Page) -> NDArray[Any]:
    """Read a page whole.

    Args:
        page: A page; its file is open.

    Returns:
        The voxels, in the shape of the page.
    """
    page = own_page(page)
    keyframe = _keyframe(page)
    if keyframe.is_contiguous and not page.dataoffsets[0]:  # tifffile would read from offset 0
        return np.full(keyframe.shape, keyframe.nodata, keyframe.dtype)
    return page.asarray(maxworkers=1)


def page_rows(page: Page, sample: int = 0) -> Iterator[RowBlock]:
    """Read a page as blocks of rows, from the first row to the last.

    Args:
        page: A page of one plane; its file is open.
        sample: Index of the sample to read, if pixels have several.

    Raises:
        ValueError: The page lists too few segments, or a segment cannot be decoded.
    """
    page = own_page(page)
    keyframe = _keyframe(page)
    if keyframe.imagedepth != 1 or missing_entries(page):
        raise ValueError("it is not a page of one plane with all its strips or tiles")
    planar, contiguous = (sample, 0) if keyframe.planarconfig == 2 else (0, sample)
    if keyframe.nbytes <= WHOLE_BYTES or keyframe.dtype is None:
        yield 0, page_array(page).reshape(keyframe.shaped)[planar, 0, :, :, contiguous]
        return
    located = LocatedPage(keyframe, page.dataoffsets, page.databytecounts, page.jpegtables)
    yield from located.rows(page.parent.filehandle, planar, contiguous)


@dataclass(frozen=True, slots=True)
class LocatedPage:
    """Where the voxels of a page are, so that it can be read without its header.

    Attributes:
        keyframe: A page of the same form, perhaps of another file.
        dataoffsets: The offset of each segment; 0 if it is absent.
        databytecounts: The size of each segment; 0 if it is absent.
        jpegtables: What the segments of a JPEG have in common.
    """

    keyframe: tifffile.TiffPage
    dataoffsets: tuple[int, ...]
    databytecounts: tuple[int, ...]
    jpegtables: bytes | None = None

    def rows(self, file: Any, planar: int = 0, contiguous: int = 0) -> Iterator[RowBlock]:
        """Read the page as blocks of rows.

        Args:
            file: The file of the page, with its methods `seek` and `read`; if several threads read
                it, with a `lock`.
            planar: Index of the sample, if each has a plane of its own.
            contiguous: Index of the sample in a pixel, otherwise.
        """
        read = partial(_read, file, getattr(file, "lock", None) or nullcontext())
        is_small = self.keyframe.nbytes <= WHOLE_BYTES
        block_bytes = WHOLE_BYTES if is_small else BLOCK_BYTES
        rows_of = _stored_rows if is_stored(self) else _decoded_rows
        yield from rows_of(self, read, block_bytes, planar, contiguous)


def located_page(page: tifffile.TiffPage, keyframe: tifffile.TiffPage) -> LocatedPage | None:
    """Return where the voxels of a page are; None if that would take much memory.

    Args:
        page: A page of one plane of grey values.
        keyframe: A page of the same form.
    """
    if len(page.dataoffsets) > _MOST_LOCATED or page.compression in _JPEGS or page.is_lsm:
        return None
    if page.dtype is None or (page.predictor != 1 and page.is_contiguous) or missing_entries(page):
        return None
    return LocatedPage(keyframe, page.dataoffsets, page.databytecounts)


def page_memory_bytes(page: tifffile.TiffPage) -> int:
    """Estimate the memory that `page_rows` needs for a page, in bytes."""
    if page.nbytes <= WHOLE_BYTES or page.dtype is None:
        return 2 * page.nbytes
    if is_stored(page) and len(page.dataoffsets) == 1:  # else those of other pages may be apart
        return 3 * BLOCK_BYTES
    height, width = _segment_sides(page)
    itemsize = page.dtype.itemsize
    # The block that was returned before, the next one, a decoded segment and what was read for it.
    segment_bytes = height * width * itemsize * page.shaped[-1]
    return 2 * max(height * page.imagewidth * itemsize, BLOCK_BYTES) + 2 * max(
        segment_bytes, BLOCK_BYTES
    )


def own_page(page: Page) -> Page:
    """Return a page by which tifffile knows where all its segments are.

    It takes the segments of a frame to be contiguous whenever those of its first page are.
    """
    keyframe = _keyframe(page)
    if page is keyframe or not keyframe.is_contiguous or page.parent.is_lsm or page.parent.is_stk:
        return page
    spans = zip(page.dataoffsets, page.databytecounts, strict=True)
    follow = all(offset + count == after for (offset, count), (after, _) in pairwise(spans))
    if follow and page.dataoffsets[0]:
        return page
    with page.parent.filehandle.lock:
        return page.aspage()


def is_stored(page: Page | LocatedPage) -> bool:
    """Return whether the voxels of an own page are contiguous and uncompressed in the file."""
    return bool(_keyframe(page).is_final and page.dataoffsets[0])


def absent_segments(page: Page) -> int:
    """Count the segments of an own page that have no data in the file."""
    if is_stored(page):
        return 0
    spans = zip(page.dataoffsets, page.databytecounts, strict=True)
    return sum(not offset or not count for offset, count in spans)


def missing_entries(page: Page) -> int:
    """Count the segments of a page that its header does not even list, as it is damaged."""
    keyframe = _keyframe(page)
    if keyframe.is_contiguous:
        return 0
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    return max(0, prod(keyframe.chunked) - listed)


def _keyframe(page: Page | LocatedPage) -> tifffile.TiffPage:
    keyframe = page.keyframe
    assert keyframe is not None
    return keyframe


def _segment_sides(keyframe: tifffile.TiffPage) -> tuple[int, int]:
    """Return the rows and columns of a segment."""
    if keyframe.is_tiled:
        return keyframe.tilelength, keyframe.tilewidth
    return min(keyframe.rowsperstrip, keyframe.imagelength), keyframe.imagewidth


def _stored_rows(
    page: LocatedPage, read: _Reader, block_bytes: int, planar: int, contiguous: int
) -> Iterator[RowBlock]:
    """Read the rows of a page whose voxels are contiguous and uncompressed."""
    keyframe = page.keyframe
    assert keyframe.dtype is not None
    stored = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
    rows, columns, samples = keyframe.imagelength, keyframe.imagewidth, keyframe.shaped[-1]
    row_bytes = columns * samples * stored.itemsize
    start = page.dataoffsets[0] + planar * rows * row_bytes
    step = max(1, block_bytes // row_bytes)
    for y in range(0, rows, step):
        count = min(step, rows - y)
        content = read(start + y * row_bytes, count * row_bytes)
        voxels = np.frombuffer(content, stored).reshape(count, columns, samples)[..., contiguous]
        yield y, voxels.astype(keyframe.dtype, copy=False)


def _decoded_rows(
    page: LocatedPage, read: _Reader, block_bytes: int, planar: int, contiguous: int
) -> Iterator[RowBlock]:
    """Decode the segments of a few rows of segments at a time."""
    keyframe = page.keyframe
    assert keyframe.dtype is not None
    rows, columns = keyframe.imagelength, keyframe.imagewidth
    height, width = _segment_sides(keyframe)
    down, across = -(-rows // height), -(-columns // width)
    step = max(1, block_bytes // (height * columns * keyframe.dtype.itemsize))
    for top in range(0, down, step):
        bottom = min(top + step, down)
        y0, y1 = top * height, min(bottom * height, rows)
        first, last = ((planar * down + row) * across for row in (top, bottom))
        spans = _spans(page, range(first, last))
        if not spans:
            yield from _blank_rows(y0, y1, keyframe)
            continue
        block = _blank((y1 - y0, columns), keyframe)
        for index, content in _read_spans(read, spans):
            decoded, (_, _, y, x, _), _ = keyframe.decode(
                content, index, jpegtables=page.jpegtables, jpegheader=keyframe.jpegheader
            )
            assert decoded is not None
            part = decoded[0, : rows - y, : columns - x, contiguous]
            expected = (min(height, rows - y), min(width, columns - x))
            if part.shape != expected:
                raise ValueError(f"a strip or tile has {part.shape} voxels, not {expected}")
            if part.shape == block.shape:
                block = part
            else:
                block[y - y0 : y - y0 + len(part), x : x + part.shape[1]] = part
        yield y0, block


def _blank(shape: tuple[int, int], keyframe: tifffile.TiffPage) -> NDArray[Any]:
    if not keyframe.nodata:
        return np.zeros(shape, keyframe.dtype)  # takes no memory until it is written
    return np.full(shape, keyframe.nodata, keyframe.dtype)


def _blank_rows(y0: int, y1: int, keyframe: tifffile.TiffPage) -> Iterator[RowBlock]:
    assert keyframe.dtype is not None
    step = max(1, BLOCK_BYTES // (keyframe.imagewidth * keyframe.dtype.itemsize))
    for y in range(y0, y1, step):
        yield y, _blank((min(step, y1 - y), keyframe.imagewidth), keyframe)


def _spans(page: LocatedPage, indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """List those of some segments that are not absent: offset, size and index, by offset."""
    return sorted(
        (page.dataoffsets[index], page.databytecounts[index], index)
        for index in indices
        if page.dataoffsets[index] and page.databytecounts[index]
    )


def _read_spans(
    read: _Reader, spans: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, bytes]]:
    """Read segments; those that are close to each other at once."""
    done = 0
    while done < len(spans):
        start, count, _ = spans[done]
        stop, following = start + count, done + 1
        for offset, count, _ in spans[following:]:
            if offset > stop + _MOST_GAP_BYTES or offset + count > start + BLOCK_BYTES:
                break
            stop = max(stop, offset + count)
            following += 1
        content = read(start, stop - start)
        for offset, count, index in spans[done:following]:
            yield index, content[offset - start : offset - start + count]
        done = following


def _read(file: Any, lock: Any, offset: int, count: int) -> bytes:
    with lock:
        file.seek(offset)
        content: bytes = file.read(count)
    if len(content) < count:
        raise ValueError("the file ends before the end of the page")
    return content
