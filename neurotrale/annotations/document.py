"""An annotation file as bytes: find, replace, add and remove single annotations.

Everything here is a pure function of bytes. Annotations that are not changed keep every byte:
the order of keys, unknown keys, the spelling of numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from neurotrale.annotations.pieces import (
    MALFORMED,
    SPACE,
    NotAnArrayError,
    split_in_pieces,
)
from neurotrale.errors import ConflictError
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

_string = msgspec.json.Decoder(str)

Offsets: TypeAlias = "NDArray[np.int64]"


class _HasId(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw(b"null")


_id_of = msgspec.json.Decoder(_HasId)


@dataclass(frozen=True, slots=True)
class Hunk:
    """A contiguous change: at byte ``at`` of the old content, ``old`` is replaced by ``new``."""

    at: int
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class Index:
    """Offsets of all annotations in a file, without the file's content.

    Attributes:
        starts: Offset of the first byte of each annotation, in the file's order.
        stops: Offset after the last byte of each annotation.
        ids: Position of each id in that order (the first one, if the id appears twice).
        repeated: Ids that appear more than once, with all their positions.
    """

    starts: Offsets
    stops: Offsets
    ids: dict[str, int]
    repeated: dict[str, list[int]]

    @classmethod
    def of(cls, content: bytes) -> Index:
        """Index a file's content.

        Raises:
            NotAnArrayError: The content is not a JSON array.
        """
        if not content or content.isspace():
            raise NotAnArrayError("expected a JSON array of annotations, found an empty file")
        ids: dict[str, int] = {}
        repeated: dict[str, list[int]] = {}
        starts, stops = array("q"), array("q")
        at, between = 0, SPACE + b","
        for items in split_in_pieces(content):
            at = at or content.index(b"[") + 1
            for item in items:
                position, id_ = len(starts), id_of(item)
                if id_ is not None and ids.setdefault(id_, position) != position:
                    repeated.setdefault(id_, [ids[id_]]).append(position)
                while content[at] in between:
                    at += 1
                starts.append(at)
                at += len(memoryview(item))
                stops.append(at)
        return cls(np.array(starts, np.int64), np.array(stops, np.int64), ids, repeated)

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, position: int) -> tuple[int, int]:
        """Return the start and stop offsets of an annotation."""
        return int(self.starts[position]), int(self.stops[position])


@dataclass(frozen=True, slots=True)
class Document:
    """The content of an annotation file with its index."""

    content: bytes
    index: Index

    @classmethod
    def parse(cls, content: bytes) -> Document:
        """Index a file's content.

        Raises:
            NotAnArrayError: The content is not a JSON array.
        """
        return cls(content, Index.of(content))

    def find(self, id_: str) -> bytes | None:
        """Return the bytes of the (first) annotation with this id; None if there is none."""
        position = self.index.ids.get(id_)
        return None if position is None else self.at(position)

    def single(self, id_: str) -> int | None:
        """Return the position of the annotation with this id; None if there is none.

        Raises:
            ConflictError: The id appears more than once in the file.
        """
        self._check_single(id_)
        return self.index.ids.get(id_)

    def at(self, position: int) -> bytes:
        """Return the bytes of the annotation at a position."""
        start, stop = self.index.span(position)
        return self.content[start:stop]

    def items(self) -> Iterator[bytes]:
        """Iterate over the bytes of all annotations, in order."""
        return map(self.at, range(len(self.index)))

    def upsert(self, id_: str, annotation: bytes) -> tuple[Hunk, Index]:
        """Replace an annotation, or add it at the end.

        Returns:
            The change, and the index of the new content.

        Raises:
            ConflictError: The id appears more than once in the file.
        """
        self._check_single(id_)
        index = self.index
        position = index.ids.get(id_)
        if position is None:
            return self._append(id_, annotation)
        start, stop = index.span(position)
        growth = len(annotation) - (stop - start)
        after = Index(
            _shifted(index.starts, position + 1, growth),
            _shifted(index.stops, position, growth),
            index.ids,
            index.repeated,
        )
        return Hunk(start, self.content[start:stop], annotation), after

    def remove(self, id_: str) -> tuple[Hunk, Index]:
        """Remove an annotation that is in the file.

        Returns:
            The change, and the index of the new content.

        Raises:
            ConflictError: The id appears more than once in the file.
        """
        self._check_single(id_)
        index = self.index
        position = index.ids[id_]
        start, stop = index.span(position)
        if position > 0:  # with the comma before it
            start = int(index.stops[position - 1])
        elif len(index) > 1:  # with the comma after it
            stop = int(index.starts[1])
        starts, stops = np.delete(index.starts, position), np.delete(index.stops, position)
        ids = {key: at - (at > position) for key, at in index.ids.items() if key != id_}
        repeated = {
            key: [at - (at > position) for at in ats] for key, ats in index.repeated.items()
        }
        after = Index(
            _shifted(starts, position, start - stop),
            _shifted(stops, position, start - stop),
            ids,
            repeated,
        )
        return Hunk(start, self.content[start:stop], b""), after

    def without(self, ids: Collection[str]) -> bytes:
        """Return the content without some annotations that are in it.

        Raises:
            ConflictError: An id appears more than once in the file.
        """
        if not ids:
            return self.content
        for id_ in ids:
            self._check_single(id_)
        index = self.index
        removed = {index.ids[id_] for id_ in ids}
        remaining = [position for position in range(len(index)) if position not in removed]
        pieces = [self.content[: int(index.starts[0])]]
        for number, position in enumerate(remaining):
            start, stop = index.span(position)
            if number > 0:  # with the comma before it
                start = int(index.stops[position - 1])
            pieces.append(self.content[start:stop])
        pieces.append(self.content[int(index.stops[-1]) :])
        return b"".join(pieces)

    def without_id(self) -> list[bytes]:
        """Return the annotations whose id is missing or not a string, written by other programs."""
        index = self.index
        if len(index) == len(index.ids):
            return []
        with_id = {*index.ids.values(), *chain.from_iterable(index.repeated.values())}
        return [self.at(position) for position in range(len(index)) if position not in with_id]

    def append(self, annotations: Sequence[bytes]) -> Hunk:
        """Return the change that adds annotations at the end, with the file's own spacing."""
        separator = self._separator()
        if not len(self.index):
            at = self.content.index(b"[") + 1
            return Hunk(at, b"", (b"," + separator).join(annotations))
        at = int(self.index.stops[-1])
        return Hunk(at, b"", b"".join(b"," + separator + annotation for annotation in annotations))

    def _append(self, id_: str, annotation: bytes) -> tuple[Hunk, Index]:
        hunk = self.append([annotation])
        index = self.index
        start = hunk.at + len(hunk.new) - len(annotation)
        after = Index(
            np.append(index.starts, start),
            np.append(index.stops, start + len(annotation)),
            {**index.ids, id_: len(index)},
            index.repeated,
        )
        return hunk, after

    def _separator(self) -> bytes:
        """Return the white space before the file's last annotation."""
        if not len(self.index):
            return b""
        stop = start = int(self.index.starts[-1])
        while self.content[start - 1] in SPACE:
            start -= 1
        return self.content[start:stop]

    def _check_single(self, id_: str) -> None:
        positions = self.index.repeated.get(id_)
        if positions is not None:
            where = ", ".join(f"[{position}]" for position in positions)
            raise ConflictError(
                f"The id {id_!r} appears {len(positions)} times in the file, at {where}, so it is"
                " unclear which one is meant. Write the whole file with PUT, each id once."
            )


def id_of(annotation: bytes | msgspec.Raw) -> str | None:
    """Return the id of an annotation; None if it is missing or not a string."""
    try:
        return _string.decode(_id_of.decode(annotation).id)
    except MALFORMED:
        return None


def _shifted(offsets: Offsets, first: int, by: int) -> Offsets:
    shifted = offsets.copy()
    shifted[first:] += by
    return shifted
