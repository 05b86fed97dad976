"""Checks annotation files: they must be readable, follow the rules, and have unique ids."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from threading import Lock

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.documents.validation import check_each
from neurotrale.tools.check.findings import CheckCounts
from neurotrale.tools.check.walk import DirectoryWalker, WalkedEntry
from neurotrale.tools.parallel import parallel_for_each

OtherFiles = dict[int, list[int]]
"""The other files that have an id, by the hash of the id."""


class IdHashes:
    """A 64-bit hash of every id; collisions are unlikely even among a hundred million ids.

    Files are identified by their index.
    """

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []
        self._files: list[NDArray[np.int32]] = []
        self._lock = Lock()

    @staticmethod
    def hashed(id_: str) -> int:
        """Return the hash of an id."""
        return xxhash.xxh3_64_intdigest(id_.encode("utf-8", "surrogatepass"))

    def add(self, file: int, ids: Collection[str]) -> None:
        """Add the distinct ids of a file."""
        hashes = np.fromiter(map(self.hashed, ids), np.uint64, len(ids))
        with self._lock:
            self._hashes.append(hashes)
            self._files.append(np.full(len(ids), file, np.int32))

    def shared(self, most: int) -> tuple[int, list[tuple[int, OtherFiles]]]:
        """Find the ids that appear in several files.

        Args:
            most: Number of ids to locate.

        Returns:
            The number of such ids; then the files that contain the first of them, in order, and
            for each of those ids the other files.
        """
        if not self._hashes:
            return 0, []
        hashes, files = np.concatenate(self._hashes), np.concatenate(self._files)
        order = np.lexsort((files, hashes))
        hashes, files = hashes[order], files[order]
        repeats = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        is_first = np.ones(len(repeats), bool)
        is_first[1:] = np.diff(repeats) > 1
        starts = repeats[is_first] - 1  # the entry of each shared id for its first file
        chosen = starts[np.argsort(files[starts], kind="stable")[:most]]
        located: dict[int, OtherFiles] = {}
        for start in chosen.tolist():
            stop = start + 1
            while stop < len(hashes) and hashes[stop] == hashes[start]:
                stop += 1
            others = located.setdefault(int(files[start]), {})
            others[int(hashes[start])] = files[start + 1 : stop].tolist()
        return len(starts), sorted(located.items())


_NEVER_REQUESTED = re.compile(r"z-(?!\d{4}\.)\d+\.json", re.ASCII)
_SHOWN = 3
_decode = msgspec.json.Decoder().decode


class AnnotationCheck:
    """Checks annotation files, with one file at a time in memory per thread.

    Args:
        walker: Lists the dataset's directories.
        files: The annotation files.
        counts: Counts what was checked.
        jobs: Number of threads.
        max_places: Number of ids in several files to list.
    """

    def __init__(
        self,
        walker: DirectoryWalker,
        files: Sequence[WalkedEntry],
        counts: CheckCounts,
        jobs: int,
        max_places: int,
    ) -> None:
        self._walker = walker
        self._findings = walker.findings
        self._files = files
        self._counts = counts
        self._jobs = jobs
        self._max_places = max_places
        self._ids = IdHashes()

    def check(self) -> None:
        """Read every file, and add findings for its problems."""
        parallel_for_each(enumerate(self._files), self._check, self._jobs)
        self._report_shared_ids()

    def _check(self, numbered: tuple[int, WalkedEntry]) -> None:
        number, file = numbered
        if _NEVER_REQUESTED.fullmatch(file.name):
            self._findings.add("slice-name", file.relative_path)
        document = self._read(file)
        if document is not None:
            self._ids.add(number, document.ids)
            for id_, indices in sorted(document.repeated.items()):
                shown = ", ".join(f"[{index}]" for index in indices[:_SHOWN])
                more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
                self._findings.add("id-repeated", file.relative_path, f"{id_!r} at {shown}{more}")
            self._check_rules(file, document)
        self._counts.add_file(0 if document is None else len(document.index))

    def _read(self, file: WalkedEntry) -> Document | None:
        try:
            with open(file.path, "rb") as stream:
                content = stream.read()
            if not content.strip():
                self._findings.add("annotations-empty", file.relative_path, f"{len(content)} bytes")
                return None
            return Document.parse(content)
        except FileNotFoundError:  # removed since the directory was listed
            return None
        except OSError as error:
            self._walker.report_unreadable(file.relative_path, error)
        except NotAnArrayError as error:
            self._findings.add("annotations-broken", file.relative_path, str(error))
        return None

    def _check_rules(self, file: WalkedEntry, document: Document) -> None:
        try:
            report = check_each(map(_decode, document.items()))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._findings.add("annotations-broken", file.relative_path, str(error))
            return
        for kind, sentences in (
            ("annotation-malformed", report.problems),
            ("annotation-odd", report.warnings),
        ):
            if sentences:
                self._findings.add(kind, file.relative_path, "; ".join(_first(sentences)))

    def _report_shared_ids(self) -> None:
        count, located = self._ids.shared(self._max_places)
        for number, others in located:
            file = self._files[number]
            document = self._read(file)
            for id_ in document.ids if document is not None else ():
                for other in others.get(self._ids.hashed(id_), ())[:1]:
                    detail = f"{id_!r} is also in {self._files[other].relative_path}"
                    self._findings.add("id-elsewhere", file.relative_path, detail)
                    count -= 1
        self._findings.add_many("id-elsewhere", max(count, 0), [])


def _first(sentences: Sequence[str]) -> Iterator[str]:
    """Yield the first sentences and the number of others; the last one may be a count already."""
    yield from sentences[:_SHOWN]
    if len(sentences) > _SHOWN:
        counted = re.fullmatch(r"and (\d+) more", sentences[-1])
        more = len(sentences) - _SHOWN + (int(counted[1]) - 1 if counted else 0)
        yield f"and {more} more"
