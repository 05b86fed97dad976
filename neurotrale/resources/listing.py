"""Directory pages: lists of links that people and Neuroglancer's completion both read."""

from __future__ import annotations

from urllib.parse import quote

from falcon import Request, Response

from neurotrale.names import Parts
from neurotrale.pages.listing import directory_page, index_page
from neurotrale.resources.paging import root_of, send_page
from neurotrale.tree import Tree


class DirectoryResource:
    """``/{directory}/``.

    Args:
        tree: The data root.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def on_get(self, req: Request, resp: Response, directory: Parts) -> None:
        """List a directory.
        ---
        summary: List a directory
        description: >-
            An HTML page with a link for each visible entry. Links are relative and
            percent-encoded; those of directories end in a slash.
        tags: [Files]
        parameters: [Directory]
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
        entries = self.tree.entries(directory)
        title = "/" + "".join(f"{part}/" for part in directory)
        send_page(req, resp, directory_page(title, root_of(req), entries))


class IndexResource:
    """``/`` and ``/index.html``.

    Args:
        tree: The data root.
        viewer: Whether there is a viewer that opens data sets.
        ui: Whether there is another one, too.
    """

    def __init__(self, tree: Tree, *, viewer: bool = False, ui: bool = False) -> None:
        self.tree = tree
        self.viewer = viewer
        self.ui = ui

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the data sets and the other entries of the data root.
        ---
        summary: The data sets
        description: An HTML page with a link for each data set, nested ones too, and each entry.
        tags: [Files]
        responses:
            200:
                description: The page.
                content: {text/html: {schema: {type: string}}}
            403: Forbidden
            404: NotFound
            500: Damaged
            503: Busy
        """
        entries = self.tree.entries(())
        datasets = self.tree.datasets()
        pieces = index_page(datasets, entries, viewer=self.viewer, ui=self.ui)
        send_page(req, resp, pieces)


def redirect_to_directory(req: Request, resp: Response) -> None:
    """Send a client that forgot the slash to the directory, keeping the query string.

    The location is relative, so that it holds behind proxies and path prefixes.
    """
    last = req.path.rstrip("/").rpartition("/")[2]
    query = f"?{req.query_string}" if req.query_string else ""
    resp.status = "302 Found"
    resp.set_header("Location", f"./{quote(last)}/{query}")
    resp.cache_control = ["no-cache"]
