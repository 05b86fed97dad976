"""A Precomputed annotation source: its `info`, its spatial index and its index by id.

Source of the format: Neuroglancer, "Annotation collection representation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from neurotrale.late import LazyModule
from neurotrale.layers.geometry import GeometryKind, Offsets, Shapes
from neurotrale.layers.properties import (
    WORDS,
    Json,
    Numbers,
    Words,
    assign_ids,
    properties_of,
)
from neurotrale.layers.spatial_index import (
    Boxes,
    CoordinateSpace,
    GridLevel,
    SpatialGrid,
    build_levels,
)
from neurotrale.layers.tables import Table, concatenate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")


@dataclass(frozen=True, slots=True)
class Records:
    """Encoded annotations, ordered by number.

    A number is a hash, so the order is as good as random. That suits viewers, which may show only
    the first annotations that they got.

    Attributes:
        numbers: 64-bit numbers of the annotations, ascending, shape (n,).
        starts: First word of each record, and the end, shape (n + 1,).
        words: The encoded records.
    """

    numbers: Numbers
    starts: Offsets
    words: NDArray[np.uint32]

    def row(self, number: int) -> int | None:
        """Return the row of the annotation with a number; None if there is none."""
        row = int(np.searchsorted(self.numbers, np.uint64(number)))
        exists = row < len(self.numbers) and int(self.numbers[row]) == number
        return row if exists else None

    def encode_one(self, row: int) -> bytes:
        """Encode an annotation for the index by id; it has no relationships."""
        return self.words[self.starts[row] : self.starts[row + 1]].tobytes()

    def encode_many(self, rows: Offsets) -> bytes:
        """Encode a list of annotations for the spatial index."""
        count = np.array([len(rows)], "<u8").tobytes()
        view = self.words.data.cast("B")
        starts, stops = (self.starts[rows] * 4).tolist(), (self.starts[rows + 1] * 4).tolist()
        bodies = [view[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return b"".join([count, *bodies, self.numbers[rows].astype("<u8").tobytes()])


def encode_records(
    kind: GeometryKind, shapes: Shapes, numbers: Numbers, properties: Words
) -> Records:
    """Encode annotations that are ordered by number.

    Args:
        kind: Kind of the annotations.
        shapes: Their geometry.
        numbers: Their numbers, ascending, shape (n,).
        properties: Their encoded properties, shape (n, `WORDS`).
    """
    counted = 1 if kind is GeometryKind.POLYLINES else 0
    lengths = np.diff(shapes.offsets)
    starts = np.concatenate([[0], np.cumsum(counted + 3 * lengths + WORDS)]).astype(np.int64)
    words = np.empty(int(starts[-1]), "<u4")
    if counted:
        words[starts[:-1]] = lengths
    # Whatever is neither a count nor a property is a coordinate: those of all records in a row.
    are_coordinates = np.ones(len(words), bool)
    if counted:
        are_coordinates[starts[:-1]] = False
    placed = (starts[1:] - WORDS)[:, None] + np.arange(WORDS)
    are_coordinates[placed] = False
    words[are_coordinates] = shapes.coordinates.astype("<f4", copy=False).reshape(-1).view("<u4")
    words[placed] = properties
    return Records(numbers, starts, words)


# A cell should hold about a megabyte, but enough annotations to be worth a request, and no more
# than a viewer draws well.
CELL_BYTES = 2**20
MIN_PER_CELL, MAX_PER_CELL = 250, 4000


@dataclass(frozen=True, slots=True)
class LayerSource:
    """The annotations of one kind in a file or a dataset, ready to send.

    Attributes:
        info: Content of the `info` file.
        levels: The spatial index, from coarse to fine.
        records: The encoded annotations.
        ids: The annotations' own ids, in the order of the records.
        files: Paths of the files that they come from, relative to the data root.
        file_of: Index in ``files`` for each record, shape (n,).
    """

    info: bytes
    levels: Sequence[GridLevel]
    records: Records
    ids: Sequence[str]
    files: Sequence[str]
    file_of: Offsets

    @property
    def size_bytes(self) -> int:
        """Approximate size in memory."""
        cells = sum(level.codes.nbytes * 2 + level.rows.nbytes for level in self.levels)
        return 4000 + len(self.info) + self.records.words.nbytes + 100 * len(self.ids) + cells

    def cell(self, level: int, index: tuple[int, int, int]) -> bytes | None:
        """Return the encoded annotations of a cell; None outside the grid."""
        if level >= len(self.levels):
            return None
        rows = self.levels[level].cell(*index)
        return None if rows is None else self.records.encode_many(rows)

    def annotation(self, number: int) -> bytes | None:
        """Return the encoded annotation with a number; None if there is none."""
        row = self.records.row(number) if number < 2**64 else None
        return None if row is None else self.records.encode_one(row)

    def origin(self, number: int) -> tuple[str, str] | None:
        """Return the file and the id of the annotation with a number; None if there is none."""
        row = self.records.row(number) if number < 2**64 else None
        if row is None:
            return None
        return self.files[int(self.file_of[row])], self.ids[row]


def build_source(
    kind: GeometryKind, tables: Sequence[Table], space: CoordinateSpace
) -> LayerSource:
    """Build the source of one kind from the tables of the files that it covers."""
    parts = [(table, table.parts[kind]) for table in tables if kind in table.parts]
    whole = concatenate([part for _, part in parts])
    shapes, columns = whole.shapes, whole.columns
    numbers = assign_ids(
        columns.ids,
        lambda: [
            f"{table.display_path}#{index}"
            for table, part in parts
            for index in part.shapes.indices
        ],
    )
    order = np.argsort(numbers)
    described, words = properties_of(columns, numbers)
    files = np.repeat(np.arange(len(parts)), [len(part.shapes) for _, part in parts])
    sorted_shapes = shapes.take(order)
    records = encode_records(kind, sorted_shapes, numbers[order], words[order])
    around = Boxes.around(kind, sorted_shapes)
    lower, upper = space.around(around.lower, around.upper)
    grid = SpatialGrid(lower, upper, np.ones(3, np.int64))
    mean_bytes = records.words.nbytes / max(1, len(order)) + 8
    limit = int(np.clip(CELL_BYTES / mean_bytes, MIN_PER_CELL, MAX_PER_CELL))
    levels = build_levels(kind, sorted_shapes, around, grid, np.array(space.voxel_nm), limit)
    info = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": space.dimensions,
        "lower_bound": lower.tolist(),
        "upper_bound": upper.tolist(),
        "annotation_type": kind.annotation_type,
        "properties": described,
        "relationships": [],
        "by_id": {"key": "by_id"},
        "spatial": [_described(depth, level) for depth, level in enumerate(levels)],
    }
    return LayerSource(
        msgspec.json.encode(info),
        levels,
        records,
        list(map(columns.ids.__getitem__, order.tolist())),
        [table.display_path for table, _ in parts],
        files[order],
    )


def _described(depth: int, level: GridLevel) -> Json:
    return {
        "key": f"spatial{depth}",
        "grid_shape": level.grid,
        "chunk_size": level.chunk_size,
        "limit": level.limit,
    }
