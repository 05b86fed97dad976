"""One Precomputed annotation source: its `info`, the cells of its spatial index, its index by id.

Source of the format: Neuroglancer, "Annotation collection representation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from neurotrale.layers.geometry import Offsets, Shapes
from neurotrale.layers.ids import numbers_of
from neurotrale.layers.kinds import Kind
from neurotrale.layers.properties import Json, properties_of
from neurotrale.layers.records import Records, encode
from neurotrale.layers.space import Space
from neurotrale.layers.spatial import Boxes, Grid, Level, levels_of
from neurotrale.layers.tables import Table, joined

# What a viewer is to load for a cell: about a megabyte, but not too few annotations to see, nor
# more than it draws well.
CELL_BYTES = 2**20
FEWEST, MOST = 250, 4000


@dataclass(frozen=True, slots=True)
class Source:
    """The annotations of one kind in a file or a data set, ready to be sent.

    Attributes:
        info: The `info` file.
        levels: The spatial index, from coarse to fine.
        records: The annotations.
        ids: The annotations' own ids, in the order of the records.
        files: The files they come from, relative to the data root.
        file_of: The file of each record, as place in ``files``, shape (n,).
    """

    info: bytes
    levels: Sequence[Level]
    records: Records
    ids: Sequence[str]
    files: Sequence[str]
    file_of: Offsets

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes in memory."""
        cells = sum(level.codes.nbytes * 2 + level.rows.nbytes for level in self.levels)
        return 4000 + len(self.info) + self.records.words.nbytes + 100 * len(self.ids) + cells

    def cell(self, level: int, at: tuple[int, int, int]) -> bytes | None:
        """Give the annotations of a cell, encoded; None outside the grids."""
        if level >= len(self.levels):
            return None
        rows = self.levels[level].cell(*at)
        return None if rows is None else self.records.several(rows)

    def annotation(self, number: int) -> bytes | None:
        """Give the annotation of a number, encoded; None when there is none."""
        row = self.records.row(number) if number < 2**64 else None
        return None if row is None else self.records.one(row)

    def origin(self, number: int) -> tuple[str, str] | None:
        """Give the file that the annotation of a number stands in, and its id there."""
        row = self.records.row(number) if number < 2**64 else None
        if row is None:
            return None
        return self.files[int(self.file_of[row])], self.ids[row]


def source_of(kind: Kind, tables: Sequence[Table], space: Space) -> Source:
    """Make the source of one kind from the tables of the files that it covers."""
    parts = [(table, table.parts[kind]) for table in tables if kind in table.parts]
    every = joined([part for _, part in parts])
    shapes, columns = every.shapes, every.columns
    wheres = [f"{table.what}#{place}" for table, part in parts for place in part.shapes.places]
    numbers = numbers_of(columns.ids, wheres)
    order = np.argsort(numbers)
    described, words = properties_of(columns, numbers)
    files = np.repeat(np.arange(len(parts)), [len(part.shapes) for _, part in parts])
    sorted_shapes = _reordered(shapes, order)
    records = encode(kind, sorted_shapes, numbers[order], words[order])
    boxes = Boxes.of(kind, sorted_shapes)
    lower, upper = space.around(boxes.lower, boxes.upper)
    grid = Grid(lower, upper, np.ones(3, np.int64))
    mean_bytes = records.words.nbytes / max(1, len(order)) + 8
    limit = int(np.clip(CELL_BYTES / mean_bytes, FEWEST, MOST))
    levels = levels_of(boxes, len(order), grid, np.array(space.voxel_nm), limit)
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
    return Source(
        msgspec.json.encode(info),
        levels,
        records,
        [columns.ids[row] for row in order.tolist()],
        [table.what for table, _ in parts],
        files[order],
    )


def _described(depth: int, level: Level) -> Json:
    return {
        "key": f"spatial{depth}",
        "grid_shape": level.grid,
        "chunk_size": level.chunk_size,
        "limit": level.limit,
    }


def _reordered(shapes: Shapes, order: Offsets) -> Shapes:
    lengths = np.diff(shapes.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shift = np.repeat(shapes.offsets[:-1][order] - offsets[:-1], lengths)
    points = np.arange(offsets[-1]) + shift
    return Shapes(shapes.places[order], offsets, shapes.coordinates[points])
