"""Annotation sources that one worker computed, stored for the others: a large one takes a second.

A stored source is a header in MessagePack, followed by its arrays as they are in memory, which the
workers map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec
import xxhash

from neurotrale.late import LazyModule
from neurotrale.layers.source import LayerSource, Records
from neurotrale.layers.spatial_index import GridLevel
from neurotrale.storage.shared_files import Piece, SharedFiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

MAX_SHARED_BYTES = 512 * 2**20

log = logging.getLogger(__name__)


class _Level(msgspec.Struct, array_like=True, frozen=True):
    grid: tuple[int, int, int]
    chunk_size: tuple[float, float, float]
    limit: int


class _Header(msgspec.Struct, array_like=True, frozen=True):
    """A source without its arrays; their lengths are in the order of `_arrays`."""

    etag: str
    info: bytes
    levels: list[_Level]
    ids: list[str]
    files: list[str]
    lengths: list[int]


_SIZE = Struct("<Q")
_ALIGNED = 8
_header = msgspec.msgpack.Decoder(_Header)
_OF_RECORDS = ("<u8", "<i8", "<u4", "<i8")
_OF_LEVEL = ("<i8", "<i8", "<i8")


def encode_source(source: LayerSource, etag: str) -> list[Piece]:
    """Return a source and its version as bytes."""
    records = source.records
    arrays = [records.numbers, records.starts, records.words, source.file_of]
    for level in source.levels:
        arrays += [level.codes, level.starts, level.rows]
    kinds = _array_types(len(source.levels))
    plain = [np.ascontiguousarray(array, dtype) for array, dtype in zip(arrays, kinds, strict=True)]
    header = msgspec.msgpack.encode(
        _Header(
            etag,
            source.info,
            [_Level(level.grid, level.chunk_size, level.limit) for level in source.levels],
            list(source.ids),
            list(source.files),
            [len(array) for array in plain],
        )
    )
    pieces: list[Piece] = [_SIZE.pack(len(header)), header, _padding(len(header))]
    for array in plain:
        pieces += [array.view(np.uint8).data, _padding(array.nbytes)]
    return pieces


def decode_source(content: Piece) -> tuple[LayerSource, str]:
    """Return the source and the version that `encode_source` made bytes of.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, ValueError: The bytes are none of a source.
    """
    view = memoryview(content)
    (size,) = _SIZE.unpack(view[: _SIZE.size])
    at = _SIZE.size + size
    header = _header.decode(view[_SIZE.size : at])
    at += len(_padding(size))
    arrays: list[NDArray[np.int64]] = []
    kinds = _array_types(len(header.levels))
    for dtype, length in zip(kinds, header.lengths, strict=True):
        nbytes = length * np.dtype(dtype).itemsize
        arrays.append(np.frombuffer(view[at : at + nbytes], dtype))
        at += nbytes + len(_padding(nbytes))
    numbers, starts, words, file_of = arrays[:4]
    levels = [
        GridLevel(level.grid, level.chunk_size, level.limit, *arrays[first : first + 3])
        for level, first in zip(header.levels, range(4, len(arrays), 3), strict=True)
    ]
    records = Records(numbers.view(np.uint64), starts, words.view(np.uint32))
    source = LayerSource(header.info, levels, records, header.ids, header.files, file_of)
    return source, header.etag


def _array_types(levels: int) -> tuple[str, ...]:
    return _OF_RECORDS + _OF_LEVEL * levels


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNED)


# --- the cache ---


class Versioned(Protocol):
    """A value that knows its version."""

    @property
    def etag(self) -> str:
        """Identifies the version."""


T = TypeVar("T", bound=Versioned)


class SharedCache(Generic[T]):
    """Values that one worker computed, stored for the others.

    Best effort: every failure falls back to computing the value.

    Args:
        files: Where they are stored; without a directory, nothing is.
        form: Name of their format, at most 16 bytes.
        encode: Returns a value as bytes.
        decode: Returns the value of such bytes.
    """

    def __init__(
        self,
        files: SharedFiles,
        form: str,
        encode: Callable[[T], Sequence[Piece]],
        decode: Callable[[Piece], T],
    ) -> None:
        self.files, self.form = files, form
        self._encode, self._decode = encode, decode

    def get(self, key: str, etag: str, compute: Callable[[], T]) -> T:
        """Return a stored value; compute and store it if necessary.

        While one process computes it, the others wait: all of them at once would take longer.

        Args:
            key: Identifies the value.
            etag: Its version.
            compute: Computes the value. A result of another version is returned but not stored.
        """
        if self.files.directory is None:
            return compute()
        name = xxhash.xxh3_128_hexdigest(f"{key}\n{etag}".encode(errors="surrogatepass"))
        stored = self._stored(name)
        if stored is not None:
            return stored
        try:
            with self.files.claimed(f"{name}.lock", wait=True):
                return self._stored(name) or self._computed(name, etag, compute)
        except OSError as error:
            log.warning("sources are not shared between workers: %s", error)
            return compute()

    def _stored(self, name: str) -> T | None:
        content = self.files.read(name, self.form)
        return None if content is None else self._decode(content)

    def _computed(self, name: str, etag: str, compute: Callable[[], T]) -> T:
        value = compute()
        if value.etag == etag and self.files.write(name, self.form, self._encode(value)):
            self._evict()
        return value

    def _evict(self) -> None:
        directory = self.files.directory
        assert directory is not None
        stored = [(path.stat(), path) for path in directory.iterdir() if not path.suffix]
        stored.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
        size_bytes = 0
        for status, path in stored:
            size_bytes += status.st_size
            if size_bytes > MAX_SHARED_BYTES:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
