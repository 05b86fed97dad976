"""Shows that a lock excludes: several takers at once, none of whom may ever meet another.

Each taker, in its process or on its node, takes the lock again and again; inside it reads a
counter, waits a moment, writes it back one higher. Whoever meets another finds its mark, and
every meeting that nobody noticed shows in a counter that is too low.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from neurotrale.annotations.filesystems import LockKind
from neurotrale.annotations.locks import make_lock
from neurotrale.errors import BusyError, DamagedError

WAIT_S = 0.002
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """What one taker saw.

    Attributes:
        node: Its host name.
        taken: How often it held the lock.
        met: How often it found another inside.
    """

    node: str
    taken: int
    met: int


@dataclass(frozen=True, slots=True)
class Result:
    """What all takers saw, and the counter they shared.

    Attributes:
        seen: One for each taker.
        counted: What the counter stood at in the end.
    """

    seen: list[Seen]
    counted: int

    @property
    def excludes(self) -> bool:
        """Whether nobody met anybody and no count was lost."""
        return not any(one.met for one in self.seen) and self.counted == sum(
            one.taken for one in self.seen
        )


def take(
    directory: Path, kind: LockKind, rank: int, takers: int, times: int, timeout_s: float
) -> Result:
    """Take part in a probe, and wait for the other takers' reports.

    Args:
        directory: A directory that all takers see; it is made, and removed by the last one.
        kind: The lock; with ``none`` the takers are bound to meet.
        rank: Number of this taker, from 0.
        takers: How many there are.
        times: How often each takes the lock.
        timeout_s: How long to wait for the others.

    Raises:
        BusyError: Another taker did not come, or did not end.
        DamagedError: Another taker uses another kind of lock.
    """
    directory.mkdir(exist_ok=True)
    until = time.monotonic() + timeout_s
    _tell(directory, f"here-{rank}", {})
    _await(directory, "here", takers, until)
    seen = _take_all(directory, kind, rank, times, until)
    _tell(directory, f"seen-{rank}", asdict(seen))
    reports = _await(directory, "seen", takers, until)
    counter = directory / "counter"
    result = Result([Seen(**report) for report in reports], int(counter.read_text() or 0))
    _tell(directory, f"read-{rank}", {})
    if rank == 0:
        _await(directory, "read", takers, until)
        shutil.rmtree(directory, ignore_errors=True)
    return result


def _take_all(directory: Path, kind: LockKind, rank: int, times: int, until: float) -> Seen:
    guarded, counter, mark = directory / "guarded", directory / "counter", directory / "inside"
    met = 0
    for _ in range(times):
        with _holding(kind, guarded, until):
            met += mark.exists()
            mark.write_text(str(rank))
            count = int(counter.read_text()) if counter.exists() else 0
            time.sleep(WAIT_S)
            met += not _says(mark, str(rank))
            _replace(counter, str(count + 1))
            mark.unlink(missing_ok=True)
    return Seen(os.uname().nodename, times, met)


@contextmanager
def _holding(kind: LockKind, file: Path, until: float) -> Iterator[None]:
    if kind == "none":  # shows what a lock looks like that does not exclude
        yield
        return
    lock = make_lock(kind, file)
    try:
        lock.acquire(timeout=max(0.0, until - time.monotonic()))
    except filelock.Timeout as error:
        raise BusyError(f"Another taker kept the lock of {file} and did not let go.") from error
    except filelock.SoftFileLockProtocolError as error:
        raise DamagedError(str(file), f"its lock is not as it should be: {error.reason}") from error
    try:
        yield
    finally:
        lock.release()


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:  # whoever was inside, too, has left
        return False


def _tell(directory: Path, name: str, report: dict[str, object]) -> None:
    _replace(directory / name, json.dumps(report))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _await(directory: Path, kind: str, takers: int, until: float) -> list[dict[str, Any]]:
    while True:
        os.listdir(directory)  # makes network file systems look again
        found = [directory / f"{kind}-{rank}" for rank in range(takers)]
        if all(path.exists() for path in found):
            return [json.loads(path.read_text()) for path in found]
        if time.monotonic() > until:
            missing = [path.name for path in found if not path.exists()]
            raise BusyError(
                f"No word of {', '.join(missing)} in {directory}: do all takers see this directory?"
            )
        time.sleep(POLL_S)
