"""The service behind HAProxy, as compose.yaml starts both."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy import engine, machine
from tests.deploy.engine import ask
from tests.deploy.machine import Done, User, eventually
from tests.deploy.samples import CHUNK, FIBERS, POINT


@dataclass
class Project:
    """What compose has started.

    Attributes:
        url: What the proxy publishes, without a final slash.
        env: What compose was told.
        checkout: Where compose.yaml lies.
    """

    url: str
    env: dict[str, str]
    checkout: Path

    def compose(self, *words: str, check: bool = True) -> Done:
        command = [*engine.INSIDE, "docker", "compose", "-p", self.env["COMPOSE"], *words]
        return machine.run(command, env=self.env, cwd=self.checkout, check=check)

    def log(self, service: str) -> str:
        done = self.compose("logs", "--no-log-prefix", service)
        return done.stdout + done.stderr


@contextmanager
def project(
    images: tuple[str, str], checkout: Path, data: Path, user: User, *words: str, **env: str
) -> Iterator[Project]:
    port = machine.free_port()
    ours = {name: value for name, value in os.environ.items() if name[:10] != "NEUROTRALE"}
    settings = {
        "NEUROTRALE_IMAGE": images[0],
        "HAPROXY_IMAGE": images[1],
        "NEUROTRALE_DATA": str(data),
        "NEUROTRALE_USER": f"{user.uid}:{user.gid}",
        "NEUROTRALE_LISTEN": f"127.0.0.1:{port}",
        "NEUROTRALE_WORKERS": "2",
        "COMPOSE": f"neurotrale-test-{port}",
    }
    started = Project(f"http://127.0.0.1:{port}", {**ours, **settings, **env}, checkout)
    try:
        started.compose(*words, "up", "-d", "--wait")
        eventually(lambda: engine.answers(started.url), "the proxy passes requests on")
        yield started
    finally:
        started.compose(*words, "down", "--volumes", check=False)


@pytest.fixture(scope="module")
def brought_up(
    built: tuple[str, str], sources: Path, ground: Path, hpc: User
) -> Iterator[tuple[Project, Path]]:
    """A project for the tests that leave it as it was, and its data root."""
    from tests.datasets import write_dataset

    root = ground / "composed"
    write_dataset(root / "brain")
    hpc.own(root)
    with project(built, sources, root, hpc) as started:
        yield started, root


def test_edit_through_the_proxy_is_on_disk_and_belongs_to_the_user(
    brought_up: tuple[Project, Path], hpc: User
) -> None:
    started, root = brought_up
    assert ask(f"{started.url}/{FIBERS}?id=new", "PATCH", POINT).status == 201
    fibers = root / FIBERS
    assert "new" in {annotation["id"] for annotation in json.loads(fibers.read_bytes())}
    assert (fibers.stat().st_uid, fibers.stat().st_gid) == (hpc.uid, hpc.gid)


def test_answers_through_the_proxy_are_those_of_the_service(
    brought_up: tuple[Project, Path],
) -> None:
    url = brought_up[0].url
    chunk = ask(f"{url}/{CHUNK}", "GET", None, "Origin: https://viewer.example")
    assert chunk.headers["content-length"] == str(2 * 64**3)
    assert chunk.headers["access-control-allow-origin"] == "*"
    part = ask(f"{url}/{CHUNK}.tiff", "GET", None, "Range: bytes=0-1")
    assert (part.status, part.body) == (206, "II")
    known = ask(f"{url}/{FIBERS}").headers["etag"]
    assert ask(f"{url}/{FIBERS}", "GET", None, f"If-None-Match: {known}").status == 304
    assert ask(f"{url}/brain").headers["location"].endswith("/brain/")
    assert "neurotrale API" in ask(f"{url}/api/").body
    missing = ask(f"{url}/ui/")
    assert (missing.status, json.loads(missing.body)["title"]) == (404, "Not found")


def test_many_edits_at_once_through_the_proxy_are_all_kept(
    brought_up: tuple[Project, Path],
) -> None:
    started, root = brought_up
    names = [f"edit-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        urls = [f"{started.url}/{FIBERS}?id={name}" for name in names]
        answers = list(pool.map(lambda url: ask(url, "PATCH", POINT).status, urls))
    assert answers == [201] * len(names)
    assert set(names) <= {a["id"] for a in json.loads((root / FIBERS).read_bytes())}


def test_large_slow_upload_passes_the_proxy(
    brought_up: tuple[Project, Path], tmp_path: Path
) -> None:
    started, root = brought_up
    many = ",\n".join(
        json.dumps({"id": f"i{number}", "type": "point", "point": [number, 2, 3]})
        for number in range(400_000)
    )
    (tmp_path / "large.json").write_text(f"[{many}]")
    url = f"{started.url}/brain/annotations/x0y0z0/large.json"
    rate = ["--limit-rate", "8M"]
    command: list[str | Path] = [
        *engine.INSIDE,
        "curl",
        "-sS",
        "-T",
        tmp_path / "large.json",
        *rate,
        url,
    ]
    assert json.loads(machine.run(command).stdout)["filename"].endswith("large.json")
    written = (root / "brain/annotations/x0y0z0/large.json").read_bytes()
    assert written == (tmp_path / "large.json").read_bytes()


@pytest.mark.parametrize(
    "path",
    ["/brain/info?token=hush-1", "/token/hush-2/brain/info", "/%74oken/hush-3/brain/info"],
)
def test_log_of_the_proxy_has_no_tokens(path: str, brought_up: tuple[Project, Path]) -> None:
    started, _ = brought_up
    before = len(started.log("proxy").splitlines())
    ask(f"{started.url}{path}")
    added = eventually(
        lambda: [
            line
            for line in started.log("proxy").splitlines()[before:]
            if re.search(r" GET (/brain/info|/token/-)", line)
        ],
        "the request is logged",
    )
    assert added
    assert "hush" not in started.log("proxy")


def test_service_that_is_gone_is_a_503_that_viewers_understand(
    brought_up: tuple[Project, Path],
) -> None:
    started, _ = brought_up
    started.compose("stop", "neurotrale")
    try:
        gone = ask(f"{started.url}/{CHUNK}")
        assert gone.status == 503
        assert gone.headers["retry-after"] == "2"
        assert gone.headers["access-control-allow-origin"] == "*"
        assert json.loads(gone.body)["title"] == "Service unavailable"
    finally:
        started.compose("start", "neurotrale")
    eventually(lambda: engine.answers(started.url), "it is taken in again")


def test_overload_of_the_service_passes_the_proxy(
    built: tuple[str, str], sources: Path, data: Path, hpc: User
) -> None:
    # A lock that another writer holds is the service's own 503, with its own Retry-After.
    with project(built, sources, data, hpc, NEUROTRALE_LOCK_TIMEOUT="0") as started:
        lock = data / Path(FIBERS).with_name(".fibers.json.lock")
        lock.touch()
        hpc.own(lock)
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            busy = ask(f"{started.url}/{FIBERS}?id=new", "PATCH", POINT)
        assert busy.status == 503
        assert "retry-after" in busy.headers
        assert "being written by another client" in json.loads(busy.body)["description"]


def test_down_finishes_an_edit_that_is_under_way(
    built: tuple[str, str], sources: Path, data: Path, shared: Path, hpc: User
) -> None:
    many = ",".join(
        json.dumps({"id": f"i{number}", "type": "point", "point": [1, 2, 3]})
        for number in range(50_000)
    )
    (shared / "body").write_text(f"[{many}]")
    target = "brain/annotations/x0y0z0/slow.json"
    with project(built, sources, data, hpc) as started:
        rate = ["--limit-rate", "700K", "-w", "%{http_code}", "-o", f"{shared}/answer"]
        url = f"{started.url}/{target}"
        command: list[str | Path] = [
            *engine.INSIDE,
            "curl",
            "-sS",
            "-T",
            shared / "body",
            *rate,
            url,
        ]
        done: list[Done] = []
        writer = threading.Thread(target=lambda: done.append(machine.run(command)))
        writer.start()
        eventually(lambda: "/body" in processes(), "the upload is under way")
        started.compose("stop", "proxy", "neurotrale")
        writer.join()
        assert done[0].stdout == "201"
    assert (data / target).read_bytes() == (shared / "body").read_bytes()


def processes() -> str:
    return machine.run(["ps", "-eo", "args"]).stdout


def test_viewer_is_served_at_the_same_address_with_its_scripts(
    built: tuple[str, str], sources: Path, data: Path, shared: Path, hpc: User
) -> None:
    viewer = shared / "viewer"
    viewer.mkdir()
    (viewer / "index.html").write_text('<!DOCTYPE html><script src="main.js"></script>')
    (viewer / "main.js").write_text("document.title = 'viewer'")
    profile = ("--profile", "viewer")
    with project(built, sources, data, hpc, *profile, NEUROTRALE_UI=str(viewer)) as started:
        page = f"{started.url}/ui/"
        eventually(lambda: ask(page).status == 302, "the viewer is taken in")
        assert ask(page).headers["location"] == "/ui/index.html"
        index = ask(f"{page}index.html")
        assert index.headers["content-type"].startswith("text/html")
        # Those of the data root are sandboxed: this one may run scripts.
        assert "content-security-policy" not in index.headers
        assert ask(f"{page}main.js").headers["content-type"].endswith("/javascript")
        assert ask(f"{page}main.js", "PUT", "x").status in (403, 405)
        assert ask(f"{started.url}/{CHUNK}").status == 200


def test_tokens_are_asked_for_through_the_proxy_and_stand_in_no_log(
    built: tuple[str, str], sources: Path, data: Path, shared: Path, hpc: User
) -> None:
    said = engine.docker("run", "--rm", built[0], "token", "--name", "anna", "--rw").stdout
    token = said.split()[-1].rpartition(":")[2]
    tokens = shared / "tokens"
    tokens.write_text(f"anna:rw:{token}\n")
    tokens.chmod(0o600)
    hpc.own(tokens)
    with project(built, sources, data, hpc, NEUROTRALE_TOKENS=str(tokens)) as started:
        asked = f"{FIBERS}?id=new"
        assert ask(f"{started.url}/{asked}", "PATCH", POINT).status == 401
        for number, (path, *header) in enumerate(
            [
                (asked, f"Authorization: Bearer {token}"),
                (f"{asked}&token={token}",),
                (f"token/{token}/{asked}",),
            ]
        ):
            changed = ask(f"{started.url}/{path}", "PATCH", POINT, *header)
            assert changed.status == (201 if number == 0 else 200), path
        assert token not in started.log("proxy") + started.log("neurotrale")
    journal = (data / FIBERS).with_name(".fibers.json.journal").read_text()
    assert "anna" in journal
    assert token not in journal


def test_directory_that_is_not_there_is_an_error_not_a_new_directory(
    built: tuple[str, str], sources: Path, shared: Path, hpc: User
) -> None:
    with (
        pytest.raises(AssertionError, match="does not exist"),
        project(built, sources, shared / "mistyped", hpc),
    ):
        pass
    assert not (shared / "mistyped").exists()
