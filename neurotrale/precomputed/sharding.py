"""Sharded scales: which shard and minishard holds a chunk.

Source of the format: Neuroglancer, "Precomputed volume format", sharded storage
(``neuroglancer_uint64_sharded_v1``), with its compressed Morton code; MurmurHash3_x86_128 by
Austin Appleby for the hash.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from neurotrale.errors import DamagedError
from neurotrale.precomputed.info import Scale, Triple

Ids = NDArray[np.uint64]
Coding = Literal["raw", "gzip"]

_MASK: Final = 0xFFFFFFFF
_C1, _C2, _C3 = 0x239B961B, 0xAB0E9789, 0x38B34AE5


class Sharding(msgspec.Struct, frozen=True):
    """The `sharding` member of a scale in `info`."""

    type: Literal["neuroglancer_uint64_sharded_v1"] = msgspec.field(name="@type")
    preshift_bits: int
    hash: Literal["identity", "murmurhash3_x86_128"]
    minishard_bits: int
    shard_bits: int
    minishard_index_encoding: Coding = "raw"
    data_encoding: Coding = "raw"

    def problem(self) -> str:
        """Return the reason why these numbers are invalid; "" if they are valid."""
        bits = (self.preshift_bits, self.minishard_bits, self.shard_bits)
        if min(bits) < 0 or self.preshift_bits > 63 or self.minishard_bits + self.shard_bits > 64:
            return "preshift_bits must be 0 to 63, and minishard_bits + shard_bits 0 to 64"
        return ""

    @property
    def index_bytes(self) -> int:
        """Size of the index at the start of a shard."""
        return 16 << self.minishard_bits

    def shard_name(self, number: int) -> str:
        """Return the file name of a shard."""
        return f"{number:0{-(-self.shard_bits // 4)}x}.shard"

    def shard_number(self, name: str) -> int | None:
        """Return the number of the shard in a file; None if it is not a shard of this scale."""
        stem = name.removesuffix(".shard")
        try:
            number = int(stem, 16) if stem.isalnum() else -1
        except ValueError:
            return None
        is_shard = 0 <= number < 1 << self.shard_bits and name == self.shard_name(number)
        return number if is_shard else None

    def locate(self, ids: Ids) -> tuple[Ids, Ids]:
        """Return the numbers of the shard and the minishard of each chunk."""
        hashed = ids >> np.uint64(self.preshift_bits)
        if self.hash != "identity":
            hashed = _murmur(hashed)
        minishard = hashed & np.uint64((1 << self.minishard_bits) - 1)
        rest = hashed >> np.uint64(self.minishard_bits) if self.minishard_bits < 64 else hashed * 0
        return rest & np.uint64((1 << self.shard_bits) - 1), minishard


def sharding_of(scale: Scale) -> Sharding | None:
    """Return the sharding of a scale; None if its chunks are files.

    Raises:
        DamagedError: The sharding is malformed.
    """
    try:
        return msgspec.convert(scale.sharding, Sharding | None)
    except msgspec.ValidationError as error:
        raise DamagedError(
            "info", f"the 'sharding' of the scale {scale.key!r} is malformed: {error}"
        ) from error


def positions(ids: Ids, grid: Triple) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Decode compressed Morton codes.

    Args:
        ids: The ids of chunks.
        grid: The number of chunks along x, y and z.

    Returns:
        The positions along x, y and z; and whether each is in the grid.
    """
    axes = [np.zeros(len(ids), np.int64) for _ in range(3)]
    used = 0
    for bit in range(max(n - 1 for n in grid).bit_length()):
        for axis in range(3):
            if 1 << bit < grid[axis]:
                value = (ids >> np.uint64(used)) & np.uint64(1)
                axes[axis] |= value.astype(np.int64) << bit
                used += 1
    inside = (ids >> np.uint64(used)) == 0 if used < 64 else np.ones(len(ids), bool)
    for axis in range(3):
        inside &= axes[axis] < grid[axis]
    return axes, inside


def _murmur(keys: Ids) -> Ids:
    """Hash keys of eight bytes; return the lower 64 of the 128 bits."""
    k1, k2 = keys & np.uint64(_MASK), keys >> np.uint64(32)
    h2 = _multiply(_rotate_left(_multiply(k2, _C2), 16), _C3)
    h1 = _multiply(_rotate_left(_multiply(k1, _C1), 15), _C2)
    length = np.uint64(8)
    h1, h2 = h1 ^ length, h2 ^ length
    h3 = np.full_like(h1, 8)
    h1 = _add(h1, h2, h3, h3)
    h2, h3 = _add(h2, h1), _add(h3, h1)
    h1, h2, h3 = _finalize(h1), _finalize(h2), _finalize(h3)
    h1 = _add(h1, h2, h3, h3)
    return h1 | (_add(h2, h1) << np.uint64(32))


def _multiply(value: Ids, factor: int) -> Ids:
    return (value * np.uint64(factor)) & np.uint64(_MASK)


def _add(*values: Ids) -> Ids:
    total = values[0]
    for value in values[1:]:
        total = (total + value) & np.uint64(_MASK)
    return total


def _rotate_left(value: Ids, bits: int) -> Ids:
    return ((value << np.uint64(bits)) | (value >> np.uint64(32 - bits))) & np.uint64(_MASK)


def _finalize(value: Ids) -> Ids:
    value = _multiply(value ^ (value >> np.uint64(16)), 0x85EBCA6B)
    value = _multiply(value ^ (value >> np.uint64(13)), 0xC2B2AE35)
    return value ^ (value >> np.uint64(16))
