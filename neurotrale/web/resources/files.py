"""Resources for directories and for every other file below the data root."""

from __future__ import annotations

from urllib.parse import quote

from falcon import Request, Response

from neurotrale.precomputed.info import info_in_voxels
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files, StoredDirectory
from neurotrale.storage.names import Parts
from neurotrale.tokens import MAY_WRITE
from neurotrale.web.origins import WritingPages
from neurotrale.web.pages import directory_page, index_page
from neurotrale.web.prefixes import VOXELS, outer_href
from neurotrale.web.responses import (
    ContentVersion,
    root_href,
    sandbox,
    send_bytes,
    send_page,
    send_stored_file,
)


class DirectoryResource:
    """``/{directory}/``: links that people and Neuroglancer's completion both read.

    Args:
        data_root: The data root.
    """

    def __init__(self, data_root: DataRoot) -> None:
        self.data_root = data_root

    def on_get(self, req: Request, resp: Response, directory: Parts) -> None:
        """List a directory.
        ---
        summary: List a directory
        description: >-
            An HTML page with a link for each visible entry. Links are relative and
            percent-encoded; those to directories end in a slash.
        tags: [Files]
        parameters: [Directory]
        responses:
            200: {description: The page., content: [text/html]}
        """
        entries = self.data_root.entries(directory)
        title = "/" + "".join(f"{part}/" for part in directory)
        send_page(req, resp, directory_page(title, root_href(req), entries))


class IndexResource:
    """``/`` and ``/index.html``.

    Args:
        data_root: The data root.
        viewer: Whether a viewer is installed.
        ui: Whether a second user interface is hosted.
        read_only: Whether writes are refused.
        pages: Which pages may write; None if all may.
    """

    def __init__(
        self,
        data_root: DataRoot,
        *,
        viewer: bool = False,
        ui: bool = False,
        read_only: bool,
        pages: WritingPages | None = None,
    ) -> None:
        self.data_root = data_root
        self.read_only = read_only
        self.viewer = viewer
        self.ui = ui
        self.pages = pages

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the datasets and the other entries of the data root.
        ---
        summary: The datasets
        description: >-
            An HTML page with a link to each dataset, also nested ones, and each entry. It names the
            origins of web pages whose saves were refused.
        tags: [Files]
        responses:
            200: {description: The page., content: [text/html]}
        """
        entries = self.data_root.entries(())
        datasets = self.data_root.datasets()
        may_write = not self.read_only and req.env.get(MAY_WRITE, True)
        page = index_page(
            datasets,
            entries,
            viewer=self.viewer,
            ui=self.ui,
            may_write=may_write,
            outer=outer_href(req),
            refused={} if self.pages is None else self.pages.refused_lately(),
        )
        send_page(req, resp, page)


def redirect_to_directory(req: Request, resp: Response) -> None:
    """Redirect to the URL with a trailing slash, keeping the query string.

    The location is relative, so that it works behind proxies and path prefixes.
    """
    last = req.path.rstrip("/").rpartition("/")[2]
    query = f"?{req.query_string}" if req.query_string else ""
    resp.status = "302 Found"
    resp.set_header("Location", f"./{quote(last)}/{query}")
    resp.cache_control = ["no-cache"]


class VolumeInfoResource:
    """``/{dataset}/info``.

    Args:
        files: The files below the data root.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Send the description of a volume.
        ---
        summary: Description of a volume
        description: >-
            The `info` file as it is. Below `/as/{session}/voxels` the `resolution` of its scales is
            in voxels of the first one, so that 1 nm is one voxel, and `comment` says so.
        tags: [Files]
        parameters: [Dataset, Range, IfNoneMatch]
        responses:
            200:
                description: The file.
                content: {application/json: {schema: {type: object}}}
            302:
                description: A directory; its page has a trailing slash.
                headers: {Location: {schema: {type: string}}}
            406: NotAcceptable
        """
        found = self.files.find((*dataset, "info"))
        if isinstance(found, StoredDirectory):
            redirect_to_directory(req, resp)
        elif VOXELS not in req.env:
            send_stored_file(req, resp, self.files, found)
        else:
            sandbox(resp)
            with self.files.open(found) as stream:
                stored = stream.read() if not found.coding else self.files.decompress(found)
            etag, date_s = f"{found.stamp.etag}-voxels", found.stamp.date_s
            version = ContentVersion(etag, date_s, found.media_type)
            send_bytes(req, resp, info_in_voxels(stored, found.name), version)


class FileResource:
    """``/{file}``.

    Args:
        files: The files below the data root.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def on_get(self, req: Request, resp: Response, file: Parts) -> None:
        """Send a file.
        ---
        summary: Any file
        description: >-
            The bytes of the file; ranges are supported. If only a `.gz` or `.br` twin exists, the
            twin is sent with its Content-Encoding if the client accepts that, else decompressed. A
            directory is redirected to its URL with a trailing slash.
        tags: [Files]
        parameters: [File, Range, IfNoneMatch]
        responses:
            200: {description: The file., content: [application/octet-stream, '*/*']}
            302:
                description: A directory; its page has a trailing slash.
                headers: {Location: {schema: {type: string}}}
            406: NotAcceptable
        """
        found = self.files.find(file)
        if isinstance(found, StoredDirectory):
            redirect_to_directory(req, resp)
        else:
            send_stored_file(req, resp, self.files, found)
