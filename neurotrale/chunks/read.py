"""The cheapest way from a TIFF file to the bytes of a chunk, checked against what is promised.

From cheap to dear: one segment that the client can unpack itself is passed through; uncompressed
voxels are taken as they are; deflate and zstd segments are unpacked one behind the other; for
everything else there is tifffile. All give the same voxels.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import imagecodecs
import numpy as np
from isal import isal_zlib

from neurotrale.chunks.decode import decode_chunk
from neurotrale.chunks.layout import Expected
from neurotrale.chunks.tiff import DEFLATE, NONE, ZSTD, Segments, find_segments
from neurotrale.errors import DamagedError
from neurotrale.faults import reading
from neurotrale.files import Found, Stamp
from neurotrale.kept import Kept

# Larger files are no chunks; tifffile reads only what it needs of them.
WHOLE_FILE_BYTES = 64 * 2**20
KEPT_FILES = 50_000

# RFC 1952: deflate, no name, no time, unknown system.
_GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
# What a gzip member has more than a zlib stream: 10 bytes instead of 2, 8 instead of 4.
_IN_FRONT, _BEHIND = 8, 4

Unpacked = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Voxels:
    """The bytes of a chunk on their way to a client.

    Attributes:
        body: What is sent.
        coding: How it is coded: "", ``gzip`` or ``zstd``.
        stamp: The version of the file that they were read from.
        labels: Whether they are labels of a segmentation.
    """

    body: bytes | bytearray
    coding: str
    stamp: Stamp
    labels: bool = False


class ChunkReader:
    """Reads TIFF chunks; remembers, for each version of a file, where its segments are."""

    def __init__(self) -> None:
        self.kept: Kept[Segments | None] = Kept(KEPT_FILES)

    def read(self, found: Found, expected: Expected, codings: Set[str]) -> Voxels:
        """Read a chunk.

        Args:
            found: Its TIFF file.
            expected: What it must be.
            codings: Content codings that the client takes; ``gzip`` and ``zstd`` matter.

        Raises:
            DamagedError: It is not what is expected, or cannot be decoded.
            MissingError, ReadOnlyError, BusyError: The file cannot be read.
        """
        with reading(found.name):
            file = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                stamp = Stamp.of(os.fstat(file))
                segments = self.kept.get(
                    found.path, stamp, lambda: find_segments(_whole(file, stamp))
                )
                if segments is None or not _fits(segments, expected):
                    decoded = decode_chunk(Path(found.path), found.name, expected)
                    return Voxels(decoded, "", stamp, expected.labels)
                if len(segments.spans) == 1 and not segments.big_endian:
                    passed = self._passed(file, found, stamp, segments, codings)
                    if passed is not None:
                        return passed
                unpacked = _unpacked(found.name, segments, _whole(file, stamp))
                return Voxels(bytes(unpacked), "", stamp, expected.labels)
            finally:
                os.close(file)

    def _passed(
        self, file: int, found: Found, stamp: Stamp, segments: Segments, codings: Set[str]
    ) -> Voxels | None:
        """Hand on a single segment as it is stored, if the client takes it so."""
        ((at, size),) = segments.spans
        if segments.compression == NONE:
            body = os.pread(file, segments.segment_bytes, at)
            return Voxels(body, "", stamp) if len(body) == segments.segment_bytes else None
        if segments.compression == ZSTD and "zstd" in codings:
            body = os.pread(file, size, at)
            return Voxels(body, "zstd", stamp) if len(body) == size else None
        if segments.compression != DEFLATE or "gzip" not in codings:
            return None
        if segments.crc32 is None:
            # What gzip adds is learnt once, by unpacking; so damage is noticed then.
            data = _whole(file, stamp)
            voxels = _unpacked(found.name, segments, data)
            if data[at + size - 4 : at + size] != isal_zlib.adler32(voxels).to_bytes(4, "big"):
                return None  # something follows the stream, which gzip would take for its end
            segments = replace(segments, crc32=isal_zlib.crc32(voxels))
            self.kept.put(found.path, stamp, segments)
        member = _gzip_member(file, segments)
        return None if member is None else Voxels(member, "gzip", stamp)


def _whole(file: int, stamp: Stamp) -> bytes:
    if stamp.size > WHOLE_FILE_BYTES:
        return b""
    return os.pread(file, stamp.size, 0)


def _gzip_member(file: int, segments: Segments) -> bytearray | None:
    """Read a zlib stream to where it lies in a gzip member (RFC 1950, 1952); None if it is none.

    Two of its bytes make room for a header of ten, and its last four for CRC-32 and length.
    """
    ((at, size),) = segments.spans
    assert segments.crc32 is not None
    member = bytearray(_IN_FRONT + size + _BEHIND)
    with memoryview(member)[_IN_FRONT : _IN_FRONT + size] as stream:
        if os.preadv(file, [stream], at) != size or not _is_zlib(stream):
            return None
    member[: len(_GZIP_HEADER)] = _GZIP_HEADER
    struct.pack_into("<II", member, len(member) - 8, segments.crc32, segments.segment_bytes)
    return member


def _fits(segments: Segments, expected: Expected) -> bool:
    """Tell whether the lean way is safe; tifffile says in words what does not fit."""
    return (
        expected.shape_vx is not None
        and expected.channels in (None, 1)
        and segments.shape_zyx == expected.shape_vx[::-1]
        and expected.dtype in (None, segments.dtype)
    )


def _is_zlib(segment: memoryview) -> bool:
    """Tell a plain zlib stream (RFC 1950) from one that a gzip member cannot hold."""
    return (
        len(segment) > 6
        and segment[0] & 0x0F == 8
        and not segment[1] & 0x20
        and (segment[0] << 8 | segment[1]) % 31 == 0
    )


def _unpacked(name: str, segments: Segments, data: bytes) -> Unpacked:
    size = segments.segment_bytes
    view = memoryview(data)
    unpack = _UNPACK[segments.compression]
    unpacked: list[Unpacked] = []
    for number, (at, count) in enumerate(segments.spans):
        try:
            voxels = unpack(view[at : at + count], size)
        except _DAMAGES as error:
            raise DamagedError(
                name,
                f"expected {segments.compression} data in segment {number}, found damage: {error}",
            ) from error
        if len(voxels) != size:
            raise DamagedError(
                name, f"expected {size} bytes in segment {number}, found {len(voxels)}"
            )
        unpacked.append(voxels)
    joined = unpacked[0] if len(unpacked) == 1 else b"".join(unpacked)
    if segments.big_endian and segments.dtype not in ("uint8", "int8"):
        joined = np.frombuffer(joined, segments.dtype).byteswap().tobytes()
    return joined


def _cut(segment: memoryview, size: int) -> memoryview:
    return segment[:size]


def _inflate(segment: memoryview, size: int) -> bytes:
    """Inflate no further than needed to see that there is more than expected."""
    stream = isal_zlib.decompressobj()
    voxels = stream.decompress(segment, size + 1)
    if not stream.eof:  # without its end, nothing was compared with its checksum
        raise ValueError("it does not end where it should")
    return voxels


def _unzstd(segment: Any, size: int) -> bytes:
    return bytes(imagecodecs.zstd_decode(segment, out=size))


# isal's error is not typed as an exception.
_DAMAGES: tuple[type[Exception], ...] = (
    cast(type[Exception], isal_zlib.IsalError),
    imagecodecs.ZstdError,
    ValueError,
)
_UNPACK: dict[str, Callable[[memoryview, int], Unpacked]] = {
    NONE: _cut,
    DEFLATE: _inflate,
    ZSTD: _unzstd,
}
