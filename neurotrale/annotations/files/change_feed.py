"""The change feed of an annotation file, for clients that ask again and again what is new.

Whether anything is new is decided by the stamps of three files, without opening one of them: the
annotation file, its journal, and the burst beside it. What has to be read is read once for each
version of them, and sent to all who ask the same.

An answer never tells more than the content of the file that it was made for: a record that is not
applied yet, or that was appended while the answer was made, comes with the next one.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import xxhash

from neurotrale.annotations.documents.contents import Contents, document_of, etag_of
from neurotrale.annotations.files.blocks import ANNOTATIONS
from neurotrale.annotations.files.paths import AnnotationFile, AnnotationFiles
from neurotrale.annotations.journals.feed_records import FeedQuery, page_of_feed
from neurotrale.annotations.journals.journal import Journal
from neurotrale.errors import BusyError, reading
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.directories import directory_of
from neurotrale.storage.names import AnnotationName
from neurotrale.storage.regular import open_regular

CACHED_PAGES = 1024
CACHED_BYTES = 32 * 2**20
CACHED_VERSIONS = 4096
BLOCK_BYTES = 2**20
MOST_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class FollowedFile:
    """A file, and the version of all that its change feed is made from.

    Attributes:
        directory: Path of its directory.
        leaf: Its name there.
        display_path: Its path relative to the data root.
        version: Identifies the version.
        is_settled: Whether the next version is certain to have another identification.
    """

    directory: str
    leaf: str
    display_path: str
    version: str
    is_settled: bool

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.directory, self.leaf)

    def etag(self, last: int) -> str:
        """Return the ETag of an answer that tells all changes up to a record."""
        # Until it is settled, an answer is good for once: it is asked for again.
        unique = "" if self.is_settled else f"-{os.urandom(8).hex()}"
        return f"{self.version}{unique}-{last}"


@dataclass(frozen=True, slots=True)
class FileVersion:
    """Which content a file has; the content is not kept."""

    etag: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class FeedAnswer:
    """An answer.

    Attributes:
        body: A `ChangePage` as JSON.
        last: Number of the last record that it tells.
    """

    body: bytes
    last: int


class ChangeFeed:
    """Tells clients what has changed in annotation files since they last asked.

    Args:
        files: Finds annotation files.
        contents: Reads them.
    """

    def __init__(self, files: AnnotationFiles, contents: Contents) -> None:
        self.files = files
        self.contents = contents
        self._versions: VersionedCache[FileVersion] = VersionedCache(CACHED_VERSIONS)
        self._answers: VersionedCache[FeedAnswer] = VersionedCache(
            CACHED_PAGES, CACHED_BYTES, lambda answer: len(answer.body)
        )

    def find(self, name: AnnotationName) -> FollowedFile:
        """Return a file that exists or has a journal, with its version.

        In a directory that is open, this takes three calls of the kernel.

        Raises:
            MissingError: Neither the file nor its journal exists.
        """
        parts = (*name.dataset, ANNOTATIONS, name.block.text)
        try:
            place = self.files.data_root.directories.get(parts)
            status = place.status(name.leaf)
            if stat.S_ISREG(status.st_mode):
                display_path = self.files.display_path(name)
                return _followed(place, name.leaf, display_path, Stamp.of(status))
        except OSError:
            pass  # the longer way says what is wrong, and follows links
        file = self.files.recorded(name)
        with reading(file.display_path):
            place, leaf = directory_of(file.path)
            return _followed(place, leaf, file.display_path, _stamp(place, leaf))

    def answer(self, followed: FollowedFile, query: FeedQuery) -> FeedAnswer:
        """Return what has changed.

        Raises:
            BusyError: The file is replaced again and again while it is read.
            MissingError, DamagedError: Annotations are asked for, and there is no file, or it is
                not a JSON array.
        """
        key, version = (followed.directory, followed.leaf, query), followed.version
        # One that was made before the version was settled is made once more when it is.
        find = self._answers.find_settled if followed.is_settled else self._answers.find
        answer = find(key, version)
        if answer is None:
            with reading(followed.display_path):
                answer = self._make(AnnotationFile(followed.path, followed.display_path), query)
            self._answers.put(key, version, answer, is_settled=followed.is_settled)
        return answer

    def _make(self, file: AnnotationFile, query: FeedQuery) -> FeedAnswer:
        for _ in range(MOST_ATTEMPTS):
            version, document = self._version(file.path), None
            if query.annotations:
                content = self.contents.read(file.path)
                document = document_of(content, file.display_path)
                version = FileVersion(content.etag, content.stamp)
            journal = Journal(file.path)
            page = page_of_feed(file.display_path, journal, version, document, query)
            # Records that came meanwhile are left out if the journal knows the content; if not,
            # they cannot be told from those that were there.
            if not page.outside or version == self._version(file.path):
                return FeedAnswer(msgspec.json.encode(page), page.last)
        raise BusyError(f"{file.display_path} is changed again and again. Ask again.")

    def _version(self, path: Path) -> FileVersion | None:
        directory, name = directory_of(path)
        stamp = _stamp(directory, name)
        if stamp is None:
            return None
        find = self._versions.find_settled if stamp.is_settled else self._versions.find
        known = find(path, stamp)
        if known is not None:
            return known
        try:
            with open_regular(path) as file:
                stamp, hashed = Stamp.of(os.fstat(file.fileno())), xxhash.xxh3_128()
                is_settled = stamp.is_settled
                while block := file.read(BLOCK_BYTES):
                    hashed.update(block)
        except FileNotFoundError:
            return None
        version = FileVersion(hashed.hexdigest(), stamp)
        self._versions.put(path, stamp, version, is_settled=is_settled)
        return version


def _stamp(directory: Directory, name: str) -> Stamp | None:
    """Return the stamp of a regular file; None if there is none."""
    try:
        status = directory.status(name)
    except FileNotFoundError:
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None


def _followed(place: Directory, leaf: str, display_path: str, stamp: Stamp | None) -> FollowedFile:
    # The journal last: it is never older than what it tells of.
    stamps = (stamp, *(_stamp(place, name) for name in _companions(leaf)))
    known = [one for one in stamps if one is not None]
    text = " ".join("" if one is None else f"{one.recorded}-{one.ctime_ns:x}" for one in stamps)
    is_settled = all(one.is_settled for one in known)
    return FollowedFile(place.path, leaf, display_path, etag_of(text.encode()), is_settled)


@lru_cache(1024)
def _companions(leaf: str) -> tuple[str, str]:
    """Return the names of the burst and the journal of a file."""
    journal = Journal(Path(leaf))
    return journal.burst_path.name, journal.path.name
