"""What tells one state of all annotation files of a data set from another, without reading them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash

from neurotrale.faults import reading
from neurotrale.files import Stamp, is_settled


@dataclass(frozen=True, slots=True)
class Footprint:
    """The state of a directory of blocks.

    It says whether something changed since the files were looked at in earnest; it does not say
    which of them may be shown.

    Attributes:
        digest: Of names, inodes, sizes and times of change of all files.
        settled: Whether the last change is long enough ago for its time to tell it from the next.
    """

    digest: str
    settled: bool

    @classmethod
    def of(cls, annotations: Path, what: str) -> Footprint:
        """Look at the files of all blocks.

        Args:
            annotations: The directory of the blocks.
            what: What to call it.

        Raises:
            MissingError: There is no such directory.
            ReadOnlyError, BusyError: It cannot be looked at.
        """
        hashed = xxhash.xxh3_128()
        newest_ns = 0
        with reading(what), os.scandir(annotations) as blocks:
            for block in sorted(blocks, key=lambda entry: entry.name):
                if not block.is_dir():
                    continue
                hashed.update(f"\n{block.name}".encode(errors="surrogateescape"))
                for name, stamp in _stamps(block.path):
                    newest_ns = max(newest_ns, stamp.mtime_ns)
                    hashed.update(f"\n {name} {stamp.etag}".encode(errors="surrogateescape"))
        return cls(hashed.hexdigest(), is_settled(newest_ns))


def _stamps(block: str) -> list[tuple[str, Stamp]]:
    found = []
    with os.scandir(block) as files:
        for file in files:
            if file.name.endswith(".json"):
                try:
                    found.append((file.name, Stamp.of(file.stat())))
                except FileNotFoundError:  # it was there a moment ago, or is a link to nothing
                    continue
    return sorted(found, key=lambda pair: pair[0])
