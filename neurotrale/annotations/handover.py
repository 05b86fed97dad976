"""Hands writes to the process that makes all changes, and takes the results back.

A request or result is a header in MessagePack, followed by the body. Errors travel by the name of
their class in `neurotrale.errors` with the arguments they were made with.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from struct import Struct
from typing import Any, Protocol

import msgspec

from neurotrale import errors
from neurotrale.annotations.journals.changes import WriteContext
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import FileWriter
from neurotrale.errors import BusyError, raise_write_error
from neurotrale.metrics import count_parked

log = logging.getLogger(__name__)

Piece = bytes | memoryview

_LENGTH = Struct("<I")
_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_requests = msgspec.msgpack.Decoder(
    WriteRequest, dec_hook=lambda kind, value: kind(value)
)  # Path is the one type that is not built in

# Writes of one file that are larger are not made together.
MOST_TOGETHER_BYTES = 2**24

# How long a client whose write was not taken should wait.
RETRY_AFTER_S = 1

ARRIVED_NS = "neurotrale.arrived_ns"
"""Key of the WSGI environment for the time at which the request arrived, as `time.time_ns`."""

PARKING = "neurotrale.parking"
"""Key of the WSGI environment for a `Parking`, where the server can park requests."""


class ParkedError(Exception):
    """The request is parked: it is answered later, when its write has a result."""


@dataclass
class Parking:
    """Where a request waits for a result without holding a thread.

    The application leaves the result to come here, and answers anything. The server drops that
    answer, and calls the application again with the same request when the result is there.

    Attributes:
        result: The result that the request waits for; None before it was parked.
        is_parked: Whether the answer that the application makes now is to be dropped.
        on_broken: Called if the connection breaks before the answer is sent.
    """

    result: Future[memoryview | None] | None = None
    is_parked: bool = False
    on_broken: Callable[[], None] | None = None


class _Notice(msgspec.Struct, frozen=True):
    """What a client was sent; see `Views.saw`."""

    viewer: Viewer
    file: str
    etag: str
    arrived_ns: int


class _Failure(msgspec.Struct, frozen=True):
    """An error as it travels."""

    name: str
    arguments: list[str | int | list[str]]


class _Result(msgspec.Struct, frozen=True):
    """A result: one of the two is there."""

    written: Written | None = None
    failure: _Failure | None = None


_results = msgspec.msgpack.Decoder(_Result)
_notices = msgspec.msgpack.Decoder(_Notice)


class Link(Protocol):
    """The way to the process that makes all changes."""

    @property
    def waiting_bytes(self) -> int:
        """The size of all messages that are not answered yet."""

    def notify(self, pieces: Sequence[Piece]) -> None:
        """Send a short message that nobody answers, unless that would have to wait."""

    def submit(self, pieces: Sequence[Piece]) -> Future[memoryview | None]:
        """Send a message; the answer is None when too many writes of the same file wait."""


class RemoteWriter:
    """Has writes made by another process.

    Args:
        link: The way there.
        most_waiting_bytes: While messages of more than this size wait, no more are sent.
    """

    def __init__(self, link: Link, most_waiting_bytes: int) -> None:
        self._link = link
        self._most_waiting_bytes = most_waiting_bytes

    def saw(self, viewer: Viewer, file: str, etag: str, arrived_ns: int) -> None:
        """Tell what a client was sent; see `Views.saw`."""
        self._link.notify([_encoder.encode(_Notice(viewer, file, etag, arrived_ns))])

    def resumed(self, context: WriteContext) -> Written | None:
        """Return the result of a request that was parked; None for one that is new.

        Raises:
            ChangedError, MissingError, ...: What the write raised; see `FileWriter.write`.
        """
        parking = context.parking
        if parking is None or parking.result is None:
            return None
        return _written(parking.result)

    def write(self, request: WriteRequest) -> Written:
        """Have a write made; see `FileWriter.write`.

        Raises:
            ParkedError: The server answers the request again when the result is there.
            BusyError: Too many writes wait.
        """
        resumed = self.resumed(request.context)
        if resumed is not None:
            return resumed
        if self._link.waiting_bytes + len(request.body) > self._most_waiting_bytes:
            path = request.file.display_path
            who = request.context.author.name
            log.error("edit refused: %s, by %s: more writes wait than fit into memory", path, who)
            raise BusyError(f"{path}: more writes wait than fit into memory.", RETRY_AFTER_S)
        message = encode_request(replace(request, intent=uuid.uuid4().hex))
        try:
            result = self._link.submit(message)
        except OSError as error:  # a large body goes through memory that may not be to be had
            raise_write_error(error, request.file.display_path)
        parking = request.context.parking
        if parking is None:
            return _written(result)
        parking.result, parking.is_parked = result, True
        count_parked(1)
        result.add_done_callback(lambda _: count_parked(-1))
        raise ParkedError


def _written(result: Future[memoryview | None]) -> Written:
    message = result.result()
    if message is None:
        raise BusyError(
            "Too many writes of this file wait (the option --queue). Nothing was changed; send this"
            " one again in a moment.",
            RETRY_AFTER_S,
        )
    decoded = _results.decode(message)
    if decoded.written is not None:
        return decoded.written
    failure = decoded.failure
    assert failure is not None
    kind = getattr(errors, failure.name, None)
    if kind is None:  # the writer has logged it
        raise RuntimeError(f"the writer failed with {failure.name}")
    raise kind(*failure.arguments)


def encode_request(request: WriteRequest) -> list[Piece]:
    """Return a request as a message."""
    context = replace(request.context, parking=None)
    header = _encoder.encode(replace(request, body=b"", context=context))
    return [_LENGTH.pack(len(header)), header, request.body]


def decode_request(message: memoryview, *, is_repeated: bool) -> WriteRequest:
    """Return the request of a message."""
    request, stop = _header_of(message)
    return replace(request, body=bytes(message[stop:]), is_repeated=is_repeated)


def address_of(message: memoryview) -> tuple[Hashable, bool]:
    """Return the file of a message, and whether it waits however many others wait for that file.

    Those of viewers do: a viewer does not send again what was refused, and the edit is lost.
    """
    request, _ = _header_of(message)
    return request.file.path, request.context.is_viewer


def _header_of(message: memoryview) -> tuple[WriteRequest, int]:
    start = _LENGTH.size
    stop = start + _LENGTH.unpack(message[:start])[0]
    return _requests.decode(message[start:stop]), stop


class Job(Protocol):
    """A message that waits for an answer."""

    @property
    def body(self) -> memoryview:
        """The message."""

    @property
    def is_repeated(self) -> bool:
        """Whether it may have been worked on before."""

    @property
    def is_wanted(self) -> Callable[[], bool]:
        """Returns whether its sender is still there."""

    @property
    def answer(self) -> Callable[[Sequence[Piece]], None]:
        """Sends the answer."""


@dataclass(frozen=True, slots=True)
class WriteJobs:
    """Makes the writes of messages, those of one file together.

    Args:
        writer: Makes them.
    """

    writer: FileWriter

    def note(self, message: memoryview) -> None:
        """Take a message that nobody waits for."""
        notice = _notices.decode(message)
        self.writer.saw(notice.viewer, notice.file, notice.etag, notice.arrived_ns)

    def work(self, file: Hashable, jobs: Sequence[Job]) -> None:
        """Make the writes of one file, and answer each message."""
        for together in _in_batches(jobs):
            self._work(file, together)

    def _work(self, file: Hashable, jobs: Sequence[Job]) -> None:
        results: Sequence[Written | Exception]
        try:
            requests = [decode_request(job.body, is_repeated=job.is_repeated) for job in jobs]
            for job in jobs:
                job.body.release()  # a large one is mapped, and was copied
            results = self.writer.write_together(requests, [job.is_wanted for job in jobs])
        except Exception as error:
            if not _is_ours(error):
                log.exception("writes of %s failed", file)
            results = [error] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            job.answer([_encoder.encode(_result_of(result))])


def _in_batches(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Divide jobs, so that large ones do not have to be in memory together."""
    first = size = 0
    for number, job in enumerate(jobs):
        size += len(job.body)
        if size > MOST_TOGETHER_BYTES and number > first:
            yield jobs[first:number]
            first, size = number, len(job.body)
    yield jobs[first:]


def _result_of(result: Written | Exception) -> _Result:
    if isinstance(result, Written):
        return _Result(written=result)
    if not _is_ours(result):
        return _Result(failure=_Failure(type(result).__name__, []))
    arguments: Sequence[Any] = result.args
    if isinstance(result, errors.RuleBrokenError):
        arguments = [list(result.problems)]
    elif isinstance(result, errors.DamagedError):
        arguments = [result.display_path, result.reason]
    elif isinstance(result, errors.IrregularFileError):
        arguments = [result.path, result.expected, result.found]
    elif isinstance(result, errors.BusyError):
        arguments = [str(result), result.retry_after_s]
    return _Result(failure=_Failure(type(result).__name__, list(arguments)))


def _is_ours(error: Exception) -> bool:
    return type(error).__module__ == errors.__name__
