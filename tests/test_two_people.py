"""Several people with the unmodified viewer and one file of the real service: nothing is lost."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

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

from tests.brains import Annotation, Brain, compact, new_brain, point
from tests.conftest import Service, StartService
from tests.examples import examples
from tests.viewers import Tab, float32, pieces_of, save_out_of_order

TYPES = ("axon", "neuron", "glia")
OTHER_SLICES = ("z-0000.json", "z-0002.json")

# As a pipeline wrote it: numbers that no 32-bit float holds, keys that the viewer does not know.
FIRST: list[Annotation] = [
    point("n1", 40.1234567, anntype="neuron", note="kept"),
    {
        "id": "a1", "type": "linestring", "anntype": "axon", "length": 7.25,
        "points": [[0.1, 0.2, 0.3], [40.1234567, 5, 6], [7, 8, 1e-7]], "score": 0.123456789012,
    },
    point("n2", 2, anntype="neuron", reviewed=True, visited=True),
    point("a2", 3, anntype="axon"),
    point("a3", 4.7, anntype="axon"),
    point("g1", 5, anntype="glia"),
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service as it is started without options: with ten workers."""
    return start_service(tmp_path_factory.mktemp("two-people"), "--workers", "10")


@pytest.fixture
def brain(service: Service) -> Brain:
    return a_slice(service)


def a_slice(service: Service) -> Brain:
    return new_brain(service, json.dumps(FIRST, indent=2).encode(), "z-0001.json")


@pytest.fixture
def tabs(brain: Brain) -> tuple[Tab, Tab]:
    """The tabs of two people, who have loaded the file."""
    ann, bob = Tab.named(brain, "ann"), Tab.named(brain, "bob")
    ann.load()
    bob.load()
    return ann, bob


def now(brain: Brain) -> dict[str, Annotation]:
    return {one["id"]: one for one in brain.content()}


# --- what one does while the other does something else ---


def test_additions_of_both_stay(brain: Brain, tabs: tuple[Tab, Tab]) -> None:
    for number in range(12):
        tab = tabs[number % 2]
        tab.view[f"new-{number}"] = point(f"new-{number}", anntype="axon")
        assert tab.save() == {"filename": brain.filename}
    assert brain.content()[: len(FIRST)] == FIRST
    assert len(brain.content()) == len(FIRST) + 12


def test_moves_reviews_and_deletions_of_both_stay(brain: Brain, tabs: tuple[Tab, Tab]) -> None:
    ann, bob = tabs
    ann.view["n1"]["point"][0] = 50.0
    ann.save()
    bob.view["n1"] |= {"reviewed": True, "visited": True}
    bob.save()
    del ann.view["a2"]
    ann.save()
    del bob.view["a3"]
    bob.save()
    bob.view["a1"]["points"][0][1] = 9.0
    bob.save()
    ann.view["a1"]["points"][2][1] = 9.0
    ann.save()
    content = now(brain)
    assert content["n1"] == FIRST[0] | {
        "point": [50.0, 2, 3], "reviewed": True, "visited": True,
    }  # fmt: skip
    line = FIRST[1]["points"]
    assert content["a1"] == FIRST[1] | {
        "points": [[0.1, 9.0, 0.3], line[1], [7, 9.0, 1e-7]],
    }  # fmt: skip
    assert content.keys() == {"n1", "a1", "n2", "g1"}
    assert brain.held() == []


def test_one_review_changes_one_field_of_one_annotation(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    before = pieces_of(brain.file.read_bytes())
    tabs[0].view["a1"] |= {"reviewed": True}
    tabs[0].save()
    after = pieces_of(brain.file.read_bytes())
    assert {id_ for id_ in before if before[id_] != after[id_]} == {"a1"}
    assert json.loads(after["a1"]) == FIRST[1] | {"reviewed": True}
    (change,) = brain.history()
    assert change["changed"] == ["a1"]
    assert len(change["session"]) == 10


def test_same_field_changed_by_both_is_the_later_and_is_named(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    ann, bob = tabs
    ann.view["n1"]["point"][0] = 50.0
    ann.save()
    bob.view["n1"]["point"][0] = 60.0
    assert bob.save()["conflicts"] == {"n1": ["point"]}
    assert now(brain)["n1"]["point"] == [60.0, 2, 3]
    assert [change["conflicts"] for change in brain.history()] == [{"n1": ["point"]}, {}]
    sessions = [change["session"] for change in brain.history()]
    assert len(set(sessions)) == 2


def test_change_wins_over_the_deletion_of_the_other_which_is_held(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    ann, bob = tabs
    del ann.view["n1"]
    ann.save()
    bob.view["n1"]["point"][0] = 60.0
    assert bob.save()["kept"] == 1
    assert now(brain)["n1"] == FIRST[0] | {"point": [60.0, 2, 3]}
    bob.view["n2"]["point"][0] = 70.0
    bob.save()
    del ann.view["n2"]
    assert ann.save()["kept"] == 1
    assert now(brain)["n2"]["point"][0] == 70.0
    assert brain.held() == ["n1", "n2"]


def test_deletion_does_not_come_back_with_the_save_of_the_other(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    ann, bob = tabs
    del ann.view["n1"]
    ann.save()
    for _ in range(3):
        bob.view["a2"]["point"][0] += 1
        bob.save()
    assert "n1" not in brain.ids()
    requests.post(f"{brain.url}/restore", json={}, params={"removed": "true"})
    assert "n1" not in brain.ids()  # deleted on purpose


# --- what nobody meant ---


def test_failed_load_and_what_is_drawn_after_it_only_adds(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    ann = tabs[0]
    ann.fail_to_load()
    for id_ in ("new-1", "new-2"):
        ann.view[id_] = point(id_)
        assert "kept" not in ann.save()
    assert brain.content() == [*FIRST, point("new-1"), point("new-2")] or [
        one["id"] for one in brain.content()
    ] == [*(one["id"] for one in FIRST), "new-1", "new-2"]
    del ann.view["new-1"]
    ann.save()
    assert brain.ids() == {one["id"] for one in FIRST} | {"new-2"}


@pytest.mark.parametrize("seed", range(6))
def test_scrolling_through_slices_changes_no_byte(brain: Brain, seed: int) -> None:
    rng = random.Random(seed)
    before = brain.file.read_bytes()
    tab = Tab.named(brain, "ann")
    for _ in range(9):
        tab.load()
        tab.leave(rng.choice(OTHER_SLICES), rng)
    assert brain.file.read_bytes() == before
    assert brain.held() == []
    assert sum(change["counts"]["ignored"] for change in brain.history()) == 9 * len(FIRST)
    others = {path.name for path in brain.file.parent.iterdir()} & set(OTHER_SLICES)
    assert others == set()


@pytest.mark.parametrize("left", [0, 1])
def test_two_tabs_in_one_a_removal_that_only_one_can_mean_is_held(brain: Brain, left: int) -> None:
    tab = Tab.named(brain, "ann")
    tab.load()
    other = tab.duplicate()
    other.load()
    other.view["new"] = point("new")
    other.save()
    del other.view["new"]  # the file as the first tab has it
    other.save()
    assert "new" not in brain.ids() or brain.held() == ["new"]
    assert brain.ids() >= {one["id"] for one in FIRST}


@pytest.mark.long
def test_restart_of_the_service_forgets_nothing(
    tmp_path_factory: pytest.TempPathFactory, start_service: StartService
) -> None:
    root = tmp_path_factory.mktemp("restarted")
    first = start_service(root, "--workers", "2")
    brain = a_slice(first)
    tab = Tab.named(brain, "ann")
    tab.load()
    tab.view["new"] = point("new")
    tab.save()
    brain.patch(point("other"))
    assert first.stop() == 0
    again = start_service(root, "--workers", "2")
    tab.brain = Brain(again, brain.name, brain.leaf)
    del tab.view["n1"]
    assert "kept" not in tab.save()
    assert brain.ids() == {one["id"] for one in FIRST[1:]} | {"new", "other"}
    stored = b"".join(path.read_bytes() for path in (root / ".neurotrale" / "views").iterdir())
    assert b"Mozilla" not in stored
    assert requests.get(f"{again.url}/.neurotrale/").status_code == 404


# --- order on the wire ---


@pytest.mark.quick(1)
@pytest.mark.parametrize("seed", range(3))
def test_drag_whose_saves_overtake_each_other_ends_where_it_ended(
    brain: Brain, tabs: tuple[Tab, Tab], seed: int
) -> None:
    ann, bob = tabs
    for drag in range(6):
        bodies = []
        for step in range(12):
            ann.view["n1"]["point"][0] = float(100 * drag + step)
            bodies.append(ann.body())
        save_out_of_order(brain, ann.headers, bodies, seed * 100 + drag)
        assert now(brain)["n1"]["point"][0] == ann.view["n1"]["point"][0]
        bob.view["n2"]["point"][0] += 1
        bob.save()
    assert now(brain)["n2"]["point"][0] == bob.view["n2"]["point"][0]
    assert {k: v for k, v in now(brain).items() if k not in ("n1", "n2")} == {
        one["id"]: one for one in FIRST if one["id"] not in ("n1", "n2")
    }


def test_additions_whose_saves_overtake_each_other_are_all_there(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    ann = tabs[0]
    bodies = []
    for number in range(24):
        ann.view[f"new-{number}"] = point(f"new-{number}", float(number))
        bodies.append(ann.body())
    save_out_of_order(brain, ann.headers, bodies, 5)
    assert brain.ids() == {one["id"] for one in FIRST} | {f"new-{n}" for n in range(24)}


# --- anything, in any order ---


@dataclass
class World:
    """The service of all examples of the state machine."""

    service: Service | None = None


WORLD = World()


class People(RuleBasedStateMachine):
    """Two to four tabs, each with an identity of its own."""

    @initialize(count=st.integers(2, 4))
    def begin(self, count: int) -> None:
        assert WORLD.service is not None
        self.brain = a_slice(WORLD.service)
        self.tabs = [Tab.named(self.brain, f"person-{n}") for n in range(count)]
        self.undo: dict[int, list[tuple[str, Annotation | None]]] = {}
        self.number = 0
        self.gone: set[str] = set()  # obeyed deletions
        for tab in self.tabs:
            tab.load()

    def teardown(self) -> None:
        for tab in getattr(self, "tabs", []):
            tab.http.close()

    # --- steps ---

    tab_numbers = st.integers(0, 3)

    def _tab(self, number: int) -> Tab:
        return self.tabs[number % len(self.tabs)]

    @rule(number=tab_numbers, x=st.floats(-1000, 1000, width=32), type_=st.sampled_from(TYPES))
    def add(self, number: int, x: float, type_: str) -> None:
        tab = self._tab(number)
        self.number += 1
        id_ = f"new-{self.number}"
        tab.view[id_] = {"visited": True, **point(id_, x, anntype=type_)}
        self._save(tab, {id_}, (id_, None))
        assert self._now(id_) == tab.view[id_]

    @rule(number=tab_numbers, data=st.data(), x=st.floats(-1000, 1000, width=32))
    def move(self, number: int, data: st.DataObject, x: float) -> None:
        tab = self._tab(number)
        id_ = self._some(tab, data, "point")
        if id_ is not None:
            before = json.loads(json.dumps(tab.view[id_]))
            tab.view[id_]["point"][0] = x
            self._save(tab, {id_}, (id_, before))
            if before["point"][0] != x:
                assert self._now(id_)["point"][0] == x

    @rule(number=tab_numbers, data=st.data())
    def review(self, number: int, data: st.DataObject) -> None:
        tab = self._tab(number)
        id_ = self._some(tab, data)
        if id_ is not None:
            before = dict(tab.view[id_])
            tab.view[id_] |= {"reviewed": True, "visited": True}
            self._save(tab, {id_})
            if before.get("reviewed") is not True:
                assert self._now(id_)["reviewed"] is True

    @rule(number=tab_numbers, data=st.data())
    def delete(self, number: int, data: st.DataObject) -> None:
        tab = self._tab(number)
        id_ = self._some(tab, data)
        if id_ is not None:
            self._delete(tab, {id_})

    @rule(number=tab_numbers, data=st.data())
    def delete_region(self, number: int, data: st.DataObject) -> None:
        tab = self._tab(number)
        ids = sorted(tab.view)
        if len(ids) >= 2:
            self._delete(tab, data.draw(st.sets(st.sampled_from(ids), min_size=2)))

    def _delete(self, tab: Tab, ids: set[str]) -> None:
        for id_ in sorted(ids):
            self.undo.setdefault(id(tab), []).append((id_, tab.view.pop(id_)))
        self._save(tab, ids)
        present = pieces_of(self.brain.file.read_bytes()).keys()
        assert ids & present <= {*self.brain.held(), *self._ignored()}, self.brain.history()
        self.gone |= ids - present

    @rule(number=tab_numbers)
    def undo_last(self, number: int) -> None:
        tab = self._tab(number)
        steps = self.undo.get(id(tab), [])
        if not steps:
            return
        id_, before = steps.pop()
        if before is None:
            if id_ in tab.view:
                del tab.view[id_]
                self._save(tab, {id_})
                assert id_ not in pieces_of(self.brain.file.read_bytes()) or id_ in {
                    *self.brain.held(), *self._ignored(),
                }  # fmt: skip
            return
        tab.view[id_] = before
        self._save(tab, {id_})
        assert id_ in pieces_of(self.brain.file.read_bytes())

    @rule(number=tab_numbers)
    def reload(self, number: int) -> None:
        tab = self._tab(number)
        tab.load()
        self.undo.pop(id(tab), None)

    @rule(number=tab_numbers)
    def fail_to_load(self, number: int) -> None:
        tab = self._tab(number)
        tab.fail_to_load()
        self.undo.pop(id(tab), None)

    @rule(number=tab_numbers)
    def save_again(self, number: int) -> None:
        tab = self._tab(number)
        if tab.view:
            self._save(tab, set())

    @rule(number=tab_numbers, leaf=st.sampled_from(OTHER_SLICES), seed=st.integers(0, 99))
    def scroll_away_and_back(self, number: int, leaf: str, seed: int) -> None:
        tab = self._tab(number)
        tab.load()
        before = self.brain.file.read_bytes()
        tab.leave(leaf, random.Random(seed))
        assert self.brain.file.read_bytes() == before
        tab.load()
        self.undo.pop(id(tab), None)

    @rule(number=tab_numbers, data=st.data())
    def drag(self, number: int, data: st.DataObject) -> None:
        tab = self._tab(number)
        id_ = self._some(tab, data, "point")
        if id_ is None:
            return
        before = pieces_of(self.brain.file.read_bytes())
        for step in range(data.draw(st.integers(2, 6))):
            self.number += 1
            tab.view[id_]["point"][0] = float(2000 + 10 * self.number + step)
            tab.save()
        self._check(before, {id_})
        assert self._now(id_)["point"][0] == tab.view[id_]["point"][0]

    # --- what must hold ---

    def _some(self, tab: Tab, data: st.DataObject, key: str = "id") -> str | None:
        ids = sorted(id_ for id_, one in tab.view.items() if key in one)
        return data.draw(st.sampled_from(ids)) if ids else None

    def _now(self, id_: str) -> Any:
        return json.loads(pieces_of(self.brain.file.read_bytes())[id_])

    def _ignored(self) -> set[str]:
        return {id_ for change in self.brain.history() for id_ in change["ignored"]}

    def _save(
        self, tab: Tab, touched: set[str], undo: tuple[str, Annotation | None] | None = None
    ) -> None:
        before = pieces_of(self.brain.file.read_bytes())
        tab.save()
        self._check(before, touched)
        if undo is not None:
            self.undo.setdefault(id(tab), []).append(undo)

    def _check(self, before: dict[str, bytes], touched: set[str]) -> None:
        """Nothing else is changed, lost or moved; what comes back is listed as held."""
        after = pieces_of(self.brain.file.read_bytes())
        for id_, piece in before.items():
            if id_ not in touched:
                assert after.get(id_) == piece
        kept = [id_ for id_ in before if id_ in after]
        assert [id_ for id_ in after if id_ in before] == kept
        back = after.keys() - before.keys() - touched
        if back:
            assert back <= set(self.brain.held())

    @invariant()
    def file_is_valid(self) -> None:
        if hasattr(self, "brain"):
            ids = [one["id"] for one in self.brain.content()]
            assert len(ids) == len(set(ids))


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_anything_that_people_do_loses_nothing(service: Service) -> None:
    WORLD.service = service
    run_state_machine_as_test(
        People,
        settings=settings(
            max_examples=examples(40),
            stateful_step_count=50 if examples(40) >= 40 else 15,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_viewer_that_the_tests_have_respells_what_it_loads(brain: Brain) -> None:
    tab = Tab.named(brain, "ann")
    tab.load()
    assert tab.view["n1"]["point"][0] == float32(40.1234567) != 40.1234567
    assert tab.view["a1"]["length"] == 7
    assert "note" not in tab.view["n1"]
    assert compact([tab.view["n1"]]) not in brain.file.read_bytes()
