"""The page that opens the viewer: it knows the address that the browser used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape

from neurotrale.pages.frame import page


def opening_page(name: str, root: str, viewer: str, state: Mapping[str, object]) -> Iterator[str]:
    """Make the page.

    Args:
        name: Of the data set.
        root: The way from the page to the root of the service.
        viewer: The way from there to the viewer.
        state: What the viewer shows.
    """
    body = (
        f"<main><h1>Opening {escape(name)}</h1>\n"
        '<p role="status">One moment: the viewer needs JavaScript and WebGL 2.</p></main>'
    )
    facts = {"viewer": viewer, "state": json.dumps(state)}
    return page(f"Open {name}", root, iter([body]), "open.js", **facts)
