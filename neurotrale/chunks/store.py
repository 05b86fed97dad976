"""Finds the file of a chunk below the data root, and reads its voxels."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass

from neurotrale.chunks.blockfs_reader import BlockChunk, BlockReader
from neurotrale.chunks.decode import Expected
from neurotrale.chunks.layouts import BLOCKFS, Layouts, absent_chunk_text
from neurotrale.chunks.reader import CACHED_FILES, ChunkReader, Voxels
from neurotrale.errors import DamagedError, MissingError
from neurotrale.precomputed.info import Info, Infos
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.files import (
    DECOMPRESS_LIMIT_BYTES,
    Files,
    StoredDirectory,
    StoredFile,
)
from neurotrale.storage.names import ChunkPath, Parts

TIFF_SUFFIXES = (".tiff", ".tif")

_INFO = "/info"  # a note about a directory; no file has this name


@dataclass(frozen=True, slots=True)
class TiffChunk:
    """A chunk that is stored as TIFF and must be decoded."""

    file: StoredFile

    @property
    def stamp(self) -> Stamp:
        """Version stamp of the file."""
        return self.file.stamp

    def close(self) -> None:
        """Close the file, if it is open."""
        self.file.close()


DecodedChunk = TiffChunk | BlockChunk
"""A chunk that must be decoded."""


class Chunks:
    """Finds and decodes the chunks of every dataset below the root."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.infos = Infos(files.data_root)
        self.reader = ChunkReader()
        self.blocks = BlockReader(files)
        self.layouts = Layouts(files)
        self._twins: VersionedCache[int] = VersionedCache(CACHED_FILES)

    def find(self, chunk: ChunkPath) -> StoredFile | StoredDirectory | DecodedChunk:
        """Return the raw file of this name, its TIFF, a compressed copy, or a block of blockfs.

        Raises:
            MissingError: None of them exists.
            DamagedError: The scale is blockfs, and its directory file or a shard is damaged.
        """
        found = self._known_tiff(chunk) or self._find(chunk)
        if found is None and self.files.data_root.directories.renew(chunk.directory):
            found = self._find(chunk)
        if found is not None:
            return found
        layout = self.layouts.of_scale(chunk.directory)
        block = self._find_block(chunk) if layout == BLOCKFS else None
        if block is not None:
            return block
        raise MissingError(absent_chunk_text("/".join((*chunk.directory, chunk.stem)), layout))

    def _find(self, chunk: ChunkPath) -> StoredFile | StoredDirectory | TiffChunk | None:
        parts = (*chunk.directory, chunk.stem)
        exact = self.files.find_exact(parts, renew=False)
        if exact is not None:
            return exact
        tiff = self.find_tiff(chunk)
        if tiff is None:
            return self.files.find_twin(parts)
        self.files.notes(chunk.directory)[chunk.stem] = tiff.file.name[len("/".join(parts)) :]
        return tiff

    def _known_tiff(self, chunk: ChunkPath) -> TiffChunk | None:
        """Return the TIFF of a chunk that was found within the last second.

        There was no raw file then, so it is not looked for again.
        """
        notes = self.files.notes(chunk.directory)
        suffix = notes.get(chunk.stem)
        if not isinstance(suffix, str):
            return None
        file = self.files.find_exact((*chunk.directory, chunk.stem + suffix), renew=False)
        return TiffChunk(file) if isinstance(file, StoredFile) else None

    def find_tiff(self, chunk: ChunkPath) -> TiffChunk | None:
        """Return the TIFF of a chunk; None if there is none."""
        for suffix in TIFF_SUFFIXES:
            file = self.files.find_exact((*chunk.directory, chunk.stem + suffix), renew=False)
            if isinstance(file, StoredFile):
                return TiffChunk(file)
        return None

    def _find_block(self, chunk: ChunkPath) -> BlockChunk | None:
        if chunk.name is None:
            return None
        above = self.infos.above(chunk.directory)
        scale = None if above is None else above[0].scale(above[1])
        offset_vx = (0, 0, 0) if scale is None else scale.voxel_offset
        x, y, z = (
            (start - offset, stop - offset)
            for start, stop, offset in zip(
                chunk.name.start_vx, chunk.name.stop_vx, offset_vx, strict=True
            )
        )
        return self.blocks.find(chunk.directory, (x, y, z))

    def read(self, chunk: ChunkPath, stored: DecodedChunk, codings: Set[str]) -> Voxels:
        """Read the voxels of a chunk, checked against its name and the `info` of the dataset.

        Args:
            chunk: The parsed path of the chunk.
            stored: Where the chunk is stored.
            codings: The content codings that the client accepts.

        Raises:
            DamagedError: The file does not match its name or `info`, or cannot be decoded.
        """
        expected = self.expected(chunk, stored)
        if isinstance(stored, TiffChunk):
            return self.reader.read(self.files.reopened(stored.file), expected, codings)
        body = self.blocks.read(stored, expected)
        return Voxels((body,), "", stored.stamp, expected.labels)

    def check_twin(self, chunk: ChunkPath, stored: StoredFile) -> None:
        """Check what a compressed copy unpacks to, so that a client may unpack it safely.

        Only of raw chunks is the size known; each version is unpacked once, to that size.

        Raises:
            DamagedError: It is not valid, or unpacks to another size than the chunk has.
        """
        above = self._info_above(chunk.directory)
        scale = None if above is None else above[0].scale(above[1])
        if above is None or scale is None or scale.encoding != "raw" or chunk.shape_vx is None:
            return
        expected = Expected(chunk.shape_vx, above[0].data_type, above[0].num_channels)
        size = expected.size_bytes
        if size is None or size > DECOMPRESS_LIMIT_BYTES:
            return
        found = stored.stamp.size
        if found < 2 * size + 2**16:  # no coding makes more of it
            found = self._twins.get(
                stored.path,
                stored.stamp,
                lambda: len(self.files.decompress(stored, size)),
                is_settled=stored.stamp.is_settled,
            )
        if found != size:
            raise DamagedError(
                os.path.basename(stored.path),
                f"expected {expected}, which are {size} bytes, found"
                f" {'more' if found > size else found}",
            )

    def expected(self, chunk: ChunkPath, stored: DecodedChunk) -> Expected:
        """Return what a chunk must contain; without `info`, only the shape in its name is known."""
        above = self._info_above(chunk.directory)
        if above is None:
            return Expected(chunk.shape_vx)
        info, key = above
        scale = info.scale(key)
        if scale is not None and scale.encoding != "raw":
            is_tiff = isinstance(stored, TiffChunk)
            raise DamagedError(
                stored.file.name if isinstance(stored, TiffChunk) else stored.name,
                f"expected a chunk with the encoding {scale.encoding!r} of 'info', found"
                f" {'a TIFF' if is_tiff else 'a block of blockfs'}, which is served as 'raw':"
                " change the encoding in 'info' to 'raw'",
            )
        return Expected(
            chunk.shape_vx, info.data_type, info.num_channels, labels=info.type == "segmentation"
        )

    def _info_above(self, directory: Parts) -> tuple[Info, str] | None:
        """Return the nearest `info` and the key of the scale; it is looked up once a second."""
        notes = self.files.notes(directory)
        known = notes.get(_INFO)
        if isinstance(known, tuple):
            return known
        above, is_settled = self.infos.above_versioned(directory)
        if is_settled:
            notes[_INFO] = above
        return above
