"""The options of everything that starts the service; each stands here once.

Command line, environment, ``--help`` and the README's table all come from this list.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from neurotrale.app import AppSettings
from neurotrale.bundles import viewer_directory
from neurotrale.cli.announce import announce, batch_job
from neurotrale.errors import StartError
from neurotrale.server.run import ServeSettings
from neurotrale.server.run import serve as run_service
from neurotrale.server.worker import Limits

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_WORKERS = 10
LEVELS = ("debug", "info", "warning", "error")
# Loggers of others, and the least severity of theirs that is worth a line here.
QUIETER = {
    "filelock": logging.WARNING,
    "tifffile": logging.CRITICAL,  # what is wrong with a file, the answer to the client says better
    "waitress": logging.WARNING,  # less is about clients that went away
    "waitress.queue": logging.ERROR,  # less is about requests that wait for a thread
}


def default_workers() -> int:
    """Give the CPUs of the Slurm job that this runs in, else 10."""
    if "SLURM_JOB_ID" not in os.environ:
        return DEFAULT_WORKERS
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0))


def _origins(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    origins = tuple(dict.fromkeys(item.strip().rstrip("/") for item in value.split(",")))
    if origins == ("*",):
        return origins
    for origin in origins:
        scheme, found, host = origin.partition("://")
        if not found or scheme not in ("http", "https") or not host or "/" in host:
            raise click.BadParameter(
                f"{origin!r} is not an origin; expected '*' or a list such as"
                " 'https://lab.example.org,http://localhost:8080'."
            )
    return origins


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # it is neither below nor above the ends of a range
        raise click.BadParameter("not a number of seconds.")
    return value


def _host(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.strip():  # the system would listen on every interface
        raise click.BadParameter("it is empty; 0.0.0.0 means every interface.")
    return value


def _option(*names: str, env: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, envvar=env, show_envvar=True, show_default=True, **attributes)


SERVICE_OPTIONS = (
    _option("--host", env="NEUROTRALE_HOST", default="127.0.0.1", callback=_host,
            help="Address to listen on; 0.0.0.0 for every interface."),
    _option("--port", env="NEUROTRALE_PORT", type=click.IntRange(0, 65535), default=9000,
            help="Port to listen on; 0 takes a free one."),
    _option("--unix-socket", env="NEUROTRALE_UNIX_SOCKET",
            type=click.Path(path_type=Path), default=None,
            help="Listen on this Unix socket instead, which only you may connect to."),
    _option("--workers", env="NEUROTRALE_WORKERS", type=click.IntRange(1, 1024),
            default=default_workers,
            help="Processes that answer; the default is 10, in a Slurm job its CPUs."),
    _option("--threads", env="NEUROTRALE_THREADS", type=click.IntRange(1, 256), default=4,
            help="Requests that each worker answers at once."),
    _option("--connections", env="NEUROTRALE_CONNECTIONS", type=click.IntRange(1, 100_000),
            default=500, help="Connections that each worker keeps open."),
    _option("--queue", env="NEUROTRALE_QUEUE", type=click.IntRange(1, 100_000), default=64,
            help="Requests that may wait in each worker; further ones get 503 and try again."),
    _option("--read-only", env="NEUROTRALE_READ_ONLY", is_flag=True, default=False,
            help="Refuse every change."),
    _option("--follow-symlinks", env="NEUROTRALE_FOLLOW_SYMLINKS", is_flag=True, default=False,
            help="Serve what symbolic links point to outside the data root, too."),
    _option("--token-file", env="NEUROTRALE_TOKEN_FILE",
            type=click.Path(dir_okay=False, path_type=Path), default=None,
            help="Answer only those who have a token of this file (see 'neurotrale token')."),
    _option("--ui", env="NEUROTRALE_UI", type=click.Path(file_okay=False, path_type=Path),
            default=None,
            help="Directory of a built NeuroTrALE UI, to be served at /ui/ beside the viewer."),
    _option("--cors-origins", env="NEUROTRALE_CORS_ORIGINS", default="*", callback=_origins,
            help="Origins of the pages that may call the service: '*' or a comma-separated list."),
    _option("--max-body-mb", env="NEUROTRALE_MAX_BODY_MB", type=click.IntRange(1, 1_000_000),
            default=1024, help="Largest annotation file that is taken, in MiB."),
    _option("--lock-timeout", env="NEUROTRALE_LOCK_TIMEOUT", type=click.FloatRange(0.0, 600.0),
            callback=_number, default=10.0, help="Seconds that a writer waits for its turn."),
    _option("--lock", env="NEUROTRALE_LOCK",
            type=click.Choice(("auto", "flock", "strict", "none")), default="auto",
            help="How writers are kept apart; auto chooses by file system (see 'locks')."),
    _option("--guard", env="NEUROTRALE_GUARD", type=click.Choice(("browser", "all", "off")),
            default="browser",
            help="Whose saves may not remove several annotations at once: those of browser pages, "
            "all, or nobody's."),
    _option("--compress", env="NEUROTRALE_COMPRESS",
            type=click.Choice(("auto", "none", "gzip", "zstd")), default="auto",
            help="What to compress for clients that take it: with auto label volumes and "
            "annotations, which shrink many times over, not images, whose noise does not. Chunks "
            "that are stored compressed are passed on as they are in any case."),
    _option("--chunk-cache", env="NEUROTRALE_CHUNK_CACHE", type=click.IntRange(0, 31_536_000),
            default=0, help="Seconds that browsers may use their copy of a chunk without asking "
            "whether it is current; 0 makes them ask, which costs a short 304."),
    _option("--drain-timeout", env="NEUROTRALE_DRAIN_TIMEOUT", type=click.FloatRange(0.0, 3600.0),
            callback=_number, default=30.0,
            help="Seconds that requests in flight get after the signal to stop."),
    _option("--ready-file", env="NEUROTRALE_READY_FILE",
            type=click.Path(dir_okay=False, path_type=Path), default=None,
            help="JSON file with the URL, written once the service answers, removed at its end."),
    _option("--log-level", env="NEUROTRALE_LOG_LEVEL",
            type=click.Choice(LEVELS, case_sensitive=False), default="info",
            help="Least severity that is logged."),
    _option("--access-log/--no-access-log", env="NEUROTRALE_ACCESS_LOG", default=True,
            help="A line for every request: client, method, path, status, bytes, time."),
)  # fmt: skip


def service_options(command: F) -> F:
    """Give a command all the options of the service."""
    for option in reversed(SERVICE_OPTIONS):
        command = option(command)
    return command


def start(root: Path, options: dict[str, Any]) -> None:
    """Serve a data root as the options say, until a signal to stop; ends the process."""
    _set_up_logging(options["log_level"], access=options["access_log"])
    body_bytes = options["max_body_mb"] * 2**20
    settings = ServeSettings(
        app=AppSettings(
            root=root,
            read_only=options["read_only"],
            follow_symlinks=options["follow_symlinks"],
            cors_origins=options["cors_origins"],
            max_body_bytes=body_bytes,
            lock=options["lock"],
            lock_timeout_s=options["lock_timeout"],
            guard=options["guard"],
            compress=options["compress"],
            chunk_cache_s=options["chunk_cache"],
            token_file=options["token_file"],
            viewer=viewer_directory(),
            ui=options["ui"],
        ),
        host=options["host"],
        port=options["port"],
        unix_socket=options["unix_socket"],
        workers=options["workers"],
        limits=Limits(
            threads=options["threads"],
            connections=options["connections"],
            queue=options["queue"],
            body_bytes=body_bytes,
            drain_s=options["drain_timeout"],
        ),
        ready_file=options["ready_file"],
    )
    try:
        tell = partial(announce, job=batch_job(os.environ), token_file=options["token_file"])
        sys.exit(run_service(settings, tell))
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _set_up_logging(level: str, *, access: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name, least in QUIETER.items():
        logging.getLogger(name).setLevel(max(least, logging.root.level))
    logging.getLogger("neurotrale.access").disabled = not access
