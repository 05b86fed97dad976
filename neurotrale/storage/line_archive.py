"""Archives of numbered lines: independent zstd frames, and an index of them at the end.

Such a file is also a plain zstd file: ``zstdcat`` prints its lines, because what is not compressed
lies in skippable frames (RFC 8878). Numbers grow from line to line; a line without one, such as a
torn one, counts as the line before it. A frame holds whole lines, or a single large one, and has a
checksum. So lines are found by number, from the end, too, with one frame unpacked at a time.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import xxhash

from neurotrale.errors import DamagedError
from neurotrale.late import LazyModule
from neurotrale.storage.regular import BLOCK_BYTES, END_BYTES

if TYPE_CHECKING:
    from backports import zstd
else:
    zstd = LazyModule("backports.zstd", "ZstdCompressor", "ZstdDecompressor", "ZstdError")

FRAME_BYTES = 2**21
"""Most bytes of several lines in one frame."""

MOST_FRAMES = 2**22
_LEVEL = 9
_MOST_WINDOW_EXPONENT = 22  # 4 MiB, which is what a reader sets aside

_SKIPPABLE = struct.Struct("<II")  # magic number, size
_HEAD_MAGIC, _INDEX_MAGIC = 0x184D2A50, 0x184D2A5E
_TITLE = b"neurotrale lines\n"
ARCHIVE_HEAD = _SKIPPABLE.pack(_HEAD_MAGIC, len(_TITLE)) + _TITLE
"""The first bytes of every archive."""

_ROW = struct.Struct("<5Q")  # offset, packed size, size, first number, last number
# The number before the first line, the one after the last, size of all lines, frames; then the
# hashes of all lines and of what is before it in the index.
_END = struct.Struct("<4Q16s8s8s")
_END_MAGIC = b"lines  1"


@dataclass(frozen=True, slots=True)
class NumberedLine:
    """A line that is to be packed.

    Attributes:
        number: Its number; 0 if it has none.
        size: Its size in bytes, with the newline.
        pieces: Its bytes.
    """

    number: int
    size: int
    pieces: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class LineFrame:
    """A frame of an archive: where it lies, and the numbers of its first and last line."""

    offset: int
    packed_bytes: int
    size: int
    first: int
    last: int


def pack_lines(lines: Iterable[NumberedLine], previous: int, following: int) -> Iterator[bytes]:
    """Pack lines into an archive, and iterate over its pieces.

    Memory holds the window of the compression and a piece of a line.

    Args:
        lines: The lines, in the order of their numbers.
        previous: The number before the first line, 0 if there is none.
        following: The number after the last line.
    """
    compressor = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.compression_level: _LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
            zstd.CompressionParameter.window_log: _MOST_WINDOW_EXPONENT,
        }
    )
    hashed, frames, number = xxhash.xxh3_128(), list[LineFrame](), previous
    at = start = len(ARCHIVE_HEAD)
    size, first = 0, 0
    yield ARCHIVE_HEAD
    for line in lines:
        if size and size + line.size > FRAME_BYTES:
            packed = compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)
            yield packed
            at += len(packed)
            frames.append(LineFrame(start, at - start, size, first, number))
            start, size, first = at, 0, 0
        number = line.number or number
        first = first or number
        for piece in line.pieces:
            hashed.update(piece)
            size += len(piece)
            packed = compressor.compress(piece)
            at += len(packed)
            if packed:
                yield packed
    if size:
        packed = compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)
        yield packed
        at += len(packed)
        frames.append(LineFrame(start, at - start, size, first, number))
    yield _index(frames, previous, following, hashed.digest())


def _index(frames: Sequence[LineFrame], previous: int, following: int, digest: bytes) -> bytes:
    rows = b"".join(
        _ROW.pack(one.offset, one.packed_bytes, one.size, one.first, one.last) for one in frames
    )
    total = sum(one.size for one in frames)
    end = _END.pack(previous, following, total, len(frames), digest, bytes(8), _END_MAGIC)
    hashed = _hash_of_index(rows, end)
    end = _END.pack(previous, following, total, len(frames), digest, hashed, _END_MAGIC)
    return _SKIPPABLE.pack(_INDEX_MAGIC, len(rows) + len(end)) + rows + end


def _hash_of_index(rows: bytes, end: bytes) -> bytes:
    return xxhash.xxh3_64_digest(rows + end[:-16])


class LineArchive:
    """An archive that is open for reading.

    Args:
        file: The archive; whoever opened it closes it.
        name: Its name for errors.

    Attributes:
        previous: The number before its first line, 0 if there is none.
        following: The number after its last line.
        size: Size of all lines in bytes.
        digest: Hash of all lines (xxh3, 128 bits).
        frames: Its frames.

    Raises:
        DamagedError: It is cut off, or not such an archive.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(len(ARCHIVE_HEAD)) != ARCHIVE_HEAD:
            raise self._damaged("it does not begin as an archive does")
        if length < len(ARCHIVE_HEAD) + _SKIPPABLE.size + _END.size:
            raise self._damaged("it is cut off")
        file.seek(length - _END.size)
        end = file.read(_END.size)
        previous, following, size, count, digest, hashed, magic = _END.unpack(end)
        self.previous: int = previous
        self.following: int = following
        self.size: int = size
        self.digest: bytes = digest
        rows_at = length - _END.size - count * _ROW.size
        if magic != _END_MAGIC or count > MOST_FRAMES or rows_at < len(ARCHIVE_HEAD):
            raise self._damaged("it is cut off, or its end was changed")
        file.seek(rows_at)
        rows = file.read(count * _ROW.size)
        if _hash_of_index(rows, end) != hashed:
            raise self._damaged("its index was changed")
        self.frames = [LineFrame(*row) for row in _ROW.iter_unpack(rows)]

    @property
    def first(self) -> int:
        """The number of its first line; that after its last one if it is empty."""
        return self.frames[0].first if self.frames else self.following

    @property
    def last(self) -> int:
        """The number of its last line; that before its first one if it is empty."""
        return self.frames[-1].last if self.frames else self.previous

    def lines(self, after: int = -1, before: int = sys.maxsize) -> Iterator[bytes]:
        """Iterate over the lines of the frames in which a number lies between two others.

        Raises:
            DamagedError: A frame is damaged.
        """
        for frame in self._between(after, before):
            yield from self._lines_of(frame, sys.maxsize)

    def lines_backwards(
        self, most_bytes: int = sys.maxsize, after: int = -1, before: int = sys.maxsize
    ) -> Iterator[bytes]:
        """Iterate over the same lines from the end; long lines are cut.

        See `neurotrale.storage.regular.lines_backwards`.

        Raises:
            DamagedError: A frame is damaged.
        """
        for frame in reversed(self._between(after, before)):
            yield from reversed(self._lines_of(frame, most_bytes))

    def check(self) -> None:
        """Unpack everything, and compare it with the hash of all lines.

        Raises:
            DamagedError: It is damaged.
        """
        hashed, size = xxhash.xxh3_128(), 0
        for frame in self.frames:
            for piece in self._pieces(frame):
                hashed.update(piece)
                size += len(piece)
        if hashed.digest() != self.digest or size != self.size:
            raise self._damaged("its lines are not those that were packed")

    def _between(self, after: int, before: int) -> list[LineFrame]:
        return [one for one in self.frames if one.last > after and one.first < before]

    def _lines_of(self, frame: LineFrame, most_bytes: int) -> list[bytes]:
        if frame.size > FRAME_BYTES:
            return [self._large_line(frame, most_bytes)]
        return [line for line in b"".join(self._pieces(frame)).split(b"\n") if line]

    def _large_line(self, frame: LineFrame, most_bytes: int) -> bytes:
        parts, size, end = list[bytes](), 0, b""
        for piece in self._pieces(frame):
            if size <= most_bytes:
                parts.append(piece)
                size += len(piece)
            else:
                end = (end + piece)[-END_BYTES:]
        return (b"".join(parts) + end).removesuffix(b"\n")

    def _pieces(self, frame: LineFrame) -> Iterator[bytes]:
        parameters: dict[int, int] = {
            zstd.DecompressionParameter.window_log_max: _MOST_WINDOW_EXPONENT
        }
        decompressor = zstd.ZstdDecompressor(options=parameters)
        at, stop, size = frame.offset, frame.offset + frame.packed_bytes, 0
        while not decompressor.eof:
            packed = b""
            if decompressor.needs_input:
                self._file.seek(at)
                packed = self._file.read(min(BLOCK_BYTES, stop - at))
                at += len(packed)
                if not packed:
                    raise self._damaged(f"the lines from number {frame.first} on are cut off")
            try:
                piece = decompressor.decompress(packed, BLOCK_BYTES)
            except zstd.ZstdError as error:
                raise self._damaged(
                    f"the lines from number {frame.first} to {frame.last} cannot be unpacked"
                    f" ({error})"
                ) from error
            size += len(piece)
            if size > frame.size:
                break
            yield piece
        if size != frame.size or at != stop or decompressor.unused_data:
            raise self._damaged(f"the lines from number {frame.first} on have another size")

    def _damaged(self, reason: str) -> DamagedError:
        return DamagedError(
            self.name, f"this archive is damaged: {reason}. Put it back from a backup."
        )
