"""Validation of annotations before they are written.

The rules are those of the viewer's own loader: what it rejects is refused, what it ignores is
kept. Every problem starts with its location, for example ``[17].points[3]: expected 3 numbers``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from neurotrale.annotations.document import SPACE
from neurotrale.errors import BadInputError, RuleBrokenError

MAX_PROBLEMS = 20
# Far below the limit of the JSON decoder: the file must stay readable with the annotation in it.
MAX_LEVELS = 100

# type -> fields that hold one point, fields that hold a list of points
GEOMETRY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "point": (("point",), ()),
    "line": (("pointA", "pointB"), ()),
    "axis_aligned_bounding_box": (("pointA", "pointB"), ()),
    "ellipsoid": (("center", "radii"), ()),
    "linestring": ((), ("points",)),
    "polygon": ((), ("points",)),
}
NOT_NULL = ("type", "description", "reviewed", "visited", "length", "segments", "anntype")
KNOWN_KEYS = frozenset(
    {"id", *NOT_NULL} | {key for pair in GEOMETRY.values() for keys in pair for key in keys}
)


@dataclass(slots=True)
class Report:
    """The result of a check: problems, which make the body invalid, and warnings."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_annotations(annotations: object) -> Report:
    """Check the body of a PUT: an array of annotations, each with a unique id."""
    report = Report()
    if not isinstance(annotations, list):
        report.problems.append(
            f"the body: expected an array of annotations, found {_kind(annotations)}"
        )
        return report
    seen: dict[str, int] = {}
    warn = _Capped(report.warnings)
    problem = _Capped(report.problems)
    for index, annotation in enumerate(annotations):
        where = f"[{index}]"
        _check(annotation, where, problem, warn, nulls=True)
        id_ = annotation.get("id") if isinstance(annotation, dict) else None
        if isinstance(id_, str) and id_:
            first = seen.setdefault(id_, index)
            if first != index:
                problem(f"{where}.id: expected a unique id, found {id_!r}, as in [{first}]")
    warn.close()
    problem.close()
    return report


def check_each(annotations: Iterable[object]) -> Report:
    """Check every annotation of a file by all rules except that ids are unique.

    Args:
        annotations: The annotations; consumed one by one, so they need not all be in memory.
    """
    report = Report()
    problem, warn = _Capped(report.problems), _Capped(report.warnings)
    for index, annotation in enumerate(annotations):
        _check(annotation, f"[{index}]", problem, warn, nulls=True)
    warn.close()
    problem.close()
    return report


def check_annotation(annotation: object) -> Report:
    """Check the body of a PATCH: one annotation, with its id filled in."""
    report = Report()
    problem, warn = _Capped(report.problems), _Capped(report.warnings)
    _check(annotation, "", problem, warn, nulls=False)
    warn.close()
    problem.close()
    return report


AddSentence = Callable[[str], None]


class _Capped:
    """Collects the first sentences in a list and counts the rest."""

    def __init__(self, into: list[str]) -> None:
        self.into = into
        self.more = 0

    def __call__(self, sentence: str) -> None:
        if len(self.into) < MAX_PROBLEMS:
            self.into.append(sentence)
        else:
            self.more += 1

    def close(self) -> None:
        if self.more:
            self.into.append(f"and {self.more} more")


def _check(
    annotation: object, where: str, problem: AddSentence, warn: AddSentence, *, nulls: bool
) -> None:
    if not isinstance(annotation, dict):
        problem(
            f"{where or 'the body'}: expected an annotation (an object), found {_kind(annotation)}"
        )
        return
    dot = f"{where}." if where else ""
    id_ = annotation.get("id")
    if not isinstance(id_, str) or not id_:
        problem(f"{dot}id: expected a non-empty string, found {_kind(id_, 'id' in annotation)}")
    for key in NOT_NULL:
        if key in annotation and annotation[key] is None:
            problem(f"{dot}{key}: null is not allowed; leave the key out instead")
    unknown = annotation.keys() - KNOWN_KEYS
    if unknown:
        warn(
            f"{where or 'the annotation'}: kept the unknown key"
            f"{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, sorted(unknown)))}"
        )
    _check_geometry(annotation, where, dot, problem, warn, nulls=nulls)
    _check_levels(annotation, dot, problem)


def _check_geometry(
    annotation: dict[str, Any],
    where: str,
    dot: str,
    problem: AddSentence,
    warn: AddSentence,
    *,
    nulls: bool,
) -> None:
    kind = annotation.get("type")
    if kind is None:
        if "type" not in annotation:
            warn(f"{where or 'the annotation'}: has no type, viewers will not show it")
        return
    if not isinstance(kind, str):
        problem(f"{dot}type: expected a string, found {_kind(kind)}")
        return
    if kind.lower() not in GEOMETRY:
        warn(f"{dot}type: kept the unknown type {kind!r}, viewers may not show it")
        return
    single, several = GEOMETRY[kind.lower()]
    missing = [key for key in single + several if key not in annotation]
    for key in missing:
        problem(f"{dot}{key}: a {kind.lower()} needs it, and it is missing")
    for key in single:
        if key in annotation:
            _check_point(annotation[key], f"{dot}{key}", problem, warn, nulls)
    for key in several:
        if key in annotation:
            points = annotation[key]
            if not isinstance(points, list):
                problem(f"{dot}{key}: expected a list of points, found {_kind(points)}")
                continue
            for i, point in enumerate(points):
                _check_point(point, f"{dot}{key}[{i}]", problem, warn, nulls)


def _check_point(
    point: object, where: str, problem: AddSentence, warn: AddSentence, nulls: bool
) -> None:
    numbers = list(_coordinates(point))
    if len(numbers) != 3:
        problem(f"{where}: expected 3 numbers")
        return
    null = False
    for number in numbers:
        if number.__class__ is float or number.__class__ is int:
            continue
        if number is not None or not nulls:
            problem(f"{where}: expected 3 numbers, found {_kind(number)}")
            return
        null = True
    if null:
        warn(f"{where}: kept a coordinate that is null (not a number in the viewer)")


def _coordinates(point: object) -> Iterator[object]:
    """Iterate over the coordinates of a vertex; older viewers wrote vertices as objects."""
    if isinstance(point, list):
        yield from point
    elif isinstance(point, dict) and point.keys() == {"0", "1", "2"}:
        yield from (point["0"], point["1"], point["2"])


def _check_levels(annotation: dict[str, Any], dot: str, problem: AddSentence) -> None:
    kind = annotation.get("type")
    known = GEOMETRY.get(kind.lower()) if isinstance(kind, str) else None
    flat = known[0] + known[1] if known else ()  # the rules for points rule out deeper levels
    for key, value in annotation.items():
        if key not in flat and isinstance(value, (list, dict)) and _levels(value) > MAX_LEVELS:
            problem(f"{dot}{key}: nested more than {MAX_LEVELS} levels deep")


def _levels(value: object) -> int:
    level, count = [value], -1
    while level and count <= MAX_LEVELS:
        level = [child for item in level for child in _children(item)]
        count += 1
    return count


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _kind(value: object, present: bool = True) -> str:
    if not present:
        return "nothing"
    if value is None:
        return "null"
    names: dict[type, str] = {
        bool: "a boolean", int: "a number", float: "a number", str: "a string",
        list: "an array", dict: "an object",
    }  # fmt: skip
    if value == "":
        return "an empty string"
    return names[type(value)]


_decode = msgspec.json.Decoder()


def checked_array(body: bytes) -> list[str]:
    """Check the body of a PUT.

    Returns:
        Warnings: what is kept although viewers may not understand it.

    Raises:
        BadInputError: The body is not UTF-8 JSON.
        RuleBrokenError: The body breaks a rule.
    """
    report = check_annotations(_json(body))
    if report.problems:
        raise RuleBrokenError(report.problems)
    return report.warnings


def checked_annotation(body: bytes, id_: str) -> tuple[bytes, list[str]]:
    """Check the body of a PATCH, and fill in the id if it has none.

    Returns:
        The annotation's bytes, as sent except for the id; and warnings.

    Raises:
        BadInputError: The body is not UTF-8 JSON, or its id differs from the one in the URL.
        RuleBrokenError: The body breaks a rule.
    """
    annotation = _json(body)
    content = body.strip(SPACE)
    if isinstance(annotation, dict):
        if "id" not in annotation:
            comma = b"," if annotation else b""
            content = b'{"id":' + json.dumps(id_).encode() + comma + content[1:]
            annotation["id"] = id_
        elif isinstance(annotation["id"], str) and annotation["id"] not in ("", id_):
            raise BadInputError(
                f"The annotation's id {annotation['id']!r} is not the id in the URL, {id_!r}."
                " Send the same one, or leave it out of the body."
            )
    report = check_annotation(annotation)
    if report.problems:
        raise RuleBrokenError(report.problems)
    return content, report.warnings


def _json(body: bytes) -> object:
    if not body.strip():
        raise BadInputError("The body is empty; expected JSON.")
    try:
        body.decode()  # the decoder does not check strings that it skips when it splits an array
        return _decode.decode(body)
    except msgspec.ValidationError as error:
        raise RuleBrokenError([str(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"The body is not valid JSON in UTF-8: {error}") from error
