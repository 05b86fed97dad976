"""Every other file below the data root."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.files import Files, FoundDirectory
from neurotrale.names import Parts
from neurotrale.resources.listing import redirect_to_directory
from neurotrale.resources.sending import send_found


class FileResource:
    """``/{file}``.

    Args:
        files: Where files are found.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def on_get(self, req: Request, resp: Response, file: Parts) -> None:
        """Send a file.
        ---
        summary: Any file
        description: >-
            The file's bytes, with ranges. A name that exists only as `.gz` or `.br` twin is sent
            from it, with its Content-Encoding if the client accepts that, else unpacked. A
            directory without its final slash is redirected to.
        tags: [Files]
        parameters: [File, Range, IfNoneMatch]
        responses:
            200:
                description: The file.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {'*/*': {}}
            206: PartialContent
            302:
                description: It is a directory; its page is behind the slash.
                headers: {Location: {schema: {type: string}}}
            304: NotModified
            403: Forbidden
            404: NotFound
            406: NotAcceptable
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.files.find(file)
        if isinstance(found, FoundDirectory):
            redirect_to_directory(req, resp)
        else:
            send_found(req, resp, self.files, found)
