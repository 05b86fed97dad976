"""Who makes a change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change.

    Attributes:
        name: The name that belongs to the token, or the address, or the user's name.
        source: The client's address, or ``command line``.
    """

    name: str = ""
    source: str = ""
