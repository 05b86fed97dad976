"""The shard files of a scale: whether their indices can be read, and which chunks they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from neurotrale.checking.grid import Grid
from neurotrale.checking.look import Item, Look
from neurotrale.checking.sharding import Ids, Sharding, positions
from neurotrale.checking.voxels import ChunkFile
from neurotrale.codings import unpack
from neurotrale.names import ChunkName

_MOST_INDEX_BYTES = 2**28


class ShardCheck:
    """Checks the shards of a scale and gives the chunks in them; one index is read at a time.

    Args:
        look: The data set.
        key: The directory of the scale.
        sharding: What `info` says of its shards.
        grid: The chunks that there should be.
    """

    def __init__(self, look: Look, key: str, sharding: Sharding, grid: Grid) -> None:
        self._look = look
        self._findings = look.findings
        self._key = key
        self._sharding = sharding
        self._grid = grid

    def chunks(self) -> Iterator[ChunkFile]:
        """Give every chunk that a reader would find."""
        for item in self._look.items(self._key):
            number = None if item.is_directory else self._sharding.shard_number(item.name)
            if number is None:
                self._findings.add("stray", item.place, "not the name of a shard")
                continue
            try:
                with open(item.path, "rb") as file:
                    yield from self._in_shard(item, number, file.fileno())
            except FileNotFoundError:  # it was removed while we were looking
                continue
            except OSError as error:
                self._look.unreadable(item.place, error)

    def _in_shard(self, item: Item, shard: int, file: int) -> Iterator[ChunkFile]:
        size = os.fstat(file).st_size
        index_bytes = self._sharding.index_bytes
        if not index_bytes <= min(size, _MOST_INDEX_BYTES):
            detail = f"expected an index of {index_bytes} bytes, found a file of {size}"
            self._findings.add("shard-damaged", item.place, detail)
            return
        index = np.frombuffer(os.pread(file, index_bytes, 0), "<u8").reshape(-1, 2)
        for minishard in np.flatnonzero(index[:, 0] != index[:, 1]).tolist():
            start, stop = (int(at) + index_bytes for at in index[minishard])
            where = f"minishard {minishard:x}"
            if not start <= stop <= size:
                detail = f"{where}: its index lies at {start}-{stop}, the file has {size} bytes"
                self._findings.add("shard-damaged", item.place, detail)
                continue
            try:
                entries = self._entries(os.pread(file, stop - start, start))
            except ValueError as error:
                self._findings.add("shard-damaged", item.place, f"{where}: {error}")
                continue
            yield from self._in_minishard(item, (shard, minishard), entries, size)

    def _entries(self, content: bytes) -> Ids:
        """Decode the index of a minishard: id, offset from the end of the index, size."""
        if self._sharding.minishard_index_encoding == "gzip":
            content = unpack(content, "gzip", _MOST_INDEX_BYTES)
        if len(content) % 24:
            raise ValueError(f"expected an index of 24 bytes a chunk, found {len(content)} bytes")
        deltas = np.frombuffer(content, "<u8").reshape(3, -1).astype(np.uint64)
        ids = np.cumsum(deltas[0], dtype=np.uint64)
        sizes = deltas[2]
        starts = np.cumsum(deltas[1], dtype=np.uint64)
        starts[1:] += np.cumsum(sizes[:-1], dtype=np.uint64)
        if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
            raise ValueError("its chunk ids do not ascend")
        return np.stack([ids, starts, sizes])

    def _in_minishard(
        self, item: Item, belongs: tuple[int, int], entries: Ids, size: int
    ) -> Iterator[ChunkFile]:
        ids, starts, sizes = entries
        places, inside = positions(ids, self._grid.shape)
        shards, minishards = self._sharding.locate(ids)
        here = (shards == belongs[0]) & (minishards == belongs[1])
        for n in range(len(ids)):
            if not inside[n]:
                detail = f"chunk id {ids[n]} is outside the grid"
                self._findings.add("shard-misplaced", item.place, detail)
                continue
            index = int(places[0][n]), int(places[1][n]), int(places[2][n])
            name = self._grid.name(index)
            if not here[n]:
                shard = self._sharding.shard_name(int(shards[n]))
                detail = f"{name} belongs into {shard}, minishard {int(minishards[n]):x}"
                self._findings.add("shard-misplaced", item.place, detail)
                continue
            self._grid.mark(index)
            start, count = int(starts[n]) + self._sharding.index_bytes, int(sizes[n])
            if start + count > size:
                detail = f"{name} lies at {start}-{start + count}, the file has {size} bytes"
                self._findings.add("shard-damaged", item.place, detail)
                continue
            box = ChunkName.parse(name)
            assert box is not None
            suffix = ".gz" if self._sharding.data_encoding == "gzip" else ""
            chunk = Item(name, f"{item.place}, {name}", item.path, False)
            yield ChunkFile(chunk, box, suffix, (start, count))
