"""waitress, with what this service needs besides.

A line in the access log for every request; errors as JSON; bodies that are not copied; an answer
at once, 503, when more is asked than can be done.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error

from neurotrale.problems import problem
from neurotrale.server.access import log_task
from neurotrale.server.buffers import BytesBuffer, FileBuffer
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

    def write(self, data: bytes) -> None:
        """Send a part of the body; waitress counts only those whose length was announced."""
        self.written += len(data)
        super().write(data)

    def build_response_header(self) -> bytes:
        """Ask the client to close the connection when this worker stops: it answers no more."""
        if not self.channel.server.accepting:
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


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Hands requests to threads; those that would wait too long get 503 at once.

    Args:
        queue: How many requests may wait for a thread.
    """

    def __init__(self, queue: int) -> None:
        super().__init__()
        self._most_waiting = queue
        # Errors are only written, which takes no time; one thread of their own does it.
        self._errors = ThreadPoolExecutor(1, "errors")

    def add_task(self, task: Any) -> None:
        """Take a channel whose next request is complete."""
        if len(self.queue) >= self._most_waiting and task.requests[0].error is None:
            task.requests[0].error = Overloaded(
                "More is asked of this service than it can do right now. Ask again in a moment."
            )
        if task.requests[0].error is not None:
            self._errors.submit(task.service)
        else:
            super().add_task(task)


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
        elif isinstance(data, (bytes, memoryview)) and len(data) >= UNCOPIED_BYTES:
            buffer = BytesBuffer(data)
        else:
            written: int = super().write_soon(data)
            return written
        with self.outbuf_lock:
            self._flush_outbufs_below_high_watermark()
            if not self.connected:
                buffer.close()
                raise ClientDisconnected
            self.outbufs += [buffer, OverflowableBuffer(self.adj.outbuf_overflow)]
            self.current_outbuf_count = 0
            size = len(buffer)
            self.total_outbufs_len += size
            flushed, failed = self._flush_exception(self._flush_some, do_close=False)
            if failed or not flushed or self.total_outbufs_len:
                self.server.pull_trigger()
        return size
