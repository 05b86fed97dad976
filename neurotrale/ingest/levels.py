"""The levels of a pyramid: how large each is, what its voxels measure, what its chunks are called.

Triples are (x, y, z), as in `info`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod, sqrt

from neurotrale.errors import BadInputError

Triple = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Start and stop along x, y and z."""

MOST_LEVELS = 24


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of the volume.

    Attributes:
        factor: Voxels of the finest level along each side of one of this level.
        step: The same in voxels of the level above; (1, 1, 1) for the finest.
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
        x, y, z = (-(-n // c) for n, c in zip(self.size_vx, self.chunk_vx, strict=True))
        return x, y, z

    @property
    def chunks(self) -> int:
        """The number of its chunks."""
        return prod(self.grid)

    @property
    def slab_vx(self) -> int:
        """Planes that are gathered before chunks are cut: an even number of them pairs up."""
        return self.chunk_vx[2] if self.chunk_vx[2] % 2 == 0 else 2 * self.chunk_vx[2]

    @property
    def band_vx(self) -> int:
        """Rows that are cut into chunks at a time; an even number, too."""
        return self.chunk_vx[1] if self.chunk_vx[1] % 2 == 0 else 2 * self.chunk_vx[1]

    def boxes(self, y_vx: tuple[int, int], z_vx: tuple[int, int]) -> Iterator[Box]:
        """Give the chunks that lie in a range of rows and planes; it begins where a chunk does."""
        spans = [
            [(a, min(a + chunk, stop)) for a in range(start, stop, chunk)]
            for (start, stop), chunk in zip(
                ((0, self.size_vx[0]), y_vx, z_vx), self.chunk_vx, strict=True
            )
        ]
        for z, y, x in product(*reversed(spans)):
            yield x, y, z


def chunk_name(box: Box) -> str:
    """Name a chunk's file: ``x0-x1_y0-y1_z0-z1.tiff``, ends exclusive."""
    return "_".join(f"{start}-{stop}" for start, stop in box) + ".tiff"


def make_levels(
    size_vx: Triple,
    resolution_nm: tuple[float, float, float],
    chunk_vx: Triple,
    count: int | None,
    isotropic: bool,
) -> tuple[Level, ...]:
    """Plan the levels of a volume.

    Args:
        size_vx: Of the finest level.
        resolution_nm: Of the finest level.
        chunk_vx: Of every level.
        count: How many levels; None for as many as bring the volume into one chunk.
        isotropic: Leave an axis as it is while its voxels are long already, instead of halving
            every axis at every level.
    """
    level = Level((1, 1, 1), (1, 1, 1), size_vx, chunk_vx, resolution_nm)
    levels = [level]
    while len(levels) < (count or MOST_LEVELS) and (count or level.chunks > 1):
        level = _below(level, isotropic)
        levels.append(level)
    return tuple(levels)


def _below(level: Level, isotropic: bool) -> Level:
    step = _step(level.resolution_nm) if isotropic else (2, 2, 2)
    x, y, z = zip(level.factor, step, level.size_vx, level.resolution_nm, strict=True)
    return Level(
        (x[0] * x[1], y[0] * y[1], z[0] * z[1]),
        step,
        (-(-x[2] // x[1]), -(-y[2] // y[1]), -(-z[2] // z[1])),
        level.chunk_vx,
        (x[3] * x[1], y[3] * y[1], z[3] * z[1]),
    )


def _step(resolution_nm: tuple[float, float, float]) -> Triple:
    """Halve the axes along which voxels are short; all of them when none is shorter by much."""
    longest = max(resolution_nm)
    x, y, z = (2 if nm * sqrt(2) <= longest else 1 for nm in resolution_nm)
    return (x, y, z) if max(x, y, z) > 1 else (2, 2, 2)


def info_text(levels: tuple[Level, ...], dtype: str, segmentation: bool) -> str:
    """Write the `info` file of a volume.

    Source of the format: Neuroglancer, "Precomputed volume format".
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
        "num_channels": 1,
        "scales": scales,
    }
    return json.dumps(info, indent=2) + "\n"


def _number(nm: float) -> float | int:
    """Undo what the conversion from micrometres added: 1799.9999999999998 is 1800."""
    rounded = round(nm, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def check_levels(levels: tuple[Level, ...]) -> None:
    """Refuse levels that would be written to the same directory.

    Raises:
        BadInputError: The volume is too small for so many levels.
    """
    for finer, coarser in pairwise(levels):
        if finer.size_vx == (1, 1, 1):
            raise BadInputError(
                f"{len(levels)} levels are too many: level {finer.key} is a single voxel already,"
                f" so {coarser.key} would be a copy of it. Ask for fewer with --levels."
            )
