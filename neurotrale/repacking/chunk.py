"""One chunk file, rewritten in another layout; its voxels are compared before it is replaced."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from isal import isal_zlib

from neurotrale.chunks.decode import decode_chunk
from neurotrale.chunks.layout import Expected
from neurotrale.chunks.read import ChunkReader
from neurotrale.chunks.tiff import DEFLATE, Segments, find_segments
from neurotrale.chunks.write import Compression, Layout, encode_chunk
from neurotrale.durable import replace_file
from neurotrale.errors import BusyError, DamagedError
from neurotrale.faults import reading, writing
from neurotrale.files import Found, Stamp
from neurotrale.names import ChunkName

Outcome = Literal["rewritten", "alike", "again"]


@dataclass(frozen=True, slots=True)
class Target:
    """How chunks are to be stored.

    Attributes:
        layout: How voxels lie in a file.
        compression: Of each segment.
        dtype: A numpy name of the data type, from `info`.
    """

    layout: Layout
    compression: Compression
    dtype: str


@dataclass(frozen=True, slots=True)
class Repacked:
    """What became of a chunk.

    Attributes:
        outcome: ``rewritten``; ``alike``: it was in the layout already; ``again``: it is since it
            was rewritten a moment ago, as some file systems list a replaced file once more.
        bytes_before: Size of the file.
        bytes_after: The same, now.
    """

    outcome: Outcome
    bytes_before: int
    bytes_after: int


class Repacker:
    """Rewrites chunk files.

    Args:
        target: The layout that is wanted.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._reader = ChunkReader()
        self._started_ns = time.time_ns()
        self._suffix = f"{os.uname().nodename}-{os.getpid()}"

    def repack(self, path: Path, name: ChunkName, what: str) -> Repacked:
        """Rewrite a file, unless it is in the layout already.

        Readers see the old file or the new one; both give the same voxels.

        Args:
            path: The file.
            name: The box that it holds.
            what: What to call it in errors.

        Raises:
            DamagedError: It is not what `info` and its name promise; it stays as it was.
            BusyError: Another program wrote it meanwhile; it stays as that wrote it.
            DiskFullError, ReadOnlyError, MissingError: It cannot be read or replaced.
        """
        with reading(what):
            before = Stamp.of(path.stat())
            content = path.read_bytes()
        segments = find_segments(content)
        if segments is not None and self._is_alike(segments, name):
            again = before.mtime_ns >= self._started_ns
            return Repacked("again" if again else "alike", len(content), len(content))
        voxels = self._voxels(path, name, what)
        packed = self._encode(voxels, name)

        def verify() -> None:
            self._verify(temporary, voxels, name, what)
            with reading(what):
                if Stamp.of(path.stat()) != before:
                    raise BusyError(f"{what} was changed by another program: it was left alone.")

        # Its own name in each process: whoever else is at work here, nothing gets mixed up.
        temporary = path.with_name(f".{path.name}.{self._suffix}.tmp")
        with writing(what):
            replace_file(path, [packed], verify, temporary)
        return Repacked("rewritten", len(content), len(packed))

    def try_out(self, path: Path, name: ChunkName, what: str) -> Repacked:
        """Tell what `repack` would make of a file; nothing is written.

        Raises:
            DamagedError, MissingError, ReadOnlyError, BusyError: See `repack`.
        """
        with reading(what):
            content = path.read_bytes()
        segments = find_segments(content)
        if segments is not None and self._is_alike(segments, name):
            return Repacked("alike", len(content), len(content))
        packed = self._encode(self._voxels(path, name, what), name)
        return Repacked("rewritten", len(content), len(packed))

    def _is_alike(self, segments: Segments, name: ChunkName) -> bool:
        is_single = self._target.layout == "single"
        return (
            segments.shape_zyx == name.shape_vx[::-1]
            and segments.dtype == self._target.dtype
            and segments.compression == self._target.compression
            and segments.is_tile == is_single
            and not segments.big_endian
            # Without it the service must unpack a chunk once before it can pass it on.
            and (segments.crc32 is not None or not is_single or segments.compression != DEFLATE)
        )

    def _expected(self, name: ChunkName) -> Expected:
        return Expected(name.shape_vx, self._target.dtype, channels=1)

    def _voxels(self, path: Path, name: ChunkName, what: str) -> bytes:
        """Read the voxels as the service serves them."""
        found = Found(what, str(path), Stamp(0, 0, 0), "")
        read = self._reader.read(found, self._expected(name), set())
        segments = self._reader.kept.get(found.path, read.stamp, lambda: None)
        stated = None if segments is None or segments.big_endian else segments.crc32
        if stated is not None and isal_zlib.crc32(read.body) != stated:
            raise DamagedError(what, "its voxels do not have the CRC-32 that the file states")
        return bytes(read.body)

    def _encode(self, voxels: bytes, name: ChunkName) -> bytes:
        dtype = np.dtype(self._target.dtype).newbyteorder("<")
        array = np.frombuffer(voxels, dtype).reshape(name.shape_vx[::-1])
        return encode_chunk(array, self._target.layout, self._target.compression)

    def _verify(self, written: Path, voxels: bytes, name: ChunkName, what: str) -> None:
        """Read back what was written, in another way than it was read before."""
        if decode_chunk(written, what, self._expected(name)) != voxels:
            raise DamagedError(
                what, "read back, the rewritten chunk had other voxels: the old file stays"
            )
