"""Commands and the service start fast: what they do not need is not imported."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import requests

from neurotrale.settings import COMMANDS
from tests.datasets import gradient, write_dataset
from tests.processes import children, environment, eventually, neurotrale, run, running
from tests.stacks import write_planes

SERVING = {"falcon", "waitress", "falcon_apispec", "apispec", "yaml", "swagger_ui_bundle"}
IMAGES = {"numpy", "tifffile", "imagecodecs"}
FIBERS = "annotations/x0y0z0/fibers.json"


def loaded(arguments: list[str | Path], cwd: Path, code: int = 0) -> set[str]:
    """Run a command to its end; give the packages that it imported, as Python tells them."""
    program, *rest = neurotrale(*arguments)
    done = run([program, "-X", "importtime", *rest], cwd=cwd)
    assert done.returncode == code, done.stderr
    return {name.split(".")[0] for name in re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)}


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_imports_nothing_of_service_and_images(name: str, tmp_path: Path) -> None:
    packages = loaded([name, "--help"] if name else ["--help"], tmp_path)
    assert "click" in packages
    assert packages & (SERVING | IMAGES) == set()


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["check", "brain", "--sample", "1"], 0, id="check"),
        pytest.param(["repack", "brain", "--layout", "single", "--dry-run"], 0, id="repack"),
        pytest.param(["history", f"brain/{FIBERS}"], 0, id="history"),
        pytest.param(["restore", f"brain/{FIBERS}", "--revision", "9"], 1, id="restore"),
        pytest.param(["held", f"brain/{FIBERS}"], 0, id="held"),
        pytest.param(["corrections", "brain"], 0, id="corrections"),
        pytest.param(["export", "brain"], 0, id="export"),
        pytest.param(["locks", "."], 0, id="locks"),
        pytest.param(["token", "--name", "anna"], 0, id="token"),
        pytest.param(
            ["ingest", "--source", "planes/*.tif", "--dest", "made", "--voxel-size", "1"],
            0,
            id="ingest",
        ),
        pytest.param(["serve", "gone"], 1, id="serve that cannot"),
    ],
)
def test_only_who_serves_imports_the_service(
    arguments: list[str | Path], code: int, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "brain")
    (tmp_path / "brain" / FIBERS).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "brain" / FIBERS).write_text("[]")
    write_planes(tmp_path / "planes", gradient((4, 8, 8)))
    packages = loaded(arguments, tmp_path, code)
    expected = {"falcon", "waitress"} if arguments[0] == "serve" else set()
    assert packages & {"falcon", "waitress"} == expected


def test_service_starts_without_what_no_first_answer_needs() -> None:
    modules = "neurotrale.cli.serve, neurotrale.server.service, neurotrale.web.webapps"
    script = f"import {modules}, sys, json; print(json.dumps([*sys.modules]))"
    done = run([sys.executable, "-c", script])
    packages = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert packages & (SERVING | IMAGES) == {"falcon", "waitress"}


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.quick(1)
@pytest.mark.parametrize("workers", [1, 3])
def test_service_loads_what_chunks_need_before_anybody_asks_for_one(
    workers: int, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    command = neurotrale("serve", tmp_path / "data", "--port", "0", "--workers", str(workers))
    with running(command) as service:
        pids = children(service.process.pid)
        assert len(pids) == workers
        for pid in pids:
            for part in ("numpy", "imagecodecs/_zstd"):
                eventually(lambda pid=pid, part=part: part in maps(pid), part)  # type: ignore[misc]
        assert requests.get(f"{service.url}/api/health").ok
        assert requests.get(f"{service.url}/api/openapi.json").ok


def test_workers_share_what_was_loaded_before_they_were_started(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data" / "brain")
    command = neurotrale("serve", tmp_path / "data", "--port", "0", "--workers", "2")
    with running(command) as service:
        assert "numpy" in maps(service.process.pid)


def test_worker_that_takes_the_place_of_another_answers_chunks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data" / "brain")
    command = neurotrale("serve", tmp_path / "data", "--port", "0", "--workers", "1")
    with running(command, environment()) as service:
        (first,) = children(service.process.pid)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: set(children(service.process.pid)) - {first}, "another worker")
        name = next((tmp_path / "data" / "brain" / "1_1_1").iterdir()).name.partition(".")[0]
        assert requests.get(f"{service.url}/brain/1_1_1/{name}").ok
