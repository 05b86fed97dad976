"""The Docker image, run as on a workstation, and turned into an Apptainer image."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

import neurotrale
from neurotrale.cli import main
from tests.deploy import engine, machine
from tests.deploy.engine import ask, docker
from tests.deploy.machine import User, eventually
from tests.deploy.pages import Reader
from tests.deploy.samples import CHUNK, FIBERS, POINT, SEED

PYTHON = "/opt/neurotrale/bin/python"
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)


@dataclass(frozen=True)
class Container:
    """A container that runs the service.

    Attributes:
        name: Its id.
        url: What it publishes, without a final slash.
    """

    name: str
    url: str

    def health(self) -> str:
        return docker("inspect", "-f", "{{.State.Health.Status}}", self.name).stdout.strip()

    def log(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def stop(self) -> int:
        docker("stop", "-t", "40", self.name)
        code = docker("inspect", "-f", "{{.State.ExitCode}}", self.name).stdout
        return int(code)


@contextmanager
def container(
    image: str, data: Path, *words: str, options: tuple[str, ...] = (), inner: int = 9000
) -> Iterator[Container]:
    """Start the seed's container in the background; removed at the end."""
    port = machine.free_port()
    mount = ("-v", f"{data}:/data", "-p", f"{port}:{inner}")
    name = docker("run", "-d", *mount, *options, image, *words).stdout.strip()
    started = Container(name, f"http://127.0.0.1:{port}")

    def up() -> bool:
        running = docker("inspect", "-f", "{{.State.Running}}", name).stdout.strip()
        assert running == "true", started.log()
        return engine.answers(started.url)

    try:
        eventually(up, "the container answers")
        yield started
    finally:
        docker("rm", "-f", name)


def edit(url: str) -> None:
    assert ask(f"{url}/{FIBERS}?id=new", "PATCH", POINT).status == 201


def ids(data: Path) -> set[str]:
    return {annotation["id"] for annotation in json.loads((data / FIBERS).read_bytes())}


def own(data: Path, uid: int, gid: int) -> Path:
    if os.geteuid() != 0:
        machine.missing("only root can give files away")
    for path in [data, *data.rglob("*")]:
        os.chown(path, uid, gid)
    return data


# --- the image itself ---


def test_image_tests_itself_by_an_edit_and_a_chunk(image: str) -> None:
    said = docker("run", "--rm", "--entrypoint", PYTHON, image, "/apps/selftest.py").stdout
    assert said.count(": ok") == 4


def test_image_has_the_labels_that_say_what_it_is(image: str) -> None:
    labels = json.loads(docker("inspect", "-f", "{{json .Config.Labels}}", image).stdout)
    assert labels["org.opencontainers.image.title"] == "neurotrale"
    assert labels["org.opencontainers.image.version"] == neurotrale.__version__
    assert labels["org.opencontainers.image.licenses"] == "BSD-2-Clause"


def test_image_is_not_run_by_root(image: str) -> None:
    assert docker("run", "--rm", "--entrypoint", "id", image, "-u").stdout.strip() == "1000"


def test_image_holds_nothing_that_only_built_it(image: str) -> None:
    script = "ls /opt /apps /opt/neurotrale/bin"
    said = docker("run", "--rm", "--entrypoint", "sh", image, "-c", script).stdout.split()
    assert "entrypoint.sh" in said
    assert not {"neurotrale-source", "install.sh", "pip"} & set(said)


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)], ids=str)
def test_image_runs_every_command(command: list[str], image: str) -> None:
    said = docker("run", "--rm", image, *command, "--help").stdout
    assert said.startswith(f"Usage: neurotrale {' '.join(command) or 'serve'} ")


# --- serving ---


def test_run_as_in_the_seed_serves_with_as_many_workers_as_told(image: str, data: Path) -> None:
    # docker run -d -p 9000:9000 -v /data/precomputed:/data IMAGE --workers 15
    with container(image, own(data, 1000, 1000), "--workers", "15") as service:
        assert ask(f"{service.url}/{CHUNK}").headers["content-length"] == str(2 * 64**3)
        edit(service.url)
        top = ("top", service.name, "-o", "pid,ppid,comm")
        # The service answers when its first worker does; the others follow.
        eventually(lambda: docker(*top).stdout.split().count("worker") == 15, "15 workers")
        assert docker(*top).stdout.split().count("writer") == 1
        assert len(docker(*top).stdout.splitlines()[1:]) == 1 + 15 + 1
        assert service.stop() == 0
        assert "finishing the requests in flight" in service.log()
    assert "new" in ids(data)


def test_run_by_somebody_else_is_refused_an_edit_and_loses_nothing(image: str, data: Path) -> None:
    before = (own(data, 4321, 4321) / FIBERS).read_bytes()
    with container(image, data, "--workers", "1") as service:
        assert ask(f"{service.url}/{FIBERS}?id=new", "PATCH", POINT).status == 403
    assert (data / FIBERS).read_bytes() == before


@pytest.mark.parametrize(
    "options", [pytest.param((), id="plain"), pytest.param(HARDENED, id="hardened")]
)
def test_run_as_any_user_writes_files_of_that_user(
    options: tuple[str, ...], image: str, data: Path
) -> None:
    user = ("--user", "12345:23456")
    own(data, 12345, 23456)
    with container(image, data, "--workers", "1", options=(*options, *user)) as service:
        edit(service.url)
        assert service.stop() == 0
    block = (data / FIBERS).parent
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in block.iterdir()}
    assert owners == {(12345, 23456)}
    assert "new" in ids(data)


def test_run_with_a_read_only_mount_serves(image: str, data: Path) -> None:
    with container(image, data, "--workers", "1", "--read-only", options=HARDENED) as service:
        assert ask(f"{service.url}/{CHUNK}").status == 200
        assert ask(f"{service.url}/{FIBERS}?id=new", "PATCH", POINT).status == 403


# --- health ---

OFTEN = ("--health-interval=1s", "--health-retries=1")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        pytest.param((), (), id="as it is"),
        pytest.param(("--port", "9123"), (), id="another port as an option"),
        pytest.param((), ("-e", "NEUROTRALE_PORT=9123"), id="another port as a variable"),
        pytest.param((), HARDENED, id="hardened"),
        pytest.param((), ("--init",), id="another first process"),
        pytest.param((), ("-e", "NEUROTRALE_READY_FILE=/tmp/mine"), id="another ready file"),
    ],
)
def test_container_that_serves_is_healthy(
    words: tuple[str, ...], options: tuple[str, ...], image: str, data: Path
) -> None:
    inner = 9123 if "9123" in " ".join([*words, *options]) else 9000
    with container(
        image, data, "--workers", "1", *words, options=(*OFTEN, *options), inner=inner
    ) as service:
        eventually(lambda: service.health() == "healthy", "it is found healthy")


def test_container_behind_a_unix_socket_is_healthy(image: str, data: Path) -> None:
    words = ("--workers", "1", "--unix-socket", "/tmp/socket")
    mount = ("-v", f"{data}:/data")
    name = docker("run", "-d", *mount, *OFTEN, image, *words).stdout.strip()
    try:
        service = Container(name, "")
        eventually(lambda: service.health() == "healthy", "it is found healthy")
    finally:
        docker("rm", "-f", name)


def test_container_whose_data_cannot_be_read_is_unhealthy(image: str, data: Path) -> None:
    own(data, 1000, 1000)
    with container(image, data, "--workers", "1", options=OFTEN) as service:
        eventually(lambda: service.health() == "healthy", "it is found healthy")
        data.chmod(0)
        eventually(lambda: service.health() == "unhealthy", "it is found unhealthy")
        data.chmod(0o755)
        eventually(lambda: service.health() == "healthy", "it is found healthy again")


# --- from Docker to Apptainer ---


@pytest.fixture(scope="module")
def archive(image: str, ground: Path) -> Iterator[Path]:
    """The image in a file."""
    place = ground / "neurotrale.tar"
    docker("save", "-o", place, image)
    place.chmod(0o644)
    yield place
    place.unlink()


def test_converted_image_runs_as_in_the_seed(
    archive: Path, data: Path, shared: Path, hpc: User
) -> None:
    machine.need("apptainer")
    sif = shared / "converted.sif"
    quick = ["--mksquashfs-args", "-Xcompression-level 1"]
    source = f"docker-archive:{archive}"
    hpc.run(["apptainer", "build", *quick, sif, source], timeout_s=machine.BUILD_PATIENCE_S)
    command = ["apptainer", "run", "--bind", f"{data}:/data", str(sif), SEED, "--port", "0"]
    process = hpc.start([*command, "--workers", "1"], shared / "log")
    try:

        def url() -> str:
            assert process.poll() is None, (shared / "log").read_text()
            found = re.search(r"^open +(\S+)$", (shared / "log").read_text(), re.MULTILINE)
            return found[1] if found else ""

        here = eventually(url, "the service starts")
        # As with the image that apptainer.def builds.
        assert here.startswith("http://127.0.0.1:")
        assert len(requests.get(here + CHUNK).content) == 2 * 64**3
        assert requests.patch(f"{here}{FIBERS}?id=new", data=POINT).status_code == 201
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert "new" in ids(data)
    assert not list(Path("/tmp").glob("neurotrale-ready*"))  # its /tmp is that of the host


def test_converted_image_comes_from_the_engine_too(image: str, shared: Path) -> None:
    machine.need("apptainer")
    # Who may speak to the engine: here, and on most machines, root alone.
    sif = shared / "daemon.sif"
    quick = ["--mksquashfs-args", "-Xcompression-level 1"]
    source = f"docker-daemon:{image}:latest"
    machine.run(["apptainer", "build", *quick, sif, source], timeout_s=machine.BUILD_PATIENCE_S)
    said = machine.run(["apptainer", "exec", "--userns", sif, "neurotrale", "--version"]).stdout
    assert said.split()[-1] == neurotrale.__version__


# --- the page ---


def test_page_of_docker_works_as_it_stands(
    image: str, proxy_image: str, data: Path, shared: Path
) -> None:
    machine.need("apptainer")
    checkout = machine.copy_sources(shared / "checkout")
    viewer = shared / "viewer"
    viewer.mkdir()
    (viewer / "index.html").write_text("<!DOCTYPE html><title>viewer</title>")
    build = " ".join(["docker build --network host", *engine.base_arguments()])
    instead = {
        "/data/precomputed": str(data),
        "/data/viewer": str(viewer),
        "docker build": build,
        "apptainer build": "apptainer build --mksquashfs-args '-Xcompression-level 1'",
    }
    if not engine.INSIDE:  # port 9000 may be taken here
        instead["localhost:9000"] = f"localhost:{machine.free_port()}"
        port = instead["localhost:9000"].rpartition(":")[2]
        instead |= {"-p 9000:": f"-p {port}:", "127.0.0.1:9000:": f"127.0.0.1:{port}:"}
        os.environ["NEUROTRALE_LISTEN"] = f"127.0.0.1:{port}"
    before = {name: value for name, value in os.environ.items() if name[:10] != "NEUROTRALE"}
    listen = os.environ.get("NEUROTRALE_LISTEN", "127.0.0.1:9000")
    reader = Reader(
        directory=checkout,
        prefix=engine.INSIDE,
        env={**before, "HAPROXY_IMAGE": proxy_image, "NEUROTRALE_LISTEN": listen},
        instead=instead,
        answers=lambda: False,  # nothing on this page serves in the foreground
    )
    try:
        reader.follow("docker.md")
    finally:
        docker("rm", "-f", "brain", check=False)
        machine.run(["docker", "compose", "-p", "neurotrale", "down"], check=False)
        shutil.rmtree(checkout)
