"""An annotation file as bytes: find, replace, add and remove single annotations.

Everything here is a pure function of bytes. Annotations that are not changed keep every byte:
the order of keys, unknown keys, the spelling of numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from neurotrale.annotations.documents.index import MOST_POSITIONS, Index, id_of
from neurotrale.annotations.documents.pieces import SPACE
from neurotrale.errors import ConflictError
from neurotrale.storage.ranges import LargeBytes

_BLOCK_BYTES = 4096
_NAMED_POSITIONS = 20


class StaleIndexError(Exception):
    """An index says that there is an annotation where the content has none."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """A contiguous change: at byte ``at`` of the old content, ``old`` is replaced by ``new``."""

    at: int
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """The content of an annotation file with its index.

    Attributes:
        source: The content: in memory, or in an open file of which only the annotations are read
            that somebody asks for.
        index: Its index.
    """

    source: bytes | LargeBytes
    index: Index
    _ids: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, content: bytes) -> Document:
        """Index a file's content.

        Raises:
            NotAnArrayError: The content is not a JSON array.
        """
        return cls(content, Index.of(content))

    @property
    def content(self) -> bytes:
        """The whole content."""
        return self.source if isinstance(self.source, bytes) else self.source.whole

    @property
    def ids(self) -> Mapping[str, int]:
        """Position of each id, in the file's order (the first one, if the id appears twice).

        Takes some 200 bytes an annotation, and reads the whole content: `find` and `position` are
        cheaper for single ids.
        """
        kept = self.index.positions if len(self.index) <= MOST_POSITIONS else self._ids
        if not kept:
            found: dict[str, int] = {}
            for position, item in enumerate(self.items()):
                id_ = id_of(item)
                if id_ is not None:
                    found.setdefault(id_, position)
            kept.update(found)  # at once, for other threads
        return kept

    @property
    def repeated(self) -> dict[str, list[int]]:
        """Ids that appear more than once, with all their positions."""
        positions: dict[str, list[int]] = {}
        for position in self.index.alike():
            id_ = id_of(self.at(position))
            if id_ is not None:
                positions.setdefault(id_, []).append(position)
        return {id_: found for id_, found in positions.items() if len(found) > 1}

    def positions(self, id_: str) -> Iterator[int]:
        """Iterate over the positions of the annotations with this id, in order.

        Raises:
            StaleIndexError: The index is not that of the content.
        """
        for position in self.index.candidates(id_):
            self._check_span(position)
            if id_of(self.at(position)) == id_:
                yield position

    def position(self, id_: str) -> int | None:
        """Return the position of the (first) annotation with this id; None if there is none."""
        return next(self.positions(id_), None)

    def is_repeated(self, id_: str) -> bool:
        """Return whether an id appears more than once."""
        return len(list(islice(self.positions(id_), 2))) > 1

    def find(self, id_: str) -> bytes | None:
        """Return the bytes of the (first) annotation with this id; None if there is none."""
        position = self.position(id_)
        return None if position is None else self.at(position)

    def at(self, position: int) -> bytes:
        """Return the bytes of the annotation at a position."""
        start, stop = self.index.span(position)
        return self.source[start:stop]

    def items(self) -> Iterator[bytes]:
        """Iterate over the bytes of all annotations, in order."""
        content = self.content
        for start, stop in self.index.spans():
            yield content[start:stop]

    def upsert(self, id_: str, annotation: bytes) -> tuple[Hunk, Index]:
        """Replace an annotation, or add it at the end.

        Returns:
            The change, and the index of the new content.

        Raises:
            ConflictError: The id appears more than once in the file.
        """
        position = self.single(id_)
        if position is None:
            hunk = self.append([annotation])
            stop = hunk.at + len(hunk.new)
            return hunk, self.index.with_appended(id_of(annotation), stop - len(annotation), stop)
        start, stop = self.index.span(position)
        growth = len(annotation) - (stop - start)
        after = self.index.with_replaced(position, growth, old=id_, new=id_of(annotation))
        return Hunk(start, self.source[start:stop], annotation), after

    def remove(self, id_: str) -> tuple[Hunk, Index]:
        """Remove an annotation that is in the file.

        Returns:
            The change, and the index of the new content.

        Raises:
            ConflictError: The id appears more than once in the file.
        """
        index = self.index
        position = self.single(id_)
        if position is None:
            raise KeyError(id_)
        start, stop = index.span(position)
        text = self.source[start:stop]
        if position > 0:  # with the comma before it
            start = int(index.stops[position - 1])
        elif len(index) > 1:  # with the comma after it
            stop = int(index.starts[1])
        old = self.source[start:stop]
        if old.replace(text, b"", 1).strip(SPACE) != (b"," if len(index) > 1 else b""):
            raise StaleIndexError(f"the index is wrong about the neighbours of [{position}]")
        return Hunk(start, old, b""), index.without(position, start - stop)

    def without(self, ids: Collection[str]) -> bytes:
        """Return the content without some annotations that are in it.

        Raises:
            ConflictError: An id appears more than once in the file.
        """
        if not ids:
            return self.content
        index, content = self.index, self.content
        removed = {self.single(id_) for id_ in ids}
        remaining = [position for position in range(len(index)) if position not in removed]
        pieces = [content[: int(index.starts[0])]]
        for number, position in enumerate(remaining):
            start, stop = index.span(position)
            if number > 0:  # with the comma before it
                start = int(index.stops[position - 1])
            pieces.append(content[start:stop])
        pieces.append(content[int(index.stops[-1]) :])
        return b"".join(pieces)

    def without_id(self) -> list[bytes]:
        """Return the annotations whose id is missing or not a string, written by other programs."""
        return [self.at(position) for position in self.index.without_id()]

    def append(self, annotations: Sequence[bytes]) -> Hunk:
        """Return the change that adds annotations at the end, with the file's own spacing."""
        separator = self._separator()
        if not len(self.index):
            at = self.content.index(b"[") + 1
            return Hunk(at, b"", (b"," + separator).join(annotations))
        self._check_span(len(self.index) - 1)
        at = int(self.index.stops[-1])
        return Hunk(at, b"", b"".join(b"," + separator + annotation for annotation in annotations))

    def _separator(self) -> bytes:
        """Return the white space before the file's last annotation."""
        if not len(self.index):
            return b""
        return self._space_before(int(self.index.starts[-1]))

    def _space_before(self, stop: int) -> bytes:
        start = stop
        while start > 0:
            block = self.source[max(0, start - _BLOCK_BYTES) : start]
            left = len(block.rstrip(SPACE))
            start -= len(block) - left
            if left:
                break
        return self.source[start:stop]

    def _check_span(self, position: int) -> None:
        """Check that an annotation is between a bracket or comma and another one."""
        start, stop = self.index.span(position)
        at = start - len(self._space_before(start))
        before = self.source[max(at - 1, 0) : at]
        after = b""
        while not after and stop < len(self.source):
            block = self.source[stop : stop + _BLOCK_BYTES]
            after = block.lstrip(SPACE)[:1]
            stop += len(block)
        if before not in (b"[", b",") or after not in (
            b"]",
            b",",
        ):
            raise StaleIndexError(f"the index is wrong about annotation [{position}]")

    def single(self, id_: str) -> int | None:
        """Return the position of the annotation with this id; None if there is none.

        Raises:
            ConflictError: The id appears more than once in the file.
        """
        position = self.position(id_)
        if position is None or not self.is_repeated(id_):
            return position
        found = list(self.positions(id_))
        where = ", ".join(f"[{one}]" for one in found[:_NAMED_POSITIONS])
        more = ", ..." if len(found) > _NAMED_POSITIONS else ""
        raise ConflictError(
            f"The id {id_!r} appears {len(found)} times in the file, at {where}{more}, so it is"
            " unclear which one is meant. Write the whole file with PUT, each id once."
        )
