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
    """

    began_ns: int
    tip: str
    at_ns: int
    is_own: bool = False
    full_ns: int = 0
    before: str = ""
    is_own_before: bool = False


class FileViews(msgspec.Struct):
    """The views that one client has of one file.

    Attributes:
        chains: Its chains, the one that was moved last at the end.
        asked_ns: When its last load of the file arrived, whatever the answer; 0 for none.
        is_loaded: Whether that load was answered in full.
        noted: Ids that were noted as dropped by navigation since that load.
    """

    chains: list[Chain] = []
    asked_ns: int = 0
    is_loaded: bool = False
    noted: list[str] = []

    def load(self, tip: str, arrived_ns: int) -> None:
        """Record a load.

        Args:
            tip: Hash of the content that was sent; empty if it was not, or not in full.
            arrived_ns: When the request arrived.
        """
        if tip:
            self.chains.append(Chain(arrived_ns, tip, arrived_ns))
            alike = [one for one in self.chains if one.tip == tip and not one.is_own]
            surplus = [*alike[:-MOST_ALIKE], *self.chains[:-MOST_CHAINS]]
            self.chains = [one for one in self.chains if not any(one is old for old in surplus)]
        else:
            self.chains = [one for one in self.chains if one.is_own or one.began_ns != arrived_ns]
        if arrived_ns >= self.asked_ns:
            self.asked_ns, self.is_loaded, self.noted = arrived_ns, bool(tip), []

    def move(self, began_ns: int | None, tip: str, arrived_ns: int, *, is_full: bool) -> None:
        """Record a save.

        Args:
            began_ns: When the chain began that the save came from; None begins one.
            tip: Hash of what was saved.
            arrived_ns: When the request arrived.
            is_full: Whether it was merged in full.
        """
        chain = next((one for one in self.chains if one.began_ns == began_ns), None)
        if chain is None:
            chain = Chain(arrived_ns, tip, arrived_ns, is_own=True)
        else:
            self.chains.remove(chain)
            if not chain.is_own or arrived_ns >= chain.at_ns:
                chain.before, chain.is_own_before = chain.tip, chain.is_own
                chain.tip, chain.at_ns, chain.is_own = tip, arrived_ns, True
        if is_full:
            chain.full_ns = max(chain.full_ns, arrived_ns)
        self.chains = [*self.chains, chain][-MOST_CHAINS:]

    def forget(self, until_ns: int) -> None:
        """Drop the chains that were last moved before a time."""
        self.chains = [one for one in self.chains if one.at_ns >= until_ns]
