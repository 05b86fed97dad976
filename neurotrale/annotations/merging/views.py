"""What a client saw of a file, and what its next save means if it came from one of these views.

What a client last saw is not known for sure: tabs are duplicated, links are copied, loads fail. So
the views of a client are *chains*: each load begins one, and each save moves the tip of the chain
that it came from. Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neurotrale.annotations.merging.chains import Chain
from neurotrale.annotations.merging.edits import Edit, edit_between
from neurotrale.annotations.merging.seen import Seen

LEAVING_NS = 10 * 10**9  # a client that has left a slice may repeat its last save for so long


@dataclass(frozen=True, slots=True)
class Tip:
    """A chain with the content of its tip.

    Attributes:
        chain: The chain.
        seen: The content of its tip.
    """

    chain: Chain
    seen: Seen

    def edit(self, body: Seen) -> Edit:
        """Return what a save changes in it; the tip is in memory only meanwhile."""
        return edit_between(self.seen, body, own=self.chain.is_own)


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known about a save.

    Attributes:
        arrived_ns: When it arrived, in nanoseconds since the epoch.
        is_loaded: Whether the client's last load of the file was answered in full.
        asked_ns: When that load arrived; 0 for none.
        left_ns: When the client last asked for another slice of the block; 0 for never.
        holds: Whether removals are held back.
        is_partial: Whether the client may have views that are forgotten.
        is_shared: Whether several clients are known to save in turns.
        ignored_ns: When a save was last ignored because its client left the slice; 0 for never.
    """

    arrived_ns: int
    is_loaded: bool = False
    asked_ns: int = 0
    left_ns: int = 0
    holds: bool = True
    is_partial: bool = False
    is_shared: bool = False
    ignored_ns: int = 0


@dataclass(frozen=True, slots=True)
class Guess:
    """A tip that a save may have come from.

    Attributes:
        tip: The tip.
        edit: What the save changes in it.
        echoes: How many annotations the save would add or change to exactly what other views show.
            Ids and positions are hardly ever the same by chance: but for an undo, a client has them
            only if it has seen them.
    """

    tip: Tip
    edit: Edit
    echoes: int

    def may_be(self, nearest: Guess) -> bool:
        """Return whether a save may as well have come from this tip as from the nearest.

        It may if it is one step from here, as the viewer saves every step, or no larger a step
        than from the nearest; or if it only removes, as many can be removed in one step.
        """
        if self.edit.size <= 1:
            return True
        only_removes = not (self.edit.added or self.edit.changed)
        return self.echoes <= nearest.echoes and (
            only_removes or self.edit.size <= nearest.edit.size
        )


@dataclass(frozen=True, slots=True)
class SaveStep:
    """What a save means if it came from one tip.

    Attributes:
        chain: The chain of the tip.
        base: What its client had seen.
        is_own: Whether it had saved that itself.
        edit: What to apply.
        navigated: Ids that the viewer dropped because its user left the slice.
        is_overtaken: Whether a later save of the chain was merged in full.
    """

    chain: Chain
    base: Seen
    is_own: bool
    edit: Edit
    navigated: tuple[str, ...] = ()
    is_overtaken: bool = False


def step_from(
    guess: Guess,
    body: Seen,
    facts: Facts,
    before: Callable[[Chain], Seen | None],
    *,
    is_nearest: bool,
) -> SaveStep:
    """Return what a save means if it came from one tip.

    Args:
        guess: The tip.
        body: What the client saves.
        facts: What else is known.
        before: Returns what a client had seen before the tip of a chain; None if it is forgotten.
        is_nearest: Whether no other tip is nearer.
    """
    chain, seen, edit = guess.tip.chain, guess.tip.seen, guess.edit
    if facts.arrived_ns < chain.full_ns:
        return SaveStep(chain, seen, chain.is_own, Edit(), is_overtaken=True)
    if chain.is_own and facts.arrived_ns < chain.at_ns:
        # Only its additions and changes count, of what its client had before the later save.
        earlier = before(chain) if chain.before else None
        if earlier is None:
            return SaveStep(chain, seen, chain.is_own, Edit(edit.added))
        seen = earlier
        edit = edit_between(seen, body, own=chain.is_own_before)
        return SaveStep(chain, seen, chain.is_own_before, Edit(edit.added, edit.changed))
    has_left = facts.left_ns > chain.since_ns
    if (
        chain.gone_ns and not is_nearest and not facts.is_shared
    ):  # it has left, and comes back with a load
        has_left = not body.texts and facts.arrived_ns < chain.gone_ns + LEAVING_NS
    if has_left and _is_navigation(seen, edit):
        return SaveStep(chain, seen, chain.is_own, Edit(), navigated=edit.removed)
    return SaveStep(chain, seen, chain.is_own, edit)


def ranked_guesses(body: Seen, tips: Sequence[Tip]) -> list[Guess]:
    """Return where a save may have come from, the nearest first."""
    edits = [tip.edit(body) for tip in tips]
    new = [{*edit.added, *edit.changed} for edit in edits]
    guesses = [
        Guess(tip, edit, sum(any(id_ not in other for other in new) for id_ in ids))
        for tip, edit, ids in zip(tips, edits, new, strict=True)
    ]
    if not body.texts:  # the smallest tip is not the likeliest
        return sorted(guesses, key=lambda guess: -guess.tip.chain.at_ns)
    return sorted(guesses, key=lambda one: (one.echoes, one.edit.size, -one.tip.chain.at_ns))


def _is_navigation(base: Seen, edit: Edit) -> bool:
    """Return whether a save only drops all annotations of one or more types."""
    if not edit.removed or edit.added or edit.changed:
        return False
    removed = set(edit.removed)
    types = {_type_of(base, id_) for id_ in removed}
    drops_all = all(id_ in removed for id_ in base.ids if _type_of(base, id_) in types)
    base.release()
    return drops_all


def _type_of(seen: Seen, id_: str) -> str:
    fields = seen[id_].fields or {}
    return repr(fields.get("anntype"))
