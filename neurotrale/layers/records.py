"""Annotations in the binary encoding of the format: one after the other, in units of four bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurotrale.layers.geometry import Offsets, Shapes
from neurotrale.layers.ids import Numbers
from neurotrale.layers.kinds import Kind
from neurotrale.layers.properties import WORDS, Words


@dataclass(frozen=True, slots=True)
class Records:
    """Encoded annotations, ordered by number.

    A number is a hash, so the order is as good as random, which is what a viewer wants that shows
    only the first part of what it got.

    Attributes:
        numbers: 64-bit numbers of the annotations, ascending, shape (n,).
        starts: First word of each record, and the end, shape (n + 1,).
        words: The records.
    """

    numbers: Numbers
    starts: Offsets
    words: NDArray[np.uint32]

    def row(self, number: int) -> int | None:
        """Find an annotation by its number."""
        row = int(np.searchsorted(self.numbers, np.uint64(number)))
        found = row < len(self.numbers) and int(self.numbers[row]) == number
        return row if found else None

    def one(self, row: int) -> bytes:
        """Encode an annotation as the index by id has it; it has no relationships."""
        return self.words[self.starts[row] : self.starts[row + 1]].tobytes()

    def several(self, rows: Offsets) -> bytes:
        """Encode a list of annotations as the spatial index has it."""
        count = np.array([len(rows)], "<u8").tobytes()
        view = self.words.data.cast("B")
        starts, stops = (self.starts[rows] * 4).tolist(), (self.starts[rows + 1] * 4).tolist()
        bodies = [view[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return b"".join([count, *bodies, self.numbers[rows].astype("<u8").tobytes()])


def encode(kind: Kind, shapes: Shapes, numbers: Numbers, properties: Words) -> Records:
    """Encode annotations that are ordered by number.

    Args:
        kind: Their kind.
        shapes: Their geometry.
        numbers: Ascending, shape (n,).
        properties: Shape (n, `WORDS`).
    """
    counted = 1 if kind is Kind.POLYLINES else 0
    lengths = np.diff(shapes.offsets)
    starts = np.concatenate([[0], np.cumsum(counted + 3 * lengths + WORDS)]).astype(np.int64)
    words = np.empty(int(starts[-1]), "<u4")
    if counted:
        words[starts[:-1]] = lengths
    # Where each coordinate goes: those of a record stand together, behind the count.
    shift = starts[:-1] + counted - 3 * shapes.offsets[:-1]
    at = np.arange(3 * len(shapes.coordinates)) + np.repeat(shift, 3 * lengths)
    words[at] = shapes.coordinates.astype("<f4").reshape(-1).view("<u4")
    words[(starts[1:] - WORDS)[:, None] + np.arange(WORDS)] = properties
    return Records(numbers, starts, words)
