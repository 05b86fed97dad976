"""Rewrites a chunk file in another layout, after verifying that the voxels are the same."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from isal import isal_zlib

from neurotrale.chunks.decode import Expected, decode_chunk
from neurotrale.chunks.encode import Compression, Layout, encode_chunk
from neurotrale.chunks.reader import ChunkReader
from neurotrale.chunks.segments import DEFLATE, Segments, find_segments
from neurotrale.chunks.store import TIFF_SUFFIXES
from neurotrale.errors import BusyError, DamagedError, reading, writing
from neurotrale.storage.atomic import replace_file
from neurotrale.storage.cache import Stamp
from neurotrale.storage.files import StoredFile
from neurotrale.storage.names import ChunkName

Outcome = Literal["rewritten", "unchanged", "repeated"]


@dataclass(frozen=True, slots=True)
class Target:
    """The format to rewrite chunks in.

    Attributes:
        layout: Layout of the TIFF files.
        compression: Compression of their segments.
        dtype: A numpy name of the data type, from `info`.
    """

    layout: Layout
    compression: Compression
    dtype: str


@dataclass(frozen=True, slots=True)
class RepackResult:
    """The result for one chunk.

    Attributes:
        outcome: ``rewritten``; ``unchanged`` if it was in the target layout already; ``repeated``
            if this run has just rewritten it: some file systems list a replaced file once more.
        bytes_before: Size of the file before.
        bytes_after: Size of the file after.
    """

    outcome: Outcome
    bytes_before: int
    bytes_after: int


class Repacker:
    """Rewrites chunk files.

    Args:
        target: The format to rewrite chunks in.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._reader = ChunkReader()
        self._started_ns = time.time_ns()
        self._suffix = f"{os.uname().nodename}-{os.getpid()}"

    def repack(self, path: Path, name: ChunkName, display_path: str) -> RepackResult:
        """Rewrite a file, unless it is in the target layout already.

        Readers see either the old file or the new one, with the same voxels.

        Args:
            path: The file.
            name: The box of voxels in it.
            display_path: The path shown in errors.

        Raises:
            DamagedError: The file does not match `info` and its name; it is left as it was.
            BusyError: Another program wrote the file meanwhile; it is left as that wrote it.
            DiskFullError, ReadOnlyError, MissingError: The file cannot be read or replaced.
        """
        with reading(display_path):
            before = Stamp.of(path.stat())
            content = path.read_bytes()
        segments = find_segments(content)
        if segments is not None and self._is_in_target_layout(segments, name):
            repeated = before.mtime_ns >= self._started_ns
            outcome: Outcome = "repeated" if repeated else "unchanged"
            return RepackResult(outcome, len(content), len(content))
        voxels = self._voxels(path, name, display_path)
        encoded = self._encode(voxels, name)

        def verify() -> None:
            self._verify(temporary, voxels, name, display_path)
            with reading(display_path):
                if Stamp.of(path.stat()) != before:
                    raise BusyError(f"{display_path} was changed by another program: it is kept.")

        # A name of its own in each process, so that concurrent repacks do not interfere.
        temporary = path.with_name(f".{path.name}.{self._suffix}.tmp")
        with writing(display_path):
            replace_file(path, [encoded], verify, temporary)
        return RepackResult("rewritten", len(content), len(encoded))

    def dry_run(self, path: Path, name: ChunkName, display_path: str) -> RepackResult:
        """Return the result that `repack` would have for a file; write nothing.

        Raises:
            DamagedError, MissingError, ReadOnlyError, BusyError: See `repack`.
        """
        with reading(display_path):
            content = path.read_bytes()
        segments = find_segments(content)
        if segments is not None and self._is_in_target_layout(segments, name):
            return RepackResult("unchanged", len(content), len(content))
        encoded = self._encode(self._voxels(path, name, display_path), name)
        return RepackResult("rewritten", len(content), len(encoded))

    def _is_in_target_layout(self, segments: Segments, name: ChunkName) -> bool:
        is_single = self._target.layout == "single"
        return (
            segments.shape_zyx == name.shape_vx[::-1]
            and segments.dtype == self._target.dtype
            and segments.compression == self._target.compression
            and segments.is_tile == is_single
            and not segments.big_endian
            # Without the CRC-32 the service must decompress a chunk once before sending it as is.
            and (segments.crc32 is not None or not is_single or segments.compression != DEFLATE)
        )

    def _expected(self, name: ChunkName) -> Expected:
        return Expected(name.shape_vx, self._target.dtype, channels=1)

    def _voxels(self, path: Path, name: ChunkName, display_path: str) -> bytes:
        """Read the voxels as the service serves them."""
        stored = StoredFile(display_path, str(path), Stamp(0, 0, 0, 0), "")
        read = self._reader.read(stored, self._expected(name), set())
        segments = self._reader.cache.find(stored.path, read.stamp)
        crc32 = None if segments is None or segments.big_endian else segments.crc32
        if crc32 is not None and isal_zlib.crc32(read.body) != crc32:
            raise DamagedError(
                display_path, "its voxels do not have the CRC-32 that the file states"
            )
        return bytes(read.body)

    def _encode(self, voxels: bytes, name: ChunkName) -> bytes:
        dtype = np.dtype(self._target.dtype).newbyteorder("<")
        array = np.frombuffer(voxels, dtype).reshape(name.shape_vx[::-1])
        return encode_chunk(array, self._target.layout, self._target.compression)

    def _verify(self, written: Path, voxels: bytes, name: ChunkName, display_path: str) -> None:
        """Check the voxels of the new file, with another decoder than the one used before."""
        if decode_chunk(written, display_path, self._expected(name)) != voxels:
            raise DamagedError(
                display_path,
                "the rewritten chunk has other voxels when read back: the old file is kept",
            )


_TEMPORARY = re.compile(r"\.(?P<file>.+)\.(?P<node>[^/]+)-(?P<pid>\d+)\.tmp", re.ASCII)
# Writing a chunk takes a moment. Whether a process on another node is alive is unknown here, so its
# files are taken for leftovers after this time.
_LEFTOVER_AGE_S = 3600.0


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A TIFF file that holds a chunk."""

    path: Path
    name: ChunkName


def iter_chunks(directory: Path) -> Iterator[ChunkFile]:
    """Iterate over the TIFF chunks in a directory, in the order it lists them, without links.

    Raises:
        MissingError, ReadOnlyError, BusyError: The directory cannot be listed.
    """
    with reading(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            name = ChunkName.parse(stem) if suffix in TIFF_SUFFIXES else None
            if name is not None and entry.is_file(follow_symlinks=False):
                yield ChunkFile(Path(entry.path), name)


def count_symlinks(directory: Path) -> int:
    """Return the number of chunks that are symbolic links."""
    with reading(str(directory)), os.scandir(directory) as entries:
        return sum(entry.is_symlink() and entry.name.endswith(TIFF_SUFFIXES) for entry in entries)


def remove_leftovers(directory: Path) -> int:
    """Remove temporary files of repacks that were killed, and return their number."""
    removed = 0
    with reading(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match is not None and _is_leftover(match["node"], int(match["pid"]), entry):
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def _is_leftover(node: str, pid: int, entry: os.DirEntry[str]) -> bool:
    if node == os.uname().nodename and pid != os.getpid():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    with suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_AGE_S
    return False


MOST_NAMED = 5


@dataclass(slots=True)
class RepackSummary:
    """The result for all chunks of a scale.

    Attributes:
        key: The scale.
        rewritten: Number of chunks that were rewritten.
        unchanged: Number of chunks that were in the target layout already.
        skipped: Number of chunks left as they are, as they are damaged or were being written.
        links: Number of chunks that are symbolic links, which are left as they are.
        bytes_before: Size before of the chunks that could be read.
        bytes_after: Size after of the same chunks.
        problems: The reasons why chunks were skipped; only the first few.
    """

    key: str
    rewritten: int = 0
    unchanged: int = 0
    skipped: int = 0
    links: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def chunks(self) -> int:
        """The number of TIFF chunks."""
        return self.rewritten + self.unchanged + self.skipped

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes before and after."""
        return self.bytes_before, self.bytes_after

    def add(self, result: RepackResult) -> None:
        """Count a chunk."""
        if result.outcome == "repeated":
            return
        if result.outcome == "rewritten":
            self.rewritten += 1
        else:
            self.unchanged += 1
        self.bytes_before += result.bytes_before
        self.bytes_after += result.bytes_after

    def skip(self, problem: str) -> None:
        """Count a chunk that is left as it is."""
        self.skipped += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(problem)
