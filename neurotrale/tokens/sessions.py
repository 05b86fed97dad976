"""Sessions in URLs: ``/as/s-.../``, which tells one opened viewer from the others.

A session is a hint and no access right: whoever copies the link uses the same one. It is still
kept out of logs and pages, which show its label: with the session itself, anybody who reads them
could load and save as that viewer.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

SESSION = "neurotrale.session"
"""Key of the WSGI environment for the session of a request; absent if it has none."""

SESSION_PATTERN = "s-[A-Za-z0-9_-]{16}"
"""The one form of a session; anything else after ``/as/`` is the name of a file or directory."""

_RANDOM_BYTES = 12  # 16 characters of base64url
_SHOWN = 10  # hexadecimal digits of a label
# A longer name is no session, but may be one with something appended by mistake.
_IN_URL = re.compile(f"(/as/+)({SESSION_PATTERN})([A-Za-z0-9_-]*)")


def new_session() -> str:
    """Return a session that nobody has: ``s-`` and 96 random bits."""
    return f"s-{secrets.token_urlsafe(_RANDOM_BYTES)}"


def label_of(identity: str) -> str:
    """Return what journals, pages and logs show of an identity: a hash of it."""
    return sha256(identity.encode(errors="replace")).hexdigest()[:_SHOWN]


def hide_sessions(text: str) -> str:
    """Replace each session in a URL by its label."""
    if "/as/" not in text:
        return text
    return _IN_URL.sub(lambda match: match[1] + label_of(match[2]), text)
