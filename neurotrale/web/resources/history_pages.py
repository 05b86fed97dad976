"""Resources for the history of whole datasets: the history pages, and corrections for training."""

from __future__ import annotations

import falcon
from falcon import Request, Response

from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.annotations.journals.corrections import block_corrections, check_journals
from neurotrale.storage.names import AnnotationName, Parts
from neurotrale.tokens import MAY_WRITE
from neurotrale.web.pages import files_page, history_page
from neurotrale.web.requests import time_parameter
from neurotrale.web.resources.annotations import resolve_block
from neurotrale.web.resources.datasets import CatalogResource
from neurotrale.web.responses import root_href, send_page, send_stream


class FilesPageResource(CatalogResource):
    """``/api/datasets/{dataset}/history``."""

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Show the annotation files of a dataset.
        ---
        summary: Annotation files, as a page
        description: A page with a link to the history of each annotation file.
        tags: [Pages]
        parameters: [Dataset]
        responses:
            200: {description: The page., content: [text/html]}
        """
        files = self.catalog.annotation_files(dataset)
        send_page(req, resp, files_page("/".join(dataset), root_href(req), files))


@falcon.before(resolve_block)
class HistoryPageResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/history/``.

    Args:
        files: Finds annotation files.
        read_only: Whether writes are refused.
    """

    def __init__(self, files: AnnotationFiles, *, read_only: bool) -> None:
        self.files = files
        self.blocks = files.blocks
        self.read_only = read_only

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Show the changes of a file.
        ---
        summary: Changes, as a page
        description: >-
            A page that shows who changed what, and when. Users with write access can restore
            earlier states and confirm removals that were held back.
        tags: [Pages]
        parameters: [Dataset, Block, Leaf]
        responses:
            200: {description: The page., content: [text/html]}
        """
        file = self.files.recorded(name)
        may_write = not self.read_only and req.env.get(MAY_WRITE, True)
        dataset = "/".join(name.dataset)
        send_page(
            req, resp, history_page(file.display_path, root_href(req), dataset, may_write=may_write)
        )


NDJSON = "application/x-ndjson"


class CorrectionsResource:
    """``/{dataset}/annotations/corrections``.

    Args:
        files: Finds annotation files.
    """

    def __init__(self, files: AnnotationFiles) -> None:
        self.files = files

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Export the corrections that people made, for training.
        ---
        summary: Corrections, as JSON Lines
        description: >-
            One line for each annotation that a person added, changed, removed or reviewed, with all
            its changes folded into one: `block`, `file`, `id`, `kind`, `first` and `last` content,
            `by` and `at` of the last change. Changes made by other programs are left out.
        tags: [History]
        parameters: [Dataset, Since, By]
        responses:
            200: {description: One correction per line., content: [application/x-ndjson]}
            400: BadRequest
        """
        since, by = time_parameter(req, "since"), req.get_param("by") or None
        blocks = [
            self.files.data_root.path(block) for block in self.files.block_directories(dataset)
        ]
        for block in blocks:  # now: once the response has begun, an error can only cut it off
            check_journals(block, since)
        resp.content_type = NDJSON
        resp.cache_control = ["no-cache"]
        if req.method != "HEAD":
            lines = (
                correction.line()
                for block in blocks
                for correction in block_corrections(block, since, by)
            )
            send_stream(resp, lines)
