"""Times as the journals write them: ISO 8601 in UTC, to the millisecond, so that text sorts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from neurotrale.errors import BadInputError


def format_time(when: datetime) -> str:
    """Write a time that knows its zone."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str, name: str) -> str:
    """Bring an ISO 8601 time (UTC where it names no zone) to the journal's spelling.

    Args:
        text: The time.
        name: What to call it in the error.

    Raises:
        BadInputError: It is no time.
    """
    try:
        # In a query string '+' arrives as a space.
        when = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
        return format_time(when if when.tzinfo else when.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise BadInputError(
            f"{name}={text!r} is no time; expected ISO 8601, such as 2026-11-22T09:30:00Z."
        ) from None
