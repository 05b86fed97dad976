"""Counts of what the service does, in the format of Prometheus.

Nothing is counted before `enable`, so that commands that do not serve never import the library. All
processes of a service count into files of their own in one directory, and whichever is asked adds
them up.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "neurotrale"

# Name, description and labels.
_COUNTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("requests", "Requests that were answered.", ("route", "method", "status")),
    ("response_bytes", "Bytes of the bodies of responses.", ("route",)),
    ("process_deaths", "Processes of the service that died.", ("process",)),
    ("journal_bytes", "Bytes that were appended to journals.", ()),
    ("held_removals", "Removals that were held back.", ()),
    ("cache_lookups", "Look-ups in caches.", ("cache", "result")),
)
_TIMES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("request_seconds", "Time from the start of a request to the end of its answer.", ("route",)),
    ("lock_wait_seconds", "Time until the lock of an annotation file was held.", ()),
)
_PARKED = ("parked_requests", "Requests that wait for their write without a thread.")

FILE_BYTES = 2**18  # for all routes, methods and statuses

_instruments: dict[str, Any] = {}
_directory = Path()
_process = ""


def enable(directory: Path) -> None:
    """Count from now on, in this process and in those that are forked from it.

    Args:
        directory: An empty directory that only this service uses.
    """
    global _directory
    _directory = directory
    os.environ[_VARIABLE] = str(directory)  # where the library looks for it
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

    if not begin_process("supervisor"):
        return
    values.ValueClass = values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call]
    own = CollectorRegistry()  # what is told comes from the files
    for name, text, labels in _COUNTERS:
        _instruments[name] = Counter(name, text, labels, _PREFIX, registry=own)
    for name, text, labels in _TIMES:
        _instruments[name] = Histogram(name, text, labels, _PREFIX, registry=own, buckets=_SECONDS)
    name, text = _PARKED
    _instruments[name] = Gauge(name, text, (), _PREFIX, registry=own, multiprocess_mode="livesum")
    _of.cache_clear()


def begin_process(name: str) -> bool:
    """Count in this process under a name, on top of what was counted under it.

    Args:
        name: No other living process of the service has it, so that there are few files.

    Returns:
        Whether there is room for the counts; without it, this process counts nothing.
    """
    global _process
    _process = name
    if _directory == Path():
        return False
    try:
        for kind in ("counter", "histogram", "gauge_livesum"):
            _allocate(_directory / f"{kind}_{name}.db")
    except OSError as error:
        _instruments.clear()
        log.warning("%s counts nothing: %s", name, error)
        return False
    return True


def _allocate(path: Path) -> None:
    """Make room for counts: without it, a full disk would kill the process that counts."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size == 0:
            os.posix_fallocate(descriptor, 0, FILE_BYTES)
    finally:
        os.close(descriptor)


def is_enabled() -> bool:
    """Return whether anything is counted."""
    return bool(_instruments)


def exposition() -> bytes:
    """Return all counts of all processes of the service."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(_directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def count_response(route: str, method: str, status: str, size: int, seconds: float) -> None:
    """Count a response.

    Args:
        route: The path as the API documentation shows it; "" if none matched.
        method: The method; "" if the request was malformed.
        status: Three digits.
        size: The size of the body in bytes.
        seconds: How long it took.
    """
    if _instruments:
        _of("requests", route, method if method in _METHODS else "other", status).inc()
        _of("response_bytes", route).inc(size)
        _of("request_seconds", route).observe(seconds)
        for lookups in _lookups:
            lookups.tell()


_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS"})


def count_parked(change: int) -> None:
    """Count a request that is parked (1), or that is taken up again (-1)."""
    if _instruments:
        _of("parked_requests").inc(change)


def count_lock_wait(seconds: float) -> None:
    """Count the time that a write waited for the lock of its file."""
    if _instruments:
        _of("lock_wait_seconds").observe(seconds)


def count_journal(size: int) -> None:
    """Count bytes that were appended to a journal."""
    if _instruments:
        _of("journal_bytes").inc(size)


def count_held(removals: int) -> None:
    """Count removals that were held back."""
    if _instruments:
        _of("held_removals").inc(removals)


def count_death(kind: str, name: str) -> None:
    """Count a process that died, and forget what it alone was busy with.

    Args:
        kind: ``worker`` or ``writer``.
        name: The name that it counted under.
    """
    if _instruments:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(name)  # type: ignore[no-untyped-call]
        _of("process_deaths", kind).inc()


class Lookups:
    """Look-ups in a cache, which are counted with the next response: they are too many to tell.

    Args:
        cache: The name of the cache; those of one without a name are not counted.
    """

    def __init__(self, cache: str) -> None:
        self.cache = cache
        self.hits = self.misses = 0
        if cache:
            _lookups.append(self)

    def tell(self) -> None:
        """Count those since the last time."""
        hits, misses = self.hits, self.misses
        if hits or misses:
            self.hits -= hits
            self.misses -= misses
            _of("cache_lookups", self.cache, "hit").inc(hits)
            _of("cache_lookups", self.cache, "miss").inc(misses)


_lookups: list[Lookups] = []


@lru_cache(4096)
def _of(name: str, *labels: str) -> Any:
    return _instruments[name].labels(*labels) if labels else _instruments[name]
