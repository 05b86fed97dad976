"""The one process of a service that makes all changes: bursts, its death, and the service's end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import requests

from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalRecord
from neurotrale.locking.locks import make_lock
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.processes import PATIENCE_S, children, eventually, writer_of
from tests.shapes import make_many, write

FILE = "brain/annotations/x0y0z0/fibers.json"


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def service(tmp_path: Path, start_service: StartService) -> Service:
    write_dataset(tmp_path / "data" / "brain")
    return start_service(tmp_path / "data", "--workers", "3")


def patch(service: Service, id_: str, **more: object) -> requests.Response:
    body = {"id": id_, "type": "point", "anntype": "neuron", "point": [1, 2, 3], **more}
    return requests.patch(f"{service.url}/{FILE}?id={id_}", json=body, timeout=PATIENCE_S)


def records(service: Service) -> list[JournalRecord]:
    return list(Journal(service.root / FILE).records_forward())


def rewrites(found: list[JournalRecord]) -> int:
    """How often the file was replaced for these changes."""
    return len({record.first or record.n for record in found})


def test_changes_that_wait_for_the_same_lock_are_one_rewrite(service: Service) -> None:
    with ThreadPoolExecutor(32) as pool:
        with make_lock("flock", service.root / FILE):
            answers = [pool.submit(patch, service, f"n{number}") for number in range(32)]
            writer = writer_of(service.process.pid)
            eventually(lambda: Path(f"/proc/{writer}").exists(), "it runs")
            time.sleep(1)  # until all of them are there
        assert [one.result().status_code for one in answers] == [201] * 32
    found = records(service)
    assert len(found) == 32
    assert rewrites(found) <= 3  # one is taken up at once, the others wait behind it
    ids = [one["id"] for one in json.loads((service.root / FILE).read_bytes())]
    assert sorted(set(ids) & {f"n{number}" for number in range(32)}) == sorted(ids[-32:])


@pytest.mark.long
def test_many_patches_at_once_to_a_large_file_are_few_rewrites(
    tmp_path: Path, start_service: StartService
) -> None:
    root = tmp_path / "data"
    write_dataset(root / "brain")
    write(root / FILE, make_many("point", 720_000, (1000, 1000, 1000)))
    service = start_service(root, "--workers", "10")
    before = (root / FILE).stat().st_size
    assert before > 86e6
    with ThreadPoolExecutor(32) as pool:
        assert patch(service, "first").status_code == 201
        answers = list(pool.map(lambda number: patch(service, f"n{number}"), range(32)))
    assert [answer.status_code for answer in answers] == [201] * 32
    assert rewrites(records(service)[1:]) <= 4


@pytest.mark.long
def test_writer_that_is_killed_loses_no_write_and_makes_none_twice(service: Service) -> None:
    stop = threading.Event()
    killed = []

    def kill() -> None:
        while not stop.wait(0.4):
            writer = writer_of(service.process.pid)
            if writer:
                os.kill(writer, signal.SIGKILL)
                killed.append(writer)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda number: patch(service, f"k{number}"), range(150)))
    finally:
        stop.set()
        killer.join()
    assert [answer.status_code for answer in answers] == [201] * 150
    assert killed
    ids = [one["id"] for one in json.loads((service.root / FILE).read_bytes())]
    assert len(ids) == len(set(ids))
    assert {f"k{number}" for number in range(150)} <= set(ids)
    voided = {number for record in records(service) for number in record.aborts}
    made = [one for one in records(service) if one.op == "patch" and one.n not in voided]
    assert len(made) == 150
    assert len({one.intent for one in made}) == 150
    assert len(children(service.process.pid)) == 3  # no worker died with it


@pytest.mark.quick(1)
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_writer_that_is_stopped_holds_up_no_read_and_refuses_no_browser(
    service: Service, then: signal.Signals
) -> None:
    browser = {"User-Agent": "Mozilla/5.0", "Origin": service.url}
    text = "x" * 30_000  # together more than what the kernel keeps for a process that reads nothing

    def save(number: int) -> int:
        url, body = f"{service.url}/{FILE}?id=b{number}", {"anntype": "neuron", "text": text}
        return requests.patch(url, json=body, headers=browser, timeout=PATIENCE_S).status_code

    writer = writer_of(service.process.pid)
    assert writer is not None
    with ThreadPoolExecutor(60) as pool:
        os.kill(writer, signal.SIGSTOP)
        try:
            saves = [pool.submit(save, number) for number in range(60)]
            time.sleep(1)  # until most of them are there
            for path in ("api/health", FILE) * 9:
                url = f"{service.url}/{path}"
                assert requests.get(url, headers=browser, timeout=PATIENCE_S).status_code == 200
            assert not any(save.done() for save in saves)
        finally:
            os.kill(writer, then)
        assert [save.result() for save in saves] == [201] * 60
    ids = [one["id"] for one in json.loads((service.root / FILE).read_bytes())]
    assert len(ids) == len(set(ids))
    assert {f"b{number}" for number in range(60)} <= set(ids)


def test_service_that_stops_finishes_writes_that_wait(service: Service) -> None:
    with ThreadPoolExecutor(4) as pool:
        with make_lock("flock", service.root / FILE):
            answers = [pool.submit(patch, service, f"s{number}") for number in range(4)]
            time.sleep(0.5)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert service.process.poll() is None
        assert [one.result().status_code for one in answers] == [201] * 4
    assert service.process.wait(PATIENCE_S) == 0
    assert not [path for path in (service.root / FILE).parent.iterdir() if path.suffix == ".tmp"]


def test_service_that_is_read_only_has_no_writer(
    tmp_path: Path, start_service: StartService
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    service = start_service(tmp_path / "data", "--read-only")
    assert patch(service, "a").status_code == 403
    assert writer_of(service.process.pid) == 0


def test_supervisor_that_is_killed_leaves_no_process(service: Service) -> None:
    assert patch(service, "a").status_code == 201
    pids = [*children(service.process.pid), writer_of(service.process.pid)]
    service.process.kill()
    service.process.wait()
    for pid in pids:
        eventually(partial(has_ended, pid), f"{pid} ends")
