"""What the deployment is tested with: real programs, an ordinary user, a copy of the sources.

A program that is not there skips the tests that need it; with ``NEUROTRALE_REQUIRE_DEPLOY=1``, as
CI sets it, they fail instead. Other settings of these tests:

- ``NEUROTRALE_TEST_USER``: who runs the programs of a cluster when the tests run as root
  (default: ``hpc``);
- ``NEUROTRALE_TEST_BASE``: directory with ``base.sif`` and ``rootfs/``, a stand-in for the images
  that apptainer.def and Dockerfile name, where no registry is reached;
- ``NEUROTRALE_TEST_DOCKER``: command that starts a Docker engine in the mode ``host`` (builds have
  a network) or ``netns`` (containers have published ports, inside the network namespace
  ``dockerci``), for a machine whose engine cannot do both at once.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from tests.processes import REPOSITORY

PATIENCE_S = 120.0
BUILD_PATIENCE_S = 900.0
REQUIRED = os.environ.get("NEUROTRALE_REQUIRE_DEPLOY") == "1"
BASE = os.environ.get("NEUROTRALE_TEST_BASE", "")
CACHE = REPOSITORY / ".cache" / "deploy"

# What goes into an image.
INPUTS = (
    "requirements.txt",
    "requirements-viewer.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "neurotrale",
    "container",
    "apptainer.def",
    "Dockerfile",
    ".dockerignore",
)

Done = subprocess.CompletedProcess[str]
T = TypeVar("T")


def missing(why: str) -> NoReturn:
    """Skip a test for what is not on this machine; fail where it has to be."""
    if REQUIRED:
        pytest.fail(f"{why} (NEUROTRALE_REQUIRE_DEPLOY is set)")
    pytest.skip(why)


def need(*programs: str) -> None:
    """Skip (or fail) unless all these programs are on the PATH."""
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} is not installed")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout_s: float = PATIENCE_S,
    check: bool = True,
) -> Done:
    """Run a command to its end; one that fails shows all it said."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        env=None if env is None else dict(env),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(words)}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def eventually(condition: Callable[[], T], why: str, patience_s: float = PATIENCE_S) -> T:
    """Wait until a condition holds; give its value."""
    until = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < until, f"in vain: {why}"
        time.sleep(0.1)
    return value


def free_port() -> int:
    """Give a port that nothing listens on at the moment, on any address."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@contextmanager
def unmounted() -> Iterator[Path]:
    """A directory, for the block, that Apptainer shows to no container by itself."""
    top = next((top for top in ("/srv", "/opt", "/mnt") if os.access(top, os.W_OK)), None)
    if top is None:
        missing(
            "nothing but /tmp, /var/tmp and homes can be written to, which containers see anyway"
        )
    place = Path(tempfile.mkdtemp(prefix="neurotrale-deploy-", dir=top))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _heed_ctrl_c() -> None:
    """Undo that tests were started in the background, where a shell ignores SIGINT for them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class User:
    """An ordinary user, as those of a cluster are.

    Attributes:
        name: The account.
        uid: Its number.
        gid: The number of its group.
        home: Its home directory.
    """

    name: str
    uid: int
    gid: int
    home: Path

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """A short environment, without anything of the tests' own."""
        kept = ("PATH", "LANG", "TERM", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")
        ours = {name: os.environ[name] for name in kept if name in os.environ}
        named = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name}
        return {**ours, **named, **(more or {})}

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs a command as this user."""
        words = [str(word) for word in command]
        return words if os.geteuid() == self.uid else ["runuser", "-u", self.name, "--", *words]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout_s: float = PATIENCE_S,
        check: bool = True,
    ) -> Done:
        """Run a command as this user, to its end; `env` is added to a short environment."""
        return run(
            self.command(command),
            env=self.environment(env),
            cwd=cwd or self.home,
            stdin=stdin,
            timeout_s=timeout_s,
            check=check,
        )

    def start(
        self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command as this user, its output in a file.

        The process is the command itself: the user is changed in place, so that signals reach it.
        """
        other = os.geteuid() != self.uid
        with log.open("wb") as output:
            return subprocess.Popen(
                [str(word) for word in command],
                env=self.environment(env),
                cwd=self.home,
                stdout=output,
                stderr=output,
                user=self.uid if other else None,
                group=self.gid if other else None,
                extra_groups=() if other else None,
                preexec_fn=_heed_ctrl_c,
            )

    def own(self, path: Path) -> Path:
        """Give a directory, and all that is in it, to this user."""
        if os.geteuid() == 0:
            for place in [path, *path.rglob("*")]:
                os.chown(place, self.uid, self.gid, follow_symlinks=False)
        return path


def ordinary_user() -> User:
    """Whoever runs the tests; for root the user that the tests are given."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
    else:
        name = os.environ.get("NEUROTRALE_TEST_USER", "hpc")
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            missing(f"there is no user {name!r} to run as; NEUROTRALE_TEST_USER names another")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def source_files() -> list[Path]:
    """The files of the project, relative to its top; what git ignores is left out."""
    listed = run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=REPOSITORY
    )
    names = sorted(Path(name) for name in listed.stdout.split("\0") if name)
    return [name for name in names if (REPOSITORY / name).is_file()]


def copy_sources(place: Path) -> Path:
    """Copy the project to where an ordinary user can read it: a checkout may lie in root's home."""
    for name in source_files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, place / name)
    return place


def inputs_hash() -> str:
    """Tell one state of everything that goes into an image from another."""
    digest = hashlib.sha256(BASE.encode())
    for name in source_files():
        if name.parts[0] in INPUTS:
            digest.update(f"{name}\0".encode() + (REPOSITORY / name).read_bytes())
    return digest.hexdigest()[:16]


def sif_arguments() -> list[str]:
    """What replaces the base of apptainer.def on a machine without a registry."""
    if not BASE:
        return []
    base = Path(BASE) / "base.sif"
    return ["--build-arg", "BOOTSTRAP=localimage", "--build-arg", f"BASE={base}"]
