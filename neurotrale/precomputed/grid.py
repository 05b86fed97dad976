"""The chunk grid of a scale: the box and the name of each chunk, and which chunks exist.

Source of the format: Neuroglancer, "Precomputed volume format", unsharded chunk storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from neurotrale.late import LazyModule
from neurotrale.precomputed.info import Triple
from neurotrale.storage.names import ChunkName

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

Span = tuple[int, int]
"""Start and stop along an axis, in voxels; the stop is exclusive."""
ChunkBox = tuple[Span, Span, Span]
"""The spans of a chunk along x, y and z."""

# Larger grids are mistakes in `info`, or too large to check for missing chunks.
MOST_CHUNKS = 2**31
_BYTES_AT_ONCE = 2**17
_AXES = "xyz"


def grid_shape(size_vx: Triple, chunk_vx: Triple) -> Triple:
    """Return the number of chunks along x, y and z; the last of each axis may be clipped."""
    x, y, z = (-(-size // chunk) for size, chunk in zip(size_vx, chunk_vx, strict=True))
    return x, y, z


def chunk_spans(start: int, stop: int, chunk: int) -> list[Span]:
    """Divide a range of voxels into the spans of chunks; the last one is clipped at `stop`."""
    return [(at, min(at + chunk, stop)) for at in range(start, stop, chunk)]


def chunk_name(box: ChunkBox) -> str:
    """Return the name of a chunk, without extension: ``x0-x1_y0-y1_z0-z1``."""
    return "_".join(f"{start}-{stop}" for start, stop in box)


class Grid:
    """The chunks of a scale for one chunk size; triples are (x, y, z).

    Args:
        size_vx: Size of the scale.
        chunk_vx: Size of a chunk that is not clipped.
        offset_vx: The first voxel of the volume.
    """

    def __init__(self, size_vx: Triple, chunk_vx: Triple, offset_vx: Triple) -> None:
        self.size_vx = size_vx
        self.chunk_vx = chunk_vx
        self.offset_vx = offset_vx
        self.shape = grid_shape(size_vx, chunk_vx)
        self.count = prod(self.shape)
        self.found = 0
        self.is_counted = self.count <= MOST_CHUNKS
        self._bits = bytearray(-(-self.count // 8) if self.is_counted else 0)
        self._at_far_edge = [0, 0, 0]
        self._spans: dict[tuple[int, int], str] = {}

    def name(self, index: Triple) -> str:
        """Return the name of the chunk at an index of the grid."""
        return "_".join(self._span(axis, i) for axis, i in enumerate(index))

    def index(self, stem: str, name: ChunkName) -> Triple | str:
        """Return the index of a chunk in the grid, or the reason why it has none.

        Args:
            stem: The name of the chunk's file, without its suffix.
            name: The parsed name.
        """
        x, y, z = (
            (start - offset) // chunk
            for start, offset, chunk in zip(
                name.start_vx, self.offset_vx, self.chunk_vx, strict=True
            )
        )
        index = (x, y, z)
        for axis in range(3):
            if not 0 <= index[axis] < self.shape[axis]:
                first = self.offset_vx[axis]
                return (
                    f"{name.start_vx[axis]}-{name.stop_vx[axis]} is outside the volume, which has"
                    f" {first}-{first + self.size_vx[axis]} along {_AXES[axis]}"
                )
        return index if self.name(index) == stem else f"expected {self.name(index)}"

    def mark(self, index: Triple) -> bool:
        """Mark a chunk as found; return whether it was marked before."""
        if not self.is_counted:
            self.found += 1
            return False
        i, j, k = index
        at = (k * self.shape[1] + j) * self.shape[0] + i
        bit = 0x80 >> (at & 7)
        if self._bits[at >> 3] & bit:
            return True
        self._bits[at >> 3] |= bit
        self.found += 1
        for axis in range(3):
            self._at_far_edge[axis] += index[axis] == self.shape[axis] - 1
        return False

    def absent(self, most: int) -> tuple[int, list[str], int, list[str]]:
        """Count the missing chunks.

        Args:
            most: The most names to return.

        Returns:
            The number of missing chunks and the names of the first; then the same for the chunks of
            entirely missing layers at the far edge of an axis, which are not among the former.
        """
        edges = [
            self._at_far_edge[axis] == 0 and self.shape[axis] > 1 and self.found > 0
            for axis in range(3)
        ]
        missing, at_edge = _Absent(most), _Absent(most)
        for indices in self._absent():
            x, y, _ = self.shape
            positions = indices % x, indices // x % y, indices // (x * y)
            far = np.zeros(len(indices), bool)
            for axis in range(3):
                if edges[axis]:
                    far |= positions[axis] == self.shape[axis] - 1
            for group, chosen in ((missing, ~far), (at_edge, far)):
                group.count += int(np.count_nonzero(chosen))
                for at in indices[chosen][: most - len(group.names)].tolist():
                    group.names.append(self.name((at % x, at // x % y, at // (x * y))))
        return missing.count, missing.names, at_edge.count, at_edge.names

    def _absent(self) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        bits = np.frombuffer(self._bits, np.uint8)
        for first in range(0, len(bits), _BYTES_AT_ONCE):
            block = bits[first : first + _BYTES_AT_ONCE]
            indices = np.flatnonzero(np.unpackbits(block) == 0) + first * 8
            yield indices[indices < self.count]

    def _span(self, axis: int, i: int) -> str:
        span = self._spans.get((axis, i))
        if span is None:
            start = self.offset_vx[axis] + i * self.chunk_vx[axis]
            end = self.offset_vx[axis] + self.size_vx[axis]
            span = f"{start}-{min(start + self.chunk_vx[axis], end)}"
            self._spans[axis, i] = span
        return span


class _Absent:
    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.names: list[str] = []
