"""The way of a request through the package: which of its files it enters, what it repeats."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from falcon.testing import create_environ

from neurotrale.annotations.handover import RemoteWriter, WriteJobs, address_of
from neurotrale.chunks.encode import encode_chunk
from neurotrale.server.threads import Job
from neurotrale.storage.names import check_name, split_path
from neurotrale.web.app import create_app, create_writer
from neurotrale.web.app_settings import AppSettings
from neurotrale.web.router import App
from tests.datasets import ANNOTATIONS, gradient, write_dataset
from tests.processes import REPOSITORY

PACKAGE = f"{REPOSITORY / 'neurotrale'}{os.sep}"

# How many of our files a request may enter once everything it needs is loaded and cached. A PATCH
# goes through two processes: its worker, and the writer, which opens all by descriptors, and splits
# what it compares and records into pieces.
MOST_OF_A_CHUNK = 10
MOST_OF_A_PATCH = 16
MOST_OF_A_WRITE = 30

# What writes an annotation file, or brings back what was in it: nothing for a request that reads.
WRITERS = {
    "annotations/batch.py",
    "annotations/handover.py",
    "annotations/merging/merge.py",
    "annotations/history.py",
    "annotations/journals/journal.py",
    "annotations/restore.py",
    "annotations/journals/revisions.py",
    "annotations/merging/saves.py",
    "annotations/transaction.py",
    "annotations/merging/views.py",
    "annotations/writes.py",
    "locking/locks.py",
    "storage/atomic.py",
}

CHUNK = "0-64_0-64_0-64"
PAGES = "64-100_0-64_0-64"
FIBERS = "annotations/x0y0z0/fibers.json"

Request = Callable[[], "Answer"]


@dataclass(frozen=True)
class Answer:
    """A status, headers with names in lower case, and a body."""

    status: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Entered:
    """What was entered while a request was answered.

    Attributes:
        files: Calls by file, relative to the package.
        functions: Calls by file and function.
        checked: Names that were checked, each with how often.
    """

    files: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)

    def hook(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        file = code.co_filename[len(PACKAGE) :]
        self.files[file] += 1
        self.functions[f"{file}:{code.co_qualname}"] += 1
        if code.co_name == "check_name":
            self.checked[frame.f_locals["name"]] += 1


@dataclass
class Link:
    """The way to the writer, which here works in the same thread.

    Attributes:
        jobs: What the writer does.
        record: What was entered behind the link.
    """

    jobs: WriteJobs
    record: Entered = field(default_factory=Entered)
    waiting_bytes: int = 0

    def notify(self, pieces: Sequence[bytes | memoryview]) -> None:
        self.jobs.note(memoryview(b"".join(pieces)))

    def submit(self, pieces: Sequence[bytes | memoryview]) -> Future[memoryview | None]:
        answer: Future[memoryview | None] = Future()
        body = memoryview(b"".join(pieces))
        job = Job(body, False, lambda parts: answer.set_result(memoryview(b"".join(parts))))
        before = sys.getprofile()
        sys.setprofile(self.record.hook)
        try:
            self.jobs.work(address_of(body)[0], [job])
        finally:
            sys.setprofile(before)
        return answer


@dataclass(frozen=True)
class Brain:
    """A dataset, and the application that serves it.

    Attributes:
        app: Called as a WSGI server calls it.
        path: The dataset.
        link: Its way to the writer.
    """

    app: App
    path: Path
    link: Link

    def ask(
        self,
        leaf: str,
        method: str = "GET",
        query: str = "",
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        environ = create_environ(
            path=f"/{self.path.name}/{leaf}",
            method=method,
            query_string=query,
            headers=headers,
            body=body.decode(),
        )
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, given: list[tuple[str, str]], *_: object) -> Any:
            started.append((status, given))

        pieces = self.app(environ, start_response)
        content = b"".join(pieces)
        if hasattr(pieces, "close"):
            pieces.close()
        status, given = started[0]
        return Answer(status, {name.lower(): value for name, value in given}, content)

    def chunk(self, name: str = CHUNK, coding: str = "") -> Request:
        headers = {"Accept-Encoding": coding}
        return lambda: self.ask(f"1_1_1/{name}", headers=headers)

    def patch(self) -> Answer:
        annotation = ANNOTATIONS[0] | {"point": [uuid.uuid4().int % 10**6, 2, 3]}
        query = f"id={annotation['id']}"
        return self.ask(FIBERS, "PATCH", query, json.dumps(annotation).encode())


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Brain:
    path = write_dataset(tmp_path / "brain")
    voxels = gradient((64, 64, 64))
    (path / "1_1_1" / f"{CHUNK}.tiff").write_bytes(encode_chunk(voxels))
    # What was written within the last seconds is read again for each request, as it may change yet.
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 60 * 10**9)
    for cached in (check_name, split_path):  # of the other tests of this process
        cached.cache_clear()
    settings = AppSettings(tmp_path)
    link = Link(WriteJobs(create_writer(settings)))
    return Brain(create_app(settings, writer=RemoteWriter(link, 2**30)), path, link)


def entered(request: Request) -> tuple[Answer, Entered]:
    """Send a request, and record what of the package it enters, in any thread that it starts."""
    record = Entered()
    threading.setprofile(record.hook)
    sys.setprofile(record.hook)
    try:
        answer = request()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return answer, record


def warm(request: Request) -> tuple[Answer, Entered]:
    """Send a request that was sent before."""
    for _ in range(2):
        assert request().status.startswith("2")
    return entered(request)


# --- how many files a request enters ---


@pytest.mark.parametrize(
    ("name", "coding", "size"),
    [
        pytest.param(CHUNK, "gzip", 0, id="passed through"),
        pytest.param(CHUNK, "", 64**3 * 2, id="decoded"),
        pytest.param(PAGES, "gzip", 36 * 64 * 64 * 2, id="decoded from pages"),
    ],
)
def test_chunk_enters_few_of_our_files(brain: Brain, name: str, coding: str, size: int) -> None:
    answer, record = warm(brain.chunk(name, coding))
    assert answer.headers.get("content-encoding", "") == ("" if size else coding)
    assert not size or len(answer.body) == size
    assert len(record.files) <= MOST_OF_A_CHUNK, sorted(record.files)


def test_patch_of_one_annotation_enters_few_of_our_files(brain: Brain) -> None:
    for _ in range(2):
        brain.patch()
    brain.link.record = written = Entered()
    answer, record = entered(brain.patch)
    assert answer.status == "200 OK"
    assert json.loads(answer.body) == {"id": ANNOTATIONS[0]["id"]}
    assert "annotations/journals/journal.py" in written.files
    assert len(record.files) <= MOST_OF_A_PATCH, sorted(record.files)
    assert len(written.files) <= MOST_OF_A_WRITE, sorted(written.files)
    assert set(record.files) & WRITERS == {"annotations/handover.py"}


@pytest.mark.parametrize("query", ["", f"id={ANNOTATIONS[0]['id']}"], ids=["file", "one"])
def test_read_of_annotations_enters_nothing_that_writes(brain: Brain, query: str) -> None:
    answer, record = warm(lambda: brain.ask(FIBERS, query=query))
    assert answer.status == "200 OK"
    assert set(record.files) & WRITERS == set()


# --- what a request repeats ---


def test_names_of_a_chunk_are_checked_once(brain: Brain) -> None:
    request = brain.chunk(coding="gzip")
    _, first = entered(request)
    assert {brain.path.name, CHUNK} <= set(first.checked)
    assert set(first.checked.values()) == {1}
    _, again = entered(request)
    assert not again.checked


def test_errors_are_translated_only_when_there_are_any(brain: Brain) -> None:
    for request in (brain.chunk(coding="gzip"), brain.patch):
        _, record = warm(request)
        assert "errors.py" not in record.files


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_path_of_an_annotation_file_is_resolved_once(brain: Brain, method: str) -> None:
    request = brain.patch if method == "PATCH" else lambda: brain.ask(FIBERS)
    _, record = warm(request)
    assert record.functions["storage/data_root.py:DataRoot._located"] == 1


# --- what is remembered of a path ---


def test_route_that_was_found_before_is_not_mixed_up_with_that_of_another_query(
    brain: Brain,
) -> None:
    at = "annotations/fibers.json"
    for _ in range(2):
        assert brain.ask(at).status.startswith("404")
        found = brain.ask(at, query="position=1,2,3")
        assert (found.status, found.headers["content-location"]) == ("200 OK", "x0y0z0/fibers.json")


def test_block_that_a_viewer_means_is_not_remembered_for_others(brain: Brain) -> None:
    viewer = {"User-Agent": "Mozilla/5.0"}
    position = "annotations/x40y3z9/fibers.json"
    for _ in range(2):
        assert brain.ask(position, headers=viewer).status == "200 OK"
        assert brain.ask(position).status.startswith("404")


def test_path_that_is_too_long_to_remember_is_answered_alike(brain: Brain) -> None:
    deep = "/".join(["d" * 200] * 4)
    (brain.path / deep).mkdir(parents=True)
    (brain.path / deep / "a.bin").write_bytes(np.arange(9, dtype="uint8").tobytes())
    for _ in range(2):
        assert brain.ask(f"{deep}/a.bin").body == bytes(range(9))


def test_chunk_that_changes_is_seen_though_its_path_is_remembered(brain: Brain) -> None:
    file = brain.path / "1_1_1" / f"{CHUNK}.tiff"
    before = brain.chunk()().body
    file.write_bytes(encode_chunk(gradient((64, 64, 64)) + 1))
    after = brain.chunk()().body
    assert before != after
    file.unlink()
    assert brain.chunk()().status.startswith("404")
