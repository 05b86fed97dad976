"""What a save of a client means: what to apply of it, and what to hold back.

The base of a save is the nearest of its client's views. Where other views explain the save as well,
only what all of them agree on is done: what only some of them show as removed is held back, and
what only some show as changed stays as it is. Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import xxhash

from neurotrale.annotations.documents.fields import common_base
from neurotrale.annotations.documents.spelling import Parsed, is_edited
from neurotrale.annotations.merging.chains import Chain
from neurotrale.annotations.merging.edits import Edit, edit_between
from neurotrale.annotations.merging.seen import Seen
from neurotrale.annotations.merging.views import (
    Facts,
    Guess,
    SaveStep,
    Tip,
    ranked_guesses,
    step_from,
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a save means.

    Attributes:
        base: What its client last saw.
        is_own: Whether the client itself saved that.
        edit: What to apply.
        chain: The chain that the save came from; None for one that it begins.
        loaded_ns: When the load arrived that the save goes back to, at the earliest; 0 if that is
            not known.
        held: Ids whose removal is held back.
        navigated: Ids that the viewer dropped because its user left the slice: they stay.
        stale: Ids that may come from an old view rather than from a change, and would be put back
            to an older revision: they stay as they are.
        revived: Ids that may be additions, or changes of what somebody has removed: they are added
            if they are not in the file.
        only_additions: Whether its client had loaded nothing, so that all it has is new.
        is_certain: Whether no removal is doubtful, even where none is held back.
        is_overtaken: Whether a later save of its chain was merged in full: nothing is applied.
    """

    base: Seen
    is_own: bool
    edit: Edit
    chain: Chain | None
    loaded_ns: int = 0
    held: tuple[str, ...] = ()
    navigated: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    revived: tuple[str, ...] = ()
    only_additions: bool = False
    is_certain: bool = True
    is_overtaken: bool = False


def meaning_of(
    body: Seen, tips: Sequence[Tip], facts: Facts, before: Callable[[Chain], Seen | None]
) -> Meaning:
    """Return what a save of a client means of which views are known.

    Args:
        body: What the client saves.
        tips: Its views of the file; at least one.
        facts: What else is known.
        before: Returns what a client had seen before the tip of a chain; None if it is forgotten.
    """
    # A save that was under way when a load arrived did not come from it.
    tips = [tip for tip in tips if tip.chain.began_ns <= facts.arrived_ns] or tips
    if body.texts and not any(_has_shown(tip, body, facts, before) for tip in tips):
        return _additions(body, tips, facts)
    nearest, *others = ranked_guesses(body, tips)
    likely = [nearest, *(guess for guess in others if guess.may_be(nearest))]
    steps = [step_from(guess, body, facts, before, is_nearest=guess is nearest) for guess in likely]
    if all(step.is_overtaken for step in steps):
        return Meaning(steps[0].base, steps[0].is_own, Edit(), steps[0].chain, is_overtaken=True)
    # If it is not clear which chain this is, none is moved, and another one begins.
    is_clear = all(guess.tip.chain.tip == nearest.tip.chain.tip for guess in likely)
    # What the client sees may not be among the views.
    is_large, has_ignored = nearest.edit.size > 1, facts.ignored_ns > nearest.tip.chain.since_ns
    is_odd = (is_large and facts.is_partial) or (has_ignored and (is_large or len(body.texts) == 1))
    is_clear = is_clear and not is_odd
    agreed = _agreed(steps)
    if is_large and facts.is_partial:  # some of it may come from a view that is forgotten
        agreed = Edit(agreed.added, (), agreed.removed)
    changed = [step.edit.changed for step in steps]
    new = [(*step.edit.added, *step.edit.changed) for step in steps]
    if has_ignored and len(body.texts) == 1:  # or undoes a step of the removal of all that it had
        new.append((*body.ids,))
    revived = _differing(new, (*agreed.added, *agreed.changed))
    ignored = tuple(dict.fromkeys(id_ for step in steps for id_ in step.navigated))
    held = _differing([(*step.edit.removed, *step.navigated) for step in steps], agreed.removed)
    is_again = nearest.tip.chain.is_left and nearest.edit.size == 0
    navigated = ignored if steps[0].navigated or is_again else ()
    held = tuple(id_ for id_ in held if id_ not in navigated)
    if not all(_may_remove(guess, body, facts) for guess in likely) or is_odd:
        held = (*held, *agreed.removed)
    is_certain = is_clear and not held
    if not facts.holds:
        agreed, held = Edit(agreed.added, agreed.changed, nearest.edit.removed), ()
    kept = set(held)
    return Meaning(
        _common_base(steps, body, (*agreed.changed, *agreed.added, *revived)),
        steps[0].is_own,
        Edit(
            agreed.added,
            agreed.changed,
            tuple(id_ for id_ in agreed.removed if id_ not in kept),
        ),
        nearest.tip.chain if is_clear or navigated else None,
        loaded_ns=min(step.chain.since_ns for step in steps),
        held=held,
        navigated=navigated,
        stale=() if steps[0].is_overtaken else _differing(changed, agreed.changed),
        revived=revived,
        is_certain=is_certain,
    )


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


def _agreed(steps: Sequence[SaveStep]) -> Edit:
    """Return what a save changes wherever it came from."""
    edits = [step.edit for step in steps]
    if len(edits) == 1:
        return edits[0]
    new = set.intersection(*({*edit.added, *edit.changed} for edit in edits))
    removed = set(edits[0].removed).intersection(*(edit.removed for edit in edits[1:]))
    return Edit(
        tuple(id_ for id_ in edits[0].added if id_ in new),
        tuple(id_ for id_ in edits[0].changed if id_ in new),
        tuple(id_ for id_ in edits[0].removed if id_ in removed),
    )


def _differing(kinds: Sequence[Sequence[str]], agreed: Sequence[str]) -> tuple[str, ...]:
    """Return what is in some of several sequences of ids, but not agreed."""
    some = dict.fromkeys(id_ for ids in kinds for id_ in ids)
    return tuple(id_ for id_ in some if id_ not in agreed)


def _common_base(steps: Sequence[SaveStep], body: Seen, ids: Iterable[str]) -> Seen:
    """Return what the client had seen; where that is not clear, what leaves the least changed.

    Only one of the contents is in memory at a time, and of the others what is not alike.
    """
    base = steps[0].base
    if all(step.base is base for step in steps):
        return base
    ids = tuple(dict.fromkeys(ids))
    first: dict[str, bytes] = {}
    unlike: dict[str, None] = {}
    for step in steps:
        for id_ in ids:
            if id_ in step.base.texts:
                digest = xxhash.xxh3_128_digest(step.base.texts[id_])
                if id_ not in base.texts or first.setdefault(id_, digest) != digest:
                    unlike[id_] = None
        step.base.release()
    seen: dict[str, list[tuple[bytes, bool]]] = {id_: [] for id_ in unlike}
    for step in steps:
        for id_, known in seen.items():
            if id_ in step.base.texts:
                text = step.base.texts[id_]
                alike = (one for one, _ in known if one == text)
                known.append((next(alike, text), step.is_own))
        step.base.release()
    return base.blended(
        {
            id_: common_base([(Parsed.of(text), own) for text, own in known], body[id_]).text
            for id_, known in seen.items()
        }
    )


def _has_shown(tip: Tip, body: Seen, facts: Facts, before: Callable[[Chain], Seen | None]) -> bool:
    """Return whether a client that saves may have seen any of that in one of its views."""
    if not body.texts.keys().isdisjoint(tip.seen.texts.keys()):
        return True
    if not (tip.chain.is_own and facts.arrived_ns < tip.chain.at_ns and tip.chain.before):
        return False
    earlier = before(tip.chain)  # a later save has arrived before
    return earlier is not None and not body.texts.keys().isdisjoint(earlier.texts.keys())


def _additions(body: Seen, tips: Sequence[Tip], facts: Facts) -> Meaning:
    # Whoever has loaded since may have seen nothing, too.
    empty = [
        tip
        for tip in tips
        if not (tip.seen.texts or facts.is_shared or tip.chain.at_ns < facts.asked_ns)
    ]
    latest = max(empty, key=lambda tip: tip.chain.at_ns, default=None)
    chain = None if latest is None else latest.chain
    return Meaning(Seen(None), False, Edit(tuple(body.ids)), chain, only_additions=True)


def _may_remove(guess: Guess, body: Seen, facts: Facts) -> bool:
    """Return whether a client that may remove annotations may remove all of these at once."""
    base, removed = guess.tip.seen.texts, guess.edit.removed
    if len(removed) < len(base) or not removed:
        return True
    return len(base) == 1 and not body.texts and facts.is_loaded
