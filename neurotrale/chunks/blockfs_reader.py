"""Finds and reads the chunks of scales in blockfs; see `neurotrale.chunks.blockfs`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from string import ascii_lowercase

from neurotrale.chunks.blockfs import (
    DIRECTORY_FILE,
    HEADER,
    MOST_JSON_BYTES,
    BlockDirectory,
    decode_block,
    most_block_bytes,
    parse_directory,
)
from neurotrale.chunks.decode import Expected
from neurotrale.errors import DamagedError, NameTooLongError, reading
from neurotrale.precomputed.grid import ChunkBox, chunk_name
from neurotrale.precomputed.info import Triple
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.files import Files, StoredFile
from neurotrale.storage.names import Parts

CACHED_DIRECTORIES = 1024


@dataclass(frozen=True, slots=True)
class BlockChunk:
    """A chunk that is a block in a shard.

    Attributes:
        name: The path of the chunk as the URL names it.
        shard: The shard.
        offset: Where the block begins in the shard.
        size: Size of the compressed block.
        shape_vx: Extent of the block.
        dtype: The numpy name of its data type.
        stamp: A version that changes with the directory file and with the shard.
    """

    name: str
    shard: StoredFile
    offset: int
    size: int
    shape_vx: Triple
    dtype: str
    stamp: Stamp

    def close(self) -> None:
        """Close the shard, if it is open."""
        self.shard.close()


class BlockReader:
    """Finds and decodes blocks; caches the description of each scale by version of its file.

    Args:
        files: Looks up the files; nothing is read but through it.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._cache: VersionedCache[BlockDirectory] = VersionedCache(CACHED_DIRECTORIES)

    def directory(self, parts: Parts) -> BlockDirectory | None:
        """Return the description of the scale in a directory; None if it is not blockfs.

        Raises:
            DamagedError: Its directory file is damaged.
        """
        stored = self._files.find_exact((*parts, DIRECTORY_FILE))
        return self._parse(stored) if isinstance(stored, StoredFile) else None

    def find(self, parts: Parts, box: ChunkBox) -> BlockChunk | None:
        """Find the block of a box.

        Args:
            parts: The directory of the scale.
            box: The voxels, counted from the corner of the scale.

        Returns:
            None if the scale is not blockfs, has no block of this box, or it was never written.

        Raises:
            DamagedError: The directory file is damaged, or the shard is not beside it or ends
                before the block.
        """
        stored = self._files.find_exact((*parts, DIRECTORY_FILE))
        if not isinstance(stored, StoredFile):
            return None
        directory = self._parse(stored)
        index = directory.index(box)
        if index is None:
            return None
        offset, size = self._entry(stored, directory, index)
        if not size:
            return None
        x, y, z = (stop - start for start, stop in box)
        shard = self._shard(parts, stored, directory.shards[index % len(directory.shards)])
        if offset + size > shard.stamp.size:
            raise DamagedError(
                shard.name,
                f"expected a block of {size} bytes at {offset}, but the file has"
                f" {shard.stamp.size} bytes: it is truncated, or not the shard of this"
                f" {DIRECTORY_FILE}",
            )
        stamp = Stamp(
            shard.stamp.inode,
            offset + size,
            max(shard.stamp.mtime_ns, stored.stamp.mtime_ns),
            max(shard.stamp.ctime_ns, stored.stamp.ctime_ns),
            shard.stamp.device if shard.stamp.device == stored.stamp.device else 0,
        )
        name = "/".join((*parts, chunk_name(box)))
        return BlockChunk(name, shard, offset, size, (x, y, z), directory.dtype, stamp)

    def read(self, block: BlockChunk, expected: Expected) -> bytes:
        """Decode a block.

        Args:
            block: The block.
            expected: The expected content.

        Returns:
            The voxels as ``[z, y, x]`` in C order, little-endian.

        Raises:
            DamagedError: The block is damaged, or not as expected.
            BusyError: The shard was changed meanwhile.
        """
        if expected.dtype not in (None, block.dtype) or expected.channels not in (None, 1):
            raise DamagedError(
                block.name, f"expected {expected}, found a blockfs block of {block.dtype}"
            )
        item_bytes = int(block.dtype.lstrip(ascii_lowercase)) // 8
        raw_bytes = prod(block.shape_vx) * item_bytes
        if block.size > most_block_bytes(raw_bytes):
            raise _damaged(block, f"its {block.size} bytes are more than its voxels can take")
        with self._files.open(block.shard) as file, reading(block.shard.name):
            content = os.pread(file.fileno(), block.size, block.offset)
        try:
            return decode_block(content, raw_bytes)
        except ValueError as error:
            raise _damaged(block, str(error)) from error

    def _parse(self, stored: StoredFile) -> BlockDirectory:
        stamp = stored.stamp
        return self._cache.get(
            stored.path, stamp, lambda: self._load(stored), is_settled=stamp.is_settled
        )

    def _load(self, stored: StoredFile) -> BlockDirectory:
        with self._files.open(stored) as file, reading(stored.name):
            header = os.pread(file.fileno(), HEADER.size, 0)
            if len(header) == HEADER.size:
                json_bytes = min(HEADER.unpack(header)[1], MOST_JSON_BYTES)
                header += os.pread(file.fileno(), json_bytes, HEADER.size)
        return parse_directory(header, stored.name)

    def _entry(self, stored: StoredFile, directory: BlockDirectory, index: int) -> tuple[int, int]:
        """Return offset and size of a block; a size of 0 if it was never written."""
        size = directory.entry_bytes
        at = directory.table_at + index * size
        if at + size > stored.stamp.size:  # the table ends after the last block that was written
            return 0, 0
        with self._files.open(stored) as file, reading(stored.name):
            entry = int.from_bytes(os.pread(file.fileno(), size, at), "little")
        offset = entry & ((1 << directory.offset_bits) - 1)
        return offset, entry >> directory.offset_bits & ((1 << directory.size_bits) - 1)

    def _shard(self, parts: Parts, stored: StoredFile, name: str) -> StoredFile:
        try:
            shard = self._files.find_exact((*parts, name)) if name else None
        except NameTooLongError:
            shard = None
        if not isinstance(shard, StoredFile):
            raise DamagedError(
                stored.name,
                f"expected its shard {name[:80]!r} beside it, found no such file: copy it there",
            )
        return shard


def _damaged(block: BlockChunk, reason: str) -> DamagedError:
    return DamagedError(block.shard.name, f"the block of {block.name} is damaged: {reason}")
