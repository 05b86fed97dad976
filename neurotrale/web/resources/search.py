"""Searches: the query parameters that select annotations, and the search of a whole dataset."""

from __future__ import annotations

from dataclasses import dataclass

from falcon import Request, Response

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.layers.spatial_index import CoordinateSpace, CoordinateSpaces
from neurotrale.queries.formats import Format, buffered, find_format
from neurotrale.queries.query import EVERYTHING, AnnotationQuery, search_files
from neurotrale.storage.names import Parts
from neurotrale.web.requests import single_param
from neurotrale.web.responses import send_stream


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """The annotations that a request selects, and their format.

    Attributes:
        query: Selects annotations.
        format: Name of the output format; "" for the default of the URL.
    """

    query: AnnotationQuery
    format: str

    def format_or(self, default: str) -> Format:
        """Return the requested format, or the default one.

        Raises:
            BadInputError: There is no format with this name.
        """
        return find_format(self.format or default)

    def etag(self, space: CoordinateSpace, path: str) -> str:
        """Return an ETag that distinguishes the results of searches in the same content.

        Args:
            space: The coordinate space of the dataset.
            path: Block and name of the file, which some formats write into each line.
        """
        key = repr((self.format, self.query.key, space, path))
        return etag_of(key.encode(errors="replace"))[:16]


def parse_search(req: Request) -> SearchParameters | None:
    """Parse the search parameters of a request; None if it has none.

    Raises:
        BadInputError: A parameter is malformed or repeated.
    """
    query = AnnotationQuery.parse(
        single_param(req, "bbox"),
        req.get_param_as_list("anntype") or (),
        req.get_param_as_list("type") or (),
        single_param(req, "reviewed"),
    )
    format_ = single_param(req, "format")
    if format_ is not None:
        find_format(format_)
    if format_ is None and query == EVERYTHING:
        return None
    return SearchParameters(query, format_ or "")


class SearchResource:
    """``/{dataset}/annotations/search``.

    Args:
        files: Finds annotation files.
        spaces: The coordinate spaces of datasets.
    """

    def __init__(self, files: AnnotationFiles, spaces: CoordinateSpaces) -> None:
        self.files = files
        self.spaces = spaces

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Stream the matching annotations of all blocks.
        ---
        summary: Search the annotations of all blocks
        description: >-
            The annotations that match all of `bbox`, `anntype`, `type` and `reviewed`; without any
            of them, all annotations. JSON Lines unless `format` says otherwise: each line has
            `block`, `file` and `annotation`. A damaged file gets a line with `error` instead.
        tags: [Annotations]
        parameters: [Dataset, Bbox, Anntype, Type, Reviewed, Format]
        responses:
            200:
                description: One annotation per line.
                content:
                    application/x-ndjson: {schema: {type: string}}
                    application/json: {schema: {type: array, items: {}}}
                    text/csv: {schema: {type: string}}
                    text/plain: {schema: {type: string}}
            400: BadRequest
        """
        search = parse_search(req) or SearchParameters(EVERYTHING, "")
        format_ = search.format_or("jsonl")
        space = self.spaces.of(dataset)
        format_.check(space)
        hits = search_files(self.files.in_dataset(dataset), search.query)
        resp.content_type = format_.media_type
        resp.cache_control = ["no-cache"]
        if req.method != "HEAD":
            send_stream(resp, buffered(format_.write(hits, space)))
