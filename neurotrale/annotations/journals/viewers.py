"""Who saves and loads annotation files in a viewer, as far as the service can tell them apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

_SHOWN = 10  # hexadecimal digits of a label


@dataclass(frozen=True, slots=True)
class Viewer:
    """A client of which the service remembers what it has loaded and saved.

    It gives no rights: two clients may have the same key, and one may come back with another.

    Attributes:
        key: Identity and token name; opaque, the same for every request of the client.
        label: What journals, pages and logs show instead: a hash of the key.
    """

    key: str
    label: str

    @classmethod
    def of(cls, *parts: str) -> Viewer:
        """Return the viewer with a key made of parts, such as a session and a token name."""
        key = "\0".join(parts)
        return cls(key, hashlib.sha256(key.encode(errors="replace")).hexdigest()[:_SHOWN])


class SaveNotes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a journal record tells about a save besides its change.

    Attributes:
        session: Label of the viewer that sent it; empty for a script.
        base: Hash of what the viewer had seen before; empty if that is not known for sure.
        conflicts: Fields that somebody else had changed, too, by id.
        navigated: Ids that were dropped because the user left the slice; they stay in the file.
        stale: Ids that would have been put back to an older revision; they stay as they were.
    """

    session: str = ""
    base: str = ""
    conflicts: dict[str, list[str]] = {}
    navigated: list[str] = []
    stale: list[str] = []

    @property
    def tells_more(self) -> bool:
        """Whether the save is worth a record even if it changes nothing."""
        return bool(self.conflicts or self.navigated or self.stale)


NO_NOTES = SaveNotes()
