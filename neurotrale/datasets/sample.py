"""A sample of the voxels of a volume, large enough for a thumbnail and its contrast."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from neurotrale.chunks.store import Chunks, DecodedChunk
from neurotrale.errors import DamagedError, MissingError
from neurotrale.late import LazyModule
from neurotrale.precomputed.grid import chunk_name, chunk_spans
from neurotrale.precomputed.info import Info, Scale, Triple
from neurotrale.storage.cache import Stamp
from neurotrale.storage.files import StoredDirectory, StoredFile
from neurotrale.storage.names import ChunkPath, Parts, split_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

Voxels: TypeAlias = "NDArray[np.generic]"

# Along each axis of the plane, the chunks nearest to its middle.
MAX_CHUNKS = 8
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels of a scale, relative to the corner of the scale; ends exclusive."""

    start_vx: Triple
    stop_vx: Triple

    @property
    def shape_zyx(self) -> Triple:
        """Extent in the axis order of arrays."""
        x, y, z = (b - a for a, b in zip(self.start_vx, self.stop_vx, strict=True))
        return z, y, x


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk of a sample."""

    box: Box
    chunk: ChunkPath
    stored: StoredFile | DecodedChunk

    @property
    def stamp(self) -> Stamp:
        """Version stamp of its file."""
        return self.stored.stamp


@dataclass(frozen=True, slots=True)
class Sample:
    """The stored chunks around the middle of the coarsest scale of a volume.

    Attributes:
        scale: The scale.
        box: The box that they cover, including missing chunks.
        chunks: The chunks.
    """

    scale: Scale
    box: Box
    chunks: tuple[StoredChunk, ...]

    @property
    def version(self) -> tuple[object, ...]:
        """A value that changes whenever a chunk does."""
        return self.scale, tuple((stored.chunk.stem, stored.stamp) for stored in self.chunks)


def coarsest(info: Info) -> Scale | None:
    """Return the readable scale with the fewest voxels; None if no scale is readable."""
    readable = [scale for scale in info.scales if _is_readable(info, scale)]
    return min(readable, key=lambda scale: math.prod(scale.size), default=None)


def _is_readable(info: Info, scale: Scale) -> bool:
    chunk_bytes = math.prod(scale.chunk_sizes[0]) if scale.chunk_sizes else 0
    chunk_bytes *= info.num_channels * np.dtype(info.data_type).itemsize
    plain = scale.encoding == "raw" and scale.sharding is None and bool(scale.key)
    return plain and 0 < chunk_bytes <= MAX_BYTES and min(scale.size) > 0


def find_sample(chunks: Chunks, dataset: Parts, info: Info) -> Sample | None:
    """Find the stored chunks in the middle of a volume, without reading them.

    Returns:
        None if no scale has chunks that can be read here.
    """
    scale = coarsest(info)
    if scale is None:
        return None
    boxes = list(_boxes(info, scale))
    directory = (*dataset, *split_path(scale.key))
    stored_chunks = []
    for box in boxes:
        chunk = ChunkPath(directory, _stem(scale, box))
        try:
            stored = chunks.find(chunk)
        except MissingError:
            continue
        if not isinstance(stored, StoredDirectory):
            stored.close()  # until it is read, so that not all are open at once
            stored_chunks.append(StoredChunk(box, chunk, stored))
    first, last = boxes[0], boxes[-1]
    return Sample(scale, Box(first.start_vx, last.stop_vx), tuple(stored_chunks))


def _boxes(info: Info, scale: Scale) -> Iterator[Box]:
    """Yield the boxes of the chunks around the middle, x slowest, all in the middle plane."""
    chunk_vx = scale.chunk_sizes[0]
    chunk_bytes = math.prod(chunk_vx) * info.num_channels * np.dtype(info.data_type).itemsize
    max_chunks = min(MAX_CHUNKS, math.isqrt(MAX_BYTES // chunk_bytes))
    spans = []
    for axis, (size, length) in enumerate(zip(scale.size, chunk_vx, strict=True)):
        count = -(-size // length)
        used = min(count, 1 if axis == 2 else max_chunks)
        first = (size // 2) // length if axis == 2 else (count - used) // 2
        spans.append(chunk_spans(first * length, min((first + used) * length, size), length))
    for x, y, z in product(*spans):
        yield Box((x[0], y[0], z[0]), (x[1], y[1], z[1]))


def _stem(scale: Scale, box: Box) -> str:
    x, y, z = (
        (start + offset, stop + offset)
        for start, stop, offset in zip(box.start_vx, box.stop_vx, scale.voxel_offset, strict=True)
    )
    return chunk_name((x, y, z))


def read_sample(chunks: Chunks, info: Info, sample: Sample) -> Iterator[tuple[Box, Voxels]]:
    """Read the chunks of a sample, one after the other.

    Returns:
        The box of each chunk, and its voxels as ``[channel, z, y, x]``.

    Raises:
        DamagedError: A chunk does not match `info`.
        BusyError: A chunk is being changed.
    """
    dtype = np.dtype(info.data_type).newbyteorder("<")
    for piece in sample.chunks:
        if not isinstance(piece.stored, StoredFile):
            body = chunks.read(piece.chunk, piece.stored, frozenset()).body
        elif piece.stored.coding:
            body = chunks.files.decompress(piece.stored)
        else:
            with chunks.files.open(piece.stored) as file:
                body = file.read(MAX_BYTES + 1)
        shape = (info.num_channels, *piece.box.shape_zyx)
        if len(body) != math.prod(shape) * dtype.itemsize:
            expected = math.prod(shape) * dtype.itemsize
            raise DamagedError(
                "/".join((*piece.chunk.directory, piece.chunk.stem)),
                f"expected {expected} bytes, found {len(body)}",
            )
        yield piece.box, np.frombuffer(body, dtype).reshape(shape)
