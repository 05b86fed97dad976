"""Checks chunks by opening them as clients do, and the index of shard files."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from isal import isal_zlib

from neurotrale.chunks.blockfs_reader import BlockChunk, BlockReader
from neurotrale.chunks.decode import Expected
from neurotrale.chunks.reader import ChunkReader
from neurotrale.errors import DamagedError, MissingError
from neurotrale.precomputed.grid import Grid
from neurotrale.precomputed.info import Info, Scale
from neurotrale.precomputed.sharding import Ids, Sharding, positions
from neurotrale.storage.cache import Stamp
from neurotrale.storage.compression import decompress
from neurotrale.storage.files import Files, StoredFile
from neurotrale.storage.names import ChunkName
from neurotrale.tools.check.walk import DirectoryWalker, WalkedEntry

CODINGS = {".gz": "gzip", ".br": "br"}
SUFFIXES = ("", ".tiff", ".tif", *CODINGS)
"""Suffixes of the files that may hold a chunk, in the order in which the service tries them."""

# The first bytes of other encodings.
_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_MOST_HEAD = 16


@dataclass(frozen=True, slots=True)
class CheckedChunk:
    """The location of a chunk of the grid.

    Attributes:
        entry: The file.
        name: The box of the chunk.
        suffix: The suffix of the file, one of `SUFFIXES`.
        span: Offset and size of the chunk in the file; None if it is the whole file.
        block: The chunk as a block of blockfs, if it is one.
    """

    entry: WalkedEntry
    name: ChunkName
    suffix: str
    span: tuple[int, int] | None = None
    block: BlockChunk | None = None


class VoxelCheck:
    """Checks the content of the chunks of a scale.

    Args:
        walker: Lists the dataset's directories.
        info: The `info` of the volume.
        scale: The scale.
    """

    def __init__(self, walker: DirectoryWalker, info: Info, scale: Scale) -> None:
        self._walker = walker
        self._info = info
        self._scale = scale
        self._reader = ChunkReader()
        self._blocks = BlockReader(Files(walker.data_root))
        self._itemsize = np.dtype(info.data_type).itemsize

    def check(self, chunk: CheckedChunk) -> None:
        """Open a chunk, and add a finding if there is a problem."""
        relative_path = chunk.entry.relative_path
        try:
            if chunk.block is not None:
                self._blocks.read(chunk.block, self._expected(chunk))
            elif chunk.suffix not in (".tiff", ".tif"):
                self.check_stored(chunk.name, *self._stored(chunk))
            elif self._scale.encoding != "raw":
                detail = f"info states the encoding {self._scale.encoding!r}"
                self._walker.findings.add("chunk-encoding", relative_path, detail)
            else:
                self._check_tiff(chunk)
        except DamagedError as error:
            self._walker.findings.add("chunk-damaged", relative_path, error.reason)
        except ValueError as error:
            self._walker.findings.add("chunk-damaged", relative_path, str(error))
        except MissingError:
            return  # removed since the directory was listed
        except OSError as error:
            self._walker.report_unreadable(relative_path, error)

    def _expected(self, chunk: CheckedChunk) -> Expected:
        return Expected(chunk.name.shape_vx, self._info.data_type, self._info.num_channels)

    def _check_tiff(self, chunk: CheckedChunk) -> None:
        expected = self._expected(chunk)
        stored = StoredFile(chunk.entry.relative_path, chunk.entry.path, Stamp(0, 0, 0, 0), "")
        voxels = self._reader.read(stored, expected, set())
        # The reader has just parsed the file. Clients that get the compressed segment as it is
        # compare this checksum.
        segments = self._reader.cache.find(stored.path, voxels.stamp)
        if segments is None or segments.crc32 is None or segments.big_endian:
            return
        crc32 = isal_zlib.crc32(voxels.body)
        if crc32 != segments.crc32:
            raise DamagedError(
                chunk.entry.relative_path,
                f"expected voxels with the CRC-32 {segments.crc32} that the file states, found"
                f" {crc32}",
            )

    def _stored(self, chunk: CheckedChunk) -> tuple[int, bytes]:
        """Return the size and the first bytes of a chunk that is served as it is stored."""
        coding = CODINGS.get(chunk.suffix)
        with open(chunk.entry.path, "rb") as file:
            start, size = chunk.span or (0, os.fstat(file.fileno()).st_size)
            stored = os.pread(file.fileno(), size if coding else _MOST_HEAD, start)
        if coding is None:
            return size, stored[:size]
        content = decompress(stored, coding, self.raw_bytes(chunk.name) * 2 + 2**20)
        return len(content), content[:_MOST_HEAD]

    def raw_bytes(self, name: ChunkName) -> int:
        """Return the size of the voxels of a chunk."""
        return prod(name.shape_vx) * self._info.num_channels * self._itemsize

    def check_stored(self, name: ChunkName, size: int, head: bytes) -> None:
        """Check size and first bytes of a chunk in its encoding, without decoding it.

        Args:
            name: The box of the chunk.
            size: Size of the encoded chunk.
            head: The first bytes of the encoded chunk.

        Raises:
            ValueError: The chunk does not match `info`.
        """
        encoding = self._scale.encoding
        if encoding == "raw" and size != self.raw_bytes(name):
            x, y, z = name.shape_vx
            raise ValueError(
                f"expected {self.raw_bytes(name)} bytes ({x}x{y}x{z} voxels,"
                f" {self._info.num_channels} channels, {self._info.data_type}), found {size}"
            )
        if not size:
            raise ValueError(
                f"expected a chunk with the encoding {encoding!r}, found an empty file"
            )
        magic = _MAGIC.get(encoding, b"")
        if not head.startswith(magic):
            raise ValueError(f"expected a chunk with the encoding {encoding!r}, found another one")


# --- shards ---

_MOST_INDEX_BYTES = 2**28


class ShardCheck:
    """Checks the index of every shard of a scale, one at a time, and lists the chunks in them.

    Args:
        walker: Lists the dataset's directories.
        key: The directory of the scale.
        sharding: The sharding that `info` describes.
        grid: The chunk grid of the scale.
        other: Names in the directory that belong to another layout.
    """

    def __init__(
        self,
        walker: DirectoryWalker,
        key: str,
        sharding: Sharding,
        grid: Grid,
        other: Container[str],
    ) -> None:
        self._walker = walker
        self._findings = walker.findings
        self._key = key
        self._sharding = sharding
        self._grid = grid
        self._other = other

    def chunks(self) -> Iterator[CheckedChunk]:
        """Iterate over the chunks that a reader would find."""
        for entry in self._walker.entries(self._key):
            if entry.name in self._other:
                continue
            number = None if entry.is_directory else self._sharding.shard_number(entry.name)
            if number is None:
                self._findings.add("stray", entry.relative_path, "not the name of a shard")
                continue
            try:
                with open(entry.path, "rb") as file:
                    yield from self._in_shard(entry, number, file.fileno())
            except FileNotFoundError:  # removed since the directory was listed
                continue
            except OSError as error:
                self._walker.report_unreadable(entry.relative_path, error)

    def _in_shard(self, entry: WalkedEntry, shard: int, file: int) -> Iterator[CheckedChunk]:
        size = os.fstat(file).st_size
        index_bytes = self._sharding.index_bytes
        if not index_bytes <= min(size, _MOST_INDEX_BYTES):
            detail = f"expected an index of {index_bytes} bytes, found a file of {size}"
            self._findings.add("shard-damaged", entry.relative_path, detail)
            return
        index = np.frombuffer(os.pread(file, index_bytes, 0), "<u8").reshape(-1, 2)
        for minishard in np.flatnonzero(index[:, 0] != index[:, 1]).tolist():
            start, stop = (int(offset) + index_bytes for offset in index[minishard])
            label = f"minishard {minishard:x}"
            if not start <= stop <= size:
                detail = f"{label}: its index is at {start}-{stop}, but the file has {size} bytes"
                self._findings.add("shard-damaged", entry.relative_path, detail)
                continue
            try:
                entries = self._entries(os.pread(file, stop - start, start))
            except ValueError as error:
                self._findings.add("shard-damaged", entry.relative_path, f"{label}: {error}")
                continue
            yield from self._in_minishard(entry, (shard, minishard), entries, size)

    def _entries(self, content: bytes) -> Ids:
        """Decode the index of a minishard: ids, offsets from the end of the shard index, sizes."""
        if self._sharding.minishard_index_encoding == "gzip":
            content = decompress(content, "gzip", _MOST_INDEX_BYTES)
        if len(content) % 24:
            raise ValueError(f"expected an index of 24 bytes per chunk, found {len(content)} bytes")
        deltas = np.frombuffer(content, "<u8").reshape(3, -1).astype(np.uint64)
        ids = np.cumsum(deltas[0], dtype=np.uint64)
        sizes = deltas[2]
        starts = np.cumsum(deltas[1], dtype=np.uint64)
        starts[1:] += np.cumsum(sizes[:-1], dtype=np.uint64)
        if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
            raise ValueError("its chunk ids are not in ascending order")
        return np.stack([ids, starts, sizes])

    def _in_minishard(
        self, entry: WalkedEntry, location: tuple[int, int], index: Ids, size: int
    ) -> Iterator[CheckedChunk]:
        ids, starts, sizes = index
        positions_xyz, inside = positions(ids, self._grid.shape)
        shards, minishards = self._sharding.locate(ids)
        is_here = (shards == location[0]) & (minishards == location[1])
        for n in range(len(ids)):
            if not inside[n]:
                detail = f"chunk id {ids[n]} is outside the grid"
                self._findings.add("shard-misplaced", entry.relative_path, detail)
                continue
            x, y, z = (int(axis[n]) for axis in positions_xyz)
            name = self._grid.name((x, y, z))
            if not is_here[n]:
                shard = self._sharding.shard_name(int(shards[n]))
                detail = f"{name} belongs in {shard}, minishard {int(minishards[n]):x}"
                self._findings.add("shard-misplaced", entry.relative_path, detail)
                continue
            self._grid.mark((x, y, z))
            start, count = int(starts[n]) + self._sharding.index_bytes, int(sizes[n])
            if start + count > size:
                detail = f"{name} is at {start}-{start + count}, but the file has {size} bytes"
                self._findings.add("shard-damaged", entry.relative_path, detail)
                continue
            box = ChunkName.parse(name)
            assert box is not None
            suffix = ".gz" if self._sharding.data_encoding == "gzip" else ""
            chunk = WalkedEntry(name, f"{entry.relative_path}, {name}", entry.path, False)
            yield CheckedChunk(chunk, box, suffix, (start, count))
