"""What a client saw of a file, and what its next save may therefore mean.

What a client last saw is not known for sure: tabs are duplicated, links are copied, loads fail. So
the views of a client are *chains*: each load begins one, and each save moves the tip of the chain
that it came from. The base of a save is the nearest tip. Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from neurotrale.annotations.chains import Chain
from neurotrale.annotations.merge import Edit, Seen, edit_between
from neurotrale.annotations.spelling import is_edited


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
        edit = edit_between(self.seen, body, own=self.chain.is_own)
        self.seen.texts.release()
        return edit


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known about a save.

    Attributes:
        arrived_ns: When it arrived, in nanoseconds since the epoch.
        is_loaded: Whether the client's last load of the file was answered in full.
        has_left: Whether the client has asked for another slice of the block since that load.
        holds: Whether removals are held back.
    """

    arrived_ns: int
    is_loaded: bool = False
    has_left: bool = False
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a save means.

    Attributes:
        base: What its client last saw.
        is_own: Whether the client itself saved that.
        edit: What to apply.
        chain: The chain that the save came from; None for one that it begins.
        held: Ids whose removal is held back.
        navigated: Ids that the viewer dropped because its user left the slice: they stay.
        stale: Ids that a client of which nothing is known would put back to an older revision: they
            stay as they are.
        revived: Ids that only some of the client's views show as added, and the others as there.
        only_additions: Whether its client had loaded nothing, so that all it has is new.
        is_certain: Whether no removal is doubtful, even where none is held back.
        is_overtaken: Whether a later save of its chain was merged in full: nothing is applied.
        is_late: Whether a later save of its chain arrived before, but was not merged in full.
    """

    base: Seen
    is_own: bool
    edit: Edit
    chain: Chain | None
    held: tuple[str, ...] = ()
    navigated: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    revived: tuple[str, ...] = ()
    only_additions: bool = False
    is_certain: bool = True
    is_overtaken: bool = False
    is_late: bool = False


def meaning_of(body: Seen, tips: Sequence[Tip], facts: Facts) -> Meaning:
    """Return what a save of a client means of which views are known.

    Args:
        body: What the client saves.
        tips: Its views of the file; at least one.
        facts: What else is known.
    """
    # A save that was under way when a load arrived did not come from it.
    tips = [tip for tip in tips if tip.chain.began_ns <= facts.arrived_ns] or tips
    if body.texts and not any(body.texts.keys() & tip.seen.texts.keys() for tip in tips):
        return _additions(body, tips)
    ranked = sorted(((tip.edit(body), tip) for tip in tips), key=_distance(tips))
    if not body.texts:  # the smallest tip is not the likeliest
        ranked.sort(key=lambda pair: -pair[1].chain.at_ns)
    edit, nearest = ranked[0]
    chain = nearest.chain
    if facts.arrived_ns < chain.full_ns:
        return Meaning(nearest.seen, chain.is_own, Edit(), chain, is_overtaken=True)
    if chain.is_own and facts.arrived_ns < chain.at_ns:
        return Meaning(nearest.seen, chain.is_own, edit, chain, is_late=True)
    if facts.has_left and _is_navigation(nearest.seen, edit):
        return Meaning(nearest.seen, chain.is_own, Edit(), chain, navigated=edit.removed)
    rivals = [(other, tip) for other, tip in ranked[1:] if _is_rival(other, tip, edit, nearest)]
    held, revived = _explained_by_some(edit, rivals)
    if not _may_remove(nearest.seen, body, edit, facts):
        held = edit.removed
    is_certain = not held
    if not facts.holds:
        held = ()
    kept = set(held)
    applied = Edit(
        (*edit.added, *revived),
        edit.changed,
        tuple(id_ for id_ in edit.removed if id_ not in kept),
    )
    # If it is not clear which chain this is, none is moved, and another one begins.
    is_clear = all(other == edit for other, _ in rivals)
    return Meaning(
        nearest.seen,
        chain.is_own,
        applied,
        chain if is_clear else None,
        held=held,
        revived=revived,
        is_certain=is_certain and is_clear,
    )


def meaning_of_late(body: Seen, before: Seen, meaning: Meaning) -> Meaning:
    """Return what a late save means: its additions and changes of what its client had before it."""
    chain = meaning.chain
    assert chain is not None
    edit = edit_between(before, body, own=chain.is_own_before)
    edit = Edit(edit.added, edit.changed)
    return Meaning(before, chain.is_own_before, edit, chain, is_late=True)


def meaning_without_views(body: Seen, revisions: Iterable[Seen], facts: Facts) -> Meaning:
    """Return what a save of a client means of which nothing is known.

    The nearest revision stands in for what it last saw.

    Args:
        body: What the client saves.
        revisions: The recent contents of the file, newest first.
        facts: What else is known.
    """
    known = list(revisions) or [Seen(None)]
    edits = [edit_between(revision, body, own=False) for revision in known]
    number = min(range(len(known)), key=lambda at: (edits[at].size, at))
    base, edit = known[number], edits[number]
    if not facts.holds:
        return Meaning(base, False, edit, None)
    others = [revision for at, revision in enumerate(known) if at != number]
    stale = tuple(
        id_
        for id_ in (*edit.added, *edit.changed)
        if any(
            id_ in other.texts and not is_edited(other[id_], body[id_], own=False)
            for other in others
        )
    )
    dropped = set(stale)
    applied = Edit(
        tuple(id_ for id_ in edit.added if id_ not in dropped),
        tuple(id_ for id_ in edit.changed if id_ not in dropped),
    )
    return Meaning(base, False, applied, None, held=edit.removed, stale=stale)


def _additions(body: Seen, tips: Sequence[Tip]) -> Meaning:
    empty = [tip for tip in tips if not tip.seen.texts]
    latest = max(empty, key=lambda tip: tip.chain.at_ns, default=None)
    chain = None if latest is None else latest.chain
    return Meaning(Seen(None), False, Edit(tuple(body.ids)), chain, only_additions=True)


def _distance(tips: Sequence[Tip]) -> Callable[[tuple[Edit, Tip]], tuple[int, int, int]]:
    """Return the key that sorts tips, the nearest first.

    Ids are random: a client does not add one that it has seen elsewhere, but for an undo.
    """
    known = {id_ for tip in tips for id_ in tip.seen.ids}

    def distance(pair: tuple[Edit, Tip]) -> tuple[int, int, int]:
        edit, tip = pair
        return sum(id_ in known for id_ in edit.added), edit.size, -tip.chain.at_ns

    return distance


def _is_rival(other: Edit, tip: Tip, edit: Edit, nearest: Tip) -> bool:
    """Return whether a save may as well have come from another tip than the nearest.

    It does if it differs from either by at most one annotation, and nothing shows that the client
    still uses the nearest: it has saved nothing from there since the other view began.
    """
    if other.size > max(edit.size, 1):
        return False
    return other.size == edit.size or nearest.chain.at_ns < tip.chain.at_ns


def _explained_by_some(
    edit: Edit, rivals: Sequence[tuple[Edit, Tip]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids that not all tips show as removed, and those that only rivals show as added.

    The second are in the nearest tip: if they are no longer in the file, one view has removed them.
    """
    removals = [edit.removed, *(other.removed for other, _ in rivals)]
    every = set(removals[0]).intersection(*map(set, removals[1:]))
    some = dict.fromkeys(id_ for removed in removals for id_ in removed)
    added = dict.fromkeys(id_ for other, _ in rivals for id_ in other.added)
    return (
        tuple(id_ for id_ in some if id_ not in every),
        tuple(id_ for id_ in added if id_ not in (*edit.added, *edit.changed)),
    )


def _may_remove(base: Seen, body: Seen, edit: Edit, facts: Facts) -> bool:
    """Return whether a client that may remove annotations may remove all of these at once."""
    if len(edit.removed) < len(base.texts) or not edit.removed:
        return True
    return len(base.texts) == 1 and not body.texts and facts.is_loaded


def _is_navigation(base: Seen, edit: Edit) -> bool:
    """Return whether a save only drops all annotations of one or more types."""
    if not edit.removed or edit.added or edit.changed:
        return False
    removed = set(edit.removed)
    types = {_type_of(base, id_) for id_ in removed}
    return all(id_ in removed for id_ in base.ids if _type_of(base, id_) in types)


def _type_of(seen: Seen, id_: str) -> str:
    fields = seen[id_].fields or {}
    return repr(fields.get("anntype"))
