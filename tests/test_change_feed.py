"""Clients that follow a file by its change feed: whatever happens, they end with what is in it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, note, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.files.change_feed import ChangeFeed
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.annotations.journals.changes import Author, WriteContext
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.feed_pages import MOST_IDS
from neurotrale.annotations.journals.feed_records import FeedQuery
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import ContentState, JournalEntry, NewRecord
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.errors import DamagedError
from neurotrale.storage.cache import Stamp
from neurotrale.storage.data_root import DataRoot
from tests.brains import PAGE, Brain, error_of, new_brain, point
from tests.conftest import Service, StartService
from tests.datasets import wait_until_settled
from tests.examples import examples
from tests.processes import eventually
from tests.stores import ANN, IN_MEMORY, NAME, annotation, array, open_stores

Json = dict[str, Any]
FIRST = array(annotation("a"), annotation("b", n=2**70), annotation("c"))


def by_id(content: bytes) -> Json:
    return {one["id"]: one for one in json.loads(content)}


@dataclass
class Follower:
    """A client that keeps a copy of a file, and asks for what has changed.

    Attributes:
        file: The file, which it loads again only when it is told to.
        copy: Its annotations by id.
        loads: How often it had to load the file.
    """

    file: Path
    copy: Json = field(default_factory=dict)
    last: int = 0
    etag: str = ""
    loads: int = 0

    def begin(self, answer: Json) -> None:
        assert answer["changes"] == []
        self.load(answer)

    def load(self, answer: Json) -> None:
        content = self.file.read_bytes()
        self.copy, self.etag, self.last = by_id(content), etag_of(content), answer["last"]
        self.loads += 1

    def take(self, answer: Json) -> None:
        """Apply an answer that has the present annotations."""
        assert not answer["changes"] or answer["changes"][-1]["revision"] == answer["last"]
        if answer["reset"] or any(change["cut"] for change in answer["changes"]):
            self.load(answer)
            return
        for change in answer["changes"]:
            for id_ in (*change["added"], *change["changed"], *change["removed"]):
                self.copy.pop(id_, None)
                if id_ in answer["annotations"]:
                    present = answer["annotations"][id_]
                    self.copy[id_] = present["annotation"]
            self.etag = change["etag"]
        self.last = answer["last"]
        if not answer["more"] and answer["etag"] != self.etag:
            assert answer["outside"]
            self.load(answer)


# --- whatever happens to a file ------------------------------------------------------------------

ids = st.sampled_from(["a", "b", "c", "é", "f" * 40])
contents = st.lists(st.tuples(ids, st.integers(0, 3)), max_size=5, unique_by=lambda pair: pair[0])
followers = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("follow"), followers),
    st.tuples(st.just("patch"), ids, st.integers(0, 3)),
    st.tuples(st.just("delete"), ids),
    st.tuples(st.just("drag"), ids, st.integers(0, 3)),
    st.tuples(st.just("put"), contents),
    st.tuples(st.just("restore"), st.integers(0, 5)),
    st.tuples(st.just("outside"), contents),
    st.tuples(st.just("break"), st.sampled_from([b"", b'[{"id": "a"}, {"id"', b"{}"])),
    st.tuples(st.just("die"), contents),
    st.tuples(st.just("back up")),
    st.tuples(st.just("take back")),
    st.tuples(st.just("lose journal")),
)

OF_SERVICES = ("follow", "patch", "delete", "drag", "put", "restore", "die")


def body_of(pairs: list[tuple[str, int]]) -> bytes:
    return array(*(annotation(id_, n=number) for id_, number in pairs))


class World:
    """A file, and what happens to it; several clients follow it through two services."""

    def __init__(self, root: Path) -> None:
        self.stores = open_stores(root)
        self.file = self.stores.file
        self.file.write_bytes(FIRST)
        self.backup = root.parent / f"{root.name}-backup"
        self.shelf = [ChangeFeed(AnnotationFiles(DataRoot(root)), Contents()) for _ in range(2)]
        self.followers = [Follower(self.file) for _ in range(3)]
        for follower in self.followers:
            follower.begin(self.ask(FeedQuery(None)))

    def ask(self, query: FeedQuery, service: int = 0) -> Json:
        feed = self.shelf[service]
        found: Json = json.loads(feed.answer(feed.find(NAME), query).body)
        return found

    def follow(self, number: int) -> None:
        follower, more = self.followers[number], True
        while more:
            query = FeedQuery(follower.last, follower.etag, 2, annotations=True)
            answer = self.ask(query, number % 2)
            follower.take(answer)
            more = answer["more"] and not answer["reset"]
        content = self.file.read_bytes()
        assert follower.copy == by_id(content)
        assert follower.etag == etag_of(content)

    def do(self, kind: str, *arguments: Any) -> None:
        getattr(self, kind.replace(" ", "_"))(*arguments)

    def patch(self, id_: str, number: int) -> None:
        self.stores.patch(id_, n=number)

    def drag(self, id_: str, number: int) -> None:
        """Let a viewer save the file several times while it moves an annotation."""
        seen = by_id(self.file.read_bytes())
        viewer, store = Viewer.of("a tab"), self.stores.store
        store.note_view(NAME, viewer, time.time_ns(), etag_of(self.file.read_bytes()))
        for step in range(3 if id_ in seen else 0):
            seen[id_] |= {"point": [number, step, 3]}
            author = Author("", "127.0.0.1", viewer.label)
            wish = WriteContext(author, viewer=viewer, arrived_ns=time.time_ns(), is_viewer=True)
            self.stores.put(json.dumps(list(seen.values())).encode(), wish)
            self.follow(number % 3)

    def delete(self, id_: str) -> None:
        if id_ in by_id(self.file.read_bytes()):
            self.stores.delete(id_)

    def put(self, pairs: list[tuple[str, int]]) -> None:
        self.stores.put(body_of(pairs))

    def restore(self, revision: int) -> None:
        entries = [entry for entry in self.stores.journal.entries() if entry.op != "void"]
        if revision in {entry.n for entry in entries if entry.new is not None}:
            try:
                self.stores.past.restore(self.stores.place, revision, ANN)
            except LookupError:
                return  # not recorded, after another program wrote the file
            except DamagedError:
                return

    def outside(self, pairs: list[tuple[str, int]]) -> None:
        self.file.write_bytes(body_of(pairs))

    def die(self, pairs: list[tuple[str, int]]) -> None:
        """Leave the record of a writer that was killed before it replaced the file."""
        journal, content = self.stores.journal, self.file.read_bytes()
        last, applied = journal.tail()
        state = ContentState(len(content), etag_of(content))
        if last is None or applied is None or applied.new != state:
            return
        body = body_of(pairs)
        entry = JournalEntry(
            n=last.n + 1,
            at=last.at,
            op="put",
            old=state,
            new=ContentState(len(body), etag_of(body)),
            stamp=Stamp.of(self.file.stat()).recorded,
            added=[pair[0] for pair in pairs],
        )
        if last.stamp != entry.stamp:
            journal.append(NewRecord(entry))

    def back_up(self) -> None:
        shutil.rmtree(self.backup, ignore_errors=True)
        shutil.copytree(self.file.parent, self.backup)

    def take_back(self) -> None:
        if self.backup.exists():
            for path in self.file.parent.iterdir():
                path.unlink()
            shutil.copytree(self.backup, self.file.parent, dirs_exist_ok=True)

    def lose_journal(self) -> None:
        self.stores.journal.path.unlink(missing_ok=True)
        self.stores.journal.base_path.unlink(missing_ok=True)


def happen(history: list[tuple[Any, ...]], *, among_services: bool) -> World:
    """Let a history happen, with what other programs do or without."""
    note(repr(history))
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as place:
        world = World(Path(place) / "data")
        for kind, *arguments in history:
            if kind == "break":
                continue
            if not among_services or kind in OF_SERVICES:
                world.do(kind, *arguments)
        for number in range(len(world.followers)):
            world.follow(number)
        if among_services:
            assert_tells_exactly(world)
        return world


def assert_tells_exactly(world: World) -> None:
    """Hold that every change names the annotations that differ, and no other."""
    world.patch("the last one", 1)
    last, more, before = 0, True, FIRST
    while more:
        answer = world.ask(FeedQuery(last, limit=3))
        assert not answer["reset"]
        assert not answer["outside"]
        for change in answer["changes"]:
            after = content_at(world.stores.journal, change["revision"], None)
            assert change["etag"] == etag_of(after)
            old, new = by_id(before), by_id(after)
            assert set(change["added"]) == new.keys() - old.keys()
            assert set(change["removed"]) == old.keys() - new.keys()
            differ = {id_ for id_ in new.keys() & old.keys() if old[id_] != new[id_]}
            # Several saves may move an annotation back to where it was.
            changed = set(change["changed"])
            assert changed == differ or (change["saves"] > 1 and changed > differ)
            before = after
        last, more = answer["last"], answer["more"]
    assert before == world.file.read_bytes()


@given(st.lists(steps, max_size=25))
@settings(max_examples=examples(400), deadline=None)
def test_follower_ends_with_what_is_in_the_file(history: list[tuple[Any, ...]]) -> None:
    happen(history, among_services=False)


@given(st.lists(steps, max_size=25))
@settings(max_examples=examples(400), deadline=None)
def test_follower_never_loads_the_file_again_if_only_services_write_it(
    history: list[tuple[Any, ...]],
) -> None:
    world = happen(history, among_services=True)
    # A journal whose first content is not known yet tells of no content.
    assert all(follower.loads == 1 for follower in world.followers)


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("feed"), "--workers", "10")


@pytest.fixture(scope="module")
def sealed(service: Service, start_service: StartService) -> Service:
    """A service on the same data root that was started read-only."""
    return start_service(service.root, "--read-only")


@pytest.fixture
def brain(service: Service) -> Brain:
    return new_brain(service, FIRST)


def changes(brain: Brain, tag: str = "", **parameters: Any) -> requests.Response:
    headers = {"If-None-Match": tag} if tag else {}
    return requests.get(f"{brain.url}/changes", params=parameters, headers=headers)


def told(brain: Brain, **parameters: Any) -> Json:
    answer = changes(brain, **parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-cache"
    found: Json = answer.json()
    return found


def test_changes_are_told_oldest_first_with_all_that_a_client_needs(brain: Brain) -> None:
    assert told(brain) == {
        "filename": brain.filename, "last": 0, "etag": etag_of(FIRST), "outside": True,
        "reset": False, "more": False, "changes": [],
    }  # fmt: skip
    brain.patch(point("d"))
    brain.patch(point("d", x=5))
    brain.delete("a")
    answer = told(brain, since=0, etag=etag_of(FIRST))
    assert answer["etag"] == etag_of(brain.file.read_bytes())
    assert [(c["revision"], c["operation"]) for c in answer["changes"]] == [
        (1, "patch"), (2, "patch"), (3, "delete"),
    ]  # fmt: skip
    first, second, third = answer["changes"]
    assert (first["added"], second["changed"], third["removed"]) == (["d"], ["d"], ["a"])
    assert third["etag"] == answer["etag"]
    assert first["by"] == first["from"] == "127.0.0.1"
    assert first["at"] <= second["at"] <= third["at"]
    assert [c["revision"] for c in told(brain, since=2)["changes"]] == [3]
    assert told(brain)["last"] == answer["last"] == 3
    assert "annotations" not in answer


def test_present_annotations_come_along_byte_for_byte(brain: Brain) -> None:
    spelled = b'{"id":"d", "type":"point", "point":[1e0, 2.50,3], "n":123456789012345678901}'
    for body in (b'{"type": "point", "point": [0, 0, 0]}', spelled):
        requests.patch(brain.url, params={"id": "d"}, data=body).raise_for_status()
    brain.patch(point("e"))
    brain.delete("e")
    answer = changes(brain, since=0, annotations=1)
    assert b'"annotation":' + spelled in answer.content
    assert answer.json()["annotations"].keys() == {"d"}
    etag = answer.json()["annotations"]["d"]["etag"]
    done = requests.patch(
        brain.url, params={"id": "d"}, json=point("d"), headers={"If-Match": f'"{etag}"'}
    )
    assert done.status_code == 200, done.text


def test_nothing_new_is_304_whichever_worker_answers(brain: Brain) -> None:
    brain.patch(point("d"))
    wait_until_settled(brain.annotations)
    tags = {changes(brain, since=1).headers["ETag"] for _ in range(20)}
    assert len(tags) == 1
    tag = tags.pop()
    for parameters in ({"since": 1}, {"since": 1, "annotations": 1}):
        for _ in range(20):  # each on a new connection
            answer = changes(brain, tag, **parameters)
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["ETag"] == tag
    # The answer to another question is as good if it told as much.
    assert changes(brain, since=0).headers["ETag"] == tag


def test_whatever_happens_makes_an_answer_new(brain: Brain) -> None:
    happenings = [
        lambda: brain.patch(point("e")),
        lambda: brain.file.write_bytes(FIRST),
        lambda: brain.delete("a"),
        lambda: Journal(brain.file).burst_path.write_bytes(b""),
        lambda: Journal(brain.file).path.unlink(),
        lambda: brain.file.unlink(),
    ]
    brain.patch(point("d"))
    for happen_now in happenings:
        wait_until_settled(brain.annotations)
        since = told(brain)["last"]
        tag = changes(brain, since=since).headers["ETag"]
        assert changes(brain, tag, since=since).status_code == 304
        happen_now()
        assert changes(brain, tag, since=since).status_code != 304


def test_an_answer_about_a_file_that_was_just_written_is_asked_for_again(brain: Brain) -> None:
    """Another program may write the file once more within the same tick of the clock."""
    brain.patch(point("d"))
    tag = changes(brain, since=1).headers["ETag"]
    status = changes(brain, tag, since=1).status_code
    assert status in (200, 304)  # a slow machine may take longer than a tick
    for _ in range(3):
        times = brain.file.stat()
        brain.file.write_bytes(brain.file.read_bytes().replace(b'"d"', b'"e"'))
        os.utime(brain.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert eventually(lambda: told(brain, since=1)["outside"], "the other program is not seen")


def test_page_that_is_full_says_that_there_is_more(brain: Brain) -> None:
    for number in range(5):
        brain.patch(point("d", x=number))
    seen, last, more = [], 0, True
    while more:
        answer = told(brain, since=last, limit=2)
        seen += [change["revision"] for change in answer["changes"]]
        last, more = answer["last"], answer["more"]
        assert not more or len(answer["changes"]) == 2
    assert seen == [1, 2, 3, 4, 5]
    tag = changes(brain, since=0, limit=2).headers["ETag"]
    assert changes(brain, tag, since=2, limit=2).status_code == 200


def test_large_changes_are_cut(brain: Brain) -> None:
    brain.put([point(f"p{number}") for number in range(MOST_IDS + 1)])  # and three go
    brain.patch(point("p0", x=2))
    answer = told(brain, since=0, annotations=1)
    large, small = answer["changes"]
    assert (large["cut"], large["added"], large["removed"]) == (True, [], [])
    assert (small["cut"], small["changed"]) == (False, ["p0"])
    assert answer["annotations"].keys() == {"p0"}


def test_annotations_that_do_not_fit_come_with_the_next_page(brain: Brain) -> None:
    big = "x" * 3_000_000
    for id_ in ("d", "e", "f"):
        brain.patch(point(id_, description=big))
    brain.put([point("d", x=9, description=big), point("e", x=9, description=big)])
    seen: list[tuple[int, set[str]]] = []
    last, more = 0, True
    while more:
        answer = told(brain, since=last, annotations=1)
        seen += [(change["revision"], set(answer["annotations"])) for change in answer["changes"]]
        assert [change["revision"] for change in answer["changes"] if change["cut"]] in ([], [4])
        last, more = answer["last"], answer["more"]
    assert seen == [(1, {"d"}), (2, {"e"}), (3, {"e"}), (4, set())]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        pytest.param({"since": -1}, "since='-1' is not a number", id="negative"),
        pytest.param({"since": "now"}, "since='now' is not a number", id="word"),
        pytest.param({"since": 0, "limit": 0}, "from 1 to 1000", id="no-changes"),
        pytest.param({"since": 0, "limit": 1001}, "from 1 to 1000", id="too-many"),
        pytest.param({"since": 0, "etag": ["a", "b"]}, "more than once", id="two-etags"),
    ],
)
def test_what_is_no_question_is_refused(brain: Brain, parameters: Json, message: str) -> None:
    assert message in error_of(changes(brain, **parameters), 400)


def test_number_that_the_journal_does_not_have_is_a_reset(brain: Brain) -> None:
    brain.patch(point("d"))
    answer = told(brain, since=7, annotations=1)
    assert (answer["reset"], answer["last"], answer["changes"]) == (True, 1, [])
    assert "There is no change 7: the journal goes to 1." in answer["reason"]
    Journal(brain.file).path.unlink()
    answer = told(brain, since=1)
    assert (answer["reset"], answer["last"]) == (True, 0)
    assert "the journal has no record" in answer["reason"]
    assert told(brain, since=0)["reset"] is False


def test_journal_that_begins_later_is_a_reset(brain: Brain) -> None:
    for number in range(4):
        brain.patch(point("d", x=number))
    journal = Journal(brain.file).path
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[2:]))
    assert "begins with 3" in told(brain, since=1)["reason"]
    assert [change["revision"] for change in told(brain, since=2)["changes"]] == [3, 4]


def test_journal_of_another_file_is_a_reset(brain: Brain, service: Service) -> None:
    other = new_brain(service, b"[]")
    for one in (brain, other):
        one.patch(point("d"))
    etag = told(brain)["etag"]
    other.patch(point("e"))
    for path in (other.file, Journal(other.file).path):
        shutil.copy(path, brain.file.parent / path.name)
    answer = told(brain, since=1, etag=etag)
    assert (answer["reset"], answer["last"]) == (True, 2)
    assert "After change 1 the file was another one" in answer["reason"]


def test_number_within_a_burst_goes_on_after_the_burst_became_one_record(brain: Brain) -> None:
    brain.patch(point("d"))
    etags = []
    for number in range(4):
        brain.patch(point("d", x=number + 2))
        etags.append(told(brain)["etag"])
    journal = Journal(brain.file)
    records = journal.path.read_bytes().splitlines(keepends=True)
    first, last = (json.loads(line) for line in (records[1], records[-1]))
    last |= {"covers": 2, "old": first["old"], "hunks": []}
    journal.path.write_bytes(records[0] + json.dumps(last).encode() + b"\n")
    for since, etag in enumerate(etags, start=2):
        answer = told(brain, since=since, etag=etag, annotations=1)
        assert not answer["reset"]
        numbers = [(change["revision"], change["saves"]) for change in answer["changes"]]
        assert numbers == ([(5, 4)] if since < 5 else [])
    assert [change["revision"] for change in told(brain, since=0)["changes"]] == [1, 5]
    assert told(brain, since=6)["reset"] is True


def test_record_that_is_not_applied_is_not_told(brain: Brain) -> None:
    brain.patch(point("d"))
    content, journal = brain.file.read_bytes(), Journal(brain.file)
    state = ContentState(len(content), etag_of(content))
    stamp = Stamp.of(brain.file.stat()).recorded
    journal.append(
        NewRecord(JournalEntry(n=2, at="2026", op="patch", old=state, new=state, stamp=stamp))
    )
    assert told(brain, since=0)["last"] == told(brain)["last"] == 1
    brain.patch(point("e"))
    assert [change["revision"] for change in told(brain, since=1)["changes"]] == [4]


def test_what_other_programs_write_is_told_at_once_and_listed_later(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.file.write_bytes(FIRST)
    answer = told(brain, since=1)
    assert (answer["outside"], answer["etag"], answer["changes"]) == (True, etag_of(FIRST), [])
    brain.patch(point("e"))
    answer = told(brain, since=1)
    assert answer["outside"] is False
    assert [(c["operation"], c["removed"], c["added"]) for c in answer["changes"]] == [
        ("outside", ["d"], []), ("patch", [], ["e"]),
    ]  # fmt: skip


def test_what_other_programs_write_without_an_id_has_to_be_loaded(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.file.write_bytes(brain.file.read_bytes().replace(b"[", b'[{"type": "none"},', 1))
    brain.patch(point("e"))
    assert [change["cut"] for change in told(brain, since=1)["changes"]] == [True, False]


def test_annotation_that_no_number_can_hold_is_sent_as_it_is(brain: Brain) -> None:
    brain.patch(point("d"))
    strange = b'"id": "b", "m": 1e999, "\\u2028": "\xe2\x80\xa8"'
    brain.file.write_bytes(brain.file.read_bytes().replace(b'"id": "b"', strange))
    brain.patch(point("e"))
    answer = changes(brain, since=1, annotations=1)
    assert strange in answer.content
    assert answer.json()["annotations"].keys() == {"b", "e"}


def test_damaged_file_is_never_told_as_an_empty_one(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.file.write_bytes(b'[{"id": "a"')
    assert brain.filename in error_of(changes(brain, since=0, annotations=1), 500)
    assert told(brain, since=1)["outside"] is True


def test_file_that_was_deleted_has_no_etag(brain: Brain) -> None:
    brain.patch(point("d"))
    brain.file.unlink()
    answer = told(brain, since=1)
    assert (answer["etag"], answer["outside"], answer["changes"]) == (None, True, [])
    assert brain.filename in error_of(changes(brain, since=1, annotations=1), 404)
    Journal(brain.file).path.unlink()
    assert brain.filename in error_of(changes(brain, since=1), 404)


def test_blocks_are_found_as_for_the_file(brain: Brain, sealed: Service) -> None:
    brain.patch(point("d"))
    expected = told(brain, since=0)
    root = f"{brain.service.url}/{brain.name}/annotations"
    at = f"{root}/fibers.json/changes?since=0&position="
    assert "x1y0z0" in error_of(requests.get(f"{at}70,1,1"), 404)
    by_position = requests.get(f"{at}3,1,1")
    assert by_position.json() == expected
    assert by_position.headers["Content-Location"] == "../x0y0z0/fibers.json/changes?since=0"
    viewer = requests.get(f"{root}/x7y3z1/fibers.json/changes?since=0", headers=PAGE)
    assert viewer.json() == expected
    read_only = requests.get(f"{sealed.url}/{brain.filename}/changes?since=0")
    assert read_only.json() == expected


def test_link_is_followed_as_for_the_file(brain: Brain) -> None:
    (brain.file.parent / "linked.json").symlink_to("fibers.json")
    brain.patch(point("d"))
    linked = requests.get(f"{brain.url.replace('fibers', 'linked')}/changes?since=0").json()
    assert linked["changes"] == told(brain, since=0)["changes"]


def test_planted_files_are_not_waited_for(brain: Brain) -> None:
    journal = Journal(brain.file)
    os.mkfifo(journal.burst_path)
    assert requests.get(f"{brain.url}/changes", timeout=30).status_code in (200, 500)
    journal.burst_path.unlink()
    os.mkfifo(journal.path)
    assert ".fibers.json.journal: expected a regular file" in error_of(changes(brain), 500)


def test_two_clients_see_what_each_other_does_while_both_write(brain: Brain) -> None:
    """Ten workers answer; each client ends with the file, and loads it once."""

    def live(client: int) -> Follower:
        follower = Follower(brain.file)
        follower.begin(told(brain))
        for number in range(15):
            brain.patch(point(f"{client}-{number % 4}", x=number))
            if number % 4 == 3:
                brain.delete(f"{client}-1")
            take(brain, follower)
        return follower

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(live, range(2)))
    for follower in both:
        take(brain, follower)
        assert follower.copy == by_id(brain.file.read_bytes())
        assert follower.loads == 1


def take(brain: Brain, follower: Follower) -> None:
    more = True
    while more:
        answer = told(brain, since=follower.last, etag=follower.etag, annotations=1)
        follower.take(answer)
        more = answer["more"]
