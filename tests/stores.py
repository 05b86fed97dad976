"""The stores of annotations, opened on a directory just as the service opens them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.files.paths import AnnotationFile, AnnotationFiles
from neurotrale.annotations.history import AnnotationHistory
from neurotrale.annotations.journals.bursts import REST_S
from neurotrale.annotations.journals.changes import Author, WriteContext
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.store import AnnotationStore
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.writes import FileWriter
from neurotrale.locking.filesystems import LockSetting
from neurotrale.locking.locks import Locks
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.names import AnnotationName, BlockName

# Where fsync costs nothing, where there is such a place: a process that dies does not ask for it.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
NAME = AnnotationName(("brain",), BlockName.parse("x0y0z0"), "fibers.json")
ANN = WriteContext(Author("ann", "127.0.0.1"))


@dataclass(frozen=True)
class Stores:
    """One instance of the service's stores; several on one directory are so many services.

    Attributes:
        root: The data root.
        store: Reads and writes ``NAME``.
        past: Its history.
        place: Where it is.
        writer: Makes the changes.
    """

    root: Path
    store: AnnotationStore
    past: AnnotationHistory
    place: AnnotationFile
    writer: FileWriter

    @property
    def file(self) -> Path:
        return self.place.path

    @property
    def journal(self) -> Journal:
        return Journal(self.file)

    def put(self, body: bytes, wish: WriteContext = ANN) -> None:
        self.store.put(NAME, body, wish)

    def patch(self, id_: str, wish: WriteContext = ANN, **values: Any) -> None:
        self.store.patch(NAME, id_, annotation(id_, **values), wish)

    def delete(self, id_: str, wish: WriteContext = ANN) -> None:
        self.store.delete(NAME, id_, wish)


def open_stores(
    root: Path,
    lock: LockSetting = "flock",
    timeout_s: float = 10.0,
    *,
    make: bool = True,
    share: bool = True,
    rest_s: float = REST_S,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    views: Views | None = None,
) -> Stores:
    """Open the stores on a data root, which gets the directory of one block when it is new."""
    places, contents = AnnotationFiles(DataRoot(root), share=share), Contents()
    path = root / "brain" / "annotations" / "x0y0z0" / NAME.leaf
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    locks = Locks(lock, timeout_s, share=share)
    writer = FileWriter(FileChanges(locks, contents, now, share=share, rest_s=rest_s), views)
    return Stores(
        root,
        AnnotationStore(places, contents, writer),
        AnnotationHistory(contents, writer),
        AnnotationFile(path, "brain/annotations/x0y0z0/fibers.json"),
        writer,
    )


def annotation(id_: str, **values: Any) -> bytes:
    """Write an annotation that breaks no rule."""
    return json.dumps({"id": id_, "type": "point", "point": [1, 2, 3], **values}).encode()


def array(*annotations: bytes) -> bytes:
    """Write a file in the spacing of the original service's files."""
    return b"[\n   " + b",\n   ".join(annotations) + b"\n]\n" if annotations else b"[]"


# Runs a command without what root may do beyond others, so that permissions count for it, too.
_DROP = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execvp(sys.argv[1], sys.argv[1:])
"""
ORDINARY = (sys.executable, "-c", _DROP)
