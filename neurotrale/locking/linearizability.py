"""Checks whether a recorded history of reads and writes is linearizable.

A history is linearizable if each operation can be thought of as taking effect at one instant
between its call and its return, so that every operation sees what the ones before it left. Keys are
independent of each other: each one is checked alone.

Sources: J. M. Wing and C. Gong, "Testing and verifying concurrent objects", Journal of Parallel and
Distributed Computing 17, 1993 (the search); G. Lowe, "Testing for linearizability", Concurrency and
Computation: Practice and Experience 29(4), 2017 (a set of operations that left the same value
before is not searched again); P. B. Gibbons and E. Korach, "Testing shared memories", SIAM Journal
on Computing 26(4), 1997 (the zones of values that are written once).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple

MOST_STATES = 200_000

Action = Literal["read", "write", "delete"]


class Unknown(Enum):
    """A value that was not seen."""

    ANYTHING = "anything"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key.

    Attributes:
        action: The kind of operation.
        value: The value that was written or read; None if the key was absent.
        call: The time of the call.
        returned: The time of the return; None if the answer was lost: the operation may have taken
            effect at any time after its call, or never.
        before: The value that a write or delete replaced, as far as it is known.
    """

    action: Action
    value: str | None
    call: float
    returned: float | None
    before: str | Unknown | None = Unknown.ANYTHING

    def fits(self, value: str | None) -> bool:
        """Return whether it can take effect while the key has this value, or None for absent."""
        if self.action == "read":
            return value == self.value
        if self.before is Unknown.ANYTHING:
            return True
        return value is not None if self.before is Unknown.PRESENT else value == self.before

    def result(self) -> str | None:
        """Return the value that the key has afterwards."""
        return None if self.action == "delete" else self.value


class UndecidedError(Exception):
    """The search was given up: too many orders are possible."""


@dataclass(frozen=True, slots=True)
class Violation:
    """The point at which the search for an order got stuck.

    Attributes:
        value: The value after the longest order that was found.
        stuck: The operations one of which would have to follow, but none fits the value.
    """

    value: str | None
    stuck: tuple[Operation, ...]


def violations(
    history: Iterable[tuple[str, Operation]], most_states: int = MOST_STATES
) -> dict[str, Violation]:
    """Check a history of operations on several keys.

    Args:
        history: The operations, in any order, each with its key. All keys are absent at first.
        most_states: The number of steps after which the search is given up, per key.

    Returns:
        A violation for each key whose operations are not linearizable.

    Raises:
        UndecidedError: The search was given up.
    """
    by_key: dict[str, list[Operation]] = {}
    for key, operation in history:
        by_key.setdefault(key, []).append(operation)
    found = {key: violation_of(operations, most_states) for key, operations in by_key.items()}
    return {key: violation for key, violation in found.items() if violation is not None}


def violation_of(
    operations: Iterable[Operation], most_states: int = MOST_STATES
) -> Violation | None:
    """Check the operations on one key, as `violations` does for several."""
    operations = list(operations)
    if (contradiction := _contradiction(operations)) is not None:
        return contradiction
    search = _Search(operations)
    state = deepest = _State(0, 0, 0, None, False)
    seen, path = {state}, [(state, search.steps(state))]
    longest = 1
    while path:
        if path[-1][0].first == len(search.completed):
            return None
        step = next((step for step in path[-1][1] if step not in seen), None)
        if step is None:
            path.pop()
            continue
        if len(seen) >= most_states:
            raise UndecidedError(f"No order was found in {most_states} steps.")
        seen.add(step)
        path.append((step, search.steps(step)))
        if len(path) > longest:
            longest, deepest = len(path), step
    return Violation(deepest.value, search.next_operations(deepest))


class _State(NamedTuple):
    """A set of operations that have taken effect, and the value that they left.

    Attributes:
        first: Index of the first completed operation that is not in the set.
        later: A bit for each completed operation from `first` on: 1 if it is in the set.
        lost: The same for the operations whose answer was lost.
        value: The value, None for absent.
        unobserved: Whether the last one to take effect was an operation whose answer was lost.
    """

    first: int
    later: int
    lost: int
    value: str | None
    unobserved: bool


class _Search:
    """The operations on one key, in the order of their calls."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        in_order = sorted(operations, key=lambda operation: operation.call)
        self.completed = [one for one in in_order if one.returned is not None]
        self._returns = [one.returned for one in in_order if one.returned is not None]
        # A read whose answer was lost says nothing.
        self.lost = [one for one in in_order if one.returned is None and one.action != "read"]

    def next_operations(self, state: _State) -> tuple[Operation, ...]:
        """Return the completed operations that need not follow any other one that is left."""
        return tuple(self.completed[number] for number in self._minimal(state)[0])

    def steps(self, state: _State) -> Iterator[_State]:
        """Iterate over the states that one more operation leads to."""
        numbers, deadline = self._minimal(state)
        fitting = [number for number in numbers if _follows(self.completed[number], state)]
        # A read changes nothing, so whatever can follow without it can follow after it.
        reads = [number for number in fitting if self.completed[number].action == "read"]
        for number in reads[:1] or fitting:
            yield self._after(state, number)
        if not reads:
            yield from self._lost_steps(state, numbers, deadline)

    def _minimal(self, state: _State) -> tuple[list[int], float]:
        """Return the indexes of the next operations, and the time by which one must take effect.

        The first to return comes first, as it is the most likely to be right.
        """
        numbers: list[int] = []
        deadline = inf
        for number in range(state.first, len(self.completed)):
            if self.completed[number].call > deadline:
                break
            if not state.later >> (number - state.first) & 1:
                numbers.append(number)
                deadline = min(deadline, self._returns[number])
        numbers.sort(key=self._returns.__getitem__)
        return numbers, deadline

    def _lost_steps(
        self, state: _State, numbers: Sequence[int], deadline: float
    ) -> Iterator[_State]:
        left = {
            number: operation
            for number, operation in enumerate(self.lost)
            if operation.call <= deadline and not state.lost >> number & 1
        }
        observers = [*(self.completed[number] for number in numbers), *left.values()]
        tried: set[tuple[str | None, str | Unknown | None]] = set()
        for number, operation in left.items():
            step = state._replace(
                lost=state.lost | 1 << number, value=operation.result(), unobserved=True
            )
            # Of several with the same effect, the first one called is enough.
            effect = (step.value, operation.before)
            if step.value == state.value or effect in tried or not _follows(operation, state):
                continue
            tried.add(effect)
            if any(_follows(observer, step) for observer in observers):
                yield step

    def _after(self, state: _State, number: int) -> _State:
        first, later = state.first, state.later | 1 << (number - state.first)
        while later & 1:
            first, later = first + 1, later >> 1
        return _State(first, later, state.lost, self.completed[number].result(), False)


def _follows(operation: Operation, state: _State) -> bool:
    # An operation whose answer was lost, and whose value is overwritten unseen, need not have taken
    # effect at all. The search tries that as well, so it leaves this order out.
    overwrites = operation.action != "read" and operation.before is Unknown.ANYTHING
    return operation.fits(state.value) and not (state.unobserved and overwrites)


# --- values that are written once ---


class _Zone(NamedTuple):
    """What the completed operations that saw or wrote one value say about when the key had it.

    Attributes:
        first_return: The key had the value at this time or before.
        last_call: The key had the value at this time or later.
        ends: The operations that these times are from.
    """

    first_return: float
    last_call: float
    value: str | None
    ends: tuple[Operation, ...]

    @classmethod
    def of(cls, value: str | None, seen_by: Sequence[Operation]) -> _Zone:
        first = min(seen_by, key=_return_of)
        last = max(seen_by, key=lambda operation: operation.call)
        ends = (first,) if first is last else (first, last)
        return cls(_return_of(first), last.call, value, ends)


def _return_of(operation: Operation) -> float:
    return inf if operation.returned is None else operation.returned


def _contradiction(operations: Sequence[Operation]) -> Violation | None:
    """Find two values that the key must have had at the same time.

    A history with many lost updates has too many orders to rule out one by one, but a value that is
    written once is there without a break. So this finds most of what is wrong, in little time; only
    the search decides that nothing is.
    """
    writers: dict[str | None, list[Operation]] = {}
    seen_by: dict[str | None, list[Operation]] = {}
    replaced_by: dict[str | None, Operation] = {}
    momentary: list[_Zone] = []
    for one in operations:
        if one.action == "write" and one.before != one.value:
            writers.setdefault(one.value, []).append(one)
        if one.returned is None:
            continue
        if one.result() is None:
            momentary.append(_Zone.of(None, [one]))
        else:
            seen_by.setdefault(one.value, []).append(one)
        if isinstance(one.before, str) and one.before != one.result():
            seen_by.setdefault(one.before, []).append(one)
    held: list[_Zone] = []
    for value, seen in seen_by.items():
        made = writers.get(value, ())
        if len(made) != 1:
            continue
        zone = _Zone.of(value, [*seen, *made])
        (held if zone.first_return < zone.last_call else momentary).append(zone)
        for one in seen:
            if one.before == value and one.result() != value:
                if value in replaced_by:
                    return Violation(value, (replaced_by[value], one))
                replaced_by[value] = one
    held.sort()
    for one_zone, next_zone in pairwise(held):
        if next_zone.first_return < one_zone.last_call:
            return Violation(one_zone.value, (*one_zone.ends, *next_zone.ends))
    for zone in momentary:
        begun = bisect_left(held, zone.last_call, key=lambda other: other.first_return)
        if begun and zone.first_return < (around := held[begun - 1]).last_call:
            return Violation(around.value, (*around.ends, *zone.ends))
    return None
