"""A small synthetic brain: a data set to try the service, and the viewer, with."""

from neurotrale.demo.write import write_demo

__all__ = ["write_demo"]
