"""The checkpoint of an ingest: the hidden directory ``.ingest`` of the dataset.

`plan.json` describes what the dataset is made from and how; it is never removed. `1-of-4.json`
records up to which plane the chunks of a shard are durable, and which files they were made from;
`finish.json` records the same for the levels that shards share. `1-of-4.lock` and `finish.lock`
keep a second run of the same part out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from neurotrale.errors import BadInputError, ConflictError, writing
from neurotrale.locking.filesystems import exclusive_lock
from neurotrale.storage.atomic import replace_file
from neurotrale.tools.ingest.hashing import FileRecord, file_name
from neurotrale.tools.ingest.plan import IngestPlan

HIDDEN = ".ingest"
# Keys of plan.json: the files of the source as [name, size in bytes]; older versions recorded only
# a hash of all of them.
_FILES, _STACK = "files", "stack"
_MOST_NAMES = 5


class PartProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The recorded progress of a part of an ingest; everything it counts is on disk.

    Attributes:
        planes: The next plane of the first level.
        done: Whether all planes are done.
        again: Slabs of the first level that are being rebuilt, in ascending order.
        anew: Number of rebuild steps that are done; the first steps are these slabs themselves.
        files: The files that were read.
        made_from: For the levels that shards share: what each slab of their first level was made
            from, as a hash of hashes.
        unhashed: Slabs of the first level made by an older version, which recorded no hashes.
    """

    planes: int
    done: bool = False
    again: tuple[int, ...] = ()
    anew: int = 0
    files: tuple[FileRecord, ...] = ()
    made_from: tuple[str, ...] = ()
    unhashed: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.done and not self.again

    @property
    def records(self) -> dict[int, FileRecord]:
        """The files that were read, by index."""
        return {record.file: record for record in self.files}

    def with_records(self, records: Mapping[int, FileRecord]) -> PartProgress:
        """Return the progress with records added, or merged with those of the same files."""
        known = self.records
        merged = {file: record.merged(known.get(file)) for file, record in records.items()}
        files = tuple(record for _, record in sorted({**known, **merged}.items()))
        return msgspec.structs.replace(self, files=files)

    def without_records(self, files: set[int]) -> PartProgress:
        """Return the progress without the records of files whose bytes have changed."""
        remaining = tuple(record for record in self.files if record.file not in files)
        return msgspec.structs.replace(self, files=remaining)

    def completed_planes(self, start: int, slab_vx: int) -> list[int]:
        """Return the planes whose chunks exist and are not being rebuilt.

        Args:
            start: The first plane of the part.
            slab_vx: Planes of a slab.
        """
        pending = set(self.again[self.anew :])
        return [z for z in range(start, self.planes) if z // slab_vx not in pending]


class Checkpoint:
    """The hidden directory of a dataset that is being ingested.

    Args:
        dest: The dataset.
    """

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.directory = dest / HIDDEN
        self._plan = self.directory / "plan.json"

    def begin(self, plan: IngestPlan) -> None:
        """Create the dataset's directories, or check that they belong to the same plan.

        Raises:
            ConflictError: The directory belongs to another plan, or to another dataset.
        """
        content = {**plan.identity(), "source": plan.request.source, _FILES: _files_of(plan)}
        if not self._plan.exists():
            self._refuse_foreign(plan)
        with writing(str(self.dest)):
            # First of all the file that tells, after a crash, that the rest is ours.
            self.directory.mkdir(parents=True, exist_ok=True)
            _create(self._plan, _text(content))
            self._refuse_other(plan)
            if _FILES not in self._read():
                self._replace(_text({**self._read(), _FILES: content[_FILES]}))
            for level in plan.levels:
                (self.dest / level.key).mkdir(exist_ok=True)

    def is_begun(self, plan: IngestPlan) -> bool:
        """Return whether the plan was begun; write nothing.

        Raises:
            ConflictError: The directory belongs to another plan, or to another dataset.
        """
        if self._plan.exists():
            self._refuse_other(plan)
            return True
        self._refuse_foreign(plan)
        return False

    def source_sizes(self) -> list[int]:
        """Return the size that each source file had at the beginning; empty if not recorded."""
        return [size for _, size in self._read().get(_FILES, [])]

    def progress(self, part: str) -> PartProgress | None:
        """Read the progress of a part; None if it was not begun."""
        with suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._path(part).read_bytes(), type=PartProgress)
        return None

    def record(self, part: str, progress: PartProgress) -> None:
        """Record the progress of a part; everything it counts must be durable already."""
        with writing(str(self._path(part))):
            replace_file(self._path(part), [msgspec.json.encode(progress) + b"\n"])

    @contextmanager
    def exclusive(self, part: str) -> Iterator[None]:
        """Lock a part against a second run, as far as the file system's locks reach.

        Raises:
            BusyError: Another process is working on it.
        """
        with exclusive_lock(self.directory / f"{part}.lock"):
            yield

    def temp_directory(self, part: str) -> Path:
        """Return the directory for the unfinished files of a part."""
        return self.directory / f"{part}.tmp"

    def _path(self, part: str) -> Path:
        return self.directory / f"{part}.json"

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._plan.read_bytes())
        except ValueError as error:
            raise ConflictError(
                f"{self._plan} is damaged: {error}. Use another --dest, or move {self.dest} aside."
            ) from error
        return content

    def _replace(self, content: bytes) -> None:
        """Replace plan.json; several shards may do so at once, with the same content."""
        temporary = self._plan.with_name(f".plan.json.{os.uname().nodename}-{os.getpid()}.again")
        replace_file(self._plan, [content], temporary=temporary)

    def _refuse_foreign(self, plan: IngestPlan) -> None:
        names = ("info", *(level.key for level in plan.levels))
        existing = [name for name in names if (self.dest / name).exists()]
        if existing:
            raise ConflictError(
                f"{self.dest} already holds a dataset that was not made by ingest ({existing[0]}"
                " exists). Use another --dest, or move that dataset away."
            )

    def _refuse_other(self, plan: IngestPlan) -> None:
        old = self._read()
        now = json.loads(_text(plan.identity()))
        if _FILES in old:
            self._refuse_other_names(plan, [name for name, _ in old[_FILES]])
        if _FILES in old and plan.source.paths:
            del now[_STACK]  # sizes may differ: rewritten planes are found by comparison
        differences = [
            f"{name} was {json.dumps(old.get(name))}, now {json.dumps(value)}"
            for name, value in now.items()
            if old.get(name) != value
        ]
        if [name for name, value in now.items() if old.get(name) != value] == [_STACK]:
            raise ConflictError(
                f"{self.dest} was begun with planes of other names or sizes: {differences[0]}."
                " Use the same planes to continue, or another --dest."
            )
        if differences:
            raise ConflictError(
                f"{self.dest} was begun with other options: {'; '.join(differences)}. Use the same"
                " options to continue, or another --dest."
            )

    def _refuse_other_names(self, plan: IngestPlan, old: list[str]) -> None:
        now = [file_name(path) for path in plan.source.paths]
        if now == old:
            return
        added = list((Counter(now) - Counter(old)).elements())
        gone = list((Counter(old) - Counter(now)).elements())
        changes = [
            f"{_name_list(names)} {state}"
            for names, state in ((gone, "missing now"), (added, "new"))
            if names
        ]
        raise ConflictError(
            f"{self.dest} was begun with other planes ({'; '.join(changes) or 'in another order'})."
            " Use the same planes to continue, or another --dest."
        )


def shard_count(dest: Path) -> int:
    """Read the number of shards of the ingest that made a dataset.

    Raises:
        ConflictError: No ingest was begun there.
    """
    try:
        content = json.loads((dest / HIDDEN / "plan.json").read_bytes())
        return int(content["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConflictError(f"{dest} was not begun yet: run its shards first.") from error


def part_names(shards: int) -> list[str]:
    """Return the names of the parts that shards make."""
    return [part_name(number, shards) for number in range(1, shards + 1)]


def part_name(number: int, shards: int) -> str:
    """Return the name of the part of a shard.

    Raises:
        BadInputError: There is no such shard.
    """
    if not 1 <= number <= shards:
        raise BadInputError(f"--shard {number}/{shards}: the first number must be 1 to {shards}.")
    return f"{number}-of-{shards}"


def _files_of(plan: IngestPlan) -> list[tuple[str, int]]:
    source = plan.source
    return [(file_name(path), size) for path, size in zip(source.paths, source.sizes, strict=True)]


def _name_list(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more} {'is' if len(names) == 1 else 'are'}"


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _create(path: Path, content: bytes) -> None:
    """Create a file atomically, unless it exists: several shards may start at once."""
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
