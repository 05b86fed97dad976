"""What was found, gathered by kind: the first places of each and a count, however many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from neurotrale.checking.kinds import KINDS, Kind

PLACES = 5


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place where something is wrong.

    Attributes:
        place: The file or directory, relative to the data set.
        detail: What is wrong there, where the kind does not say it all.
    """

    place: str
    detail: str = ""


@dataclass(slots=True)
class Group:
    """All findings of one kind.

    Attributes:
        kind: What they have in common.
        count: How many there are.
        findings: The first of them by name.
    """

    kind: Kind
    count: int = 0
    findings: list[Finding] = field(default_factory=list)


class Findings:
    """Gathers findings, from several threads.

    Args:
        most_places: How many places of each kind are kept; they are those that come first by name.
    """

    def __init__(self, most_places: int = PLACES) -> None:
        self._most = most_places
        self._groups: dict[str, Group] = {}
        self._lock = Lock()

    def add(self, kind: str, place: str, detail: str = "") -> None:
        """Note one finding.

        Args:
            kind: A name of the table of kinds.
            place: Relative to the data set.
            detail: What is wrong there.
        """
        self.add_many(kind, 1, [Finding(_readable(place), _readable(detail))])

    def add_many(self, kind: str, count: int, first: Iterable[Finding]) -> None:
        """Note a number of findings of which only the first ones are named."""
        with self._lock:
            group = self._groups.setdefault(kind, Group(KINDS[kind]))
            group.count += count
            group.findings.extend(first)
            if len(group.findings) > 2 * self._most:
                group.findings = sorted(group.findings)[: self._most]

    def groups(self) -> list[Group]:
        """Give what was found in the order of the table: the gravest first."""
        with self._lock:
            return [
                Group(kind, group.count, sorted(group.findings)[: self._most])
                for name, kind in KINDS.items()
                if (group := self._groups.get(name)) is not None and group.count
            ]


def _readable(text: str) -> str:
    """Make a name printable, whatever bytes it has."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
