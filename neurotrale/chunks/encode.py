"""Encodes voxels as TIFF files, in the layouts that are cheapest to serve.

`single` is one volumetric tile of the shape of the chunk: its only segment can be sent to clients
as it is. TIFF requires sides that are multiples of 16, for the convenience of the decoders of its
time; chunks at the edge of a volume break that rule, and both tifffile and this service read them.
`pages` is the layout of precomputed-tif: one page per plane, which Fiji and ImageJ open as well.

The same voxels always result in the same bytes. Sources: see `neurotrale.chunks.segments`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from math import prod
from string import digits
from typing import TYPE_CHECKING, Any

from isal import isal_zlib

from neurotrale.chunks.segments import COMPRESSION_CODES, SAMPLE_FORMATS
from neurotrale.late import LazyModule
from neurotrale.settings.shared import Compression as Compression
from neurotrale.settings.shared import Layout as Layout

if TYPE_CHECKING:
    import imagecodecs
    import numpy as np
    from numpy.typing import NDArray
else:
    imagecodecs = LazyModule("imagecodecs", "deflate_encode", "zstd_encode")
    np = LazyModule("numpy")


_ASCII, _SHORT, _LONG = 2, 3, 4
_ENTRY = struct.Struct("<HHII")
# Voxels begin at a multiple of this offset, so that they can be memory-mapped as an array.
_ALIGNMENT = 16
# Levels chosen by measurement: three to ten times faster than the default levels, for a few per
# cent more bytes.
_DEFLATE_LEVEL, _ZSTD_LEVEL = 1, 1
# isal is nearly twice as fast as libdeflate. But with isal 1.9.1 its (always valid) output for less
# than some 300 bytes differed in one of a few processes, and that for a whole chunk very rarely.
_ISAL_BYTES = 2**14

Tag = tuple[int, int, int, int]


def encode_chunk(
    voxels: NDArray[Any], layout: Layout = "single", compression: Compression = "deflate"
) -> bytes:
    """Encode a chunk as a TIFF file.

    Args:
        voxels: ``[z, y, x]`` or ``[channel, z, y, x]``, of an integer type or float32.
        layout: ``single`` for one segment, ``pages`` for one page per plane.
        compression: The compression of each segment.

    Returns:
        The content of the file. Its description states the shape and, as ``crc32``, the checksum of
        the voxels in C order, little-endian. In a tile, channels follow each other along the depth.
    """
    stored = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    content = stored.reshape(-1).view(np.uint8).data
    metadata = {"shape": stored.shape, "crc32": isal_zlib.crc32(content)}
    description = json.dumps(metadata).encode("ascii") + b"\0"
    y, x = stored.shape[-2:]
    shape = (prod(stored.shape[:-2]), y, x)
    planes = [content] if layout == "single" else _split(content, shape[0])
    segments = [_COMPRESS[compression](part) for part in planes]
    common = _common_tags(stored, compression)
    layout_tags = _single_tags if layout == "single" else _page_tags
    pages = [common + layout_tags(shape) for _ in segments]
    return _file(pages, description, segments, layout)


def _split(content: memoryview, count: int) -> list[memoryview]:
    step = len(content) // count
    return [content[at : at + step] for at in range(0, len(content), step)]


def _deflate(piece: Any) -> bytes:
    if len(piece) < _ISAL_BYTES:
        return bytes(imagecodecs.deflate_encode(piece, level=_DEFLATE_LEVEL))
    return isal_zlib.compress(piece, _DEFLATE_LEVEL)


def _zstd(piece: Any) -> bytes:
    return bytes(imagecodecs.zstd_encode(piece, level=_ZSTD_LEVEL))


_COMPRESS: dict[str, Callable[[memoryview], bytes | memoryview]] = {
    "none": lambda piece: piece,
    "deflate": _deflate,
    "zstd": _zstd,
}


def _common_tags(stored: NDArray[Any], compression: Compression) -> list[Tag]:
    y, x = stored.shape[-2:]
    return [
        (256, _LONG, 1, x),  # ImageWidth
        (257, _LONG, 1, y),  # ImageLength
        (258, _SHORT, 1, stored.dtype.itemsize * 8),  # BitsPerSample
        (259, _SHORT, 1, COMPRESSION_CODES[compression]),  # Compression
        (262, _SHORT, 1, 1),  # PhotometricInterpretation: black is zero
        (277, _SHORT, 1, 1),  # SamplesPerPixel
        (339, _SHORT, 1, SAMPLE_FORMATS[stored.dtype.name.rstrip(digits)]),  # SampleFormat
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
    """Assemble header, pages, description and segments, in this order."""
    offsets, counts = (324, 325) if layout == "single" else (273, 279)
    sizes = [_page_bytes(len(tags) + 2 + (number == 0)) for number, tags in enumerate(pages)]
    description_at = 8 + sum(sizes)
    description_end = description_at + len(description)
    at = _aligned(description_end)
    parts: list[bytes | memoryview] = [struct.pack("<2sHI", b"II", 42, 8)]
    following = 8
    for number, (tags, segment) in enumerate(zip(pages, segments, strict=True)):
        following += sizes[number]
        own = [(offsets, _LONG, 1, at), (counts, _LONG, 1, len(segment))]
        if number == 0:
            own.append((270, _ASCII, len(description), description_at))
        parts.append(_page(tags + own, 0 if number == len(pages) - 1 else following))
        at += len(segment)
    parts += [description, bytes(_aligned(description_end) - description_end)]
    return b"".join([*parts, *segments])


def _page_bytes(tags: int) -> int:
    return 2 + tags * _ENTRY.size + 4


def _page(tags: list[Tag], following: int) -> bytes:
    entries = b"".join(_ENTRY.pack(*tag) for tag in sorted(tags))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT
