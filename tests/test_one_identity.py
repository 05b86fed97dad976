"""Tabs that the service cannot tell apart, and one file: what errs, errs towards keeping."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.brains import new_brain
from tests.conftest import Service, StartService
from tests.examples import examples
from tests.people import LEAF, OTHER_LEAVES, Client, Direct, People, Wire, body_of
from tests.people import Service as OverHttp
from tests.stores import IN_MEMORY
from tests.test_two_people import FIRST, TYPES
from tests.viewers import pieces_of

numbers = st.integers(0, 999)
tab_numbers = st.integers(0, 5)


# --- what a model of such tabs has found ---


@pytest.fixture
def people(tmp_path: Path) -> People:
    """Two tabs behind one identity, which have loaded the file."""
    return People(Direct(tmp_path, json.dumps(FIRST).encode()), [0, 0])


def present(people: People) -> set[str]:
    return set(pieces_of(people.wire.content()))


def test_region_that_one_deletes_is_not_taken_for_the_deletion_of_another_view(
    people: People,
) -> None:
    ann, bob = people.clients
    people.add(bob, "axon")  # ann does not see it
    for _ in range(2):
        people.add(ann, "axon")
    people.delete(ann, {"new-2", "new-3"})  # what ann sees now is what bob sees, but for new-1
    assert present(people) >= {"new-1", *(one["id"] for one in FIRST)}
    assert people.wire.listed()[0] >= {"new-2", "new-3"} & present(people)
    people.confirm()
    people.reload(bob)
    people.delete(bob, {"g1"})


def test_tab_that_deletes_everything_takes_nothing_of_a_tab_whose_load_failed(
    people: People,
) -> None:
    ann, bob = people.clients
    people.fail_to_load(ann, breaks=True)
    people.add(ann, "axon")
    people.delete(bob, set(bob.view))
    assert "new-1" in present(people)
    people.add(ann, "axon")
    assert {"new-1", "new-2"} <= present(people)


def test_fields_that_another_tab_changed_in_one_annotation_stay(people: People) -> None:
    ann, bob = people.clients
    people.move(ann, "n1")
    people.review(bob, "n1")
    moved = json.loads(pieces_of(people.wire.content())["n1"])
    assert moved["reviewed"] is True
    assert moved["point"][0] == ann.view["n1"]["point"][0]
    bob.view["n1"]["point"][1] = 77.0
    people.wire.save(0, [body_of(bob.view)])
    both = json.loads(pieces_of(people.wire.content())["n1"])
    assert both["point"][:2] == [ann.view["n1"]["point"][0], 77.0]


def test_saves_that_arrive_late_are_compared_with_what_their_client_had_before(
    people: People,
) -> None:
    ann, bob = people.clients
    people.delete(bob, {"a1"})
    people.move(ann, "n1", 4, [3, 1, 0, 2])
    assert "a1" not in present(people)
    people.add(ann, "glia", 4, [2, 3, 0, 1])
    assert present(people) == {f"new-{n}" for n in range(5, 9)} | {
        one["id"] for one in FIRST if one["id"] != "a1"
    }


def test_tab_that_did_not_leave_loses_nothing_by_what_was_taken_for_leaving(
    people: People,
) -> None:
    ann, bob = people.clients
    people.leave(bob, OTHER_LEAVES[0], ["axon", "neuron", "glia"], lambda: None)
    people.delete(ann, {"n1", "n2"})  # all neurons
    assert {"n1", "n2"} <= people.wire.listed()[1]
    people.move(ann, "a2")
    people.add(ann, "axon")
    assert {"n1", "n2", "new-2"} <= present(people)


def test_undo_that_may_be_an_old_copy_leaves_the_annotation_and_is_listed(people: People) -> None:
    ann, _ = people.clients
    people.move(ann, "n1")
    before = pieces_of(people.wire.content())["n1"]
    people.undo_last(ann)
    assert pieces_of(people.wire.content())["n1"] == before
    assert people.wire.listed()[2] == {"n1"}


# --- anything, in any order ---


@dataclass
class World:
    """Where the examples of the state machine take place.

    Attributes:
        new_wire: Makes a file with a content, and the way to it.
        reorders: How many saves may overtake each other.
    """

    new_wire: Callable[[bytes], Wire] | None = None
    reorders: int = 5


WORLD = World()


class Tabs(RuleBasedStateMachine):
    """Two to four tabs behind one identity or two: duplicated, stale, or back after a failure."""

    @initialize(
        identities=st.lists(st.integers(0, 1), min_size=2, max_size=4), apart=st.booleans(),
        size=st.sampled_from([len(FIRST), len(FIRST), 2, 1]),
    )  # fmt: skip
    def begin(self, identities: list[int], apart: bool, size: int) -> None:
        assert WORLD.new_wire is not None
        first = json.dumps(FIRST[:size], indent=2).encode()
        self.people = People(WORLD.new_wire(first), identities if apart else [0] * len(identities))

    def teardown(self) -> None:
        if hasattr(self, "people"):
            self.people.confirm()

    def _tab(self, number: int) -> Client:
        clients = self.people.clients
        return clients[number % len(clients)]

    @rule(tab=tab_numbers, type_=st.sampled_from(TYPES))
    def add(self, tab: int, type_: str) -> None:
        self.people.add(self._tab(tab), type_)

    @rule(tab=tab_numbers, which=numbers)
    def move(self, tab: int, which: int) -> None:
        client = self._tab(tab)
        ids = sorted(id_ for id_, one in client.view.items() if "point" in one)
        if ids:
            self.people.move(client, ids[which % len(ids)])

    @rule(tab=tab_numbers, which=numbers)
    def review(self, tab: int, which: int) -> None:
        client = self._tab(tab)
        if client.view:
            self.people.review(client, sorted(client.view)[which % len(client.view)])

    @rule(tab=tab_numbers, which=numbers)
    def delete(self, tab: int, which: int) -> None:
        client = self._tab(tab)
        if client.view:
            self.people.delete(client, {sorted(client.view)[which % len(client.view)]})

    @rule(tab=tab_numbers, seed=numbers)
    def delete_region(self, tab: int, seed: int) -> None:
        client, rng = self._tab(tab), random.Random(seed)
        if len(client.view) > 1:
            count = rng.randint(2, len(client.view))
            self.people.delete(client, set(rng.sample(sorted(client.view), count)))

    @rule(tab=tab_numbers)
    def undo(self, tab: int) -> None:
        client = self._tab(tab)
        if client.undo:
            self.people.undo_last(client)

    @rule(tab=tab_numbers)
    def save_again(self, tab: int) -> None:
        self.people.save_again(self._tab(tab))

    @rule(tab=tab_numbers)
    def reload(self, tab: int) -> None:
        self.people.reload(self._tab(tab))

    @rule(tab=tab_numbers, breaks=st.booleans())
    def fail_to_load(self, tab: int, breaks: bool) -> None:
        self.people.fail_to_load(self._tab(tab), breaks=breaks)

    @rule(tab=tab_numbers)
    def duplicate(self, tab: int) -> None:
        if len(self.people.clients) < 5:
            self.people.duplicate(self._tab(tab))

    @rule(tab=tab_numbers, other=st.none() | tab_numbers, seed=numbers)
    def leave_and_come_back(self, tab: int, other: int | None, seed: int) -> None:
        client, rng = self._tab(tab), random.Random(seed)
        types = sorted({one.get("anntype", "") for one in client.view.values()})
        rng.shuffle(types)
        between = self._tab(other) if other is not None else client

        def meanwhile() -> None:
            if between is not client:
                self.people.reload(between)

        self.people.leave(client, rng.choice(OTHER_LEAVES), types, meanwhile)
        self.people.reload(client)

    @rule(tab=tab_numbers, seed=numbers, type_=st.sampled_from(TYPES))
    def add_several_at_once(self, tab: int, seed: int, type_: str) -> None:
        order = self._order(seed)
        if order:
            self.people.add(self._tab(tab), type_, len(order), order)

    @rule(tab=tab_numbers, seed=numbers, which=numbers)
    def drag(self, tab: int, seed: int, which: int) -> None:
        client, order = self._tab(tab), self._order(seed)
        ids = sorted(id_ for id_, one in client.view.items() if "point" in one)
        if ids and order:
            self.people.move(client, ids[which % len(ids)], len(order), order)

    @staticmethod
    def _order(seed: int) -> list[int]:
        rng = random.Random(seed)
        if rng.randrange(5) >= WORLD.reorders:
            return []
        order = list(range(rng.randint(2, 5)))
        rng.shuffle(order)
        return order


def run(count: int, steps: int) -> None:
    run_state_machine_as_test(
        Tabs,
        settings=settings(
            max_examples=examples(count),
            stateful_step_count=steps if examples(count) >= count else 20,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_tabs_behind_one_identity_lose_nothing() -> None:
    root = Path(tempfile.mkdtemp(dir=IN_MEMORY))
    made: list[Path] = []

    def new_wire(first: bytes) -> Wire:
        for old in made:
            shutil.rmtree(old)
        made[:] = [root / "data"]
        return Direct(made[0], first)

    WORLD.new_wire, WORLD.reorders = new_wire, 3
    try:
        run(100, 100)
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("tabs"), "--workers", "10")


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_tabs_behind_one_address_lose_nothing_of_a_service(service: Service) -> None:
    WORLD.new_wire = lambda first: OverHttp(new_brain(service, first, LEAF))
    WORLD.reorders = 0
    run(100, 100)
