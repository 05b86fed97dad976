"""Workers that die: which deaths end the service, and which are mended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from neurotrale.server.supervisor import CGROUPS
from tests.datasets import write_dataset
from tests.processes import PATIENCE_S, environment, eventually, run


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


_WORKERS_THAT_FAIL = """
import logging, os, sys
from neurotrale.server.supervisor import Supervisor

def work(ready, answered):
    {work}

def prepare():
    print("prepared", flush=True)

logging.basicConfig(level=logging.INFO, format="%(message)s")
supervisor = Supervisor(work, 2, 5.0, prepare=prepare)
sys.exit(supervisor.run(lambda: print("ready", flush=True)))
"""


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("work", "deaths", "said", "output"),
    [
        pytest.param("import a_module_that_is_not_there", 7, "no worker could start; stopping", "",
                     id="before-they-are-ready"),
        pytest.param("os.kill(os.getpid(), 9)", 7, "no worker could start; stopping", "",
                     id="killed-before-they-are-ready"),
        pytest.param("ready(); raise OSError('no threads')", 12,
                     "workers die repeatedly, and none has answered a request; stopping",
                     "ready\nprepared\n",
                     id="once-they-are-ready"),
    ],
)  # fmt: skip
def test_workers_that_cannot_start_end_the_service_in_a_sentence(
    work: str, deaths: int, said: str, output: str
) -> None:
    done = run([sys.executable, "-c", _WORKERS_THAT_FAIL.format(work=work)])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == said
    assert done.stderr.count(" died (") == deaths
    assert done.stdout == output


_FIRST_WORKERS_DIE = """
import logging, os, sys
from contextlib import closing
from pathlib import Path
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from neurotrale.server.sockets import open_socket, url_of
from neurotrale.server.supervisor import Supervisor
from neurotrale.server.worker import Limits, run_worker

root, deaths = Path(sys.argv[1]), Path(sys.argv[2])
logging.basicConfig(level=logging.INFO, format="%(message)s")

def work(ready, answered):
    with deaths.open("ab") as file:
        file.write(b"x")
    if deaths.stat().st_size <= 3:
        os.kill(os.getpid(), 9)
    run_worker(app, listening, Limits(), ready, answered, lambda: None)

app = create_app(AppSettings(root))
with closing(open_socket("127.0.0.1", 0)) as listening:
    supervisor = Supervisor(work, 2, 5.0, prepare=lambda: print("prepared", flush=True))
    sys.exit(supervisor.run(lambda: print(url_of(listening, "127.0.0.1"), flush=True)))
"""


def test_first_workers_that_die_are_replaced_before_the_service_is_announced(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    write_dataset(root / "brain")
    command = [sys.executable, "-c", _FIRST_WORKERS_DIE, str(root), str(tmp_path / "deaths")]
    with started(command) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert process.stdout.readline() == "prepared\n"
        assert requests.get(f"{url}brain/info").ok
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert said.count(" died (SIGKILL)") == 3


def test_service_stops_at_once_while_its_first_worker_dies_again_and_again() -> None:
    script = _WORKERS_THAT_FAIL.format(work="raise OSError('no memory')")
    with started([sys.executable, "-c", script]) as process:
        assert process.stderr is not None
        deaths = 0
        while deaths < 3:
            deaths += " died (" in process.stderr.readline()
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert said.endswith("SIGTERM: finishing the requests in flight\n")


# --- memory ---


def test_processes_that_the_kernel_killed_for_lack_of_memory_are_counted() -> None:
    own = next((line for line in groups() if line.split(":")[1] in ("memory", "")), "")
    _, controllers, group = own.split(":", 2)
    parent = CGROUPS / controllers / group.lstrip("/")
    limited = parent / f"neurotrale-test-{os.getpid()}"
    try:
        limited.mkdir()
        limit = "memory.limit_in_bytes" if controllers else "memory.max"
        (limited / limit).write_text(str(64 * 2**20))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    program = (
        "import os, subprocess, sys; from pathlib import Path\n"
        f"Path({str(limited)!r}, 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from neurotrale.server.supervisor import out_of_memory_kills\n"
        "before = out_of_memory_kills()\n"
        "hog = subprocess.run([sys.executable, '-c', 'bytearray(2**28)'])\n"
        "print(before, hog.returncode, out_of_memory_kills())\n"
    )
    try:
        done = run([sys.executable, "-c", program])
        eventually(lambda: not (limited / "cgroup.procs").read_text(), "it is empty")
    finally:
        limited.rmdir()
    assert done.stdout.split() == ["0", "-9", "1"], done.stderr


def groups() -> list[str]:
    """The control groups of this process, those for memory alone first."""
    return sorted(Path("/proc/self/cgroup").read_text().splitlines(), reverse=True)
