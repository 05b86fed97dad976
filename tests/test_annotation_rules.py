"""What an annotation must be before it is written: the body of a PUT, the body of a PATCH."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from neurotrale.annotations.documents.bodies import checked_annotation, checked_array
from neurotrale.annotations.documents.validation import (
    MAX_LEVELS,
    MAX_PROBLEMS,
    ArrayCheck,
    Report,
    check_annotation,
)
from neurotrale.errors import BadInputError, RuleBrokenError

P, Q = [1, 2.5, -3], [4, 5, 6]
GEOMETRY: dict[str, dict[str, Any]] = {
    "point": {"point": P},
    "line": {"pointA": P, "pointB": Q},
    "axis_aligned_bounding_box": {"pointA": P, "pointB": Q},
    "ellipsoid": {"center": P, "radii": Q},
    "linestring": {"points": [P, Q]},
    "polygon": {"points": [P, Q, P]},
}
NOT_NULL = ("type", "description", "reviewed", "visited", "length", "segments", "anntype")

NULL_WARNING = "kept a coordinate that is null (not a number in the viewer)"

WRONG_POINTS = [
    pytest.param([1, 2], id="two-numbers"),
    pytest.param([1, 2, 3, 4], id="four-numbers"),
    pytest.param([], id="empty-list"),
    pytest.param(None, id="null"),
    pytest.param(7, id="number"),
    pytest.param("1,2,3", id="text"),
    pytest.param([1, 2, "3"], id="text-inside"),
    pytest.param([1, True, 3], id="boolean-inside"),
    pytest.param([1, [2], 3], id="list-inside"),
    pytest.param([{"0": 1}, 2, 3], id="object-inside"),
    pytest.param([None, "2", 3], id="null-and-text"),
    pytest.param([None, 2], id="null-and-one-number"),
    pytest.param({}, id="empty-object"),
    pytest.param({"0": 1, "1": 2}, id="object-of-two"),
    pytest.param({"0": 1, "1": 2, "2": 3, "3": 4}, id="object-of-four"),
    pytest.param({"x": 1, "y": 2, "z": 3}, id="object-with-other-keys"),
    pytest.param({"0": 1, "1": 2, "2": "3"}, id="object-with-text"),
]

# Types and the keys that hold one point each.
SINGLE_POINTS = [
    pytest.param(type_, key, id=f"{type_}-{key}")
    for type_, geometry in GEOMETRY.items()
    for key in geometry
    if key != "points"
]
POINT_LISTS = ["linestring", "polygon"]


def check_annotations(annotations: Iterable[object]) -> Report:
    """Check the annotations of a PUT."""
    check = ArrayCheck()
    for one in annotations:
        check.add(one)
    return check.close()


def annotation(type_: str = "point", /, **more: Any) -> dict[str, Any]:
    return {"id": "a1", "type": type_, **GEOMETRY.get(type_.lower(), {}), **more}


def places(report: Report) -> list[str]:
    """Name the places that are wrong, without saying what is wrong there."""
    return [problem.partition(": ")[0] for problem in report.problems]


def refused_by_put(value: dict[str, Any]) -> list[str]:
    """Put an annotation behind a good one; give what is wrong."""
    report = check_annotations([{**annotation(), "id": "good"}, value])
    return report.problems


def in_any_case(text: str) -> list[str]:
    return [text.lower(), text.upper(), text.title()]


# --- geometry ---


@pytest.mark.parametrize("type_", [name for key in GEOMETRY for name in in_any_case(key)])
def test_known_type_in_any_case_with_its_geometry_is_accepted(type_: str) -> None:
    assert check_annotations([annotation(type_)]) == Report()
    assert check_annotation(annotation(type_)) == Report()


@pytest.mark.parametrize(
    ("type_", "key"),
    [
        pytest.param(name, key, id=f"{name}-{key}")
        for type_, geometry in GEOMETRY.items()
        for key in geometry
        for name in in_any_case(type_)
    ],
)
def test_known_type_in_any_case_without_its_geometry_is_refused(type_: str, key: str) -> None:
    value = annotation(type_)
    del value[key]
    assert refused_by_put(value) == [f"[1].{key}: a {type_.lower()} needs it, and it is missing"]
    assert places(check_annotation(value)) == [key]


def test_known_type_without_any_geometry_is_refused_for_each_missing_part() -> None:
    report = check_annotation({"id": "a1", "type": "ELLIPSOID"})
    assert places(report) == ["center", "radii"]


@pytest.mark.parametrize(("type_", "key"), SINGLE_POINTS)
@pytest.mark.parametrize("point", WRONG_POINTS)
def test_point_that_is_not_three_numbers_is_refused_with_its_place(
    type_: str, key: str, point: object
) -> None:
    value = annotation(type_, **{key: point})
    (problem,) = refused_by_put(value)
    assert problem.startswith(f"[1].{key}: expected 3 numbers")
    (problem,) = check_annotation(value).problems
    assert problem.startswith(f"{key}: expected 3 numbers")


@pytest.mark.parametrize("type_", POINT_LISTS)
@pytest.mark.parametrize("point", WRONG_POINTS)
def test_vertex_that_is_not_three_numbers_is_refused_with_its_place(
    type_: str, point: object
) -> None:
    value = annotation(type_, points=[P, Q, point, P])
    (problem,) = refused_by_put(value)
    assert problem.startswith("[1].points[2]: expected 3 numbers")
    (problem,) = check_annotation(value).problems
    assert problem.startswith("points[2]: expected 3 numbers")


def test_vertex_in_the_middle_of_a_file_is_named_by_annotation_key_and_index() -> None:
    values = [{**annotation("polygon"), "id": str(index)} for index in range(20)]
    values[17]["points"] = [P, P, P, [1, 2]]
    assert check_annotations(values).problems == ["[17].points[3]: expected 3 numbers"]


@pytest.mark.parametrize("type_", POINT_LISTS)
@pytest.mark.parametrize(
    "points",
    [
        pytest.param(None, id="null"),
        pytest.param({"0": P, "1": Q}, id="object"),
        pytest.param("[[1,2,3]]", id="text"),
        pytest.param(3, id="number"),
    ],
)
def test_points_that_are_no_list_are_refused_with_their_place(type_: str, points: object) -> None:
    value = annotation(type_, points=points)
    (problem,) = refused_by_put(value)
    assert problem.startswith("[1].points: expected a list of points")
    assert places(check_annotation(value)) == ["points"]


@pytest.mark.parametrize("type_", POINT_LISTS)
def test_vertices_as_objects_of_older_viewers_are_accepted(type_: str) -> None:
    value = annotation(type_, points=[{"0": 1, "1": 2.5, "2": 3}, P, {"2": 3, "1": 2, "0": 1}])
    assert check_annotations([value]) == Report()
    assert check_annotation(value) == Report()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("0", id="zero"),
        pytest.param("-0", id="negative-zero"),
        pytest.param("-0.0", id="negative-float-zero"),
        pytest.param("1e3", id="exponent"),
        pytest.param("1.5E+3", id="capital-exponent"),
        pytest.param("5e-324", id="smallest"),
        pytest.param("1e-999", id="below-the-smallest"),
        pytest.param("1.7976931348623157e308", id="largest"),
        pytest.param("123456789012345678901234567890", id="big-integer"),
        pytest.param("0.1000000000000000055511151231257827", id="many-digits"),
        pytest.param("1" * 400, id="hundreds-of-digits"),
    ],
)
def test_coordinate_in_any_spelling_of_a_number_is_accepted(number: str) -> None:
    body = f'{{"id":"a1","type":"point","point":[1,{number},3]}}'.encode()
    assert checked_array(b"[" + body + b"]") == []
    assert checked_annotation(body, "a1") == (body, [])


# --- null coordinates: the viewer's way to write NaN ---


@pytest.mark.parametrize(
    ("type_", "key", "value", "place"),
    [
        pytest.param("ellipsoid", "radii", [None] * 3, "radii", id="all-of-radii"),
        pytest.param("point", "point", [1, None, 3], "point", id="one-of-a-point"),
        pytest.param("polygon", "points", [P, [None] * 3], "points[1]", id="all-of-a-vertex"),
        pytest.param(
            "linestring",
            "points",
            [{"0": None, "1": None, "2": None}, P],
            "points[0]",
            id="all-of-a-vertex-as-object",
        ),
    ],
)
def test_null_coordinate_is_kept_with_a_warning_by_put_and_refused_by_patch(
    type_: str, key: str, value: object, place: str
) -> None:
    sick = annotation(type_, **{key: value})
    assert check_annotations([sick]) == Report(warnings=[f"[0].{place}: {NULL_WARNING}"])
    (problem,) = check_annotation(sick).problems
    assert problem.startswith(f"{place}: expected 3 numbers, found null")


def test_null_coordinates_of_several_vertices_are_all_named() -> None:
    nulls = [None, None, None]
    report = check_annotations([annotation("polygon", points=[nulls, P, nulls])])
    assert report.problems == []
    assert [warning.partition(": ")[0] for warning in report.warnings] == [
        "[0].points[0]",
        "[0].points[2]",
    ]


# --- the other fields ---


@pytest.mark.parametrize("key", NOT_NULL)
def test_optional_field_that_is_null_is_refused_with_its_place(key: str) -> None:
    value = annotation(**{key: None})
    (problem,) = refused_by_put(value)
    assert problem.startswith(f"[1].{key}: null is not allowed")
    assert places(check_annotation(value)) == [key]


def test_optional_fields_that_are_absent_are_accepted() -> None:
    assert check_annotation({"id": "a1", "type": "point", "point": P}) == Report()


def test_optional_fields_with_any_other_value_are_accepted() -> None:
    fields = {
        "description": "",
        "reviewed": False,
        "visited": True,
        "length": 0,
        "segments": [],
        "anntype": "any text at all",
    }
    assert check_annotation(annotation(**fields)) == Report()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"id": ""}, id="empty"),
        pytest.param({"id": None}, id="null"),
        pytest.param({"id": 5}, id="number"),
        pytest.param({"id": True}, id="boolean"),
        pytest.param({"id": ["a1"]}, id="list"),
        pytest.param({"id": {"a1": 1}}, id="object"),
        pytest.param({}, id="missing"),
    ],
)
def test_id_that_is_no_text_is_refused_with_its_place(value: dict[str, Any]) -> None:
    value = {"type": "point", "point": P, **value}
    (problem,) = refused_by_put(value)
    assert problem.startswith("[1].id: expected a non-empty string")
    assert places(check_annotation(value)) == ["id"]


@pytest.mark.parametrize(
    "id_",
    [
        pytest.param("0", id="digit"),
        pytest.param(" ", id="space"),
        pytest.param("4f2a" * 10, id="forty-hex-digits"),
        pytest.param("\u795e\u7d4c \N{BRAIN}", id="unicode"),
        pytest.param("a/b?c=d&e#f", id="characters-of-urls"),
        pytest.param("x" * 10_000, id="long"),
        pytest.param("\x00", id="nul"),
    ],
)
def test_id_that_is_any_text_is_accepted(id_: str) -> None:
    assert check_annotation(annotation(id=id_)) == Report()


def test_id_that_repeats_is_refused_with_both_places() -> None:
    ids = ["a", "b", "a", "c", "b", "a"]
    report = check_annotations([annotation(id=id_) for id_ in ids])
    assert report.problems == [
        "[2].id: expected a unique id, found 'a', as in [0]",
        "[4].id: expected a unique id, found 'b', as in [1]",
        "[5].id: expected a unique id, found 'a', as in [0]",
    ]


def test_ids_that_differ_in_case_alone_are_two_ids() -> None:
    assert check_annotations([annotation(id="a"), annotation(id="A")]) == Report()


@pytest.mark.parametrize("type_", ["sphere", "points", "", "point "])
def test_unknown_type_is_kept_with_a_warning_whatever_its_geometry(type_: str) -> None:
    value = annotation(type_, points=None, center="here")
    report = check_annotations([value])
    assert report.problems == []
    assert report.warnings == [
        f"[0].type: kept the unknown type {type_!r}, viewers may not show it"
    ]


@pytest.mark.parametrize("type_", [5, True, ["point"], {"point": P}], ids=str)
def test_type_that_is_no_text_is_refused_with_its_place(type_: object) -> None:
    value = {"id": "a1", "type": type_}
    (problem,) = refused_by_put(value)
    assert problem.startswith("[1].type: expected a string")


def test_type_that_is_absent_is_kept_with_a_warning() -> None:
    report = check_annotations([{"id": "a1"}])
    assert report.problems == []
    assert [warning.partition(": ")[0] for warning in report.warnings] == ["[0]"]


def test_unknown_keys_are_kept_with_one_warning_for_an_annotation() -> None:
    report = check_annotations([annotation(), annotation(id="b", size=1, colour={"r": [None]})])
    assert report.problems == []
    assert report.warnings == ["[1]: kept the unknown keys 'colour', 'size'"]


def test_unknown_key_cannot_break_the_line_of_its_warning() -> None:
    (warning,) = check_annotation(annotation(**{"a\nERROR forged": 1})).warnings
    assert "\n" not in warning


def test_unknown_key_of_a_patch_is_kept_with_a_warning() -> None:
    report = check_annotation(annotation(colour="red"))
    assert report == Report(warnings=["the annotation: kept the unknown key 'colour'"])


# --- the body as a whole ---


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(None, id="null"),
        pytest.param(5, id="number"),
        pytest.param("a1", id="text"),
        pytest.param(True, id="boolean"),
        pytest.param([annotation()], id="list"),
    ],
)
def test_item_that_is_no_object_is_refused_with_its_place(item: object) -> None:
    (problem,) = check_annotations([annotation(), item]).problems
    assert problem.startswith("[1]: expected an annotation (an object), found ")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{}", id="object"),
        pytest.param(b'{"annotations":[]}', id="object-around-the-array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"5", id="number"),
        pytest.param(b'"[]"', id="text"),
        pytest.param(b"true", id="boolean"),
    ],
)
def test_put_of_anything_but_an_array_is_refused(body: bytes) -> None:
    with pytest.raises(RuleBrokenError, match="the body: expected an array of annotations, found"):
        checked_array(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[]", id="array"),
        pytest.param(json.dumps([annotation()]).encode(), id="array-around-the-annotation"),
        pytest.param(b"null", id="null"),
        pytest.param(b"5", id="number"),
        pytest.param(b'"a1"', id="text"),
    ],
)
def test_patch_of_anything_but_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(RuleBrokenError, match="the body: expected an annotation"):
        checked_annotation(body, "a1")


def test_put_of_an_empty_array_is_accepted() -> None:
    assert checked_array(b" [ ] ") == []


def test_problems_of_several_annotations_are_told_in_the_order_of_the_file() -> None:
    values = [
        annotation(point=[1]),
        annotation(id="b"),
        annotation("polygon", id="", points=[P, [1]]),
        7,
    ]
    assert places(check_annotations(values)) == ["[0].point", "[2].id", "[2].points[1]", "[3]"]


def test_problems_beyond_the_first_are_counted_only() -> None:
    report = check_annotations([{"id": str(index), "type": "point"} for index in range(1000)])
    assert places(report)[:MAX_PROBLEMS] == [f"[{index}].point" for index in range(MAX_PROBLEMS)]
    assert report.problems[MAX_PROBLEMS:] == [f"and {1000 - MAX_PROBLEMS} more"]


def test_warnings_beyond_the_first_are_counted_only() -> None:
    report = check_annotations([annotation(id=str(index), new=1) for index in range(1000)])
    assert report.problems == []
    assert report.warnings[MAX_PROBLEMS - 1 :] == [
        f"[{MAX_PROBLEMS - 1}]: kept the unknown key 'new'",
        f"and {1000 - MAX_PROBLEMS} more",
    ]


def test_problems_of_one_patch_are_counted_too() -> None:
    report = check_annotation(annotation("polygon", points=[[1]] * 100))
    assert report.problems[-1] == f"and {100 - MAX_PROBLEMS} more"


@pytest.mark.parametrize("key", ["new", "description", "segments"])
@pytest.mark.parametrize("levels", [1, MAX_LEVELS])
def test_value_nested_as_deep_as_any_data_are_is_accepted(key: str, levels: int) -> None:
    assert check_annotation(annotation(**{key: nested(levels)})).problems == []


@pytest.mark.parametrize("key", ["new", "description", "segments"])
@pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 500])
def test_value_nested_too_deep_to_be_read_again_is_refused_with_its_place(
    key: str, levels: int
) -> None:
    value = annotation(**{key: nested(levels)})
    (problem,) = refused_by_put(value)
    assert problem.startswith(f"[1].{key}: nested")
    assert places(check_annotation(value)) == [key]


def test_geometry_of_an_unknown_type_nested_too_deep_is_refused_with_its_place() -> None:
    report = check_annotation({"id": "a1", "type": "sphere", "points": nested(MAX_LEVELS + 1)})
    assert places(report) == ["points"]


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"in": value}
    return value


# --- bodies that are no JSON ---

GOOD = b'{"id":"a1","type":"point","point":[1,2,3],"description":"\xc3\xa9\\n"}'

MALFORMED = [
    pytest.param(b"NaN", id="nan"),
    pytest.param(b"Infinity", id="infinity"),
    pytest.param(b"-Infinity", id="negative-infinity"),
    pytest.param(b"nan", id="nan-in-small-letters"),
    pytest.param(b"None", id="python"),
    pytest.param(b"undefined", id="undefined"),
    pytest.param(b"[1,2,]", id="comma-at-the-end-of-a-list"),
    pytest.param(b'{"a":1,}', id="comma-at-the-end-of-an-object"),
    pytest.param(b"[1 2]", id="no-comma"),
    pytest.param(b'{"a" 1}', id="no-colon"),
    pytest.param(b"{a:1}", id="key-without-quotes"),
    pytest.param(b"'a'", id="single-quotes"),
    pytest.param(b"1 // one", id="comment"),
    pytest.param(b"/* one */ 1", id="block-comment"),
    pytest.param(b"01", id="leading-zero"),
    pytest.param(b"+1", id="plus"),
    pytest.param(b".5", id="no-digit-before-the-point"),
    pytest.param(b"1.", id="no-digit-behind-the-point"),
    pytest.param(b"1e", id="no-exponent"),
    pytest.param(b"0x10", id="hexadecimal"),
    pytest.param(b"1_000", id="underscore"),
    pytest.param(b'"a\nb"', id="line-break-in-text"),
    pytest.param(b'"\x00"', id="nul-in-text"),
    pytest.param(b'"\\x41"', id="unknown-escape"),
    pytest.param(b'"\\u12"', id="short-escape"),
    pytest.param(b'"\\ud83d"', id="lone-high-surrogate"),
    pytest.param(b'"\\ud83dx"', id="lone-high-surrogate-and-a-letter"),
    pytest.param(b'"\\ude00"', id="lone-low-surrogate"),
    pytest.param(b'"\xed\xa0\xbd"', id="surrogate-in-utf8"),
    pytest.param(b'"\xff"', id="no-utf8"),
    pytest.param(b'"\xc3"', id="utf8-cut-short"),
    pytest.param(b'"\xc0\xaf"', id="utf8-longer-than-needed"),
    pytest.param(b'"\xe9"', id="latin-1"),
    pytest.param(b'{"\xe9":1}', id="latin-1-in-a-key"),
    pytest.param(b"1}", id="one-bracket-too-many"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, id="a-hundred-thousand-levels"),
    pytest.param(b"[" * 100_000, id="a-hundred-thousand-levels-left-open"),
    pytest.param(b'{"a":' * 100_000, id="a-hundred-thousand-objects-left-open"),
]


@pytest.mark.parametrize("value", MALFORMED)
def test_body_with_a_value_that_is_no_json_is_malformed(value: bytes) -> None:
    body = b'{"id":"a1","type":"point","point":[1,2,3],"new":' + value + b"}"
    with pytest.raises(BadInputError):
        checked_annotation(body, "a1")
    with pytest.raises(BadInputError):
        checked_array(b"[" + body + b"]")


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda body: b"\xef\xbb\xbf" + body, id="byte-order-mark"),
        pytest.param(lambda body: body.decode().encode("utf-16"), id="utf-16"),
        pytest.param(lambda body: body + b"x", id="letter-behind"),
        pytest.param(lambda body: body + body, id="twice"),
        pytest.param(lambda body: body + b"\x00", id="nul-behind"),
        pytest.param(lambda body: b"\x0c" + body, id="form-feed-before"),
        pytest.param(lambda body: b"\xc2\xa0" + body, id="no-break-space-before"),
        pytest.param(lambda body: b")]}',\n" + body, id="guard-against-script-tags"),
        pytest.param(lambda body: b"body=" + body, id="form"),
        pytest.param(lambda body: b"", id="empty"),
        pytest.param(lambda body: b" \r\n\t", id="blank"),
    ],
)
def test_body_with_something_around_the_json_is_malformed(wrap: Any) -> None:
    with pytest.raises(BadInputError):
        checked_annotation(wrap(GOOD), "a1")
    with pytest.raises(BadInputError):
        checked_array(wrap(b"[" + GOOD + b"]"))


def test_body_cut_short_at_any_byte_is_malformed() -> None:
    body = b"[" + GOOD + b"," + GOOD.replace(b"a1", b"a2") + b"]"
    checked_array(body)
    for length in range(len(body)):
        with pytest.raises(BadInputError):
            checked_array(body[:length])
    for length in range(len(GOOD)):
        with pytest.raises(BadInputError):
            checked_annotation(GOOD[:length], "a1")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(b"1e999", id="float"),
        pytest.param(b"-1e999", id="negative-float"),
        pytest.param(b"1" * 5000, id="thousands-of-digits"),
    ],
)
def test_number_beyond_every_range_is_refused_with_the_annotation_it_is_in(number: bytes) -> None:
    sick = b'{"id":"a2","type":"point","point":[1,2,' + number + b"]}"
    with pytest.raises(RuleBrokenError, match="out of range") as caught:
        checked_array(b"[" + GOOD + b"," + sick + b"]")
    assert "[1]" in str(caught.value)
    with pytest.raises(RuleBrokenError, match="out of range"):
        checked_annotation(sick, "a2")


def test_body_that_breaks_rules_is_refused_with_every_problem() -> None:
    with pytest.raises(RuleBrokenError) as caught:
        checked_array(b'[{"id":"a","type":"point"},{"id":"a"}]')
    assert len(caught.value.problems) == 2
    for problem in caught.value.problems:
        assert problem in str(caught.value)


def test_body_escapes_of_surrogate_pairs_are_accepted() -> None:
    body = rb'{"id":"a1","type":"point","point":[1,2,3],"description":"\ud83e\udde0"}'
    assert checked_annotation(body, "a1") == (body, [])


# --- the id of a PATCH ---


def test_patch_body_is_kept_as_sent_but_for_white_space_around_it() -> None:
    body = b'\r\n\t { "point" : [1e0, 2.50, 3] ,\n "id":"a\\u0031", "type":"point"} \n'
    assert checked_annotation(body, "a1") == (body.strip(), [])


@pytest.mark.parametrize(
    ("body", "content"),
    [
        pytest.param(b"{}", b'{"id":"a1"}', id="empty"),
        pytest.param(b"{ }", b'{"id":"a1" }', id="blank"),
        pytest.param(b' {"type":"x"} ', b'{"id":"a1","type":"x"}', id="compact"),
        pytest.param(b'{\n "n": 1e3\n}', b'{"id":"a1",\n "n": 1e3\n}', id="indented"),
        pytest.param(b'{"in":{"id":"b"}}', b'{"id":"a1","in":{"id":"b"}}', id="id-further-in"),
    ],
)
def test_patch_body_without_an_id_gets_the_one_of_the_url(body: bytes, content: bytes) -> None:
    assert checked_annotation(body, "a1")[0] == content


@pytest.mark.parametrize(
    "id_",
    ['"quoted"', "back\\slash", "line\nbreak", "\u795e\u7d4c", "\N{BRAIN}", "\x00", "</script>"],
    ids=ascii,
)
def test_patch_body_without_an_id_gets_any_id_as_valid_json(id_: str) -> None:
    content, _ = checked_annotation(b'{"type":"point","point":[1,2,3]}', id_)
    assert json.loads(content) == {"id": id_, "type": "point", "point": [1, 2, 3]}


def test_patch_body_with_another_id_than_the_url_is_bad_input() -> None:
    with pytest.raises(BadInputError, match=r"'b'.*'a1'"):
        checked_annotation(b'{"id":"b"}', "a1")


def test_patch_body_with_its_id_twice_has_the_last_one_as_every_json_reader_says() -> None:
    assert checked_annotation(b'{"id":"b","id":"a1"}', "a1")[0] == b'{"id":"b","id":"a1"}'
    with pytest.raises(BadInputError):
        checked_annotation(b'{"id":"a1","id":"b"}', "a1")


@pytest.mark.parametrize("id_", [b'""', b"null", b"5", b"[]"], ids=bytes.decode)
def test_patch_body_with_an_id_that_is_no_text_breaks_a_rule(id_: bytes) -> None:
    with pytest.raises(RuleBrokenError, match=r"^id: expected a non-empty string"):
        checked_annotation(b'{"id":' + id_ + b"}", "a1")
