"""Directory pages: lists of links that people and Neuroglancer's completion both read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from html import escape
from itertools import chain, islice
from urllib.parse import quote

from falcon import Request, Response

from neurotrale.names import Parts
from neurotrale.tree import Entry, Tree

# Directories up to this size are shown sorted; larger ones as the file system gives them, so that
# neither memory nor the first byte waits for a hundred thousand chunks.
SORTED_ENTRIES = 20_000
ENTRIES_PER_WRITE = 512
# The picture that ingest draws of a data set.
PREVIEW = "preview.png"

_STYLE = """\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{margin:2rem auto;max-width:60rem;padding:0 1rem}
h1{font-size:1.3rem;overflow-wrap:anywhere}h2{font-size:1rem;margin-top:2rem}
ul{list-style:none;padding:0}li{padding:.1rem 0}a{overflow-wrap:anywhere}
img{height:6rem;max-width:100%;margin:.3rem .8rem .3rem 0;vertical-align:middle}
footer{margin-top:2rem;font-size:.85rem;opacity:.7}"""

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
"""


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
        _send(req, resp, title, directory_page(entries))


class IndexResource:
    """``/`` and ``/index.html``.

    Args:
        tree: The data root.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

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
        entries, datasets = self.tree.entries(()), self.tree.datasets()
        pictured = {name for name in datasets if self.tree.has_file((*name.split("/"), PREVIEW))}
        _send(req, resp, "Data sets", index_page(datasets, entries, pictured))


def _send(req: Request, resp: Response, title: str, body: Iterator[str]) -> None:
    resp.content_type = "text/html; charset=utf-8"
    resp.cache_control = ["no-cache"]
    if req.method == "HEAD":
        return
    head = _HEAD.format(title=escape(title), style=_STYLE)
    resp.stream = (text.encode() for text in chain([head], body, ["</body></html>\n"]))


def directory_page(entries: Iterable[Entry]) -> Iterator[str]:
    """Make the body of a directory's page, piece by piece."""
    yield '<ul>\n<li><a href="../">../</a></li>\n'
    yield from _items(entries)
    yield "</ul>\n"


def index_page(
    datasets: list[str], entries: Iterable[Entry], pictured: Container[str] = ()
) -> Iterator[str]:
    """Make the body of the index page, piece by piece.

    Args:
        datasets: Paths relative to the data root.
        entries: Those of the data root.
        pictured: Data sets that have a preview.
    """
    named = [name for name in datasets if name]
    if named:
        yield '<ul class="datasets">\n'
        yield from (_link(Entry(name, True), picture=name in pictured) for name in named)
        yield "</ul>\n"
    elif not datasets:
        yield (
            "<p>There is no data set here yet. A data set is a directory with an <code>info</code>"
            " file or an <code>annotations</code> directory.</p>\n"
        )
    first = set(named)
    others = (entry for entry in entries if not (entry.is_directory and entry.name in first))
    yield "<h2>Other files and directories</h2>\n<ul>\n" if named else "<ul>\n"
    yield from _items(others)
    yield '</ul>\n<footer><a href="api/">API documentation</a></footer>\n'


def _items(entries: Iterable[Entry]) -> Iterator[str]:
    iterator = iter(entries)
    first = list(islice(iterator, SORTED_ENTRIES + 1))
    if len(first) <= SORTED_ENTRIES:
        first.sort(key=lambda entry: (not entry.is_directory, entry.name))
    rest = chain(first, iterator)
    while batch := list(islice(rest, ENTRIES_PER_WRITE)):
        yield "".join(map(_link, batch))


def _link(entry: Entry, *, picture: bool = False) -> str:
    # A name with a colon would be taken for a scheme; './' keeps every href relative.
    slash = "/" if entry.is_directory else ""
    prefix = "./" if ":" in entry.name else ""
    href = prefix + quote(entry.name) + slash
    image = f'<img src="{href}{PREVIEW}" alt="" loading="lazy">' if picture else ""
    return f'<li><a href="{href}">{image}{escape(entry.name)}{slash}</a></li>\n'


def redirect_to_directory(req: Request, resp: Response) -> None:
    """Send a client that forgot the slash to the directory, keeping the query string.

    The location is relative, so that it holds behind proxies and path prefixes.
    """
    last = req.path.rstrip("/").rpartition("/")[2]
    query = f"?{req.query_string}" if req.query_string else ""
    resp.status = "302 Found"
    resp.set_header("Location", f"./{quote(last)}/{query}")
    resp.cache_control = ["no-cache"]
