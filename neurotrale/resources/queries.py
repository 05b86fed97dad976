"""Which annotations a request asks for, and in which format."""

from __future__ import annotations

from dataclasses import dataclass

from falcon import Request

from neurotrale.annotations.content import etag_of
from neurotrale.errors import BadInputError
from neurotrale.layers.space import Space
from neurotrale.queries.formats import Format, format_named
from neurotrale.queries.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Query:
    """What a request asks for.

    Attributes:
        wanted: Which annotations.
        format: In which format; "" for that of the URL.
    """

    wanted: Wanted
    format: str

    def format_or(self, usual: str) -> Format:
        """Give the format that is asked for, or the usual one.

        Raises:
            BadInputError: There is none of this name.
        """
        return format_named(self.format or usual)

    def etag(self, space: Space) -> str:
        """What tells the answer from those to other queries of the same content."""
        return etag_of(repr((self.format, self.wanted.name, space)).encode(errors="replace"))[:16]


def query_of(req: Request) -> Query | None:
    """Read a query; None when a request asks for nothing but the file.

    Raises:
        BadInputError: It cannot be understood.
    """
    wanted = Wanted.parse(
        _once(req, "bbox"),
        req.get_param_as_list("anntype") or (),
        req.get_param_as_list("type") or (),
        _once(req, "reviewed"),
    )
    format_ = _once(req, "format")
    if format_ is not None:
        format_named(format_)
    return None if format_ is None and wanted == Wanted() else Query(wanted, format_ or "")


def _once(req: Request, name: str) -> str | None:
    values = req.get_param_as_list(name) or []
    if len(values) > 1:
        raise BadInputError(f"The query has {name} more than once.")
    return values[0] if values else None
