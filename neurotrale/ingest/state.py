"""What an ingest remembers beside the data, in the hidden directory ``.ingest``.

`plan.json` says what the data set is made from and how; it stays. `1-of-4.json` says up to which
plane a shard's chunks are on disk for good; `finish.json` the same of the levels that shards share.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from neurotrale.durable import replace_file
from neurotrale.errors import BadInputError, BusyError, ConflictError
from neurotrale.faults import writing
from neurotrale.ingest.plan import Plan

HIDDEN = ".ingest"


class Progress(msgspec.Struct, frozen=True):
    """How far a part of the work is: its next plane, and whether that was all."""

    planes: int
    done: bool = False


class State:
    """The hidden directory of a data set that is being made.

    Args:
        dest: The data set.
    """

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.directory = dest / HIDDEN

    def begin(self, plan: Plan) -> None:
        """Make the data set's directories, or see that they are those of the same plan.

        Raises:
            ConflictError: Something else lies there.
        """
        content = _text({**plan.identity(), "source": plan.request.source})
        kept = self.directory / "plan.json"
        if not kept.exists():
            self._refuse_foreign(plan)
        with writing(str(self.dest)):
            # First of all what tells, after a crash, that the rest is ours.
            self.directory.mkdir(parents=True, exist_ok=True)
            _create(kept, content)
            self._refuse_other(plan, kept)
            for level in plan.levels:
                (self.dest / level.key).mkdir(exist_ok=True)

    def progress(self, part: str) -> Progress | None:
        """Read how far a part is; None when it was not begun."""
        with suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._path(part).read_bytes(), type=Progress)
        return None

    def record(self, part: str, progress: Progress) -> None:
        """Write how far a part is; what it counts is on disk already."""
        with writing(str(self._path(part))):
            replace_file(self._path(part), [msgspec.json.encode(progress) + b"\n"])

    @contextmanager
    def only_one(self, part: str) -> Iterator[None]:
        """Keep a second run of the same part away, as far as the file system knows of it.

        Raises:
            BusyError: Another one is at work.
        """
        path = self.directory / f"{part}.lock"
        with writing(str(path)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with suppress_unsupported():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def hidden(self, part: str) -> Path:
        """Name the directory of a part's unfinished files."""
        return self.directory / f"{part}.tmp"

    def _path(self, part: str) -> Path:
        return self.directory / f"{part}.json"

    def _refuse_foreign(self, plan: Plan) -> None:
        there = [name for name in ("info", *(level.key for level in plan.levels))
                 if (self.dest / name).exists()]  # fmt: skip
        if there:
            raise ConflictError(
                f"{self.dest} holds a data set already that no ingest began ({there[0]} is there)."
                " Give another --dest, or move that away."
            )

    def _refuse_other(self, plan: Plan, kept: Path) -> None:
        try:
            old = json.loads(kept.read_bytes())
        except ValueError as error:
            raise ConflictError(f"{kept} is damaged: {error}. Remove {self.dest}.") from error
        differences = [
            f"{name} was {json.dumps(old.get(name))}, now {json.dumps(value)}"
            for name, value in json.loads(_text(plan.identity())).items()
            if old.get(name) != value
        ]
        if differences:
            raise ConflictError(
                f"{self.dest} was begun with other options: {'; '.join(differences)}. Give the"
                " same to go on, or another --dest, or remove that directory."
            )


def shards_of(dest: Path) -> int:
    """Read into how many shards a data set's making was divided.

    Raises:
        ConflictError: Nothing was begun there.
    """
    try:
        content = json.loads((dest / HIDDEN / "plan.json").read_bytes())
        return int(content["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConflictError(f"{dest} was not begun yet: run its shards first.") from error


def parts_of(shards: int) -> list[str]:
    """Name the parts of the work but the last."""
    return [part_name(number, shards) for number in range(1, shards + 1)]


def part_name(number: int, shards: int) -> str:
    """Name the part of a shard."""
    if not 1 <= number <= shards:
        raise BadInputError(f"--shard {number}/{shards}: the first number is from 1 to {shards}.")
    return f"{number}-of-{shards}"


@contextmanager
def suppress_unsupported() -> Iterator[None]:
    """Let file systems without locks be: there, nothing but a name says who is at work."""
    try:
        yield
    except BlockingIOError as error:
        raise BusyError("Another ingest is at work on the same part of this data set.") from error
    except OSError:
        return


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _create(path: Path, content: bytes) -> None:
    """Write a file unless it is there, whole in any case: shards start at the same time."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")
    temporary.write_bytes(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.replace(path)
            return
    finally:
        temporary.unlink(missing_ok=True)
