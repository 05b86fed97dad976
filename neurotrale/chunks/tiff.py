"""A lean look into a TIFF: just enough to find the bytes of the kinds that chunks are made of.

Understood are files of one channel whose pages are all alike, each in one strip, or whose only
page is one volumetric tile; uncompressed, deflate or zstd; without predictor, and without labels
that put the axes in another order. Everything else is left to tifffile, which the caller falls
back to.

Sources: TIFF revision 6.0, sections 2 and 8; BigTIFF; the SGI volumetric tags ImageDepth and
TileDepth; compression codes 8 and 32946 (deflate), 50000 (zstd).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Final

NONE, DEFLATE, ZSTD = "none", "deflate", "zstd"
_COMPRESSIONS: Final = {1: NONE, 8: DEFLATE, 32946: DEFLATE, 50000: ZSTD}

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _DESCRIPTION = 256, 257, 258, 259, 270
_FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _COUNTS = 266, 273, 277, 278, 279
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 317, 322, 323, 324, 325
_SAMPLE_FORMAT, _DEPTH, _TILE_DEPTH = 339, 32997, 32998
# No tag of TIFF: the count of the description, whose value is its offset.
_DESCRIPTION_BYTES = -_DESCRIPTION

_WANTED: Final = frozenset(
    [_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _COUNTS,
     _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS, _SAMPLE_FORMAT, _DEPTH,
     _TILE_DEPTH]
)  # fmt: skip
# Alike in all pages.
_SHARED: Final = tuple(sorted(_WANTED - {_OFFSETS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS}))

_KINDS: Final = {1: "uint", 2: "int", 3: "float"}
_SHORT, _LONG, _LONG8 = 3, 4, 16
_MOST_PAGES = 4096
_MOST_TAGS = 4096
# What ingest writes into the description of the first page.
_CRC = re.compile(rb'"crc32": ?(\d{1,10})[,}]')
# What tifffile writes there, too; axes of any other order are for it to sort.
_AXES = re.compile(rb'"axes":\s*"([^"]*)"')
_AS_STORED = re.compile(rb"[A-Z]?YX")


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the voxels of a simple TIFF are.

    Attributes:
        shape_zyx: Pages (or depth), rows, columns.
        dtype: A numpy name of the data type.
        big_endian: The byte order of uncompressed voxels.
        compression: ``none``, ``deflate`` or ``zstd``.
        spans: Offset and size of each segment, in the order of the voxels.
        crc32: Of all decoded voxels in the file's byte order, if the file states it.
        is_tile: Whether they are one volumetric tile, or else a strip a page.
    """

    shape_zyx: tuple[int, int, int]
    dtype: str
    big_endian: bool
    compression: str
    spans: tuple[tuple[int, int], ...]
    crc32: int | None
    is_tile: bool = False

    @property
    def segment_bytes(self) -> int:
        """Size of one decoded segment."""
        size = self.shape_zyx[1] * self.shape_zyx[2] * int(self.dtype.lstrip("uintfloa")) // 8
        return size * self.shape_zyx[0] // len(self.spans)


def find_segments(data: bytes) -> Segments | None:
    """Look into a whole TIFF file.

    Args:
        data: The file's content.

    Returns:
        None when the file is not of the simple kind, or not whole.
    """
    try:
        return _find(data)
    except (struct.error, KeyError, ValueError, IndexError, OverflowError):
        return None


def _find(data: bytes) -> Segments | None:
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = {42: False, 43: True}[struct.unpack_from(order + "H", data, 2)[0]]
    walk = _Walk(data, order, big)
    pages = walk.pages()
    first = pages[0]
    shared = [first.get(tag) for tag in _SHARED]
    if any([page.get(tag) for tag in _SHARED] != shared for page in pages[1:]):
        return None
    bits, samples = first.get(_BITS, 1), first.get(_SAMPLES, 1)
    kind = _KINDS.get(first.get(_SAMPLE_FORMAT, 1))
    compression = _COMPRESSIONS.get(first.get(_COMPRESSION, 1))
    plain = first.get(_PREDICTOR, 1) == 1 and first.get(_FILL_ORDER, 1) == 1 and samples == 1
    if bits not in (8, 16, 32, 64) or kind is None or compression is None or not plain:
        return None
    is_tile = _TILE_WIDTH in first
    shape, spans = _volume(first, pages) if is_tile else _strips(first, pages)
    if shape is None or any(not at or not n or at + n > len(data) for at, n in spans):
        return None
    if compression == NONE:
        spans = _merged(spans, prod(shape) * bits // 8)
    at = first.get(_DESCRIPTION, 0)
    description = data[at : at + first.get(_DESCRIPTION_BYTES, 0)]
    if _has_other_order(description):
        return None
    crc32 = _stated_crc32(description)
    return Segments(shape, f"{kind}{bits}", order == ">", compression, spans, crc32, is_tile)


def _has_other_order(description: bytes) -> bool:
    axes = _AXES.search(description)
    return b"<OME" in description or (axes is not None and not _AS_STORED.fullmatch(axes[1]))


def _stated_crc32(description: bytes) -> int | None:
    stated = _CRC.search(description)
    return int(stated[1]) if stated and int(stated[1]) < 2**32 else None


Page = dict[int, int]
Spans = tuple[tuple[int, int], ...]
Found = tuple[tuple[int, int, int] | None, Spans]


def _strips(first: Page, pages: list[Page]) -> Found:
    rows = first[_LENGTH]
    if first.get(_ROWS, rows) < rows or first.get(_DEPTH, 1) != 1:
        return None, ()
    shape = (len(pages), rows, first[_WIDTH])
    return shape, tuple((page[_OFFSETS], page[_COUNTS]) for page in pages)


def _volume(first: Page, pages: list[Page]) -> Found:
    shape = (first.get(_DEPTH, 1), first[_LENGTH], first[_WIDTH])
    tile = (first.get(_TILE_DEPTH, 1), first[_TILE_LENGTH], first[_TILE_WIDTH])
    if len(pages) != 1 or tile != shape:
        return None, ()
    return shape, ((first[_TILE_OFFSETS], first[_TILE_COUNTS]),)


def _merged(spans: Spans, size: int) -> Spans:
    """Make one span of segments that lie one behind the other, without padding."""
    gapless = all(at + n == following for (at, n), (following, _) in pairwise(spans))
    exact = len({n for _, n in spans}) == 1 and spans[0][1] * len(spans) == size
    return ((spans[0][0], size),) if gapless and exact else spans


class _Walk:
    """Reads the chain of pages; of values that are no single numbers, only the description."""

    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self._data = data
        self._view = memoryview(data)
        self._first = struct.Struct(order + ("Q" if big else "I"))
        self._count = struct.Struct(order + ("Q" if big else "H"))
        self._entry = struct.Struct(order + ("HHQQ" if big else "HHII"))
        self._start = 8 if big else 4
        # A short value stands in the first bytes of its field, whatever the byte order.
        self._value_bits = 64 if big else 32
        self._shift = self._value_bits - 16 if order == ">" else 0
        self._shift_long = 32 if order == ">" and big else 0

    def pages(self) -> list[Page]:
        pages: list[Page] = []
        (at,) = self._first.unpack_from(self._data, self._start)
        while at:
            (entries,) = self._count.unpack_from(self._data, at)
            if entries > _MOST_TAGS:
                raise ValueError("too many tags")
            at += self._count.size
            stop = at + entries * self._entry.size
            pages.append(self._page(self._view[at:stop]))
            (at,) = self._first.unpack_from(self._data, stop)
            if len(pages) > _MOST_PAGES:
                raise ValueError("too many pages, or a loop of them")
        return pages

    def _page(self, entries: memoryview) -> Page:
        page: Page = {}
        for tag, kind, count, value in self._entry.iter_unpack(entries):
            if tag == _DESCRIPTION:
                page[_DESCRIPTION], page[_DESCRIPTION_BYTES] = value, count
            elif tag in _WANTED:
                if count != 1:
                    raise ValueError(f"tag {tag} has {count} values")
                if kind == _SHORT:
                    value = (value >> self._shift) & 0xFFFF
                elif kind == _LONG:
                    value = (value >> self._shift_long) & 0xFFFFFFFF
                elif kind != _LONG8:
                    raise ValueError(f"tag {tag} is no integer")
                page[tag] = value
        return page
