"""Several nodes behind HAProxy: a block is always asked of the same one, in whatever way."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests

from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.processes import ACCESS_LINE, REPOSITORY, eventually

TOKENS = ("annas-token-may-write.0123456789", "bobs-token-may-write~0123456789_A")
SESSIONS = ("s-AAAAAAAAAAAAAAAA", "s-b_-0123456789zZq")
NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
BLOCKS = [f"x{n}y0z0" for n in range(6)]
CHUNKS = [f"{n}-{n + 8}_0-8_0-8" for n in range(0, 64, 8)]

FORMS = {
    "plain": "",
    "token": f"/token/{TOKENS[0]}",
    "session": f"/as/{SESSIONS[0]}",
    "token and session": f"/token/{TOKENS[1]}/as/{SESSIONS[1]}",
    "voxels": f"/token/{TOKENS[0]}/as/{SESSIONS[0]}/voxels",
    "doubled slashes": f"//token//{TOKENS[1]}//as//{SESSIONS[1]}//voxels/",
}


def haproxy() -> str:
    found = shutil.which("haproxy", path="/usr/bin:/usr/sbin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip("there is no 'haproxy' (on Debian: apt-get install haproxy)")
    return found


def configuration_of_slurm(nodes: dict[str, int], place: Path) -> str:
    """Let the job script write its configuration for these nodes."""
    for node, port in nodes.items():
        (place / f"{node}.json").write_text(json.dumps({"host": node, "port": port, "pid": 1}))
    script = (REPOSITORY / "slurm" / "balance").read_text()
    functions = re.findall(
        r"^(?:address_of|configuration)\(\) \{\n.*?^\}\n", script, re.DOTALL | re.MULTILINE
    )
    assert len(functions) == 2
    command = ["bash", "-euc", f"nodes=$1\n{''.join(functions)}configuration", "bash", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.replace('bind "${BIND}"', "bind :8080")


def configuration_of_compose(nodes: dict[str, int], place: Path) -> str:
    """Return the configuration of compose.yaml with as many servers."""
    text = (REPOSITORY / "container" / "haproxy.cfg").read_text()
    line = re.search(r"^    server neurotrale .*\n", text, re.MULTILINE)
    assert line is not None
    servers = (f"    server {node} {node}:{port}\n" for node, port in nodes.items())
    text = text.replace(line[0], "".join(servers))
    return re.sub(r"viewer:9000 .*", "127.0.0.1:1 disabled", text)


@dataclass(frozen=True)
class Balanced:
    """HAProxy before several nodes.

    Attributes:
        url: Of HAProxy, without a final slash.
        log: What HAProxy has written.
        services: The nodes.
    """

    url: str
    log: Path
    services: list[Service]

    def seen(self, probe: str) -> list[tuple[int, str]]:
        """The nodes that were asked with this id in the query, and the paths."""
        return [
            (number, match["path"])
            for number, service in enumerate(self.services)
            for match in map(ACCESS_LINE.fullmatch, service.log().splitlines())
            if match and match["path"].endswith(f"?id={probe}")
        ]


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, start_service: StartService
) -> list[Service]:
    ground = tmp_path_factory.mktemp("balance")
    dataset = write_dataset(ground / "data" / "lab" / "brain")
    for block in BLOCKS[1:]:
        shutil.copytree(dataset / "annotations/x0y0z0", dataset / "annotations" / block)
    tokens = ground / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"anna:rw:{TOKENS[0]}\nbob:rw:{TOKENS[1]}\n")
    options = ("--token-file", str(tokens), "--lock", "flock", "--trusted-proxy", NODES[0])
    return [start_service(ground / "data", "--host", node, *options) for node in NODES]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(configuration_of_slurm, id="slurm"),
        pytest.param(configuration_of_compose, id="compose", marks=pytest.mark.long),
    ],
)
def balanced(
    request: pytest.FixtureRequest,
    services: list[Service],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Balanced]:
    place = tmp_path_factory.mktemp("haproxy")
    nodes = {node: service.port for node, service in zip(NODES, services, strict=True)}
    (place / "nodes").mkdir()
    write: Callable[[dict[str, int], Path], str] = request.param
    config, log = place / "haproxy.cfg", place / "log.txt"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as output:
        text = write(nodes, place / "nodes")
        assert "bind :8080" in text
        config.write_text(text.replace("bind :8080", f"bind fd@{listening.fileno()}"))
        process = subprocess.Popen(
            [haproxy(), "-db", "-f", str(config)],
            pass_fds=[listening.fileno()],
            stdout=output,
            stderr=output,
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            eventually(lambda: requests.get(f"{url}/api/health", timeout=60).ok, "HAProxy answers")
            yield Balanced(url, log, services)
        finally:
            process.terminate()
            process.wait(30)


def ask(balanced: Balanced, form: str, path: str, probe: str, method: str = "GET") -> None:
    """Send a request; its token is in the path or in a header, and its id finds it in the logs."""
    headers = {} if "token" in form else {"Authorization": f"Bearer {TOKENS[0]}"}
    answer = requests.request(
        method, f"{balanced.url}{form}/lab/brain/{path}?id={probe}", headers=headers, timeout=60,
        data=b"{}",
    )  # fmt: skip
    assert answer.status_code in (200, 201, 400, 404), answer.text


def nodes_of(balanced: Balanced, requests_: list[tuple[str, str, str]], probe: str) -> set[int]:
    """The nodes that answer these requests: form, method, path."""
    for form, method, path in requests_:
        ask(balanced, form, path, probe, method)
    eventually(lambda: len(balanced.seen(probe)) == len(requests_), "all lines of the logs")
    return {node for node, _ in balanced.seen(probe)}


@pytest.mark.long
def test_block_is_asked_of_one_node_in_all_forms(balanced: Balanced) -> None:
    used = set()
    for block in BLOCKS:
        asked = [
            (form, method, f"annotations/{block}/{rest}")
            for form in FORMS.values()
            for method, rest in (
                ("GET", "fibers.json"), ("GET", "z-0001.json"), ("PATCH", "fibers.json"),
                ("GET", "fibers.json/history"), ("GET", "fibers.json/layers/points/info"),
            )
        ]  # fmt: skip
        nodes = nodes_of(balanced, asked, f"{block}{id(balanced)}")
        assert len(nodes) == 1, block
        used |= nodes
    assert len(used) > 1  # not all of them of one


def test_chunk_is_asked_of_one_node_in_all_forms(balanced: Balanced) -> None:
    used = set()
    for chunk in CHUNKS:
        asked = [(form, "GET", f"1_1_1/{chunk}") for form in FORMS.values()]
        nodes = nodes_of(balanced, asked, f"{chunk}{id(balanced)}")
        assert len(nodes) == 1, chunk
        used |= nodes
    assert len(used) > 1


def test_log_of_haproxy_has_no_token_and_no_session(balanced: Balanced) -> None:
    for form in (*FORMS.values(), f"/as/{SESSIONS[0]}/token/{TOKENS[0]}", f"/%61s/{SESSIONS[0]}"):
        ask(balanced, form, "info", "logged")
    for path in (
        f"/token/{TOKENS[0]}/token/{TOKENS[0]}/",
        f"//token//{TOKENS[0]}//token//{TOKENS[0]}",
        f"/token/{TOKENS[0]}/token/{TOKENS[1]}/lab/brain/info",
        f"/%74oken/{TOKENS[0]}/lab/brain/info",
        f"/token/x/%74oken/{TOKENS[0]}/lab/brain/info",
        f"/tok%65n/{TOKENS[0]}/token/{TOKENS[0]}/",
        f"/token%2F{TOKENS[0]}/lab/brain/info",
        f"/%2574oken/{TOKENS[0]}/lab/brain/info",
        f"/TOKEN/{TOKENS[0]}/%20",
        f"/token/x/as/{SESSIONS[0]}/%61s/{SESSIONS[1]}/info",
        f"/lab/brain/info?token={TOKENS[0]}",
    ):
        with closing(HTTPConnection(balanced.url.partition("//")[2], timeout=60)) as connection:
            connection.request("GET", path)
            assert connection.getresponse().status < 500
    log = balanced.log.read_text()
    for secret in (*TOKENS, *SESSIONS):
        assert secret not in log


def test_history_has_the_address_of_the_person_and_not_what_the_person_claims(
    balanced: Balanced,
) -> None:
    person, probe = "127.0.0.9", f"claimed{id(balanced)}"
    path = f"/token/{TOKENS[0]}/lab/brain/annotations/x0y0z0/fibers.json"
    claims = {
        "X-Forwarded-For": "198.51.100.1, 198.51.100.2",
        "X-Forwarded-Host": "elsewhere.example",
        "X-Forwarded-Prefix": "/elsewhere",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=198.51.100.3;host=elsewhere.example;proto=https",
        "Content-Type": "application/json",
    }
    host = balanced.url.partition("//")[2]
    with closing(HTTPConnection(host, timeout=60, source_address=(person, 0))) as connection:
        body = b'{"type": "point", "point": [1, 2, 3]}'
        connection.request("PATCH", f"{path}?id={probe}", body, claims)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
    history = f"{balanced.url}{path}/history?id={probe}"
    (change,) = requests.get(history, timeout=60).json()["changes"]
    assert (change["by"], change["from"]) == ("anna", person)
    lines = [line for one in balanced.services for line in one.log().splitlines() if probe in line]
    assert any(f" anna@{person} PATCH " in line for line in lines)
