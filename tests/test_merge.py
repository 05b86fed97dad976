"""Merging what a viewer saves: its spelling is no change, its changes meet those of others."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.fields import MergedAnnotation, merge_annotation
from neurotrale.annotations.documents.spelling import Parsed, respells
from neurotrale.annotations.documents.splice import replace_range, set_fields
from neurotrale.annotations.merging.edits import Edit, edit_between
from neurotrale.annotations.merging.merge import MergedFile, merge_edit
from neurotrale.annotations.merging.seen import Seen

SPELLINGS: list[dict[str, Any]] = [
    {"separators": (",", ":")},
    {"separators": (", ", ": ")},
    {"indent": 3},
    {"indent": "\t", "ensure_ascii": False},
]
spellings = st.sampled_from(SPELLINGS)
numbers = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: 0.0 if x == 0 else x),
    st.sampled_from([40.1234567, 1e-7, 2**53 + 1, 123456789012345678901, 1e39, -0.5]),
)
vertices = st.lists(numbers, min_size=3, max_size=3)
texts = st.sampled_from(["", "a", '"', ",", "]}", "é\u2028", "\\", ' "x": 1, '])
values = st.fixed_dictionaries(
    {"type": st.just("linestring"), "points": st.lists(vertices, min_size=1, max_size=6)},
    optional={
        "description": texts,
        "anntype": st.sampled_from(["axon", "soma"]),
        "reviewed": st.booleans(),
        "visited": st.booleans(),
        "length": numbers,
        "segments": st.lists(st.lists(st.sampled_from(["1", "2"]), max_size=2), max_size=2),
        "center": vertices,
        'not " known': st.one_of(texts, numbers, st.just({"a": [1, {"id": "x"}]})),
    },
)


def float32(value: float) -> float:
    try:
        rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("nan")
    return rounded


def as_viewer_writes(annotation: dict[str, Any]) -> dict[str, Any]:
    """What the viewer makes of an annotation, written from what is known of it."""
    written: dict[str, Any] = {}
    for key, value in annotation.items():
        if key.startswith("not "):
            continue
        if key in ("points", "center"):
            value = json.loads(json.dumps(value), parse_int=float)
            flat = [value] if key == "center" else value
            for vertex in flat:
                vertex[:] = [float32(x) for x in vertex]
                vertex[:] = [None if x != x or abs(x) == float("inf") else x for x in vertex]
        elif key == "length":
            value = int(value)
        written[key] = value
    return {"visited": False, **written}


def spelled(value: object, **spelling: Any) -> bytes:
    return json.dumps(value, **spelling).encode()


def merged(
    base: object, body: object, now: object, *, own: bool = False, yields: bool = False
) -> tuple[Any, tuple[str, ...]]:
    result = merge_annotation(
        *(Parsed.of(spelled(value)) for value in (base, body, now)), own=own, yields=yields
    )
    return json.loads(result.text), result.conflicts


# --- spelling ---


@given(values, spellings)
def test_what_the_viewer_only_spells_differently_is_no_change(
    annotation: dict[str, Any], spelling: dict[str, Any]
) -> None:
    text = spelled({"id": "a", **annotation}, **spelling)
    body = spelled({"id": "a", **as_viewer_writes(annotation)})
    result = merge_annotation(Parsed.of(text), Parsed.of(body), Parsed.of(text), own=False)
    assert result == MergedAnnotation(text)


@given(values)
def test_what_the_viewer_saves_again_is_no_change(annotation: dict[str, Any]) -> None:
    written = as_viewer_writes(annotation)
    body = spelled({"id": "a", **written})
    again = spelled({"id": "a", **dict(reversed(written.items()))})
    text = spelled({"id": "a", **annotation})
    result = merge_annotation(Parsed.of(body), Parsed.of(again), Parsed.of(text), own=True)
    assert result == MergedAnnotation(text)


@pytest.mark.parametrize(
    ("key", "old", "new", "same"),
    [
        ("point", [1], [1.0], True),
        ("point", [40.1234567], [40.12345504760742], True),
        ("point", [40.12345504760742], [40.1234567], False),
        ("point", [40.1234567], [40.1234568], False),
        ("point", [1, 2], [1], False),
        ("point", [1], [None], True),
        ("point", [None], [None], True),
        ("point", [None], [1], False),
        ("point", [1], [True], False),
        ("points", [{"0": 1, "1": 2, "2": 3}], [[1, 2, 3]], True),
        ("points", [[1, 2, 3]], {"0": 1}, False),
        ("description", "1", 1, False),
        ("description", 1, None, False),
        ("length", 7.25, 7, True),
        ("length", 7.25, 8, False),
        ("length", -7.25, -7, True),
        ("width", 7.25, 7, False),
        ("length", 1e400, 7, False),
        ("reviewed", True, 1, False),
        ("reviewed", False, False, True),
        ("segment", 12345678901234567890, 12345678901234567000, True),
        ("segment", 2**53, 2**53 + 1, False),
        ("x", {"a": 1}, {"a": 1.0}, True),
        ("x", {"a": 1}, {}, False),
        ("x", 10**400, 10**400 + 1, True),
    ],
)
def test_respelling(key: str, old: object, new: object, same: bool) -> None:
    assert respells(old, new, key) is same


# --- one annotation ---


@pytest.mark.parametrize(
    ("base", "body", "now", "own", "expected", "conflicts"),
    [
        pytest.param({"x": 1}, {"x": 2}, {"x": 1}, False, {"x": 2}, "", id="changed"),
        pytest.param({"x": 1}, {"x": 1}, {"x": 2}, False, {"x": 2}, "", id="by-the-other"),
        pytest.param({"x": 1}, {"x": 2}, {"x": 3}, False, {"x": 2}, "x", id="by-both"),
        pytest.param({"x": 1}, {"x": 2}, {"x": 2}, False, {"x": 2}, "", id="alike-by-both"),
        pytest.param({"x": 1}, {"x": 2}, {"x": 1, "y": 1}, False, {"x": 2, "y": 1}, "", id="other"),
        pytest.param({"x": 1, "k": 1}, {"x": 2}, {"x": 1, "k": 1}, False, {"x": 2, "k": 1}, "",
                     id="key-dropped-by-the-viewer"),
        pytest.param({"x": 1, "k": 1}, {"x": 1}, {"x": 1, "k": 1}, True, {"x": 1}, "",
                     id="key-removed"),
        pytest.param({"x": 1, "k": 1}, {"x": 1}, {"x": 1, "k": 2}, True, {"x": 1}, "k",
                     id="key-removed-and-changed"),
        pytest.param({"x": 1, "k": 1}, {"x": 1, "k": 2}, {"x": 1}, True, {"x": 1, "k": 2}, "k",
                     id="key-changed-and-removed"),
        pytest.param({}, {"visited": False}, {}, False, {}, "", id="visited-added"),
        pytest.param({}, {"visited": True}, {}, False, {"visited": True}, "", id="visited"),
        pytest.param({}, {"x": 2}, {"x": 3}, False, {"x": 2}, "x", id="added-by-both"),
        pytest.param({"points": [[1, 2, 3], [4, 5, 6]]}, {"points": [[9, 2, 3], [4, 5, 6]]},
                     {"points": [[1, 2, 3], [4, 8, 6]]}, False,
                     {"points": [[9, 2, 3], [4, 8, 6]]}, "", id="coordinates"),
        pytest.param({"points": [[1, 2, 3], [4, 5, 6]]}, {"points": [[9, 2, 3], [4, 5, 6]]},
                     {"points": [[7, 2, 3], [4, 8, 6]]}, False,
                     {"points": [[9, 2, 3], [4, 8, 6]]}, "points", id="same-coordinate"),
        pytest.param({"points": [[1], [2], [3]]}, {"points": [[0], [1], [2], [3]]},
                     {"points": [[1], [2], [9]]}, False, {"points": [[0], [1], [2], [9]]}, "",
                     id="vertex-before-a-moved-one"),
        pytest.param({"points": [[1], [2], [3]]}, {"points": [[1], [2], [3], [4]]},
                     {"points": [[9], [2], [3]]}, False, {"points": [[9], [2], [3], [4]]}, "",
                     id="vertex-behind-a-moved-one"),
        pytest.param({"points": [[1], [2], [3]]}, {"points": [[1], [3]]},
                     {"points": [[0], [1], [2], [3]]}, False, {"points": [[0], [1], [3]]}, "",
                     id="vertex-removed-and-another-added"),
        pytest.param({"points": [[1], [2], [3]]}, {"points": [[1], [2], [8]]},
                     {"points": [[1], [3]]}, False, {"points": [[1], [8]]}, "",
                     id="vertex-moved-and-another-removed"),
        pytest.param({"points": [[1], [2]]}, {"points": [[1], [2], [3]]},
                     {"points": [[1], [2], [4]]}, False, {"points": [[1], [2], [3]]}, "points",
                     id="both-continue-a-line"),
        pytest.param({"points": [[1], [2]]}, {"points": [[1]]}, {"points": [[1], [5]]}, False,
                     {"points": [[1]]}, "points", id="vertex-moved-and-removed"),
    ],
)  # fmt: skip
def test_fields_that_a_viewer_changed_meet_those_that_others_changed(
    base: object, body: object, now: object, own: bool, expected: object, conflicts: str
) -> None:
    assert merged(base, body, now, own=own) == (expected, (conflicts,) if conflicts else ())
    kept, names = merged(base, body, now, own=own, yields=True)
    assert names == ((conflicts,) if conflicts else ())
    if not conflicts:
        assert kept == expected
    elif "points" not in conflicts:
        assert kept == now


def test_conflict_is_resolved_for_the_later_one_coordinate_by_coordinate() -> None:
    base, body, now = ({"points": [[x, y, 0]]} for x, y in ((0, 0), (1, 1), (2, 0)))
    assert merged(base, body, now) == ({"points": [[1, 1, 0]]}, ("points",))
    assert merged(base, body, now, yields=True) == ({"points": [[2, 1, 0]]}, ("points",))


def test_annotation_with_a_key_twice_is_replaced_whole_if_anything_changed() -> None:
    now, body = b'{"id": "a", "x": 1, "x": 2}', b'{"id":"a","x":3}'
    result = merge_annotation(Parsed.of(now), Parsed.of(body), Parsed.of(now), own=False)
    assert result == MergedAnnotation(body, (), True)
    same = merge_annotation(
        Parsed.of(now), Parsed.of(b'{"id":"a","x":2}'), Parsed.of(now), own=False
    )
    assert same == MergedAnnotation(now)


@given(values, values, spellings)
def test_change_of_a_viewer_keeps_the_bytes_of_what_it_left_alone(
    first: dict[str, Any], second: dict[str, Any], spelling: dict[str, Any]
) -> None:
    text = spelled({"id": "a", **first}, **spelling)
    chosen = {key: value for key, value in second.items() if key != "points"}
    body = spelled({"id": "a", **as_viewer_writes(first | chosen)})
    result = merge_annotation(Parsed.of(text), Parsed.of(body), Parsed.of(text), own=False)
    before, after = Parsed.of(text), Parsed.of(result.text)
    wanted = json.loads(body)
    assert result.conflicts == ()
    assert after.fields is not None
    assert before.fields is not None
    for key, value in wanted.items():
        old = before.fields.get(key, False if key == "visited" else None)
        if not respells(old, value, key) and (key in before.fields or key != "visited" or value):
            if key != "center":
                assert after.fields[key] == value
        elif key in before.raws:
            assert after.raws[key] == before.raws[key]
    assert [key for key in after.raws if key in before.raws] == list(before.raws)


# --- text ---


@given(
    st.dictionaries(texts, numbers, max_size=4),
    st.dictionaries(texts, st.one_of(st.none(), numbers), max_size=4),
    spellings,
)
def test_fields_are_set_and_removed_in_place(
    old: dict[str, Any], new: dict[str, Any], spelling: dict[str, Any]
) -> None:
    text = spelled(old, **spelling)
    raws = {key: None if value is None else spelled(value) for key, value in new.items()}
    result = set_fields(text, Parsed.of(text).raws, raws)
    expected = {k: v for k, v in (old | new).items() if v is not None}
    assert json.loads(result) == expected
    assert list(json.loads(result)) == list(expected)


@given(st.data(), st.lists(vertices, max_size=5), st.lists(vertices, max_size=3), spellings)
def test_items_are_replaced_in_place(
    data: st.DataObject, old: list[Any], new: list[Any], spelling: dict[str, Any]
) -> None:
    first = data.draw(st.integers(0, len(old)))
    last = data.draw(st.integers(first, len(old)))
    text = spelled(old, **spelling)
    result = replace_range(text, first, last, [spelled(item) for item in new])
    assert json.loads(result) == old[:first] + new + old[last:]


# --- a whole file ---


def file_of(ids: str, **more: Any) -> Document:
    """A file in which every letter is the id of an annotation."""
    return Document.parse(spelled([{"id": id_, "x": 1, **more.get(id_, {})} for id_ in ids]))


def save(
    file: Document, base: Document, body: Document, *, own: bool = False, yields: bool = False
) -> tuple[MergedFile, str]:
    seen, saved = Seen(base), Seen(body)
    edit = edit_between(seen, saved, own=own)
    result = merge_edit(file, seen, saved, edit, own=own, yields=yields)
    return result, "".join(one["id"] for one in json.loads(result.content))


@pytest.mark.parametrize(
    ("base", "body", "file", "expected", "removed", "held"),
    [
        pytest.param("abc", "abc", "abc", "abc", "", "", id="same"),
        pytest.param("abc", "cab", "abc", "abc", "", "", id="regrouped"),
        pytest.param("abc", "abcd", "abc", "abcd", "", "", id="added"),
        pytest.param("abc", "abcd", "abce", "abced", "", "", id="added-by-both"),
        pytest.param("abc", "ac", "abc", "ac", "b", "", id="removed"),
        pytest.param("abc", "ac", "bcd", "cd", "b", "", id="removed-by-both"),
        pytest.param("abc", "bc", "cab", "cb", "a", "", id="removed-in-its-place"),
        pytest.param("", "a", "bc", "bca", "", "", id="first"),
        pytest.param("a", "", "a", "", "a", "", id="last"),
        pytest.param("ab", "ab", "", "", "", "", id="removed-by-the-other"),
    ],
)
def test_ids_that_a_viewer_added_and_removed_are_those_of_the_file(
    base: str, body: str, file: str, expected: str, removed: str, held: str
) -> None:
    result, ids = save(file_of(file), file_of(base), file_of(body))
    assert (ids, "".join(result.removed), "".join(result.held)) == (expected, removed, held)
    assert result.conflicts == {}


def test_annotation_that_one_removed_and_another_changed_stays_with_the_change() -> None:
    base = file_of("ab")
    result, _ = save(file_of("a"), base, file_of("ab", b={"x": 2}))
    assert json.loads(result.content) == [{"id": "a", "x": 1}, {"id": "b", "x": 2}]
    assert (result.held, result.removed) == (("b",), ())
    result, _ = save(file_of("ab", b={"x": 2}), base, file_of("a"))
    assert json.loads(result.content) == [{"id": "a", "x": 1}, {"id": "b", "x": 2}]
    assert (result.held, result.removed) == (("b",), ())


def test_annotation_that_the_viewer_spells_differently_can_be_removed() -> None:
    base = file_of("ab", b={"point": [40.12345504760742], "visited": False})
    result, ids = save(
        file_of("ab", b={"point": [40.1234567], "k": 1}), base, file_of("a"), own=True
    )
    assert (ids, result.removed) == ("a", ("b",))


def test_annotation_whose_id_is_twice_in_the_file_is_not_removed() -> None:
    result, ids = save(file_of("abb"), file_of("ab"), file_of("a"))
    assert (ids, result.held) == ("abb", ("b",))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), values), unique_by=lambda one: one[0]),
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("abcdef")),
    spellings,
)
def test_everything_that_nobody_changed_keeps_its_bytes_and_its_order(
    there: list[tuple[str, dict[str, Any]]],
    removed: set[str],
    described: set[str],
    spelling: dict[str, Any],
) -> None:
    all_ = {id_: {"id": id_, **annotation} for id_, annotation in there}
    file = Document.parse(spelled(list(all_.values()), **spelling))
    sent = [
        as_viewer_writes(value | ({"description": "new"} if id_ in described else {}))
        for id_, value in reversed(all_.items())
        if id_ not in removed
    ]
    body = Document.parse(spelled(sent))
    edit = edit_between(Seen(file), Seen(body), own=False)
    assert edit == Edit((), edit.changed, tuple(id_ for id_ in all_ if id_ in removed))
    assert set(edit.changed) == (described & all_.keys()) - removed
    result = merge_edit(file, Seen(file), Seen(body), edit, own=False)
    after = Document.parse(result.content)
    assert list(after.ids) == [id_ for id_ in all_ if id_ not in removed]
    for id_ in after.ids:
        if id_ in described:
            new = json.loads(after.find(id_) or b"")
            assert new == all_[id_] | {"description": "new"}
        else:
            assert after.find(id_) == file.find(id_)
    if not edit.size:
        assert result.content == file.content
