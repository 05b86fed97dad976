"""How large an image is that a strip or tile of a TIFF contains, by the image's own header.

Decoders of image formats make what that header says, however small the strip or tile is: a
kilobyte may say gigabytes. Everything here is a pure function of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JXR_WIDTH, _JXR_HEIGHT, _JXR_OFFSET = 0xBC80, 0xBC81, 0xBCC0
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jpeg(data: bytes) -> int:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return int(height * width * data[at + 9])
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("it has no frame")


def _jpeg2000(data: bytes) -> int:
    at = 0
    while data[at : at + 4] != b"\xff\x4f\xff\x51":  # boxes around the codestream
        size, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            header = 16
        if kind != b"jp2c" and size < header:
            raise ValueError("it has no codestream")
        at += header if kind == b"jp2c" else size
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    return int((right - left) * (bottom - top) * components)


def _png(data: bytes) -> int:
    if data[12:16] != b"IHDR":
        raise ValueError("it has no header")
    width, height = struct.unpack_from(">II", data, 16)
    return int(width * height)


def _webp(data: bytes) -> int:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        raise ValueError("it has no image")
    return width * height


def _jpegxl(data: bytes) -> int:
    at = 0
    while data[at : at + 2] != b"\xff\x0a":  # boxes around the codestream
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"jxlc", b"jxlp"):
            at += 8 if kind == b"jxlc" else 12
        elif size < 8:
            raise ValueError("it has no codestream")
        else:
            at += size
    bits, used = int.from_bytes(data[at + 2 : at + 16], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        used += count
        return bits >> (used - count) & ((1 << count) - 1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    is_small = bool(take(1))
    height, ratio = side(), take(3)
    if not ratio:
        return height * int(side())
    across, down = _JXL_RATIOS[ratio - 1]
    return height * int(height * across // down)


def _jpegxr(data: bytes) -> int:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    values = {}
    for number in range(count):
        tag, kind, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * number)
        values[tag] = value & {1: 0xFF, 3: 0xFFFF}.get(kind, 0xFFFF_FFFF)
    start = values[_JXR_OFFSET]
    if data[start : start + 8] != b"WMPHOTO\0":
        raise ValueError("it has no codestream")
    is_short = data[start + 10] & 0x80
    sides = struct.unpack_from(">HH" if is_short else ">II", data, start + 12)
    in_stream = int((sides[0] + 1) * (sides[1] + 1))
    return max(in_stream, int(values[_JXR_WIDTH] * values[_JXR_HEIGHT]))


def _lerc(data: bytes) -> int:
    if data[:6] != b"Lerc2 ":
        raise ValueError("it is not Lerc2")
    (version,) = struct.unpack_from("<i", data, 6)
    at = 10 if version < 3 else 14  # there is a checksum
    rows, columns, depth = struct.unpack_from("<iii", data, at)
    # Bands follow each other, and are alike.
    return int(rows * columns * (depth if version >= 4 else 1) * data.count(b"Lerc2 "))


_SIZES: dict[int, Callable[[bytes], int]] = {
    **dict.fromkeys((6, 7, 33007, 34892), _jpeg),
    **dict.fromkeys((33003, 33004, 33005, 34712), _jpeg2000),
    **dict.fromkeys((22610, 34934), _jpegxr),
    **dict.fromkeys((50002, 52546), _jpegxl),
    34887: _lerc,
    34933: _png,
    50001: _webp,
}
IMAGE_COMPRESSIONS = frozenset(_SIZES)
"""Values of the tag Compression whose segments are images with headers of their own."""


def stated_voxels(compression: int, data: bytes) -> int:
    """Return how many voxels the image in a segment has.

    Args:
        compression: Value of the tag Compression, one of `IMAGE_COMPRESSIONS`.
        data: The whole segment.

    Raises:
        ValueError: It has no such header.
    """
    try:
        voxels: int = _SIZES[compression](data)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("its header is cut off") from error
    return voxels
