"""Checks scales in blockfs: which blocks of the grid exist, and where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product

from neurotrale.chunks.blockfs import DIRECTORY_FILE
from neurotrale.chunks.blockfs_reader import BlockReader
from neurotrale.chunks.layouts import BLOCKFS
from neurotrale.errors import BusyError, DamagedError, MissingError, ReadOnlyError
from neurotrale.precomputed.grid import Grid
from neurotrale.storage.files import Files
from neurotrale.storage.names import ChunkName, Parts
from neurotrale.tools.check.chunks import CheckedChunk
from neurotrale.tools.check.walk import DirectoryWalker, WalkedEntry


class BlockfsCheck:
    """Lists the blocks of a scale as the service finds them.

    Args:
        walker: Lists the dataset's directories.
        key: The directory of the scale.
        grid: The chunk grid of the scale.
    """

    def __init__(self, walker: DirectoryWalker, key: str, grid: Grid) -> None:
        self._walker = walker
        self._key = key
        self._grid = grid
        self._reader = BlockReader(Files(walker.data_root))

    def chunks(self) -> Iterator[CheckedChunk]:
        """Iterate over the blocks that exist; add a finding for each that cannot be located."""
        findings = self._walker.findings
        parts = self._parts()
        directory_file = f"{self._key}/{DIRECTORY_FILE}"
        try:
            if self._reader.directory(parts) is None:
                return
        except DamagedError as error:
            findings.add("chunk-damaged", directory_file, error.reason)
            return
        except (ReadOnlyError, BusyError, MissingError, OSError) as error:
            findings.add("unreadable", directory_file, str(error))
            return
        findings.add("blockfs", self._key, BLOCKFS)
        for z, y, x in product(*map(range, reversed(self._grid.shape))):
            name = self._grid.name((x, y, z))
            box = ChunkName.parse(name)
            assert box is not None
            chunk = self._chunk(parts, name, box)
            if chunk is not None:
                if self._grid.mark((x, y, z)):
                    findings.add("chunk-twice", f"{self._key}/{name}")
                yield chunk

    def _chunk(self, parts: Parts, name: str, box: ChunkName) -> CheckedChunk | None:
        path = f"{self._key}/{name}"
        (x, y, z), (i, j, k) = box.start_vx, box.stop_vx
        dx, dy, dz = self._grid.offset_vx
        try:
            block = self._reader.find(parts, ((x - dx, i - dx), (y - dy, j - dy), (z - dz, k - dz)))
        except DamagedError as error:
            self._walker.findings.add("chunk-damaged", path, error.reason)
            return None
        except (ReadOnlyError, BusyError, OSError) as error:
            self._walker.findings.add("unreadable", path, str(error))
            return None
        if block is None:
            return None
        entry = WalkedEntry(name, path, block.shard.path, False)
        return CheckedChunk(entry, box, "", (block.offset, block.size), block)

    def _parts(self) -> Parts:
        root = self._walker.data_root
        relative = os.path.relpath(os.path.realpath(self._walker.dataset), root.root)
        return tuple(part for part in (*relative.split("/"), *self._key.split("/")) if part != ".")
