"""The identity of a dataset: a random id in a hidden file of its directory.

The file also holds its own inode number and that of the directory. A copy of the file has another
inode number: then a service that may write makes a new id, and records the old one. A copy that is
made of hard links has the same file in another directory.

Several services may do this at once. The first id is the one whose file is linked to the name
first. The new id of a copy follows from the old one and from what the file system tells of the
copied file, so that all services find the same.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from neurotrale.errors import reading
from neurotrale.storage.atomic import fsync_directory
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.names import Parts
from neurotrale.storage.permissions import share_with_group
from neurotrale.storage.regular import open_companion

log = logging.getLogger(__name__)

ID_FILE = ".neurotrale-dataset"
MOST_BYTES = 4096
ID_BYTES = 16
MOST_ATTEMPTS = 3
MOST_KEPT = 10_000  # datasets of which is remembered that they have an id

_ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class _StoredId(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of the file."""

    id: str
    inode: int
    directory: int = 0
    copied_from: str = ""


_stored_ids = msgspec.json.Decoder(_StoredId)


@dataclass(frozen=True, slots=True)
class DatasetId:
    """The identity of a dataset.

    Attributes:
        id: 32 hexadecimal digits.
        is_derived: Whether it could not be stored, so that it follows from where the dataset is. It
            changes when the dataset is moved, and perhaps when its file system is mounted anew.
        copied_from: Id of the dataset that this one is a copy of; "" if none is known.
    """

    id: str
    is_derived: bool
    copied_from: str

    def summary(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "id": self.id,
            "derived": self.is_derived,
            "copied_from": self.copied_from or None,
        }


class DatasetIds:
    """The identities of datasets.

    Args:
        data_root: The data root.
        may_write: Whether ids may be made.
        share: Whether the group of a shared directory may use new files.
    """

    def __init__(self, data_root: DataRoot, *, may_write: bool, share: bool = True) -> None:
        self.data_root = data_root
        self.may_write = may_write
        self._share = share
        self._kept: set[str] = set()
        self._told: set[str] = set()

    def of(self, dataset: Parts) -> DatasetId:
        """Return the id of a dataset; make and store one if it has none.

        Raises:
            MissingError: There is no such directory.
            ReadOnlyError, BusyError: It cannot be opened.
        """
        directories = self.data_root.directories
        directories.forget(dataset)
        with reading("/".join(dataset) or "the data root"):
            place = directories.get(dataset)
        stored = copied = None
        try:
            for _ in range(MOST_ATTEMPTS):  # another service may be as fast
                stored, copied = self._read(place)
                if stored is not None or not self.may_write:
                    break
                self._make(place, copied)
        except (OSError, ValueError) as error:
            self._tell(place, error)
        if stored is not None:
            return DatasetId(stored.id, False, stored.copied_from)
        return _derived(place, "" if copied is None else copied.stored.id)

    def keep(self, filename: str) -> None:
        """Make sure that the dataset of an annotation file has an id, if one can be stored.

        Args:
            filename: Path of the file relative to the data root.
        """
        *dataset, _, _, _ = filename.split("/")
        key = "/".join(dataset)
        if key in self._kept:
            return
        with suppress(LookupError, OSError, ValueError):  # the write tells what is wrong
            if not self.of(tuple(dataset)).is_derived and len(self._kept) < MOST_KEPT:
                self._kept.add(key)

    def _read(self, place: Directory) -> tuple[_StoredId | None, _Copy | None]:
        """Return the id of a directory, or the file that was copied there; None for either."""
        # Like a companion of an annotation file, with `info` in its place.
        try:
            with open_companion(place.path_of(ID_FILE), place.path_of("info")) as file:
                status = os.fstat(file.fileno())
                content = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None, None
        if status.st_nlink == 0:  # another service has just replaced it, which set its ctime
            return None, None
        try:
            stored = _stored_ids.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            stored = None
        if stored is None or len(content) > MOST_BYTES or not _ID.fullmatch(stored.id):
            raise ValueError("it does not hold the id of a dataset; move it aside")
        directory = os.fstat(place.descriptor).st_ino
        is_here = status.st_nlink == 1 or stored.directory == directory
        if stored.inode == status.st_ino and is_here:
            return stored, None
        return None, _Copy(stored, status.st_ino, directory, status.st_ctime_ns)

    def _make(self, place: Directory, copy: _Copy | None) -> None:
        """Store an id, unless another service has done so in the meantime."""
        id_ = secrets.token_hex(ID_BYTES) if copy is None else copy.new_id
        copied_from = "" if copy is None else copy.stored.id
        temporary = f"{ID_FILE}.{secrets.token_hex(8)}.tmp"
        try:
            self._write(place, temporary, id_, copied_from)
            if copy is not None:
                place.rename(temporary, ID_FILE)
            else:
                self._link(place, temporary, id_)
            fsync_directory(Path(place.path))
        except FileExistsError:
            return
        finally:
            with suppress(OSError):
                place.unlink(temporary, missing_ok=True)

    def _link(self, place: Directory, temporary: str, id_: str) -> None:
        try:
            place.link(temporary, ID_FILE)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # Whoever reads it before it is written finds no id.
            self._write(place, ID_FILE, id_, "")

    def _write(self, place: Directory, name: str, id_: str, copied_from: str) -> None:
        descriptor = place.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            if self._share:
                share_with_group(descriptor, place.through("."))
            inode = os.fstat(descriptor).st_ino
            directory = os.fstat(place.descriptor).st_ino
            stored = _StoredId(id_, inode, directory, copied_from)
            file.write(msgspec.json.encode(stored) + b"\n")
            file.flush()
            os.fsync(descriptor)

    def _tell(self, place: Directory, error: Exception) -> None:
        reason = f"{place.path}/{ID_FILE}: {error}"
        if reason not in self._told and len(self._told) < MOST_KEPT:
            self._told.add(reason)
            log.warning("the dataset has no id that lasts, because of %s", reason)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A file with an id that was copied: it has another inode number than it states.

    Attributes:
        stored: Its content.
        inode: Its inode number.
        directory: That of its directory.
        ctime_ns: The time when it was copied, which only the file system sets.
    """

    stored: _StoredId
    inode: int
    directory: int
    ctime_ns: int

    @property
    def new_id(self) -> str:
        """The id of the copy."""
        return _hash(self.stored.id, self.inode, self.directory, self.ctime_ns)


def _derived(place: Directory, copied_from: str) -> DatasetId:
    status = os.fstat(place.descriptor)
    return DatasetId(_hash(place.path, status.st_ino, status.st_dev), True, copied_from)


def _hash(*values: object) -> str:
    text = "\n".join(map(str, ("neurotrale dataset", *values)))
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=ID_BYTES).hexdigest()
