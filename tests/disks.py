"""Small disks that tests fill up, and disks that fail."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import unmount


@contextmanager
def disk_of(place: Path, size: str) -> Iterator[Path]:
    """A disk of a size."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        unmount(place)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk up, but for some bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return filler


RENAME_FAILED = "Input/output error"


@contextmanager
def renames_fail(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the kernel refuse to rename anything to the name of a file."""
    rename = os.replace

    def refuse(old: str, new: str, **directories: int) -> None:
        if new == file.name:
            raise OSError(errno.EIO, RENAME_FAILED)
        rename(old, new, **directories)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        yield
