"""People with viewers who drag annotations, by a clock of the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time_ns

from neurotrale.annotations.journals.changes import Author, WriteContext
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.write_requests import WriteRequest
from tests.brains import Annotation, compact, point
from tests.stores import NAME, Stores, open_stores
from tests.viewers import loaded

FIRST = [point("a", anntype="axon"), point("b", note="kept"), point("c", 7.25)]
STEP_S = 0.05
HOUR_S = 3600.0


@dataclass
class World:
    """A service in this process.

    Attributes:
        root: The data root.
        rest_s: When a burst ends, by the clock; that of the thread which ends bursts is the real
            one, and an hour is never over.
        now: The time.
        views: What people have loaded; they outlive the service.
        contents: The file after each save, by its number.
    """

    root: Path
    rest_s: float = HOUR_S
    now: datetime = datetime(2026, 11, 22, 9, tzinfo=UTC)
    views: Views = field(default_factory=lambda: Views(None))
    contents: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.restart()
        if not self.stores.file.exists():
            self.stores.file.write_bytes(json.dumps(FIRST, indent=1).encode())
        self.note()

    def restart(self) -> None:
        """Start another service; what the one before has left open stays as it is."""
        self.stores: Stores = open_stores(
            self.root, rest_s=self.rest_s, now=lambda: self.now, views=self.views
        )

    def note(self) -> None:
        """Note the file as the content after the last record."""
        last = next(self.stores.journal.entries(), None)
        self.contents[0 if last is None else last.n] = self.stores.file.read_bytes()

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def end_bursts(self) -> None:
        """Do what the thread does when a burst rests."""
        self.stores.writer.changes.bursts.close()

    def listed(self) -> list[tuple[str, int]]:
        """The operation and the number of saves of each applied change, oldest first."""
        page = self.stores.past.page(self.stores.place, ChangeFilter(), 9999)
        return [(entry.op, entry.saves) for entry, applied in reversed(page.changes) if applied]

    @property
    def has_burst(self) -> bool:
        return self.stores.journal.burst_path.exists()


@dataclass
class Person:
    """A tab of a viewer."""

    world: World
    name: str
    view: dict[str, Annotation] = field(default_factory=dict)

    @property
    def viewer(self) -> Viewer:
        return Viewer.of(self.name)

    def context(self) -> WriteContext:
        author = Author(self.name, "127.0.0.1", self.viewer.label)
        return WriteContext(
            author, viewer=self.viewer, arrived_ns=arrival(), guarded=True, is_viewer=True
        )

    def load(self) -> None:
        stores = self.world.stores
        read = stores.store.read(NAME)
        stores.store.note_view(NAME, self.viewer, arrival(), read.etag)
        self.view = {one["id"]: loaded(one) for one in json.loads(read.body)}

    def move(self, id_: str, to: float) -> None:
        self.view[id_]["point"][0] = to
        self.save()

    def drag(self, id_: str, steps: int, start: float = 100) -> None:
        for step in range(steps):
            self.move(id_, start + step)

    def request(self, intent: str = "") -> WriteRequest:
        return WriteRequest(
            operation="put",
            file=self.world.stores.place,
            context=self.context(),
            body=compact(list(self.view.values())),
            intent=intent,
        )

    def save(self) -> None:
        self.world.wait(STEP_S)
        self.world.stores.writer.write(self.request())
        self.world.note()


_last_arrival = time_ns()


def arrival() -> int:
    """The time at which a request arrives; no two arrive at once."""
    global _last_arrival
    _last_arrival = max(_last_arrival + 1, time_ns())
    return _last_arrival


Happening = Callable[[World, Person], object]
