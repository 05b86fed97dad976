"""The chunk files in the directory of a scale, and what writers that died left there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neurotrale.chunks.store import TIFF_SUFFIXES
from neurotrale.faults import reading
from neurotrale.names import ChunkName

_TEMPORARY = re.compile(r"\.(?P<file>.+)\.(?P<node>[^/]+)-(?P<pid>\d+)\.tmp", re.ASCII)
# A chunk is written in a moment; of a process elsewhere nobody here can tell whether it lives.
_OLD_S = 3600.0


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A TIFF file that holds a chunk."""

    path: Path
    name: ChunkName


def chunk_files(directory: Path) -> Iterator[ChunkFile]:
    """Give the TIFF chunks in a directory as it lists them; symbolic links are left out.

    Raises:
        MissingError, ReadOnlyError, BusyError: It cannot be listed.
    """
    with reading(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            name = ChunkName.parse(stem) if suffix in TIFF_SUFFIXES else None
            if name is not None and entry.is_file(follow_symlinks=False):
                yield ChunkFile(Path(entry.path), name)


def linked_chunks(directory: Path) -> int:
    """Count the chunks that are symbolic links."""
    with reading(str(directory)), os.scandir(directory) as entries:
        return sum(entry.is_symlink() and entry.name.endswith(TIFF_SUFFIXES) for entry in entries)


def remove_leftovers(directory: Path) -> int:
    """Remove temporary files of repacks that died; give how many they were."""
    removed = 0
    with reading(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match is not None and _is_dead(match["node"], int(match["pid"]), entry):
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def _is_dead(node: str, pid: int, entry: os.DirEntry[str]) -> bool:
    if node == os.uname().nodename and pid != os.getpid():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    with suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD_S
    return False
