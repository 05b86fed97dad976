"""What clients send: decoded strictly, checked against the rules, an id filled in."""

from __future__ import annotations

import json

import msgspec

from neurotrale.annotations.check import check_annotation, check_annotations
from neurotrale.annotations.document import SPACE
from neurotrale.errors import BadInputError, RuleBrokenError

_decode = msgspec.json.Decoder()


def checked_array(body: bytes) -> list[str]:
    """Check the body of a PUT.

    Returns:
        Warnings: what was kept although viewers may not understand it.

    Raises:
        BadInputError: It is not UTF-8 JSON.
        RuleBrokenError: It breaks a rule of `neurotrale.annotations.check`.
    """
    report = check_annotations(_json(body))
    if report.problems:
        raise RuleBrokenError(report.problems)
    return report.warnings


def checked_annotation(body: bytes, id_: str) -> tuple[bytes, list[str]]:
    """Check the body of a PATCH and fill in its id when it has none.

    Returns:
        The annotation's bytes, as sent but for the id; and warnings.

    Raises:
        BadInputError: It is not UTF-8 JSON, or has another id than the one asked for.
        RuleBrokenError: It breaks a rule of `neurotrale.annotations.check`.
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
        body.decode()  # keys and strings that are skipped while splitting are not checked there
        return _decode.decode(body)
    except msgspec.ValidationError as error:
        raise RuleBrokenError([str(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"The body is not valid JSON in UTF-8: {error}") from error
