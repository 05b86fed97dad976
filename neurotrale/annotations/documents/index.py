"""Where the annotations of a file are: their offsets, and their positions by id.

An index takes 16 bytes an annotation (24 in files of two gigabytes and more), and can be stored: it
consists of three arrays of numbers. Ids are in it as hashes, with a key that only the index knows,
so that nobody can make up ids that are hard to tell apart. Whoever finds a position by a hash
checks the id at that position: see `neurotrale.annotations.documents.document.Document`.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from neurotrale.annotations.documents.pieces import (
    MALFORMED,
    SPACE,
    NotAnArrayError,
    split_in_pieces,
)
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

Offsets: TypeAlias = "NDArray[np.signedinteger[Any]]"

KEY_BYTES = 16
MOST_POSITIONS = 20_000
MAX_INT32 = 2**31 - 1

_LOW = 2**32 - 1
_HASH_BYTES = 4
_POSITION_BYTES = 200  # of an id in a dictionary
_BLOCK = 2**16

_string = msgspec.json.Decoder(str)


class _HasId(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw(b"null")


_id_of = msgspec.json.Decoder(_HasId)


def id_of(annotation: bytes | msgspec.Raw) -> str | None:
    """Return the id of an annotation; None if it is missing or not a string."""
    try:
        return _string.decode(_id_of.decode(annotation).id)
    except MALFORMED:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Offsets of all annotations in a file, without the file's content.

    Attributes:
        starts: Offset of the first byte of each annotation, in the file's order.
        stops: Offset after the last byte of each annotation.
        hashed: For each annotation with an id, the hash of its id in the upper 32 bits and its
            position in the lower 32, sorted.
        key: Key of the hashes, 16 bytes.
        positions: Position of each id (the first one), of small files only: saves ask for all of
            them. Empty if nobody has asked yet.
    """

    starts: Offsets
    stops: Offsets
    hashed: NDArray[np.uint64]
    key: bytes = field(repr=False)
    positions: dict[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, content: bytes) -> Index:
        """Index a file's content.

        Raises:
            NotAnArrayError: The content is not a JSON array.
        """
        if not content or content.isspace():
            raise NotAnArrayError("expected a JSON array of annotations, found an empty file")
        key = secrets.token_bytes(KEY_BYTES)
        empty = blake2s(key=key, digest_size=_HASH_BYTES)
        kind = "i" if len(content) <= MAX_INT32 else "q"
        starts, stops, hashed = array(kind), array(kind), array("Q")
        positions: dict[str, int] = {}
        at, between = 0, SPACE + b","
        for items in split_in_pieces(content):
            at = at or content.index(b"[") + 1
            for item in items:
                id_ = id_of(item)
                if id_ is not None:
                    hash_ = empty.copy()
                    hash_.update(id_.encode())
                    hashed.append(int.from_bytes(hash_.digest()) << 32 | len(starts))
                    if len(starts) < MOST_POSITIONS:
                        positions.setdefault(id_, len(starts))
                while content[at] in between:
                    at += 1
                starts.append(at)
                at += len(memoryview(item))
                stops.append(at)
        in_order = np.asarray(hashed)
        in_order.sort()
        if len(starts) > MOST_POSITIONS:
            positions = {}
        return cls(np.asarray(starts), np.asarray(stops), in_order, key, positions)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        arrays = self.starts.nbytes + self.stops.nbytes + self.hashed.nbytes
        return int(arrays) + _POSITION_BYTES * len(self.positions)

    def span(self, position: int) -> tuple[int, int]:
        """Return the start and stop offsets of an annotation."""
        return int(self.starts[position]), int(self.stops[position])

    def spans(self) -> Iterator[tuple[int, int]]:
        """Iterate over the start and stop offsets of all annotations, in order."""
        for first in range(0, len(self), _BLOCK):
            part = slice(first, first + _BLOCK)
            yield from zip(self.starts[part].tolist(), self.stops[part].tolist(), strict=True)

    def candidates(self, id_: str) -> list[int]:
        """Return the positions of all annotations with this id, in order.

        There may be positions of others among them, with an id of the same hash.
        """
        first = self.hash_of(id_) << 32
        start = np.searchsorted(self.hashed, np.uint64(first), "left")
        stop = np.searchsorted(self.hashed, np.uint64(first | _LOW), "right")
        return _numbers(self.hashed[start:stop] & np.uint64(_LOW))

    def alike(self) -> list[int]:
        """Return the positions of all annotations whose hash is not the only one of its kind.

        Annotations with the same id are among them.
        """
        hashes = self.hashed >> np.uint64(32)
        is_next = hashes[1:] == hashes[:-1]
        is_alike = np.zeros(len(hashes), bool)
        is_alike[1:] |= is_next
        is_alike[:-1] |= is_next
        return _numbers(np.sort(self.hashed[is_alike] & np.uint64(_LOW)))

    def without_id(self) -> list[int]:
        """Return the positions of annotations whose id is missing or not a string."""
        if len(self.hashed) == len(self):
            return []
        has_none = np.ones(len(self), bool)
        has_none[self.hashed & np.uint64(_LOW)] = False
        return _numbers(np.flatnonzero(has_none))

    def is_possible(self, size: int) -> bool:
        """Return whether this may be the index of a content of a size in bytes."""
        if not len(self):
            return not len(self.hashed)
        starts, stops = self.starts, self.stops
        positions = self.hashed & np.uint64(_LOW)
        return bool(
            (starts[0] > 0 and stops[-1] < size and (starts < stops).all())
            and (stops[:-1] < starts[1:]).all()
            and (self.hashed[:-1] < self.hashed[1:]).all()
            and (positions < len(self)).all()
        )

    def with_replaced(
        self, position: int, growth: int, *, old: str | None, new: str | None
    ) -> Index:
        """Return the index after an annotation was replaced by one of so many bytes more.

        Args:
            position: Position of the annotation.
            growth: The bytes that it has more, or less if negative.
            old: Its id before.
            new: Its id now.
        """
        starts = _shifted(self.starts, position + 1, growth)
        stops = _shifted(self.stops, position, growth)
        if old == new:
            return Index(starts, stops, self.hashed, self.key, self.positions)
        hashed = self.hashed[self.hashed & np.uint64(_LOW) != position]
        return Index(starts, stops, self._with_id(hashed, new, position), self.key)

    def with_appended(self, id_: str | None, start: int, stop: int) -> Index:
        """Return the index after an annotation was added at the end."""
        kind = self.starts.dtype if stop <= MAX_INT32 else np.dtype(np.int64)
        is_new = id_ is not None and bool(self.positions) and id_ not in self.positions
        return Index(
            np.append(self.starts, [start]).astype(kind, copy=False),
            np.append(self.stops, [stop]).astype(kind, copy=False),
            self._with_id(self.hashed, id_, len(self)),
            self.key,
            {**self.positions, id_: len(self)} if is_new and id_ is not None else {},
        )

    def without(self, position: int, growth: int) -> Index:
        """Return the index without an annotation; those after it have moved by so many bytes."""
        positions = self.hashed & np.uint64(_LOW)
        moved = (positions > position).astype(np.uint64)
        return Index(
            _shifted(np.delete(self.starts, position), position, growth),
            _shifted(np.delete(self.stops, position), position, growth),
            (self.hashed - moved)[positions != position],
            self.key,
        )

    def with_many_replaced(self, growth: NDArray[np.int64]) -> Index:
        """Return the index after each annotation has grown by so many bytes, and kept its id."""
        shift = growth.cumsum()
        starts, stops = self.starts + shift - growth, self.stops + shift
        return Index(_small(starts), _small(stops), self.hashed, self.key, self.positions)

    def with_many_appended(
        self, ids: Sequence[str], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> Index:
        """Return the index after annotations with new ids were added at the end."""
        hashes = np.fromiter(map(self.hash_of, ids), np.uint64, len(ids))
        numbers = np.arange(len(self), len(self) + len(ids), dtype=np.uint64)
        hashed = np.append(self.hashed, hashes << np.uint64(32) | numbers)
        hashed.sort()
        return Index(
            _small(np.append(self.starts, starts)),
            _small(np.append(self.stops, stops)),
            hashed,
            self.key,
        )

    def without_many(self, is_left: NDArray[np.bool_], shift: NDArray[np.int64]) -> Index:
        """Return the index without some annotations; each of the others has moved by `shift`."""
        positions = self.hashed & np.uint64(_LOW)
        moved = (positions - (is_left.cumsum() - 1).astype(np.uint64)[positions]).astype(np.uint64)
        return Index(
            _small((self.starts + shift)[is_left]),
            _small((self.stops + shift)[is_left]),
            (self.hashed - moved)[is_left[positions]],
            self.key,
        )

    def _with_id(
        self, hashed: NDArray[np.uint64], id_: str | None, position: int
    ) -> NDArray[np.uint64]:
        if id_ is None:
            return hashed
        one = np.uint64(self.hash_of(id_) << 32 | position)
        return np.insert(hashed, np.searchsorted(hashed, one), one)

    def hash_of(self, id_: str) -> int:
        """Return the hash of an id in this index, a number of 32 bits."""
        hash_ = blake2s(id_.encode(errors="surrogatepass"), key=self.key, digest_size=_HASH_BYTES)
        return int.from_bytes(hash_.digest())


def _numbers(array: NDArray[Any]) -> list[int]:
    numbers: list[int] = array.tolist()
    return numbers


def _small(offsets: NDArray[np.int64]) -> Offsets:
    is_large = len(offsets) > 0 and int(offsets[-1]) > MAX_INT32
    return offsets if is_large else offsets.astype(np.int32)


def _shifted(offsets: Offsets, first: int, by: int) -> Offsets:
    is_large = len(offsets) > 0 and int(offsets[-1]) + by > MAX_INT32
    shifted = offsets.astype(np.int64 if is_large else offsets.dtype)  # a copy
    shifted[first:] += by
    return shifted
