"""A minimal TIFF parser: just enough to find the voxels of ordinary chunks quickly.

It understands files whose pages are alike, each a single strip, or whose only page
is a volumetric tile; uncompressed, deflate or zstd; without a predictor, and without labels
that put the axes in another order. For all other files the caller falls back to tifffile.

Sources: TIFF revision 6.0, sections 2 and 8; BigTIFF; the SGI volumetric tags ImageDepth and
TileDepth; compression codes 8 and 32946 (deflate), 50000 (zstd).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from string import ascii_lowercase
from typing import Final

NONE, DEFLATE, ZSTD = "none", "deflate", "zstd"
COMPRESSION_CODES: Final = {NONE: 1, DEFLATE: 8, ZSTD: 50000}
"""Values of the tag Compression."""
SAMPLE_FORMATS: Final = {"uint": 1, "int": 2, "float": 3}
"""Values of the tag SampleFormat, by the numpy name of a data type without its bits."""

ZLIB_HEADER_BYTES = 2

_OLD_DEFLATE = 32946
_COMPRESSIONS: Final = {code: name for name, code in COMPRESSION_CODES.items()} | {
    _OLD_DEFLATE: DEFLATE
}
_TYPES: Final = {code: name for name, code in SAMPLE_FORMATS.items()}

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _DESCRIPTION = 256, 257, 258, 259, 270
_FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _COUNTS = 266, 273, 277, 278, 279
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 317, 322, 323, 324, 325
_SAMPLE_FORMAT, _DEPTH, _TILE_DEPTH = 339, 32997, 32998
# Not a TIFF tag: the size of the description, whose own entry holds its offset.
_DESCRIPTION_BYTES = -_DESCRIPTION

_KNOWN_TAGS: Final = frozenset(
    [_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _COUNTS,
     _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS, _SAMPLE_FORMAT, _DEPTH,
     _TILE_DEPTH]
)  # fmt: skip
# Tags whose values must be the same in all pages.
_SHARED: Final = tuple(sorted(_KNOWN_TAGS - {_OFFSETS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS}))

_SHORT, _LONG, _LONG8 = 3, 4, 16
_MOST_PAGES = 4096
_MOST_TAGS = 4096
# Written by ingest into the description of the first page.
_CRC = re.compile(rb'"crc32": ?(\d{1,10})[,}]')
_CHANNELS = re.compile(rb'\{"shape": \[(\d{1,9}), (\d{1,9}), \d{1,9}, \d{1,9}\], "crc32"')
# Written there by tifffile; axes in another order are left to tifffile.
_AXES = re.compile(rb'"axes":\s*"([^"]*)"')
_AS_STORED = re.compile(rb"[A-Z]?YX")


@dataclass(frozen=True, slots=True)
class Segments:
    """The positions of the voxels in a simple TIFF.

    Attributes:
        shape_zyx: Pages (or depth), rows, columns.
        dtype: The numpy name of the data type.
        big_endian: Whether the decoded voxels are big-endian.
        compression: ``none``, ``deflate`` or ``zstd``.
        spans: Offset and size of each segment, in the order of the voxels.
        crc32: The checksum of all decoded voxels in the file's byte order, if the file states it.
        is_tile: Whether the voxels are one volumetric tile, and not one strip per page.
        is_zlib: Whether the first segment starts as a zlib stream that a gzip member can hold.
    """

    shape_zyx: tuple[int, int, int]
    dtype: str
    big_endian: bool
    compression: str
    spans: tuple[tuple[int, int], ...]
    crc32: int | None
    is_tile: bool = False
    channels: int = 1
    """Number of channels, which follow each other along the depth."""
    is_zlib: bool = False
    segment_bytes: int = field(init=False)
    """Size of one decoded segment."""

    def __post_init__(self) -> None:
        """Compute the derived attribute once: a file's segments are used for many requests."""
        size = self.shape_zyx[1] * self.shape_zyx[2] * int(self.dtype.lstrip(ascii_lowercase)) // 8
        object.__setattr__(self, "segment_bytes", size * self.shape_zyx[0] // len(self.spans))


def find_segments(data: bytes) -> Segments | None:
    """Parse a TIFF file.

    Args:
        data: The whole content of the file.

    Returns:
        The segments; None if the file is not of the simple kind, or truncated.
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
    kind = _TYPES.get(first.get(_SAMPLE_FORMAT, 1))
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
    dtype, channels = f"{kind}{bits}", _stated_channels(description, shape[0])
    is_zlib = compression == DEFLATE and _starts_zlib(
        data[spans[0][0] : spans[0][0] + ZLIB_HEADER_BYTES]
    )
    return Segments(
        shape, dtype, order == ">", compression, spans, crc32, is_tile, channels, is_zlib
    )


def _starts_zlib(header: bytes) -> bool:
    """Return whether this is a zlib header (RFC 1950) of a stream that a gzip member can hold."""
    return (
        len(header) == ZLIB_HEADER_BYTES
        and header[0] & 0x0F == 8
        and not header[1] & 0x20
        and int.from_bytes(header, "big") % 31 == 0
    )


def _has_other_order(description: bytes) -> bool:
    axes = _AXES.search(description)
    return b"<OME" in description or (axes is not None and not _AS_STORED.fullmatch(axes[1]))


def _stated_crc32(description: bytes) -> int | None:
    stated = _CRC.search(description)
    return int(stated[1]) if stated and int(stated[1]) < 2**32 else None


def _stated_channels(description: bytes, depth: int) -> int:
    stated = _CHANNELS.match(description)
    if stated is None or int(stated[1]) * int(stated[2]) != depth:
        return 1
    return int(stated[1])


Page = dict[int, int]
Spans = tuple[tuple[int, int], ...]
_ShapeAndSpans = tuple[tuple[int, int, int] | None, Spans]


def _strips(first: Page, pages: list[Page]) -> _ShapeAndSpans:
    rows = first[_LENGTH]
    if first.get(_ROWS, rows) < rows or first.get(_DEPTH, 1) != 1:
        return None, ()
    shape = (len(pages), rows, first[_WIDTH])
    return shape, tuple((page[_OFFSETS], page[_COUNTS]) for page in pages)


def _volume(first: Page, pages: list[Page]) -> _ShapeAndSpans:
    shape = (first.get(_DEPTH, 1), first[_LENGTH], first[_WIDTH])
    tile = (first.get(_TILE_DEPTH, 1), first[_TILE_LENGTH], first[_TILE_WIDTH])
    if len(pages) != 1 or tile != shape:
        return None, ()
    return shape, ((first[_TILE_OFFSETS], first[_TILE_COUNTS]),)


def _merged(spans: Spans, size: int) -> Spans:
    """Merge segments that are contiguous, without padding, into one span."""
    gapless = all(at + n == following for (at, n), (following, _) in pairwise(spans))
    exact = len({n for _, n in spans}) == 1 and spans[0][1] * len(spans) == size
    return ((spans[0][0], size),) if gapless and exact else spans


class _Walk:
    """Walks the chain of pages; reads single integers and the description only."""

    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self._data = data
        self._view = memoryview(data)
        self._first = struct.Struct(order + ("Q" if big else "I"))
        self._count = struct.Struct(order + ("Q" if big else "H"))
        self._entry = struct.Struct(order + ("HHQQ" if big else "HHII"))
        self._start = 8 if big else 4
        # A short value is in the first bytes of its field, in either byte order.
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
                raise ValueError("too many pages, or a loop of pages")
        return pages

    def _page(self, entries: memoryview) -> Page:
        page: Page = {}
        for tag, kind, count, value in self._entry.iter_unpack(entries):
            if tag == _DESCRIPTION:
                page[_DESCRIPTION], page[_DESCRIPTION_BYTES] = value, count
            elif tag in _KNOWN_TAGS:
                if count != 1:
                    raise ValueError(f"tag {tag} has {count} values")
                if kind == _SHORT:
                    value = (value >> self._shift) & 0xFFFF
                elif kind == _LONG:
                    value = (value >> self._shift_long) & 0xFFFFFFFF
                elif kind != _LONG8:
                    raise ValueError(f"tag {tag} is not an integer")
                page[tag] = value
        return page
