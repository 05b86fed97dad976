"""An index as bytes: a header, then its three arrays of numbers, all little-endian.

The header has the size and the ETag of the content that the index belongs to, and a checksum with a
key: so an index that is damaged, of another content, or made by somebody else is not used.
"""

from __future__ import annotations

import hmac
import mmap
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING

from neurotrale.annotations.documents.index import KEY_BYTES, MAX_INT32, Index
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

_MAGIC = b"neurotrale index"
_VERSION = 1
_CHECKSUM_BYTES = 16

# Magic, version, bytes of an offset, content size, annotations, ids, key of the hashes, ETag.
_HEAD = struct.Struct(f"<16sIIQQQ{KEY_BYTES}s16s")
_HEAD_BYTES = _HEAD.size + _CHECKSUM_BYTES


def pack_index(index: Index, etag: str, size: int, secret: bytes) -> list[bytes]:
    """Return an index as bytes, in pieces.

    Args:
        index: The index.
        etag: ETag of its content, 32 hexadecimal digits.
        size: Size of its content in bytes.
        secret: Key of the checksum.
    """
    width = 4 if size <= MAX_INT32 else 8
    head = _HEAD.pack(
        _MAGIC, _VERSION, width, size, len(index), len(index.hashed), index.key, bytes.fromhex(etag)
    )
    arrays = [
        index.hashed.astype("<u8", copy=False).tobytes(),
        index.starts.astype(f"<i{width}", copy=False).tobytes(),
        index.stops.astype(f"<i{width}", copy=False).tobytes(),
    ]
    return [head, _checksum(secret, head, *arrays), *arrays]


def unpack_index(stored: bytes | mmap.mmap, etag: str, size: int, secret: bytes) -> Index | None:
    """Return the index in bytes, which it refers to; None if they are not what was stored for it.

    Args:
        stored: The bytes; they must not change.
        etag: ETag of the content.
        size: Size of the content in bytes.
        secret: Key of the checksum.
    """
    view = memoryview(stored)
    if len(view) < _HEAD_BYTES:
        return None
    head, arrays = view[: _HEAD.size], view[_HEAD_BYTES:]
    magic, version, width, its_size, count, ids, key, its_etag = _HEAD.unpack(head)
    if (magic, version, its_size, its_etag) != (_MAGIC, _VERSION, size, bytes.fromhex(etag)):
        return None
    if width not in (4, 8) or len(arrays) != 8 * ids + 2 * width * count:
        return None
    if not hmac.compare_digest(view[_HEAD.size : _HEAD_BYTES], _checksum(secret, head, arrays)):
        return None
    hashed = np.frombuffer(arrays, "<u8", ids)
    starts = np.frombuffer(arrays, f"<i{width}", count, 8 * ids)
    stops = np.frombuffer(arrays, f"<i{width}", count, 8 * ids + width * count)
    index = Index(starts, stops, hashed, key)
    return index if index.is_possible(size) else None


def _checksum(secret: bytes, *parts: bytes | memoryview) -> bytes:
    checksum = blake2b(key=secret, digest_size=_CHECKSUM_BYTES)
    for part in parts:
        checksum.update(part)
    return checksum.digest()
