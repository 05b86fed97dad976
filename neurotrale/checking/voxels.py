"""Opens chunks the way that clients do, and says what is wrong with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod

import numpy as np
from isal import isal_zlib

from neurotrale.checking.look import Item, Look
from neurotrale.chunks.info import Info, Scale
from neurotrale.chunks.layout import Expected
from neurotrale.chunks.read import ChunkReader
from neurotrale.codings import unpack
from neurotrale.errors import DamagedError, MissingError
from neurotrale.files import Found, Stamp
from neurotrale.names import ChunkName

CODINGS = {".gz": "gzip", ".br": "br"}
SUFFIXES = ("", ".tiff", ".tif", *CODINGS)
"""Of the files that may hold a chunk, in the order in which the service looks for them."""

# How files of other encodings begin.
_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_MOST_HEAD = 16


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A file that holds a chunk of the grid.

    Attributes:
        item: The file.
        name: The chunk's box.
        suffix: How it is stored: one of `SUFFIXES`.
        span: Where in the file it begins, and its bytes; None when it is all of it.
    """

    item: Item
    name: ChunkName
    suffix: str
    span: tuple[int, int] | None = None


class VoxelCheck:
    """Checks what is in the chunks of a scale.

    Args:
        look: The data set.
        info: What it promises.
        scale: One of its scales.
    """

    def __init__(self, look: Look, info: Info, scale: Scale) -> None:
        self._look = look
        self._info = info
        self._scale = scale
        self._reader = ChunkReader()
        self._itemsize = np.dtype(info.data_type).itemsize

    def check(self, chunk: ChunkFile) -> None:
        """Open a chunk; what is wrong becomes a finding."""
        place = chunk.item.place
        try:
            if chunk.suffix not in (".tiff", ".tif"):
                self.check_stored(chunk.name, *self._stored(chunk))
            elif self._scale.encoding != "raw":
                detail = f"info states the encoding {self._scale.encoding!r}"
                self._look.findings.add("chunk-encoding", place, detail)
            else:
                self._check_tiff(chunk)
        except DamagedError as error:
            self._look.findings.add("chunk-damaged", place, error.why)
        except ValueError as error:
            self._look.findings.add("chunk-damaged", place, str(error))
        except MissingError:
            return  # it was removed while we were looking
        except OSError as error:
            self._look.unreadable(place, error)

    def _check_tiff(self, chunk: ChunkFile) -> None:
        expected = Expected(chunk.name.shape_vx, self._info.data_type, self._info.num_channels)
        found = Found(chunk.item.place, chunk.item.path, Stamp(0, 0, 0), "")
        voxels = self._reader.read(found, expected, set())
        # The reader has just learnt it; clients of a chunk that is passed on compare the checksum.
        segments = self._reader.kept.get(found.path, voxels.stamp, lambda: None)
        if segments is None or segments.crc32 is None or segments.big_endian:
            return
        crc32 = isal_zlib.crc32(voxels.body)
        if crc32 != segments.crc32:
            raise DamagedError(
                chunk.item.place,
                f"expected voxels with the CRC-32 {segments.crc32} that the file states, found"
                f" {crc32}",
            )

    def _stored(self, chunk: ChunkFile) -> tuple[int, bytes]:
        """Give size and first bytes of a chunk that is sent as it is stored."""
        coding = CODINGS.get(chunk.suffix)
        with open(chunk.item.path, "rb") as file:
            start, size = chunk.span or (0, os.fstat(file.fileno()).st_size)
            packed = os.pread(file.fileno(), size if coding else _MOST_HEAD, start)
        if coding is None:
            return size, packed[:size]
        content = unpack(packed, coding, self.raw_bytes(chunk.name) * 2 + 2**20)
        return len(content), content[:_MOST_HEAD]

    def raw_bytes(self, name: ChunkName) -> int:
        """The size of a chunk's voxels."""
        return prod(name.shape_vx) * self._info.num_channels * self._itemsize

    def check_stored(self, name: ChunkName, size: int, head: bytes) -> None:
        """Check a chunk in its encoding, as far as that can be told from outside.

        Args:
            name: Its box.
            size: Its bytes.
            head: The first of them.

        Raises:
            ValueError: It is not what `info` promises.
        """
        encoding = self._scale.encoding
        if encoding == "raw" and size != self.raw_bytes(name):
            x, y, z = name.shape_vx
            raise ValueError(
                f"expected {self.raw_bytes(name)} bytes ({x}x{y}x{z} voxels,"
                f" {self._info.num_channels} channels, {self._info.data_type}), found {size}"
            )
        if not size:
            raise ValueError(f"expected a chunk with the encoding {encoding!r}, found nothing")
        magic = _MAGIC.get(encoding, b"")
        if not head.startswith(magic):
            raise ValueError(f"expected a chunk with the encoding {encoding!r}, found another")
