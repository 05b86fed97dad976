"""Large files of which only some bytes are read, and copies of their ranges without holding them.

Files are never mapped: another program may truncate them, and whoever touches a page that is gone
is killed.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

BLOCK_BYTES = 2**18

# What the kernel says where it cannot copy between two files: an older kernel, another file system.
_CANNOT_COPY = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EIO,
    errno.ETXTBSY,
    errno.EBADF,
)


class ShortFileError(OSError):
    """A file has become shorter while it was read."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the file has become shorter while it was read")


class OpenFile:
    """An open file, closed when nobody needs it any longer.

    Its bytes stay readable when another file takes its name.

    Args:
        descriptor: The descriptor, which belongs to this object from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of an open file's bytes.

    Attributes:
        file: The file.
        start: Offset of the first byte.
        stop: Offset after the last one.
    """

    file: OpenFile
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> FileRange:
        """Return a range in this range, by offsets from its start."""
        return FileRange(self.file, self.start + start, self.start + stop)

    def blocks(self) -> Iterator[bytes]:
        """Iterate over the bytes, a block at a time.

        Raises:
            ShortFileError: They are no longer all there.
        """
        return blocks_of(self.file.descriptor, self.start, self.stop)

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            ShortFileError: They are no longer all there.
        """
        read = os.pread(self.file.descriptor, len(self), self.start)
        rest = FileRange(self.file, self.start + len(read), self.stop)
        return b"".join([read, *rest.blocks()]) if len(rest) else read

    def copy_to(self, target: int) -> None:
        """Write the bytes to another open file, from its position on.

        Where it can, the kernel copies them: some file systems then share their blocks, or leave
        the copy to their server.

        Raises:
            OSError: They could not all be read or written.
        """
        at = self.start
        while at < self.stop and (copied := self._copy_in_kernel(target, at)):
            at += copied
        write_all(target, blocks_of(self.file.descriptor, at, self.stop))

    def _copy_in_kernel(self, target: int, at: int) -> int:
        """Return how many bytes the kernel has copied; 0 if it cannot copy, or does not say."""
        try:
            return os.copy_file_range(self.file.descriptor, target, self.stop - at, at)
        except OSError as error:
            if error.errno in _CANNOT_COPY:
                return 0
            raise


Piece: TypeAlias = bytes | memoryview | FileRange


class LargeBytes:
    """Bytes that are not all in memory: ranges of files, and bytes between them.

    Args:
        pieces: What they consist of, in order.
        check: Called with all bytes when they have been read; raises if they are not those that
            were expected.
    """

    def __init__(
        self, pieces: Sequence[Piece], check: Callable[[bytes], None] = lambda whole: None
    ) -> None:
        self._check = check
        self.pieces = [piece for piece in pieces if len(piece)]
        self._stops = list(accumulate(map(len, self.pieces)))
        self._whole: bytes | None = None

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, range_: slice) -> bytes:
        """Return a range of the bytes.

        Raises:
            ShortFileError: They are no longer all there.
        """
        if self._whole is not None:
            return self._whole[range_]
        start, stop, _ = range_.indices(len(self))
        found = self.range(start, stop)
        if len(found) == 1 and isinstance(found[0], FileRange):  # at once, without a copy
            return found[0].read()
        return b"".join(block for piece in found for block in blocks_in(piece))

    def range(self, start: int, stop: int) -> list[Piece]:
        """Return what a range of the bytes consists of."""
        found: list[Piece] = []
        for number in range(bisect_right(self._stops, start), len(self.pieces)):
            piece = self.pieces[number]
            first = self._stops[number] - len(piece)
            if first >= stop:
                break
            a, b = max(start - first, 0), min(stop - first, len(piece))
            found.append(piece.part(a, b) if isinstance(piece, FileRange) else piece[a:b])
        return found

    @property
    def whole(self) -> bytes:
        """All bytes, which are then kept in memory.

        Raises:
            ShortFileError: They are no longer all there.
        """
        if self._whole is None:
            whole = self[:]
            self._check(whole)
            self._whole = whole
        return self._whole

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are in memory."""
        return self._whole is not None


def blocks_in(piece: Piece) -> Iterator[bytes | memoryview]:
    """Iterate over the bytes of a piece, a block at a time.

    Raises:
        ShortFileError: They are no longer all there.
    """
    if isinstance(piece, FileRange):
        yield from piece.blocks()
    else:
        yield piece


def blocks_of(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    """Iterate over a range of an open file's bytes, a block at a time.

    Raises:
        ShortFileError: They are not all there.
    """
    while start < stop:
        block = os.pread(descriptor, min(BLOCK_BYTES, stop - start), start)
        if not block:
            raise ShortFileError
        yield block
        start += len(block)


def write_all(descriptor: int, pieces: Iterable[Piece]) -> None:
    """Write pieces to an open file, from its position on.

    Raises:
        OSError: Not all could be read or written.
    """
    for piece in pieces:
        if isinstance(piece, FileRange):
            piece.copy_to(descriptor)
            continue
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
