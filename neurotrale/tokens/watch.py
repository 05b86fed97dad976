"""The token file while the service runs: watched by one process, shared with all workers.

`TokenWatch` reads the file again and again in the first process of the service; `SharedTokens`
passes the list on to the workers, in shared memory.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import Struct
from threading import Event, Lock, Thread

from neurotrale.errors import TokensUnusableError
from neurotrale.tokens.file import (
    Token,
    TokenFileError,
    TokenList,
    name_file,
    parse_list,
    public_name,
    read_token_file,
)

STALE_NS = 10 * 10**9
# Enough for a file of 1 MiB: its shortest line has 22 bytes, and each takes 47 more bytes here.
SLOT_BYTES = 4 * 2**20
ATTEMPTS = 200
ATTEMPT_INTERVAL_S = 0.005

# Version number, time of reading in ns, length of the content, SHA-256 of all these.
_HEADER = Struct("<QQI32s")


@dataclass(frozen=True, slots=True)
class _Version:
    header: bytes
    read_at_ns: int
    content: bytes
    tokens: TokenList | None
    problem: str


_NOTHING = _Version(bytes(_HEADER.size), 0, b"", None, "")


class SharedTokens:
    """A list of tokens in memory that this process shares with its forks.

    One process publishes, any number of processes read, and none waits for another. There are two
    slots, written alternately, each with a checksum: while one is being written, the other holds
    the previous version. The list must be published continually: one that was read from the file
    more than 10 s ago counts as unusable, because the file may have changed since.

    Args:
        name: The name of the token file that clients are shown.
        clock_ns: A monotonic clock, the same for all processes of the machine.
    """

    def __init__(self, name: str, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.name = name
        self._clock_ns = clock_ns
        self._memory = mmap.mmap(-1, 2 * SLOT_BYTES)
        self._number = 0
        self._seen = _NOTHING
        self._stale_logged = False

    def publish(self, tokens: TokenList, read_at_ns: int) -> None:
        """Publish a list of tokens.

        Args:
            tokens: The list.
            read_at_ns: When reading the file began, by the clock.
        """
        lines = [f"{one.name}:{int(one.may_write)}:{one.digest.hex()}" for one in tokens.tokens]
        self._write([f"{len(tokens.notes)}", *tokens.notes, *lines], read_at_ns)

    def publish_problem(self, problem: str, read_at_ns: int) -> None:
        """Publish that the token file is unusable: every request is refused.

        Args:
            problem: The reason, as one line.
            read_at_ns: When reading the file began, by the clock.
        """
        self._write(["unusable", problem], read_at_ns)

    def now(self) -> TokenList:
        """Return the current list.

        Raises:
            TokensUnusableError: The file is unusable, or was not read lately.
        """
        version = self._newest()
        age_ns = self._clock_ns() - version.read_at_ns
        if version is _NOTHING or not 0 <= age_ns <= STALE_NS:
            raise self._stale()
        self._stale_logged = False
        if version.tokens is None:
            raise TokensUnusableError(
                "The token file of this service is unusable, so every request is refused:"
                f" {version.problem.rstrip('.')}. The operator of the service has to fix it; the"
                " service notices within two seconds."
            )
        return version.tokens

    def _write(self, lines: list[str], read_at_ns: int) -> None:
        content = "\n".join(lines).encode()
        self._number += 1
        slot = self._number % 2 * SLOT_BYTES
        header = _header(self._number, read_at_ns, content)
        self._memory[slot + _HEADER.size : slot + _HEADER.size + len(content)] = content
        self._memory[slot : slot + _HEADER.size] = header

    def _newest(self) -> _Version:
        for _ in range(ATTEMPTS):
            slots = [(self._memory[at : at + _HEADER.size], at) for at in (0, SLOT_BYTES)]
            for header, slot in sorted(slots, key=_number_of, reverse=True):
                version = self._read(header, slot)
                if version is not None:
                    self._seen = version
                    return version
            time.sleep(ATTEMPT_INTERVAL_S)
        return _NOTHING

    def _read(self, header: bytes, slot: int) -> _Version | None:
        """Read the version of a header; None if it is not, or no longer, complete."""
        seen = self._seen
        if header == seen.header:
            return seen
        number, read_at_ns, length, _ = _HEADER.unpack(header)
        start = slot + _HEADER.size
        content = self._memory[start : start + min(length, SLOT_BYTES - _HEADER.size)]
        if header != _header(number, read_at_ns, content):
            return None
        if content == seen.content:
            return _Version(header, read_at_ns, seen.content, seen.tokens, seen.problem)
        return _Version(header, read_at_ns, content, *_parse(content))

    def _stale(self) -> TokensUnusableError:
        error = TokensUnusableError(
            f"The service has not been able to read its token file {self.name} for"
            f" {STALE_NS // 10**9} s, so every request is refused. The operator of the service has"
            " to check that the file system of the token file responds, and that the first process"
            " of the service still runs."
        )
        if not self._stale_logged:
            self._stale_logged = True
            log.error("%s", error)
        return error


def _number_of(slot: tuple[bytes, int]) -> int:
    return int.from_bytes(slot[0][:8], "little")


def _header(number: int, read_at_ns: int, content: bytes) -> bytes:
    unsigned = _HEADER.pack(number, read_at_ns, len(content), b"")
    return _HEADER.pack(number, read_at_ns, len(content), sha256(unsigned + content).digest())


def _parse(content: bytes) -> tuple[TokenList | None, str]:
    first, *lines = content.decode().split("\n")
    if first == "unusable":
        return None, lines[0]
    notes = int(first)
    tokens = []
    for line in lines[notes:]:
        name, may_write, digest = line.split(":")
        tokens.append(Token(name, may_write == "1", bytes.fromhex(digest)))
    return TokenList(tuple(tokens), tuple(lines[:notes])), ""


log = logging.getLogger(__name__)

READ_INTERVAL_S = 1.0
# Reading a file on a stalled network file system may block forever.
PATIENCE_S = 1.0


class TokenWatch:
    """Reads a token file about once a second and publishes its content.

    The file is read every time, because `stat` is not enough: of two versions within one tick of
    the file system's clock, the second can have the size and times of the first. An unusable file
    is published as such at once; while the file system does not respond, nothing is published, so
    that the last list expires.

    Args:
        path: The file.

    Attributes:
        tokens: The published list.

    Raises:
        TokenFileError: The file is unusable at the start.
    """

    def __init__(self, path: Path) -> None:
        self.tokens = SharedTokens(public_name(path))
        self._path = path
        self._digest = b""
        self._current: TokenList | str = ""  # the list, or the problem of the file
        self._reading = Lock()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="token-watch", daemon=True)
        read_at_ns = time.monotonic_ns()
        self._current = self._read()
        self._publish(self._current, read_at_ns)
        self._log_notes()

    @property
    def notes(self) -> list[str]:
        """Problems of the file that the operator should know of, with its path."""
        notes = () if isinstance(self._current, str) else self._current.notes
        return [name_file(note, str(self._path)) for note in notes]

    def start(self) -> None:
        """Start reading the file periodically, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading the file."""
        self._stop.set()
        self._thread.join(PATIENCE_S)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the thread between two reads, so that the process can fork safely.

        A read that takes too long is not waited for: the thread is then blocked in a system call.
        """
        acquired = self._reading.acquire(timeout=PATIENCE_S)
        try:
            yield
        finally:
            if acquired:
                self._reading.release()

    def _run(self) -> None:
        while not self._stop.wait(READ_INTERVAL_S):
            try:
                with self._reading:
                    self._update()
            except Exception:
                log.exception("the token file %s could not be read", self._path)

    def _update(self) -> None:
        previous, read_at_ns = self._current, time.monotonic_ns()
        try:
            tokens = self._read()
        except TokenFileError as error:
            self._current = str(error)
            self.tokens.publish_problem(error.public, read_at_ns)
            if self._current != previous:
                log.error(
                    "%s. Every request is refused until this is fixed.", self._current.rstrip(".")
                )
            return
        self._current = tokens
        self._publish(tokens, read_at_ns)
        if tokens != previous:
            log.info("%s has changed: it holds %d tokens now", self._path, len(tokens.tokens))
            self._log_notes()

    def _read(self) -> TokenList:
        content = read_token_file(self._path)
        digest = sha256(content).digest()
        if digest != self._digest or isinstance(self._current, str):
            tokens = parse_list(content, self._path)
            self._digest = digest
            return tokens
        return self._current

    def _publish(self, tokens: TokenList, read_at_ns: int) -> None:
        name = self.tokens.name
        notes = tuple(name_file(note, name) for note in tokens.notes)
        self.tokens.publish(TokenList(tokens.tokens, notes), read_at_ns)

    def _log_notes(self) -> None:
        for note in self.notes:
            log.warning("%s", note)


def watch_in_background(path: Path) -> SharedTokens:
    """Return the tokens of a file, which a thread of this process keeps up to date.

    Raises:
        TokenFileError: The file is unusable.
    """
    watch = TokenWatch(path)
    watch.start()
    return watch.tokens
