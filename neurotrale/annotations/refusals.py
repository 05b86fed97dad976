"""Saves of viewers that were refused: a viewer ignores the answer, so its user would never know.

They are kept for a while in the hidden directory of the data root: a file for each viewer, named by
its label, with a line of JSON for each save; and one for the origins of pages that may not write.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from neurotrale.annotations.journals.changes import format_time
from neurotrale.errors import DamagedError
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.regular import lines_backwards, make_own_directory, open_regular
from neurotrale.storage.state import STATE

log = logging.getLogger(__name__)

KEPT_S = 10 * 3600
MOST_BYTES = 2**18  # for each viewer
MOST_VIEWERS = 256
MOST_SHOWN = 100

ORIGINS = "origins"
"""The file of the origins, which no label is spelt like."""

_LABEL = re.compile("[0-9a-f]{10}")


T = TypeVar("T")


class Refusal(msgspec.Struct, frozen=True):
    """A save that was refused.

    Attributes:
        at: Time, ISO 8601 in UTC.
        file: Path of the file, as the viewer named it, relative to the data root.
        status: The HTTP status.
        reason: What was wrong, for people.
    """

    at: str
    file: str
    status: int
    reason: str


class _RefusedOrigin(msgspec.Struct, frozen=True):
    """A web page that tried to save and may not: when, and where it is from."""

    at: str
    origin: str


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Refusal)
_origins = msgspec.json.Decoder(_RefusedOrigin)


def _now() -> str:
    return format_time(datetime.now(UTC))


def _oldest() -> str:
    return format_time(datetime.fromtimestamp(time.time() - KEPT_S, UTC))


class Refusals:
    """The refused saves of all viewers; best effort, as a refused save must not fail otherwise.

    Args:
        root: The data root.
    """

    def __init__(self, root: Path) -> None:
        self._directory = root / STATE / "refused"

    def add(self, label: str, file: str, status: int, reason: str) -> None:
        """Record that a save was refused.

        Args:
            label: Label of the viewer.
            file: Path of the file, as the viewer named it.
            status: The HTTP status.
            reason: What was wrong, for people.
        """
        self._append(label, Refusal(_now(), file[:1000], status, reason[:1000]))

    def add_origin(self, origin: str) -> None:
        """Record that a save from a page of an origin was refused, whatever it was to save."""
        self._append(ORIGINS, _RefusedOrigin(_now(), origin))

    def origins(self) -> list[str]:
        """Return the origins whose pages were refused, each once, the latest first."""
        oldest = _oldest()
        found: dict[str, None] = {}
        for refused in self._newest_first(ORIGINS, _origins):
            if refused.at < oldest or len(found) == MOST_SHOWN:
                break
            found.setdefault(refused.origin)
        return list(found)

    def _append(self, name: str, record: msgspec.Struct) -> None:
        line = _encoder.encode(record) + b"\n"
        flags = os.O_WRONLY | os.O_APPEND
        try:
            place = make_own_directory(self._directory, make_own_directory(self._directory.parent))
            with suppress(FileExistsError):
                os.close(place.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600))
                _remove_old(place)
            with os.fdopen(place.open(name, flags), "ab") as stream:
                size = stream.tell()
                if size >= MOST_BYTES and name == ORIGINS:
                    size = stream.truncate(0)  # pages of any site add to it
                if size < MOST_BYTES:
                    stream.write(line)
        except (OSError, DamagedError) as error:
            log.warning("a refused save is not remembered for the page of its viewer: %s", error)

    def of(self, label: str, dataset: str) -> list[Refusal]:
        """Return the refused saves of a viewer in a dataset, newest first.

        Args:
            label: Label of the viewer.
            dataset: Path of the dataset relative to the data root; "" for the root itself.
        """
        above = f"{dataset}/annotations/" if dataset else "annotations/"
        assert _LABEL.fullmatch(label)
        oldest = _oldest()
        found: list[Refusal] = []
        for refusal in self._newest_first(label, _decoder):
            if refusal.at < oldest or len(found) == MOST_SHOWN:
                break
            if refusal.file.startswith(above):
                found.append(refusal)
        return found

    def _newest_first(self, name: str, decoder: msgspec.json.Decoder[T]) -> Iterator[T]:
        with suppress(OSError, DamagedError), open_regular(self._directory / name) as file:
            for line in lines_backwards(file):
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    yield decoder.decode(line)


def _remove_old(place: Directory) -> None:
    kept = []
    for name in place.names():
        with suppress(OSError):
            kept.append((place.status(name).st_mtime, name))
    kept.sort(reverse=True)
    for number, (changed_s, name) in enumerate(kept):
        if number >= MOST_VIEWERS or changed_s < time.time() - KEPT_S:
            with suppress(OSError):
                place.unlink(name)
