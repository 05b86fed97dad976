"""HTML pages: templates, styles and scripts, all served locally."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING
from urllib.parse import quote

from neurotrale.storage.data_root import DirectoryEntry

if TYPE_CHECKING:
    import jinja2

ASSETS = {
    "pages.css": "text/css; charset=utf-8",
    "service.js": "text/javascript; charset=utf-8",
    "index.js": "text/javascript; charset=utf-8",
    "open.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "history.js": "text/javascript; charset=utf-8",
    "mine.js": "text/javascript; charset=utf-8",
}
"""The files that pages load from `/api/`, and their media types."""

# Scripts, styles and pictures come from the service alone; nothing is inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

# Template expressions per write: a directory may have a hundred thousand entries.
PIECES_PER_WRITE = 2048

_FOLDER = files("neurotrale.web.pages")


def asset_content(name: str) -> bytes:
    """Return the content of one of `ASSETS`."""
    return (_FOLDER / name).read_bytes()


def render(template: str, root: str, **values: object) -> Iterator[str]:
    """Render a template piece by piece; every value is escaped.

    Args:
        template: File name of the template.
        root: Relative URL from the page to the root of the service, as in ``../../``.
        values: Variables of the template.
    """
    stream = _environment().get_template(template).stream(root=root, **values)
    stream.enable_buffering(PIECES_PER_WRITE)
    return stream


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # slow to import, and not every service shows a page

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (_FOLDER / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


# --- history ---


def files_page(name: str, root: str, files: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Render the page that links to the history of each annotation file, piece by piece.

    Args:
        name: Name of the dataset.
        root: Relative URL from the page to the root of the service.
        files: Block and leaf of each file, in order.
    """
    annotations = f"{root}{quote(name)}/annotations" if name else f"{root}annotations"
    blocks = (
        {
            "name": block,
            "links": (
                {"href": f"{annotations}/{quote(block)}/{quote(leaf)}/history/", "text": leaf}
                for _, leaf in group
            ),
        }
        for block, group in groupby(files, lambda file: file[0])
    )
    return render("files.html", root, name=name, blocks=blocks)


def history_page(file: str, root: str, dataset: str, *, may_write: bool) -> Iterator[str]:
    """Render the page that shows the changes of a file; its script fetches them.

    Args:
        file: Path of the file, relative to the data root.
        root: Relative URL from the page to the root of the service.
        dataset: Path of its dataset, relative to the data root.
        may_write: Whether the user has write access.
    """
    datasets = f"{root}api/datasets"
    return render(
        "history.html",
        root,
        file=file,
        file_href=f"../../{quote(file.rpartition('/')[2])}",
        files_href=f"{datasets}/{quote(dataset)}/history" if dataset else f"{datasets}/history",
        may_write=may_write,
    )


def mine_page(name: str, label: str, root: str) -> Iterator[str]:
    """Render the page that shows what became of a viewer's saves; its script fetches them.

    Args:
        name: Name of the dataset.
        label: Label of the viewer.
        root: Relative URL from the page to the root of the service.
    """
    datasets = f"{root}api/datasets"
    files_href = f"{datasets}/{quote(name)}/history" if name else f"{datasets}/history"
    return render("mine.html", root, name=name, label=label, files_href=files_href)


# --- directories and datasets ---
# Neuroglancer's completion reads these pages, too. It takes every link that leads below the page
# for an entry of the directory, so the pages have no other links; scripts add the rest for people.

# Directories up to this size are sorted; larger ones are listed in file system order, so that
# neither the memory nor the first byte depends on a hundred thousand chunks.
SORTED_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Link:
    """A link to an entry of a directory, relative to the page."""

    href: str
    text: str

    @classmethod
    def to(cls, entry: DirectoryEntry) -> Link:
        """Return the link to an entry; links to directories end in a slash."""
        slash = "/" if entry.is_directory else ""
        # A colon would make the name look like a URL scheme; './' keeps the href relative.
        prefix = "./" if ":" in entry.name else ""
        return cls(prefix + quote(entry.name) + slash, entry.name + slash)


@dataclass(frozen=True, slots=True)
class OpenedViewer:
    """A viewer that a page opens.

    Attributes:
        path: Path of the viewer, relative to the root of the service.
        state: Its state; sources in it are relative to the root of the service.
        sees_voxels: Whether it is to see voxels of 1 nm.
        saves: Whether it saves annotations.
    """

    path: str
    state: Mapping[str, object]
    sees_voxels: bool
    saves: bool


def directory_page(title: str, root: str, entries: Iterable[DirectoryEntry]) -> Iterator[str]:
    """Render the page of a directory, piece by piece.

    Args:
        title: Title of the page.
        root: Relative URL from the page to the root of the service.
        entries: The entries of the directory.
    """
    return render("directory.html", root, title=title, links=map(Link.to, _ordered(entries)))


def index_page(
    datasets: list[str],
    entries: Iterable[DirectoryEntry],
    *,
    viewer: bool = False,
    ui: bool = False,
    may_write: bool = False,
    outer: str = "./",
    refused: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Render the index page, piece by piece.

    Args:
        datasets: Paths of the datasets, relative to the data root; "" for the root itself.
        entries: The entries of the data root.
        viewer: Whether a viewer is installed.
        ui: Whether a second user interface is hosted.
        may_write: Whether the user has write access.
        outer: Relative URL from the page to the root of the service outside of any session.
        refused: Origins of web pages whose saves were refused, each with the value of the option
            that would allow it.
    """
    names = set(datasets)
    others = (entry for entry in entries if not (entry.is_directory and entry.name in names))
    return render(
        "index.html",
        "./",
        any_datasets=bool(datasets),
        # Named without a link, which would lead to the page itself.
        root_is_dataset="" in names,
        datasets=(Link.to(DirectoryEntry(name, True)) for name in datasets if name),
        others=map(Link.to, _ordered(others)),
        viewer=viewer,
        ui=ui,
        may_write=may_write,
        outer=outer,
        refused=refused or {},
    )


def _ordered(entries: Iterable[DirectoryEntry]) -> Iterator[DirectoryEntry]:
    """Sort entries, directories first, unless there are too many."""
    iterator = iter(entries)
    first = list(islice(iterator, SORTED_ENTRIES + 1))
    if len(first) <= SORTED_ENTRIES:
        first.sort(key=lambda entry: (not entry.is_directory, entry.name))
    return chain(first, iterator)


def viewer_redirect_page(
    name: str, root: str, outer: str, session: str, opened: OpenedViewer
) -> Iterator[str]:
    """Render the page whose script opens the viewer with a state.

    Args:
        name: Name of the dataset.
        root: Relative URL from the page to the root of the service.
        outer: The same, outside of any session.
        session: The new session.
        opened: The viewer.
    """
    inside = f"{outer}as/{session}/"
    mine = f"{inside}{quote(name)}/annotations/mine" if name else f"{inside}annotations/mine"
    return render(
        "viewer_redirect.html",
        root,
        name=name,
        outer=outer,
        viewer=f"{inside}{opened.path}",
        sources=f"{inside}voxels/" if opened.sees_voxels else inside,
        mine=mine if opened.saves else "",
        state=json.dumps(opened.state),
    )
