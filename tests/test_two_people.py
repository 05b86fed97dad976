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

from tests.brains import (
    Annotation,
    Brain,
    cli,
    compact,
    error_of,
    new_brain,
    point,
    succeed,
)
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


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_hundred_drags_over_six_connections_end_where_they_ended(
    brain: Brain, tabs: tuple[Tab, Tab], seed: int
) -> None:
    ann, bob = tabs
    ids = [id_ for id_, one in ann.view.items() if "point" in one]
    ended = {}
    for drag in range(100):
        id_ = ids[drag % len(ids)]
        bodies = []
        for step in range(12):
            ann.view[id_]["point"][step % 2] = float(100 * drag + step)
            bodies.append(ann.body())
        save_out_of_order(brain, ann.headers, bodies, seed + drag)
        ended[id_] = ann.view[id_]["point"]
        assert now(brain)[id_]["point"] == ended[id_]
        if drag % 10 == 0:
            bob.view["a1"]["points"][0][2] += 1
            bob.save()
    assert {id_: now(brain)[id_]["point"] for id_ in ids} == ended
    assert now(brain)["a1"]["points"][0][2] == bob.view["a1"]["points"][0][2]
    assert brain.held() == []


# --- a history that leads back ---


def label(brain: Brain, number: int = 0) -> str:
    session: str = brain.history()[number]["session"]
    return session


@pytest.mark.parametrize("way", ["command", "request"])
def test_what_one_person_did_is_undone_and_what_the_other_did_stays(
    brain: Brain, tabs: tuple[Tab, Tab], way: str
) -> None:
    ann, bob = tabs
    bob.view["n1"] |= {"reviewed": True}
    bob.save()
    ann.view["n1"]["point"][0] = 50.0  # bob has reviewed it
    ann.save()
    session, since = label(brain), brain.history()[0]["at"]
    ann.view["new"] = point("new")
    ann.save()
    del ann.view["a2"]
    ann.save()
    bob.load()
    bob.view["a3"]["point"][0] = 70.0
    bob.save()
    ann.load()
    ann.view["a3"]["point"][1] = 80.0
    ann.save()
    if way == "command":
        succeed("restore", brain.file, "--session", session, "--since", since)
    else:
        parameters = {"session": session, "since": since}
        assert requests.post(f"{brain.url}/restore", params=parameters).ok
    content = now(brain)
    assert content["n1"] == FIRST[0] | {"reviewed": True}
    assert "new" not in content
    assert content["a2"] == FIRST[3]
    assert content["a3"]["point"] == [70.0, 2, 3]
    assert label(brain) == ""
    requests.post(f"{brain.url}/restore", params={"by": "nobody", "since": since})
    assert now(brain) == content
    requests.post(f"{brain.url}/restore", params={"by": "127.0.0.1", "since": "2000-01-01"})
    assert now(brain)["a3"]["point"] == FIRST[4]["point"]


def test_changes_that_a_save_of_an_old_copy_undid_come_back(brain: Brain) -> None:
    stale = [dict(one) for one in FIRST]
    brain.patch({**FIRST[0], "point": [50, 2, 3]})
    brain.patch({**FIRST[3], "reviewed": True, "description": "kept"})
    brain.put([*stale, point("new")])  # a script that knew nothing of both
    brain.patch({**FIRST[3], "anntype": "dendrite"})
    (line,) = succeed("restore", brain.file, "--reverted")
    assert "~1" in line
    content = now(brain)
    assert content["n1"]["point"] == [50, 2, 3]
    assert content["a2"] == {**FIRST[3], "anntype": "dendrite"}  # it had no such field before
    assert "new" in content
    assert succeed("restore", brain.file, "--reverted")[0].startswith("nothing to restore")


def test_undo_of_one_step_is_no_save_of_an_old_copy(brain: Brain, tabs: tuple[Tab, Tab]) -> None:
    ann, _ = tabs
    for x in (50.0, float32(40.1234567)):
        ann.view["n1"]["point"][0] = x
        ann.save()
    before = now(brain)
    answer = requests.post(f"{brain.url}/restore", params={"reverted": "true"})
    assert answer.ok
    assert now(brain) == before


def test_removed_annotations_come_back_but_for_those_deleted_by_who_saw_them(
    brain: Brain, tabs: tuple[Tab, Tab]
) -> None:
    del tabs[1].view["a2"]
    assert "kept" not in tabs[1].save()
    assert tabs[0].save(b"[]")["kept"] == len(FIRST) - 1
    succeed("held", brain.file, "--id", "n1", "--confirm")
    brain.delete("n2")
    succeed("restore", brain.file, "--removed")
    assert brain.ids() == {one["id"] for one in FIRST} - {"a2"}


@pytest.mark.parametrize("way", ["command", "request"])
def test_what_was_ignored_as_leaving_a_slice_is_listed_and_can_be_confirmed(
    brain: Brain, way: str
) -> None:
    tab = Tab.named(brain, "ann")
    tab.load()
    tab.look_at(OTHER_SLICES[0])
    del tab.view["g1"]  # the only glia: as if leaving
    assert tab.save()["ignored"] == 1
    brain.patch(point("other"))
    (change,) = brain.history(navigation="true")
    number = change["revision"]
    (line,) = succeed("history", brain.file, "--navigation")
    assert "(ignored 1)" in line
    assert "g1" in line
    if way == "command":
        (told,) = succeed("held", brain.file, "--navigation", str(number))
        assert json.loads(told)["id"] == "g1"
        assert succeed("held", brain.file, "--navigation", str(number), "--confirm") == []
    else:
        held, parameters = f"{brain.url}/held", {"navigation": number}
        assert [one["id"] for one in requests.get(held, params=parameters).json()] == ["g1"]
        assert requests.delete(held, params={**parameters, "id": "g1"}).ok
        assert requests.delete(held, params={**parameters, "id": "n1"}).status_code == 404
        assert requests.get(held, params={"navigation": 99}).status_code == 404
    assert brain.ids() == {one["id"] for one in FIRST} - {"g1"} | {"other"}


def test_what_was_changed_since_it_was_ignored_is_not_offered(brain: Brain) -> None:
    tab = Tab.named(brain, "ann")
    tab.load()
    tab.look_at(OTHER_SLICES[0])
    del tab.view["g1"]
    tab.save()
    number = brain.history()[0]["revision"]
    brain.patch(point("g1", 9))
    assert requests.get(f"{brain.url}/held", params={"navigation": number}).json() == []


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        pytest.param({"by": "ann"}, "since=", id="by-without-since"),
        pytest.param({"by": "ann", "id": "n1", "since": "2026-01-01"}, "combined", id="by-and-id"),
        pytest.param({"reverted": "true", "removed": "true"}, "combined", id="two-ways"),
        pytest.param({"id": "n1", "since": "2026-01-01"}, "'since'", id="since"),
        pytest.param({}, "reverted=true", id="nothing"),
    ],
)
def test_restore_says_what_it_needs(brain: Brain, parameters: dict[str, str], said: str) -> None:
    answer = requests.post(f"{brain.url}/restore", params=parameters)
    assert said in error_of(answer, 400)


# --- a newer version ---


def test_journal_of_a_newer_version_is_not_written(brain: Brain) -> None:
    brain.patch(point("new"))
    journal = brain.file.with_name(f".{brain.leaf}.journal")
    lines = journal.read_bytes()
    record = json.loads(lines.splitlines()[-1])
    newer = json.dumps(record | {"n": record["n"] + 1, "format": 99, "op": "not known here"})
    journal.write_bytes(lines + newer.replace(": ", ":").encode() + b"\n")
    before = brain.file.read_bytes(), journal.read_bytes()
    answer = requests.patch(brain.url, params={"id": "a2"}, json=point("a2", 9))
    assert "newer version" in error_of(answer, 409)
    tab = Tab.named(brain, "ann")
    tab.load()
    tab.view["a2"]["point"][0] = 9.0
    saved = requests.put(brain.url, data=tab.body(), headers=tab.headers)
    assert "Update" in error_of(saved, 409)
    assert "newer version" in cli("restore", brain.file, "--removed").stderr
    assert (brain.file.read_bytes(), journal.read_bytes()) == before
    assert requests.get(brain.url).content == before[0]
    assert requests.get(f"{brain.url}/history").ok


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
