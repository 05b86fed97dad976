"""The benchmarks: both sides are measured alternately, on the same machine."""

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
    contours,
    load_and_dump,
    write_annotations,
    write_entries,
    write_volumes,
)
from benchmarks.load import median_ratio, requests_per_second
from benchmarks.servers import naive, neurotrale, nginx
from benchmarks.stack import ingest_rate, plain_rate, write_stack

WORKERS = 2
INGEST_ROUNDS = 2
PATCH_ROUNDS = 25
SAVE_ROUNDS = 40
VIEWER = {"Origin": "http://localhost", "Content-Type": "text/plain;charset=UTF-8"}
MANY_WORKERS = 10


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        name: The quantity that was measured.
        ours: Our value, with its unit.
        theirs: The value of the other side, with its unit; "" when there is none.
        value: The value to compare with the target: a ratio, or our value.
        target: The target for `value`.
        at_least: Whether the target is a minimum, and not a maximum.
        unit: The unit of `value`; "x" for a ratio.
    """

    name: str
    ours: str
    theirs: str
    value: float
    target: float
    at_least: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Setting:
    """The working directory and the duration of the benchmarks."""

    directory: Path
    seconds: int
    rounds: int

    def pairs(
        self, ours: Callable[[], float], theirs: Callable[[], float]
    ) -> tuple[float, float, float]:
        """Measure both sides alternately; return the medians and the median ratio."""
        ours(), theirs()  # warm-up: fills the page cache, and the cache of segments
        return median_ratio([(ours(), theirs()) for _ in range(self.rounds)])


def chunk_throughput(setting: Setting) -> Iterator[Result]:
    """Measure chunks per second against the naive service, nginx, and a single worker."""
    root = setting.directory / "volumes"
    write_volumes(root)
    paths = {
        layout: [f"/{layout}/1_1_1/{name}" for name in chunk_names()]
        for layout in ("pages", "single", "uncompressed")
    }

    def load_of(url: str, requested: list[str]) -> Callable[[], float]:
        return lambda: requests_per_second(url, requested, setting.directory, setting.seconds)

    with neurotrale(root, WORKERS) as (ours, _):
        with naive(root, WORKERS) as theirs:
            for layout, name, target in (
                ("pages", "precomputed-tif layout", 20),
                ("single", "one segment per chunk", 80),
            ):
                mine, other, ratio = setting.pairs(
                    load_of(ours, paths[layout]), load_of(theirs, paths[layout])
                )
                yield Result(
                    f"chunks, {name}, against naive", _per_s(mine), _per_s(other), ratio, target
                )
        with nginx(root, WORKERS) as theirs:
            for layout, name in (("single", "passed through"), ("uncompressed", "uncompressed")):
                files = [f"{path}.tiff" for path in paths[layout]]
                mine, other, ratio = setting.pairs(
                    load_of(ours, paths[layout]), load_of(theirs, files)
                )
                yield Result(
                    f"chunks, {name}, against nginx", _per_s(mine), _per_s(other), ratio, 0.4
                )
        with neurotrale(root, 1, cores=1) as (single, _):
            mine, other, ratio = setting.pairs(
                load_of(ours, paths["pages"]), load_of(single, paths["pages"])
            )
            name = "2 workers on 2 cores against 1 on 1"
            yield Result(name, _per_s(mine), _per_s(other), ratio, 1.8)


def chunk_memory(setting: Setting) -> Iterator[Result]:
    """Measure the memory and open files of a worker over 10,000 chunks."""
    root = setting.directory / "volumes"
    paths = [f"/pages/1_1_1/{name}" for name in chunk_names()]
    with neurotrale(root, 1) as (url, pid):
        (worker,) = _children(pid)
        with _connection(url) as connection:
            _request_all(connection, paths * 16)
            early, early_files = _memory_mb(worker), len(os.listdir(f"/proc/{worker}/fd"))
            _request_all(connection, paths * 160)
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
    """Measure a PATCH in a file of 100+ MB against load, dump with indent 3, write, flush."""
    root = setting.directory / "annotated"
    path = root / "brain" / "annotations" / "x0y0z0" / "fibers.json"
    write_annotations(path)
    size_mb = path.stat().st_size / 1e6
    url_path = "/brain/annotations/x0y0z0/fibers.json"
    plain, cold, warm, peaks = [], [], [], []
    with neurotrale(root, 1) as (url, _), _connection(url) as connection:
        _patch(connection, url_path, 900)  # leaves an index for the next start
    for number in range(3):
        plain.append(load_and_dump(path, setting.directory / "plain.json", number))
        with neurotrale(root, 1) as (url, pid), _connection(url) as connection:
            processes = (*_children(pid), *_children(pid, "writer"))
            connection.request("GET", "/api/health")
            connection.getresponse().read()
            idle = sum(map(_memory_mb, processes))
            times = [_patch(connection, url_path, 1000 + 10 * number + i) for i in range(5)]
            cold.append(times[0])
            warm += times[1:]
            peaks.append((sum(map(_peak_mb, processes)) - idle) / size_mb)
    theirs = statistics.median(plain)
    for name, ours, target in (("warm", warm, 60), ("the first after a start", cold, 25)):
        mine = statistics.median(ours)
        yield Result(
            f"PATCH in {size_mb:.0f} MB, {name}",
            f"{mine:.2f} s",
            f"{theirs:.1f} s",
            theirs / mine,
            target,
        )
    peak = max(peaks)
    yield Result("its memory, in file sizes", f"{peak:.1f}", "", peak, 1, at_least=False, unit="F")
    many, one = _patches_of_many_workers_and_one(setting.directory, path, url_path)
    ratio = many / one
    name = f"PATCH through {MANY_WORKERS} workers against one"
    yield Result(name, f"{many:.2f} s", f"{one:.2f} s", ratio, 1.3, at_least=False)


def _patches_of_many_workers_and_one(
    directory: Path, annotations: Path, url_path: str
) -> tuple[float, float]:
    """Return the median times of a PATCH on a new connection, taken in turns."""
    roots = [directory / f"patched-{number}" for number in range(2)]
    times: list[list[float]] = [[], []]
    for root in roots:
        path = root / url_path.lstrip("/")
        path.parent.mkdir(parents=True)
        shutil.copyfile(annotations, path)
    with neurotrale(roots[0], MANY_WORKERS) as (many, _), neurotrale(roots[1], 1) as (one, _):
        for number in range(PATCH_ROUNDS):
            # Either goes first as often: what one leaves in memory makes the other slower.
            for url, taken in list(zip((many, one), times, strict=True))[:: 1 - number % 2 * 2]:
                with _connection(url) as connection:
                    taken.append(_patch(connection, url_path, 2000 + number))
    for root in roots:
        shutil.rmtree(root)
    # The first one of each reads the file into memory.
    many_s, one_s = (statistics.median(taken[1:]) for taken in times)
    return many_s, one_s


def saving(setting: Setting) -> Iterator[Result]:
    """Measure the saves of a drag, each of the whole file, against load, dump, write and sync."""
    root = setting.directory / "saved"
    plain = setting.directory / "plain-save.json"
    for count, target in ((5000, 2.7), (500, 1.5)):
        url_path = f"/brain/annotations/x0y0z0/z-{count:04d}.json"
        path = root / url_path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        view = contours(count)
        path.write_text(json.dumps(view, indent=1))
        view.sort(key=lambda one: str(one["anntype"]))  # as the viewer groups them
        moved = view[count // 2]["points"][3]
        ours, theirs = [], []
        with neurotrale(root, MANY_WORKERS) as (url, _), _connection(url) as connection:
            connection.request("GET", url_path, headers=VIEWER)
            connection.getresponse().read()
            for _ in range(SAVE_ROUNDS):
                moved[0] += 1.25
                body = json.dumps(view, separators=(",", ":")).encode()
                ours.append(_save(connection, url_path, body))
                theirs.append(_save_plainly(plain, body))
        # The first one finds a file that is spelled in another way.
        mine, other, ratio = median_ratio(list(zip(ours[1:], theirs[1:], strict=True)))
        yield Result(
            f"save of {count} contours ({len(body) / 1e6:.1f} MB) in a drag",
            f"{mine * 1e3:.0f} ms",
            f"{other * 1e3:.0f} ms",
            1 / ratio,
            target,
        )


def _save(connection: http.client.HTTPConnection, path: str, body: bytes) -> float:
    started = time.perf_counter()
    connection.request("PUT", path, body, VIEWER)
    response = connection.getresponse()
    response.read()
    assert response.status == 200, response.status
    return time.perf_counter() - started


def _save_plainly(path: Path, body: bytes) -> float:
    started = time.perf_counter()
    with path.open("w") as file:
        file.write(json.dumps(json.loads(body)))
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def listing(setting: Setting) -> Iterator[Result]:
    """Measure the first byte of a page of 100,000 entries, and the memory it takes."""
    root = setting.directory / "listed"
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
    """Measure how fast a stack becomes a dataset, against precomputed-tif's way of doing it."""
    directory = setting.directory / "ingesting"
    pattern = write_stack(directory / "planes")
    pairs = []
    for number in range(INGEST_ROUNDS):
        ours, theirs = directory / f"ours-{number}", directory / f"theirs-{number}"
        pairs.append((ingest_rate(pattern, ours), plain_rate(pattern, theirs)))
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
    mine, other, ratio = median_ratio(pairs)
    yield Result("stack to dataset, per core", f"{mine:.0f} MB/s", f"{other:.0f} MB/s", ratio, 3)


ALL = (chunk_throughput, chunk_memory, patching, saving, listing, ingesting)


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


def _request_all(connection: http.client.HTTPConnection, paths: list[str]) -> None:
    for path in paths:
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        connection.getresponse().read()


def _children(pid: int, name: str = "worker") -> list[int]:
    """The processes of a service that have a name; its writer makes all changes."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    children = [int(child) for child in text.split()]
    return [one for one in children if Path(f"/proc/{one}/comm").read_text().strip() == name]


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
