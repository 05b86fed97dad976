"""The threads and memory of an ingest.

If memory is short, slabs move to scratch files, the largest first; then fewer threads are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from neurotrale.errors import BadInputError
from neurotrale.tools.ingest.levels import PyramidLevel

# The interpreter with its libraries, and memory that allocators hold on to.
BASE_BYTES = 120 * 2**20
_SLACK = 1.15


@dataclass(frozen=True, slots=True)
class ResourceBudget:
    """The threads and memory that a run uses.

    Attributes:
        threads: Number of planes, or bands of chunks, processed at once.
        in_memory: Whether the slab of each level is in memory, rather than in a scratch file.
        bytes: Peak memory, roughly.
        scratch_bytes: Size of the scratch files.
    """

    threads: int
    in_memory: tuple[bool, ...]
    bytes: int
    scratch_bytes: int


def slab_bytes(level: PyramidLevel, voxel_bytes: int) -> int:
    """Return the size of the slab of a level; a voxel has all channels."""
    return min(level.slab_vx, level.size_vx[2]) * level.size_vx[1] * level.size_vx[0] * voxel_bytes


def choose_budget(
    levels: Sequence[PyramidLevel],
    dtype: str,
    limit_bytes: int,
    cores: int,
    read_memory_bytes: int,
    *,
    first_is_chunks: bool,
    channels: int = 1,
) -> ResourceBudget:
    """Return the fastest budget within a memory limit.

    Args:
        levels: From the level of the incoming planes to the coarsest that is made.
        dtype: A numpy name of the data type.
        limit_bytes: Memory limit.
        cores: Maximum number of threads.
        read_memory_bytes: The memory that reading one plane takes.
        first_is_chunks: Whether the first level is read back from its chunks, without a slab.
        channels: Number of channels.

    Raises:
        BadInputError: Not even a single plane fits.
    """
    itemsize = np.dtype(dtype).itemsize
    slabs = [slab_bytes(level, itemsize * channels) for level in levels]
    if first_is_chunks:
        slabs[0] = 0
    thread_bytes = _thread_bytes(levels[0], itemsize, channels, read_memory_bytes)
    least = _total(1, thread_bytes, 0)
    if least > limit_bytes:
        x, y, _ = levels[0].size_vx
        raise BadInputError(
            f"--memory is too small: planes of {x} x {y} voxels of {dtype} need at least"
            f" {-(-least // 2**20)} MB, but the limit is {limit_bytes // 2**20} MB."
        )
    threads = max(
        n for n in range(1, cores + 1) if n == 1 or _total(n, thread_bytes, 0) <= limit_bytes
    )
    in_memory = [False] * len(levels)
    slab_total = 0
    for number in reversed(range(len(levels))):  # the coarsest are the smallest
        if _total(threads, thread_bytes, slab_total + slabs[number]) <= limit_bytes:
            in_memory[number] = True
            slab_total += slabs[number]
    used = _total(threads, thread_bytes, slab_total)
    return ResourceBudget(threads, tuple(in_memory), used, sum(slabs) - slab_total)


def _thread_bytes(level: PyramidLevel, itemsize: int, channels: int, read_memory_bytes: int) -> int:
    """Return the memory of one thread: to read a plane, or to cut and downsample a band."""
    band = min(level.slab_vx, level.size_vx[2]) * min(level.band_vx, level.size_vx[1])
    # The band, its padded copy and the sums; 64-bit sums are split in two.
    voxel_bytes = (3 * itemsize + 1 if itemsize < 8 else 5 * itemsize) * channels
    chunk = prod(level.chunk_vx) * itemsize * channels
    return max(read_memory_bytes, band * level.size_vx[0] * voxel_bytes) + 6 * chunk


def _total(threads: int, thread_bytes: int, slabs: int) -> int:
    return BASE_BYTES + int(_SLACK * (threads * thread_bytes + slabs))
