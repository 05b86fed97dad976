"""The spatial index of a source, and the coordinate space that it divides into cells.

Source of the format: Neuroglancer, "Annotation collection representation", spatial index.

Each annotation belongs to one level, and there to every cell that it touches. A level holds a
uniform sample of the annotations that the coarser levels left over, sparse enough that its fullest
cell has about as many annotations as a viewer wants to load at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from neurotrale.late import LazyModule
from neurotrale.layers.geometry import Coordinates, GeometryKind, Offsets, Shapes
from neurotrale.precomputed.info import Info, Infos
from neurotrale.storage.names import Parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

MAX_LEVELS = 10
# An annotation that would touch more cells than this on the next level stays on the current one.
MAX_CELLS = 64

Floats: TypeAlias = "NDArray[np.float64]"
Flags: TypeAlias = "NDArray[np.bool_]"


@dataclass(frozen=True, slots=True)
class GridLevel:
    """One level of the index.

    Attributes:
        grid: Cells along (x, y, z).
        chunk_size: Extent of a cell in voxels.
        limit: The most annotations that a cell of this level holds.
        codes: Flat indices (z fastest) of the cells that are not empty, ascending, shape (c,).
        starts: First index of each cell in ``rows``, and the end, shape (c + 1,).
        rows: Annotations of the cells, one cell after the other.
    """

    grid: tuple[int, int, int]
    chunk_size: tuple[float, float, float]
    limit: int
    codes: Offsets
    starts: Offsets
    rows: Offsets

    def cell(self, x: int, y: int, z: int) -> Offsets | None:
        """Return the annotations of a cell in ascending order; None outside the grid."""
        if not all(0 <= at < end for at, end in zip((x, y, z), self.grid, strict=True)):
            return None
        code = (x * self.grid[1] + y) * self.grid[2] + z
        at = int(np.searchsorted(self.codes, code))
        if at == len(self.codes) or self.codes[at] != code:
            return self.rows[:0]
        return self.rows[self.starts[at] : self.starts[at + 1]]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Bounding boxes of the parts of annotations: segments of lines, everything else as a whole.

    Attributes:
        owners: The annotation of each box, ascending, shape (m,).
        lower: Shape (m, 3).
        upper: Shape (m, 3).
    """

    owners: Offsets
    lower: Coordinates
    upper: Coordinates

    @classmethod
    def of(cls, kind: GeometryKind, shapes: Shapes) -> Boxes:
        """Return the bounding boxes of shapes."""
        points, rows = shapes.coordinates, np.arange(len(shapes))
        if kind is GeometryKind.POINTS:
            return cls(rows, points, points)
        if kind is GeometryKind.ELLIPSOIDS:
            return cls(rows, points[::2] - points[1::2], points[::2] + points[1::2])
        owners = np.repeat(rows, np.diff(shapes.offsets))
        inside = np.flatnonzero(owners[1:] == owners[:-1])
        lower = np.minimum(points[:-1], points[1:]).take(inside, axis=0)
        upper = np.maximum(points[:-1], points[1:]).take(inside, axis=0)
        return cls(owners[inside], lower, upper)

    @classmethod
    def around(cls, kind: GeometryKind, shapes: Shapes) -> Boxes:
        """Return one bounding box for each annotation."""
        if kind is not GeometryKind.POLYLINES:
            return cls.of(kind, shapes)
        axes = [np.ascontiguousarray(axis) for axis in shapes.coordinates.T]
        starts = shapes.offsets[:-1]
        if not len(starts):
            return cls(starts, shapes.coordinates, shapes.coordinates)
        return cls(
            np.arange(len(shapes)),
            np.stack([np.minimum.reduceat(axis, starts) for axis in axes], axis=1),
            np.stack([np.maximum.reduceat(axis, starts) for axis in axes], axis=1),
        )


@dataclass(frozen=True, slots=True)
class SpatialGrid:
    """A grid of cells over the bounds of a source."""

    lower: Floats
    upper: Floats
    shape: NDArray[np.int64]

    @property
    def chunk_size(self) -> Floats:
        """Extent of a cell in voxels."""
        size: Floats = (self.upper - self.lower) / self.shape
        return size

    def finer(self, voxel_nm: Floats) -> SpatialGrid:
        """Return the grid with the cells halved along their longer sides."""
        extent_nm = self.chunk_size * voxel_nm
        return SpatialGrid(
            self.lower, self.upper, self.shape * np.where(extent_nm * 1.5 > extent_nm.max(), 2, 1)
        )

    def cells(self, points: Coordinates) -> NDArray[np.int64]:
        """Return the cell (x, y, z) of each point; points on the upper bound are in the last."""
        at = np.floor((points - self.lower) / self.chunk_size)
        clipped: NDArray[np.int64] = np.clip(at, 0, self.shape - 1).astype(np.int64)
        return clipped

    def touched(self, boxes: Boxes) -> tuple[Offsets, Offsets]:
        """Return each pair of an annotation and a cell that it touches, once.

        Returns:
            Codes of the cells, and annotations, ordered by cell, then annotation.
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
        """Count the cells that the bounding box of each annotation touches."""
        counts: Offsets = (self.cells(around.upper) - self.cells(around.lower) + 1).prod(axis=1)
        return counts


def build_levels(
    kind: GeometryKind,
    shapes: Shapes,
    around: Boxes,
    grid: SpatialGrid,
    voxel_nm: Floats,
    limit: int,
) -> list[GridLevel]:
    """Build the levels of an index, from coarse to fine.

    Args:
        kind: Kind of the annotations.
        shapes: Their geometry, in random order.
        around: A bounding box of each.
        grid: The coarsest grid, one cell.
        voxel_nm: Voxel size, to keep cells about as long as they are wide.
        limit: Target number of annotations in the fullest cell of a level.
    """
    count = len(shapes)
    remaining = np.ones(count, bool)
    levels: list[GridLevel] = []
    while True:
        codes, rows = grid.touched(_parts(kind, shapes, around, grid, remaining))
        fullest = int(np.unique(codes, return_counts=True)[1].max()) if len(codes) else 0
        finer = grid.finer(voxel_nm)
        if fullest <= limit or len(levels) == MAX_LEVELS - 1:
            return [*levels, _level(grid, codes, rows)]
        rows_left = np.flatnonzero(remaining)
        taken = np.zeros(count, bool)
        taken[rows_left[: max(1, round(len(rows_left) * limit / fullest))]] = True
        taken |= remaining & (finer.spans(around) > MAX_CELLS)
        here = taken[rows]
        levels.append(_level(grid, codes[here], rows[here]))
        remaining &= ~taken
        if not remaining.any():
            return levels
        grid = finer


def _parts(
    kind: GeometryKind, shapes: Shapes, around: Boxes, grid: SpatialGrid, remaining: Flags
) -> Boxes:
    """Return the boxes of the remaining annotations: whole if within one cell, else in parts."""
    single = grid.spans(around) == 1
    whole, rows = np.flatnonzero(remaining & single), np.flatnonzero(remaining & ~single)
    parts = Boxes.of(kind, shapes.take(rows))
    return Boxes(
        np.concatenate([whole, rows[parts.owners]]),
        np.concatenate([around.lower[whole], parts.lower]),
        np.concatenate([around.upper[whole], parts.upper]),
    )


def _level(grid: SpatialGrid, codes: Offsets, rows: Offsets) -> GridLevel:
    cells, counts = np.unique(codes, return_counts=True)
    x, y, z = (int(cells_along) for cells_along in grid.shape)
    dx, dy, dz = (float(extent) for extent in grid.chunk_size)
    return GridLevel(
        (x, y, z),
        (dx, dy, dz),
        max(1, int(counts.max(initial=0))),
        cells,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows,
    )


# --- coordinate space ---

Triple = tuple[float, float, float]

# Bounds that follow the annotations are rounded to steps, so that an edit rarely moves the grid.
STEP_VX = 256


@dataclass(frozen=True, slots=True)
class CoordinateSpace:
    """The voxel size and the bounds of a dataset, from its volume if it has one.

    Attributes:
        voxel_nm: Voxel size (x, y, z) in nanometres; all 1 if it is unknown.
        known: Whether the voxel size is known.
        lower_vx: Lower bound of the volume.
        upper_vx: Upper bound of the volume; equals the lower bound if there is no volume.
    """

    voxel_nm: Triple = (1.0, 1.0, 1.0)
    known: bool = False
    lower_vx: Triple = (0.0, 0.0, 0.0)
    upper_vx: Triple = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, info: Info | None) -> CoordinateSpace:
        """Return the coordinate space of the finest scale of a volume."""
        if info is None or not info.scales or min(info.scales[0].resolution) <= 0:
            return cls()
        scale = info.scales[0]
        (a, b, c), (x, y, z) = scale.voxel_offset, scale.size
        return cls(scale.resolution, True, (a, b, c), (a + x, b + y, c + z))

    @property
    def dimensions(self) -> dict[str, tuple[float, str]]:
        """The dimensions for `info`; without a unit if the voxel size is unknown."""
        if not self.known:
            return dict.fromkeys("xyz", (1, ""))
        # Divided, not multiplied: the viewer does the same for the volume, and the two must agree.
        return {name: (nm / 1e9, "m") for name, nm in zip("xyz", self.voxel_nm, strict=True)}

    def around(self, lower: Coordinates, upper: Coordinates) -> tuple[Floats, Floats]:
        """Return bounds (x, y, z) that contain the volume and all boxes, each box a row."""
        start, stop = np.array(self.lower_vx, float), np.array(self.upper_vx, float)
        if len(lower):
            low, high = lower.min(axis=0).astype(float), upper.max(axis=0).astype(float)
            start = np.where(low < start, np.floor(low / STEP_VX) * STEP_VX, start)
            stop = np.where(high > stop, np.ceil(high / STEP_VX) * STEP_VX, stop)
        return start, np.maximum(stop, start + 1)


class CoordinateSpaces:
    """The coordinate spaces of all datasets.

    Args:
        infos: The `info` files of the volumes.
    """

    def __init__(self, infos: Infos) -> None:
        self.infos = infos

    def of(self, dataset: Parts) -> CoordinateSpace:
        """Return the coordinate space of a dataset, from its current `info`.

        Raises:
            DamagedError: The `info` is malformed.
        """
        return CoordinateSpace.of(self.infos.of(dataset))
