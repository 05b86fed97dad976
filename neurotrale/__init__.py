"""neurotrale: serve brain microscopy and its annotations straight from the file system."""

__version__ = "0.1.0"
