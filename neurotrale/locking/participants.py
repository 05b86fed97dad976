"""Checks the changes that several participants made to one file under its lock.

The file counts its changes, so nothing is assumed about the clocks of different nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from neurotrale.locking.linearizability import Action, Operation, UndecidedError, violations

Row = tuple[str, Action, str | None, str | None, float, float]
"""An operation as `ParticipantHistory` keeps it: key, action, value, before, call, returned."""


@dataclass(frozen=True, slots=True)
class ParticipantHistory:
    """The operations of one participant on a file that counts its changes.

    Each change makes the next version of the file. The versions are also the time: an operation is
    called at the latest version known to its participant, plus a half; a change returns at the
    version that it made, a read at the one that it saw, plus a half. So nothing is assumed about
    the clocks of different nodes. If one operation returned before another one was called, the
    participant of the other one had already seen what came after the first, so the order is real.
    The converse does not hold: a read that returns an older version than another participant has
    already made is only noticed if its own participant could know the newer one.

    Attributes:
        node: Its host name.
        rows: The operations, in order. A change gives the value before it, None for absent.
        refused: How often the lock was not to be had in time.
    """

    node: str
    rows: Sequence[Row]
    refused: int

    @property
    def changed(self) -> list[float]:
        """The versions that it made."""
        return [row[-1] for row in self.rows if row[1] != "read"]


@dataclass(frozen=True, slots=True)
class EditVerdict:
    """The result of checking the histories of all participants.

    Attributes:
        lost: Changes that another participant replaced without having seen them.
        backwards: Operations that found an older version than their participant had already seen.
        unexplained: Keys whose history is not linearizable.
        handovers: How often the next change was another participant's.
        decided: Whether all keys could be checked.
    """

    lost: int
    backwards: int
    unexplained: Sequence[str]
    handovers: int
    decided: bool

    @property
    def excludes(self) -> bool:
        """Whether the participants competed, and nothing went wrong."""
        wrong = self.lost or self.backwards or self.unexplained
        return self.decided and self.handovers > 0 and not wrong


def verdict_of(histories: Sequence[ParticipantHistory]) -> EditVerdict:
    """Check the histories of all participants of one file."""
    made = sorted((version, rank) for rank, one in enumerate(histories) for version in one.changed)
    rows = [row for one in histories for row in one.rows]
    operations = [(row[0], Operation(row[1], row[2], row[4], row[5], row[3])) for row in rows]
    try:
        unexplained, decided = sorted(violations(operations)), True
    except UndecidedError:
        unexplained, decided = [], False
    return EditVerdict(
        lost=sum(times - 1 for times in Counter(version for version, _ in made).values()),
        backwards=sum(row[5] < row[4] for row in rows),
        unexplained=unexplained,
        handovers=sum(one[1] != two[1] for one, two in pairwise(made)),
        decided=decided,
    )
