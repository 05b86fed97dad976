"""Who asks, and which of its requests tell what it sees of an annotation file."""

from __future__ import annotations

import re
import time
from functools import partial

from falcon import Request

from neurotrale.annotations.handover import ARRIVED_NS, PARKING, Parking
from neurotrale.annotations.journals.changes import Author, Preconditions, WriteContext
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.operation_ids import HEADER, check_operation_id
from neurotrale.annotations.store import AnnotationStore, Read
from neurotrale.settings.service import GuardMode
from neurotrale.storage.compression import CODINGS
from neurotrale.storage.names import AnnotationName
from neurotrale.tokens import USER
from neurotrale.web.identity import viewer_of
from neurotrale.web.requests import is_viewer


def read_whole(
    req: Request, store: AnnotationStore, name: AnnotationName, guard: GuardMode
) -> Read:
    """Read a file; a viewer that is sent all of it, or told that it has it, has seen it.

    Args:
        req: A GET or HEAD.
        store: The annotation files.
        name: The file.
        guard: Whose PUTs are merged.
    """
    viewer = remembered_viewer(req, guard) if req.method == "GET" else None
    if viewer is None or req.get_header("Range") is not None:
        return store.read(name)
    note = partial(store.note_view, name, viewer, arrived_ns(req))
    try:
        content = store.read(name)
    except Exception:
        note("")
        raise
    parking: Parking | None = req.env.get(PARKING)
    if parking is not None:
        parking.on_broken = partial(note, "")
    note(content.etag)
    return content


# The tag of a compressed copy identifies the same content.
_CODED = re.compile(f"-(?:{'|'.join(CODINGS)})$")
_TAG = re.compile(r'"([^"]*)"')


def write_context(req: Request, guard: GuardMode = "off") -> WriteContext:
    """Return the author and the preconditions of a write request, and whether to guard it.

    Args:
        req: A request that writes.
        guard: Whose whole-file writes are merged, and whether removals are held back.

    Raises:
        BadInputError: Its operation id is not one.
    """
    condition = _condition(req)
    address = req.remote_addr or ""
    name = req.env.get(USER) or address
    from_viewer = is_viewer(req)
    viewer = remembered_viewer(req, guard)
    author = Author(name, address, "" if viewer is None else viewer.label)
    parking: Parking | None = req.env.get(PARKING)
    return WriteContext(
        author,
        condition,
        viewer,
        arrived_ns(req),
        guard != "off",
        from_viewer,
        _operation_id(req),
        parking,
    )


def remembered_viewer(req: Request, guard: GuardMode) -> Viewer | None:
    """Return the client whose views are remembered; None if its PUT replaces the file.

    Args:
        req: Its request.
        guard: With ``all``, scripts are treated as viewers.
    """
    return viewer_of(req) if guard == "all" or is_viewer(req) else None


def arrived_ns(req: Request) -> int:
    """Return when a request arrived, in nanoseconds since the epoch."""
    return int(req.env.get(ARRIVED_NS) or time.time_ns())


def _operation_id(req: Request) -> str:
    key = req.get_header(HEADER)
    if key is None:
        return ""
    key = key.strip()
    check_operation_id(key)
    return key


def _condition(req: Request) -> Preconditions:
    match = (req.get_header("If-Match") or "").strip()
    # Weak tags never match in If-Match (RFC 9110, 13.1.1); if no tag is left, "" matches nothing.
    strong = _TAG.findall(re.sub(r'W/"[^"]*"', "", match))
    tags = ("*",) if match == "*" else tuple(tag for tag in strong if tag != "*")
    if match and not tags:
        tags = ("",)
    tags = tuple(_CODED.sub("", tag) for tag in tags)
    return Preconditions(tags, (req.get_header("If-None-Match") or "").strip() == "*")
