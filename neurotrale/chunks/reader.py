"""Reads the voxels of a TIFF file in the cheapest way, and checks them against `Expected`.

From cheap to expensive: a single segment that the client can decompress is passed through;
uncompressed voxels are sent as they are; deflate and zstd segments are decompressed one after the
other; tifffile decodes everything else. The voxels are the same in all cases.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from isal import isal_zlib

from neurotrale.chunks.decode import DECODED_LIMIT_BYTES, Expected, decode_chunk
from neurotrale.chunks.segments import (
    DEFLATE,
    NONE,
    ZLIB_HEADER_BYTES,
    ZSTD,
    Segments,
    find_segments,
)
from neurotrale.errors import DamagedError, raise_read_error
from neurotrale.late import LazyModule
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.compression import ZSTD_BLOCK_BYTES, most_unpacked_bytes
from neurotrale.storage.files import StoredFile

if TYPE_CHECKING:
    import imagecodecs
    import numpy as np
else:
    imagecodecs = LazyModule("imagecodecs", "zstd_decode", "ZstdError")
    np = LazyModule("numpy")

# Larger files are not chunks; they are left to tifffile, which reads only what it needs.
WHOLE_FILE_BYTES = 64 * 2**20
CACHED_FILES = 50_000

# RFC 1952: deflate, no name, no time, unknown system.
_GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
# RFC 1950: around the deflate data, a zlib stream has a header of two bytes and an Adler-32.
_ZLIB_TRAILER_BYTES = 4

Decompressed = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Voxels:
    """The voxels of a chunk, as they are sent to a client.

    Attributes:
        pieces: The body in pieces; a single one without a coding.
        coding: The content coding: "", ``gzip`` or ``zstd``.
        stamp: The version of the file that was read.
        labels: Whether the voxels are labels of a segmentation.
    """

    pieces: tuple[bytes, ...]
    coding: str
    stamp: Stamp
    labels: bool = False

    @property
    def body(self) -> bytes:
        """The pieces joined; a single piece is not copied."""
        return b"".join(self.pieces)


class ChunkReader:
    """Reads TIFF chunks, and caches the positions of the segments for each version of a file."""

    def __init__(self) -> None:
        self.cache: VersionedCache[Segments | None] = VersionedCache(
            CACHED_FILES, counted_as="chunks"
        )

    def read(self, source: StoredFile, expected: Expected, codings: Set[str]) -> Voxels:
        """Read a chunk.

        Args:
            source: The TIFF file.
            expected: The expected content.
            codings: The content codings that the client accepts; ``gzip`` and ``zstd`` are used.

        Raises:
            DamagedError: The content is not as expected, or cannot be decoded.
            MissingError, ReadOnlyError, BusyError: The file cannot be read.
        """
        opened = source.opened
        try:
            if opened is not None and opened.descriptor is not None:
                # Its status was taken right after it was opened.
                return self._read(opened.descriptor, source, source.stamp, expected, codings)
            file = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return self._read(file, source, Stamp.of(os.fstat(file)), expected, codings)
            finally:
                os.close(file)
        except OSError as error:
            raise_read_error(error, source.name)

    def _read(
        self,
        file: int,
        source: StoredFile,
        stamp: Stamp,
        expected: Expected,
        codings: Set[str],
    ) -> Voxels:
        segments = self.cache.get(
            source.path,
            stamp,
            lambda: find_segments(_whole(file, stamp)),
            is_settled=stamp.is_settled,
        )
        if segments is None or not _matches(segments, expected):
            decoded = decode_chunk(Path(source.path), source.name, expected, file)
            return Voxels((decoded,), "", stamp, expected.labels)
        if len(segments.spans) == 1 and not segments.big_endian:
            voxels = self._passed_through(file, source, stamp, segments, codings)
            if voxels is not None:
                return voxels
        decompressed = _decompressed(source.name, segments, _whole(file, stamp))
        return Voxels((bytes(decompressed),), "", stamp, expected.labels)

    def _passed_through(
        self, file: int, source: StoredFile, stamp: Stamp, segments: Segments, codings: Set[str]
    ) -> Voxels | None:
        """Return a single segment as it is stored; None if the client does not accept that."""
        ((at, size),) = segments.spans
        if segments.compression == NONE:
            body = os.pread(file, segments.segment_bytes, at)
            return Voxels((body,), "", stamp) if len(body) == segments.segment_bytes else None
        if segments.compression == ZSTD and "zstd" in codings:
            body = os.pread(file, size, at)
            is_whole = (
                len(body) == size
                and most_unpacked_bytes(body, segments.segment_bytes)
                <= segments.segment_bytes + ZSTD_BLOCK_BYTES
            )
            return Voxels((body,), "zstd", stamp) if is_whole else None
        if segments.compression != DEFLATE or "gzip" not in codings:
            return None
        if segments.crc32 is None:
            # The CRC-32 for gzip is computed once, by decompressing, which also detects damage.
            data = _whole(file, stamp)
            voxels = _decompressed(source.name, segments, data)
            if data[at + size - 4 : at + size] != isal_zlib.adler32(voxels).to_bytes(4, "big"):
                return None  # other data follows the stream within the segment
            segments = replace(segments, crc32=isal_zlib.crc32(voxels))
            self.cache.put(source.path, stamp, segments, is_settled=stamp.is_settled)
        member = _gzip_member(file, segments)
        return None if member is None else Voxels(member, "gzip", stamp)


def _whole(file: int, stamp: Stamp) -> bytes:
    if stamp.size > WHOLE_FILE_BYTES:
        return b""
    return os.pread(file, stamp.size, 0)


def _gzip_member(file: int, segments: Segments) -> tuple[bytes, ...] | None:
    """Return a zlib stream as the pieces of a gzip member (RFC 1950, 1952); None if it is not one.

    The deflate data is a piece of its own, so that it is never copied.
    """
    ((at, size),) = segments.spans
    assert segments.crc32 is not None
    deflate_bytes = size - ZLIB_HEADER_BYTES - _ZLIB_TRAILER_BYTES
    if deflate_bytes <= 0 or not segments.is_zlib:
        return None
    deflate = os.pread(file, deflate_bytes, at + ZLIB_HEADER_BYTES)
    if len(deflate) != deflate_bytes:
        return None
    trailer = struct.pack("<II", segments.crc32, segments.segment_bytes)
    return _GZIP_HEADER, deflate, trailer


def _matches(segments: Segments, expected: Expected) -> bool:
    """Return whether the segments are as expected; if not, tifffile words the error better."""
    if expected.shape_vx is None:
        return False
    channels = expected.channels or 1
    x, y, z = expected.shape_vx
    return (
        segments.segment_bytes * len(segments.spans) <= DECODED_LIMIT_BYTES
        and segments.channels == channels
        and segments.shape_zyx == (z * channels, y, x)
        and expected.dtype in (None, segments.dtype)
    )


def _decompressed(name: str, segments: Segments, data: bytes) -> Decompressed:
    size = segments.segment_bytes
    view = memoryview(data)
    decompress = _DECOMPRESS[segments.compression]
    swaps = segments.big_endian and segments.dtype not in ("uint8", "int8")
    joined = bytearray(size * len(segments.spans) if swaps or len(segments.spans) > 1 else 0)
    for number, (at, count) in enumerate(segments.spans):
        try:
            voxels = decompress(view[at : at + count], size)
        except _DECOMPRESSION_ERRORS as error:
            raise DamagedError(
                name,
                f"the {segments.compression} data of segment {number} is damaged: {error}",
            ) from error
        if len(voxels) != size:
            raise DamagedError(
                name, f"expected {size} bytes in segment {number}, found {len(voxels)}"
            )
        if not joined:
            return voxels
        joined[number * size : (number + 1) * size] = voxels
    if swaps:
        np.frombuffer(joined, segments.dtype).byteswap(inplace=True)
    return joined


def _uncompressed(segment: memoryview, size: int) -> memoryview:
    return segment[:size]


def _inflate(segment: memoryview, size: int) -> bytes:
    """Inflate at most one byte more than expected, which shows that there is too much."""
    stream = isal_zlib.decompressobj()
    voxels = stream.decompress(segment, size + 1)
    if not stream.eof:  # its checksum is verified only at its end
        raise ValueError("it ends too late, or not at all")
    return voxels


def _decompress_zstd(segment: Any, size: int) -> bytes:
    try:
        return bytes(imagecodecs.zstd_decode(segment, out=size))
    except imagecodecs.ZstdError as error:
        raise ValueError(str(error)) from error


# isal's stubs do not declare its error as an exception.
_DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (
    cast(type[Exception], isal_zlib.IsalError),
    ValueError,
)
_DECOMPRESS: dict[str, Callable[[memoryview, int], Decompressed]] = {
    NONE: _uncompressed,
    DEFLATE: _inflate,
    ZSTD: _decompress_zstd,
}
