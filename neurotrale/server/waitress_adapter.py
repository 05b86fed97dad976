"""The only module that touches waitress, and adapts it to this service.

It adds what waitress lacks: an access log; errors as JSON; bodies that are sent without a copy; an
immediate 503 when the service is overloaded; request handling by a `LeaderFollowerPool`. It relies
on undocumented parts of waitress for this; tests/test_waitress.py checks each of them.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from waitress import wasyncore
from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error

from neurotrale.annotations.handover import ARRIVED_NS, PARKING, Parking
from neurotrale.server import buffers
from neurotrale.server.access_log import log_response
from neurotrale.server.held_bodies import HeldBodies
from neurotrale.server.sockets import receive_stamped
from neurotrale.server.threads import LeaderFollowerPool
from neurotrale.server.uploads import Discarding, Upload, Uploads
from neurotrale.tokens import USER
from neurotrale.tokens.file import hide_tokens
from neurotrale.web.error_handlers import OVERLOADED, OVERLOADED_CODE, refusal
from neurotrale.web.router import NOT_ADMITTED, ROUTE

UNCOPIED_BYTES = 2**15
FILE_READERS = 4
STREAM_PRODUCERS = 8
# A connection with more bytes that its client has not taken gets no further answers.
MOST_UNSENT_BYTES = 2**24
NEVER = 2**62
# Between two parts of a request; after a longer one, the connection counts as idle.
MOST_PAUSE_S = 5.0
TEND_S = 1.0
# waitress counts the listening socket and the trigger as connections.
OWN_SOCKETS = 2


log = logging.getLogger(__name__)

_Buffer = buffers.BytesBuffer | buffers.FileBuffer | buffers.StreamBuffer


class HttpServer:
    """HTTP/1.1 on a listening socket, for one worker.

    Args:
        app: The WSGI application.
        listening: The socket, perhaps shared with other workers.
        pool: The threads that answer the requests.
        queue: The most requests that may wait for a thread; further ones are answered with 503.
        connections: The most open connections; others wait to be accepted.
        uploads: What is done with the bodies of requests.
        idle_s: Connections without any traffic for this long are closed.
        stall_s: Connections whose client takes nothing of a response for this long are closed.
        on_response: Called for each response of the application, before any of it is sent.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        listening: socket.socket,
        pool: LeaderFollowerPool,
        *,
        queue: int,
        connections: int,
        uploads: Uploads,
        idle_s: int,
        stall_s: float,
        on_response: Callable[[], None],
    ) -> None:
        self.on_response = on_response
        self.held = HeldBodies(_Channel.readers)
        self.uploads = uploads
        self.stall_s = stall_s
        self._tended_at = 0.0
        self._most_sockets = connections + OWN_SOCKETS
        self._pool = pool
        self.is_closing = False
        self._sockets: dict[int, Any] = {}
        self._server: Any = create_server(
            _adapted(app),
            map=self._sockets,
            _dispatcher=_Dispatcher(pool, queue),
            sockets=[listening],
            connection_limit=self._most_sockets + 1,  # one, for which another is closed
            max_request_body_size=NEVER,  # what is not admitted is not received
            channel_timeout=idle_s,
            outbuf_high_watermark=NEVER,  # for a thread to wait until the client takes more
            ident=None,
            log_socket_errors=False,
            clear_untrusted_proxy_headers=False,  # the application tells whom it trusts
        )
        self._server.channel_class = partial(_Channel, self)
        self._server.pull_trigger = pool.wake

    def poll(self, timeout_s: float) -> None:
        """Wait for something to read, write or accept, and handle each connection once."""
        wasyncore.loop(timeout_s, use_poll=True, map=self._sockets, count=1)
        now = time.time()
        if len(self._sockets) > self._most_sockets:
            self._close_longest_idle(now)
        if now > self._tended_at + TEND_S:
            self._tended_at = now
            for channel in list(self._server.active_channels.values()):
                if channel.is_stalled(now):
                    log.info("a client that took nothing for %g s was cut off", self.stall_s)
                    channel.handle_close()
                elif channel.discarding is not None and channel.discarding.is_over():
                    channel.handle_close()

    def _close_longest_idle(self, now: float) -> None:
        """Close a connection for the newest one, if any is idle."""
        *others, _ = sorted(
            self._server.active_channels.values(), key=lambda one: one.creation_time
        )
        idle = [one for one in others if one.is_idle(now)]
        if idle:
            min(idle, key=lambda one: one.last_activity).handle_close()

    def wake(self) -> None:
        """Make `poll` return at once; may be called from any thread."""
        self._server.trigger.pull_trigger()

    def close_after_responses(self) -> None:
        """From now on, close each connection after its next response."""
        self.is_closing = True

    def stop_accepting(self) -> None:
        """Leave new connections to other workers; without any, the address is free again."""
        self._server.accepting = False
        self._server.del_channel(self._sockets)
        self._server.socket.close()

    def resume(self, channel: Any) -> None:
        """Have a parked request answered, from any thread; it waits no more and takes no time."""
        self._pool.add(channel, immediate=True)

    @property
    def in_flight(self) -> bool:
        """Whether a request is being received or answered, or a response sent."""
        return any(
            channel.requests or channel.request or channel.total_outbufs_len or channel.discarding
            for channel in list(self._server.active_channels.values())
        )

    def close(self) -> None:
        """Close all connections, and the listening socket of this process."""
        wasyncore.close_all(self._sockets)


class _Dispatcher:
    """Passes requests to the pool; beyond its queue, they get 503 at once."""

    def __init__(self, pool: LeaderFollowerPool, queue: int) -> None:
        self._pool = pool
        self._max_queued = queue

    def add_task(self, channel: Any) -> None:
        request = channel.requests[0]
        if self._pool.queued >= self._max_queued and request.error is None:
            request.error = Error(OVERLOADED)
            request.error.code, request.error.reason = OVERLOADED_CODE, "Service Unavailable"
        self._pool.add(channel, immediate=request.error is not None)


class _Parked(BaseException):
    """The application has parked the request; passes through what waitress handles."""


class _Streamed(BaseException):
    """The application has returned a body that is not all in memory, nor a file."""

    def __init__(self, body: Any) -> None:
        self.body = body


def _adapted(app: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the application for `_AppTask`.

    A list, which is complete, becomes a `CompoundBody`. Raised in place of other answers are
    `_Parked`, for a parked request, and `_Streamed`.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        body = app(environ, start_response)
        if environ[PARKING].is_parked:
            if hasattr(body, "close"):
                body.close()
            raise _Parked
        if type(body) is list:
            return [buffers.CompoundBody(body)] if len(body) > 1 else body
        if isinstance(body, ReadOnlyFileBasedBuffer):
            return body
        raise _Streamed(body)

    return application


class _AppTask(WSGITask):  # type: ignore[misc]
    """Answers a request with the application, and logs it."""

    written = 0
    is_streaming = False
    wrote_header: bool
    start_time: float
    content_length: int | None

    def start(self) -> None:
        """Note the time; that of a parked request is when it was begun first."""
        super().start()
        self.request.began_s = self.start_time = self.request.began_s or self.start_time

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment, with the values corrected that waitress gets wrong here."""
        environ: dict[str, Any] = super().get_environment()
        environ["SERVER_SOFTWARE"] = "neurotrale"
        environ["wsgi.multiprocess"] = True
        environ[PARKING] = self.request.parking
        environ[ARRIVED_NS] = self.request.arrived_ns
        environ[NOT_ADMITTED] = self.request.refusal
        return environ

    def execute(self) -> None:
        """Have the application answer."""
        try:
            super().execute()
        except _Streamed as streamed:
            self._send_stream(streamed.body)

    def _send_stream(self, body: Any) -> None:
        """Send the first block of a body, and leave the others to the threads that produce them."""
        stream = buffers.Stream(body, self.content_length)
        try:
            first = stream.read()
            is_whole = stream.is_done or not self.has_body
            if not is_whole:
                self.write(b"")  # the header
                if self.chunked_response:
                    first = buffers.framed([first])
                    stream.is_framed = True
        except BaseException:
            stream.close()
            raise
        if is_whole:
            self.write(first)
            stream.close()
            return
        self.is_streaming = True
        self.channel.write_stream(stream, first, partial(self._end_stream, stream))

    def _end_stream(self, stream: buffers.Stream, is_complete: bool) -> None:
        self.written = stream.written
        if is_complete:
            _log(self, self.written, self.environ.get(USER))

    def write(self, data: bytes | buffers.CompoundBody) -> None:
        """Send a part of the body, and count it: waitress counts only bodies of a stated length."""
        pieces = data.pieces if isinstance(data, buffers.CompoundBody) else (data,)
        size = len(data)
        self.written += size
        is_whole = not self.wrote_header and size == self.content_length and self.has_body
        if is_whole and self.complete and size:
            header = self.build_response_header()
            self.wrote_header = True
            self.content_bytes_written = size
            self.channel.write_whole((header, *pieces))
        else:
            for piece in pieces:
                super().write(piece)

    def set_close_on_finish(self) -> None:
        """Close the connection after the answer, but not because it has no body, such as a 304."""
        http, request = self.channel.http, self.request
        is_asked = request.headers.get("CONNECTION", "").lower() == "close"
        is_last = is_asked or http.is_closing or request.refusal is not None
        if self.has_body or self.version != "1.1" or is_last:
            super().set_close_on_finish()

    def build_response_header(self) -> bytes:
        """Add ``Connection: close`` when this worker is stopping, or a body is not received."""
        http: HttpServer = self.channel.http
        http.on_response()
        if http.is_closing or self.request.refusal is not None:
            self.set_close_on_finish()
        header: bytes = super().build_response_header()
        return header

    def service(self) -> None:
        """Answer the request, then log it, unless the client has disconnected."""
        is_parked = False
        try:
            super().service()
        except _Parked:
            is_parked = True
            raise
        except BaseException:  # waitress logs the error with this path
            self.request.path = hide_tokens(self.request.path)
            self.channel.break_off()
            raise
        finally:
            is_answered = self.channel.connected and not is_parked and not self.is_streaming
            if is_answered:
                _log(self, self.written, (self.environ or {}).get(USER))


class _JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers requests that never reach the application: malformed HTTP, too large a body."""

    def execute(self) -> None:
        """Send the error as JSON, in the same form as the application's errors."""
        error = self.request.error
        # waitress quotes a line of the request, which may hold a token: cut it off.
        headers, body = refusal(error.code, error.reason, str(error.body).partition(' "')[0])
        self.status = f"{error.code} {error.reason}"
        self.response_headers += headers
        if error.code != OVERLOADED_CODE or self.request.refusal is not None:
            self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)

    def service(self) -> None:
        try:
            super().service()
        finally:
            _log(self, 0, None)


def _log(task: Any, written: int, user: str | None) -> None:
    request = task.request
    environ = getattr(task, "environ", None) or {}
    peer = task.channel.addr
    size = task.content_length if task.content_length is not None else written
    log_response(
        route=environ.get(ROUTE, ""),  # the client is the one that a trusted proxy speaks for
        address=environ.get("REMOTE_ADDR") or (peer[0] if peer else ""),
        user=user,
        # waitress does not set the attributes that it could not parse.
        method=getattr(request, "command", ""),
        path=getattr(request, "path", ""),
        query=getattr(request, "query", ""),
        status=task.status.partition(" ")[0],
        size=size if task.has_body else 0,
        began_s=task.start_time,
    )


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request that is parsed; of one that is refused, nothing more is received."""

    body_rcv: Any

    def __init__(self, uploads: Uploads, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._uploads = uploads
        self._upload: Upload | None = None
        self.parking = Parking()
        self.arrived_ns = 0
        self.began_s = 0.0

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.refusal is not None:
            self.close()
            self.body_rcv, self.completed = None, True
        if self.refusal is not None or self.error is not None:
            self.expect_continue = False
            return len(data)
        return consumed

    @property
    def refusal(self) -> Exception | None:
        """Why the body is not received; None if it is, or if there is none."""
        return None if self._upload is None else self._upload.refusal

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # from urlsplit, which fails on http://[
            raise ParsingError("Bad URI") from error
        if self.body_rcv is not None:
            self._upload = self.body_rcv.buf = Upload(
                self._uploads, self.command, self.path, self.query, self.headers,
                None if self.chunked else self.content_length, waits=self.expect_continue,
            )  # fmt: skip


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose requests are logged and whose errors are JSON."""

    task_class = _AppTask
    error_task_class = _JsonErrorTask
    readers = ThreadPoolExecutor(FILE_READERS, "file-reader")
    is_postponed = False
    _unacknowledged = 0
    _taken_at = 0.0
    # Whether its client may still be sending when it is closed; then, what is discarded.
    lingers = False
    discarding: Discarding | None = None
    producers = ThreadPoolExecutor(STREAM_PRODUCERS, "stream-producer")

    def __init__(self, http: HttpServer, *arguments: Any, **options: Any) -> None:
        self.http = http
        self.arrived_ns = 0  # the latest bytes
        self.answered: Parking | None = None  # the request whose answer is sent
        super().__init__(*arguments, **options)
        self.parser_class = self._parser

    def recv(self, buffer_size: int) -> bytes:
        """Receive bytes, and note when they arrived."""
        data, self.arrived_ns = receive_stamped(self.socket, buffer_size)
        if not data:
            self.handle_close()
        return data

    def _parser(self, adj: Any) -> _Parser:
        """Return the parser of a request whose first bytes are the latest ones."""
        parser = _Parser(self.http.uploads, adj)
        parser.arrived_ns = self.arrived_ns
        return parser

    def handle_close(self) -> None:
        """Close the connection; an answer that is not sent yet never arrives."""
        if self.lingers and not self.total_outbufs_len and self._half_close():
            return
        with self.outbuf_lock:
            is_broken = self.total_outbufs_len > 0
            super().handle_close()
            # The buffers lead back here, and to the files that they send.
            self.outbufs = [OverflowableBuffer(self.adj.outbuf_overflow)]
        if self.request is not None:  # its body takes memory, or room on a disk
            self.request.close()
        if is_broken:
            self.break_off()

    def _half_close(self) -> bool:
        """Say that nothing more will be sent; return whether the client is still there."""
        self.lingers = self.will_close = False
        self.discarding = Discarding()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def received(self, data: bytes) -> bool:
        """Take bytes of a request, or discard them."""
        if self.discarding is None:
            return bool(super().received(data))
        if self.discarding.is_over(len(data)):
            self.handle_close()
        return False

    def break_off(self) -> None:
        """Tell once that the answer that is sent does not arrive."""
        answered, self.answered = self.answered, None
        if answered is not None and answered.on_broken is not None:
            answered.on_broken()

    def service(self) -> None:
        """Answer the first request of the connection; a parked one is answered again later."""
        if not self.requests:  # the connection was closed while its request was parked
            return
        if self.total_outbufs_len > MOST_UNSENT_BYTES:  # of earlier requests
            self.is_postponed = True
            return
        request = self.requests[0]
        self.lingers = request.error is not None or request.refusal is not None
        parking = request.parking
        parking.is_parked = False
        self.answered = parking
        try:
            super().service()
        except _Parked:
            assert parking.result is not None
            parking.result.add_done_callback(lambda _: self.http.resume(self))

    def writable(self) -> bool:
        """Return whether there is anything to send; false while its file is still being read."""
        if getattr(self.outbufs[0], "waiting", False) and not self.will_close:
            return False
        return bool(super().writable())

    def handle_write(self) -> None:
        """Send what the client takes, then go on with a request that waited for that."""
        super().handle_write()
        if self.is_postponed and self.total_outbufs_len <= MOST_UNSENT_BYTES:
            self.is_postponed = False
            self.server.add_task(self)

    def is_idle(self, now: float) -> bool:
        """Return whether no request is being received, answered or sent."""
        is_receiving = self.request is not None and self.last_activity > now - MOST_PAUSE_S
        return not (self.requests or self.total_outbufs_len or is_receiving)

    def is_stalled(self, now: float) -> bool:
        """Return whether the client has long taken nothing of what is ready to be sent.

        The kernel takes megabytes ahead of the client, so its buffer is looked at, too.
        """
        is_waiting = not self.total_outbufs_len or getattr(self.outbufs[0], "waiting", False)
        unacknowledged = 0 if is_waiting else buffers.unacknowledged(self.socket)
        if is_waiting or unacknowledged != self._unacknowledged:
            self._unacknowledged, self._taken_at = unacknowledged, now
        return now > max(self.last_activity, self._taken_at) + self.http.stall_s

    def write_stream(
        self, stream: buffers.Stream, first: bytes, on_end: Callable[[bool], None]
    ) -> None:
        """Send a body that is produced while it is sent."""

        def grow(size: int) -> None:
            self.total_outbufs_len += size

        buffer = buffers.StreamBuffer(
            stream, first, self.producers, on_ready=self._wake, on_growth=grow, on_end=on_end
        )
        self._send_buffer(buffer)

    def write_soon(self, data: Any) -> int:
        """Send data, or queue it, without a copy if it is large."""
        buffer: _Buffer
        if isinstance(data, ReadOnlyFileBasedBuffer):
            buffer = buffers.FileBuffer(data.file, data.remain, self.readers, self._wake)
        elif len(data) >= UNCOPIED_BYTES:
            buffer = self._buffer(data)
        else:
            written: int = super().write_soon(data)
            return written
        return self._send_buffer(buffer)

    def _send_buffer(self, buffer: _Buffer) -> int:
        with self.outbuf_lock:
            if not self.connected:
                buffer.close()
                raise ClientDisconnected
            size = len(buffer)
            self._queue(buffer)
            flushed, failed = self._flush_exception(self._flush_some, do_close=False)
            if failed or not flushed or self.total_outbufs_len:
                self.server.pull_trigger()
        return size

    def write_whole(self, pieces: Sequence[bytes]) -> None:
        """Send a whole response with one system call, and queue what the connection cannot take."""
        with self.outbuf_lock:
            if not self.connected:
                raise ClientDisconnected
            sent = 0
            if not self.total_outbufs_len:
                try:
                    sent = buffers.send_now(self.socket, pieces)
                except OSError:  # the client has disconnected; the leader closes the connection
                    self.will_close = True
                    self.server.pull_trigger()
                    raise ClientDisconnected from None
                self.last_activity = time.time()
            for piece, count in buffers.unsent(pieces, sent):
                self._queue(self._buffer(piece, count))
            if self.total_outbufs_len:
                self.server.pull_trigger()

    def _buffer(self, data: bytes, sent: int = 0) -> _Buffer:
        try:
            return self.http.held.buffer(data, sent, self._wake)
        except OSError as error:
            log.error("no room for a body that a client does not take: %s", error)
            self.will_close = True  # the leader closes it
            self.server.pull_trigger()
            raise ClientDisconnected from None

    def _queue(self, buffer: _Buffer) -> None:
        """Append a buffer; waitress needs one that it can write to behind it."""
        self.outbufs += [buffer, OverflowableBuffer(self.adj.outbuf_overflow)]
        self.current_outbuf_count = 0
        self.total_outbufs_len += len(buffer)

    def _wake(self) -> None:
        with suppress(OSError):  # the worker may have stopped meanwhile
            self.server.pull_trigger()
