"""The list of tokens in shared memory: what readers see while, and after, somebody writes it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import falcon.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.errors import TokensUnusableError
from neurotrale.tokens.file import MOST_FILE_BYTES, Token, TokenList, digest_of, parse_list
from neurotrale.tokens.watch import SLOT_BYTES, STALE_NS, SharedTokens
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from tests.processes import eventually
from tests.test_token_changes import ANNA, BOB, BOTH, INFO, ONE, is_stopped, owned

NOW_NS = 10**15
VERSIONS = 1000


def shared() -> SharedTokens:
    """A place for a list, where it is always the same time."""
    return SharedTokens("people", clock_ns=lambda: NOW_NS)


def version(number: int) -> TokenList:
    """A list that tells by each of its parts which one it is."""
    names = [f"{number}-{place}" for place in range(number % 200)]
    return TokenList(
        tuple(Token(name, number % 2 == 0, digest_of(name)) for name in names), (str(number),)
    )


@contextmanager
def forked(tokens: SharedTokens) -> Iterator[int]:
    """A process that publishes one version after another, as fast as it can."""
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(1, VERSIONS):
                tokens.publish(version(number), NOW_NS)
            signal.pause()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_reader_sees_whole_lists_alone_and_never_an_older_one_again() -> None:
    tokens = shared()
    tokens.publish(version(0), NOW_NS)
    seen = [0]
    with forked(tokens):
        while seen[-1] < VERSIONS - 1:
            found = tokens.now()
            number = int(found.notes[0])
            assert found == version(number)
            assert number >= seen[-1]
            seen.append(number)
    assert len(set(seen)) > 10


def test_writer_that_is_stopped_anywhere_leaves_a_whole_list() -> None:
    for _ in range(20):
        tokens = shared()
        tokens.publish(version(0), NOW_NS)
        with forked(tokens) as pid:
            first = tokens.now()
            while first == version(0):
                first = tokens.now()
            os.kill(pid, signal.SIGSTOP)
            eventually(partial(is_stopped, pid), "it is stopped")
            found = tokens.now()
            assert found == version(int(found.notes[0]))


@given(st.integers(0, 300), st.binary(min_size=1, max_size=40))
def test_list_that_was_written_in_part_is_passed_over(start: int, written: bytes) -> None:
    tokens = shared()
    for number in (2, 3):
        tokens.publish(version(number), NOW_NS)
    memory, newest = tokens._memory, SLOT_BYTES * (tokens._number % 2)
    whole = memory[newest + start : newest + start + len(written)]
    memory[newest + start : newest + start + len(written)] = written
    length = 52 + len("1\n3\n") + sum(len(f"{t.name}:0:") + 65 for t in version(3).tokens) - 1
    touched = any(a != b for a, b in zip(whole[: max(0, length - start)], written, strict=False))
    assert tokens.now() == version(2 if touched else 3)


def test_list_without_any_whole_version_lets_nobody_in() -> None:
    tokens = shared()
    with pytest.raises(TokensUnusableError):
        tokens.now()
    for number in (1, 2):
        tokens.publish(version(number), NOW_NS)
    for place in (0, SLOT_BYTES):
        tokens._memory[place + 60] ^= 1
    with pytest.raises(TokensUnusableError):
        tokens.now()
    tokens.publish(version(3), NOW_NS)
    assert tokens.now() == version(3)


@pytest.mark.parametrize(
    ("age_ns", "usable"),
    [
        pytest.param(0, True, id="new"),
        pytest.param(STALE_NS, True, id="10 s"),
        pytest.param(STALE_NS + 1, False, id="older"),
        pytest.param(-1, False, id="of the future"),
    ],
)
def test_list_counts_for_ten_seconds(age_ns: int, usable: bool) -> None:
    tokens = shared()
    tokens.publish(version(2), NOW_NS - age_ns)
    if usable:
        assert tokens.now() == version(2)
    else:
        with pytest.raises(
            TokensUnusableError, match="has not been able to read its token file people"
        ):
            tokens.now()


def test_problem_takes_the_place_of_the_list_and_the_list_that_of_the_problem() -> None:
    tokens = shared()
    tokens.publish(version(2), NOW_NS)
    tokens.publish_problem("people cannot be read: gone", NOW_NS)
    with pytest.raises(TokensUnusableError, match="people cannot be read: gone"):
        tokens.now()
    tokens.publish(version(2), NOW_NS)
    assert tokens.now() == version(2)


@pytest.mark.parametrize("name", ["", "üüüüüüüüüü"], ids=["many lines", "long names"])
def test_list_of_the_largest_file_fits(name: str) -> None:
    lines, size = [], 0
    for number in range(10**6):
        line = f"{name}{number:x}:ro:{number:016}\n"
        size += len(line.encode())
        if size > MOST_FILE_BYTES:
            break
        lines.append(line)
    found = parse_list("".join(lines).encode(), Path("people"))
    tokens = shared()
    tokens.publish(found, NOW_NS)
    assert tokens.now() == found


def test_app_without_a_supervisor_has_the_file_watched(dataset: Path, tmp_path: Path) -> None:
    path = owned(tmp_path / "people", BOTH)
    client = falcon.testing.TestClient(create_app(AppSettings(dataset.parent, token_file=path)))

    def statuses() -> list[int]:
        return [client.simulate_get(f"/token/{each}{INFO}").status_code for each in (ANNA, BOB)]

    assert statuses() == [200, 200]
    owned(path, ONE)
    eventually(lambda: statuses() == [200, 401], "bob is out")
    path.chmod(0o644)
    eventually(lambda: statuses() == [503, 503], "all are out")
    path.chmod(0o600)
    eventually(lambda: statuses() == [200, 401], "anna is in again")
