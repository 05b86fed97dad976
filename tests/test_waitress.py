"""What the service relies on in waitress, much of it not documented, so that an upgrade tells.

Each promise that does not hold any more fails with a sentence that says what was expected and
which part of `neurotrale/server/waitress_adapter.py` needs it.
"""

from __future__ import annotations

import ast
import inspect
import socket
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from waitress import adjustments, buffers, channel, parser, server, task, utilities, wasyncore

from neurotrale.server.buffers import BytesBuffer
from neurotrale.storage.spool import Spool
from tests.processes import REPOSITORY

ADAPTER = REPOSITORY / "neurotrale" / "server" / "waitress_adapter.py"
REQUEST = b"GET /path?query HTTP/1.1\r\nHost: x\r\n\r\n"

Call = tuple[tuple[Any, ...], dict[str, Any]]


def called(*arguments: Any, **options: Any) -> Call:
    return arguments, options


@dataclass(frozen=True)
class Promise:
    """Something of waitress that the adapter uses.

    Attributes:
        owner: What has it, a key of MODULES or of the fixture `parts`.
        name: Its name there.
        use: Where and what for.
        call: How it is called; None if it is only read or set.
    """

    owner: str
    name: str
    use: str
    call: Call | None = None

    def broken(self, parts: dict[str, Any]) -> str:
        """Say in a sentence what does not hold; "" if all does."""
        expected = f"{self.owner}.{self.name}{'' if self.call is None else _text(self.call)}"
        found = ""
        try:
            value = getattr(parts[self.owner], self.name)
        except AttributeError:
            found = "there is no such attribute"
        else:
            if self.call is not None:
                found = _refusal(value, self.call)
        if not found:
            return ""
        return (
            f"waitress {version('waitress')} does not keep what {ADAPTER.name} relies on: expected"
            f" {expected}, but {found}. It is used by {self.use}."
        )


def _text(call: Call) -> str:
    options = [f"{name}=..." for name in call[1]]
    return f"({', '.join([*('...' for _ in call[0]), *options])})"


def _refusal(value: Any, call: Call) -> str:
    if not callable(value):
        return f"it cannot be called: {value!r}"
    try:
        inspect.signature(value).bind(*call[0], **call[1])
    except TypeError as error:
        return f"its signature is {inspect.signature(value)} ({error})"
    return ""


NOTHING = called()
POLL = "HttpServer.poll, which waits for the connections until it is woken"
WHOLE = "_Channel.write_whole, which sends header and body at one stroke"
SOON = "_Channel.write_soon, which sends large bodies without a copy"
KEEP = "_Channel._queue, which puts our buffers between those of waitress"
FLIGHT = "HttpServer.in_flight, which tells when a worker that stops has finished"
LOG = "_log, which writes the access log"
WRITE = "_AppTask.write, which tells whole bodies from parts"
STREAM = "_AppTask.execute, which leaves long bodies to other threads"
ERROR = "_JsonErrorTask.execute, which answers what never reaches the application"
UPLOAD = "_Parser, which has bodies received by an Upload, or not at all"
SET = "HttpServer.__init__, which sets the limits of a worker"
OURS = "HttpServer.__init__, which puts our classes into the place of those of waitress"

# Modules alone are imported above: a name that has gone from one is a sentence, too.
MODULES = {
    "waitress.buffers": buffers,
    "waitress.channel": channel,
    "waitress.parser": parser,
    "waitress.server": server,
    "waitress.task": task,
    "waitress.utilities": utilities,
    "waitress.wasyncore": wasyncore,
}
OF_MODULES = (
    Promise("waitress.wasyncore", "loop", POLL, called(1.0, use_poll=True, map={}, count=1)),
    Promise("waitress.wasyncore", "close_all", "HttpServer.close", called({})),
    Promise("waitress.server", "create_server", SET, called(
        None, map={}, _dispatcher=None, sockets=[], connection_limit=1, max_request_body_size=1,
        channel_timeout=1, outbuf_high_watermark=1, ident=None, log_socket_errors=False,
        clear_untrusted_proxy_headers=True,
    )),
    Promise("waitress.utilities", "Error", "_Dispatcher, which refuses when there is too much",
            called("")),
    Promise("waitress.buffers", "OverflowableBuffer", KEEP, called(1)),
    Promise("waitress.buffers", "ReadOnlyFileBasedBuffer", SOON),
    Promise("waitress.parser", "ParsingError", "_Parser.parse_header"),
    Promise("waitress.channel", "ClientDisconnected", f"{SOON}, and {WHOLE}"),
    Promise("waitress.channel", "HTTPChannel", OURS),
    Promise("waitress.parser", "HTTPRequestParser", OURS),
    Promise("waitress.task", "WSGITask", OURS),
    Promise("waitress.task", "ErrorTask", OURS),
)  # fmt: skip
PROMISES = (
    *(
        Promise("adjustments", name, SET)
        for name in (
            "sockets", "connection_limit", "max_request_body_size", "channel_timeout", "ident",
            "log_socket_errors", "clear_untrusted_proxy_headers", "outbuf_high_watermark",
        )
    ),
    Promise("adjustments", "outbuf_overflow", KEEP),
    Promise("server", "channel_class", OURS, called(None, None, ("", 0), None, map={})),
    Promise("server", "pull_trigger", "HttpServer.__init__, which has the pool woken", NOTHING),
    Promise("server", "add_task", "_Dispatcher, which hands requests to the pool", called(None)),
    Promise("server", "trigger", "HttpServer.wake"),
    Promise("trigger", "pull_trigger", "HttpServer.wake", NOTHING),
    Promise("server", "accepting", "HttpServer.stop_accepting"),
    Promise("server", "del_channel", "HttpServer.stop_accepting", called({})),
    Promise("server", "socket", "HttpServer.stop_accepting"),
    Promise("server", "active_channels", FLIGHT),
    Promise("channel", "task_class", "_Channel, which has requests answered by _AppTask"),
    Promise("channel", "error_task_class", "_Channel, which has errors sent by _JsonErrorTask"),
    Promise("channel", "parser_class", "_Channel, which has requests parsed by _Parser",
            called(None)),
    Promise("channel", "recv", "_Channel.recv, which notes when bytes arrived", called(1)),
    Promise("channel", "handle_close", "_Channel.handle_close, which tells of answers not sent",
            NOTHING),
    Promise("channel", "service", "LeaderFollowerPool, which has requests answered", NOTHING),
    Promise("channel", "requests", f"_Dispatcher, and {FLIGHT}"),
    Promise("channel", "request", FLIGHT),
    Promise("channel", "total_outbufs_len", f"{KEEP}, and {FLIGHT}"),
    Promise("channel", "current_outbuf_count", KEEP),
    Promise("channel", "outbufs", KEEP),
    Promise("channel", "outbuf_lock", f"{SOON}, and {WHOLE}"),
    Promise("channel", "connected", f"{SOON}, and {WHOLE}"),
    Promise("channel", "will_close", f"_Channel.writable, and {WHOLE}"),
    Promise("channel", "last_activity", WHOLE),
    Promise("channel", "creation_time", "HttpServer._close_longest_idle"),
    Promise("channel", "socket", WHOLE),
    Promise("channel", "server", WHOLE),
    Promise("channel", "adj", KEEP),
    Promise("channel", "addr", LOG),
    Promise("channel", "writable", "_Channel.writable, which waits for files to be read", NOTHING),
    Promise("channel", "write_soon", SOON, called(b"")),
    Promise("channel", "handle_close", "HttpServer.poll, which cuts off stalled clients", NOTHING),
    Promise("channel", "handle_write", "_Channel.handle_write, which goes on afterwards", NOTHING),
    Promise("channel", "_flush_exception", SOON, called(None, do_close=False)),
    Promise("channel", "_flush_some", SOON, called(do_close=False)),
    Promise("task", "get_environment", "_AppTask.get_environment", NOTHING),
    Promise("task", "execute", STREAM, NOTHING),
    Promise("task", "chunked_response", STREAM),
    Promise("task", "write", WRITE, called(b"")),
    Promise("task", "build_response_header", WRITE, NOTHING),
    Promise("task", "set_close_on_finish", "_AppTask.build_response_header", NOTHING),
    Promise("task", "service", "_AppTask.service, which logs", NOTHING),
    Promise("task", "start", "_AppTask.start, which keeps the time of a parked request", NOTHING),
    Promise("task", "wrote_header", WRITE),
    Promise("task", "complete", WRITE),
    Promise("task", "has_body", f"{LOG}, and {WRITE}"),
    Promise("task", "version", "_AppTask.set_close_on_finish"),
    Promise("task", "content_length", f"{LOG}, and {WRITE}"),
    Promise("task", "content_bytes_written", WRITE),
    Promise("task", "channel", LOG),
    Promise("task", "request", LOG),
    Promise("task", "environ", LOG),
    Promise("task", "status", LOG),
    Promise("task", "start_time", LOG),
    Promise("error task", "execute", ERROR, NOTHING),
    Promise("error task", "service", "_JsonErrorTask.service, which logs", NOTHING),
    Promise("error task", "write", ERROR, called(b"")),
    Promise("error task", "set_close_on_finish", ERROR, NOTHING),
    Promise("error task", "response_headers", ERROR),
    Promise("error task", "status", ERROR),
    Promise("error task", "content_length", ERROR),
    Promise("error task", "request", ERROR),
    Promise("parser", "received", "_Parser.received", called(b"")),
    Promise("parser", "parse_header", "_Parser.parse_header", called(b"")),
    Promise("channel", "received", "_Channel.received, which discards what is not wanted",
            called(b"")),
    Promise("parser", "body_rcv", UPLOAD),
    Promise("parser", "completed", UPLOAD),
    Promise("parser", "chunked", UPLOAD),
    Promise("parser", "content_length", UPLOAD),
    Promise("parser", "headers", UPLOAD),
    Promise("parser", "close", UPLOAD, NOTHING),
    Promise("parser", "error", f"_Parser.received, _Dispatcher, and {ERROR}"),
    Promise("parser", "expect_continue", "_Parser.received, which asks for no body in vain"),
    Promise("parser", "command", LOG),
    Promise("parser", "path", LOG),
    Promise("parser", "query", LOG),
    Promise("error", "code", ERROR),
    Promise("error", "reason", ERROR),
    Promise("error", "body", ERROR),
    Promise("file wrapper", "file", SOON),
    Promise("file wrapper", "remain", SOON),
)  # fmt: skip


# Methods that our classes add to those of waitress.
OF_OURS = {
    "is_idle", "is_stalled", "write_whole", "write_stream", "_send_stream", "_end_stream",
    "_send_buffer", "_queue", "_wake", "break_off", "_parser", "_half_close", "refusal",
    "_buffer",
}  # fmt: skip


class Taken:
    """A dispatcher that keeps what it is given."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def add_task(self, task: Any) -> None:
        self.tasks.append(task)


@pytest.fixture
def parts() -> Iterator[dict[str, Any]]:
    """The real things of waitress, made as a worker has them made."""
    sockets: dict[int, Any] = {}
    with ExitStack() as stack:
        listening = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        inside, outside = map(stack.enter_context, map(closing, socket.socketpair()))
        file = stack.enter_context(ADAPTER.open("rb"))
        stack.callback(wasyncore.close_all, sockets)
        taken = Taken()
        made: Any = server.create_server(str, map=sockets, _dispatcher=taken, sockets=[listening])
        connection = channel.HTTPChannel(made, inside, ("127.0.0.1", 1), made.adj, map=sockets)
        request = parser.HTTPRequestParser(made.adj)
        request.received(REQUEST)
        yield {
            "adjustments": made.adj,
            "server": made,
            "trigger": made.trigger,
            "channel": connection,
            "parser": request,
            "task": task.WSGITask(connection, request),
            "error task": task.ErrorTask(connection, request),
            "error": utilities.Error(""),
            "file wrapper": buffers.ReadOnlyFileBasedBuffer(file),
            "client": outside,
            "taken": taken,
        }


def id_of(promise: Promise) -> str:
    return f"{promise.owner}.{promise.name}".replace(" ", "-")


@pytest.mark.parametrize("promise", OF_MODULES, ids=id_of)
def test_waitress_has_the_names_that_the_adapter_imports(promise: Promise) -> None:
    assert promise.broken(MODULES) == ""


@pytest.mark.parametrize("promise", PROMISES, ids=id_of)
def test_waitress_has_what_the_adapter_uses(promise: Promise, parts: dict[str, Any]) -> None:
    assert promise.broken(parts) == ""


def overridden() -> list[tuple[str, str, list[str]]]:
    """The methods of the adapter's classes: class of waitress, name, parameters."""
    classes = [
        node for node in ast.parse(ADAPTER.read_text()).body if isinstance(node, ast.ClassDef)
    ]
    return [
        (base.id, method.name, [argument.arg for argument in method.args.args])
        for node in classes
        for base in node.bases
        if isinstance(base, ast.Name)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name != "__init__"
    ]


@pytest.mark.parametrize(("base", "name", "mine"), overridden())
def test_overridden_method_takes_what_waitress_gives_it(
    base: str, name: str, mine: list[str]
) -> None:
    (theirs,) = {vars(module)[base] for module in MODULES.values() if base in vars(module)}
    if name in OF_OURS:
        assert not hasattr(theirs, name), f"{base} has a {name} of its own, which ours hides"
        return
    parameters = list(inspect.signature(getattr(theirs, name)).parameters)
    assert parameters == mine, (
        f"waitress {version('waitress')} calls {base}.{name} with {parameters}, but {ADAPTER.name}"
        f" overrides it with {mine}"
    )


@pytest.mark.parametrize("name", ["connection_limit", "max_request_body_size", "channel_timeout"])
def test_limit_is_kept_as_it_was_given(name: str) -> None:
    assert getattr(adjustments.Adjustments(**{name: 17}), name) == 17, f"expected by {SET}"


def test_complete_request_is_given_to_the_dispatcher_as_its_channel(parts: dict[str, Any]) -> None:
    connection = parts["channel"]
    connection.received(REQUEST)
    assert parts["taken"].tasks == [connection], "_Dispatcher.add_task expects the channel"
    (request,) = connection.requests
    assert (request.error, request.command, request.path, request.query) == (
        None, "GET", "/path", "query",
    ), "_Dispatcher and _log expect the parsed request as the channel's first"  # fmt: skip


def test_request_that_is_refused_is_given_with_its_error(parts: dict[str, Any]) -> None:
    parts["channel"].received(b"nonsense\r\n\r\n")
    (request,) = parts["channel"].requests
    assert request.error.code == 400, "_JsonErrorTask expects code, reason and body of the error"
    assert isinstance(request.error.reason, str)


def test_body_is_received_by_the_buffer_that_takes_the_place_of_the_first(
    parts: dict[str, Any],
) -> None:
    for framing in (b"Content-Length: 5\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        request = parser.HTTPRequestParser(parts["adjustments"])
        request.received(b"PUT / HTTP/1.1\r\n" + framing)
        ours = request.body_rcv.buf = Spool().body(0, tuple)
        request.received(b"hello" if b"Length" in framing else b"5\r\nhello\r\n0\r\n\r\n")
        assert request.completed, f"expected by {UPLOAD}"
        assert request.get_body_stream() is ours.getfile(), f"expected by {UPLOAD}"
        assert ours.getfile().read() == b"hello"
        assert request.headers["CONTENT_LENGTH"] == "5"
        request.close()
        assert ours.getfile().closed, f"expected by {UPLOAD}"


def test_environment_has_a_file_wrapper_that_the_channel_knows(parts: dict[str, Any]) -> None:
    environ = parts["task"].get_environment()
    assert environ["wsgi.file_wrapper"] is buffers.ReadOnlyFileBasedBuffer, f"expected by {SOON}"
    assert parts["task"].environ is environ, f"expected by {LOG}"


def test_buffers_are_asked_for_what_ours_can_do(parts: dict[str, Any]) -> None:
    calls: list[tuple[Any, ...]] = []

    class Noted(BytesBuffer):
        def get(self, *arguments: Any) -> memoryview:
            calls.append(("get", arguments))
            return super().get(*arguments)

        def skip(self, *arguments: Any) -> None:
            calls.append(("skip", arguments))
            super().skip(*arguments)

        def close(self) -> None:
            calls.append(("close",))
            super().close()

    connection = parts["channel"]
    connection.outbufs = [Noted(b"hello"), buffers.OverflowableBuffer(1)]
    connection.total_outbufs_len = 5
    assert connection._flush_exception(connection._flush_some, do_close=False) == (True, False), (
        f"expected whether something was sent, and whether that failed, by {SOON}"
    )
    assert parts["client"].recv(10) == b"hello"
    assert calls == [("get", (connection.sendbuf_len,)), ("skip", (5, True)), ("close",)], (
        "BytesBuffer and FileBuffer stand in for the buffers of waitress: __len__, get, skip, close"
    )
    assert (len(connection.outbufs), connection.total_outbufs_len) == (1, 0), f"expected by {KEEP}"


def test_classes_that_stand_for_failures_can_be_raised_and_caught() -> None:
    assert issubclass(channel.ClientDisconnected, Exception)
    assert issubclass(parser.ParsingError, Exception)


# --- that this list is all ---

# Of the standard library and of our own classes, though things of waitress have such names, too.
OF_OTHERS = {"get", "close", "read", "time", "shutdown"}


def test_list_of_promises_names_everything_that_the_adapter_uses(parts: dict[str, Any]) -> None:
    tree = ast.parse(ADAPTER.read_text())
    theirs = {
        name
        for part in (*MODULES.values(), *parts.values())
        for name in dir(part)
        if not name.startswith("__")
    }
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {
        str(node.args[1].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and isinstance(node.args[1], ast.Constant)
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("waitress.")
        for alias in node.names
    }
    named = {promise.name for promise in (*OF_MODULES, *PROMISES)}
    assert (used & theirs) - OF_OTHERS - named == set()
    assert imported - named == set()


@pytest.mark.parametrize(
    ("owner", "name", "change", "words"),
    [
        pytest.param(channel.HTTPChannel, "_flush_some", None,
                     ["expected channel._flush_some(do_close=...)", "there is no such attribute",
                      "_Channel.write_soon"], id="gone"),
        pytest.param(channel.HTTPChannel, "_flush_exception", lambda self, flush: None,
                     ["expected channel._flush_exception(..., do_close=...)",
                      "its signature is (flush)", "_Channel.write_soon"], id="another-signature"),
        pytest.param(channel.HTTPChannel, "writable", True,
                     ["expected channel.writable()", "cannot be called"], id="no-method"),
    ],
)  # fmt: skip
def test_promise_that_is_broken_is_a_sentence(
    owner: type,
    name: str,
    change: Callable[..., None] | bool | None,
    words: list[str],
    parts: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if change is None:
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, change)
    broken = [sentence for promise in PROMISES if (sentence := promise.broken(parts))]
    monkeypatch.undo()
    (sentence,) = broken
    for word in [f"waitress {version('waitress')}", "waitress_adapter.py", *words]:
        assert word in sentence


# --- where and which waitress ---


def test_only_the_adapter_knows_of_waitress() -> None:
    def imports_it(path: Path) -> bool:
        text = path.read_text()
        for node in ast.walk(ast.parse(text if "waitress" in text else "")):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            if any(name.split(".")[0] == "waitress" for name in names):
                return True
        return False

    modules = [
        path for room in ("neurotrale", "tests") for path in (REPOSITORY / room).rglob("*.py")
    ]
    assert {path for path in modules if imports_it(path)} == {ADAPTER, Path(__file__)}


def test_pinned_and_installed_waitress_are_of_the_range_that_is_known_to_work() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (ranged,) = [
        found for found in map(Requirement, project["dependencies"]) if found.name == "waitress"
    ]
    assert {str(part) for part in ranged.specifier} == {">=3.0.1", "<3.1"}
    pinned = (REPOSITORY / "requirements.txt").read_text().splitlines()
    (pin,) = [line.partition("==")[2] for line in pinned if line.startswith("waitress==")]
    assert ranged.specifier.contains(pin)
    assert ranged.specifier.contains(version("waitress"))
