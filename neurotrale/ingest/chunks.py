"""The chunks that ingest writes, and reads again after a crash and for levels that shards share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.layout import Expected
from neurotrale.chunks.read import ChunkReader
from neurotrale.chunks.write import Compression, Layout, encode_chunk
from neurotrale.faults import reading
from neurotrale.files import Found, Stamp
from neurotrale.ingest.levels import Box, Level, chunk_name
from neurotrale.ingest.place import Placer

Voxels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """The chunks of a data set.

    Attributes:
        placer: Puts them in their place.
        dtype: A numpy name of the data type.
        layout: How voxels lie in a file.
        compression: Of each segment.
    """

    placer: Placer
    dtype: str
    layout: Layout
    compression: Compression

    def write(self, level: Level, box: Box, voxels: Voxels) -> int:
        """Write a chunk; give the size of the file in bytes."""
        content = encode_chunk(voxels, self.layout, self.compression)
        self.placer.place(f"{level.key}/{chunk_name(box)}", content)
        return len(content)

    def read(self, level: Level, y_vx: tuple[int, int], z_vx: tuple[int, int]) -> Voxels:
        """Read a range of rows and planes that begins where chunks do.

        Returns:
            ``[z, y, x]``.

        Raises:
            MissingError, DamagedError: A chunk is not what was written.
        """
        shape = (z_vx[1] - z_vx[0], y_vx[1] - y_vx[0], level.size_vx[0])
        voxels = np.empty(shape, self.dtype)
        for box in level.boxes(y_vx, z_vx):
            (x0, x1), (y0, y1), (z0, z1) = box
            y, z = y_vx[0], z_vx[0]
            voxels[z0 - z : z1 - z, y0 - y : y1 - y, x0:x1] = self.read_chunk(level, box)
        return voxels

    def read_chunk(self, level: Level, box: Box) -> Voxels:
        """Read one chunk, ``[z, y, x]``.

        Raises:
            MissingError, DamagedError: It is not what was written.
        """
        x, y, z = (stop - start for start, stop in box)
        name = f"{level.key}/{chunk_name(box)}"
        expected = Expected((x, y, z), self.dtype, channels=1)
        path = self.placer.dest / name
        with reading(name):
            found = Found(name, str(path), Stamp.of(path.stat()), "")
        content = ChunkReader().read(found, expected, frozenset()).body
        return np.frombuffer(content, np.dtype(self.dtype).newbyteorder("<")).reshape(z, y, x)
