"""Times in query strings."""

from __future__ import annotations

from falcon import Request

from neurotrale.times import parse_time


def time_parameter(req: Request, name: str) -> str | None:
    """Read a time from the query, as the journal writes times.

    Raises:
        BadInputError: It is no ISO 8601 time.
    """
    text = req.get_param(name)
    return parse_time(text, name) if text else None
