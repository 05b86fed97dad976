"""One pass over the planes, in which every level is cut into chunks.

Planes are gathered into a slab as deep as a chunk. When it is full its chunks are cut, and while
its voxels are at hand they are shrunk into the slab of the next level, which fills at half the
rate; and so on down the levels. Nothing that was written is read again, except after a crash.

All z here are planes of the level that is spoken of, counted from the top of the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurotrale.ingest.levels import Box, Level
from neurotrale.ingest.shrink import Shrink
from neurotrale.ingest.slab import Slab

T = TypeVar("T")
Voxels = NDArray[Any]
ReadPlane = Callable[[int], Iterator[tuple[int, Voxels]]]
"""From a plane to some of its rows at a time: the first row, and ``[y, x]``."""
ReadBack = Callable[[Level, tuple[int, int], tuple[int, int]], Voxels]
"""From a level and its range of rows and planes to what was written of it, ``[z, y, x]``."""
Write = Callable[[Level, Box, Voxels], None]


@dataclass
class Stage:
    """A level and the planes of it that wait.

    Attributes:
        level: The level.
        slab: Holds them; None for a level that is only read back.
        start: The first plane of the slab.
        filled: Planes in it.
    """

    level: Level
    slab: Slab | None
    start: int = 0
    filled: int = 0

    @property
    def full(self) -> bool:
        """Whether no more planes will come before its chunks are cut."""
        end = self.start + self.filled
        return self.filled == self.level.slab_vx or end == self.level.size_vx[2]


class Pyramid:
    """Fills slabs, cuts chunks, shrinks.

    Args:
        levels: From the one that planes come in to the coarsest that is made.
        slabs: One for each; None for the first when planes come from its own chunks.
        shrink: Makes the voxels of a coarser level.
        write: Writes a chunk; called from many threads.
        read_back: Reads chunks that were written before.
        pool: Runs what reads planes and cuts chunks.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        slabs: Sequence[Slab | None],
        shrink: Shrink,
        write: Write,
        read_back: ReadBack,
        pool: Executor,
    ) -> None:
        self.stages = [Stage(*both) for both in zip(levels, slabs, strict=True)]
        self._shrink = shrink
        self._write = write
        self._read_back = read_back
        self._pool = pool

    def resume(self, start: int) -> None:
        """Go to a plane of the first level at which a slab begins.

        Planes above it that wait for a chunk of a coarser level are made again, from chunks.
        """
        depth = start
        for stage, below in zip(self.stages, [*self.stages[1:], None], strict=True):
            slabs = depth // stage.level.slab_vx
            stage.start, stage.filled = slabs * stage.level.slab_vx, 0
            depth = stage.start // (below.level.step[2] if below else 1)
        for number in reversed(range(len(self.stages) - 1)):
            stage, below = self.stages[number], self.stages[number + 1]
            if stage.start > below.start * below.level.step[2]:
                stage.start -= stage.level.slab_vx
                stage.filled = stage.level.slab_vx
                self._pass_down(number, written=True)

    def add_planes(self, read: ReadPlane) -> int:
        """Read the next planes up to a whole slab, and cut what is complete then.

        Returns:
            The plane after them.
        """
        first = self.stages[0]
        slab = first.slab
        assert slab is not None
        stop = min(first.start + first.level.slab_vx, first.level.size_vx[2])

        def fetch(z: int) -> None:
            for y, rows in read(z):
                slab.put(z - first.start, y, rows[np.newaxis])

        run_all(self._pool, fetch, range(first.start, stop))
        first.filled = stop - first.start
        self._complete(0, written=False)
        return stop

    def add_chunks(self) -> int:
        """Take the next slab of the first level from its chunks, and cut what is complete then.

        Returns:
            The plane after it.
        """
        first = self.stages[0]
        stop = min(first.start + first.level.slab_vx, first.level.size_vx[2])
        first.filled = stop - first.start
        self._complete(0, written=True)
        return stop

    def _complete(self, number: int, *, written: bool) -> None:
        while True:
            self._pass_down(number, written=written)
            number, written = number + 1, False
            if number == len(self.stages) or not self.stages[number].full:
                return

    def _pass_down(self, number: int, *, written: bool) -> None:
        """Cut the chunks of a slab, unless they are written, and fill the next one from it."""
        stage = self.stages[number]
        below = self.stages[number + 1] if number + 1 < len(self.stages) else None
        z_vx = (stage.start, stage.start + stage.filled)
        rows, band = stage.level.size_vx[1], stage.level.band_vx

        def cut(y0: int) -> None:
            y_vx = (y0, min(y0 + band, rows))
            if written:
                block = self._read_back(stage.level, y_vx, z_vx)
            else:
                assert stage.slab is not None
                block = stage.slab.rows(stage.filled, *y_vx)
                self._cut(stage.level, block, y_vx, z_vx)
            if below is not None:
                assert below.slab is not None
                x, y, z = below.level.step
                below.slab.put(below.filled, y0 // y, self._shrink(block, (z, y, x)))

        run_all(self._pool, cut, range(0, rows, band))
        if below is not None:
            below.filled += -(-stage.filled // below.level.step[2])
        stage.start, stage.filled = stage.start + stage.filled, 0

    def _cut(
        self, level: Level, block: Voxels, y_vx: tuple[int, int], z_vx: tuple[int, int]
    ) -> None:
        for box in level.boxes(y_vx, z_vx):
            (x0, x1), (y0, y1), (z0, z1) = box
            y, z = y_vx[0], z_vx[0]
            self._write(level, box, block[z0 - z : z1 - z, y0 - y : y1 - y, x0:x1])


def run_all(pool: Executor, work: Callable[[T], None], items: Iterable[T]) -> None:
    """Run all, and end at the first error without starting what waits."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
