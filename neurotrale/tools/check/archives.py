"""Checks the archives of annotation files' journals: whether they can be read, and are complete."""

from __future__ import annotations

import os
from collections.abc import Iterable

from neurotrale.annotations.journals.archives import Archives
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import parse_entry
from neurotrale.errors import DamagedError, IrregularFileError
from neurotrale.storage.regular import open_companion
from neurotrale.tools.check.walk import DirectoryWalker
from neurotrale.tools.parallel import parallel_for_each

_PREFIX, _MIDDLE = ".", ".json.journal"


class ArchiveCheck:
    """Checks the archives of all journals in some directories.

    Args:
        walker: Lists the dataset's directories.
        blocks: Paths of the blocks' directories below the dataset.
        jobs: Number of threads.
    """

    def __init__(self, walker: DirectoryWalker, blocks: Iterable[str], jobs: int) -> None:
        self._walker = walker
        self._findings = walker.findings
        self._blocks = sorted(blocks)
        self._jobs = jobs

    def check(self) -> None:
        """Unpack every archive, and add findings for its problems."""
        files = {
            f"{block}/{name[len(_PREFIX) : name.index(_MIDDLE)]}.json"
            for block in self._blocks
            for name in self._walker.names(block)
            if name.startswith(_PREFIX) and _MIDDLE in name
        }
        parallel_for_each(sorted(files), self._check, self._jobs)

    def _check(self, relative_path: str) -> None:
        journal = Journal(self._walker.dataset / relative_path)
        block = os.path.dirname(relative_path)
        archives = journal.archives
        paths = [archives.checkpoint_path, *map(archives.path, archives.numbers())]
        is_whole = [
            self._check_archive(archives, f"{block}/{path.name}", number)
            for number, path in zip([0, *archives.numbers()], paths, strict=True)
        ]
        if all(is_whole):
            self._check_complete(journal, f"{block}/{journal.path.name}")

    def _check_archive(self, archives: Archives, relative_path: str, number: int) -> bool:
        """Return whether an archive, or the checkpoint (0), is as it was written."""
        try:
            if number:
                with archives.opened(number) as archive:
                    archive.check()
            elif archives.checkpoint() is not None:
                for _ in archives.kept_lines():
                    pass
            return True
        except DamagedError as error:
            self._findings.add("archive-damaged", relative_path, error.reason)
        except IrregularFileError as error:
            self._findings.add("archive-damaged", relative_path, f"it is {error.found}")
        except FileNotFoundError:  # discarded since it was listed
            return True
        except OSError as error:
            self._walker.report_unreadable(relative_path, error)
        return False

    def _check_complete(self, journal: Journal, relative_path: str) -> None:
        try:
            try:
                with open_companion(journal.path, journal.file) as file:
                    first = next(filter(None, map(parse_entry, file)), None)
            except FileNotFoundError:
                first = None
            begins = journal.archives.begins(first)
            if begins is not None:
                detail = f"the first one that is there is {begins}"
                self._findings.add("history-incomplete", relative_path, detail)
        except DamagedError as error:
            self._findings.add("history-incomplete", relative_path, error.reason)
        except IrregularFileError:  # a request for the file says so
            return
        except OSError as error:
            self._walker.report_unreadable(relative_path, error)
