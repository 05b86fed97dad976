"""JSON arrays as bytes, split into their items; large ones a piece at a time.

An array of hundreds of megabytes may have tens of millions of items, each of which takes dozens of
bytes once it is an object. So only those of one piece are objects at a time.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from random import randrange
from typing import TypeVar

import msgspec

T = TypeVar("T")

PIECE_BYTES = 2**18

SPACE = b" \t\r\n"
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_split = msgspec.json.Decoder(list[msgspec.Raw])
_whole = msgspec.json.Decoder(msgspec.Raw)
_OPENING = re.compile(rb"[ \t\r\n]*\[")
_EMPTY = re.compile(rb"[ \t\r\n]*\[[ \t\r\n]*\]")
_AFTER_OBJECT = re.compile(rb"\}[ \t\r\n]*,")


class NotAnArrayError(ValueError):
    """The content is not a JSON array; the message says why."""


def split_items(content: bytes) -> list[msgspec.Raw]:
    """Split a JSON array into the bytes of its items.

    Raises:
        NotAnArrayError: The content is not a JSON array.
    """
    try:
        return _split.decode(content)
    except MALFORMED as error:
        raise _not_an_array(error) from error


def split_in_pieces(content: bytes) -> Iterator[list[msgspec.Raw]]:
    """Split a JSON array into the bytes of its items, those of one piece at a time.

    Raises:
        NotAnArrayError: The content is not a JSON array; raised before the first piece.
    """
    opening = _OPENING.match(content)
    if opening is None or len(content) <= PIECE_BYTES:
        yield split_items(content)
        return
    try:
        _whole.decode(content)  # says where a mistake is, and takes no memory
    except MALFORMED as error:
        raise _not_an_array(error) from error
    yield from split_range(content, opening.end(), content.rindex(b"]"))


def split_range(content: bytes, start: int, stop: int) -> Iterator[list[msgspec.Raw]]:
    """Split items with commas between them, a piece at a time.

    A piece ends before a comma. Whether that is one between two items shows when the piece is
    decoded: only there, no string, array or object is open.

    Args:
        content: Bytes that contain the items.
        start: Offset of the first item.
        stop: Offset after the last item.

    Raises:
        NotAnArrayError: These are no such items.
    """
    at = start
    while at < stop:
        items, at = _next_piece(content, at, stop, _split.decode)
        yield items


def decode_in_pieces(
    content: bytes, decode: Callable[[bytes], list[T]], piece_bytes: int = PIECE_BYTES
) -> Iterator[list[T]]:
    """Decode the items of a JSON array, those of one piece at a time.

    Args:
        content: The array.
        decode: Decodes an array; raises one of `MALFORMED` if it is none.
        piece_bytes: Size of a piece.

    Raises:
        NotAnArrayError: The content is not a JSON array; some of its items may have been yielded.
    """
    opening, stop = _OPENING.match(content), content.rfind(b"]")
    if opening is None or len(content) <= piece_bytes or content[stop + 1 :].strip(SPACE):
        try:
            yield decode(content)
        except MALFORMED as error:
            raise _not_an_array(error) from error
        return
    at, is_first = opening.end(), True
    while at <= stop:
        try:
            items, at = _next_piece(content, at, stop, decode, piece_bytes)
        except NotAnArrayError:
            split_items(content)  # says where the mistake is in the whole
            raise
        if not items and not (is_first and at > stop):
            split_items(content)
            raise NotAnArrayError("expected a JSON array of annotations, found a comma too many")
        yield items
        is_first = False


def _next_piece(
    content: bytes,
    at: int,
    stop: int,
    decode: Callable[[bytes], list[T]],
    size: int = PIECE_BYTES,
) -> tuple[list[T], int]:
    """Return the items of a piece, and the offset after the comma that follows it."""
    while True:
        for until in _likely_ends(content, at, size, stop):
            try:
                return decode(b"[" + content[at:until] + b"]"), until + 1
            except MALFORMED as error:
                if until == stop:
                    raise _not_an_array(error) from error
        size *= 2


def _likely_ends(content: bytes, at: int, size: int, stop: int) -> Iterator[int]:
    """Iterate over offsets of commas, about `size` bytes ahead, and the end if it is near."""
    if at + size >= stop:
        yield stop
        return
    after_object = _AFTER_OBJECT.search(content, at + size, min(at + 2 * size, stop))
    if after_object is not None:
        yield after_object.end() - 1
    # Whoever puts commas into strings does not know where this looks.
    for probe in (at + size, *(at + randrange(size // 2, size) for _ in range(3))):
        comma = content.find(b",", probe, min(at + 2 * size, stop))
        if comma > 0:
            yield comma


def is_empty_array(content: bytes) -> bool:
    """Return whether valid JSON is an array without items."""
    return _EMPTY.match(content) is not None


def check_utf8(content: bytes) -> None:
    """Check that bytes are text in UTF-8, without making a copy of them.

    Raises:
        UnicodeDecodeError: They are not.
    """
    if content.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(content), PIECE_BYTES):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(content[at : at + PIECE_BYTES], at + PIECE_BYTES >= len(content))
        except UnicodeDecodeError as error:
            shift = at - pending
            raise UnicodeDecodeError(
                error.encoding, content, error.start + shift, error.end + shift, error.reason
            ) from None


def decoded_pieces(content: bytes) -> Iterator[str]:
    """Iterate over text in UTF-8, a piece at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(content), PIECE_BYTES):
        yield decoder.decode(content[at : at + PIECE_BYTES], at + PIECE_BYTES >= len(content))


def joined_blocks(first: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join the pieces of lines: a line that is not large is written at once."""
    block, size = [first], len(first)
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)


def _not_an_array(error: Exception) -> NotAnArrayError:
    return NotAnArrayError(f"expected a JSON array of annotations, found a mistake: {error}")
