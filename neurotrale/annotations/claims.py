"""Claims of strict locks: who holds one, and removing that of a writer that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from neurotrale.annotations.locks import make_lock
from neurotrale.errors import DamagedError, MissingError

_CLAIMS_SUFFIX = ".lock.filelock"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim on a file.

    Attributes:
        name: What to call it when it is removed.
        file: The annotation file.
        state: ``held``, or ``intent`` of one that waits.
        pid: Its process.
        node: The host that this process ran on.
    """

    name: str
    file: Path
    state: str
    pid: int
    node: str


def claims_below(directory: Path) -> Iterator[Claim]:
    """Find the claims on all files below a directory.

    Raises:
        DamagedError: The claims on a file cannot be read.
    """
    for file, lock in _strict_locks(directory):
        for found in _claims(file, lock):
            yield Claim(found.name, file, found.state, found.pid, found.hostname)


def break_claim(directory: Path, name: str) -> list[Claim]:
    """Remove a claim, with the other one of the same holder.

    Args:
        directory: Where to look for it.
        name: Its name.

    Returns:
        What was removed.

    Raises:
        MissingError: There is no such claim.
    """
    for file, lock in _strict_locks(directory):
        found = _claims(file, lock)
        if any(claim.name == name for claim in found):
            # A holder has two claims, from its two steps; they end in the same token.
            token = name.rpartition("-")[2]
            going = [claim for claim in found if claim.name.endswith(token)]
            for claim in going:
                lock.force_break(claim.name)
            return [Claim(c.name, file, c.state, c.pid, c.hostname) for c in going]
    raise MissingError(f"There is no claim {name!r} below {directory}.")


def _strict_locks(directory: Path) -> Iterator[tuple[Path, filelock.StrictSoftFileLock]]:
    for place in sorted(directory.rglob(f".*{_CLAIMS_SUFFIX}")):
        file = place.with_name(place.name[1 : -len(_CLAIMS_SUFFIX)])
        lock = make_lock("strict", file)
        assert isinstance(lock, filelock.StrictSoftFileLock)
        yield file, lock


def _claims(
    file: Path, lock: filelock.StrictSoftFileLock
) -> tuple[filelock.StrictSoftFileClaim, ...]:
    try:
        return lock.claims
    except filelock.SoftFileLockProtocolError as error:
        raise DamagedError(str(file), f"its claims cannot be read: {error.reason}") from error
