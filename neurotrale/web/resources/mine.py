"""The resource that tells a viewer's user what became of the saves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from falcon import Request, Response

from neurotrale.annotations.files.activity import ActivityLog
from neurotrale.annotations.files.blocks import ANNOTATIONS
from neurotrale.annotations.refusals import KEPT_S, Refusals
from neurotrale.errors import MissingError
from neurotrale.storage.files import Files, StoredDirectory
from neurotrale.storage.names import Parts
from neurotrale.web.identity import viewer_of
from neurotrale.web.pages import mine_page
from neurotrale.web.requests import is_viewer
from neurotrale.web.resources.files import redirect_to_directory
from neurotrale.web.responses import root_href, send_page, send_stored_file

MINE = "mine"
FORBIDDEN = 403
LEAST_ERROR = 400


class MineResource:
    """``/{dataset}/annotations/mine``.

    Args:
        files: The files below the data root.
        activity: What viewers did.
        refusals: Saves that were refused; None if the service is read-only.
    """

    def __init__(self, files: Files, activity: ActivityLog, refusals: Refusals | None) -> None:
        self.files = files
        self.activity = activity
        self.refusals = refusals

    def on_get(self, req: Request, resp: Response, dataset: Parts) -> None:
        """Show what became of the saves of this viewer.
        ---
        summary: What became of my saves
        description: >-
            The saves of the last ten hours by the session in the path, else by this browser, that
            were refused, or of which removals are held back, or which changed what somebody else
            had changed, too, or which were not applied because they came from leaving a slice or
            from an old copy. A page that updates itself; JSON if Accept names it and not HTML. A
            file or directory of this name is sent instead.
        tags: [History]
        parameters: [Dataset]
        responses:
            200:
                description: The saves.
                content:
                    application/json: {schema: {$ref: '#/components/schemas/Mine'}}
                    text/html: {schema: {type: string}}
        """
        real = self.files.find_exact((*dataset, ANNOTATIONS, MINE))
        if isinstance(real, StoredDirectory):
            redirect_to_directory(req, resp)
        elif real is not None:
            send_stored_file(req, resp, self.files, real)
        else:
            if not self.files.data_root.is_dataset(dataset):
                raise MissingError(f"There is no dataset {'/'.join(dataset)!r}.")
            self._send(req, resp, dataset)
            resp.append_header("Vary", "Accept")

    def _send(self, req: Request, resp: Response, dataset: Parts) -> None:
        name, label = "/".join(dataset), viewer_of(req).label
        if "text/html" in req.accept or "application/json" not in req.accept:
            send_page(req, resp, mine_page(name, label, root_href(req)))
            return
        since = datetime.now(UTC) - timedelta(seconds=KEPT_S)
        activity = self.activity.of_session(dataset, label, since)
        refused = [] if self.refusals is None else self.refusals.of(label, name)
        resp.media = {
            "session": label,
            "saves": activity.saves,
            "changes": [change.summary() for change in activity.changes],
            "refused": [msgspec.to_builtins(refusal) for refusal in refused],
        }
        resp.cache_control = ["no-store"]


def note_refusal(refusals: Refusals | None, req: Request, resp: Response, resource: object) -> None:
    """Remember that a viewer's save was refused, if that is what the response says.

    Nothing is remembered without a valid token, or of a path that never was one.
    """
    file = "/".join(filter(None, req.path.split("/")))
    if (
        refusals is not None
        and (resource is not None or resp.status_code == FORBIDDEN)
        and resp.status_code >= LEAST_ERROR
        and f"/{ANNOTATIONS}/" in f"/{file}"
        and is_viewer(req)
    ):
        error = msgspec.json.decode(resp.data or b"{}")
        reason = str(error.get("description", ""))
        refusals.add(viewer_of(req).label, file, resp.status_code, reason)
