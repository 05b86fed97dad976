"""The whole service: sockets, token file, ready file, application and workers."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neurotrale import metrics
from neurotrale.annotations.handover import RemoteWriter, WriteJobs, address_of
from neurotrale.errors import StartError
from neurotrale.late import load_all
from neurotrale.server.messages import socket_pair
from neurotrale.server.proxies import Application, TrustedProxies
from neurotrale.server.sockets import address_facts, names_of, open_socket, unix_socket
from neurotrale.server.supervisor import SIGNALS, Supervisor
from neurotrale.server.threads import FileQueues, signals_blocked
from neurotrale.server.uploads import Uploads
from neurotrale.server.worker import Limits, run_worker, warn_about_file_limit
from neurotrale.server.writer import Writer, WriterLink
from neurotrale.settings.service import (
    ALLOWED_HOSTS,
    HOST,
    PORT,
    READY_FILE,
    SPOOL,
    TRUSTED_PROXY,
    UNIX_SOCKET,
    WORKERS,
)
from neurotrale.storage.atomic import replace_file
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.spool import Spool
from neurotrale.tokens.watch import TokenWatch
from neurotrale.web.admission import Admission
from neurotrale.web.app import create_app, create_writer
from neurotrale.web.app_settings import AppSettings
from neurotrale.web.auth import public_paths


@contextmanager
def watch_tokens(token_file: Path | None) -> Iterator[TokenWatch | None]:
    """Watch a token file in a thread of this process.

    Args:
        token_file: The file; None when the service requires no tokens.

    Raises:
        StartError: The token file is unusable.
    """
    if token_file is None:
        yield None
        return
    watch = TokenWatch(token_file)
    with signals_blocked():
        watch.start()
    try:
        yield watch
    finally:
        watch.stop()


log = logging.getLogger(__name__)

PARKED_BYTES = 2**29  # the bodies of writes that wait in one worker


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of the service.

    Args:
        app: The settings of the application.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        unix_socket: Listen on this socket instead; only its owner may connect.
        allowed_hosts: Names that the service may be called by, besides localhost and that of this
            machine; if there are none, those count only for a service on a loopback address.
        trusted_proxy: Addresses, networks and names of proxies whose word for the client counts.
        workers: The number of worker processes.
        limits: The limits of each worker.
        ready_file: Written once the service answers requests, removed when it stops.
        spool: Where large bodies wait until they are complete; None for the temporary directory.
        node_name: Name of this machine in the ready file and messages; None for its host name.
    """

    app: AppSettings
    host: str = HOST.default
    port: int = PORT.default
    unix_socket: Path | None = UNIX_SOCKET.default
    allowed_hosts: tuple[str, ...] = ALLOWED_HOSTS.default
    trusted_proxy: tuple[str, ...] = TRUSTED_PROXY.default
    workers: int = WORKERS.default
    limits: Limits = field(default_factory=Limits)
    ready_file: Path | None = READY_FILE.default
    spool: Path | None = SPOOL.default
    node_name: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """Facts about the started service, for the startup message.

    Attributes:
        url: The URL to open.
        facts: The content of the ready file.
        root: The data root.
        datasets: The datasets below the data root.
        notes: Problems of the token file, a sentence each.
    """

    url: str
    facts: dict[str, object]
    root: Path
    datasets: list[str]
    notes: list[str]


def serve(settings: ServeSettings, on_started: Callable[[Started], None]) -> int:
    """Serve until a signal to stop.

    Args:
        settings: The settings of the service.
        on_started: Called once, when the service answers requests.

    Returns:
        The exit code of the process.

    Raises:
        StartError: The data root, the address, or one of the paths is not usable.
    """
    # Before any thread is started: one that does not block them would be stopped by them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _check_ready_file(settings.ready_file)
    warn_about_file_limit(settings.limits)
    with (
        _listening(settings) as listening,
        _shared_cache_directory() as shelf,
        watch_tokens(settings.app.token_file) as watch,
        _one_writer(settings, listening, shelf) as (link, run_writer),
    ):
        tokens = watch.tokens if watch else None
        writer = None if link is None else RemoteWriter(link, PARKED_BYTES)
        names = names_of(listening, settings.allowed_hosts)
        web = replace(settings.app, shelf=shelf, host_names=names)
        app: Application = create_app(web, tokens, writer)
        if settings.trusted_proxy:
            app = TrustedProxies(app, settings.trusted_proxy)
        data_root = DataRoot(settings.app.root, follow_symlinks=settings.app.follow_symlinks)
        admission = Admission(
            tokens,
            writer,
            settings.app.max_body_bytes,
            has_ui=settings.app.ui is not None,
            base_path=settings.app.base_path,
            public=public_paths(with_metrics=settings.app.metrics_public),
        )
        spool = Spool(settings.spool or shelf, data_root)
        if settings.spool is not None:
            spool.check()
        uploads = Uploads(admission.admit, spool, admission.beside)
        _warn_about_hidden_paths(data_root, tokens=settings.app.token_file is not None)
        if settings.ready_file is not None:  # it may be left by a service that died
            settings.ready_file.unlink(missing_ok=True)
        url, facts = address_facts(listening, settings.host, settings.unix_socket)
        facts |= {"node": settings.node_name or socket.gethostname(), "pid": os.getpid()}
        notes = watch.notes if watch else []
        started = Started(url, facts, data_root.root, data_root.datasets(), notes)
        gc.freeze()  # keeps the memory shared that workers have in common with this process
        supervisor = Supervisor(
            partial(_work, app, listening, settings.limits, link, uploads),
            settings.workers,
            settings.limits.drain_s + 5,
            prepare=_load_shared,
            pause=watch.paused if watch else nullcontext,
            writer=run_writer,
        )
        try:
            return supervisor.run(lambda: _report_ready(settings.ready_file, started, on_started))
        finally:
            if settings.ready_file is not None:
                settings.ready_file.unlink(missing_ok=True)


def _work(
    app: Callable[..., Any],
    listening: socket.socket,
    limits: Limits,
    link: WriterLink | None,
    uploads: Uploads,
    on_ready: Callable[[], None],
    on_response: Callable[[], None],
) -> None:
    if link is not None:
        link.open()
    run_worker(app, listening, limits, on_ready, on_response, load_all, uploads)


@contextmanager
def _one_writer(
    settings: ServeSettings, listening: socket.socket, shelf: Path | None
) -> Iterator[tuple[WriterLink | None, Callable[[], None] | None]]:
    """Return the link to the process that makes all changes, and what that process runs."""
    if settings.app.read_only:
        yield None, None
        return
    file_writer = create_writer(replace(settings.app, shelf=shelf))
    jobs = WriteJobs(file_writer)
    door, outside = socket_pair()
    link = WriterLink(outside)

    def run() -> None:
        listening.close()  # it has no clients, and must not keep the address when the others end
        queues = FileQueues(jobs.work)
        writer = Writer(door, address_of, queues, settings.limits.queue, jobs.note)
        signal.signal(signal.SIGTERM, lambda *_: writer.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal, it is for the supervisor
        with file_writer.running():
            writer.run()

    with door, outside:
        yield link, run


def _load_shared() -> None:
    """Import what the first requests need, before all workers but the first are forked."""
    load_all()
    gc.freeze()


@contextmanager
def _shared_cache_directory() -> Iterator[Path | None]:
    """Create a temporary directory for the cache that the workers share."""
    try:
        directory = TemporaryDirectory(prefix="neurotrale-", ignore_cleanup_errors=True)
    except OSError as error:
        log.warning("workers share no cache, because no temporary directory can be made: %s", error)
        yield None
        return
    with directory as name:
        (counts := Path(name, "metrics")).mkdir()
        metrics.enable(counts)
        yield Path(name)


def _listening(settings: ServeSettings) -> AbstractContextManager[socket.socket]:
    if settings.unix_socket is not None:
        return unix_socket(settings.unix_socket)
    return closing(open_socket(settings.host, settings.port))


def _report_ready(
    path: Path | None, started: Started, on_started: Callable[[Started], None]
) -> None:
    if path is not None:
        umask = os.umask(0o077)  # only the owner may know where the service listens
        try:
            replace_file(path, [json.dumps(started.facts).encode() + b"\n"])
        finally:
            os.umask(umask)
    on_started(started)


def _check_ready_file(path: Path | None) -> None:
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise StartError(
            f"The ready file {path} cannot be written: {path.parent} is not a directory that this"
            " user can write to. Choose another path with --ready-file."
        )


def _warn_about_hidden_paths(data_root: DataRoot, *, tokens: bool) -> None:
    for name, is_hidden, reason in (
        ("api", True, "/api/ is the documentation"),
        ("token", tokens, "URLs with a token begin with /token/"),
    ):
        if is_hidden and (data_root.root / name).exists():
            log.warning("%s/%s is not served: %s. Rename it.", data_root.root, name, reason)
