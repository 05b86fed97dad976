"""The hidden directory of the data root in which the service remembers what it could also lose."""

from __future__ import annotations

import logging
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from neurotrale.errors import DamagedError
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.regular import make_own_directory, open_regular

log = logging.getLogger(__name__)

STATE = ".neurotrale"
"""Name of the directory; it is created when there is something to remember."""

SERVICE_ID = "service-id"

_ID = re.compile(b"[0-9a-f]{16}")
_RANDOM_BYTES = 8


class ServiceId:
    """A random id of the service, the same after a restart.

    An id that is lost or damaged is made anew.

    Args:
        root: The data root.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / STATE / SERVICE_ID
        stored = self._read()
        self._is_kept = stored is not None
        self.value = stored or secrets.token_hex(_RANDOM_BYTES)

    def keep(self) -> None:
        """Keep the id on disk; best effort: otherwise it holds until the service stops."""
        if self._is_kept:
            return
        self._is_kept = True
        try:
            place = make_own_directory(self._path.parent)
            if self._read() is None:
                self._write(place)
        except (OSError, DamagedError) as error:
            log.warning("browsers get another cookie after a restart: %s", error)

    def _read(self) -> str | None:
        with suppress(OSError, DamagedError), open_regular(self._path) as file:
            content = file.read(1024)
            if _ID.fullmatch(content):
                return content.decode()
        return None

    def _write(self, place: Directory) -> None:
        temporary = temporary_path(self._path).name
        place.unlink(temporary, missing_ok=True)
        descriptor = place.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.value.encode())
        place.rename(temporary, self._path.name)
