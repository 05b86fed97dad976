"""The counts of all blocks of a dataset, and how they are brought up to date."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from neurotrale.annotations.files.activity import held_removals_of
from neurotrale.annotations.files.block_listing import BlockListing
from neurotrale.datasets.annotation_counts import AnnotationCounts, block_record, files_of
from neurotrale.storage.directories import forget_directory
from neurotrale.storage.shared_files import Piece

BATCH = 256
# A file system that takes so long for a block, and not only for want of a processor, is read by
# many threads; for one that answers from memory, they would only contend for the interpreter.
SLOW_BLOCK_S = 0.001
SLOW_RATIO = 4.0
THREADS = 16
_PER_TASK = 16


class _Stored(msgspec.Struct, array_like=True):
    blocks: dict[str, bytes]
    counts: list[tuple[str, str, int, int]]
    files: int
    held: int
    damaged: list[str]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)
_total_decoder = msgspec.msgpack.Decoder(_Stored)


@dataclass(slots=True)
class CountIndex:
    """The records of the blocks of a dataset, and their sum.

    Attributes:
        path: Path of the directory of the blocks, relative to the data root.
        blocks: The record of each block; see `block_record`.
        total: The sum of all records.
    """

    path: str
    blocks: dict[str, bytes] = field(default_factory=dict)
    total: AnnotationCounts = field(default_factory=AnnotationCounts)

    def put(self, name: str, record: bytes | None) -> None:
        """Replace the record of a block; None removes it."""
        before = self.blocks.get(name)
        if before == record:
            return
        path = f"{self.path}/{name}"
        if before is not None:
            self.total.add(path, files_of(before), -1)
            del self.blocks[name]
        if record is not None:
            self.total.add(path, files_of(record))
            self.blocks[name] = record

    def encode(self) -> list[Piece]:
        """Return the index as bytes."""
        return [_encoder.encode(_stored(self.blocks, self.total))]

    @classmethod
    def decode(cls, path: str, content: Piece) -> CountIndex:
        """Return the index that `encode` made bytes of.

        Raises:
            msgspec.DecodeError: The bytes are none of an index.
        """
        stored = _decoder.decode(content)
        return cls(path, stored.blocks, _counts(stored))


def encode_total(total: AnnotationCounts) -> bytes:
    """Return counts as bytes."""
    return _encoder.encode(_stored({}, total))


def decode_total(content: Piece) -> AnnotationCounts:
    """Return the counts that `encode_total` made bytes of.

    Raises:
        msgspec.DecodeError: The bytes are none of counts.
    """
    return _counts(_total_decoder.decode(content))


def _stored(blocks: dict[str, bytes], total: AnnotationCounts) -> _Stored:
    counts = [(*kind, count, total.reviewed[kind]) for kind, count in total.counts.items()]
    return _Stored(blocks, counts, total.files, total.held, sorted(total.damaged))


def _counts(stored: _Stored) -> AnnotationCounts:
    total = AnnotationCounts(files=stored.files, held=stored.held, damaged=set(stored.damaged))
    for anntype, type_, count, reviewed in stored.counts:
        total.counts[anntype, type_] = count
        if reviewed:
            total.reviewed[anntype, type_] = reviewed
    return total


# --- bringing it up to date ---


def update(index: CountIndex, listing: BlockListing) -> Iterator[tuple[int, int]]:
    """Bring an index up to date with the files; yield after every few blocks.

    Yields:
        The number of blocks that were looked at, and that of all blocks.

    Raises:
        MissingError: The dataset has no annotations any more.
        ReadOnlyError, BusyError: A file cannot be read.
    """
    names = listing.names()
    for gone in index.blocks.keys() - set(names):
        index.put(gone, None)
    done = 0
    yield done, len(names)
    for batch in _examined(index, listing, names):
        for name, record in batch:
            index.put(name, record)
        done += len(batch)
        yield done, len(names)


def update_blocks(index: CountIndex, listing: BlockListing, names: Sequence[str]) -> None:
    """Bring the records of some blocks up to date.

    Raises:
        ReadOnlyError, BusyError: A file cannot be read.
    """
    for name, record in _examine(index, listing, names):
        index.put(name, record)


_Examined = list[tuple[str, bytes | None]]


def _examined(index: CountIndex, listing: BlockListing, names: list[str]) -> Iterator[_Examined]:
    at = 0
    while at < len(names):
        batch = names[at : at + BATCH]
        at += len(batch)
        started, worked = time.monotonic(), time.thread_time()
        yield _examine(index, listing, batch)
        waited_s, worked_s = time.monotonic() - started, time.thread_time() - worked
        if waited_s > max(SLOW_BLOCK_S * len(batch), SLOW_RATIO * worked_s):
            break
    if at < len(names):
        yield from _examined_in_parallel(index, listing, names[at:])


def _examined_in_parallel(
    index: CountIndex, listing: BlockListing, names: list[str]
) -> Iterator[_Examined]:
    with ThreadPoolExecutor(THREADS, "count") as pool:
        size = THREADS * _PER_TASK
        for at in range(0, len(names), size):
            batch = names[at : at + size]
            tasks = [batch[start : start + _PER_TASK] for start in range(0, len(batch), _PER_TASK)]
            yield from pool.map(lambda task: _examine(index, listing, task), tasks)


def _examine(index: CountIndex, listing: BlockListing, names: Sequence[str]) -> _Examined:
    examined: _Examined = []
    for name in names:
        block = listing.block(name)
        record = None
        if block is not None:
            record = block_record(block, index.blocks.get(name), _held)
        examined.append((name, record))
    return examined


def _held(path: Path) -> int:
    forget_directory(path.parent)  # the block was listed anew; its journals must be of that one
    return held_removals_of(path)
