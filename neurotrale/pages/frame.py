"""The frame of every page, and the files that pages load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from string import Template

ASSETS = {
    "pages.css": "text/css; charset=utf-8",
    "service.js": "text/javascript; charset=utf-8",
    "index.js": "text/javascript; charset=utf-8",
    "open.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "history.js": "text/javascript; charset=utf-8",
}
"""Files of the pages, at `/api/`, with their types."""

# Scripts, styles and pictures come from the service alone, and nothing is written in the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

_FOLDER = files("neurotrale.pages")
_FRAME = Template((_FOLDER / "frame.html").read_text())
_BODY = "\0"


def asset_content(name: str) -> bytes:
    """Read one of `ASSETS`."""
    return (_FOLDER / name).read_bytes()


def page(
    title: str, root: str, body: Iterator[str], script: str = "", **facts: str | bool
) -> Iterator[str]:
    """Put a page together, piece by piece.

    Args:
        title: Plain text.
        root: The way from the page to the root of the service, as in ``../../``.
        body: HTML.
        script: The one of `ASSETS` that the page runs.
        facts: What the script must know, as ``data-`` attributes; plain text.
    """
    scripts = f'<script type="module" src="{escape(root)}api/{script}"></script>\n'
    before, after = _FRAME.substitute(
        title=escape(title),
        root=escape(root),
        scripts=scripts if script else "",
        facts=_attributes(facts),
        body=_BODY,
    ).split(_BODY)
    yield before
    yield from body
    yield after


def _attributes(facts: Mapping[str, str | bool]) -> str:
    texts = {
        name: value if isinstance(value, str) else str(value).lower()
        for name, value in facts.items()
    }
    return "".join(
        f' data-{name.replace("_", "-")}="{escape(text)}"' for name, text in texts.items()
    )
