"""Resources for datasets."""

from __future__ import annotations

from contextlib import suppress

import falcon
from falcon import Request, Response

from neurotrale.annotations.journals.changes import Preconditions, WriteContext
from neurotrale.annotations.store import AnnotationStore
from neurotrale.datasets.catalog import FIRST_BLOCK, Catalog
from neurotrale.errors import ChangedError
from neurotrale.storage.names import AnnotationName, Parts
from neurotrale.tokens.sessions import new_session
from neurotrale.web.pages import OpenedViewer, viewer_redirect_page
from neurotrale.web.prefixes import outer_href
from neurotrale.web.responses import (
    ContentVersion,
    root_href,
    send_bytes,
    send_page,
    send_stored_file,
)
from neurotrale.web.viewers import write_context
from neurotrale.web.webapps import Bundle


class CatalogResource:
    """A resource that describes datasets.

    Args:
        catalog: The catalog of datasets.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog


class DatasetResource(CatalogResource):
    """``/api/datasets/{dataset}``."""

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Describe a dataset.
        ---
        summary: Describe a dataset
        description: >-
            The volume as `info` states it, with extents (x, y, z) in voxels and millimetres, and
            how many annotations of each kind there are and how many of them are reviewed. Absent
            parts are null. A dataset of many blocks is counted in the background; until that is
            done, `counting` says how far it is, and the numbers are those of the blocks until then.
        tags: [Pages]
        parameters: [Dataset]
        responses:
            200: {description: The dataset., content: Dataset}
        """
        resp.media = self.catalog.summary(dataset)
        resp.cache_control = ["no-cache"]


class PreviewResource(CatalogResource):
    """``/api/datasets/{dataset}/preview.png``."""

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Send a small picture of a dataset.
        ---
        summary: A small picture
        description: >-
            The `preview.png` of the dataset; else the plane through the middle of the coarsest
            scale.
        tags: [Pages]
        parameters: [Dataset, Range, IfNoneMatch]
        responses:
            200: {description: The picture., content: [image/png]}
        """
        file = self.catalog.preview_file(dataset)
        if file is not None:
            send_stored_file(req, resp, self.catalog.files, file)
        else:
            rendering = self.catalog.thumbnail(dataset)
            version = ContentVersion(rendering.etag, None, "image/png")
            send_bytes(req, resp, rendering.png, version)


class OpenResource:
    """``/api/datasets/{dataset}/open``.

    Args:
        catalog: The catalog of datasets.
        ui: The user interface of ``--ui``; None if there is none.
    """

    def __init__(self, catalog: Catalog, ui: Bundle | None) -> None:
        self.catalog = catalog
        self.ui = ui

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Open a dataset in the viewer.
        ---
        summary: Redirects to the viewer
        description: >-
            A page that redirects to `/viewer/` with a state that shows the whole volume with
            suitable contrast, and its annotations as layers; with `in=ui` to `/ui/`, which shows
            annotations in its own way and names their files by voxels. Viewer and sources are below
            a new session each time, `/as/{session}/`, which tells the tabs of people apart.
        tags: [Pages]
        parameters:
            - Dataset
            - name: in
              in: query
              schema: {type: string, enum: [viewer, ui]}
        responses:
            200: {description: The page., content: [text/html]}
        """
        in_ui = req.get_param("in") == "ui"
        # A directory of this name in the data root is served instead.
        voxels = in_ui and self.catalog.data_root.status(("voxels",)) is None
        plain = in_ui and self.ui is not None and not self.ui.mentions("invlerp")
        state = self.catalog.viewer_state(
            dataset, annotations=not in_ui, voxels=voxels, plain=plain
        )
        opened = OpenedViewer("ui/" if in_ui else "viewer/", state, voxels, saves=in_ui)
        send_page(
            req,
            resp,
            viewer_redirect_page(
                "/".join(dataset), root_href(req), outer_href(req), new_session(), opened
            ),
        )
        resp.cache_control = ["no-store"]  # a copy would have the same session


class StartResource:
    """``/api/datasets/{dataset}/start``.

    Args:
        catalog: The catalog of datasets.
        store: The annotation store.
    """

    def __init__(self, catalog: Catalog, store: AnnotationStore) -> None:
        self.catalog = catalog
        self.store = store

    def on_post(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Start annotating a dataset.
        ---
        summary: Create empty annotation files
        description: >-
            Creates the annotation files that the user interface of NeuroTrALE asks for first, each
            an empty array, in a dataset that has none; without them it shows no layers to draw in.
            Each is recorded as a change. The request has a Content-Type that no form can send.
        tags: [Annotations]
        parameters: [Dataset]
        requestBody: {required: true, content: {application/json: {schema: {type: object}}}}
        responses: {201: Started, 400: BadRequest, 409: Conflict, 415: UnsupportedMediaType}
        """
        # Not as a viewer's save, which says what changed. Several writes in one request: this
        # thread waits for each. A file that somebody else creates in this moment is kept.
        context = WriteContext(write_context(req).author, Preconditions(absent=True))
        created = []
        for url in self.catalog.first_annotation_files(dataset):
            block = self.store.files.blocks.for_viewer(dataset, url.block or FIRST_BLOCK)
            with suppress(ChangedError):
                name = AnnotationName(dataset, block, url.leaf)
                created.append(self.store.put(name, b"[]", context).filename)
        resp.media = {"created": created}
        resp.status = falcon.HTTP_201
        resp.cache_control = ["no-cache"]
