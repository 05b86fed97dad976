"""What the service says when it answers, at a terminal and in a batch job of Slurm."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.datasets import write_dataset
from tests.processes import environment, eventually, neurotrale

BATCH = {
    "ENVIRONMENT": "BATCH",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_USER": "alice",
    "SLURM_SUBMIT_HOST": "login3",
    "SLURM_CPUS_PER_TASK": "1",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data" / "brain").parent


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def said(root: Path, ready: Path, env: dict[str, str], *options: str) -> tuple[str, dict[str, str]]:
    """What a service prints until it is stopped, and its ready file."""
    command = neurotrale("serve", root, "--port", "0", "--workers", "1", *options)
    with subprocess.Popen(
        [*command, "--ready-file", str(ready)],
        env=environment(env),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            facts = json.loads(eventually(lambda: _content(ready), "the ready file"))
        finally:
            process.terminate()
        assert process.stdout is not None
        return process.stdout.read(), facts


def test_announcement_in_a_batch_job_tells_how_to_connect_and_to_stop(
    root: Path, tmp_path: Path
) -> None:
    text, facts = said(root, tmp_path / "ready", BATCH, "--host", "0.0.0.0")
    node, port = os.uname().nodename, facts["port"]
    assert f"job 4711 on {node}, port {port}" in text
    assert f"ssh -N -L 9000:{node}:{port} alice@login3\n" in text
    assert f"ssh -N -L 9000:localhost:{port} -J alice@login3 alice@{node}\n" in text
    assert "scancel --signal=TERM --batch 4711" in text
    assert re.findall(r"^(\d)\.", text, re.MULTILINE) == ["1", "2", "3"]
    assert "Ctrl-C" not in text


def test_announcement_of_a_service_on_localhost_leaves_out_what_cannot_reach_it(
    root: Path, tmp_path: Path
) -> None:
    text, _ = said(root, tmp_path / "ready", BATCH)
    assert re.findall(r"ssh -N -L 9000:(\w+):", text) == ["localhost"]


def test_announcement_names_the_login_node_as_the_user_does(root: Path, tmp_path: Path) -> None:
    env = {**BATCH, "NEUROTRALE_LOGIN": "cluster"}
    text, facts = said(root, tmp_path / "ready", env, "--host", "0.0.0.0")
    assert f":{facts['port']} cluster\n" in text


def test_announcement_of_one_of_several_services_leaves_the_rest_to_what_is_before_them(
    root: Path, tmp_path: Path
) -> None:
    text, facts = said(root, tmp_path / "ready", {**BATCH, "SLURM_STEP_ID": "0"})
    assert text == f"The service answers on {os.uname().nodename}, port {facts['port']}.\n"


@pytest.mark.quick(1)
@pytest.mark.parametrize("missing", ["ENVIRONMENT", "SLURM_JOB_ID"])
def test_announcement_outside_of_batch_jobs_is_for_a_terminal(
    root: Path, tmp_path: Path, missing: str
) -> None:
    env = {name: value for name, value in BATCH.items() if name != missing}
    text, facts = said(root, tmp_path / "ready", env)
    assert [line.split()[0] for line in text.splitlines()] == ["open", "data", "docs", "stop"]
    assert text.startswith(f"open  http://127.0.0.1:{facts['port']}/\n")


def test_ready_file_is_for_its_owner_alone_whatever_the_umask(root: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = neurotrale("serve", root, "--port", "0", "--workers", "1", "--ready-file", ready)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, umask=0) as one:
        try:
            eventually(ready.exists, "the ready file")
            assert ready.stat().st_mode & 0o777 == 0o600
        finally:
            one.terminate()
