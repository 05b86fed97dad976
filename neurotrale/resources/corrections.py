"""What people corrected, by URL."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.annotations.corrections import block_corrections
from neurotrale.annotations.places import Places
from neurotrale.names import Parts
from neurotrale.resources.times import time_parameter

NDJSON = "application/x-ndjson"


class CorrectionsResource:
    """``/{dataset}/annotations/corrections``.

    Args:
        places: Where annotation files are.
    """

    def __init__(self, places: Places) -> None:
        self.places = places

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Export what people changed, for training.
        ---
        summary: What people corrected, as JSON Lines
        description: >-
            One line for each annotation that a person added, changed, removed or reviewed, all its
            changes folded into one: `block`, `file`, `id`, `kind`, `first` and `last` content, `by`
            and `at` of the last change. Changes of the file by other programs are left out.
        tags: [History]
        parameters: [Dataset, Since, By]
        responses:
            200:
                description: One correction a line.
                content: {application/x-ndjson: {schema: {type: string}}}
            400: BadRequest
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        since, by = time_parameter(req, "since"), req.get_param("by") or None
        blocks = self.places.tree.directories((*dataset, "annotations"))
        resp.content_type = NDJSON
        resp.cache_control = ["no-cache"]
        if req.method != "HEAD":
            resp.stream = (
                found.line() for block in blocks for found in block_corrections(block, since, by)
            )
