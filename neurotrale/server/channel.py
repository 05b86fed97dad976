"""waitress, with what this service needs besides.

A line in the access log for every request; errors as JSON; bodies that are not copied; an answer
at once, 503, when more is asked than can be done.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error

from neurotrale.problems import problem
from neurotrale.server.access import log_task
from neurotrale.server.buffers import BytesBuffer, FileBuffer
from neurotrale.server.crew import Crew
from neurotrale.tokens.hiding import hide_tokens

UNCOPIED_BYTES = 2**15
FILE_READERS = 4
RETRY_AFTER_S = "1"


class Overloaded(Error):  # type: ignore[misc]  # noqa: N818 - waitress's errors are no exceptions
    """More requests wait than the service takes."""

    code = 503
    reason = "Service Unavailable"


class LoggedTask(WSGITask):  # type: ignore[misc]
    """Answers a request through the application and logs it."""

    written = 0
    wrote_header: bool

    def write(self, data: bytes | bytearray) -> None:
        """Send a part of the body; waitress counts only those whose length was announced."""
        self.written += len(data)
        is_whole = not self.wrote_header and len(data) == self.content_length and self.has_body
        if is_whole and self.complete and len(data) >= UNCOPIED_BYTES:
            header = self.build_response_header()
            self.wrote_header = True
            self.content_bytes_written = len(data)
            self.channel.write_whole(header, data)
        else:
            super().write(data)

    def build_response_header(self) -> bytes:
        """Ask the client to close the connection when this worker stops: it answers no more."""
        if self.channel.server.stopping:
            self.set_close_on_finish()
        header: bytes = super().build_response_header()
        return header

    def service(self) -> None:
        """Answer, then log; a client that went away is no error."""
        try:
            super().service()
        except BaseException:  # waitress logs it, with the path
            self.request.path = hide_tokens(self.request.path)
            raise
        finally:
            if self.channel.connected:
                log_task(self)


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what never reaches the application: malformed HTTP, bodies that are too large."""

    def execute(self) -> None:
        """Send the error in the JSON shape that the application's errors have."""
        error = self.request.error
        # waitress quotes lines of the request, which may hold a token.
        body = problem(error.reason, str(error.body).partition(' "')[0])
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Access-Control-Allow-Origin", "*"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if isinstance(error, Overloaded):
            self.response_headers.append(("Retry-After", RETRY_AFTER_S))
        else:
            self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)

    def service(self) -> None:
        """Answer, then log."""
        try:
            super().service()
        finally:
            log_task(self)


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Parses requests; a URL that cannot be split is a bad request like any other."""

    def received(self, data: bytes) -> int:
        """Take in data; a request that is refused is not asked for its body."""
        consumed: int = super().received(data)
        if self.error is not None:
            self.expect_continue = False
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # of urlsplit, for example on http://[
            raise ParsingError("Bad URI") from error


class Dispatcher:
    """Hands requests to the crew; those that would wait too long get 503 at once.

    Args:
        crew: Answers them.
        queue: How many requests may wait.
    """

    def __init__(self, crew: Crew, queue: int) -> None:
        self._crew = crew
        self._most_waiting = queue

    def add_task(self, task: Any) -> None:
        """Take a channel whose next request is complete."""
        request = task.requests[0]
        if self._crew.waiting >= self._most_waiting and request.error is None:
            request.error = Overloaded(
                "More is asked of this service than it can do right now. Ask again in a moment."
            )
        self._crew.add(task, at_once=request.error is not None)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose requests are logged and whose errors are JSON."""

    task_class = LoggedTask
    error_task_class = JsonErrorTask
    parser_class = Parser
    readers = ThreadPoolExecutor(FILE_READERS, "file-reader")

    def writable(self) -> bool:
        """Tell whether there is something to send; not while its file is still being read."""
        if getattr(self.outbufs[0], "waiting", False) and not self.will_close:
            return False
        return bool(super().writable())

    def _wake(self) -> None:
        with suppress(OSError):  # the worker may have stopped in the meantime
            self.server.pull_trigger()

    def write_soon(self, data: Any) -> int:
        """Send data, or keep it to be sent; large bodies are not copied for that."""
        buffer: BytesBuffer | FileBuffer
        if isinstance(data, ReadOnlyFileBasedBuffer):
            buffer = FileBuffer(data.file, data.remain, self.readers, self._wake)
        elif isinstance(data, (bytes, bytearray, memoryview)) and len(data) >= UNCOPIED_BYTES:
            buffer = BytesBuffer(data)
        else:
            written: int = super().write_soon(data)
            return written
        with self.outbuf_lock:
            self._flush_outbufs_below_high_watermark()
            if not self.connected:
                buffer.close()
                raise ClientDisconnected
            size = len(buffer)
            self._keep(buffer)
            flushed, failed = self._flush_exception(self._flush_some, do_close=False)
            if failed or not flushed or self.total_outbufs_len:
                self.server.pull_trigger()
        return size

    def write_whole(self, header: bytes, body: bytes | bytearray) -> None:
        """Send an answer at one stroke, as far as the connection takes it now."""
        with self.outbuf_lock:
            if not self.connected:
                raise ClientDisconnected
            sent = 0
            if not self.total_outbufs_len:
                try:
                    sent = self.socket.sendmsg([header, body])
                except BlockingIOError:
                    pass
                except OSError:  # the client went away; whoever watches closes the connection
                    self.will_close = True
                    self.server.pull_trigger()
                    raise ClientDisconnected from None
                self.last_activity = time.time()
            for piece in (header, body):
                if sent < len(piece):
                    self._keep(BytesBuffer(piece, sent))
                sent = max(0, sent - len(piece))
            if self.total_outbufs_len:
                self.server.pull_trigger()

    def _keep(self, buffer: BytesBuffer | FileBuffer) -> None:
        """Append what is left to send; behind it waitress wants a buffer that it can write to."""
        self.outbufs += [buffer, OverflowableBuffer(self.adj.outbuf_overflow)]
        self.current_outbuf_count = 0
        self.total_outbufs_len += len(buffer)
