"""The chunks that a scale of `info` promises, and which of them were found: a bit each."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from neurotrale.chunks.info import Triple
from neurotrale.names import ChunkName

# Above this a volume is a mistake in `info`, or is not looked at as a whole.
MOST_CHUNKS = 2**31
_BYTES_AT_ONCE = 2**17
_AXES = "xyz"


class Grid:
    """The chunks of a scale for one chunk size; triples are (x, y, z).

    Args:
        size_vx: Extent of the scale.
        chunk_vx: Extent of a chunk that is not clipped.
        offset_vx: Where the volume begins.
    """

    def __init__(self, size_vx: Triple, chunk_vx: Triple, offset_vx: Triple) -> None:
        self.size_vx = size_vx
        self.chunk_vx = chunk_vx
        self.offset_vx = offset_vx
        x, y, z = (-(-n // c) for n, c in zip(size_vx, chunk_vx, strict=True))
        self.shape: Triple = (x, y, z)
        self.count = prod(self.shape)
        self.found = 0
        self.is_counted = self.count <= MOST_CHUNKS
        self._bits = bytearray(-(-self.count // 8) if self.is_counted else 0)
        self._at_far_edge = [0, 0, 0]
        self._spans: dict[tuple[int, int], str] = {}

    def name(self, index: Triple) -> str:
        """Give the name of a chunk by its place in the grid."""
        return "_".join(self._span(axis, i) for axis, i in enumerate(index))

    def index(self, stem: str, name: ChunkName) -> Triple | str:
        """Find a chunk's place in the grid, or say why it has none.

        Args:
            stem: The chunk's name as it is written.
            name: The box that it states.
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
                begin = self.offset_vx[axis]
                return (
                    f"{name.start_vx[axis]}-{name.stop_vx[axis]} is outside the volume, which has"
                    f" {begin}-{begin + self.size_vx[axis]} along {_AXES[axis]}"
                )
        return index if self.name(index) == stem else f"expected {self.name(index)}"

    def mark(self, index: Triple) -> bool:
        """Note that a chunk is there; tell whether that was known already."""
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
        """Count the chunks that are not there.

        Args:
            most: How many to name.

        Returns:
            How many are missing, the names of the first; the same of those that lie in a layer
            at the far edge, along any axis, of which not a single chunk is there.
        """
        edges = [
            self._at_far_edge[axis] == 0 and self.shape[axis] > 1 and self.found > 0
            for axis in range(3)
        ]
        missing, at_edge = _Absent(most), _Absent(most)
        for indices in self._absent():
            x, y, _ = self.shape
            places = indices % x, indices // x % y, indices // (x * y)
            far = np.zeros(len(indices), bool)
            for axis in range(3):
                if edges[axis]:
                    far |= places[axis] == self.shape[axis] - 1
            for group, chosen in ((missing, ~far), (at_edge, far)):
                group.count += int(np.count_nonzero(chosen))
                for at in indices[chosen][: most - len(group.names)].tolist():
                    group.names.append(self.name((at % x, at // x % y, at // (x * y))))
        return missing.count, missing.names, at_edge.count, at_edge.names

    def _absent(self) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        bits = np.frombuffer(self._bits, np.uint8)
        for first in range(0, len(bits), _BYTES_AT_ONCE):
            piece = bits[first : first + _BYTES_AT_ONCE]
            indices = np.flatnonzero(np.unpackbits(piece) == 0) + first * 8
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
