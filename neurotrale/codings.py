"""Content codings: packing bodies for the wire, and unpacking files that are stored packed."""

from __future__ import annotations

import gzip
import io
import zlib

import imagecodecs
from isal import isal_zlib

# What a body may be packed with; of two that a client takes, the first is sent.
CODINGS = ("zstd", "gzip")

# The cheapest levels: noisy images shrink hardly more with higher ones.
_LEVEL = 1
_GZIP_WBITS = 31


def pack(body: bytes | bytearray, coding: str) -> bytes:
    """Pack a body with ``gzip`` or ``zstd``."""
    if coding == "zstd":
        return bytes(imagecodecs.zstd_encode(body, _LEVEL))
    return isal_zlib.compress(body, _LEVEL, _GZIP_WBITS)


def unpack(packed: bytes, coding: str, most_bytes: int) -> bytes:
    """Unpack what was packed with ``gzip`` or ``br``.

    Args:
        packed: The packed bytes.
        coding: Their coding.
        most_bytes: Unpack gzip no further than to one byte more than this.

    Raises:
        ValueError: They are not of this coding.
    """
    try:
        if coding == "br":
            return bytes(imagecodecs.brotli_decode(packed))
        if not packed:  # for the module that is a valid file of no content
            raise EOFError("the file is empty")
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            return stream.read(most_bytes + 1)
    except (imagecodecs.BrotliError, OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
