"""Generates a small synthetic brain, to try the service and the viewer with."""

from neurotrale.tools.demo.annotate import write_demo

__all__ = ["write_demo"]
