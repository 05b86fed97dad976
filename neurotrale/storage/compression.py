"""Content codings: compress response bodies, decompress files that are stored compressed."""

from __future__ import annotations

import gzip
import io
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


# Smaller contents are not worth it.
_PACKED_FROM_BYTES = 2**15


def pack(content: bytes) -> bytes:
    """Compress a content that is kept, if it is not small."""
    if len(content) < _PACKED_FROM_BYTES:
        return b"-" + content
    size = len(content).to_bytes(8, "little")
    return b"+" + size + bytes(imagecodecs.zstd_encode(content, _LEVEL))


def unpack(packed: bytes) -> bytes:
    """Return a content that was packed.

    Raises:
        ValueError: It is damaged.
    """
    if packed[:1] == b"-":
        return packed[1:]
    try:
        size = int.from_bytes(packed[1:9], "little")
        return bytes(imagecodecs.zstd_decode(packed[9:], out=size))
    except imagecodecs.ZstdError as error:
        raise ValueError(str(error)) from error


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
