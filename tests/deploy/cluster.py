"""A Slurm cluster and its login node, used by an ordinary user through the scripts of `slurm/`.

Settings beside those of `tests.deploy.machine`:

- ``NEUROTRALE_TEST_SSH``: the ssh that reaches the login node (default: ``ssh``), such as
  ``ssh -F FILE``;
- ``NEUROTRALE_TEST_LOGIN``: what that calls the login node (default: ``login``).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.deploy.machine import Done, User, eventually, free_port, missing, need, run
from tests.deploy.samples import FIBERS

SSH = shlex.split(os.environ.get("NEUROTRALE_TEST_SSH", "ssh"))
LOGIN = os.environ.get("NEUROTRALE_TEST_LOGIN", "login")
SMALL = ("--time=10", "--cpus-per-task=1")


@dataclass(frozen=True)
class Connection:
    """What the connection file of a session says."""

    node: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.node}:{self.port}"


@dataclass(frozen=True)
class Cluster:
    """A cluster as its user sees it.

    Attributes:
        user: Whose jobs run there.
        scripts: The directory `slurm/` of a checkout.
        image: The Apptainer image.
        nodes: Names of the compute nodes.
        submitted: Sessions that were begun, for `clean_up`.
    """

    user: User
    scripts: Path
    image: Path
    nodes: tuple[str, ...]
    submitted: list[str] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.user.home / ".neurotrale"

    def launch(self, *words: str | Path, check: bool = True) -> Done:
        """Run launch on the login node."""
        return self.user.run([self.scripts / "launch", *words], check=check)

    def launch_from_afar(self, *words: str | Path, ssh: Sequence[str] = SSH) -> list[str | Path]:
        """The command that runs launch on a computer that knows the login node by ssh alone."""
        return ["env", f"NEUROTRALE_SSH={shlex.join(ssh)}", self.scripts / "launch",
                "--login", LOGIN, *words]  # fmt: skip

    def submit(self, data: Path, *settings: str, options: Sequence[str] = SMALL) -> str:
        """Queue a job; give its session."""
        done = self.launch(
            "submit", data, f"IMAGE={self.image}", *settings, "--no-wait", "--", *options
        )
        session = done.stdout.strip()
        self.submitted.append(session)
        return session

    def place(self, session: str) -> Path:
        return self.state / "sessions" / session

    def token(self, session: str) -> str:
        return (self.place(session) / "tokens").read_text().strip().rpartition(":")[2]

    def connection(self, session: str) -> Connection:
        """Wait until the service of a session answers."""
        self.launch("await", session)
        facts = json.loads((self.place(session) / "connection.json").read_text())
        return Connection(facts["node"], facts["port"], facts["pid"])

    def log(self, job: str) -> str:
        return (self.state / f"neurotrale-{job}.log").read_text(errors="replace")

    def queue(self) -> dict[str, str]:
        """The states of the user's jobs that have not ended."""
        lines = run(["squeue", "-h", "-u", self.user.name, "-o", "%A %T"]).stdout.splitlines()
        return dict(line.split() for line in lines)

    def ended(self, job: str) -> dict[str, str]:
        """Wait for the end of a job; give what Slurm says of it."""
        eventually(lambda: job not in self.queue(), f"the end of job {job}")
        said = run(["scontrol", "show", "job", job]).stdout
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def clean_up(self) -> None:
        """End what a test that failed has left."""
        for session in self.submitted:
            if self.place(session).exists():
                self.launch("stop", session, check=False)
            (self.state / f"neurotrale-{session}.log").unlink(missing_ok=True)


def cluster(user: User, sources: Path, image: Path) -> Cluster:
    """The cluster of this machine."""
    need("sbatch", "squeue", "scontrol", "srun", "ssh", "curl")
    nodes = run(["sinfo", "-h", "-N", "-o", "%N"], check=False)
    if nodes.returncode != 0 or not nodes.stdout.strip():
        missing(f"no Slurm answers: {nodes.stderr.strip()}")
    return Cluster(user, sources / "slurm", image, tuple(nodes.stdout.split()))


def needs_login(user: User) -> None:
    """Skip (or fail) where the login node is not reached."""
    if user.run([*SSH, LOGIN, "true"], check=False).returncode != 0:
        missing(f"`{shlex.join(SSH)} {LOGIN}` fails; NEUROTRALE_TEST_SSH names another ssh")


@contextmanager
def process(
    user: User, command: Sequence[str | Path], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as the user while the block lasts, then end it as Ctrl-C does."""
    with user.start(command, log) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def forwarded(user: User, printed: str, place: Path) -> Iterator[str]:
    """Run the `ssh -N -L` that was printed, on a free port; give the URL of this side."""
    local = free_port()
    (target,) = re.findall(r"^ *ssh -N -L 9000:(\S+) \S+$", printed, re.MULTILINE)
    with tempfile.TemporaryDirectory(dir=place) as logs:
        command = [*SSH, "-N", "-L", f"{local}:{target}", LOGIN]
        with process(user, command, Path(logs) / "ssh.log"):
            eventually(lambda: is_open(local), "the tunnel")
            yield f"http://localhost:{local}"


@dataclass
class Writer:
    """Adds annotations to one file, one after the other, and remembers which were acknowledged."""

    url: str
    token: str
    name: str
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        while not self._end.is_set():
            id_ = f"{self.name}-{number}"
            number += 1
            try:
                answer = requests.patch(
                    f"{self.url}/{FIBERS}",
                    params={"id": id_},
                    data='{"type": "point", "point": [1, 2, 3]}',
                    headers={"Authorization": f"Bearer {self.token}"},
                    timeout=30,
                )
            except requests.RequestException:
                self.refused += 1
                self._end.wait(0.05)
                continue
            if answer.ok:
                self.acknowledged.append(id_)
            else:
                self.refused += 1

    def finish(self) -> None:
        self._end.set()
        self._thread.join(60)


@contextmanager
def writing(url: str, token: str, names: Sequence[str]) -> Iterator[list[Writer]]:
    """Writers of one annotation file, at work while the block lasts."""
    writers = [Writer(url, token, name) for name in names]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.finish()


def ids_in(data: Path) -> set[str]:
    """The annotations that the file holds on disk."""
    return {annotation["id"] for annotation in json.loads((data / FIBERS).read_text())}
