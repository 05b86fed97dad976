"""The benchmarks of datasets with very many blocks, and of layers with very many annotations."""

from __future__ import annotations

import http.client
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.measures import Result, Setting
from benchmarks.servers import neurotrale

BLOCKS = 100_000
CONTENTS = 100
FIBERS, FIBER_POINTS = 100_000, 20
REQUESTS = 10


def write_blocks(annotations: Path, count: int = BLOCKS) -> int:
    """Write blocks with a small file each; return the number of annotations.

    The files are written, not linked: each has a stamp of its own, as in a real dataset.
    """
    contents = [
        json.dumps(
            [
                {
                    "id": f"{number:020x}{row:020x}",
                    "type": "linestring",
                    "anntype": "axon",
                    "points": [[number + row, 1.5 * point, 2.25 * point] for point in range(6)],
                    "reviewed": row % 3 == 0,
                }
                for row in range(number % 5 + 1)
            ]
        ).encode()
        for number in range(CONTENTS)
    ]
    annotations.mkdir(parents=True)
    (annotations / "block_info.csv").write_text("50,50,50\n")
    for number in range(count):
        block = f"{annotations}/x{number % 50}y{number // 50 % 50}z{number // 2500}"
        os.mkdir(block)
        with open(f"{block}/fibers.json", "wb") as file:
            file.write(contents[number % CONTENTS])
    return sum(number % CONTENTS % 5 + 1 for number in range(count))


def write_line_strings(path: Path, count: int = FIBERS, points: int = FIBER_POINTS) -> None:
    """Write fibers that wander through a volume, in the layout of the original service."""
    rng = random.Random(7)
    fibers = []
    for number in range(count):
        at = [rng.uniform(0, 5000) for _ in range(3)]
        line = []
        for _ in range(points):
            at = [round(x + rng.uniform(-20, 20), 3) for x in at]
            line.append(at)
        fibers.append(
            {
                "id": f"{number:040x}",
                "type": "linestring",
                "anntype": "axon",
                "points": line,
                "length": 812.25,
                "reviewed": False,
                "visited": False,
            }
        )
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        json.dump(fibers, file, indent=3)


def many_blocks(setting: Setting) -> Iterator[Result]:
    """Measure the counts of a dataset of many blocks, and a search through all of them."""
    root = setting.directory / "many"
    annotations = root / "brain" / "annotations"
    count = write_blocks(annotations)
    about = "/api/datasets/brain"
    started = time.perf_counter()
    for block in sorted(os.listdir(annotations)):
        if block.startswith("x"):
            json.loads((annotations / block / "fibers.json").read_bytes())
    plain = time.perf_counter() - started
    with neurotrale(root, 1) as (url, _), closing(_connection(url)) as connection:
        meanwhile = _Meanwhile(url)
        started, answers = time.perf_counter(), []
        with meanwhile:
            while True:
                taken, told = _timed(connection, about)
                answers.append(taken)
                if told["annotations"]["counting"] is None:
                    break
                time.sleep(0.1)
        first = time.perf_counter() - started
        assert told["annotations"]["count"] == count, told
        again = [_timed(connection, about)[0] for _ in range(REQUESTS)]
        edited = []
        for number in range(REQUESTS):
            body = json.dumps({"type": "point", "point": [1, 2, 3]})
            path = f"/brain/annotations/x{number}y0z0/fibers.json?id=new"
            connection.request("PATCH", path, body)
            connection.getresponse().read()
            taken, told = _timed(connection, about)
            assert told["annotations"]["count"] == count + number + 1, told
            edited.append(taken)
        lines, ends = [], []
        for _ in range(3):
            started = time.perf_counter()
            connection.request("GET", "/brain/annotations/search")
            response = connection.getresponse()
            response.readline()
            lines.append(time.perf_counter() - started)
            response.read()
            ends.append(time.perf_counter() - started)
    name = f"{BLOCKS:,} blocks"
    yield _at_most(f"{name}, counted", first, 10, f"{plain:.1f} s")
    yield _at_most("its slowest answer until then", max(answers), 1)
    yield _at_most("another answer meanwhile, 99 %", meanwhile.most(0.99), 0.1)
    yield _at_most("the counts again", max(again), 1)
    yield _at_most("the counts after a PATCH", statistics.median(edited), 1)
    yield _at_most("first line of a search of all", statistics.median(lines), 1)
    yield _at_most("all lines", statistics.median(ends), 20, f"{plain:.1f} s")


def layer_opening(setting: Setting) -> Iterator[Result]:
    """Measure how fast a large file opens as a layer, in a worker that knows nothing of it."""
    root = setting.directory / "layers"
    path = root / "brain" / "annotations" / "x0y0z0" / "fibers.json"
    write_line_strings(path)
    size_mb = path.stat().st_size / 1e6
    plain, ours, others = [], [], []
    layer = "/brain/annotations/x0y0z0/fibers.json/layers/polylines"
    for _ in range(3):
        started = time.perf_counter()
        json.loads(path.read_bytes())
        plain.append(time.perf_counter() - started)
        with neurotrale(root, 1) as (url, _), closing(_connection(url)) as connection:
            _timed(connection, "/api/health")
            started = time.perf_counter()
            for part in ("info", "spatial0/0_0_0"):
                connection.request("GET", f"{layer}/{part}")
                connection.getresponse().read()
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            connection.request("GET", f"{layer}/spatial1/0_0_0")
            connection.getresponse().read()
            others.append(time.perf_counter() - started)
    loaded = f"{statistics.median(plain):.2f} s"
    name = f"{FIBERS:,} line strings ({size_mb:.0f} MB) as a layer"
    yield _at_most(name, statistics.median(ours), 1, loaded)
    yield _at_most("a further cell", statistics.median(others), 0.1)


ALL = (many_blocks, layer_opening)


class _Meanwhile:
    """Asks for something else, while it is entered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._times: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        with closing(_connection(self._url)) as connection:
            while not self._ended.wait(0.01):
                self._times.append(_timed(connection, "/api/health")[0])

    def most(self, share: float) -> float:
        """Return the time within which this share of the answers came."""
        return sorted(self._times)[int(share * (len(self._times) - 1))]


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)


def _timed(connection: http.client.HTTPConnection, path: str) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    connection.request("GET", path)
    body = connection.getresponse().read()
    taken = time.perf_counter() - started
    answer: dict[str, Any] = json.loads(body)
    return taken, answer


def _at_most(name: str, seconds: float, target: float, theirs: str = "") -> Result:
    shown = f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    return Result(name, shown, theirs, seconds, target, at_least=False, unit="s")
