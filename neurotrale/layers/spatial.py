"""The spatial index of a source: which annotations a cell of which level holds.

Source of the format: Neuroglancer, "Annotation collection representation", spatial index.

Each annotation belongs to one level, and there to every cell that it touches. A level holds a
sample of what the coarser levels left over, equally dense everywhere, thin enough that its fullest
cell has about as many annotations as a viewer wants at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurotrale.layers.geometry import Coordinates, Offsets, Shapes
from neurotrale.layers.kinds import Kind

MOST_LEVELS = 10
# An annotation that would touch more cells than this on the next level stays on this one.
MOST_CELLS = 64

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the index.

    Attributes:
        grid: Cells along (x, y, z).
        chunk_size: Extent of a cell in voxels.
        limit: The most annotations that a cell of this level holds.
        codes: The cells that hold any, ascending, as place in the grid (z fastest), shape (c,).
        starts: First place of each cell in ``rows``, and the end, shape (c + 1,).
        rows: Annotations of the cells, one cell after the other.
    """

    grid: tuple[int, int, int]
    chunk_size: tuple[float, float, float]
    limit: int
    codes: Offsets
    starts: Offsets
    rows: Offsets

    def cell(self, x: int, y: int, z: int) -> Offsets | None:
        """Give the annotations of a cell in ascending order; None outside the grid."""
        if not all(0 <= at < end for at, end in zip((x, y, z), self.grid, strict=True)):
            return None
        code = (x * self.grid[1] + y) * self.grid[2] + z
        at = int(np.searchsorted(self.codes, code))
        if at == len(self.codes) or self.codes[at] != code:
            return self.rows[:0]
        return self.rows[self.starts[at] : self.starts[at + 1]]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes around the parts of annotations: the segments of lines, everything else whole.

    Attributes:
        owners: The annotation of each box, ascending, shape (m,).
        lower: Shape (m, 3).
        upper: Shape (m, 3).
    """

    owners: Offsets
    lower: Coordinates
    upper: Coordinates

    @classmethod
    def of(cls, kind: Kind, shapes: Shapes) -> Boxes:
        """Give the boxes of annotations."""
        points, rows = shapes.coordinates, np.arange(len(shapes))
        if kind is Kind.POINTS:
            return cls(rows, points, points)
        if kind is Kind.ELLIPSOIDS:
            return cls(rows, points[::2] - points[1::2], points[::2] + points[1::2])
        owners = np.repeat(rows, np.diff(shapes.offsets))
        inside = owners[1:] == owners[:-1]
        first, second = points[:-1][inside], points[1:][inside]
        return cls(owners[1:][inside], np.minimum(first, second), np.maximum(first, second))

    def around(self) -> Boxes:
        """Give one box for each annotation."""
        if len(self.owners) == 0 or (np.diff(self.owners) > 0).all():
            return self
        firsts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        return Boxes(
            self.owners[firsts],
            np.minimum.reduceat(self.lower, firsts),
            np.maximum.reduceat(self.upper, firsts),
        )

    def only(self, rows: Flags) -> Boxes:
        """Give the boxes of some of the annotations."""
        chosen = rows[self.owners]
        return Boxes(self.owners[chosen], self.lower[chosen], self.upper[chosen])


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of cells over the bounds of a source."""

    lower: Floats
    upper: Floats
    shape: NDArray[np.int64]

    @property
    def chunk_size(self) -> Floats:
        """Extent of a cell in voxels."""
        size: Floats = (self.upper - self.lower) / self.shape
        return size

    def finer(self, voxel_nm: Floats) -> Grid:
        """Halve the cells along their longer sides."""
        extent_nm = self.chunk_size * voxel_nm
        return Grid(
            self.lower, self.upper, self.shape * np.where(extent_nm * 1.5 > extent_nm.max(), 2, 1)
        )

    def cells(self, points: Coordinates) -> NDArray[np.int64]:
        """Give the cell (x, y, z) of each point; those on the upper bound are in the last."""
        at = np.floor((points - self.lower) / self.chunk_size)
        clipped: NDArray[np.int64] = np.clip(at, 0, self.shape - 1).astype(np.int64)
        return clipped

    def touched(self, boxes: Boxes) -> tuple[Offsets, Offsets]:
        """Give each pair of an annotation and a cell that it touches, once.

        Returns:
            Codes of the cells and annotations, ordered by cell, then annotation.
        """
        first = self.cells(boxes.lower)
        extent = self.cells(boxes.upper) - first + 1
        counts = extent.prod(axis=1)
        box = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(box)) - np.repeat(np.cumsum(counts) - counts, counts)
        number, z = np.divmod(number, extent[box, 2])
        x, y = np.divmod(number, extent[box, 1])
        cell = first[box] + np.stack([x, y, z], axis=1)
        codes = (cell[:, 0] * self.shape[1] + cell[:, 1]) * self.shape[2] + cell[:, 2]
        owners = boxes.owners[box]
        order = np.lexsort((owners, codes))
        codes, owners = codes[order], owners[order]
        first_of_pair = np.ones(len(codes), bool)
        first_of_pair[1:] = (np.diff(codes) != 0) | (np.diff(owners) != 0)
        return codes[first_of_pair], owners[first_of_pair]

    def spans(self, around: Boxes) -> Offsets:
        """Count the cells that the box around each annotation touches."""
        counts: Offsets = (self.cells(around.upper) - self.cells(around.lower) + 1).prod(axis=1)
        return counts


def levels_of(boxes: Boxes, count: int, grid: Grid, voxel_nm: Floats, limit: int) -> list[Level]:
    """Make the levels of an index, from coarse to fine.

    Args:
        boxes: Around the parts of the annotations, whose rows are in random order.
        count: How many annotations there are.
        grid: The coarsest grid, one cell.
        voxel_nm: Size of a voxel, for cells that are about as long as wide.
        limit: How many annotations the fullest cell of a level should have.
    """
    around = boxes.around()
    left = np.ones(count, bool)
    levels: list[Level] = []
    while True:
        codes, rows = grid.touched(_parts(grid, boxes, around, left))
        fullest = int(np.unique(codes, return_counts=True)[1].max()) if len(codes) else 0
        finer = grid.finer(voxel_nm)
        if fullest <= limit or len(levels) == MOST_LEVELS - 1:
            return [*levels, _level(grid, codes, rows)]
        remaining = np.flatnonzero(left)
        taken = np.zeros(count, bool)
        taken[remaining[: max(1, round(len(remaining) * limit / fullest))]] = True
        taken |= left & (finer.spans(around) > MOST_CELLS)
        here = taken[rows]
        levels.append(_level(grid, codes[here], rows[here]))
        left &= ~taken
        if not left.any():
            return levels
        grid = finer


def _parts(grid: Grid, boxes: Boxes, around: Boxes, left: Flags) -> Boxes:
    """Give what is left: whole where it lies within one cell, else in its parts."""
    single = grid.spans(around) == 1
    whole, parts = around.only(left & single), boxes.only(left & ~single)
    return Boxes(
        np.concatenate([whole.owners, parts.owners]),
        np.concatenate([whole.lower, parts.lower]),
        np.concatenate([whole.upper, parts.upper]),
    )


def _level(grid: Grid, codes: Offsets, rows: Offsets) -> Level:
    cells, counts = np.unique(codes, return_counts=True)
    x, y, z = (int(cells_along) for cells_along in grid.shape)
    dx, dy, dz = (float(extent) for extent in grid.chunk_size)
    return Level(
        (x, y, z),
        (dx, dy, dz),
        max(1, int(counts.max(initial=0))),
        cells,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows,
    )
