"""Records of source files: size, time, and hashes that are computed while the files are read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Any, Self, cast

import msgspec
import xxhash

from neurotrale.errors import BadInputError
from neurotrale.storage.cache import is_settled

# Smaller files are read whole, which is faster.
WHOLE_BYTES = 32 * 2**20
# A file that several shards read is hashed in parts, as each shard reads only some of it.
PART_BYTES = 32 * 2**20
_STEP_BYTES = 2**20
# A gap between two reads is hashed at once if it is shorter than this. A longer one is a jump to
# the end of the file, where many writers put the metadata.
_MOST_GAP_BYTES = 2**20


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a source file when it was read.

    Attributes:
        file: Index among the files of the source.
        name: File name without directories: shards may see the file at different paths.
        size: Size in bytes.
        mtime_ns: Modification time in nanoseconds since the epoch.
        xxh3_128: The known hashes of parts of the file, by the part's number.
        part_bytes: The size of a part; 0 if the whole file is one part.
        settled: False if the file had just been written: a later write may get the same time.
    """

    file: int
    name: str
    size: int
    mtime_ns: int
    xxh3_128: dict[int, str]
    part_bytes: int = 0
    settled: bool = True

    def is_of(self, status: os.stat_result) -> bool:
        """Return whether a file has the recorded size and time, and the time can be trusted."""
        return self.settled and (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)

    def merged(self, earlier: FileRecord | None) -> FileRecord:
        """Return the record with the hashes of an earlier one of the same version of the file."""
        if earlier is None or earlier.part_bytes != self.part_bytes or earlier.size != self.size:
            return self
        return msgspec.structs.replace(self, xxh3_128={**earlier.xxh3_128, **self.xxh3_128})

    def verified(self, descriptor: int) -> FileRecord | None:
        """Hash the recorded parts of an open file again, and compare.

        Returns:
            The record with the current modification time; None if the bytes differ.

        Raises:
            BadInputError: The file changed while it was compared.
        """
        status = os.fstat(descriptor)
        if status.st_size != self.size:
            return None
        settled = is_settled(status.st_mtime_ns)
        for part, known in sorted(self.xxh3_128.items()):
            if hash_part(descriptor, part, self.part_bytes) != known:
                return None
        check_unchanged(descriptor, status, self.name)
        return msgspec.structs.replace(self, mtime_ns=status.st_mtime_ns, settled=settled)


def file_name(path: Path) -> str:
    """Return the name of a file without directories, escaping bytes that are not UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def hash_part(descriptor: int, part: int, part_bytes: int) -> str:
    """Return the hash of a part of an open file, or of all of it if `part_bytes` is 0."""
    return _hash_range(xxhash.xxh3_128(), descriptor, part * part_bytes, part_bytes or None)


def _hash_range(hasher: xxhash.xxh3_128, descriptor: int, start: int, length: int | None) -> str:
    buffer = memoryview(bytearray(_STEP_BYTES))
    offset, end = start, None if length is None else start + length
    while end is None or offset < end:
        step = _STEP_BYTES if end is None else min(_STEP_BYTES, end - offset)
        count = os.preadv(descriptor, [buffer[:step]], offset)
        if not count:
            break
        hasher.update(buffer[:count])
        offset += count
    return hasher.hexdigest()


def check_unchanged(descriptor: int, before: os.stat_result, name: str) -> None:
    """Check that an open file has the size and time of an earlier status.

    Raises:
        BadInputError: The size or the time differs.
    """
    now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise BadInputError(
            f"{name} was written while it was read. Start again when the other program is done."
        )


class HashedFile:
    """A file that is hashed while it is read.

    Args:
        path: The file.

    Attributes:
        stream: The stream to read it from.
    """

    stream: IO[bytes]

    def __init__(self, path: Path) -> None:
        self._name = file_name(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._status = os.fstat(self._descriptor)
            self._settled = is_settled(self._status.st_mtime_ns)
            if self._status.st_size <= WHOLE_BYTES:
                content = _read_whole(self._descriptor, self._status.st_size)
                self._hash = xxhash.xxh3_128(content)
                self._read: _HashingStream | None = None
                self.stream = BytesIO(content)
            else:
                self._hash = xxhash.xxh3_128()
                self._read = _HashingStream(self._descriptor, self._status.st_size, self._hash)
                self.stream = cast(IO[bytes], self._read)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def state(self) -> tuple[int, int]:
        """Size and modification time when it was opened."""
        return self._status.st_size, self._status.st_mtime_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def record(self, file: int) -> FileRecord:
        """Hash the bytes that were not read, and return a record of the file.

        Args:
            file: Index among the files of the source.

        Raises:
            BadInputError: The file changed after it was opened.
        """
        if self._read is not None:
            self._read.catch_up(self._status.st_size)
        check_unchanged(self._descriptor, self._status, self._name)
        hashes = {0: self._hash.hexdigest()}
        status = self._status
        return FileRecord(
            file, self._name, status.st_size, status.st_mtime_ns, hashes, settled=self._settled
        )


class _HashingStream(io.RawIOBase):
    """A stream over an open file that hashes the bytes read, in file order."""

    def __init__(self, descriptor: int, size: int, hasher: xxhash.xxh3_128) -> None:
        self._descriptor = descriptor
        self._size = size
        self._hasher = hasher
        self._hashed_to = 0
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], self._at + done)
            if not count:
                break
            done += count
        self._hash_read(self._at, view[:done])
        self._at += done
        return done

    def catch_up(self, stop: int) -> None:
        """Hash the bytes before `stop` that were not read."""
        if stop > self._hashed_to:
            _hash_range(self._hasher, self._descriptor, self._hashed_to, stop - self._hashed_to)
            self._hashed_to = stop

    def _hash_read(self, start: int, content: memoryview) -> None:
        stop = start + len(content)
        if self._hashed_to < start <= self._hashed_to + _MOST_GAP_BYTES:
            self.catch_up(start)
        if start <= self._hashed_to < stop:
            self._hasher.update(content[self._hashed_to - start :])
            self._hashed_to = stop


class PartHashes:
    """Hashes of the parts of an open file, each computed by the first thread that needs it.

    Args:
        descriptor: Descriptor of the file, which stays open.
        name: Name of the file in messages.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._status = os.fstat(descriptor)
        self._settled = is_settled(self._status.st_mtime_ns)
        self._claimed: set[int] = set()
        self._hashes: dict[int, str] = {}
        self._lock = Lock()

    def cover(self, start: int, stop: int) -> None:
        """Hash the parts that overlap a range of bytes, which is then in the page cache."""
        self.hash_parts(range(start // PART_BYTES, -(-stop // PART_BYTES)))

    def hash_parts(self, parts: Iterable[int]) -> None:
        """Hash those of some parts that are not hashed yet."""
        for part in parts:
            with self._lock:
                if part in self._claimed:
                    continue
                self._claimed.add(part)
            self._hashes[part] = hash_part(self._descriptor, part, PART_BYTES)

    def share(self, number: int, count: int) -> range:
        """Return the parts that one of several shards, counted from 1, has to hash."""
        parts = -(-self._status.st_size // PART_BYTES)
        return range(parts * (number - 1) // count, parts * number // count)

    def record(self) -> FileRecord:
        """Return a record of the file with the parts that were hashed.

        Raises:
            BadInputError: The file changed after it was opened.
        """
        check_unchanged(self._descriptor, self._status, self._name)
        status = self._status
        return FileRecord(
            0, self._name, status.st_size, status.st_mtime_ns, dict(self._hashes), PART_BYTES,
            self._settled,
        )  # fmt: skip


def _read_whole(descriptor: int, size: int) -> bytes:
    content = bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        count = os.preadv(descriptor, [view[done:]], done)
        if not count:
            break
        done += count
    return bytes(view[:done])
