"""waitress with two additions: an access log line for every request, and errors as JSON."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from waitress.buffers import OverflowableBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.task import ErrorTask, WSGITask

from neurotrale.problems import problem

access_log = logging.getLogger("neurotrale.access")

# Shown in the log of queries; anything else, a token above all, is not.
LOGGED_PARAMETER = "id"
UNCOPIED_BYTES = 2**15
SLOW_SEND_CHUNK = 2**18


def _log(task: Any) -> None:
    """Write one line: client, method, path, status, bytes, milliseconds."""
    request = task.request
    milliseconds = (time.time() - task.start_time) * 1000
    size = task.content_length if task.content_length is not None else task.content_bytes_written
    # Percent-encoded again, so that no name can forge a line of the log.
    path = quote(request.path or "-", safe="/:@!$&'()*+,;=~-._")
    access_log.info(
        "%s %s %s%s %s %s %.1f ms",
        task.channel.addr[0] if task.channel.addr else "-",
        request.command or "-",
        path,
        _logged_query(request.query or ""),
        task.status.partition(" ")[0],
        size if task.has_body and request.command != "HEAD" else 0,
        milliseconds,
    )


def _logged_query(query: str) -> str:
    kept = [item for item in query.split("&") if item.startswith(f"{LOGGED_PARAMETER}=")]
    return quote(f"?{'&'.join(kept)}", safe="?&=%") if kept else ""


class LoggedTask(WSGITask):  # type: ignore[misc]
    """Answers a request through the application and logs it."""

    def service(self) -> None:
        """Answer, then log; a client that went away is no error."""
        try:
            super().service()
        finally:
            if self.channel.connected:
                _log(self)


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what never reaches the application: malformed HTTP, bodies that are too large."""

    def execute(self) -> None:
        """Send the error in the JSON shape that the application's errors have."""
        error = self.request.error
        body = problem(error.reason, str(error.body))
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Access-Control-Allow-Origin", "*"),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)

    def service(self) -> None:
        """Answer, then log."""
        try:
            super().service()
        finally:
            _log(self)


class BytesBuffer:
    """Bytes on their way out, sent from where they are.

    waitress copies every body into a buffer of its own, through a temporary file when it is
    large; a chunk of half a megabyte needs neither. Follows the interface of its buffers.
    """

    def __init__(self, body: bytes | memoryview) -> None:
        self._left = memoryview(body)

    def __len__(self) -> int:
        return len(self._left)

    def get(self, size: int = -1, skip: bool = False) -> memoryview:
        """Give the next bytes."""
        return self._left if size < 0 else self._left[:size]

    def skip(self, size: int, allow_prune: bool = False) -> None:
        """Let go of bytes that were sent."""
        self._left = self._left[size:]

    def close(self) -> None:
        """Let go of all."""
        self._left = memoryview(b"")


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose requests are logged and whose errors are JSON."""

    task_class = LoggedTask
    error_task_class = JsonErrorTask

    def write_soon(self, data: Any) -> int:
        """Send data, or keep it to be sent; large bodies are not copied for that."""
        if not isinstance(data, (bytes, memoryview)) or len(data) < UNCOPIED_BYTES:
            written: int = super().write_soon(data)
            return written
        with self.outbuf_lock:
            self._flush_outbufs_below_high_watermark()
            if not self.connected:
                raise ClientDisconnected
            self.outbufs += [BytesBuffer(data), OverflowableBuffer(self.adj.outbuf_overflow)]
            self.current_outbuf_count = 0
            self.total_outbufs_len += len(data)
            flushed, failed = self._flush_exception(self._flush_some, do_close=False)
            if failed or not flushed or self.total_outbufs_len:
                self.server.pull_trigger()
        return len(data)
