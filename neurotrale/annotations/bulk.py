"""Many annotations of a file at once: replaced, added or removed, in time linear in their number.

As for single annotations, all others keep every byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neurotrale.annotations.document import Document, Hunk
from neurotrale.errors import MissingError


@dataclass(frozen=True, slots=True)
class Upsert:
    """Annotations that are to be replaced, or added at the end.

    Attributes:
        hunks: The change of the file.
        present: Ids of those that are in the file, in the order of the array.
        added: Ids of the others.
    """

    hunks: Sequence[Hunk]
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
    for id_, number in array.index.ids.items():
        position = file.single(id_)
        if position is None:
            added.append(id_)
            appended.append(array.at(number))
        else:
            present.append(id_)
            replaced.append((position, array.at(number)))
    hunks = []
    for position, annotation in sorted(replaced):
        start, stop = file.index.span(position)
        old = file.content[start:stop]
        if old != annotation:
            hunks.append(Hunk(start, old, annotation))
    if appended:
        hunks.append(file.append(appended))
    return Upsert(hunks, tuple(present), tuple(added))


def remove_all(file: Document, ids: Sequence[str], display_path: str) -> list[Hunk]:
    """Return the change that removes annotations.

    Args:
        file: The file.
        ids: Their ids, each once.
        display_path: Path of the file for errors.

    Raises:
        MissingError: One of them is not in the file.
        ConflictError: One of the ids appears more than once in the file.
    """
    positions = []
    for id_ in ids:
        position = file.single(id_)
        if position is None:
            raise MissingError(f"There is no annotation {id_!r} in {display_path}.")
        positions.append(position)
    return [_removed(file, first, last) for first, last in _runs(sorted(positions))]


def _removed(file: Document, first: int, last: int) -> Hunk:
    """Return the change that removes neighbours, with a comma if any other annotation is left."""
    index = file.index
    start, stop = index.span(first)[0], index.span(last)[1]
    if first > 0:  # with the comma before them
        start = index.span(first - 1)[1]
    elif last + 1 < len(index):  # with the comma after them
        stop = index.span(last + 1)[0]
    return Hunk(start, file.content[start:stop], b"")


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of neighbours."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and position == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs
