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
from tests.people import LEAF, OTHER_LEAVES, Client, Direct, People, Wire
from tests.people import Service as OverHttp
from tests.stores import IN_MEMORY
from tests.test_two_people import FIRST, TYPES

numbers = st.integers(0, 999)
tab_numbers = st.integers(0, 5)


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
    run(20, 50)
