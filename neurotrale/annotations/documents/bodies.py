"""The bodies of writes: checked before anything is changed, without taking much memory."""

from __future__ import annotations

import json

import msgspec

from neurotrale.annotations.documents.flawless import FlawlessAnnotations
from neurotrale.annotations.documents.pieces import (
    MALFORMED,
    SPACE,
    NotAnArrayError,
    check_utf8,
    split_in_pieces,
)
from neurotrale.annotations.documents.validation import ArrayCheck, check_annotation, kind_of
from neurotrale.errors import BadInputError, RuleBrokenError

_flawless = FlawlessAnnotations()
_decode = msgspec.json.Decoder()
_syntax = msgspec.json.Decoder(msgspec.Raw)
# First byte of a value -> one of its kind; others are numbers.
_SAMPLES: dict[bytes, object] = {b"{": {}, b'"': "text", b"t": True, b"f": False, b"n": None}


def checked_array(body: bytes, *, nulls: bool = True) -> list[str]:
    """Check the body of a PUT, or of a PATCH of several, one annotation at a time.

    Args:
        body: The body.
        nulls: Whether coordinates may be null, as a viewer writes NaN.

    Returns:
        Warnings: what is kept although viewers may not understand it.

    Raises:
        BadInputError: The body is not UTF-8 JSON.
        RuleBrokenError: The body breaks a rule.
    """
    _check_text(body)
    _check_is_array(body)
    check = ArrayCheck(nulls=nulls)
    try:
        for items in split_in_pieces(body):
            for item in items:
                id_ = _flawless.id_of(item)
                if id_ is None:
                    check.add(_decode.decode(item))
                else:
                    check.add_flawless(id_)
            if check.is_hopeless:
                break
    except NotAnArrayError as error:
        raise _malformed(error.__cause__) from error
    except MALFORMED as error:
        raise _malformed(error, f"[{check.count}]: ") from error
    report = check.close()
    if report.problems:
        raise RuleBrokenError(report.problems)
    return report.warnings


def begins_array(body: bytes) -> bool:
    """Return whether a body begins like an array."""
    return _start_of(body) == b"["


def _start_of(body: bytes) -> bytes:
    return next((body[at : at + 1] for at in range(len(body)) if body[at] not in SPACE), b"")


def _check_is_array(body: bytes) -> None:
    start = _start_of(body)
    if start == b"[":
        return
    try:
        _syntax.decode(body)
    except MALFORMED as error:
        raise _malformed(error) from error
    found = kind_of(_SAMPLES.get(start, 0))
    raise RuleBrokenError([f"the body: expected an array of annotations, found {found}"])


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
    _check_text(body)
    try:
        return _decode.decode(body)
    except MALFORMED as error:
        raise _malformed(error) from error


def _check_text(body: bytes) -> None:
    if not body or body.isspace():
        raise BadInputError("The body is empty; expected JSON.")
    try:
        check_utf8(body)  # the decoder does not check strings that it skips when it splits an array
    except UnicodeDecodeError as error:
        raise _malformed(error) from error


def _malformed(error: BaseException | None, where: str = "") -> Exception:
    if isinstance(error, msgspec.ValidationError):
        return RuleBrokenError([f"{where}{error}"])
    return BadInputError(f"The body is not valid JSON in UTF-8: {where}{error}")
