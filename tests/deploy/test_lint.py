"""Shell scripts, Dockerfile, compose file and HAProxy's configuration are clean."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.deploy import machine
from tests.deploy.machine import run
from tests.processes import REPOSITORY


def program(name: str) -> str:
    """A linter that is installed with the tests' own packages, or else by the system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        machine.missing(f"{name} is not installed")
    return found


def is_shell(path: Path) -> bool:
    with (REPOSITORY / path).open("rb") as file:
        first = file.readline()
    return first.startswith(b"#!") and first.split()[-1].rpartition(b"/")[2] in (b"sh", b"bash")


SCRIPTS = [path for path in machine.source_files() if is_shell(path)]


def test_scripts_are_found_by_their_first_line() -> None:
    assert {Path("container/entrypoint.sh"), Path("container/install.sh"), Path(".ci/run")} <= set(
        SCRIPTS
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_shell_script_is_clean(script: Path) -> None:
    run(
        [program("shellcheck"), "--external-sources", "--source-path=SCRIPTDIR", script],
        cwd=REPOSITORY,
    )


def test_shell_check_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "script").write_text('#!/bin/sh\nrm -r "$1"/$2\n')
    done = run([program("shellcheck"), tmp_path / "script"], check=False)
    assert "SC2086" in done.stdout


def test_dockerfile_is_clean() -> None:
    run([program("hadolint"), "Dockerfile"], cwd=REPOSITORY)


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name[:10] != "NEUROTRALE"}


def need_compose() -> None:
    machine.need("docker")
    if run(["docker", "compose", "version"], check=False).returncode != 0:
        machine.missing("docker compose is not installed")


@pytest.mark.parametrize("profile", [[], ["--profile", "viewer"]], ids=["service", "and viewer"])
def test_compose_file_is_clean(profile: list[str], tmp_path: Path) -> None:
    need_compose()
    env = {**without_settings(), "NEUROTRALE_DATA": str(tmp_path)}
    done = run(["docker", "compose", *profile, "config", "-q"], cwd=REPOSITORY, env=env)
    assert done.stderr == ""


def test_compose_file_without_data_says_what_to_name() -> None:
    need_compose()
    done = run(
        ["docker", "compose", "config", "-q"], cwd=REPOSITORY, env=without_settings(), check=False
    )
    assert done.returncode != 0
    assert "NEUROTRALE_DATA" in done.stderr
    assert "name the directory of your datasets" in done.stderr


def test_configuration_of_haproxy_is_clean() -> None:
    done = run([program("haproxy"), "-c", "-f", "container/haproxy.cfg"], cwd=REPOSITORY)
    assert "[WARNING]" not in done.stderr
