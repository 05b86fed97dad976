"""A few voxels of a volume, enough to see what it looks like and how bright it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.info import Info, Scale, Triple
from neurotrale.chunks.store import Chunks, TiffChunk
from neurotrale.errors import DamagedError, MissingError
from neurotrale.files import Found, Stamp
from neurotrale.names import ChunkPath, Parts, split_path

Voxels = NDArray[np.generic]

# Of each axis of a plane, the chunks nearest to its middle.
MOST_CHUNKS = 8
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels of a scale, counted from the scale's corner; ends exclusive."""

    start_vx: Triple
    stop_vx: Triple

    @property
    def shape_zyx(self) -> Triple:
        """Its extent in the order of an array's axes."""
        x, y, z = (b - a for a, b in zip(self.start_vx, self.stop_vx, strict=True))
        return z, y, x


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored chunk of a sample."""

    box: Box
    chunk: ChunkPath
    stored: Found | TiffChunk

    @property
    def stamp(self) -> Stamp:
        """The version of its file."""
        found = self.stored.found if isinstance(self.stored, TiffChunk) else self.stored
        return found.stamp


@dataclass(frozen=True, slots=True)
class Sample:
    """The stored chunks around the middle of a volume's coarsest scale.

    Attributes:
        scale: The scale.
        box: What they cover, holes included.
        pieces: The chunks.
    """

    scale: Scale
    box: Box
    pieces: tuple[Piece, ...]

    @property
    def version(self) -> tuple[object, ...]:
        """What changes whenever a chunk does."""
        return self.scale, tuple((piece.chunk.stem, piece.stamp) for piece in self.pieces)


def coarsest(info: Info) -> Scale | None:
    """Find the scale of the fewest voxels, of those whose chunks can be read here."""
    useful = [scale for scale in info.scales if _is_readable(info, scale)]
    return min(useful, key=lambda scale: math.prod(scale.size), default=None)


def _is_readable(info: Info, scale: Scale) -> bool:
    chunk_bytes = math.prod(scale.chunk_sizes[0]) if scale.chunk_sizes else 0
    chunk_bytes *= info.num_channels * np.dtype(info.data_type).itemsize
    plain = scale.encoding == "raw" and scale.sharding is None and bool(scale.key)
    return plain and 0 < chunk_bytes <= MOST_BYTES and min(scale.size) > 0


def find_sample(chunks: Chunks, dataset: Parts, info: Info) -> Sample | None:
    """Look which chunks there are in the middle, without reading them.

    Returns:
        None when no scale has chunks that can be read here.
    """
    scale = coarsest(info)
    if scale is None:
        return None
    boxes = list(_boxes(info, scale))
    directory = (*dataset, *split_path(scale.key))
    pieces = []
    for box in boxes:
        chunk = ChunkPath(directory, _stem(scale, box))
        try:
            stored = chunks.find(chunk)
        except MissingError:
            continue
        if isinstance(stored, (Found, TiffChunk)):
            pieces.append(Piece(box, chunk, stored))
    first, last = boxes[0], boxes[-1]
    return Sample(scale, Box(first.start_vx, last.stop_vx), tuple(pieces))


def _boxes(info: Info, scale: Scale) -> Iterator[Box]:
    """Give the boxes of the chunks around the middle, x slowest; z is that of the middle."""
    chunk_vx = scale.chunk_sizes[0]
    chunk_bytes = math.prod(chunk_vx) * info.num_channels * np.dtype(info.data_type).itemsize
    most = min(MOST_CHUNKS, math.isqrt(MOST_BYTES // chunk_bytes))
    spans = []
    for axis, (size, length) in enumerate(zip(scale.size, chunk_vx, strict=True)):
        count = -(-size // length)
        taken = min(count, 1 if axis == 2 else most)
        first = (size // 2) // length if axis == 2 else (count - taken) // 2
        starts = range(first * length, (first + taken) * length, length)
        spans.append([(start, min(start + length, size)) for start in starts])
    for x, y, z in product(*spans):
        yield Box((x[0], y[0], z[0]), (x[1], y[1], z[1]))


def _stem(scale: Scale, box: Box) -> str:
    ends = zip(box.start_vx, box.stop_vx, scale.voxel_offset, strict=True)
    return "_".join(f"{start + offset}-{stop + offset}" for start, stop, offset in ends)


def read_pieces(chunks: Chunks, info: Info, sample: Sample) -> Iterator[tuple[Box, Voxels]]:
    """Read the chunks of a sample one after the other.

    Returns:
        The box of each, and its voxels as ``[channel, z, y, x]``.

    Raises:
        DamagedError: A chunk is not what `info` promises.
        BusyError: A chunk is being changed.
    """
    dtype = np.dtype(info.data_type).newbyteorder("<")
    for piece in sample.pieces:
        if isinstance(piece.stored, TiffChunk):
            body = chunks.read(piece.chunk, piece.stored, frozenset()).body
        elif piece.stored.coding:
            body = chunks.files.unpack(piece.stored)
        else:
            with chunks.files.open(piece.stored) as file:
                body = file.read(MOST_BYTES + 1)
        shape = (info.num_channels, *piece.box.shape_zyx)
        if len(body) != math.prod(shape) * dtype.itemsize:
            expected = math.prod(shape) * dtype.itemsize
            raise DamagedError(
                "/".join((*piece.chunk.directory, piece.chunk.stem)),
                f"expected {expected} bytes, found {len(body)}",
            )
        yield piece.box, np.frombuffer(body, dtype).reshape(shape)
