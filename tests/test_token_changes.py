"""A token file that changes while the service runs: who is let in by each of its workers."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.processes import children, eventually, neurotrale, run, running, state
from tests.test_http import Answer, ask, assert_problem
from tests.test_startup_message import BATCH, said

ANNA = "annas-token-may-write.0123456789"
BOB = "bobs-token-may-look~0123456789_A"
BOTH = f"anna:rw:{ANNA}\nbob:ro:{BOB}\n"
ONE = f"anna:rw:{ANNA}\n"

INFO = "/brain/info"
FILE = "/brain/annotations/x0y0z0/fibers.json"
HEALTH = "/api/health"
ORIGIN = {"Origin": "https://viewer.example.org"}
WORKERS = 2


def owned(path: Path, text: str, mode: int = 0o600) -> Path:
    """Replace a token file at once."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    return new.rename(path)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "some where").mkdir()
    return owned(tmp_path / "some where" / "people", BOTH)


@pytest.fixture
def service(dataset: Path, tokens: Path, start_service: StartService) -> Iterator[Service]:
    """A service with two workers; at its end, its log must hold no token."""
    options = ("--token-file", str(tokens), "--workers", str(WORKERS))
    service = start_service(dataset.parent, *options)
    yield service
    assert service.stop() == 0
    for secret in (ANNA, BOB):
        assert secret not in service.log()
    assert "Traceback" not in service.log()


def workers_of(service: Service) -> list[int]:
    """All workers, once there are as many as there should be."""

    def living() -> list[int]:
        found = [pid for pid in children(service.process.pid) if state(pid) not in ("", "Z")]
        return found if len(found) == WORKERS else []

    return eventually(living, "all workers are there")


def of_each(service: Service, target: str, method: str = "GET") -> list[Answer]:
    """Ask each worker, while all others are stopped."""
    workers, answers = workers_of(service), []
    for worker in workers:
        others = [pid for pid in workers if pid != worker]
        try:
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
                eventually(partial(is_stopped, pid), "it is stopped")
            answers.append(ask(service, target, ORIGIN, method=method))
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
    return answers


def is_stopped(pid: int) -> bool:
    return state(pid) == "T"


def statuses(service: Service, *secrets: str) -> list[set[int]]:
    """What the workers answer to each token."""
    return [
        {each.status for each in of_each(service, f"/token/{secret}{INFO}")} for secret in secrets
    ]


def becomes(service: Service, anna: int, bob: int) -> None:
    """Wait until all workers answer so to the two tokens."""
    eventually(lambda: statuses(service, ANNA, BOB) == [{anna}, {bob}], f"{anna} and {bob}")


def kill_workers(service: Service) -> None:
    """Kill all workers and wait for others in their place."""
    before = workers_of(service)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not set(before) & set(children(service.process.pid)), "they are gone")
    workers_of(service)


def remarks(service: Service) -> list[str]:
    """What each worker remarks on in its health; all say the same."""
    answers = of_each(service, HEALTH)
    assert {answer.status for answer in answers} == {200}
    (body,) = {answer.body for answer in answers}
    found: list[str] = json.loads(body).get("remarks", [])
    return found


def instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Put something else where the file is."""

    def make_instead(path: Path) -> None:
        path.unlink()
        make(path)

    return make_instead


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "readable by others": (lambda path: owned(path, BOTH, 0o644), "chmod 600 people"),
    "mode that is changed": (lambda path: path.chmod(0o640), "chmod 600 people"),
    "malformed line": (lambda path: owned(path, f"{BOTH}oops:{ANNA}\n"), "people:3: expected"),
    "malformed in place": (lambda path: path.write_text(f"oops:{ANNA}\n{BOTH}"), "people:1: exp"),
    "name twice": (lambda path: owned(path, BOTH + f"bob:rw:{ANNA}x\n"), "same name as in line 2"),
    "token twice": (lambda path: owned(path, BOTH + f"c:rw:{ANNA}\n"), "same token as in line 1"),
    "no text": (lambda path: owned(path, BOTH).write_bytes(b"\xff\n"), "people:1: not UTF-8"),
    "too large": (lambda path: owned(path, BOTH + "#" * 2**20), "larger than 1 MiB"),
    "removed": (lambda path: path.unlink(), "No such file"),
    "directory away": (lambda path: path.parent.rename(path.parent.with_name("x")), "No such file"),
    "directory in its place": (instead(Path.mkdir), "Is a directory"),
    "pipe in its place": (instead(lambda path: os.mkfifo(path, 0o600)), "not a regular file"),
    "link to itself": (instead(lambda path: path.symlink_to(path)), "Too many levels"),
    "link to nothing": (instead(lambda path: path.symlink_to("gone")), "No such file"),
    "link to a device": (instead(lambda path: path.symlink_to("/dev/null")), "not a regular file"),
}


@pytest.mark.parametrize(("make", "why"), BREAKS.values(), ids=BREAKS)
@pytest.mark.long
def test_file_that_cannot_be_used_lets_nobody_in_and_every_answer_says_why(
    service: Service, tokens: Path, make: Callable[[Path], object], why: str
) -> None:
    assert statuses(service, ANNA, BOB) == [{200}, {200}]
    make(tokens)
    becomes(service, 503, 503)
    for target in (INFO, f"/token/{ANNA}{INFO}", f"{INFO}?token={BOB}", HEALTH, "/nothing"):
        for answer in of_each(service, target):
            assert_problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
            description = json.loads(answer.body)["description"]
            assert why in description
            assert str(tokens.parent) not in description
            assert ANNA not in description
    assert {each.status for each in of_each(service, f"/token/{ANNA}{FILE}", method="PUT")} == {503}
    complaints = [line for line in service.log().splitlines() if "Every request is refused" in line]
    assert len(complaints) == 1
    assert str(tokens) in complaints[0]
    # Whatever lies there now goes, and a good one takes its place.
    tokens.parent.mkdir(exist_ok=True)
    if tokens.is_dir():
        tokens.rmdir()
    owned(tokens, ONE)
    becomes(service, 200, 401)
    assert remarks(service) == []


def test_revoked_token_does_not_return_with_a_new_worker(service: Service, tokens: Path) -> None:
    owned(tokens, ONE)
    becomes(service, 200, 401)
    kill_workers(service)
    assert statuses(service, ANNA, BOB) == [{200}, {401}]
    tokens.chmod(0o644)
    becomes(service, 503, 503)
    kill_workers(service)
    assert statuses(service, ANNA, BOB) == [{503}, {503}]
    tokens.unlink()
    kill_workers(service)
    assert statuses(service, ANNA, BOB) == [{503}, {503}]
    owned(tokens, ONE)
    becomes(service, 200, 401)
    kill_workers(service)
    assert statuses(service, ANNA, BOB) == [{200}, {401}]


@pytest.mark.quick(1)
@pytest.mark.parametrize("content", ["", "# nobody\n", "\n\n"], ids=["empty", "comment", "blank"])
def test_last_token_can_be_revoked(service: Service, tokens: Path, content: str) -> None:
    owned(tokens, content)
    becomes(service, 401, 401)
    kill_workers(service)
    assert statuses(service, ANNA, BOB) == [{401}, {401}]
    assert f"{tokens} holds no token, so every request is refused" in service.log()
    (remark,) = remarks(service)
    assert remark.startswith("people holds no token")
    done = run(neurotrale("token", "--name", "zoe", "--append", tokens))
    assert done.returncode == 0, done.stderr
    secret = tokens.read_text().rstrip("\n").rpartition(":")[2]
    eventually(lambda: statuses(service, secret, ANNA) == [{200}, {401}], "zoe is let in")


@pytest.mark.quick(1)
@pytest.mark.parametrize("length", [16, len(BOB) - 1, len(BOB)])
def test_line_that_is_being_written_does_not_count(
    service: Service, tokens: Path, length: int
) -> None:
    part = BOB[:length]
    with tokens.open("w") as file:
        file.write(f"{ONE}bob:ro:{part}")
        file.flush()
        becomes(service, 200, 401)
        assert statuses(service, part) == [{401}]
        (remark,) = remarks(service)
        assert remark.startswith("people: the last line does not end with a newline")
        assert f"{tokens}: the last line does not end with a newline" in service.log()
        file.write(f"{BOB[length:]}\n")
    becomes(service, 200, 200)
    assert remarks(service) == []


def test_changes_of_rights_count_for_every_worker(service: Service, tokens: Path) -> None:
    def writes(secret: str) -> set[int]:
        target = f"/token/{secret}{FILE}?id=nobody"
        return {each.status for each in of_each(service, target, method="DELETE")}

    assert (writes(ANNA), writes(BOB)) == ({404}, {403})
    owned(tokens, BOTH.replace(":rw:", ":-:").replace(":ro:", ":rw:").replace(":-:", ":ro:"))
    eventually(lambda: (writes(ANNA), writes(BOB)) == ({403}, {404}), "they have changed places")


def test_version_of_the_same_size_and_time_counts(service: Service, tokens: Path) -> None:
    before = tokens.stat()
    other = BOB.swapcase()
    with tokens.open("r+") as file:
        file.write(BOTH.replace(BOB, other))
    os.utime(tokens, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = tokens.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    becomes(service, 200, 401)
    assert statuses(service, other) == [{200}]


# --- nobody reads the file any more ---


@pytest.mark.long
def test_list_that_is_not_read_any_more_lets_nobody_in(service: Service, tokens: Path) -> None:
    service.process.send_signal(signal.SIGSTOP)
    try:
        owned(tokens, ONE)
        becomes(service, 503, 503)
        for answer in of_each(service, HEALTH):
            assert_problem(answer, 503)
            assert "has not been able to read its token file people for 10 s" in str(answer.body)
    finally:
        service.process.send_signal(signal.SIGCONT)
    becomes(service, 200, 401)
    assert "has not been able to read its token file people for 10 s" in service.log()


@contextmanager
def stalled(path: Path) -> Iterator[None]:
    """Hold all who open a file, as a network file system does whose server is away."""
    class_content, mark_add, open_perm, at_fdcwd = 4, 1, 0x10000, -100
    kernel = ctypes.CDLL(None, use_errno=True)
    decider = kernel.fanotify_init(class_content, os.O_RDONLY | os.O_CLOEXEC)
    assert decider >= 0, os.strerror(ctypes.get_errno())
    mask = ctypes.c_uint64(open_perm)
    marked = kernel.fanotify_mark(decider, mark_add, mask, at_fdcwd, os.fsencode(path))
    assert marked == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        os.close(decider)  # what nobody decides any more is allowed


@pytest.mark.long
def test_file_system_that_stalls_lets_nobody_in_and_workers_are_replaced_all_the_same(
    service: Service, tokens: Path
) -> None:
    with stalled(tokens):
        becomes(service, 503, 503)
        assert "has not been able to read its token file people for 10 s" in service.log()
        kill_workers(service)
        assert statuses(service, ANNA, BOB) == [{503}, {503}]
    becomes(service, 200, 200)


@pytest.mark.long
def test_file_system_that_stalls_does_not_keep_the_service_from_stopping(
    service: Service, tokens: Path
) -> None:
    with stalled(tokens):
        becomes(service, 503, 503)
        assert service.stop() == 0


# --- start ---


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("content", "begins"),
    [
        pytest.param("", ["{} holds no token, so every request is refused"], id="empty"),
        pytest.param(BOTH[:-1], ["{}: the last line does not end with a newline"], id="unfinished"),
        pytest.param(
            ONE[:-1],
            ["{}: the last line does not end with a newline", "{} holds no token"],
            id="nothing is finished",
        ),
        pytest.param(BOTH, [], id="as it should be"),
    ],
)
def test_start_says_what_is_to_be_done_about_the_file(
    dataset: Path, tokens: Path, content: str, begins: list[str]
) -> None:
    owned(tokens, content)
    command = neurotrale("serve", dataset.parent, "--port", "0", "--workers", "1")
    with running([*command, "--token-file", str(tokens)]) as service:
        notes = [line[6:] for line in service.said if line.startswith("note  ")]
        warned = [line for line in service.log().splitlines() if " WARNING " in line]
    assert len(notes) == len(warned) == len(begins)
    for text, note, warning in zip(begins, notes, warned, strict=True):
        assert note.startswith(text.format(tokens))
        assert note in warning


@pytest.mark.quick(1)
@pytest.mark.parametrize("more", [{}, {"SLURM_STEP_ID": "0"}], ids=["alone", "one of several"])
def test_start_in_a_batch_job_says_it_too(
    tmp_path: Path, tokens: Path, more: dict[str, str]
) -> None:
    root = write_dataset(tmp_path / "root" / "brain").parent
    owned(tokens, BOTH[:-1])
    options = ("--token-file", str(tokens))
    text, _ = said(root, tmp_path / "ready", {**BATCH, **more}, *options)
    assert f"note  {tokens}: the last line does not end with a newline" in text
    assert BOB not in text
