"""Pages about the past of annotations: the files of a data set, the changes of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice
from urllib.parse import quote

from neurotrale.pages.frame import page

FILES_PER_WRITE = 512


def files_page(name: str, root: str, files: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Make the page that leads to the history of each annotation file, piece by piece.

    Args:
        name: Of the data set.
        root: The way from the page to the root of the service.
        files: Block and leaf of each, in order.
    """
    return page(f"Annotation files of {name}", root, _files(name, root, files))


def _files(name: str, root: str, files: Iterable[tuple[str, str]]) -> Iterator[str]:
    title = f"Annotation files of {name or 'the data root'}"
    yield _way_up(root) + f"<main><h1>{escape(title)}</h1>\n"
    yield "<p>Each leads to its changes: who made them, when, and what can be brought back.</p>\n"
    above = f"{root}{quote(name)}/annotations" if name else f"{root}annotations"
    iterator, opened = iter(files), ""
    while batch := list(islice(iterator, FILES_PER_WRITE)):
        lines = []
        for block, leaf in batch:
            if block != opened:
                lines.append(f"{'</ul>' if opened else ''}<h2>{escape(block)}</h2>\n<ul>\n")
                opened = block
            href = f"{above}/{quote(block)}/{quote(leaf)}/history/"
            lines.append(f'<li><a href="{escape(href)}">{escape(leaf)}</a></li>\n')
        yield "".join(lines)
    yield "</ul></main>" if opened else "<p>There are none yet.</p></main>"


def history_page(what: str, root: str, dataset: str, *, may_write: bool) -> Iterator[str]:
    """Make the page of the changes of a file; its script fetches them.

    Args:
        what: The file, relative to the data root.
        root: The way from the page to the root of the service.
        dataset: Its data set, relative to the data root.
        may_write: Whether who looks may change annotations.
    """
    files = f"{root}api/datasets/{quote(dataset)}/history"
    if not dataset:
        files = f"{root}api/datasets/history"
    body = (
        f"{_way_up(root, (files, 'Annotation files'), ('../../' + quote(_leaf(what)), 'The file'))}"
        f"<main><h1>History of {escape(what)}</h1>\n"
        '<p id="message" role="status"></p>\n<div id="held"></div>\n'
        '<div id="actions" class="actions"></div>\n'
        '<ol id="changes" class="changes" aria-busy="true"></ol>\n'
        '<p><button id="more" hidden>Older changes</button></p>\n'
        "<noscript><p>This page needs JavaScript.</p></noscript></main>"
    )
    return page(f"History of {what}", root, iter([body]), "history.js", may_write=may_write)


def _leaf(what: str) -> str:
    return what.rpartition("/")[2]


def _way_up(root: str, *others: tuple[str, str]) -> str:
    links = [(root, "Data sets"), *others]
    shown = "".join(f'<a href="{escape(href)}">{escape(text)}</a>' for href, text in links)
    return f'<nav class="links" aria-label="Up">{shown}</nav>\n'
