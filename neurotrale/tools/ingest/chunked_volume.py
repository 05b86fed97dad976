"""Volumes in chunks that an ingest reads; `neurotrale.tools.ingest.zarr_array` has another."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.blockfs import DIRECTORY_FILE
from neurotrale.chunks.store import Chunks
from neurotrale.errors import BadInputError, DamagedError, MissingError
from neurotrale.precomputed.grid import ChunkBox, chunk_name, grid_shape
from neurotrale.precomputed.info import Info, Scale, Triple
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files, StoredDirectory, StoredFile
from neurotrale.storage.names import ChunkPath, split_path
from neurotrale.tools.ingest.empty_chunks import empty_value, left_out_chunks

MOST_CHUNK_BYTES = 2**30
_HASHED_BYTES = 64 * 2**20


class ChunkedVolume(Protocol):
    """A volume in chunks; triples are (x, y, z)."""

    @property
    def size_vx(self) -> Triple: ...  # noqa: D102

    @property
    def chunk_vx(self) -> Triple: ...  # noqa: D102

    @property
    def channels(self) -> int: ...  # noqa: D102

    @property
    def dtype(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> bytes: ...  # noqa: D102

    def read(self, box: ChunkBox) -> NDArray[Any] | None:
        """Read a chunk, ``[channel, z, y, x]``; None if it does not exist."""
        ...


class PrecomputedScale:
    """A scale of a Precomputed dataset, read as the service reads it.

    Args:
        dataset: The dataset.
        info: Its `info`.
        scale: The scale.
    """

    def __init__(self, dataset: Path, info: Info, scale: Scale) -> None:
        self.size_vx = scale.size
        self.chunk_vx = scale.chunk_sizes[0]
        self.channels = info.num_channels
        self.dtype = info.data_type
        self._directory = split_path(scale.key)
        self._offset_vx = scale.voxel_offset
        self._chunks = Chunks(Files(DataRoot(dataset, follow_symlinks=True)))
        count = prod(grid_shape(self.size_vx, self.chunk_vx))
        self._left_out = set(left_out_chunks(dataset, scale.key.strip("/"), count))
        self._empty_value = empty_value(dataset) if self._left_out else 0
        self.fingerprint = (dataset / "info").read_bytes()
        directory_file = dataset.joinpath(*self._directory, DIRECTORY_FILE)
        if directory_file.is_file():
            with directory_file.open("rb") as file:
                self.fingerprint += file.read(_HASHED_BYTES)

    def read(self, box: ChunkBox) -> NDArray[Any] | None:
        """Read a chunk, ``[channel, z, y, x]``; None if it does not exist.

        Raises:
            BadInputError: It does not match `info`, or cannot be decoded.
        """
        x, y, z = (
            (start + offset, stop + offset)
            for (start, stop), offset in zip(box, self._offset_vx, strict=True)
        )
        chunk = ChunkPath(self._directory, chunk_name((x, y, z)))
        shape = (self.channels, *(stop - start for start, stop in reversed(box)))
        try:
            body = self._body(chunk)
        except MissingError:
            if self._position(box) in self._left_out:
                return np.full(shape, self._empty_value, self.dtype)
            return None
        except DamagedError as error:
            raise BadInputError(str(error)) from error
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if len(body) != prod(shape) * dtype.itemsize:
            raise BadInputError(
                f"{'/'.join(self._directory)}/{chunk.stem}: expected"
                f" {prod(shape) * dtype.itemsize} bytes, found {len(body)}"
            )
        return np.frombuffer(body, dtype).reshape(shape)

    def _position(self, box: ChunkBox) -> int:
        i, j, k = (start // chunk for (start, _), chunk in zip(box, self.chunk_vx, strict=True))
        x, y, _ = grid_shape(self.size_vx, self.chunk_vx)
        return (k * y + j) * x + i

    def _body(self, chunk: ChunkPath) -> bytes:
        found = self._chunks.find(chunk)
        if isinstance(found, StoredDirectory):
            raise MissingError
        if not isinstance(found, StoredFile):
            return self._chunks.read(chunk, found, frozenset()).body
        if found.coding:
            return self._chunks.files.decompress(found)
        with self._chunks.files.open(found) as file:
            return file.read(MOST_CHUNK_BYTES)
