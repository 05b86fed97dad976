"""Files of a data set that appear whole or not at all, many of them quickly.

Other than `neurotrale.durable`, which makes every single file durable, this writes thousands and
makes them durable together: what a power cut may have undone is written again, as the progress is
recorded after that.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from itertools import count
from pathlib import Path

from neurotrale.faults import writing


class Placer:
    """Puts files below a directory.

    Args:
        dest: The data set.
        hidden: A directory of the same file system that no other process uses; it is emptied.
    """

    def __init__(self, dest: Path, hidden: Path) -> None:
        self.dest = dest
        self._hidden = hidden
        self._prefix = f"{os.uname().nodename}-{os.getpid()}"
        self._numbers = count()  # threads share it; next() is atomic
        with writing(str(dest)):
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True, exist_ok=True)

    def place(self, relative: str, content: bytes) -> None:
        """Write a file under a hidden name and rename it.

        Args:
            relative: Its name below the data set; the directory exists.
            content: All of it.

        Raises:
            DiskFullError: No space or quota is left.
            ReadOnlyError: Permissions forbid it.
        """
        temporary = self.scratch()
        with writing(str(self.dest / relative)):
            try:
                with temporary.open("xb", buffering=0) as file:
                    view = memoryview(content)
                    while view:
                        view = view[file.write(view) :]
                temporary.replace(self.dest / relative)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def scratch(self) -> Path:
        """Name a hidden file that does not exist."""
        return self._hidden / f"{self._prefix}-{next(self._numbers)}"

    def sync(self) -> None:
        """Make all that was placed durable."""
        with writing(str(self.dest)):
            _sync_file_system(self.dest)

    def close(self) -> None:
        """Remove the hidden directory."""
        shutil.rmtree(self._hidden, ignore_errors=True)


def _sync_file_system(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)
