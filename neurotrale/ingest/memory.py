"""How much at once: what fits into the memory that ingest may use.

What does not fit is not refused: first slabs move from memory to a scratch file, the largest
first, then fewer planes and bands are worked on at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from neurotrale.errors import BadInputError
from neurotrale.ingest.levels import Level

# The interpreter with its libraries, and what allocators keep back.
BASE_BYTES = 120 * 2**20
_SLACK = 1.15


@dataclass(frozen=True, slots=True)
class Means:
    """What a run uses.

    Attributes:
        threads: Planes, or bands of chunks, worked on at once.
        in_memory: For each level whether its slab is in memory, else in a scratch file.
        bytes: The memory that this takes at most, roughly.
        scratch_bytes: Size of the scratch files.
    """

    threads: int
    in_memory: tuple[bool, ...]
    bytes: int
    scratch_bytes: int


def slab_bytes(level: Level, itemsize: int) -> int:
    """Size of the slab of a level."""
    return min(level.slab_vx, level.size_vx[2]) * level.size_vx[1] * level.size_vx[0] * itemsize


def choose_means(
    levels: Sequence[Level],
    dtype: str,
    limit_bytes: int,
    cores: int,
    piece_bytes: int,
    *,
    first_is_chunks: bool,
) -> Means:
    """Find the fastest way that keeps below a limit.

    Args:
        levels: From the one that planes come in to the coarsest that is made.
        dtype: A numpy name of the data type.
        limit_bytes: How much memory may be used.
        cores: How many threads are useful.
        piece_bytes: What reading a plane takes.
        first_is_chunks: Planes of the first level come from its own chunks: it has no slab.

    Raises:
        BadInputError: Not even a single plane fits.
    """
    itemsize = np.dtype(dtype).itemsize
    slabs = [slab_bytes(level, itemsize) for level in levels]
    if first_is_chunks:
        slabs[0] = 0
    each = _thread_bytes(levels[0], itemsize, piece_bytes)
    least = _total(1, each, 0)
    if least > limit_bytes:
        x, y, _ = levels[0].size_vx
        raise BadInputError(
            f"--memory is too little: planes of {x} x {y} voxels of {dtype} need at least"
            f" {-(-least // 2**20)} MB, {limit_bytes // 2**20} MB were given."
        )
    threads = max(n for n in range(1, cores + 1) if n == 1 or _total(n, each, 0) <= limit_bytes)
    kept = [False] * len(levels)
    for number in reversed(range(len(levels))):  # the coarsest are the smallest
        held = sum(size for size, keep in zip(slabs, kept, strict=True) if keep)
        kept[number] = _total(threads, each, held + slabs[number]) <= limit_bytes
    held = sum(size for size, keep in zip(slabs, kept, strict=True) if keep)
    return Means(threads, tuple(kept), _total(threads, each, held), sum(slabs) - held)


def _thread_bytes(level: Level, itemsize: int, piece_bytes: int) -> int:
    """What one thread takes: a plane as it is read, or a band while it is cut and shrunk."""
    band = min(level.slab_vx, level.size_vx[2]) * min(level.band_vx, level.size_vx[1])
    # The band, its doubled edge, the sums; those of 64 bits are split in two.
    each = 3 * itemsize + 1 if itemsize < 8 else 5 * itemsize
    chunk = prod(level.chunk_vx) * itemsize
    return max(piece_bytes, band * level.size_vx[0] * each) + 6 * chunk


def _total(threads: int, each: int, slabs: int) -> int:
    return BASE_BYTES + int(_SLACK * (threads * each + slabs))
