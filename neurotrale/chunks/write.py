"""Voxels to the bytes of a TIFF file: the layouts that are read again in the cheapest way.

`single` is one volumetric tile that has the shape of the chunk: its one segment can be passed to
clients as it is. TIFF asks for sides that are multiples of 16, for the convenience of decoders of
its time; chunks at the edge of a volume break that rule, and tifffile and this service read them.
`pages` is what precomputed-tif writes: one page a plane, which Fiji and ImageJ open, too.

The same voxels always give the same bytes. Sources: see `neurotrale.chunks.tiff`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal

import imagecodecs
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

Layout = Literal["single", "pages"]
Compression = Literal["deflate", "zstd", "none"]

_CODES = {"none": 1, "deflate": 8, "zstd": 50000}
_KINDS = {"u": 1, "i": 2, "f": 3}
_ASCII, _SHORT, _LONG = 2, 3, 4
_ENTRY = struct.Struct("<HHII")
# Voxels begin at a multiple of this, so that they can be mapped as an array.
_ALIGNMENT = 16
# Levels were chosen by measurement: these are three to ten times faster than the usual ones, for
# a few per cent more bytes.
_DEFLATE_LEVEL, _ZSTD_LEVEL = 1, 1

Tag = tuple[int, int, int, int]


def encode_chunk(
    voxels: NDArray[Any], layout: Layout = "single", compression: Compression = "deflate"
) -> bytes:
    """Encode a chunk as a TIFF file.

    Args:
        voxels: ``[z, y, x]``, of an integer type or float32.
        layout: ``single`` for one segment, ``pages`` for one page a plane.
        compression: Of each segment.

    Returns:
        The file; the description in it states the shape and, as ``crc32``, the checksum of the
        voxels as ``[z, y, x]`` in C order, little-endian.
    """
    stored = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    content = stored.reshape(-1).view(np.uint8).data
    stated = {"shape": stored.shape, "crc32": isal_zlib.crc32(content)}
    description = json.dumps(stated).encode("ascii") + b"\0"
    pieces = [content] if layout == "single" else _cut(content, stored.shape[0])
    segments = [_PACK[compression](piece) for piece in pieces]
    common = _common_tags(stored, compression)
    place = _single_tags if layout == "single" else _page_tags
    pages = [common + place(stored.shape) for _ in segments]
    return _file(pages, description, segments, layout)


def _cut(content: memoryview, count: int) -> list[memoryview]:
    step = len(content) // count
    return [content[at : at + step] for at in range(0, len(content), step)]


def _deflate(piece: Any) -> bytes:
    # isal is quicker, but once in some hundred processes it finds other matches in the same bytes.
    return bytes(imagecodecs.deflate_encode(piece, level=_DEFLATE_LEVEL))


def _zstd(piece: Any) -> bytes:
    return bytes(imagecodecs.zstd_encode(piece, level=_ZSTD_LEVEL))


_PACK: dict[str, Callable[[memoryview], bytes | memoryview]] = {
    "none": lambda piece: piece,
    "deflate": _deflate,
    "zstd": _zstd,
}


def _common_tags(stored: NDArray[Any], compression: Compression) -> list[Tag]:
    _, y, x = stored.shape
    return [
        (256, _LONG, 1, x),  # ImageWidth
        (257, _LONG, 1, y),  # ImageLength
        (258, _SHORT, 1, stored.dtype.itemsize * 8),  # BitsPerSample
        (259, _SHORT, 1, _CODES[compression]),  # Compression
        (262, _SHORT, 1, 1),  # PhotometricInterpretation: black is zero
        (277, _SHORT, 1, 1),  # SamplesPerPixel
        (339, _SHORT, 1, _KINDS[stored.dtype.kind]),  # SampleFormat
    ]


def _single_tags(shape_zyx: tuple[int, ...]) -> list[Tag]:
    z, y, x = shape_zyx
    return [
        (322, _LONG, 1, x),  # TileWidth
        (323, _LONG, 1, y),  # TileLength
        (32997, _LONG, 1, z),  # ImageDepth
        (32998, _LONG, 1, z),  # TileDepth
    ]


def _page_tags(shape_zyx: tuple[int, ...]) -> list[Tag]:
    return [(278, _LONG, 1, shape_zyx[1])]  # RowsPerStrip


def _file(
    pages: list[list[Tag]],
    description: bytes,
    segments: Sequence[bytes | memoryview],
    layout: Layout,
) -> bytes:
    """Lay out header, pages, description and segments, in this order."""
    offsets, counts = (324, 325) if layout == "single" else (273, 279)
    sizes = [_page_bytes(len(tags) + 2 + (number == 0)) for number, tags in enumerate(pages)]
    described_at = 8 + sum(sizes)
    described_to = described_at + len(description)
    at = _aligned(described_to)
    parts: list[bytes | memoryview] = [struct.pack("<2sHI", b"II", 42, 8)]
    following = 8
    for number, (tags, segment) in enumerate(zip(pages, segments, strict=True)):
        following += sizes[number]
        own = [(offsets, _LONG, 1, at), (counts, _LONG, 1, len(segment))]
        if number == 0:
            own.append((270, _ASCII, len(description), described_at))
        parts.append(_page(tags + own, 0 if number == len(pages) - 1 else following))
        at += len(segment)
    parts += [description, bytes(_aligned(described_to) - described_to)]
    return b"".join([*parts, *segments])


def _page_bytes(tags: int) -> int:
    return 2 + tags * _ENTRY.size + 4


def _page(tags: list[Tag], following: int) -> bytes:
    entries = b"".join(_ENTRY.pack(*tag) for tag in sorted(tags))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT
