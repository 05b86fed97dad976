"""Where a sharded scale keeps its chunks.

Source of the format: Neuroglancer, "Precomputed volume format", sharded storage
(``neuroglancer_uint64_sharded_v1``), with its compressed Morton code; MurmurHash3_x86_128 by
Austin Appleby for the hash.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.info import Triple
from neurotrale.errors import DamagedError

Ids = NDArray[np.uint64]
Coding = Literal["raw", "gzip"]

_MASK: Final = 0xFFFFFFFF
_C1, _C2, _C3 = 0x239B961B, 0xAB0E9789, 0x38B34AE5


class Sharding(msgspec.Struct, frozen=True):
    """What `info` says of the shards of a scale."""

    type: Literal["neuroglancer_uint64_sharded_v1"] = msgspec.field(name="@type")
    preshift_bits: int
    hash: Literal["identity", "murmurhash3_x86_128"]
    minishard_bits: int
    shard_bits: int
    minishard_index_encoding: Coding = "raw"
    data_encoding: Coding = "raw"

    def mistake(self) -> str:
        """Say what is wrong with it by itself; "" when nothing is."""
        bits = (self.preshift_bits, self.minishard_bits, self.shard_bits)
        if min(bits) < 0 or self.preshift_bits > 63 or self.minishard_bits + self.shard_bits > 64:
            return "the bits of its sharding are not from 0 to 64 together"
        return ""

    @property
    def index_bytes(self) -> int:
        """Size of the index at the start of a shard."""
        return 16 << self.minishard_bits

    def shard_name(self, number: int) -> str:
        """Name the file of a shard."""
        return f"{number:0{-(-self.shard_bits // 4)}x}.shard"

    def shard_number(self, name: str) -> int | None:
        """Tell which shard a file is; None when it is none of this scale's."""
        stem = name.removesuffix(".shard")
        try:
            number = int(stem, 16) if stem.isalnum() else -1
        except ValueError:
            return None
        fits = 0 <= number < 1 << self.shard_bits and name == self.shard_name(number)
        return number if fits else None

    def locate(self, ids: Ids) -> tuple[Ids, Ids]:
        """Give the numbers of shard and minishard in which chunks belong."""
        hashed = ids >> np.uint64(self.preshift_bits)
        if self.hash != "identity":
            hashed = _murmur(hashed)
        minishard = hashed & np.uint64((1 << self.minishard_bits) - 1)
        rest = hashed >> np.uint64(self.minishard_bits) if self.minishard_bits < 64 else hashed * 0
        return rest & np.uint64((1 << self.shard_bits) - 1), minishard


class _Scale(msgspec.Struct):
    sharding: Sharding | None = None


class _Info(msgspec.Struct):
    scales: list[_Scale]


_decoder = msgspec.json.Decoder(_Info)


def shardings(content: bytes) -> list[Sharding | None]:
    """Read from an `info` how each scale is sharded; None for one whose chunks are files.

    Raises:
        DamagedError: What it says cannot be understood.
    """
    try:
        return [scale.sharding for scale in _decoder.decode(content).scales]
    except msgspec.DecodeError as error:
        raise DamagedError("info", f"a mistake in 'sharding': {error}") from error


def positions(ids: Ids, grid: Triple) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Undo the compressed Morton code.

    Args:
        ids: Of chunks.
        grid: Chunks along x, y and z.

    Returns:
        The places along x, y and z; and which of them are in the grid.
    """
    places = [np.zeros(len(ids), np.int64) for _ in range(3)]
    used = 0
    for bit in range(max(n - 1 for n in grid).bit_length()):
        for axis in range(3):
            if 1 << bit < grid[axis]:
                one = (ids >> np.uint64(used)) & np.uint64(1)
                places[axis] |= one.astype(np.int64) << bit
                used += 1
    inside = (ids >> np.uint64(used)) == 0 if used < 64 else np.ones(len(ids), bool)
    for axis in range(3):
        inside &= places[axis] < grid[axis]
    return places, inside


def _murmur(keys: Ids) -> Ids:
    """Hash eight bytes each; the lower half of the 128 bits."""
    k1, k2 = keys & np.uint64(_MASK), keys >> np.uint64(32)
    h2 = _times(_rotated(_times(k2, _C2), 16), _C3)
    h1 = _times(_rotated(_times(k1, _C1), 15), _C2)
    length = np.uint64(8)
    h1, h2 = h1 ^ length, h2 ^ length
    h3 = np.full_like(h1, 8)
    h1 = _sum(h1, h2, h3, h3)
    h2, h3 = _sum(h2, h1), _sum(h3, h1)
    h1, h2, h3 = _mixed(h1), _mixed(h2), _mixed(h3)
    h1 = _sum(h1, h2, h3, h3)
    return h1 | (_sum(h2, h1) << np.uint64(32))


def _times(value: Ids, by: int) -> Ids:
    return (value * np.uint64(by)) & np.uint64(_MASK)


def _sum(*values: Ids) -> Ids:
    total = values[0]
    for value in values[1:]:
        total = (total + value) & np.uint64(_MASK)
    return total


def _rotated(value: Ids, by: int) -> Ids:
    return ((value << np.uint64(by)) | (value >> np.uint64(32 - by))) & np.uint64(_MASK)


def _mixed(value: Ids) -> Ids:
    value = _times(value ^ (value >> np.uint64(16)), 0x85EBCA6B)
    value = _times(value ^ (value >> np.uint64(13)), 0xC2B2AE35)
    return value ^ (value >> np.uint64(16))
