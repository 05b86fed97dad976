"""Claims of the services that write: locks of different kinds do not see each other.

In every directory where it writes annotation files, a service keeps a hidden file that names its
kind of lock and its process: ``.neurotrale.writer-{kind}-{random}``. It makes its own claim before
it lists those of others, and does not write where another kind is in use. All processes of a
service share one claim.

A claim counts while it is renewed, unless its process runs on this machine and has ended. Its age
is the difference of two times of the file system: its own, and that of a claim renewed just now.
Clocks of machines are never compared.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import msgspec

from neurotrale.errors import ConflictError, IrregularFileError, printable
from neurotrale.storage.directories import directory_at, directory_of, status_of
from neurotrale.storage.regular import check_regular, create_regular, open_regular, remove_regular

log = logging.getLogger(__name__)

PREFIX = ".neurotrale.writer-"
RENEW_S = 10.0
LAPSE_S = 60.0
MOST_DIRECTORIES = 256
GRACE_LOOKS, GRACE_S = 5, 0.05

_NAME = re.compile(rf"{re.escape(PREFIX)}([a-z]+)-[0-9a-f]{{32}}")
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as others can recognize it.

    Attributes:
        host: Host name, for people.
        pid: Process id.
        start: Start time, in clock ticks since the boot of the machine.
        machine: Identifies the boot and the namespaces of process ids and times; empty if unknown.
    """

    host: str
    pid: int
    start: int
    machine: str

    @property
    def has_ended(self) -> bool:
        """Whether it is certain that the process has ended."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            # Another user's process is alive; a number out of range is no process id.
            with suppress(PermissionError, OverflowError):
                os.kill(self.pid, 0)
            state, start = _state(self.pid)
        except ProcessLookupError:
            return True
        except OSError:  # hidden from other users (hidepid)
            return False
        return state in "XZ" or start != self.start


@dataclass(slots=True)
class _OwnClaim:
    path: Path
    inode: int
    mtime_ns: int


class WriterClaims:
    """The claims of this service.

    Create it before worker processes are forked: the claims name the process that created it. A
    worker that outlives that process goes on as a service of its own.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        pid, machine = os.getpid(), _machine()
        start = _state(pid)[1] if machine else 0
        self._service = Process(os.uname().nodename, pid, start, machine)
        self._content = msgspec.json.encode(self._service)
        self._id = secrets.token_hex(16)
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._own: dict[Path, _OwnClaim] = {}

    def keep(self, directory: Path, kind: str, display_path: str) -> None:
        """Ensure that this service has a claim on a directory, before it writes a file there.

        Args:
            directory: The directory.
            kind: The kind of lock that is used there.
            display_path: Path of the file to be written, for errors.

        Raises:
            ConflictError: Another service writes there with another kind of lock.
            OSError: The claim cannot be made.
        """
        if self._service.pid not in (os.getpid(), os.getppid()):
            self._begin()
        elif self._pid != os.getpid():
            self._forget()
        known = self._own.get(directory)
        if self.holds(directory) and known and known.path.name.startswith(f"{PREFIX}{kind}-"):
            return
        own, is_new = self._make(directory, kind)
        refusal = self._refusal(directory, kind, own, display_path)
        for _ in range(0 if is_new else GRACE_LOOKS):
            if refusal is not None:  # a service that came later sees ours, and removes its own
                time.sleep(GRACE_S)
                refusal = self._refusal(directory, kind, own, display_path)
        if refusal is not None:
            if is_new:
                _unlink(own.path)
            log.error("edit refused: %s", refusal)
            raise refusal
        if len(self._own) >= MOST_DIRECTORIES:
            self._remove(self._directories()[0])
        with self._lock:
            self._own[directory] = own
        _renew_in_background(self)

    def holds(self, directory: Path) -> bool:
        """Return whether this service's claim on a directory still exists."""
        own = self._own.get(directory)
        return own is not None and _status(own) is not None

    def renew(self) -> None:
        """Renew the claims that no other process of this service has renewed in the meantime."""
        for directory in self._directories():
            own = self._own[directory]
            status = _status(own)
            if status is None or status.st_nlink > 1:
                # The next write makes another one. With a second name it is also in a backup made
                # of hard links, and would count there.
                self._remove(directory)
            elif status.st_mtime_ns != own.mtime_ns:
                own.mtime_ns = status.st_mtime_ns
            else:
                with suppress(OSError):
                    place, name = directory_of(own.path)
                    os.utime(name, dir_fd=place.descriptor, follow_symlinks=False)
                    own.mtime_ns = place.status(name).st_mtime_ns

    def remove(self) -> None:
        """Remove the claims that this process knows."""
        for directory in self._directories():
            self._remove(directory)

    def _directories(self) -> list[Path]:
        if self._pid != os.getpid():  # forked, and has not written yet
            return []
        with self._lock:
            return list(self._own)

    def _remove(self, directory: Path) -> None:
        with self._lock:
            own = self._own.pop(directory, None)
        if own is not None and _status(own) is not None:
            _unlink(own.path)

    def _make(self, directory: Path, kind: str) -> tuple[_OwnClaim, bool]:
        """Create this service's claim, or renew the one that another process of it created."""
        path = directory / f"{PREFIX}{kind}-{self._id}"
        while True:
            with suppress(FileExistsError), os.fdopen(create_regular(path, os.O_RDWR), "wb") as new:
                os.fchmod(new.fileno(), 0o644)  # services of other users read it
                new.write(self._content)
                new.flush()
                return _renewed(path, new.fileno()), True
            with suppress(OSError), open_regular(path) as known:
                # The other process may not have written all of it yet.
                is_own = self._content.startswith(known.read(_MOST_BYTES))
                if is_own and os.fstat(known.fileno()).st_nlink == 1:
                    return _renewed(path, known.fileno()), False
            path = directory / f"{PREFIX}{kind}-{secrets.token_hex(16)}"  # that name is taken

    def _refusal(
        self, directory: Path, kind: str, own: _OwnClaim, display_path: str
    ) -> ConflictError | None:
        """Return an error if another kind of lock is in use; remove claims that have lapsed."""
        for name in directory_at(directory).names():
            match, path = _NAME.fullmatch(name), directory / name
            if match is None or path == own.path:
                continue
            with suppress(FileNotFoundError, IrregularFileError):
                check_regular(path)
                process, mtime_ns = _process(path), status_of(path).st_mtime_ns
                # In both directions: no time that a user sets makes a claim count for ever.
                has_lapsed = abs(own.mtime_ns - mtime_ns) > LAPSE_S * 1e9
                if has_lapsed or (process is not None and process.has_ended):
                    _unlink(path)
                elif match[1] != kind or (kind == "none" and process != self._service):
                    return _conflict(path.name, match[1], process, kind, display_path)
        return None


def _process(claim: Path) -> Process | None:
    try:
        with open_regular(claim) as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=Process)
    except (OSError, ValueError):  # unreadable, or not written yet
        return None


def _status(own: _OwnClaim) -> os.stat_result | None:
    """Return the status of a claim; None if it is not there any more.

    It is opened, because network file systems answer `os.stat` from their caches.
    """
    with suppress(OSError), open_regular(own.path) as file:
        status = os.fstat(file.fileno())
        return status if status.st_ino == own.inode else None
    return None


def _renewed(path: Path, descriptor: int) -> _OwnClaim:
    os.utime(descriptor)
    status = os.fstat(descriptor)
    return _OwnClaim(path, status.st_ino, status.st_mtime_ns)


def _unlink(claim: Path) -> None:
    with suppress(OSError):
        remove_regular(claim)


def _conflict(claim: str, kind: str, process: Process | None, own: str, file: str) -> ConflictError:
    who = "" if process is None else f"process {process.pid} on {printable(process.host)}, "
    return ConflictError(
        f"{file} was not changed: another service ({who}{claim}) writes in this directory"
        f" with --lock {kind}, this one with --lock {own}; these do not exclude each other."
        " Stop one of the two, or start both with the same --lock, flock or strict. If the other"
        f" one was killed, save again in {LAPSE_S:.0f} s."
    )


def _state(pid: int) -> tuple[str, int]:
    """Return the state of a process and its start in clock ticks; see proc(5)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = text.rpartition(")")[2].split()  # the name before it may contain anything
    return fields[0], int(fields[19])


def _machine() -> str:
    try:
        if int(os.readlink("/proc/self")) != os.getpid():
            return ""  # a /proc of another namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.readlink('/proc/self/ns/time')}"
    except OSError:
        return ""


# --- renewal ---

_services: WeakSet[WriterClaims] = WeakSet()
_renewing: set[int] = set()  # this process, once its thread runs


def _renew_in_background(claims: WriterClaims) -> None:
    _services.add(claims)
    if os.getpid() not in _renewing:
        _renewing.add(os.getpid())
        atexit.register(remove_claims)
        threading.Thread(target=_renew_all, name="renew-claims", daemon=True).start()


def _renew_all() -> None:
    while True:
        time.sleep(RENEW_S)
        for claims in list(_services):
            claims.renew()


def remove_claims() -> None:
    """Remove all claims that this process knows; for the end of its work."""
    for claims in list(_services):
        claims.remove()
