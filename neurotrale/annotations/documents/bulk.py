"""Many annotations of a file at once: replaced, added or removed, in time linear in their number.

As for single annotations, all others keep every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurotrale.annotations.documents.document import Document, Hunk
from neurotrale.annotations.documents.index import Index
from neurotrale.errors import MissingError
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")


MANY = 1000


@dataclass(frozen=True, slots=True)
class Upsert:
    """Annotations that are to be replaced, or added at the end.

    Attributes:
        hunks: The change of the file.
        index: Index of the new content.
        present: Ids of those that are in the file, in the order of the array.
        added: Ids of the others.
    """

    hunks: Sequence[Hunk]
    index: Index
    present: tuple[str, ...]
    added: tuple[str, ...]


def upsert_all(file: Document, array: Document) -> Upsert:
    """Return the change that puts all annotations of an array into a file.

    Args:
        file: The file.
        array: The annotations, each with an id that no other one of them has.

    Raises:
        ConflictError: One of the ids appears more than once in the file.
    """
    present: list[str] = []
    added: list[str] = []
    replaced: list[tuple[int, bytes]] = []
    appended: list[bytes] = []
    find = _finder(file, len(array.index))
    for id_, number in array.ids.items():
        position = find(id_)
        if position is None:
            added.append(id_)
            appended.append(array.at(number))
        else:
            present.append(id_)
            replaced.append((position, array.at(number)))
    hunks = []
    growth = np.zeros(len(file.index), np.int64)
    for position, annotation in sorted(replaced):
        start, stop = file.index.span(position)
        old = file.source[start:stop]
        growth[position] = len(annotation) - len(old)
        if old != annotation:
            hunks.append(Hunk(start, old, annotation))
    index = file.index.with_many_replaced(growth)
    if appended:
        hunk = file.append(appended)
        hunks.append(hunk)
        sizes = np.fromiter(map(len, appended), np.int64, len(appended))
        # Before each is a comma with white space, except before the first one of a file.
        is_first = not len(file.index)
        gap = (len(hunk.new) - int(sizes.sum())) // (len(appended) - is_first or 1)
        at = hunk.at + int(growth.sum()) - (gap if is_first else 0)
        stops = at + (sizes + gap).cumsum()
        index = index.with_many_appended(added, stops - sizes, stops)
    return Upsert(hunks, index, tuple(present), tuple(added))


def remove_all(file: Document, ids: Sequence[str], display_path: str) -> tuple[list[Hunk], Index]:
    """Remove annotations that are in a file.

    Args:
        file: The file.
        ids: Their ids, each once.
        display_path: Path of the file for errors.

    Returns:
        The change, and the index of the new content.

    Raises:
        MissingError: One of them is not in the file.
        ConflictError: One of the ids appears more than once in the file.
    """
    positions = []
    find = _finder(file, len(ids))
    for id_ in ids:
        position = find(id_)
        if position is None:
            raise MissingError(f"There is no annotation {id_!r} in {display_path}.")
        positions.append(position)
    index = file.index
    is_left = np.ones(len(index), bool)
    is_left[positions] = False
    growth = np.zeros(len(index) + 1, np.int64)
    hunks = []
    for first, last in _runs(sorted(positions)):
        hunks.append(_removed(file, first, last))
        growth[last + 1] -= len(hunks[-1].old)
    return hunks, index.without_many(is_left, growth[:-1].cumsum())


def _finder(file: Document, count: int) -> Callable[[str], int | None]:
    """Return what finds positions as `Document.single` does; for many, all ids are read at once."""
    if count < MANY:
        return file.single
    positions, repeated = file.ids, file.repeated
    return lambda id_: file.single(id_) if id_ in repeated else positions.get(id_)


def _removed(file: Document, first: int, last: int) -> Hunk:
    """Return the change that removes neighbours, with a comma if any other annotation is left."""
    index = file.index
    start, stop = index.span(first)[0], index.span(last)[1]
    if first > 0:  # with the comma before them
        start = index.span(first - 1)[1]
    elif last + 1 < len(index):  # with the comma after them
        stop = index.span(last + 1)[0]
    return Hunk(start, file.source[start:stop], b"")


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of neighbours."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and position == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs
