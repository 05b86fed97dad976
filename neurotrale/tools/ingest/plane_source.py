"""What a source of planes is to the rest of an ingest."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from neurotrale.chunks.tiff_pages import RowBlock
from neurotrale.tools.ingest.hashing import FileRecord
from neurotrale.tools.ingest.pyramid import SlabBlock


class PlaneSource(Protocol):
    """A stack of planes.

    Attributes:
        shape_zyx: Planes, rows, columns.
        dtype: A numpy name of the data type.
        channels: Number of channels; rows have them side by side along x.
        fingerprint: Identifies the stack: different for another stack at the same path.
        read_memory_bytes: The memory that reading one plane takes, roughly.
        paths: The files; none for a stack in memory.
        sizes: Sizes of the files in bytes.
        notes: What the user should know about the planes.
        order: The order of the planes, for people; "" if it is that of the pages of a file.
    """

    shape_zyx: tuple[int, int, int]
    dtype: str
    channels: int
    fingerprint: str
    read_memory_bytes: int
    order: str

    @property
    def paths(self) -> Sequence[Path]: ...  # noqa: D102

    @property
    def sizes(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Read a plane as blocks of rows; may be called from any thread."""
        ...

    def file_indices(self, z: int) -> Sequence[int]:
        """Return the indices of the files that hold a plane."""
        ...

    def records(self) -> dict[int, FileRecord]:
        """Return a record of each file that was read, by its index.

        Raises:
            BadInputError: A file changed while it was read.
        """
        ...

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Hash one shard's share of the bytes that belong to no plane.

        Args:
            shard: Number of the shard, from 1.
            shards: Number of shards.
            known: Parts of the file that earlier runs have hashed.
        """
        ...

    def close(self) -> None:
        """Close any open files."""
        ...


@runtime_checkable
class SlabSource(Protocol):
    """A source that divides the reading of planes itself."""

    def slab_reads(self, start: int, stop: int) -> Iterator[Callable[[], Iterator[SlabBlock]]]:
        """Divide the reading of planes, from `start` to `stop`, into calls."""
        ...


def slab_reads(
    source: PlaneSource, start: int, stop: int
) -> Iterator[Callable[[], Iterator[SlabBlock]]]:
    """Divide the reading of planes into calls: one for each plane, or for each row of chunks.

    Args:
        source: The stack.
        start: The first plane.
        stop: The plane after the last.
    """
    if isinstance(source, SlabSource):
        yield from source.slab_reads(start, stop)
        return
    for z in range(start, stop):
        yield partial(_plane_blocks, source, z)


def _plane_blocks(source: PlaneSource, z: int) -> Iterator[SlabBlock]:
    for y, rows in source.read_plane(z):
        yield z, y, rows[np.newaxis]
