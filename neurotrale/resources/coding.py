"""Compression on the wire: when it pays, with what."""

from __future__ import annotations

from typing import Literal

import imagecodecs
from falcon import Request
from isal import isal_zlib

from neurotrale.resources.negotiation import may_encode

CompressMode = Literal["auto", "none", "gzip", "zstd"]
Kind = Literal["image", "labels", "text"]

# What a body may be coded in; of two that a client takes, the first is sent.
CODINGS = ("zstd", "gzip")
# Below this the headers weigh more than what is saved.
SMALLEST_BYTES = 1024
_LEVEL = 1
_GZIP_WBITS = 31


class Coder:
    """Compresses bodies for clients that take it.

    Args:
        mode: ``gzip`` or ``zstd`` compress everything with that; ``none`` nothing; ``auto``
            compresses label volumes and text, which shrink many times over, and leaves images
            alone, whose noise does not.
    """

    def __init__(self, mode: CompressMode = "auto") -> None:
        self._codings = CODINGS if mode == "auto" else tuple(c for c in CODINGS if c == mode)
        self._images = mode != "auto"

    def code(self, req: Request, body: bytes, kind: Kind) -> tuple[bytes, str]:
        """Compress a body if it pays and the request allows it.

        Returns:
            The body to send, and its content coding ("" for none).
        """
        if len(body) < SMALLEST_BYTES or (kind == "image" and not self._images):
            return body, ""
        coding = next((coding for coding in self._codings if may_encode(req, coding)), "")
        if coding == "zstd":
            return bytes(imagecodecs.zstd_encode(body, _LEVEL)), coding
        if coding == "gzip":
            return isal_zlib.compress(body, _LEVEL, _GZIP_WBITS), coding
        return body, ""
