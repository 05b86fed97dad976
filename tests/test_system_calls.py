"""How often the service asks the kernel about files, for a chunk that it was asked for before."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from neurotrale.chunks.encode import encode_chunk
from tests.conftest import Service, StartService
from tests.datasets import gradient, wait_until_settled, write_dataset
from tests.processes import children, eventually

CHUNK = "0-64_0-64_0-64"
TIMES, ROUNDS = 20, 10
TIMEOUT_S = 60

# Everything that looks at a file, a directory or a link. Bodies are read with pread.
LOOKS = (
    *("open", "openat", "openat2", "stat", "lstat", "fstat", "newfstatat", "statx"),
    *("readlink", "readlinkat", "access", "faccessat", "faccessat2", "getdents64"),
    *("pread64", "preadv", "preadv2", "lseek", "sendfile"),
)
_CALL = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<rest>.*)", re.MULTILINE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("traced") / "data"
    path = write_dataset(root / "brain")
    (path / "1_1_1" / f"{CHUNK}.tiff").write_bytes(encode_chunk(gradient((64, 64, 64))))
    (path / "1_1_1" / "64-128_0-64_0-64").write_bytes(b"raw voxels")
    service = start_service(root)
    wait_until_settled(root)
    return service


@pytest.fixture(scope="module")
def trace(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What all processes of the service ask of the kernel, as strace writes it down."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    output = tmp_path_factory.mktemp("trace") / "calls.txt"
    pids = [service.process.pid, *children(service.process.pid)]
    command = ["strace", "-f", "-e", f"trace={','.join(LOOKS)}", "-o", str(output)]
    for pid in pids:
        command += ["-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace cannot trace here: {said.strip()}")
        with requests.Session() as client:
            eventually(lambda: mark(client, service, output, "first"), "strace writes nothing")
        yield output
        strace.terminate()
        strace.communicate()


def mark(client: requests.Session, service: Service, trace: Path, name: str) -> int:
    """Ask for a name that does not exist, and return where that is in the trace."""
    client.get(f"{service.url}/{name}", timeout=TIMEOUT_S)
    return trace.read_text().rfind(f'"{name}"') + 1


def looks(trace: str) -> Counter[str]:
    kinds = {"openat": "open", "newfstatat": "fstat", "pread64": "read"}
    counted: Counter[str] = Counter()
    for call in _CALL.finditer(trace):
        name = call["name"]
        if name == "newfstatat" and "AT_EMPTY_PATH" not in call["rest"]:
            name = "stat"
        counted[kinds.get(name, name)] += 1
    return counted


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        pytest.param(CHUNK, "gzip", id="passed-through"),
        pytest.param(CHUNK, "identity", id="decoded"),
        pytest.param(f"{CHUNK}.tiff", "identity", id="file"),
        pytest.param("64-128_0-64_0-64", "identity", id="raw"),
    ],
)
def test_warm_chunk_is_one_open_one_fstat_and_one_read(
    service: Service, trace: Path, name: str, coding: str
) -> None:
    url, headers = f"{service.url}/brain/1_1_1/{name}", {"Accept-Encoding": coding}
    seen = []
    with requests.Session() as client:
        for number in range(ROUNDS):  # once a second, the directory is opened anew
            for _ in range(2):
                assert client.get(url, headers=headers, timeout=TIMEOUT_S).status_code == 200
            begin = mark(client, service, trace, f"begin-{number}-{name[:9]}")
            for _ in range(TIMES):
                assert client.get(url, headers=headers, timeout=TIMEOUT_S).status_code == 200
            end = mark(client, service, trace, f"end-{number}-{name[:9]}")
            text = trace.read_text()
            # From the first call for the chunk, which comes after all for the mark.
            begin = text.rindex("\n", 0, text.index(f'"{name}', begin))
            inside = text[begin : text.rindex("\n", 0, end)]
            seen.append({kind: count / TIMES for kind, count in looks(inside).items()})
            if seen[-1] == {"open": 1, "fstat": 1, "read": 1}:
                return
    pytest.fail(f"calls of each request: {seen}")


def test_poll_of_a_change_feed_without_news_is_three_looks(service: Service, trace: Path) -> None:
    """At the file, its journal and its burst; nothing is opened or read."""
    file = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    body = {"type": "point", "point": [1, 2, 3]}
    requests.patch(file, params={"id": "a"}, json=body, timeout=TIMEOUT_S).raise_for_status()
    wait_until_settled(service.root / "brain" / "annotations")
    url = f"{file}/changes?since=1"
    seen = []
    with requests.Session() as client:
        tag = client.get(url, timeout=TIMEOUT_S).headers["ETag"]
        for number in range(ROUNDS):  # once a second, the directory is opened anew
            for _ in range(2):
                client.get(url, headers={"If-None-Match": tag}, timeout=TIMEOUT_S)
            begin = mark(client, service, trace, f"begin-poll-{number}")
            for _ in range(TIMES):
                answer = client.get(url, headers={"If-None-Match": tag}, timeout=TIMEOUT_S)
                assert answer.status_code == 304
            end = mark(client, service, trace, f"end-poll-{number}")
            text = trace.read_text()
            begin = text.rindex("\n", 0, text.index('"fibers.json"', begin))
            inside = text[begin : text.rindex("\n", 0, text.rindex("fibers.json.journal", 0, end))]
            seen.append(dict(looks(inside)))
            if seen[-1] == {"stat": 3 * TIMES - 1}:  # without the last look of the last poll
                return
    pytest.fail(f"calls of all polls: {seen}")
