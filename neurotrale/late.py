"""Lazy imports: large libraries are imported on first use, so that a process starts fast."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """A third-party module that is imported when one of its attributes is first used.

    It replaces an import statement, which type checkers still see::

        if TYPE_CHECKING:
            import numpy as np
        else:
            np = LazyModule("numpy")

    Args:
        name: Name of the module.
        parts: Attributes that `load` also resolves, for modules that import parts of themselves
            lazily.
    """

    def __init__(self, name: str, *parts: str) -> None:
        self._name = name
        self._parts = parts
        _LAZY_MODULES.append(self)

    def __getattr__(self, attribute: str) -> Any:
        """Import the module if necessary, and cache the attribute on this object."""
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value

    def load(self) -> None:
        """Import the module now."""
        import_module(self._name)
        for part in self._parts:
            getattr(self, part)


_LAZY_MODULES: list[LazyModule] = []


def load_all() -> None:
    """Import all lazy modules now, so that no request waits for an import."""
    for module in _LAZY_MODULES:
        module.load()
