"""Chains: what one client saw of one file, from a load through its saves.

Each load begins a chain, and each save moves the tip of the chain that it came from. There are
several, because tabs are duplicated, pages loaded again, and links with a session copied.
"""

from __future__ import annotations

import msgspec

MOST_CHAINS = 24
MOST_ALIKE = 4  # loads of the same content: reloads, and duplicates of a tab


class Chain(msgspec.Struct):
    """A view of a file that a client had, and what it made of it.

    Attributes:
        began_ns: When the load or save that began it arrived, in nanoseconds since the epoch.
        tip: Hash of what the client has now.
        at_ns: When the load or save that led to the tip arrived.
        is_own: Whether the client itself saved the tip.
        full_ns: When the latest save of the chain arrived that was merged in full; 0 for none.
        before: Hash of what the client had before its latest save.
        is_own_before: Whether it had saved that itself.
        loaded_ns: When its client's load arrived, at the earliest; 0 if a load began the chain.
        gone_ns: When the save arrived with which its client finished leaving the slice; 0 for none.
        is_left: Whether a save began it that was ignored because its client leaves the slice.
    """

    began_ns: int
    tip: str
    at_ns: int
    is_own: bool = False
    full_ns: int = 0
    before: str = ""
    is_own_before: bool = False
    loaded_ns: int = 0
    gone_ns: int = 0
    is_left: bool = False

    @property
    def since_ns(self) -> int:
        """When its client's load arrived, at the earliest."""
        return self.loaded_ns or self.began_ns

    @property
    def has_left(self) -> bool:
        """Whether it is a part of the way out of a slice: its client comes back with a load."""
        return self.is_left and self.gone_ns > 0


class FileViews(msgspec.Struct):
    """The views that one client has of one file.

    Attributes:
        chains: Its chains, the one that was moved last at the end.
        asked_ns: When its last load of the file arrived, whatever the answer; 0 for none.
        is_loaded: Whether that load was answered in full.
        noted: Ids that were noted as dropped by navigation since that load.
        forgotten_ns: When the latest chain was moved that is forgotten, because there were too many
            or it was old; 0 for none. A client that has been open for long may have none.
        is_shared: Whether several clients are known to save in turns.
        ignored_ns: When the latest save was ignored because its client leaves the slice; 0 for
            none. If it did not leave, what it sees may not be among the chains.
    """

    chains: list[Chain] = []
    asked_ns: int = 0
    is_loaded: bool = False
    noted: list[str] = []
    forgotten_ns: int = 0
    is_shared: bool = False
    ignored_ns: int = 0

    @property
    def loaded(self) -> set[str]:
        """Hashes of the contents from which its next saves may come, and that others have made."""
        tips = {one.tip for one in self.chains if not one.is_own}
        return tips | {one.before for one in self.chains if not one.is_own_before}

    def load(self, tip: str, arrived_ns: int) -> None:
        """Record a load.

        Args:
            tip: Hash of the content that was sent; empty if it was not, or not in full.
            arrived_ns: When the request arrived.
        """
        if tip:
            self.chains.append(Chain(arrived_ns, tip, arrived_ns))
            alike = [one for one in self.chains if one.tip == tip and not one.is_own]
            surplus = [*alike[:-MOST_ALIKE], *(one for one in self.chains if one.has_left)]
            self._bound([one for one in self.chains if not any(one is old for old in surplus)])
        else:
            self.chains = [one for one in self.chains if one.is_own or one.began_ns != arrived_ns]
        if arrived_ns >= self.asked_ns:
            self.asked_ns, self.is_loaded, self.noted = arrived_ns, bool(tip), []

    def move(
        self,
        began_ns: int | None,
        tip: str,
        arrived_ns: int,
        *,
        is_full: bool,
        loaded_ns: int = 0,
    ) -> None:
        """Record a save.

        Args:
            began_ns: When the chain began that the save came from; None begins one.
            tip: Hash of what was saved.
            arrived_ns: When the request arrived.
            is_full: Whether it was merged in full.
            loaded_ns: When the load arrived that a new chain goes back to, at the earliest.
        """
        chain = next((one for one in self.chains if one.began_ns == began_ns), None)
        if chain is None:
            chain = Chain(arrived_ns, tip, arrived_ns, is_own=True, loaded_ns=loaded_ns)
        else:
            self.chains.remove(chain)
            later = (one for one in self.chains if one.is_own and one.at_ns > chain.at_ns)
            self.is_shared = self.is_shared or any(later)
            if not chain.is_own or arrived_ns >= chain.at_ns:
                chain.before, chain.is_own_before = chain.tip, chain.is_own
                chain.tip, chain.at_ns, chain.is_own = tip, arrived_ns, True
                chain.is_left = False
        if is_full:
            chain.full_ns = max(chain.full_ns, arrived_ns)
        self._bound([*self.chains, chain])

    def leave(self, began_ns: int | None, tip: str, arrived_ns: int, *, is_last: bool) -> None:
        """Record a save that was ignored because its client leaves the slice, or seems to.

        Args:
            began_ns: When the chain began that the save came from.
            tip: Hash of what was saved.
            arrived_ns: When the request arrived.
            is_last: Whether nothing is left in what was saved.
        """
        self.ignored_ns = max(self.ignored_ns, arrived_ns)
        chain = next((one for one in self.chains if one.began_ns == began_ns), None)
        since_ns = arrived_ns if chain is None else chain.since_ns
        if is_last:
            for one in self.chains:
                if one is chain or (one.since_ns == since_ns and one.is_left):
                    one.gone_ns = arrived_ns
        elif not any(one.is_left and one.tip == tip for one in self.chains):
            # If it has not left after all, this is what it sees.
            left = Chain(arrived_ns, tip, arrived_ns, True, loaded_ns=since_ns, is_left=True)
            self._bound([*self.chains, left])

    def forget(self, until_ns: int) -> None:
        """Drop the chains that were last moved before a time."""
        self._keep([one for one in self.chains if one.at_ns >= until_ns], self.chains)

    def _bound(self, chains: list[Chain]) -> None:
        self._keep(chains[-MOST_CHAINS:], chains)

    def _keep(self, kept: list[Chain], chains: list[Chain]) -> None:
        dropped = (one.at_ns for one in chains if not any(one is other for other in kept))
        self.forgotten_ns = max(self.forgotten_ns, *dropped, 0)
        self.chains = kept
