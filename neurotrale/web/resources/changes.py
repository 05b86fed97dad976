"""The resource that tells clients what has changed in an annotation file since they last asked."""

from __future__ import annotations

import falcon
from falcon import Request, Response

from neurotrale.annotations.files.change_feed import ChangeFeed
from neurotrale.annotations.journals.feed_records import MOST_CHANGES, FeedQuery
from neurotrale.storage.names import AnnotationName
from neurotrale.web.requests import flag_parameter, number_parameter, single_param
from neurotrale.web.resources.annotations import JSON, resolve_block
from neurotrale.web.responses import Compressor, ContentVersion, respond_not_modified, send_bytes


@falcon.before(resolve_block)
class ChangesResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/changes``.

    Args:
        feed: Tells the changes.
        compressor: Compresses response bodies.
    """

    def __init__(self, feed: ChangeFeed, compressor: Compressor) -> None:
        self.feed = feed
        self.blocks = feed.files.blocks
        self.compressor = compressor

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """List the changes of a file since a change.
        ---
        summary: Changes after a number, oldest first
        description: >-
            For clients that follow a file: begin without `since`, load the file, and ask again and
            again with `since` set to the `last` of the answer before, and If-None-Match to its
            ETag. 304 says that nothing is new, and costs next to nothing. Each change names the
            annotations that it added, changed and removed; `cut` says that the ids are left out,
            as they are too many. With `annotations`, the ones that are in the file now come along.
            `outside` says that another program has written the file, which the journal does not
            tell of yet; `reset` that the journal was replaced. After any of these three, load the
            file again and go on from `last`. If there is `more`, ask at once.
        tags: [History]
        parameters:
            - Dataset
            - Block
            - Leaf
            - Position
            - name: since
              in: query
              description: Number of the last change that is known; 0 is before the first one.
              schema: {type: integer, minimum: 0}
            - name: etag
              in: query
              description: >-
                  ETag of the file as the client has it: `reset` if the journal tells of another.
              schema: {type: string}
            - name: annotations
              in: query
              description: Send the added and changed annotations, as they are now.
              schema: {type: boolean}
            - name: limit
              in: query
              description: Most changes in the response.
              schema: {type: integer, minimum: 1, maximum: 1000, default: 1000}
            - IfNoneMatch
        responses:
            200: {description: The changes., content: Changes}
            400: BadRequest
        """
        since = number_parameter(req, "since")
        query = FeedQuery(
            since,
            single_param(req, "etag") or "",
            number_parameter(req, "limit", minimum=1, maximum=MOST_CHANGES) or MOST_CHANGES,
            flag_parameter(req, "annotations"),
        )
        followed = self.feed.find(name)
        # Whoever has the answer for this version up to this number is told nothing new: the
        # version is in the ETag, so nothing has to be read to know that.
        if since is not None and respond_not_modified(req, resp, _version(followed.etag(since))):
            return
        answer = self.feed.answer(followed, query)
        version = _version(followed.etag(answer.last))
        if not respond_not_modified(req, resp, version):
            body, coding = self.compressor.compress(req, answer.body, "text")
            send_bytes(req, resp, body, version, coding)


def _version(etag: str) -> ContentVersion:
    return ContentVersion(etag, None, JSON, "Accept-Encoding")
