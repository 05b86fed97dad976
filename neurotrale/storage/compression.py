"""Content codings: compress response bodies, decompress files that are stored compressed."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zlib
from typing import TYPE_CHECKING

from isal import isal_zlib

from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import brotli
    import imagecodecs
else:
    brotli = LazyModule("brotli", "Decompressor", "error")
    imagecodecs = LazyModule("imagecodecs", "zstd_decode", "zstd_encode", "ZstdError")


# The codings for response bodies, in order of preference.
CODINGS = ("zstd", "gzip")

# The cheapest level: higher ones hardly shrink noisy images any further.
_LEVEL = 1
_GZIP_WBITS = 31


def compress(body: bytes, coding: str) -> bytes:
    """Compress a body with ``gzip`` or ``zstd``."""
    if coding == "zstd":
        return bytes(imagecodecs.zstd_encode(body, _LEVEL))
    return isal_zlib.compress(body, _LEVEL, _GZIP_WBITS)


def decompress(compressed: bytes, coding: str, max_bytes: int) -> bytes:
    """Decompress ``gzip`` or ``br`` data.

    Args:
        compressed: The compressed bytes.
        coding: Their coding.
        max_bytes: Decompression stops soon after this: a kilobyte can hold gigabytes.

    Returns:
        The content; longer than `max_bytes`, and not all of it, if it is longer.

    Raises:
        ValueError: The bytes are not valid in this coding.
    """
    try:
        if coding == "br":
            return _decompress_brotli(compressed, max_bytes)
        if not compressed:  # the gzip module accepts an empty file
            raise EOFError("the file is empty")
        with gzip.GzipFile(fileobj=io.BytesIO(compressed)) as stream:
            return stream.read(max_bytes + 1)
    except (brotli.error, OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error


_MOST_WINDOW_EXPONENT = 13  # 8 MiB
ZSTD_BLOCK_BYTES = 2**17  # what a block unpacks to, at most


def most_unpacked_bytes(packed: bytes, enough: int) -> int:
    """Return a bound of what zstd data unpacks to, by the sizes of its blocks (RFC 8878).

    It is at most a block per frame too large. Nothing is unpacked, and it stops soon above the
    size that is enough to know.
    """
    at = most = 0
    while at < len(packed) and most <= enough + ZSTD_BLOCK_BYTES:
        if packed[at : at + 4] != b"\x28\xb5\x2f\xfd":
            return sys.maxsize  # a skippable frame, or none at all
        descriptor = packed[at + 4] if at + 4 < len(packed) else 0
        is_single = descriptor >> 5 & 1
        content_size_bytes = (is_single, 2, 4, 8)[descriptor >> 6]
        at += 5
        if not is_single and (at >= len(packed) or packed[at] >> 3 > _MOST_WINDOW_EXPONENT):
            return sys.maxsize  # clients refuse such a window (RFC 9659)
        at += (not is_single) + (0, 1, 2, 4)[descriptor & 3]
        stated = int.from_bytes(packed[at : at + content_size_bytes], "little")
        if stated > enough:
            return sys.maxsize  # clients make room for it at once
        at += content_size_bytes
        is_last = False
        while not is_last and most <= enough + ZSTD_BLOCK_BYTES:
            if at + 3 > len(packed):
                return sys.maxsize  # cut off
            header = int.from_bytes(packed[at : at + 3], "little")
            is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            # Of what is stored as it is or as a repeated byte, the size is known.
            most += size if kind < 2 else ZSTD_BLOCK_BYTES
            at += 3 + (1 if kind == 1 else size)
        at += 4 * (descriptor >> 2 & 1) * is_last
    return most if at <= len(packed) else sys.maxsize


# Smaller contents are not worth it.
_PACKED_FROM_BYTES = 2**15
_PACKED_PIECE_BYTES = 2**20
_SIZES = struct.Struct("<II")  # of a piece, and of its compressed bytes


def pack(content: bytes) -> bytes:
    """Compress a content that is kept, if it is not small."""
    if len(content) < _PACKED_FROM_BYTES:
        return b"-" + content
    packed = [b"+"]
    for at in range(0, len(content), _PACKED_PIECE_BYTES):  # whole, it would take its size again
        piece = content[at : at + _PACKED_PIECE_BYTES]
        frame = bytes(imagecodecs.zstd_encode(piece, _LEVEL))
        packed += (_SIZES.pack(len(piece), len(frame)), frame)
    return b"".join(packed)


def unpack(packed: bytes) -> bytes:
    """Return a content that was packed.

    Raises:
        ValueError: It is damaged.
    """
    if packed[:1] == b"-":
        return packed[1:]
    content, at = io.BytesIO(), 1
    try:
        while at < len(packed):
            size, count = _SIZES.unpack_from(packed, at)
            at += _SIZES.size
            frame = packed[at : at + count]
            content.write(imagecodecs.zstd_decode(frame, out=min(size, _PACKED_PIECE_BYTES)))
            at += count
    except (imagecodecs.ZstdError, struct.error) as error:
        raise ValueError(str(error)) from error
    return content.getvalue()


def _decompress_brotli(compressed: bytes, max_bytes: int) -> bytes:
    decompressor = brotli.Decompressor()
    pieces, size = [], 0
    while size <= max_bytes and not decompressor.is_finished():
        piece = decompressor.process(compressed, output_buffer_limit=max_bytes + 1 - size)
        if not piece and not decompressor.is_finished():
            raise EOFError("the data is cut off")
        compressed = b""
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)
