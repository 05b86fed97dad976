"""The whole service: data root, socket, workers, and what is said when it answers."""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from neurotrale.app import AppSettings, create_app
from neurotrale.durable import replace_file
from neurotrale.errors import StartError
from neurotrale.server.listen import open_socket, unix_socket, url_of
from neurotrale.server.supervisor import Supervisor
from neurotrale.server.worker import Limits, run_worker
from neurotrale.tree import Tree

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What the service is told at its start.

    Args:
        app: What it serves, and what it allows.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        unix_socket: Listen on this socket instead; only its owner may connect.
        workers: Processes that answer.
        limits: What each of them takes on.
        ready_file: Written once the service answers, removed at the end.
    """

    app: AppSettings
    host: str = "127.0.0.1"
    port: int = 9000
    unix_socket: Path | None = None
    workers: int = 10
    limits: Limits = field(default_factory=Limits)
    ready_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a person who has just started the service wants to know."""

    url: str
    facts: dict[str, object]
    root: Path
    datasets: list[str]


def serve(settings: ServeSettings, announce: Callable[[Started], None]) -> int:
    """Serve until a signal to stop.

    Args:
        settings: What to serve, where.
        announce: Called once, when the service answers.

    Returns:
        The exit code of the process.

    Raises:
        StartError: The data root, the address or the ready file is not usable.
    """
    _check_ready_file(settings.ready_file)
    with _listening(settings) as listening, _shelf() as shelf:
        app = create_app(replace(settings.app, shelf=shelf))
        tree = Tree(settings.app.root, follow_symlinks=settings.app.follow_symlinks)
        _warn_about_shadows(tree, tokens=settings.app.token_file is not None)
        if settings.ready_file is not None:  # an old one would tell of a service that is gone
            settings.ready_file.unlink(missing_ok=True)
        url, facts = _address(listening, settings)
        facts |= {"node": socket.gethostname(), "pid": os.getpid()}
        started = Started(url, facts, tree.root, tree.datasets())
        gc.freeze()  # what workers share with their parent stays shared
        supervisor = Supervisor(
            lambda ready: run_worker(app, listening, settings.limits, ready),
            settings.workers,
            settings.limits.drain_s + 5,
        )
        try:
            return supervisor.run(lambda: _ready(settings.ready_file, started, announce))
        finally:
            if settings.ready_file is not None:
                settings.ready_file.unlink(missing_ok=True)


@contextmanager
def _shelf() -> Iterator[Path | None]:
    """Make a directory for what workers leave for each other; it is gone in the end."""
    try:
        directory = TemporaryDirectory(prefix="neurotrale-", ignore_cleanup_errors=True)
    except OSError as error:
        log.warning("workers share nothing, as there is no temporary directory: %s", error)
        yield None
        return
    with directory as name:
        yield Path(name)


def _listening(settings: ServeSettings) -> AbstractContextManager[socket.socket]:
    if settings.unix_socket is not None:
        return unix_socket(settings.unix_socket)
    return closing(open_socket(settings.host, settings.port))


def _address(listening: socket.socket, settings: ServeSettings) -> tuple[str, dict[str, object]]:
    """Give the URL to open, and what the ready file says of the address."""
    if settings.unix_socket is not None:
        url = f"http+unix://{quote(str(settings.unix_socket.absolute()), safe='')}/"
        return url, {"url": url, "socket": str(settings.unix_socket.absolute())}
    url = url_of(listening, settings.host)
    return url, {"url": url, "host": settings.host, "port": listening.getsockname()[1]}


def _ready(path: Path | None, started: Started, announce: Callable[[Started], None]) -> None:
    if path is not None:
        umask = os.umask(0o077)  # where it listens is for its owner to tell
        try:
            replace_file(path, [json.dumps(started.facts).encode() + b"\n"])
        finally:
            os.umask(umask)
    announce(started)


def _check_ready_file(path: Path | None) -> None:
    if path is None:
        return
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise StartError(
            f"The ready file {path} cannot be written: {path.parent} is not a directory that this"
            " user may write to. Name another place with --ready-file."
        )


def _warn_about_shadows(tree: Tree, *, tokens: bool) -> None:
    if (tree.root / "api").is_dir():
        log.warning("%s/api cannot be reached: /api/ is the documentation", tree.root)
    if tokens and (tree.root / "token").exists():
        log.warning("%s/token cannot be reached: a token follows /token/", tree.root)
