"""What became of the saves of one viewer, and how many removals are held back in a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from neurotrale.annotations.files.paths import AnnotationFile, AnnotationFiles
from neurotrale.annotations.journals.changes import format_time
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.directories import directory_at
from neurotrale.storage.names import Parts

MOST_ENTRIES = 5000
"""Records of each file that are looked at, from the newest."""

CLOCKS_DIFFER_S = 3600  # between nodes and file servers, at most

_PREFIX, _SUFFIX = ".", ".journal"


@dataclass(frozen=True, slots=True)
class SavedChange:
    """A save of a viewer that was not, or not only, done as it was sent.

    Attributes:
        file: Path of the file relative to the data root.
        record: Its record in the journal.
        still_held: Ids whose removal it held back, and which nobody has confirmed.
    """

    file: str
    record: JournalEntry
    still_held: list[str]

    def summary(self) -> dict[str, object]:
        """Return it for JSON; members without content are left out."""
        notes = self.record.save
        told = {
            "held": self.still_held,
            "conflicts": notes.conflicts,
            "ignored": notes.navigated,
            "stale": notes.stale,
        }
        return {
            "file": self.file,
            "revision": self.record.n,
            "at": self.record.at,
            "by": self.record.by,
            **{key: value for key, value in told.items() if value},
        }


@dataclass(slots=True)
class Activity:
    """The saves of one viewer.

    Attributes:
        saves: How many of its saves were recorded.
        changes: Those that need a look, newest first.
    """

    saves: int = 0
    changes: list[SavedChange] = field(default_factory=list)


class ActivityLog:
    """Reads what viewers did from the journals of a dataset.

    Args:
        files: Finds annotation files.
    """

    def __init__(self, files: AnnotationFiles) -> None:
        self.files = files

    def of_session(self, dataset: Parts, label: str, since: datetime) -> Activity:
        """Return the saves of one viewer in all files of a dataset.

        Args:
            dataset: The dataset.
            label: Label of the viewer.
            since: Only saves at or after this time; it has a zone.
        """
        activity, oldest = Activity(), format_time(since)
        for file, status in self._journals(dataset):
            if status.st_mtime + CLOCKS_DIFFER_S >= since.timestamp():
                with suppress(OSError, DamagedError):
                    self._read(file, label, oldest, activity)
        activity.changes.sort(key=lambda change: change.record.at, reverse=True)
        return activity

    def _read(self, file: AnnotationFile, label: str, since: str, activity: Activity) -> None:
        aborted: set[int] = set()
        held_now: set[str] | None = None
        for seen, entry in enumerate(Journal(file.path).entries()):
            if entry.at < since or seen >= MOST_ENTRIES:
                return
            aborted.update(entry.aborts)
            if entry.op == "void" or entry.n in aborted:
                continue
            if held_now is None:
                held_now = set(entry.held_removals)
            if entry.save.session != label:
                continue
            activity.saves += entry.saves
            notes = entry.save
            newly_held = entry.newly_held - len(notes.stale)  # which are counted, too
            new = entry.held_removals[-newly_held:] if newly_held > 0 else []
            still_held = [id_ for id_ in new if id_ in held_now]
            if still_held or notes.conflicts or notes.navigated or notes.stale:
                activity.changes.append(SavedChange(file.display_path, entry, still_held))

    def _journals(self, dataset: Parts) -> Iterator[tuple[AnnotationFile, os.stat_result]]:
        """Yield each annotation file with a journal, and the status of the journal."""
        with suppress(MissingError):
            for block in self.files.block_directories(dataset):
                directory = self.files.data_root.path(block)
                with suppress(OSError):
                    place = directory_at(directory)
                    for leaf in filter(None, map(_leaf, place.names())):
                        file = AnnotationFile(directory / leaf, "/".join((*block, leaf)))
                        with suppress(FileNotFoundError):  # removed a moment ago
                            status = place.status(f"{_PREFIX}{leaf}{_SUFFIX}")
                            if stat.S_ISREG(status.st_mode):
                                yield file, status


def _leaf(name: str) -> str:
    """Return the name of the annotation file of a journal; "" if this is not one."""
    if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
        return name[len(_PREFIX) : -len(_SUFFIX)]
    return ""


def held_removals_of(path: Path) -> int:
    """Return how many removals the journal of a file holds back, which people should look at."""
    _, applied = Journal(path).tail()
    return 0 if applied is None else len(applied.held_removals)
