"""The records of a journal that a change feed tells of: those after one that a client knows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.journals.feed_pages import ChangeNotice, ChangePage, fill_page
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import ContentState
from neurotrale.annotations.journals.revisions import HasVersion, applied_changes

MOST_CHANGES = 1000
MOST_RACED = 100  # records that may be appended while the latest one is looked for


@dataclass(frozen=True, slots=True)
class FeedQuery:
    """What a client asks a change feed for.

    Attributes:
        since: Number of the last record that it knows; None if it knows none, and begins now.
        known: ETag of the content that it has; "" if it does not say.
        limit: Most changes in the answer.
        annotations: Whether to send the present annotations that the changes touched.
    """

    since: int | None
    known: str = ""
    limit: int = MOST_CHANGES
    annotations: bool = False


def page_of_feed(
    filename: str,
    journal: Journal,
    version: HasVersion | None,
    document: Document | None,
    query: FeedQuery,
) -> ChangePage:
    """Return an answer.

    Args:
        filename: Path of the file relative to the data root.
        journal: Its journal, which may grow meanwhile.
        version: The content of the file; None if it does not exist.
        document: The same content, if the present annotations are asked for.
        query: What is asked for.
    """
    etag = None if version is None else version.etag
    records = FeedRecords.read(journal, version, query)
    is_recorded, count = records.until(etag)
    page = ChangePage(filename=filename, last=0, etag=etag, outside=not is_recorded)
    if query.annotations:
        page.annotations = {}
    if query.since is None:
        page.last = records.newest_of(count)
        return page
    reason = records.gap(query) or records.difference(query, etag)
    if reason:
        page.reset, page.reason, page.last = True, reason, records.newest_of(count)
        return page
    page.last = query.since
    notices = [notice for notice in records.notices if notice.revision <= records.newest_of(count)]
    told = fill_page(page, notices if count else [], document)
    page.more = told < count
    return page


def _hash(state: ContentState | None) -> str | None:
    return None if state is None else state.hash


@dataclass(slots=True)
class FeedRecords:
    """The applied records of a journal, back to the one that a client knows.

    Attributes:
        notices: The oldest of those after it, oldest first.
        numbers: Numbers of all after it, newest first.
        etags: ETags of the content after each of them.
        base: Number of the last applied record up to the one that the client knows; 0 for none.
        base_etag: ETag of the content that all of them are based on.
        has_known: Whether the journal has the record that the client knows.
        is_within: Whether it is now a part of a record that stands for several saves.
        first: Number of the first record of the journal, if that was read; else 0.
    """

    notices: deque[ChangeNotice]
    numbers: list[int]
    etags: list[str | None]
    base: int = 0
    base_etag: str | None = None
    has_known: bool = False
    is_within: bool = False
    first: int = 0

    @classmethod
    def read(cls, journal: Journal, version: HasVersion | None, query: FeedQuery) -> FeedRecords:
        """Read the records, newest first, as far as needed."""
        records, since = cls(deque(maxlen=query.limit), [], []), query.since
        entry = None
        for entry, is_applied in applied_changes(journal, version):
            if since is not None and entry.n <= since:
                records.has_known |= entry.n == since
                if is_applied:
                    records.base, records.base_etag = entry.n, _hash(entry.new)
                    return records
                continue
            is_within = since is not None and entry.first_covered <= since
            records.is_within |= is_within
            if is_applied:
                records.numbers.append(entry.n)
                records.etags.append(_hash(entry.new))
                records.base_etag = _hash(entry.old)
                if since is not None:
                    records.notices.appendleft(ChangeNotice.of(entry))
                elif len(records.numbers) == MOST_RACED:
                    return records
        records.first = 1 if entry is None else entry.first_covered
        records.has_known |= since is not None and since == records.first - 1
        return records

    def until(self, etag: str | None) -> tuple[bool, int]:
        """Return which records a content includes.

        Args:
            etag: ETag of the content; None if there is no file.

        Returns:
            Whether the journal knows it, and the number of records up to it; those after it were
            appended while the file was read. If the journal does not know it, another program has
            written it, and all records are from before.
        """
        if etag in self.etags:
            return True, len(self.etags) - self.etags.index(etag)
        if (self.base or self.first) and (self.base or self.etags) and self.base_etag == etag:
            return True, 0
        return False, len(self.etags)

    def newest_of(self, count: int) -> int:
        """Return the number of the newest of so many records."""
        return self.numbers[-count] if count else self.base

    def gap(self, query: FeedQuery) -> str:
        """Return why the journal cannot tell what came after a record; "" if it can."""
        if self.has_known or self.is_within:
            return ""
        newest = max(self.numbers[:1], default=self.base)
        found = "has no record" if not newest else f"goes to {newest}"
        if self.first > 1:
            found = f"begins with {self.first}"
        return (
            f"There is no change {query.since}: the journal {found}. It was replaced or cut; load"
            " the file again, and go on from 'last'."
        )

    def difference(self, query: FeedQuery, etag: str | None) -> str:
        """Return why what a client has is not what the journal tells of; "" if it is."""
        if self.is_within or not query.known or query.known in (self.base_etag, etag, *self.etags):
            return ""
        return (
            f"After change {query.since} the file was another one than the client has. The journal"
            " was replaced; load the file again, and go on from 'last'."
        )
