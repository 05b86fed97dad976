"""Counts for Prometheus, and the log as JSON."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from neurotrale.locking.locks import make_lock
from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, write_dataset
from tests.disks import disk_of
from tests.processes import PATIENCE_S, children, eventually, writer_of

FILE = "brain/annotations/x0y0z0/fibers.json"
CHUNK = "brain/1_1_1/0-64_0-64_0-64"
ON_FILE = "/{dataset}/annotations/{block}/{leaf}.json"
TOKEN = "a-token-of-some-length"
VIEWER = {"Origin": "http://localhost:8080"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data" / "brain")
    return tmp_path / "data"


@pytest.fixture
def service(root: Path, start_service: StartService) -> Service:
    return start_service(root, "--workers", "3")


Counts = dict[tuple[str, frozenset[tuple[str, str]]], float]


def counts(service: Service) -> Counts:
    answer = requests.get(f"{service.url}/api/metrics", timeout=PATIENCE_S)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("neurotrale_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(found: Counts, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def test_requests_of_all_workers_are_counted_by_route_and_status(service: Service) -> None:
    with ThreadPoolExecutor(8) as pool:  # each on a connection of its own
        list(pool.map(lambda _: requests.get(f"{service.url}/{FILE}"), range(40)))
    sizes = [len(requests.get(f"{service.url}/{CHUNK}").content) for _ in range(3)]
    requests.get(f"{service.url}/brain/nothing-like-it")
    requests.head(f"{service.url}/{FILE}")
    found: Counts = {}

    def are_counted() -> bool:  # a worker counts what it has sent
        nonlocal found
        found = counts(service)
        return of(found, "requests_total", route=ON_FILE, method="HEAD", status="200") == 1

    eventually(are_counted, "the last request is counted")
    assert of(found, "requests_total", route=ON_FILE, method="GET", status="200") == 40
    assert of(found, "request_seconds_count", route=ON_FILE) == 41
    chunk = "/{dataset}/{scale}/{chunk}"
    assert of(found, "response_bytes_total", route=chunk) >= sum(sizes)
    assert any(("status", "404") in labels for name, labels in found if name == "requests_total")
    hits, misses = (
        of(found, "cache_lookups_total", cache="chunks", result=one) for one in ("hit", "miss")
    )
    assert hits + misses == 3
    text = requests.get(f"{service.url}/api/metrics").text
    assert "brain" not in text


def test_changes_waits_and_held_removals_are_counted(service: Service) -> None:
    url = f"{service.url}/{FILE}"
    before = counts(service)
    with ThreadPoolExecutor(1) as pool:
        with make_lock("flock", service.root / FILE):
            one = ANNOTATIONS[0]
            patch = pool.submit(requests.patch, f"{url}?id={one['id']}", json=one | {"new": 1})
            eventually(lambda: of(counts(service), "parked_requests") == 1, "the request is parked")
        assert patch.result().ok
    eventually(lambda: of(counts(service), "parked_requests") == 0, "nothing is parked")
    assert requests.get(url, headers=VIEWER).ok
    kept = requests.put(url, data=b"[]", headers=VIEWER).json()["kept"]
    found = counts(service)
    assert of(found, "held_removals_total") == kept > 1
    journal = (service.root / FILE).with_name(".fibers.json.journal")
    grown = of(found, "journal_bytes_total") - of(before, "journal_bytes_total")
    assert grown == journal.stat().st_size
    assert of(found, "lock_wait_seconds_count") >= 2


def test_processes_that_die_are_counted_and_what_they_counted_stays(service: Service) -> None:
    for _ in range(9):
        requests.get(f"{service.url}/{FILE}")
    for pid in (*children(service.process.pid), writer_of(service.process.pid)):
        os.kill(pid, signal.SIGKILL)

    def deaths() -> tuple[float, float]:
        try:
            found = counts(service)
        except requests.RequestException:
            return 0.0, 0.0
        each = (of(found, "process_deaths_total", process=one) for one in ("worker", "writer"))
        return (*each,)  # type: ignore[return-value]

    eventually(lambda: deaths() == (3, 1), "the deaths are counted")
    labels = {"route": ON_FILE, "method": "GET", "status": "200"}
    assert of(counts(service), "requests_total", **labels) == 9


@pytest.mark.parametrize("size", ["512k", "1m"])
def test_service_without_room_for_counts_answers(
    root: Path, tmp_path: Path, start_service: StartService, size: str
) -> None:
    """Counting in a file without room would kill the process."""
    with disk_of(tmp_path / "tmp", size) as disk:
        service = start_service(root, "--workers", "3", env={"TMPDIR": str(disk)})
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: requests.get(f"{service.url}/{FILE}"), range(60)))
        assert {answer.status_code for answer in answers} == {200}
        assert requests.get(f"{service.url}/api/metrics").status_code in (200, 404)
        assert "counts nothing" in service.log()
        assert "died" not in service.log()
        service.stop()


@pytest.mark.parametrize("is_public", [False, True])
def test_counts_need_a_token_unless_that_is_said(
    root: Path, tmp_path: Path, start_service: StartService, is_public: bool
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"anna:ro:{TOKEN}\n")
    tokens.chmod(0o600)
    more = ("--metrics-public",) if is_public else ()
    service = start_service(root, "--token-file", str(tokens), "--workers", "1", *more)
    for path in ("api/metrics", "/api//metrics"):
        assert requests.get(f"{service.url}/{path}").status_code == (200 if is_public else 401)
    answer = requests.get(f"{service.url}/token/{TOKEN}/api/metrics")
    assert answer.status_code == 200
    assert TOKEN not in answer.text
    assert "anna" not in answer.text
    assert requests.get(f"{service.url}/{FILE}").status_code == 401


def test_log_as_json_has_the_parts_of_requests_and_no_token(
    root: Path, tmp_path: Path, start_service: StartService
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"anna:ro:{TOKEN}\n")
    tokens.chmod(0o600)
    service = start_service(
        root, "--token-file", str(tokens), "--workers", "1", "--log-format", "json"
    )
    assert requests.get(f"{service.url}/token/{TOKEN}/{FILE}?id=a%0Ab").status_code == 404
    eventually(lambda: "a%0Ab" in service.log(), "the request is logged")
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    (line,) = [line for line in lines if line.get("query")]
    assert (line["method"], line["status"], line["query"]) == ("GET", "404", "?id=a%0Ab")
    assert line["client"].startswith("anna@")
    assert line["path"].endswith(FILE)
    assert isinstance(line["bytes"], int)
    assert TOKEN not in service.log()
