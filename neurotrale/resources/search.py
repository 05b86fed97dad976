"""Annotations of all blocks of a data set, by URL."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.annotations.places import Places
from neurotrale.layers.space import Spaces
from neurotrale.names import Parts
from neurotrale.queries.formats import gathered
from neurotrale.queries.found import found_in_all
from neurotrale.queries.wanted import EVERYTHING
from neurotrale.resources.queries import Query, query_of


class SearchResource:
    """``/{dataset}/annotations/search``.

    Args:
        places: Where annotation files are.
        spaces: The coordinates of data sets.
    """

    def __init__(self, places: Places, spaces: Spaces) -> None:
        self.places = places
        self.spaces = spaces

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Send annotations of all blocks, as they are found.
        ---
        summary: Annotations of all blocks
        description: >-
            The annotations that are all of `bbox`, `anntype`, `type` and `reviewed`; all of them
            without. As JSON Lines, unless `format` says otherwise: a line has `block`, `file` and
            `annotation`. A file that is damaged has a line with `error` instead.
        tags: [Annotations]
        parameters: [Dataset, Bbox, Anntype, Type, Reviewed, Format]
        responses:
            200:
                description: One annotation a line.
                content:
                    application/x-ndjson: {schema: {type: string}}
                    application/json: {schema: {type: array, items: {}}}
                    text/csv: {schema: {type: string}}
                    text/plain: {schema: {type: string}}
            400: BadRequest
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        query = query_of(req) or Query(EVERYTHING, "")
        format_ = query.format_or("jsonl")
        space = self.spaces.of(dataset)
        format_.check(space)
        found = found_in_all(self.places.every(dataset), query.wanted)
        resp.content_type = format_.media_type
        resp.cache_control = ["no-cache"]
        if req.method != "HEAD":
            resp.stream = gathered(format_.write(found, space))
