"""Clients that follow an annotation file, and what they cost while nothing happens."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.data import chunk_names, write_volumes
from benchmarks.load import median_ratio, requests_per_second
from benchmarks.measures import MANY_WORKERS, WORKERS, Result, Setting
from benchmarks.servers import neurotrale

POLLERS = 1000
INTERVAL_S = 2.0
ROUNDS_OF_POLLERS = 5
FILE = "/brain/annotations/x0y0z0/fibers.json"
SETTLED_S = 3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def polling(setting: Setting) -> Iterator[Result]:
    """Measure polls without news against health, and a thousand pollers beside chunks."""
    root = setting.directory / "polled"
    path = root / FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    write_volumes(root)
    with neurotrale(root, WORKERS) as (url, _):
        poll = _Poll(url)
        pairs = []
        for _ in range(setting.rounds + 1):
            polls = requests_per_second(
                url, [poll.path], setting.directory, setting.seconds, {"If-None-Match": poll.tag}
            )
            health = requests_per_second(url, ["/api/health"], setting.directory, setting.seconds)
            pairs.append((polls, health))
        mine, other, ratio = median_ratio(pairs[1:])
        yield Result("polls without news, against health", _per_s(mine), _per_s(other), ratio, 0.6)
    chunks = [f"/single/1_1_1/{name}" for name in chunk_names()]
    with neurotrale(root, MANY_WORKERS) as (url, pid):
        poll = _Poll(url)
        idle = asyncio.run(_poll_all(poll, pid))
        yield Result(
            f"{POLLERS} pollers, of one core",
            f"{idle.cores:.0%}, p99 {idle.p99_ms:.0f} ms",
            "",
            idle.cores * 100,
            50,
            at_least=False,
            unit="%",
        )
        beside = []
        seconds = int(INTERVAL_S * ROUNDS_OF_POLLERS)
        for _ in range(setting.rounds):
            alone = requests_per_second(url, chunks, setting.directory, seconds)
            with ThreadPoolExecutor(1) as pool:
                polled = pool.submit(asyncio.run, _poll_all(poll, pid))
                both = requests_per_second(url, chunks, setting.directory, seconds)
                latency = polled.result().p99_ms
            beside.append((both, alone, latency))
        mine, other, ratio = median_ratio([(both, alone) for both, alone, _ in beside])
        p99 = statistics.median(latency for *_, latency in beside)
        yield Result(
            f"chunks beside them (p99 {p99:.0f} ms)", _per_s(mine), _per_s(other), ratio, 0.6
        )


class _Poll:
    """A poll for which nothing is new.

    Args:
        url: The service.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 0
        connection = http.client.HTTPConnection(self.host, self.port)
        body = json.dumps({"type": "point", "point": [1, 2, 3]})
        connection.request("PATCH", f"{FILE}?id=a", body)
        connection.getresponse().read()
        time.sleep(SETTLED_S)
        connection.request("GET", f"{FILE}/changes")
        last = json.load(connection.getresponse())["last"]
        self.path = f"{FILE}/changes?since={last}"
        connection.request("GET", self.path)
        response = connection.getresponse()
        response.read()
        self.tag = response.headers["ETag"]
        connection.close()

    @property
    def request(self) -> bytes:
        head = f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
        return f"{head}If-None-Match: {self.tag}\r\n\r\n".encode()


class _Polled:
    """What pollers saw, and what they cost.

    Attributes:
        cores: The processors that the service used meanwhile.
        p99_ms: How long 99 % of the answers took at most.
    """

    def __init__(self, cores: float, latencies: list[float]) -> None:
        self.cores = cores
        self.p99_ms = 1000 * statistics.quantiles(latencies, n=100)[98]


async def _poll_all(poll: _Poll, pid: int) -> _Polled:
    """Let all pollers poll every other second, each on its own connection."""
    latencies: list[float] = []
    connected = asyncio.Semaphore(50)
    begin = asyncio.Event()

    async def live(number: int) -> None:
        async with connected:
            reader, writer = await asyncio.open_connection(poll.host, poll.port)
        waiting.discard(number)
        await begin.wait()
        await asyncio.sleep(INTERVAL_S * number / POLLERS)
        for _ in range(ROUNDS_OF_POLLERS):
            started = time.perf_counter()
            writer.write(poll.request)
            head = await reader.readuntil(b"\r\n\r\n")
            taken = time.perf_counter() - started
            if not head.startswith(b"HTTP/1.1 304"):
                raise RuntimeError(f"a poll was answered with {head[:100]!r}")
            latencies.append(taken)
            await asyncio.sleep(max(0.0, INTERVAL_S - taken))
        writer.close()

    waiting = set(range(POLLERS))
    async with asyncio.TaskGroup() as group:
        for number in range(POLLERS):
            group.create_task(live(number))
        while waiting:
            await asyncio.sleep(0.05)
        before, started = _cpu_s(pid), time.perf_counter()
        begin.set()
    cores = (_cpu_s(pid) - before) / (time.perf_counter() - started)
    return _Polled(cores, latencies)


def _cpu_s(pid: int) -> float:
    """Return how long a service has used a processor, with all of its processes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for process in (pid, *children):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])  # utime and stime
    return total / TICKS_PER_S


def _per_s(rate: float) -> str:
    return f"{rate:.0f} /s"
