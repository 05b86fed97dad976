"""Blocks of voxels to a coarser level: the mean of images, the most frequent label.

numpy serves better here than tinybrain: that cuts means off instead of rounding them, and knows
2 x 2 x 2 and 2 x 2 x 1 only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[Any]
Shrink = Callable[[Voxels, tuple[int, int, int]], Voxels]

# The sum of eight of the first fits into the second.
_SUMS = {"uint8": np.uint16, "uint16": np.uint32, "uint32": np.uint64, "float32": np.float64}


def shrink_mean(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
    """Average neighbours.

    Args:
        block: ``[z, y, x]`` of uint8, uint16, uint32, uint64 or float32.
        step_zyx: For each axis 2 or 1: whether to halve it.

    Returns:
        The means, halves rounded up, of the block's type; at an odd end the mean of what is
        there. The extents are half, rounded up.
    """
    even = _even(block, step_zyx)
    count = int(np.prod(step_zyx))
    if count == 1:
        return block
    if block.dtype == np.uint64:
        return _mean_of_uint64(even, step_zyx, count)
    total = even
    wide = _SUMS[block.dtype.name]
    for axis, step in enumerate(step_zyx):  # planes first: the slowest step sees the least
        if step == 2:
            first, second = _halves(total, axis)
            total = np.add(first, second, dtype=wide)
    if block.dtype.kind == "f":
        return (total / count).astype(block.dtype)
    total += wide(count // 2)
    total >>= wide(count.bit_length() - 1)
    return total.astype(block.dtype)


def _mean_of_uint64(even: Voxels, step_zyx: tuple[int, int, int], count: int) -> Voxels:
    """Divide before adding; what that cuts off is added up apart."""
    n = np.uint64(count)
    quotients, rests = even // n, even % n
    for axis, step in enumerate(step_zyx):
        if step == 2:
            quotients, rests = (np.add(*_halves(part, axis)) for part in (quotients, rests))
    mean: Voxels = quotients + (rests + n // np.uint64(2)) // n
    return mean


def shrink_mode(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
    """Take the most frequent label of neighbours, of several the one that comes first.

    Args:
        block: ``[z, y, x]`` of an integer type.
        step_zyx: For each axis 2 or 1: whether to halve it.

    Returns:
        Labels that are in the block; none is invented. The extents are half, rounded up.
    """
    even = _even(block, step_zyx)
    starts = product(*(range(step) for step in step_zyx))
    z, y, x = step_zyx
    voices = [np.ascontiguousarray(even[i::z, j::y, k::x]) for i, j, k in starts]
    votes = [np.zeros(voices[0].shape, np.uint8) for _ in voices]
    for (mine, first), (others, second) in combinations(zip(votes, voices, strict=True), 2):
        same = first == second
        mine += same
        others += same
    winner, most = voices[0].copy(), votes[0]
    for count, voice in zip(votes[1:], voices[1:], strict=True):
        better = count > most
        np.copyto(winner, voice, where=better)
        most = np.maximum(most, count)
    return winner


def _even(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
    """Double the last plane of odd axes: that leaves means and majorities as they are."""
    odd = [(0, n % step) for n, step in zip(block.shape, step_zyx, strict=True)]
    return np.pad(block, odd, mode="edge") if any(n for _, n in odd) else block


def _halves(block: Voxels, axis: int) -> tuple[Voxels, Voxels]:
    before = (slice(None),) * axis
    return block[(*before, slice(0, None, 2))], block[(*before, slice(1, None, 2))]
