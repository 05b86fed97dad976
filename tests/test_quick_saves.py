"""Short ways of a save: whatever is not looked at again is as it would be if it were.

The long way is written here once more as a plain model, or is the one that the code takes when it
has nothing to start from.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.alike import common_ends, document_like
from neurotrale.annotations.documents.bodies import checked_array
from neurotrale.annotations.documents.contents import Contents, etag_of
from neurotrale.annotations.documents.diff import diff_documents
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.flawless import FlawlessAnnotations
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.documents.spelling import Parsed, is_edited, is_only_respelled
from neurotrale.annotations.documents.validation import ArrayCheck, Report
from neurotrale.annotations.files.paths import AnnotationFile
from neurotrale.annotations.journals.changes import Author, WriteContext, apply, reversed_hunks
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.merging import edits
from neurotrale.annotations.merging.edits import Edit, edit_between
from neurotrale.annotations.merging.kept_contents import WAITING_BYTES, KeptContents
from neurotrale.annotations.merging.seen import Seen
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest
from neurotrale.annotations.writes import FileWriter
from neurotrale.errors import RuleBrokenError
from neurotrale.locking.locks import Locks
from tests.examples import examples
from tests.stores import IN_MEMORY, annotation
from tests.viewers import loaded

thorough = settings(deadline=None, max_examples=examples(400))

# --- contents that are much alike ---

# Also what is no annotation, and what looks like the end of one.
items = st.one_of(
    st.builds(
        lambda id_, text, gap: f'{{"id":{gap}"{id_}","x":{gap}"{text}"}}',
        st.sampled_from(["a", "b", "c", "d", "\\u0061", "e,", "]}"]),
        st.sampled_from(["", "1", "11", "},{", '\\"},', "[", "]"]),
        st.sampled_from(["", " "]),
    ),
    st.sampled_from(["1", "12", "2", '"1"', '",[1,"', "[]", "[1,2]", "{}", '{"id":1}', "null"]),
)
gaps = st.sampled_from(["", "", " ", "\n  "])


@st.composite
def arrays(draw: st.DrawFn, most: int = 9) -> tuple[str, ...]:
    """The pieces of an array: joined, they are valid."""
    chosen = draw(st.lists(items, max_size=most))
    spelled = [f"{draw(gaps)}{item}{draw(gaps)}" for item in chosen]
    return (draw(gaps) + "[", *spelled, "]" + draw(gaps))


def joined(pieces: tuple[str, ...]) -> bytes:
    first, *between, last = pieces
    return (first + ",".join(between) + last).encode()


@st.composite
def alike(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two arrays with the same beginning and end."""
    pieces = draw(arrays())
    inside = pieces[1:-1]
    start = draw(st.integers(0, len(inside)))
    stop = draw(st.integers(start, min(start + 2, len(inside))))
    middle = draw(arrays(2))[1:-1]
    return joined(pieces), joined((pieces[0], *inside[:start], *middle, *inside[stop:], pieces[-1]))


def parsed(content: bytes) -> Document | None:
    try:
        return Document.parse(content)
    except NotAnArrayError:
        return None


def assert_same(found: Document, true: Document) -> None:
    assert found.content == true.content
    assert found.index.starts.tolist() == true.index.starts.tolist()
    assert found.index.stops.tolist() == true.index.stops.tolist()
    assert [found.find(id_) for id_ in true.ids] == [true.find(id_) for id_ in true.ids]
    assert list(found.ids) == list(true.ids)
    assert found.repeated == true.repeated


@given(alike())
@thorough
def test_content_that_is_like_another_is_indexed_as_if_it_were_parsed(
    both: tuple[bytes, bytes],
) -> None:
    old, new = map(Document.parse, both)
    like = document_like(old, new.content)
    if like is not None:
        assert_same(like[0], new)
        unlike = {id_ for id_ in new.ids if old.find(id_) != new.find(id_)}
        assert unlike <= set(like[1])


@given(arrays(), st.integers(0, 200), st.integers(0, 8), st.sampled_from([
    b"", b",", b"1", b",,", b"[", b"]", b'"', b"{", b"}", b"\\", b" ", b",1,", b'{"id":"a"}',
]))  # fmt: skip
@thorough
def test_content_with_any_bytes_changed_is_indexed_truly_or_not_at_all(
    pieces: tuple[str, ...], at: int, size: int, put: bytes
) -> None:
    content = joined(pieces)
    broken = content[:at] + put + content[at + size :]
    like = document_like(Document.parse(content), broken)
    if like is not None:
        true = parsed(broken)
        assert true is not None
        assert_same(like[0], true)


def test_change_of_one_of_many_annotations_takes_the_short_way() -> None:
    texts = [annotation(f"{number:02}") for number in range(20)]
    old = Document.parse(b"[" + b",".join(texts) + b"]")
    texts[7] = annotation("07", reviewed=True)
    new = b"[" + b",".join(texts) + b"]"
    like = document_like(old, new)
    assert like is not None
    assert_same(like[0], Document.parse(new))
    assert like[1] == ["07"]
    assert common_ends(old, like[0]).head == 7
    assert common_ends(old, like[0]).tail == 12


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b'[{"id":"a"},{"id":"b"}]', b'[{"id":"b"},{"id":"a"}]', id="order"),
        pytest.param(b'[{"id":"a"},{"id":"b"}]', b'[{"id":"a"}]', id="removed"),
        pytest.param(b'[{"id":"a"}]', b'[{"id":"a"},{"id":"b"}]', id="added"),
        pytest.param(b'[{"id":"a"},{"id":"b"}]', b'[{"id":"a"},{"id":"c"}]', id="other-id"),
        pytest.param(b"[1,2,3,4,5]", b"[1,2,3,4,15]", id="number-that-ends-alike"),
        pytest.param(b"[1,2,3,4,5]", b"[1,2,3,4,51]", id="number-that-begins-alike"),
        pytest.param(b"[1,2,3,4,5]", b"[1,2,3 4,5]", id="without-a-comma"),
        pytest.param(b"[1,2,3,4,5]", b"[1,2,,3,4,5]", id="two-commas"),
        pytest.param(b"[1,2,3,4,5]", b"[1,2,3,4,5", id="without-the-end"),
        pytest.param(b"[1,2,3,4,5]", b"1,2,3,4,5]", id="without-the-beginning"),
    ],
)
def test_content_with_other_ids_or_no_array_is_like_none_or_truly_indexed(
    old: bytes, new: bytes
) -> None:
    like, true = document_like(Document.parse(old), new), parsed(new)
    if like is not None:
        assert true is not None
        assert_same(like[0], true)


@given(alike())
@thorough
def test_hunks_lead_from_one_content_to_the_other_and_back(both: tuple[bytes, bytes]) -> None:
    old, new = map(Document.parse, both)
    hunks = diff_documents(old, new)
    assert apply(old.content, hunks) == new.content
    assert apply(new.content, reversed_hunks(hunks)) == old.content
    # No segment is in both sides but one that has moved, or is there several times.
    ends = common_ends(old, new)
    kept = len(old.content) - sum(len(hunk.old) for hunk in hunks)
    head = int(old.index.stops[ends.head - 1]) if ends.head else 0
    assert kept >= head


@given(st.permutations(range(7)), st.permutations(range(7)), st.integers(0, 7), st.integers(0, 7))
@thorough
def test_hunks_hold_no_more_than_what_has_no_common_order(
    one: list[int], other: list[int], a: int, b: int
) -> None:
    before, after = one[:a], other[:b]
    old, new = (
        Document.parse(b"[" + b",".join(b'{"id":"%d"}' % number for number in numbers) + b"]")
        for numbers in (before, after)
    )
    longest = max(
        len(kept)
        for kept in _subsequences(before)
        if kept == [number for number in after if number in kept]
    )
    hunks = diff_documents(old, new)
    held = sum(hunk.old.count(b"id") for hunk in hunks)
    # The comma belongs to the annotation behind it, so that the first one has other bytes.
    assert len(before) - longest <= held <= len(before) - longest + 2


def _subsequences(numbers: list[int]) -> Iterator[list[int]]:
    for chosen in range(2 ** len(numbers)):
        yield [number for at, number in enumerate(numbers) if chosen >> at & 1]


# --- what a save changes ---

fields = st.fixed_dictionaries(
    {"type": st.just("point"), "point": st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 3)},
    optional={
        "length": st.sampled_from([1, 1.5, 2]),
        "reviewed": st.booleans(),
        "visited": st.booleans(),
        "anntype": st.sampled_from(["axon", "soma"]),
        "other": st.sampled_from(["x", {"a": 1}]),
    },
)
states = st.dictionaries(st.sampled_from("abcdefgh"), fields, max_size=8)


def content_of(state: dict[str, Any], **spelling: Any) -> bytes:
    return json.dumps([{"id": id_, **value} for id_, value in state.items()], **spelling).encode()


def plain_edit(base: Document, body: Document, *, own: bool) -> Edit:
    """The model: every annotation is compared."""
    old = {id_: base.find(id_) or b"" for id_ in base.ids}
    new = {id_: body.find(id_) or b"" for id_ in body.ids}
    return Edit(
        tuple(id_ for id_ in new if id_ not in old),
        tuple(
            id_
            for id_, text in new.items()
            if id_ in old and is_edited(Parsed.of(old[id_]), Parsed.of(text), own=own)
        ),
        tuple(id_ for id_ in old if id_ not in new),
    )


@given(states, st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | fields), max_size=4),
       st.sampled_from([None, 1]), st.booleans())  # fmt: skip
@thorough
def test_edit_of_each_of_several_saves_is_that_of_all_annotations(
    state: dict[str, Any],
    steps: list[tuple[str, dict[str, Any] | None]],
    indent: int | None,
    own: bool,
) -> None:
    base = Document.parse(content_of(state, indent=indent))
    etag = etag_of(base.content)
    last, parent = Document.parse(content_of(state)), ""
    for id_, value in [("", None), *steps]:
        if value is None:
            state.pop(id_, None)
        else:
            state[id_] = value
        content = content_of(state)
        like = document_like(last, content)
        document = Document.parse(content) if like is None else like[0]
        base_seen = Seen(base, lambda: base.content, etag=etag)
        base_seen.release()
        body = Seen(
            document,
            etag=etag_of(content),
            parent="" if like is None else parent,
            since=() if like is None else like[1],
        )
        assert edit_between(base_seen, body, own=own) == plain_edit(base, document, own=own)
        last, parent = document, etag_of(content)


def test_edit_where_an_id_is_in_the_view_twice_is_that_of_the_first_one() -> None:
    first, second, other = annotation("a"), annotation("a", reviewed=True), annotation("b")
    base = Document.parse(b"[" + b",".join([first, other, second]) + b"]")
    for kept in (first, second):
        for texts in ([kept, other], [other, kept]):
            body = Document.parse(b"[" + b",".join(texts) + b"]")
            expected = plain_edit(base, body, own=True)
            assert edit_between(Seen(base), Seen(body), own=True) == expected


def test_what_a_step_changes_in_an_old_view_is_told_without_that_view() -> None:
    texts = [annotation(f"{number:02}") for number in range(20)]
    view = Document.parse(b"[" + b", ".join(texts) + b"]")
    loads: list[bytes] = []

    def load() -> bytes:
        loads.append(view.content)
        return view.content

    seen = Seen(view, load, etag="view")
    last, parent = Document.parse(b"[" + b",".join(texts) + b"]"), ""
    for step in range(5):
        texts[3] = annotation("03", point=[step, 0.5, 0])
        like = document_like(last, b"[" + b",".join(texts) + b"]")
        assert like is not None
        since = like[1] if parent else ()
        body = Seen(like[0], etag=f"{step} {view!r}", parent=parent, since=since)
        seen.release()
        assert edit_between(seen, body, own=False) == Edit(changed=("03",))
        last, parent = like[0], body.etag
    assert len(loads) == 2  # by the first step, and for what the second one touches


# --- what is only spelled differently ---

numbers = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.sampled_from([40.1234567, 1e-7, 2**53 + 1, 10**21, 1e39, -0.0, 2**53 + 2]),
)
vertices = st.lists(numbers | st.none(), min_size=3, max_size=3)
values = st.dictionaries(
    st.sampled_from(["id", "type", "points", "point", "length", "visited", "x"]),
    st.one_of(
        st.lists(vertices, max_size=3), vertices, numbers, st.booleans(), st.none(),
        st.sampled_from(["", '":', "a:", {"a": 1}, [{"0": 1, "1": 2, "2": 3}], "\u00e9"]),
    ),
)  # fmt: skip


def spelled(value: object, dice: int) -> bytes:
    options: list[dict[str, Any]] = [{}, {"indent": 1}, {"separators": (",", ":")}]
    return json.dumps(value, ensure_ascii=bool(dice % 2), **options[dice % 3]).encode()


@given(values, values, st.integers(0, 5), st.integers(0, 5), st.booleans(), st.booleans())
@thorough
def test_what_is_surely_only_respelled_was_not_edited(
    old: dict[str, Any], new: dict[str, Any], dice: int, other: int, rounds: bool, own: bool
) -> None:
    if rounds:  # most likely a respelling
        new = loaded(old) if isinstance(old.get("id"), str) and not _is_odd(old) else {**old, **new}
    base, body = spelled(old, dice), spelled(new, other)
    if is_only_respelled(base, body, own=own):
        assert not is_edited(Parsed.of(base), Parsed.of(body), own=own)


def _is_odd(value: dict[str, Any]) -> bool:
    try:
        loaded(value)
    except (TypeError, ValueError, OverflowError, IndexError, struct.error):
        return True
    return False


@pytest.mark.parametrize("text", [
    b'{"id":"a","x":1,"x":2}', b'{"id":"a","x":1,"\\u0078":2}', b'{"id":"a","x":{"y":1,"y":2}}',
    b'{"id":"a","x":[{"y":1,"y":2}]}',
])  # fmt: skip
def test_annotation_with_a_key_twice_is_never_surely_respelled(text: bytes) -> None:
    assert not is_only_respelled(text.replace(b"{", b"{ ", 1), text, own=False)
    assert not is_only_respelled(text, text.replace(b"{", b"{ ", 1), own=True)


def test_large_integer_that_is_another_one_is_never_surely_respelled() -> None:
    base, body = (b'{"id":"a","point":[%d,0,0]}' % number for number in (2**53, 2**53 + 1))
    assert is_edited(Parsed.of(base), Parsed.of(body), own=True)
    assert not is_only_respelled(base, body, own=True)


@pytest.mark.parametrize("own", [False, True])
def test_what_viewers_write_of_an_annotation_is_surely_respelled(own: bool) -> None:
    old: dict[str, Any] = {
        "id": "a",
        "type": "linestring",
        "points": [[1, 2.1234567, 3], [4.5, 5.9999999, -6.000001]],
        "length": 12.75,
        "description": 'caf\u00e9 "x"',
    }
    old |= {} if own else {"dropped": 1}
    base = json.dumps(old, indent=3).encode()
    assert is_only_respelled(base, json.dumps(loaded(old)).encode(), own=own)


# --- annotations that break no rule ---

POINT = [1, 2.5, -3]
GEOMETRY: dict[str, dict[str, Any]] = {
    "point": {"point": POINT},
    "line": {"pointA": POINT, "pointB": POINT},
    "axis_aligned_bounding_box": {"pointA": POINT, "pointB": POINT},
    "ellipsoid": {"center": POINT, "radii": POINT},
    "linestring": {"points": [POINT, POINT]},
    "polygon": {"points": []},
}
REST: dict[str, Any] = {
    "description": "", "anntype": "axon", "reviewed": True, "visited": False, "length": 7,
    "segments": [["1", "2"]],
}  # fmt: skip


def long_way(*texts: bytes) -> Report:
    check = ArrayCheck()
    for text in texts:
        check.add(msgspec.json.decode(text))
    return check.close()


@pytest.mark.parametrize("kind", GEOMETRY)
def test_annotation_as_viewers_write_it_takes_the_short_way(kind: str) -> None:
    known = FlawlessAnnotations()
    for rest in ({}, REST):
        text = json.dumps({"id": "a", "type": kind, **GEOMETRY[kind], **rest}).encode()
        assert [known.id_of(text) for _ in range(2)] == ["a", "a"]
        assert long_way(text) == Report()


wrong = st.one_of(
    st.none(), st.booleans(), numbers, st.sampled_from(["", "1", "polygon", "point"]),
    st.lists(numbers | st.none(), max_size=4), st.lists(vertices, max_size=2),
    st.just({"0": 1, "1": 2, "2": 3}), st.recursive(st.just(1), lambda one: st.lists(one)),
)  # fmt: skip
members = st.lists(
    st.tuples(
        st.sampled_from(["id", "type", "x", *REST, *{k for g in GEOMETRY.values() for k in g}]),
        wrong,
    ),
    max_size=2,
)


@given(st.sampled_from([*GEOMETRY]), members, st.booleans())
@thorough
def test_annotation_on_the_short_way_breaks_no_rule_and_needs_no_warning(
    kind: str, others: list[tuple[str, Any]], before: bool
) -> None:
    right = [("id", "a"), ("type", kind), *GEOMETRY[kind].items(), *REST.items()]
    pairs = [*others, *right] if before else [*right, *others]  # keys may be there twice
    text = b"{" + b",".join(
        json.dumps(key).encode() + b":" + json.dumps(value).encode() for key, value in pairs
    ) + b"}"  # fmt: skip
    known = FlawlessAnnotations()
    id_ = known.id_of(text)
    assert known.id_of(text) == id_
    if id_ is not None:
        assert long_way(text) == Report()
        assert msgspec.json.decode(text)["id"] == id_


def test_ids_must_be_unique_on_every_way() -> None:
    short, long = annotation("a"), annotation("a", unknown=1)
    for first in (short, long):
        for second in (short, long):
            with pytest.raises(RuleBrokenError, match=r"\[1\]\.id: expected a unique id"):
                checked_array(b"[" + first + b"," + second + b"]")


# --- contents that are kept ---


def test_content_that_nobody_sees_any_more_is_dropped_before_it_is_compressed() -> None:
    kept = KeptContents()
    for number in range(3):
        kept.keep(f"{number}", b"%d" % number, "a")
    kept.keep("1", b"1", "b")
    kept.drop("a", {"2"})
    assert kept.find("0") is None
    assert [load() for load in map(kept.find, "12") if load is not None] == [b"1", b"2"]
    kept.drop("b", set())
    assert kept.find("1") is None
    kept.pack_waiting()
    kept.drop("a", set())
    load = kept.find("2")
    assert load is not None
    assert load() == b"2"


def test_contents_that_wait_have_a_bound_and_none_is_lost() -> None:
    kept = KeptContents()
    size = WAITING_BYTES // 3
    bodies = {str(number): bytes([number]) * size for number in range(8)}
    for etag, body in bodies.items():
        assert kept.keep(etag, body, "a")() == body
    assert sum(kept.packed(etag) is None for etag in bodies) <= 3
    for etag, body in bodies.items():
        load = kept.find(etag)
        assert load is not None
        assert load() == body


# --- all together ---


class Forgetful(KeptContents):
    """Has nothing at hand, so that every save takes the long way."""

    def fresh(self, etag: str) -> Document | None:
        return None

    def seen(self, etag: str) -> Seen | None:
        load = self.find(etag)
        return None if load is None else Seen(Document.parse(load()), load)


@dataclass
class Place:
    """A file with its writer; the times are those of a clock of its own."""

    root: Path
    is_quick: bool
    ticks: Iterator[int] = field(default_factory=lambda: count(1))
    tabs: dict[int, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.file = AnnotationFile(self.root / "z-0001.json", "b/z-0001.json")
        views = Views(None, lambda: 10**18)
        if not self.is_quick:
            views.contents = Forgetful()
        started = datetime(2026, 1, 1, tzinfo=UTC)
        times = (started + timedelta(seconds=number) for number in count())
        changes = FileChanges(Locks("none"), Contents(), lambda: next(times))
        self.writer = FileWriter(changes, views)

    def load(self, tab: int) -> None:
        etag = etag_of(self.file.path.read_bytes()) if self.file.path.exists() else ""
        if etag:
            self.contents[etag] = self.file.path.read_bytes()
            self.writer.saw(self._viewer(tab), self.file.display_path, etag, self._now())
        found = json.loads(self.file.path.read_bytes()) if etag else []
        self.tabs[tab] = {one["id"]: loaded(one) for one in found}

    def save(self, tab: int) -> Any:
        view = sorted(self.tabs[tab].values(), key=lambda one: str(one.get("anntype")))
        body = json.dumps(view, separators=(",", ":")).encode()
        self.contents[etag_of(body)] = body
        context = WriteContext(Author("ann"), viewer=self._viewer(tab), arrived_ns=self._now(),
                               guarded=True, is_viewer=True)  # fmt: skip
        request = WriteRequest(
            operation="put", file=self.file, context=context, body=body, intent="i"
        )
        written = self.writer.write(request)
        return written.created, written.etag, written.newly_held, written.changed, written.notes

    def put(self, body: bytes) -> None:
        self.writer.write(
            WriteRequest(operation="put", file=self.file, context=WriteContext(), body=body)
        )

    def records(self) -> list[Any]:
        return [
            msgspec.structs.replace(record, stamp="")
            for record in Journal(self.file.path).records()
        ]

    def _now(self) -> int:
        return 10**18 + next(self.ticks)

    @staticmethod
    def _viewer(tab: int) -> Viewer:
        return Viewer(f"key {tab // 2}", f"label {tab // 2}")


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["load", "move", "move", "move", "add", "remove", "review", "again", "put"]
        ),
        st.integers(0, 2),
        st.integers(0, 10),
    ),
    max_size=14,
)


@given(states, steps, st.sampled_from([None, 1]))
@settings(deadline=None, max_examples=examples(300))
def test_saves_on_the_short_way_make_the_same_changes_and_records(
    state: dict[str, Any], steps: list[tuple[str, int, int]], indent: int | None
) -> None:
    assume(state)
    with TemporaryDirectory(dir=IN_MEMORY) as directory:
        edits._edits.clear()
        places = [Place(Path(directory) / str(quick), quick) for quick in (False, True)]
        for number, (step, tab, dice) in enumerate([("put", 0, 0), ("load", 0, 0), *steps]):
            results = []
            for place in places:
                if step == "put":
                    place.put(content_of(state, indent=indent))
                    continue
                if step == "load" or tab not in place.tabs:
                    place.load(tab)
                    continue
                view = place.tabs[tab]
                ids = sorted(view)
                id_ = ids[dice % len(ids)] if ids else f"new {number}"
                if step == "remove":
                    view.pop(id_, None)
                elif step in ("add", "move"):
                    id_ = f"new {number}" if step == "add" else id_
                    new = {"id": id_, "type": "point", "anntype": "axon"}
                    view[id_] = {**view.get(id_, new), "point": [dice, number, 0.5]}
                elif step == "review" and ids:
                    view[id_] = {**view[id_], "reviewed": dice % 2 == 0}
                results.append(place.save(tab))
            assert results[:1] == results[1:]
            assert places[0].file.path.read_bytes() == places[1].file.path.read_bytes()
        assert places[0].records() == places[1].records()
        contents = {etag: Document.parse(body) for etag, body in places[1].contents.items()}
        for (base, body, own), edit in edits._edits.items():
            assert edit == plain_edit(contents[base], contents[body], own=own)


@pytest.mark.parametrize("has_loaded", [False, True])
def test_save_that_regroups_and_respells_a_file_records_only_what_it_changes(
    has_loaded: bool, tmp_path: Path
) -> None:
    place = Place(tmp_path / "b", True)
    state = {
        f"{number:040}": {
            "type": "linestring",
            "points": [[number + part / 7, part, 1.5] for part in range(9)],
            "anntype": ("axon", "soma", "myelin")[number % 3],
        }
        for number in range(200)
    }
    content = content_of(state, indent=1)
    place.file.path.write_bytes(content)
    place.load(1)
    if not has_loaded:
        place.tabs[2] = place.tabs.pop(1)  # another client, of which nothing is known
    tab = 1 if has_loaded else 2
    view = place.tabs[tab]
    view["0" * 40]["points"][3][0] += 1
    place.save(tab)
    (line,) = (
        place.file.path.with_name(f".{place.file.path.name}.journal").read_bytes().splitlines()
    )
    assert len(line) < 4 * len(content) // len(state) + 1000
    assert list(Document.parse(place.file.path.read_bytes()).ids) == list(state)
