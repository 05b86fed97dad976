"""What the pages show of a data set: facts, a picture, the way into the viewer."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.datasets.catalog import Catalog
from neurotrale.names import Parts
from neurotrale.pages.opening import opening_page
from neurotrale.resources.paging import root_of, send_page
from neurotrale.resources.sending import Version, send_bytes, send_found


class DatasetResource:
    """``/api/datasets/{dataset}``.

    Args:
        catalog: Knows the data sets.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Describe a data set.
        ---
        summary: What a data set is
        description: >-
            Its volume as `info` states it, with extents (x, y, z) in voxels and millimetres, and
            how many annotations of each kind it has, and how many are reviewed. What it does not
            have is null.
        tags: [Pages]
        parameters: [Dataset]
        responses:
            200:
                description: The facts.
                content: {application/json: {schema: {$ref: '#/components/schemas/Dataset'}}}
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        resp.media = self.catalog.summary(dataset)
        resp.cache_control = ["no-cache"]


class PreviewResource:
    """``/api/datasets/{dataset}/preview.png``.

    Args:
        catalog: Knows the data sets.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Send a picture of a data set.
        ---
        summary: A small picture
        description: >-
            The `preview.png` of the data set; else the plane through the middle of the coarsest
            scale.
        tags: [Pages]
        parameters: [Dataset, Range, IfNoneMatch]
        responses:
            200:
                description: The picture.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {image/png: {schema: {type: string, format: binary}}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.catalog.picture(dataset)
        if found is not None:
            send_found(req, resp, self.catalog.files, found)
        else:
            look = self.catalog.look(dataset)
            send_bytes(req, resp, look.png, Version(look.etag, look.mtime_s, "image/png"))


class OpenResource:
    """``/api/datasets/{dataset}/open``.

    Args:
        catalog: Knows the data sets.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Open a data set in the viewer.
        ---
        summary: Leads to the viewer
        description: >-
            A page that leads on to `/viewer/`, with a state that shows the whole volume in a
            fitting contrast, and its annotations as layers; with `in=ui` to `/ui/`, which brings
            its own way to show annotations.
        tags: [Pages]
        parameters:
            - Dataset
            - name: in
              in: query
              schema: {type: string, enum: [viewer, ui]}
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
        ui = req.get_param("in") == "ui"
        state = self.catalog.scene(dataset, annotations=not ui)
        viewer = "ui/" if ui else "viewer/"
        send_page(req, resp, opening_page("/".join(dataset), root_of(req), viewer, state))
