"""The state of all annotation files of a dataset, determined without reading them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from neurotrale.errors import reading
from neurotrale.storage.cache import Stamp
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.directories import directory_at

# A file, a block removed a moment ago, and a link out of the root.
_NO_BLOCK = {errno.ENOTDIR, errno.ENOENT, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class DirectoryFingerprint:
    """The state of all annotation files of a dataset.

    It detects changes; it does not say which of the files may be served.

    Attributes:
        digest: Hash of names, inodes, sizes and times of all files.
        is_settled: Whether the latest change is old enough for the next one to have another time.
    """

    digest: str
    is_settled: bool

    @classmethod
    def of(cls, annotations: Path, display_path: str) -> DirectoryFingerprint:
        """Compute the fingerprint of the files of all blocks.

        Args:
            annotations: The ``annotations`` directory of the dataset.
            display_path: Its path for errors.

        Raises:
            MissingError: There is no such directory.
            ReadOnlyError, BusyError: It cannot be read.
        """
        hashed = xxhash.xxh3_128()
        is_settled = True
        with reading(display_path):
            for name in sorted(directory_at(annotations).names()):
                try:
                    stamps = _stamps(directory_at(annotations / name))
                except OSError as error:
                    if error.errno in _NO_BLOCK:
                        continue
                    raise
                hashed.update(f"\n{name}".encode(errors="surrogateescape"))
                for leaf, stamp in stamps:
                    is_settled = is_settled and stamp.is_settled
                    hashed.update(f"\n {leaf} {stamp.etag}".encode(errors="surrogateescape"))
        return cls(hashed.hexdigest(), is_settled)


def _stamps(block: Directory) -> list[tuple[str, Stamp]]:
    stamps = []
    for name in block.names():
        if name.endswith(".json"):
            with suppress(FileNotFoundError):  # removed a moment ago
                # Of a link, the file behind it; nothing but its times is used.
                stamps.append((name, Stamp.of(os.stat(name, dir_fd=block.descriptor))))
    return sorted(stamps, key=lambda pair: pair[0])
