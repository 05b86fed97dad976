"""Findings grouped by kind, progress counts, and the report of a check.

Of each kind only the first paths are kept, and a count of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from threading import Lock
from typing import Any

from neurotrale.errors import printable
from neurotrale.settings.stacks import PLACES
from neurotrale.tools.check.rules import KINDS, SEVERITIES, FindingKind, Severity
from neurotrale.tools.parallel import ProgressCallback


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A file or directory with a problem.

    Attributes:
        path: Its path relative to the dataset.
        detail: The problem, if the kind alone does not explain it.
    """

    path: str
    detail: str = ""


@dataclass(slots=True)
class FindingGroup:
    """All findings of one kind.

    Attributes:
        kind: The kind.
        count: Number of findings.
        findings: The first of them, by path.
    """

    kind: FindingKind
    count: int = 0
    findings: list[Finding] = field(default_factory=list)


class Findings:
    """A thread-safe collection of findings.

    Args:
        max_places: How many findings of each kind to keep: the first ones by path.
    """

    def __init__(self, max_places: int = PLACES.default) -> None:
        self._max_places = max_places
        self._groups: dict[str, FindingGroup] = {}
        self._lock = Lock()

    def add(self, kind: str, path: str, detail: str = "") -> None:
        """Add a finding.

        Args:
            kind: Name of the kind.
            path: Path relative to the dataset.
            detail: The problem, if the kind alone does not explain it.
        """
        self.add_many(kind, 1, [Finding(printable(path), printable(detail))])

    def add_many(self, kind: str, count: int, first: Iterable[Finding]) -> None:
        """Add `count` findings, of which only the first ones are listed."""
        with self._lock:
            group = self._groups.setdefault(kind, FindingGroup(KINDS[kind]))
            group.count += count
            group.findings.extend(first)
            if len(group.findings) > 2 * self._max_places:
                group.findings = sorted(group.findings)[: self._max_places]

    def groups(self) -> list[FindingGroup]:
        """Return the findings of each kind in the order of the rules: the most severe first."""
        with self._lock:
            return [
                FindingGroup(kind, group.count, sorted(group.findings)[: self._max_places])
                for name, kind in KINDS.items()
                if (group := self._groups.get(name)) is not None and group.count
            ]


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """The options of a check.

    Attributes:
        dataset: The dataset.
        root: The data root that it will be served from.
        follow_symlinks: Whether links may leave the root.
        sample: Number of chunks of each scale to open; None for all.
        sparse: Whether chunks may be missing.
        jobs: Number of threads.
        places: Number of findings of each kind to list.
        part: Which chunks to open: one part, from 1, of so many that together open all chunks.
    """

    dataset: Path
    root: Path
    follow_symlinks: bool = False
    sample: int | None = None
    sparse: bool = False
    jobs: int = 1
    places: int = PLACES.default
    part: tuple[int, int] = (1, 1)

    @property
    def opens_all(self) -> bool:
        """Whether every chunk is opened."""
        return self.sample is None and self.part[1] == 1


class CheckCounts:
    """Thread-safe counts of what was checked.

    Args:
        on_progress: Called after every step.
        by_name: Whether a chunk is done when its name was checked, as most are not opened.
    """

    def __init__(self, on_progress: ProgressCallback, *, by_name: bool = False) -> None:
        self._by_name = by_name
        self.scales = 0
        self.chunks_found = 0
        self.chunks_opened = 0
        self.annotation_files = 0
        self.annotations = 0
        self.total = 0
        self._done = 0
        self._on_progress = on_progress
        self._lock = Lock()

    def add_found(self) -> None:
        """Count a chunk that exists."""
        with self._lock:
            self.chunks_found += 1
            if self._by_name:
                self._step()

    def add_opened(self) -> None:
        """Count a chunk that was opened."""
        with self._lock:
            self.chunks_opened += 1
            if not self._by_name:
                self._step()

    def add_file(self, annotations: int) -> None:
        """Count an annotation file and the annotations in it."""
        with self._lock:
            self.annotation_files += 1
            self.annotations += annotations
            self._step()

    def skip_to(self, done: int) -> None:
        """Set the progress to `done`: missing chunks are never counted as opened."""
        with self._lock:
            self._done = done - 1
            self._step()

    def _step(self) -> None:
        self._done += 1
        self._on_progress(min(self._done, self.total), self.total)


# --- report ---

_WIDTH = 100
_INDENT = " " * 9


def worst_severity(findings: Findings) -> Severity | None:
    """Return the worst severity of all findings; None if there are none."""
    present = {group.kind.severity for group in findings.groups()}
    return next((severity for severity in SEVERITIES if severity in present), None)


def describe(findings: Findings, counts: CheckCounts) -> Iterator[str]:
    """Format the report for people, line by line."""
    for group in findings.groups():
        yield from _group_lines(group)
        yield ""
    yield _summary(findings, counts)


def as_json(request: CheckRequest, findings: Findings, counts: CheckCounts) -> dict[str, Any]:
    """Return the report as an object for JSON; the keys never change."""
    return {
        "dataset": str(request.dataset),
        "verdict": worst_severity(findings) or "clean",
        "checked": {
            "scales": counts.scales,
            "chunks_found": counts.chunks_found,
            "chunks_opened": counts.chunks_opened,
            "annotation_files": counts.annotation_files,
            "annotations": counts.annotations,
        },
        "findings": [
            {
                "kind": group.kind.name,
                "severity": group.kind.severity,
                "count": group.count,
                "what": group.kind.summary,
                "viewer": group.kind.viewer,
                "mend": group.kind.fix,
                "places": [
                    {"place": finding.path, "detail": finding.detail} for finding in group.findings
                ],
            }
            for group in findings.groups()
        ],
    }


def _group_lines(group: FindingGroup) -> Iterator[str]:
    kind = group.kind
    yield f"{kind.severity:<8} {kind.summary} ({kind.name}): {group.count}"
    for finding in group.findings:
        yield f"{_INDENT}  {finding.path}" + (f": {finding.detail}" if finding.detail else "")
    if group.count > len(group.findings):
        yield f"{_INDENT}  and {group.count - len(group.findings)} more"
    for label, text in (("viewer", kind.viewer), ("fix", kind.fix)):
        lines = wrap(text, _WIDTH - len(_INDENT) - 8)
        for number, line in enumerate(lines):
            yield f"{_INDENT}{label if number == 0 else '':<8}{line}"


def _summary(findings: Findings, counts: CheckCounts) -> str:
    by_severity = Counter[str]()
    for group in findings.groups():
        by_severity[group.kind.severity] += group.count
    result = ", ".join(
        _counted(by_severity[name], name) for name in SEVERITIES if by_severity[name]
    )
    return (
        f"checked {_counted(counts.chunks_found, 'chunk')} of {_counted(counts.scales, 'scale')}"
        f" ({counts.chunks_opened} opened) and {_counted(counts.annotations, 'annotation')} in"
        f" {_counted(counts.annotation_files, 'file')}: {result or 'no problems found'}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
