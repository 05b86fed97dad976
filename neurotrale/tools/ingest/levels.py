"""The levels of a pyramid: their sizes, resolutions and chunks, and how voxels are downsampled.

Triples are (x, y, z), as in `info`; arrays and steps named ``_zyx`` are [z, y, x].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from math import prod, sqrt
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from neurotrale.errors import BadInputError
from neurotrale.precomputed.grid import ChunkBox, chunk_spans, grid_shape
from neurotrale.precomputed.info import ChannelStyle, Triple

MOST_LEVELS = 24


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """One resolution of the volume.

    Attributes:
        factor: Downsampling factor along each axis, relative to the finest level.
        step: Downsampling factor relative to the next finer level; (1, 1, 1) for the finest.
        size_vx: Extent in voxels of this level.
        chunk_vx: Extent of a chunk that is not clipped.
        resolution_nm: Size of a voxel.
    """

    factor: Triple
    step: Triple
    size_vx: Triple
    chunk_vx: Triple
    resolution_nm: tuple[float, float, float]

    @property
    def key(self) -> str:
        """The name of its directory."""
        return "{}_{}_{}".format(*self.factor)

    @property
    def grid(self) -> Triple:
        """Chunks along each axis."""
        return grid_shape(self.size_vx, self.chunk_vx)

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return prod(self.grid)

    @property
    def slab_vx(self) -> int:
        """Planes of a slab: one layer of chunks, or two to make the number of planes even."""
        return self.chunk_vx[2] if self.chunk_vx[2] % 2 == 0 else 2 * self.chunk_vx[2]

    @property
    def band_vx(self) -> int:
        """Rows that are cut into chunks at a time; also an even number."""
        return self.chunk_vx[1] if self.chunk_vx[1] % 2 == 0 else 2 * self.chunk_vx[1]

    def boxes(self, y_vx: tuple[int, int], z_vx: tuple[int, int]) -> Iterator[ChunkBox]:
        """Iterate over the chunks in a range of rows and planes that starts at a chunk border."""
        ranges = ((0, self.size_vx[0]), y_vx, z_vx)
        spans = [
            chunk_spans(start, stop, chunk)
            for (start, stop), chunk in zip(ranges, self.chunk_vx, strict=True)
        ]
        for z, y, x in product(*reversed(spans)):
            yield x, y, z


def make_levels(
    size_vx: Triple,
    resolution_nm: tuple[float, float, float],
    chunk_vx: Triple,
    count: int | None,
    isotropic: bool,
) -> tuple[PyramidLevel, ...]:
    """Return the levels of a volume, from the finest to the coarsest.

    Args:
        size_vx: Extent of the finest level.
        resolution_nm: Voxel size of the finest level.
        chunk_vx: Chunk size of every level.
        count: Number of levels; None for as many as it takes to fit the volume into one chunk.
        isotropic: Halve only the axes along which voxels are short, instead of every axis at
            every level.
    """
    level = PyramidLevel((1, 1, 1), (1, 1, 1), size_vx, chunk_vx, resolution_nm)
    levels = [level]
    while len(levels) < (count or MOST_LEVELS) and (count or level.chunks > 1):
        level = _next_level(level, isotropic)
        levels.append(level)
    return tuple(levels)


def _next_level(level: PyramidLevel, isotropic: bool) -> PyramidLevel:
    step = _step(level.resolution_nm) if isotropic else (2, 2, 2)
    x, y, z = zip(level.factor, step, level.size_vx, level.resolution_nm, strict=True)
    return PyramidLevel(
        (x[0] * x[1], y[0] * y[1], z[0] * z[1]),
        step,
        (-(-x[2] // x[1]), -(-y[2] // y[1]), -(-z[2] // z[1])),
        level.chunk_vx,
        (x[3] * x[1], y[3] * y[1], z[3] * z[1]),
    )


def _step(resolution_nm: tuple[float, float, float]) -> Triple:
    """Return 2 for axes along which voxels are short, or for all if none is much shorter."""
    longest = max(resolution_nm)
    x, y, z = (2 if nm * sqrt(2) <= longest else 1 for nm in resolution_nm)
    return (x, y, z) if max(x, y, z) > 1 else (2, 2, 2)


def info_text(
    levels: tuple[PyramidLevel, ...],
    dtype: str,
    segmentation: bool,
    channels: int = 1,
    styles: Sequence[ChannelStyle] = (),
) -> str:
    """Return the content of the `info` file of a volume.

    Source of the format: Neuroglancer, "Precomputed volume format"; ``channels`` is a key of ours.

    Args:
        levels: From the finest to the coarsest.
        dtype: The data type of voxels.
        segmentation: Whether voxels are labels.
        channels: The number of channels.
        styles: How each channel is shown; empty if that is not known.
    """
    scales = [
        {
            "key": level.key,
            "size": level.size_vx,
            "resolution": [_number(nm) for nm in level.resolution_nm],
            "chunk_sizes": [level.chunk_vx],
            "encoding": "raw",
            "voxel_offset": [0, 0, 0],
        }
        for level in levels
    ]
    info = {
        "type": "segmentation" if segmentation else "image",
        "data_type": dtype,
        "num_channels": channels,
        **({"channels": msgspec.to_builtins(list(styles))} if styles else {}),
        "scales": scales,
    }
    return json.dumps(info, indent=2) + "\n"


def _number(nm: float) -> float | int:
    """Remove the rounding error of the conversion from micrometres: 1799.9999999999998 is 1800."""
    rounded = round(nm, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def check_levels(levels: tuple[PyramidLevel, ...]) -> None:
    """Check that every level is smaller than the one before.

    Raises:
        BadInputError: The volume is too small for so many levels.
    """
    for finer, coarser in pairwise(levels):
        if finer.size_vx == (1, 1, 1):
            raise BadInputError(
                f"{len(levels)} levels are too many: level {finer.key} is already a single voxel,"
                f" so {coarser.key} would be a copy of it. Ask for fewer with --levels."
            )


# --- downsampling ---
# With numpy rather than tinybrain, which truncates means instead of rounding them, and supports
# only 2 x 2 x 2 and 2 x 2 x 1.

Voxels = NDArray[Any]
Downsample = Callable[[Voxels, tuple[int, int, int]], Voxels]

# The sum of eight values of the first type fits into the second.
_SUMS = {
    "uint8": np.uint16,
    "uint16": np.uint32,
    "uint32": np.uint64,
    "int8": np.int16,
    "int16": np.int32,
    "int32": np.int64,
    "float32": np.float64,
}


def downsample_mean(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
    """Downsample an image by averaging neighbours.

    Args:
        block: ``[z, y, x]`` of an integer type (int64 excepted) or float32.
        step_zyx: 2 for each axis to halve, 1 for the others.

    Returns:
        Rounded means of the block's type (halves are rounded up); at an odd edge, the mean of the
        voxels that exist. The extents are half, rounded up.
    """
    even = _padded_to_even(block, step_zyx)
    count = int(np.prod(step_zyx))
    if count == 1:
        return block
    if block.dtype == np.uint64:
        return _mean_of_uint64(even, step_zyx, count)
    total = even
    wide = _SUMS[block.dtype.name]
    with np.errstate(all="ignore"):  # the mean of infinities may be NaN
        for axis, step in enumerate(step_zyx):  # z first: x, the slowest, gets the least data
            if step == 2:
                first, second = _halves(total, axis)
                total = np.add(first, second, dtype=wide)
    if block.dtype.kind == "f":
        return (total / count).astype(block.dtype)
    total += wide(count // 2)
    total >>= wide(count.bit_length() - 1)
    return total.astype(block.dtype)


def _mean_of_uint64(even: Voxels, step_zyx: tuple[int, int, int], count: int) -> Voxels:
    """Divide before adding, as sums would overflow, and add up the remainders separately."""
    n = np.uint64(count)
    quotients, remainders = even // n, even % n
    for axis, step in enumerate(step_zyx):
        if step == 2:
            quotients, remainders = (
                np.add(*_halves(part, axis)) for part in (quotients, remainders)
            )
    mean: Voxels = quotients + (remainders + n // np.uint64(2)) // n
    return mean


def downsample_mode(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
    """Downsample labels by taking the most frequent one of neighbours; the first one of a tie.

    Args:
        block: ``[z, y, x]`` of an integer type.
        step_zyx: 2 for each axis to halve, 1 for the others.

    Returns:
        Labels that occur in the block. The extents are half, rounded up.
    """
    even = _padded_to_even(block, step_zyx)
    starts = product(*(range(step) for step in step_zyx))
    z, y, x = step_zyx
    neighbours = [np.ascontiguousarray(even[i::z, j::y, k::x]) for i, j, k in starts]
    counts = [np.zeros(neighbours[0].shape, np.uint8) for _ in neighbours]
    for (count, first), (other, second) in combinations(zip(counts, neighbours, strict=True), 2):
        same = first == second
        count += same
        other += same
    mode, most = neighbours[0].copy(), counts[0]
    for count, labels in zip(counts[1:], neighbours[1:], strict=True):
        better = count > most
        np.copyto(mode, labels, where=better)
        most = np.maximum(most, count)
    return mode


def _padded_to_even(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
    """Repeat the last plane of odd axes, which changes neither means nor majorities."""
    odd = [(0, n % step) for n, step in zip(block.shape, step_zyx, strict=True)]
    return np.pad(block, odd, mode="edge") if any(n for _, n in odd) else block


def _halves(block: Voxels, axis: int) -> tuple[Voxels, Voxels]:
    before = (slice(None),) * axis
    return block[(*before, slice(0, None, 2))], block[(*before, slice(1, None, 2))]


def downsample_channels(downsample: Downsample, channels: int) -> Downsample:
    """Return a function that downsamples each channel on its own.

    Its blocks hold the channels side by side along x, as slabs do.
    """
    if channels == 1:
        return downsample

    def each(block: Voxels, step_zyx: tuple[int, int, int]) -> Voxels:
        parts = np.split(block, channels, axis=2)
        return np.concatenate([downsample(part, step_zyx) for part in parts], axis=2)

    return each
