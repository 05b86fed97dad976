"""What all clients saw of all files: kept in the process in which all changes meet.

It is lost without harm: a save of a client of which nothing is known is merged with the nearest
revision, and its removals are held back. So that a restart does not forget everything, it is also
written to a hidden directory of the data root about once a second, as JSON.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread

import msgspec
import xxhash
from cachetools import LRUCache

from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.merging.chains import FileViews
from neurotrale.annotations.merging.kept_contents import KeptContents
from neurotrale.errors import DamagedError
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.compression import pack
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.regular import make_own_directory, open_regular

log = logging.getLogger(__name__)

KEPT_S = 10 * 3600
STORED_BYTES = 8 * 2**20  # of contents for each block, compressed
BLOCKS = 1024
CLIENTS = 256  # for each block
FILES = 256  # for each client and block
SAVE_S = 1.0


class _BlockViews(msgspec.Struct):
    """The views of the files of one block, by client and leaf.

    Attributes:
        clients: The views.
        saved_ns: When the last save of each file arrived.
    """

    clients: dict[str, dict[str, FileViews]] = {}
    saved_ns: dict[str, int] = {}


class _Stored(msgspec.Struct):
    """A block as it is on disk.

    Attributes:
        block: Path of the block's directory, relative to the data root.
        views: Its views.
        contents: What clients saved, by hash; older versions wrote it as text.
        packed: The same as it is kept.
    """

    block: str
    views: _BlockViews
    contents: dict[str, str] = {}
    packed: dict[str, bytes] = {}


class Views:
    """What all clients saw of all files.

    Args:
        root: The data root; None keeps everything in memory only.
        now_ns: Returns the time in nanoseconds since the epoch.
    """

    def __init__(self, root: Path | None, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._directory = None if root is None else root / ".neurotrale"
        self._now_ns = now_ns
        self._lock = Lock()
        self._blocks: LRUCache[str, _BlockViews] = LRUCache(BLOCKS)
        self.contents = KeptContents()
        self._changed: set[str] = set()
        self._wakes = Event()
        self._thread: Thread | None = None

    def saw(self, viewer: Viewer, file: str, etag: str, arrived_ns: int) -> None:
        """Record that a client asked for a file.

        Args:
            viewer: The client.
            file: Path of the file relative to the data root.
            etag: Hash of the content that was sent; empty if it was not, or not in full.
            arrived_ns: When the request arrived.
        """
        with self._lock:
            self._of(viewer, file).load(etag, arrived_ns)
            self._note_change(file)

    def of(self, viewer: Viewer, file: str) -> FileViews:
        """Return a copy of what a client saw of a file."""
        with self._lock:
            views = self._of(viewer, file)
            views.forget(self._now_ns() - KEPT_S * 10**9)
            return msgspec.json.decode(msgspec.json.encode(views), type=FileViews)

    def left_ns(self, viewer: Viewer, file: str) -> int:
        """Return when a client last asked for another slice of the block; 0 for never."""
        block, leaf = _split(file)
        with self._lock:
            files = self._block(block).clients.get(_digest(viewer), {})
            if not _is_slice(leaf):
                return 0
            others = (one for other, one in files.items() if other != leaf and _is_slice(other))
            return max((views.asked_ns for views in others), default=0)

    def saved_ns(self, file: str) -> int:
        """Return when the last save of a file arrived that changed it; 0 for none."""
        block, leaf = _split(file)
        with self._lock:
            return self._block(block).saved_ns.get(leaf, 0)

    def loaded(self, file: str) -> set[str]:
        """Return hashes of contents that clients have loaded; see `FileViews.loaded`."""
        block, leaf = _split(file)
        with self._lock:
            clients = self._block(block).clients.values()
            return {etag for one in clients if leaf in one for etag in one[leaf].loaded}

    def change(
        self, viewer: Viewer, file: str, change: Callable[[FileViews], None], saved_ns: int
    ) -> None:
        """Change what a client saw of a file.

        Args:
            viewer: The client.
            file: Path of the file relative to the data root.
            change: Makes the change; other requests may have made others since `of`.
            saved_ns: When a save that changed the file arrived; 0 for none.
        """
        block, leaf = _split(file)
        with self._lock:
            change(self._of(viewer, file))
            times = self._block(block).saved_ns
            times[leaf] = max(times.pop(leaf, 0), saved_ns)
            self._note_change(file)

    def has_loaded(self, file: str, etag: str) -> bool:
        """Return whether a client has a content of a file in its view."""
        with self._lock:
            return etag in self._seen(file)

    def drop_unseen(self, file: str) -> None:
        """Drop the contents of a file that no client sees any more, and which are not kept yet."""
        with self._lock:
            seen = self._seen(file)
        self.contents.drop(file, seen)

    def _seen(self, file: str) -> set[str]:
        block, leaf = _split(file)
        views = (files[leaf] for files in self._block(block).clients.values() if leaf in files)
        return {etag for one in views for chain in one.chains for etag in (chain.tip, chain.before)}

    def close(self) -> None:
        """Write what is not on disk yet."""
        self._save()

    def _of(self, viewer: Viewer, file: str) -> FileViews:
        block, leaf = _split(file)
        clients, key = self._block(block).clients, _digest(viewer)
        files = clients.pop(key, {})
        clients[key] = files  # the one used last is the last
        views = files[leaf] = files.pop(leaf) if leaf in files else FileViews()
        for bounded, most in ((clients, CLIENTS), (files, FILES)):
            while len(bounded) > most:
                del bounded[next(iter(bounded))]
        return views

    def _block(self, block: str) -> _BlockViews:
        views = self._blocks.get(block)
        if views is None:
            views = self._blocks[block] = self._load(block)
        return views

    # --- on disk ---

    def _note_change(self, file: str) -> None:
        self._changed.add(_split(file)[0])
        if self._directory is not None and self._thread is None:
            self._thread = Thread(target=self._save_all, name="save-views", daemon=True)
            self._thread.start()
        self._wakes.set()

    def _save_all(self) -> None:
        while True:
            self._wakes.wait()
            self._wakes.clear()
            time.sleep(SAVE_S)
            self._save()

    def _save(self) -> None:
        if self._directory is None:
            return
        self.contents.pack_waiting()
        with self._lock:
            stored = [self._stored(block) for block in self._changed if block in self._blocks]
            self._changed.clear()
        for one in stored:
            try:
                self._write(one)
            except (OSError, DamagedError) as error:
                log.warning("what viewers have seen is lost with a restart: %s", error)
                self._directory = None
                return

    def _stored(self, block: str) -> _Stored:
        views, left = self._blocks[block], STORED_BYTES
        packed: dict[str, bytes] = {}
        for files in reversed(views.clients.values()):
            for chain in (chain for one in files.values() for chain in one.chains):
                kept = self.contents.packed(chain.tip) if chain.is_own else None
                if kept is not None and chain.tip not in packed and len(kept) <= left:
                    left -= len(kept)
                    packed[chain.tip] = kept.packed
        copy = msgspec.json.decode(msgspec.json.encode(views), type=_BlockViews)
        return _Stored(block, copy, packed=packed)

    def _write(self, stored: _Stored) -> None:
        path = self._path(stored.block)
        place = make_own_directory(path.parent, make_own_directory(path.parent.parent))
        self._remove_old(place)
        temporary = temporary_path(path).name
        place.unlink(temporary, missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(place.open(temporary, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(stored))
        place.rename(temporary, path.name)

    def _remove_old(self, place: Directory) -> None:
        oldest_s = self._now_ns() / 1e9 - KEPT_S
        for name in place.names():
            with suppress(OSError):
                if place.status(name).st_mtime < oldest_s:
                    place.unlink(name)

    def _load(self, block: str) -> _BlockViews:
        if self._directory is None:
            return _BlockViews()
        path = self._path(block)
        try:
            make_own_directory(path.parent)  # others may have planted something there
            with open_regular(path) as file:
                stored = msgspec.json.decode(file.read(), type=_Stored)
        except (OSError, DamagedError, msgspec.MsgspecError, UnicodeDecodeError):
            return _BlockViews()
        if stored.block != block:
            return _BlockViews()
        texts = ((etag, pack(text.encode())) for etag, text in stored.contents.items())
        self.contents.add_packed([*stored.packed.items(), *texts])
        return stored.views

    def _path(self, block: str) -> Path:
        assert self._directory is not None
        name = xxhash.xxh3_128_hexdigest(block.encode(errors="surrogateescape"))
        return self._directory / "views" / f"{name}.json"


def _split(file: str) -> tuple[str, str]:
    block, _, leaf = file.rpartition("/")
    return block, leaf


def _is_slice(leaf: str) -> bool:
    return leaf.startswith("z-")


def _digest(viewer: Viewer) -> str:
    return hashlib.sha256(viewer.key.encode(errors="replace")).hexdigest()[:32]
