"""waitress with two additions: an access log line for every request, and errors as JSON."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask

from neurotrale.problems import problem

access_log = logging.getLogger("neurotrale.access")

# Shown in the log of queries; anything else, a token above all, is not.
LOGGED_PARAMETER = "id"


def _log(task: Any) -> None:
    """Write one line: client, method, path, status, bytes, milliseconds."""
    request = task.request
    milliseconds = (time.time() - task.start_time) * 1000
    size = task.content_length if task.content_length is not None else task.content_bytes_written
    access_log.info(
        "%s %s %s%s %s %s %.1f ms",
        task.channel.addr[0] if task.channel.addr else "-",
        _as_sent(request, "command"),
        _as_sent(request, "path"),
        _logged_query(getattr(request, "query", "")),
        task.status.partition(" ")[0],
        size if task.has_body and getattr(request, "command", "") != "HEAD" else 0,
        milliseconds,
    )


def _as_sent(request: Any, name: str) -> str:
    """Percent-encode a part of a request again, so that nothing in it can forge a line of the log.

    What could not be parsed, waitress does not set at all.
    """
    text: str = getattr(request, name, "") or "-"
    return quote(text.encode("latin-1"), safe="/:@!$&'()*+,;=~-._")


def _logged_query(query: str) -> str:
    kept = [item for item in query.split("&") if item.startswith(f"{LOGGED_PARAMETER}=")]
    return quote(f"?{'&'.join(kept)}", safe="?&=%") if kept else ""


class LoggedTask(WSGITask):  # type: ignore[misc]
    """Answers a request through the application and logs it."""

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
            ("X-Content-Type-Options", "nosniff"),
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


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose requests are logged and whose errors are JSON."""

    task_class = LoggedTask
    error_task_class = JsonErrorTask
    parser_class = Parser
