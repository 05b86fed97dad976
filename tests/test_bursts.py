"""Saves of a drag are one change of the history, and whatever else happens, nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count, groupby, pairwise
from pathlib import Path
from threading import Event, Thread

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.journals.bursts import MOST_BYTES
from neurotrale.annotations.journals.corrections import file_corrections
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import number_of
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.merging.view_store import Views
from neurotrale.errors import MissingError
from tests.brains import compact, new_brain, point, succeed
from tests.bursts import FIRST, HOUR_S, STEP_S, Happening, Person, World, arrival
from tests.conftest import StartService
from tests.examples import examples
from tests.processes import eventually
from tests.stores import IN_MEMORY, Stores, open_stores
from tests.test_batches import killed_at
from tests.test_crash import CONTENT, DIRECTORY, RECORDED, REPLACED, Recorder
from tests.viewers import Tab, loaded, pieces_of

pytestmark = pytest.mark.proof

ids = st.sampled_from("abcd")
names = st.sampled_from(["ann", "bob"])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def ann(world: World) -> Person:
    person = Person(world, "ann")
    person.load()
    return person


def check_revisions(world: World) -> None:
    """Hold that every listed change leads from the file before its saves to the file after them."""
    journal, now = world.stores.journal, Contents().read(world.stores.file)
    page = world.stores.past.page(world.stores.place, ChangeFilter(), 9999)
    following = None
    for entry, applied in page.changes:
        if not applied:
            continue
        for content in (None, now):
            assert content_at(journal, entry.n, content) == world.contents[entry.n]
        if following is not None:
            assert following.old == entry.new
            assert entry.n < following.first_covered
        following = entry
        for inside in range(entry.first_covered, entry.n):
            with pytest.raises(MissingError, match=f"one of {entry.saves} saves"):
                world.stores.past.revision(world.stores.place, inside)
    assert content_at(journal, 0, now) == world.contents[0]


# --- one change ---


@pytest.mark.parametrize("steps", [1, 2, 3, 40])
@pytest.mark.parametrize("ended_by", ["rest", "patch", "the next service"])
def test_drag_is_one_change(world: World, ann: Person, steps: int, ended_by: str) -> None:
    before = world.stores.file.read_bytes()
    ann.drag("a", steps)
    assert world.has_burst == (steps > 1)
    assert world.listed() == [("put", 1)] * steps  # as long as it goes on
    check_revisions(world)
    if ended_by == "rest":
        world.end_bursts()
        more = []
    else:
        if ended_by == "the next service":
            world.restart()
        world.stores.patch("b", length=3)
        world.note()
        more = [("patch", 1)]
    assert world.listed() == [("put", steps), *more]
    assert not world.has_burst
    check_revisions(world)
    correction, *_ = file_corrections(world.stores.file)
    assert correction.id == "a"
    assert json.loads(bytes(correction.first or b"")) == FIRST[0]
    assert json.loads(bytes(correction.last or b""))["point"][0] == 100.0 + steps - 1
    world.stores.past.restore_annotation(world.stores.place, "a", None, ann.context())
    assert pieces_of(world.stores.file.read_bytes())["a"] == pieces_of(before)["a"]


def test_burst_takes_little_space_in_the_journal(world: World, ann: Person) -> None:
    ann.move("a", 1.5)
    size = world.stores.journal.path.stat().st_size
    ann.drag("a", 200)
    world.end_bursts()
    assert world.listed() == [("put", 201)]
    assert world.stores.journal.path.stat().st_size < 3 * size


def test_requests_of_a_burst_are_not_made_again(world: World, ann: Person) -> None:
    requests = []
    for number in range(5):
        ann.view["a"]["point"][0] = 10.0 + number
        requests.append(ann.request(f"intent-{number}"))
        world.wait(STEP_S)
        world.stores.writer.write(requests[-1])
    for end in (lambda: None, world.end_bursts):
        end()
        content = world.stores.file.read_bytes()
        for request in requests:
            again = world.stores.writer.write(replace(request, is_repeated=True))
            assert again.changed
            assert not again.created
        assert world.stores.file.read_bytes() == content
    assert world.listed() == [("put", 5)]


def test_saves_that_come_together_are_part_of_the_burst(world: World, ann: Person) -> None:
    requests = []
    for number in range(9):
        ann.view["a"]["point"][0] = 10.0 + number
        requests.append(ann.request())
    for some in (requests[:1], requests[1:4], requests[4:5], requests[5:]):
        world.wait(STEP_S)
        results = world.stores.writer.write_together(some)
        assert not any(isinstance(result, Exception) for result in results)
        world.note()
    world.end_bursts()
    assert world.listed() == [("put", 9)]
    check_revisions(world)


def test_file_beside_the_journal_is_open_to_those_who_may_use_the_annotations(
    world: World, ann: Person
) -> None:
    world.stores.file.chmod(0o640)
    ann.drag("a", 3)
    assert stat.S_IMODE(world.stores.journal.burst_path.stat().st_mode) == 0o640


# --- what ends a burst ---


def nothing(world: World, ann: Person) -> None:
    pass


def mark(world: World, ann: Person) -> None:
    ann.view["a"]["reviewed"] = True
    ann.save()


def another_program(world: World, ann: Person) -> None:
    found = json.loads(world.stores.file.read_bytes())
    world.stores.file.write_bytes(json.dumps([*found, point("x")]).encode())


def add(world: World, ann: Person) -> None:
    ann.view["new"] = point("new")
    ann.save()


def delete(world: World, ann: Person) -> None:
    del ann.view["b"]
    ann.save()


def restart(world: World, ann: Person) -> None:
    world.restart()


def patch(world: World, ann: Person) -> None:
    world.stores.patch("b", length=4)
    world.note()


def restore(world: World, ann: Person) -> None:
    other = World(world.root, now=world.now)
    other.stores.past.restore_annotation(other.stores.place, "b", 0, ann.context())
    other.stores.past.restore(other.stores.place, 0, ann.context())
    world.note()


ENDS: dict[str, tuple[Happening, list[tuple[str, int]]]] = {
    "nothing": (nothing, [("put", 6)]),
    "the same content": (lambda world, ann: ann.save(), [("put", 6)]),
    "a mark of the same annotation": (mark, [("put", 7)]),
    "a rest": (lambda world, ann: world.wait(HOUR_S), [("put", 3), ("put", 3)]),
    "a clock that is set back": (lambda world, ann: world.wait(-9), [("put", 3), ("put", 3)]),
    "the next start": (restart, [("put", 3), ("put", 3)]),
    "a load": (lambda world, ann: Person(world, "eve").load(), [("put", 3), ("put", 3)]),
    "another annotation": (
        lambda world, ann: ann.move("b", 5),
        [("put", 3), ("put", 1), ("put", 3)],
    ),
    "an addition": (add, [("put", 3), ("put", 1), ("put", 3)]),
    "a deletion": (delete, [("put", 3), ("put", 1), ("put", 3)]),
    "a patch": (patch, [("put", 3), ("patch", 1), ("put", 3)]),
    "another program": (another_program, [("put", 3), ("outside", 1), ("put", 3)]),
    "a command": (restore, [("put", 3), ("restore", 1), ("put", 1), ("put", 2)]),
}


@pytest.mark.parametrize("end", ENDS)
def test_burst_ends_with(world: World, ann: Person, end: str) -> None:
    event, expected = ENDS[end]
    ann.drag("a", 3)
    event(world, ann)
    ann.drag("a", 3, 200)
    if event is another_program:
        world.contents[4] = content_at(world.stores.journal, 4, None)
    world.end_bursts()
    assert world.listed() == expected
    assert not world.has_burst
    check_revisions(world)
    assert json.loads(pieces_of(world.stores.file.read_bytes())["a"])["point"][0] == 202.0


@pytest.mark.parametrize("name", ["bob", "ann"])
def test_burst_ends_with_a_save_from_another_view(world: World, ann: Person, name: str) -> None:
    other = Person(world, name)
    other.load()
    other.move("b", 9)
    ann.drag("a", 3)
    other.move("c", 9)
    ann.drag("a", 3, 200)
    other.move("a", 5)  # what ann has changed, too
    ann.drag("a", 3, 300)
    world.end_bursts()
    assert world.listed() == [("put", saves) for saves in (1, 3, 1, 3, 1, 1, 2)]
    check_revisions(world)


def test_content_that_somebody_has_loaded_in_the_middle_of_a_burst_stays_a_revision(
    world: World, ann: Person
) -> None:
    """The notice of a load may come late, when more was saved."""
    ann.drag("a", 3)
    bob = Person(world, "bob")
    bob.load()
    ann.drag("a", 3, 200)
    late = world.contents[5]
    world.views.saw(bob.viewer, world.stores.place.display_path, etag_of(late), arrival())
    ann.drag("a", 2, 300)
    world.end_bursts()
    assert world.listed() == [("put", saves) for saves in (3, 2, 3)]
    check_revisions(world)
    world.views = Views(None)  # a crash forgets it; the load is known from the disk
    world.views.saw(bob.viewer, world.stores.place.display_path, etag_of(late), arrival())
    world.restart()
    bob.view = {one["id"]: loaded(one) for one in json.loads(late)}
    bob.move("b", 77)
    found = json.loads(world.stores.file.read_bytes())
    assert [one["point"][0] for one in found] == [301.0, 77.0, 7.25]


def test_burst_is_bounded(world: World, ann: Person) -> None:
    ann.view["a"]["description"] = "x" * (MOST_BYTES // 20)
    ann.drag("a", 40)
    world.end_bursts()
    (_, first), *others = world.listed()
    assert 5 < first < 20
    assert first + sum(saves for _, saves in others) == 40
    check_revisions(world)


def test_burst_begins_only_after_a_record_that_older_versions_do_not_write_after(
    world: World, ann: Person
) -> None:
    ann.drag("a", 1)
    journal = world.stores.journal.path
    assert b'"format":3' in journal.read_bytes()
    journal.write_bytes(journal.read_bytes().replace(b'"format":3', b'"format":2'))
    ann.drag("a", 3, 200)
    world.end_bursts()
    assert world.listed() == [("put", 1), ("put", 3)]
    check_revisions(world)


def test_command_names_the_saves_of_a_burst(world: World, ann: Person) -> None:
    ann.drag("a", 20)
    world.end_bursts()
    (line,) = succeed("history", world.stores.file)
    assert re.search(r"put \(20 saves in (0\.9|1\.0) s\)  ~1  a$", line)
    with pytest.raises(MissingError, match="20 is the revision after the last one, 0 the one"):
        world.stores.past.restore(world.stores.place, 7, ann.context())


# --- whatever happens ---


def patched(world: World, id_: str, length: int) -> None:
    world.stores.patch(id_, length=length)
    world.note()


def restored(person: Person, id_: str, revision: int | None) -> None:
    past, place = person.world.stores.past, person.world.stores.place
    past.restore_annotation(place, id_, revision, person.context())


def corrected(world: World) -> list[tuple[str, str, bytes, bytes]]:
    """Give the corrections, but for their times and order: a drag may end where it began."""
    return sorted(
        (one.id, one.kind, bytes(one.first or b""), bytes(one.last or b""))
        for one in file_corrections(world.stores.file)
    )


class Bursts(RuleBasedStateMachine):
    """The same saves with bursts and without."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="neurotrale-bursts-", dir=IN_MEMORY))
        self.worlds = [
            World(self.root / name, rest_s) for name, rest_s in (("one", HOUR_S), ("each", 0))
        ]
        self.people: list[dict[str, Person]] = []
        self.places = count(1000, 10)

    def teardown(self) -> None:
        try:
            self.revisions_are_the_same()
        finally:
            shutil.rmtree(self.root)

    @initialize()
    def begin(self) -> None:
        self.people = [
            {name: Person(world, name) for name in ("ann", "bob")} for world in self.worlds
        ]
        self.each(lambda person: person.load(), "ann")
        self.each(lambda person: person.load(), "bob")

    def each(self, act: Callable[[Person], object], name: str = "ann") -> None:
        """Do the same in both worlds, at the same time."""
        for people in self.people:
            with suppress(MissingError):
                act(people[name])

    # --- people ---

    @rule(name=names, id_=ids, steps=st.integers(2, 5))
    def drag(self, name: str, id_: str, steps: int) -> None:
        # Never to where anything has been: a burst that changes nothing in the end is undone as
        # nothing, and its steps one by one.
        start = next(self.places)
        if all(id_ in people[name].view for people in self.people):
            self.each(lambda person: person.drag(id_, steps, start), name)

    @rule(id_=st.sampled_from("ab"), steps=st.integers(2, 9))
    def drag_on(self, id_: str, steps: int) -> None:
        self.drag("ann", id_, steps)

    @rule(name=names, id_=ids)
    def delete(self, name: str, id_: str) -> None:
        def act(person: Person) -> None:
            person.view.pop(id_, None)
            person.save()

        self.each(act, name)

    @rule(name=names, id_=ids)
    def add(self, name: str, id_: str) -> None:
        def act(person: Person) -> None:
            person.view.setdefault(id_, point(id_, 55, visited=True))
            person.save()

        self.each(act, name)

    @rule(name=names)
    def load(self, name: str) -> None:
        self.each(lambda person: person.load(), name)

    @rule(id_=ids, length=st.integers(0, 3))
    def patch(self, id_: str, length: int) -> None:
        self.each(lambda person: patched(person.world, id_, length))

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        revision = data.draw(st.sampled_from(self.lasting_revisions()))
        self.each(
            lambda person: person.world.stores.past.restore(
                person.world.stores.place, revision, person.context()
            )
        )

    @rule(id_=ids)
    def restore_annotation(self, id_: str) -> None:
        self.patch(id_, 0)  # every writer looks first whether another program was here
        revision = self.before_last_change(id_)
        if revision is not None:
            for people, number in zip(self.people, (None, revision), strict=True):
                restored(people["ann"], id_, number)

    @rule(name=names, data=st.data())
    def undo(self, name: str, data: st.DataObject) -> None:
        since = data.draw(st.sampled_from([*self.times(), "2026-01-01"]))
        self.each(
            lambda person: person.world.stores.past.undo(
                person.world.stores.place, name, None, since, person.context()
            )
        )

    @rule()
    def restore_removed(self) -> None:
        self.each(
            lambda person: person.world.stores.past.restore_removed(
                person.world.stores.place, None, person.context()
            )
        )

    # --- the world ---

    @rule(seconds=st.sampled_from([0.2, HOUR_S]))
    def wait(self, seconds: float) -> None:
        for world in self.worlds:
            world.wait(seconds)

    @rule()
    def restart(self) -> None:
        for world in self.worlds:
            world.restart()

    @rule()
    def burst_rests(self) -> None:
        for world in self.worlds:
            world.end_bursts()

    @rule()
    def crash_leaves_the_burst_file(self) -> None:
        """Its records were appended to the journal already."""
        path = self.worlds[0].stores.journal.burst_path
        if path.exists():
            left = path.read_bytes()
            self.burst_rests()
            path.write_bytes(left)

    @rule(rubbish=st.sampled_from([b'{"n":', b'{"n":999,"covers":1,"at":"2', b"\n\n", b"{}\n"]))
    def crash_tears(self, rubbish: bytes) -> None:
        journal = self.worlds[0].stores.journal
        for path in (journal.path, journal.burst_path):
            if path.exists():
                with path.open("ab") as file:
                    file.write(rubbish)
        self.restart()

    @rule(x=st.integers(0, 9))
    def another_program_writes(self, x: int) -> None:
        content = json.dumps([point("a", x), point("d")]).encode()
        for world in self.worlds:
            world.stores.file.write_bytes(content)
        # What they have loaded may not be on record. Recent revisions would stand in for it, and a
        # burst leaves fewer of those.
        for name in ("ann", "bob"):
            self.load(name)

    # --- what must hold ---

    def revisions(self) -> list[int]:
        entries = list(self.worlds[0].stores.journal.entries())
        return [0, *(entry.n for entry in entries)] if entries else []

    def lasting_revisions(self) -> list[int]:
        """The revisions that are there when an open burst has ended, too."""
        journal = self.worlds[0].stores.journal
        burst = journal.burst_path.read_bytes() if journal.burst_path.exists() else b""
        saves = [number for number in map(number_of, burst.splitlines()) if number]
        inside = range(min(saves) - 1, max(saves)) if saves else range(0)
        return [0, *(number for number in self.revisions() if number and number not in inside)]

    def times(self) -> list[str]:
        """The times of changes, but for those within a burst, all of which is undone or nothing."""
        entries = list(self.worlds[0].stores.journal.entries())
        return [
            began
            for began in (entry.began or entry.at for entry in entries)
            if not any(one.began and one.began < began <= one.at for one in entries)
        ]

    def before_last_change(self, id_: str) -> int | None:
        for entry in self.worlds[0].stores.journal.entries():
            if id_ in (*entry.changed, *entry.removed):
                return entry.first_covered - 1
        return None

    @invariant()
    def all_is_the_same(self) -> None:
        one, each = self.worlds
        content = one.stores.file.read_bytes()
        assert content == each.stores.file.read_bytes()
        assert corrected(one) == corrected(each)
        whole = {entry.n: entry for entry in each.stores.journal.entries()}
        ends = len(whole)
        for entry in one.stores.journal.entries():
            same = whole[entry.n]
            assert (entry.op, entry.by, entry.at, entry.new) == (
                same.op, same.by, same.at, same.new,
            )  # fmt: skip
            assert entry.held_removals == same.held_removals
            assert entry.n == ends
            ends = entry.first_covered - 1
            assert entry.old == whole[entry.first_covered].old
        assert ends == 0

    @rule()
    def revisions_are_the_same(self) -> None:
        one, each = self.worlds
        now = Contents().read(one.stores.file)
        for revision in self.revisions():
            expected = content_at(each.stores.journal, revision, now)
            for content in (now, None):
                assert content_at(one.stores.journal, revision, content) == expected


@pytest.mark.thorough
def test_random_saves_with_bursts_are_the_same_as_each_on_its_own() -> None:
    run_state_machine_as_test(
        Bursts,
        settings=settings(
            max_examples=examples(60),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- deaths ---


def drag_and_more(root: Path, told: int) -> None:
    """Save five steps of a drag, end the burst, drag again, and patch; tell each that is done."""
    world = World(root)
    person = Person(world, "ann")
    person.load()
    for number, step in enumerate(STEPS, 1):
        if step is None:
            world.wait(STEP_S)
            world.stores.patch("b", length=7)
        else:
            person.move("a", step)
        os.write(told, bytes([number]))
        if number == 5:
            world.end_bursts()


STEPS = (100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 107.0, None)


@pytest.mark.thorough
def test_writer_killed_at_any_step_of_a_burst_loses_no_save_that_was_answered(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    every = max(18, 6 * pytestconfig.option.crash_every)
    died_with = set()
    for step in count(1, every):
        root = Path(tempfile.mkdtemp(prefix="neurotrale-bursts-", dir=IN_MEMORY))
        reading, telling = os.pipe()
        code = killed_at(step, partial(drag_and_more, root, telling))
        os.close(telling)
        answered = len(os.read(reading, 99))
        os.close(reading)
        assert code in (0, -signal.SIGKILL)
        if (root / "brain").exists() and any((root / "brain").rglob("fibers.json")):
            done = check_after_death(root, f"killed at step {step}")
            assert answered <= done <= answered + 1
            died_with.add(done)
        shutil.rmtree(root)
        if not code:
            break
    assert len(died_with) >= 5


def check_after_death(root: Path, when: str) -> int:
    """Hold what must hold after a death, and after the next write; give how many saves are done."""
    stores = open_stores(root)
    content = stores.file.read_bytes()
    found = {one["id"]: one for one in json.loads(content)}
    x = found["a"]["point"][0]
    done = len(STEPS) if "length" in found["b"] else STEPS.index(x) + 1 if x in STEPS else 0
    check_numbers(stores, done, when)
    if done:
        assert content_at(stores.journal, newest_of(stores), None) == content, when
    correction = next((one for one in file_corrections(stores.file) if one.id == "a"), None)
    stores.patch("c", length=1)
    assert not stores.journal.burst_path.exists(), when
    after = {one["id"]: one for one in json.loads(stores.file.read_bytes())}
    assert after == found | {"c": after["c"]}, when
    check_numbers(stores, done, when, more=1)
    again = next((one for one in file_corrections(stores.file) if one.id == "a"), None)
    assert again == correction, when
    if done:
        assert again is not None
        assert json.loads(bytes(again.first or b"")) == FIRST[0], when
        assert json.loads(bytes(again.last or b""))["point"][0] == x, when
    assert content_at(stores.journal, newest_of(stores), None) == stores.file.read_bytes()
    assert json.loads(content_at(stores.journal, 0, None)) == FIRST, when
    return done


def newest_of(stores: Stores) -> int:
    changes = stores.past.changes(stores.place, ChangeFilter())
    return next(entry.n for entry, applied in changes if applied)


def check_numbers(stores: Stores, done: int, when: str, more: int = 0) -> None:
    """Hold that each save is in one applied change, in order, and each change can be replayed."""
    changes = list(stores.past.changes(stores.place, ChangeFilter()))
    applied = [entry for entry, is_applied in changes if is_applied]
    assert sum(entry.saves for entry in applied) == done + more, when
    numbers = [n for entry in reversed(applied) for n in range(entry.first_covered, entry.n + 1)]
    assert numbers == sorted(set(numbers)), when
    for later, earlier in pairwise(applied):
        assert later.old == earlier.new, when
    for entry in applied:
        content = content_at(stores.journal, entry.n, Contents().read(stores.file))
        assert etag_of(content) == (entry.new.hash if entry.new else ""), when


@pytest.mark.thorough
def test_burst_that_is_torn_anywhere_was_never_applied_there(
    world: World, ann: Person, pytestconfig: pytest.Config
) -> None:
    """The power goes while the burst file is written: any part of the last record may be there."""
    ann.drag("a", 3)
    place = world.stores.file.parent
    before = {path: path.read_bytes() for path in place.iterdir()}
    old = place / "old"
    os.link(world.stores.file, old)
    path = world.stores.journal.burst_path
    size = len(before[path])
    ann.move("a", 999)
    whole = path.read_bytes()
    for cut in range(size, len(whole) + 1, pytestconfig.option.crash_every):
        path.write_bytes(whole[:cut])
        for name, content in before.items():
            if name not in (path, world.stores.file):
                name.write_bytes(content)
        old.replace(world.stores.file)
        os.link(world.stores.file, old)
        stores = open_stores(world.root)
        check_numbers(stores, 3, f"cut at {cut}")
        stores.patch("b", length=cut)
        check_numbers(stores, 3, f"cut at {cut}", more=1)
        assert [entry.saves for entry in stores.journal.entries() if entry.op == "put"][-1] == 3


@pytest.mark.thorough
def test_record_of_a_burst_that_is_torn_anywhere_is_written_again(
    world: World, ann: Person, pytestconfig: pytest.Config
) -> None:
    ann.drag("a", 4)
    journal, burst = world.stores.journal.path, world.stores.journal.burst_path
    before, left = journal.read_bytes(), burst.read_bytes()
    world.end_bursts()
    whole = journal.read_bytes()
    for cut in range(len(before), len(whole) + 1, pytestconfig.option.crash_every):
        journal.write_bytes(whole[:cut])
        burst.write_bytes(left)
        stores = open_stores(world.root)
        check_numbers(stores, 4, f"cut at {cut}")
        stores.patch("b", length=cut)
        world.contents[5] = stores.file.read_bytes()
        check_numbers(stores, 4, f"cut at {cut}", more=1)
        check_revisions(world)
        assert [entry.saves for entry in stores.journal.entries()] == [1, 4]
        stores.file.write_bytes(world.contents[4])


# --- at the same time ---


def test_history_that_is_read_while_bursts_end_is_whole_at_any_time(
    world: World, ann: Person
) -> None:
    faults: list[str] = []
    is_over = Event()

    def read() -> None:
        newest = 0
        while not is_over.is_set():
            entries = list(world.stores.journal.entries())
            forward = [record.n for record in world.stores.journal.records_forward()]
            numbers = [n for one in entries for n in range(one.n, one.first_covered - 1, -1)]
            if numbers != list(range(len(numbers), 0, -1)) or len(numbers) < newest:
                faults.append(f"{newest}: {[(one.n, one.covers) for one in entries]}")
            if forward != sorted(set(forward)):
                faults.append(f"forward: {forward}")
            newest = len(numbers)

    reader = Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            ann.drag("a", 1 + number % 4, 100 + 10 * number)
            if number % 3:
                world.end_bursts()
            else:
                ann.move("b", 500 + number)
    finally:
        is_over.set()
        reader.join()
    assert faults == []


def test_bursts_that_rest_are_recorded_by_a_thread(tmp_path: Path) -> None:
    world = World(tmp_path, rest_s=0.02)
    world.now = datetime.now(UTC)
    ann = Person(world, "ann")
    ann.load()
    for _ in range(5):
        for step in range(4):
            ann.view["a"]["point"][0] += 1
            world.wait(0.001 * step)
            world.stores.writer.write(ann.request())
        eventually(lambda: not world.has_burst, "the burst is still open")
    assert sum(saves for _, saves in world.listed()) == 20
    check_numbers(world.stores, 20, "")


@pytest.mark.parametrize("services", [1, 2])
def test_real_services_record_all_saves_of_people_who_drag(
    tmp_path: Path, start_service: StartService, services: int
) -> None:
    """Ten workers each; how many changes it takes depends on how busy the machine is."""
    running = [start_service(tmp_path, "--workers", "10") for _ in range(services)]
    names = [f"person-{number}" for number in range(3)]
    first = [point(name, 0.5) for name in names]
    brain = new_brain(running[0], compact(first))
    steps = 40

    def drag(tab: Tab, name: str) -> None:
        for step in range(1, steps + 1):
            tab.view[name]["point"][0] = float(step)
            tab.save()

    tabs = [
        Tab.named(replace(brain, service=running[number % services]), name)
        for number, name in enumerate(names)
    ]
    for tab in tabs:
        tab.load()
    for group in (tabs[:1], tabs[1:]):  # one alone, then two at the same time
        threads = [Thread(target=drag, args=(tab, names[tabs.index(tab)])) for tab in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one["point"][0] for one in brain.content()] == [float(steps)] * 3
    burst = Journal(brain.file).burst_path
    eventually(lambda: not burst.exists(), "the burst is still open")
    changes = brain.history(limit=500)
    assert sum(change["saves"] for change in changes) == steps * 3
    for name in names:
        mine = [change for change in changes if change["changed"] == [name]]
        assert sum(change["saves"] for change in mine) == steps
    correction = {one.id: one for one in file_corrections(brain.file)}
    for one in first:
        assert json.loads(bytes(correction[one["id"]].first or b"")) == one
    for change in changes:
        told = requests.get(f"{brain.url}/history/{change['revision']}")
        assert told.status_code == 200, told.text


# --- what is written, in which order ---


def steps_of(work: Callable[[], object]) -> list[tuple[str, str]]:
    """Work in another process; give what it writes, syncs and renames."""
    reading, telling = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            recorder = Recorder()
            recorder.start()
            work()
            recorder.stop()
            os.write(telling, json.dumps(recorder.steps).encode())
        finally:
            os._exit(0)
    os.close(telling)
    os.waitpid(pid, 0)
    with open(reading, "rb") as told:
        steps = [tuple(step) for step in json.loads(told.read())]
    return [step for step, _ in groupby(steps)]


def test_each_save_of_a_burst_is_durable_before_the_file_is_replaced(
    world: World, ann: Person
) -> None:
    def work() -> None:
        ann.drag("a", 2, 200)
        world.stores.patch("b", length=1)

    burst = [("write", ".fibers.json.burst"), ("fsync", ".fibers.json.burst")]
    ann.drag("a", 1)
    assert steps_of(work) == [
        *CONTENT, *burst, DIRECTORY, *REPLACED,  # the second save: its file is new
        *CONTENT, *burst, *REPLACED,
        *CONTENT, *RECORDED, *REPLACED,  # a record for the burst, and one for the patch
    ]  # fmt: skip
    assert world.listed() == [("put", 3), ("patch", 1)]
