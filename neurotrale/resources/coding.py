"""Compression on the wire: when it pays, with what."""

from __future__ import annotations

from typing import Literal

from falcon import Request

from neurotrale.codings import CODINGS, pack
from neurotrale.resources.negotiation import may_encode

CompressMode = Literal["auto", "none", "gzip", "zstd"]
Kind = Literal["image", "labels", "text"]

# Below this the headers weigh more than what is saved.
SMALLEST_BYTES = 1024


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

    def code(
        self, req: Request, body: bytes | bytearray, kind: Kind
    ) -> tuple[bytes | bytearray, str]:
        """Compress a body if it pays and the request allows it.

        Returns:
            The body to send, and its content coding ("" for none).
        """
        if len(body) < SMALLEST_BYTES or (kind == "image" and not self._images):
            return body, ""
        coding = next((coding for coding in self._codings if may_encode(req, coding)), "")
        return (pack(body, coding), coding) if coding else (body, "")
