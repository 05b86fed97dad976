"""Keeping tokens out of logs."""

from __future__ import annotations

import re
from urllib.parse import unquote

MOST_ENCODINGS = 4
_IN_URL = re.compile(r"([/?&;]token[/=]+)[^/?&;=]+", re.IGNORECASE)


def hide_tokens(text: str) -> str:
    """Put *** in place of what stands in a URL where a token does, however it is encoded.

    Args:
        text: A path, or a path with its query.
    """
    if "%" not in text and "token" not in text.lower():
        return text
    plain = text
    for _ in range(MOST_ENCODINGS):
        plain = unquote(plain, "latin-1")
    hidden = _IN_URL.sub(r"\1***", plain)
    return text if hidden == plain else hidden
