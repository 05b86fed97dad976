"""Chunks below the data root: which file holds one, and its bytes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from neurotrale.chunks.info import Infos
from neurotrale.chunks.layout import Expected
from neurotrale.chunks.read import ChunkReader, Voxels
from neurotrale.errors import DamagedError, MissingError
from neurotrale.files import Files, Found, FoundDirectory
from neurotrale.names import ChunkPath

TIFF_SUFFIXES = (".tiff", ".tif")


@dataclass(frozen=True, slots=True)
class TiffChunk:
    """A chunk that is stored as TIFF and must be decoded."""

    found: Found


class Chunks:
    """Finds and decodes the chunks of every data set below the root."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.infos = Infos(files.tree)
        self.reader = ChunkReader()

    def find(self, chunk: ChunkPath) -> Found | FoundDirectory | TiffChunk:
        """Look for the raw file of this name, then its TIFF, then its compressed twins.

        Raises:
            MissingError: There is none of them.
        """
        exact = self.files.find_exact((*chunk.directory, chunk.stem))
        if exact is not None:
            return exact
        tiff = self.find_tiff(chunk)
        if tiff is not None:
            return tiff
        twin = self.files.find_twin((*chunk.directory, chunk.stem))
        if twin is not None:
            return twin
        raise MissingError(f"There is no chunk {'/'.join((*chunk.directory, chunk.stem))!r}.")

    def find_tiff(self, chunk: ChunkPath) -> TiffChunk | None:
        """Look for the chunk's TIFF only."""
        for suffix in TIFF_SUFFIXES:
            found = self.files.find_exact((*chunk.directory, chunk.stem + suffix))
            if isinstance(found, Found):
                return TiffChunk(found)
        return None

    def read(self, chunk: ChunkPath, tiff: TiffChunk, codings: Set[str]) -> Voxels:
        """Read a chunk's voxels, checked against its name and the data set's `info`.

        Args:
            chunk: The chunk's name.
            tiff: The file that holds it.
            codings: Content codings that the client takes.

        Raises:
            DamagedError: It is not what its name and the `info` promise, or cannot be decoded.
        """
        return self.reader.read(tiff.found, self.expected(chunk, tiff), codings)

    def expected(self, chunk: ChunkPath, tiff: TiffChunk) -> Expected:
        """Gather what a chunk must be; a data set without `info` promises only the name's box."""
        name = chunk.name
        shape_vx = name.shape_vx if name is not None else None
        above = self.infos.above(chunk.directory)
        if above is None:
            return Expected(shape_vx)
        info, key = above
        scale = info.scale(key)
        if scale is not None and scale.encoding != "raw":
            raise DamagedError(
                tiff.found.name,
                f"expected a chunk with the encoding {scale.encoding!r} that 'info' states, found"
                " a TIFF, which is served as 'raw': change the encoding in 'info' to 'raw'",
            )
        return Expected(
            shape_vx, info.data_type, info.num_channels, labels=info.type == "segmentation"
        )
