"""Saves of whole files by viewers: each is merged, and moves what its client saw of the file.

The decisions are in `meanings`, the merge in `merge`, both in `neurotrale.annotations.merging`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from neurotrale.annotations.documents.alike import document_like, parse_like
from neurotrale.annotations.documents.contents import Content, etag_of
from neurotrale.annotations.documents.diff import diff_documents, replace_whole
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.files.paths import AnnotationFile
from neurotrale.annotations.journals.changes import Before, Change, WriteContext
from neurotrale.annotations.journals.earlier_contents import content_with, recent_contents
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.viewers import SaveNotes, Viewer
from neurotrale.annotations.merging.chains import FileViews
from neurotrale.annotations.merging.meanings import Meaning, meaning_of, meaning_without_views
from neurotrale.annotations.merging.merge import MergedFile, merge_edit
from neurotrale.annotations.merging.seen import Seen
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.merging.views import Facts, Tip

log = logging.getLogger(__name__)

RECENT_REVISIONS = 16
RECENT_BYTES = 2**26  # of them together, as they are in memory at once
MOST_TRIED = 4  # views of a client that a save may be like
FORGOTTEN_NS = 20 * 3600 * 10**9  # for so long a client may still have a view that is forgotten

_Move = tuple[Viewer, Callable[[FileViews], None], int]


@dataclass
class Saves:
    """The saves of one file that are applied together.

    Args:
        views: What clients saw of all files; changed by `finish`, when all is on disk.
        file: The file.
    """

    views: Views
    file: AnnotationFile
    _moves: list[_Move] = field(default_factory=list)
    _seen: dict[str, FileViews] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _saved_ns: int = 0

    def begin(self, plan: int) -> None:
        """Begin to decide a save; when it comes again, all before were not applied, and come again.

        Args:
            plan: Identifies the save among those that are applied together.
        """
        if not self._begun or plan in self._begun:
            self._begun.clear()
            self._moves.clear()
            self._seen.clear()
            self._saved_ns = self.views.saved_ns(self.file.display_path)
        self._begun.add(plan)

    def finish(self) -> None:
        """Record what the clients see from now on."""
        for viewer, move, saved_ns in self._moves:
            self.views.change(viewer, self.file.display_path, move, saved_ns)
        if self._moves:
            self.views.drop_unseen(self.file.display_path)
        self._moves.clear()

    def replace(self, context: WriteContext, content: Content | None, body: Seen) -> Change:
        """Return the change by which a save becomes the whole file.

        Args:
            context: The client.
            content: The file; None if it does not exist.
            body: What the client saves, see `parse`.
        """
        if context.viewer is not None:
            self._move(context.viewer, None, body, context.arrived_ns, is_full=True)
        new = body.document
        assert new is not None
        if content is None or content.document is None:
            hunks = replace_whole(b"" if content is None else content.body, new.content)
        else:
            hunks = diff_documents(content.document, new)
        return Change("put", hunks, new.index, ())

    def parse(self, context: WriteContext, before: Before, body: bytes) -> Seen:
        """Parse a save, as far as it is not like what the client has saved, or like the file.

        Args:
            context: The client.
            before: The file.
            body: What it saves, which is a JSON array.
        """
        etag = etag_of(body)
        chains = () if context.viewer is None else self._views(context.viewer).chains[-MOST_TRIED:]
        for tip in dict.fromkeys(chain.tip for chain in reversed(chains)):
            fresh = self.views.contents.fresh(tip)
            like = None if fresh is None else document_like(fresh, body)
            if like is not None:
                return Seen(like[0], etag=etag, parent=tip, since=like[1])
        file = None if before.content is None else before.content.document
        return Seen(parse_like(file, body), etag=etag)

    def merge(self, context: WriteContext, before: Before, body: Seen) -> Change:
        """Return the change that a save of a client means.

        Args:
            context: The client; it is a viewer.
            before: The file, which is a JSON array.
            body: What it saves, see `parse`.
        """
        viewer, content = context.viewer, before.content
        assert viewer is not None
        assert content is not None
        file = content.document
        assert file is not None
        meaning = self._meaning(context, viewer, body, content)
        if meaning.is_overtaken:
            log.info("put %s: a later save overtook this one", self.file.display_path)
            return Change("put", ())
        merged = self._merged(file, body, meaning, context)
        views = self._views(viewer)
        navigated = [id_ for id_ in meaning.navigated if id_ not in views.noted]
        held, newly_held = _held(before, file, meaning, merged)
        stale = [id_ for id_ in meaning.stale if id_ in file.ids]
        is_full = not (newly_held or meaning.navigated or stale)
        changes = merged.content != content.body
        if self.views.has_loaded(self.file.display_path, content.etag):
            self.views.contents.keep(content.etag, content.body, self.file.display_path)
        saved_ns = context.arrived_ns if changes else 0
        self._move(
            viewer,
            meaning,
            body,
            context.arrived_ns,
            is_full=is_full,
            saved_ns=saved_ns,
            navigated=navigated,
        )
        for id_ in merged.replaced:
            log.warning(
                "put %s: %r has a key twice, and was replaced whole", self.file.display_path, id_
            )
        notes = SaveNotes(
            conflicts=dict(merged.conflicts),
            navigated=navigated,
            stale=stale,
            base="" if meaning.chain is None or not meaning.is_certain else meaning.chain.tip,
        )
        after = parse_like(file, merged.content)
        is_plain = is_full and not merged.conflicts and not merged.replaced
        began_ns = 0 if meaning.chain is None else meaning.chain.began_ns
        return Change(
            "put",
            diff_documents(file, after),
            after.index,
            held,
            newly_held=newly_held + len(stale),
            notes=notes,
            chain=(viewer.key, began_ns) if is_plain else None,
        )

    def _meaning(
        self, context: WriteContext, viewer: Viewer, body: Seen, content: Content
    ) -> Meaning:
        views = self._views(viewer)
        path = self.file.display_path
        facts = Facts(
            context.arrived_ns,
            views.is_loaded,
            views.asked_ns,
            self.views.left_ns(viewer, path),
            context.guarded,
            context.arrived_ns < views.forgotten_ns + FORGOTTEN_NS,
            views.is_shared,
            views.ignored_ns,
        )
        known = {etag: self._content(etag, content) for etag in {one.tip for one in views.chains}}
        tips = [Tip(one, seen) for one in views.chains if (seen := known[one.tip]) is not None]
        if not tips:
            return meaning_without_views(body, self._revisions(content), facts)
        return meaning_of(body, tips, facts, lambda chain: self._content(chain.before, content))

    def _merged(
        self, file: Document, body: Seen, meaning: Meaning, context: WriteContext
    ) -> MergedFile:
        yields = context.arrived_ns < self._saved_ns
        revived = [id_ for id_ in meaning.revived if id_ not in file.ids]
        merged = merge_edit(
            file,
            meaning.base,
            body,
            replace(meaning.edit, added=(*meaning.edit.added, *revived)),
            own=meaning.is_own,
            only_additions=meaning.only_additions or yields,
            yields=yields,
        )
        is_emptied = len(file.ids) > 1 and len(merged.removed) == len(file.ids)
        if context.guarded and is_emptied and not body.texts:
            return MergedFile(file.content, held=merged.removed)
        return merged

    def _views(self, viewer: Viewer) -> FileViews:
        views = self._seen.get(viewer.key)
        if views is None:
            views = self._seen[viewer.key] = self.views.of(viewer, self.file.display_path)
        return views

    def _move(
        self,
        viewer: Viewer,
        meaning: Meaning | None,
        body: Seen,
        arrived_ns: int,
        *,
        is_full: bool,
        saved_ns: int = 0,
        navigated: Sequence[str] = (),
    ) -> None:
        tip, document = body.etag, body.document
        assert document is not None
        self.views.contents.keep(tip, document.content, self.file.display_path)
        self.views.contents.refresh(tip, document)
        chain = None if meaning is None else meaning.chain
        began_ns = None if chain is None else chain.began_ns
        loaded_ns = 0 if meaning is None else meaning.loaded_ns
        is_left = meaning is not None and bool(meaning.navigated)
        is_last = is_left and not body.texts

        def move(views: FileViews) -> None:
            views.noted += navigated
            if is_left:
                views.leave(began_ns, tip, arrived_ns, is_last=is_last)
            else:
                views.move(began_ns, tip, arrived_ns, is_full=is_full, loaded_ns=loaded_ns)

        move(self._views(viewer))
        self._saved_ns = max(self._saved_ns, saved_ns)
        self._moves.append((viewer, move, saved_ns))

    def _content(self, etag: str, content: Content) -> Seen | None:
        """Return a content with a hash; None if it is no longer known."""
        if etag == content.etag:
            return Seen(content.document, etag=etag)
        contents = self.views.contents
        try:
            seen = contents.seen(etag)
            if seen is None:
                body = content_with(Journal(self.file.path), etag, content)
                if body is None:
                    return None
                load = contents.keep(etag, body, self.file.display_path)
                seen = Seen(Document.parse(body), load, etag=etag)
                seen.release()
        except ValueError:  # not an array, or damaged on disk
            return None
        return seen

    def _revisions(self, content: Content) -> Iterator[Seen]:
        yield Seen(content.document)
        left = RECENT_BYTES
        for body in recent_contents(Journal(self.file.path), content, RECENT_REVISIONS):
            left -= len(body)
            if left < 0:
                return
            seen = _seen(body)
            if seen is not None:
                yield seen


def _held(
    before: Before, file: Document, meaning: Meaning, merged: MergedFile
) -> tuple[list[str], int]:
    """Return the ids whose removal is held back after a save, and how many of them are new."""
    edit = meaning.edit
    back = {*edit.added, *edit.changed} - set(merged.held)
    gone = set(merged.removed)
    held = [id_ for id_ in before.held_removals if id_ not in back and id_ not in gone]
    present = {*file.ids, *edit.added, *edit.changed, *meaning.revived}
    new = [
        id_
        for id_ in dict.fromkeys((*meaning.held, *merged.held))
        if id_ in present and id_ not in held and id_ not in gone
    ]
    return [*held, *new], len(new)


def _seen(body: bytes) -> Seen | None:
    try:
        return Seen(Document.parse(body))
    except NotAnArrayError:
        return None
