"""A Docker engine, and what its containers publish.

Where an engine cannot both build with a network and publish ports, it is switched between the two
(see `tests.deploy.machine`): images are built first.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.deploy import machine
from tests.deploy.machine import BUILD_PATIENCE_S, Done, run

SWITCH = shlex.split(os.environ.get("NEUROTRALE_TEST_DOCKER", ""))
# What a command is started with to reach what containers publish.
INSIDE = shlex.split(os.environ.get("NEUROTRALE_TEST_DOCKER_NET", ""))
IMAGE = "neurotrale"
BASE_IMAGE = "neurotrale-test/python-base"
PROXY_IMAGE = "neurotrale-test/haproxy"

# A stand-in for the image `haproxy`: its configuration is read from the same place.
PROXY = """
ARG BASE
FROM ${BASE}
RUN apt-get -qq update && apt-get -qq install --yes --no-install-recommends haproxy
USER haproxy
"""


@dataclass(frozen=True)
class Answer:
    """What a service in a container answered."""

    status: int
    headers: dict[str, str]
    body: str


def switch(mode: str) -> None:
    """Have the engine build (`host`) or publish (`netns`), where it does one at a time."""
    if SWITCH:
        run([*SWITCH, mode])


def docker(*arguments: str | Path, check: bool = True, timeout_s: float = BUILD_PATIENCE_S) -> Done:
    """Run a Docker command where containers' ports are published."""
    return run([*INSIDE, "docker", *arguments], check=check, timeout_s=timeout_s)


def base_arguments() -> list[str]:
    """What replaces the base of the Dockerfile on a machine without a registry."""
    if not machine.BASE:
        return []
    known = run(["docker", "image", "inspect", BASE_IMAGE], check=False)
    if known.returncode != 0:
        rootfs = Path(machine.BASE) / "rootfs"
        pipe = f"tar -C {shlex.quote(str(rootfs))} -c . | docker import - {BASE_IMAGE}"
        run(["bash", "-o", "pipefail", "-c", pipe])
    return ["--build-arg", f"BASE={BASE_IMAGE}"]


def build(sources: Path) -> str:
    """Build the image; layers that did not change come from the engine's cache."""
    command = ["docker", "build", "--network", "host", *base_arguments(), "-t", IMAGE, "."]
    run(command, cwd=sources, timeout_s=BUILD_PATIENCE_S)
    return IMAGE


def build_proxy(place: Path) -> str:
    """Name the image of HAProxy; where no registry is reached build one."""
    if not machine.BASE:
        return os.environ.get("HAPROXY_IMAGE", "haproxy:3.0")
    (place / "Dockerfile").write_text(PROXY)
    command = ["docker", "build", "--network", "host", *base_arguments(), "-t", PROXY_IMAGE, "."]
    run(command, cwd=place, timeout_s=BUILD_PATIENCE_S)
    return PROXY_IMAGE


def ask(url: str, method: str = "GET", body: str | None = None, *headers: str) -> Answer:
    """Send a request to what a container publishes."""
    command = [*INSIDE, "curl", "-sS", "-i", "-X", method, "--max-time", "60", url]
    for header in headers:
        command += ["-H", header]
    if body is not None:
        command += ["--data-binary", body]
    head, _, content = run(command).stdout.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.splitlines()
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs}, content)


def answers(url: str) -> bool:
    """Whether a service in a container is well."""
    command = [*INSIDE, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/api/health"]
    return run(command, check=False).stdout == "200"
