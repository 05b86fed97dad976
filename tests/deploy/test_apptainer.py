"""The Apptainer image, used by an ordinary user as on a cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

import neurotrale
from neurotrale.cli import main
from tests.deploy import machine
from tests.deploy.machine import User, eventually
from tests.deploy.pages import Reader
from tests.deploy.samples import CHUNK, FIBERS, POINT, SEED

CLOSED = ("--containall", "--cleanenv", "--no-home")

Words = list[str | Path]


@dataclass
class Started:
    """A service in a container.

    Attributes:
        process: Apptainer.
        url: Without a final slash.
        log: All that it has said.
    """

    process: subprocess.Popen[bytes]
    url: str
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert "killing" not in self.log()  # all workers ended by themselves
        return code


@contextmanager
def serving(
    hpc: User, command: Sequence[str | Path], place: Path, env: Mapping[str, str] | None = None
) -> Iterator[Started]:
    """Run a command that serves, until the end of the block."""
    log = place / "log.txt"
    process = hpc.start(command, log, env)

    def url() -> str:
        assert process.poll() is None, log.read_text()
        found = re.search(r"^open +(\S+)/$", log.read_text(), re.MULTILINE)
        return found[1] if found else ""

    try:
        yield Started(process, eventually(url, "the service starts"), log)
    finally:
        process.terminate()
        process.wait(60)


def run_command(sif: Path, data: Path, *more: str, before: Sequence[str] = ()) -> Words:
    """The seed's way to start it, on a free port."""
    bind = ["--bind", f"{data}:/data"]
    return ["apptainer", "run", *bind, *before, sif, *more, "--port", "0", "--workers", "1"]


# --- the image itself ---


def test_image_tests_itself_by_an_edit_and_a_chunk(sif: Path, hpc: User) -> None:
    said = hpc.run(["apptainer", "test", sif]).stdout
    assert said.count(": ok") == 4
    assert "FAILED" not in said


def test_image_tests_itself_whatever_the_settings_of_its_user(sif: Path, hpc: User) -> None:
    env = {"NEUROTRALE_READ_ONLY": "1", "NEUROTRALE_TOKEN_FILE": "/none", "http_proxy": "http://x"}
    assert hpc.run(["apptainer", "test", sif], env=env).stdout.count(": ok") == 4


def test_image_tests_itself_closed_off_from_everything(sif: Path, hpc: User) -> None:
    assert hpc.run(["apptainer", "test", *CLOSED, sif]).stdout.count(": ok") == 4


def test_image_has_the_labels_that_say_what_it_is(sif: Path, hpc: User) -> None:
    inspected = json.loads(hpc.run(["apptainer", "inspect", "--json", "--labels", sif]).stdout)
    labels = inspected["data"]["attributes"]["labels"]
    assert labels["org.opencontainers.image.title"] == "neurotrale"
    assert labels["org.opencontainers.image.version"] == neurotrale.__version__
    assert labels["org.opencontainers.image.licenses"] == "BSD-2-Clause"


def test_image_has_help_that_names_the_bind(sif: Path, hpc: User) -> None:
    said = hpc.run(["apptainer", "run-help", sif]).stdout
    assert "apptainer run --bind /host/data/dir:/data neurotrale.sif" in said


def test_image_has_the_packages_that_are_pinned(sif: Path, hpc: User, sources: Path) -> None:
    lists = [sources / "requirements.txt", sources / "requirements-viewer.txt"]
    pinned = re.findall(r"^([\w.-]+)==(\S+)", "".join(map(Path.read_text, lists)), re.MULTILINE)
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    python: Words = ["apptainer", "exec", sif, "/opt/neurotrale/bin/python", "-c", code]
    lines = hpc.run(python).stdout.lower().splitlines()
    there, expected = (
        {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in versions}
        for versions in (map(str.split, lines), pinned)
    )
    assert there.pop("neurotrale") == neurotrale.__version__
    assert there == expected


def test_image_cannot_be_written_to(sif: Path, hpc: User) -> None:
    done = hpc.run(["apptainer", "exec", sif, "touch", "/opt/neurotrale/x"], check=False)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)], ids=str)
def test_image_runs_every_command(command: list[str], sif: Path, hpc: User) -> None:
    # Without one it is `serve`.
    said = hpc.run(["apptainer", "run", sif, *command, "--help"]).stdout
    name = " ".join(command) or "serve"
    assert said.startswith(f"Usage: neurotrale {name} ")


# --- serving ---


@pytest.mark.parametrize(
    ("before", "words"),
    [
        pytest.param((), (), id="run"),
        pytest.param((), (SEED,), id="the path of its entry point after it"),
        pytest.param((), ("serve", "/data"), id="serve and a directory"),
        pytest.param((), ("/data",), id="a directory"),
        pytest.param(CLOSED, (), id="closed off"),
        pytest.param(CLOSED, (SEED,), id="closed off, the path of its entry point after it"),
    ],
)
def test_run_serves_a_chunk_takes_an_edit_and_stops_in_order(
    before: tuple[str, ...], words: tuple[str, ...], sif: Path, data: Path, shared: Path, hpc: User
) -> None:
    with serving(hpc, run_command(sif, data, *words, before=before), shared) as service:
        chunk = requests.get(f"{service.url}/{CHUNK}")
        assert (chunk.status_code, len(chunk.content)) == (200, 2 * 64**3)
        assert requests.patch(f"{service.url}/{FIBERS}?id=new", data=POINT).status_code == 201
        assert service.stop() == 0
    fibers = data / FIBERS
    assert "new" in {annotation["id"] for annotation in json.loads(fibers.read_bytes())}
    assert (fibers.stat().st_uid, fibers.stat().st_gid) == (hpc.uid, hpc.gid)
    journal = fibers.with_name(".fibers.json.journal")
    assert journal.stat().st_uid == hpc.uid


def test_run_stops_in_order_when_the_signal_comes_twice(
    sif: Path, data: Path, shared: Path, hpc: User
) -> None:
    with serving(hpc, run_command(sif, data), shared) as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.stop() == 0


def test_run_with_a_read_only_bind_serves_and_refuses_edits(
    sif: Path, data: Path, shared: Path, hpc: User
) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    command: Words = ["apptainer", "run", "--bind", f"{data}:/data:ro", sif, "--port", "0"]
    with serving(hpc, [*command, "--read-only", "--workers", "1"], shared) as service:
        assert requests.get(f"{service.url}/{CHUNK}").ok
        assert requests.patch(f"{service.url}/{FIBERS}?id=new", data=POINT).status_code == 403
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_run_with_a_read_only_bind_alone_says_why_an_edit_fails(
    sif: Path, data: Path, shared: Path, hpc: User
) -> None:
    command: Words = ["apptainer", "run", "--bind", f"{data}:/data:ro", sif, "--port", "0"]
    with serving(hpc, [*command, "--workers", "1"], shared) as service:
        refused = requests.patch(f"{service.url}/{FIBERS}?id=new", data=POINT)
        assert refused.status_code == 403
        assert "ead-only" in refused.json()["description"]


def test_run_listens_on_this_machine_only_unless_told_otherwise(
    sif: Path, data: Path, shared: Path, hpc: User
) -> None:
    with serving(hpc, run_command(sif, data), shared) as service:
        port = service.url.rpartition(":")[2]
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.2:{port}/api/health", timeout=5)
    env = {"NEUROTRALE_HOST": "0.0.0.0"}
    with serving(hpc, run_command(sif, data), shared, env) as service:
        port = service.url.rpartition(":")[2]
        assert requests.get(f"http://127.0.0.2:{port}/api/health", timeout=5).ok


@pytest.mark.parametrize(
    ("before", "env"),
    [
        pytest.param((), {"NEUROTRALE_READ_ONLY": "1"}, id="from the host"),
        pytest.param((), {"APPTAINERENV_NEUROTRALE_READ_ONLY": "1"}, id="for Apptainer"),
        pytest.param(("--cleanenv", "--env", "NEUROTRALE_READ_ONLY=1"), {}, id="as an option"),
    ],
)
def test_run_takes_settings_from_the_environment(
    before: tuple[str, ...], env: dict[str, str], sif: Path, data: Path, shared: Path, hpc: User
) -> None:
    with serving(hpc, run_command(sif, data, before=before), shared, env) as service:
        assert requests.get(f"{service.url}/api/health").json()["read_only"] is True


@pytest.mark.parametrize("verb", [["run"], ["exec"]], ids=str)
def test_python_of_the_host_does_not_reach_the_image(
    verb: list[str], sif: Path, shared: Path, hpc: User
) -> None:
    (shared / "click.py").write_text("raise SystemExit('a module of the host')\n")
    host = {"PYTHONPATH": str(shared), "PYTHONHOME": str(shared), "PYTHONSTARTUP": "/x"}
    words: Words = [
        *verb,
        "--bind",
        str(shared),
        sif,
        *(["neurotrale"] if verb == ["exec"] else []),
    ]
    said = hpc.run(["apptainer", *words, "--version"], env=host).stdout
    assert said.split()[-1] == neurotrale.__version__


def test_run_as_a_user_without_a_home_serves(sif: Path, data: Path, hpc: User) -> None:
    if os.geteuid() != 0:
        machine.missing("only root can become another user")
    nobody = ["runuser", "-u", "nobody", "--", "apptainer", "run", "--no-home"]
    done = machine.run(
        [*nobody, "--bind", f"{data}:/data", sif, "history", f"/data/{FIBERS}"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        cwd=Path("/"),
    )
    assert done.returncode == 0


def test_instance_serves_in_the_background_until_it_is_stopped(
    sif: Path, data: Path, hpc: User
) -> None:
    port, name = machine.free_port(), f"brain-{os.getpid()}"
    start: Words = ["apptainer", "instance", "start", "--bind", f"{data}:/data", sif, name]
    hpc.run([*start, "--port", str(port), "--workers", "1"])
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url), "the instance answers")
        assert name in hpc.run(["apptainer", "instance", "list"]).stdout
        assert requests.patch(f"{url}/{FIBERS}?id=new", data=POINT).status_code == 201
    finally:
        hpc.run(["apptainer", "instance", "stop", name])
    assert not answers(url)
    assert name not in hpc.run(["apptainer", "instance", "list"]).stdout


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/health", timeout=5).ok
    except requests.RequestException:
        return False


# --- the page ---


def test_page_of_apptainer_works_as_it_stands(data: Path, shared: Path, hpc: User) -> None:
    machine.need("apptainer", "curl")
    checkout = hpc.own(machine.copy_sources(shared / "checkout"))
    port = machine.free_port()
    with_base = " ".join(["apptainer build", *machine.sif_arguments()])
    reader = Reader(
        directory=checkout,
        prefix=hpc.command([]),
        # Port 9000 may be taken here; a page that names no port gets another all the same.
        env=hpc.environment(
            {"NEUROTRALE_PORT": str(port), "APPTAINERENV_NEUROTRALE_PORT": str(port)}
        ),
        instead={
            "/host/data/dir": str(data),
            "9000": str(port),
            "apptainer build": f"{with_base} --mksquashfs-args '-Xcompression-level 1'",
        },
        answers=lambda: answers(f"http://127.0.0.1:{port}"),
    )
    reader.follow("apptainer.md")
