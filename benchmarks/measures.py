"""Each line of the table of targets: both sides measured in turn, on the same machine."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.data import (
    chunk_names,
    write_annotations,
    write_entries,
    write_volumes,
)
from benchmarks.load import median_ratio, requests_per_second
from benchmarks.servers import naive, neurotrale, nginx
from benchmarks.stack import ingest_rate, plain_rate, write_stack

WORKERS = 2
INGEST_ROUNDS = 2


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: What was measured.
        ours: With its unit.
        theirs: The other side, with its unit; "" when there is none.
        value: What the target is about: a ratio, or a figure.
        target: What it should reach.
        at_least: Whether the target is a least or a most.
        unit: Of the value; "x" for a ratio.
    """

    what: str
    ours: str
    theirs: str
    value: float
    target: float
    at_least: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Setting:
    """Where and how long to measure."""

    place: Path
    seconds: int
    rounds: int

    def pairs(
        self, ours: Callable[[], float], theirs: Callable[[], float]
    ) -> tuple[float, float, float]:
        """Measure both sides in turn; give the medians and the median ratio."""
        ours(), theirs()  # warm-up: the file cache, the segments that are remembered
        return median_ratio([(ours(), theirs()) for _ in range(self.rounds)])


def chunk_throughput(setting: Setting) -> Iterator[Result]:
    """Measure chunks per second against the naive service, nginx, and a single worker."""
    root = setting.place / "volumes"
    write_volumes(root)
    paths = {
        layout: [f"/{layout}/1_1_1/{name}" for name in chunk_names()]
        for layout in ("pages", "single", "uncompressed")
    }

    def asking(url: str, wanted: list[str]) -> Callable[[], float]:
        return lambda: requests_per_second(url, wanted, setting.place, setting.seconds)

    with neurotrale(root, WORKERS) as (ours, _):
        with naive(root, WORKERS) as theirs:
            for layout, name, target in (
                ("pages", "precomputed-tif layout", 20),
                ("single", "one segment a chunk", 80),
            ):
                mine, other, ratio = setting.pairs(
                    asking(ours, paths[layout]), asking(theirs, paths[layout])
                )
                yield Result(
                    f"chunks, {name}, against naive", _per_s(mine), _per_s(other), ratio, target
                )
        with nginx(root, WORKERS) as theirs:
            for layout, name in (("single", "passed through"), ("uncompressed", "uncompressed")):
                files = [f"{path}.tiff" for path in paths[layout]]
                mine, other, ratio = setting.pairs(
                    asking(ours, paths[layout]), asking(theirs, files)
                )
                yield Result(
                    f"chunks, {name}, against nginx", _per_s(mine), _per_s(other), ratio, 0.4
                )
        with neurotrale(root, 1) as (single, _):
            mine, other, ratio = setting.pairs(
                asking(ours, paths["pages"]), asking(single, paths["pages"])
            )
            yield Result("2 workers against 1", _per_s(mine), _per_s(other), ratio, 1.8)


def chunk_memory(setting: Setting) -> Iterator[Result]:
    """Measure a worker's memory and open files over 10,000 chunks."""
    root = setting.place / "volumes"
    paths = [f"/pages/1_1_1/{name}" for name in chunk_names()]
    with neurotrale(root, 1) as (url, pid):
        (worker,) = _children(pid)
        with _connection(url) as connection:
            _ask_all(connection, paths * 16)
            early, early_files = _memory_mb(worker), len(os.listdir(f"/proc/{worker}/fd"))
            _ask_all(connection, paths * 160)
            late, late_files = _memory_mb(worker), len(os.listdir(f"/proc/{worker}/fd"))
    yield Result(
        "worker after 11,000 chunks", f"{late:.0f} MB", "", late, 150, at_least=False, unit="MB"
    )
    yield Result(
        "its growth over 10,000 of them",
        f"{late - early:.1f} MB, {late_files - early_files} files",
        "",
        late - early,
        10,
        at_least=False,
        unit="MB",
    )


def patching(setting: Setting) -> Iterator[Result]:
    """Measure a PATCH in a file of 100+ MB against load, dump with indent 3, write."""
    root = setting.place / "annotated"
    path = root / "brain" / "annotations" / "x0y0z0" / "fibers.json"
    write_annotations(path)
    size_mb = path.stat().st_size / 1e6
    plain = []
    for number in range(2):
        started = time.perf_counter()
        fibers = json.loads(path.read_text())
        fibers[number]["reviewed"] = True
        (setting.place / "plain.json").write_text(json.dumps(fibers, indent=3))
        plain.append(time.perf_counter() - started)
    del fibers
    url_path = "/brain/annotations/x0y0z0/fibers.json"
    cold, warm, peaks = [], [], []
    for number in range(3):
        with neurotrale(root, 1) as (url, pid), _connection(url) as connection:
            (worker,) = _children(pid)
            connection.request("GET", "/api/health")
            connection.getresponse().read()
            idle = _memory_mb(worker)
            times = [_patch(connection, url_path, 1000 + 10 * number + i) for i in range(5)]
            cold.append(times[0])
            warm += times[1:]
            peaks.append((_peak_mb(worker) - idle) / size_mb)
    theirs = statistics.median(plain)
    for name, ours, target in (("warm", warm, 40), ("cold", cold, 12)):
        mine = statistics.median(ours)
        yield Result(
            f"PATCH in {size_mb:.0f} MB, {name}",
            f"{mine:.2f} s",
            f"{theirs:.1f} s",
            theirs / mine,
            target,
        )
    peak = max(peaks)
    yield Result("its memory, in file sizes", f"{peak:.1f}", "", peak, 3, at_least=False, unit="F")


def listing(setting: Setting) -> Iterator[Result]:
    """Measure the first byte of a page of 100,000 entries, and the memory it takes."""
    root = setting.place / "listed"
    write_entries(root / "many")
    with neurotrale(root, 1) as (url, pid):
        (worker,) = _children(pid)
        firsts = []
        for _ in range(5):
            with _connection(url) as connection:
                before = _memory_mb(worker)
                started = time.perf_counter()
                connection.request("GET", "/many/")
                response = connection.getresponse()
                response.read(1)
                firsts.append(time.perf_counter() - started)
                response.read()
        grown = _peak_mb(worker) - before
    first = statistics.median(firsts)
    yield Result(
        "first byte of 100,000 entries", f"{first:.3f} s", "", first, 0.2, at_least=False, unit="s"
    )
    yield Result("memory for them", f"{grown:.0f} MB", "", grown, 20, at_least=False, unit="MB")


def ingesting(setting: Setting) -> Iterator[Result]:
    """Measure how fast a stack becomes a data set, against precomputed-tif's way of doing it."""
    place = setting.place / "ingesting"
    pattern = write_stack(place / "planes")
    pairs = []
    for number in range(INGEST_ROUNDS):
        ours, theirs = place / f"ours-{number}", place / f"theirs-{number}"
        pairs.append((ingest_rate(pattern, ours), plain_rate(pattern, theirs)))
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
    mine, other, ratio = median_ratio(pairs)
    yield Result("stack to data set, per core", f"{mine:.0f} MB/s", f"{other:.0f} MB/s", ratio, 3)


ALL = (chunk_throughput, chunk_memory, patching, listing, ingesting)


def _patch(connection: http.client.HTTPConnection, path: str, number: int) -> float:
    body = json.dumps({"type": "linestring", "points": [[1.5, 2, 3], [4, 5, 6]], "reviewed": True})
    started = time.perf_counter()
    connection.request("PATCH", f"{path}?id={number:040x}", body)
    response = connection.getresponse()
    response.read()
    assert response.status == 200, response.status
    return time.perf_counter() - started


@contextmanager
def _connection(url: str) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    try:
        yield connection
    finally:
        connection.close()


def _ask_all(connection: http.client.HTTPConnection, paths: list[str]) -> None:
    for path in paths:
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        connection.getresponse().read()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _memory_mb(pid: int) -> float:
    return _status_mb(pid, "VmRSS")


def _peak_mb(pid: int) -> float:
    return _status_mb(pid, "VmHWM")


def _status_mb(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(key)


def _per_s(rate: float) -> str:
    return f"{rate:.0f} /s"
