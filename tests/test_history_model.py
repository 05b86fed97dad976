"""Random histories against a plain model: a list of contents, one for each recorded change."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.annotations.journals.changes import Author, Preconditions, WriteContext
from neurotrale.annotations.journals.compaction import Compaction
from neurotrale.annotations.journals.corrections import corrections
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.errors import ChangedError, DamagedError, MissingError
from neurotrale.locking.locks import Locks
from tests.examples import examples
from tests.stores import IN_MEMORY, NAME, array, open_stores
from tests.viewers import pieces_of

pytestmark = pytest.mark.proof

IDS = ["a", "b", "c", "é-ü", 'q"\\', "f" * 40]
NODES = ("first", "second")
PEOPLE = ("ann", "bob")
UNKNOWN = "unknown key"

# What a program may have left where an annotation file should be.
BROKEN = {
    "empty": b"",
    "blank": b" \n",
    "cut off": b'[{"id": "a"}, {"id": "b", "po',
    "an object": b'{"annotations": [{"id": "a"}]}',
    "not UTF-8": b'[{"id": "a"}, \xff\xfe]',
}

ids = st.sampled_from(IDS)
nodes = st.sampled_from(NODES)
people = st.sampled_from(PEOPLE)
values = st.fixed_dictionaries(
    {},
    optional={
        "reviewed": st.booleans(),
        "visited": st.booleans(),
        "anntype": st.sampled_from(["axon", "glia, [x]", "\u2028"]),
        "length": st.sampled_from([1, 1.0, 1e22, 0.1]),
        UNKNOWN: st.sampled_from(["]", "},{", '"', [[]], {"id": "a"}, 2**70]),
    },
)
spellings = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"separators": (", ", ": ")},
        {"indent": 3},
        {"indent": 1, "ensure_ascii": False},
    ]
)
files = st.dictionaries(ids, values, max_size=len(IDS))


def spelled(id_: str, more: dict[str, Any], spelling: dict[str, Any]) -> bytes:
    found = {"id": id_, "type": "point", "point": [1, 2.5, -3], **more}
    return json.dumps(found, **spelling).encode()


def spelled_file(annotations: dict[str, Any], spelling: dict[str, Any]) -> bytes:
    pieces = [spelled(id_, more, spelling) for id_, more in annotations.items()]
    return b"[" + b",".join(pieces) + b"]" if "separators" in spelling else array(*pieces)


def cut(content: bytes) -> dict[str, bytes] | None:
    """Cut a file into its annotations in order; None if it is not an array."""
    try:
        is_array = isinstance(json.loads(content.decode()), list)
    except ValueError:
        return None
    return pieces_of(content) if is_array else None


@dataclass
class Change:
    """A recorded change as the model remembers it."""

    op: str
    by: str
    before: bytes | None
    after: bytes | None
    held: list[str]
    on_purpose: bool = False

    @property
    def touched(self) -> tuple[set[str], set[str], set[str]]:
        before, after = (cut(c or b"") or {} for c in (self.before, self.after))
        changed = {
            id_
            for id_ in before.keys() & after.keys()
            if json.loads(before[id_]) != json.loads(after[id_])
        }
        return after.keys() - before.keys(), changed, before.keys() - after.keys()


@dataclass
class Model:
    """What the directory should hold."""

    now: bytes | None = None
    changes: list[Change] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    first: bytes | None = None

    @property
    def known(self) -> bytes | None:
        return self.changes[-1].after if self.changes else self.now

    def notice(self) -> None:
        """What every writer does first: look whether another program was here."""
        if self.changes and self.known != self.now:
            present = cut(self.now or b"") or {}
            self.held = [id_ for id_ in self.held if id_ in present]
            self.changes.append(Change("outside", "", self.known, self.now, self.held))

    def record(self, op: str, by: str, after: bytes, held: list[str]) -> None:
        if after == self.now and held == self.held:
            return
        if not self.changes:
            self.first = self.now
        self.changes.append(Change(op, by, self.now, after, held))
        self.now, self.held = after, held

    def at(self, revision: int) -> bytes | None:
        return self.changes[revision - 1].after if revision else self.first

    @property
    def pieces(self) -> dict[str, bytes] | None:
        return None if self.now is None else cut(self.now)


class Histories(RuleBasedStateMachine):
    """Writers of two services, people with the command line, and other programs."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="neurotrale-history-", dir=IN_MEMORY))
        self.model = Model()
        self.stores = {node: open_stores(self.root) for node in NODES}
        self.file = self.stores["first"].file
        self.saved: dict[tuple[str, str], set[str]] = {}  # by viewers

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # --- what a file may be before the first change ---

    @initialize(
        begin=st.one_of(st.none(), st.sampled_from(sorted(BROKEN)), files), spelling=spellings
    )
    def begin(self, begin: Any, spelling: dict[str, Any]) -> None:
        if begin is not None:
            content = BROKEN[begin] if isinstance(begin, str) else spelled_file(begin, spelling)
            self.file.write_bytes(content)
            self.model.now = content

    # --- writers ---

    @rule(node=nodes, by=people, new=files, spelling=spellings)
    def put(self, node: str, by: str, new: dict[str, Any], spelling: dict[str, Any]) -> None:
        body = spelled_file(new, spelling)
        self.stores[node].put(body, wish(by))
        self.model.notice()
        self.model.record("put", by, body, [])
        assert self.file.read_bytes() == body

    @rule(node=nodes, by=people, new=files, spelling=spellings)
    def viewer_put(self, node: str, by: str, new: dict[str, Any], spelling: dict[str, Any]) -> None:
        body = spelled_file(new, spelling)
        model, stores = self.model, self.stores[node]
        if model.now is None and not new:
            return  # leaves no trace, which the tests of the service hold
        stores.put(body, wish(by, viewer=Viewer.of(by)))
        model.notice()
        after = self.file.read_bytes()
        old, now = model.pieces, cut(after) or {}
        if old is None:
            assert after == body
            model.record("put", by, after, [])
        else:
            known = self.saved.get((node, by), set())
            assert {id_ for id_ in old if id_ not in now} <= known - new.keys()
            assert {id_: now[id_] for id_ in old if id_ in now and id_ not in new} == {
                id_: old[id_] for id_ in now.keys() & old.keys() - new.keys()
            }
            entries = [entry for entry in stores.journal.entries() if entry.op != "void"]
            if len(entries) > len(model.changes):
                held, base = list(entries[0].held_removals), entries[0].save.base
                model.changes.append(Change("put", by, model.now, after, held, bool(base)))
                if len(model.changes) == 1:
                    model.first = model.now
            model.now, model.held = after, list(entries[0].held_removals) if entries else []
        self.saved.setdefault((node, by), set()).update(new)

    @rule(node=nodes, by=people, new=files, match=st.booleans())
    def conditional_put(self, node: str, by: str, new: dict[str, Any], match: bool) -> None:
        body = spelled_file(new, {})
        current = etag_of(self.model.now) if self.model.now is not None and match else "other"
        condition = Preconditions(match=(current,))
        write = lambda: self.stores[node].put(body, wish(by, condition))  # noqa: E731
        if match and self.model.now is not None:
            write()
            self.model.notice()
            self.model.record("put", by, body, [])
        else:
            with pytest.raises(ChangedError):
                write()
            self.model.notice()

    @rule(node=nodes, by=people, id_=ids, more=values, spelling=spellings)
    def patch(
        self, node: str, by: str, id_: str, more: dict[str, Any], spelling: dict[str, Any]
    ) -> None:
        sent = spelled(id_, more, spelling)
        write = lambda: self.stores[node].store.patch(NAME, id_, sent, wish(by))  # noqa: E731
        if not self._refused(write):
            pieces = self.model.pieces
            assert pieces is not None
            held = [other for other in self.model.held if other != id_]
            self._applied("patch", by, pieces | {id_: sent}, held)

    @rule(node=nodes, by=people, id_=ids)
    def delete(self, node: str, by: str, id_: str) -> None:
        write = lambda: self.stores[node].delete(id_, wish(by))  # noqa: E731
        pieces = self.model.pieces
        if pieces is not None and id_ not in pieces:
            with pytest.raises(MissingError):
                write()
            self.model.notice()
        elif not self._refused(write):
            assert pieces is not None
            held = [other for other in self.model.held if other != id_]
            left = {key: piece for key, piece in pieces.items() if key != id_}
            self._applied("delete", by, left, held)

    # --- people who bring things back ---

    @rule(node=nodes, by=people, data=st.data())
    def restore_revision(self, node: str, by: str, data: st.DataObject) -> None:
        model = self.model
        stores = self.stores[node]
        revision = data.draw(st.integers(0, len(model.changes) + 2))
        before = len(model.changes)
        model.notice()
        known = revision <= len(model.changes) and model.changes
        target = model.at(revision) if known else None
        if target is None:
            with pytest.raises(MissingError):
                stores.past.restore(stores.place, revision, wish(by))
            assert len(model.changes) - before in (0, 1)
            return
        stores.past.restore(stores.place, revision, wish(by))
        model.record("restore", by, target, [])

    @rule(node=nodes, by=people, id_=ids, data=st.data())
    def restore_annotation(self, node: str, by: str, id_: str, data: st.DataObject) -> None:
        model, stores = self.model, self.stores[node]
        revision = data.draw(st.none() | st.integers(0, len(model.changes)))
        write = lambda: stores.past.restore_annotation(stores.place, id_, revision, wish(by))  # noqa: E731
        if self._refused(write, lambda: self._found_then(id_, revision) is not None):
            return
        then = self._found_then(id_, revision)
        pieces = model.pieces
        assert then is not None
        assert pieces is not None
        held = [other for other in model.held if other != id_]
        if pieces.get(id_) == then:
            held = model.held  # nothing to bring back
        self._applied("restore", by, pieces | {id_: then}, held)

    def _found_then(self, id_: str, revision: int | None) -> bytes | None:
        model = self.model
        if revision is not None:
            content = model.at(revision) if model.changes else None
            return None if content is None else (cut(content) or {}).get(id_)
        for change in reversed(model.changes):
            _, changed, removed = change.touched
            if id_ in changed | removed:
                return (cut(change.before or b"") or {})[id_]
        return None

    @rule(node=nodes, by=people)
    def restore_removed(self, node: str, by: str) -> None:
        model, stores = self.model, self.stores[node]
        if self._refused(lambda: stores.past.restore_removed(stores.place, None, wish(by))):
            return
        pieces = model.pieces
        assert pieces is not None
        lost: dict[str, bytes] = {}
        deleted: set[str] = set()
        for change in reversed(model.changes):
            before = cut(change.before or b"") or {}
            if change.on_purpose:
                deleted |= change.touched[2] - lost.keys()
                continue
            for id_ in change.touched[2] - pieces.keys() - deleted:
                lost.setdefault(id_, before[id_])
        after = self.file.read_bytes()
        found = cut(after)
        assert found == pieces | lost
        assert list(found)[: len(pieces)] == list(pieces)
        model.record("restore", by, after, model.held)

    @precondition(lambda self: self.model.held)
    @rule(node=nodes, by=people, data=st.data())
    def confirm(self, node: str, by: str, data: st.DataObject) -> None:
        model, stores = self.model, self.stores[node]
        some = data.draw(st.lists(st.sampled_from(model.held), unique=True))
        if self._refused(
            lambda: stores.past.confirm(stores.place, some, wish(by)),
            lambda: set(some) <= set(model.held),
        ):
            return
        pieces = model.pieces
        assert pieces is not None
        going = some or model.held
        left = {id_: piece for id_, piece in pieces.items() if id_ not in going}
        held = [id_ for id_ in model.held if id_ not in going]
        self._applied("confirm", by, left, held)

    def _refused(
        self, write: Callable[[], object], possible: Callable[[], bool] = lambda: True
    ) -> bool:
        """Write, and tell whether that is refused because of what is on disk."""
        model = self.model
        if model.now is None:
            with pytest.raises(MissingError):
                write()
            # A file that is absent is noticed by those who look into its history.
            if len(model.changes) != self._recorded():
                model.notice()
            return True
        if model.pieces is None:
            with pytest.raises(DamagedError):
                write()
            model.notice()
            return True
        model.notice()
        if not possible():
            with pytest.raises(MissingError):
                write()
            return True
        write()
        return False

    def _recorded(self) -> int:
        stores = self.stores["first"]
        return sum(1 for _ in stores.journal.entries())

    def _applied(self, op: str, by: str, expected: dict[str, bytes], held: list[str]) -> None:
        after = self.file.read_bytes()
        assert list((cut(after) or {}).items()) == list(expected.items())
        self.model.record(op, by, after, held)

    # --- the world ---

    @rule(new=st.one_of(st.sampled_from(sorted(BROKEN)), files), spelling=spellings, by=nodes)
    def another_program_writes(self, new: Any, spelling: dict[str, Any], by: str) -> None:
        content = BROKEN[new] if isinstance(new, str) else spelled_file(new, spelling)
        if by == "first":
            self.file.write_bytes(content)  # in place
        else:
            aside = self.file.with_name("aside")
            aside.write_bytes(content)
            os.replace(aside, self.file)
        self.model.now = content

    @precondition(lambda self: self.model.changes)
    @rule(data=st.data())
    def another_program_brings_back_an_old_copy(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from([change.before for change in self.model.changes]))
        if old is not None:
            self.file.write_bytes(old)
            self.model.now = old

    @precondition(lambda self: self.model.now is not None)
    @rule()
    def another_program_deletes(self) -> None:
        self.file.unlink()
        self.model.now = None

    @precondition(lambda self: self._journal().path.exists())
    @rule(kept=st.integers(0, 5))
    def old_records_move_into_an_archive(self, kept: int) -> None:
        newest = [entry.at for entry in self._journal().entries()][:kept]
        before = newest[-1] if newest else "9"
        Compaction(Locks("flock")).compact(self.file, "fibers.json", before)

    @rule(node=nodes)
    def restart(self, node: str) -> None:
        self.stores[node] = open_stores(self.root)

    @rule(rubbish=st.sampled_from([b'{"n":', b"\0" * 5000, b'{"n":1,"at":"2', b"\n\n", b"{}\n"]))
    def a_crash_tears_the_journal(self, rubbish: bytes) -> None:
        if self._journal().path.exists():
            with self._journal().path.open("ab") as journal:
                journal.write(rubbish)

    def _journal(self) -> Any:
        return self.stores["first"].journal

    # --- what must hold after every step ---

    @invariant()
    def the_file_is_what_the_model_says(self) -> None:
        assert (self.file.read_bytes() if self.file.exists() else None) == self.model.now

    @invariant()
    def the_history_lists_every_change(self) -> None:
        stores, model = self.stores["second"], self.model
        listed = stores.past.page(stores.place, ChangeFilter(), 10_000).changes
        assert [(entry.n, took_effect) for entry, took_effect in listed] == [
            (n, True) for n in range(len(model.changes), 0, -1)
        ]
        for (entry, _), change in zip(listed, reversed(model.changes), strict=True):
            assert (entry.op, entry.by, entry.held_removals) == (change.op, change.by, change.held)
            found = (set(entry.added), set(entry.changed), set(entry.removed))
            assert found == change.touched, entry

    @invariant()
    def every_revision_is_there_byte_for_byte(self) -> None:
        model = self.model
        if not model.changes:
            return
        stores = self.stores["first"]
        for revision in range(len(model.changes) + 1):
            expected = model.at(revision)
            if expected is None:
                with pytest.raises(MissingError):
                    stores.past.revision(stores.place, revision)
            else:
                assert stores.past.revision(stores.place, revision) == expected
                assert content_at(self._journal(), revision, None) == expected

    @invariant()
    def what_is_held_is_listed(self) -> None:
        stores, model = self.stores["second"], self.model
        if model.pieces is not None:
            found = stores.past.held_removals(stores.place)
            expected = [model.pieces[id_] for id_ in model.held if id_ in model.pieces]
            assert sorted(found) == sorted(expected)

    @invariant()
    def corrections_are_a_fold_over_the_changes(self) -> None:
        for by in (None, "ann"):
            found = {
                one.id: (one.kind, plain(one.first), plain(one.last), one.by)
                for one in corrections(self.root / "brain" / "annotations", None, by)
            }
            assert found == dict(folded(self.model.changes, by))

    @invariant()
    def nothing_else_is_in_the_directory(self) -> None:
        names = set(os.listdir(self.file.parent))
        hidden = {f".fibers.json{end}" for end in (".lock", ".journal", ".journal.base")}
        archives = self._journal().archives
        hidden |= {archives.path(number).name for number in archives.numbers()}
        assert names <= {"fibers.json", *hidden}


def wish(
    by: str, condition: Preconditions | None = None, *, viewer: Viewer | None = None
) -> WriteContext:
    return WriteContext(
        Author(by, "127.0.0.1"), condition or Preconditions(), viewer, time.time_ns(), guarded=True
    )


def plain(raw: Any) -> Any:
    return None if raw is None else json.loads(bytes(raw))


def folded(changes: list[Change], by: str | None) -> Iterator[tuple[str, tuple[Any, ...]]]:
    folds: dict[str, list[Any]] = {}
    for change in changes:
        if change.op == "outside" or (by is not None and change.by != by):
            continue
        before, after = (cut(c or b"") or {} for c in (change.before, change.after))
        for id_ in set().union(*change.touched):
            first, last = (
                json.loads(pieces[id_]) if id_ in pieces else None for pieces in (before, after)
            )
            fold = folds.setdefault(id_, [first, None, None, True])
            fold[1:] = [last, change.by, fold[3] and change.op == "put"]
    for id_, (first, last, who, is_saved) in folds.items():
        kind = kind_of(first, last, is_saved=is_saved)
        if kind is not None:
            yield id_, (kind, first, last, who)


def kind_of(
    first: dict[str, Any] | None, last: dict[str, Any] | None, *, is_saved: bool
) -> str | None:
    if first is None or last is None:
        return "added" if last else "removed" if first else None
    if is_saved and UNKNOWN not in last:  # a viewer leaves it out of all that it saves
        first = {key: value for key, value in first.items() if key != UNKNOWN}
    looked_at = ("reviewed", "visited")
    content = [
        {key: value for key, value in one.items() if key not in looked_at} for one in (first, last)
    ]
    if content[0] != content[1]:
        return "changed"
    return "reviewed" if first.get("reviewed") != last.get("reviewed") else None


@pytest.mark.thorough
@pytest.mark.timeout(600)  # when it fails, it looks for a short example
def test_history_of_random_changes_agrees_with_a_plain_model() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples(150),
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
