"""Pages about the past of annotations."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.annotations.places import Places
from neurotrale.datasets.catalog import Catalog
from neurotrale.names import AnnotationName, Parts
from neurotrale.pages.past import files_page, history_page
from neurotrale.resources.paging import root_of, send_page
from neurotrale.tokens import MAY_WRITE


class FilesPageResource:
    """``/api/datasets/{dataset}/history``.

    Args:
        catalog: Knows the data sets.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Show the annotation files of a data set.
        ---
        summary: Annotation files, as a page
        description: A page with a link to the history of each annotation file.
        tags: [Pages]
        parameters: [Dataset]
        responses:
            200:
                description: The page.
                content: {text/html: {schema: {type: string}}}
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        files = self.catalog.annotation_files(dataset)
        send_page(req, resp, files_page("/".join(dataset), root_of(req), files))


class HistoryPageResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/history/``.

    Args:
        places: Where annotation files are.
        read_only: Whether all changes are refused.
    """

    def __init__(self, places: Places, *, read_only: bool) -> None:
        self.places = places
        self.read_only = read_only

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Show the changes of a file.
        ---
        summary: Changes, as a page
        description: >-
            A page that shows who changed what, and when; who may write can bring back from there
            what was, and confirm removals that were held back.
        tags: [Pages]
        parameters: [Dataset, Block, Leaf]
        responses:
            200:
                description: The page.
                content: {text/html: {schema: {type: string}}}
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        place = self.places.recorded(name)
        may_write = not self.read_only and req.env.get(MAY_WRITE, True)
        dataset = "/".join(name.dataset)
        send_page(req, resp, history_page(place.what, root_of(req), dataset, may_write=may_write))
