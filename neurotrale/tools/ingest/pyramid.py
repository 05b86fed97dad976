"""Builds all levels in one pass over the planes.

Planes are collected in a slab as deep as a chunk. When the slab is full it is cut into chunks, and
while its voxels are in memory they are downsampled into the slab of the next level, which fills at
half the rate; and so on down the levels. No chunk is read again, except after a crash.

Every z is a plane of the level at hand, counted from the top of the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from numpy.typing import NDArray

from neurotrale.precomputed.grid import ChunkBox
from neurotrale.tools.ingest.levels import Downsample, PyramidLevel
from neurotrale.tools.ingest.slab import Slab

T = TypeVar("T")
Voxels = NDArray[Any]
SlabBlock = tuple[int, int, Voxels]
"""Rows of consecutive planes: the first plane, the first row, and voxels ``[z, y, x]``."""
SlabReader = Callable[[int, int], Iterable[Callable[[], Iterator[SlabBlock]]]]
"""Divides the reading of a range of planes, start and stop, into calls that run in any thread."""
ReadBack = Callable[[PyramidLevel, tuple[int, int], tuple[int, int]], Voxels]
"""Reads a range of rows and of planes back from the chunks of a level: voxels ``[z, y, x]``."""
WriteChunk = Callable[[PyramidLevel, ChunkBox, Voxels], None]
"""Writes a chunk: voxels ``[z, y, x]``, or ``[channel, z, y, x]`` if there are several channels."""


@dataclass
class Stage:
    """A level and its buffered planes.

    Attributes:
        level: The level.
        slab: The buffer; None for a level that is only read back.
        start: The first plane of the slab.
        filled: Number of planes in the slab.
    """

    level: PyramidLevel
    slab: Slab | None
    start: int = 0
    filled: int = 0

    @property
    def full(self) -> bool:
        """Whether the slab can be cut: it is full, or at the end of the volume."""
        end = self.start + self.filled
        return self.filled == self.level.slab_vx or end == self.level.size_vx[2]


class Pyramid:
    """Fills slabs, cuts them into chunks, and downsamples them.

    Args:
        levels: From the level of the incoming planes to the coarsest that is made.
        slabs: The slab of each level; None for the first if it is read back from its chunks.
        downsample: Computes the voxels of the next level.
        write: Writes a chunk; called from several threads.
        read_back: Reads chunks that were written before.
        pool: Runs the reading of planes and the cutting of chunks.
        channels: Number of channels, which are side by side along x in every block but chunks.
    """

    def __init__(
        self,
        levels: Sequence[PyramidLevel],
        slabs: Sequence[Slab | None],
        downsample: Downsample,
        write: WriteChunk,
        read_back: ReadBack,
        pool: Executor,
        channels: int = 1,
    ) -> None:
        self._channels = channels
        self.stages = [Stage(*both) for both in zip(levels, slabs, strict=True)]
        self._downsample = downsample
        self._write = write
        self._read_back = read_back
        self._pool = pool

    def resume(self, start: int) -> None:
        """Continue at a plane of the first level, where a slab starts.

        Slabs of coarser levels that were partly filled are filled again, from chunks.
        """
        depth = start
        for stage, coarser in zip(self.stages, [*self.stages[1:], None], strict=True):
            slabs = depth // stage.level.slab_vx
            stage.start, stage.filled = slabs * stage.level.slab_vx, 0
            depth = stage.start // (coarser.level.step[2] if coarser else 1)
        for number in reversed(range(len(self.stages) - 1)):
            stage, coarser = self.stages[number], self.stages[number + 1]
            if stage.start > coarser.start * coarser.level.step[2]:
                stage.start -= stage.level.slab_vx
                stage.filled = stage.level.slab_vx
                self._pass_down(number, written=True)

    def add_planes(self, read: SlabReader) -> int:
        """Read the planes of the next slab, and cut every slab that is full then.

        Returns:
            The plane after them.
        """
        first = self.stages[0]
        slab = first.slab
        assert slab is not None
        stop = min(first.start + first.level.slab_vx, first.level.size_vx[2])

        def fetch(blocks: Callable[[], Iterator[SlabBlock]]) -> None:
            for z, y, block in blocks():
                slab.put(z - first.start, y, block)

        run_all(self._pool, fetch, read(first.start, stop))
        first.filled = stop - first.start
        self._complete(0, written=False)
        return stop

    def add_chunks(self) -> int:
        """Read back the next slab of the first level, and cut every slab that is full then.

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
        """Cut a slab into chunks, unless they exist, and downsample it into the next slab."""
        stage = self.stages[number]
        coarser = self.stages[number + 1] if number + 1 < len(self.stages) else None
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
            if coarser is not None:
                assert coarser.slab is not None
                x, y, z = coarser.level.step
                coarser.slab.put(coarser.filled, y0 // y, self._downsample(block, (z, y, x)))

        run_all(self._pool, cut, range(0, rows, band))
        if coarser is not None:
            coarser.filled += -(-stage.filled // coarser.level.step[2])
        stage.start, stage.filled = stage.start + stage.filled, 0

    def _cut(
        self, level: PyramidLevel, block: Voxels, y_vx: tuple[int, int], z_vx: tuple[int, int]
    ) -> None:
        for box in level.boxes(y_vx, z_vx):
            (x0, x1), (y0, y1), (z0, z1) = box
            y, z = y_vx[0], z_vx[0]
            part = block[z0 - z : z1 - z, y0 - y : y1 - y]
            if self._channels == 1:
                self._write(level, box, part[..., x0:x1])
            else:
                self._write(level, box, split_channels(part, self._channels)[..., x0:x1])


def split_channels(block: Voxels, channels: int) -> Voxels:
    """Return a view ``[channel, z, y, x]`` of a block with the channels side by side along x."""
    depth, rows, _ = block.shape
    return block.reshape(depth, rows, channels, -1).transpose(2, 0, 1, 3)


def run_all(pool: Executor, work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call a function for every item in a pool; on the first error, cancel those not started."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise


# --- rebuilding ---

Step = tuple[int, int]
"""The index of a level and the index of one of its slabs."""


def slabs_to_rebuild(
    levels: Sequence[PyramidLevel], changed: Iterable[int], planes: int, *, from_chunks: bool
) -> list[Step]:
    """Return the slabs that depend on changed slabs, each after those it is made from.

    Slabs that are not complete yet are left out: the run that continues makes them.

    Args:
        levels: From the level of the incoming planes to the coarsest.
        changed: The changed slabs of the first level.
        planes: Number of planes of the first level that are done.
        from_chunks: Whether the first level is only read back.
    """
    slabs = sorted(set(changed))
    steps = [] if from_chunks else [(0, slab) for slab in slabs]
    first = levels[0]
    for number, (finer, level) in enumerate(pairwise(levels), 1):
        depth = level.size_vx[2]
        if planes < first.size_vx[2]:
            depth = planes * first.factor[2] // level.factor[2]
        parents = {slab * finer.slab_vx // level.step[2] // level.slab_vx for slab in slabs}
        slabs = sorted(slab for slab in parents if slab_planes(level, slab)[1] <= depth)
        steps += [(number, slab) for slab in slabs]
    return steps


def slab_planes(level: PyramidLevel, slab: int) -> tuple[int, int]:
    """Return the first plane of a slab and the one after the last."""
    start = slab * level.slab_vx
    return start, min(start + level.slab_vx, level.size_vx[2])
