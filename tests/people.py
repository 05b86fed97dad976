"""Several tabs behind one or more identities, and what may become of what they save.

The expectations are written from the rules, and share no code with the service.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time_ns
from typing import Protocol

import requests

from neurotrale.annotations.journals.changes import Author, WriteContext
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.merging.chains import MOST_CHAINS
from neurotrale.storage.names import AnnotationName, BlockName
from tests.brains import PAGE, Annotation, Brain, compact
from tests.stores import ANN, Stores, open_stores
from tests.viewers import loaded, pieces_of, save_out_of_order

View = dict[str, Annotation]
OK = 200
BLOCK = BlockName.parse("x0y0z0")
LEAF, OTHER_LEAVES = "z-0001.json", ("z-0000.json", "z-0002.json")


class Wire(Protocol):
    """The way of requests to a service, for one file."""

    def load(self, identity: int, leaf: str = LEAF, *, breaks: bool = False) -> View:
        """Load a file; give what the viewer shows of it.

        Args:
            breaks: The service knows that its answer was broken off.
        """

    def save(self, identity: int, bodies: list[bytes], order: list[int] | None = None) -> None:
        """Save, one after the other.

        Args:
            order: The order in which the service gets to them.
        """

    def content(self) -> bytes:
        """The file."""

    def listed(self) -> tuple[set[str], set[str], set[str]]:
        """Ids of held removals, and those that were ignored, and left as they were, at any time."""

    def confirm(self) -> None:
        """Confirm all removals that are held back."""


def listed(file: Path) -> tuple[set[str], set[str], set[str]]:
    """Read what is listed of the saves of a file from its journal."""
    entries = list(Journal(file).entries())
    return (
        set(entries[0].held_removals) if entries else set(),
        {id_ for entry in entries for id_ in entry.save.navigated},
        {id_ for entry in entries for id_ in entry.save.stale},
    )


class Direct:
    """The part of the service that makes changes, in this process: the kernel's clock is ours."""

    def __init__(self, root: Path, first: bytes) -> None:
        self.stores: Stores = open_stores(root)
        self.name = AnnotationName(("brain",), BLOCK, LEAF)
        self.file = self.stores.file.with_name(LEAF)
        self.file.write_bytes(first)
        self.place = replace(self.stores.place, path=self.file)
        self.clock = 1_000

    def load(self, identity: int, leaf: str = LEAF, *, breaks: bool = False) -> View:
        name, arrived = replace(self.name, leaf=leaf), self._arrive()
        if leaf != LEAF:
            self.stores.store.note_view(name, self._viewer(identity), arrived, "")
            return {}
        read = self.stores.store.read(name)
        etag = "" if breaks else read.etag
        self.stores.store.note_view(name, self._viewer(identity), arrived, read.etag)
        if breaks:
            self.stores.store.note_view(name, self._viewer(identity), arrived, etag)
        return {one["id"]: loaded(one) for one in json.loads(read.body)}

    def save(self, identity: int, bodies: list[bytes], order: list[int] | None = None) -> None:
        times = [self._arrive() for _ in bodies]
        viewer = self._viewer(identity)
        for at in range(len(bodies)) if order is None else order:
            author = Author("", "127.0.0.1", viewer.label)
            context = WriteContext(
                author, viewer=viewer, arrived_ns=times[at], guarded=True, is_viewer=True
            )
            self.stores.store.put(self.name, bodies[at], context)

    def content(self) -> bytes:
        return self.file.read_bytes()

    def listed(self) -> tuple[set[str], set[str], set[str]]:
        return listed(self.file)

    def confirm(self) -> None:
        self.stores.past.confirm(self.place, [], ANN)

    def _arrive(self) -> int:
        self.clock = max(self.clock + 1, time_ns())
        return self.clock

    @staticmethod
    def _viewer(identity: int) -> Viewer:
        return Viewer.of(f"identity-{identity}")


class Service:
    """A running service; identities are those of browsers with nothing but their User-Agent.

    Args:
        brain: A file of it.
    """

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        self.http = requests.Session()

    def load(self, identity: int, leaf: str = LEAF, *, breaks: bool = False) -> View:
        url = self.brain.url.replace(self.brain.leaf, leaf)
        answer = self.http.get(url, headers=self._headers(identity))
        found = answer.json() if answer.status_code == OK else []
        return {one["id"]: loaded(one) for one in found}

    def save(self, identity: int, bodies: list[bytes], order: list[int] | None = None) -> None:
        headers = self._headers(identity)
        if order is not None:
            save_out_of_order(self.brain, headers, bodies, sum(order[:2]))
            return
        for body in bodies:
            answer = self.http.put(self.brain.url, data=body, headers=headers)
            assert answer.status_code == OK, answer.text

    def content(self) -> bytes:
        return self.brain.file.read_bytes()

    def listed(self) -> tuple[set[str], set[str], set[str]]:
        told = listed(self.brain.file)
        assert told[0] == set(self.brain.held())
        return told

    def confirm(self) -> None:
        assert self.http.delete(f"{self.brain.url}/held").ok

    @staticmethod
    def _headers(identity: int) -> dict[str, str]:
        return {**PAGE, "User-Agent": f"Mozilla/5.0 (browser {identity})"}


@dataclass(eq=False)
class Client:
    """A tab.

    Attributes:
        identity: What the service knows it by.
        view: What it shows.
        undo: Steps to undo: an id, and the annotation before.
    """

    identity: int
    view: View = field(default_factory=dict)
    undo: list[tuple[str, Annotation | None]] = field(default_factory=list)


def body_of(view: View) -> bytes:
    return compact(sorted(view.values(), key=lambda one: one.get("anntype", "")))


def copy_of(view: View) -> View:
    copied: View = json.loads(json.dumps(view))
    return copied


class People:
    """Tabs and the file that they edit.

    Args:
        wire: The way to the service.
        identities: The identity of each tab.
    """

    def __init__(self, wire: Wire, identities: list[int]) -> None:
        self.wire = wire
        self.clients = [Client(identity) for identity in identities]
        self.number = 0
        self.past: dict[int, list[View]] = {}
        self.left: set[int] = set()
        self.obeyed = self.doubtful = 0
        for client in self.clients:
            self.reload(client)

    # --- what a tab does ---

    def reload(self, client: Client) -> None:
        client.view = self.wire.load(client.identity)
        client.undo = []
        self._remember(client)

    def fail_to_load(self, client: Client, *, breaks: bool) -> None:
        shown = self.wire.load(client.identity, breaks=breaks)
        self.past.setdefault(client.identity, []).append(copy_of(shown))
        client.view, client.undo = {}, []
        self._remember(client)

    def duplicate(self, client: Client) -> None:
        self.clients.append(Client(client.identity))
        self.reload(self.clients[-1])

    def add(
        self, client: Client, anntype: str, count: int = 1, order: list[int] | None = None
    ) -> None:
        bodies, ids, before = [], [], copy_of(client.view)
        for _ in range(count):
            self.number += 1
            id_ = f"new-{self.number}"
            client.view[id_] = {
                "visited": True, "id": id_, "type": "point", "anntype": anntype,
                "point": [float(self.number), 2.0, 3.0],
            }  # fmt: skip
            client.undo.append((id_, None))
            bodies.append(body_of(client.view))
            ids.append(id_)
        after = self._save(client, before, set(ids), bodies, order)
        for id_ in ids:
            assert json.loads(after[id_]) == client.view[id_]

    def move(
        self, client: Client, id_: str, count: int = 1, order: list[int] | None = None
    ) -> None:
        before, bodies = copy_of(client.view), []
        client.undo.append((id_, before[id_]))
        for _ in range(count):
            self.number += 1
            client.view[id_]["point"][0] = float(1000 + self.number)
            bodies.append(body_of(client.view))
        after = self._save(client, before, {id_}, bodies, order)
        assert json.loads(after[id_])["point"][0] == client.view[id_]["point"][0]

    def review(self, client: Client, id_: str) -> None:
        before = copy_of(client.view)
        client.view[id_] |= {"reviewed": True}
        after = self._save(client, before, {id_})
        if before[id_].get("reviewed") is True:
            return
        if json.loads(after.get(id_, b"{}")).get("reviewed") is not True:
            assert id_ in self.wire.listed()[2] or id_ not in after
            self._is_allowed(client, before, {id_}, stale=True)

    def delete(self, client: Client, ids: set[str]) -> None:
        before = copy_of(client.view)
        present = pieces_of(self.wire.content())
        for id_ in sorted(ids):
            client.undo.append((id_, client.view.pop(id_)))
        after = self._save(client, before, ids)
        kept = ids & after.keys()
        held, ignored, _ = self.wire.listed()
        assert kept <= held | ignored, (kept, held, ignored)
        touched = {
            id_ for id_ in kept if loaded(json.loads(present[id_])) != loaded(before[id_])
        }  # by somebody else
        if kept - touched:
            self._is_allowed(client, before, kept)
        self.obeyed += len(ids & present.keys()) - len(kept)

    def undo_last(self, client: Client) -> None:
        id_, old = client.undo.pop()
        before = copy_of(client.view)
        if old is None:
            if id_ in client.view:
                client.undo = [step for step in client.undo if step[0] != id_]
                self.delete(client, {id_})
                client.undo.pop()
            return
        client.view[id_] = copy_of({id_: old})[id_]
        after = self._save(client, before, {id_})
        assert id_ in after
        if "point" in old and loaded(json.loads(after[id_]))["point"] != old["point"]:
            held, _, stale = self.wire.listed()
            if id_ in before and before[id_]["point"][0] != old["point"][0]:
                assert id_ in stale | held
                self._is_allowed(client, before, {id_}, stale=True)

    def save_again(self, client: Client) -> None:
        if client.view:
            self._save(client, copy_of(client.view), set())

    def leave(
        self, client: Client, leaf: str, types: list[str], between: Callable[[], None]
    ) -> None:
        """Go to another slice: the old one is saved with fewer types, and then empty."""
        self.wire.load(client.identity, leaf)
        self.left.add(client.identity)
        between()
        before = pieces_of(self.wire.content())
        for type_ in types:
            client.view = {i: a for i, a in client.view.items() if a.get("anntype", "") != type_}
            self.wire.save(client.identity, [body_of(client.view)])
            self._remember(client)
        self.wire.save(client.identity, [b"[]"])
        after = pieces_of(self.wire.content())
        assert after.items() >= before.items()
        client.view, client.undo = {}, []
        self._remember(client)

    def confirm(self) -> None:
        """Confirm what is held: it goes, and nothing else."""
        before, (held, _, _) = pieces_of(self.wire.content()), self.wire.listed()
        if held:
            self.wire.confirm()
            after = pieces_of(self.wire.content())
            assert after == {id_: piece for id_, piece in before.items() if id_ not in held}
            assert self.wire.listed()[0] == set()

    # --- what must hold ---

    def _remember(self, client: Client) -> None:
        self.past.setdefault(client.identity, []).append(copy_of(client.view))

    def _save(
        self,
        client: Client,
        seen: View,
        touched: set[str],
        bodies: list[bytes] | None = None,
        order: list[int] | None = None,
    ) -> dict[str, bytes]:
        before = pieces_of(self.wire.content())
        self.wire.save(client.identity, bodies or [body_of(client.view)], order)
        after = pieces_of(self.wire.content())
        for id_, piece in before.items():
            if id_ not in touched:
                assert after.get(id_) == piece, (id_, piece, after.get(id_))
        kept = [id_ for id_ in before if id_ in after]
        assert [id_ for id_ in after if id_ in before] == kept
        back = after.keys() - before.keys() - touched
        if back:
            assert back <= self.wire.listed()[0]
        self._remember(client)
        for body in bodies or ():
            self.past[client.identity].append({one["id"]: one for one in json.loads(body)})
        return after

    def _is_allowed(
        self, client: Client, seen: View, ids: set[str], *, stale: bool = False
    ) -> None:
        """Hold that the service could not know for sure what a save meant."""
        self.doubtful += len(ids)
        view = client.view
        if len(seen) == len(seen.keys() - view.keys()):
            return  # everything at once
        removed = seen.keys() - view.keys()
        types = {seen[id_].get("anntype", "") for id_ in removed}
        if client.identity in self.left and not any(
            one.get("anntype", "") in types for one in view.values()
        ):
            return  # as if leaving the slice
        is_doubtful = client.identity in self.left or len(self.past[client.identity]) > MOST_CHAINS
        if is_doubtful and (len(removed) > 1 or len(view) == 1):
            return  # what somebody sees may not be known, so that many at once are doubtful
        past = self.past[client.identity][:-1]
        others = [other for other in past if _key(other) != _key(seen)]
        assert any(_is_one_step(other, view) for other in others), (ids, seen, view)


def _key(view: View) -> str:
    return json.dumps(view, sort_keys=True)


def _is_one_step(old: View, new: View) -> bool:
    edited = [id_ for id_ in new if id_ not in old or not _same(old[id_], new[id_])]
    removed = old.keys() - new.keys()
    return not edited or (len(edited) == 1 and not removed)


def _same(old: Annotation, new: Annotation) -> bool:
    return {"visited": False, **old} == {"visited": False, **new}
