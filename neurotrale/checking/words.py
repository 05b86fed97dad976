"""A report for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from neurotrale.checking.findings import Findings, Group
from neurotrale.checking.kinds import SEVERITIES, Severity
from neurotrale.checking.request import Request, Tally

_WIDTH = 100
_INDENT = " " * 9


def gravest(findings: Findings) -> Severity | None:
    """Give the gravest severity that was found; None when nothing was."""
    found = {group.kind.severity for group in findings.groups()}
    return next((severity for severity in SEVERITIES if severity in found), None)


def describe(findings: Findings, tally: Tally) -> Iterator[str]:
    """Write the report for people, line by line."""
    for group in findings.groups():
        yield from _group(group)
        yield ""
    yield _summary(findings, tally)


def as_json(request: Request, findings: Findings, tally: Tally) -> dict[str, Any]:
    """Give the report as what becomes a JSON object."""
    return {
        "dataset": str(request.dataset),
        "verdict": gravest(findings) or "clean",
        "checked": {
            "scales": tally.scales,
            "chunks_found": tally.chunks_found,
            "chunks_opened": tally.chunks_opened,
            "annotation_files": tally.annotation_files,
            "annotations": tally.annotations,
        },
        "findings": [
            {
                "kind": group.kind.name,
                "severity": group.kind.severity,
                "count": group.count,
                "what": group.kind.what,
                "viewer": group.kind.viewer,
                "mend": group.kind.mend,
                "places": [
                    {"place": finding.place, "detail": finding.detail} for finding in group.findings
                ],
            }
            for group in findings.groups()
        ],
    }


def _group(group: Group) -> Iterator[str]:
    kind = group.kind
    yield f"{kind.severity:<8} {kind.what} ({kind.name}): {group.count}"
    for finding in group.findings:
        yield f"{_INDENT}  {finding.place}" + (f": {finding.detail}" if finding.detail else "")
    if group.count > len(group.findings):
        yield f"{_INDENT}  and {group.count - len(group.findings)} more"
    for label, text in (("viewer", kind.viewer), ("mend", kind.mend)):
        lines = wrap(text, _WIDTH - len(_INDENT) - 8)
        for number, line in enumerate(lines):
            yield f"{_INDENT}{label if number == 0 else '':<8}{line}"


def _summary(findings: Findings, tally: Tally) -> str:
    kinds = Counter[str]()
    for group in findings.groups():
        kinds[group.kind.severity] += group.count
    found = ", ".join(_counted(kinds[name], name) for name in SEVERITIES if kinds[name])
    return (
        f"checked {_counted(tally.chunks_found, 'chunk')} of {_counted(tally.scales, 'scale')}"
        f" ({tally.chunks_opened} opened) and {_counted(tally.annotations, 'annotation')} in"
        f" {_counted(tally.annotation_files, 'file')}: {found or 'nothing is wrong'}"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
