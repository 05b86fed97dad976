"""Tabs of NeuroTrALE's viewer as clients of a service: what they save, made from what they saw."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import requests

from tests.brains import PAGE, Annotation, Brain, compact
from tests.processes import children, eventually, state

KNOWN = ("id", "type", "anntype", "description", "reviewed", "visited", "length", "point", "points")


def float32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def loaded(annotation: Annotation) -> Annotation:
    """What the viewer keeps of an annotation: its own numbers, and the keys that it knows."""
    kept = {key: annotation[key] for key in KNOWN if key in annotation}
    if "point" in kept:
        kept["point"] = [float32(x) for x in kept["point"]]
    if "points" in kept:
        kept["points"] = [[float32(x) for x in vertex] for vertex in kept["points"]]
    if "length" in kept:
        kept["length"] = int(kept["length"])
    return {"visited": False, **kept}


@dataclass
class Tab:
    """A tab with one file open.

    Attributes:
        brain: The file.
        headers: What its browser sends; the service knows it by these alone.
        view: What it shows, by id.
    """

    brain: Brain
    headers: dict[str, str]
    view: dict[str, Annotation] = field(default_factory=dict)
    http: requests.Session = field(default_factory=requests.Session)

    @classmethod
    def named(cls, brain: Brain, agent: str) -> Tab:
        return cls(brain, {**PAGE, "User-Agent": f"Mozilla/5.0 ({agent})"})

    def load(self) -> None:
        answer = self.http.get(self.brain.url, headers=self.headers)
        found = answer.json() if answer.status_code == 200 else []
        self.view = {one["id"]: loaded(one) for one in found}

    def fail_to_load(self) -> None:
        """Load the file, but show nothing: the answer was broken behind the service."""
        self.http.get(self.brain.url, headers=self.headers)
        self.view = {}

    def look_at(self, leaf: str) -> None:
        """Ask for another file of the block."""
        url = self.brain.url.replace(self.brain.leaf, leaf)
        self.http.get(url, headers=self.headers)

    def duplicate(self) -> Tab:
        return replace(self, view=dict(self.view), http=requests.Session())

    def body(self) -> bytes:
        """The whole file as it is saved: grouped by type."""
        return compact(sorted(self.view.values(), key=lambda one: one.get("anntype", "")))

    def save(self, body: bytes | None = None) -> dict[str, Any]:
        answer = self.http.put(
            self.brain.url, data=self.body() if body is None else body, headers=self.headers
        )
        assert answer.status_code in (200, 201), answer.text
        answered: dict[str, Any] = answer.json()
        return answered

    def leave(self, leaf: str, rng: random.Random) -> None:
        """Go to another slice: the old one is saved with fewer types, and then empty."""
        self.look_at(leaf)
        types = sorted({one.get("anntype", "") for one in self.view.values()})
        rng.shuffle(types)
        for type_ in types:
            self.view = {i: one for i, one in self.view.items() if one.get("anntype", "") != type_}
            self.save()
        self.save(b"[]")
        self.view = {}


CONNECTIONS = 6  # of a browser


@contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    """Stop processes for a while; they go on one after the other."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(state(pid) == "T" for pid in processes), "stopped processes")
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.003)


def save_out_of_order(
    brain: Brain, headers: dict[str, str], bodies: list[bytes], seed: int
) -> None:
    """Save over six connections, in order; the workers of the service read them in another one."""
    rng = random.Random(seed)
    path = brain.url.removeprefix(brain.service.url)
    workers = children(brain.service.process.pid)
    connections = []
    for number in range(CONNECTIONS):  # each with a worker of its own
        others = [pid for pid in workers if pid != workers[number % len(workers)]]
        with stopped(others):
            connection = socket.create_connection(("127.0.0.1", brain.service.port))
            connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connections.append(connection)
    for start in range(0, len(bodies), CONNECTIONS):
        some = bodies[start : start + CONNECTIONS]
        rng.shuffle(workers)
        with stopped(workers):
            for connection, body in zip(connections, some, strict=False):
                lines = [f"PUT {path} HTTP/1.1", f"Host: 127.0.0.1:{brain.service.port}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                lines += [f"Content-Length: {len(body)}", "", ""]
                connection.sendall("\r\n".join(lines).encode() + body)
        for connection in connections[: len(some)]:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    for connection in connections:
        connection.close()


def pieces_of(content: bytes) -> dict[str, bytes]:
    """Cut a file into its annotations in order, without any of the code under test."""
    return {json.loads(item)["id"]: item for item in items_of(content)}


def items_of(content: bytes) -> list[bytes]:
    """Cut an array into the bytes of its items, by another reader than the one under test."""
    text, reader = content.decode(), json.JSONDecoder()
    items: list[bytes] = []
    assert isinstance(json.loads(text), list)
    at = text.index("[") + 1
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "]":
            return items
        _, end = reader.raw_decode(text, at)
        items.append(text[at:end].encode())
        at = end
