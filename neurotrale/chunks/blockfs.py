"""The format of blockfs, the default one of precomputed-tif: its directory file and its blocks.

A scale is a directory file, `precomputed.blockfs`, and shards beside it. The directory file holds a
header, JSON, and for each block of the grid where it lies in which shard; a block is compressed
with Blosc. Shards are listed by the absolute path at which they were written. Only the last name of
it is used: a dataset that was moved is read, and a path cannot lead anywhere else.

Source of the format: the documentation of the public project blockfs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from neurotrale.errors import DamagedError
from neurotrale.late import LazyModule
from neurotrale.precomputed.grid import ChunkBox
from neurotrale.precomputed.info import Triple

if TYPE_CHECKING:
    import imagecodecs
else:
    imagecodecs = LazyModule("imagecodecs", "blosc_decode")

DIRECTORY_FILE = "precomputed.blockfs"

_MAGIC = b"BlockFS\0"
HEADER = struct.Struct("<8sII")
"""Magic bytes, size of the JSON, offset of the table."""
MOST_JSON_BYTES = 4 * 2**20
# Larger blocks are not chunks for viewers; the limit keeps a damaged file from taking the memory.
_MOST_BLOCK_BYTES = 2**30
_BLOSC_HEADER = struct.Struct("<4B3I")  # versions, flags, item size; sizes: raw, block, compressed
# Blosc stores a block as it is if it does not get smaller, and adds a header.
_MOST_OVERHEAD_BYTES = 4096

_Size = Annotated[int, msgspec.Meta(ge=1, lt=2**40)]
_Stride = Annotated[int, msgspec.Meta(ge=0, lt=2**60)]
_Bits = Annotated[int, msgspec.Meta(ge=1, le=64)]
_Dtype = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]


class _Metadata(msgspec.Struct, frozen=True):
    """The JSON of a directory file; other members are ignored."""

    x_block: _Size = msgspec.field(name="XBlockSize")
    y_block: _Size = msgspec.field(name="YBlockSize")
    z_block: _Size = msgspec.field(name="ZBlockSize")
    x_extent: _Size = msgspec.field(name="XExtent")
    y_extent: _Size = msgspec.field(name="YExtent")
    z_extent: _Size = msgspec.field(name="ZExtent")
    x_stride: _Stride = msgspec.field(name="XStride")
    y_stride: _Stride = msgspec.field(name="YStride")
    z_stride: _Stride = msgspec.field(name="ZStride")
    offset_bits: _Bits = msgspec.field(name="NOffsetBits")
    size_bits: _Bits = msgspec.field(name="NSizeBits")
    dtype: _Dtype = msgspec.field(name="DType")
    shards: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(name="BlockFilenames")


@dataclass(frozen=True, slots=True)
class BlockDirectory:
    """The description of a scale; triples are (x, y, z).

    Attributes:
        size_vx: Extent of the scale.
        block_vx: Extent of a block that is not clipped.
        dtype: A numpy name of the data type; voxels are little-endian.
        strides: Steps in the table of blocks along each axis.
        shards: File names of the shards, beside the directory file.
        table_at: Offset of the table in the directory file.
        offset_bits: Bits of an entry that are the offset in the shard.
        size_bits: The bits above them that are the size.
    """

    size_vx: Triple
    block_vx: Triple
    dtype: str
    strides: Triple
    shards: tuple[str, ...]
    table_at: int
    offset_bits: int
    size_bits: int

    @property
    def entry_bytes(self) -> int:
        """Size of an entry of the table."""
        return -(-(self.offset_bits + self.size_bits) // 8)

    def index(self, box: ChunkBox) -> int | None:
        """Return the index in the table of the block of a box; None if no block has this box."""
        index = 0
        for (start, stop), size, block, stride in zip(
            box, self.size_vx, self.block_vx, self.strides, strict=True
        ):
            if start < 0 or start % block or stop != min(start + block, size) or stop <= start:
                return None
            index += start // block * stride
        return index


def parse_directory(header: bytes, name: str) -> BlockDirectory:
    """Parse the start of a directory file.

    Args:
        header: The first bytes of the file, with all of its JSON.
        name: The path shown in errors.

    Raises:
        DamagedError: It is not a directory file of blockfs.
    """
    if len(header) < HEADER.size or not header.startswith(_MAGIC):
        raise DamagedError(name, "expected a directory file of blockfs, found something else")
    _, json_bytes, table_at = HEADER.unpack_from(header)
    stored = header[HEADER.size : HEADER.size + json_bytes]
    if len(stored) < json_bytes or table_at < HEADER.size + json_bytes:
        raise DamagedError(
            name,
            f"expected {json_bytes} bytes of JSON and then a table at {table_at}, found a file that"
            f" ends too early, or one with more than {MOST_JSON_BYTES} bytes of JSON",
        )
    try:
        found = msgspec.json.decode(stored, type=_Metadata)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DamagedError(
            name, f"the JSON of the blockfs directory is malformed: {error}"
        ) from None
    shards = tuple(re.split(r"[/\\]", path)[-1] for path in found.shards)
    if len(set(shards)) != len(shards):
        raise DamagedError(
            name, "two of its shards have the same name, so they cannot both be beside it"
        )
    directory = BlockDirectory(
        (found.x_extent, found.y_extent, found.z_extent),
        (found.x_block, found.y_block, found.z_block),
        found.dtype,
        (found.x_stride, found.y_stride, found.z_stride),
        shards,
        table_at,
        found.offset_bits,
        found.size_bits,
    )
    if prod(directory.block_vx) * 8 > _MOST_BLOCK_BYTES:
        raise DamagedError(name, f"its blocks of {directory.block_vx} voxels are too large")
    return directory


def decode_block(content: bytes, raw_bytes: int) -> bytes:
    """Decompress a block.

    Args:
        content: The block as it is stored.
        raw_bytes: Size of its voxels.

    Raises:
        ValueError: It is not a block of this size; no more memory than that was used.
    """
    if len(content) < _BLOSC_HEADER.size:
        raise ValueError(f"its {len(content)} bytes are not Blosc data")
    *_, stated, _, compressed = _BLOSC_HEADER.unpack_from(content)
    if stated != raw_bytes or compressed != len(content):
        raise ValueError(
            f"expected {raw_bytes} bytes of voxels in {len(content)} bytes of Blosc, but its header"
            f" states {stated} in {compressed}"
        )
    try:
        voxels = bytes(imagecodecs.blosc_decode(content, numthreads=1, out=raw_bytes))
    except RuntimeError as error:  # the class of imagecodecs' own error
        raise ValueError(f"its Blosc data cannot be decoded ({error})") from error
    if len(voxels) != raw_bytes:
        raise ValueError(f"expected {raw_bytes} bytes of voxels, found {len(voxels)}")
    return voxels


def most_block_bytes(raw_bytes: int) -> int:
    """Return the most bytes that a block of voxels takes: Blosc stores what it cannot compress."""
    return raw_bytes + _MOST_OVERHEAD_BYTES
