"""Lists of links that people and Neuroglancer's completion both read.

Completion takes every link that leads below the page for an entry of the directory. So these pages
hold no other ones; what else people want, scripts add.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import chain, islice
from urllib.parse import quote

from neurotrale.pages.frame import page
from neurotrale.tree import Entry

# Directories up to this size are shown sorted; larger ones as the file system gives them, so that
# neither memory nor the first byte waits for a hundred thousand chunks.
SORTED_ENTRIES = 20_000
ENTRIES_PER_WRITE = 512

_EMPTY = (
    "<p>There is no data set here yet. A data set is a directory with an <code>info</code>"
    " file or an <code>annotations</code> directory.</p>\n"
)
_SEARCH = (
    '<p class="search"><label for="search">Find</label> <input id="search" type="search"'
    ' autocomplete="off" spellcheck="false" placeholder="part of a name"'
    ' aria-describedby="found"> <span id="found" role="status"></span></p>\n'
)


def directory_page(title: str, root: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Make the page of a directory, piece by piece.

    Args:
        title: What to call it.
        root: The way from the page to the root of the service.
        entries: What is in it.
    """
    body = chain(
        [f'<main class="listing"><h1>{escape(title)}</h1>\n<ul>\n<li><a href="../">../</a></li>\n'],
        _items(entries),
        ["</ul></main>"],
    )
    return page(title, root, body)


def index_page(
    datasets: list[str], entries: Iterable[Entry], *, viewer: bool = False, ui: bool = False
) -> Iterator[str]:
    """Make the index page, piece by piece.

    Args:
        datasets: Paths relative to the data root; "" for the root itself.
        entries: Those of the data root.
        viewer: Whether there is a viewer that opens data sets.
        ui: Whether there is another one, too.
    """
    return page("Data sets", "./", _index(datasets, entries), "index.js", viewer=viewer, ui=ui)


def _index(datasets: list[str], entries: Iterable[Entry]) -> Iterator[str]:
    yield '<main class="index"><h1>Data sets</h1>\n'
    yield _SEARCH if datasets else _EMPTY
    if datasets:
        yield '<ul class="datasets" id="datasets">\n'
        if "" in datasets:  # a link to the page itself would lead nowhere
            yield '<li class="dataset"><h2>The data root itself</h2></li>\n'
        named = iter([name for name in datasets if name])
        while batch := list(islice(named, ENTRIES_PER_WRITE)):
            yield "".join(
                f'<li class="dataset"><h2>{_link(Entry(name, True))}</h2></li>\n' for name in batch
            )
        yield "</ul>\n"
    first = set(datasets)
    others = (entry for entry in entries if not (entry.is_directory and entry.name in first))
    heading = "<h2>Other files and directories</h2>\n" if datasets else ""
    yield f'<section class="others">{heading}<ul>\n'
    yield from _items(others)
    yield '</ul></section></main>\n<footer><a href="api/">API documentation</a></footer>'


def _items(entries: Iterable[Entry]) -> Iterator[str]:
    iterator = iter(entries)
    first = list(islice(iterator, SORTED_ENTRIES + 1))
    if len(first) <= SORTED_ENTRIES:
        first.sort(key=lambda entry: (not entry.is_directory, entry.name))
    rest = chain(first, iterator)
    while batch := list(islice(rest, ENTRIES_PER_WRITE)):
        yield "".join(f"<li>{_link(entry)}</li>\n" for entry in batch)


def _link(entry: Entry) -> str:
    # A name with a colon would be taken for a scheme; './' keeps every href relative.
    slash = "/" if entry.is_directory else ""
    prefix = "./" if ":" in entry.name else ""
    href = prefix + quote(entry.name) + slash
    return f'<a href="{href}">{escape(entry.name)}{slash}</a>'
